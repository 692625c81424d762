//! What holds on every release of Airflow, 2.11 included. That one has no
//! versions: its runs go on with what is live.

use anyhow::{Result, ensure};
use serde_json::json;
use updraft_e2e::{Airflow, DEPLOYMENT, Installation, PATIENCE, wait_for};

use crate::{BROKEN, bundle_digest, live};

/// Imports that Airflow 2 and 3 both have.
const HEAD: &str = "\
import time
from datetime import datetime
try:
    from airflow.sdk import dag, task
except ImportError:
    from airflow.decorators import dag, task
";

/// A DAG of the given name; its function's body is that of the DAG.
fn dag(id: &str, imports: &str, body: &str) -> String {
    let body = body.replace('\n', "\n    ");
    format!(
        "{HEAD}{imports}\n\n\
         @dag(schedule=None, start_date=datetime(2024, 1, 1), catchup=False)\ndef {id}():\n    {body}\n\n\n{id}()\n"
    )
}

fn steps(names: &str) -> String {
    format!("for name in {names}:\n    task(lambda: None, task_id=name)()")
}

pub(crate) fn the_project_of_dev_init_runs(_: &mut Installation, airflow: &Airflow) -> Result<()> {
    for id in ["example_basic", "example_advanced", "halves"] {
        let run = airflow.trigger(id)?;
        airflow.wait_for_success(id, &run)?;
    }
    Ok(())
}

pub(crate) fn airflows_own_examples_pass_the_check(
    installation: &mut Installation,
    _: &Airflow,
) -> Result<()> {
    let examples = installation.airflow_examples()?;
    let folder = installation.project.root().join("dags/examples");
    updraft_e2e::copy_tree(&examples, &folder)?;
    let checked = installation.updraft(&["dev", "check", "-o", "json"])?;
    std::fs::remove_dir_all(&folder)?;
    let checked = checked.expect_code(0)?.json()?;
    ensure!(checked["files"].as_u64() > Some(40), "{checked:#}");
    // Some of them still import from where a name was before Airflow 3.
    let mut others = checked["findings"].as_array().into_iter().flatten();
    ensure!(
        others.all(|finding| finding["rule"] == "UPD502"),
        "{checked:#}"
    );
    Ok(())
}

pub(crate) fn an_added_task_is_there_when_live_is_printed(
    installation: &mut Installation,
    airflow: &Airflow,
) -> Result<()> {
    for (names, tasks, change) in [
        ("['a']", vec!["a"], "added"),
        ("['a', 'b']", vec!["a", "b"], "changed"),
    ] {
        let file = dag("growing", "", &steps(names));
        installation.project.write("dags/growing.py", &file)?;
        let printed = live(installation)?;
        ensure!(airflow.tasks("growing")? == tasks);
        ensure!(printed["dags"][change] == json!(["growing"]), "{printed:#}");
    }
    Ok(())
}

pub(crate) fn a_changed_helper_changes_the_dags_that_import_it(
    installation: &mut Installation,
    airflow: &Airflow,
) -> Result<()> {
    let project = &installation.project;
    project.write("dags/steps/__init__.py", "")?;
    project.write("dags/steps/more.py", "from steps.names import NAMES\n")?;
    let file = dag("helped", "from steps.more import NAMES\n", &steps("NAMES"));
    project.write("dags/helped.py", &file)?;
    for (names, tasks) in [("['a']", vec!["a"]), ("['a', 'b']", vec!["a", "b"])] {
        project.write("dags/steps/names.py", &format!("NAMES = {names}\n"))?;
        live(installation)?;
        ensure!(airflow.tasks("helped")? == tasks);
    }
    Ok(())
}

pub(crate) fn a_changed_function_body_runs_next(
    installation: &mut Installation,
    airflow: &Airflow,
) -> Result<()> {
    for answer in ["first", "other"] {
        // Both files have the same size: only the content tells them apart.
        let body = format!("task(lambda: \"{answer}\", task_id=\"step\")()");
        let file = dag("body", "", &body);
        installation.project.write("dags/body.py", &file)?;
        let digest = bundle_digest(&live(installation)?);
        let run = airflow.trigger("body")?;
        let ended = airflow.wait_for_success("body", &run)?;
        ensure!(
            airflow.is_airflow_2() || ended["bundle_version"] == digest.as_str(),
            "{ended:#} is not on {digest}"
        );
        let returned = airflow.returned("body", &run, "step")?.to_string();
        ensure!(returned.contains(answer), "{returned}");
        // Later versions of a DAG whose serialised form is the same are not listed.
        if !airflow.is_airflow_2() && answer == "first" {
            ensure_link_leads_here(installation, airflow, "body", &digest)?;
        }
    }
    Ok(())
}

