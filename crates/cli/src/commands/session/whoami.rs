use std::io::Write;

use updraft_model::Scope;

use crate::cli::OutputArgs;
use crate::console::Console;
use crate::context::{Context, address};
use crate::exit::Exit;
use crate::failure::Result;
use crate::output::time::ago;

/// Show whose token is used
#[derive(Debug, clap::Args)]
pub(crate) struct WhoamiArgs {
    #[command(flatten)]
    pub(crate) output: OutputArgs,
}

pub(crate) async fn run(cx: &Context, out: &mut Console) -> Result<Exit> {
    let client = cx.client().await?;
    let who = client.whoami().await?;
    if out.is_json() {
        out.json(&who)?;
        return Ok(Exit::Success);
    }
    let token = &who.token;
    let expires = ago(token.expires_at, chrono::Utc::now());
    let mut data = out.data();
    writeln!(data, "token    {} ({})", token.name, token.id)?;
    writeln!(data, "role     {} of {}", token.role, scope(token.scope))?;
    writeln!(data, "expires  {expires}")?;
    writeln!(
        data,
        "server   {} (version {})",
        address(&client),
        who.server_version
    )?;
    Ok(Exit::Success)
}

pub(crate) fn scope(scope: Scope) -> String {
    match scope {
        Scope::Organization => "everything".to_owned(),
        Scope::Workspace { workspace } => workspace.to_string(),
        Scope::Deployment { deployment } => deployment.to_string(),
    }
}
