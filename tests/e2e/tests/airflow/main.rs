//! One installation with one real Airflow, and what its users rely on.
//!
//! Starting Airflow takes most of a minute, so the scenarios share it and run
//! one after the other, each with DAGs of its own.
#![allow(clippy::unwrap_used, reason = "a test that fails says where")]

mod kill;

use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::{Result, ensure};
use libtest_mimic::{Arguments, Failed, Trial};
use serde_json::Value;
use updraft_e2e::{Airflow, Installation, wait_for};

type Scenario = fn(&mut Installation, &Airflow) -> Result<()>;

const SCENARIOS: &[(&str, Scenario)] = &[
    (
        "an_added_task_is_there_when_live_is_printed",
        an_added_task_is_there_when_live_is_printed,
    ),
    (
        "also_when_the_old_version_was_being_parsed",
        also_when_the_old_version_was_being_parsed,
    ),
    (
        "a_changed_helper_changes_the_dags_that_import_it",
        a_changed_helper_changes_the_dags_that_import_it,
    ),
    (
        "a_changed_function_body_runs_next",
        a_changed_function_body_runs_next,
    ),
    (
        "two_deploys_within_five_seconds_are_both_recorded",
        two_deploys_within_five_seconds_are_both_recorded,
    ),
    (
        "a_removed_file_takes_its_dag_away",
        a_removed_file_takes_its_dag_away,
    ),
    (
        "a_run_ends_on_the_code_it_began_with",
        a_run_ends_on_the_code_it_began_with,
    ),
    (
        "an_import_error_fails_the_deploy_and_stays_red",
        an_import_error_fails_the_deploy_and_stays_red,
    ),
    (
        "an_old_import_error_does_not_fail_another_change",
        an_old_import_error_does_not_fail_another_change,
    ),
    (
        "a_rollback_brings_the_old_release_back",
        a_rollback_brings_the_old_release_back,
    ),
    (
        "the_policy_rollback_takes_a_failed_deploy_back",
        the_policy_rollback_takes_a_failed_deploy_back,
    ),
    ("dag_code_reads_no_secret", dag_code_reads_no_secret),
    (
        "a_task_cannot_change_the_live_files",
        a_task_cannot_change_the_live_files,
    ),
    ("a_task_outlives_its_agent", a_task_outlives_its_agent),
    (
        "the_control_plane_may_end_at_any_step",
        kill::the_control_plane_may_end_at_any_step,
    ),
    (
        "the_agent_may_end_at_any_step",
        kill::the_agent_may_end_at_any_step,
    ),
    (
        "the_command_may_end_at_any_moment",
        kill::the_command_may_end_at_any_moment,
    ),
    (
        "airflows_own_examples_are_all_parsed",
        airflows_own_examples_are_all_parsed,
    ),
];

fn main() {
    let arguments = Arguments::from_args();
    let shared: Arc<Mutex<Option<(Installation, Airflow)>>> = Arc::default();
    let trials = SCENARIOS
        .iter()
        .map(|(name, scenario)| {
            let shared = Arc::clone(&shared);
            Trial::test(*name, move || {
                let mut shared = shared
                    .lock()
                    .unwrap_or_else(std::sync::PoisonError::into_inner);
                if shared.is_none() {
                    *shared = Some(installed().map_err(Failed::from)?);
                }
                let (installation, airflow) = shared.as_mut().unwrap();
                scenario(installation, airflow)
                    .map_err(|error| Failed::from(format!("{error:?}\n{}", installation.logs())))
            })
        })
        .collect();
    let mut arguments = arguments;
    arguments.test_threads = Some(1);
    let conclusion = libtest_mimic::run(&arguments, trials);
    drop(shared);
    conclusion.exit();
}

/// What Airflow's own examples need registered; Airflow does it itself when it
/// loads them.
const EXAMPLES_PLUGIN: &str = "\
from airflow.example_dags.plugins.decreasing_priority_weight_strategy import DecreasingPriorityStrategy
from airflow.example_dags.plugins.workday import AfterWorkdayTimetable
from airflow.plugins_manager import AirflowPlugin


