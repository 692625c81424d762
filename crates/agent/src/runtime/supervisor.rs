//! Keeps components up, each in a task of its own.
//!
//! A component's task takes no input beyond the newest [`Spec`]: it looks at the
//! record, adopts what runs as wanted, stops what runs otherwise, starts what
//! does not run, and waits for the first thing that changes that.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::PathBuf;
use std::process::Stdio;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use tokio::io::AsyncWriteExt;
use tokio::process::Command;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use updraft_api::agent::{ComponentState, ComponentView};
use updraft_image::RunAs;
use updraft_model::Digest;

use super::container::InContainer;
use super::drains::Drains;
use super::exec::{self, Exec};
use super::identity::{ProcessIdentity, Sign, family, left_in_session};
use super::logs::{self, Hidden};
use super::record::{ComponentFiles, Record};
use super::started::Started;
use crate::airflow::settings::{MARK, SYSTEM_PATH};

/// Everything a component is started with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Spec {
    pub(crate) component: &'static str,
    pub(crate) command: Vec<OsString>,
    pub(crate) variables: BTreeMap<String, String>,
    pub(crate) folder: PathBuf,
    pub(crate) user: Option<RunAs>,
    pub(crate) environment: Option<Digest>,
    /// None: a process like any other.
    pub(crate) container: Option<InContainer>,
    /// Of what was asked for, as opposed to how this agent goes about it: see
    /// [`Spec::fingerprint`].
    pub(crate) asked: Digest,
    /// What its output may quote and reports must not.
    pub(crate) hidden: Hidden,
    /// How long it may take to stop by itself, when it has to be replaced.
    pub(crate) grace: Duration,
    /// Whether what it started is work to be done also after it has crashed, or
    /// was replaced.
    pub(crate) leaves_tasks: bool,
}

impl Spec {
    /// Tells whether something that runs is what was asked for. The command and
    /// its variables are no part of it: they are also the agent's own defaults
    /// and what the shell that started it had set, and a new agent, or another
    /// shell, is no reason to interrupt a task. They apply at the next start.
    pub(crate) fn fingerprint(&self) -> String {
        let user = self.user.map(|ids| (ids.uid, ids.gid));
        let all = serde_json::json!([self.component, self.asked, self.folder, user]);
        Digest::of(all.to_string().as_bytes()).hex()
    }
}

/// Where and how processes are started.
#[derive(Debug, Clone)]
pub(crate) struct Launcher {
    /// The command that is the wrapper, to which its arguments are added.
    pub(crate) wrapper: Vec<OsString>,
    pub(crate) run: PathBuf,
    pub(crate) logs: PathBuf,
}

impl Launcher {
    pub(crate) fn files(&self, component: &str) -> ComponentFiles {
        ComponentFiles::new(&self.run, &self.logs, component)
    }

    /// Starts a component, unless it runs.
    pub(crate) async fn spawn(&self, spec: &Spec, stdio: bool) -> std::io::Result<Started> {
        if let Some(within) = spec.container.clone() {
            // To its end also where nobody waits any more: the engine would go on by itself.
            let (launcher, spec) = (self.clone(), spec.clone());
            let start =
                tokio::spawn(async move { launcher.start_container(&spec, &within, stdio).await });
            return start.await.map_err(std::io::Error::other)?;
        }
        if self.follow_note(spec.component).await? {
            return Ok(Started::gave_way());
        }
        self.start_wrapper(spec, stdio).await
    }

    /// Starts the wrapper for a spec, which becomes the component. The wrapper
    /// may be root, and a variable of the component's can be code (`LD_PRELOAD`),
    /// so it runs in an environment of ours, away from folders of others, and
    /// reads the component's variables from its standard input.
    async fn start_wrapper(&self, spec: &Spec, stdio: bool) -> std::io::Result<Started> {
        let exec = Exec {
            component: spec.component.to_owned(),
            run: self.run.clone(),
            logs: self.logs.clone(),
            folder: spec.folder.clone(),
            fingerprint: spec.fingerprint(),
            environment: spec.environment,
            user: spec.user,
            stdio,
            command: spec.command.clone(),
        };
        let mut command = Command::new(&self.wrapper[0]);
        command
            .args(&self.wrapper[1..])
            .args(exec.to_args())
            .env_clear()
            .env("PATH", SYSTEM_PATH)
            // By which it is found when all of an Airflow has to stop.
            .envs(spec.variables.get_key_value(MARK))
            .current_dir("/")
            .stdin(Stdio::piped())
            .stderr(Stdio::null())
            .kill_on_drop(stdio);
        // The wrapper's own failpoints; it ends at them, so Airflow never sees this.
        if cfg!(debug_assertions)
            && let Ok(name) = std::env::var("UPDRAFT_FAILPOINT")
            && name.starts_with("agent.exec.")
        {
            command.env("UPDRAFT_FAILPOINT", name);
        }
        command.stdout(if stdio { Stdio::piped() } else { Stdio::null() });
        let mut child = command.spawn()?;
        if let Some(input) = &mut child.stdin {
            // One that gave way has closed it; its exit code says so.
            let _ = input
                .write_all(&exec::variables_message(&spec.variables))
                .await;
        }
        if !stdio {
            child.stdin.take();
        }
        Ok(Started::wrapper(child))
    }

