//! How long a deploy takes, next to what one would use instead.
//!
//! One project of 5,000 files, one real installation with its Airflow, and the
//! other tools on the same files in the same run. Times are whole commands, from
//! start to what the column says. Quote ratios: the machine is part of a time.
#![expect(clippy::print_stdout, reason = "the table is what this program is for")]

mod peers;
mod tree;

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use updraft_e2e::Installation;

use crate::tree::Tree;

const ROUNDS: usize = 5;

/// The measured times of one thing.
struct Row {
    tool: &'static str,
    what: &'static str,
    times: Vec<Duration>,
}

fn main() -> Result<()> {
    let mut rows = Vec::new();
    let installation = Installation::start("3.3.2")?;
    // Airflow is installed and up before anything is timed.
    installation.deploy(&["--timeout", "300"])?.expect_code(0)?;
    let tree = Tree::write(&installation.project.root().join("dags"))?;
    println!("{tree}\n");

    measure_updraft(&installation, &tree, &mut rows)?;
    let memory = installation.peak_memory()?;
    rows.extend(peers::measure(
        &installation.project.root().join("dags"),
        &tree,
    )?);
    print(&rows);
    println!("\npeak memory: {memory}");
    Ok(())
}

fn measure_updraft(installation: &Installation, tree: &Tree, rows: &mut Vec<Row>) -> Result<()> {
    let mut add = |what, times| {
        rows.push(Row {
            tool: "updraft",
            what,
            times,
        });
    };

    let (disk, parsed) = deploy(installation, &["deploy", "--dags", "--timeout", "600"])?;
    add("first deploy, on disk", vec![disk]);
    add("first deploy, parsed", vec![parsed]);

    let (mut on_disk, mut parsed_by) = (Vec::new(), Vec::new());
    for round in 0..ROUNDS {
        tree.edit(round)?;
        let (disk, parsed) = deploy(installation, &["deploy", "--dags"])?;
        on_disk.push(disk);
        parsed_by.push(parsed);
    }
    add("one file changed, on disk", on_disk);
    add("one file changed, parsed", parsed_by);

    let mut times = Vec::new();
    for _ in 0..2 * ROUNDS {
        let start = Instant::now();
        installation
            .updraft(&["deploy", "--dags"])?
            .expect_code(0)?;
        times.push(start.elapsed());
    }
    add("nothing changed", times);

    let mut disks = Vec::new();
    for _ in 0..ROUNDS {
        disks.push(deploy(installation, &["rollback"])?.0);
    }
    add("rollback, on disk", disks);

    let mut times = Vec::new();
    for _ in 0..2 * ROUNDS {
        let start = Instant::now();
        installation.updraft(&["--version"])?.expect_code(0)?;
        times.push(start.elapsed());
    }
    add("--version", times);
    Ok(())
}

/// Runs a deploying command; how long until the agent's link moved, and until
/// the command ended.
fn deploy(installation: &Installation, arguments: &[&str]) -> Result<(Duration, Duration)> {
    let link = current_link(&installation.agent_root())?;
    let before = std::fs::read_link(&link)?;
    let start = Instant::now();
    let mut child = installation
        .command(arguments)
        .stdout(std::process::Stdio::null())
        .stderr(std::process::Stdio::null())
        .spawn()?;
    let mut switched = None;
    let status = loop {
        if switched.is_none() && std::fs::read_link(&link)? != before {
            switched = Some(start.elapsed());
        }
        if let Some(status) = child.try_wait()? {
            break status;
        }
        std::thread::sleep(Duration::from_micros(500));
    };
    let ended = start.elapsed();
    ensure!(
        status.success(),
        "{arguments:?} ended with {status}\n{}",
        installation.logs()
    );
    Ok((
        switched.context("the command ended before the link moved")?,
        ended,
    ))
}

/// The link through which Airflow sees the live Release.
fn current_link(agent: &Path) -> Result<PathBuf> {
    std::fs::read_dir(agent)?
        .flatten()
        .map(|entry| entry.path().join("live"))
        .find(|link| link.is_symlink())
        .with_context(|| format!("nothing was ever switched to below {}", agent.display()))
}

impl Row {
    fn median(&self) -> Duration {
        let mut times = self.times.clone();
        times.sort();
        times[times.len() / 2]
    }
}

/// One line for each thing that was measured, with how much longer the others
/// took for it than Updraft.
fn print(rows: &[Row]) {
    println!(
        "{:<28} {:<8} {:>11} {:>11} {:>11} {:>5} {:>8}",
        "what", "tool", "median", "min", "max", "runs", "ratio"
    );
    for ours in rows.iter().filter(|row| row.tool == "updraft") {
        for row in rows.iter().filter(|row| row.what == ours.what) {
            let shown = |time: Duration| format!("{:.1} ms", time.as_secs_f64() * 1e3);
            let ratio = row.median().as_secs_f64() / ours.median().as_secs_f64();
            println!(
                "{:<28} {:<8} {:>11} {:>11} {:>11} {:>5} {ratio:>8.2}",
                row.what,
                row.tool,
                shown(row.median()),
                shown(row.times.iter().min().copied().unwrap_or_default()),
                shown(row.times.iter().max().copied().unwrap_or_default()),
                row.times.len(),
            );
        }
    }
}
