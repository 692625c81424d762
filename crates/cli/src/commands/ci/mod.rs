//! The files that have a pipeline run us.

mod init;
mod lint;
mod migrate;
mod report;

use crate::console::{Console, Format};
use crate::context::Context;
use crate::exit::Exit;
use crate::failure::Result;

/// Write and check the pipelines that run Updraft
#[derive(Debug, clap::Subcommand)]
pub(crate) enum CiCommand {
    Init(init::InitArgs),
    Lint(lint::LintArgs),
    Migrate(migrate::MigrateArgs),
    Report(report::ReportArgs),
}

impl CiCommand {
    pub(crate) fn format(&self) -> Format {
        match self {
            Self::Init(args) => args.output.output,
            Self::Lint(args) => args.output.output,
            Self::Migrate(args) => args.output.output,
            Self::Report(_) => Format::Text,
        }
    }

    /// Runs what asks nobody.
    pub(crate) fn run_plain(&self, cx: &Context, out: &mut Console) -> Option<Result<Exit>> {
        match self {
            Self::Init(_) | Self::Migrate(_) => None,
            Self::Lint(args) => Some(lint::run(args, cx, out)),
            Self::Report(args) => Some(report::run(args, cx)),
        }
    }

    pub(crate) async fn run(&self, cx: &Context, out: &mut Console) -> Result<Exit> {
        match self {
            Self::Init(args) => init::run(args, cx, out).await,
            Self::Lint(args) => lint::run(args, cx, out),
            Self::Migrate(args) => migrate::run(args, cx, out).await,
            Self::Report(args) => report::run(args, cx),
        }
    }
}
