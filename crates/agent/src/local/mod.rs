//! An Airflow that runs a project's folder as it lies there, for whoever works
//! on it: no control plane, no Release, no agent that stays.
//!
//! Its components are those of an agent's Airflow, started, recognised, adopted
//! and stopped by the same code, as processes or in containers. Only nobody keeps
//! them up: whoever starts them waits until they are, and lets go.
//!
//! [`run`] is what it runs, [`engine`] who has its containers, [`objects`] and
//! [`command`] what people do with it beside.

mod command;
mod engine;
mod objects;
mod run;

use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde::Serialize;
use tokio::sync::Mutex;
use updraft_model::Timestamp;
use updraft_project::AirflowObjects;

pub use self::command::LocalCommand;
pub use self::engine::LocalEngine;
use self::engine::Served;
pub use self::objects::{Imported, ObjectKind};
pub use self::run::{LIVE_FOLDERS, LocalPackages, LocalRun};
use crate::airflow::components::{self, CELERY_WORKER, Common, DAG_PROCESSOR, SCHEDULER};
use crate::airflow::rest::{AirflowRest, AirflowRestError};
use crate::airflow::secrets::Secrets;
use crate::airflow::settings::{self, AskedFor, Dags, SettingsFor, Variables};
use crate::config::wrapper;
use crate::disk::Disk;
use crate::environment::Environment;
use crate::files;
use crate::migrate::{Database, MigrateError};
use crate::runtime::identity::{Sign, family};
use crate::runtime::logs::{self, Hidden};
use crate::runtime::record::Record;
use crate::runtime::supervisor::{Launcher, Names, Spec, Supervisor, stop_all};

#[derive(Debug, thiserror::Error)]
pub enum LocalError {
    #[error("could not use the folder `{}`", folder.display())]
    Folder { folder: PathBuf, source: io::Error },
    #[error("Airflow's database was migrated to {newer}, and Airflow {older} cannot use it")]
    TooOld { older: String, newer: String },
    #[error("{what} failed")]
    Step {
        what: String,
        /// The last lines that it wrote.
        said: String,
    },
    #[error("Airflow's {component} does not come up")]
    Crashes { component: String, said: String },
    #[error("Airflow has not come up within {} s", limit.as_secs())]
    TimedOut {
        limit: Duration,
        /// What is not up, and what it wrote last.
        waiting: Option<(String, String)>,
    },
    #[error("{0}")]
    Objects(String),
    #[error("{message}")]
    Engine { message: String, help: &'static str },
    #[error(transparent)]
    Rest(#[from] AirflowRestError),
}

/// A component, as its record tells it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct LocalComponent {
    pub name: &'static str,
    pub state: LocalState,
    pub pid: Option<u32>,
    pub started_at: Option<Timestamp>,
    /// The end of its output, where it has ended.
    pub last_lines: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum LocalState {
    Running,
    /// It ended, and nobody had asked it to.
    Ended,
    /// It ran when this machine last went down.
    Restarted,
    /// It was not started, or was stopped.
    Stopped,
}

/// The folder of such an Airflow.
pub struct LocalAirflow {
    disk: Disk,
    launcher: Launcher,
    secrets: Secrets,
    served: Mutex<Option<Served>>,
}

/// What all of its processes are started with.
struct Setup {
    environment: Environment,
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
            // Whoever works on the project reads it, and others may not.
            user: None,
        }
    }
}

/// Tasks of SQLite alone, and several at a time where Airflow can.
const EXECUTOR: &str = "LocalExecutor";
/// A component that is up this long has passed its imports.
const STARTED: Duration = Duration::from_secs(3);
/// One crash may be a port that was not free yet.
const CRASHES: u32 = 2;

impl LocalAirflow {
    /// Takes a folder, and makes what lacks there.
    pub fn open(root: &Path) -> Result<Self, LocalError> {
        let failed = |source| LocalError::Folder {
            folder: root.to_owned(),
            source,
        };
        let open = || -> io::Result<Self> {
            let root = std::path::absolute(root)?;
            files::make_folder(&root, 0o700)?;
            let disk = Disk::at(root);
            for folder in [
                disk.run(),
                disk.logs(),
                disk.airflow_home(),
                disk.signs_of_life(),
            ] {
                files::make_folder(&folder, 0o700)?;
            }
            let launcher = Launcher {
                wrapper: wrapper()?,
                run: disk.run(),
                logs: disk.logs(),
            };
            let secrets = Secrets::load_or_make(&disk.secrets())?;
            Ok(Self {
                disk,
                launcher,
                secrets,
                served: Mutex::default(),
            })
        };
        open().map_err(failed)
    }