    /// Runs a command to its end, and says how that was. One that an earlier
    /// agent began is waited for first, so that two never run at once.
    pub(crate) async fn run_to_end(&self, spec: &Spec) -> Result<(), String> {
        let files = self.files(spec.component);
        for _ in 0..3 {
            if let Some(record) = Record::read_alive(&files.record) {
                record.process.ended().await;
            }
            let offset = std::fs::metadata(&files.log).map_or(0, |metadata| metadata.len());
            let ended = async { self.spawn(spec, false).await?.wait().await };
            let ended = match ended.await {
                Ok(ended) => ended,
                Err(error) => return Err(format!("could not start it: {error}")),
            };
            if ended.well() {
                return Ok(());
            }
            if !ended.found_another() {
                return Err(format!(
                    "{ended}\n{}",
                    logs::tail(&files.log, offset, 30, &spec.hidden)
                ));
            }
        }
        Err("another one runs again and again".into())
    }
}

/// A running or wanted component, seen from outside its task.
#[derive(Debug)]
struct Handle {
    spec: watch::Sender<Option<Spec>>,
    view: watch::Receiver<Seen>,
    task: JoinHandle<()>,
}

/// What a component's task knows.
#[derive(Debug, Clone, PartialEq)]
struct Seen {
    view: ComponentView,
    record: Option<Record>,
    /// The fingerprint that it is kept up from, and its crashes in a row.
    of: String,
    crashes: u32,
}

/// A component that does not run as wanted.
#[derive(Debug)]
pub(crate) struct NotUp {
    pub(crate) view: ComponentView,
    /// Crashes in a row since this was wanted.
    pub(crate) crashes: u32,
}

/// The components of one Airflow.
pub(crate) struct Supervisor {
    launcher: Launcher,
    names: Names,
    drains: Drains,
    components: BTreeMap<&'static str, Handle>,
    /// Told of every change of a component, so that reports go out at once.
    changed: Arc<watch::Sender<u64>>,
}

/// Which components there can be.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Names {
    /// Also one that an earlier agent started and nobody wants now has to be stopped.
    pub(crate) all: &'static [&'static str],
    /// Those that tasks are children of: they are not stopped but drained.
    pub(crate) with_tasks: &'static [&'static str],
}

impl Supervisor {
    /// `limit`: how long tasks of what was replaced may take to end.
    pub(crate) fn new(launcher: Launcher, names: Names, limit: Duration) -> Self {
        let changed = Arc::new(watch::Sender::new(0));
        Self {
            drains: Drains::new(&launcher.run, limit, &changed),
            launcher,
            names,
            components: BTreeMap::new(),
            changed,
        }
    }

    /// What was replaced and still has tasks.
    pub(crate) fn draining(&self) -> Vec<Record> {
        self.drains.records()
    }

