//! A proof by Airflow's REST API alone, for an Airflow that somebody else runs.
//!
//! Parse times and sources say little by themselves: a parse that was under way
//! during the switch is stamped after it, and within
//! `min_serialized_dag_update_interval` (30 s, if nobody set it) of the last
//! write Airflow moves the time and shows the new source while it keeps the old
//! DAG. So each affected file has to be seen parsed *twice* after the switch.
//!
//! What the first parse wrote may be old, but nothing that began before the
//! switch is written later. The second is asked for when the interval has passed
//! since: it begins after the request, at a path that does not change, so it
//! reads the new content, and its write is not held back. Where files were only
//! added, or nothing was there before, each needs to be seen once: there was
//! nothing to parse or to hold back.
//!
//! A file of which Airflow shows nothing is called silent only once Airflow is
//! known to have listed its folder since the switch.
//!
//! Which files a helper reaches is not known here, so a changed helper answers
//! for the import errors of all.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::fmt::Write as _;
use std::time::Duration;

use serde_json::Value;
use tokio::time::Instant;
use updraft_bundle::TreeDiff;
use updraft_model::{
    BundleName, DagChanges, Digest, ImportError, Proof, ProofOutcome, ProofTimings, Release,
};

use crate::airflow::rest::{AirflowRest, AirflowRestError};
use crate::deliver::PassError;
use crate::disk::{Disk, Live};
use crate::prove;

pub(crate) struct RestProof<'a> {
    pub(crate) disk: &'a Disk,
    pub(crate) rest: &'a AirflowRest,
    pub(crate) live: &'a Live,
    pub(crate) proven: Option<&'a Release>,
    pub(crate) bundle: &'a BundleName,
    /// What the folders are called that other bundles are offered in.
    pub(crate) other_folders: BTreeSet<String>,
    pub(crate) version: Digest,
    pub(crate) timeout: Duration,
}

/// How far the evidence for one file is.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Evidence {
    /// Not asked for yet.
    None,
    /// Asked for; the parse that is seen next may have begun before the switch.
    Asked {
        parsed: Option<String>,
    },
    /// A parse was seen; what it or one before it wrote may hold back the next.
    Settling {
        until: Instant,
    },
    /// Asked for again after that.
    AskedAgain {
        parsed: Option<String>,
    },
    Seen,
}

/// What Airflow shows of one file.
#[derive(Debug, Clone, Default)]
struct Shown {
    dags: Vec<String>,
    token: Option<String>,
    /// When it was last parsed, or its error noted, as Airflow writes it.
    parsed: Option<String>,
    error: Option<String>,
}

impl Shown {
    fn is_there(&self) -> bool {
        !self.dags.is_empty() || self.error.is_some()
    }
}

/// How long a new file may yield nothing after everything else was seen.
const SILENCE: Duration = Duration::from_secs(20);

