//! What is on disk about one component: enough to find it again.

use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use updraft_model::{Digest, Timestamp};

use super::identity::ProcessIdentity;
use crate::files;

/// Written by the wrapper before it becomes the component.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Record {
    pub(crate) component: String,
    #[serde(flatten)]
    pub(crate) process: ProcessIdentity,
    /// The environment that it runs in.
    pub(crate) environment: Option<Digest>,
    /// Of everything it was started with; another value means "start it anew".
    pub(crate) fingerprint: String,
    pub(crate) started_at: Timestamp,
    /// Where its own output begins in its log.
    pub(crate) log_offset: u64,
    /// When it was told to take no new work.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) draining_since: Option<Timestamp>,
}

/// The files that belong to a component.
#[derive(Debug, Clone)]
pub(crate) struct ComponentFiles {
    pub(crate) record: PathBuf,
    pub(crate) lock: PathBuf,
    pub(crate) log: PathBuf,
}

impl ComponentFiles {
    pub(crate) fn new(run: &Path, logs: &Path, component: &str) -> Self {
        Self {
            record: run.join(format!("{component}.json")),
            lock: run.join(format!("{component}.lock")),
            log: logs.join(format!("{component}.log")),
        }
    }
}

impl Record {
    /// Reads a record; one that is not there or makes no sense is no record
    /// (writing is atomic, so the latter is somebody else's doing).
    pub(crate) fn read(path: &Path) -> Option<Self> {
        serde_json::from_slice(&std::fs::read(path).ok()?).ok()
    }

    /// The record of a process that still runs.
    pub(crate) fn read_alive(path: &Path) -> Option<Self> {
        Self::read(path).filter(|record| record.process.is_alive())
    }

    pub(crate) fn write(&self, path: &Path) -> io::Result<()> {
        // 0644: the worker, which is Airflow's user, gets what it needs by
        // request; nothing here is a secret.
        files::write_json(path, self, 0o644)
    }
}