class ExamplesPlugin(AirflowPlugin):
    name = \"examples\"
    timetables = [AfterWorkdayTimetable]
    priority_weight_strategies = [DecreasingPriorityStrategy]
";

/// The project of `dev init`, live.
fn installed() -> Result<(Installation, Airflow)> {
    let installation = Installation::start("3.3.2")?;
    installation
        .project
        .write("plugins/airflow_examples.py", EXAMPLES_PLUGIN)?;
    let deploy = installation.deploy(&["--timeout", "300"])?;
    if deploy.code != Some(0) {
        anyhow::bail!("the first deploy: {deploy:?}\n{}", installation.logs());
    }
    let airflow = installation.airflow()?;
    Ok((installation, airflow))
}

/// Deploys, expects it live, and gives what was printed.
fn live(installation: &Installation) -> Result<Value> {
    let printed = installation.deploy(&[])?.expect_code(0)?.json()?;
    ensure!(printed["outcome"] == "live", "{printed:#}");
    Ok(printed)
}

fn bundle_digest(printed: &Value) -> String {
    printed["deploy"]["release"]["bundles"]["dags"]["digest"]
        .as_str()
        .unwrap_or_default()
        .to_owned()
}

fn an_added_task_is_there_when_live_is_printed(
    installation: &mut Installation,
    airflow: &Airflow,
) -> Result<()> {
    installation.project.write_dag("orders", &["extract"])?;
    let printed = live(installation)?;
    ensure!(airflow.tasks("orders")? == ["extract"]);
    ensure!(
        printed["dags"]["added"] == serde_json::json!(["orders"]),
        "{printed:#}"
    );
    installation
        .project
        .write_dag("orders", &["extract", "load"])?;
    let printed = live(installation)?;
    ensure!(airflow.tasks("orders")? == ["extract", "load"]);
    ensure!(
        printed["dags"]["changed"] == serde_json::json!(["orders"]),
        "{printed:#}"
    );
    Ok(())
}