impl RestProof<'_> {
    pub(crate) async fn run(&self) -> Result<Proof, PassError> {
        let end = Instant::now() + self.timeout;
        let begun = Instant::now();
        // Other agents may have proven what is live here: of this Airflow that
        // says nothing.
        let proven = self
            .proven
            .filter(|proven| proven.id != self.live.release.id);
        let base = prove::base(self.disk, self.live, proven, self.bundle, self.version)?;
        let change = base.map(|(_, change)| change);
        let blame = prove::blame(self.disk, self.live, self.bundle, self.version)?;
        let candidates = self.dag_files()?;
        let interval = self.rest.update_interval().await + Duration::from_secs(1);
        let mut listing = Listing::new(begun, self.rest.listing_interval().await);
        let mut evidence: BTreeMap<String, Evidence> = BTreeMap::new();
        let mut probe: Option<String> = None;
        let mut first: Option<BTreeMap<String, Shown>> = None;
        let mut quiet_since = Instant::now();

        let (shown, timed_out) = loop {
            let shown = self
                .look(&candidates, change.as_ref())
                .await
                .map_err(PassError::retry)?;
            if first.is_none() {
                for path in affected(&candidates, change.as_ref(), &shown) {
                    evidence.insert(path, Evidence::None);
                }
                probe = self.probe(&candidates, change.as_ref(), &evidence, &shown);
                evidence.extend(probe.clone().map(|path| (path, Evidence::None)));
                first = Some(shown.clone());
            }
            let mut moved = false;
            for (path, state) in &mut evidence {
                let is_new = self.is_seen_once(change.as_ref(), path);
                let now = shown.get(path).cloned().unwrap_or_default();
                let next = next(state, &now, is_new, Instant::now(), interval);
                if let (Evidence::Asked { .. } | Evidence::AskedAgain { .. }, Some(token)) =
                    (&next, &now.token)
                    && next != *state
                {
                    self.rest
                        .parse_file(token)
                        .await
                        .map_err(PassError::retry)?;
                }
                // It looks for new files before it parses what it was asked for.
                listing.done |= self.rest.lists_when_asked_to_parse()
                    && now.token.is_some()
                    && matches!(
                        (&*state, &next),
                        (Evidence::AskedAgain { .. }, Evidence::Seen)
                    );
                moved |= next != *state;
                *state = next;
            }
            let is_added = |path: &String| match &change {
                Some(change) => change.added.contains(path),
                None => self.live.is_first,
            };
            listing.look(Instant::now(), &shown, is_added);
            let settles = |state: &Evidence| matches!(state, Evidence::Settling { .. });
            if moved || evidence.values().any(settles) {
                quiet_since = Instant::now();
            }
            let open: Vec<&String> = evidence
                .iter()
                .filter(|(path, state)| **state != Evidence::Seen && probe.as_ref() != Some(*path))
                .map(|(path, _)| path)
                .collect();
            let nothing_of_them = open
                .iter()
                .all(|path| !shown.get(*path).is_some_and(Shown::is_there));
            let is_silence = nothing_of_them && listing.done && quiet_since.elapsed() > SILENCE;
            let is_gone = still_there(change.as_ref(), &shown).is_empty();
            if is_gone && (open.is_empty() || is_silence) {
                break (shown, false);
            }
            if Instant::now() > end {
                break (shown, true);
            }
            tokio::time::sleep(Duration::from_millis(500)).await;
        };
        if let Some(probe) = &probe {
            evidence.remove(probe);
        }
        let differing = self.compare_sources(&candidates, &evidence, &shown).await?;
        Ok(self.conclude(&Findings {
            change: change.as_ref(),
            touched: blame.map(|blame| affected(&candidates, Some(&blame), &shown)),
            files: candidates.len() as u64,
            first: first.unwrap_or_default(),
            shown,
            evidence,
            differing,
            timed_out,
            listing,
        }))
    }

    /// Whether there was nothing of a file that Airflow could have parsed before.
    fn is_seen_once(&self, change: Option<&TreeDiff>, path: &String) -> bool {
        let Some(change) = change else {
            return self.live.is_first;
        };
        // Next to other changes it may have taken a DAG over from them, and
        // Airflow may hold back the write.
        change.added.contains(path) && change.changed.is_empty() && change.removed.is_empty()
    }

    /// A file that nothing happened to, to ask for: that has Airflow 3 look for
    /// files that came or went now, and its parse shows that it did.
    fn probe(
        &self,
        candidates: &BTreeMap<String, String>,
        change: Option<&TreeDiff>,
        evidence: &BTreeMap<String, Evidence>,
        shown: &BTreeMap<String, Shown>,
    ) -> Option<String> {
        let can_be_asked = |path: &String| shown.get(path).is_some_and(|file| file.token.is_some());
        let has_to_look = evidence.keys().any(|path| !shown.contains_key(path))
            || !still_there(change, shown).is_empty();
        let needs_one = has_to_look
            && !evidence.keys().any(can_be_asked)
            && self.rest.lists_when_asked_to_parse();
        let mut known = candidates.keys().filter(|path| {
            shown
                .get(*path)
                .is_some_and(|file| file.token.is_some() && !file.dags.is_empty())
        });
        needs_one.then(|| known.next().cloned())?
    }

    /// The files of this version that Airflow takes for DAG files, by its own
    /// rule of thumb, with their content.
    fn dag_files(&self) -> Result<BTreeMap<String, String>, PassError> {
        let dir = self.disk.bundle(self.bundle)?;
        let root = dir.version_path(&self.version);
        let tables = dir.tables(&self.version)?.unwrap_or_default();
        let python = tables
            .iter()
            .flat_map(|table| &table.entries)
            .filter(|entry| {
                std::path::Path::new(&entry.path)
                    .extension()
                    .is_some_and(|end| end == "py")
            });
        let mut found = BTreeMap::new();
        for entry in python {
            let Ok(text) = std::fs::read_to_string(root.join(&entry.path)) else {
                continue;
            };
            let lower = text.to_lowercase();
            if lower.contains("dag") && lower.contains("airflow") {
                found.insert(entry.path.clone(), text);
            }
        }
        Ok(found)
    }

    async fn look(
        &self,
        candidates: &BTreeMap<String, String>,
        change: Option<&TreeDiff>,
    ) -> Result<BTreeMap<String, Shown>, AirflowRestError> {
        let removed = change
            .map(|change| change.removed.as_slice())
            .unwrap_or_default();
        let paths: HashSet<&str> = candidates
            .keys()
            .chain(removed)
            .map(String::as_str)
            .collect();
        let path_of = |row: &Value, name: &str| -> Option<String> {
            let given = row["relative_fileloc"]
                .as_str()
                .or_else(|| row[name].as_str())?;
            // The longest first: `a/b.py` also ends in `b.py`.
            let path = endings(given).find(|end| paths.contains(end))?;
            let whole = row[name].as_str().unwrap_or_default();
            let is_others = is_in(&self.other_folders, whole, path);
            (!is_others).then(|| path.to_owned())
        };
        // What Airflow calls the bundles that other folders are.
        let mut foreign: BTreeSet<String> = BTreeSet::new();
        let mut shown: BTreeMap<String, Shown> = BTreeMap::new();
        for dag in self.rest.all_dags().await? {
            let Some(path) = path_of(&dag, "fileloc") else {
                foreign.extend(dag["bundle_name"].as_str().map(str::to_owned));
                continue;
            };
            let file = shown.entry(path).or_default();
            // A retired DAG still says how to ask for its file.
            let retired = dag["is_stale"] == true || dag["is_active"] == false;
            if !retired {
                file.dags.extend(dag["dag_id"].as_str().map(str::to_owned));
            }
            file.token = dag["file_token"].as_str().map(str::to_owned);
            let parsed = dag["last_parsed_time"].as_str().map(str::to_owned);
            file.parsed = file.parsed.take().max(parsed);
        }
        for error in self.rest.list("importErrors", "import_errors").await? {
            let Some(path) = path_of(&error, "filename") else {
                continue;
            };
            if (error["bundle_name"].as_str()).is_some_and(|name| foreign.contains(name)) {
                continue;
            }
            let file = shown.entry(path).or_default();
            file.parsed = file
                .parsed
                .take()
                .max(error["timestamp"].as_str().map(str::to_owned));
            let text = error["stack_trace"]
                .as_str()
                .or_else(|| error["stacktrace"].as_str());
            file.error = Some(text.unwrap_or_default().to_owned());
        }
        Ok(shown)
    }

    /// Files whose source in Airflow is not the one on disk.
    async fn compare_sources(
        &self,
        on_disk: &BTreeMap<String, String>,
        evidence: &BTreeMap<String, Evidence>,
        shown: &BTreeMap<String, Shown>,
    ) -> Result<Vec<String>, PassError> {
        const MOST: usize = 200;
        let mut differing = Vec::new();
        for path in evidence
            .iter()
            .filter(|(_, state)| **state == Evidence::Seen)
            .map(|(path, _)| path)
            .take(MOST)
        {
            let (Some(content), Some(file)) = (on_disk.get(path), shown.get(path)) else {
                continue;
            };
            let (Some(dag), None) = (file.dags.first(), &file.error) else {
                continue;
            };
            let source = self
                .rest
                .source(dag, file.token.as_deref())
                .await
                .map_err(PassError::retry)?;
            if source.trim() != content.trim() {
                differing.push(path.clone());
            }
        }
        Ok(differing)
    }

    fn conclude(&self, found: &Findings<'_>) -> Proof {
        let touched = |path: &String| {
            found
                .change
                .is_none_or(|change| change.changed.contains(path) || change.added.contains(path))
        };
        let seen = |state: &Evidence| *state == Evidence::Seen;
        let judged = self.live.judged.as_ref();
        let before = judged.map(|judged| judged.errors_of(self.bundle));
        let before = before.unwrap_or_default();
        let import_errors: Vec<ImportError> = found
            .shown
            .iter()
            .filter_map(|(path, file)| {
                Some(ImportError {
                    file: path.clone(),
                    traceback: file.error.clone()?,
                    new: found.evidence.get(path).is_some_and(seen)
                        && (found.touched.as_ref()).is_none_or(|touched| {
                            touched.contains(path) || !before.contains(path.as_str())
                        }),
                })
            })
            .collect();
        let ids = |shown: &BTreeMap<String, Shown>| -> BTreeSet<String> {
            shown
                .values()
                .flat_map(|file| file.dags.iter().cloned())
                .collect()
        };
        let (old, new) = (ids(&found.first), ids(&found.shown));
        let (unseen, silent) = (found.unseen(), found.silent());
        let parsed = found.evidence.values().filter(|state| seen(state)).count() as u64;
        let changed = found
            .evidence
            .keys()
            .filter(|path| touched(path))
            .filter_map(|path| found.shown.get(path))
            .flat_map(|file| file.dags.iter().filter(|dag| old.contains(*dag)).cloned())
            .collect();
        let broken = import_errors.iter().filter(|error| error.new).count();
        let (outcome, reason) = if broken > 0 {
            (
                ProofOutcome::ImportErrors,
                format!("{broken} file(s) cannot be imported"),
            )
        } else if !unseen.is_empty() {
            (
                ProofOutcome::TimedOut,
                "Airflow was not seen to take in every file".to_owned(),
            )
        } else {
            (
                ProofOutcome::Proven,
                format!("Airflow has parsed the files of {}", self.version),
            )
        };
        let affected = found.evidence.len() as u64;
        let mut not_seen = prove::some_of(&unseen);
        if found.timed_out && !silent.is_empty() && !found.listing.done {
            let every = found.listing.every.as_secs();
            let _ = write!(
                not_seen,
                "; Airflow was not seen to look for new files since the switch, which it does every {every} s"
            );
        }
        Proof {
            outcome,
            reason,
            parsed,
            affected,
            files: found.files,
            dags: DagChanges {
                added: new.difference(&old).cloned().collect(),
                changed,
                removed: old.difference(&new).cloned().collect(),
                total: new.len() as u64,
            },
            import_errors,
            silent,
            seen: format!("{parsed} of {affected} affected file(s) parsed after the switch"),
            not_seen,
            timings_ms: ProofTimings::default(),
        }
    }
}

