//! The second stage: every DAG file imported, as Airflow would.
//!
//! ```text
//! tree (digests) ──▶ known (answers that still hold) ──▶ worker (the rest) ──▶ findings
//! ```
//!
//! The worker is `airflow_updraft.check`, in the Deployment's own environment.
//! One stays for some minutes after its last client, so that the next check
//! need not import Airflow.

mod change;
mod dags;
mod findings;
mod known;
mod protocol;
mod worker;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::time::Duration;

use updraft_model::Digest;

use crate::check::Checked;
use crate::rule::Levels;

pub use dags::{ChangedDag, DagDiff, DagOf, ScheduleChange};
pub use protocol::{Names, ParsedDag};
pub use worker::{Host, Start, WorkerError};

use findings::Told;
use known::Known;
use protocol::{Answer, Request};
use worker::Worker;

/// The project's files that Airflow could see, by their path below its folder.
pub type Tree = BTreeMap<String, Digest>;

/// What is parsed, where, and with what.
pub struct ParseRequest<'a> {
    pub root: &'a Path,
    /// DAG files, below the root.
    pub files: &'a [String],
    pub tree: Tree,
    /// The same as it is when the parse has ended.
    pub tree_now: &'a dyn Fn() -> Tree,
    pub host: &'a Host,
    pub names: Names,
    /// Who the names are of, for what is said of one that is missing.
    pub deployment: Option<&'a str>,
    pub limits: ParseLimits,
    pub levels: &'a Levels,
    /// Where answers are kept; none: nowhere.
    pub cache: Option<PathBuf>,
    /// Answers that were kept of another tree, which hold here where it is the same.
    pub also_known: Option<PathBuf>,
    /// Parse also what is known.
    pub fresh: bool,
    /// Told how many files are done, of how many.
    pub progress: &'a dyn Fn(usize, usize),
}

#[derive(Debug, Clone, Copy)]
pub struct ParseLimits {
    /// The longest that one file may take.
    pub time: Duration,
    /// The most memory that one file may use besides Airflow itself.
    pub memory_mb: u64,
    /// A file that takes longer is told of.
    pub budget: Duration,
}

impl Default for ParseLimits {
    fn default() -> Self {
        Self {
            // Airflow's `dagbag_import_timeout`.
            time: Duration::from_secs(30),
            memory_mb: 4096,
            budget: Duration::from_secs(5),
        }
    }
}

#[derive(Debug)]
pub struct Parsed {
    pub checked: Checked,
    /// By file.
    pub dags: BTreeMap<String, Vec<ParsedDag>>,
    /// Seconds that each file took, when it was last parsed.
    pub seconds: BTreeMap<String, f64>,
    /// The Airflow that parsed; none when all was known.
    pub airflow: Option<String>,
    /// Of the files that were asked for.
    answers: BTreeMap<String, Answer>,
    tree: Tree,
}

/// Parses these files. Each is answered for, or this fails.
pub fn parse(ask: &ParseRequest<'_>) -> Result<Parsed, WorkerError> {
    let known = Known::open(ask);
    let mut answers: BTreeMap<String, Answer> = Known::of_another_tree(ask).answers(&ask.tree);
    answers.extend(known.answers(&ask.tree));
    let unknown: Vec<&String> = ask
        .files
        .iter()
        .filter(|file| !answers.contains_key(*file))
        .collect();
    let found = ask.files.len() - unknown.len();
    let mut airflow = None;
    if !unknown.is_empty() {
        (ask.progress)(0, unknown.len());
        let mut worker = Worker::reach(ask.host)?;
        airflow = Some(worker.airflow().to_owned());
        let request = Request::new(ask, unknown.iter().map(|file| file.as_str()).collect());
        let mut done = 0;
        worker.parse(&request, |answer| {
            done += 1;
            (ask.progress)(done, unknown.len());
            answers.insert(answer.file.clone(), answer);
        })?;
        let silent: BTreeSet<_> = unknown
            .iter()
            .filter(|file| !answers.contains_key(**file))
            .collect();
        if let Some(file) = silent.first() {
            return Err(WorkerError::Silent {
                file: (**file).clone(),
                log: ask.host.log.clone(),
            });
        }
        // The next parse takes longer without it, and is no other.
        let _ = known.keep(&answers, ask);
    }
    let told = Told {
        root: ask.root,
        tree: &ask.tree,
        levels: ask.levels,
        limits: ask.limits,
        deployment: ask.deployment,
    };
    let files: BTreeSet<&String> = ask.files.iter().collect();
    let asked: Vec<&Answer> = answers
        .values()
        .filter(|answer| files.contains(&answer.file))
        .collect();
    Ok(Parsed {
        checked: Checked {
            findings: told.findings(&asked, &answers.values().collect::<Vec<_>>()),
            files: asked.len(),
            known: found,
            notes: Vec::new(),
        },
        dags: asked
            .iter()
            .map(|answer| (answer.file.clone(), answer.dags.clone()))
            .collect(),
        seconds: asked
            .iter()
            .map(|answer| (answer.file.clone(), answer.seconds))
            .collect(),
        airflow,
        answers: asked
            .iter()
            .map(|answer| (answer.file.clone(), (*answer).clone()))
            .collect(),
        tree: ask.tree.clone(),
    })
}
