use std::io::Write;

use updraft_server::init_admin;

use super::DataArgs;
use crate::cli::OutputArgs;
use crate::console::Console;
use crate::exit::Exit;
use crate::failure::Result;

/// Make the data folder and print the first admin token, once
#[derive(Debug, clap::Args)]
pub(crate) struct InitArgs {
    #[command(flatten)]
    data: DataArgs,

    /// Make another admin token, when the first is lost
    #[arg(long)]
    again: bool,

    #[command(flatten)]
    pub(crate) output: OutputArgs,
}

pub(crate) async fn run(args: &InitArgs, out: &mut Console) -> Result<Exit> {
    let new = init_admin(&args.data.config()?, args.again).await?;
    if out.is_json() {
        out.json(&new)?;
        return Ok(Exit::Success);
    }
    writeln!(
        out.status(),
        "Ready in {}. The admin token, which is shown only now (pipe it into `updraft login`):",
        args.data.data_dir.display()
    )?;
    writeln!(out.data(), "{}", new.secret)?;
    Ok(Exit::Success)
}
