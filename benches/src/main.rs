//! How long a deploy takes, next to what one would use instead.
//!
//! One project of 5,000 files, one real installation with its Airflow, and the
//! other tools on the same files in the same run. Times are whole commands, from
//! start to what the column says. Quote ratios: the machine is part of a time.
#![expect(clippy::print_stdout, reason = "the table is what this program is for")]

mod agents;
mod checks;
mod halves;
mod images;
mod peers;
mod registry;
mod table;
mod tree;

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use updraft_e2e::Installation;

use crate::table::{Row, Table};
use crate::tree::Tree;

const ROUNDS: usize = 5;

const FIRST_ON_DISK: &str = "first deploy, on disk";
const FIRST_PARSED: &str = "first deploy, parsed";
const CHANGE_ON_DISK: &str = "one file changed, on disk";
const CHANGE_PARSED: &str = "one file changed, parsed";
const NOTHING: &str = "nothing changed";
const ROLLBACK: &str = "rollback, on disk";
const VERSION: &str = "--version";
const STATIC_COLD: &str = "static check of 5,000, cold";
const STATIC_WARM: &str = "static check of 5,000, warm";
const PARSE_COLD: &str = "parse of 1,000, cold";
const PARSE_IMPORTED: &str = "parse of 1,000, Airflow imported";
const PARSE_KNOWN: &str = "parse of 1,000, known";
const PARSE_ONE: &str = "parse, one changed";
const IMAGE_CHANGED: &str = "image file changed, live";
const IMAGE_OWN: &str = "of that, not Airflow's";
const IMAGE_PUSHED: &str = "image file changed, pushed";
const PUSH: &str = "push of 1 GB";
const PULL: &str = "pull of 1 GB";

/// What `docs` promise, in milliseconds.
const BARS: &[(&str, u64)] = &[
    (IMAGE_OWN, 1000),
    (FIRST_ON_DISK, 1_500),
    (CHANGE_ON_DISK, 100),
    (CHANGE_PARSED, 3_000),
    (NOTHING, 60),
    (ROLLBACK, 50),
    (VERSION, 10),
    (STATIC_COLD, 1_000),
    (STATIC_WARM, 150),
    (PARSE_KNOWN, 500),
    (PARSE_ONE, 1_000),
    (IMAGE_PUSHED, 2_000),
];

/// What can be measured; `make bench ARGS="images registry"` measures those alone.
const SECTIONS: [&str; 6] = [
    "deploys", "checks", "registry", "images", "halves", "agents",
];

fn main() -> Result<()> {
    let asked: Vec<String> = std::env::args().skip(1).collect();
    for name in &asked {
        ensure!(
            SECTIONS.contains(&name.as_str()),
            "there is no section `{name}`; there are {}",
            SECTIONS.join(", ")
        );
    }
    let is_asked = |name: &str| asked.is_empty() || asked.iter().any(|it| it == name);
    let mut table = Table::default();
    let installation = Installation::start("3.3.2")?;
    // Airflow is installed and up before anything is timed.
    installation.deploy(&["--timeout", "300"])?.expect_code(0)?;
    let measured = measure(&installation, is_asked, &mut table);
    // What was measured before a failure is worth as much.
    table.print(BARS);
    measured?;
    drop(installation);
    if is_asked("agents") {
        println!("{}", agents::measure()?);
    }
    Ok(())
}

fn measure(
    installation: &Installation,
    is_asked: impl Fn(&str) -> bool,
    table: &mut Table,
) -> Result<()> {
    if is_asked("deploys") {
        let dags = installation.project.root().join("dags");
        let mut tree = Tree::write(&dags)?;
        println!("{tree}\n");
        installation.forget_peak_memory()?;
        measure_updraft(installation, &mut tree, table)?;
        println!(
            "peak memory during the deploys: {}\n",
            installation.peak_memory()?
        );
        peers::measure(&dags, &mut tree, table)?;
    }
    if is_asked("checks") {
        checks::measure(installation, table)?;
    }
    if is_asked("registry") {
        registry::measure(installation, table)?;
    }
    if is_asked("images") {
        images::measure(installation, table)?;
    }
    if is_asked("halves") {
        halves::measure(installation, table)?;
    }
    Ok(())
}

fn measure_updraft(installation: &Installation, tree: &mut Tree, table: &mut Table) -> Result<()> {
    let mut add = |what, times| {
        table.add(Row {
            tool: "updraft",
            what,
            times,
        });
    };

    let (disk, parsed) = deploy(installation, &["deploy", "--dags", "--timeout", "600"])?;
    add(FIRST_ON_DISK, vec![disk]);
    add(FIRST_PARSED, vec![parsed]);

    let (mut on_disk, mut parsed_by) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        tree.edit()?;
        let (disk, parsed) = deploy(installation, &["deploy", "--dags"])?;
        on_disk.push(disk);
        parsed_by.push(parsed);
    }
    add(CHANGE_ON_DISK, on_disk);
    add(CHANGE_PARSED, parsed_by);

    let repeated = |arguments: &[&str]| -> Result<Vec<Duration>> {
        let one = || {
            let start = Instant::now();
            installation.updraft(arguments)?.expect_code(0)?;
            Ok(start.elapsed())
        };
        (0..2 * ROUNDS).map(|_| one()).collect()
    };
    add(NOTHING, repeated(&["deploy", "--dags"])?);
    let mut disks = Vec::new();
    for _ in 0..ROUNDS {
        disks.push(deploy(installation, &["rollback"])?.0);
    }
    add(ROLLBACK, disks);
    add(VERSION, repeated(&["--version"])?);
    Ok(())
}

/// Runs a deploying command; how long until the agent's link moved, and until
/// the command ended.
fn deploy(installation: &Installation, arguments: &[&str]) -> Result<(Duration, Duration)> {
    let link = installation.live_link()?;
    let before = std::fs::read_link(&link)?;
    let start = Instant::now();
    let mut child = installation
        .command(arguments)
        .stdout(std::process::Stdio::null())
        .stderr(std::process::Stdio::null())
        .spawn()?;
    let mut switched = None;
    let status = loop {
        if switched.is_none() && has_moved(&link, &before)? {
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

fn has_moved(link: &Path, before: &Path) -> Result<bool> {
    Ok(std::fs::read_link(link)? != before)
}
