//! Makes one Airflow equal to what is wanted.
//!
//! A pass takes no input: it reads what is wanted, looks at the disk and at
//! Airflow, acts on the difference, and writes what it sees on the board, from
//! which reports are made. A wake-up only makes the next pass come sooner, so a
//! lost one costs one interval and a restart costs nothing. A pass can be cut
//! off at any line and repeated.
//!
//! ```text
//! keep Airflow up on what is live ─▶ stage ─▶ (all agents staged?) ─▶ switch
//!        ─▶ Airflow on the new environment, or go back ─▶ prove ─▶ tidy up
//! ```

use std::collections::HashMap;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::sync::{Notify, watch};
use tokio::time::Instant;
use updraft_api::agent::{
    AirflowView, ComponentState, Problem, ProofReport, Target, Wanted,
};
use updraft_bundle::{Verify, VersionError};
use updraft_model::{Digest, ImportError, Proof, ProofOutcome, Release, ReleaseId};

use crate::airflow::components::{self, Common, DAG_PROCESSOR};
use crate::airflow::rest::AirflowRest;
use crate::airflow::secrets::Secrets;
use crate::airflow::settings::{self, SettingsFor};
use crate::collect::Collect;
use crate::config::AgentConfig;
use crate::control::{ControlPlane, explain};
use crate::disk::{Disk, Live};
use crate::environment::{Environment, EnvironmentError, Environments};
use crate::failpoint::failpoint;
use crate::fetch::{self, FetchError, blocking};
use crate::files;
use crate::observed::Board;
use crate::prove::{self, KeptProof, ProveAsk, ProveError};
use crate::runtime::record::Record;
use crate::runtime::supervisor::{Launcher, Supervisor};
use crate::runtime::user::{self, Isolation, WantedUser};
use crate::socket::Asked;
use crate::worker::Worker;

/// How often a pass is made without a reason.
const IDLE: Duration = Duration::from_secs(10);
/// How often Airflow is asked about its DAGs without a reason.
const ASK_STATUS: Duration = Duration::from_secs(30);
const COLLECT: Duration = Duration::from_secs(120);
/// How long components may take to come up on a new environment before the old
/// one is taken back.
const COME_UP: Duration = Duration::from_secs(120);

/// A failed pass says what the loop should do.
#[derive(Debug)]
pub(crate) enum PassError {
    /// It may go better next time.
    Retry(String),
    /// Somebody has to act first.
    Stalled(String),
    /// Something newer is wanted; this pass is not needed any more.
    Overtaken,
}

impl PassError {
    fn retry(error: impl std::error::Error) -> Self {
        Self::Retry(explain(&error))
    }

    fn with_help(error: &VersionError) -> Self {
        let text = explain(error);
        let text = format!("{text}; {}", error.help());
        match error {
            VersionError::DiskFull { .. }
            | VersionError::Io { .. }
            | VersionError::Fetch { .. }
            | VersionError::Missing(_) => Self::Retry(text),
            VersionError::Layer(_)
            | VersionError::Bundle(_)
            | VersionError::Live(_)
            | VersionError::ForeignCurrent(_) => Self::Stalled(text),
        }
    }
}

impl From<std::io::Error> for PassError {
    fn from(error: std::io::Error) -> Self {
        Self::retry(error)
    }
}

impl From<VersionError> for PassError {
    fn from(error: VersionError) -> Self {
        Self::with_help(&error)
    }
}

impl From<FetchError> for PassError {
    fn from(error: FetchError) -> Self {
        match error {
            FetchError::Version(error) => Self::with_help(&error),
            FetchError::Manifest { .. } => Self::Stalled(explain(&error)),
            FetchError::Client(_)
            | FetchError::Keep(_)
            | FetchError::NotSent(_)
            | FetchError::Interrupted => Self::Retry(explain(&error)),
        }
    }
}

impl From<EnvironmentError> for PassError {
    fn from(error: EnvironmentError) -> Self {
        match error {
            EnvironmentError::Fetch(error) => error.into(),
            EnvironmentError::Retry(text) => Self::Retry(text),
            EnvironmentError::Stalled(text) => Self::Stalled(text),
        }
    }
}

