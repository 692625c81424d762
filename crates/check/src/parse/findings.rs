//! From a worker's answers to findings.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use super::protocol::{Answer, At, Ended, ErrorKind, ImportError, Need, NeedKind, NeedOutcome};
use super::{ParseLimits, Tree};
use crate::Level;
use crate::finding::{Finding, Place};
use crate::noqa;
use crate::rule::{Levels, Rule};

pub(super) struct Told<'a> {
    pub(super) root: &'a Path,
    pub(super) tree: &'a Tree,
    pub(super) levels: &'a Levels,
    pub(super) limits: ParseLimits,
    pub(super) deployment: Option<&'a str>,
}

impl Told<'_> {
    /// The findings of these, by file and place. An id may also be that of a DAG
    /// in another file, as far as that is known.
    pub(super) fn findings(&self, answers: &[&Answer], all: &[&Answer]) -> Vec<Finding> {
        let asked: BTreeSet<&str> = answers.iter().map(|answer| answer.file.as_str()).collect();
        let mut texts = Texts::new(self.root);
        let mut found: Vec<Finding> = answers
            .iter()
            .flat_map(|answer| self.of(answer))
            .chain(
                duplicates(all)
                    .into_iter()
                    .filter(|it| asked.contains(it.at.file.as_str())),
            )
            .chain(
                answers
                    .iter()
                    .filter_map(|answer| self.stays_behind(answer)),
            )
            .filter_map(|found| self.finding(found, &mut texts))
            .collect();
        found.sort_by(|one, other| {
            let key = |finding: &Finding| (finding.place, finding.rule);
            let by_file = one.file.cmp(&other.file);
            by_file.then_with(|| key(one).cmp(&key(other)))
        });
        found
    }

    fn of(&self, answer: &Answer) -> Vec<Found> {
        let here = || At {
            file: answer.file.clone(),
            line: None,
        };
        let mut found = Vec::new();
        // Said once: a name that is missing is the cause of the error there, and a
        // file that ran out of time was interrupted in some line.
        let is_told = |error: &&ImportError| {
            let is_missing = |need: &Need| {
                self.levels.of(Rule::MissingName) == Level::Error
                    && need.outcome == NeedOutcome::Missing
                    && (&need.at.file, need.at.line) == (&error.file, error.line)
            };
            answer.needs.iter().any(is_missing) || matches!(answer.ended, Some(Ended::Time { .. }))
        };
        for error in answer.errors.iter().filter(|error| !is_told(error)) {
            let at = At {
                file: error.file.clone(),
                line: error.line,
            };
            let one = Found::new(rule_of(error.kind), at, error.message.clone());
            found.push(one.with(&error.traceback));
        }
        if let Some(ended) = &answer.ended {
            found.push(Found::new(Rule::EndsProcess, here(), how_it_ended(ended)));
        }
        for need in &answer.needs {
            // Code that goes on without the name is right, and worth a look.
            let is_handled = answer.errors.is_empty() && answer.ended.is_none();
            found.push(self.need(need, is_handled));
        }
        for at in &answer.database {
            let message = "the metadata database is opened while the file is imported".to_owned();
            found.push(Found::new(Rule::Session, at.clone(), message));
        }
        for task in &answer.loose_tasks {
            let message = format!("the task `{}` belongs to no DAG", task.task_id);
            found.push(Found::new(Rule::LooseTask, task.at.clone(), message));
        }
        for differs in &answer.differs {
            let message = format!(
                "`{}` of the DAG `{}` is `{}` in one parse and `{}` in the next",
                differs.at, differs.dag_id, differs.first, differs.second
            );
            found.push(Found::new(Rule::Changing, here(), message));
        }
        if let Some(ended) = &answer.again_ended {
            let message = format!("parsed a second time, {}", how_it_ended(ended));
            found.push(Found::new(Rule::EndsLater, here(), message));
        }
        let budget = self.limits.budget.as_secs_f64();
        if answer.seconds > budget && answer.ended.is_none() {
            let message = format!(
                "importing it took {:.1} s, more than the {budget:.1} s that a file may take",
                answer.seconds
            );
            found.push(Found::new(Rule::Slow, here(), message));
        }
        found
    }

    /// A module that the file looked at here, and that no deploy carries.
    fn stays_behind(&self, answer: &Answer) -> Option<Found> {
        let is_left = |path: &&String| {
            Path::new(path).extension().is_some_and(|it| it == "py")
                && !self.tree.contains_key(*path)
                && self.root.join(path).is_file()
        };
        let module = answer.seen.files.iter().find(is_left)?;
        let at = At {
            file: answer.file.clone(),
            line: None,
        };
        let message = format!("it looks at `{module}`, which no deploy carries");
        Some(Found::new(Rule::StaysBehind, at, message))
    }

    fn need(&self, need: &Need, is_handled: bool) -> Found {
        let what = match need.kind {
            NeedKind::Variable => "variable",
            NeedKind::Connection => "connection",
            NeedKind::Environment => "environment variable",
        };
        let name = &need.name;
        let place = match self.deployment {
            Some(deployment) => format!("in the Deployment `{deployment}`"),
            None => "in `airflow_settings.yaml`".to_owned(),
        };
        let (rule, message) = match need.outcome {
            NeedOutcome::Missing if is_handled => (
                Rule::PerhapsMissing,
                format!("the {what} `{name}` is missing {place}, and the code goes on without it"),
            ),
            NeedOutcome::Missing => (
                Rule::MissingName,
                format!("the {what} `{name}` is missing {place}"),
            ),
            NeedOutcome::MaybeMissing => (
                Rule::PerhapsMissing,
                format!(
                    "the {what} `{name}` is missing {place}, unless its secrets backend has it"
                ),
            ),
            NeedOutcome::Undetermined => (
                Rule::Undetermined,
                format!("undetermined: needs the value of the {what} `{name}`, which is not here"),
            ),
        };
        Found::new(rule, need.at.clone(), message)
    }

    fn finding(&self, found: Found, texts: &mut Texts<'_>) -> Option<Finding> {
        let level = self.levels.of(found.rule);
        let line = found.at.line.unwrap_or(1);
        let text = texts.line(&found.at.file, line);
        // What Airflow does not get cannot be excused, and what is true of the
        // whole file is not said by its first line.
        let is_excused = found.at.line.is_some()
            && !found.rule.stops_the_import()
            && noqa::excuses(&text, found.rule);
        if level == Level::Off || is_excused {
            return None;
        }
        Some(Finding {
            rule: found.rule,
            level,
            file: found.at.file,
            place: Place {
                line,
                column: 1 + u32::try_from(text.len() - text.trim_start().len()).unwrap_or(0),
            },
            // What is true of the file as a whole is not shown with its first line.
            text: if found.at.line.is_some() {
                text
            } else {
                String::new()
            },
            message: found.message,
            help: found.rule.help().to_owned(),
            details: found.details,
        })
    }
}

