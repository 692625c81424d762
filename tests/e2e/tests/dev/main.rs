//! `updraft dev start` and its companions: a project's folder in a real Airflow.
#![expect(clippy::unwrap_used, reason = "a test that fails says where")]

mod containers;

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use updraft_e2e::{Airflow, PATIENCE, Project, files_below, updraft_binary, wait_for};
use updraft_testkit::{Reaper, free_port};

const PASSWORD: &str = "s3cret-of-the-connection";
const VARIABLE: &str = "s3cret-of-the-variable";
const ENVIRONMENT: &str = "s3cret-of-the-env-file";
const SECRETS: [&str; 3] = [PASSWORD, VARIABLE, ENVIRONMENT];

/// Whoever works on a project.
struct Desk {
    root: PathBuf,
    project: Project,
    /// What commands need in their environment besides.
    variables: Vec<(&'static str, OsString)>,
    _reaper: Reaper,
}

struct Printed {
    code: Option<i32>,
    stdout: String,
    stderr: String,
}

impl Printed {
    #[track_caller]
    fn ended_with(self, code: i32) -> Self {
        let Self { stdout, stderr, .. } = &self;
        assert_eq!(self.code, Some(code), "{stdout}\n{stderr}");
        self
    }

    fn json(&self) -> Value {
        serde_json::from_str(&self.stdout).unwrap()
    }
}

impl Desk {
    /// A new project for that Airflow, with secrets in its settings file.
    fn new(airflow: &str) -> Self {
        let (root, reaper) = Reaper::folder("updraft-dev-").unwrap();
        let project = Project::at(root.join("shop"));
        let desk = Self {
            root,
            project,
            variables: Vec::new(),
            _reaper: reaper,
        };
        let init = ["dev", "init", "shop", "--airflow-version", airflow];
        let init = desk.command(&init).current_dir(&desk.root).output();
        assert!(init.unwrap().status.success());
        desk.project
            .write("airflow_settings.yaml", SETTINGS)
            .unwrap();
        desk
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(updraft_binary());
        command
            .args(arguments)
            .env("XDG_CONFIG_HOME", self.root.join("config"))
            .env("UPDRAFT_STATE_DIR", self.state())
            .env("UPDRAFT_CACHE_DIR", self.root.join("cache"))
            .env_remove("UPDRAFT_TOKEN")
            .envs(self.variables.iter().cloned())
            .stdin(Stdio::null());
        if self.project.root().is_dir() {
            command.current_dir(self.project.root());
        }
        command
    }

    /// Runs one, which says no secret.
    fn dev(&self, arguments: &[&str]) -> Printed {
        let child = self
            .command(&[&["dev"], arguments].concat())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn();
        let mut child = child.unwrap();
        while child.try_wait().unwrap().is_none() {
            assert_eq!(in_process_lists(), [""; 0], "while `{arguments:?}` ran");
            std::thread::sleep(Duration::from_millis(20));
        }
        printed(child.wait_with_output().unwrap())
    }

    fn state(&self) -> PathBuf {
        self.root.join("state")
    }

    /// The folder of the one Airflow.
    fn kept(&self) -> PathBuf {
        let entries = fs::read_dir(self.state().join("dev")).unwrap();
        let mut folders = entries.map(|entry| entry.unwrap().path());
        folders.find(|path| path.is_dir()).unwrap()
    }

    fn components(&self) -> Value {
        self.dev(&["ps", "-o", "json"]).ended_with(0).json()
    }

    fn pid(&self, component: &str) -> Option<Pid> {
        let seen = self.components();
        let components = seen["components"].as_array().unwrap();
        let found = components.iter().find(|it| it["name"] == component);
        let pid = found.unwrap()["pid"].as_i64()?;
        Pid::from_raw(i32::try_from(pid).unwrap())
    }

