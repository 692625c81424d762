use std::io::Write;

use serde_json::json;

use crate::cli::OutputArgs;
use crate::console::Console;
use crate::context::{Context, address};
use crate::exit::Exit;
use crate::failure::Result;

/// Print the version
#[derive(Debug, clap::Args)]
pub(crate) struct VersionArgs {
    /// Ask the control plane for its version as well
    #[arg(long)]
    pub(crate) with_server: bool,

    #[command(flatten)]
    pub(crate) output: OutputArgs,
}

pub(crate) fn run_plain(out: &mut Console) -> Result<Exit> {
    let version = updraft_api::VERSION;
    if out.is_json() {
        out.json(&json!({ "version": version }))?;
    } else {
        writeln!(out.data(), "updraft {version}")?;
    }
    Ok(Exit::Success)
}

pub(crate) async fn run(cx: &Context, out: &mut Console) -> Result<Exit> {
    let client = cx.client().await?;
    let server = client.whoami().await?.server_version;
    let version = updraft_api::VERSION;
    if out.is_json() {
        out.json(&json!({
            "version": version,
            "server": { "address": address(&client), "version": server },
        }))?;
    } else {
        writeln!(
            out.data(),
            "updraft {version}\n{} {server}",
            address(&client)
        )?;
    }
    Ok(Exit::Success)
}
