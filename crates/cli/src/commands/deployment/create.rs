use std::io::Write;

use updraft_api::deployment::CreateDeployment;
use updraft_model::DeploymentName;

use super::SettingsArgs;
use crate::cli::OutputArgs;
use crate::console::Console;
use crate::context::Context;
use crate::exit::Exit;
use crate::failure::Result;

/// Create a Deployment
#[derive(Debug, clap::Args)]
pub(crate) struct CreateArgs {
    /// Its name: lower-case letters, digits and `-`
    name: DeploymentName,

    #[command(flatten)]
    settings: SettingsArgs,

    #[command(flatten)]
    pub(crate) output: OutputArgs,
}

pub(crate) async fn run(args: &CreateArgs, cx: &Context, out: &mut Console) -> Result<Exit> {
    let client = cx.client().await?;
    let ask = CreateDeployment {
        name: args.name.clone(),
        settings: args.settings.read().await?,
    };
    let deployment = client.create_deployment(&ask).await?;
    if out.is_json() {
        out.json(&deployment)?;
        return Ok(Exit::Success);
    }
    let name = &deployment.name;
    writeln!(
        out.status(),
        "Created `{name}`. Next: `updraft agent invite {name}` makes a code for the agent on its Airflow's host"
    )?;
    writeln!(out.data(), "{}", deployment.id)?;
    Ok(Exit::Success)
}
