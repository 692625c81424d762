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

use std::collections::{BTreeMap, HashMap};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::sync::watch;
use tokio::time::Instant;
use updraft_api::agent::{AirflowView, ComponentView, Target, Wanted};
use updraft_model::{
    BundleName, DagIds, Digest, ImportError, Proof, ProofOutcome, Release, ReleaseId,
    UnfinishedRuns,
};

use crate::airflow::components::{self, CELERY_WORKER, Common, DAG_PROCESSOR, SCHEDULER};
use crate::airflow::preview;
use crate::airflow::rest::{AirflowRest, AirflowRestError};
use crate::airflow::secrets::Secrets;
use crate::airflow::settings::{self, AskedFor, Dags, SettingsFor, Variables};
use crate::collect;
use crate::config::AgentConfig;
use crate::control::explain;
use crate::deliver::{Deliver, PassError, Passes};
use crate::disk::{Disk, Live};
use crate::environment::{
    self, Engines, Environment, EnvironmentAsk, Environments, Packages, Pulled,
};
use crate::failpoint::failpoint;
use crate::fetch::blocking;
use crate::files;
use crate::observed::KnownDagIds;
use crate::previews::values::{Objects, Origin};
use crate::prove::{self, ProveAsk, ProveError};
use crate::runtime::container;
use crate::runtime::logs::{self, Hidden};
use crate::runtime::record::Record;
use crate::runtime::supervisor::{Launcher, NotUp, Supervisor};
use crate::runtime::user::{self, Isolation, IsolationError, WantedUser};
use crate::socket::Asked;
use crate::worker::Worker;

/// How often Airflow is asked about its DAGs without a reason.
const ASK_STATUS: Duration = Duration::from_secs(30);
const COLLECT: Duration = Duration::from_secs(30);
/// How long components may take to come up on a new environment before the old
/// one is taken back.
const COME_UP: Duration = Duration::from_secs(300);

/// A component that runs for so long in a new environment, and says that it works,
/// has come up: some crash only when they have begun to work.
const SETTLED: Duration = Duration::from_secs(10);

/// The same while a scheduler ends with its tasks: what is said may be said by that one.
const SETTLED_BESIDE_ANOTHER: Duration = Duration::from_secs(30);

/// When an Airflow counts as up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Up {
    /// Its components run, and its API answers.
    Answers,
    /// Its components have run for a while, and each says that it works.
    Settled,
}

/// How long components may take to stop: more than being polite and then firm.
const STOPPED: Duration = Duration::from_secs(60);

const QUIETING: &str = "waiting for the old Airflow to begin nothing more";

const TRYING: &str = "trying.json";
const REFUSED: &str = "refused.json";

/// A Release in another environment, that Airflow has not come up in yet.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Trying {
    release: ReleaseId,
    /// What was live; none: it has come up.
    before: Option<Box<Live>>,
}

impl Trying {
    const fn nothing(target: &Target) -> Self {
        Self {
            release: target.release.id,
            before: None,
        }
    }
}

/// A Release that was tried and taken back, so that it is not tried for ever.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Refused {
    release: ReleaseId,
    attempt: u32,
    message: String,
    /// What was live before, where that has to be taken back.
    #[serde(default)]
    back: Option<Box<Live>>,
}

/// What all of an Airflow's processes are started with.
struct Setup {
    environment: Environment,
    isolation: Isolation,
    variables: Variables,
    asked: AskedFor,
    hidden: Hidden,
}

impl Setup {
    fn common<'a>(&'a self, disk: &'a Disk) -> Common<'a> {
        Common {
            disk,
            environment: &self.environment,
            variables: &self.variables,
            asked: self.asked,
            hidden: self.hidden.clone(),
            user: self.isolation.user,
        }
    }
}

pub(crate) struct Converge {
    pub(crate) config: Arc<AgentConfig>,
    pub(crate) deliver: Deliver,
    pub(crate) environments: Environments,
    pub(crate) engines: Engines,
    pub(crate) supervisor: Arc<Mutex<Supervisor>>,
    pub(crate) worker: Worker,
    pub(crate) launcher: Launcher,
    pub(crate) secrets: Secrets,
    pub(crate) user: WantedUser,
    pub(crate) asked: Asked,
    /// What it is a Preview of.
    pub(crate) origin: Option<Arc<Origin>>,
    /// Where it says how Airflow's objects are read.
    pub(crate) objects: watch::Sender<Option<Objects>>,
    pub(crate) memory: Memory,
}

