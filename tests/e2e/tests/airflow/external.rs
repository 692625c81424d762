//! An Airflow that somebody else runs: files are delivered to its DAG folder,
//! and its REST API is asked. A proof waits until Airflow's own pace has shown
//! each file, half a minute by its defaults. By itself it looks for new files
//! every five minutes, which no scenario waits for.

use anyhow::{Result, ensure};
use updraft_e2e::{Airflow, Installation};

use crate::live;

fn write(installation: &Installation, tasks: &str, helper: &str) -> Result<()> {
    let dag = format!(
        "from airflow.sdk import DAG\n\
         from airflow.providers.standard.operators.empty import EmptyOperator\n\
         from words import WORD\n\n\
         with DAG(\"hello\", schedule=None, description=WORD):\n    \
         for name in {tasks}:\n        EmptyOperator(task_id=name)\n"
    );
    installation.project.write("dags/hello.py", &dag)?;
    installation.project.write("dags/words.py", helper)
}

pub(crate) fn what_is_delivered_is_proven(
    installation: &mut Installation,
    airflow: &Airflow,
) -> Result<()> {
    write(installation, "['one', 'two']", "WORD = 'hello'\n")?;
    let printed = live(installation)?;
    ensure!(
        printed["dags"]["added"] == serde_json::json!(["hello"]),
        "{printed:#}"
    );
    ensure!(airflow.tasks("hello")? == ["one", "two"]);
    Ok(())
}

pub(crate) fn a_broken_helper_fails_the_deploy_until_it_is_mended(
    installation: &mut Installation,
    airflow: &Airflow,
) -> Result<()> {
    write(installation, "['one', 'two']", "WORDS = 'hello'\n")?;
    let output = installation.updraft(&["deploy", "--dags"])?;
    let output = output.expect_code(10)?;
    ensure!(output.stderr.contains("hello.py"), "{output:?}");
    write(installation, "['one', 'two', 'six']", "WORD = 'again'\n")?;
    live(installation)?;
    ensure!(airflow.tasks("hello")? == ["one", "six", "two"]);
    Ok(())
}

pub(crate) fn an_added_file_is_found_without_waiting_for_airflows_pace(
    installation: &mut Installation,
    airflow: &Airflow,
) -> Result<()> {
    installation.project.write_dag("late", &["one"])?;
    live(installation)?;
    ensure!(airflow.tasks("late")? == ["one"]);
    Ok(())
}

pub(crate) fn a_removed_file_is_live_once_airflow_has_retired_its_dag(
    installation: &mut Installation,
    airflow: &Airflow,
) -> Result<()> {
    installation.project.write_dag("leaving", &["one"])?;
    live(installation)?;
    installation.project.remove("dags/leaving.py")?;
    let printed = live(installation)?;
    ensure!(
        printed["dags"]["removed"] == serde_json::json!(["leaving"]),
        "{printed:#}"
    );
    ensure!(!airflow.dags()?.contains(&"leaving".to_owned()));
    Ok(())
}

pub(crate) fn a_file_without_a_dag_is_silent_only_when_airflow_has_looked(
    installation: &mut Installation,
    airflow: &Airflow,
) -> Result<()> {
    installation
        .project
        .write("dags/quiet.py", "# no airflow dag in here\n")?;
    let asked = airflow.get("/dags/late")?["last_parsed_time"].to_string();
    let printed = live(installation)?;
    let proof = &printed["deploy"]["state"]["proof"];
    ensure!(
        proof["silent"] == serde_json::json!(["quiet.py"]),
        "{printed:#}"
    );
    // Airflow lists its folder when it is asked for any file of it.
    let shown = airflow.get("/dags?limit=100")?;
    let parsed: Vec<String> = shown["dags"]
        .as_array()
        .into_iter()
        .flatten()
        .map(|dag| dag["last_parsed_time"].to_string())
        .collect();
    ensure!(parsed.iter().any(|time| *time > asked), "{shown:#}");
    Ok(())
}
