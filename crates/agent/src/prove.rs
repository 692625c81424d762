//! Has Airflow take in a Release's files at once, and hears what it made of them.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio::time::Instant;
use updraft_api::agent::ProofReport;
use updraft_bundle::{LayerTable, TreeDiff, VersionError, diff};
use updraft_model::{
    AirflowNames, BundleDags, BundleName, DagChanges, DagId, Digest, ImportError, Proof,
    ProofOutcome, ProofTimings, Release, Timestamp,
};

use crate::disk::{Disk, Live};
use crate::files;
use crate::runtime::identity::ProcessIdentity;
use crate::runtime::logs::Hidden;
use crate::runtime::record::Record;
use crate::worker::{Worker, WorkerError};

/// What a proof needs to know.
pub(crate) struct ProveAsk<'a> {
    pub(crate) disk: &'a Disk,
    pub(crate) worker: &'a Worker,
    pub(crate) live: &'a Live,
    /// The last Release that was live for good.
    pub(crate) proven: Option<&'a Release>,
    /// The DAG processor, when it runs and may have read older versions.
    pub(crate) processor: Option<Record>,
    pub(crate) timeout: Duration,
    /// What tracebacks may quote and reports must not.
    pub(crate) hidden: &'a Hidden,
}

#[derive(Debug, thiserror::Error)]
pub(crate) enum ProveError {
    #[error(transparent)]
    Worker(#[from] WorkerError),
    #[error(transparent)]
    Version(#[from] VersionError),
    /// The live tree moved on; whoever moved it proves that.
    #[error("the proof was overtaken: {0}")]
    Superseded(String),
}

/// The worker's answer to one bundle's proof.
#[derive(Debug, Deserialize)]
struct Answer {
    outcome: String,
    #[serde(default)]
    reason: String,
    #[serde(default)]
    parsed: u64,
    #[serde(default)]
    affected: u64,
    #[serde(default)]
    files: u64,
    dags: Option<DagChanges>,
    #[serde(default)]
    import_errors: Vec<ImportError>,
    #[serde(default)]
    silent: Vec<String>,
    #[serde(default)]
    seen: String,
    #[serde(default)]
    not_seen: String,
    #[serde(default)]
    timings_ms: ProofTimings,
}

/// Proves every bundle of the live Release.
pub(crate) async fn prove(ask: &ProveAsk<'_>) -> Result<Proof, ProveError> {
    let mut proofs = Vec::new();
    let end = Instant::now() + ask.timeout;
    for (name, bundle) in &ask.live.release.bundles {
        let proved = async {
            match prove_bundle(ask, name, bundle.digest, end).await {
                // Once more: a file that ends the worker ends it again, and then it
                // is known not to be chance.
                Err(ProveError::Worker(WorkerError::Died(why))) => {
                    tracing::warn!(%why, "the worker ended during a proof; trying once more");
                    prove_bundle(ask, name, bundle.digest, end).await
                }
                other => other,
            }
        };
        let later = ask
            .live
            .release
            .bundles
            .keys()
            .filter(|other| *other > name);
        let proof = tokio::select! {
            proof = proved => proof?,
            () = hold_on(ask.disk, later) => continue,
        };
        proofs.push((name.clone(), proof));
    }
    Ok(merge(proofs))
}

/// Has the DAG processor wait with bundles whose turn comes, without end.
async fn hold_on(disk: &Disk, bundles: impl Iterator<Item = &BundleName>) {
    let bundles: Vec<&BundleName> = bundles.collect();
    loop {
        for bundle in &bundles {
            hold_processor(disk, bundle);
        }
        tokio::time::sleep(HOLD / 2).await;
    }
}

async fn prove_bundle(
    ask: &ProveAsk<'_>,
    bundle: &BundleName,
    version: Digest,
    end: Instant,
) -> Result<Proof, ProveError> {
    let timeout = end.saturating_duration_since(Instant::now());
    let base = base(ask.disk, ask.live, ask.proven, bundle, version)?;
    let base = base.map(|(version, change)| with_change(json!({ "version": version }), &change));
    let blame = blame(ask.disk, ask.live, bundle, version)?;
    let switch = format!("{} {}", ask.live.release.id, ask.live.switched_at);
    let blame = blame.map(|change| with_change(json!({ "switch": switch }), &change));
    let processor = ask.processor.as_ref().map(
        |record| json!({ "pid": record.process.pid, "start_time": record.process.start_time }),
    );
    let request = json!({
        "op": "prove",
        "bundle": bundle,
        "version": version,
        "path": ask.disk.bundle(bundle)?.version_path(&version),
        "current": ask.disk.airflow_link(bundle.as_str()),
        "base": base,
        "blame": blame,
        "state": ask.disk.worker_state(),
        "notes": ask.disk.notes(),
        "processor": processor,
        "timeout_s": timeout.as_secs().max(1),
        "processes": std::thread::available_parallelism().map_or(2, usize::from),
    });
    // The worker keeps the time itself; this is for one that hangs.
    let answer = ask
        .worker
        .ask(request, timeout + Duration::from_secs(60))
        .await?;
    let answer: Answer =
        serde_json::from_value(answer).map_err(|error| WorkerError::Nonsense(error.to_string()))?;
    proof_of(answer, ask.hidden)
}

/// What is reported of an answer: kept in clear, and shown to everybody who may
/// look.
fn proof_of(answer: Answer, hidden: &Hidden) -> Result<Proof, ProveError> {
    let outcome = match answer.outcome.as_str() {
        "proven" => ProofOutcome::Proven,
        "import_errors" => ProofOutcome::ImportErrors,
        "timed_out" => ProofOutcome::TimedOut,
        "superseded" => return Err(ProveError::Superseded(answer.reason)),
        other => return Err(WorkerError::Nonsense(format!("the outcome `{other}`")).into()),
    };
    let hide = |text| hidden.hide(text);
    Ok(Proof {
        outcome,
        reason: hide(answer.reason),
        parsed: answer.parsed,
        affected: answer.affected,
        files: answer.files,
        dags: answer.dags.unwrap_or_default(),
        import_errors: (answer.import_errors.into_iter())
            .map(|error| ImportError {
                traceback: hide(error.traceback),
                ..error
            })
            .collect(),
        silent: answer.silent,
        seen: hide(answer.seen),
        not_seen: hide(answer.not_seen),
        timings_ms: answer.timings_ms,
    })
}

fn with_change(mut about: Value, change: &TreeDiff) -> Value {
    about["changed"] = json!(change.changed);
    about["added"] = json!(change.added);
    about["removed"] = json!(change.removed);
    about
}

/// What a deploy answers for: how its version differs from the last one that
/// Airflow gave a verdict on, proven or not. None when it answers for everything.
pub(crate) fn blame(
    disk: &Disk,
    live: &Live,
    bundle: &BundleName,
    version: Digest,
) -> Result<Option<TreeDiff>, VersionError> {
    let judged = live.judged.as_ref();
    let Some(old) = judged.and_then(|judged| judged.release.bundles.get(bundle)) else {
        return Ok(None);
    };
    let dir = disk.bundle(bundle)?;
    let (Some(old), Some(new)) = (dir.tables(&old.digest)?, dir.tables(&version)?) else {
        return Ok(None);
    };
    Ok(Some(diff(&old, &new)))
}

/// The version to compare with and what differs; none when everything has to be
/// looked at.
pub(crate) fn base(
    disk: &Disk,
    live: &Live,
    proven: Option<&Release>,
    bundle: &BundleName,
    version: Digest,
) -> Result<Option<(Digest, TreeDiff)>, VersionError> {
    let Some(proven) = proven else {
        return Ok(None);
    };
    // Another environment can change what any file does.
    if proven.image != live.release.image {
        return Ok(None);
    }
    let Some(base) = proven.bundles.get(bundle) else {
        return Ok(None);
    };
    // Releases that were live since, and were not proven: Airflow may have read
    // files of theirs, also such as this Release has changed back.
    let since = if proven.id == live.release.id {
        &[]
    } else {
        match live
            .before
            .iter()
            .rposition(|release| release.id == proven.id)
        {
            Some(at) => &live.before[at + 1..],
            None => return Ok(None),
        }
    };
    if since.iter().any(|release| release.image != proven.image) {
        return Ok(None);
    }
    let dir = disk.bundle(bundle)?;
    let (Some(old), Some(new)) = (dir.tables(&base.digest)?, dir.tables(&version)?) else {
        return Ok(None);
    };
    let between: BTreeSet<Digest> = since
        .iter()
        .filter_map(|release| Some(release.bundles.get(bundle)?.digest))
        .filter(|digest| *digest != base.digest && *digest != version)
        .collect();
    let mut tables = Vec::new();
    for digest in between {
        match dir.tables(&digest)? {
            Some(table) => tables.push(table),
            None => return Ok(None),
        }
    }
    Ok(Some((base.digest, changes(&old, &tables, &new))))
}

/// What differs between two versions, and also what a version between them had
/// that the new one has otherwise.
fn changes(old: &[LayerTable], between: &[Vec<LayerTable>], new: &[LayerTable]) -> TreeDiff {
    let direct = diff(old, new);
    let added: BTreeSet<String> = direct.added.into_iter().collect();
    let mut changed: BTreeSet<String> = direct.changed.into_iter().collect();
    let mut removed: BTreeSet<String> = direct.removed.into_iter().collect();
    for table in between {
        let other = diff(table, new);
        changed.extend(other.changed.into_iter().chain(other.added));
        removed.extend(other.removed);
    }
    changed.retain(|path| !added.contains(path));
    TreeDiff {
        added: added.into_iter().collect(),
        changed: changed.into_iter().collect(),
        removed: removed.into_iter().collect(),
    }
}

/// One proof for the whole Release: as bad as the worst of its bundles.
pub(crate) fn merge(proofs: Vec<(BundleName, Proof)>) -> Proof {
    let several = proofs.len() > 1;
    let mut whole = Proof {
        outcome: ProofOutcome::Proven,
        reason: String::new(),
        parsed: 0,
        affected: 0,
        files: 0,
        dags: DagChanges::default(),
        import_errors: Vec::new(),
        silent: Vec::new(),
        seen: String::new(),
        not_seen: String::new(),
        timings_ms: ProofTimings::default(),
    };
    if proofs.is_empty() {
        whole.reason = "the Release has no bundle, so there was nothing to parse".into();
    }
    let mut reasons: BTreeMap<u8, Vec<String>> = BTreeMap::new();
    for (name, proof) in proofs {
        let named = |path: String| {
            if several {
                format!("{name}/{path}")
            } else {
                path
            }
        };
        let said = |text: String| {
            if several && !text.is_empty() {
                format!("{name}: {text}")
            } else {
                text
            }
        };
        if severity(proof.outcome) > severity(whole.outcome) {
            whole.outcome = proof.outcome;
        }
        reasons
            .entry(severity(proof.outcome))
            .or_default()
            .push(said(proof.reason));
        whole.parsed += proof.parsed;
        whole.affected += proof.affected;
        whole.files += proof.files;
        whole.dags.added.extend(proof.dags.added);
        whole.dags.changed.extend(proof.dags.changed);
        whole.dags.removed.extend(proof.dags.removed);
        whole.dags.total += proof.dags.total;
        whole
            .import_errors
            .extend(proof.import_errors.into_iter().map(|error| ImportError {
                file: named(error.file),
                ..error
            }));
        whole.silent.extend(proof.silent.into_iter().map(named));
        whole.seen = joined([whole.seen, said(proof.seen)]);
        whole.not_seen = joined([whole.not_seen, said(proof.not_seen)]);
        whole.timings_ms.parse += proof.timings_ms.parse;
        whole.timings_ms.write += proof.timings_ms.write;
        whole.timings_ms.processor += proof.timings_ms.processor;
        whole.timings_ms.verify += proof.timings_ms.verify;
    }
    if let Some((_, worst)) = reasons.pop_last() {
        whole.reason = worst.join("; ");
    }
    let left_out = bound(&mut whole.import_errors);
    if left_out > 0 {
        let _ = write!(
            whole.reason,
            "; {left_out} more import errors are not listed"
        );
    }
    whole
}

/// Keeps a listing of import errors to what can be sent and read: one helper can
/// break thousands of files, each with a traceback. Gives how many were left out.
pub(crate) fn bound(errors: &mut Vec<ImportError>) -> usize {
    const LISTED: usize = 1000;
    const WHOLE: usize = 50;
    // What the deploy answers for comes first.
    errors.sort_by_key(|error| !error.new);
    let left_out = errors.len().saturating_sub(LISTED);
    errors.truncate(LISTED);
    for (at, error) in errors.iter_mut().enumerate() {
        if at < WHOLE {
            error.traceback = shortened(&error.traceback, 4 * 1024, 12 * 1024);
        } else {
            let last = error.traceback.trim_end().lines().next_back();
            error.traceback = shortened(last.unwrap_or_default(), 300, 0);
        }
    }
    left_out
}

/// The beginning and the end of a text, when it is longer than both.
fn shortened(text: &str, head: usize, tail: usize) -> String {
    if text.len() <= head + tail {
        return text.to_owned();
    }
    let head = &text[..text.floor_char_boundary(head)];
    let tail = &text[text.ceil_char_boundary(text.len() - tail)..];
    format!("{head} […] {tail}")
}

/// The first of many names, and how many more there are.
pub(crate) fn some_of(names: &[String]) -> String {
    const MOST: usize = 20;
    let mut text = names[..names.len().min(MOST)].join(", ");
    if names.len() > MOST {
        let _ = write!(text, " and {} more", names.len() - MOST);
    }
    text
}

fn severity(outcome: ProofOutcome) -> u8 {
    match outcome {
        ProofOutcome::Proven => 0,
        ProofOutcome::TimedOut => 1,
        ProofOutcome::ImportErrors => 2,
    }
}

fn joined(parts: [String; 2]) -> String {
    parts
        .into_iter()
        .filter(|part| !part.is_empty())
        .collect::<Vec<_>>()
        .join("; ")
}

/// A proof as it is kept on disk, so that a restart does not ask again.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct KeptProof {
    pub(crate) report: ProofReport,
    /// When the tree it speaks of was switched to; a later switch to the same
    /// Release makes it worthless.
    pub(crate) switched_at: Timestamp,
}

/// What the worker says of a bundle at any time.
#[derive(Debug, Deserialize)]
pub(crate) struct Status {
    #[serde(default)]
    pub(crate) dags: u64,
    #[serde(default)]
    pub(crate) import_errors: Vec<StatusError>,
    #[serde(default)]
    pub(crate) names: Option<AirflowNames>,
    /// None where the bundle has more than anybody sends around.
    #[serde(default)]
    dag_ids: Option<Vec<String>>,
    /// DAG runs that have not ended, by DAG.
    #[serde(default)]
    runs: BTreeMap<String, u64>,
    /// Never taken for granted: what is not held is removed.
    holds: Holds,
}

#[derive(Debug, Deserialize)]
pub(crate) struct StatusError {
    pub(crate) file: String,
    pub(crate) traceback: String,
}

#[derive(Debug, Deserialize)]
struct Holds {
    /// Versions of unfinished runs, with how many those are.
    runs: BTreeMap<String, u64>,
    /// Versions that DAGs were last parsed from.
    dags: BTreeMap<String, u64>,
}

impl Status {
    /// The ids of its DAGs, told as those of this version: the caller knows that
    /// Airflow has taken it in. What Airflow itself would not take for an id is none.
    pub(crate) fn dags_of(&self, version: Digest) -> Option<BundleDags> {
        let ids = self.dag_ids.as_ref()?;
        Some(BundleDags {
            version,
            ids: ids.iter().filter_map(|id| id.parse().ok()).collect(),
        })
    }