    /// Processes that belong to its Airflow.
    fn running(&self) -> Vec<String> {
        let state = self.state();
        let state = state.to_str().unwrap();
        let belongs = |process: &Path| {
            let environ = fs::read(process.join("environ")).unwrap_or_default();
            String::from_utf8_lossy(&environ).contains(state)
                || fs::read_link(process.join("cwd")).is_ok_and(|cwd| cwd.starts_with(state))
        };
        let all = processes().into_iter();
        all.filter(|process| belongs(process))
            .map(|process| command_line(&process))
            .collect()
    }

    /// What is in the project's folder.
    fn files(&self) -> BTreeSet<PathBuf> {
        files_below(self.project.root())
            .unwrap()
            .into_iter()
            .collect()
    }
}

fn printed(output: std::process::Output) -> Printed {
    let printed = Printed {
        code: output.status.code(),
        stdout: String::from_utf8(output.stdout).unwrap(),
        stderr: String::from_utf8(output.stderr).unwrap(),
    };
    for secret in SECRETS {
        assert!(!printed.stdout.contains(secret), "{}", printed.stdout);
        assert!(!printed.stderr.contains(secret), "{}", printed.stderr);
    }
    printed
}

fn processes() -> Vec<PathBuf> {
    let own = std::process::id().to_string();
    let entries = fs::read_dir("/proc").unwrap().flatten();
    let is_other = |name: &str| name.parse::<u32>().is_ok() && name != own;
    entries
        .filter(|entry| entry.file_name().to_str().is_some_and(is_other))
        .map(|entry| entry.path())
        .collect()
}

fn command_line(process: &Path) -> String {
    let line = fs::read(process.join("cmdline")).unwrap_or_default();
    String::from_utf8_lossy(&line).replace('\0', " ")
}

/// Command lines that have a secret.
fn in_process_lists() -> Vec<String> {
    let lines = processes()
        .into_iter()
        .map(|process| command_line(&process));
    lines
        .filter(|line| SECRETS.iter().any(|secret| line.contains(secret)))
        .collect()
}

/// Files below a folder that have a secret in clear.
fn told_in(folder: &Path) -> Vec<PathBuf> {
    let tells = |path: &PathBuf| {
        let bytes = fs::read(path).unwrap_or_default();
        let text = String::from_utf8_lossy(&bytes);
        SECRETS.iter().any(|secret| text.contains(secret))
    };
    files_below(folder)
        .unwrap()
        .into_iter()
        .filter(tells)
        .collect()
}

fn sign_in(start: &Printed) -> Airflow {
    let word_after = |before: &str| {
        let (_, rest) = start.stdout.split_once(before).unwrap();
        rest.split_whitespace().next().unwrap().to_owned()
    };
    let url = format!("http://{}", word_after("http://"));
    Airflow::sign_in(&url, "admin", &word_after("password ")).unwrap()
}

fn wait_for_tasks(airflow: &Airflow, dag: &str, wanted: &[&str]) {
    wait_for(dag, PATIENCE, || {
        // Until then Airflow knows no such DAG.
        let tasks = airflow.tasks(dag).unwrap_or_default();
        Ok((tasks == wanted).then_some(()))
    })
    .unwrap();
}

const SETTINGS: &str = "airflow:
  connections:
    - conn_id: warehouse
      conn_type: postgres
      conn_host: db
      conn_login: me
      conn_password: s3cret-of-the-connection
      conn_port: 5432
      conn_extra:
        sslmode: require
  variables:
    - variable_name: region
      variable_value: s3cret-of-the-variable
  pools:
    - pool_name: small
      pool_slot: 2
";

#[test]
fn a_project_runs_live_from_its_folder() {
    let desk = Desk::new("3.3.2");
    desk.project
        .write(".env", &format!("LOCAL_TOKEN={ENVIRONMENT}\n"))
        .unwrap();
    let mut files = desk.files();

    // Two at once give one Airflow.
    let port = free_port().to_string();
    let start = ["start", "--port", &port, "--wait", "5m"];
    let started = std::thread::scope(|scope| {
        let second = scope.spawn(|| desk.dev(&start).ended_with(0));
        let first = desk.dev(&start).ended_with(0);
        let second = second.join().unwrap();
        let waited = [&first, &second].map(|it| it.stderr.contains("It is running already"));
        assert_eq!(waited.iter().filter(|it| **it).count(), 1);
        second
    });
    assert_eq!(desk.components()["state"], "running");

    edits_are_seen(&desk, &sign_in(&started));
    commands_of_airflow_work(&desk);
    what_is_exported_is_what_was_imported(&desk);
    a_crash_is_told_and_mended(&desk, &port);

    // Nothing of it is in the project, and no secret is anywhere.
    for dag in ["fresh", "reads"] {
        files.insert(desk.project.root().join(format!("dags/{dag}.py")));
    }
    assert_eq!(desk.files(), files);
    let told = told_in(&desk.state());
    assert!(told.is_empty(), "{told:?}");

    // The database stays until it is asked to go.
    desk.dev(&["stop"]).ended_with(0);
    assert_eq!(desk.running(), [""; 0]);
    assert_eq!(desk.components()["state"], "stopped");
    let kept = desk.kept();
    assert!(kept.join("airflow/airflow.db").exists());
    desk.dev(&["kill", "--yes"]).ended_with(0);
    assert!(!kept.exists());
}

/// Without a command; and so is what `.env` and the settings file have.
fn edits_are_seen(desk: &Desk, airflow: &Airflow) {
    desk.project.write_dag("fresh", &["one"]).unwrap();
    wait_for_tasks(airflow, "fresh", &["one"]);
    desk.project.write_dag("fresh", &["one", "two"]).unwrap();
    wait_for_tasks(airflow, "fresh", &["one", "two"]);
    let head = "import os\nfrom airflow.sdk import Variable";
    let body = "return len(os.environ['LOCAL_TOKEN'] + Variable.get('region'))";
    desk.project.write_python_dag("reads", head, body).unwrap();
    wait_for_tasks(airflow, "reads", &["step"]);
    let run = airflow.trigger("reads").unwrap();
    airflow.wait_for_success("reads", &run).unwrap();
    let read = airflow.returned("reads", &run, "step").unwrap();
    assert_eq!(read, (ENVIRONMENT.len() + VARIABLE.len()) as u64);
}

fn commands_of_airflow_work(desk: &Desk) {
    let listed = desk
        .dev(&["run", "dags", "list", "-o", "json"])
        .ended_with(0);
    assert!(listed.stdout.contains("\"fresh\""), "{}", listed.stdout);
    let missing = desk.dev(&["run", "dags", "show", "nowhere"]);
    assert!(missing.code.is_some_and(|code| code != 0));
    let script = "pwd; python -c 'import airflow_updraft'; exit 7";
    let inside = desk.dev(&["bash", "-c", script]).ended_with(7).stdout;
    assert_eq!(inside.trim(), desk.project.root().to_str().unwrap());
}

fn what_is_exported_is_what_was_imported(desk: &Desk) {
    let file = desk.root.join("exported.yaml");
    let file = file.to_str().unwrap();
    let export = ["object", "export", "--settings-file", file];
    let told = desk.dev(&export).ended_with(0);
    assert!(told.stderr.contains("in clear"), "{}", told.stderr);
    let mode = fs::metadata(file).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let text = fs::read_to_string(file).unwrap();
    for part in [
        PASSWORD,
        VARIABLE,
        "sslmode",
        "pool_slot: 2",
        "conn_port: 5432",
    ] {
        assert!(text.contains(part), "no {part} in it");
    }
    desk.dev(&export).ended_with(8);

    let import = ["object", "import", "--settings-file", file];
    let imports = |arguments: &[&str], said: &str| {
        let printed = desk.dev(arguments).ended_with(0);
        assert!(printed.stderr.contains(said), "{}", printed.stderr);
    };
    imports(&import, "had them as they are");
    desk.dev(&["run", "variables", "delete", "region"])
        .ended_with(0);
    desk.dev(&["run", "connections", "delete", "warehouse"])
        .ended_with(0);
    let connections = [&import[..], &["--connections"]].concat();
    imports(&connections, "1 connection from exported.yaml (1 new");
    imports(&import, "(1 new or changed)");
    desk.dev(&[&export[..], &["--force"]].concat())
        .ended_with(0);
    assert_eq!(fs::read_to_string(file).unwrap(), text);
}

fn a_crash_is_told_and_mended(desk: &Desk, port: &str) {
    let scheduler = desk.pid("scheduler").unwrap();
    kill_process(scheduler, Signal::KILL).unwrap();
    wait_for("its end", Duration::from_secs(10), || {
        Ok((desk.components()["state"] == "degraded").then_some(()))
    })
    .unwrap();
    // What was changed meanwhile is named, too.
    let more = format!("LOCAL_TOKEN={ENVIRONMENT}\nMORE=1\n");
    desk.project.write(".env", &more).unwrap();
    let ps = desk.dev(&["ps"]).ended_with(0);
    assert!(ps.stdout.contains("ended by itself"), "{}", ps.stdout);
    assert!(ps.stderr.contains(".env: changed"), "{}", ps.stderr);

    let restarted = desk.dev(&["restart", "--wait", "5m"]).ended_with(0);
    assert!(restarted.stdout.contains(port), "{}", restarted.stdout);
    assert_eq!(desk.components()["state"], "running");
    assert_ne!(desk.pid("scheduler"), Some(scheduler));
    let airflow = sign_in(&restarted);
    let run = airflow.trigger("reads").unwrap();
    airflow.wait_for_success("reads", &run).unwrap();
    let logs = desk.dev(&["logs", "--scheduler"]).ended_with(0);
    assert!(logs.stdout.contains("scheduler"), "{}", logs.stdout);
    desk.dev(&["logs", "--webserver"]).ended_with(6);
}

#[test]
fn a_project_goes_from_airflow_2_to_3_and_not_back() {
    let desk = Desk::new("2.11.2");
    let port = free_port().to_string();
    desk.dev(&["start", "--port", &port, "--wait", "5m"])
        .ended_with(0);
    let export = |name: &str| {
        let file = desk.root.join(name);
        let file = file.to_str().unwrap();
        desk.dev(&["object", "export", "--settings-file", file])
            .ended_with(0);
        fs::read_to_string(file).unwrap()
    };
    let before = export("before.yaml");
    assert!(before.contains(PASSWORD) && before.contains(VARIABLE));

    let dockerfile = fs::read_to_string(desk.project.root().join("Dockerfile")).unwrap();
    let newer = dockerfile.replace("2.11.2", "3.3.2");
    desk.project.write("Dockerfile", &newer).unwrap();
    desk.dev(&["restart", "--wait", "5m"]).ended_with(0);
    assert_eq!(desk.components()["airflow_version"], "3.3.2");
    assert_eq!(export("after.yaml"), before);

    // What is refused stops nothing.
    desk.project.write("Dockerfile", &dockerfile).unwrap();
    let refused = desk.dev(&["restart"]).ended_with(8);
    assert!(
        refused.stderr.contains("migrated to 3.3.2"),
        "{}",
        refused.stderr
    );
    assert_eq!(desk.components()["state"], "running");
    let told = told_in(&desk.state());
    assert!(told.is_empty(), "{told:?}");
    desk.dev(&["kill", "--yes"]).ended_with(0);
    assert_eq!(desk.running(), [""; 0]);
}

#[test]
fn a_component_that_cannot_start_is_told_with_its_last_words_and_nothing_is_left() {
    let desk = Desk::new("3.3.2");
    // Each process of Airflow's reads the project's local settings as it starts.
    let code = "import sys\nif 'scheduler' in ' '.join(sys.argv):\n    raise SystemExit('told by the project')\n";
    desk.project
        .write("airflow_local_settings.py", code)
        .unwrap();
    let port = free_port().to_string();
    let refused = desk.dev(&["start", "--port", &port]).ended_with(1);
    for said in [
        "Airflow's scheduler does not come up",
        "told by the project",
    ] {
        assert!(refused.stderr.contains(said), "{}", refused.stderr);
    }
    assert_eq!(desk.running(), [""; 0]);
}
