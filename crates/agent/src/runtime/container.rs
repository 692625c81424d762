//! Components in containers: what is started otherwise, and only that.
//!
//! A container's main process is one of this machine, and shares its numbers of
//! processes, so a component in a container has a record like any other: it is
//! found, adopted, told to end and killed by the same code. What differs is how it
//! comes to be, and that nobody is the wrapper: the agent itself is, under the same lock.
//!
//! 1. Containers of a component have one name, and the engine gives it once.
//! 2. Under the component's lock, a note says which engine is about to be asked.
//! 3. The container is made, started, the record written, and the note removed. Killed
//!    in between, the note leads the next agent to a container that runs and has no record,
//!    whose labels say what the record would; or to one that does not run, which is removed.
//! 4. Whoever starts that component next, in whichever way, follows such a note first.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use updraft_model::Digest;

use super::drains;
use super::identity::ProcessIdentity;
use super::logs;
use super::record::{ComponentFiles, Record};
use super::started::{Input, Output, Started};
use super::supervisor::{Launcher, Spec};
use crate::engine::{
    BindMount, Engine, EngineError, HostConfig, Inspected, LogConfig, NewContainer,
};
use crate::failpoint::failpoint;
use crate::files;

/// The container that a component runs in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct InContainer {
    pub(crate) engine: Engine,
    /// As the engine knows it.
    pub(crate) image: String,
    /// What it sees of this machine.
    pub(crate) mounts: Vec<Mount>,
}

/// A file or folder of this machine, and where the container has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Mount {
    pub(crate) path: PathBuf,
    pub(crate) target: PathBuf,
    pub(crate) writable: bool,
}

impl Mount {
    /// Under the same path in the container.
    pub(crate) fn same(path: &Path, writable: bool) -> Self {
        Self {
            path: path.to_owned(),
            target: path.to_owned(),
            writable,
        }
    }

    /// To be read there.
    pub(crate) fn read_only(path: PathBuf, target: PathBuf) -> Self {
        Self {
            path,
            target,
            writable: false,
        }
    }
}

/// What is written before an engine is asked for a container.
#[derive(Debug, Serialize, Deserialize)]
struct Note {
    socket: PathBuf,
    /// Who is about to ask. No container outlives the machine's boot.
    agent: ProcessIdentity,
}

/// What notes' names end with.
const NOTE: &str = "container";

/// Where a component has its log: it cannot get into the folder that it is in.
const LOG: &str = "/updraft.log";

/// The label with the folder of whose Airflow it is.
pub(crate) const FOLDER: &str = "io.updraft.folder";
const COMPONENT: &str = "io.updraft.component";
const FINGERPRINT: &str = "io.updraft.fingerprint";
const ENVIRONMENT: &str = "io.updraft.environment";
const LOG_OFFSET: &str = "io.updraft.log-offset";

impl Launcher {
    /// Starts a component's container.
    pub(super) async fn start_container(
        &self,
        spec: &Spec,
        within: &InContainer,
        stdio: bool,
    ) -> io::Result<Started> {
        let files = self.files(spec.component);
        let _lock = lock(&files.lock).await?;
        let name = self.container_name(spec.component);
        if Record::read_alive(&files.record).is_some()
            || self.settle(&files, spec.component, &within.engine).await?
        {
            return Ok(Started::gave_way());
        }
        failpoint("agent.container.before_note");
        let note = Note {
            socket: within.engine.socket().to_owned(),
            agent: ProcessIdentity::of_self()?,
        };
        let path = self.note(spec.component);
        files::write_json(&path, &note, 0o600)?;

        let log_offset = give_log(&files.log, spec)?;
        let wanted = self.container(spec, within, &files.log, log_offset, stdio);
        let engine = &within.engine;
        let id = engine.create(&name, &wanted).await?;
        failpoint("agent.container.made");
        let ends: (Option<Input>, Option<Output>) = if stdio {
            let (input, output) = engine.attach(&id).await?;
            (Some(Box::new(input)), Some(Box::new(output)))
        } else {
            (None, None)
        };
        engine.start(&id).await?;
        failpoint("agent.container.started");
        let started = engine.inspect(&id).await?;
        let process = started.as_ref().map(running).transpose()?.flatten();
        if let (Some(started), Some(process)) = (&started, &process) {
            record(spec.component, started, process.clone()).write(&files.record)?;
        }
        failpoint("agent.container.recorded");
        files::remove(&path)?;
        Ok(Started::container(engine.clone(), id, process, ends))
    }

