//! Starting and stopping an agent, in a process of its own or inside another.

use std::any::Any;
use std::panic::AssertUnwindSafe;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use futures_util::FutureExt;
use futures_util::future::{OptionFuture, join};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use updraft_api::agent::Wanted;
use updraft_api::{Client, ClientError};
use updraft_model::{AgentId, DeploymentId, Runtime, Scope};

use crate::airflow::components;
use crate::airflow::rest::{AirflowRest, AirflowRestError};
use crate::airflow::secrets::Secrets;
use crate::config::AgentConfig;
use crate::control::{ControlPlane, Poller, Reporter};
use crate::converge::{Converge, Memory};
use crate::deliver::{Deliver, keep_passing};
use crate::disk::{Disk, RootError, RootLock};
use crate::environment::{Engines, Environments};
use crate::external::External;
use crate::fetch::blocking_ended;
use crate::files;
use crate::folder;
use crate::observed::{Board, Observed};
use crate::previews::values::{Objects, Origin};
use crate::previews::{Previews, Running, RunningPreviews};
use crate::runtime::container;
use crate::runtime::identity::Sign;
use crate::runtime::record::Record;
use crate::runtime::supervisor::{Launcher, Names, Supervisor, stop_all};
use crate::runtime::user::{Isolation, UserError, WantedUser};
use crate::socket::{AgentSocket, Asked};
use crate::worker::Worker;