/// What a pass remembers for the next; all of it can be found out again.
#[derive(Default)]
pub(crate) struct Memory {
    ready: HashMap<Digest, Environment>,
    isolation: Option<(Digest, Isolation)>,
    status_at: Option<Instant>,
    /// The proof after which Airflow was last asked about its DAGs.
    status_after: Option<(ReleaseId, u32)>,
    collected_at: Option<Instant>,
    collected_for: Option<ReleaseId>,
    hidden: Hidden,
    /// Files in the largest bundle of a Release.
    files: Option<(ReleaseId, u64)>,
}

/// Airflow 2 has one folder of DAGs and reads no other.
fn only_dags(release: &Release) -> Result<(), PassError> {
    let others = release
        .bundles
        .keys()
        .filter(|name| **name != BundleName::dags());
    let others: Vec<String> = others.map(ToString::to_string).collect();
    if others.is_empty() {
        return Ok(());
    }
    Err(PassError::Stalled(format!(
        "Airflow 2 reads the bundle `dags` alone, and this Release has also {}; deploy them as part of `dags`, or use Airflow 3",
        others.join(", ")
    )))
}

impl Passes for Converge {
    fn deliver(&mut self) -> &mut Deliver {
        &mut self.deliver
    }

    async fn pass(&mut self, wanted: &Arc<Wanted>) -> Result<(), PassError> {
        self.converge(wanted).await
    }

    async fn clean_up(&mut self, live: &Live, wanted: &Arc<Wanted>) {
        self.memory.collected_at = Some(Instant::now());
        self.memory.collected_for = Some(live.release.id);
        let records: Vec<Record> = components::ALL
            .iter()
            .filter_map(|name| Record::read_alive(&self.launcher.files(name).record))
            .chain(self.supervisor().draining())
            .collect();
        let mut held = collect::held(wanted, live, &self.asked);
        held.extend(records.iter().filter_map(|record| record.environment));
        self.deliver
            .collect(Some(&self.worker), wanted, live, &self.asked, records)
            .await;
        if let Some(engine) = self.engines.known().await {
            let disk = &self.deliver.disk;
            container::remove_ended(&engine, disk.root()).await;
            if let Err(error) = Pulled::collect(disk, &engine, &held).await {
                tracing::warn!(%error, "could not remove images that nothing holds");
            }
        }
    }
}

impl Converge {
    /// Runs one pass.
    async fn converge(&mut self, wanted: &Arc<Wanted>) -> Result<(), PassError> {
        // What is live may not be mended now (a full disk, no control plane, blobs
        // that are gone); Airflow runs on what there is until then.
        let (mut live, whole) = match self.deliver.live().await {
            Ok(live) => (live, Ok(())),
            Err(error) => (self.deliver.disk.live()?, Err(error)),
        };
        // First of all, and also when nothing new can be reached: what is live
        // keeps running.
        let kept = match &live {
            Some(live) => self.keep_airflow(live, wanted).await.and(whole),
            None => whole,
        };
        let Some(target) = &wanted.target else {
            return kept;
        };
        // What is live may not run; what is wanted instead may mend that.
        let is_live = |live: &Live| live.release.id == target.release.id;
        self.end_trial(live.as_ref(), wanted, target).await?;
        if live.as_ref().is_some_and(is_live) {
            kept?;
        } else if let Err(error) = kept {
            tracing::warn!(?error, "what is live is not as it should be");
        }
        self.deliver.stage(live.as_ref(), target).await?;
        let environment = self.environment(target.release.image.digest()).await?;
        if environment.is_airflow_2() {
            only_dags(&target.release)?;
        }
        self.deliver.is_staged(target);

        if !live.as_ref().is_some_and(is_live) {
            if !target.may_switch {
                // The next generation says when.
                return Ok(());
            }
            live = Some(self.switch(live, wanted, target).await?);
        }
        let Some(live) = live else { return Ok(()) };
        if !self.deliver.is_settled(&live, target) {
            let timeout = Duration::from_secs(u64::from(target.proof_timeout_s.max(30)));
            let proof = self.ask_for_proof(&live, wanted, timeout);
            let settled = self.deliver.settle(&live, target, proof).await;
            if let Err(PassError::Retry(_)) = settled {
                // It may never be proven, and the disk must not fill meanwhile.
                self.tidy_up(&live, wanted).await?;
            }
            settled?;
        }
        self.tidy_up(&live, wanted).await
    }