/// What Airflow shows beside a run of a version: the address of its deploy.
fn ensure_link_leads_here(
    installation: &Installation,
    airflow: &Airflow,
    dag: &str,
    digest: &str,
) -> Result<()> {
    let listed = airflow.get(&format!("/dags/{dag}/dagVersions"))?;
    let versions = listed["dag_versions"].as_array().into_iter().flatten();
    let links: Vec<&str> = versions
        .filter(|version| version["bundle_version"] == digest)
        .filter_map(|version| version["bundle_url"].as_str())
        .collect();
    let server = installation.server_url();
    let link = format!("{server}/deployments/{DEPLOYMENT}/versions/{digest}");
    ensure!(links == [link.as_str()], "{listed:#}");
    Ok(())
}

pub(crate) fn a_run_ends_on_the_code_it_began_with(
    installation: &mut Installation,
    airflow: &Airflow,
) -> Result<()> {
    // The first run waits until the new version is live, however long that takes.
    let gate = installation.agent_root().join("../lasting-gate");
    let imports = format!(
        "import os\nfrom lasting_helper import ANSWER\n\n\n\
         def hold():\n    while not os.path.exists(\"{}\"):\n        time.sleep(0.2)\n",
        gate.display()
    );
    let write = |answer: &str| {
        let body = format!(
            "wait = task(hold, task_id=\"wait\")\n\
             tell = task(lambda: \"{answer} \" + ANSWER, task_id=\"tell\")\n\
             wait() >> tell()"
        );
        let file = dag("lasting", &imports, &body);
        installation.project.write("dags/lasting.py", &file)?;
        let helper = format!("ANSWER = \"{answer}\"\n");
        installation
            .project
            .write("dags/lasting_helper.py", &helper)
    };
    write("old")?;
    let old = bundle_digest(&live(installation)?);
    let run = airflow.trigger("lasting")?;
    airflow.wait_for_a_running_task("lasting", &run)?;
    write("new")?;
    let new = bundle_digest(&live(installation)?);
    std::fs::write(&gate, "")?;
    let began_with = if airflow.is_airflow_2() { "new" } else { "old" };
    for (run, digest, answer) in [
        (run, &old, began_with),
        (airflow.trigger("lasting")?, &new, "new"),
    ] {
        let ended = airflow.wait_for_success("lasting", &run)?;
        ensure!(
            airflow.is_airflow_2() || ended["bundle_version"] == digest.as_str(),
            "{ended:#} is not on {digest}"
        );
        let returned = airflow.returned("lasting", &run, "tell")?.to_string();
        ensure!(
            returned.contains(&format!("{answer} {answer}")),
            "{returned}"
        );
    }
    Ok(())
}

pub(crate) fn an_import_error_fails_the_deploy_and_a_rollback_mends_it(
    installation: &mut Installation,
    airflow: &Airflow,
) -> Result<()> {
    installation.project.write("dags/broken.py", BROKEN)?;
    let output = installation.updraft(&["deploy", "--dags"])?;
    let output = output.expect_code(10)?;
    ensure!(output.stderr.contains("broken.py"), "{output:?}");
    ensure!(
        output.stderr.contains("No module named 'no_such_module'"),
        "{output:?}"
    );
    installation.updraft(&["rollback"])?.expect_code(0)?;
    wait_for("the error to be gone", PATIENCE, || {
        let errors = airflow.get("/importErrors")?;
        Ok((errors["total_entries"] == 0).then_some(()))
    })?;
    installation.project.remove("dags/broken.py")
}

/// For those that run Airflow 2.
pub(crate) fn an_upgrade_is_tried_before_it_is_made(
    installation: &mut Installation,
    _: &Airflow,
) -> Result<()> {
    let dockerfile = installation.project.root().join("Dockerfile");
    let before = std::fs::read(&dockerfile)?;
    installation.project.write(
        "dags/old.py",
        "from airflow import DAG\nfrom airflow.operators.bash import BashOperator\n\n\
         with DAG(\"old\", schedule_interval=None):\n    \
         BashOperator(task_id=\"one\", bash_command=\"true\")\n",
    )?;
    let tried = ["dev", "upgrade-check", "--airflow-version", "3.3.2"];
    let found = installation.updraft(&[&tried[..], &["-o", "json"]].concat())?;
    let found = found.expect_code(17)?.json()?;
    let airflow = &found["packages"]["changed"]["apache-airflow"];
    ensure!(*airflow == json!(["2.11.2", "3.3.2"]), "{found:#}");
    let findings = found["findings"].as_array().into_iter().flatten();
    let rules: Vec<_> = findings
        .filter(|finding| finding["file"] == "dags/old.py")
        .map(|finding| finding["rule"].as_str().unwrap_or_default())
        .collect();
    // What ruff knows was removed, and what importing the file says.
    ensure!(rules.contains(&"UPD501"), "{found:#}");
    ensure!(rules.contains(&"UPD601"), "{found:#}");
    ensure!(std::fs::read(&dockerfile)? == before);
    installation.project.remove("dags/old.py")
}
