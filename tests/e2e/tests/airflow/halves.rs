//! Deploys that bring another image half, with or without DAGs.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};
use updraft_e2e::{Airflow, Installation, PATIENCE, wait_for};

/// The DAGs `waiting`, whose task ends when a file is there, and `quick`: both
/// return what they import from either half.
const DAGS: &str = "\
import os
import time
from datetime import datetime

try:
    from airflow.sdk import dag, task
except ImportError:
    from airflow.decorators import dag, task
from importlib.metadata import version

import tinydb
from include.halves import ONE


def what():
    return [version('tinydb'), ONE]


@dag(schedule=None, start_date=datetime(2024, 1, 1), catchup=False)
def waiting():
    @task
    def step():
        before = what()
        while not os.path.exists(GO):
            time.sleep(0.1)
        return before

    step()


@dag(schedule=None, start_date=datetime(2024, 1, 1), catchup=False)
def quick():
    task(what, task_id='step')()


waiting()
quick()
";

fn write_halves(installation: &Installation, tinydb: &str, one: u32) -> Result<()> {
    let project = &installation.project;
    let own = installation.requirements();
    project.write("requirements.txt", &format!("{own}tinydb=={tinydb}\n"))?;
    project.write("include/halves.py", &format!("ONE = {one}\n"))
}

fn write_dags(installation: &Installation, go: &Path) -> Result<()> {
    let text = format!("GO = {}\n{DAGS}", json!(go));
    installation.project.write("dags/both_halves.py", &text)
}

/// `updraft deploy`, without saying which half.
fn deploy(installation: &Installation, code: i32) -> Result<Value> {
    let printed = installation.updraft(&["deploy", "-o", "json"])?;
    printed.expect_code(code)?.json()
}

fn wanted(installation: &Installation) -> Result<Value> {
    let status = installation.updraft(&["status", "-o", "json"])?.json()?;
    Ok(status["deployment"]["wanted"].clone())
}

/// What a run of `quick` came to.
fn quick(airflow: &Airflow) -> Result<Value> {
    let run = airflow.trigger("quick")?;
    airflow.wait_for_success("quick", &run)?;
    returned(airflow, "quick", &run)
}

fn returned(airflow: &Airflow, dag: &str, run: &str) -> Result<Value> {
    let value = airflow.returned(dag, run, "step")?;
    // Airflow's API gives it as text in some releases.
    Ok(match value.as_str() {
        Some(text) => serde_json::from_str(&text.replace('\'', "\""))?,
        None => value,
    })
}

pub(crate) fn a_task_runs_on_across_an_image_deploy(
    installation: &mut Installation,
    airflow: &Airflow,
) -> Result<()> {
    let go = installation.folder_for_airflow("across")?.join("go");
    write_halves(installation, "4.8.1", 1)?;
    write_dags(installation, &go)?;
    let made = deploy(installation, 0)?;
    ensure!(made["environment"] == "made", "{made:#}");
    ensure!(quick(airflow)? == json!(["4.8.1", 1]));

    let run = airflow.trigger("waiting")?;
    airflow.wait_for_a_running_task("waiting", &run)?;
    write_halves(installation, "4.8.2", 2)?;
    let changed = deploy(installation, 0)?;
    ensure!(
        changed["image_changes"]
            == json!(["requirements.txt: changed", "include/halves.py: changed"]),
        "{changed:#}"
    );
    ensure!(changed["files"]["changed"] == json!([]), "{changed:#}");
    // The new one works while the old task goes on.
    ensure!(quick(airflow)? == json!(["4.8.2", 2]));
    let said = installation.updraft(&["status"])?.expect_code(0)?;
    ensure!(
        said.stdout.contains("replaced, ends with its tasks"),
        "{}",
        said.stdout
    );
    // Longer than after which Airflow takes a scheduler for lost.
    let lost = Duration::from_secs(40);
    let begun = std::time::Instant::now();
    wait_for("Airflow to look for lost tasks", 3 * lost, || {
        Ok((begun.elapsed() > lost).then_some(()))
    })?;
    std::fs::write(&go, "")?;
    airflow.wait_for_success("waiting", &run)?;
    ensure!(returned(airflow, "waiting", &run)? == json!(["4.8.1", 1]));
    let tasks = airflow.get(&format!("/dags/waiting/dagRuns/{run}/taskInstances"))?;
    ensure!(tasks["task_instances"][0]["try_number"] == 1, "{tasks:#}");
    // A Celery worker that counts a task still that has ended waits for five minutes.
    wait_for("what was replaced to end", PATIENCE, || {
        let said = installation.updraft(&["status"])?.expect_code(0)?;
        Ok((!said.stdout.contains("replaced")).then_some(()))
    })
}