    /// The environment of an image, made if it is not here.
    async fn environment(&mut self, image: Digest) -> Result<Environment, PassError> {
        if let Some(environment) = self.memory.ready.get(&image)
            && environment.is_there().await
        {
            return Ok(environment.clone());
        }
        let client = self.deliver.control.client();
        let airflow_runs = components::LONG_RUNNING
            .iter()
            .any(|name| Record::read_alive(&self.launcher.files(name).record).is_some());
        let user = self.user.that_reaches(self.deliver.disk.root());
        let environment = self
            .environments
            .realise(
                &self.deliver.disk,
                &client,
                EnvironmentAsk {
                    image,
                    user,
                    or_own: self.user.or_own(),
                    airflow_runs,
                },
                &self.deliver.writing,
                &self.deliver.board,
            )
            .await?;
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
        self.deliver.board.busy("switching");
        let next = self.deliver.next(before.as_ref(), target);
        let other_image = |before: &Live| before.release.image != next.release.image;
        let Some(before) = before.filter(other_image) else {
            self.switch_link(&next).await?;
            self.keep_airflow(&next, wanted).await?;
            return Ok(next);
        };
        let environment = self.environment(next.release.image.digest()).await?;
        if let Some(message) = self
            .too_old(&environment)
            .filter(|_| !target.allow_downgrade)
        {
            self.refuse(target, &message, None)?;
            return Err(PassError::Stalled(message));
        }
        self.try_out(&next, wanted, target).await?;
        self.deliver.board.busy(QUIETING);
        self.quiet_down(&before, &next).await?;
        self.deliver.board.busy("switching");
        failpoint("agent.switch.quiet");
        self.take_database_back(&before, &next, wanted).await?;
        let trying = Trying {
            before: Some(Box::new(before.clone())),
            ..Trying::nothing(target)
        };
        self.deliver.keep(TRYING, &trying)?;
        self.switch_link(&next).await?;
        self.come_up_or_go_back(&next, &before, wanted, target)
            .await?;
        Ok(next)
    }

    /// Makes a Release the live one on the disk, while Airflow's DAG processor
    /// takes in nothing.
    async fn switch_link(&mut self, next: &Live) -> Result<(), PassError> {
        for bundle in next.release.bundles.keys() {
            prove::hold_processor(&self.deliver.disk, bundle);
        }
        self.deliver.switch(next).await
    }

    /// Ends what an agent before this one was cut off in: another image that was
    /// switched to and is not known to work yet, or does not.
    async fn end_trial(
        &mut self,
        live: Option<&Live>,
        wanted: &Arc<Wanted>,
        target: &Target,
    ) -> Result<(), PassError> {
        let tried = live.filter(|live| live.release.id == target.release.id);
        if let Some(refused) = self.refused(target)? {
            if let (Some(tried), Some(before)) = (tried, refused.back) {
                self.go_back(tried, &before, wanted).await?;
            }
            return Err(PassError::Stalled(refused.message));
        }
        if let Some(tried) = tried
            && let Some(before) = self.tried_instead_of(tried)?
        {
            self.come_up_or_go_back(tried, &before, wanted, target)
                .await?;
        }
        Ok(())
    }

    /// Has Airflow come up in another environment; where it does not, the Release
    /// before is taken back.
    async fn come_up_or_go_back(
        &mut self,
        next: &Live,
        before: &Live,
        wanted: &Arc<Wanted>,
        target: &Target,
    ) -> Result<(), PassError> {
        let came_up = match self.keep_airflow(next, wanted).await {
            Ok(()) => self.wait_until_up(COME_UP, Up::Settled).await,
            Err(PassError::Retry(text) | PassError::DiskFull(text) | PassError::Stalled(text)) => {
                Err(text)
            }
            Err(PassError::Overtaken) => return Err(PassError::Overtaken),
        };
        let Err(why) = came_up else {
            return self.deliver.keep(TRYING, &Trying::nothing(target));
        };
        let message = format!(
            "Airflow did not come up in the new environment, so the Release before was taken back: {why}"
        );
        // Kept before going back: a kill in between must not try it again.
        self.refuse(target, &message, Some(before))?;
        failpoint("agent.switch.refused");
        self.go_back(next, before, wanted).await?;
        Err(PassError::Stalled(message))
    }

