//! Working on a project.

pub(crate) mod check;
pub(crate) mod init;
pub(crate) mod parse;
pub(crate) mod pytest;
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
            Self::Pytest(_) => Format::Text,
            Self::UpgradeCheck(args) => args.output.output,
        }
    }

    /// Whether it has something to do when Ctrl-C comes.
    pub(crate) fn handles_interrupts(&self) -> bool {
        matches!(self, Self::Check(args) if args.watch) || matches!(self, Self::Pytest(_))
    }

    /// Runs what is done once, without an async runtime.
    pub(crate) fn run_plain(&self, cx: &Context, out: &mut Console) -> Option<Result<Exit>> {
        match self {
            Self::Init(args) => Some(init::run(args, cx, out)),
            Self::Check(args) if args.watch => None,
            Self::Check(args) => Some(check::run(args, cx, out)),
            Self::Parse(_) | Self::Pytest(_) | Self::UpgradeCheck(_) => None,
        }
    }

    pub(crate) async fn run(&self, cx: &Context, out: &mut Console) -> Result<Exit> {
        match self {
            Self::Check(args) => watch::run(args, cx, out).await,
            Self::Parse(args) => parse::run(args, cx, out).await,
            Self::Pytest(args) => pytest::run(args, cx, out).await,
            Self::UpgradeCheck(args) => upgrade_check::run(args, cx, out).await,
            Self::Init(_) => unreachable!("it runs without a runtime"),
        }
    }
}
