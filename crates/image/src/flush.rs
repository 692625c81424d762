//! Writing to the disk what others rely on.

use std::fs::File;
use std::io;

/// Flushes the whole file system that a file is on: cheaper than ten thousand
/// files one by one.
#[cfg(target_os = "linux")]
pub(crate) fn flush(any: &File) -> io::Result<()> {
    Ok(rustix::fs::syncfs(any)?)
}

#[cfg(not(target_os = "linux"))]
pub(crate) fn flush(any: &File) -> io::Result<()> {
    any.sync_all()
}