    /// Makes the Release live again that was so before another was tried.
    async fn go_back(
        &mut self,
        tried: &Live,
        before: &Live,
        wanted: &Arc<Wanted>,
    ) -> Result<(), PassError> {
        let (release, deploy) = (before.release.clone(), before.deploy);
        let back = Live {
            judged: before.judged.clone(),
            ..Live::next(Some(tried), None, release, deploy)
        };
        self.take_database_back(tried, &back, wanted).await?;
        self.deliver.switch(&back).await?;
        self.keep_airflow(&back, wanted).await?;
        // Whoever reads that it was taken back wants to look at Airflow.
        if let Err(why) = self.wait_until_up(COME_UP, Up::Settled).await {
            tracing::error!(why, "Airflow does not come up as it was before either");
        }
        Ok(())
    }

    /// Takes the database back where what comes is an older Airflow.
    async fn take_database_back(
        &mut self,
        from: &Live,
        to: &Live,
        wanted: &Wanted,
    ) -> Result<(), PassError> {
        let environment = self.environment(to.release.image.digest()).await?;
        if self.too_old(&environment).is_none() {
            return Ok(());
        }
        let (newer, older) = (
            self.setup(from, wanted).await?,
            self.setup(to, wanted).await?,
        );
        let disk = &self.deliver.disk;
        let (newer, older) = (newer.common(disk), older.common(disk));
        self.migrate_back(&newer, &older).await
    }

    /// Imports Airflow and the Release's DAG files in its environment, while the
    /// old one works. What fails there is not switched to.
    async fn try_out(
        &mut self,
        next: &Live,
        wanted: &Wanted,
        target: &Target,
    ) -> Result<(), PassError> {
        let hidden = self.memory.hidden.clone();
        let setup = self.setup(next, wanted).await?;
        // What is said of the live one still quotes its variables.
        self.memory.hidden = hidden;
        let mut bundles = BTreeMap::new();
        for (name, bundle) in &next.release.bundles {
            let folder = self.deliver.disk.bundle(name)?;
            bundles.insert(name, folder.version_path(&bundle.digest));
        }
        let errors = self.deliver.board.read().import_errors;
        let known: Vec<String> = errors.into_iter().map(|error| error.file).collect();
        let request = self.deliver.disk.run().join("trial.request");
        let text = serde_json::json!({ "bundles": bundles, "known": known }).to_string();
        let owner = setup.isolation.user.map(|ids| (ids.uid, ids.gid));
        files::write_for(&request, text.as_bytes(), 0o600, owner)?;
        self.deliver
            .board
            .busy("trying the DAG files in the new environment");
        let common = setup.common(&self.deliver.disk);
        let tried = self.launcher.run_to_end(&common.trial(&request)).await;
        failpoint("agent.switch.tried");
        let Err(why) = tried else { return Ok(()) };
        let message = format!(
            "the new environment was tried and does not work, so nothing was switched: {why}"
        );
        self.refuse(target, &message, None)?;
        Err(PassError::Stalled(message))
    }

    /// Keeps that a Release does not work here.
    fn refuse(&self, target: &Target, message: &str, back: Option<&Live>) -> Result<(), PassError> {
        let refused = Refused {
            release: target.release.id,
            attempt: target.attempt,
            message: message.to_owned(),
            back: back.cloned().map(Box::new),
        };
        self.deliver.keep(REFUSED, &refused)
    }

    /// Has the old environment begin nothing more: what is new must not run in it.
    async fn quiet_down(&mut self, before: &Live, next: &Live) -> Result<(), PassError> {
        // It may be what cannot be made any more.
        let old = self.environment(before.release.image.digest()).await.ok();
        let new = self.environment(next.release.image.digest()).await?;
        self.supervisor().pause(components::BEGIN_WORK);
        self.wait_until_stopped(components::BEGIN_WORK).await?;
        // Airflow 2's tasks write to the database themselves, and its tables will change.
        let writes =
            |old: &Environment| old.is_airflow_2() && old.airflow_version != new.airflow_version;
        if old.is_some_and(|old| writes(&old)) {
            self.wait_until_drained().await?;
        }
        Ok(())
    }

