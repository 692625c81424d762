//! An edited file of the image half, from the command to live, next to a plain
//! restart of the same components. Both wait for Airflow to come up, so the ratio
//! is what matters.

use std::time::{Duration, Instant};

use anyhow::Result;
use updraft_e2e::Installation;

use crate::IMAGE_CHANGED;
use crate::table::{Row, Table};

const ROUNDS: usize = 3;

pub(crate) fn measure(installation: &Installation, table: &mut Table) -> Result<()> {
    let mut times = Vec::new();
    for round in 0..ROUNDS {
        let text = format!("ROUND = {round}\n");
        installation.project.write("include/bench.py", &text)?;
        times.push(timed(installation, &["deploy", "--image"])?);
    }
    table.add(Row {
        tool: "updraft",
        what: IMAGE_CHANGED,
        times,
    });
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

fn timed(installation: &Installation, arguments: &[&str]) -> Result<Duration> {
    let start = Instant::now();
    installation.updraft(arguments)?.expect_code(0)?;
    Ok(start.elapsed())
}
