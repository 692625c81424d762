use std::io::Write;

use updraft_api::token::CreateToken;
use updraft_model::{DeploymentName, Role};

use crate::cli::OutputArgs;
use crate::console::Console;
use crate::context::Context;
use crate::exit::Exit;
use crate::failure::Result;

/// Create a token and print it once
///
/// Nobody can show it again: keep it in your CI system's secrets, or pipe it into `updraft login`.
#[derive(Debug, clap::Args)]
pub(crate) struct CreateArgs {
    /// What it is for, as it will show in histories
    name: String,

    /// What it may do: viewer, previewer, deployer or admin
    #[arg(long, default_value = "deployer")]
    role: Role,

    /// The one Deployment that it is for (default: the whole installation)
    #[arg(long, value_name = "DEPLOYMENT")]
    deployment: Option<DeploymentName>,

    /// The Workspace that it is for, with every Deployment in it
    #[arg(long, value_name = "NAME", num_args = 0..=1, default_missing_value = "default", conflicts_with = "deployment")]
    workspace: Option<String>,

    /// Days until it expires
    #[arg(long, default_value_t = 90, value_name = "DAYS", value_parser = clap::value_parser!(u32).range(1..=3650))]
    expires_in: u32,

    #[command(flatten)]
    pub(crate) output: OutputArgs,
}

pub(crate) async fn run(args: &CreateArgs, cx: &Context, out: &mut Console) -> Result<Exit> {
    let ask = CreateToken {
        name: args.name.clone(),
        role: args.role,
        deployment: args.deployment.clone(),
        workspace: args.workspace.clone(),
        expires_in_days: Some(args.expires_in),
    };
    let new = cx.client().await?.create_token(&ask).await?;
    if out.is_json() {
        out.json(&new)?;
        return Ok(Exit::Success);
    }
    let token = &new.token;
    writeln!(
        out.status(),
        "Created `{}` ({}, {}), good until {}; this is the only time it is shown:",
        token.name,
        token.role,
        token.id,
        token.expires_at.format("%Y-%m-%d"),
    )?;
    writeln!(out.data(), "{}", new.secret)?;
    Ok(Exit::Success)
}
