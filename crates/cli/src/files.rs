//! Files and inputs that hold secrets.

use std::fs;
use std::io::{self, Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use crate::exit::Exit;
use crate::failure::{Failure, Result};

/// Writes a file that only its owner may read, whole or not at all.
pub(crate) fn write_private(path: &Path, text: &str) -> io::Result<()> {
    let folder = path.parent().unwrap_or(Path::new("."));
    fs::create_dir_all(folder)?;
    let mut file = tempfile::Builder::new()
        .permissions(fs::Permissions::from_mode(0o600))
        .prefix(".updraft-")
        .tempfile_in(folder)?;
    file.write_all(text.as_bytes())?;
    file.as_file().sync_all()?;
    file.persist(path).map_err(|error| error.error)?;
    Ok(())
}

/// Reads a secret from a file, or from standard input for `-`.
pub(crate) fn read_secret(path: &Path) -> Result<String> {
    let mut secret = String::new();
    let read = if path == Path::new("-") {
        io::stdin().take(1 << 20).read_to_string(&mut secret)
    } else {
        fs::File::open(path).and_then(|file| file.take(1 << 20).read_to_string(&mut secret))
    };
    match read {
        Ok(_) => Ok(secret),
        Err(error) => Err(Failure {
            exit: Exit::Refused,
            ..Failure::file("read", path, &error)
        }),
    }
}

/// Reads a secret on a thread of its own: standard input may take its time, and Ctrl-C
/// is to be heard meanwhile.
pub(crate) async fn input(path: PathBuf) -> Result<String> {
    tokio::task::spawn_blocking(move || read_secret(&path)).await?
}
