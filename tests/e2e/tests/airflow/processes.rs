//! Airflow's processes, which outlive their agent.

use anyhow::{Context as _, Result, ensure};
use rustix::process::{Pid, Signal, kill_process};
use updraft_e2e::{Airflow, Installation, PATIENCE, wait_for};

use crate::{live, status};

/// A component's name, process and number of restarts.
type Component = (String, i32, u64);

pub(crate) fn a_task_outlives_its_agent(
    installation: &mut Installation,
    airflow: &Airflow,
) -> Result<()> {
    let body = "time.sleep(60)\nreturn 'done'";
    installation
        .project
        .write_python_dag("long", "import time", body)?;
    live(installation)?;
    let before = components(installation)?;
    let run = airflow.trigger("long")?;
    airflow.wait_for_a_running_task("long", &run)?;
    installation.kill_agent()?;
    installation.start_agent_from_another_shell()?;
    airflow.wait_for_success("long", &run)?;
    // The next agent adopted what ran, and works.
    installation.project.write_dag("after", &["one"])?;
    live(installation)?;
    ensure!(airflow.tasks("after")? == ["one"]);
    ensure!(components(installation)? == before);
    Ok(())
}

pub(crate) fn a_component_that_crashes_comes_back_alone(
    installation: &mut Installation,
    _: &Airflow,
) -> Result<()> {
    let before = components(installation)?;
    let find = |all: &[Component]| -> Result<Component> {
        let found = all.iter().find(|(name, ..)| name == "scheduler");
        found.cloned().context("no scheduler")
    };
    let (_, pid, restarts) = find(&before)?;
    kill_process(Pid::from_raw(pid).context("a process")?, Signal::KILL)?;
    let after = wait_for("the scheduler to be back", PATIENCE, || {
        let Ok(now) = components(installation) else {
            return Ok(None);
        };
        let (_, new, count) = find(&now)?;
        Ok((new != pid && count == restarts + 1).then_some(now))
    })?;
    ensure!(after.iter().filter(|one| before.contains(one)).count() == 3);
    Ok(())
}

pub(crate) fn airflow_keeps_its_metadata_where_it_is_told(
    installation: &mut Installation,
    _: &Airflow,
) -> Result<()> {
    let Some(database) = installation.airflow_database() else {
        return Ok(()); // Said when the group began.
    };
    installation.project.write_dag("kept", &["one"])?;
    live(installation)?;
    let script = "import sqlalchemy as s, sys\n\
        with s.create_engine(sys.argv[1]).connect() as c:\n    \
        print(c.execute(s.text(\"select count(*) from dag where dag_id = 'kept'\")).scalar())";
    let asked = std::process::Command::new(installation.airflow_python()?)
        .args(["-I", "-c", script, database])
        .output()?;
    ensure!(asked.stdout == b"1\n", "{asked:?}");
    ensure!(!airflow_home(installation)?.join("airflow.db").exists());
    Ok(())
}

fn airflow_home(installation: &Installation) -> Result<std::path::PathBuf> {
    let folders = std::fs::read_dir(installation.agent_root())?.flatten();
    let mut homes = folders.map(|folder| folder.path().join("airflow"));
    homes.find(|home| home.is_dir()).context("no home")
}

pub(crate) fn a_second_agent_on_a_folder_is_refused(
    installation: &mut Installation,
    _: &Airflow,
) -> Result<()> {
    let root = installation.agent_root().display().to_string();
    let refused = installation.updraft(&["agent", "--root", &root])?;
    let refused = refused.expect_code(8)?;
    ensure!(
        refused.stderr.contains("another agent"),
        "{}",
        refused.stderr
    );
    Ok(())
}

pub(crate) fn another_database_of_airflows_is_taken_at_a_restart(
    installation: &mut Installation,
    _: &Airflow,
) -> Result<()> {
    let before = components(installation)?;
    let database = airflow_home(installation)?.join("another.db");
    installation.kill_agent()?;
    installation.start_agent_on(&format!("sqlite:///{}", database.display()))?;
    // All of what ran has stopped and runs on the other one.
    let running = wait_for("Airflow to run again", PATIENCE, || {
        let Ok(now) = components(installation) else {
            return Ok(None);
        };
        let replaced = now
            .iter()
            .all(|(_, pid, _)| before.iter().all(|(_, old, _)| old != pid));
        Ok(replaced.then_some(now))
    })?;
    installation.project.write_dag("moved", &["one"])?;
    live(installation)?;
    // Migrated once, it is not migrated again: that would stop all of it.
    ensure!(components(installation)? == running);
    // Connections to the web server that was replaced are of no use.
    ensure!(installation.airflow()?.tasks("moved")? == ["one"]);
    ensure!(std::fs::metadata(&database)?.len() > 0);
    Ok(())
}

pub(crate) fn airflow_listens_on_loopback_and_asks_for_a_sign_in(
    installation: &mut Installation,
    airflow: &Airflow,
) -> Result<()> {
    let port = format!(":{:04X}", installation.airflow_port());
    let mut sockets = Vec::new();
    for table in ["/proc/net/tcp", "/proc/net/tcp6"] {
        let table = std::fs::read_to_string(table)?;
        let listening = table.lines().filter_map(|line| {
            let mut columns = line.split_whitespace().skip(1);
            let local = columns.next()?.to_owned();
            (columns.nth(1)? == "0A" && local.ends_with(&port)).then_some(local)
        });
        sockets.extend(listening);
    }
    ensure!(sockets == [format!("0100007F{port}")], "{sockets:?}");
    let anonymous = airflow.anonymously("/api/v2/dags")?;
    ensure!(anonymous == 401, "it answered {anonymous}");
    Ok(())
}

/// Those of Airflow, as `status` shows them; an error while one has no process.
fn components(installation: &Installation) -> Result<Vec<Component>> {
    let status = status(installation)?;
    let shown = &status["agents"][0]["airflow"]["components"];
    let shown = shown.as_array().context("no components")?;
    let component = |one: &serde_json::Value| -> Option<Component> {
        let pid = i32::try_from(one["pid"].as_i64()?).ok()?;
        Some((
            one["name"].as_str()?.to_owned(),
            pid,
            one["restarts"].as_u64()?,
        ))
    };
    let all: Option<Vec<Component>> = shown.iter().map(component).collect();
    let all = all.with_context(|| format!("{status:#}"))?;
    ensure!(all.len() == 4, "{status:#}");
    Ok(all)
}
