use std::io::Write;

use updraft_model::DeploymentName;

use crate::cli::OutputArgs;
use crate::console::Console;
use crate::context::{Context, address};
use crate::exit::Exit;
use crate::failure::Result;
use crate::output::time::ago;

/// Make a one-time code that an agent trades for its token
#[derive(Debug, clap::Args)]
pub(crate) struct InviteArgs {
    /// Deployment that the agent is for (default: the configured one)
    deployment: Option<DeploymentName>,

    #[command(flatten)]
    pub(crate) output: OutputArgs,
}

pub(crate) async fn run(args: &InviteArgs, cx: &Context, out: &mut Console) -> Result<Exit> {
    let name = cx.deployment(args.deployment.as_ref())?;
    let client = cx.client().await?;
    let code = client.create_enrollment_code(&name).await?;
    if out.is_json() {
        out.json(&code)?;
        return Ok(Exit::Success);
    }
    let expires = ago(code.expires_at, chrono::Utc::now());
    writeln!(
        out.status(),
        "A code for one agent of `{name}`, good once and until {expires}. On Airflow's host, with it on standard input:\n  \
         updraft --server {} agent enroll",
        address(&client)
    )?;
    writeln!(out.data(), "{}", code.code)?;
    Ok(Exit::Success)
}