struct Findings<'a> {
    change: Option<&'a TreeDiff>,
    /// The files that this deploy answers for; none when for all.
    touched: Option<BTreeSet<String>>,
    files: u64,
    first: BTreeMap<String, Shown>,
    shown: BTreeMap<String, Shown>,
    evidence: BTreeMap<String, Evidence>,
    differing: Vec<String>,
    timed_out: bool,
    listing: Listing,
}

impl Findings<'_> {
    fn is_there(&self, path: &str) -> bool {
        self.shown.get(path).is_some_and(Shown::is_there)
    }

    /// What has not been shown as it is on disk.
    fn unseen(&self) -> Vec<String> {
        let open = self.evidence.iter().filter(|(path, state)| {
            **state != Evidence::Seen && (self.timed_out || self.is_there(path))
        });
        let removed = still_there(self.change, &self.shown);
        open.map(|(path, _)| path.clone())
            .chain(self.differing.iter().cloned())
            .chain(removed.into_iter().map(|path| format!("{path} (removed)")))
            .collect()
    }

    /// Files of which nothing was shown.
    fn silent(&self) -> Vec<String> {
        let silent = self
            .evidence
            .iter()
            .filter(|(path, state)| **state != Evidence::Seen && !self.is_there(path));
        silent.map(|(path, _)| path.clone()).collect()
    }
}

