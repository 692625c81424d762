use std::io::Write;

use updraft_api::deployment::DeploymentSettings;
use updraft_model::DeploymentName;

use super::{SettingsArgs, show};
use crate::cli::OutputArgs;
use crate::console::Console;
use crate::context::Context;
use crate::exit::Exit;
use crate::failure::{Failure, Result};

/// Change a Deployment's settings
#[derive(Debug, clap::Args)]
pub(crate) struct UpdateArgs {
    /// Deployment, by name (default: the configured one)
    deployment: Option<DeploymentName>,

    #[command(flatten)]
    settings: SettingsArgs,

    #[command(flatten)]
    pub(crate) output: OutputArgs,
}

pub(crate) async fn run(args: &UpdateArgs, cx: &Context, out: &mut Console) -> Result<Exit> {
    let name = cx.deployment(args.deployment.as_ref())?;
    let client = cx.client().await?;
    let settings = args.settings.read().await?;
    if settings == DeploymentSettings::default() {
        return Err(Failure::new(Exit::Usage, "no setting is given")
            .help("`updraft deployment update --help` lists them"));
    }
    let deployment = client.update_deployment(&name, &settings).await?;
    if out.is_json() {
        out.json(&deployment)?;
        return Ok(Exit::Success);
    }
    writeln!(out.status(), "Changed `{name}`")?;
    show::print(&deployment, out)?;
    Ok(Exit::Success)
}
