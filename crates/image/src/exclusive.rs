//! One at a time, among processes.

use std::fs::{self, File, Permissions};
use std::io;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::Path;
use std::time::Duration;

use crate::process::Stop;

/// Takes the lock that a file is, for as long as it is open: also in a program
/// that has it, such as a uv whose agent was killed.
pub(crate) fn take(path: &Path, stop: &Stop, say: &dyn Fn(&str)) -> io::Result<File> {
    let file = File::options()
        .create(true)
        .truncate(false)
        .write(true)
        .mode(0o600)
        .open(path)?;
    // Whoever can open it can hold it.
    file.set_permissions(Permissions::from_mode(0o600))?;
    let mut said = false;
    loop {
        match file.try_lock() {
            Ok(()) => return Ok(file),
            Err(fs::TryLockError::Error(error)) => return Err(error),
            Err(fs::TryLockError::WouldBlock) if stop.is_requested() => {
                return Err(io::ErrorKind::Interrupted.into());
            }
            Err(fs::TryLockError::WouldBlock) => {}
        }
        if !said {
            say("waiting for an installation that is under way");
            said = true;
        }
        std::thread::sleep(Duration::from_millis(50));
    }
}