    /// Says of these alone that they are not wanted for now.
    pub(crate) fn pause(&mut self, names: &[&'static str]) {
        for name in names {
            self.set(name, None);
        }
    }

    pub(crate) fn changes(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }

    /// Says which components there should be. Those that run as wanted are left
    /// alone, whoever started them.
    pub(crate) fn want(&mut self, specs: &[Spec]) {
        for name in self.names.all {
            let spec = specs.iter().find(|spec| spec.component == *name);
            self.set(name, spec.cloned());
        }
    }

    fn set(&mut self, name: &'static str, spec: Option<Spec>) {
        if let Some(handle) = self.components.get(name) {
            handle.spec.send_if_modified(|wanted| {
                let differs = *wanted != spec;
                *wanted = spec;
                differs
            });
            return;
        }
        let drains = self.names.with_tasks.contains(&name);
        let drains = drains.then(|| self.drains.clone());
        let handle = start_task(name, spec, &self.launcher, drains, &self.changed);
        self.components.insert(name, handle);
    }

    pub(crate) fn views(&self) -> Vec<ComponentView> {
        self.components
            .values()
            .filter(|handle| {
                handle.spec.borrow().is_some() || handle.view.borrow().view.pid.is_some()
            })
            .map(|handle| handle.view.borrow().view.clone())
            .chain(self.drains.records().iter().map(draining_view))
            .collect()
    }

    pub(crate) fn wants(&self, component: &str) -> bool {
        self.components
            .get(component)
            .is_some_and(|handle| handle.spec.borrow().is_some())
    }

    /// The first wanted component that does not run as wanted, or has not for
    /// as long as that. One that is being replaced is not up, however well it runs.
    pub(crate) fn not_up(&self, for_long: Duration) -> Option<NotUp> {
        self.components.values().find_map(|handle| {
            let wanted = handle.spec.borrow().as_ref()?.fingerprint();
            let seen = handle.view.borrow();
            let is_wanted =
                |record: &Record| record.fingerprint == wanted && record.process.age() >= for_long;
            let up = seen.view.state == ComponentState::Running
                && seen.record.as_ref().is_some_and(is_wanted);
            (!up).then(|| NotUp {
                view: seen.view.clone(),
                crashes: if seen.of == wanted { seen.crashes } else { 0 },
            })
        })
    }

    /// The record of a component that runs from its wanted spec.
    pub(crate) fn running(&self, component: &str) -> Option<Record> {
        let handle = self.components.get(component)?;
        let wanted = handle.spec.borrow().as_ref()?.fingerprint();
        let seen = handle.view.borrow();
        let record = seen.record.clone()?;
        (record.fingerprint == wanted && record.process.is_alive()).then_some(record)
    }

    /// Lets go of every component without touching it: the next agent adopts.
    pub(crate) fn abandon(&mut self) {
        for handle in std::mem::take(&mut self.components).into_values() {
            handle.task.abort();
        }
        self.drains.abandon();
    }
}

fn draining_view(record: &Record) -> ComponentView {
    ComponentView {
        name: record.component.clone(),
        state: ComponentState::Draining,
        pid: Some(record.process.pid),
        restarts: 0,
        last_error: None,
    }
}

fn start_task(
    name: &'static str,
    spec: Option<Spec>,
    launcher: &Launcher,
    drains: Option<Drains>,
    changed: &Arc<watch::Sender<u64>>,
) -> Handle {
    // What is wanted is said first: a task that did not know would stop what runs.
    let (spec, specs) = watch::channel(spec);
    let view = ComponentView {
        name: name.to_owned(),
        state: ComponentState::Stopped,
        pid: None,
        restarts: 0,
        last_error: None,
    };
    let (seen, view) = watch::channel(Seen {
        view,
        record: None,
        of: String::new(),
        crashes: 0,
    });
    let component = Component {
        name,
        launcher: launcher.clone(),
        drains,
        specs,
        seen,
        changed: Arc::clone(changed),
        backoff: Backoff::default(),
    };
    Handle {
        spec,
        view,
        task: tokio::spawn(component.keep()),
    }
}

struct Component {
    name: &'static str,
    launcher: Launcher,
    /// Where it goes when it is replaced and has tasks.
    drains: Option<Drains>,
    specs: watch::Receiver<Option<Spec>>,
    seen: watch::Sender<Seen>,
    changed: Arc<watch::Sender<u64>>,
    backoff: Backoff,
}

/// How often a look at what runs is repeated without a reason.
const LOOK: Duration = Duration::from_secs(30);
/// A component that was up this long did not crash because of how it starts.
const SETTLED: Duration = Duration::from_secs(60);
/// A component that is up this long has passed its imports.
const STARTED: Duration = Duration::from_secs(3);

impl Component {
    async fn keep(mut self) {
        let files = self.launcher.files(self.name);
        loop {
            let wanted = self.specs.borrow_and_update().clone();
            if let Some(spec) = &wanted {
                self.begin(spec.fingerprint());
            }
            let running = Record::read_alive(&files.record);
            match (wanted, running) {
                (None, None) => {
                    self.show(ComponentState::Stopped, None);
                    if self.specs.changed().await.is_err() {
                        return;
                    }
                }
                (Some(spec), Some(record)) if record.fingerprint == spec.fingerprint() => {
                    self.attend(&files, &spec, record).await;
                }
                (_, Some(record)) if self.drains.is_some() => self.drain(&files, record).await,
                (wanted, Some(record)) => {
                    let state = if wanted.is_some() {
                        ComponentState::Starting
                    } else {
                        ComponentState::Running
                    };
                    self.show(state, Some(record.clone()));
                    let grace = wanted.map_or(Duration::from_secs(10), |spec| spec.grace);
                    tracing::info!(component = self.name, pid = record.process.pid, "stopping");
                    stop(&record.process, grace).await;
                }
                (Some(spec), None) => self.start(&files, &spec).await,
            }
        }
    }

