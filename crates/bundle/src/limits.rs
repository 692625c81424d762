//! How large a bundle may be, for trees we send and archives we are sent.

use serde::{Deserialize, Serialize};

use crate::manifest::Manifest;

/// Most layers a bundle has. Container engines stop at 125 to 128 when they
/// stack layers, and a bundle should mount as an image volume anywhere.
pub const MAX_LAYERS: usize = 120;

/// The most that the size field of a tar header can say.
const MAX_FILE_BYTES: u64 = 0o777_7777_7777;

/// What one bundle may hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Limits {
    /// Most bytes in one file.
    pub file_bytes: u64,
    /// Most bytes in all files together, uncompressed.
    pub total_bytes: u64,
    /// Most files and links.
    pub files: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            file_bytes: 100 << 20,
            total_bytes: 2 << 30,
            files: 100_000,
        }
    }
}

impl Limits {
    /// What a bundle may hold that somebody else accepted: what its manifest
    /// says, and nothing else.
    pub fn of(manifest: &Manifest) -> Self {
        Self {
            file_bytes: MAX_FILE_BYTES,
            total_bytes: manifest.content_size(),
            files: manifest.files(),
        }
    }
}

/// A limit that was passed, with both numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum LimitExceeded {
    #[error("{bytes} bytes is more than the {limit} bytes one file may have")]
    File { bytes: u64, limit: u64 },
    #[error("the files together have more than the {limit} bytes a bundle may have")]
    Total { limit: u64 },
    #[error("there are more than the {limit} files a bundle may have")]
    Files { limit: u64 },
}

impl LimitExceeded {
    pub fn help(&self) -> &'static str {
        match self {
            Self::File { .. } => {
                "keep large data outside the bundle (object storage, the image), name it in `.updraftignore`, or raise the limit: `max_file` in updraft.toml and --max-file-bytes of the control plane"
            }
            Self::Total { .. } => {
                "name what Airflow does not need in `.updraftignore`, or raise the limit: `max_bundle` in updraft.toml and --max-bundle-bytes of the control plane"
            }
            Self::Files { .. } => {
                "name what Airflow does not need in `.updraftignore`, or raise the limit: `max_files` in updraft.toml and --max-files of the control plane"
            }
        }
    }
}

/// Counts entries against limits.
#[derive(Debug)]
pub(crate) struct Meter {
    limits: Limits,
    files: u64,
    bytes: u64,
}

impl Meter {
    pub(crate) fn new(limits: &Limits) -> Self {
        let file_bytes = limits.file_bytes.min(MAX_FILE_BYTES);
        Self {
            limits: Limits {
                file_bytes,
                ..*limits
            },
            files: 0,
            bytes: 0,
        }
    }

    pub(crate) fn add(&mut self, bytes: u64) -> Result<(), LimitExceeded> {
        self.files += 1;
        if self.files > self.limits.files {
            return Err(LimitExceeded::Files {
                limit: self.limits.files,
            });
        }
        if bytes > self.limits.file_bytes {
            return Err(LimitExceeded::File {
                bytes,
                limit: self.limits.file_bytes,
            });
        }
        self.bytes = self.bytes.saturating_add(bytes);
        if self.bytes > self.limits.total_bytes {
            return Err(LimitExceeded::Total {
                limit: self.limits.total_bytes,
            });
        }
        Ok(())
    }
}
