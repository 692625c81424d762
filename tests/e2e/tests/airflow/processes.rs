//! Airflow's processes, which outlive their agent.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use rustix::process::{Pid, Signal, kill_process};
use updraft_e2e::{Airflow, Installation, wait_for};

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
    let ended = airflow.wait_for_run("long", &run)?;
    ensure!(ended["state"] == "success", "{ended:#}");
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
    let after = wait_for("the scheduler to be back", Duration::from_secs(60), || {
        let Ok(now) = components(installation) else {
            return Ok(None);
        };
        let (_, new, count) = find(&now)?;
        Ok((new != pid && count == restarts + 1).then_some(now))
    })?;
    ensure!(after.iter().filter(|one| before.contains(one)).count() == 3);
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
