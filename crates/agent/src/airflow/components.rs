//! Which processes make up an Airflow, and how each is started.

use std::ffi::OsString;
use std::path::Path;
use std::time::{Duration, SystemTime};

use updraft_image::RunAs;

use super::settings::{self, AskedFor, Variables};
use crate::disk::Disk;
use crate::environment::{Environment, InImage, Packages};
use crate::runtime::container::{InContainer, Mount};
use crate::runtime::logs::Hidden;
use crate::runtime::record::Record;
use crate::runtime::supervisor::Spec;
use crate::worker::WORKER;

pub(crate) const SCHEDULER: &str = "scheduler";
pub(crate) const DAG_PROCESSOR: &str = "dag-processor";
pub(crate) const API_SERVER: &str = "api-server";
pub(crate) const WEBSERVER: &str = "webserver";
pub(crate) const TRIGGERER: &str = "triggerer";
pub(crate) const CELERY_WORKER: &str = "celery-worker";
pub(crate) const MIGRATE: &str = "migrate";
pub(crate) const TRIAL: &str = "trial";
const COPY: &str = "copy-database";

const ADMIN: &str = "admin-user";
pub(crate) const OBJECTS: &str = "objects";

/// Everything that may have a record.
pub(crate) const ALL: &[&str] = &[
    SCHEDULER,
    DAG_PROCESSOR,
    API_SERVER,
    WEBSERVER,
    TRIGGERER,
    CELERY_WORKER,
    MIGRATE,
    TRIAL,
    COPY,
    ADMIN,
    OBJECTS,
    WORKER,
];

/// What is meant to run all the time.
pub(crate) const LONG_RUNNING: &[&str] = &[
    SCHEDULER,
    DAG_PROCESSOR,
    API_SERVER,
    WEBSERVER,
    TRIGGERER,
    CELERY_WORKER,
];

/// Those whose children are tasks.
pub(crate) const WITH_TASKS: &[&str] = &[SCHEDULER, CELERY_WORKER];

/// Those that begin what is code of the Release: none of it may begin where the
/// next Release is about to be.
pub(crate) const BEGIN_WORK: &[&str] = &[SCHEDULER, CELERY_WORKER, DAG_PROCESSOR];

/// A Celery worker at work says so each two seconds.
const SILENT: Duration = Duration::from_secs(30);

/// Whether a Celery worker has said lately that it works.
pub(crate) fn says_it_works(disk: &Disk, worker: &Record) -> bool {
    let name = format!("{CELERY_WORKER}.{}", worker.process.pid);
    // Airflow's user can put anything there; nothing is opened.
    let said = std::fs::symlink_metadata(disk.signs_of_life().join(name));
    let said = said.and_then(|metadata| metadata.modified());
    // A time to come is one before the clock was set back.
    said.is_ok_and(|at| at.elapsed().is_ok_and(|ago| ago < SILENT) || at > SystemTime::now())
}

/// What all components of an Airflow have in common.
pub(crate) struct Common<'a> {
    pub(crate) disk: &'a Disk,
    pub(crate) environment: &'a Environment,
    pub(crate) variables: &'a Variables,
    pub(crate) asked: AskedFor,
    pub(crate) hidden: Hidden,
    pub(crate) user: Option<RunAs>,
}

