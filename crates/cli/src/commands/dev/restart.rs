use super::local::bring_up::{Running, UpArgs, bring_up};
use super::local::place::Place;
use crate::console::Console;
use crate::context::Context;
use crate::exit::Exit;
use crate::failure::Result;

/// Restart the project's Airflow, as the project is now
///
/// Takes changed requirements, another Airflow in the Dockerfile, plugins and .env. The new environment is made before
/// anything is stopped: where that fails, what runs goes on. Tasks that run are ended.
#[derive(Debug, clap::Args)]
pub(crate) struct RestartArgs {
    #[command(flatten)]
    up: UpArgs,
}

pub(crate) async fn run(args: &RestartArgs, cx: &Context, out: &mut Console) -> Result<Exit> {
    let place = Place::of(cx)?;
    let _locked = place.lock(out).await?;
    bring_up(cx, &place, &args.up, Running::Stops, out).await?;
    Ok(Exit::Success)
}