/// The same where tasks are not the scheduler's children but a Celery worker's.
pub(crate) fn a_celery_worker_is_replaced_and_ends_with_its_tasks(
    installation: &mut Installation,
    airflow: &Airflow,
) -> Result<()> {
    if !installation.uses_celery() {
        return Ok(()); // Said when the group began.
    }
    let said = installation.updraft(&["status"])?.expect_code(0)?;
    ensure!(said.stdout.contains("celery-worker"), "{}", said.stdout);
    a_task_runs_on_across_an_image_deploy(installation, airflow)
}

/// Where a plan names the tasks and schedules, both trees were parsed by a real Airflow.
pub(crate) fn a_plan_names_the_dags_that_change_and_the_runs_that_go_on(
    installation: &mut Installation,
    airflow: &Airflow,
) -> Result<()> {
    let project = &installation.project;
    let text = |schedule: &str, tasks: &str| {
        format!(
            "from datetime import datetime\n\nfrom airflow.sdk import dag, task\n\nfrom include.plan import what\n\n\n\
             @dag(schedule={schedule}, start_date=datetime(2024, 1, 1), catchup=False)\n\
             def planned():\n    {tasks}\n\n\nplanned()\n"
        )
    };
    let one = "task(what, task_id='one')() >> task(what, task_id='two')()";
    project.write("include/plan.py", "def what():\n    return 1\n")?;
    project.write("dags/planned.py", &text("None", one))?;
    project.write(
        "dags/goes.py",
        &text("None", one).replace("planned", "goes"),
    )?;
    let go = installation.folder_for_airflow("planned")?.join("go");
    write_halves(installation, "4.8.1", 1)?;
    write_dags(installation, &go)?;
    deploy(installation, 0)?;
    let nothing = plan(installation)?;
    ensure!(nothing["outcome"] == "nothing_to_do" && nothing["planned_dags"].is_null());

    let run = airflow.trigger("waiting")?;
    airflow.wait_for_a_running_task("waiting", &run)?;
    let project = &installation.project;
    let other = "task(what, task_id='one')() >> task(what, task_id='three')()";
    project.write("dags/planned.py", &text("'@hourly'", other))?;
    project.write(
        "dags/comes.py",
        &text("'@daily'", one).replace("planned", "comes"),
    )?;
    project.write(
        "dags/broken.py",
        "from airflow.sdk import dag\nimport nothing_like_it\n",
    )?;
    std::fs::remove_file(project.root().join("dags/goes.py"))?;
    let before = wanted(installation)?;
    let told = wait_for("the agent to tell of the run", PATIENCE, || {
        let told = plan(installation)?;
        Ok((told["runs"]["dags"] == json!({"waiting": 1})).then_some(told))
    })?;
    let dags = &told["planned_dags"];
    let dag = |id: &str, schedule: Value| {
        let file = format!("dags/{id}.py");
        json!({"file": file, "dag_id": id, "tasks": ["one", "two"], "schedule": schedule})
    };
    ensure!(
        dags["added"] == json!([dag("comes", json!("@daily"))]),
        "{dags:#}"
    );
    ensure!(
        dags["removed"] == json!([dag("goes", Value::Null)]),
        "{dags:#}"
    );
    ensure!(
        dags["changed"]
            == json!([{
                "dag_id": "planned", "file": "dags/planned.py", "moved_from": null,
                "schedule": {"from": null, "to": "@hourly"},
                "tasks_added": ["three"], "tasks_removed": ["two"],
            }]),
        "{dags:#}"
    );
    ensure!(dags["unknown"] == json!(["dags/broken.py"]), "{dags:#}");
    // A file of the image that DAG files read.
    let project = &installation.project;
    project.write("include/plan.py", "def what():\n    return 2\n")?;
    let said = installation
        .updraft(&["deploy", "--plan", "--parse"])?
        .expect_code(0)?
        .stdout;
    for line in [
        "  + comes: @daily, 2 tasks",
        "  ~ planned: schedule none → @hourly; task +three; task -two",
        "  - goes",
        "1 DAG run under way: waiting",
        "they keep the code that they began with; what runs now ends in the old image",
        "  - include/plan.py: changed",
    ] {
        ensure!(said.contains(line), "`{line}` is not in\n{said}");
    }
    ensure!(wanted(installation)? == before, "a plan changes nothing");
    std::fs::write(&go, "")?;
    airflow.wait_for_success("waiting", &run)?;
    // The next scenarios deploy.
    std::fs::remove_file(installation.project.root().join("dags/broken.py"))?;
    Ok(())
}

