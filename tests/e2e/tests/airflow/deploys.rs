//! What a deploy changes in Airflow, and how it ends.

use std::time::Duration;

use anyhow::{Result, ensure};
use updraft_e2e::{Airflow, Installation, wait_for};

use crate::{BROKEN, bundle_digest, history, live, status};

pub(crate) fn also_when_the_old_version_was_being_parsed(
    installation: &mut Installation,
    airflow: &Airflow,
) -> Result<()> {
    let slow = |tasks: &str| {
        format!(
            "import time\nfrom airflow.sdk import DAG\n\
             from airflow.providers.standard.operators.empty import EmptyOperator\n\
             time.sleep(12)\n\
             with DAG(\"slow\", schedule=None):\n    for name in {tasks}:\n        EmptyOperator(task_id=name)\n"
        )
    };
    installation.project.write("dags/slow.py", &slow("['a']"))?;
    live(installation)?;
    // Airflow's own first parse of the file is under way or about to be.
    installation.project.write(
        "dags/slow.py",
        &slow("['a', 'b']").replace("sleep(12)", "sleep(0)"),
    )?;
    live(installation)?;
    for _ in 0..20 {
        ensure!(airflow.tasks("slow")? == ["a", "b"]);
        std::thread::sleep(Duration::from_secs(1));
    }
    installation.project.remove("dags/slow.py")?;
    live(installation).map(drop)
}

pub(crate) fn two_deploys_within_five_seconds_are_both_recorded(
    installation: &mut Installation,
    airflow: &Airflow,
) -> Result<()> {
    installation.project.write_dag("hasty", &["one"])?;
    installation
        .deploy(&["--no-wait", "--description", "first"])?
        .expect_code(0)?;
    installation.project.write_dag("hasty", &["one", "two"])?;
    installation
        .deploy(&["--description", "second"])?
        .expect_code(0)?;
    ensure!(airflow.tasks("hasty")? == ["one", "two"]);
    let history = history(installation)?;
    let newest = &history[0];
    ensure!(
        newest["description"] == "second" && newest["state"]["name"] == "live",
        "{newest:#}"
    );
    ensure!(history[1]["description"] == "first", "{history:#}");
    Ok(())
}

pub(crate) fn a_removed_file_takes_its_dag_away(
    installation: &mut Installation,
    airflow: &Airflow,
) -> Result<()> {
    installation.project.write_dag("passing", &["one"])?;
    live(installation)?;
    ensure!(airflow.dags()?.contains(&"passing".to_owned()));
    installation.project.remove("dags/passing.py")?;
    let printed = live(installation)?;
    ensure!(
        printed["dags"]["removed"] == serde_json::json!(["passing"]),
        "{printed:#}"
    );
    ensure!(!airflow.dags()?.contains(&"passing".to_owned()));
    Ok(())
}

pub(crate) fn an_import_error_fails_the_deploy_and_stays_red(
    installation: &mut Installation,
    _: &Airflow,
) -> Result<()> {
    installation.project.write("dags/broken.py", BROKEN)?;
    let output = installation
        .updraft(&["deploy", "--dags"])?
        .expect_code(10)?;
    ensure!(output.stderr.contains("broken.py"), "{output:?}");
    ensure!(
        output.stderr.contains("No module named 'no_such_module'"),
        "{output:?}"
    );
    let history = history(installation)?;
    ensure!(history[0]["state"]["name"] == "failed", "{history:#}");
    // The same tree again is proven again, and no greener.
    installation.deploy(&[])?.expect_code(10)?;
    Ok(())
}

pub(crate) fn what_a_failed_deploy_broke_does_not_fail_another_change(
    installation: &mut Installation,
    airflow: &Airflow,
) -> Result<()> {
    installation.project.write("dags/broken.py", BROKEN)?;
    installation.deploy(&[])?.expect_code(10)?;
    installation.project.write_dag("unhurt", &["one"])?;
    let printed = live(installation)?;
    let errors = &printed["deploy"]["state"]["proof"]["import_errors"];
    ensure!(
        errors[0]["file"] == "broken.py" && errors[0]["new"] == false,
        "{printed:#}"
    );
    ensure!(airflow.tasks("unhurt")? == ["one"]);
    Ok(())
}

