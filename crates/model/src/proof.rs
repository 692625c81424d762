//! What Airflow answered about a Release that was just switched to.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// The outcome of asking Airflow for the new content of every file that a
/// change can affect.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Proof {
    pub outcome: ProofOutcome,
    /// Why the outcome is what it is, in one sentence.
    #[serde(default)]
    pub reason: String,
    /// DAG files that Airflow parsed for this proof.
    pub parsed: u64,
    /// DAG files that the change could affect.
    pub affected: u64,
    /// DAG files in the Release.
    pub files: u64,
    pub dags: DagChanges,
    #[serde(default)]
    pub import_errors: Vec<ImportError>,
    /// Changed files that look like DAG files and gave neither a DAG nor an error.
    #[serde(default)]
    pub silent: Vec<String>,
    /// What was seen so far, where time ran out.
    #[serde(default)]
    pub seen: String,
    /// What was not seen, where time ran out.
    #[serde(default)]
    pub not_seen: String,
    #[serde(default)]
    pub timings_ms: ProofTimings,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum ProofOutcome {
    Proven,
    /// At least one import error that this change is answerable for.
    ImportErrors,
    TimedOut,
}

/// DAGs as Airflow counts them, before against after.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct DagChanges {
    pub added: Vec<String>,
    pub changed: Vec<String>,
    pub removed: Vec<String>,
    pub total: u64,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ImportError {
    /// The file, relative to its bundle.
    pub file: String,
    pub traceback: String,
    /// Whether this change brought it.
    pub new: bool,
}

/// How long the steps of a proof took, in milliseconds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(default)]
pub struct ProofTimings {
    pub parse: u64,
    pub write: u64,
    pub processor: u64,
    pub verify: u64,
}

impl Proof {
    /// The import errors that this change is answerable for.
    pub fn new_import_errors(&self) -> impl Iterator<Item = &ImportError> {
        self.import_errors.iter().filter(|error| error.new)
    }
}
