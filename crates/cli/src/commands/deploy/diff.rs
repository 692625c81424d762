use std::io::Write;

use updraft_api::deploy::DiffView;
use updraft_model::DeploymentName;

use super::report::{summary, write_names};
use crate::cli::OutputArgs;
use crate::console::Console;
use crate::context::Context;
use crate::exit::Exit;
use crate::failure::Result;
use crate::output::deploy_ref::{self, DeployRef};

/// Show how two deploys differ, in files and DAGs
#[derive(Debug, clap::Args)]
pub(crate) struct DiffArgs {
    /// A deploy, by id or the beginning of one
    from: DeployRef,

    /// The deploy to compare it with; without it, what the one deploy changed
    to: Option<DeployRef>,

    /// Where to look for an id that is not given in full (default: the configured one)
    #[arg(long, value_name = "DEPLOYMENT")]
    deployment: Option<DeploymentName>,

    #[command(flatten)]
    pub(crate) output: OutputArgs,
}

pub(crate) async fn run(args: &DiffArgs, cx: &Context, out: &mut Console) -> Result<Exit> {
    let client = cx.client().await?;
    let deployment = async || cx.deployment_of(&client, args.deployment.as_ref()).await;
    let from = args.from.resolve(&client, &deployment).await?;
    let to = match &args.to {
        Some(to) => Some(to.resolve(&client, &deployment).await?),
        None => None,
    };
    let diff = client.diff(from, to).await?;
    if out.is_json() {
        out.json(&diff)?;
        return Ok(Exit::Success);
    }
    let mut text = Vec::new();
    write(&diff, &mut text)?;
    out.data().write_all(&text)?;
    Ok(Exit::Success)
}

fn write(diff: &DiffView, to: &mut impl Write) -> std::io::Result<()> {
    let new = deploy_ref::short(diff.to);
    match diff.from {
        Some(old) => writeln!(to, "from {} to {new}", deploy_ref::short(old))?,
        None => writeln!(to, "from nothing to {new}")?,
    }
    for (name, files) in &diff.bundles {
        writeln!(to, "{name}: {}", summary(files))?;
        write_names(&files.added, &files.changed, &files.removed, "  ", to)?;
    }
    if diff.image_changed {
        writeln!(to, "image: changed")?;
    }
    let dags = &diff.dags;
    if !(dags.added.is_empty() && dags.changed.is_empty() && dags.removed.is_empty()) {
        writeln!(to, "DAGs:")?;
        write_names(&dags.added, &dags.changed, &dags.removed, "  ", to)?;
    }
    Ok(())
}