    /// The password of its user `admin`.
    pub fn admin_password(&self) -> &str {
        &self.secrets.admin_password
    }

    /// Where a component's output is.
    pub fn log(&self, component: &str) -> PathBuf {
        self.launcher.files(component).log
    }

    /// Where in its log the output of a component begins that was started last.
    pub fn log_offset(&self, component: &str) -> u64 {
        let record = Record::read(&self.launcher.files(component).record);
        record.map_or(0, |record| record.log_offset)
    }

    /// The components of an Airflow of that version, in the order in which they are shown.
    pub fn component_names(&self, airflow_version: &str) -> Vec<&'static str> {
        let mut names = if airflow_version.starts_with("2.") {
            vec!["webserver", "scheduler", "triggerer"]
        } else {
            vec!["api-server", "scheduler", "dag-processor", "triggerer"]
        };
        // Only what it was started with tells whether it has one.
        if self.log(CELERY_WORKER).exists() {
            names.push(CELERY_WORKER);
        }
        names
    }

    /// Whether any process of it runs.
    pub fn runs(&self) -> bool {
        // What runs as another group tells nobody its sign.
        components::ALL.iter().any(|name| self.is_alive(name))
            || !family(&[], Some(&Sign::of(&self.disk))).is_empty()
    }

    pub fn components(&self, run: &LocalRun) -> Vec<LocalComponent> {
        let hidden = self.setup(run).hidden;
        let view = |name: &&'static str| {
            let files = self.launcher.files(name);
            let Some(record) = Record::read(&files.record) else {
                return LocalComponent {
                    name,
                    state: LocalState::Stopped,
                    pid: None,
                    started_at: None,
                    last_lines: None,
                };
            };
            let state = if record.process.is_alive() {
                LocalState::Running
            } else if record.process.is_of_this_boot() {
                LocalState::Ended
            } else {
                LocalState::Restarted
            };
            let last_lines = (state == LocalState::Ended)
                .then(|| logs::tail(&files.log, record.log_offset, 20, &hidden));
            LocalComponent {
                name,
                state,
                pid: (state == LocalState::Running).then_some(record.process.pid),
                started_at: Some(record.started_at),
                last_lines: last_lines.filter(|lines| !lines.is_empty()),
            }
        };
        let names = self.component_names(&run.airflow_version);
        names.iter().map(view).collect()
    }

    fn setup(&self, run: &LocalRun) -> Setup {
        let environment = run.environment();
        let dags = run.project.join("dags");
        let ours = settings::own_variables();
        let ask = SettingsFor {
            disk: &self.disk,
            environment: &environment,
            dags: Dags::Folder(&dags),
            executor: EXECUTOR,
            own: &run.own,
            secrets: &self.secrets,
            port: run.port,
            metadata_db_url: None,
            apart: false,
            parse_again: parse_again_after(&dags),
            pass: &[],
            ours: &ours,
            preview: None,
        };
        let (variables, hidden) = (settings::variables(&ask), settings::hidden(&ask));
        let asked = settings::asked(&ask);
        Setup {
            environment,
            variables,
            asked,
            hidden,
        }
    }

    /// Refuses what could not run on the database that is here. Changes nothing.
    pub fn check(&self, run: &LocalRun) -> Result<(), LocalError> {
        let setup = self.setup(run);
        let database = Database {
            launcher: &self.launcher,
            common: &setup.common(&self.disk),
        };
        let pending = database.pending().map(drop);
        pending.map_err(|error| self.not_migrated(error))
    }

    /// Has it run: what runs as asked is left alone, what does not is started.
    /// Comes back once all of it works. What parses DAGs begins when the objects
    /// are there.
    pub async fn start(
        &self,
        run: &LocalRun,
        objects: &AirflowObjects,
        limit: Duration,
        say: &mut dyn FnMut(&str),
    ) -> Result<Option<Imported>, LocalError> {
        let begun = Instant::now();
        self.reach_engine_of(run).await?;
        let setup = self.setup(run);
        let common = setup.common(&self.disk);
        self.secrets
            .give_password(&self.disk, None)
            .map_err(|source| self.failed(source))?;
        let database = Database {
            launcher: &self.launcher,
            common: &common,
        };
        if let Some(migration) = database.pending().map_err(|it| self.not_migrated(it))? {
            // Components of another version must not write while tables change.
            self.end_all().await;
            say("preparing Airflow's database");
            let migrated = database.migrate(migration, self.admin_password()).await;
            migrated.map_err(|it| self.not_migrated(it))?;
        }
        for name in components::LONG_RUNNING {
            // It grows while nobody attends to it; a full disk says so itself.
            let _ = logs::rotate(&self.log(name));
        }

        say(&format!("starting Airflow {}", run.airflow_version));
        let names = Names {
            all: components::LONG_RUNNING,
            // They end with what they are part of.
            with_tasks: &[],
        };
        let supervisor = Supervisor::new(self.launcher.clone(), names, Duration::ZERO);
        let mut kept = Kept(supervisor);
        let specs = common.components();
        let mut imported = None;
        if !objects.is_empty() {
            let waits = |spec: &&Spec| !parses(spec, &setup) || self.is_alive(spec.component);
            let first: Vec<Spec> = specs.iter().filter(waits).cloned().collect();
            kept.0.want(&first);
            say("importing connections, variables and pools");
            imported = Some(self.import(run, objects).await?);
        }
        kept.0.want(&specs);
        say(&format!("waiting for Airflow {}", run.airflow_version));
        self.wait_until_up(run, &kept.0, begun, limit).await?;
        self.remove_ended(run).await;
        Ok(imported)
    }

    fn is_alive(&self, component: &str) -> bool {
        Record::read_alive(&self.launcher.files(component).record).is_some()
    }

    async fn wait_until_up(
        &self,
        run: &LocalRun,
        supervisor: &Supervisor,
        begun: Instant,
        limit: Duration,
    ) -> Result<(), LocalError> {
        let rest = AirflowRest::new(&run.url(), "admin", self.admin_password())?;
        let rest = if run.airflow_version.starts_with("2.") {
            rest.version_1()
        } else {
            rest
        };
        loop {
            let not_up = supervisor.not_up(STARTED);
            let worker = supervisor.running(CELERY_WORKER);
            let works = worker.is_none_or(|it| components::says_it_works(&self.disk, &it));
            if not_up.is_none() && works && rest.is_healthy().await {
                return Ok(());
            }
            let waiting = not_up.map(|not_up| {
                let said = not_up.view.last_error.unwrap_or_default();
                (not_up.view.name, said, not_up.crashes)
            });
            match waiting {
                Some((component, said, crashes)) if crashes >= CRASHES => {
                    return Err(LocalError::Crashes { component, said });
                }
                waiting if begun.elapsed() > limit => {
                    let waiting = waiting.map(|(component, said, _)| (component, said));
                    return Err(LocalError::TimedOut { limit, waiting });
                }
                _ => tokio::time::sleep(Duration::from_millis(200)).await,
            }
        }
    }

    /// Stops all of it, tasks included, within 15 s, and removes its containers. Its
    /// database stays.
    pub async fn stop(&self) -> Result<(), LocalError> {
        self.end_all().await;
        self.remove_containers().await
    }

    async fn end_all(&self) {
        stop_all(&self.launcher, components::ALL, &Sign::of(&self.disk)).await;
        for name in components::LONG_RUNNING {
            // What is stopped has not ended by itself.
            let _ = files::remove(&self.launcher.files(name).record);
        }
    }

    /// Removes the folder, its database and logs, of what was stopped.
    pub fn remove(self) -> Result<(), LocalError> {
        let root = self.disk.root().to_owned();
        files::remove(&root).map_err(|source| self.failed(source))
    }

    fn failed(&self, source: io::Error) -> LocalError {
        LocalError::Folder {
            folder: self.disk.root().to_owned(),
            source,
        }
    }

    fn not_migrated(&self, error: MigrateError) -> LocalError {
        match error {
            MigrateError::TooOld { older, newer } => LocalError::TooOld { older, newer },
            MigrateError::Failed { what, said } => LocalError::Step {
                what: what.into(),
                said,
            },
            MigrateError::Kept(source) => self.failed(source),
        }
    }
}