struct Found {
    rule: Rule,
    at: At,
    message: String,
    details: Option<String>,
}

impl Found {
    fn new(rule: Rule, at: At, message: String) -> Self {
        Self {
            rule,
            at,
            message,
            details: None,
        }
    }

    /// With a traceback, where that says more than the message.
    fn with(self, traceback: &str) -> Self {
        let traceback = traceback.trim();
        Self {
            details: traceback.contains('\n').then(|| traceback.to_owned()),
            ..self
        }
    }
}

const fn rule_of(kind: ErrorKind) -> Rule {
    match kind {
        ErrorKind::Syntax => Rule::Syntax,
        ErrorKind::Cycle => Rule::Cycle,
        ErrorKind::Schedule => Rule::Schedule,
        ErrorKind::Duplicate => Rule::DuplicateDag,
        ErrorKind::Import | ErrorKind::Other => Rule::Unimportable,
    }
}

fn how_it_ended(ended: &Ended) -> String {
    match ended {
        Ended::Exit { code } => {
            format!("it ended its process with exit code {code} (`os._exit` or `sys.exit`?)")
        }
        Ended::Signal { signal } => format!("it ended its process by signal {signal}"),
        Ended::Time { seconds } => format!("it took longer than {seconds:.0} s and was ended"),
        Ended::Memory => "it needs more memory than a file may have".to_owned(),
    }
}

/// Ids that DAGs of two files have; told of each but the first.
fn duplicates(answers: &[&Answer]) -> Vec<Found> {
    let mut by_id: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for answer in answers {
        for dag in &answer.dags {
            by_id.entry(&dag.dag_id).or_default().push(&answer.file);
        }
    }
    let mut found = Vec::new();
    for (id, files) in by_id {
        let mut files = files.into_iter();
        let Some(first) = files.next() else { continue };
        found.extend(files.map(|file| {
            let at = At {
                file: file.to_owned(),
                line: None,
            };
            let message = format!("`{id}` is also the id of a DAG in {first}");
            Found::new(Rule::DuplicateDag, at, message)
        }));
    }
    found
}

/// Lines of files, each read once.
struct Texts<'a> {
    root: &'a Path,
    read: BTreeMap<String, Vec<String>>,
}

impl<'a> Texts<'a> {
    fn new(root: &'a Path) -> Self {
        Self {
            root,
            read: BTreeMap::new(),
        }
    }

    fn line(&mut self, file: &str, line: u32) -> String {
        let lines = self.read.entry(file.to_owned()).or_insert_with(|| {
            let text = fs::read(self.root.join(file)).unwrap_or_default();
            let text = String::from_utf8_lossy(&text);
            text.lines().map(str::to_owned).collect()
        });
        let at = usize::try_from(line).unwrap_or(1).saturating_sub(1);
        lines.get(at).cloned().unwrap_or_default()
    }
}