/// Whether Airflow has listed its DAG folder since the switch. Until it has, a
/// file of which it shows nothing may just not have been found yet.
struct Listing {
    begun: Instant,
    /// How often it does so by itself.
    every: Duration,
    /// The latest parse at the time when it must have become due.
    due: Option<String>,
    done: bool,
}

impl Listing {
    fn new(begun: Instant, every: Duration) -> Self {
        Self {
            begun,
            every,
            due: None,
            done: false,
        }
    }

    /// It has when it shows a file that was not there before, or when its
    /// interval is over and it is seen at work after that.
    fn look(
        &mut self,
        clock: Instant,
        shown: &BTreeMap<String, Shown>,
        is_added: impl Fn(&String) -> bool,
    ) {
        let found = |(path, file): (&String, &Shown)| is_added(path) && file.is_there();
        self.done |= shown.iter().any(found);
        if clock < self.begun + self.every {
            return;
        }
        let latest = shown.values().filter_map(|file| file.parsed.clone()).max();
        let latest = latest.unwrap_or_default();
        match &self.due {
            None => self.due = Some(latest),
            Some(due) => self.done |= latest > *due,
        }
    }
}

/// Removed files of which Airflow still shows DAGs or an error.
fn still_there<'a>(
    change: Option<&'a TreeDiff>,
    shown: &BTreeMap<String, Shown>,
) -> Vec<&'a String> {
    let removed = change.map_or(&[][..], |change| &change.removed);
    removed
        .iter()
        .filter(|path| shown.get(*path).is_some_and(Shown::is_there))
        .collect()
}

