//! Checks before a deploy, in the environment that the Deployment has.

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use updraft_e2e::{Airflow, Installation, Output, PATIENCE, wait_for};

/// A file for each way to be wrong, and the findings that it gives.
const BROKEN: &[(&str, &str, &[&str])] = &[
    ("syntax", "def f(:\n    pass\n", &["UPD002"]),
    ("import", "import no_such_module\n", &["UPD601"]),
    ("helper", "from wrong import WORD\n", &["UPD601"]),
    ("exit", "import os\nos._exit(3)\n", &["UPD602"]),
    (
        "killed",
        "import os, signal\nos.kill(os.getpid(), signal.SIGSEGV)\n",
        &["UPD602"],
    ),
    ("hungry", "X = bytearray(8 << 30)\n", &["UPD602"]),
    (
        "cycle",
        "with DAG('cycle'):\n    a = EmptyOperator(task_id='a')\n    b = EmptyOperator(task_id='b')\n    a >> b >> a\n",
        &["UPD603"],
    ),
    (
        "schedule",
        "with DAG('schedule', schedule='every day'):\n    EmptyOperator(task_id='a')\n",
        &["UPD604"],
    ),
    (
        "loose",
        "EmptyOperator(task_id='loose')\ndag = DAG('loose')\n",
        &["UPD605"],
    ),
    ("twice", "dag = DAG('first')\n", &["UPD101"]),
    ("first", "dag = DAG('first')\n", &[]),
    (
        "changing",
        "import datetime\ndag = DAG('changing', description=str(datetime.datetime.now()))\n",
        &["UPD403"],
    ),
    (
        "later",
        "import os\ncount = os.path.join(os.path.dirname(__file__), '..', '..', 'later.count')\nwith open(count, 'a') as file:\n    file.write('x')\nif os.path.getsize(count) % 2 == 0:\n    os._exit(4)\ndag = DAG('later')\n",
        &["UPD608"],
    ),
    (
        "database",
        "from airflow.utils.session import create_session\n\ntry:\n    with create_session() as session:\n        session.connection()\nexcept Exception:\n    pass\ndag = DAG('database')\n",
        &["UPD301"],
    ),
    (
        "missing",
        "dag = DAG('missing', description=Variable.get('regoin'))\n",
        &["UPD701"],
    ),
    (
        "needs",
        "dag = DAG('needs', description=Variable.get('region'))\n",
        &["UPD703"],
    ),
    (
        "handled",
        "try:\n    name = Variable.get('regoin')\nexcept Exception:\n    name = 'eu'\ndag = DAG('handled', description=name)\n",
        &["UPD702"],
    ),
    (
        "behind",
        "from tests.words import WORD\ndag = DAG('behind', description=WORD)\n",
        &["UPD607"],
    ),
    ("excused", "import no_such_module  # noqa\n", &["UPD601"]),
    (
        "default",
        "dag = DAG('default', description=Variable.get('region', default='eu'))\n",
        &[],
    ),
    (
        "good",
        "with DAG('good'):\n    EmptyOperator(task_id='a')\n",
        &[],
    ),
];

const HEAD: &str = "from airflow.sdk import DAG, Variable\n\
    from airflow.providers.standard.operators.empty import EmptyOperator\n\n";

