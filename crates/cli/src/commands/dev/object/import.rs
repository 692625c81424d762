use std::io::Write;
use std::path::PathBuf;

use super::super::local::inputs;
use super::super::local::place::Place;
use super::{KindArgs, tell_imported};
use crate::console::Console;
use crate::context::Context;
use crate::exit::Exit;
use crate::failure::Result;

/// Give the local Airflow what `airflow_settings.yaml` has
///
/// What Airflow has under the same name is replaced, and nothing else is removed. `updraft dev start` does this, too.
#[derive(Debug, clap::Args)]
pub(crate) struct ImportArgs {
    #[command(flatten)]
    kinds: KindArgs,

    /// File to read (default: `airflow_settings.yaml`)
    #[arg(short, long, value_name = "FILE")]
    settings_file: Option<PathBuf>,
}

pub(crate) async fn run(args: &ImportArgs, cx: &Context, out: &mut Console) -> Result<Exit> {
    let place = Place::of(cx)?;
    let named = args.settings_file.as_deref();
    let file = inputs::file(named, &place.project, "airflow_settings.yaml")?;
    let objects = args.kinds.only(inputs::objects(&file, true)?);
    if objects.is_empty() {
        writeln!(out.status(), "{} has nothing to import", file.display())?;
        return Ok(Exit::Success);
    }
    let _locked = place.lock(out).await?;
    let (kept, airflow) = place.installed()?;
    let step = out.step("importing");
    let imported = airflow.import(&kept.run, &objects).await;
    out.abandon(step);
    tell_imported(&imported?, &file, out)?;
    Ok(Exit::Success)
}