/// A path, and what is left of it without its first folder, the first two, and so on.
fn endings(path: &str) -> impl Iterator<Item = &str> {
    let folders = path.match_indices('/').map(|(at, _)| &path[at + 1..]);
    std::iter::once(path).chain(folders)
}

/// Whether the folder in which a path was found is one of these.
fn is_in(folders: &BTreeSet<String>, whole: &str, path: &str) -> bool {
    whole
        .strip_suffix(path)
        .and_then(|root| root.trim_end_matches('/').rsplit('/').next())
        .is_some_and(|folder| folders.contains(folder))
}

/// The DAG files that a change can reach: those that changed, when nothing else
/// did; else all, because a helper can be imported by any.
fn affected(
    candidates: &BTreeMap<String, String>,
    change: Option<&TreeDiff>,
    shown: &BTreeMap<String, Shown>,
) -> BTreeSet<String> {
    let all = || candidates.keys().cloned().collect();
    let Some(change) = change else { return all() };
    let is_dag_file = |path: &&String| {
        candidates.contains_key(*path) || shown.get(*path).is_some_and(Shown::is_there)
    };
    let paths: Vec<&String> = change
        .changed
        .iter()
        .chain(&change.added)
        .chain(&change.removed)
        .collect();
    if !paths.iter().all(is_dag_file) {
        return all();
    }
    paths
        .into_iter()
        .filter(|path| candidates.contains_key(*path))
        .cloned()
        .collect()
}

