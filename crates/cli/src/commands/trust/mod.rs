//! Pipelines that deploy without a token.

pub(crate) mod add;
pub(crate) mod list;
pub(crate) mod log;
pub(crate) mod remove;

use updraft_api::trust::TrustView;
use updraft_model::{Expected, Scope};

use crate::console::{Console, Format};
use crate::context::Context;
use crate::exit::Exit;
use crate::failure::Result;

/// Trust pipelines, so that they deploy without a token
///
/// A job's identity, which its tool signs, is exchanged for a token of 15 minutes. See docs/keyless.md.
#[derive(Debug, clap::Subcommand)]
pub(crate) enum TrustCommand {
    Add(Box<add::AddArgs>),
    List(list::ListArgs),
    Remove(remove::RemoveArgs),
    Log(log::LogArgs),
}

impl TrustCommand {
    pub(crate) fn format(&self) -> Format {
        match self {
            Self::Add(args) => args.format(),
            Self::List(args) => args.output.output,
            Self::Remove(args) => args.output.output,
            Self::Log(args) => args.output.output,
        }
    }

    pub(crate) async fn run(&self, cx: &Context, out: &mut Console) -> Result<Exit> {
        match self {
            Self::Add(args) => add::run(args, cx, out).await,
            Self::List(args) => list::run(args, cx, out).await,
            Self::Remove(args) => remove::run(args, cx, out).await,
            Self::Log(args) => log::run(args, cx, out).await,
        }
    }
}

/// `sales-prod`, or the Workspace.
fn scope(trust: &TrustView) -> String {
    match (&trust.deployment, trust.scope) {
        (Some(name), _) => name.to_string(),
        (None, Scope::Workspace { .. }) => "the Workspace".to_owned(),
        (None, Scope::Deployment { deployment }) => deployment.to_string(),
        (None, Scope::Organization) => "everything".to_owned(),
    }
}

/// What it asks for, in one line. What is usual is left out.
fn asks(trust: &TrustView) -> String {
    let claims = trust
        .claims
        .iter()
        .filter(|(_, expected)| !matches!(expected, Expected::OneOf(several) if several.len() > 1));
    let given = claims.map(|(claim, expected)| match expected {
        Expected::Is(value) | Expected::Like(value) | Expected::File(value) => {
            format!("{claim}={value}")
        }
        Expected::OneOf(values) => format!("{claim}={}", values.join("|")),
    });
    let pinned = trust.pin.iter().map(|claim| match trust.pinned.get(claim) {
        Some(value) => format!("{claim}={value} (pinned)"),
        None => format!("{claim} (pinned at the first exchange)"),
    });
    given.chain(pinned).collect::<Vec<_>>().join(", ")
}