/// Components that are let go of, however the start ends: they outlive it.
struct Kept(Supervisor);

impl Drop for Kept {
    fn drop(&mut self) {
        self.0.abandon();
    }
}

fn parses(spec: &Spec, setup: &Setup) -> bool {
    let parser = if setup.environment.is_airflow_2() {
        SCHEDULER
    } else {
        DAG_PROCESSOR
    };
    spec.component == parser
}

/// Seconds until an unchanged file is parsed again, which is how a change of what
/// it imports is seen: a file each second, whatever their number. A file that
/// changed is parsed at once.
fn parse_again_after(dags: &Path) -> u64 {
    let mut files = 0_u64;
    let mut folders = vec![dags.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
            let path = entry.path();
            match entry.file_type() {
                Ok(kind) if kind.is_dir() => folders.push(path),
                Ok(_) if path.extension().is_some_and(|it| it == "py") => files += 1,
                _ => {}
            }
        }
    }
    files.clamp(10, 600)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};
    use updraft_model::Digest;

    use super::*;
    use crate::airflow::settings::MARK;
    use crate::runtime::identity::ProcessIdentity;

    fn run_in(packages: LocalPackages, project: &Path) -> LocalRun {
        let versions = ("3.3.2".into(), "3.12".into());
        let sets = [
            ("AIRFLOW_HOME".into(), "/opt/airflow".into()),
            ("FROM_IMAGE".into(), "1".into()),
        ];
        let mut run = LocalRun::new(packages, versions, sets.into(), project.to_owned(), 8080);
        run.own = [("OWN".into(), "s3cret".into())].into();
        run
    }

    fn venv(folder: &str) -> LocalPackages {
        LocalPackages::Venv {
            key: Digest::of(folder.as_bytes()),
            venv: folder.into(),
            bin: "/venv/bin".into(),
            python: "/venv/bin/python".into(),
        }
    }

    fn image(engine: &str, id: &str) -> LocalPackages {
        let engine = json!({ "name": engine, "socket": "/engine.sock", "rootless": false });
        LocalPackages::Image {
            engine: serde_json::from_value(engine).unwrap(),
            id: id.into(),
            wheel: "/cache/ours.whl".into(),
        }
    }

    fn run(project: &Path) -> LocalRun {
        run_in(venv("/venv"), project)
    }

    #[test]
    fn variables_are_those_of_the_folder_and_no_secret_is_kept() {
        let root = tempfile::tempdir().unwrap();
        let airflow = LocalAirflow::open(root.path()).unwrap();
        let run = run(Path::new("/project"));
        let variables = airflow.setup(&run).variables;
        let bundles = &variables["AIRFLOW__DAG_PROCESSOR__DAG_BUNDLE_CONFIG_LIST"];
        let bundles: Value = serde_json::from_str(bundles).unwrap();
        assert_eq!(bundles[0]["kwargs"]["path"], "/project/dags");
        assert_eq!(
            variables["AIRFLOW__CORE__PLUGINS_FOLDER"],
            "/project/plugins"
        );
        assert_eq!(variables["PYTHONDONTWRITEBYTECODE"], "1");
        assert_eq!(
            (&*variables["OWN"], &*variables["FROM_IMAGE"]),
            ("s3cret", "1")
        );
        // A command of the user's is none of Airflow's processes.
        assert!(variables.contains_key(MARK) && !airflow.variables(&run).contains_key(MARK));
        let kept = serde_json::to_string(&run).unwrap();
        assert!(!kept.contains("s3cret"), "{kept}");
    }

    #[test]
    fn what_changes_what_it_runs_is_another_airflow() {
        let root = tempfile::tempdir().unwrap();
        let airflow = LocalAirflow::open(root.path()).unwrap();
        let asked = |run: &LocalRun| airflow.setup(run).asked;
        let project = Path::new("/project");
        let before = run(project);
        assert_eq!(asked(&before), asked(&before.clone()));
        for change in [
            |run: &mut LocalRun| run.port = 8081,
            |run: &mut LocalRun| run.own.clear(),
            |run: &mut LocalRun| run.project = "/moved".into(),
        ] {
            let mut after = before.clone();
            change(&mut after);
            assert_ne!(asked(&after), asked(&before));
        }
        let elsewhere = [
            venv("/venv"),
            venv("/other"),
            image("docker", "sha256:1"),
            image("docker", "sha256:2"),
            image("podman", "sha256:1"),
        ];
        for (at, one) in elsewhere.iter().enumerate() {
            for other in &elsewhere[at + 1..] {
                let [one, other] = [one, other].map(|it| run_in(it.clone(), project));
                assert_ne!(asked(&one), asked(&other));
            }
        }
    }

    #[test]
    fn a_container_reads_the_project_wherever_its_image_has_it() {
        let root = tempfile::tempdir().unwrap();
        let project = tempfile::tempdir().unwrap();
        for folder in ["dags", "include"] {
            std::fs::create_dir(project.path().join(folder)).unwrap();
        }
        let airflow = LocalAirflow::open(root.path()).unwrap();
        let run = run_in(image("docker", "sha256:1"), project.path());
        let setup = airflow.setup(&run);
        let container = setup.common(&airflow.disk).objects().container.unwrap();
        let below: Vec<_> = container.mounts.iter().collect();
        let has = |path: &Path, target: &Path, writable: bool| {
            below
                .iter()
                .any(|it| it.path == path && it.target == target && it.writable == writable)
        };
        let project = project.path();
        assert!(has(project, project, false));
        for folder in ["dags", "include"] {
            let inside = Path::new("/opt/airflow").join(folder);
            assert!(has(&project.join(folder), &inside, false), "{folder}");
        }
        assert!(!below.iter().any(|it| it.target.ends_with("plugins")));
        let home = root.path().join("airflow");
        assert!(has(&home, &home, true));

        // Nothing of this machine's user is known there, and the image's own home is left.
        let variables = &setup.variables;
        let home = home.display().to_string();
        assert_eq!(
            (&variables["HOME"], &variables["AIRFLOW_HOME"]),
            (&home, &home)
        );
        assert_eq!(variables["USER"], "airflow");
        let kept = serde_json::to_value(&run).unwrap();
        let again: LocalRun = serde_json::from_value(kept).unwrap();
        assert!(again.engine().is_some() && again.venv().is_none());
        assert_eq!(run.reserved().count(), 0);
    }

    #[test]
    fn what_has_ended_says_so_and_what_was_stopped_does_not() {
        let root = tempfile::tempdir().unwrap();
        let airflow = LocalAirflow::open(root.path()).unwrap();
        let run = run(root.path());
        let own = ProcessIdentity::of_self().unwrap();
        let write = |component: &str, process: ProcessIdentity| {
            let record = Record {
                component: component.into(),
                process,
                environment: None,
                fingerprint: String::new(),
                started_at: chrono::Utc::now(),
                log_offset: 4,
                draining_since: None,
            };
            let files = airflow.launcher.files(component);
            record.write(&files.record).unwrap();
            std::fs::write(files.log, "old\nno module\nreally: s3cret\n").unwrap();
        };
        write("scheduler", own.clone());
        let start_time = own.start_time - 1;
        write(
            "triggerer",
            ProcessIdentity {
                start_time,
                ..own.clone()
            },
        );
        let boot_id = "before".into();
        write("dag-processor", ProcessIdentity { boot_id, ..own });
        let seen = airflow.components(&run);
        let state = |name| seen.iter().find(|it| it.name == name).unwrap();
        assert_eq!(state("api-server").state, LocalState::Stopped);
        assert_eq!(state("scheduler").pid, Some(std::process::id()));
        assert_eq!(state("dag-processor").state, LocalState::Restarted);
        let ended = state("triggerer");
        assert_eq!(ended.state, LocalState::Ended);
        let said = ended.last_lines.as_deref();
        assert_eq!(said, Some("no module\nreally: [OWN]"));
    }
}