    /// How many runs of each DAG have not ended.
    pub(crate) fn runs(&self) -> impl Iterator<Item = (DagId, u64)> {
        let runs = self.runs.iter();
        runs.filter_map(|(id, runs)| Some((id.parse().ok()?, *runs)))
    }

    /// The versions that Airflow still needs on disk.
    pub(crate) fn held(&self) -> BTreeSet<Digest> {
        self.holds
            .runs
            .keys()
            .chain(self.holds.dags.keys())
            .filter_map(|text| text.parse().ok())
            .collect()
    }
}

pub(crate) async fn status(
    disk: &Disk,
    worker: &Worker,
    bundle: &BundleName,
) -> Result<Status, WorkerError> {
    let request = json!({
        "op": "status",
        "bundle": bundle,
        "current": disk.airflow_link(bundle.as_str()),
    });
    let answer = worker.ask(request, Duration::from_secs(60)).await?;
    if answer["ok"] != true {
        let reason = answer["reason"].as_str().unwrap_or("it does not say why");
        return Err(WorkerError::Answered(reason.to_owned()));
    }
    serde_json::from_value(answer).map_err(|error| WorkerError::Nonsense(error.to_string()))
}

/// How long the DAG processor keeps off a new version without hearing from the
/// worker, which takes the hold over when it begins to prove.
const HOLD: Duration = Duration::from_secs(20);

/// Asks Airflow's DAG processor not to take over the next version by itself
/// yet. It looks for one each second: between the switch and the worker's
/// first write it would make rows of the same new DAGs, and one of both fails.
pub(crate) fn hold_processor(disk: &Disk, bundle: &BundleName) {
    let hold = || {
        let own = ProcessIdentity::of_self()?;
        let until = std::time::SystemTime::now() + HOLD;
        let until = until
            .duration_since(std::time::UNIX_EPOCH)
            .unwrap_or_default();
        files::write_json(
            &disk.notes().join(format!("{bundle}.hold.json")),
            &serde_json::json!({
                "pid": own.pid, "start_time": own.start_time, "until": until.as_secs_f64(),
            }),
            0o644,
        )
    };
    if let Err(error) = hold() {
        // Before the first start of Airflow there is nobody to hold.
        tracing::debug!(%error, %bundle, "the DAG processor was not asked to wait");
    }
}

#[cfg(test)]
mod tests {
    use updraft_bundle::{Entry, EntryKind};