impl Common<'_> {
    fn spec(&self, component: &'static str, arguments: &[&str], variables: Variables) -> Spec {
        // Not the image's own entry point, which may want a database.
        const PYTHON: &str = r#"exec "$(command -v python || command -v python3)" "$@""#;
        let mut command: Vec<OsString> = match &self.environment.packages {
            Packages::Venv { python, .. } => vec![python.clone().into()],
            Packages::Image(_) => ["/bin/sh", "-c", PYTHON, "sh"].map(Into::into).into(),
        };
        command.extend(arguments.iter().map(Into::into));
        Spec {
            component,
            command,
            variables,
            folder: self.disk.airflow_home(),
            user: self.user,
            environment: Some(self.environment.digest),
            container: self.environment.image().map(|image| self.within(image)),
            asked: self.asked.with_bundles,
            hidden: self.hidden.clone(),
            grace: Duration::from_secs(10),
            leaves_tasks: false,
        }
    }

    /// The image with what it sees of this machine: the agent's folder, and of that
    /// it writes to what is Airflow's.
    pub(crate) fn within(&self, image: &InImage) -> InContainer {
        let disk = self.disk;
        let socket = disk.socket();
        let socket = socket
            .parent()
            .filter(|folder| !folder.starts_with(disk.root()) && folder.exists());
        let read = [disk.root(), &image.wheel].into_iter().chain(socket);
        let read = read.map(|path| Mount::same(path, false));
        let written = [
            disk.airflow_home(),
            disk.notes(),
            disk.worker_state(),
            disk.signs_of_life(),
        ];
        let written = written.iter().filter(|path| path.exists());
        let written = written.map(|path| Mount::same(path, true));
        InContainer {
            engine: image.engine.clone(),
            image: image.name.clone(),
            mounts: read
                .chain(written)
                .chain(image.mounts.iter().cloned())
                .collect(),
        }
    }

    fn airflow(&self, component: &'static str, arguments: &[&str]) -> Spec {
        // Not the `airflow` script: the length of a `#!` line is limited, and
        // an environment's folder has a long name.
        let arguments = [&["-m", "airflow"], arguments].concat();
        self.spec(component, &arguments, self.variables.clone())
    }

    pub(crate) fn migrate(&self) -> Spec {
        Spec {
            variables: settings::without_bundles(self.variables.clone()),
            ..self.airflow(MIGRATE, &["db", "migrate"])
        }
    }

    /// Takes the database back to what an older Airflow knows.
    pub(crate) fn downgrade(&self, version: &str) -> Spec {
        let arguments = ["db", "downgrade", "--yes", "--to-version", version];
        Spec {
            variables: settings::without_bundles(self.variables.clone()),
            ..self.airflow(MIGRATE, &arguments)
        }
    }

    /// Copies a SQLite database in Airflow's home, whole also while it is written to.
    pub(crate) fn copy_database(&self, from: &str, to: &str) -> Spec {
        const SCRIPT: &str = "\
import os, sqlite3, sys
old, new = sqlite3.connect(sys.argv[1]), sqlite3.connect(sys.argv[2] + '.new')
old.backup(new)
new.close()
for left in ('-wal', '-shm', '-journal'):
    if os.path.exists(sys.argv[2] + left):
        os.remove(sys.argv[2] + left)
os.replace(sys.argv[2] + '.new', sys.argv[2])";
        self.spec(COPY, &["-I", "-c", SCRIPT, from, to], Variables::new())
    }

    /// Imports Airflow and every DAG file that the request names.
    pub(crate) fn trial(&self, request: &Path) -> Spec {
        let request = request.display().to_string();
        let arguments = ["-m", "airflow_updraft.trial", &request];
        self.spec(
            TRIAL,
            &arguments,
            settings::for_worker(self.variables.clone()),
        )
    }

    /// Makes Airflow 2's admin user. The password goes by environment: command
    /// lines are for everybody to see.
    pub(crate) fn airflow_2_admin(&self, password: &str) -> Spec {
        const SCRIPT: &str = "\
import os, subprocess, sys
sys.exit(subprocess.run(
    [sys.executable, '-m', 'airflow', 'users', 'create', '--username', 'admin', '--role', 'Admin',
     '--firstname', 'Up', '--lastname', 'Draft', '--email', 'admin@localhost'],
    input=(os.environ['UPDRAFT_ADMIN_PASSWORD'] + '\\n') * 2, text=True).returncode)";
        let mut variables = self.variables.clone();
        variables.insert("UPDRAFT_ADMIN_PASSWORD".into(), password.to_owned());
        self.spec(ADMIN, &["-c", SCRIPT], variables)
    }

    /// Reads or writes connections, variables and pools, as its standard input says.
    pub(crate) fn objects(&self) -> Spec {
        let variables = settings::without_bundles(self.variables.clone());
        self.spec(OBJECTS, &["-m", "airflow_updraft.objects"], variables)
    }

    pub(crate) fn worker(&self) -> Spec {
        self.spec(
            WORKER,
            &["-m", "airflow_updraft.worker"],
            settings::for_worker(self.variables.clone()),
        )
    }

    fn celery_worker(&self) -> Spec {
        let folder = self.disk.signs_of_life().display().to_string();
        let arguments = [
            "-m",
            "airflow_updraft.celery_worker",
            &folder,
            "--skip-serve-logs",
        ];
        let mut variables = self.variables.clone();
        // Versions are not Airflow's to remove.
        variables.insert(
            "AIRFLOW__DAG_PROCESSOR__STALE_BUNDLE_CLEANUP_INTERVAL".into(),
            "0".into(),
        );
        Spec {
            // Airflow 3's have lost who supervised them when it has crashed.
            leaves_tasks: self.environment.is_airflow_2(),
            ..self.spec(CELERY_WORKER, &arguments, variables)
        }
    }

    pub(crate) fn components(&self) -> Vec<Spec> {
        // Airflow's, but for how it ends.
        let scheduler = ["-m", "airflow_updraft.scheduler", "--skip-serve-logs"];
        let scheduler = Spec {
            leaves_tasks: true,
            ..self.spec(SCHEDULER, &scheduler, self.variables.clone())
        };
        // Loads no bundle, so a bundle that comes or goes leaves it alone.
        let triggerer = Spec {
            asked: self.asked.without_bundles,
            variables: settings::without_bundles(self.variables.clone()),
            ..self.airflow(TRIGGERER, &["triggerer", "--skip-serve-logs"])
        };
        let mut components = if self.environment.is_airflow_2() {
            vec![
                scheduler,
                self.airflow(WEBSERVER, &["webserver"]),
                triggerer,
            ]
        } else {
            vec![
                self.airflow(API_SERVER, &["api-server"]),
                scheduler,
                triggerer,
            ]
        };
        // Airflow 2's scheduler parses by itself with SQLite.
        if !self.environment.is_airflow_2() || !settings::uses_sqlite(self.variables) {
            components.push(self.airflow(DAG_PROCESSOR, &["dag-processor"]));
        }
        if settings::uses_celery(self.variables) {
            components.push(self.celery_worker());
        }
        components
    }
}
