//! Working on a project.

pub(crate) mod check;
pub(crate) mod host;
pub(crate) mod init;
pub(crate) mod parse;

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
}

impl DevCommand {
    pub(crate) fn format(&self) -> Format {
        match self {
            Self::Init(args) => args.output.output,
            Self::Check(args) => args.output.output,
            Self::Parse(args) => args.output.output,
        }
    }

    /// Runs one that waits for nothing.
    pub(crate) fn run_plain(&self, cx: &Context, out: &mut Console) -> Option<Result<Exit>> {
        match self {
            Self::Init(args) => Some(init::run(args, cx, out)),
            Self::Check(args) => Some(check::run(args, cx, out)),
            Self::Parse(_) => None,
        }
    }

    pub(crate) async fn run(&self, cx: &Context, out: &mut Console) -> Result<Exit> {
        match self {
            Self::Parse(args) => parse::run(args, cx, out).await,
            Self::Init(_) | Self::Check(_) => unreachable!("these run without a runtime"),
        }
    }
}
