use std::io::Write;

use serde_json::json;
use updraft_model::TokenId;

use crate::cli::OutputArgs;
use crate::console::Console;
use crate::context::Context;
use crate::exit::Exit;
use crate::failure::Result;

/// End a token at once
#[derive(Debug, clap::Args)]
pub(crate) struct RevokeArgs {
    /// Its id, as `updraft token list` shows it
    token: TokenId,

    #[command(flatten)]
    pub(crate) output: OutputArgs,
}

pub(crate) async fn run(args: &RevokeArgs, cx: &Context, out: &mut Console) -> Result<Exit> {
    cx.client().await?.revoke_token(args.token).await?;
    if out.is_json() {
        out.json(&json!({ "revoked": args.token }))?;
    } else {
        writeln!(out.status(), "Revoked {}", args.token)?;
    }
    Ok(Exit::Success)
}
