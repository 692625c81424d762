//! Container images of a project.

mod build;

use crate::console::{Console, Format};
use crate::context::Context;
use crate::exit::Exit;
use crate::failure::Result;

/// Make a project's container image
#[derive(Debug, clap::Subcommand)]
pub(crate) enum ImageCommand {
    Build(build::BuildArgs),
}

impl ImageCommand {
    pub(crate) fn format(&self) -> Format {
        match self {
            Self::Build(args) => args.output.output,
        }
    }

    pub(crate) async fn run(&self, cx: &Context, out: &mut Console) -> Result<Exit> {
        match self {
            Self::Build(args) => build::run(args, cx, out).await,
        }
    }
}
