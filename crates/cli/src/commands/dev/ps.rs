use std::io::Write;

use chrono::Utc;
use serde_json::json;
use updraft_agent::{LocalAirflow, LocalComponent, LocalEngine, LocalState};

use super::local::place::{Kept, Place, all_run};
use super::local::tell_outdated;
use crate::cli::OutputArgs;
use crate::console::Console;
use crate::context::Context;
use crate::exit::Exit;
use crate::failure::Result;
use crate::output::table::Table;
use crate::output::time::ago;

/// Show what runs of the project's Airflow
#[derive(Debug, clap::Args)]
pub(crate) struct PsArgs {
    #[command(flatten)]
    pub(crate) output: OutputArgs,
}

/// The last lines of a component that has ended.
const LINES: usize = 5;

pub(crate) fn run(cx: &Context, out: &mut Console) -> Result<Exit> {
    let place = Place::of(cx)?;
    let Some(kept) = place.kept()? else {
        return nothing(&place, out);
    };
    let components = LocalAirflow::open(place.root())?.components(&kept.run);
    let is_there = |it: &LocalComponent| it.state != LocalState::Stopped;
    if out.is_json() {
        out.json(&json!({
            "project": place.project.name(),
            "state": state(&components),
            "url": kept.run.url(),
            "airflow_version": kept.run.airflow_version,
            "python_version": kept.run.python_version,
            "runtime": if kept.run.engine().is_some() { "container" } else { "process" },
            "engine": kept.run.engine().map(|engine| engine.name().program()),
            "components": components,
            "changed": place.changed_since(&kept),
            "folder": place.root(),
        }))?;
    } else if components.iter().any(is_there) {
        print(&components, &kept, out)?;
        tell_outdated(&place, &kept, out);
    } else {
        return nothing(&place, out);
    }
    Ok(Exit::Success)
}

fn nothing(place: &Place, out: &mut Console) -> Result<Exit> {
    let name = place.project.name();
    if out.is_json() {
        out.json(&json!({ "project": name, "state": "stopped", "components": [] }))?;
    } else {
        writeln!(
            out.status(),
            "Nothing runs of `{name}`; `updraft dev start` starts it"
        )?;
    }
    Ok(Exit::Success)
}

fn state(components: &[LocalComponent]) -> &'static str {
    if all_run(components) {
        "running"
    } else if components.iter().all(|it| it.state == LocalState::Stopped) {
        "stopped"
    } else {
        "degraded"
    }
}

fn print(components: &[LocalComponent], kept: &Kept, out: &mut Console) -> Result<()> {
    let now = Utc::now();
    let mut table = Table::new(["component", "state", "pid", "started"]);
    for it in components {
        table.row([
            it.name.to_owned(),
            match it.state {
                LocalState::Running => "running",
                LocalState::Ended => "ended by itself",
                LocalState::Restarted => "ended with the machine",
                LocalState::Stopped => "not started",
            }
            .to_owned(),
            it.pid.map(|pid| pid.to_string()).unwrap_or_default(),
            it.started_at.map(|at| ago(at, now)).unwrap_or_default(),
        ]);
    }
    table.print(out)?;
    for it in components.iter().filter(|it| it.state == LocalState::Ended) {
        let lines: Vec<&str> = it
            .last_lines
            .as_deref()
            .unwrap_or_default()
            .lines()
            .collect();
        let last = &lines[lines.len().saturating_sub(LINES)..];
        let mut data = out.data();
        writeln!(
            data,
            "\nThe last of {} (`updraft dev logs --{}`):",
            it.name, it.name
        )?;
        for line in last {
            writeln!(data, "  {line}")?;
        }
        if last.is_empty() {
            writeln!(data, "  it wrote nothing")?;
        }
    }
    let within = kept.run.engine().map(LocalEngine::name);
    let within = within.map_or_else(String::new, |it| format!(", in containers of {it},"));
    let mut data = out.data();
    writeln!(
        data,
        "\nAirflow {} on Python {}{within} at {}",
        kept.run.airflow_version,
        kept.run.python_version,
        kept.run.url()
    )?;
    drop(data);
    if !all_run(components) {
        out.warn("not all of it runs; `updraft dev start` starts the rest, `updraft dev restart` all of it");
    }
    Ok(())
}
