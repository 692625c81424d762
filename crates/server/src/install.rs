//! The server's own executable, for runners and agents: the version that fits.

use std::io;
use std::path::PathBuf;

use axum::body::Body;
use axum::http::header;
use axum::response::{IntoResponse, Response};
use sha2::{Digest as _, Sha256};
use tokio::fs::File;
use tokio::sync::OnceCell;
use tokio_util::io::ReaderStream;
use updraft_api::{ErrorCode, VERSION};

use crate::error::ApiError;
use crate::openapi::Binary;

/// Computed once: the file that runs does not change while it does.
static CHECKSUM: OnceCell<String> = OnceCell::const_new();

/// Sends the control plane's own executable
#[utoipa::path(get, path = "/install", operation_id = "install", tag = "server", security(()),
    responses((status = 200, body = Binary, content_type = "application/octet-stream")))]
pub(crate) async fn executable() -> Result<Response, ApiError> {
    let file = open().await.map_err(unreadable)?;
    let length = file.metadata().await.map_err(unreadable)?.len();
    let headers = [
        (header::CONTENT_TYPE, "application/octet-stream".to_owned()),
        (header::CONTENT_LENGTH, length.to_string()),
        (
            header::CONTENT_DISPOSITION,
            "attachment; filename=\"updraft\"".to_owned(),
        ),
        (header::ETAG, format!("\"{VERSION}\"")),
    ];
    let body = Body::from_stream(ReaderStream::with_capacity(file, 256 << 10));
    Ok((headers, body).into_response())
}

/// The executable's SHA-256, as `sha256sum` writes it
#[utoipa::path(get, path = "/install/sha256", operation_id = "install_checksum", tag = "server", security(()),
    responses((status = 200, body = String)))]
pub(crate) async fn checksum() -> Result<String, ApiError> {
    let hex = CHECKSUM
        .get_or_try_init(|| async {
            let file = open().await?.into_std().await;
            tokio::task::spawn_blocking(move || digest(file))
                .await
                .map_err(io::Error::other)?
        })
        .await
        .map_err(unreadable)?;
    Ok(format!("{hex}  updraft\n"))
}

fn digest(mut file: std::fs::File) -> io::Result<String> {
    let mut hasher = Sha256::new();
    io::copy(&mut file, &mut HashWriter(&mut hasher))?;
    Ok(hex::encode(hasher.finalize()))
}

struct HashWriter<'a>(&'a mut Sha256);

impl io::Write for HashWriter<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.update(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

async fn open() -> io::Result<File> {
    // The file that runs, also when another one took its name since.
    let running = PathBuf::from("/proc/self/exe");
    if running.exists() {
        return File::open(running).await;
    }
    File::open(std::env::current_exe()?).await
}

#[expect(clippy::needless_pass_by_value, reason = "for map_err")]
fn unreadable(error: io::Error) -> ApiError {
    tracing::error!(%error, "could not read the own executable");
    ApiError {
        code: ErrorCode::Internal,
        message: "the control plane cannot read its own executable".into(),
        help: None,
    }
}
