//! Ends the control plane, the agent and the command line at many points of a
//! deploy, and looks at what is left: nothing acknowledged is lost, and the live
//! tree is one Release.

use std::os::unix::process::ExitStatusExt as _;
use std::time::Instant;

use anyhow::{Context as _, Result, ensure};
use rustix::process::Signal;
use updraft_bundle::{BundleDir, ScanOptions, Verify, scan};
use updraft_e2e::{Airflow, Installation, PATIENCE, wait_for};

use crate::history;

/// Those that a deploy to an Airflow that runs does not pass: starting
/// components (the agent's own tests do).
const NOT_ON_THE_WAY: &[&str] = &["agent.exec."];

/// Those that an agent passes when it starts, and not at a deploy of DAGs.
const AT_A_START: &[&str] = &["agent.environment.end"];

pub(crate) fn the_control_plane_may_end_at_any_step(
    installation: &mut Installation,
    airflow: &Airflow,
) -> Result<()> {
    for (number, point) in updraft_server::FAILPOINTS.iter().enumerate() {
        let task = format!("step_{number}");
        let undoing = point.contains("rollback");
        installation.kill_server()?;
        installation.start_server_failing_at(point)?;
        installation.project.write_dag("enduring", &[&task])?;
        let command: &[&str] = if undoing {
            &["rollback"]
        } else {
            &["deploy", "--dags", "--no-wait"]
        };
        let output = installation.updraft(&[command, &["-o", "json"]].concat())?;
        wait_for(
            &format!("the control plane to end at {point}"),
            PATIENCE,
            || Ok(installation.server_ended()?.then_some(())),
        )?;
        installation.start_server()?;
        if output.code == Some(0) {
            let id = output.json()?["deploy"]["id"].clone();
            let history = history(installation)?;
            let kept = history.as_array().context("no deploys")?;
            ensure!(
                kept.iter().any(|deploy| deploy["id"] == id),
                "{id} was lost at {point}"
            );
        }
        live_tree_is_one_version(installation).with_context(|| format!("at {point}"))?;
        live_or_already(installation).with_context(|| format!("after {point}"))?;
        ensure!(airflow.tasks("enduring")? == [task], "after {point}");
        live_tree_is_one_version(installation).with_context(|| format!("after {point}"))?;
    }
    Ok(())
}

pub(crate) fn the_agent_may_end_at_any_step(
    installation: &mut Installation,
    airflow: &Airflow,
) -> Result<()> {
    let points = updraft_agent::FAILPOINTS.iter().filter(|point| {
        !NOT_ON_THE_WAY
            .iter()
            .any(|prefix| point.starts_with(prefix))
    });
    for (number, point) in points.enumerate() {
        let task = format!("agent_step_{number}");
        if AT_A_START.contains(point) {
            installation.kill_agent()?;
            installation.start_agent_ending_at(point)?;
        } else {
            installation.end_agent_at(point)?;
        }
        installation.project.write_dag("enduring", &[&task])?;
        installation.deploy(&["--no-wait"])?.expect_code(0)?;
        wait_for(&format!("the agent to end at {point}"), PATIENCE, || {
            Ok(installation.agent_ended()?.then_some(()))
        })?;
        live_tree_is_one_version(installation).with_context(|| format!("at {point}"))?;
        installation.start_agent()?;
        live_or_already(installation).with_context(|| format!("after {point}"))?;
        ensure!(airflow.tasks("enduring")? == [task], "after {point}");
        live_tree_is_one_version(installation).with_context(|| format!("after {point}"))?;
    }
    Ok(())
}

pub(crate) fn the_command_may_end_at_any_step(
    installation: &mut Installation,
    airflow: &Airflow,
) -> Result<()> {
    for (number, point) in updraft_cli::FAILPOINTS.iter().enumerate() {
        let task = format!("command_step_{number}");
        installation.project.write_dag("enduring", &[&task])?;
        let mut command = installation.command(&["deploy", "--dags", "-q"]);
        let ended = command.env("UPDRAFT_FAILPOINT", point).output()?;
        ensure!(
            ended.status.signal() == Some(Signal::ABORT.as_raw()),
            "it did not end at {point}: {ended:?}"
        );
        live_tree_is_one_version(installation).with_context(|| format!("at {point}"))?;
        live_or_already(installation).with_context(|| format!("after {point}"))?;
        ensure!(airflow.tasks("enduring")? == [task], "after {point}");
        live_tree_is_one_version(installation).with_context(|| format!("after {point}"))?;
    }
    Ok(())
}

pub(crate) fn the_command_may_be_killed_at_any_moment(
    installation: &mut Installation,
    airflow: &Airflow,
) -> Result<()> {
    // Over as much time as one takes by itself.
    installation.project.write_dag("enduring", &["whole"])?;
    let begun = Instant::now();
    live_or_already(installation)?;
    let whole = begun.elapsed();
    for number in 1..=6 {
        let task = format!("moment_{number}");
        installation.project.write_dag("enduring", &[&task])?;
        let mut command = installation.command(&["deploy", "--dags", "-q"]).spawn()?;
        // Not a condition: the kill has to come in the middle, wherever that is.
        std::thread::sleep(whole * number / 7);
        command.kill()?;
        command.wait()?;
        live_or_already(installation).with_context(|| format!("after {number} of 7 parts"))?;
        ensure!(airflow.tasks("enduring")? == [task]);
        live_tree_is_one_version(installation)?;
    }
    Ok(())
}

/// The same deploy again: it is sent, waited for, or live already.
fn live_or_already(installation: &Installation) -> Result<()> {
    installation
        .deploy(&["--wait-for-agent", "60s"])?
        .expect_code(0)
        .map(drop)
}

/// Digests the live tree again, and compares with what its folder is called.
fn live_tree_is_one_version(installation: &Installation) -> Result<()> {
    let live = installation.live_bundle()?.join("current").canonicalize()?;
    let name = live
        .file_name()
        .and_then(|name| name.to_str())
        .context("no name")?;
    let digest = scan(&live, &ScanOptions::default())?.manifest().digest();
    ensure!(digest.folder() == name, "{} holds {digest}", live.display());
    // Nor is there anything that a deploy would not send, bytecode for instance.
    let bundle = live
        .ancestors()
        .nth(2)
        .context("a version lies in a bundle")?;
    let damage = BundleDir::open(bundle)?.verify_version(&digest, Verify::Full)?;
    ensure!(damage.is_empty(), "{damage:?}");
    Ok(())
}