    /// Follows the note of an agent that was cut off, whichever way it now starts.
    /// Says whether the component runs after all.
    pub(super) async fn follow_note(&self, component: &str) -> io::Result<bool> {
        let path = self.note(component);
        let Some(note) = files::read_json::<Note>(&path)? else {
            return Ok(false);
        };
        let files = self.files(component);
        let _lock = lock(&files.lock).await?;
        if Record::read_alive(&files.record).is_some() {
            return Ok(true);
        }
        let runs = if note.agent.is_of_this_boot() {
            let engine = Engine::at(&note.socket).await?;
            self.settle(&files, component, &engine).await?
        } else {
            false
        };
        files::remove(&path)?;
        Ok(runs)
    }

    /// Makes the component's name free, but for one that runs and has no record:
    /// that gets one.
    async fn settle(
        &self,
        files: &ComponentFiles,
        component: &str,
        engine: &Engine,
    ) -> io::Result<bool> {
        let name = self.container_name(component);
        let Some(found) = engine.inspect(&name).await? else {
            return Ok(false);
        };
        if found.label(FOLDER) != Some(&*self.folder()) {
            return Err(io::Error::other(format!(
                "there is a container `{name}` that is not of this agent; remove it"
            )));
        }
        let Some(process) = running(&found)? else {
            engine.remove(&found.id).await?;
            return Ok(false);
        };
        if drains::is_draining(&self.run, component, &process) {
            let aside = format!("{name}-{}", process.pid);
            engine.rename(&found.id, &aside).await?;
            return Ok(false);
        }
        tracing::info!(
            component,
            pid = process.pid,
            "its container was found without a record"
        );
        record(component, &found, process).write(&files.record)?;
        Ok(true)
    }

    fn container<'a>(
        &self,
        spec: &'a Spec,
        within: &'a InContainer,
        log: &'a Path,
        log_offset: u64,
        stdio: bool,
    ) -> NewContainer<'a> {
        // The log is appended to by the component itself: it may outlive the agent,
        // and its output is not to be kept twice.
        const TO_LOG: &str = "umask 0027; log=$1; shift; exec \"$@\" >>\"$log\" 2>&1 </dev/null";
        const ERRORS_TO_LOG: &str = "umask 0027; log=$1; shift; exec \"$@\" 2>>\"$log\"";
        let script = if stdio { ERRORS_TO_LOG } else { TO_LOG };
        let command = spec.command.iter();
        let command = command.map(|argument| argument.to_string_lossy().into_owned());
        let labels = [
            (FOLDER, Some(self.folder())),
            (COMPONENT, Some(spec.component.to_owned())),
            (FINGERPRINT, Some(spec.fingerprint())),
            (
                ENVIRONMENT,
                spec.environment.map(|digest| digest.to_string()),
            ),
            (LOG_OFFSET, Some(log_offset.to_string())),
        ];
        let mount = |path: &'a Path, target: &'a Path, writable: bool| BindMount {
            kind: "bind",
            source: path,
            target,
            read_only: !writable,
        };
        let mounts = within.mounts.iter();
        let mounts = mounts.map(|it| mount(&it.path, &it.target, it.writable));
        let log = mount(log, Path::new(LOG), true);
        NewContainer {
            image: &within.image,
            entrypoint: vec!["/bin/sh".into(), "-c".into(), script.into(), "sh".into()],
            cmd: std::iter::once(LOG.to_owned()).chain(command).collect(),
            env: spec
                .variables
                .iter()
                .map(|(name, value)| format!("{name}={value}"))
                .collect(),
            user: user(spec, &within.engine),
            working_dir: &spec.folder,
            labels: labels
                .into_iter()
                .filter_map(|(name, value)| Some((name, value?)))
                .collect::<BTreeMap<_, _>>(),
            open_stdin: stdio,
            stdin_once: stdio,
            host_config: HostConfig {
                network_mode: "host",
                // What Airflow's parts and the agent tell each other of processes holds.
                pid_mode: "host",
                // Files keep the labels that they have.
                security_opt: ["label=disable"],
                log_config: LogConfig { kind: "none" },
                mounts: mounts.chain([log]).collect(),
            },
        }
    }

    /// Short enough for any engine, and of this folder alone.
    fn container_name(&self, component: &str) -> String {
        let folder = Digest::of(self.folder().as_bytes());
        format!("updraft-{}-{component}", folder.short())
    }

    /// The folder of the Airflow.
    fn folder(&self) -> String {
        let folder = self.run.parent().unwrap_or(&self.run);
        folder.display().to_string()
    }

    fn note(&self, component: &str) -> PathBuf {
        self.run.join(format!("{component}.{NOTE}"))
    }

    /// Waits until nothing is being started.
    pub(super) async fn wait_for_starts(&self, components: &[&str]) {
        for component in components {
            let Ok(file) = File::open(self.files(component).lock) else {
                continue;
            };
            while let Err(fs::TryLockError::WouldBlock) = file.try_lock() {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        }
    }

    /// Removes the notes of who was cut off, where all containers are gone.
    pub(crate) fn forget_notes(&self) -> io::Result<()> {
        for entry in fs::read_dir(&self.run)? {
            let path = entry?.path();
            if path.extension().is_some_and(|it| it == NOTE) {
                files::remove(&path)?;
            }
        }
        Ok(())
    }
}