    use super::*;

    fn tree(files: &[(&str, &str)]) -> Vec<LayerTable> {
        let entries = files
            .iter()
            .map(|(path, content)| Entry {
                path: (*path).to_owned(),
                kind: EntryKind::File {
                    size: content.len() as u64,
                    digest: Digest::of(content.as_bytes()),
                    executable: false,
                },
            })
            .collect();
        vec![LayerTable {
            digest: Digest::of(format!("{files:?}").as_bytes()),
            entries,
        }]
    }

    #[test]
    fn a_traceback_that_quotes_a_secret_shows_its_name() {
        let answer = json!({
            "outcome": "import_errors",
            "reason": "login with open sesame failed",
            "import_errors": [{"file": "a.py", "traceback": "KeyError: 'open sesame'", "new": true}],
        });
        let hidden = Hidden::new([("LOGIN", "open sesame")]);
        let proof = proof_of(serde_json::from_value(answer).unwrap(), &hidden).unwrap();
        assert_eq!(proof.import_errors[0].traceback, "KeyError: '[LOGIN]'");
        assert_eq!(proof.reason, "login with [LOGIN] failed");
    }

    #[test]
    fn a_status_that_does_not_say_what_is_held_is_none() {
        let status = |answer| serde_json::from_value::<Status>(answer);
        assert!(status(json!({"ok": true, "dags": 1})).is_err());
        let held = json!({"ok": true, "holds": {"runs": {}, "dags": {}}});
        assert!(status(held).unwrap().held().is_empty());
    }

