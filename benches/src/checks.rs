//! Checks, next to what one would run instead on the same files.
//!
//! A cold parse starts its own Python, as the others do each time; a warm one
//! finds it there.

use std::fmt::Write as _;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use updraft_e2e::{Installation, Project};

use crate::table::{Row, Table};
use crate::{PARSE_COLD, PARSE_IMPORTED, PARSE_KNOWN, PARSE_ONE, ROUNDS, STATIC_COLD, STATIC_WARM};

/// DAG files that are read, of 4 KB each.
const READ: usize = 5000;
/// DAG files that are imported.
const FILES: usize = 1000;

pub(crate) fn measure(installation: &Installation, table: &mut Table) -> Result<()> {
    statically(installation, table)?;
    parse(installation, table)
}

fn statically(installation: &Installation, table: &mut Table) -> Result<()> {
    let scratch = tempfile::tempdir()?;
    let root = scratch.path().join("project");
    let project = made(installation, &root)?;
    for number in 0..READ {
        let path = format!("dags/team_{:02}/made_{number}.py", number % 50);
        project.write(&path, &dag(number, 30))?;
    }
    let dags = root.join("dags");
    let check = |arguments: &[&str]| {
        let mut command = installation.command(arguments);
        command.current_dir(&root);
        timed(command, &[0])
    };
    // ruff is fetched once.
    check(&["dev", "check"])?;
    let mut add = |tool, what, times| table.add(Row { tool, what, times });
    add(
        "updraft",
        STATIC_COLD,
        rounds(|| check(&["dev", "check", "--no-cache"]))?,
    );
    add("updraft", STATIC_WARM, rounds(|| check(&["dev", "check"]))?);
    let ruff = |cache: &[&str]| {
        let mut command = Command::new(std::env::var("UPDRAFT_UV").unwrap_or_else(|_| "uv".into()));
        command
            .args([
                "tool",
                "run",
                "-q",
                "ruff@0.17.6",
                "check",
                "--isolated",
                "--select",
                "AIR",
            ])
            .args(cache)
            .arg(&dags);
        timed(command, &[0, 1])
    };
    let cache = scratch.path().join("ruff").display().to_string();
    ruff(&["--no-cache"])?;
    add("ruff", STATIC_COLD, rounds(|| ruff(&["--no-cache"]))?);
    ruff(&["--cache-dir", &cache])?;
    add(
        "ruff",
        STATIC_WARM,
        rounds(|| ruff(&["--cache-dir", &cache]))?,
    );
    let python = installation.airflow_python()?;
    let compile = || {
        let folder = tempfile::tempdir()?;
        let mut command = Command::new(&python);
        command
            .args(["-m", "compileall", "-q", "-j", "0"])
            .arg(&dags)
            .env("PYTHONPYCACHEPREFIX", folder.path());
        timed(command, &[0])
    };
    add("compileall", STATIC_COLD, rounds(compile)?);
    Ok(())
}

