//! Gets a Release's bundles onto the disk and makes them live, whoever runs
//! Airflow.

use std::sync::Arc;
use std::time::{Duration, Instant};

use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::sync::watch;
use updraft_api::agent::{Problem, ProofReport, Target, Wanted};
use updraft_bundle::{How, Verify, VersionError};
use updraft_model::{BundleName, Digest, Proof, ProofOutcome, Release, ReleaseId};

use crate::collect::Collect;
use crate::control::{ControlPlane, explain};
use crate::disk::{Disk, Live};
use crate::environment::{self, EnvironmentError};
use crate::failpoint::failpoint;
use crate::fetch::{self, FetchError, blocking};
use crate::files;
use crate::observed::Board;
use crate::prove::KeptProof;
use crate::runtime::record::Record;
use crate::socket::Asked;
use crate::worker::Worker;

/// A failed pass says what the loop should do.
#[derive(Debug)]
pub(crate) enum PassError {
    /// It may go better next time.
    Retry(String),
    /// There is no room; the next pass looks again.
    DiskFull(String),
    /// Somebody has to act first.
    Stalled(String),
    /// Something newer is wanted; this pass is not needed any more.
    Overtaken,
}

impl PassError {
    pub(crate) fn retry(error: impl std::error::Error) -> Self {
        Self::Retry(explain(&error))
    }
}

impl From<std::io::Error> for PassError {
    fn from(error: std::io::Error) -> Self {
        if files::is_full(&error) {
            return Self::DiskFull(format!("the disk is full: {error}; {ROOM}"));
        }
        Self::retry(error)
    }
}

const ROOM: &str = "free some space or keep fewer versions; the live version is untouched";

impl From<VersionError> for PassError {
    fn from(error: VersionError) -> Self {
        let text = format!("{}; {}", explain(&error), error.help());
        match error {
            VersionError::Layer(_)
            | VersionError::Bundle(_)
            | VersionError::Live(_)
            | VersionError::ForeignCurrent(_) => Self::Stalled(text),
            VersionError::DiskFull { .. } => Self::DiskFull(text),
            // A control plane that is away: the next pass looks again.
            _ => Self::Retry(text),
        }
    }
}

impl From<FetchError> for PassError {
    fn from(error: FetchError) -> Self {
        match error {
            FetchError::Version(error) => error.into(),
            FetchError::Manifest { .. } => Self::Stalled(explain(&error)),
            FetchError::Keep(error) => error.into(),
            FetchError::Client(_) | FetchError::NotSent(_) | FetchError::Interrupted => {
                Self::Retry(explain(&error))
            }
        }
    }
}

impl From<EnvironmentError> for PassError {
    fn from(error: EnvironmentError) -> Self {
        match error {
            EnvironmentError::Fetch(error) => error.into(),
            EnvironmentError::Retry(text) => Self::Retry(text),
            EnvironmentError::DiskFull(text) => Self::DiskFull(text),
            EnvironmentError::Stalled(text) => Self::Stalled(text),
        }
    }
}

/// Makes passes towards what is wanted, whoever runs Airflow.
pub(crate) trait Passes: Send {
    fn deliver(&mut self) -> &mut Deliver;

    /// Runs one pass. Safe to interrupt at any line, and to repeat.
    fn pass(&mut self, wanted: &Arc<Wanted>) -> impl Future<Output = Result<(), PassError>> + Send;

    /// Removes what nothing holds, whether it is due or not.
    fn clean_up(&mut self, live: &Live, wanted: &Arc<Wanted>) -> impl Future<Output = ()> + Send;
}

/// Works until the agent ends.
pub(crate) async fn keep_passing(mut work: impl Passes) {
    let mut backoff = Duration::ZERO;
    loop {
        let wanted = work.deliver().wanted.borrow_and_update().clone();
        let ended = match &wanted {
            Some(wanted) => match work.deliver().begin_pass(wanted) {
                Ok(()) => work.pass(wanted).await,
                refused => refused,
            },
            None => Ok(()),
        };
        if let (Err(PassError::DiskFull(_)), Some(wanted)) = (&ended, &wanted)
            && let Ok(Some(live)) = work.deliver().disk.live()
        {
            work.clean_up(&live, wanted).await;
        }
        let Some(pause) = work.deliver().after(ended, &mut backoff) else {
            continue;
        };
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            changed = work.deliver().wanted.changed() => if changed.is_err() {
                return;
            },
        }
    }
}

pub(crate) type WantedReceiver = watch::Receiver<Option<Arc<Wanted>>>;

