use crate::cli::OutputArgs;
use crate::console::Console;
use crate::exit::Exit;
use crate::failure::Result;

/// Restore
#[derive(Debug, clap::Args)]
pub(crate) struct RestoreArgs {
    #[command(flatten)]
    pub(crate) output: OutputArgs,
}

pub(crate) async fn run(args: &RestoreArgs, out: &mut Console) -> Result<Exit> {
    todo!()
}
