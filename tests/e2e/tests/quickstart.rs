//! `updraft quickstart`, as a newcomer runs it.
#![expect(clippy::unwrap_used, reason = "a test that fails says where")]

use std::ffi::OsString;
use std::fs;
use std::io::{BufRead, BufReader};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use updraft_e2e::{PATIENCE, updraft_binary, wait_for};
use updraft_testkit::{Reaper, free_port, is_root_or_skip};

struct Newcomer {
    root: PathBuf,
    port: u16,
    airflow_port: u16,
    _reaper: Reaper,
}

impl Newcomer {
    fn new() -> Self {
        let (root, reaper) = Reaper::folder("updraft-quickstart-").unwrap();
        Self {
            port: free_port(),
            airflow_port: free_port(),
            _reaper: reaper,
            root,
        }
    }

    fn quickstart(&self) -> Command {
        let mut command = self.updraft(&["quickstart"]);
        command
            .arg("--dir")
            .arg(self.project())
            .arg("--data-dir")
            .arg(self.root.join("data"))
            .args([
                "--port",
                &self.port.to_string(),
                "--airflow-port",
                &self.airflow_port.to_string(),
            ]);
        command
    }

    fn updraft(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(updraft_binary());
        command
            .args(arguments)
            .env("XDG_CONFIG_HOME", self.root.join("config"))
            .env("UPDRAFT_TEST_ROOT", &self.root)
            .env_remove("UPDRAFT_TOKEN")
            .stdin(Stdio::null());
        command
    }

    fn project(&self) -> PathBuf {
        self.root.join("project")
    }

    /// Processes, other than this one, that belong to the quickstart.
    fn running(&self) -> Vec<String> {
        let data = self.root.join("data");
        // Some overwrite their environment with a title.
        let belongs = |process: &Path| {
            let names_it = |file| {
                let text = fs::read(process.join(file)).unwrap_or_default();
                String::from_utf8_lossy(&text).contains(data.to_str().unwrap())
            };
            fs::read_link(process.join("cwd")).is_ok_and(|folder| folder.starts_with(&data))
                || names_it("environ")
                || names_it("cmdline")
        };
        fs::read_dir("/proc")
            .unwrap()
            .flatten()
            .map(|entry| entry.path())
            .filter(|process| belongs(process))
            // What a deploy has left for the next check ends by itself.
            .filter(|process| {
                let command = fs::read(process.join("cmdline")).unwrap_or_default();
                !String::from_utf8_lossy(&command).contains("airflow_updraft.check")
            })
            .map(|process| {
                fs::read_to_string(process.join("cmdline"))
                    .unwrap_or_default()
                    .replace('\0', " ")
            })
            .collect()
    }
}

#[test]
fn takes_an_empty_folder_to_a_run_that_succeeded_and_comes_back_to_it() {
    let newcomer = Newcomer::new();
    let first = newcomer.quickstart().arg("--once").output().unwrap();
    let printed = String::from_utf8_lossy(&first.stdout).into_owned()
        + &String::from_utf8_lossy(&first.stderr);
    assert!(first.status.success(), "{printed}");
    for said in [
        format!("http://127.0.0.1:{}", newcomer.port),
        format!("http://127.0.0.1:{}", newcomer.airflow_port),
        "updraft deploy".into(),
        "updraft history".into(),
        "updraft rollback".into(),
    ] {
        assert!(printed.contains(&said), "it does not say {said}\n{printed}");
    }
    assert!(newcomer.project().join("dags/example_basic.py").is_file());
    assert_eq!(newcomer.running(), [""; 0]);

    // The second start keeps running until it is told to stop.
    let mut second = newcomer
        .quickstart()
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let stdout = BufReader::new(second.stdout.take().unwrap());
    let ready = stdout
        .lines()
        .map_while(Result::ok)
        .find(|line| line.contains("updraft rollback"));
    assert!(ready.is_some(), "it ended without saying what to try next");

    // What it prints works: an edit in the project's folder is one command away.
    let dag = newcomer.project().join("dags/example_basic.py");
    fs::write(&dag, fs::read_to_string(&dag).unwrap() + "\n# edited\n").unwrap();
    let deploy = newcomer
        .updraft(&["deploy", "--dags"])
        .current_dir(newcomer.project())
        .output()
        .unwrap();
    assert!(
        deploy.status.success(),
        "{}",
        String::from_utf8_lossy(&deploy.stderr)
    );
    let history = newcomer
        .updraft(&["history"])
        .current_dir(newcomer.project())
        .output()
        .unwrap();
    assert!(
        history.status.success(),
        "{}",
        String::from_utf8_lossy(&history.stderr)
    );

    let pid = Pid::from_child(&second);
    kill_process(pid, Signal::INT).unwrap();
    let ended = wait_for("quickstart to stop", Duration::from_secs(20), || {
        Ok(second.try_wait()?)
    })
    .unwrap();
    assert_eq!(ended.code(), Some(0));
    assert_eq!(newcomer.running(), [""; 0]);
}

