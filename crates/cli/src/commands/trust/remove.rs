use std::io::Write;

use serde_json::json;
use updraft_model::TrustId;

use crate::cli::OutputArgs;
use crate::console::Console;
use crate::context::Context;
use crate::exit::Exit;
use crate::failure::Result;

/// Trust a pipeline no more, and end its tokens at once
#[derive(Debug, clap::Args)]
pub(crate) struct RemoveArgs {
    /// Its id, as `updraft trust list` shows it
    trust: TrustId,

    #[command(flatten)]
    pub(crate) output: OutputArgs,
}

pub(crate) async fn run(args: &RemoveArgs, cx: &Context, out: &mut Console) -> Result<Exit> {
    cx.client().await?.delete_trust(args.trust).await?;
    if out.is_json() {
        out.json(&json!({ "removed": args.trust }))?;
    } else {
        writeln!(out.status(), "Removed {}", args.trust)?;
    }
    Ok(Exit::Success)
}