/// Removes containers of an Airflow that do not run any more.
pub(crate) async fn remove_ended(engine: &Engine, folder: &Path) {
    // podman knows no other state for this, and refuses to be asked for one.
    let states: &[&str] = match engine.name() {
        "podman" => &["exited"],
        _ => &["exited", "dead"],
    };
    tell(remove(engine, folder, states).await);
}

/// Removes all containers of an Airflow, whose processes were told to end.
pub(crate) async fn remove_all(engine: &Engine, folder: &Path) {
    tell(remove(engine, folder, &[]).await);
}

/// What comes after does not depend on it.
fn tell(removed: Result<(), EngineError>) {
    if let Err(error) = removed {
        tracing::warn!(%error, "could not remove containers that have ended");
    }
}

/// Removes the containers of an Airflow that are in these states; without one, all.
pub(crate) async fn remove(
    engine: &Engine,
    folder: &Path,
    states: &[&str],
) -> Result<(), EngineError> {
    let label = format!("{FOLDER}={}", folder.display());
    for id in engine.list(&label, states).await? {
        engine.remove(&id).await?;
    }
    Ok(())
}

/// The process of a container, while it runs.
fn running(container: &Inspected) -> io::Result<Option<ProcessIdentity>> {
    let state = &container.state;
    if !state.running || state.pid == 0 {
        return Ok(None);
    }
    // An engine in a virtual machine numbers processes of its own, and the same
    // number here would be somebody else's.
    let Ok(groups) = fs::read_to_string(format!("/proc/{}/cgroup", state.pid)) else {
        return Ok(None);
    };
    if !groups.contains(&container.id) {
        return Err(io::Error::other(
            "the engine's processes are not of this machine; Updraft has to run beside the engine",
        ));
    }
    Ok(ProcessIdentity::of(state.pid)
        .ok()
        .filter(ProcessIdentity::is_alive))
}

/// What the record of a container says, by what was noted when it was made.
fn record(component: &str, container: &Inspected, process: ProcessIdentity) -> Record {
    let log_offset = container.label(LOG_OFFSET);
    Record {
        component: component.to_owned(),
        process,
        environment: container.label(ENVIRONMENT).and_then(|it| it.parse().ok()),
        fingerprint: container.label(FINGERPRINT).unwrap_or_default().to_owned(),
        started_at: chrono::Utc::now(),
        log_offset: log_offset.and_then(|it| it.parse().ok()).unwrap_or(0),
        draining_since: None,
    }
}

/// Images of Airflow take any user of group 0.
fn user(spec: &Spec, engine: &Engine) -> String {
    if engine.rootless {
        return "0:0".into();
    }
    let own = || rustix::process::geteuid().as_raw();
    format!("{}:0", spec.user.map_or_else(own, |ids| ids.uid))
}

/// Has the component's user append to its log. Says where its output begins.
fn give_log(path: &Path, spec: &Spec) -> io::Result<u64> {
    let log = logs::open(path)?;
    if let Some(ids) = spec.user {
        std::os::unix::fs::fchown(&log, Some(ids.uid), None)?;
    }
    Ok(log.metadata()?.len())
}

/// Held until it is dropped, or the agent ends, however it does.
async fn lock(path: &Path) -> io::Result<File> {
    let file = OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .mode(0o600)
        .open(path)?;
    let locked = tokio::task::spawn_blocking(move || file.lock().map(|()| file));
    locked.await.map_err(io::Error::other)?
}