/// A Release that was tried and taken back, so that it is not tried for ever.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Refused {
    release: ReleaseId,
    attempt: u32,
    message: String,
}

/// Settings that are decided when Airflow has to restart anyway.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Decided {
    image: Digest,
    files: u64,
}

pub(crate) struct Converge {
    pub(crate) config: Arc<AgentConfig>,
    pub(crate) control: ControlPlane,
    pub(crate) disk: Disk,
    pub(crate) board: Board,
    pub(crate) wanted: watch::Receiver<Option<Arc<Wanted>>>,
    pub(crate) environments: Environments,
    pub(crate) supervisor: Arc<Mutex<Supervisor>>,
    pub(crate) worker: Worker,
    pub(crate) launcher: Launcher,
    pub(crate) secrets: Secrets,
    pub(crate) user: WantedUser,
    pub(crate) asked: Asked,
    pub(crate) writing: Arc<tokio::sync::Mutex<()>>,
    /// Told when the agent is to stop; a pass ends at its next wait.
    pub(crate) wake: Arc<Notify>,
    pub(crate) memory: Memory,
}

/// What a pass remembers for the next; all of it can be found out again.
#[derive(Default)]
pub(crate) struct Memory {
    /// Live versions were looked at closely since the start.
    verified: bool,
    /// The wanted Release that is known to be on disk.
    staged: Option<Release>,
    ready: HashMap<Digest, Environment>,
    isolation: Option<(Digest, Isolation)>,
    status_at: Option<Instant>,
    collected_at: Option<Instant>,
    spare_of: Option<ReleaseId>,
    /// What was repaired, to be said once.
    repaired: Option<String>,
}

