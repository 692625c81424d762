//! Every command, by noun.

pub(crate) mod agent;
pub(crate) mod ci;
pub(crate) mod deploy;
pub(crate) mod deployment;
pub(crate) mod dev;
pub(crate) mod hold;
pub(crate) mod image;
pub(crate) mod preview;
pub(crate) mod quickstart;
pub(crate) mod server;
pub(crate) mod session;
pub(crate) mod settings;
pub(crate) mod token;
pub(crate) mod trust;

use crate::console::{Console, Format};
use crate::context::Context;
use crate::exit::Exit;
use crate::failure::Result;

#[derive(Debug, clap::Subcommand)]
pub(crate) enum Command {
    Quickstart(quickstart::QuickstartArgs),
    #[command(subcommand)]
    Dev(dev::DevCommand),
    Deploy(deploy::create::DeployArgs),
    Status(deployment::status::StatusArgs),
    History(deploy::history::HistoryArgs),
    Show(deploy::show::ShowArgs),
    Diff(deploy::diff::DiffArgs),
    Rollback(deploy::rollback::RollbackArgs),
    #[command(subcommand)]
    Hold(hold::HoldCommand),
    Promote(deploy::promote::PromoteArgs),
    #[command(subcommand)]
    Preview(preview::PreviewCommand),
    #[command(subcommand)]
    Ci(ci::CiCommand),
    #[command(subcommand)]
    Image(image::ImageCommand),
    #[command(subcommand)]
    Deployment(deployment::DeploymentCommand),
    #[command(subcommand)]
    Token(token::TokenCommand),
    #[command(subcommand)]
    Trust(trust::TrustCommand),
    Login(session::login::LoginArgs),
    Logout(session::logout::LogoutArgs),
    Whoami(session::whoami::WhoamiArgs),
    Server(server::ServerArgs),
    Agent(agent::AgentArgs),
    Backup(server::backup::BackupArgs),
    Restore(server::restore::RestoreArgs),
    Config(settings::config::ConfigArgs),
    Version(settings::version::VersionArgs),
    Completions(settings::completions::CompletionsArgs),
}

impl Command {
    /// How the result is printed.
    pub(crate) fn format(&self) -> Format {
        match self {
            Self::Deploy(args) => args.output.output,
            Self::Status(args) => args.output.output,
            Self::History(args) => args.output.output,
            Self::Show(args) => args.output.output,
            Self::Diff(args) => args.output.output,
            Self::Rollback(args) => args.output.output,
            Self::Hold(command) => command.format(),
            Self::Promote(args) => args.output.output,
            Self::Preview(command) => command.format(),
            Self::Deployment(command) => command.format(),
            Self::Token(command) => command.format(),
            Self::Trust(command) => command.format(),
            Self::Login(args) => args.output.output,
            Self::Logout(args) => args.output.output,
            Self::Whoami(args) => args.output.output,
            Self::Agent(args) => args.format(),
            Self::Server(args) => args.format(),
            Self::Backup(args) => args.output.output,
            Self::Restore(args) => args.output.output,
            Self::Config(args) => args.format(),
            Self::Version(args) => args.output.output,
            Self::Dev(command) => command.format(),
            Self::Image(command) => command.format(),
            Self::Ci(command) => command.format(),
            Self::Quickstart(_) | Self::Completions(_) => Format::Text,
        }
    }

    /// Whether this is a server of some kind, with work for all cores.
    pub(crate) fn serves(&self) -> bool {
        match self {
            Self::Server(args) => args.serves(),
            Self::Agent(args) => args.serves(),
            _ => matches!(self, Self::Quickstart(_)),
        }
    }

    /// Whether Ctrl-C means something to it, instead of ending it at once.
    pub(crate) fn handles_interrupts(&self) -> bool {
        self.serves()
            || matches!(self, Self::Deploy(_) | Self::Rollback(_) | Self::Promote(_))
            || matches!(self, Self::Dev(command) if command.handles_interrupts())
    }

    /// Runs a command that waits for nothing, without an async runtime.
    pub(crate) fn run_plain(&self, cx: &Context, out: &mut Console) -> Option<Result<Exit>> {
        match self {
            Self::Config(args) => args.run_plain(cx, out),
            Self::Version(args) if !args.with_server => Some(settings::version::run_plain(out)),
            Self::Completions(args) => Some(settings::completions::run(args, out)),
            Self::Logout(args) => Some(session::logout::run(args, cx, out)),
            Self::Dev(command) => command.run_plain(cx, out),
            Self::Ci(command) => command.run_plain(cx, out),
            _ => None,
        }
    }

    pub(crate) async fn run(&self, cx: &Context, out: &mut Console) -> Result<Exit> {
        match self {
            Self::Quickstart(args) => Box::pin(quickstart::run(args, cx, out)).await,
            Self::Deploy(args) => Box::pin(deploy::create::run(args, cx, out)).await,
            Self::Status(args) => deployment::status::run(args, cx, out).await,
            Self::History(args) => deploy::history::run(args, cx, out).await,
            Self::Show(args) => deploy::show::run(args, cx, out).await,
            Self::Diff(args) => deploy::diff::run(args, cx, out).await,
            Self::Rollback(args) => deploy::rollback::run(args, cx, out).await,
            Self::Hold(command) => command.run(cx, out).await,
            Self::Promote(args) => Box::pin(deploy::promote::run(args, cx, out)).await,
            Self::Preview(command) => command.run(cx, out).await,
            Self::Deployment(command) => command.run(cx, out).await,
            Self::Token(command) => command.run(cx, out).await,
            Self::Trust(command) => command.run(cx, out).await,
            Self::Login(args) => session::login::run(args, cx, out).await,
            Self::Whoami(_) => session::whoami::run(cx, out).await,
            Self::Server(args) => args.run(cx, out).await,
            Self::Agent(args) => args.run(cx, out).await,
            Self::Backup(args) => server::backup::run(args, out).await,
            Self::Restore(args) => server::restore::run(args, out).await,
            Self::Version(_) => settings::version::run(cx, out).await,
            Self::Dev(command) => command.run(cx, out).await,
            Self::Image(command) => command.run(cx, out).await,
            Self::Ci(command) => command.run(cx, out).await,
            Self::Config(args) => args.run(cx, out).await,
            Self::Completions(_) | Self::Logout(_) => {
                unreachable!("these run without a runtime")
            }
        }
    }
}