pub(crate) fn an_old_import_error_does_not_fail_another_change(
    installation: &mut Installation,
    airflow: &Airflow,
) -> Result<()> {
    installation.project.remove("dags/broken.py")?;
    let flag = installation.agent_root().join("../weather");
    std::fs::write(&flag, "fair")?;
    let dag = format!(
        "import pathlib
from airflow.sdk import DAG

\
         pathlib.Path(\"{}\").read_text()
DAG(\"fair_weather\", schedule=None)
",
        flag.display()
    );
    installation.project.write("dags/fair_weather.py", &dag)?;
    live(installation)?;
    // It was proven, and breaks without a deploy.
    std::fs::remove_file(&flag)?;
    wait_for("Airflow to notice", Duration::from_secs(120), || {
        let errors = airflow.get("/importErrors")?;
        Ok((errors["total_entries"] == 1).then_some(()))
    })?;
    installation.project.write_dag("indifferent", &["one"])?;
    let printed = live(installation)?;
    let errors = &printed["deploy"]["state"]["proof"]["import_errors"];
    ensure!(
        errors[0]["file"] == "fair_weather.py" && errors[0]["new"] == false,
        "{printed:#}"
    );
    // Whoever touches the file has to mend it.
    installation.project.write(
        "dags/fair_weather.py",
        &format!(
            "{dag}# touched
"
        ),
    )?;
    installation.deploy(&[])?.expect_code(10)?;
    installation.project.remove("dags/fair_weather.py")?;
    live(installation).map(drop)
}

pub(crate) fn a_rollback_brings_the_old_release_back(
    installation: &mut Installation,
    airflow: &Airflow,
) -> Result<()> {
    installation.project.write_dag("turning", &["one"])?;
    live(installation)?;
    installation.project.write_dag("turning", &["one", "two"])?;
    live(installation)?;
    installation.updraft(&["rollback"])?.expect_code(0)?;
    ensure!(airflow.tasks("turning")? == ["one"]);
    let history = history(installation)?;
    ensure!(history[0]["kind"] == "rollback", "{history:#}");
    ensure!(history[1]["state"]["name"] == "rolled_back", "{history:#}");
    live(installation).map(drop)
}

pub(crate) fn the_policy_rollback_takes_a_failed_deploy_back(
    installation: &mut Installation,
    airflow: &Airflow,
) -> Result<()> {
    installation
        .updraft(&[
            "deployment",
            "update",
            "shop",
            "--after-failure",
            "rollback",
        ])?
        .expect_code(0)?;
    installation.project.write_dag("kept", &["one"])?;
    let before = bundle_digest(&live(installation)?);
    installation.project.write("dags/broken.py", BROKEN)?;
    let output = installation.deploy(&[])?;
    ensure!(
        output.code == Some(10) || output.code == Some(14),
        "{output:?}"
    );
    wait_for(
        "the old Release to be live again",
        Duration::from_secs(60),
        || {
            let live = &status(installation)?["wanted_deploy"];
            Ok(
                (live["state"]["name"] == "live" && live["kind"] == "automatic_rollback")
                    .then_some(()),
            )
        },
    )?;
    let status = status(installation)?;
    ensure!(
        status["deployment"]["wanted"]["bundles"]["dags"]["digest"] == before.as_str(),
        "{status:#}"
    );
    ensure!(airflow.tasks("kept")? == ["one"]);
    installation.project.remove("dags/broken.py")?;
    installation
        .updraft(&["deployment", "update", "shop", "--after-failure", "keep"])?
        .expect_code(0)?;
    Ok(())
}

pub(crate) fn airflows_own_examples_are_all_parsed(
    installation: &mut Installation,
    airflow: &Airflow,
) -> Result<()> {
    let examples = installation.airflow_examples()?;
    let target = installation.project.root().join("dags/examples");
    updraft_e2e::copy_tree(&examples, &target)?;
    let printed = installation
        .deploy(&["--timeout", "300"])?
        .expect_code(0)?
        .json()?;
    let proof = &printed["deploy"]["state"]["proof"];
    ensure!(proof["files"].as_u64() >= Some(50), "{printed:#}");
    ensure!(proof["parsed"] == proof["affected"], "{printed:#}");
    ensure!(proof["dags"]["total"].as_u64() >= Some(80), "{printed:#}");
    let digest = bundle_digest(&printed);
    let run = airflow.trigger("example_dynamic_task_mapping")?;
    let ended = airflow.wait_for_run("example_dynamic_task_mapping", &run)?;
    ensure!(
        ended["state"] == "success" && ended["bundle_version"] == digest.as_str(),
        "{ended:#}"
    );
    Ok(())
}