#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error(transparent)]
    Root(#[from] RootError),
    #[error(transparent)]
    User(#[from] UserError),
    #[error("could not read the agent's token")]
    Token(#[source] std::io::Error),
    #[error(transparent)]
    Client(#[from] ClientError),
    #[error("`{}` belongs to an agent of the Deployment {own}, and the token is for {other}", root.display())]
    OtherDeployment {
        root: PathBuf,
        own: DeploymentId,
        other: DeploymentId,
    },
    #[error("could not read what the agent kept")]
    Kept(#[source] std::io::Error),
}

impl StartError {
    /// One sentence on what to do next.
    pub fn help(&self) -> Option<String> {
        match self {
            Self::Root(RootError::Locked(_)) => {
                Some("stop the other one, or give this one a folder of its own".into())
            }
            Self::Root(RootError::Io { .. }) | Self::Kept(_) => {
                Some("check who owns the folder and that its disk is not full".into())
            }
            Self::OtherDeployment { .. } => Some(
                "give this agent a folder of its own; if the other is not needed any more, stop it together with its Airflow".into(),
            ),
            Self::User(_) => Some("see `--airflow-user` and `--preview-user`".into()),
            Self::Token(_) => Some("enrol the agent first: `updraft agent enroll`".into()),
            Self::Client(error) => error.help(),
        }
    }
}

pub struct Agent;

impl Agent {
    /// Takes the root and starts working. Comes back at once: what the agent
    /// does can be watched with [`RunningAgent::subscribe`].
    pub fn start(config: AgentConfig) -> Result<RunningAgent, StartError> {
        // Said now, rather than when the first Preview is wanted.
        WantedUser::find(config.preview_user.as_deref())?;
        Self::start_as(config, None)
    }

    /// The same for a Preview, beside the agent of the Deployment that it is made from.
    pub(crate) fn start_preview(
        config: AgentConfig,
        origin: Origin,
    ) -> Result<RunningAgent, StartError> {
        Self::start_as(config, Some(Arc::new(origin)))
    }

    fn start_as(
        config: AgentConfig,
        origin: Option<Arc<Origin>>,
    ) -> Result<RunningAgent, StartError> {
        let config = config.absolute().map_err(StartError::Kept)?;
        let lock = RootLock::take(&config.root)?;
        folder::sweep(&config.root);
        let user = WantedUser::find(config.airflow_user.as_deref())?;
        let token = config.token.read().map_err(StartError::Token)?;
        let deployment = lock.deployment(&config.root).map_err(StartError::Kept)?;
        if let (Some(own), Some(other)) = (deployment, deployment_of(&token))
            && own != other
        {
            return Err(StartError::OtherDeployment {
                root: config.root,
                own,
                other,
            });
        }
        let client = Client::new(&config.connect, Some(token))?.as_agent(lock.agent);
        let control = ControlPlane::new(client, config.token.clone());
        let config = Arc::new(config);

        let kept = kept_wanted(&lock, &config).map_err(StartError::Kept)?;
        let board = Board::new(Observed {
            isolation: Isolation::unknown().text,
            generation: kept.as_ref().map_or(0, |wanted| wanted.generation),
            ..Observed::default()
        });
        let (wanted_sender, wanted) = watch::channel(kept.map(Arc::new));
        let (told_sender, told) = watch::channel(-1);
        let shared = Arc::new(Shared::default());

        let poller = Poller {
            control: control.clone(),
            root: config.root.clone(),
            deployment,
            wanted: wanted_sender,
            board: board.clone(),
            told,
        };
        let reporter = Reporter {
            control: control.clone(),
            agent: lock.agent,
            host: config.host.clone(),
            preview_places: match config.external {
                Some(_) => 0,
                None => config.previews,
            },
            board: board.clone(),
            wanted: wanted.clone(),
            told: told_sender,
        };
        let previews = (origin.is_none() && config.external.is_none()).then(|| {
            let previews = Previews {
                config: Arc::clone(&config),
                agent: lock.agent,
                control: control.clone(),
                wanted: wanted.clone(),
                objects: shared.objects.subscribe(),
                engines: Engines::new(&config),
                running: Running::default(),
            };
            previews.start()
        });
        let conversation = vec![tokio::spawn(poller.run()), tokio::spawn(reporter.run())];
        let worker = Start {
            config: Arc::clone(&config),
            control,
            board: board.clone(),
            wanted,
            deployment,
            user,
            origin,
            shared: Arc::clone(&shared),
        };
        let work = tokio::spawn(worker.keep_at_it());
        Ok(RunningAgent {
            lock,
            config,
            board,
            conversation,
            work,
            shared,
            previews,
        })
    }
}

/// The Deployment that a token says it is for. The control plane decides what a
/// token may do; this is for a mistake to be told before anything is started.
fn deployment_of(token: &str) -> Option<DeploymentId> {
    #[derive(serde::Deserialize)]
    struct Claims {
        scope: Scope,
    }
    let claims = token.split('.').nth(1)?;
    let claims = URL_SAFE_NO_PAD.decode(claims).ok()?;
    match serde_json::from_slice::<Claims>(&claims).ok()?.scope {
        Scope::Deployment { deployment } => Some(deployment),
        Scope::Organization | Scope::Workspace { .. } => None,
    }
}

/// What is wanted as it was known when the last agent ended.
fn kept_wanted(lock: &RootLock, config: &AgentConfig) -> std::io::Result<Option<Wanted>> {
    let Some(deployment) = lock.deployment(&config.root)? else {
        return Ok(None);
    };
    let disk = Disk::open(&config.root, deployment)?;
    files::read_json(&disk.wanted())
}

/// What the work makes and whoever stops the agent needs.
#[derive(Default)]
struct Shared {
    made: Mutex<Option<Prepared>>,
    tasks: Mutex<Vec<JoinHandle<()>>>,
    /// Held by whoever writes versions, also when the work begins again.
    writing: Arc<tokio::sync::Mutex<()>>,
    /// What reads Airflow's objects, for Previews.
    objects: watch::Sender<Option<Objects>>,
}

#[derive(Clone)]
struct Prepared {
    disk: Disk,
    launcher: Launcher,
    supervisor: Arc<Mutex<Supervisor>>,
    secrets: Secrets,
    engines: Engines,
}

impl Shared {
    fn made(&self) -> Option<Prepared> {
        self.made
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// Ends what the work has begun; Airflow goes on.
    fn let_go(&self) {
        let mut tasks = self.tasks.lock().unwrap_or_else(PoisonError::into_inner);
        tasks.drain(..).for_each(|task| task.abort());
        if let Some(made) = self.made() {
            made.supervisor
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .abandon();
        }
    }

    fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        self.keep(tokio::spawn(task));
    }

    fn keep(&self, task: JoinHandle<()>) {
        self.tasks
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(task);
    }
}

#[derive(Clone)]
struct Start {
    config: Arc<AgentConfig>,
    control: ControlPlane,
    board: Board,
    wanted: watch::Receiver<Option<Arc<Wanted>>>,
    deployment: Option<DeploymentId>,
    user: WantedUser,
    origin: Option<Arc<Origin>>,
    shared: Arc<Shared>,
}

impl Start {
    /// Works until the agent ends. A panic is a mistake of ours that must not
    /// leave an agent that reports, keeps its lease and does nothing.
    async fn keep_at_it(self) {
        loop {
            let work = AssertUnwindSafe(self.clone().run()).catch_unwind();
            let Err(panic) = work.await else { return };
            let message = format!(
                "the agent's work broke off and begins again, which is a bug in Updraft: {}",
                said(&*panic)
            );
            tracing::error!("{message}");
            self.shared.let_go();
            self.board.change(|observed| {
                observed.activity = None;
                observed.problem = Some(updraft_api::agent::Problem {
                    message,
                    stalled: false,
                });
            });
            tokio::time::sleep(Duration::from_secs(5)).await;
        }
    }

    /// Waits until it is known for which Deployment, then works for it.
    async fn run(mut self) {
        let first = match self.wanted.wait_for(Option::is_some).await {
            Ok(wanted) => wanted.clone(),
            Err(_) => return,
        };
        let Some(first) = first else { return };
        loop {
            match self.prepare(&first) {
                Ok(work) => return work.run().await,
                Err(error) => {
                    let message = format!("could not use the agent's folder: {error}");
                    tracing::error!("{message}");
                    self.board.change(|observed| {
                        observed.problem = Some(updraft_api::agent::Problem {
                            message,
                            stalled: false,
                        });
                    });
                    tokio::time::sleep(Duration::from_secs(5)).await;
                }
            }
        }
    }

    fn prepare(&self, first: &Wanted) -> std::io::Result<Work> {
        let deployment = self.deployment.unwrap_or(first.deployment);
        let disk = Disk::open(&self.config.root, deployment)?;
        if first.runtime == Runtime::External || self.config.external.is_some() {
            let deliver = self.deliver(disk);
            return Ok(Work::External(Box::new(External::new(
                Arc::clone(&self.config),
                deliver,
            ))));
        }
        let secrets = Secrets::load_or_make(&disk.secrets())?;
        let launcher = Launcher {
            wrapper: self.config.wrapper.clone(),
            run: disk.run(),
            logs: disk.logs(),
        };
        let names = Names {
            all: components::LONG_RUNNING,
            with_tasks: components::WITH_TASKS,
        };
        let limit = self.config.drain_timeout;
        let supervisor = Supervisor::new(launcher.clone(), names, limit);
        let supervisor = Arc::new(Mutex::new(supervisor));
        let engines = Engines::new(&self.config);
        let made = Prepared {
            disk: disk.clone(),
            launcher: launcher.clone(),
            supervisor: Arc::clone(&supervisor),
            secrets: secrets.clone(),
            engines: engines.clone(),
        };
        *self
            .shared
            .made
            .lock()
            .unwrap_or_else(PoisonError::into_inner) = Some(made);
        self.shared
            .spawn(show_components(Arc::clone(&supervisor), self.board.clone()));

        let asked = Asked::default();
        let socket = AgentSocket {
            disk: disk.clone(),
            control: self.control.clone(),
            asked: asked.clone(),
            writing: Arc::clone(&self.shared.writing),
        };
        match socket.listen() {
            Ok(task) => self.shared.keep(task),
            // A cleared old run cannot get its version back; all else works.
            Err(error) => tracing::warn!(%error, "could not listen on the agent's socket"),
        }
        let worker = Worker::new(launcher.clone());
        Ok(Work::Process(Box::new(Converge {
            config: Arc::clone(&self.config),
            deliver: self.deliver(disk),
            environments: Environments::new(
                &self.config,
                engines.clone(),
                self.origin.as_ref().map(|origin| origin.lender.clone()),
            ),
            engines,
            supervisor,
            worker,
            launcher,
            secrets,
            user: self.user.clone(),
            asked,
            origin: self.origin.clone(),
            objects: self.shared.objects.clone(),
            memory: Memory::default(),
        })))
    }

    fn deliver(&self, disk: Disk) -> Deliver {
        let writing = Arc::clone(&self.shared.writing);
        let (control, board) = (self.control.clone(), self.board.clone());
        Deliver::new(disk, control, board, self.wanted.clone(), writing)
    }
}

enum Work {
    Process(Box<Converge>),
    External(Box<External>),
}

impl Work {
    async fn run(self) {
        match self {
            Self::Process(converge) => keep_passing(*converge).await,
            Self::External(external) => keep_passing(*external).await,
        }
    }
}

/// What a panic says.
fn said(panic: &(dyn Any + Send)) -> &str {
    panic
        .downcast_ref::<String>()
        .map(String::as_str)
        .or_else(|| panic.downcast_ref::<&str>().copied())
        .unwrap_or("it did not say why")
}

/// Puts every change of a component on the board at once.
async fn show_components(supervisor: Arc<Mutex<Supervisor>>, board: Board) {
    let locked = || supervisor.lock().unwrap_or_else(PoisonError::into_inner);
    let mut changes = locked().changes();
    while changes.changed().await.is_ok() {
        let views = locked().views();
        board.change(|observed| {
            if let Some(airflow) = &mut observed.airflow {
                airflow.components = views;
            }
        });
    }
}

/// An agent at work. Dropping it stops the agent and leaves Airflow running.
pub struct RunningAgent {
    lock: RootLock,
    config: Arc<AgentConfig>,
    board: Board,
    conversation: Vec<JoinHandle<()>>,
    work: JoinHandle<()>,
    shared: Arc<Shared>,
    /// None: it is a Preview's own, or somebody else runs Airflow.
    previews: Option<RunningPreviews>,
}

impl Drop for RunningAgent {
    fn drop(&mut self) {
        self.halt();
    }
}

impl RunningAgent {
    pub fn id(&self) -> AgentId {
        self.lock.agent
    }

    /// What the agent sees, now and at each change.
    pub fn subscribe(&self) -> watch::Receiver<Observed> {
        self.board.subscribe()
    }

    /// Airflow's address.
    pub fn airflow_url(&self) -> String {
        format!("http://127.0.0.1:{}", self.config.airflow_port)
    }

    /// The password of Airflow's user `admin`, once it was made.
    pub fn admin_password(&self) -> Option<String> {
        Some(self.shared.made()?.secrets.admin_password)
    }

    /// Airflow's REST API, signed in as `admin`.
    pub fn airflow_rest(&self) -> Option<Result<AirflowRest, AirflowRestError>> {
        let rest = AirflowRest::new(&self.airflow_url(), "admin", &self.admin_password()?);
        let version = self
            .board
            .read()
            .airflow
            .map(|airflow| airflow.version)
            .unwrap_or_default();
        Some(rest.map(|rest| {
            if version.starts_with("2.") {
                rest.version_1()
            } else {
                rest
            }
        }))
    }

    fn halt(&self) {
        self.work.abort();
        self.conversation.iter().for_each(JoinHandle::abort);
        self.shared.let_go();
    }

    /// Stops the agent, and those of Previews. Airflow goes on; the next agent finds
    /// and adopts it.
    pub async fn stop_agent_only(mut self) {
        let previews = self.previews.take().map(|previews| previews.stop(false));
        join(self.end_only(), OptionFuture::from(previews)).await;
    }

    async fn end_only(mut self) {
        self.halt();
        let _ = (&mut self.work).await;
        blocking_ended(Duration::from_secs(10)).await;
        // The worker serves nobody without its agent.
        if let Some(made) = self.shared.made() {
            let record = made.launcher.files(crate::worker::WORKER).record;
            if let Some(record) = Record::read_alive(&record) {
                record.process.signal(rustix::process::Signal::KILL);
                let _ = tokio::time::timeout(Duration::from_secs(2), record.process.ended()).await;
            }
        }
    }

    /// Stops the agent and all of its Airflow, tasks and Previews included, within 15 s.
    pub async fn stop_with_airflow(mut self) {
        let previews = self.previews.take().map(|previews| previews.stop(true));
        join(self.end_with_airflow(), OptionFuture::from(previews)).await;
    }

    async fn end_with_airflow(mut self) {
        self.halt();
        let _ = (&mut self.work).await;
        if let Some(made) = self.shared.made() {
            stop_all(&made.launcher, components::ALL, &Sign::of(&made.disk)).await;
            if let Some(engine) = made.engines.known().await {
                container::remove_all(&engine, made.disk.root()).await;
            }
        }
        blocking_ended(Duration::from_secs(5)).await;
    }
}
