//! The whole agent with a real Airflow 3.3.2.
#![allow(clippy::unwrap_used, clippy::print_stderr)]

mod support;

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use reqwest::Method;
use support::{Clock, ControlPlane, Place, free_port, image};
use updraft_agent::{AirflowRest, Observed};
use updraft_model::{Digest, ProofOutcome};

#[test]
fn wrapper() {
    support::be_the_wrapper();
}

#[test]
fn agent_process() {
    support::be_the_agent();
}

const MINUTE: Duration = Duration::from_secs(60);

const DAG: &str = "\
from datetime import datetime
from airflow.sdk import dag, task
from include.words import WORD

@dag(schedule=None, start_date=datetime(2024, 1, 1))
def hello():
    @task
    def say():
        print(WORD)
    say()

hello()
";

/// Looks for what no DAG code may find.
const SPY: &str = "\
import os, pathlib, time
from datetime import datetime
from airflow.sdk import dag, task

@dag(schedule=None, start_date=datetime(2024, 1, 1))
def spy():
    @task
    def look():
        found = [name for name, value in os.environ.items() if 'secret-token' in value]
        root = pathlib.Path(os.environ['UPDRAFT_MANAGED_IN'])
        private = [root / 'wanted.json', root / 'secrets.json', root / 'proof.json', root.parent / 'agent.json']
        for path in [*private, *(root / 'blobs').glob('*')]:
            try:
                path.read_bytes()
                found.append(str(path))
            except PermissionError:
                pass
        try:
            list((root / 'blobs').iterdir())
            found.append('blobs')
        except PermissionError:
            pass
        try:
            with open(__file__, 'a') as own:
                own.write('#')
            found.append('could write to its own file')
        except OSError:
            pass
        assert not found, found
    look()

@dag(schedule=None, start_date=datetime(2024, 1, 1))
def slow():
    @task
    def wait():
        time.sleep(25)
    wait()

spy()
slow()
";

fn project(place: &Place) -> PathBuf {
    place.files(
        "project",
        &[
            ("Dockerfile", "FROM apache/airflow:3.3.2\n"),
            ("requirements.txt", ""),
            ("updraft.toml", ""),
            ("include/__init__.py", ""),
            ("include/words.py", "WORD = 'hello'\n"),
            ("dags/hello.py", DAG),
            ("dags/spy.py", SPY),
        ],
    )
}

fn dags(control: &ControlPlane, project: &Path) -> Digest {
    control.upload(&project.join("dags"))
}

/// Says what an agent does while it does it.
fn narrate(mut observed: tokio::sync::watch::Receiver<Observed>) {
    tokio::spawn(async move {
        let clock = Clock::start();
        let mut last = None;
        while observed.changed().await.is_ok() {
            let now = observed.borrow_and_update().clone();
            let line = (now.activity, now.problem);
            if last.as_ref() != Some(&line) {
                clock.say(&format!("{line:?}"));
                last = Some(line);
            }
        }
    });
}

