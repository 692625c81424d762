//! An Airflow that somebody else runs: files are delivered to its DAG folder,
//! and its REST API is asked. A proof waits until Airflow's own pace has shown
//! each file, half a minute by its defaults.

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
