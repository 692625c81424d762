//! How the DAGs of two trees differ, by what came of importing both.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;

use super::change::Change;
use super::protocol::{Answer, NeedOutcome, ParsedDag};
use super::{Parsed, Tree};

/// What a deploy of one tree in place of another does to the DAGs.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct DagDiff {
    pub added: Vec<DagOf>,
    pub changed: Vec<ChangedDag>,
    pub removed: Vec<DagOf>,
    /// DAG files that cannot be imported here, so that nothing is known of their DAGs.
    pub unknown: Vec<String>,
}

/// A DAG with the file that it comes from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct DagOf {
    pub file: String,
    #[serde(flatten)]
    pub dag: ParsedDag,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ChangedDag {
    pub dag_id: String,
    pub file: String,
    /// Where it was before, if that was elsewhere.
    pub moved_from: Option<String>,
    pub schedule: Option<ScheduleChange>,
    pub tasks_added: Vec<String>,
    pub tasks_removed: Vec<String>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ScheduleChange {
    pub from: Option<String>,
    pub to: Option<String>,
}

impl DagDiff {
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

impl Parsed {
    /// Compares with what was parsed of an earlier tree; none: there was none.
    pub fn dags_since(&self, before: Option<&Self>) -> DagDiff {
        let nothing = (BTreeMap::new(), Tree::new());
        let (answers, tree) = before.map_or((&nothing.0, &nothing.1), |it| (&it.answers, &it.tree));
        diff(answers, &Change::between(tree, &self.tree), &self.answers)
    }
}

/// A DAG has changed when its file has, or a file that this one looked at.
fn diff(
    before: &BTreeMap<String, Answer>,
    change: &Change,
    now: &BTreeMap<String, Answer>,
) -> DagDiff {
    let unknown: BTreeSet<&str> = now
        .values()
        .filter(|answer| is_unknown(answer))
        .map(|answer| answer.file.as_str())
        .collect();
    let (old, new) = (by_id(before), by_id(now));
    let mut diff = DagDiff {
        unknown: unknown.iter().map(|&file| file.to_owned()).collect(),
        ..DagDiff::default()
    };
    for (id, (answer, dag)) in &new {
        match old.get(id) {
            None => diff.added.push(DagOf::new(answer, dag)),
            Some((was, dag_was)) => {
                let changed = ChangedDag::between((was, dag_was), (answer, dag));
                if changed.is_seen() || change.touches(&answer.seen) || change.touches(&was.seen) {
                    diff.changed.push(changed);
                }
            }
        }
    }
    for (id, (answer, dag)) in &old {
        // Of a file that cannot be imported any more, Airflow keeps what it has.
        if !new.contains_key(id) && !unknown.contains(answer.file.as_str()) {
            diff.removed.push(DagOf::new(answer, dag));
        }
    }
    diff
}

fn by_id(answers: &BTreeMap<String, Answer>) -> BTreeMap<&str, (&Answer, &ParsedDag)> {
    let dags = answers
        .values()
        .flat_map(|answer| answer.dags.iter().map(move |dag| (answer, dag)));
    dags.map(|(answer, dag)| (dag.dag_id.as_str(), (answer, dag)))
        .collect()
}

fn is_unknown(answer: &Answer) -> bool {
    let is_undetermined = answer
        .needs
        .iter()
        .any(|need| need.outcome == NeedOutcome::Undetermined);
    !answer.errors.is_empty() || answer.ended.is_some() || is_undetermined
}

impl DagOf {
    fn new(answer: &Answer, dag: &ParsedDag) -> Self {
        Self {
            file: answer.file.clone(),
            dag: dag.clone(),
        }
    }
}

impl ChangedDag {
    fn between(before: (&Answer, &ParsedDag), now: (&Answer, &ParsedDag)) -> Self {
        let tasks = |dag: &ParsedDag| -> BTreeSet<String> { dag.tasks.iter().cloned().collect() };
        let (old, new) = (tasks(before.1), tasks(now.1));
        let (from, to) = (&before.1.schedule, &now.1.schedule);
        let schedule = (from != to).then(|| ScheduleChange {
            from: from.clone(),
            to: to.clone(),
        });
        Self {
            dag_id: now.1.dag_id.clone(),
            file: now.0.file.clone(),
            moved_from: (before.0.file != now.0.file).then(|| before.0.file.clone()),
            schedule,
            tasks_added: new.difference(&old).cloned().collect(),
            tasks_removed: old.difference(&new).cloned().collect(),
        }
    }

    /// Whether it differs in what a user of Airflow sees.
    fn is_seen(&self) -> bool {
        self.moved_from.is_some()
            || self.schedule.is_some()
            || !self.tasks_added.is_empty()
            || !self.tasks_removed.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use updraft_model::Digest;

    use super::*;

    fn answer(file: &str, dags: &[(&str, &str, &[&str])], reads: &[&str]) -> (String, Answer) {
        let dags: Vec<_> = dags
            .iter()
            .map(
                |(id, schedule, tasks)| json!({"dag_id": id, "schedule": schedule, "tasks": tasks}),
            )
            .collect();
        let mut files = vec![file];
        files.extend(reads);
        let answer = json!({
            "file": file, "seconds": 0.1, "dags": dags, "errors": [], "ended": null, "needs": [],
            "database": [], "loose_tasks": [], "differs": [], "again_ended": null,
            "seen": {"files": files, "names": [], "folders": [], "everything": false},
        });
        (file.to_owned(), serde_json::from_value(answer).unwrap())
    }

    fn tree(files: &[(&str, &str)]) -> Tree {
        let files = files.iter();
        files
            .map(|(path, text)| ((*path).to_owned(), Digest::of(text.as_bytes())))
            .collect()
    }

    #[test]
    fn dags_are_added_changed_and_removed_with_what_of_them() {
        let before = BTreeMap::from([
            answer("dags/a.py", &[("a", "@daily", &["x", "y"])], &[]),
            answer("dags/b.py", &[("b", "@daily", &["x"])], &["include/sql.py"]),
            answer("dags/c.py", &[("c", "@daily", &["x"])], &[]),
            answer("dags/d.py", &[("d", "@daily", &["x"])], &[]),
        ]);
        let now = BTreeMap::from([
            answer("dags/a.py", &[("a", "@hourly", &["y", "z"])], &[]),
            answer("dags/b.py", &[("b", "@daily", &["x"])], &["include/sql.py"]),
            answer("dags/c.py", &[("c", "@daily", &["x"])], &[]),
            answer("dags/e.py", &[("e", "@once", &["x"])], &[]),
        ]);
        let old = tree(&[
            ("dags/a.py", "1"),
            ("dags/b.py", "1"),
            ("dags/c.py", "1"),
            ("dags/d.py", "1"),
            ("include/sql.py", "1"),
        ]);
        let new = tree(&[
            ("dags/a.py", "2"),
            ("dags/b.py", "1"),
            ("dags/c.py", "1"),
            ("dags/e.py", "1"),
            ("include/sql.py", "2"),
        ]);
        let found = diff(&before, &Change::between(&old, &new), &now);
        let ids = |dags: &[DagOf]| -> Vec<String> {
            dags.iter().map(|it| it.dag.dag_id.clone()).collect()
        };
        assert_eq!(ids(&found.added), ["e"]);
        assert_eq!(ids(&found.removed), ["d"]);
        let changed: Vec<&str> = found.changed.iter().map(|it| it.dag_id.as_str()).collect();
        assert_eq!(
            changed,
            ["a", "b"],
            "`b` only reads what changed, `c` does not"
        );
        let a = &found.changed[0];
        let schedule = a.schedule.as_ref().unwrap();
        assert_eq!(schedule.to.as_deref(), Some("@hourly"));
        assert_eq!(
            (&a.tasks_added[..], &a.tasks_removed[..]),
            (&["z".to_owned()][..], &["x".to_owned()][..])
        );
        assert!(!found.changed[1].is_seen());
    }

    #[test]
    fn a_file_that_cannot_be_imported_takes_no_dag_away() {
        let before = BTreeMap::from([answer("dags/a.py", &[("a", "@daily", &["x"])], &[])]);
        let (file, mut broken) = answer("dags/a.py", &[], &[]);
        broken.errors = serde_json::from_value(json!([
            {"kind": "syntax", "file": "dags/a.py", "line": 1, "message": "no", "traceback": ""}
        ]))
        .unwrap();
        let change = Change::between(&tree(&[("dags/a.py", "1")]), &tree(&[("dags/a.py", "2")]));
        let found = diff(&before, &change, &BTreeMap::from([(file, broken)]));
        assert_eq!(found.unknown, ["dags/a.py"]);
        assert!(found.removed.is_empty());
    }
}
