//! Working on a project.

pub(crate) mod check;
pub(crate) mod init;
mod local;
pub(crate) mod logs;
pub(crate) mod object;
pub(crate) mod parse;
pub(crate) mod ps;
pub(crate) mod pytest;
pub(crate) mod restart;
pub(crate) mod run;
pub(crate) mod start;
pub(crate) mod stop;
pub(crate) mod upgrade_check;
mod watch;

use crate::console::{Console, Format};
use crate::context::Context;
use crate::exit::Exit;
use crate::failure::Result;

/// Begin and work on a project
#[derive(Debug, clap::Subcommand)]
pub(crate) enum DevCommand {
    Init(init::InitArgs),
    Start(start::StartArgs),
    Restart(restart::RestartArgs),
    Stop(stop::StopArgs),
    Kill(stop::KillArgs),
    Ps(ps::PsArgs),
    Logs(logs::LogsArgs),
    Run(run::RunArgs),
    Bash(run::BashArgs),
    #[command(subcommand)]
    Object(object::ObjectCommand),
    Check(check::CheckArgs),
    Parse(parse::ParseArgs),
    Pytest(pytest::PytestArgs),
    UpgradeCheck(upgrade_check::UpgradeCheckArgs),
}

impl DevCommand {
    pub(crate) fn format(&self) -> Format {
        match self {
            Self::Init(args) => args.output.output,
            Self::Check(args) => args.output.output,
            Self::Parse(args) => args.output.output,
            Self::Ps(args) => args.output.output,
            Self::Start(_)
            | Self::Restart(_)
            | Self::Stop(_)
            | Self::Kill(_)
            | Self::Logs(_)
            | Self::Run(_)
            | Self::Bash(_)
            | Self::Object(_)
            | Self::Pytest(_) => Format::Text,
            Self::UpgradeCheck(args) => args.output.output,
        }
    }

    /// Whether it has something to do when Ctrl-C comes.
    pub(crate) fn handles_interrupts(&self) -> bool {
        matches!(self, Self::Check(args) if args.watch)
            || matches!(self, Self::Pytest(_) | Self::Start(_) | Self::Restart(_))
    }

    /// Runs what is done once, without an async runtime.
    pub(crate) fn run_plain(&self, cx: &Context, out: &mut Console) -> Option<Result<Exit>> {
        match self {
            Self::Init(args) => Some(init::run(args, cx, out)),
            Self::Check(args) if args.watch => None,
            Self::Check(args) => Some(check::run(args, cx, out)),
            Self::Ps(_) => Some(ps::run(cx, out)),
            Self::Run(args) => Some(run::airflow(args, cx)),
            Self::Bash(args) => Some(run::bash(args, cx, out)),
            Self::Start(_)
            | Self::Restart(_)
            | Self::Stop(_)
            | Self::Kill(_)
            | Self::Logs(_)
            | Self::Object(_)
            | Self::Parse(_)
            | Self::Pytest(_)
            | Self::UpgradeCheck(_) => None,
        }
    }

    pub(crate) async fn run(&self, cx: &Context, out: &mut Console) -> Result<Exit> {
        match self {
            Self::Check(args) => watch::run(args, cx, out).await,
            Self::Parse(args) => parse::run(args, cx, out).await,
            Self::Pytest(args) => pytest::run(args, cx, out).await,
            Self::UpgradeCheck(args) => upgrade_check::run(args, cx, out).await,
            Self::Start(args) => Box::pin(start::run(args, cx, out)).await,
            Self::Restart(args) => Box::pin(restart::run(args, cx, out)).await,
            Self::Stop(args) => stop::run(args, cx, out).await,
            Self::Kill(args) => stop::kill(args, cx, out).await,
            Self::Logs(args) => logs::run(args, cx, out).await,
            Self::Object(command) => command.run(cx, out).await,
            Self::Init(_) | Self::Ps(_) | Self::Run(_) | Self::Bash(_) => {
                unreachable!("these run without a runtime")
            }
        }
    }
}