    /// Waits for the tasks of what was replaced, until something else is wanted.
    async fn wait_until_drained(&self) -> Result<(), PassError> {
        let mut newer = self.deliver.wanted.clone();
        newer.mark_unchanged();
        while !self.supervisor().draining().is_empty() {
            self.deliver
                .board
                .busy("waiting for tasks of the old Airflow to end");
            tokio::select! {
                () = tokio::time::sleep(Duration::from_millis(500)) => {}
                _ = newer.changed() => return Err(PassError::Overtaken),
            }
        }
        Ok(())
    }

    /// What was live before a Release that Airflow has not come up in yet.
    fn tried_instead_of(&self, live: &Live) -> Result<Option<Live>, PassError> {
        let trying: Option<Trying> = self.deliver.read(TRYING)?;
        let trying = trying.filter(|trying| trying.release == live.release.id);
        Ok(trying
            .and_then(|trying| trying.before)
            .map(|before| *before))
    }

    fn refused(&self, target: &Target) -> Result<Option<Refused>, PassError> {
        let refused: Option<Refused> = self.deliver.read(REFUSED)?;
        Ok(refused.filter(|refused| {
            refused.release == target.release.id && refused.attempt == target.attempt
        }))
    }

    /// What Airflow's processes are started with for a Release.
    async fn setup(&mut self, live: &Live, wanted: &Wanted) -> Result<Setup, PassError> {
        let environment = self.environment(live.release.image.digest()).await?;
        let isolation = self.isolation(&environment).await?;
        self.make_home(&isolation)?;
        let files = self.files(live).await?;
        let ours = settings::own_variables();
        let settings = SettingsFor {
            disk: &self.deliver.disk,
            environment: &environment,
            dags: Dags::Release {
                release: &live.release,
                view_url: &wanted.view_url,
            },
            executor: match self.origin {
                Some(_) => preview::EXECUTOR,
                None => &wanted.executor,
            },
            own: &wanted.environment,
            secrets: &self.secrets,
            port: self.config.airflow_port,
            metadata_db_url: self.config.metadata_db_url.as_deref(),
            apart: isolation.user.is_some(),
            parse_again: settings::parse_again_after(files),
            pass: &self.config.pass_environment,
            ours: &ours,
            preview: self.origin.as_ref().map(|origin| origin.values),
        };
        let (variables, hidden) = (settings::variables(&settings), settings::hidden(&settings));
        let asked = settings::asked(&settings);
        self.memory.hidden = hidden.clone();
        Ok(Setup {
            environment,
            isolation,
            variables,
            asked,
            hidden,
        })
    }

    /// Has Airflow run on a Release: starts what does not run, restarts what
    /// runs otherwise, leaves the rest alone.
    async fn keep_airflow(&mut self, live: &Live, wanted: &Arc<Wanted>) -> Result<(), PassError> {
        let setup = self.setup(live, wanted).await?;
        let Setup {
            environment,
            isolation,
            ..
        } = &setup;
        let made = environment.made();
        if self.deliver.read(environment::MADE).unwrap_or_default() != Some(made) {
            self.deliver.keep(environment::MADE, &made)?;
        }
        let common = setup.common(&self.deliver.disk);
        // Its imports take seconds, so they overlap with everything else.
        self.worker.want(common.worker());
        self.migrate(&common).await?;
        self.offer_objects(&common);
        // Before anything parses: code may ask for variables when it is imported.
        let values_note = self.give_values(&common, live).await?;
        let specs = common.components();
        let first = !self
            .supervisor()
            .views()
            .iter()
            .any(|view| view.pid.is_some());
        if first {
            self.deliver
                .board
                .busy(format!("starting Airflow {}", environment.airflow_version));
        }
        self.supervisor().want(&specs);
        let notes = [environment.note.clone(), values_note];
        let notes: Vec<String> = notes.into_iter().flatten().collect();
        let isolation = self.isolation_text(isolation, environment);
        self.deliver.board.change(|observed| {
            observed.isolation = isolation;
            let components = self.supervisor().views();
            observed.airflow = Some(AirflowView {
                version: environment.airflow_version.clone(),
                python: environment.python_version.clone(),
                note: (!notes.is_empty()).then(|| notes.join("; ")),
                url: Some(self.config.shown_url()),
                components,
            });
        });
        Ok(())
    }

