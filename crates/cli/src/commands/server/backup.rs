use crate::cli::OutputArgs;
use crate::console::Console;
use crate::exit::Exit;
use crate::failure::Result;

/// Backup
#[derive(Debug, clap::Args)]
pub(crate) struct BackupArgs {
    #[command(flatten)]
    pub(crate) output: OutputArgs,
}

pub(crate) async fn run(args: &BackupArgs, out: &mut Console) -> Result<Exit> {
    todo!()
}