/// What follows from a look at one file.
fn next(
    state: &Evidence,
    now: &Shown,
    is_new: bool,
    clock: Instant,
    interval: Duration,
) -> Evidence {
    let is_shown = now.is_there();
    match state {
        _ if is_new && is_shown => Evidence::Seen,
        Evidence::None => Evidence::Asked {
            parsed: now.parsed.clone(),
        },
        // An error that went away without a DAG in its place: it was parsed, and
        // is a file that makes none.
        Evidence::Asked { parsed: Some(_) } | Evidence::AskedAgain { parsed: Some(_) }
            if !is_shown =>
        {
            Evidence::Seen
        }
        Evidence::Asked { parsed } if *parsed != now.parsed => Evidence::Settling {
            until: clock + interval,
        },
        Evidence::Settling { until } if clock >= *until => Evidence::AskedAgain {
            parsed: now.parsed.clone(),
        },
        Evidence::AskedAgain { parsed } if *parsed != now.parsed => Evidence::Seen,
        Evidence::Asked { .. }
        | Evidence::Settling { .. }
        | Evidence::AskedAgain { .. }
        | Evidence::Seen => state.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed_at(time: &str) -> Shown {
        Shown {
            dags: vec!["d".into()],
            parsed: Some(time.into()),
            ..Shown::default()
        }
    }

    #[test]
    fn one_parse_after_the_switch_is_no_evidence_nor_are_two_close_together() {
        let begin = Instant::now();
        let interval = Duration::from_secs(30);
        let mut state = Evidence::None;
        let looks = [
            (0, "1", false),
            (1, "1", false),
            (2, "2", false),
            // Within the interval of a write that may have been the old one.
            (5, "3", false),
            (33, "3", false),
            (34, "3", false),
            (35, "4", true),
        ];
        for (second, time, is_seen) in looks {
            let clock = begin + Duration::from_secs(second);
            state = next(&state, &parsed_at(time), false, clock, interval);
            assert_eq!(state == Evidence::Seen, is_seen, "{time}: {state:?}");
        }
        let new = next(&Evidence::None, &parsed_at("1"), true, begin, interval);
        assert_eq!(new, Evidence::Seen);
    }

    #[test]
    fn silence_counts_once_airflow_is_known_to_have_looked() {
        let begin = Instant::now();
        let at = |second| begin + Duration::from_secs(second);
        let new = || Listing::new(begin, Duration::from_secs(60));
        let shows = |path: &str, time: &str| BTreeMap::from([(path.to_owned(), parsed_at(time))]);
        let is_added = |path: &String| path == "new.py";

        let mut found = new();
        found.look(at(5), &shows("new.py", "1"), is_added);
        assert!(found.done);

        let mut at_work = new();
        for (second, time, done) in [(30, "2", false), (61, "2", false), (70, "3", true)] {
            at_work.look(at(second), &shows("old.py", time), is_added);
            assert_eq!(at_work.done, done, "{second}");
        }

        let mut dead = new();
        for second in [30, 61, 600] {
            dead.look(at(second), &shows("old.py", "1"), is_added);
        }
        assert!(!dead.done);
    }

    #[test]
    fn what_another_bundle_has_under_the_same_name_is_told_apart() {
        let others = BTreeSet::from(["dbt".to_owned()]);
        assert!(is_in(&others, "/airflow/dbt/a/b.py", "a/b.py"));
        assert!(!is_in(&others, "/airflow/dags/a/b.py", "a/b.py"));
        assert!(!is_in(&others, "a/b.py", "a/b.py"));
    }

    #[test]
    fn a_path_is_found_by_its_longest_ending() {
        let found: Vec<&str> = endings("/airflow/dags/a/b.py").collect();
        assert_eq!(
            found,
            [
                "/airflow/dags/a/b.py",
                "airflow/dags/a/b.py",
                "dags/a/b.py",
                "a/b.py",
                "b.py"
            ]
        );
    }

    #[test]
    fn a_removed_file_is_there_until_airflow_shows_nothing_of_it() {
        let change = TreeDiff {
            removed: vec!["gone.py".to_owned(), "helper.py".to_owned()],
            ..TreeDiff::default()
        };
        let mut shown = BTreeMap::from([("gone.py".to_owned(), parsed_at("1"))]);
        assert_eq!(still_there(Some(&change), &shown), ["gone.py"]);
        shown.insert("gone.py".to_owned(), Shown::default());
        assert!(still_there(Some(&change), &shown).is_empty());
    }

    #[test]
    fn a_changed_helper_reaches_every_dag_file() {
        let candidates: BTreeMap<String, String> = [("a.py", ""), ("b.py", "")]
            .map(|(path, text)| (path.to_owned(), text.to_owned()))
            .into();
        let change = |path: &str| TreeDiff {
            changed: vec![path.to_owned()],
            ..TreeDiff::default()
        };
        let shown = BTreeMap::new();
        assert_eq!(
            affected(&candidates, Some(&change("a.py")), &shown).len(),
            1
        );
        assert_eq!(
            affected(&candidates, Some(&change("helper.py")), &shown).len(),
            2
        );
        assert_eq!(affected(&candidates, None, &shown).len(), 2);
    }
}
