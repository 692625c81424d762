//! Tokens: who may do what, where, until when.

pub(crate) mod create;
pub(crate) mod list;
pub(crate) mod revoke;

use crate::console::{Console, Format};
use crate::context::Context;
use crate::exit::Exit;
use crate::failure::Result;

/// Create, list and revoke tokens
#[derive(Debug, clap::Subcommand)]
pub(crate) enum TokenCommand {
    Create(create::CreateArgs),
    List(list::ListArgs),
    Revoke(revoke::RevokeArgs),
}

impl TokenCommand {
    pub(crate) fn format(&self) -> Format {
        match self {
            Self::Create(args) => args.output.output,
            Self::List(args) => args.output.output,
            Self::Revoke(args) => args.output.output,
        }
    }

    pub(crate) async fn run(&self, cx: &Context, out: &mut Console) -> Result<Exit> {
        match self {
            Self::Create(args) => create::run(args, cx, out).await,
            Self::List(args) => list::run(args, cx, out).await,
            Self::Revoke(args) => revoke::run(args, cx, out).await,
        }
    }
}
