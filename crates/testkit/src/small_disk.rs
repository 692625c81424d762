//! A disk that a test can fill.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::is_root_or_skip;

/// A file system in memory, until the end of a test.
#[derive(Debug)]
pub struct SmallDisk(PathBuf);

impl SmallDisk {
    /// Mounts one of this size on an existing folder; where that cannot be, says
    /// on a line that CI looks for what is skipped, and gives nothing.
    pub fn mount_or_skip(at: &Path, size: &str, what: &str) -> Option<Self> {
        if !is_root_or_skip(what, "only root can mount a small disk") {
            return None;
        }
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o", &format!("size={size}"), "tmpfs"])
            .arg(at)
            .status();
        assert!(mounted.is_ok_and(|status| status.success()), "no tmpfs");
        Some(Self(at.to_owned()))
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // Lazily: something may still have a file open.
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}