pub(crate) struct Deliver {
    pub(crate) disk: Disk,
    pub(crate) control: ControlPlane,
    pub(crate) board: Board,
    pub(crate) wanted: WantedReceiver,
    /// Held by whoever writes versions.
    pub(crate) writing: Arc<tokio::sync::Mutex<()>>,
    /// The Release whose bundles are known to be on disk.
    staged: Option<Release>,
    /// Live versions were looked at closely since the start.
    verified: bool,
    /// What was repaired, to be said for a while.
    repaired: Option<(String, Instant)>,
    spare_of: tokio::sync::Mutex<Option<ReleaseId>>,
}

impl Deliver {
    pub(crate) fn new(
        disk: Disk,
        control: ControlPlane,
        board: Board,
        wanted: WantedReceiver,
        writing: Arc<tokio::sync::Mutex<()>>,
    ) -> Self {
        Self {
            disk,
            control,
            board,
            wanted,
            writing,
            staged: None,
            verified: false,
            repaired: None,
            spare_of: tokio::sync::Mutex::default(),
        }
    }

    /// Takes note of what a pass works towards. What was said of an earlier
    /// generation must not be taken for an answer to this one.
    pub(crate) fn begin_pass(&self, wanted: &Wanted) -> Result<(), PassError> {
        self.board.change(|observed| {
            if observed.generation != wanted.generation {
                observed.generation = wanted.generation;
                observed.activity = None;
                observed.problem = None;
            }
        });
        let folder = wanted.deployment.to_string();
        if self.disk.root().ends_with(&folder) {
            return Ok(());
        }
        Err(PassError::Stalled(
            "the agent's token is now for another Deployment; stop this agent together with its Airflow, and start it in a folder of its own".into(),
        ))
    }

    /// What is live, once it is known to be what it should be.
    pub(crate) async fn live(&mut self) -> Result<Option<Live>, PassError> {
        let live = self.disk.live()?;
        if !self.verified {
            self.begin(live.as_ref()).await?;
            self.verified = true;
        }
        self.board.change(|observed| {
            observed.serving = live.as_ref().map(|live| live.release.clone());
            observed.switched_at = live.as_ref().map(|live| live.switched_at);
            observed.proof = live.as_ref().and_then(|live| self.kept_proof(live));
        });
        Ok(live)
    }

    /// What has to be seen to once, when an agent starts.
    async fn begin(&mut self, live: Option<&Live>) -> Result<(), PassError> {
        let mut dirs = vec![environment::project_dir(&self.disk)?];
        for name in self.disk.bundles()? {
            dirs.push(self.disk.bundle(&name)?);
        }
        // Airflow may be asking for a version by the socket already.
        let writing = fetch::may_write(&self.writing).await;
        blocking(move || {
            let _writing = writing;
            dirs.iter()
                .try_for_each(|dir| dir.clean_leftovers().map(drop))
        })
        .await??;
        let Some(live) = live else { return Ok(()) };
        // Somebody may have written to the live tree while no agent looked.
        for (name, bundle) in &live.release.bundles {
            let client = self.control.client();
            let writing = fetch::may_write(&self.writing).await;
            let disk = &self.disk;
            let found = fetch::materialize(
                &writing,
                disk,
                &client,
                name,
                bundle.digest,
                None,
                Verify::Full,
            )
            .await?;
            if found.how != How::Reused {
                let text = format!(
                    "version {} of bundle `{name}` was not as it was written; it was fetched again and replaced",
                    bundle.digest.short()
                );
                tracing::warn!("{text}");
                self.repaired = Some((text, Instant::now()));
            }
        }
        if self.disk.mend_links(live)? {
            tracing::warn!(
                "links of the live Release were not as they were made; they were made again"
            );
        }
        self.disk.follow_live(live);
        Ok(())
    }

    /// Makes the wanted bundles present and verified, all of them.
    pub(crate) async fn stage(
        &mut self,
        live: Option<&Live>,
        target: &Target,
    ) -> Result<(), PassError> {
        // Looked at again right before the switch: that may be long after.
        let switches =
            target.may_switch && live.is_none_or(|live| live.release.id != target.release.id);
        if !switches
            && self.staged.as_ref() == Some(&target.release)
            && self.is_here(&target.release)?
        {
            return Ok(());
        }
        let previous = live.map(|live| &live.release.bundles);
        for (name, bundle) in &target.release.bundles {
            let previous = previous.and_then(|bundles| Some(bundles.get(name)?.digest));
            let writing = fetch::may_write(&self.writing).await;
            self.board.busy(format!(
                "fetching version {} of bundle `{name}`",
                bundle.digest.short()
            ));
            let (disk, client) = (&self.disk, self.control.client());
            let mut newer = self.wanted.clone();
            tokio::select! {
                biased;
                // What was fetched stays, so that nothing is fetched twice.
                () = overtaken(&mut newer, target) => return Err(PassError::Overtaken),
                made = fetch::materialize(
                    &writing, disk, &client, name, bundle.digest, previous, Verify::Quick,
                ) => {
                    if made?.how == How::FromSpare {
                        *self.spare_of.lock().await = None;
                    }
                }
            };
        }
        self.staged = Some(target.release.clone());
        Ok(())
    }