#[test]
fn a_port_in_use_is_said_and_nothing_is_running() {
    let newcomer = Newcomer::new();
    let taken = TcpListener::bind(("127.0.0.1", newcomer.airflow_port)).unwrap();
    let output = newcomer.quickstart().arg("--once").output().unwrap();
    drop(taken);
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(16), "{stderr}");
    assert!(
        stderr.contains(&newcomer.airflow_port.to_string()),
        "{stderr}"
    );
    assert!(stderr.contains("--airflow-port"), "{stderr}");
    assert_eq!(newcomer.running(), [""; 0]);
}

#[test]
fn ctrl_c_also_ends_what_fetches_packages() {
    // Takes requests and answers none, so that whoever asks is still there.
    let index = TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let address = format!("http://{}/simple", index.local_addr().unwrap());
    let ended_while = |fetching: &str, uv: Option<OsString>| {
        let newcomer = Newcomer::new();
        let empty = newcomer.root.join("bin");
        fs::create_dir(&empty).unwrap();
        let mut quickstart = newcomer.quickstart();
        quickstart
            .env("PATH", empty)
            .env("PIP_INDEX_URL", &address)
            .env("UV_DEFAULT_INDEX", &address)
            .env("UV_CACHE_DIR", newcomer.root.join("data/uv-cache"))
            .stderr(Stdio::null())
            .stdout(Stdio::null());
        match uv {
            Some(uv) => quickstart.env("UPDRAFT_UV", uv),
            None => quickstart.env_remove("UPDRAFT_UV"),
        };
        let mut running = quickstart.spawn().unwrap();
        wait_for(fetching, PATIENCE, || {
            let fetches = |process: &String| process.contains(fetching);
            Ok(newcomer.running().iter().any(fetches).then_some(()))
        })
        .unwrap();
        kill_process(Pid::from_child(&running), Signal::INT).unwrap();
        assert_eq!(running.wait().unwrap().code(), Some(130));
        // Killed ones may take a moment to be gone; those that wait for the index
        // would stay for longer than this.
        wait_for("an end to it", Duration::from_secs(5), || {
            Ok(newcomer.running().is_empty().then_some(()))
        })
        .unwrap();
    };
    ended_while("pip install", None);
    let uv = std::env::var_os("UPDRAFT_UV").expect("scripts/test names a uv");
    ended_while("pip compile", Some(uv));
}

#[test]
fn a_machine_without_python_is_told_so() {
    let newcomer = Newcomer::new();
    let what = "a machine without Python";
    if !is_root_or_skip(what, "only root can hide the one that is here") {
        return;
    }
    // Also a Python off PATH is found, so the folders of programs are hidden, in
    // this process's view of the machine alone.
    let empty = newcomer.root.join("bin");
    fs::create_dir(&empty).unwrap();
    let quickstart = newcomer.quickstart();
    let script = "for folder in /usr/local/bin /usr/bin; do mount --bind \"$1\" $folder || exit 99; done\n\
        PATH=\"$1\"; shift; exec \"$@\"";
    let output = Command::new("unshare")
        .args(["--mount", "sh", "-c", script, "sh"])
        .arg(&empty)
        .arg(quickstart.get_program())
        .args(quickstart.get_args())
        .arg("--once")
        .env("XDG_CONFIG_HOME", newcomer.root.join("config"))
        .env("UPDRAFT_TEST_ROOT", &newcomer.root)
        .env("HOME", &newcomer.root)
        .env_remove("PYENV_ROOT")
        .env_remove("UPDRAFT_TOKEN")
        .env_remove("UPDRAFT_UV")
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(16), "{stderr}");
    assert!(stderr.contains("Python"), "{stderr}");
    assert_eq!(newcomer.running(), [""; 0]);
}
