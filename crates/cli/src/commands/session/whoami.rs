use std::collections::HashMap;
use std::io::Write;

use updraft_api::Client;
use updraft_model::{DeploymentId, DeploymentName, Scope};

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
    let scope = Names::read(&client).await?.scope(token.scope);
    let expires = ago(token.expires_at, chrono::Utc::now());
    let mut data = out.data();
    writeln!(data, "token    {} ({})", token.name, token.id)?;
    writeln!(data, "role     {} of {scope}", token.role)?;
    writeln!(data, "expires  {expires}")?;
    writeln!(
        data,
        "server   {} (version {})",
        address(&client),
        who.server_version
    )?;
    Ok(Exit::Success)
}

/// Deployments by id, so that a scope can be said as people know it.
pub(crate) struct Names(HashMap<DeploymentId, DeploymentName>);

impl Names {
    /// Those that the token in use may see.
    pub(crate) async fn read(client: &Client) -> Result<Self> {
        let deployments = client.deployments().await?.deployments;
        let names = deployments.into_iter().map(|it| (it.id, it.name));
        Ok(Self(names.collect()))
    }

    pub(crate) fn scope(&self, scope: Scope) -> String {
        match scope {
            Scope::Organization => "everything".to_owned(),
            Scope::Workspace { workspace } => workspace.to_string(),
            Scope::Deployment { deployment } => match self.0.get(&deployment) {
                Some(name) => name.to_string(),
                None => deployment.to_string(),
            },
        }
    }
}