#[tokio::test(flavor = "multi_thread")]
async fn airflow_takes_in_deploys() {
    let clock = Clock::start();
    let place = Place::new();
    let control = ControlPlane::start().await;
    let project = project(&place);
    let image = image(&control, &project);
    clock.say("locked");
    let first = control.deploy(image, &[("dags", dags(&control, &project))]);

    let agent = place.start(&control);
    narrate(agent.subscribe());
    let report = control.proof(&first, 5 * MINUTE).await;
    clock.say("first proof");
    let proof = report.proof.unwrap().proof;
    assert_eq!(proof.outcome, ProofOutcome::Proven, "{proof:#?}");
    assert_eq!(proof.dags.added, ["hello", "slow", "spy"]);

    let rest = agent.airflow_rest().unwrap().unwrap();
    let run = rest.trigger_and_wait("hello", MINUTE).await.unwrap();
    clock.say("first run");
    assert_eq!(run.state, "success");
    let version = first.bundles.values().next().unwrap().digest.to_string();
    assert_eq!(run.bundle_version, Some(version));

    // The next deploy adds a task.
    let again = DAG.replace(
        "    say()\n\nhello",
        "    say() >> say.override(task_id='again')()\n\nhello",
    );
    place.files("project", &[("dags/hello.py", &again)]);
    let begun = Instant::now();
    let second = control.deploy(image, &[("dags", dags(&control, &project))]);
    control.serving(&second, MINUTE).await;
    eprintln!("on disk after {:?}", begun.elapsed());
    let report = control.proof(&second, MINUTE).await;
    eprintln!("proven after {:?}", begun.elapsed());
    let proof = report.proof.unwrap().proof;
    assert_eq!(proof.outcome, ProofOutcome::Proven, "{proof:#?}");
    let tasks = rest
        .call(Method::GET, "dags/hello/tasks", None)
        .await
        .unwrap();
    assert_eq!(tasks["total_entries"], 2);

    // An import error fails the one after.
    place.files(
        "project",
        &[(
            "dags/broken.py",
            "import nothing_of_that_name  # airflow dag\n",
        )],
    );
    let third = control.deploy(image, &[("dags", dags(&control, &project))]);
    let report = control.proof(&third, MINUTE).await;
    let proof = report.proof.unwrap().proof;
    assert_eq!(proof.outcome, ProofOutcome::ImportErrors);
    assert_eq!(proof.import_errors[0].file, "broken.py");

    // What nothing holds goes, and comes back when Airflow asks for it.
    std::fs::remove_file(project.join("dags/broken.py")).unwrap();
    place.files("project", &[("dags/hello.py", DAG)]);
    let fourth = control.deploy(image, &[("dags", dags(&control, &project))]);
    control.proof(&fourth, MINUTE).await;
    let digest = third.bundles.values().next().unwrap().digest;
    let folder = place.root().join(control.deployment().to_string());
    let version = folder.join("bundles/dags/versions").join(digest.folder());
    for _ in 0..1200 {
        if !version.exists() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert!(!version.exists());
    clock.say("the version that failed was removed");
    let asked = ask(
        &folder.join("run/agent.sock"),
        &format!(r#"{{"bundle":"dags","version":"{digest}"}}"#),
    )
    .await;
    assert_eq!(asked["path"], version.display().to_string(), "{asked}");
    assert!(version.join("broken.py").exists());
    let asked = ask(
        &folder.join("run/agent.sock"),
        r#"{"bundle":"../x","version":"y"}"#,
    )
    .await;
    assert!(asked["error"].is_string(), "{asked}");

    let run = rest.trigger_and_wait("spy", MINUTE).await.unwrap();
    let apart = report.isolation.contains("cannot read the agent's files");
    assert_eq!(run.state == "success", apart, "{}", report.isolation);

    let begun = Instant::now();
    agent.stop_with_airflow().await;
    eprintln!("stopped after {:?}", begun.elapsed());
    assert!(begun.elapsed() < Duration::from_secs(15));
    assert!(processes(&place).is_empty());
    clock.say("done");
}

#[tokio::test(flavor = "multi_thread")]
async fn airflow_outlives_its_agent() {
    let clock = Clock::start();
    let place = Place::new();
    let control = ControlPlane::start().await;
    let project = project(&place);
    let image = image(&control, &project);
    let first = control.deploy(image, &[("dags", dags(&control, &project))]);
    let port = free_port();
    let mut killed = place.start_process(&control, None, port, "");
    control.proof(&first, 5 * MINUTE).await;
    clock.say("proven");

    let secrets = place
        .root()
        .join(control.deployment().to_string())
        .join("secrets.json");
    let secrets: serde_json::Value =
        serde_json::from_slice(&std::fs::read(secrets).unwrap()).unwrap();
    let password = secrets["admin_password"].as_str().unwrap();
    let rest = AirflowRest::new(&format!("http://127.0.0.1:{port}"), "admin", password).unwrap();
    let run = rest.trigger("slow").await.unwrap();
    loop {
        let path = format!("dags/slow/dagRuns/{}/taskInstances", run.id);
        let tasks = rest.call(Method::GET, &path, None).await.unwrap();
        if tasks["task_instances"][0]["state"] == "running" {
            break;
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    clock.say("the task runs");
    let before = components(&place, &control);
    killed.child.kill().unwrap();
    killed.child.wait().unwrap();

    let mut config = place.config(&control);
    config.airflow_port = port;
    let agent = updraft_agent::Agent::start(config).unwrap();
    let mut observed = agent.subscribe();
    let adopted = observed.wait_for(|observed| {
        let airflow = observed.airflow.as_ref();
        airflow.is_some_and(|airflow| {
            airflow
                .components
                .iter()
                .filter(|one| one.pid.is_some())
                .count()
                == 4
        })
    });
    tokio::time::timeout(MINUTE, adopted)
        .await
        .unwrap()
        .unwrap();
    clock.say("adopted");
    assert_eq!(components(&place, &control), before);
    // It was proven before, and is not asked about again.
    let proof = observed.borrow().proof.clone();
    assert_eq!(proof.map(|proof| proof.release), Some(first.id));

    let mut ended = run;
    while !ended.is_finished() {
        tokio::time::sleep(Duration::from_millis(500)).await;
        ended = rest.dag_run("slow", &ended.id).await.unwrap();
    }
    assert_eq!(ended.state, "success");
    assert_eq!(components(&place, &control), before);
    clock.say("the task ended well");

    // A component that crashes comes back, and nothing else is touched.
    let scheduler = before
        .iter()
        .find(|(name, _)| name == "scheduler")
        .unwrap()
        .1;
    std::process::Command::new("kill")
        .args(["-9", &scheduler.to_string()])
        .status()
        .unwrap();
    let mended = observed.wait_for(|observed| {
        let airflow = observed.airflow.as_ref();
        airflow.is_some_and(|airflow| {
            airflow.components.iter().any(|one| {
                one.name == "scheduler"
                    && one.restarts == 1
                    && one.pid.is_some_and(|pid| pid != scheduler)
            })
        })
    });
    tokio::time::timeout(MINUTE, mended).await.unwrap().unwrap();
    let now = components(&place, &control);
    assert_eq!(now.iter().filter(|one| before.contains(one)).count(), 3);
    agent.stop_with_airflow().await;
    assert!(processes(&place).is_empty());
    clock.say("done");
}

/// One question to the agent's socket.
async fn ask(socket: &Path, question: &str) -> serde_json::Value {
    use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
    let mut stream = tokio::net::UnixStream::connect(socket).await.unwrap();
    stream
        .write_all(format!("{question}\n").as_bytes())
        .await
        .unwrap();
    let mut answer = String::new();
    BufReader::new(stream).read_line(&mut answer).await.unwrap();
    serde_json::from_str(&answer).unwrap()
}

/// Components and their processes, by the records.
fn components(place: &Place, control: &ControlPlane) -> Vec<(String, u32)> {
    let run = place
        .root()
        .join(control.deployment().to_string())
        .join("run");
    let mut found: Vec<(String, u32)> = ["api-server", "dag-processor", "scheduler", "triggerer"]
        .iter()
        .map(|name| {
            let record = std::fs::read(run.join(format!("{name}.json"))).unwrap();
            let record: serde_json::Value = serde_json::from_slice(&record).unwrap();
            (
                (*name).to_owned(),
                u32::try_from(record["pid"].as_u64().unwrap()).unwrap(),
            )
        })
        .collect();
    found.sort();
    found
}

/// Processes that carry this place's mark.
fn processes(place: &Place) -> Vec<String> {
    let mark = format!("UPDRAFT_MANAGED_IN={}", place.root().display());
    std::fs::read_dir("/proc")
        .unwrap()
        .flatten()
        .filter(|entry| {
            let environ = std::fs::read(entry.path().join("environ")).unwrap_or_default();
            String::from_utf8_lossy(&environ).contains(&mark)
        })
        .map(|entry| std::fs::read_to_string(entry.path().join("cmdline")).unwrap_or_default())
        .filter(|line| !line.is_empty())
        .collect()
}
