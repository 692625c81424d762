//! The Previews that an agent runs beside its own Airflow.
//!
//! Each has an agent of its own in this process, with a folder and a token of its
//! own, which knows nothing of the others. This decides which there are: it reads
//! what is wanted, looks at what is here, and acts on the difference.
//! [`folder`] is where they lie, [`lending`] and [`values`] what they get of the
//! Deployment that they are made from.

pub(crate) mod folder;
pub(crate) mod lending;
pub(crate) mod values;

use std::collections::{BTreeMap, BTreeSet};
use std::future::pending;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures_util::FutureExt as _;
use futures_util::future::{BoxFuture, join_all};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use updraft_api::ClientError;
use updraft_api::agent::{TakePreview, Wanted, WantedPreview};
use updraft_model::{AgentId, DeploymentId, PreviewValues, Runtime};

use self::folder::{KeptPreview, PreviewFolder};
use self::lending::Lender;
use self::values::{Objects, Origin};
use crate::agent::{Agent, RunningAgent, StartError};
use crate::airflow::components;
use crate::config::{AgentConfig, TokenSource};
use crate::control::{ControlPlane, explain, refuses};
use crate::deliver::WantedReceiver;
use crate::disk::{Disk, RootError, RootLock};
use crate::environment::{Engines, Pulled};
use crate::fetch::blocking;
use crate::files;
use crate::runtime::container;
use crate::runtime::identity::Sign;
use crate::runtime::supervisor::{Launcher, stop_all};

/// How often Previews are looked at without a reason.
const LOOK: Duration = Duration::from_secs(30);
const FIRST_PAUSE: Duration = Duration::from_secs(2);
const LONGEST_PAUSE: Duration = Duration::from_secs(60);

pub(crate) type Running = Arc<Mutex<BTreeMap<DeploymentId, RunningAgent>>>;

/// What decides which Previews there are.
pub(crate) struct Previews {
    pub(crate) config: Arc<AgentConfig>,
    pub(crate) agent: AgentId,
    pub(crate) control: ControlPlane,
    pub(crate) wanted: WantedReceiver,
    pub(crate) objects: watch::Receiver<Option<Objects>>,
    pub(crate) engines: Engines,
    pub(crate) running: Running,
}

