//! Brings back a version that Airflow asks for: a cleared run may need one that
//! is no longer on disk.
//!
//! One JSON line in, one out. Anyone who reaches the socket can have the agent
//! fetch a version of this Deployment and learn its path, and nothing else.

use std::collections::HashMap;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use std::{fs, io};

use serde::Deserialize;
use serde_json::json;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::Semaphore;
use updraft_bundle::Verify;
use updraft_model::{BundleName, Digest};

use crate::control::{ControlPlane, explain};
use crate::disk::Disk;
use crate::fetch;

/// Versions that were asked for, and when: the run that needs one may not be in
/// Airflow's database yet when the disk is cleaned.
#[derive(Debug, Clone, Default)]
pub(crate) struct Asked(Arc<Mutex<HashMap<Digest, Instant>>>);

impl Asked {
    fn note(&self, digest: Digest) {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(digest, Instant::now());
    }

    /// Those that were asked for lately.
    pub(crate) fn lately(&self) -> Vec<Digest> {
        let mut asked = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        asked.retain(|_, at| at.elapsed() < Duration::from_secs(1800));
        asked.keys().copied().collect()
    }
}

pub(crate) struct AgentSocket {
    pub(crate) disk: Disk,
    pub(crate) control: ControlPlane,
    pub(crate) asked: Asked,
    /// Held by whoever writes versions.
    pub(crate) writing: Arc<tokio::sync::Mutex<()>>,
}

/// DAG code can connect as often as it likes.
const MOST_AT_ONCE: usize = 32;
const SILENCE: Duration = Duration::from_secs(5);

#[derive(Deserialize)]
struct Question {
    bundle: BundleName,
    version: Digest,
}

impl AgentSocket {
    pub(crate) fn listen(self) -> io::Result<tokio::task::JoinHandle<()>> {
        let path = self.disk.socket();
        prepare_folder(&path, self.disk.root())?;
        // The lock on the root says that nobody else listens here.
        let _ = fs::remove_file(&path);
        let listener = UnixListener::bind(&path)?;
        fs::set_permissions(&path, fs::Permissions::from_mode(0o666))?;
        let socket = Arc::new(self);
        let places = Arc::new(Semaphore::new(MOST_AT_ONCE));
        Ok(tokio::spawn(async move {
            loop {
                // The others wait in the kernel, and cost the agent nothing.
                let Ok(place) = Arc::clone(&places).acquire_owned().await else {
                    return;
                };
                match listener.accept().await {
                    Ok((stream, _)) => {
                        let socket = Arc::clone(&socket);
                        tokio::spawn(async move {
                            if let Err(error) = socket.serve(stream).await {
                                tracing::debug!(%error, "the agent's socket");
                            }
                            drop(place);
                        });
                    }
                    Err(error) => {
                        tracing::warn!(%error, "the agent's socket");
                        tokio::time::sleep(Duration::from_secs(1)).await;
                    }
                }
            }
        }))
    }

    async fn serve(&self, stream: UnixStream) -> io::Result<()> {
        let (reader, mut writer) = stream.into_split();
        let mut lines = BufReader::new(reader.take(64 * 1024)).lines();
        // One each: whoever asks and asks keeps no place.
        if let Some(line) = tokio::time::timeout(SILENCE, lines.next_line()).await?? {
            let answer = match self.answer(&line).await {
                Ok(path) => json!({ "path": path }),
                Err(error) => json!({ "error": error }),
            };
            let answer = format!("{answer}\n");
            tokio::time::timeout(SILENCE, writer.write_all(answer.as_bytes())).await??;
        }
        Ok(())
    }

    async fn answer(&self, line: &str) -> Result<PathBuf, String> {
        let question: Question = serde_json::from_str(line).map_err(|error| error.to_string())?;
        // Only what a Release of this agent names: a name makes a folder.
        if !self.disk.bundle_folder(question.bundle.as_str()).is_dir() {
            return Err(format!("there is no bundle `{}` here", question.bundle));
        }
        let now = self.disk.live().map_err(|error| error.to_string())?;
        let previous =
            now.and_then(|live| Some(live.release.bundles.get(&question.bundle)?.digest));
        let writing = fetch::may_write(&self.writing).await;
        let materialized = fetch::materialize(
            &writing,
            &self.disk,
            &self.control.client(),
            &question.bundle,
            question.version,
            previous.filter(|digest| *digest != question.version),
            Verify::Quick,
        )
        .await
        .map_err(|error| explain(&error))?;
        // Only what there is, and before a clean-up can begin: anyone on this
        // machine can ask for anything.
        self.asked.note(question.version);
        Ok(materialized.path)
    }
}

/// The folder of a socket outside the root is made by us and nobody else.
fn prepare_folder(socket: &Path, root: &Path) -> io::Result<()> {
    let Some(folder) = socket.parent().filter(|folder| !folder.starts_with(root)) else {
        return Ok(());
    };
    match fs::DirBuilder::new().mode(0o711).create(folder) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
        _ => {}
    }
    let metadata = fs::symlink_metadata(folder)?;
    if !metadata.is_dir() || metadata.uid() != rustix::process::geteuid().as_raw() {
        return Err(io::Error::other(format!(
            "`{}` belongs to somebody else",
            folder.display()
        )));
    }
    fs::set_permissions(folder, fs::Permissions::from_mode(0o711))
}
