//! The whole agent with a real Airflow 3.3.2.
#![allow(clippy::unwrap_used, clippy::print_stderr)]
#![expect(clippy::allow_attributes, reason = "tests say what they see")]

mod support;

use std::time::Duration;

use support::{Clock, ControlPlane, Place, image};
use updraft_model::ProofOutcome;

#[test]
fn wrapper() {
    support::be_the_wrapper();
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

#[tokio::test(flavor = "multi_thread")]
async fn airflow_takes_in_a_deploy_and_the_next() {
    let clock = Clock::start();
    let place = Place::new();
    let control = ControlPlane::start().await;
    let project = place.files(
        "project",
        &[
            ("Dockerfile", "FROM apache/airflow:3.3.2\n"),
            ("requirements.txt", ""),
            ("updraft.toml", ""),
            ("include/__init__.py", ""),
            ("include/words.py", "WORD = 'hello'\n"),
            ("dags/hello.py", DAG),
        ],
    );
    let image = image(&control, &project);
    clock.say("locked");
    let first = control.deploy(image, &[("dags", control.upload(&project.join("dags")))]);

    let agent = place.start(&control);
    let mut observed = agent.subscribe();
    let progress = tokio::spawn(async move {
        let clock = Clock::start();
        let mut last = None;
        while observed.changed().await.is_ok() {
            let now = observed.borrow_and_update().clone();
            let line = (now.activity.clone(), now.problem.clone());
            if last.as_ref() != Some(&line) {
                clock.say(&format!("{line:?}"));
                last = Some(line);
            }
        }
    });
    let report = control.proof(&first, 5 * MINUTE).await;
    clock.say("first proof");
    eprintln!("{report:#?}");
    let proof = report.proof.unwrap().proof;
    assert_eq!(proof.outcome, ProofOutcome::Proven, "{proof:#?}");
    assert_eq!(proof.dags.added, ["hello"]);

    let rest = agent.airflow_rest().unwrap().unwrap();
    let run = rest.trigger_and_wait("hello", MINUTE).await.unwrap();
    clock.say("first run");
    assert_eq!(run.state, "success");
    let version = first.bundles.values().next().unwrap().digest.to_string();
    assert_eq!(run.bundle_version, Some(version));

    // The next deploy adds a task.
    place.files("project", &[("dags/hello.py", &DAG.replace("    say()\n\nhello", "    say() >> say.override(task_id='again')()\n\nhello"))]);
    let begun = std::time::Instant::now();
    let second = control.deploy(image, &[("dags", control.upload(&project.join("dags")))]);
    control.serving(&second, MINUTE).await;
    eprintln!("on disk after {:?}", begun.elapsed());
    let report = control.proof(&second, MINUTE).await;
    eprintln!("proven after {:?}", begun.elapsed());
    let proof = report.proof.unwrap().proof;
    assert_eq!(proof.outcome, ProofOutcome::Proven, "{proof:#?}");
    let tasks = rest.call(reqwest::Method::GET, "dags/hello/tasks", None).await.unwrap();
    assert_eq!(tasks["total_entries"], 2);

    // An import error fails it.
    place.files("project", &[("dags/broken.py", "import nothing_of_that_name  # airflow dag\n")]);
    let third = control.deploy(image, &[("dags", control.upload(&project.join("dags")))]);
    let report = control.proof(&third, MINUTE).await;
    let proof = report.proof.unwrap().proof;
    assert_eq!(proof.outcome, ProofOutcome::ImportErrors);
    assert_eq!(proof.import_errors[0].file, "broken.py");
    clock.say("failed as it should");

    let begun = std::time::Instant::now();
    agent.stop_with_airflow().await;
    eprintln!("stopped after {:?}", begun.elapsed());
    progress.abort();
    clock.say("done");
}
