//! What is asked of the worker and what it answers: JSON lines, described in
//! the README of `airflow-updraft`.

use serde::{Deserialize, Serialize};

use super::ParseRequest;

/// Which variables and connections there are. Never their values.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Names {
    /// None: nobody knows.
    pub variables: Option<Vec<String>>,
    pub connections: Option<Vec<String>>,
    /// Environment variables that the Deployment sets.
    pub environment: Vec<String>,
    /// Whether a secrets backend may have more than these.
    pub secrets_backend: bool,
}

#[derive(Debug, Serialize)]
pub(super) struct Request<'a> {
    op: &'static str,
    root: &'a str,
    dags: String,
    files: Vec<&'a str>,
    processes: usize,
    timeout_s: f64,
    memory_mb: u64,
    names: &'a Names,
}

impl<'a> Request<'a> {
    pub(super) fn new(ask: &'a ParseRequest<'_>, files: Vec<&'a str>) -> Self {
        let processors = std::thread::available_parallelism().map_or(2, usize::from);
        Self {
            op: "parse",
            // A path that is no text was refused when the project was opened.
            root: ask.root.to_str().unwrap_or_default(),
            dags: ask.root.join("dags").display().to_string(),
            files,
            processes: processors,
            timeout_s: ask.limits.time.as_secs_f64(),
            memory_mb: ask.limits.memory_mb,
            names: &ask.names,
        }
    }
}

#[derive(Debug, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub(super) enum Event {
    Ready { airflow: String },
    Broken { reason: String },
    File(Box<Answer>),
    Error { reason: String },
    Done,
}

/// What came of one file.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Answer {
    pub(super) file: String,
    pub(super) seconds: f64,
    pub(super) dags: Vec<ParsedDag>,
    pub(super) errors: Vec<ImportError>,
    pub(super) ended: Option<Ended>,
    pub(super) needs: Vec<Need>,
    pub(super) database: Vec<At>,
    pub(super) loose_tasks: Vec<LooseTask>,
    pub(super) differs: Vec<Differs>,
    /// How a second parse ended, where the first went well.
    pub(super) again_ended: Option<Ended>,
    pub(super) seen: Seen,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ParsedDag {
    pub dag_id: String,
    pub tasks: Vec<String>,
    pub schedule: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct ImportError {
    pub(super) kind: ErrorKind,
    pub(super) file: String,
    pub(super) line: Option<u32>,
    pub(super) message: String,
    pub(super) traceback: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum ErrorKind {
    Import,
    Syntax,
    Cycle,
    Schedule,
    Duplicate,
    #[serde(other)]
    Other,
}

/// How a file ended the process that it was imported in.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "why", rename_all = "snake_case")]
pub(super) enum Ended {
    Exit { code: i32 },
    Signal { signal: String },
    Time { seconds: f64 },
    Memory,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Need {
    pub(super) kind: NeedKind,
    pub(super) name: String,
    #[serde(flatten)]
    pub(super) at: At,
    pub(super) outcome: NeedOutcome,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum NeedKind {
    Variable,
    Connection,
    Environment,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum NeedOutcome {
    Undetermined,
    Missing,
    MaybeMissing,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct At {
    pub(super) file: String,
    pub(super) line: Option<u32>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct LooseTask {
    pub(super) task_id: String,
    #[serde(flatten)]
    pub(super) at: At,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Differs {
    pub(super) dag_id: String,
    pub(super) at: String,
    pub(super) first: String,
    pub(super) second: String,
}

/// What a file looked at while it was imported, below the project's folder.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Seen {
    /// Opened, imported or asked about, also where that failed.
    pub(super) files: Vec<String>,
    /// Where a module or folder was looked for: `lib/foo` for `lib/foo.py`.
    pub(super) names: Vec<String>,
    /// Listed; the root is the empty text.
    pub(super) folders: Vec<String>,
    /// It did something that hides what it read.
    pub(super) everything: bool,
}
