//! What a deploy changes in Airflow, and how it ends.

use std::collections::BTreeSet;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use serde_json::json;
use updraft_e2e::{Airflow, Installation, PATIENCE, wait_for};

use crate::{BROKEN, bundle_digest, history, live, status};

/// The top of a DAG file that says by which process it is parsed, and when that
/// parse ends: `processor-<pid>` while it runs, `processor-<pid>.ended` after it.
/// What the proof's own worker parses is not slowed down.
fn slow_for_the_processor(marks: &Path) -> String {
    format!(
        "import os, pathlib, time
parent = pathlib.Path(f'/proc/{{os.getppid()}}/cmdline').read_bytes()
if b'airflow_updraft.worker' not in parent:
    mark = pathlib.Path('{}', f'processor-{{os.getpid()}}')
    mark.touch()
    time.sleep(10)
    mark.rename(f'{{mark}}.ended')
",
        marks.display()
    )
}

pub(crate) fn also_when_the_old_version_was_being_parsed(
    installation: &mut Installation,
    airflow: &Airflow,
) -> Result<()> {
    let marks = installation.folder_for_airflow("marks")?;
    let file = |top: &str, tasks: &str| {
        format!(
            "{top}from airflow.sdk import DAG\n\
             from airflow.providers.standard.operators.empty import EmptyOperator\n\
             with DAG(\"slow\", schedule=None):\n    for name in {tasks}:\n        EmptyOperator(task_id=name)\n"
        )
    };
    let slow = slow_for_the_processor(&marks);
    installation
        .project
        .write("dags/slow.py", &file(&slow, "['a']"))?;
    live(installation)?;
    let begun = wait_for("Airflow to parse it", PATIENCE, || {
        let mut marks = updraft_e2e::files_below(&marks)?;
        marks.retain(|mark| mark.extension().is_none());
        Ok(marks.pop())
    })?;
    installation
        .project
        .write("dags/slow.py", &file("", "['a', 'b']"))?;
    live(installation)?;
    let switched = std::fs::symlink_metadata(installation.live_link()?)?.modified()?;
    // Its last change is the renaming, when the parse ended.
    let ended = std::fs::metadata(begun.with_added_extension("ended"))
        .context("the proof did not wait for the parse of the old version")?;
    let ended = std::time::UNIX_EPOCH
        + Duration::new(ended.ctime().try_into()?, ended.ctime_nsec().try_into()?);
    ensure!(ended > switched, "that parse was over before the switch");
    ensure!(airflow.tasks("slow")? == ["a", "b"]);
    // Nor does it come back later, with Airflow's own next parse of the file.
    let parsed = airflow.get("/dags/slow")?["last_parsed_time"].clone();
    wait_for("Airflow to parse it again", PATIENCE, || {
        ensure!(airflow.tasks("slow")? == ["a", "b"]);
        let now = &airflow.get("/dags/slow")?["last_parsed_time"];
        Ok((*now != parsed).then_some(()))
    })?;
    ensure!(airflow.tasks("slow")? == ["a", "b"]);
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
        .deploy(&["--no-wait", "--description", "second"])?
        .expect_code(0)?;
    // The same again waits for what is on its way.
    live(installation)?;
    ensure!(airflow.tasks("hasty")? == ["one", "two"]);
    let history = history(installation)?;
    let newest = &history[0];
    ensure!(
        newest["description"] == "second" && newest["state"]["name"] == "live",
        "{newest:#}"
    );
    ensure!(history[1]["description"] == "first", "{history:#}");
    ensure!(history[1]["state"]["name"] == "superseded", "{history:#}");
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
        printed["dags"]["removed"] == json!(["passing"]),
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
    wait_for("Airflow to notice", PATIENCE, || {
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
    // A pipeline does not undo it; somebody who means it does.
    let refused = installation.deploy(&[])?.expect_code(8)?;
    ensure!(refused.stderr.contains("is on hold"), "{refused:?}");
    ensure!(airflow.tasks("turning")? == ["one"]);
    installation.updraft(&["hold", "lift"])?.expect_code(0)?;
    live(installation).map(drop)
}

pub(crate) fn what_another_deployment_has_is_promoted_to_it(
    installation: &mut Installation,
    airflow: &Airflow,
) -> Result<()> {
    let updraft = |arguments: &[&str]| installation.updraft(arguments);
    updraft(&["deployment", "create", "staging"])?.expect_code(0)?;
    installation
        .project
        .write_dag("promoted", &["one", "two"])?;
    updraft(&["deploy", "staging", "--dags", "--no-wait"])?.expect_code(0)?;
    ensure!(!airflow.dags()?.contains(&"promoted".to_owned()));

    // No agent has proven it there.
    let promote = ["promote", "staging", "shop", "-o", "json"];
    let refused = updraft(&promote)?.expect_code(8)?;
    ensure!(
        refused.json()?["error"]["code"] == "not_proven",
        "{refused:?}"
    );
    let printed = updraft(&[&promote[..], &["--allow-unproven"]].concat())?;
    let printed = printed.expect_code(0)?.json()?;
    ensure!(printed["outcome"] == "live", "{printed:#}");
    ensure!(printed["deploy"]["kind"] == "promotion", "{printed:#}");
    ensure!(airflow.tasks("promoted")? == ["one", "two"]);
    let theirs = updraft(&["deployment", "show", "staging", "-o", "json"])?;
    let theirs = theirs.expect_code(0)?.json()?["wanted"]["bundles"].take();
    ensure!(
        printed["deploy"]["release"]["bundles"] == theirs,
        "{theirs:#}"
    );
    // What is here already has nothing to do, from the project as from there.
    let again = updraft(&[&promote[..], &["--allow-unproven"]].concat())?;
    ensure!(again.expect_code(0)?.json()?["outcome"] == "nothing_to_do");
    let again = installation.deploy(&[])?.expect_code(0)?.json()?;
    ensure!(again["outcome"] == "nothing_to_do", "{again:#}");
    updraft(&["deployment", "delete", "staging", "--yes"])?.expect_code(0)?;
    installation.project.remove("dags/promoted.py")?;
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
    let output = installation.deploy(&[])?.expect_code(14)?;
    let errors = &output.json()?["import_errors"];
    ensure!(errors[0]["file"] == "broken.py", "{output:?}");
    wait_for("the old Release to be live again", PATIENCE, || {
        let live = &status(installation)?["wanted_deploy"];
        Ok((live["state"]["name"] == "live" && live["kind"] == "automatic_rollback").then_some(()))
    })?;
    let status = status(installation)?;
    ensure!(
        status["deployment"]["wanted"]["bundles"]["dags"]["digest"] == before.as_str(),
        "{status:#}"
    );
    ensure!(airflow.tasks("kept")? == ["one"]);
    let history = history(installation)?;
    ensure!(history[1]["state"]["name"] == "rolled_back", "{history:#}");
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
    let printed = installation.deploy(&[])?.expect_code(0)?.json()?;
    let proof = &printed["deploy"]["state"]["proof"];
    ensure!(proof["parsed"] == proof["affected"], "{printed:#}");
    ensure!(proof["import_errors"] == json!([]), "{printed:#}");
    let digest = bundle_digest(&printed);
    // Each file that makes a DAG is one of which Airflow shows this version.
    let mut shown = BTreeSet::new();
    let dags = airflow.get("/dags?limit=1000&dag_display_name_pattern=%25")?;
    for dag in dags["dags"].as_array().context("no DAGs")? {
        let file = dag["relative_fileloc"].as_str().unwrap_or_default();
        if file.starts_with("examples/") {
            ensure!(dag["bundle_version"] == digest.as_str(), "{dag:#}");
            shown.insert(file.to_owned());
        }
    }
    let mut expected = BTreeSet::new();
    for path in updraft_e2e::files_below(&target)? {
        let text = std::fs::read_to_string(&path).unwrap_or_default();
        let makes_one = text.contains("DAG(") || text.contains("\n@dag");
        // These make none where that client is not installed.
        if makes_one && !text.contains("from kubernetes") {
            let path = path.strip_prefix(target.parent().context("`dags`")?)?;
            expected.insert(path.display().to_string());
        }
    }
    ensure!(expected.len() >= 40, "{expected:?}");
    let missing: Vec<_> = expected.difference(&shown).collect();
    ensure!(missing.is_empty(), "Airflow shows no DAG of {missing:?}");
    let run = airflow.trigger("example_dynamic_task_mapping")?;
    let ended = airflow.wait_for_success("example_dynamic_task_mapping", &run)?;
    ensure!(ended["bundle_version"] == digest.as_str(), "{ended:#}");
    Ok(())
}

pub(crate) fn a_changed_file_that_yields_nothing_is_named(
    installation: &mut Installation,
    _: &Airflow,
) -> Result<()> {
    installation
        .project
        .write("dags/quiet.py", "# no airflow dag in here\n")?;
    let output = installation.updraft(&["deploy", "--dags"])?;
    let output = output.expect_code(0)?;
    ensure!(output.stderr.contains("quiet.py"), "{output:?}");
    installation.project.remove("dags/quiet.py")?;
    live(installation).map(drop)
}

pub(crate) fn only_what_the_change_can_affect_is_parsed(
    installation: &mut Installation,
    _: &Airflow,
) -> Result<()> {
    installation.project.write_dag("alone", &["one"])?;
    let printed = live(installation)?;
    let proof = &printed["deploy"]["state"]["proof"];
    ensure!(
        proof["affected"] == 1 && proof["files"].as_u64() > Some(3),
        "{proof:#}"
    );
    Ok(())
}

pub(crate) fn time_that_runs_out_is_said_and_late_evidence_counts(
    installation: &mut Installation,
    airflow: &Airflow,
) -> Result<()> {
    // Within what one file may take, and together, two at a time, beyond what the proof may.
    let names: Vec<String> = (0..8).map(|number| format!("late_{number}")).collect();
    for name in &names {
        let dag = format!(
            "import time\nfrom airflow.sdk import DAG\n\ntime.sleep(10)\ndag = DAG('{name}', schedule=None)\n"
        );
        let file = format!("dags/{name}.py");
        installation.project.write(&file, &dag)?;
    }
    let proof_timeout = |seconds: &str| {
        let update = ["deployment", "update", "shop", "--proof-timeout", seconds];
        installation.updraft(&update)?.expect_code(0)
    };
    proof_timeout("30")?;
    let output = installation.updraft(&["deploy", "--dags"])?;
    let output = output.expect_code(11)?;
    ensure!(
        output.stderr.contains("still being parsed: `late_"),
        "{output:?}"
    );
    wait_for("the deploy to be live", PATIENCE, || {
        Ok((history(installation)?[0]["state"]["name"] == "live").then_some(()))
    })?;
    let dags = airflow.dags()?;
    ensure!(names.iter().all(|name| dags.contains(name)), "{dags:?}");
    proof_timeout("300")?;
    for name in &names {
        installation.project.remove(&format!("dags/{name}.py"))?;
    }
    live(installation).map(drop)
}

pub(crate) fn a_failing_deploy_is_taken_back_and_another_part_that_came_meanwhile_stays(
    installation: &mut Installation,
    airflow: &Airflow,
) -> Result<()> {
    let extra = |tasks: &str| {
        format!(
            "from airflow.sdk import DAG\n\
             from airflow.providers.standard.operators.empty import EmptyOperator\n\n\
             with DAG(\"extra\", schedule=None):\n    for name in {tasks}:\n        EmptyOperator(task_id=name)\n"
        )
    };
    let after_failure = |policy: &str| {
        let update = ["deployment", "update", "shop", "--after-failure", policy];
        installation.updraft(&update)?.expect_code(0)
    };
    let state_of = |deploy: &str| -> Result<String> {
        let history = history(installation)?;
        let deploys = history.as_array().context("no deploys")?;
        let found = deploys.iter().find(|row| row["id"] == deploy);
        let state = &found.context("it is not in the history")?["state"]["name"];
        Ok(state.as_str().unwrap_or_default().to_owned())
    };
    installation.project.write_dag("steady", &["one"])?;
    let before = bundle_digest(&live(installation)?);
    let file = extra("['one']");
    let first = installation.deploy_bundle("extra", &[("extra.py", &file)])?;
    wait_for("the other bundle to be live", PATIENCE, || {
        Ok((state_of(&first.to_string())? == "live").then_some(()))
    })?;
    ensure!(airflow.tasks("extra")? == ["one"]);

    after_failure("rollback")?;
    let broken = format!("import time\ntime.sleep(6)\n{BROKEN}");
    installation.project.write("dags/broken.py", &broken)?;
    installation.deploy(&["--no-wait"])?.expect_code(0)?;
    wait_for("Airflow to look at it", PATIENCE, || {
        Ok((history(installation)?[0]["on_disk_at"].is_string()).then_some(()))
    })?;
    let file = extra("['one', 'two']");
    installation.deploy_bundle("extra", &[("extra.py", &file)])?;
    let back = wait_for("what failed to be taken back", PATIENCE, || {
        let newest = history(installation)?[0].take();
        let is_back = newest["kind"] == "automatic_rollback" && newest["state"]["name"] == "live";
        Ok(is_back.then_some(newest))
    })?;
    let bundles = &back["release"]["bundles"];
    ensure!(
        bundles["dags"]["digest"] == before.as_str(),
        "{back:#} is not back at {before}"
    );
    ensure!(airflow.tasks("extra")? == ["one", "two"]);
    let errors = airflow.get("/importErrors")?;
    ensure!(errors["total_entries"] == 0, "{errors:#}");
    after_failure("keep")?;
    installation.project.remove("dags/broken.py")
}