    /// What `status` says of who Airflow runs as.
    fn isolation_text(&self, isolation: &Isolation, environment: &Environment) -> String {
        let origin = self.origin.as_ref();
        match origin.filter(|it| it.shares_user && environment.image().is_none()) {
            None => isolation.text.clone(),
            Some(origin) => format!(
                "{}; the Airflow of `{}` runs as the same user, so DAG code of this Preview can read that one's files; see `--preview-user`",
                isolation.text, origin.name
            ),
        }
    }

    /// Says how this Airflow's objects are read, for Previews.
    fn offer_objects(&self, common: &Common<'_>) {
        let spec = common.objects();
        self.objects.send_if_modified(|offered| {
            if offered.as_ref().is_some_and(|offered| offered.spec == spec) {
                return false;
            }
            let asking = offered.take().map(|offered| offered.asking);
            *offered = Some(Objects {
                launcher: self.launcher.clone(),
                spec,
                asking: asking.unwrap_or_default(),
            });
            true
        });
    }

    pub(crate) fn supervisor(&self) -> std::sync::MutexGuard<'_, Supervisor> {
        self.supervisor
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    async fn isolation(&mut self, environment: &Environment) -> Result<Isolation, PassError> {
        if let Some((digest, isolation)) = &self.memory.isolation
            && *digest == environment.digest
        {
            return Ok(isolation.clone());
        }
        let (user, root, environment_) = (
            self.user.clone(),
            self.deliver.disk.root().to_owned(),
            environment.clone(),
        );
        let isolation = blocking(move || match &environment_.packages {
            Packages::Venv { folder, python, .. } => {
                let readable: [&Path; 3] = [&root, folder, &environment_.project];
                Isolation::check(&user, &readable, python)
            }
            Packages::Image(image) => Ok(Isolation::in_containers(&user, &image.engine)),
        })
        .await?
        .map_err(|error| match error {
            IsolationError::Impossible { .. } => PassError::Stalled(error.to_string()),
            IsolationError::NotTried(_) => PassError::retry(error),
        })?;
        tracing::info!("{}", isolation.text);
        self.memory.isolation = Some((environment.digest, isolation.clone()));
        Ok(isolation)
    }

    /// Airflow's home, which belongs to Airflow's user.
    fn make_home(&self, isolation: &Isolation) -> Result<(), PassError> {
        let user = isolation.user;
        user::make_theirs(&self.deliver.disk.airflow_home(), user)?;
        // Not inside Airflow's home: what lies there is whatever Airflow's user
        // makes of it, also a link to anywhere, and the agent may be root.
        let disk = &self.deliver.disk;
        for folder in [disk.notes(), disk.worker_state(), disk.signs_of_life()] {
            user::make_theirs(&folder, user)?;
        }
        self.secrets.give_password(&self.deliver.disk, user)?;
        Ok(())
    }

    /// How many files the largest bundle has.
    async fn files(&mut self, live: &Live) -> Result<u64, PassError> {
        if let Some((release, files)) = self.memory.files
            && release == live.release.id
        {
            return Ok(files);
        }
        let (disk, release) = (self.deliver.disk.clone(), live.release.clone());
        let files = blocking(move || {
            let count = |(name, bundle): (&_, &updraft_model::BundleRef)| {
                let tables = disk.bundle(name).ok()?.tables(&bundle.digest).ok()??;
                let entries = tables.iter().map(|table| table.entries.len() as u64);
                Some(entries.sum::<u64>())
            };
            release.bundles.iter().filter_map(count).max().unwrap_or(0)
        })
        .await?;
        self.memory.files = Some((live.release.id, files));
        Ok(files)
    }