fn also_when_the_old_version_was_being_parsed(
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

fn a_changed_helper_changes_the_dags_that_import_it(
    installation: &mut Installation,
    airflow: &Airflow,
) -> Result<()> {
    installation.project.write("dags/steps/__init__.py", "")?;
    installation
        .project
        .write("dags/steps/names.py", "NAMES = ['one']\n")?;
    installation
        .project
        .write("dags/steps/more.py", "from steps.names import NAMES\n")?;
    installation.project.write(
        "dags/helped.py",
        "from airflow.sdk import DAG\n\
         from airflow.providers.standard.operators.empty import EmptyOperator\n\
         from steps.more import NAMES\n\
         with DAG(\"helped\", schedule=None):\n    for name in NAMES:\n        EmptyOperator(task_id=name)\n",
    )?;
    live(installation)?;
    ensure!(airflow.tasks("helped")? == ["one"]);
    installation
        .project
        .write("dags/steps/names.py", "NAMES = ['one', 'two']\n")?;
    let printed = live(installation)?;
    ensure!(airflow.tasks("helped")? == ["one", "two"]);
    ensure!(
        printed["dags"]["changed"] == serde_json::json!(["helped"]),
        "{printed:#}"
    );
    Ok(())
}

fn a_changed_function_body_runs_next(
    installation: &mut Installation,
    airflow: &Airflow,
) -> Result<()> {
    for answer in ["first", "other"] {
        // Both files have the same size: only the content tells them apart.
        installation
            .project
            .write_python_dag("body", "", &format!("return \"{answer}\""))?;
        let digest = bundle_digest(&live(installation)?);
        let run = airflow.trigger("body")?;
        let ended = airflow.wait_for_run("body", &run)?;
        ensure!(ended["state"] == "success", "{ended:#}");
        ensure!(
            ended["bundle_version"] == digest.as_str(),
            "{ended:#} is not on {digest}"
        );
        ensure!(
            airflow
                .returned("body", &run, "step")?
                .as_str()
                .is_some_and(|value| value.contains(answer))
        );
    }
    Ok(())
}

fn two_deploys_within_five_seconds_are_both_recorded(
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
    let history = installation
        .updraft(&["history", "-o", "json"])?
        .expect_code(0)?
        .json()?;
    let newest = &history["deploys"][0];
    ensure!(
        newest["description"] == "second" && newest["state"]["name"] == "live",
        "{newest:#}"
    );
    ensure!(
        history["deploys"][1]["description"] == "first",
        "{history:#}"
    );
    Ok(())
}

fn a_removed_file_takes_its_dag_away(
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

fn a_run_ends_on_the_code_it_began_with(
    installation: &mut Installation,
    airflow: &Airflow,
) -> Result<()> {
    let write = |answer: &str| {
        installation.project.write(
            "dags/lasting.py",
            &format!(
                "import time\nfrom airflow.sdk import dag, task\nfrom lasting_helper import ANSWER\n\n\
                 @dag(schedule=None)\ndef lasting():\n    @task\n    def wait():\n        time.sleep(8)\n\n    \
                 @task\n    def tell():\n        return \"{answer} \" + ANSWER\n\n    wait() >> tell()\n\n\nlasting()\n"
            ),
        )?;
        installation.project.write(
            "dags/lasting_helper.py",
            &format!("ANSWER = \"{answer}\"\n"),
        )
    };
    write("old")?;
    let old = bundle_digest(&live(installation)?);
    let run = airflow.trigger("lasting")?;
    wait_for("the first task to run", Duration::from_secs(60), || {
        Ok((airflow.run("lasting", &run)?["state"] == "running").then_some(()))
    })?;
    write("new")?;
    let new = bundle_digest(&live(installation)?);
    ensure!(old != new);
    let ended = airflow.wait_for_run("lasting", &run)?;
    ensure!(
        ended["state"] == "success" && ended["bundle_version"] == old.as_str(),
        "{ended:#}"
    );
    ensure!(
        airflow
            .returned("lasting", &run, "tell")?
            .as_str()
            .is_some_and(|value| value.contains("old old"))
    );
    let next = airflow.trigger("lasting")?;
    let ended = airflow.wait_for_run("lasting", &next)?;
    ensure!(
        ended["state"] == "success" && ended["bundle_version"] == new.as_str(),
        "{ended:#}"
    );
    ensure!(
        airflow
            .returned("lasting", &next, "tell")?
            .as_str()
            .is_some_and(|value| value.contains("new new"))
    );
    Ok(())
}

const BROKEN: &str = "from airflow.sdk import DAG\nimport no_such_module\n\nDAG(\"broken\")\n";

fn an_import_error_fails_the_deploy_and_stays_red(
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
    let history = installation
        .updraft(&["history", "-o", "json"])?
        .expect_code(0)?
        .json()?;
    ensure!(
        history["deploys"][0]["state"]["name"] == "failed",
        "{history:#}"
    );
    // The same tree again is proven again, and no greener.
    installation.deploy(&[])?.expect_code(10)?;
    Ok(())
}

fn an_old_import_error_does_not_fail_another_change(
    installation: &mut Installation,
    _: &Airflow,
) -> Result<()> {
    // A broken file that was there when something was last proven.
    installation.project.remove("dags/broken.py")?;
    live(installation)?;
    Ok(())
}

fn a_rollback_brings_the_old_release_back(
    installation: &mut Installation,
    airflow: &Airflow,
) -> Result<()> {
    installation.project.write_dag("turning", &["one"])?;
    live(installation)?;
    installation.project.write_dag("turning", &["one", "two"])?;
    live(installation)?;
    installation.updraft(&["rollback"])?.expect_code(0)?;
    ensure!(airflow.tasks("turning")? == ["one"]);
    let history = installation
        .updraft(&["history", "-o", "json"])?
        .expect_code(0)?
        .json()?;
    ensure!(history["deploys"][0]["kind"] == "rollback", "{history:#}");
    ensure!(
        history["deploys"][1]["state"]["name"] == "rolled_back",
        "{history:#}"
    );
    live(installation).map(drop)
}

fn the_policy_rollback_takes_a_failed_deploy_back(
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
            let status = installation
                .updraft(&["status", "-o", "json"])?
                .expect_code(0)?
                .json()?;
            let live = &status["wanted_deploy"];
            Ok(
                (live["state"]["name"] == "live" && live["kind"] == "automatic_rollback")
                    .then_some(()),
            )
        },
    )?;
    let status = installation.updraft(&["status", "-o", "json"])?.json()?;
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

fn dag_code_reads_no_secret(installation: &mut Installation, airflow: &Airflow) -> Result<()> {
    let agent = installation.agent_root();
    let body = format!(
        "import os, pathlib\n\
         found = [name for name in os.environ if 'UPDRAFT_TOKEN' in name]\n\
         for root in ['{agent}', '{agent}/../server', '{agent}/..']:\n    \
         for path in pathlib.Path(root).rglob('*') if os.access(root, os.R_OK) else []:\n        \
         if path.is_file() and path.name in ('token', 'wanted.json', 'secrets.json', 'keys.json', 'updraft.db'):\n            \
         try:\n                path.read_bytes()\n            except OSError:\n                continue\n            \
         found.append(str(path))\n\
         return found",
        agent = agent.display()
    );
    std::fs::set_permissions(
        agent.join("../token"),
        std::os::unix::fs::PermissionsExt::from_mode(0o600),
    )?;
    installation
        .project
        .write_python_dag("curious", "", &body)?;
    live(installation)?;
    let run = airflow.trigger("curious")?;
    let ended = airflow.wait_for_run("curious", &run)?;
    ensure!(ended["state"] == "success", "{ended:#}");
    let found = airflow.returned("curious", &run, "step")?;
    let none = found == serde_json::json!([]) || found == "[]";
    let status = installation.updraft(&["status"])?.expect_code(0)?;
    // Without a user of its own for Airflow, the status has to say so.
    ensure!(
        none || status.stdout.contains("DAG code can read"),
        "{found}\n{}",
        status.stdout
    );
    ensure!(none || !rustix::process::geteuid().is_root(), "{found}");
    Ok(())
}

fn a_task_cannot_change_the_live_files(
    installation: &mut Installation,
    airflow: &Airflow,
) -> Result<()> {
    let body = "with open(__file__, 'a') as file:\n    file.write('# changed')";
    installation
        .project
        .write_python_dag("meddling", "", body)?;
    live(installation)?;
    let run = airflow.trigger("meddling")?;
    let ended = airflow.wait_for_run("meddling", &run)?;
    ensure!(ended["state"] == "failed", "{ended:#}");
    Ok(())
}

fn a_task_outlives_its_agent(installation: &mut Installation, airflow: &Airflow) -> Result<()> {
    installation.project.write_python_dag(
        "long",
        "import time",
        "time.sleep(25)\nreturn 'done'",
    )?;
    live(installation)?;
    let run = airflow.trigger("long")?;
    wait_for("the task to run", Duration::from_secs(60), || {
        Ok((airflow.run("long", &run)?["state"] == "running").then_some(()))
    })?;
    installation.kill_agent()?;
    installation.start_agent()?;
    let ended = airflow.wait_for_run("long", &run)?;
    ensure!(ended["state"] == "success", "{ended:#}");
    // The next agent adopted what ran, and works.
    installation.project.write_dag("after", &["one"])?;
    live(installation)?;
    ensure!(airflow.tasks("after")? == ["one"]);
    let status = installation
        .updraft(&["status", "-o", "json"])?
        .expect_code(0)?
        .json()?;
    for component in status["agents"][0]["airflow"]["components"]
        .as_array()
        .unwrap()
    {
        ensure!(component["restarts"] == 0, "{component:#}");
    }
    Ok(())
}

fn airflows_own_examples_are_all_parsed(
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
