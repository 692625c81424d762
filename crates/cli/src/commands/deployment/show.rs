use std::io::Write;

use updraft_api::deployment::DeploymentView;
use updraft_model::{DeploymentName, PreviewValues};

use crate::cli::OutputArgs;
use crate::console::Console;
use crate::context::Context;
use crate::exit::Exit;
use crate::failure::Result;
use crate::output::names;

/// Show a Deployment's settings
#[derive(Debug, clap::Args)]
pub(crate) struct ShowArgs {
    /// Deployment, by name (default: the configured one)
    deployment: Option<DeploymentName>,

    #[command(flatten)]
    pub(crate) output: OutputArgs,
}

pub(crate) async fn run(args: &ShowArgs, cx: &Context, out: &mut Console) -> Result<Exit> {
    let signed_in = cx.client_and_deployment(args.deployment.as_ref());
    let (client, name) = signed_in.await?;
    let deployment = client.deployment(&name).await?;
    if out.is_json() {
        out.json(&deployment)?;
        return Ok(Exit::Success);
    }
    print(&deployment, out)?;
    Ok(Exit::Success)
}

pub(super) fn print(deployment: &DeploymentView, out: &mut Console) -> Result<()> {
    let release = |release: Option<&updraft_model::Release>| match release {
        Some(release) => names::release(release),
        None => "none".to_owned(),
    };
    let variables = match deployment.environment.as_slice() {
        [] => "none".to_owned(),
        names => names.join(", "),
    };
    let mut data = out.data();
    writeln!(data, "name           {}", deployment.name)?;
    writeln!(data, "id             {}", deployment.id)?;
    if !deployment.description.is_empty() {
        writeln!(data, "description    {}", deployment.description)?;
    }
    writeln!(
        data,
        "created        {}",
        deployment.created_at.format("%Y-%m-%d %H:%M UTC")
    )?;
    writeln!(
        data,
        "runtime        {}, {}",
        names::runtime(deployment.runtime),
        deployment.executor
    )?;
    if let Some(registry) = &deployment.registry {
        writeln!(data, "registry       {registry}")?;
    }
    writeln!(
        data,
        "after failure  {}",
        names::after_failure(deployment.after_failure)
    )?;
    writeln!(data, "proof timeout  {} s", deployment.proof_timeout_s)?;
    writeln!(data, "keep releases  {}", deployment.keep_releases)?;
    let require: Vec<_> = deployment.require.iter().map(|one| one.name()).collect();
    let require = match require.as_slice() {
        [] => "none".to_owned(),
        stages => stages.join(", "),
    };
    writeln!(data, "require        {require}")?;
    if deployment.ci_only {
        writeln!(data, "deploys        from trusted pipelines alone")?;
    }
    writeln!(
        data,
        "previews       {}",
        match deployment.preview_values {
            PreviewValues::Copy => "have its connections and variables, with their secrets",
            PreviewValues::Mask => "have its connections and variables, without their secrets",
            PreviewValues::None => "have none of its connections and variables",
        }
    )?;
    writeln!(data, "environment    {variables}")?;
    writeln!(
        data,
        "wanted         {}",
        release(deployment.wanted.as_ref())
    )?;
    writeln!(
        data,
        "proven         {}",
        release(deployment.proven.as_ref())
    )?;
    Ok(())
}
