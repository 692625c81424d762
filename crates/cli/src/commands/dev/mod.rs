//! Working on a project.

pub(crate) mod check;
pub(crate) mod init;

use crate::console::{Console, Format};
use crate::context::Context;
use crate::exit::Exit;
use crate::failure::Result;

/// Begin and work on a project
#[derive(Debug, clap::Subcommand)]
pub(crate) enum DevCommand {
    Init(init::InitArgs),
    Check(check::CheckArgs),
}

impl DevCommand {
    pub(crate) fn format(&self) -> Format {
        match self {
            Self::Init(args) => args.output.output,
            Self::Check(args) => args.output.output,
        }
    }

    pub(crate) fn run(&self, cx: &Context, out: &mut Console) -> Result<Exit> {
        match self {
            Self::Init(args) => init::run(args, cx, out),
            Self::Check(args) => check::run(args, cx, out),
        }
    }
}