pub(crate) fn broken_files_are_each_told_by_their_rule(
    installation: &mut Installation,
    airflow: &Airflow,
) -> Result<()> {
    airflow.post("/variables", &json!({"key": "region", "value": "eu"}))?;
    wait_for("the variable's name", PATIENCE, || {
        let status = installation.updraft(&["status", "-o", "json"])?.json()?;
        let names = status["names"]["variables"].as_array().cloned();
        Ok(names
            .unwrap_or_default()
            .contains(&json!("region"))
            .then_some(()))
    })?;
    let project = &installation.project;
    project.write("dags/wrong.py", "WORT = 1\n")?;
    project.write("tests/words.py", "WORD = 'a word'\n")?;
    for (name, text, _) in BROKEN {
        project.write(&format!("dags/{name}.py"), &format!("{HEAD}{text}"))?;
    }
    let reports = tempfile::tempdir()?;
    let report = reports.path().join("findings.xml");
    let junit = report.to_str().context("not text")?;
    let parsed = installation.updraft(&["dev", "parse", "--junit", junit, "-o", "json"])?;
    let parsed = parsed.expect_code(17)?.json()?;
    let of = |name: &str| -> Vec<String> {
        let file = format!("dags/{name}.py");
        let findings = parsed["findings"].as_array().into_iter().flatten();
        findings
            .filter(|finding| finding["file"] == file.as_str())
            .map(|finding| finding["rule"].as_str().unwrap_or_default().to_owned())
            .collect()
    };
    for (name, _, expected) in BROKEN {
        ensure!(
            of(name) == *expected,
            "{name}: {:?} instead of {expected:?}\n{parsed:#}",
            of(name)
        );
    }
    ensure!(of("wrong").is_empty());
    ensure!(std::fs::read_to_string(&report)?.contains("no_such_module"));
    // Nothing is parsed again that nothing changed for, but what failed: a network
    // may have been away.
    let again = installation.updraft(&["dev", "parse", "-o", "json"])?;
    let again = again.expect_code(17)?.json()?;
    let known = |parsed: &Value| parsed["known"].as_u64().unwrap_or(0);
    ensure!(
        known(&parsed) == 0 && known(&again) > 8,
        "known: {}, then {}\n{again:#}",
        known(&parsed),
        known(&again)
    );
    let (first, second) = (&parsed["findings"], &again["findings"]);
    ensure!(first == second, "first {first:#}\nand then {second:#}");
    // For people, and without a word that nobody meant.
    assert_report(
        "dev parse",
        &installation.updraft(&["dev", "parse"])?.expect_code(17)?,
        include_str!("broken_parse.txt"),
    )?;
    // The syntax tree alone; imports are looked up in what the parse has made.
    assert_report(
        "dev check",
        &installation.updraft(&["dev", "check"])?.expect_code(17)?,
        include_str!("broken_check.txt"),
    )?;
    // A helper takes those along that import it.
    project.write("dags/wrong.py", "WORD = 1\n")?;
    let mended = installation.updraft(&["dev", "parse", "-o", "json"])?;
    let mended = mended.expect_code(17)?.json()?;
    let is_helper = |finding: &Value| finding["file"] == "dags/helper.py";
    let mut findings = mended["findings"].as_array().into_iter().flatten();
    ensure!(
        !findings.any(is_helper),
        "still wrong after the helper was mended: {mended:#}"
    );
    for (name, ..) in BROKEN {
        installation.project.remove(&format!("dags/{name}.py"))?;
    }
    installation.project.remove("dags/wrong.py")?;
    installation.project.remove("tests/words.py")
}

/// Compares a report with the one on record, all but what the clock says.
fn assert_report(what: &str, output: &Output, expected: &str) -> Result<()> {
    let without_times = |line: &str| -> String {
        if let Some((before, _)) = line.split_once(" in one parse and ") {
            let value = before.rfind('`').and_then(|end| before[..end].rfind('`'));
            return format!(
                "{}… in one parse and … in the next",
                &before[..value.unwrap_or(0)]
            );
        }
        match line.rsplit_once(" (") {
            Some((before, seconds)) if before.contains(" DAG files") && seconds.ends_with("s)") => {
                format!("{before} (…)")
            }
            Some(_) | None => line.to_owned(),
        }
    };
    let report: Vec<_> = output.stdout.lines().map(without_times).collect();
    let expected: Vec<_> = expected.lines().collect();
    ensure!(
        report == expected,
        "{what} says\n{}\ninstead of\n{}",
        report.join("\n"),
        expected.join("\n")
    );
    Ok(())
}

pub(crate) fn a_deploy_that_does_not_parse_changes_nothing(
    installation: &mut Installation,
    _: &Airflow,
) -> Result<()> {
    let wanted = |installation: &Installation| -> Result<Value> {
        let status = installation.updraft(&["status", "-o", "json"])?.json()?;
        Ok(status["deployment"]["wanted"].clone())
    };
    let before = wanted(installation)?;
    installation.project.write(
        "dags/broken.py",
        &format!("{HEAD}raise RuntimeError('not today')\n"),
    )?;
    let refused = installation.updraft(&["deploy", "--dags", "--parse"])?;
    let refused = refused.expect_code(17)?;
    ensure!(
        refused.stderr.contains("RuntimeError: not today"),
        "{refused:?}"
    );
    ensure!(wanted(installation)? == before);
    let shown = installation.updraft(&["show", "-o", "json"])?.json()?;
    ensure!(
        shown["checks"]["stages"]["parse"]["errors"] == 1,
        "{shown:#}"
    );
    ensure!(shown["state"]["name"] == "expired", "{shown:#}");
    installation.project.remove("dags/broken.py")
}

