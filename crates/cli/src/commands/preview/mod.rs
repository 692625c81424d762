//! Deployments that live as long as a pull request.

pub(crate) mod close;
pub(crate) mod list;
pub(crate) mod show;

use chrono::{DateTime, Local, Utc};
use updraft_api::preview::{PreviewOf, PreviewView};

use crate::console::{Console, Format};
use crate::context::Context;
use crate::exit::Exit;
use crate::failure::Result;
use crate::output::names::state_of;

/// Look at the Previews of pull requests, and close them
///
/// `updraft deploy` in the pipeline of a pull request makes one, as `[preview]` of updraft.toml says.
#[derive(Debug, clap::Subcommand)]
pub(crate) enum PreviewCommand {
    List(list::ListArgs),
    Show(show::ShowArgs),
    Close(close::CloseArgs),
}

impl PreviewCommand {
    pub(crate) fn format(&self) -> Format {
        match self {
            Self::List(args) => args.output.output,
            Self::Show(args) => args.output.output,
            Self::Close(args) => args.output.output,
        }
    }

    pub(crate) async fn run(&self, cx: &Context, out: &mut Console) -> Result<Exit> {
        match self {
            Self::List(args) => list::run(args, cx, out).await,
            Self::Show(args) => show::run(args, cx, out).await,
            Self::Close(args) => close::run(args, cx, out).await,
        }
    }
}

/// `acme/sales#7`, with the project in it.
fn of(of: &PreviewOf) -> String {
    let project = match of.project.as_str() {
        "" => String::new(),
        project => format!(" ({project})"),
    };
    format!("{}#{}{project}", of.repository, of.pull_request)
}

fn state(preview: &PreviewView) -> &'static str {
    match &preview.wanted_deploy {
        Some(deploy) => state_of(deploy),
        None => "empty",
    }
}

/// In the reader's own time.
pub(crate) fn date(at: DateTime<Utc>) -> String {
    at.with_timezone(&Local)
        .format("%Y-%m-%d %H:%M")
        .to_string()
}