fn plan(installation: &Installation) -> Result<Value> {
    installation
        .updraft(&["deploy", "--plan", "--parse", "-o", "json"])?
        .expect_code(0)?
        .json()
}

pub(crate) fn a_rollback_brings_both_halves_back(
    installation: &mut Installation,
    airflow: &Airflow,
) -> Result<()> {
    let before = wanted(installation)?;
    write_halves(installation, "4.8.1", 3)?;
    installation
        .project
        .write_dag("with_the_image", &["step"])?;
    let both = deploy(installation, 0)?;
    ensure!(
        both["files"]["added"] == json!(["with_the_image.py"]),
        "{both:#}"
    );
    ensure!(quick(airflow)? == json!(["4.8.1", 3]));

    installation.updraft(&["rollback"])?.expect_code(0)?;
    let after = wanted(installation)?;
    ensure!(
        (&after["image"], &after["bundles"]) == (&before["image"], &before["bundles"]),
        "{after:#}"
    );
    ensure!(quick(airflow)? == json!(["4.8.2", 2]));
    ensure!(!airflow.dags()?.contains(&"with_the_image".to_owned()));
    let history = installation.updraft(&["history"])?.expect_code(0)?;
    let newest = history.stdout.lines().nth(1).context("no deploys")?;
    ensure!(newest.contains("image -1"), "{}", history.stdout);
    installation.project.remove("dags/with_the_image.py")
}

pub(crate) fn a_changed_file_of_the_image_reinstalls_nothing(
    installation: &mut Installation,
    airflow: &Airflow,
) -> Result<()> {
    let environments = || -> Result<Vec<_>> {
        let folders = updraft_e2e::folders_below(&installation.agent_root(), "environments")?;
        Ok(folders)
    };
    write_halves(installation, "4.8.2", 4)?;
    deploy(installation, 0)?;
    let before = environments()?;
    write_halves(installation, "4.8.2", 5)?;
    let changed = deploy(installation, 0)?;
    ensure!(
        changed["image_changes"] == json!(["include/halves.py: changed"]),
        "{changed:#}"
    );
    ensure!(environments()? == before, "{before:?}");
    ensure!(quick(airflow)? == json!(["4.8.2", 5]));
    Ok(())
}

pub(crate) fn a_requirement_that_cannot_be_had_changes_nothing(
    installation: &mut Installation,
    airflow: &Airflow,
) -> Result<()> {
    let before = wanted(installation)?;
    write_halves(installation, "0.0.0.1", 5)?;
    let refused = installation.updraft(&["deploy"])?.expect_code(3)?;
    ensure!(refused.stderr.contains("tinydb==0.0.0.1"), "{refused:?}");
    ensure!(wanted(installation)? == before);
    write_halves(installation, "4.8.2", 5)?;
    ensure!(deploy(installation, 0)?["outcome"] == "nothing_to_do");
    ensure!(quick(airflow)? == json!(["4.8.2", 5]));
    Ok(())
}

/// Airflow and every DAG file can be imported with it, and no scheduler starts.
const DOES_NOT_COME_UP: &str = "ENV AIRFLOW__SCHEDULER__SCHEDULER_HEARTBEAT_SEC=never";

fn wait_until_up(airflow: &Airflow) -> Result<()> {
    wait_for("Airflow to answer", PATIENCE, || {
        Ok(airflow.get("/dags/quick").is_ok().then_some(()))
    })
}

