use std::io::Write;

use serde_json::json;
use updraft_model::DeploymentName;

use crate::cli::OutputArgs;
use crate::console::Console;
use crate::context::Context;
use crate::exit::Exit;
use crate::failure::Result;
use crate::output::time::ago;
use crate::output::{deploy_ref, names};

/// Show what a rollback holds back
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
    let hold = client.deployment(&name).await?.hold;
    if out.is_json() {
        out.json(&json!({ "hold": hold }))?;
        return Ok(Exit::Success);
    }
    let Some(hold) = hold else {
        writeln!(out.status(), "`{name}` is not on hold")?;
        return Ok(Exit::Success);
    };
    let mut data = out.data();
    let since = ago(hold.since, chrono::Utc::now());
    writeln!(data, "`{name}` is on hold {}, {since}", names::hold(&hold))?;
    for held in &hold.held {
        let id = deploy_ref::short(held.deploy);
        writeln!(data, "  {id}  {}", names::release(&held.release))?;
    }
    drop(data);
    writeln!(
        out.status(),
        "Deploying that again is refused until other content comes; `updraft hold lift {name}` allows it"
    )?;
    Ok(Exit::Success)
}
