use std::io::Write;
use std::path::PathBuf;

use super::super::local::inputs;
use super::super::local::place::Place;
use super::{KindArgs, counted};
use crate::console::Console;
use crate::context::Context;
use crate::exit::Exit;
use crate::failure::{Failure, Result};

/// Write what the local Airflow has into `airflow_settings.yaml`
///
/// Values are written in clear, passwords as well, since that is what the file is for; only you can read it.
#[derive(Debug, clap::Args)]
pub(crate) struct ExportArgs {
    #[command(flatten)]
    kinds: KindArgs,

    /// File to write (default: `airflow_settings.yaml`)
    #[arg(short, long, value_name = "FILE")]
    settings_file: Option<PathBuf>,

    /// Replace the file where there is one
    #[arg(short, long)]
    force: bool,
}

pub(crate) async fn run(args: &ExportArgs, cx: &Context, out: &mut Console) -> Result<Exit> {
    let place = Place::of(cx)?;
    let named = args.settings_file.as_deref();
    let file = inputs::file(named, &place.project, "airflow_settings.yaml")?;
    if !args.force && file.symlink_metadata().is_ok() {
        let message = format!("there is a file `{}` already", file.display());
        return Err(Failure::new(Exit::Conflict, message)
            .code("file_exists")
            .help("name another with --settings-file, or give --force to replace it"));
    }
    let _locked = place.lock(out).await?;
    let (kept, airflow) = place.installed()?;
    let step = out.step("exporting");
    let exported = airflow.export(&kept.run, &args.kinds.kinds()).await;
    out.abandon(step);
    let objects = exported?;
    crate::files::write_private(&file, &objects.to_yaml())
        .map_err(|error| Failure::file("write", &file, &error))?;
    let counts = [
        objects.connections.len(),
        objects.variables.len(),
        objects.pools.len(),
    ];
    writeln!(
        out.status(),
        "Exported {} to {}. Their values are in it in clear, so keep it out of git",
        counted(counts),
        file.display()
    )?;
    Ok(Exit::Success)
}