#[derive(Debug, thiserror::Error)]
enum PreviewError {
    #[error(transparent)]
    Client(#[from] ClientError),
    #[error(transparent)]
    Start(#[from] StartError),
    #[error("its folder cannot be used")]
    Folder(#[from] io::Error),
    #[error(transparent)]
    Root(#[from] RootError),
}

/// The Previews of an agent at work. Dropping it leaves their Airflows running.
pub(crate) struct RunningPreviews {
    task: JoinHandle<()>,
    running: Running,
}

impl Drop for RunningPreviews {
    fn drop(&mut self) {
        self.task.abort();
        drop(taken_from(&self.running));
    }
}

impl RunningPreviews {
    /// Stops their agents, with their Airflows or without.
    pub(crate) fn stop(self, with_airflow: bool) -> BoxFuture<'static, ()> {
        self.task.abort();
        let stop = move || async move {
            let mut previews = self;
            let _ = (&mut previews.task).await;
            let agents = taken_from(&previews.running).into_values();
            join_all(agents.map(|agent| stopped(agent, with_airflow))).await;
        };
        stop().boxed()
    }
}

/// Boxed, as an agent stops those that it has.
fn stopped(agent: RunningAgent, with_airflow: bool) -> BoxFuture<'static, ()> {
    if with_airflow {
        agent.stop_with_airflow().boxed()
    } else {
        agent.stop_agent_only().boxed()
    }
}

fn taken_from(running: &Running) -> BTreeMap<DeploymentId, RunningAgent> {
    std::mem::take(&mut *locked(running))
}

fn locked(running: &Running) -> std::sync::MutexGuard<'_, BTreeMap<DeploymentId, RunningAgent>> {
    running.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Those of the wanted Previews that an agent runs, and those that it takes, the
/// oldest first. One that was given fewer places than it has Previews runs the oldest.
fn share(
    wanted: &[WantedPreview],
    agent: AgentId,
    places: u32,
) -> (Vec<WantedPreview>, Vec<WantedPreview>) {
    let places = usize::try_from(places).unwrap_or(usize::MAX);
    let of = |owner: Option<AgentId>| {
        let found = wanted.iter().filter(|it| it.agent == owner);
        let mut found: Vec<_> = found.cloned().collect();
        found.sort_unstable_by_key(|preview| preview.id);
        found
    };
    let (mut own, mut free) = (of(Some(agent)), of(None));
    own.truncate(places);
    free.truncate(places - own.len());
    (own, free)
}

impl Previews {
    pub(crate) fn start(self) -> RunningPreviews {
        let running = Arc::clone(&self.running);
        let task = tokio::spawn(self.run());
        RunningPreviews { task, running }
    }

    async fn run(mut self) {
        // What was kept on the disk may be older than the control plane's word, so
        // nothing ends because of it.
        let mut heard = false;
        let mut pause = FIRST_PAUSE;
        let mut deployment = None;
        loop {
            let wanted = self.wanted.borrow_and_update().clone();
            let all_well = match wanted {
                // A token for another Deployment says nothing about these.
                Some(wanted)
                    if *deployment.get_or_insert(wanted.deployment) == wanted.deployment =>
                {
                    self.pass(wanted, heard).await
                }
                _ => true,
            };
            let next = if all_well { LOOK } else { pause };
            pause = if all_well {
                FIRST_PAUSE
            } else {
                (pause * 2).min(LONGEST_PAUSE)
            };
            tokio::select! {
                () = tokio::time::sleep(next) => {}
                changed = self.wanted.changed() => {
                    if changed.is_err() {
                        // The agent ends, and this with it.
                        pending::<()>().await;
                    }
                    heard = true;
                }
            }
        }
    }

    /// Has those Previews here that are wanted here. False: something is to be tried again.
    async fn pass(&self, wanted: Arc<Wanted>, heard: bool) -> bool {
        let places = match wanted.runtime {
            Runtime::External => 0,
            _ => self.config.previews,
        };
        let (own, free) = share(&wanted.previews, self.agent, places);
        let stay: BTreeSet<DeploymentId> = own.iter().chain(&free).map(|it| it.id).collect();
        let mut all_well = true;
        for preview in own {
            all_well &= self.keeps(preview, Arc::clone(&wanted)).await;
        }
        if !heard {
            return all_well;
        }
        let here = PreviewFolder::all(&self.config.root);
        let mut released = Vec::new();
        for folder in here {
            if !stay.contains(&folder.id) {
                released.push(self.releases(folder).boxed());
            }
        }
        all_well &= join_all(released).await.into_iter().all(|well| well);
        for preview in free {
            all_well &= self.keeps(preview, Arc::clone(&wanted)).await;
        }
        all_well
    }

    /// Says why a Preview does not run.
    async fn keeps(&self, preview: WantedPreview, origin: Arc<Wanted>) -> bool {
        let name = preview.name.clone();
        let Err(error) = self.keep(preview, origin).await else {
            return true;
        };
        tracing::warn!(preview = %name, error = %explain(&error), "could not run a Preview; it is tried again");
        false
    }

    /// Says why a Preview is not gone.
    async fn releases(&self, folder: PreviewFolder) -> bool {
        let id = folder.id;
        let Err(error) = self.release(folder).await else {
            return true;
        };
        tracing::warn!(preview = %id, error = %explain(&error), "could not remove a Preview; it is tried again");
        false
    }

    /// Has a Preview's agent run, which keeps its Airflow.
    async fn keep(&self, preview: WantedPreview, origin: Arc<Wanted>) -> Result<(), PreviewError> {
        let folder = PreviewFolder::new(&self.config.root, preview.id);
        let (runs, is_refused) = match locked(&self.running).get(&preview.id) {
            Some(agent) => (true, refuses(&agent.subscribe().borrow())),
            None => (false, false),
        };
        if preview.agent.is_none() || is_refused || !folder.token().exists() {
            let client = self.control.client();
            let ask = TakePreview { agent: self.agent };
            let taken = client.take_preview(preview.id, &ask).await?;
            folder.keep_token(&taken.secret)?;
        }
        if runs {
            return Ok(());
        }
        let config = self.config_of(&preview, &folder)?;
        let (name, port) = (&preview.name, config.airflow_port);
        tracing::info!(preview = %name, port, "running a Preview");
        let agent = Agent::start_preview(config, self.origin(&preview, &origin, &folder))?;
        locked(&self.running).insert(preview.id, agent);
        Ok(())
    }

    fn config_of(
        &self,
        preview: &WantedPreview,
        folder: &PreviewFolder,
    ) -> io::Result<AgentConfig> {
        let own = &self.config;
        let port = folder.port(&own.root, own.airflow_port)?;
        let template = own.preview_url.as_deref();
        let template = template.unwrap_or("http://127.0.0.1:{port}");
        let url = template.replace("{port}", &port.to_string());
        folder.keep(&KeptPreview {
            name: preview.name.clone(),
            port,
            url: url.clone(),
        })?;
        let user = own.preview_user.as_ref().or(own.airflow_user.as_ref());
        // What the operator gives Airflow beside may be secret as the rest.
        let pass_environment = match preview.values {
            PreviewValues::Copy => own.pass_environment.clone(),
            PreviewValues::Mask | PreviewValues::None => Vec::new(),
        };
        Ok(AgentConfig {
            root: folder.root.clone(),
            connect: own.connect.clone(),
            token: TokenSource::File(folder.token()),
            host: own.host.clone(),
            airflow_port: port,
            airflow_url: Some(url),
            airflow_user: user.cloned(),
            metadata_db_url: None,
            pass_environment,
            wrapper: own.wrapper.clone(),
            tools: Some(own.tools()),
            engine_socket: own.engine_socket.clone(),
            drain_timeout: own.drain_timeout,
            external: None,
            previews: 0,
            preview_user: None,
            preview_url: None,
        })
    }

    fn origin(&self, preview: &WantedPreview, origin: &Wanted, folder: &PreviewFolder) -> Origin {
        let own = &self.config;
        let disk = Disk::at(own.root.join(origin.deployment.to_string()));
        let user = own.preview_user.as_ref();
        Origin {
            name: origin.deployment_name.clone(),
            values: preview.values,
            lender: Lender::new(&disk, &folder.root),
            objects: self.objects.clone(),
            shares_user: user.is_none_or(|user| Some(user) == own.airflow_user.as_ref()),
        }
    }

    /// Ends a Preview that is not wanted here, also one that an agent before this
    /// one has left, and removes all of it.
    async fn release(&self, folder: PreviewFolder) -> Result<(), PreviewError> {
        tracing::info!(preview = %folder.id, "removing a Preview");
        let agent = locked(&self.running).remove(&folder.id);
        if let Some(agent) = agent {
            stopped(agent, true).await;
        }
        // Nobody else may work in there; and it may be what only a record tells of.
        let _lock = RootLock::take(&folder.root)?;
        let disk = Disk::at(folder.root.join(folder.id.to_string()));
        let launcher = Launcher {
            wrapper: self.config.wrapper.clone(),
            run: disk.run(),
            logs: disk.logs(),
        };
        stop_all(&launcher, components::ALL, &Sign::of(&disk)).await;
        if let Ok(engine) = self.engines.engine().await {
            container::remove_all(&engine, disk.root()).await;
            if let Err(error) = Pulled::collect(&disk, &engine, &BTreeSet::new()).await {
                tracing::warn!(%error, "could not remove images that nothing holds");
            }
        }
        let socket = disk.socket();
        let socket = socket.parent().filter(|it| !it.starts_with(disk.root()));
        if let Some(socket) = socket {
            files::remove(socket)?;
        }
        let removed = blocking(move || files::remove(&folder.root)).await;
        Ok(removed.map_err(io::Error::other)??)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_agent_runs_what_is_its_own_and_takes_what_it_has_places_for() {
        let (own, other) = (AgentId::new(), AgentId::new());
        let preview = |name: &str, agent| WantedPreview {
            id: DeploymentId::new(),
            name: name.parse().unwrap(),
            values: PreviewValues::Mask,
            agent,
        };
        let wanted = [
            preview("a", Some(own)),
            preview("b", Some(other)),
            preview("c", None),
            preview("d", None),
            preview("e", Some(own)),
        ];
        let shared = |places| {
            let (own, free) = share(&wanted, own, places);
            let names = |of: Vec<WantedPreview>| -> Vec<String> {
                of.iter().map(|it| it.name.to_string()).collect()
            };
            (names(own).join(""), names(free).join(""))
        };
        assert_eq!(shared(0), (String::new(), String::new()));
        assert_eq!(shared(1), ("a".into(), String::new()));
        assert_eq!(shared(2), ("ae".into(), String::new()));
        assert_eq!(shared(3), ("ae".into(), "c".into()));
        assert_eq!(shared(9), ("ae".into(), "cd".into()));
    }
}
