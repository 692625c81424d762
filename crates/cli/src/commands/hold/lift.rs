use std::io::Write;

use updraft_model::DeploymentName;

use crate::cli::OutputArgs;
use crate::console::Console;
use crate::context::Context;
use crate::exit::Exit;
use crate::failure::Result;
use crate::output::deploy_ref;

/// Let what was rolled back be deployed again
///
/// Nothing is deployed by this. Deploying other content lifts a hold too.
#[derive(Debug, clap::Args)]
pub(crate) struct LiftArgs {
    /// Deployment, by name (default: the configured one)
    deployment: Option<DeploymentName>,

    #[command(flatten)]
    pub(crate) output: OutputArgs,
}

pub(crate) async fn run(args: &LiftArgs, cx: &Context, out: &mut Console) -> Result<Exit> {
    let signed_in = cx.client_and_deployment(args.deployment.as_ref());
    let (client, name) = signed_in.await?;
    let lifted = client.lift_hold(&name).await?;
    match &lifted.hold {
        None => writeln!(out.status(), "`{name}` was not on hold")?,
        Some(hold) => {
            let deploys = hold.held.iter().map(|held| deploy_ref::short(held.deploy));
            let deploys: Vec<String> = deploys.collect();
            writeln!(
                out.status(),
                "Lifted: what {} brought to `{name}` can be deployed again",
                deploys.join(" and ")
            )?;
        }
    }
    if out.is_json() {
        out.json(&lifted)?;
    }
    Ok(Exit::Success)
}
