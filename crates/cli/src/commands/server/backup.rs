use std::io::Write;
use std::path::PathBuf;

use serde_json::json;

use super::DataArgs;
use crate::cli::OutputArgs;
use crate::console::Console;
use crate::exit::Exit;
use crate::failure::Result;
use crate::output::size::things;

/// Copy a control plane's database, blobs and keys, also while it runs
///
/// The copy holds the keys: keep it as safe as the data folder.
#[derive(Debug, clap::Args)]
pub(crate) struct BackupArgs {
    /// Folder for the backup; it must not exist yet
    to: PathBuf,

    #[command(flatten)]
    data: DataArgs,

    #[command(flatten)]
    pub(crate) output: OutputArgs,
}

pub(crate) async fn run(args: &BackupArgs, out: &mut Console) -> Result<Exit> {
    let config = args.data.config()?;
    let made = updraft_server::backup(&config, &args.to).await?;
    if out.is_json() {
        out.json(&json!({ "backup": args.to, "made": made }))?;
        return Ok(Exit::Success);
    }
    let blobs = things(made.blobs, "blob");
    writeln!(
        out.status(),
        "Copied the database, the keys and {blobs} to {}",
        args.to.display()
    )?;
    if !made.database {
        out.warn("the database is PostgreSQL and is not in it: use pg_dump as well");
    }
    Ok(Exit::Success)
}
