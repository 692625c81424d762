use std::io::Write;

use serde_json::json;
use updraft_model::DeploymentName;

use crate::cli::OutputArgs;
use crate::console::Console;
use crate::context::Context;
use crate::exit::Exit;
use crate::failure::{Failure, Result};
use crate::prompt;

/// Delete a Deployment and its history
///
/// Its agents lose their access. What runs on their hosts keeps running until they are stopped.
#[derive(Debug, clap::Args)]
pub(crate) struct DeleteArgs {
    /// Deployment, by name
    deployment: DeploymentName,

    /// Do not ask
    #[arg(long)]
    yes: bool,

    /// Delete it also while agents are connected
    #[arg(long)]
    force: bool,

    #[command(flatten)]
    pub(crate) output: OutputArgs,
}

pub(crate) async fn run(args: &DeleteArgs, cx: &Context, out: &mut Console) -> Result<Exit> {
    let name = &args.deployment;
    if !args.yes {
        confirm(name).await?;
    }
    cx.client()
        .await?
        .delete_deployment(name, args.force)
        .await?;
    if out.is_json() {
        out.json(&json!({ "deleted": name }))?;
    } else {
        writeln!(out.status(), "Deleted `{name}`")?;
    }
    Ok(Exit::Success)
}

async fn confirm(name: &DeploymentName) -> Result<()> {
    if !prompt::is_possible() {
        return Err(
            Failure::new(Exit::Usage, format!("deleting `{name}` needs a yes"))
                .help("give --yes; nothing is asked without a terminal"),
        );
    }
    let question = format!("Type the name to delete `{name}` and its history: ");
    if prompt::line(&question).await?.trim() == name.as_str() {
        return Ok(());
    }
    Err(Failure::new(
        Exit::Refused,
        format!("`{name}` was not deleted: that is not its name"),
    )
    .help("type the name as it is shown, or give --yes"))
}
