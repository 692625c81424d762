//! The agent beside an Airflow.

pub(crate) mod airflow;
pub(crate) mod enroll;
pub(crate) mod invite;
pub(crate) mod run;

use crate::console::{Console, Format};
use crate::context::Context;
use crate::exit::Exit;
use crate::failure::Result;

/// Run the agent that makes an Airflow equal to what is wanted
///
/// Airflow outlives it: stopping the agent stops no task, and the next one takes over what runs.
#[derive(Debug, clap::Args)]
#[command(args_conflicts_with_subcommands = true)]
pub(crate) struct AgentArgs {
    #[command(subcommand)]
    command: Option<AgentCommand>,

    #[command(flatten)]
    run: run::RunArgs,
}

#[derive(Debug, clap::Subcommand)]
enum AgentCommand {
    Run(Box<run::RunArgs>),
    Invite(invite::InviteArgs),
    Enroll(enroll::EnrollArgs),
    Airflow(airflow::AirflowArgs),
}

impl AgentArgs {
    pub(crate) fn format(&self) -> Format {
        match &self.command {
            Some(AgentCommand::Invite(args)) => args.output.output,
            Some(AgentCommand::Enroll(args)) => args.output.output,
            Some(AgentCommand::Airflow(args)) => args.output.output,
            Some(AgentCommand::Run(_)) | None => Format::Text,
        }
    }

    pub(crate) fn serves(&self) -> bool {
        matches!(self.command, Some(AgentCommand::Run(_)) | None)
    }

    pub(crate) async fn run(&self, cx: &Context, out: &mut Console) -> Result<Exit> {
        match &self.command {
            Some(AgentCommand::Invite(args)) => invite::run(args, cx, out).await,
            Some(AgentCommand::Enroll(args)) => enroll::run(args, cx, out).await,
            Some(AgentCommand::Airflow(args)) => airflow::run(args, out),
            Some(AgentCommand::Run(args)) => run::run(args, cx, out).await,
            None => run::run(&self.run, cx, out).await,
        }
    }
}
