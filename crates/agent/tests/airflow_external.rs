//! An Airflow that somebody else runs: files are delivered, its REST API is asked.
#![allow(clippy::unwrap_used, clippy::print_stderr)]

mod support;

use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use reqwest::Method;
use support::{Clock, ControlPlane, Place, free_port};
use updraft_agent::{Agent, AirflowRest, ExternalAirflow, ExternalConfig};
use updraft_model::{Digest, ProofOutcome};

#[test]
fn wrapper() {
    support::be_the_wrapper();
}

const MINUTE: Duration = Duration::from_secs(60);

const DAG: &str = "\
from datetime import datetime
from airflow.sdk import dag, task
from words import WORD

@dag(schedule=None, start_date=datetime(2024, 1, 1))
def hello():
    @task
    def say():
        print(WORD)
    say()

hello()
";

/// `airflow standalone`, the way that its own documentation starts it.
struct Standalone(Child);

impl Standalone {
    fn start(place: &Place, bin: &Path, port: u16) -> Self {
        let home = place.path().join("home");
        std::fs::create_dir_all(&home).unwrap();
        let passwords = home.join("passwords.json");
        std::fs::write(&passwords, r#"{"admin": "pass"}"#).unwrap();
        let path = format!("{}:{}", bin.display(), std::env::var("PATH").unwrap());
        let address = format!("http://127.0.0.1:{port}");
        let log = std::fs::File::create(home.join("standalone.log")).unwrap();
        let child = Command::new(bin.join("airflow"))
            .arg("standalone")
            .env("PATH", path)
            .env("AIRFLOW_HOME", &home)
            .env("AIRFLOW__API__PORT", port.to_string())
            .env("AIRFLOW__API__HOST", "127.0.0.1")
            .env("AIRFLOW__API__BASE_URL", &address)
            .env(
                "AIRFLOW__CORE__EXECUTION_API_SERVER_URL",
                format!("{address}/execution/"),
            )
            .env("AIRFLOW__CORE__DAGS_FOLDER", place.offered())
            .env("AIRFLOW__CORE__LOAD_EXAMPLES", "False")
            .env("AIRFLOW__CORE__PARALLELISM", "2")
            .env("AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_USERS", "admin:admin")
            .env(
                "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_PASSWORDS_FILE",
                passwords,
            )
            .env("AIRFLOW__DAG_PROCESSOR__REFRESH_INTERVAL", "5")
            .env("AIRFLOW__DAG_PROCESSOR__MIN_FILE_PROCESS_INTERVAL", "300")
            .env("PYTHONDONTWRITEBYTECODE", "1")
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .process_group(0)
            .spawn()
            .unwrap();
        Self(child)
    }
}

impl Drop for Standalone {
    fn drop(&mut self) {
        let group = format!("-{}", self.0.id());
        let _ = Command::new("kill").args(["-TERM", "--", &group]).status();
        std::thread::sleep(Duration::from_secs(5));
        let _ = Command::new("kill").args(["-KILL", "--", &group]).status();
        let _ = self.0.wait();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn airflow_of_others_is_delivered_to_and_asked() {
    let clock = Clock::start();
    let place = Place::new();
    let control = ControlPlane::start().await;
    let project = place.files(
        "project",
        &[
            ("Dockerfile", "FROM apache/airflow:3.3.2\n"),
            ("requirements.txt", ""),
            ("updraft.toml", ""),
            ("dags/hello.py", DAG),
            ("dags/words.py", "WORD = 'hello'\n"),
        ],
    );
    let dags = || control.upload(&project.join("dags"));
    let deploy = |digest| control.deploy(Digest::of(b"image"), &[("dags", digest)]);
    let port = free_port();
    let bin = support::airflow(&place, &project);
    let first = deploy(dags());
    let password_file = place.path().join("password");
    std::fs::write(&password_file, "pass\n").unwrap();
    let url = format!("http://127.0.0.1:{port}");
    let mut config = place.config(&control);
    config.external = Some(ExternalConfig {
        folder: place.offered(),
        airflow: Some(ExternalAirflow {
            url: url.clone(),
            user: "admin".into(),
            password_file,
        }),
    });
    let agent = Agent::start(config).unwrap();
    control.serving(&first, MINUTE).await;
    let airflow = Standalone::start(&place, &bin, port);
    let report = control.proof(&first, 4 * MINUTE).await;
    clock.say("first proof");
    let proof = report.proof.unwrap().proof;
    assert_eq!(proof.outcome, ProofOutcome::Proven, "{proof:#?}");
    assert_eq!(proof.dags.total, 1);

    let again = DAG.replace(
        "    say()\n\nhello",
        "    say() >> say.override(task_id='again')()\n\nhello",
    );
    place.files("project", &[("dags/hello.py", &again)]);
    let second = deploy(dags());
    let proof = control.proof(&second, MINUTE).await.proof.unwrap().proof;
    clock.say("second proof");
    assert_eq!(proof.outcome, ProofOutcome::Proven, "{proof:#?}");
    assert_eq!(
        (proof.affected, proof.dags.changed),
        (1, vec!["hello".to_owned()])
    );
    let rest = AirflowRest::new(&url, "admin", "pass").unwrap();
    let tasks = rest
        .call(Method::GET, "dags/hello/tasks", None)
        .await
        .unwrap();
    assert_eq!(tasks["total_entries"], 2);

    // Only a helper breaks: the file that imports it fails.
    place.files("project", &[("dags/words.py", "WORDS = 'hello'\n")]);
    let third = deploy(dags());
    let proof = control.proof(&third, MINUTE).await.proof.unwrap().proof;
    clock.say("third proof");
    assert_eq!(proof.outcome, ProofOutcome::ImportErrors, "{proof:#?}");
    assert_eq!(proof.import_errors[0].file, "hello.py");

    // And is mended again.
    place.files("project", &[("dags/words.py", "WORD = 'again'\n")]);
    let fourth = deploy(dags());
    let proof = control
        .proof(&fourth, 2 * MINUTE)
        .await
        .proof
        .unwrap()
        .proof;
    clock.say("fourth proof");
    assert_eq!(proof.outcome, ProofOutcome::Proven, "{proof:#?}");
    agent.stop_agent_only().await;
    drop(airflow);
}