    async fn drain(&self, files: &ComponentFiles, record: Record) {
        let Some(drains) = &self.drains else { return };
        if let Err(error) = drains.begin(files, record) {
            tracing::error!(component = self.name, %error, "could not be replaced");
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
    }

    /// Crashes of what was wanted before say nothing about what is wanted now.
    fn begin(&mut self, of: String) {
        if self.seen.borrow().of == of {
            return;
        }
        self.backoff = Backoff::default();
        self.seen.send_modify(|seen| {
            seen.of = of;
            seen.crashes = 0;
            seen.view.restarts = 0;
            seen.view.last_error = None;
        });
    }

    /// Waits beside a component that runs as wanted.
    async fn attend(&mut self, files: &ComponentFiles, spec: &Spec, record: Record) {
        let age = record.process.age();
        let since = Instant::now().checked_sub(age).unwrap_or_else(Instant::now);
        let state = |age| {
            if age < STARTED {
                ComponentState::Starting
            } else {
                ComponentState::Running
            }
        };
        self.show(state(age), Some(record.clone()));
        let pause = if age < STARTED {
            STARTED.saturating_sub(age)
        } else {
            LOOK
        };
        tokio::select! {
            () = record.process.ended() => {
                if since.elapsed() > SETTLED {
                    self.backoff = Backoff::default();
                }
                let hidden = spec.hidden.clone();
                self.crashed(&logs::tail(&files.log, record.log_offset, 20, &hidden)).await;
            }
            changed = self.specs.changed() => if changed.is_err() {
                // The agent is ending; the component is not.
                std::future::pending::<()>().await;
            },
            () = tokio::time::sleep(pause) => {
                if let Err(error) = logs::rotate(&files.log) {
                    tracing::warn!(component = self.name, %error, "could not rotate its log");
                }
            }
        }
    }

    async fn start(&mut self, files: &ComponentFiles, spec: &Spec) {
        let offset = std::fs::metadata(&files.log).map_or(0, |metadata| metadata.len());
        self.show(ComponentState::Starting, None);
        if let (false, Some(before)) = (spec.leaves_tasks, Record::read(&files.record)) {
            end_leftovers(&before.process).await;
        }
        let mut started = match self.launcher.spawn(spec, false).await {
            Ok(started) => started,
            Err(error) => {
                self.crashed(&format!("could not start it: {error}")).await;
                return;
            }
        };
        let pid = started.pid();
        // The child becomes the component; until it has, the record says otherwise.
        loop {
            if let Some(record) = Record::read_alive(&files.record)
                && Some(record.process.pid) == pid
            {
                tracing::info!(component = self.name, pid, "started");
                break;
            }
            if let Some(ended) = started.ended().await {
                if !ended.found_another() {
                    let tail = logs::tail(&files.log, offset, 20, &spec.hidden);
                    self.crashed(if tail.is_empty() {
                        "it ended without a word"
                    } else {
                        &tail
                    })
                    .await;
                }
                return;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        // Reaps it whenever it ends; its end is seen by its record.
        tokio::spawn(async move { started.wait().await });
    }

    async fn crashed(&mut self, last_lines: &str) {
        let pause = self.backoff.next();
        tracing::warn!(
            component = self.name,
            ?pause,
            "crashed; it will be started again"
        );
        self.seen.send_modify(|seen| {
            seen.record = None;
            seen.view.pid = None;
            seen.view.state = ComponentState::Waiting;
            seen.view.restarts += 1;
            seen.crashes = self.backoff.0;
            seen.view.last_error = Some(last_lines.trim().to_owned());
        });
        self.changed.send_modify(|count| *count += 1);
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            // A new spec may be what mends it.
            _ = self.specs.changed() => {}
        }
    }

    fn show(&self, state: ComponentState, record: Option<Record>) {
        let modified = self.seen.send_if_modified(|seen| {
            let view = ComponentView {
                state,
                pid: record.as_ref().map(|record| record.process.pid),
                ..seen.view.clone()
            };
            let new = Seen {
                view,
                record,
                ..seen.clone()
            };
            let differs = *seen != new;
            *seen = new;
            differs
        });
        if modified {
            self.changed.send_modify(|count| *count += 1);
        }
    }
}

/// Pauses between starts: 1, 2, 4 … 60 seconds.
#[derive(Debug, Default)]
struct Backoff(u32);

impl Backoff {
    fn next(&mut self) -> Duration {
        let pause = Duration::from_secs((1 << self.0.min(6)).min(60));
        self.0 += 1;
        pause
    }
}

/// Ends one component: politely to the process itself, which ends what it
/// started (a scheduler lets its tasks finish), and firmly to its whole session
/// after the grace.
async fn stop(process: &ProcessIdentity, grace: Duration) {
    process.signal(Signal::TERM);
    if tokio::time::timeout(grace, process.ended()).await.is_ok() {
        return;
    }
    for member in family(&[process.pid], None) {
        member.signal(Signal::KILL);
    }
    let _ = tokio::time::timeout(Duration::from_secs(5), process.ended()).await;
}

/// Ends what a component that is gone has left in its session: a web server's
/// children would keep its port and its pid file.
async fn end_leftovers(leader: &ProcessIdentity) {
    let left = left_in_session(leader);
    for process in &left {
        process.signal(Signal::KILL);
    }
    let ended = async {
        for process in &left {
            process.ended().await;
        }
    };
    let _ = tokio::time::timeout(Duration::from_secs(5), ended).await;
}

/// Ends all of an Airflow, tasks included: those with a record, what is in
/// their sessions or descends from them, and whatever carries the mark or was
/// orphaned in Airflow's home.
pub(crate) async fn stop_all(launcher: &Launcher, components: &[&str], sign: &Sign) {
    // What is about to start would be missed.
    let under_way = launcher.wait_for_starts(components);
    let _ = tokio::time::timeout(STARTS, under_way).await;
    let mut known: Vec<ProcessIdentity> = components
        .iter()
        .filter_map(|component| Record::read_alive(&launcher.files(component).record))
        .map(|record| record.process)
        .collect();
    let begun = Instant::now();
    let mut told: Vec<ProcessIdentity> = Vec::new();
    while begun.elapsed() < POLITE + FIRM {
        // What was seen once stays known: its leader may end before it does.
        known.retain(ProcessIdentity::is_alive);
        let numbers: Vec<u32> = known.iter().map(|process| process.pid).collect();
        known = family(&numbers, Some(sign));
        if known.is_empty() {
            return;
        }
        if begun.elapsed() > POLITE {
            for process in &known {
                process.signal(Signal::KILL);
            }
        } else {
            // Once each: some take a second request for impatience.
            for process in known.iter().filter(|process| !told.contains(process)) {
                process.signal(Signal::TERM);
            }
            told.clone_from(&known);
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    tracing::error!(
        left = known.len(),
        "some of Airflow's processes did not end"
    );
}

/// How long starts that are under way are waited for.
const STARTS: Duration = Duration::from_secs(15);
/// How long all of an Airflow may take to stop by itself.
const POLITE: Duration = Duration::from_secs(9);
/// How long it is then killed for.
const FIRM: Duration = Duration::from_secs(4);

#[cfg(test)]
mod tests {
    use super::*;

    /// Not a test of its own: this binary, started again with these arguments,
    /// is the wrapper.
    #[test]
    fn wrapper() {
        let mut args = std::env::args_os().skip_while(|arg| arg != "--");
        if args.next().is_some() {
            let error = super::super::exec::exec_component(args).unwrap_err();
            std::process::exit(error.exit_code());
        }
    }

    struct Place {
        folder: tempfile::TempDir,
        launcher: Launcher,
    }

    const HOUR: Duration = Duration::from_secs(3600);

    fn supervisor(place: &Place) -> Supervisor {
        let names = Names {
            all: &["part"],
            with_tasks: &[],
        };
        Supervisor::new(place.launcher.clone(), names, HOUR)
    }

    fn with_tasks(place: &Place, limit: Duration) -> Supervisor {
        let names = Names {
            all: &["part"],
            with_tasks: &["part"],
        };
        Supervisor::new(place.launcher.clone(), names, limit)
    }

    impl Place {
        fn new() -> Self {
            let folder = tempfile::tempdir().unwrap();
            let wrapper = [
                std::env::current_exe().unwrap().into_os_string(),
                "runtime::supervisor::tests::wrapper".into(),
                "--exact".into(),
                "--nocapture".into(),
                "--".into(),
            ];
            let (run, logs) = (folder.path().join("run"), folder.path().join("logs"));
            std::fs::create_dir(&run).unwrap();
            std::fs::create_dir(&logs).unwrap();
            Self {
                launcher: Launcher {
                    wrapper: wrapper.into(),
                    run,
                    logs,
                },
                folder,
            }
        }

        fn spec(&self, script: &str) -> Spec {
            let mark = (MARK.to_owned(), self.folder.path().display().to_string());
            let path = ("PATH".to_owned(), "/usr/bin:/bin".to_owned());
            Spec {
                component: "part",
                command: vec!["/bin/sh".into(), "-c".into(), script.into()],
                variables: [mark, path].into(),
                folder: self.folder.path().to_owned(),
                user: None,
                environment: None,
                container: None,
                asked: Digest::of(script.as_bytes()),
                hidden: Hidden::default(),
                grace: Duration::from_secs(2),
                leaves_tasks: false,
            }
        }

        fn sign(&self) -> Sign {
            Sign {
                mark: format!("{MARK}={}", self.folder.path().display()),
                home: self.folder.path().to_owned(),
            }
        }

        fn record(&self) -> Option<Record> {
            Record::read_alive(&self.launcher.files("part").record)
        }

        /// The process that a spec runs as, once it does.
        async fn running(&self, supervisor: &Supervisor) -> Record {
            for _ in 0..500 {
                if let Some(record) = supervisor.running("part") {
                    return record;
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            panic!("it does not run: {:?}", supervisor.views());
        }
    }

    impl Drop for Place {
        fn drop(&mut self) {
            for process in family(&[], Some(&self.sign())) {
                process.signal(Signal::KILL);
            }
        }
    }

    #[tokio::test]
    async fn the_next_agent_adopts_what_runs() {
        let place = Place::new();
        let spec = place.spec("exec sleep 300");
        let mut first = supervisor(&place);
        first.want(std::slice::from_ref(&spec));
        let record = place.running(&first).await;
        first.abandon();

        let mut second = supervisor(&place);
        second.want(&[spec]);
        assert_eq!(place.running(&second).await, record);
        assert_eq!(family(&[], Some(&place.sign())).len(), 1);
    }

    #[tokio::test]
    async fn another_agent_with_other_defaults_adopts_too_and_starts_its_own_way() {
        let place = Place::new();
        let spec = place.spec("exec sleep 300");
        let mut first = supervisor(&place);
        first.want(std::slice::from_ref(&spec));
        let record = place.running(&first).await;
        first.abandon();

        // Upgraded, from another shell, in a venv with another package of ours.
        let mut upgraded = spec.clone();
        upgraded.command = vec!["/bin/sh".into(), "-c".into(), "exec sleep 400".into()];
        upgraded.variables.insert("LANG".into(), "C".into());
        let mut second = supervisor(&place);
        second.want(&[upgraded]);
        assert_eq!(place.running(&second).await, record);
        assert_eq!(family(&[], Some(&place.sign())).len(), 1);

        record.process.signal(Signal::KILL);
        record.process.ended().await;
        let next = loop {
            let next = place.running(&second).await;
            if next.process != record.process {
                break next;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        };
        // The record is the wrapper's, which becomes the component a moment later.
        let becomes = async {
            let command = format!("/proc/{}/cmdline", next.process.pid);
            while !String::from_utf8_lossy(&std::fs::read(&command).unwrap()).contains("400") {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(20), becomes)
            .await
            .unwrap();
    }

    #[tokio::test]
    async fn what_is_being_replaced_is_not_up_and_old_crashes_do_not_count() {
        let place = Place::new();
        let mut supervisor = supervisor(&place);
        supervisor.want(&[place.spec("exit 3")]);
        let mut changes = supervisor.changes();
        while supervisor.not_up(Duration::ZERO).unwrap().crashes < 2 {
            changes.changed().await.unwrap();
        }
        // Ignores a polite request, so that replacing it takes a while.
        let stubborn = place.spec("trap '' TERM; while :; do sleep 1; done");
        supervisor.want(&[stubborn]);
        assert_eq!(supervisor.not_up(Duration::ZERO).unwrap().crashes, 0);
        while supervisor.not_up(Duration::ZERO).is_some() {
            changes.changed().await.unwrap();
        }
        let old = place.record().unwrap();
        assert_eq!(supervisor.views()[0].restarts, 0);

        supervisor.want(&[place.spec("exec sleep 300")]);
        let begun = Instant::now();
        while old.process.is_alive() {
            let not_up = supervisor.not_up(Duration::ZERO).is_some();
            assert!(not_up || !old.process.is_alive());
            assert!(begun.elapsed() < Duration::from_secs(30));
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        while supervisor.not_up(Duration::ZERO).is_some() {
            changes.changed().await.unwrap();
        }
        assert_ne!(place.record().unwrap(), old);
    }

    #[tokio::test]
    async fn what_an_earlier_agent_started_and_nobody_wants_is_stopped() {
        let place = Place::new();
        let mut first = supervisor(&place);
        first.want(&[place.spec("exec sleep 300")]);
        let record = place.running(&first).await;
        first.abandon();

        let mut second = supervisor(&place);
        second.want(&[]);
        tokio::time::timeout(Duration::from_secs(20), record.process.ended())
            .await
            .unwrap();
    }

    #[tokio::test]
    async fn a_component_that_crashed_leaves_nothing_but_tasks() {
        for leaves_tasks in [false, true] {
            let place = Place::new();
            let mut supervisor = supervisor(&place);
            let spec = Spec {
                leaves_tasks,
                ..place.spec("env -i sleep 300 & exec sleep 301")
            };
            supervisor.want(&[spec]);
            let leader = place.running(&supervisor).await.process;
            while left_by(&leader).is_empty() {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            let child = left_by(&leader).remove(0);
            leader.signal(Signal::KILL);
            leader.ended().await;
            while place.running(&supervisor).await.process == leader {}
            assert_eq!(child.is_alive(), leaves_tasks);

            // Its session has lost its leader, and it has no mark.
            supervisor.abandon();
            stop_all(&place.launcher, &["part"], &place.sign()).await;
            assert!(!child.is_alive());
        }
    }

    /// The descendants of a process that runs.
    fn left_by(leader: &ProcessIdentity) -> Vec<ProcessIdentity> {
        let mut family = family(&[leader.pid], None);
        family.retain(|process| process != leader);
        family
    }

    #[tokio::test]
    async fn the_wrapper_knows_nothing_of_the_components_variables() {
        let mut place = Place::new();
        let seen = place.folder.path().join("seen");
        let script = format!("{{ env; pwd; }} >{}; exec \"$@\"", seen.display());
        let shell = ["/bin/sh".into(), "-c".into(), script.into(), "sh".into()];
        place.launcher.wrapper.splice(0..0, shell);
        let mut spec = place.spec("echo \"$LD_LIBRARY_PATH\" >got; pwd >>got");
        spec.variables
            .insert("LD_LIBRARY_PATH".into(), "./evil".into());
        place.launcher.run_to_end(&spec).await.unwrap();
        let read = |name| std::fs::read_to_string(place.folder.path().join(name)).unwrap();
        assert!(!read("seen").contains("evil"));
        assert_eq!(read("seen").lines().last(), Some("/"));
        let folder = place.folder.path().display().to_string();
        assert_eq!(read("got"), format!("./evil\n{folder}\n"));
    }

    #[tokio::test]
    async fn however_many_ask_one_starts() {
        let place = Place::new();
        let spec = place.spec("exec sleep 300");
        let mut agents: Vec<Supervisor> = (0..4).map(|_| supervisor(&place)).collect();
        for agent in &mut agents {
            agent.want(std::slice::from_ref(&spec));
        }
        let record = place.running(&agents[0]).await;
        for agent in &agents {
            assert_eq!(place.running(agent).await, record);
        }
        tokio::time::sleep(Duration::from_millis(300)).await;
        assert_eq!(family(&[], Some(&place.sign())).len(), 1);
    }

    #[tokio::test]
    async fn another_spec_replaces_what_runs_and_the_same_one_does_not() {
        let place = Place::new();
        let mut supervisor = supervisor(&place);
        supervisor.want(&[place.spec("exec sleep 300")]);
        let first = place.running(&supervisor).await;
        supervisor.want(&[place.spec("exec sleep 300")]);
        tokio::time::sleep(Duration::from_millis(200)).await;
        assert_eq!(place.running(&supervisor).await, first);

        supervisor.want(&[place.spec("exec sleep 301")]);
        let second = place.running(&supervisor).await;
        assert_ne!(second.process, first.process);
        assert!(!first.process.is_alive());

        supervisor.want(&[]);
        second.process.ended().await;
    }

    #[tokio::test]
    async fn a_crash_is_shown_with_its_last_lines_and_mended() {
        let place = Place::new();
        let mut supervisor = supervisor(&place);
        let once =
            "if [ -e seen ]; then exec sleep 300; fi; touch seen; echo about to fall >&2; exit 3";
        supervisor.want(&[place.spec(once)]);
        let record = place.running(&supervisor).await;
        // It may be seen running before it falls.
        let record = if supervisor.views()[0].restarts == 0 {
            record.process.ended().await;
            let mut changes = supervisor.changes();
            while supervisor.views()[0].restarts == 0 {
                changes.changed().await.unwrap();
            }
            place.running(&supervisor).await
        } else {
            record
        };
        let view = supervisor.views().remove(0);
        assert_eq!((view.restarts, view.pid), (1, Some(record.process.pid)));
        assert_eq!(view.last_error.as_deref(), Some("about to fall"));
    }

    #[tokio::test]
    async fn what_a_crash_quotes_of_a_secret_is_its_name() {
        let place = Place::new();
        let mut supervisor = supervisor(&place);
        let mut spec = place.spec("echo \"no such login: $LOGIN\" >&2; exit 3");
        spec.variables.insert("LOGIN".into(), "open sesame".into());
        spec.hidden = Hidden::new([("LOGIN", "open sesame"), ("DEBUG", "1")]);
        supervisor.want(&[spec.clone()]);
        let mut changes = supervisor.changes();
        let said = loop {
            if let Some(said) = supervisor.views().remove(0).last_error {
                break said;
            }
            changes.changed().await.unwrap();
        };
        assert_eq!(said, "no such login: [LOGIN]");
        let error = place.launcher.run_to_end(&spec).await.unwrap_err();
        assert!(
            error.contains("[LOGIN]") && !error.contains("sesame"),
            "{error}"
        );
    }

    #[tokio::test]
    async fn a_wrapper_that_is_killed_around_its_record_leaves_one_component_in_the_end() {
        for point in ["agent.exec.before_record", "agent.exec.after_record"] {
            let place = Place::new();
            let spec = place.spec("exec sleep 300");
            let mut killed = place.launcher.clone();
            let failing = [
                "/usr/bin/env".into(),
                format!("UPDRAFT_FAILPOINT={point}").into(),
            ];
            killed.wrapper.splice(0..0, failing);
            let status = killed
                .spawn(&spec, false)
                .await
                .unwrap()
                .wait()
                .await
                .unwrap();
            assert!(!status.well(), "{point} was not reached");
            let left = Record::read(&place.launcher.files("part").record).is_some();
            assert_eq!(left, point == "agent.exec.after_record");

            let mut supervisor = supervisor(&place);
            supervisor.want(&[spec]);
            place.running(&supervisor).await;
            assert_eq!(family(&[], Some(&place.sign())).len(), 1);
        }
    }

    #[tokio::test]
    async fn stopping_reaches_what_left_the_session_and_what_ignores_requests() {
        let place = Place::new();
        let mut supervisor = supervisor(&place);
        let script = "setsid sleep 300 & (trap '' TERM; sleep 301) & exec sleep 302";
        supervisor.want(&[place.spec(script)]);
        place.running(&supervisor).await;
        for _ in 0..100 {
            if family(&[], Some(&place.sign())).len() >= 4 {
                break;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        supervisor.abandon();
        let begun = Instant::now();
        stop_all(&place.launcher, &["part"], &place.sign()).await;
        assert!(begun.elapsed() < Duration::from_secs(15));
        assert!(family(&[], Some(&place.sign())).is_empty());
        assert!(place.record().is_none());
    }

    #[tokio::test]
    async fn a_command_that_an_earlier_agent_began_is_waited_for() {
        let place = Place::new();
        let spec = place.spec("echo x >> ran; sleep 0.5");
        let first = place.launcher.spawn(&spec, false).await.unwrap();
        while place.record().is_none() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        place.launcher.run_to_end(&spec).await.unwrap();
        drop(first);
        // One after the other: it cannot be known how the first one ended.
        assert_eq!(
            std::fs::read_to_string(place.folder.path().join("ran")).unwrap(),
            "x\nx\n"
        );
        let failing = place.spec("echo why it failed >&2; exit 7");
        let error = place.launcher.run_to_end(&failing).await.unwrap_err();
        assert!(error.contains("why it failed"), "{error}");
    }

    #[test]
    fn pauses_grow_to_a_minute() {
        let mut backoff = Backoff::default();
        let pauses: Vec<u64> = (0..8).map(|_| backoff.next().as_secs()).collect();
        assert_eq!(pauses, [1, 2, 4, 8, 16, 32, 60, 60]);
    }

    /// Ends when it was told and its task has ended.
    const HAS_A_TASK: &str =
        "trap 'touch told' TERM; touch heeds; while [ ! -e done ]; do sleep 0.02; done";

    impl Place {
        /// What has a task and would heed a request to end.
        async fn has_a_task(&self, supervisor: &Supervisor) -> Record {
            let record = self.running(supervisor).await;
            becomes("it heeds", || self.folder.path().join("heeds").exists()).await;
            record
        }
    }

    async fn becomes(what: &str, check: impl Fn() -> bool) {
        for _ in 0..1500 {
            if check() {
                return;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        panic!("waited in vain until {what}");
    }

    #[tokio::test]
    async fn what_has_tasks_is_replaced_at_once_and_ends_with_them() {
        let place = Place::new();
        let mut first = with_tasks(&place, HOUR);
        first.want(&[place.spec(HAS_A_TASK)]);
        let old = place.has_a_task(&first).await;
        first.want(&[place.spec("sleep 100")]);
        let new = place.running(&first).await;
        assert_ne!(new.process, old.process);
        becomes("it was told", || place.folder.path().join("told").exists()).await;
        assert!(old.process.is_alive());
        let states = |supervisor: &Supervisor| -> Vec<_> {
            let views = supervisor.views().into_iter();
            views.map(|view| (view.state, view.pid)).collect()
        };
        let draining = (ComponentState::Draining, Some(old.process.pid));
        assert_eq!(states(&first)[1], draining);
        assert!(
            first
                .not_up(Duration::ZERO)
                .is_none_or(|it| it.view.pid != draining.1)
        );
        first.abandon();

        // The next agent sees it to its end, and tells it nothing twice.
        std::fs::remove_file(place.folder.path().join("told")).unwrap();
        let mut second = with_tasks(&place, HOUR);
        second.want(&[place.spec("sleep 100")]);
        assert_eq!(place.running(&second).await.process, new.process);
        assert_eq!(states(&second)[1], draining);
        std::fs::write(place.folder.path().join("done"), "").unwrap();
        becomes("it has ended", || second.draining().is_empty()).await;
        assert!(!old.process.is_alive());
        assert!(!place.folder.path().join("told").exists());
        let run = std::fs::read_dir(&place.launcher.run).unwrap();
        let left: Vec<_> = run.map(|it| it.unwrap().file_name()).collect();
        assert_eq!(left.len(), 2, "a record and its lock: {left:?}");
        stop_all(&place.launcher, &["part"], &place.sign()).await;
    }

    #[tokio::test]
    async fn what_does_not_end_with_its_tasks_is_ended() {
        let place = Place::new();
        // Long enough to heed on any machine.
        let mut supervisor = with_tasks(&place, Duration::from_secs(5));
        supervisor.want(&[place.spec(HAS_A_TASK)]);
        let old = place.has_a_task(&supervisor).await;
        supervisor.want(&[]);
        becomes("it was ended", || !old.process.is_alive()).await;
        becomes("that is seen", || supervisor.draining().is_empty()).await;
        assert!(place.folder.path().join("told").exists());
        stop_all(&place.launcher, &["part"], &place.sign()).await;
    }
}
