use std::io::Write;

use updraft_model::DeploymentName;

use crate::cli::OutputArgs;
use crate::console::Console;
use crate::context::Context;
use crate::exit::Exit;
use crate::failure::Result;
use crate::output::table::Table;
use crate::output::time::ago;

/// Show who exchanged an identity, and whose was refused and why
#[derive(Debug, clap::Args)]
pub(crate) struct LogArgs {
    /// Only those of this Deployment (default: all that you may see)
    deployment: Option<DeploymentName>,

    /// How many, the newest first
    #[arg(short = 'n', long, value_name = "COUNT", default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..=1000))]
    limit: u32,

    #[command(flatten)]
    pub(crate) output: OutputArgs,
}

pub(crate) async fn run(args: &LogArgs, cx: &Context, out: &mut Console) -> Result<Exit> {
    let client = cx.client().await?;
    let log = client
        .exchanges(args.deployment.as_ref(), args.limit)
        .await?;
    if out.is_json() {
        out.json(&log)?;
        return Ok(Exit::Success);
    }
    if log.exchanges.is_empty() {
        writeln!(out.status(), "No identity was exchanged or refused yet")?;
        return Ok(Exit::Success);
    }
    let now = chrono::Utc::now();
    let mut table = Table::new(["when", "outcome", "for", "identity", "why"]).flexible(4);
    for exchange in &log.exchanges {
        let name = exchange.deployment.as_ref();
        table.row([
            ago(exchange.at, now),
            exchange.outcome.to_string(),
            name.map_or_else(|| "-".to_owned(), ToString::to_string),
            exchange.identity.to_string(),
            exchange.why.clone().unwrap_or_default(),
        ]);
    }
    table.print(out)?;
    Ok(Exit::Success)
}
