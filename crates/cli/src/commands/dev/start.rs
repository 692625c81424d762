use std::io::Write;

use updraft_agent::LocalAirflow;

use super::local::bring_up::{Running, UpArgs, bring_up};
use super::local::place::{Place, all_run};
use super::local::{tell_address, tell_outdated};
use crate::console::Console;
use crate::context::Context;
use crate::exit::Exit;
use crate::failure::Result;

/// Run the project here, in a real Airflow
///
/// Makes the environment that the Dockerfile and requirements.txt ask for, starts Airflow in it on this machine alone, and
/// imports `airflow_settings.yaml`. DAGs, plugins and other files are read from the project's folder: an edit needs no
/// command. Airflow goes on when the command has ended; its database and logs are kept outside the project.
///
/// It runs as processes, or in containers where the Dockerfile has steps of its own or a base whose Airflow is not known
/// from its name, or packages.txt names packages. Then docker or podman builds the image, as `updraft deploy` does.
#[derive(Debug, clap::Args)]
pub(crate) struct StartArgs {
    #[command(flatten)]
    up: UpArgs,
}

pub(crate) async fn run(args: &StartArgs, cx: &Context, out: &mut Console) -> Result<Exit> {
    let place = Place::of(cx)?;
    let _locked = place.lock(out).await?;
    if let Some(kept) = place.kept()? {
        let airflow = LocalAirflow::open(place.root())?;
        if all_run(&airflow.components(&kept.run)) {
            writeln!(out.status(), "It is running already")?;
            if args.up.says_something() {
                out.warn("what this start asks for is left out; `updraft dev restart` takes it");
            }
            tell_outdated(&place, &kept, out);
            tell_address(&airflow, &kept, out)?;
            return Ok(Exit::Success);
        }
    }
    bring_up(cx, &place, &args.up, Running::Stays, out).await?;
    Ok(Exit::Success)
}
