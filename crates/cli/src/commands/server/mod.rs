//! The control plane.

pub(crate) mod backup;
pub(crate) mod restore;

use crate::console::{Console, Format};
use crate::context::Context;
use crate::exit::Exit;
use crate::failure::Result;

/// Run the control plane
#[derive(Debug, clap::Args)]
#[command(args_conflicts_with_subcommands = true)]
pub(crate) struct ServerArgs {}

impl ServerArgs {
    pub(crate) fn format(&self) -> Format {
        Format::Text
    }

    pub(crate) async fn run(&self, cx: &Context, out: &mut Console) -> Result<Exit> {
        todo!()
    }
}
