use std::io::Write;

use updraft_api::token::TokenView;
use updraft_model::Timestamp;

use crate::cli::OutputArgs;
use crate::commands::session::whoami::Names;
use crate::console::Console;
use crate::context::Context;
use crate::exit::Exit;
use crate::failure::Result;
use crate::output::table::Table;
use crate::output::time::ago;

/// List tokens, without their secrets
#[derive(Debug, clap::Args)]
pub(crate) struct ListArgs {
    #[command(flatten)]
    pub(crate) output: OutputArgs,
}

pub(crate) async fn run(_args: &ListArgs, cx: &Context, out: &mut Console) -> Result<Exit> {
    let client = cx.client().await?;
    let tokens = client.tokens().await?;
    if out.is_json() {
        out.json(&tokens)?;
        return Ok(Exit::Success);
    }
    if tokens.tokens.is_empty() {
        writeln!(out.status(), "There are no tokens that you may see")?;
        return Ok(Exit::Success);
    }
    let names = Names::read(&client).await?;
    let now = chrono::Utc::now();
    let mut table = Table::new(["name", "role", "for", "state", "used", "id"]).flexible(5);
    for token in &tokens.tokens {
        table.row([
            token.name.clone(),
            token.role.to_string(),
            names.scope(token.scope),
            state(token, now),
            token
                .last_used_at
                .map_or("never".to_owned(), |at| ago(at, now)),
            token.id.to_string(),
        ]);
    }
    table.print(out)?;
    Ok(Exit::Success)
}

fn state(token: &TokenView, now: Timestamp) -> String {
    match token.revoked_at {
        Some(at) => format!("revoked {}", ago(at, now)),
        None if token.expires_at <= now => format!("expired {}", ago(token.expires_at, now)),
        None => format!("expires {}", ago(token.expires_at, now)),
    }
}
