use std::io::Write;
use std::path::PathBuf;

use serde_json::json;

use super::DataArgs;
use crate::cli::OutputArgs;
use crate::console::Console;
use crate::exit::Exit;
use crate::failure::Result;

/// Make a control plane's data folder from a backup
///
/// The control plane must not be running.
#[derive(Debug, clap::Args)]
pub(crate) struct RestoreArgs {
    /// Folder of the backup
    from: PathBuf,

    #[command(flatten)]
    data: DataArgs,

    #[command(flatten)]
    pub(crate) output: OutputArgs,
}

pub(crate) async fn run(args: &RestoreArgs, out: &mut Console) -> Result<Exit> {
    let from = args.from.clone();
    let config = args.data.config()?;
    let made =
        tokio::task::spawn_blocking(move || updraft_server::restore(&from, &config.data_dir))
            .await??;
    if out.is_json() {
        out.json(&json!({ "data_dir": args.data.data_dir, "made": made }))?;
        return Ok(Exit::Success);
    }
    let when = made.made_at.format("%Y-%m-%d %H:%M UTC");
    let dir = args.data.data_dir.display();
    writeln!(out.status(), "{dir} is as it was at {when}")?;
    Ok(Exit::Success)
}