impl Converge {
    pub(crate) async fn run(mut self) {
        let mut backoff = Duration::from_millis(500);
        loop {
            let Some(wanted) = self.wanted.borrow_and_update().clone() else {
                if self.wanted.changed().await.is_err() {
                    return;
                }
                continue;
            };
            let pause = match self.converge(&wanted).await {
                Ok(()) => {
                    backoff = Duration::from_millis(500);
                    self.board.change(|observed| {
                        observed.activity = None;
                        observed.problem = self.memory.repaired.take().map(|message| Problem {
                            message,
                            stalled: false,
                        });
                    });
                    IDLE
                }
                Err(PassError::Overtaken) => continue,
                Err(PassError::Retry(message)) => {
                    self.fail(message, false);
                    backoff = (backoff * 2).min(Duration::from_secs(30));
                    backoff
                }
                Err(PassError::Stalled(message)) => {
                    self.fail(message, true);
                    Duration::from_secs(60)
                }
            };
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                () = self.wake.notified() => {}
                changed = self.wanted.changed() => if changed.is_err() {
                    return;
                },
            }
        }
    }

    fn fail(&self, message: String, stalled: bool) {
        tracing::warn!(stalled, "{message}");
        self.board.change(|observed| {
            observed.activity = None;
            observed.problem = Some(Problem { message, stalled });
        });
    }

    /// Runs one pass.
    async fn converge(&mut self, wanted: &Arc<Wanted>) -> Result<(), PassError> {
        let mut live = self.disk.live()?;
        if !self.memory.verified {
            self.begin(live.as_ref()).await?;
            self.memory.verified = true;
        }
        self.board.change(|observed| {
            observed.serving = live.as_ref().map(|live| live.release.clone());
            observed.switched_at = live.as_ref().map(|live| live.switched_at);
            observed.proof = live.as_ref().and_then(|live| self.kept_proof(live));
        });
        // First of all, and also when nothing new can be reached: what is live
        // keeps running.
        if let Some(live) = &live {
            self.keep_airflow(live, wanted).await?;
        }
        let Some(target) = &wanted.target else { return Ok(()) };
        if let Some(refused) = self.refused(target)? {
            return Err(PassError::Stalled(refused.message));
        }
        self.stage(live.as_ref(), target).await?;

        if live.as_ref().is_none_or(|live| live.release.id != target.release.id) {
            if !target.may_switch {
                // The next generation says when.
                return Ok(());
            }
            live = Some(self.switch(live, wanted, target).await?);
        }
        let Some(live) = live else { return Ok(()) };
        self.prove(&live, wanted, target).await?;
        self.tidy_up(&live, wanted).await
    }

    /// What has to be seen to once, when an agent starts.
    async fn begin(&mut self, live: Option<&Live>) -> Result<(), PassError> {
        for name in self.disk.bundles()? {
            let dir = self.disk.bundle(&name)?;
            blocking(move || dir.clean_leftovers()).await??;
        }
        let Some(live) = live else { return Ok(()) };
        self.disk.follow_live(live);
        // Somebody may have written to the live tree while no agent looked.
        for (name, bundle) in &live.release.bundles {
            let client = self.control.client();
            let _writing = self.writing.lock().await;
            let found =
                fetch::materialize(&self.disk, &client, name, bundle.digest, None, Verify::Full).await?;
            if found.how != updraft_bundle::How::Reused {
                let text = format!(
                    "version {} of bundle `{name}` was not as it was written; it was fetched again and replaced",
                    bundle.digest.short()
                );
                tracing::warn!("{text}");
                self.memory.repaired = Some(text);
            }
        }
        Ok(())
    }

    /// Makes the wanted Release present and verified, all of it.
    async fn stage(&mut self, live: Option<&Live>, target: &Target) -> Result<(), PassError> {
        if self.memory.staged.as_ref() != Some(&target.release) {
            let previous = live.map(|live| &live.release.bundles);
            for (name, bundle) in &target.release.bundles {
                let previous = previous.and_then(|bundles| Some(bundles.get(name)?.digest));
                let previous = previous.filter(|previous| *previous != bundle.digest);
                let _writing = self.writing.lock().await;
                self.board.busy(format!("fetching version {} of bundle `{name}`", bundle.digest.short()));
                fetch::materialize(
                    &self.disk,
                    &self.control.client(),
                    name,
                    bundle.digest,
                    previous,
                    Verify::Quick,
                )
                .await?;
            }
            self.environment(target.release.image.digest()).await?;
            self.memory.staged = Some(target.release.clone());
        }
        failpoint("agent.staged");
        self.board.change(|observed| observed.staged = Some(target.release.clone()));
        Ok(())
    }

    /// The environment of an image, made if it is not here.
    async fn environment(&mut self, image: Digest) -> Result<Environment, PassError> {
        if let Some(environment) = self.memory.ready.get(&image)
            && environment.python.exists()
        {
            return Ok(environment.clone());
        }
        let client = self.control.client();
        let user = self.user.that_reaches(self.disk.root());
        let environment =
            self.environments.realise(&self.disk, &client, image, user, &self.board).await?;
        failpoint("agent.environment.end");
        self.memory.ready.insert(image, environment.clone());
        Ok(environment)
    }

    /// Makes the wanted Release the live one. When it needs another environment
    /// and Airflow does not come up in it, the Release before is taken back.
    async fn switch(
        &mut self,
        before: Option<Live>,
        wanted: &Arc<Wanted>,
        target: &Target,
    ) -> Result<Live, PassError> {
        self.board.busy("switching");
        let next = Live::next(before.as_ref(), target.release.clone(), target.deploy);
        self.switch_disk(&next).await?;
        let Some(before) = before else {
            self.keep_airflow(&next, wanted).await?;
            return Ok(next);
        };
        if before.release.image == next.release.image {
            self.keep_airflow(&next, wanted).await?;
            return Ok(next);
        }
        let came_up = match self.keep_airflow(&next, wanted).await {
            Ok(()) => self.wait_until_up(COME_UP).await,
            Err(PassError::Retry(text) | PassError::Stalled(text)) => Err(text),
            Err(PassError::Overtaken) => return Err(PassError::Overtaken),
        };
        let Err(why) = came_up else { return Ok(next) };
        let message = format!(
            "Airflow did not come up in the new environment, so the Release before was taken back: {why}"
        );
        // Kept before going back: a kill in between must not try it again.
        let refused = Refused {
            release: target.release.id,
            attempt: target.attempt,
            message: message.clone(),
        };
        files::write_json(&self.disk.refused(), &refused, 0o600)?;
        let back = Live::next(Some(&next), before.release, before.deploy);
        self.switch_disk(&back).await?;
        self.keep_airflow(&back, wanted).await?;
        Err(PassError::Stalled(message))
    }

    async fn switch_disk(&self, live: &Live) -> Result<(), PassError> {
        let (disk, next) = (self.disk.clone(), live.clone());
        blocking(move || disk.switch(&next)).await??;
        self.board.change(|observed| {
            observed.serving = Some(live.release.clone());
            observed.switched_at = Some(live.switched_at);
            observed.proof = None;
        });
        Ok(())
    }

    fn refused(&self, target: &Target) -> Result<Option<Refused>, PassError> {
        let refused: Option<Refused> = files::read_json(&self.disk.refused())?;
        Ok(refused.filter(|refused| {
            refused.release == target.release.id && refused.attempt == target.attempt
        }))
    }

    /// Has Airflow run on a Release: starts what does not run, restarts what
    /// runs otherwise, leaves the rest alone.
    async fn keep_airflow(&mut self, live: &Live, wanted: &Arc<Wanted>) -> Result<(), PassError> {
        let environment = self.environment(live.release.image.digest()).await?;
        let isolation = self.isolation(&environment).await?;
        self.make_home(&isolation)?;
        let files = self.decided(live).await?.files;
        let variables = settings::variables(
            &SettingsFor {
                disk: &self.disk,
                environment: &environment,
                release: &live.release,
                wanted,
                secrets: &self.secrets,
                port: self.config.airflow_port,
                metadata_db_url: self.config.metadata_db_url.as_deref(),
                apart: isolation.user.is_some(),
                files,
                pass: &self.config.pass_environment,
            },
            std::env::vars(),
        );
        let common = Common {
            disk: &self.disk,
            environment: &environment,
            variables: &variables,
            user: isolation.user,
        };
        // Its imports take seconds, so they overlap with everything else.
        self.worker.want(common.worker());
        self.migrate(&common).await?;
        let specs = common.components();
        let first = !self.supervisor().views().iter().any(|view| view.pid.is_some());
        if first {
            self.board.busy(format!("starting Airflow {}", environment.airflow_version));
        }
        self.supervisor().want(specs);
        self.board.change(|observed| {
            observed.isolation.clone_from(&isolation.text);
            let components = self.supervisor().views();
            observed.airflow = Some(AirflowView {
                version: environment.airflow_version.clone(),
                python: environment.python_version.clone(),
                note: environment.note.clone(),
                url: Some(format!("http://127.0.0.1:{}", self.config.airflow_port)),
                components,
            });
        });
        Ok(())
    }

    fn supervisor(&self) -> std::sync::MutexGuard<'_, Supervisor> {
        self.supervisor.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn isolation(&mut self, environment: &Environment) -> Result<Isolation, PassError> {
        if let Some((digest, isolation)) = &self.memory.isolation
            && *digest == environment.digest
        {
            return Ok(isolation.clone());
        }
        let (user, root, environment_) = (self.user.clone(), self.disk.root().to_owned(), environment.clone());
        let isolation = blocking(move || {
            let readable: [&Path; 3] = [&root, &environment_.folder, &environment_.project];
            Isolation::check(&user, &readable, &environment_.python)
        })
        .await?;
        tracing::info!("{}", isolation.text);
        self.memory.isolation = Some((environment.digest, isolation.clone()));
        Ok(isolation)
    }

    /// Airflow's home, which belongs to Airflow's user.
    fn make_home(&self, isolation: &Isolation) -> Result<(), PassError> {
        let user = isolation.user;
        user::make_theirs(&self.disk.airflow_home(), user)?;
        for folder in [self.disk.notes(), self.disk.worker_state()] {
            if !folder.is_dir() {
                std::fs::create_dir_all(&folder)?;
                for made in [folder.parent(), Some(&folder)].into_iter().flatten() {
                    user::give(made, user)?;
                }
            }
        }
        let passwords = self.disk.passwords();
        if !passwords.exists() {
            let content = serde_json::json!({ "admin": self.secrets.admin_password });
            files::write_json(&passwords, &content, 0o600)?;
            user::give(&passwords, user)?;
        }
        Ok(())
    }

    async fn decided(&self, live: &Live) -> Result<Decided, PassError> {
        let path = self.disk.root().join("decided.json");
        let image = live.release.image.digest();
        if let Some(decided) = files::read_json::<Decided>(&path)?
            && decided.image == image
        {
            return Ok(decided);
        }
        let (disk, release) = (self.disk.clone(), live.release.clone());
        let files = blocking(move || {
            let count = |(name, bundle): (&_, &updraft_model::BundleRef)| {
                let tables = disk.bundle(name).ok()?.tables(&bundle.digest).ok()??;
                Some(tables.iter().map(|table| table.entries.len() as u64).sum::<u64>())
            };
            release.bundles.iter().filter_map(count).max().unwrap_or(0)
        })
        .await?;
        let decided = Decided { image, files };
        files::write_json(&path, &decided, 0o600)?;
        Ok(decided)
    }

    /// Brings Airflow's database to the environment's version, once.
    async fn migrate(&self, common: &Common<'_>) -> Result<(), PassError> {
        #[derive(PartialEq, Serialize, Deserialize)]
        struct Migrated {
            airflow: String,
            database: Digest,
        }
        let database = common.variables.get("AIRFLOW__DATABASE__SQL_ALCHEMY_CONN");
        let migrated = Migrated {
            airflow: common.environment.airflow_version.clone(),
            database: Digest::of(database.map_or("", String::as_str).as_bytes()),
        };
        let sqlite_is_gone = database.is_none() && !self.disk.airflow_home().join("airflow.db").exists();
        let before = files::read_json::<Migrated>(&self.disk.migrated()).unwrap_or_default();
        if before.as_ref() == Some(&migrated) && !sqlite_is_gone {
            return Ok(());
        }
        // Components of another version must not write while tables change.
        self.supervisor().want(Vec::new());
        self.wait_until_stopped().await;
        self.board.busy("preparing Airflow's database");
        self.launcher
            .run_to_end(&common.migrate())
            .await
            .map_err(|text| PassError::Retry(format!("`airflow db migrate` failed: {text}")))?;
        if common.environment.is_airflow_2() {
            self.make_airflow_2_admin(common).await?;
        }
        files::write_json(&self.disk.migrated(), &migrated, 0o600)?;
        Ok(())
    }

    async fn make_airflow_2_admin(&self, common: &Common<'_>) -> Result<(), PassError> {
        self.launcher
            .run_to_end(&common.airflow_2_admin(&self.secrets.admin_password))
            .await
            .map_err(|text| PassError::Retry(format!("could not make Airflow's admin user: {text}")))
    }

    async fn wait_until_stopped(&self) {
        loop {
            let alive = components::LONG_RUNNING
                .iter()
                .any(|name| Record::read_alive(&self.launcher.files(name).record).is_some());
            if !alive {
                return;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    /// Waits until every component runs and the API answers.
    async fn wait_until_up(&self, limit: Duration) -> Result<(), String> {
        let rest = self.rest().map_err(|error| explain(&error))?;
        let end = Instant::now() + limit;
        loop {
            let views = self.supervisor().views();
            let not_up = views.iter().find(|view| {
                !matches!(view.state, ComponentState::Running | ComponentState::Stopped)
            });
            if not_up.is_none() && rest.is_up().await {
                self.board.change(|observed| observed.airflow_up = true);
                return Ok(());
            }
            self.board.change(|observed| observed.airflow_up = false);
            let last_error = |name: &str, view: &updraft_api::agent::ComponentView| {
                let error = view.last_error.clone().unwrap_or_default();
                format!("{name} does not come up\n{error}")
            };
            if let Some(view) = not_up.filter(|view| view.restarts >= 3) {
                return Err(last_error(&view.name, view).trim().to_owned());
            }
            if Instant::now() > end {
                return Err(match not_up {
                    Some(view) => last_error(&view.name, view).trim().to_owned(),
                    None => format!("Airflow's API does not answer at {}", rest.address()),
                });
            }
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    }

    fn rest(&self) -> Result<AirflowRest, crate::airflow::rest::AirflowRestError> {
        let address = format!("http://127.0.0.1:{}", self.config.airflow_port);
        AirflowRest::new(&address, "admin", &self.secrets.admin_password)
    }

    /// The proof of what is live, when there is one from before a restart.
    fn kept_proof(&self, live: &Live) -> Option<ProofReport> {
        let kept: KeptProof = files::read_json(&self.disk.proof()).ok().flatten()?;
        let same = kept.report.release == live.release.id && kept.switched_at == live.switched_at;
        same.then_some(kept.report)
    }

    async fn prove(
        &mut self,
        live: &Live,
        wanted: &Arc<Wanted>,
        target: &Target,
    ) -> Result<(), PassError> {
        if let Some(kept) = self.kept_proof(live)
            && kept.attempt >= target.attempt
            && kept.proof.outcome != ProofOutcome::TimedOut
        {
            return Ok(());
        }
        failpoint("agent.prove.start");
        let timeout = Duration::from_secs(u64::from(target.proof_timeout_s.max(30)));
        let mut newer = self.wanted.clone();
        let proof = tokio::select! {
            biased;
            // A newer Release makes this proof worthless; dropping it cancels it.
            () = overtaken(&mut newer, target) => return Err(PassError::Overtaken),
            proof = self.ask_for_proof(live, wanted, timeout) => proof?,
        };
        failpoint("agent.prove.before_keep");
        let report = ProofReport {
            release: live.release.id,
            attempt: target.attempt,
            switched_at: live.switched_at,
            proof,
        };
        let kept = KeptProof { report: report.clone(), switched_at: live.switched_at };
        files::write_json(&self.disk.proof(), &kept, 0o600)?;
        let total = report.proof.dags.total;
        let outcome = report.proof.outcome;
        tracing::info!(?outcome, reason = report.proof.reason, "proof");
        self.board.change(|observed| {
            if outcome != ProofOutcome::TimedOut {
                observed.dags = Some(total);
                observed.import_errors.clone_from(&report.proof.import_errors);
            }
            observed.proof = Some(report);
            observed.activity = None;
        });
        failpoint("agent.prove.end");
        match outcome {
            ProofOutcome::Proven | ProofOutcome::ImportErrors => Ok(()),
            // Still wanted: evidence that comes later counts.
            ProofOutcome::TimedOut => {
                Err(PassError::Retry("Airflow did not show the new content in time; asking again".into()))
            }
        }
    }

    async fn ask_for_proof(
        &self,
        live: &Live,
        wanted: &Wanted,
        timeout: Duration,
    ) -> Result<Proof, PassError> {
        self.board.busy("waiting for Airflow to take in the new files");
        let begun = Instant::now();
        let processor = self.processor(live).await;
        let proof = prove::prove(&ProveAsk {
            disk: &self.disk,
            worker: &self.worker,
            live,
            proven: wanted.proven.as_ref(),
            processor,
            timeout,
        })
        .await;
        let mut proof = match proof {
            Ok(proof) => proof,
            Err(ProveError::Superseded(_)) => return Err(PassError::Overtaken),
            Err(ProveError::Worker(error)) => return Err(PassError::retry(error)),
            Err(ProveError::Version(error)) => return Err(error.into()),
        };
        // Content in the database is no use to anyone while Airflow is down.
        if proof.outcome == ProofOutcome::Proven {
            let left = timeout.saturating_sub(begun.elapsed());
            if let Err(why) = self.wait_until_up(left).await {
                proof.outcome = ProofOutcome::TimedOut;
                proof.reason = "Airflow has the new content, but is not up".into();
                proof.seen = format!("{} DAGs in Airflow's database", proof.dags.total);
                proof.not_seen = why;
            }
        }
        Ok(proof)
    }

    /// The DAG processor that a proof has to wait for: none when the one that
    /// runs started after the switch, as it has seen nothing else.
    async fn processor(&self, live: &Live) -> Option<Record> {
        // One that is being replaced still writes what it read before.
        let end = Instant::now() + Duration::from_secs(30);
        loop {
            let running = self.supervisor().running(DAG_PROCESSOR);
            let any = Record::read_alive(&self.launcher.files(DAG_PROCESSOR).record);
            match (running, any) {
                (Some(record), _) => {
                    return (record.started_at <= live.switched_at).then_some(record);
                }
                (None, None) => return None,
                (None, Some(record)) if Instant::now() > end => return Some(record),
                (None, Some(_)) => tokio::time::sleep(Duration::from_millis(20)).await,
            }
        }
    }

    /// What can wait until nothing else is to be done, and is dropped at once
    /// when something is.
    async fn tidy_up(&mut self, live: &Live, wanted: &Arc<Wanted>) -> Result<(), PassError> {
        if self.memory.spare_of != Some(live.release.id) {
            for (name, bundle) in &live.release.bundles {
                if self.wanted.has_changed().unwrap_or(false) {
                    return Ok(());
                }
                let (dir, digest) = (self.disk.bundle(name)?, bundle.digest);
                let _writing = self.writing.lock().await;
                if let Err(error) = blocking(move || dir.prepare_spare(&digest)).await? {
                    tracing::warn!(%error, "could not prepare a spare of the live version");
                }
            }
            self.memory.spare_of = Some(live.release.id);
        }
        let due = |at: Option<Instant>, every| at.is_none_or(|at: Instant| at.elapsed() > every);
        if due(self.memory.status_at, ASK_STATUS) {
            self.memory.status_at = Some(Instant::now());
            self.look_at_airflow(live).await;
        }
        if due(self.memory.collected_at, COLLECT) {
            self.memory.collected_at = Some(Instant::now());
            let records = components::ALL
                .iter()
                .filter_map(|name| Record::read_alive(&self.launcher.files(name).record))
                .collect();
            let _writing = self.writing.lock().await;
            let collect = Collect {
                disk: &self.disk,
                worker: &self.worker,
                wanted,
                live,
                asked: &self.asked,
                records,
            };
            let mut newer = self.wanted.clone();
            let collected = tokio::select! {
                collected = collect.run() => collected,
                _ = newer.changed() => Ok(()),
            };
            if let Err(error) = collected {
                tracing::warn!(%error, "could not clean up");
            }
        }
        Ok(())
    }

    async fn look_at_airflow(&self, live: &Live) {
        let (mut dags, mut errors) = (0, Vec::new());
        let several = live.release.bundles.len() > 1;
        for name in live.release.bundles.keys() {
            let mut newer = self.wanted.clone();
            let status = tokio::select! {
                status = prove::status(&self.disk, &self.worker, name) => status,
                _ = newer.changed() => return,
            };
            match status {
                Ok(status) => {
                    dags += status.dags;
                    errors.extend(status.import_errors.into_iter().map(|error| ImportError {
                        file: if several { format!("{name}/{}", error.file) } else { error.file },
                        traceback: error.traceback,
                        new: false,
                    }));
                }
                Err(error) => {
                    tracing::debug!(%error, "could not ask Airflow about its DAGs");
                    return;
                }
            }
        }
        let up = match self.rest() {
            Ok(rest) => rest.is_up().await,
            Err(_) => false,
        };
        self.board.change(|observed| {
            observed.dags = Some(dags);
            observed.import_errors = errors;
            observed.airflow_up = up;
        });
    }
}

/// Resolves when another Release, or another attempt, is wanted.
async fn overtaken(wanted: &mut watch::Receiver<Option<Arc<Wanted>>>, target: &Target) {
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