/// Deploys a Dockerfile with one more line, which fails, and gives what was said.
fn deploy_with_line(installation: &Installation, line: &str) -> Result<String> {
    let dockerfile = std::fs::read_to_string(installation.project.root().join("Dockerfile"))?;
    let more = format!("{dockerfile}\n{line}\n");
    installation.project.write("Dockerfile", &more)?;
    let failed = installation.updraft(&["deploy", "--no-parse"])?;
    installation.project.write("Dockerfile", &dockerfile)?;
    Ok(failed.expect_code(10)?.stderr)
}

pub(crate) fn an_image_is_tried_before_anything_is_switched(
    installation: &mut Installation,
    airflow: &Airflow,
) -> Result<()> {
    let processes = || -> Result<Vec<String>> {
        let said = installation.updraft(&["status"])?.expect_code(0)?.stdout;
        let lines = said.lines().filter(|line| line.contains("process "));
        Ok(lines.map(str::to_owned).collect())
    };
    let before = processes()?;
    let line = "ENV AIRFLOW__LOGGING__LOGGING_CONFIG_CLASS=nowhere.LOGGING";
    let said = deploy_with_line(installation, line)?;
    ensure!(
        said.contains("nothing was switched") && said.contains("nowhere"),
        "{said}"
    );
    // A requirement that DAGs of the Release import is no longer there.
    installation.project.write("requirements.txt", "")?;
    let failed = installation.updraft(&["deploy", "--image", "--no-parse"])?;
    write_halves(installation, "4.8.2", 5)?;
    let said = failed.expect_code(10)?.stderr;
    ensure!(
        said.contains("nothing was switched") && said.contains("both_halves.py"),
        "{said}"
    );
    ensure!(processes()? == before, "{before:?}");
    ensure!(quick(airflow)? == json!(["4.8.2", 5]));
    ensure!(deploy(installation, 0)?["outcome"] == "live");
    Ok(())
}

pub(crate) fn an_image_in_which_airflow_does_not_come_up_is_taken_back(
    installation: &mut Installation,
    airflow: &Airflow,
) -> Result<()> {
    let said = deploy_with_line(installation, DOES_NOT_COME_UP)?;
    ensure!(
        said.contains("was taken back") && said.contains("never"),
        "{said}"
    );
    // It runs on what it had, once that has come up again.
    wait_until_up(airflow)?;
    ensure!(quick(airflow)? == json!(["4.8.2", 5]));
    let back = deploy(installation, 0)?;
    ensure!(back["outcome"] == "live", "{back:#}");
    ensure!(quick(airflow)? == json!(["4.8.2", 5]));
    Ok(())
}

/// Of another image that works, and keeps Airflow's version.
const ON_THE_WAY: &[&str] = &[
    "agent.environment.end",
    "agent.switch.tried",
    "agent.switch.quiet",
    "agent.switch.after_release",
    "agent.switch.end",
];

pub(crate) fn the_agent_may_end_at_any_step_of_an_image_deploy(
    installation: &mut Installation,
    airflow: &Airflow,
) -> Result<()> {
    for (number, point) in (10..).zip(ON_THE_WAY) {
        installation.end_agent_at(point)?;
        write_halves(installation, "4.8.2", number)?;
        installation
            .updraft(&["deploy", "--no-wait"])?
            .expect_code(0)?;
        start_after(installation, point)?;
        let again = installation.updraft(&["deploy", "--wait-for-agent", "60s"])?;
        again
            .expect_code(0)
            .with_context(|| format!("after {point}"))?;
        ensure!(quick(airflow)? == json!(["4.8.2", number]), "after {point}");
    }
    Ok(())
}

pub(crate) fn the_agent_may_end_while_it_takes_an_image_back(
    installation: &mut Installation,
    airflow: &Airflow,
) -> Result<()> {
    let before = quick(airflow)?;
    let dockerfile = std::fs::read_to_string(installation.project.root().join("Dockerfile"))?;
    let broken = format!("{dockerfile}\n{DOES_NOT_COME_UP}\n");
    installation.project.write("Dockerfile", &broken)?;
    installation.end_agent_at("agent.switch.refused")?;
    installation
        .updraft(&["deploy", "--no-wait"])?
        .expect_code(0)?;
    start_after(installation, "agent.switch.refused")?;
    let failed = installation.updraft(&["deploy", "--wait-for-agent", "60s"])?;
    installation.project.write("Dockerfile", &dockerfile)?;
    ensure!(failed.code == Some(10), "{failed:?}");
    wait_until_up(airflow)?;
    ensure!(quick(airflow)? == before);
    ensure!(deploy(installation, 0)?["outcome"] == "live");
    Ok(())
}

