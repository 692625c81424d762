//! An edited file of the image half, from the command to live, next to a plain
//! restart of the same components. Both wait for Airflow to come up, so the ratio
//! is what matters; and how much of it is none of Airflow's.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use chrono::{DateTime, Utc};
use serde::Deserialize;
use updraft_e2e::Installation;

use crate::table::{Row, Table};
use crate::{IMAGE_CHANGED, IMAGE_OWN};

const ROUNDS: usize = 3;

/// What the agent says while Airflow is imported, migrated, stopped, started or asked: everything
/// else is Updraft's own.
const AIRFLOWS: [&str; 6] = [
    "trying the DAG files in the new environment",
    "waiting for the old Airflow to begin nothing more",
    "preparing Airflow's database",
    "starting Airflow",
    "waiting for Airflow to come up",
    "waiting for Airflow to take in the new files",
];

/// A line of the agent's log.
#[derive(Deserialize)]
struct Said {
    timestamp: DateTime<Utc>,
    message: String,
    target: String,
}

pub(crate) fn measure(installation: &Installation, table: &mut Table) -> Result<()> {
    let (mut times, mut own) = (Vec::new(), Vec::new());
    for round in 0..ROUNDS {
        let text = format!("ROUND = {round}\n");
        installation.project.write("include/bench.py", &text)?;
        let begun = Utc::now();
        let took = timed(installation, &["deploy", "--image"])?;
        times.push(took);
        own.push(took.saturating_sub(airflows_share(installation, begun, begun + took)?));
    }
    for (what, times) in [(IMAGE_CHANGED, times), (IMAGE_OWN, own)] {
        table.add(Row {
            tool: "updraft",
            what,
            times,
        });
    }
    // The same project in an Airflow of its own, which nothing is proven of.
    timed(installation, &["dev", "start"])?;
    let restarts: Result<Vec<Duration>> = (0..ROUNDS)
        .map(|_| timed(installation, &["dev", "restart"]))
        .collect();
    installation.updraft(&["dev", "kill", "--force"])?;
    table.add(Row {
        tool: "restart",
        what: IMAGE_CHANGED,
        times: restarts?,
    });
    Ok(())
}

/// How long the agent waited for Airflow in that time, by what it said: it says what it does
/// when it begins to.
fn airflows_share(
    installation: &Installation,
    begun: DateTime<Utc>,
    ended: DateTime<Utc>,
) -> Result<Duration> {
    let log = std::fs::read_to_string(installation.agent_log())?;
    let said = log
        .lines()
        .filter_map(|line| serde_json::from_str(line).ok());
    let said: Vec<Said> = said
        .filter(|said: &Said| said.target.ends_with("::observed") && said.timestamp >= begun)
        .collect();
    let mut share = chrono::Duration::zero();
    for (at, one) in said.iter().enumerate() {
        let next = said.get(at + 1).map_or(ended, |next| next.timestamp);
        if AIRFLOWS.iter().any(|phase| one.message.starts_with(phase)) {
            share += next.min(ended) - one.timestamp;
        }
    }
    share.to_std().context("the clock went back")
}

fn timed(installation: &Installation, arguments: &[&str]) -> Result<Duration> {
    let start = Instant::now();
    installation.updraft(arguments)?.expect_code(0)?;
    Ok(start.elapsed())
}
