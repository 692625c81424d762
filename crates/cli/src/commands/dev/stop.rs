use std::io::Write;

use updraft_agent::LocalAirflow;

use super::local::bring_up;
use super::local::place::Place;
use crate::console::Console;
use crate::context::Context;
use crate::exit::Exit;
use crate::failure::{Failure, Result};
use crate::prompt;

/// Stop the project's Airflow
///
/// Tasks that run are ended. The database and the logs stay for the next start, unless --clean is given.
#[derive(Debug, clap::Args)]
pub(crate) struct StopArgs {
    /// Remove the database and the logs, too
    #[arg(long)]
    clean: bool,

    /// Do not ask
    #[arg(long, visible_alias = "force", requires = "clean")]
    yes: bool,
}

/// Stop the project's Airflow and remove its database and logs
#[derive(Debug, clap::Args)]
pub(crate) struct KillArgs {
    /// Do not ask
    #[arg(long, visible_alias = "force")]
    yes: bool,
}

pub(crate) async fn run(args: &StopArgs, cx: &Context, out: &mut Console) -> Result<Exit> {
    if args.clean {
        return clean(args.yes, cx, out).await;
    }
    let place = Place::of(cx)?;
    let _locked = place.lock(out).await?;
    let airflow = place.kept()?.map(|_| LocalAirflow::open(place.root()));
    match airflow.transpose()? {
        Some(airflow) if airflow.runs() => bring_up::stop(&airflow, out).await,
        Some(airflow) => {
            bring_up::stop(&airflow, out).await;
            nothing_runs(&place, out)?;
        }
        None => nothing_runs(&place, out)?,
    }
    Ok(Exit::Success)
}

fn nothing_runs(place: &Place, out: &mut Console) -> Result<()> {
    let name = place.project.name();
    writeln!(out.status(), "Nothing runs of `{name}`")?;
    Ok(())
}

pub(crate) async fn kill(args: &KillArgs, cx: &Context, out: &mut Console) -> Result<Exit> {
    clean(args.yes, cx, out).await
}

async fn clean(yes: bool, cx: &Context, out: &mut Console) -> Result<Exit> {
    let place = Place::of(cx)?;
    let _locked = place.lock(out).await?;
    if !place.root().exists() {
        let name = place.project.name();
        writeln!(out.status(), "Nothing is kept of `{name}`")?;
        return Ok(Exit::Success);
    }
    if !yes {
        confirm(&place).await?;
    }
    let airflow = LocalAirflow::open(place.root())?;
    bring_up::stop(&airflow, out).await;
    airflow.remove()?;
    writeln!(out.status(), "Removed {}", place.root().display())?;
    Ok(Exit::Success)
}

async fn confirm(place: &Place) -> Result<()> {
    let name = place.project.name();
    if !prompt::is_possible() {
        let message = format!("removing the database of `{name}` needs a yes");
        return Err(Failure::new(Exit::Usage, message)
            .help("give --yes; nothing is asked without a terminal"));
    }
    let question = format!("Remove the database and the logs of `{name}`'s local Airflow? [y/N] ");
    let answer = prompt::line(&question).await?;
    if matches!(answer.trim().to_lowercase().as_str(), "y" | "yes") {
        return Ok(());
    }
    Err(
        Failure::new(Exit::Refused, "nothing was stopped or removed")
            .help("answer y, or give --yes"),
    )
}
