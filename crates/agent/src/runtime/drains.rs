//! Components that were replaced and still have tasks: they take no new work,
//! and end when those have ended.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rustix::process::Signal;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use updraft_model::Timestamp;

use super::identity::{ProcessIdentity, family};
use super::record::{ComponentFiles, Record};

/// What the file of one that drains is called, before its component and process.
const PREFIX: &str = "draining.";

type Begun = BTreeMap<u32, (Record, JoinHandle<()>)>;

#[derive(Clone)]
pub(crate) struct Drains {
    run: PathBuf,
    limit: Duration,
    /// By process id.
    begun: Arc<Mutex<Begun>>,
    changed: Arc<watch::Sender<u64>>,
}

impl Drains {
    /// Takes over what an earlier agent has begun.
    pub(super) fn new(run: &Path, limit: Duration, changed: &Arc<watch::Sender<u64>>) -> Self {
        let drains = Self {
            run: run.to_owned(),
            limit,
            begun: Arc::default(),
            changed: Arc::clone(changed),
        };
        for (path, record) in found(run) {
            // Begun and cut off before it was told: begun again when that is wanted.
            let own = run.join(format!("{}.json", record.component));
            let is_still_it =
                Record::read_alive(&own).is_some_and(|it| it.process.pid == record.process.pid);
            if is_still_it || !record.process.is_alive() {
                let _ = std::fs::remove_file(&path);
            } else {
                drains.watch(path, record);
            }
        }
        drains
    }

    /// Tells a component to take no new work, and leaves its place to the next.
    pub(super) fn begin(&self, files: &ComponentFiles, mut record: Record) -> io::Result<()> {
        record.draining_since = Some(chrono::Utc::now());
        let path = path(&self.run, &record.component, &record.process);
        record.write(&path)?;
        std::fs::remove_file(&files.record)?;
        tracing::info!(
            component = record.component,
            pid = record.process.pid,
            "takes no new work; it ends with its tasks"
        );
        record.process.signal(Signal::TERM);
        self.watch(path, record);
        Ok(())
    }

    pub(crate) fn records(&self) -> Vec<Record> {
        let begun = self.begun();
        begun.values().map(|(record, _)| record.clone()).collect()
    }

    /// Lets go of all of them: the next agent sees them to their end.
    pub(super) fn abandon(&self) {
        for (_, task) in std::mem::take(&mut *self.begun()).into_values() {
            task.abort();
        }
    }

    fn begun(&self) -> MutexGuard<'_, Begun> {
        self.begun.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn watch(&self, path: PathBuf, record: Record) {
        let drains = self.clone();
        let pid = record.process.pid;
        // Held until the task is in the list, so that it cannot leave it before.
        let mut begun = self.begun();
        let task = tokio::spawn({
            let record = record.clone();
            async move {
                drains.see_to_its_end(&record).await;
                let _ = std::fs::remove_file(&path);
                drains.begun().remove(&pid);
                drains.changed.send_modify(|count| *count += 1);
            }
        });
        begun.insert(pid, (record, task));
        drop(begun);
        self.changed.send_modify(|count| *count += 1);
    }

    async fn see_to_its_end(&self, record: &Record) {
        let left = left(record.draining_since, self.limit);
        let process = &record.process;
        if tokio::time::timeout(left, process.ended()).await.is_ok() {
            return;
        }
        let component = &record.component;
        tracing::warn!(
            component,
            pid = process.pid,
            "its tasks took too long and are ended"
        );
        for member in family(&[process.pid], None) {
            member.signal(Signal::KILL);
        }
        let _ = tokio::time::timeout(Duration::from_secs(5), process.ended()).await;
    }
}

fn path(run: &Path, component: &str, process: &ProcessIdentity) -> PathBuf {
    run.join(format!("{PREFIX}{component}.{}.json", process.pid))
}

/// Whether a component's process was replaced and ends with its tasks.
pub(super) fn is_draining(run: &Path, component: &str, process: &ProcessIdentity) -> bool {
    let record = Record::read(&path(run, component, process));
    record.is_some_and(|record| record.process == *process)
}

fn left(since: Option<Timestamp>, limit: Duration) -> Duration {
    let since = since.unwrap_or_else(chrono::Utc::now);
    let passed = (chrono::Utc::now() - since).to_std().unwrap_or_default();
    limit.saturating_sub(passed)
}

fn found(run: &Path) -> Vec<(PathBuf, Record)> {
    let entries = std::fs::read_dir(run).into_iter().flatten().flatten();
    let is_ours = |name: &str| name.starts_with(PREFIX);
    entries
        .filter(|entry| entry.file_name().to_str().is_some_and(is_ours))
        .filter_map(|entry| Some((entry.path(), Record::read(&entry.path())?)))
        .collect()
}
