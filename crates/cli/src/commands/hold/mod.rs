//! Holds: what a rollback keeps from coming back by itself.

mod lift;
mod show;

use crate::console::{Console, Format};
use crate::context::Context;
use crate::exit::Exit;
use crate::failure::Result;

/// See and lift what a rollback holds back
#[derive(Debug, clap::Subcommand)]
pub(crate) enum HoldCommand {
    Show(show::ShowArgs),
    Lift(lift::LiftArgs),
}

impl HoldCommand {
    pub(crate) fn format(&self) -> Format {
        match self {
            Self::Show(args) => args.output.output,
            Self::Lift(args) => args.output.output,
        }
    }

    pub(crate) async fn run(&self, cx: &Context, out: &mut Console) -> Result<Exit> {
        match self {
            Self::Show(args) => show::run(args, cx, out).await,
            Self::Lift(args) => lift::run(args, cx, out).await,
        }
    }
}
