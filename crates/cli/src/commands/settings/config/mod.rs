//! Settings: looking at them, and checking a project's.

mod check;
mod schema;
mod show;

use crate::cli::OutputArgs;
use crate::console::Console;
use crate::context::Context;
use crate::exit::Exit;
use crate::failure::Result;

/// Show each setting and where it comes from
///
/// Flags win over `UPDRAFT_*` variables, those over updraft.toml, that over your own settings file.
/// The token is never shown, only whether there is one.
#[derive(Debug, clap::Args)]
#[command(args_conflicts_with_subcommands = true)]
pub(crate) struct ConfigArgs {
    #[command(subcommand)]
    command: Option<ConfigCommand>,

    #[command(flatten)]
    output: OutputArgs,
}

#[derive(Debug, clap::Subcommand)]
enum ConfigCommand {
    Check(check::CheckArgs),
    Schema(schema::SchemaArgs),
}

impl ConfigArgs {
    pub(crate) fn format(&self) -> crate::console::Format {
        match &self.command {
            Some(ConfigCommand::Check(args)) => args.output.output,
            Some(ConfigCommand::Schema(_)) => crate::console::Format::Text,
            None => self.output.output,
        }
    }

    /// Runs what asks nobody.
    pub(crate) fn run_plain(&self, cx: &Context, out: &mut Console) -> Option<Result<Exit>> {
        match &self.command {
            Some(ConfigCommand::Check(_)) => None,
            Some(ConfigCommand::Schema(_)) => Some(schema::run(out)),
            None => Some(show::run(cx, out)),
        }
    }

    pub(crate) async fn run(&self, cx: &Context, out: &mut Console) -> Result<Exit> {
        match &self.command {
            Some(ConfigCommand::Check(args)) => check::run(args, cx, out).await,
            Some(ConfigCommand::Schema(_)) => schema::run(out),
            None => show::run(cx, out),
        }
    }
}
