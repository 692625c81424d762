//! What can go wrong on an agent's disk.

use std::io;
use std::path::{Path, PathBuf};

use updraft_model::Digest;

use crate::bundle::BundleError;
use crate::layer::LayerError;

#[derive(Debug, thiserror::Error)]
pub enum VersionError {
    #[error("the disk is full: could not {doing} `{}`", path.display())]
    DiskFull {
        doing: &'static str,
        path: PathBuf,
        source: io::Error,
    },
    #[error("could not {doing} `{}`", path.display())]
    Io {
        doing: &'static str,
        path: PathBuf,
        source: io::Error,
    },
    #[error("could not fetch layer {layer}")]
    Fetch { layer: Digest, source: io::Error },
    #[error(transparent)]
    Layer(#[from] LayerError),
    #[error(transparent)]
    Bundle(#[from] BundleError),
    #[error("version {0} is not on this disk, or not completely")]
    Missing(Digest),
    #[error("version {0} is the live one")]
    Live(Digest),
    #[error("`{}` is not a link that Updraft made", .0.display())]
    ForeignCurrent(PathBuf),
}

impl VersionError {
    /// One sentence on what to do next.
    pub fn help(&self) -> &'static str {
        match self {
            Self::DiskFull { .. } => {
                "free some space or keep fewer versions; the live version is untouched"
            }
            Self::Io { .. } => {
                "check that the agent's user owns the folder and the disk is healthy"
            }
            Self::Fetch { .. } => {
                "see whether the control plane can be reached; the agent tries again"
            }
            Self::Layer(error) => error.help(),
            Self::Bundle(error) => error.help(),
            Self::Missing(_) => "materialize it first",
            Self::Live(_) => "switch to another version before removing this one",
            Self::ForeignCurrent(_) => {
                "move it away; the agent's folder must belong to the agent alone"
            }
        }
    }
}

/// Says what was being done when an operation of the system failed.
pub(crate) fn while_doing<E: Into<io::Error>>(
    doing: &'static str,
    path: &Path,
) -> impl FnOnce(E) -> VersionError {
    move |error| VersionError::of_system(doing, path.to_owned(), error.into())
}

impl VersionError {
    pub(crate) fn of_system(doing: &'static str, path: PathBuf, source: io::Error) -> Self {
        match source.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Self::DiskFull {
                doing,
                path,
                source,
            },
            _ => Self::Io {
                doing,
                path,
                source,
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_disk_is_its_own_error() {
        let full = while_doing("write", Path::new("a.py"))(rustix::io::Errno::NOSPC);
        assert_eq!(full.to_string(), "the disk is full: could not write `a.py`");
        let quota = while_doing("write", Path::new("a.py"))(rustix::io::Errno::DQUOT);
        assert!(matches!(quota, VersionError::DiskFull { .. }));
        let other = while_doing("write", Path::new("a.py"))(rustix::io::Errno::ACCESS);
        assert!(matches!(other, VersionError::Io { .. }));
    }
}