    #[test]
    fn what_an_unproven_version_changed_and_this_one_changed_back_counts() {
        let old = tree(&[("a", "1"), ("b", "1"), ("c", "1")]);
        let between = tree(&[("a", "2"), ("c", "1"), ("x", "1")]);
        let new = tree(&[("a", "1"), ("b", "1"), ("c", "2"), ("n", "1")]);
        let changes = changes(&old, &[between], &new);
        assert_eq!(changes.added, ["n"]);
        assert_eq!(changes.changed, ["a", "b", "c"]);
        assert_eq!(changes.removed, ["x"]);
    }

    #[test]
    fn what_a_helper_broke_in_thousands_of_files_stays_small() {
        let error = |file: usize| ImportError {
            file: format!("f{file}.py"),
            traceback: format!("{}ModuleNotFoundError: é", "é\n".repeat(100_000)),
            new: file >= 1_500,
        };
        let mut errors: Vec<ImportError> = (0..3_000).map(error).collect();
        assert_eq!(bound(&mut errors), 2_000);
        assert!(errors.iter().all(|error| error.new));
        assert!(
            errors
                .iter()
                .all(|error| error.traceback.ends_with("Error: é"))
        );
        let bytes: usize = errors.iter().map(|error| error.traceback.len()).sum();
        assert!(bytes < 1024 * 1024, "{bytes}");
    }

    #[test]
    fn a_release_is_as_good_as_its_worst_bundle() {
        let proof = |outcome, reason: &str| {
            let mut proof = merge(Vec::new());
            proof.outcome = outcome;
            proof.reason = reason.into();
            proof.parsed = 1;
            proof.silent = vec!["f.py".into()];
            proof
        };
        let whole = merge(vec![
            ("dags".parse().unwrap(), proof(ProofOutcome::Proven, "fine")),
            (
                "dbt".parse().unwrap(),
                proof(ProofOutcome::ImportErrors, "broken"),
            ),
        ]);
        assert_eq!(whole.outcome, ProofOutcome::ImportErrors);
        assert_eq!(whole.reason, "dbt: broken");
        assert_eq!(whole.parsed, 2);
        assert_eq!(whole.silent, ["dags/f.py", "dbt/f.py"]);
    }
}
