use std::io::Write;

use serde_json::json;

use crate::cli::OutputArgs;
use crate::config::Credentials;
use crate::console::Console;
use crate::context::{Context, address};
use crate::exit::Exit;
use crate::failure::Result;

/// Forget the stored token for a control plane
///
/// The token itself stays good; `updraft token revoke` ends it.
#[derive(Debug, clap::Args)]
pub(crate) struct LogoutArgs {
    /// Address of the control plane (default: the configured one)
    url: Option<String>,

    #[command(flatten)]
    pub(crate) output: OutputArgs,
}

pub(crate) fn run(args: &LogoutArgs, cx: &Context, out: &mut Console) -> Result<Exit> {
    let server = address(&cx.anonymous(args.url.as_deref())?);
    let path = cx.settings()?.credentials_file()?;
    let mut credentials = Credentials::load(&path)?;
    let removed = credentials.remove(&server);
    if removed {
        credentials.save(&path)?;
    }
    if out.is_json() {
        out.json(&json!({ "server": server, "removed": removed }))?;
    } else if removed {
        writeln!(out.status(), "Forgot the token for {server}")?;
    } else {
        writeln!(out.status(), "There was no token for {server}")?;
    }
    Ok(Exit::Success)
}
