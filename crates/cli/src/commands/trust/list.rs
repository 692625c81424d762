use std::io::Write;

use super::{asks, scope};
use crate::cli::OutputArgs;
use crate::console::Console;
use crate::context::Context;
use crate::exit::Exit;
use crate::failure::Result;
use crate::output::table::Table;
use crate::output::time::ago;

/// List the pipelines that are trusted
#[derive(Debug, clap::Args)]
pub(crate) struct ListArgs {
    #[command(flatten)]
    pub(crate) output: OutputArgs,
}

pub(crate) async fn run(_args: &ListArgs, cx: &Context, out: &mut Console) -> Result<Exit> {
    let trusts = cx.client().await?.trusts().await?;
    if out.is_json() {
        out.json(&trusts)?;
        return Ok(Exit::Success);
    }
    if trusts.trusts.is_empty() {
        writeln!(
            out.status(),
            "No pipeline is trusted; `updraft trust add` trusts one"
        )?;
        return Ok(Exit::Success);
    }
    let now = chrono::Utc::now();
    let mut table = Table::new(["for", "role", "provider", "used", "id", "asks"]).flexible(5);
    for trust in &trusts.trusts {
        let used = trust.last_used_at.map_or("never".into(), |at| ago(at, now));
        table.row([
            scope(trust),
            trust.role.to_string(),
            trust.provider.to_string(),
            used,
            trust.id.to_string(),
            asks(trust),
        ]);
    }
    table.print(out)?;
    Ok(Exit::Success)
}