fn parse(installation: &Installation, table: &mut Table) -> Result<()> {
    let scratch = tempfile::tempdir()?;
    let root = scratch.path().join("project");
    let project = made(installation, &root)?;
    for number in 0..FILES {
        project.write(&format!("dags/made_{number}.py"), &dag(number, 1))?;
    }
    let parse = |zone: &str, arguments: &[&str]| {
        let mut command = installation.command(&[&["dev", "parse"], arguments].concat());
        // Another time zone is another environment, so that a new Python starts.
        command.current_dir(&root).env("TZ", zone);
        timed(command, &[0])
    };
    // The environment is made once.
    parse("UTC", &["--no-cache"])?;
    let mut add = |tool, what, times| table.add(Row { tool, what, times });
    let mut zone = 0;
    let cold = || {
        zone += 1;
        parse(&format!("Etc/GMT+{zone}"), &["--no-cache"])
    };
    add("updraft", PARSE_COLD, rounds(cold)?);
    let imported = || parse("UTC", &["--no-cache"]);
    add("updraft", PARSE_IMPORTED, rounds(imported)?);
    parse("UTC", &[])?;
    add("updraft", PARSE_KNOWN, rounds(|| parse("UTC", &[]))?);
    let mut edits = 0;
    let one = || {
        edits += 1;
        project.write("dags/made_7.py", &format!("{}# {edits}\n", dag(7, 1)))?;
        parse("UTC", &[])
    };
    add("updraft", PARSE_ONE, rounds(one)?);
    let python = installation.airflow_python()?;
    let home = scratch.path().join("home");
    let bag = "import sys; from airflow.dag_processing.dagbag import DagBag; \
               bag = DagBag(sys.argv[1]); sys.exit(len(bag.import_errors))";
    let with_bag = || timed(peer(&python, &home, &["-c", bag, "dags"], &root), &[0]);
    add("DagBag", PARSE_COLD, rounds(with_bag)?);
    let bag = "import sys, time; from airflow.dag_processing.dagbag import DagBag; begun = time.time(); \
               DagBag(sys.argv[1]); print(time.time() - begun)";
    let with_imported = || {
        let output = peer(&python, &home, &["-c", bag, "dags"], &root).output()?;
        let said = String::from_utf8(output.stdout)?;
        let seconds = said.lines().last().context("it prints its time")?;
        Ok(Duration::from_secs_f64(seconds.parse()?))
    };
    add("DagBag", PARSE_IMPORTED, rounds(with_imported)?);
    let tests = installation.command(&["dev", "pytest", "tests/test_dag_integrity.py", "--", "-q"]);
    let mut pytest = tests;
    pytest.current_dir(&root);
    // pytest is put beside the environment once.
    timed(pytest, &[0, 17])?;
    let with_pytest = || {
        let arguments = ["dev", "pytest", "tests/test_dag_integrity.py", "--", "-q"];
        let mut command = installation.command(&arguments);
        command.current_dir(&root);
        timed(command, &[0])
    };
    add("pytest", PARSE_COLD, rounds(with_pytest)?);
    Ok(())
}

fn peer(python: &Path, home: &Path, arguments: &[&str], folder: &Path) -> Command {
    let mut command = Command::new(python);
    command
        .args(arguments)
        .current_dir(folder)
        .env("AIRFLOW_HOME", home)
        .env("AIRFLOW__CORE__LOAD_EXAMPLES", "False")
        .env("PYTHONDONTWRITEBYTECODE", "1");
    command
}

/// The project of `dev init`.
fn made(installation: &Installation, root: &Path) -> Result<Project> {
    let text = root.display().to_string();
    installation
        .updraft(&["dev", "init", &text, "--airflow-version", "3.3.2"])?
        .expect_code(0)?;
    Ok(Project::at(root.to_owned()))
}

/// A DAG with one Python task after a chain of others.
fn dag(number: usize, others: usize) -> String {
    let mut text = format!(
        "from datetime import datetime\n\n\
         from airflow.providers.standard.operators.bash import BashOperator\n\
         from airflow.providers.standard.operators.python import PythonOperator\n\
         from airflow.sdk import DAG\n\n\n\
         def work(**context):\n    return {number}\n\n\n\
         with DAG(\"made_{number}\", start_date=datetime(2026, 1, 1), schedule=\"@daily\", tags=[\"made\"]):\n    \
         last = PythonOperator(task_id=\"last\", python_callable=work, retries=1)\n"
    );
    for other in 0..others {
        let _ = write!(
            text,
            "    step_{other} = BashOperator(task_id=\"step_{other}\", bash_command=\"echo {{{{ ds }}}}\", retries=1)\n    \
             step_{other} >> last\n"
        );
    }
    text
}

fn rounds(mut one: impl FnMut() -> Result<Duration>) -> Result<Vec<Duration>> {
    (0..ROUNDS).map(|_| one()).collect()
}

fn timed(mut command: Command, good: &[i32]) -> Result<Duration> {
    let start = Instant::now();
    let output = command.stdin(Stdio::null()).output()?;
    let took = start.elapsed();
    let code = output.status.code();
    ensure!(
        code.is_some_and(|code| good.contains(&code)),
        "{command:?} ended with {code:?}\n{}",
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(took)
}
