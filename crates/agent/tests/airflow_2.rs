//! The plain mode: Airflow 2.11, which has no bundles and no versions.
#![allow(clippy::unwrap_used, clippy::print_stderr)]

mod support;

use std::time::Duration;

use reqwest::Method;
use support::{Clock, ControlPlane, Place, image};
use updraft_model::ProofOutcome;

#[test]
fn wrapper() {
    support::be_the_wrapper();
}

const MINUTE: Duration = Duration::from_secs(60);

const DAG: &str = "\
from datetime import datetime
from airflow.decorators import dag, task
from include.words import WORD

@dag(schedule=None, start_date=datetime(2024, 1, 1), catchup=False)
def hello():
    @task
    def say():
        print(WORD)
    say()

hello()
";

#[tokio::test(flavor = "multi_thread")]
async fn airflow_2_takes_in_deploys() {
    let clock = Clock::start();
    let place = Place::new();
    let control = ControlPlane::start().await;
    let project = place.files(
        "project",
        &[
            ("Dockerfile", "FROM apache/airflow:2.11.2\n"),
            ("requirements.txt", ""),
            ("updraft.toml", ""),
            ("include/__init__.py", ""),
            ("include/words.py", "WORD = 'hello'\n"),
            ("dags/hello.py", DAG),
        ],
    );
    let image = image(&control, &project);
    let dags = || control.upload(&project.join("dags"));
    let first = control.deploy(image, &[("dags", dags())]);
    let agent = place.start(&control);
    let report = control.proof(&first, 5 * MINUTE).await;
    clock.say("first proof");
    let proof = report.proof.unwrap().proof;
    assert_eq!(proof.outcome, ProofOutcome::Proven, "{proof:#?}");

    let rest = agent.airflow_rest().unwrap().unwrap();
    let run = rest.trigger_and_wait("hello", 2 * MINUTE).await.unwrap();
    assert_eq!(run.state, "success");
    clock.say("first run");

    let again = DAG.replace(
        "    say()\n\nhello",
        "    say() >> say.override(task_id='again')()\n\nhello",
    );
    place.files("project", &[("dags/hello.py", &again)]);
    let second = control.deploy(image, &[("dags", dags())]);
    let report = control.proof(&second, MINUTE).await;
    let proof = report.proof.unwrap().proof;
    assert_eq!(proof.outcome, ProofOutcome::Proven, "{proof:#?}");
    let tasks = rest
        .call(Method::GET, "dags/hello/tasks", None)
        .await
        .unwrap();
    assert_eq!(tasks["total_entries"], 2);
    clock.say("second proof");
    agent.stop_with_airflow().await;
}
