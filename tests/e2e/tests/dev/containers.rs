//! The same for a project whose Dockerfile has steps of its own: in containers of
//! docker, then of podman, and as processes again.

use std::fs;
use std::process::Stdio;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use updraft_e2e::{Airflow, Engine, EngineName, PATIENCE, wait_for};
use updraft_testkit::free_port;

use super::{Desk, ENVIRONMENT, PASSWORD, Printed, VARIABLE, sign_in, told_in, wait_for_tasks};

const AIRFLOW: &str = "docker.io/apache/airflow:3.3.2-python3.11";

/// Returns what the image, `.env`, the settings file, and the project's folder
/// under both of its paths have.
const HEAD: &str = "\
import os
from pathlib import Path

from airflow.sdk import Variable
from include.words import HELPER

try:
    from made_in_the_image import WORD
except ImportError:
    WORD = 'nothing'";
const BODY: &str = "\
path = Path('/opt/airflow/include/word.txt')
text = path.read_text().strip() if path.exists() else 'no file'
secrets = os.environ['LOCAL_TOKEN'] + Variable.get('region')
return f'{WORD} {HELPER} {text} {len(secrets)}'";

impl Desk {
    /// Has the project's image say this word.
    fn write_image(&self, word: &str) {
        let dockerfile = format!(
            "FROM {AIRFLOW}\nUSER root\nRUN echo \"WORD = '{word}'\" > /opt/packages/made_in_the_image.py\nUSER airflow\n"
        );
        self.project.write("Dockerfile", &dockerfile).unwrap();
    }

    /// Has the project's folder say these words.
    fn write_words(&self, helper: &str, text: &str) {
        let helper = format!("HELPER = '{helper}'\n");
        self.project.write("include/words.py", &helper).unwrap();
        self.project.write("include/word.txt", text).unwrap();
    }
}

/// What a run of `reads` returns.
fn said(airflow: &Airflow) -> String {
    wait_for_tasks(airflow, "reads", &["step"]);
    let run = airflow.trigger("reads").unwrap();
    airflow.wait_for_success("reads", &run).unwrap();
    let said = airflow.returned("reads", &run, "step").unwrap();
    let said = said.as_str().unwrap();
    let secrets = format!(" {}", ENVIRONMENT.len() + VARIABLE.len());
    said.strip_suffix(&secrets).unwrap().to_owned()
}

/// One of each runs, and nothing else is left.
fn assert_one_of_each(engine: &Engine) {
    let mut names = engine.containers().unwrap();
    assert_eq!(engine.running().unwrap().len(), names.len(), "{names:?}");
    names.sort();
    let components = ["api-server", "dag-processor", "scheduler", "triggerer"];
    let is_it = |(name, component): (&String, &str)| name.ends_with(component);
    assert_eq!(names.len(), components.len(), "{names:?}");
    assert!(names.iter().zip(components).all(is_it), "{names:?}");
}

#[test]
fn a_project_with_steps_of_its_own_runs_live_in_containers() {
    let mut desk = Desk::new("3.3.2");
    let mut engines = Vec::new();
    for name in [EngineName::Docker, EngineName::Podman] {
        let Some(engine) = Engine::start_or_skip(name, &desk.root).unwrap() else {
            return;
        };
        engine.build_airflow(AIRFLOW).unwrap();
        desk.variables.extend(engine.variables());
        engines.push(engine);
    }
    let [docker, podman] = engines.try_into().unwrap();
    // podman reads docker's settings too, and wants them to be there.
    fs::create_dir_all(desk.root.join("docker/config")).unwrap();
    fs::write(desk.root.join("docker/config/config.json"), "{}").unwrap();
    desk.write_image("one");
    desk.write_words("a", "b");
    let env = format!("LOCAL_TOKEN={ENVIRONMENT}\n");
    desk.project.write(".env", &env).unwrap();
    desk.project.write_python_dag("reads", HEAD, BODY).unwrap();
    let files = desk.files();
    let port = free_port().to_string();

    let started = desk.dev(&["start", "--port", &port, "--wait", "5m"]);
    let airflow = sign_in(&started.ended_with(0));
    assert_one_of_each(&docker);
    let seen = desk.components();
    assert_eq!(
        (&seen["runtime"], &seen["engine"]),
        (&"container".into(), &"docker".into())
    );
    assert_eq!(said(&airflow), "one a b");
    edits_need_no_command(&desk, &airflow);
    commands_work_in_the_image(&desk);
    another_image_takes_a_restart(&desk, &docker);
    one_that_was_killed_is_gone_on_with(&desk, &docker);
    an_interrupted_start_leaves_nothing(&desk, &docker);

    // Another engine, and none.
    let restarted = desk.dev(&["restart", "--engine", "podman", "--wait", "5m"]);
    let airflow = sign_in(&restarted.ended_with(0));
    assert_one_of_each(&podman);
    assert_eq!(docker.containers().unwrap(), [""; 0]);
    assert_eq!(said(&airflow), "two c d");
    export_has_the_secrets(&desk);
    a_crash_is_told_and_mended(&desk, &podman);
    desk.project
        .write("Dockerfile", &format!("FROM {AIRFLOW}\n"))
        .unwrap();
    let changed = desk.dev(&["ps"]).ended_with(0);
    assert!(
        changed.stderr.contains("Dockerfile: changed"),
        "{}",
        changed.stderr
    );
    let restarted = desk.dev(&["restart", "--runtime", "process", "--wait", "5m"]);
    let airflow = sign_in(&restarted.ended_with(0));
    assert_eq!(podman.containers().unwrap(), [""; 0]);
    assert_eq!(said(&airflow), "nothing c no file");
    let back = [
        "restart",
        "--runtime",
        "container",
        "--engine",
        "docker",
        "--wait",
        "5m",
    ];
    let airflow = sign_in(&desk.dev(&back).ended_with(0));
    assert_one_of_each(&docker);
    assert_eq!(said(&airflow), "nothing c d");

    assert_eq!(desk.files(), files);
    let told = told_in(&desk.state());
    assert!(told.is_empty(), "{told:?}");
    desk.dev(&["kill", "--yes"]).ended_with(0);
    assert_eq!(desk.running(), [""; 0]);
    assert_eq!(docker.containers().unwrap(), [""; 0]);
    assert_eq!(podman.containers().unwrap(), [""; 0]);
}

