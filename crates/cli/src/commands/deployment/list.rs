use std::io::Write;

use crate::cli::OutputArgs;
use crate::console::Console;
use crate::context::Context;
use crate::exit::Exit;
use crate::failure::Result;
use crate::output::names;
use crate::output::table::Table;
use crate::output::time::ago;

/// List Deployments
#[derive(Debug, clap::Args)]
pub(crate) struct ListArgs {
    #[command(flatten)]
    pub(crate) output: OutputArgs,
}

pub(crate) async fn run(_args: &ListArgs, cx: &Context, out: &mut Console) -> Result<Exit> {
    let list = cx.client().await?.deployments().await?;
    if out.is_json() {
        out.json(&list)?;
        return Ok(Exit::Success);
    }
    if list.deployments.is_empty() {
        writeln!(
            out.status(),
            "There are no Deployments; `updraft deployment create NAME` makes one"
        )?;
        return Ok(Exit::Success);
    }
    let now = chrono::Utc::now();
    let mut table =
        Table::new(["name", "release", "runtime", "created", "description"]).flexible(4);
    for deployment in &list.deployments {
        let release = match (&deployment.wanted, &deployment.proven) {
            (None, _) => "nothing deployed",
            (Some(wanted), Some(proven)) if wanted.same_content(proven) => "live",
            (Some(_), _) => "not proven",
        };
        table.row([
            deployment.name.to_string(),
            release.to_owned(),
            names::runtime(deployment.runtime).to_owned(),
            ago(deployment.created_at, now),
            deployment.description.clone(),
        ]);
    }
    table.print(out)?;
    Ok(Exit::Success)
}