/// Waits until the agent has ended at a point, and starts the next one.
fn start_after(installation: &mut Installation, point: &str) -> Result<()> {
    wait_for(&format!("the agent to end at {point}"), PATIENCE, || {
        Ok(installation.agent_ended()?.then_some(()))
    })?;
    installation.start_agent()
}

/// Puts another Airflow into the Dockerfile, and gives its text as it was.
fn name_airflow(installation: &Installation, version: &str, more: &str) -> Result<String> {
    let before = std::fs::read_to_string(installation.project.root().join("Dockerfile"))?;
    let rest = before.lines().filter(|line| !line.starts_with("FROM"));
    let rest: Vec<_> = rest.collect();
    let text = format!(
        "FROM apache/airflow:{version}-python3.12\n{}\n{more}\n",
        rest.join("\n")
    );
    installation.project.write("Dockerfile", &text)?;
    Ok(before)
}

pub(crate) fn another_version_of_airflow_takes_the_database_along(
    installation: &mut Installation,
    airflow: &Airflow,
) -> Result<()> {
    let go = installation.folder_for_airflow("upgrade")?.join("go");
    write_halves(installation, "4.8.1", 1)?;
    write_dags(installation, &go)?;
    deploy(installation, 0)?;
    let run = airflow.trigger("waiting")?;
    airflow.wait_for_a_running_task("waiting", &run)?;

    // One that does not come up leaves no migrated database behind, also when the
    // agent ends in the middle.
    let before = name_airflow(installation, "3.3.2", DOES_NOT_COME_UP)?;
    installation.end_agent_at("agent.migrate.backed_up")?;
    installation
        .updraft(&["deploy", "--no-wait"])?
        .expect_code(0)?;
    start_after(installation, "agent.migrate.backed_up")?;
    let failed = installation.updraft(&["deploy", "--wait-for-agent", "60s"])?;
    ensure!(failed.code == Some(10), "{failed:?}");
    wait_until_up(airflow)?;
    ensure!(quick(airflow)? == json!(["4.8.1", 1]));

    installation.project.write("Dockerfile", &before)?;
    name_airflow(installation, "3.3.2", "")?;
    installation.end_agent_at("agent.migrate.end")?;
    installation
        .updraft(&["deploy", "--no-wait"])?
        .expect_code(0)?;
    start_after(installation, "agent.migrate.end")?;
    let again = installation.updraft(&["deploy", "--wait-for-agent", "60s"])?;
    again.expect_code(0)?;
    let runs = |version: &str| -> Result<()> {
        let said = installation.updraft(&["status"])?.expect_code(0)?.stdout;
        ensure!(said.contains(&format!("{version} on Python")), "{said}");
        ensure!(quick(airflow)? == json!(["4.8.1", 1]));
        Ok(())
    };
    runs("3.3.2")?;
    // What ran before is in the same database, and has ended where it began.
    std::fs::write(&go, "")?;
    airflow.wait_for_success("waiting", &run)?;
    let files = updraft_e2e::files_below(&installation.agent_root())?;
    let copies = files.iter().filter(|file| {
        let name = file.file_name().and_then(|name| name.to_str());
        name == Some("airflow.db.before-migration-from-3.2.2")
    });
    ensure!(copies.count() == 1, "no copy was made: {files:?}");

    // Not back by accident, and back when that is asked for.
    let back = installation.updraft(&["rollback"])?.expect_code(10)?;
    ensure!(back.stderr.contains("cannot use it"), "{back:?}");
    runs("3.3.2")?;
    installation.updraft(&["hold", "lift"])?.expect_code(0)?;
    ensure!(deploy(installation, 0)?["outcome"] == "live");
    installation.project.write("Dockerfile", &before)?;
    let refused = installation.updraft(&["deploy"])?.expect_code(3)?;
    ensure!(
        refused.stderr.contains("cannot use a database"),
        "{refused:?}"
    );
    installation
        .updraft(&["deploy", "--allow-downgrade"])?
        .expect_code(0)?;
    runs("3.2.2")
}