fn edits_need_no_command(desk: &Desk, airflow: &Airflow) {
    desk.write_words("c", "d");
    assert_eq!(said(airflow), "one c d");
    // None of it is what the image was built for.
    let ps = desk.dev(&["ps"]).ended_with(0);
    assert!(!ps.stderr.contains("changed"), "{}", ps.stderr);
    assert!(
        ps.stdout.contains("in containers of docker"),
        "{}",
        ps.stdout
    );
}

fn commands_work_in_the_image(desk: &Desk) {
    let listed = desk
        .dev(&["run", "dags", "list", "-o", "json"])
        .ended_with(0);
    assert!(listed.stdout.contains("\"reads\""), "{}", listed.stdout);
    let script = "pwd; python3 -c 'import airflow_updraft, made_in_the_image'; \
                  test -n \"$LOCAL_TOKEN\" && echo told; touch include/new 2>/dev/null || echo refused; exit 7";
    let inside = desk.dev(&["bash", "-c", script]).ended_with(7).stdout;
    let root = desk.project.root().display();
    assert_eq!(inside, format!("{root}\ntold\nrefused\n"));
    export_has_the_secrets(desk);
    let logs = desk.dev(&["logs", "--scheduler"]).ended_with(0);
    assert!(logs.stdout.contains("scheduler"), "{}", logs.stdout);
}

fn export_has_the_secrets(desk: &Desk) {
    let file = desk.root.join("exported.yaml");
    let export = ["object", "export", "--force", "--settings-file"];
    desk.dev(&[&export[..], &[file.to_str().unwrap()]].concat())
        .ended_with(0);
    let text = fs::read_to_string(&file).unwrap();
    assert!(text.contains(PASSWORD) && text.contains(VARIABLE));
    fs::remove_file(file).unwrap();
}

fn another_image_takes_a_restart(desk: &Desk, engine: &Engine) {
    // What was edited live is in the image that a restart makes; the next one has nothing to do.
    desk.dev(&["restart", "--wait", "5m"]).ended_with(0);
    let images = engine.run(&["images", "--quiet"]).unwrap();
    let again: Printed = desk.dev(&["restart", "--wait", "5m"]).ended_with(0);
    assert!(
        again.stderr.contains("the image is there"),
        "{}",
        again.stderr
    );
    assert_eq!(engine.run(&["images", "--quiet"]).unwrap(), images);

    desk.write_image("two");
    let outdated = desk.dev(&["start"]).ended_with(0);
    assert!(
        outdated.stderr.contains("Dockerfile: changed"),
        "{}",
        outdated.stderr
    );
    let restarted = desk.dev(&["restart", "--wait", "5m"]).ended_with(0);
    assert!(
        restarted.stderr.contains("built the image"),
        "{}",
        restarted.stderr
    );
    assert_one_of_each(engine);
    assert_eq!(said(&sign_in(&restarted)), "two c d");

    // What cannot be built stops nothing.
    let dockerfile = format!("FROM {AIRFLOW}\nRUN echo told by the step && false\n");
    desk.project.write("Dockerfile", &dockerfile).unwrap();
    let refused = desk.dev(&["restart"]).ended_with(17);
    assert!(
        refused.stderr.contains("told by the step"),
        "{}",
        refused.stderr
    );
    assert_eq!(desk.components()["state"], "running");
    desk.write_image("two");
}

fn one_that_was_killed_is_gone_on_with(desk: &Desk, engine: &Engine) {
    for point in ["agent.container.made", "agent.container.started"] {
        desk.dev(&["stop"]).ended_with(0);
        assert_eq!(engine.containers().unwrap(), [""; 0]);
        let killed = desk
            .command(&["dev", "start"])
            .env("UPDRAFT_FAILPOINT", point)
            .output();
        assert_eq!(killed.unwrap().status.code(), None, "{point}");
        let started = desk.dev(&["start", "--wait", "5m"]).ended_with(0);
        assert_one_of_each(engine);
        assert_eq!(said(&sign_in(&started)), "two c d");
    }
}

fn an_interrupted_start_leaves_nothing(desk: &Desk, engine: &Engine) {
    desk.dev(&["stop"]).ended_with(0);
    let mut start = desk.command(&["dev", "start"]);
    let mut start = start
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    wait_for("the first container", PATIENCE, || {
        Ok((!engine.running()?.is_empty()).then_some(()))
    })
    .unwrap();
    let pid = Pid::from_raw(i32::try_from(start.id()).unwrap()).unwrap();
    kill_process(pid, Signal::INT).unwrap();
    assert_eq!(start.wait().unwrap().code(), Some(130));
    assert_eq!(engine.containers().unwrap(), [""; 0]);
    assert_eq!(desk.running(), [""; 0]);
}

fn a_crash_is_told_and_mended(desk: &Desk, engine: &Engine) {
    kill_process(desk.pid("triggerer").unwrap(), Signal::KILL).unwrap();
    wait_for("its end", Duration::from_secs(10), || {
        Ok((desk.components()["state"] == "degraded").then_some(()))
    })
    .unwrap();
    desk.dev(&["start", "--wait", "5m"]).ended_with(0);
    assert_one_of_each(engine);
}