    pub(crate) async fn wait_until_stopped(&self, names: &[&str]) -> Result<(), PassError> {
        let end = Instant::now() + STOPPED;
        loop {
            let alive = names.iter().find_map(|name| {
                let record = Record::read_alive(&self.launcher.files(name).record)?;
                Some((name, record.process.pid))
            });
            let Some((name, pid)) = alive else {
                return Ok(());
            };
            if Instant::now() > end {
                return Err(PassError::Retry(format!(
                    "Airflow's {name} (process {pid}) does not end, so no other can take its place; see what it waits for"
                )));
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    /// Waits until every component has run for so long, and the API answers.
    async fn wait_until_up(&self, limit: Duration, up: Up) -> Result<(), String> {
        let rest = self.rest().map_err(|error| explain(&error))?;
        let end = Instant::now() + limit;
        let mut is_said = false;
        loop {
            let for_long = match up {
                Up::Answers => Duration::ZERO,
                Up::Settled if self.supervisor().draining().is_empty() => SETTLED,
                Up::Settled => SETTLED_BESIDE_ANOTHER,
            };
            let not_up = self.supervisor().not_up(for_long);
            let is_up = match up {
                _ if not_up.is_some() => false,
                Up::Answers => rest.is_up().await,
                // On a slow machine, what will crash may take longer than that to begin.
                Up::Settled => rest.is_healthy().await && self.silent_worker().is_none(),
            };
            if is_up {
                self.deliver
                    .board
                    .change(|observed| observed.airflow_up = true);
                return Ok(());
            }
            self.deliver
                .board
                .change(|observed| observed.airflow_up = false);
            if !std::mem::replace(&mut is_said, true) {
                self.deliver.board.busy("waiting for Airflow to come up");
            }
            let last_error = |name: &str, view: &ComponentView| {
                let error = view.last_error.clone().unwrap_or_default();
                format!("{name} does not come up\n{error}")
            };
            if let Some(NotUp { view, .. }) = not_up.as_ref().filter(|not_up| not_up.crashes >= 3) {
                return Err(last_error(&view.name, view).trim().to_owned());
            }
            if Instant::now() > end {
                return Err(match not_up {
                    Some(NotUp { view, .. }) => last_error(&view.name, &view).trim().to_owned(),
                    None if let Some(worker) = self.silent_worker() => {
                        let log = self.launcher.files(CELERY_WORKER).log;
                        let said = logs::tail(&log, worker.log_offset, 20, &self.memory.hidden);
                        format!("{CELERY_WORKER} does not say that it works\n{said}")
                    }
                    None if rest.is_up().await => {
                        format!("not every component says that it works: {}", rest.address())
                    }
                    None => format!("Airflow's API does not answer at {}", rest.address()),
                });
            }
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    }

    /// The Celery worker, where it does not say that it works.
    fn silent_worker(&self) -> Option<Record> {
        let worker = self.supervisor().running(CELERY_WORKER)?;
        (!components::says_it_works(&self.deliver.disk, &worker)).then_some(worker)
    }

    fn rest(&self) -> Result<AirflowRest, AirflowRestError> {
        let address = format!("http://127.0.0.1:{}", self.config.airflow_port);
        let rest = AirflowRest::new(&address, "admin", &self.secrets.admin_password)?;
        let airflow = self.deliver.board.read().airflow;
        let is_2 = airflow.is_some_and(|airflow| airflow.version.starts_with("2."));
        Ok(if is_2 { rest.version_1() } else { rest })
    }

    async fn ask_for_proof(
        &self,
        live: &Live,
        wanted: &Wanted,
        timeout: Duration,
    ) -> Result<Proof, PassError> {
        let begun = Instant::now();
        let processor = self.processor(live).await;
        let proof = prove::prove(&ProveAsk {
            disk: &self.deliver.disk,
            worker: &self.worker,
            live,
            proven: wanted.proven.as_ref(),
            processor,
            timeout,
            hidden: &self.memory.hidden,
        })
        .await;
        let mut proof = match proof {
            Ok(proof) => proof,
            Err(ProveError::Superseded(_)) => return Err(PassError::Overtaken),
            Err(ProveError::Worker(error)) => {
                return Err(PassError::Retry(self.memory.hidden.hide(explain(&error))));
            }
            Err(ProveError::Version(error)) => return Err(error.into()),
        };
        // Content in the database is no use to anyone while Airflow is down.
        if proof.outcome == ProofOutcome::Proven {
            let left = timeout.saturating_sub(begun.elapsed());
            if let Err(why) = self.wait_until_up(left, Up::Answers).await {
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
        let parses = if self.supervisor().wants(DAG_PROCESSOR) {
            DAG_PROCESSOR
        } else {
            SCHEDULER
        };
        // One that is being replaced still writes what it read before.
        let end = Instant::now() + Duration::from_secs(30);
        loop {
            let running = self.supervisor().running(parses);
            let any = Record::read_alive(&self.launcher.files(parses).record);
            match (running, any) {
                (Some(record), _) => {
                    let older = match &live.switched_at_boot_time {
                        Some(switched) => switched.has_seen_start_of(&record.process),
                        None => record.started_at <= live.switched_at,
                    };
                    return older.then_some(record);
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
        self.deliver.prepare_spares(live).await;
        let due = |at: Option<Instant>, every| at.is_none_or(|at: Instant| at.elapsed() > every);
        let proof = self.deliver.kept_proof(live);
        let after = proof.as_ref().map(|proof| (proof.release, proof.attempt));
        if self.memory.status_after != after || due(self.memory.status_at, ASK_STATUS) {
            self.memory.status_at = Some(Instant::now());
            let has_it = proof.is_some_and(|it| it.proof.outcome != ProofOutcome::TimedOut);
            if self.look_at_airflow(live, has_it).await {
                self.memory.status_after = after;
            }
        }
        let is_new = self.memory.collected_for != Some(live.release.id);
        if is_new || due(self.memory.collected_at, COLLECT) {
            self.clean_up(live, wanted).await;
        }
        Ok(())
    }

    /// Asks Airflow what it has; `has_it` when that is known to be of this Release.
    /// False when it did not answer, or something newer came.
    async fn look_at_airflow(&self, live: &Live, has_it: bool) -> bool {
        let (mut dags, mut errors, mut names) = (0, Vec::new(), None);
        let mut dag_ids = DagIds::default();
        let mut runs = Vec::new();
        let several = live.release.bundles.len() > 1;
        for (name, bundle) in &live.release.bundles {
            let mut newer = self.deliver.wanted.clone();
            let status = tokio::select! {
                status = prove::status(&self.deliver.disk, &self.worker, name) => status,
                _ = newer.changed() => return false,
            };
            match status {
                Ok(status) => {
                    dags += status.dags;
                    let found = status.dags_of(bundle.digest);
                    dag_ids.0.extend(found.map(|found| (name.clone(), found)));
                    runs.extend(status.runs());
                    names = names.or(status.names);
                    errors.extend(status.import_errors.into_iter().map(|error| ImportError {
                        file: if several {
                            format!("{name}/{}", error.file)
                        } else {
                            error.file
                        },
                        traceback: self.memory.hidden.hide(error.traceback),
                        new: false,
                    }));
                }
                Err(error) => {
                    tracing::debug!(%error, "could not ask Airflow about its DAGs");
                    return false;
                }
            }
        }
        let up = match self.rest() {
            Ok(rest) => rest.is_up().await,
            Err(_) => false,
        };
        let dag_ids = has_it.then(|| KnownDagIds::new(dag_ids)).flatten();
        self.deliver.board.change(|observed| {
            observed.dag_ids = dag_ids;
            observed.dags = Some(dags);
            prove::bound(&mut errors);
            observed.import_errors = errors;
            observed.names = names;
            observed.runs = Some(UnfinishedRuns::new(runs));
            observed.airflow_up = up;
        });
        true
    }
}

#[cfg(test)]
mod tests {
    use updraft_model::{BundleRef, ImageRef};

    use super::*;

    #[test]
    fn airflow_2_is_given_no_bundle_that_it_would_not_read() {
        let release = |names: &[&str]| Release {
            id: ReleaseId::new(),
            image: ImageRef::Environment {
                digest: Digest::of(b"image"),
            },
            bundles: names
                .iter()
                .map(|name| {
                    let digest = Digest::of(name.as_bytes());
                    (name.parse().unwrap(), BundleRef { digest })
                })
                .collect(),
        };
        only_dags(&release(&["dags"])).unwrap();
        let Err(PassError::Stalled(text)) = only_dags(&release(&["dags", "dbt"])) else {
            panic!("it was accepted");
        };
        assert!(text.contains("dbt") && text.contains("Airflow 3"), "{text}");
    }
}