pub(crate) fn an_id_that_another_bundle_has_changes_nothing(
    installation: &mut Installation,
    airflow: &Airflow,
) -> Result<()> {
    let file = |id: &str| format!("{HEAD}with DAG('{id}'):\n    EmptyOperator(task_id='{id}')\n");
    let wanted = |installation: &Installation| -> Result<Value> {
        let status = installation.updraft(&["status", "-o", "json"])?.json()?;
        Ok(status["deployment"]["wanted"].clone())
    };
    installation.deploy_bundle("finance", &[("sales.py", &file("sales"))])?;
    installation
        .project
        .write("dags/sales.py", &file("sales"))?;
    wait_for("the id to be known", PATIENCE, || {
        let checked = installation.updraft(&["dev", "check"])?;
        Ok(checked.stdout.contains("UPD102").then_some(()))
    })?;
    let before = wanted(installation)?;
    let refused = installation.updraft(&["deploy", "--dags"])?;
    let refused = refused.expect_code(17)?;
    let said = "UPD102: `sales` is also the id of a DAG in the bundle `finance`";
    ensure!(refused.stderr.contains(said), "{refused:?}");
    ensure!(wanted(installation)? == before);
    ensure!(airflow.tasks("sales")? == ["sales"]);

    // The other project gives it up, and then it is there to be taken.
    let given_up = installation.deploy_bundle("finance", &[("sales.py", &file("bills"))])?;
    wait_for("the other bundle to be live", PATIENCE, || {
        let shown = installation.updraft(&["show", &given_up.to_string(), "-o", "json"])?;
        Ok((shown.json()?["state"]["name"] == "live").then_some(()))
    })?;
    installation.updraft(&["dev", "check"])?.expect_code(0)?;
    installation.deploy(&[])?.expect_code(0)?;
    // Also of the new version the ids become known.
    installation
        .project
        .write("dags/bills.py", &file("bills"))?;
    wait_for("the new id to be known", PATIENCE, || {
        let checked = installation.updraft(&["dev", "check"])?;
        Ok(checked.stdout.contains("`bills`").then_some(()))
    })?;
    installation.project.remove("dags/bills.py")?;
    installation.project.remove("dags/sales.py")
}

pub(crate) fn what_is_required_runs_also_when_it_is_not_asked_for(
    installation: &mut Installation,
    _: &Airflow,
) -> Result<()> {
    let require = |installation: &Installation, what: &str| -> Result<Output> {
        installation
            .updraft(&["deployment", "update", "--require", what])?
            .expect_code(0)
    };
    require(installation, "static,parse,pytest")?;
    installation.project.write_dag("required", &["one"])?;
    // The scenarios' DAGs have no tags, which the tests of `dev init` ask for.
    installation.project.remove("tests/test_dag_integrity.py")?;
    let path = "tests/test_required.py";
    installation
        .project
        .write(path, "def test_fails():\n    assert 1 == 2\n")?;
    let refused = installation.updraft(&["deploy", "--dags", "--no-parse"])?;
    let refused = refused.expect_code(17)?;
    ensure!(refused.stderr.contains("test_fails"), "{refused:?}");
    installation
        .project
        .write(path, "def test_passes():\n    assert True\n")?;
    let live = installation.updraft(&["deploy", "--dags", "--no-parse", "-o", "json"])?;
    let live = live.expect_code(0)?.json()?;
    for stage in ["static", "parse", "pytest"] {
        ensure!(live["checks"][stage]["errors"] == 0, "{stage}: {live:#}");
    }
    require(installation, "none")?;
    installation.project.remove(path)
}

pub(crate) fn tests_run_in_the_deployments_environment(
    installation: &mut Installation,
    _: &Airflow,
) -> Result<()> {
    let arguments = ["-q", "-k", "imports", "--junitxml", "kept.xml"];
    let ran = installation.updraft(&[&["dev", "pytest", "--"], &arguments[..]].concat())?;
    let ran = ran.expect_code(0)?;
    ensure!(ran.stdout.contains("passed"), "{ran:?}");
    let kept = installation.project.root().join("kept.xml");
    ensure!(std::fs::read_to_string(&kept)?.contains("test_every_file_imports"));
    std::fs::remove_file(kept)?;
    installation
        .updraft(&["dev", "pytest", "--", "-k", "nothing_at_all"])?
        .expect_code(17)?;
    installation
        .updraft(&[
            "dev",
            "pytest",
            "--allow-none",
            "--",
            "-k",
            "nothing_at_all",
        ])?
        .expect_code(0)?;
    Ok(())
}
