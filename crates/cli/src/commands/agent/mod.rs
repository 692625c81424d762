//! The agent beside an Airflow.

pub(crate) mod invite;

use crate::console::{Console, Format};
use crate::context::Context;
use crate::exit::Exit;
use crate::failure::Result;

/// Run the agent that keeps an Airflow equal to what is wanted
#[derive(Debug, clap::Args)]
#[command(args_conflicts_with_subcommands = true)]
pub(crate) struct AgentArgs {
    #[command(subcommand)]
    command: Option<AgentCommand>,
}

#[derive(Debug, clap::Subcommand)]
enum AgentCommand {
    Invite(invite::InviteArgs),
}

impl AgentArgs {
    pub(crate) fn format(&self) -> Format {
        match &self.command {
            Some(AgentCommand::Invite(args)) => args.output.output,
            None => Format::Text,
        }
    }

    pub(crate) fn run_plain(&self) -> Option<Result<Exit>> {
        None
    }

    pub(crate) async fn run(&self, cx: &Context, out: &mut Console) -> Result<Exit> {
        match &self.command {
            Some(AgentCommand::Invite(args)) => invite::run(args, cx, out).await,
            None => todo!(),
        }
    }
}