    /// Whether each version of a Release is on disk, at a glance.
    fn is_here(&self, release: &Release) -> Result<bool, PassError> {
        for (name, bundle) in &release.bundles {
            if !self
                .disk
                .bundle(name)?
                .version_path(&bundle.digest)
                .is_dir()
            {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Says that all of a Release is here.
    pub(crate) fn is_staged(&self, target: &Target) {
        failpoint("agent.staged");
        self.board
            .change(|observed| observed.staged = Some(target.release.clone()));
    }

    pub(crate) async fn switch(&self, live: &Live) -> Result<(), PassError> {
        let (disk, next) = (self.disk.clone(), live.clone());
        let releases = disk.root().join("releases");
        blocking(move || disk.switch(&next))
            .await?
            .map_err(files::while_doing("make a Release live in", &releases))?;
        self.board.change(|observed| {
            observed.serving = Some(live.release.clone());
            observed.switched_at = Some(live.switched_at);
            observed.proof = None;
        });
        Ok(())
    }

    /// Keeps copies of the live versions ready, for the next ones to start from.
    pub(crate) async fn prepare_spares(&self, live: &Live) {
        let mut spare_of = self.spare_of.lock().await;
        if *spare_of == Some(live.release.id) {
            return;
        }
        for (name, bundle) in &live.release.bundles {
            if self.wanted.has_changed().unwrap_or(false) {
                return;
            }
            if let Err(error) = self.prepare_spare(name, bundle.digest).await {
                tracing::warn!(?error, "could not prepare a spare of the live version");
            }
        }
        *spare_of = Some(live.release.id);
    }

    async fn prepare_spare(&self, name: &BundleName, version: Digest) -> Result<(), PassError> {
        let dir = self.disk.bundle(name)?;
        let writing = fetch::may_write(&self.writing).await;
        let prepared = blocking(move || {
            let _writing = writing;
            dir.prepare_spare(&version)
        });
        prepared.await??;
        Ok(())
    }

    /// Removes what nothing holds any more, until something newer is wanted.
    pub(crate) async fn collect(
        &self,
        worker: Option<&Worker>,
        wanted: &Wanted,
        live: &Live,
        asked: &Asked,
        records: Vec<Record>,
    ) {
        let collect = Collect {
            disk: &self.disk,
            worker,
            wanted,
            live,
            asked,
            records,
            newer: self.wanted.clone(),
        };
        let mut newer = self.wanted.clone();
        let collected = async {
            let writing = fetch::may_write(&self.writing).await;
            collect.run(&writing).await
        };
        let collected = tokio::select! {
            collected = collected => collected,
            _ = newer.changed() => Ok(()),
        };
        if let Err(error) = collected {
            tracing::warn!(%error, "could not clean up");
        }
    }

    /// The wanted Release as it follows the live one.
    pub(crate) fn next(&self, live: Option<&Live>, target: &Target) -> Live {
        let kept = live.and_then(|live| self.kept_proof(live));
        let proof = kept.as_ref().map(|kept| &kept.proof);
        Live::next(live, proof, target.release.clone(), target.deploy)
    }

    /// The proof of what is live, when there is one from before a restart.
    pub(crate) fn kept_proof(&self, live: &Live) -> Option<ProofReport> {
        let kept: KeptProof = files::read_json(&self.disk.proof()).ok().flatten()?;
        let same = kept.report.release == live.release.id && kept.switched_at == live.switched_at;
        same.then_some(kept.report)
    }

    /// Whether what is live was asked about in this attempt. Attempts are told
    /// apart, not ordered: a control plane that came back from a backup counts
    /// from where it was.
    pub(crate) fn is_settled(&self, live: &Live, target: &Target) -> bool {
        self.kept_proof(live).is_some_and(|kept| {
            kept.attempt == target.attempt && kept.proof.outcome != ProofOutcome::TimedOut
        })
    }

    /// Whether this attempt has an answer, of whatever kind.
    pub(crate) fn is_answered(&self, live: &Live, target: &Target) -> bool {
        self.kept_proof(live)
            .is_some_and(|kept| kept.attempt == target.attempt)
    }

    /// Runs a proof until it ends or something newer is wanted, and keeps and
    /// shows what came of it. A proof waits for Airflow most of its time, so what
    /// the next deploy will start from is made ready meanwhile.
    pub(crate) async fn settle(
        &self,
        live: &Live,
        target: &Target,
        proof: impl Future<Output = Result<Proof, PassError>>,
    ) -> Result<(), PassError> {
        failpoint("agent.prove.start");
        self.board
            .busy("waiting for Airflow to take in the new files");
        let mut newer = self.wanted.clone();
        let answered = async {
            tokio::select! {
                biased;
                // A newer Release makes this proof worthless; dropping it cancels it.
                () = overtaken(&mut newer, target) => Err(PassError::Overtaken),
                proof = proof => proof,
            }
        };
        let spares = async {
            self.prepare_spares(live).await;
            std::future::pending().await
        };
        // The answer does not wait for them; what is left is done after it.
        let proof = tokio::select! {
            biased;
            proof = answered => proof?,
            unending = spares => unending,
        };
        failpoint("agent.prove.before_keep");
        let report = ProofReport {
            release: live.release.id,
            attempt: target.attempt,
            switched_at: live.switched_at,
            proof,
        };
        let kept = KeptProof {
            report: report.clone(),
            switched_at: live.switched_at,
        };
        files::write_json(&self.disk.proof(), &kept, 0o600)?;
        let outcome = report.proof.outcome;
        tracing::info!(?outcome, reason = report.proof.reason, "proof");
        self.board.change(|observed| {
            if outcome != ProofOutcome::TimedOut {
                observed.dags = Some(report.proof.dags.total);
                observed
                    .import_errors
                    .clone_from(&report.proof.import_errors);
            }
            observed.proof = Some(report);
            observed.activity = None;
        });
        failpoint("agent.prove.end");
        match outcome {
            ProofOutcome::Proven | ProofOutcome::ImportErrors => Ok(()),
            // Still wanted: evidence that comes later counts.
            ProofOutcome::TimedOut => Err(PassError::Retry(
                "Airflow did not show the new content in time; asking again".into(),
            )),
        }
    }

    /// Shows how a pass ended, and says how long to wait for the next.
    pub(crate) fn after(
        &mut self,
        ended: Result<(), PassError>,
        backoff: &mut Duration,
    ) -> Option<Duration> {
        const FIRST: Duration = Duration::from_millis(500);
        let (problem, pause) = match ended {
            Ok(()) => {
                *backoff = FIRST;
                (None, IDLE)
            }
            // Usually something newer is wanted; if not, there is no hurry.
            Err(PassError::Overtaken) if self.wanted.has_changed().unwrap_or(true) => return None,
            Err(PassError::Overtaken) => (None, FIRST),
            Err(PassError::Retry(message) | PassError::DiskFull(message)) => {
                *backoff = (*backoff * 2).clamp(FIRST, Duration::from_secs(30));
                (Some((message, false)), *backoff)
            }
            Err(PassError::Stalled(message)) => (Some((message, true)), Duration::from_secs(60)),
        };
        let repaired = self.repaired.as_ref().filter(|(_, at)| at.elapsed() < SAID);
        let problem = match (repaired, problem) {
            (Some((repaired, _)), Some((message, stalled))) => {
                Some((format!("{message}\n{repaired}"), stalled))
            }
            (Some((repaired, _)), None) => Some((repaired.clone(), false)),
            (None, problem) => problem,
        };
        let problem = problem.map(|(message, stalled)| Problem { message, stalled });
        if let Some(problem) = &problem {
            tracing::warn!(stalled = problem.stalled, "{}", problem.message);
        }
        self.board.change(|observed| {
            observed.activity = None;
            observed.problem = problem;
        });
        Some(pause)
    }

    pub(crate) fn read<T: DeserializeOwned>(&self, name: &str) -> Result<Option<T>, PassError> {
        Ok(files::read_json(&self.disk.root().join(name))?)
    }

    pub(crate) fn keep(&self, name: &str, value: &impl Serialize) -> Result<(), PassError> {
        Ok(files::write_json(
            &self.disk.root().join(name),
            value,
            0o600,
        )?)
    }
}

/// How often a pass is made without a reason.
const IDLE: Duration = Duration::from_secs(10);
/// How long a repair is reported.
const SAID: Duration = Duration::from_secs(600);

/// Resolves when another Release, or another attempt, is wanted.
async fn overtaken(wanted: &mut WantedReceiver, target: &Target) {
    let differs = |wanted: &Option<Arc<Wanted>>| {
        let newest = wanted.as_ref().and_then(|wanted| wanted.target.as_ref());
        newest.is_none_or(|newest| {
            newest.release.id != target.release.id || newest.attempt != target.attempt
        })
    };
    if wanted.wait_for(differs).await.is_err() {
        std::future::pending::<()>().await;
    }
}
