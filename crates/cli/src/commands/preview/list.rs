use std::io::Write;

use serde_json::json;
use updraft_model::DeploymentName;

use super::{date, of, state};
use crate::cli::OutputArgs;
use crate::console::Console;
use crate::context::Context;
use crate::exit::Exit;
use crate::failure::Result;
use crate::output::table::Table;

/// List the Previews
#[derive(Debug, clap::Args)]
pub(crate) struct ListArgs {
    /// Only those that are made from this Deployment
    from: Option<DeploymentName>,

    #[command(flatten)]
    pub(crate) output: OutputArgs,
}

pub(crate) async fn run(args: &ListArgs, cx: &Context, out: &mut Console) -> Result<Exit> {
    let previews = cx.client().await?.previews(args.from.as_ref()).await?;
    if out.is_json() {
        out.json(&json!({ "previews": previews }))?;
        return Ok(Exit::Success);
    }
    if previews.is_empty() {
        writeln!(
            out.status(),
            "There is no Preview; `updraft deploy` in the pipeline of a pull request makes one, see docs/previews.md"
        )?;
        return Ok(Exit::Success);
    }
    let titles = ["name", "from", "pull request", "state", "until", "address"];
    let mut table = Table::new(titles).flexible(2);
    for preview in &previews {
        table.row([
            preview.name.to_string(),
            preview.from.to_string(),
            of(&preview.of),
            state(preview).to_owned(),
            date(preview.expires_at),
            preview.url.clone().unwrap_or_default(),
        ]);
    }
    table.print(out)?;
    Ok(Exit::Success)
}
