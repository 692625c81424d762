use std::io::Write;
use std::path::Path;

use serde::{Deserialize, Serialize};
use serde_json::json;
use updraft_model::DeploymentId;

use super::enroll::RootArgs;
use crate::cli::OutputArgs;
use crate::config::write_private;
use crate::console::Console;
use crate::exit::Exit;
use crate::failure::{Failure, Result};

/// Show how to sign in to the Airflow that the agent here runs
#[derive(Debug, clap::Args)]
pub(crate) struct AirflowArgs {
    #[command(flatten)]
    root: RootArgs,

    #[command(flatten)]
    pub(crate) output: OutputArgs,
}

/// The agent's `agent.json`, as far as it matters here.
#[derive(Deserialize)]
struct Identity {
    deployment: Option<DeploymentId>,
}

/// The agent's `secrets.json`, as far as it matters here.
#[derive(Deserialize)]
struct Secrets {
    admin_password: String,
}

#[derive(Serialize, Deserialize)]
struct Address {
    url: String,
}

pub(crate) const USER: &str = "admin";

/// Keeps Airflow's address, so that it can be asked for.
pub(crate) fn keep_address(root: &Path, url: &str) -> Result<()> {
    let text = serde_json::to_string(&Address {
        url: url.to_owned(),
    })?;
    let path = root.join("address.json");
    write_private(&path, &text).map_err(|error| Failure::file("write", &path, &error))
}

pub(crate) fn run(args: &AirflowArgs, out: &mut Console) -> Result<Exit> {
    let root = &args.root.root;
    let identity: Identity = read(&root.join("agent.json"))?;
    let deployment = identity.deployment.ok_or_else(|| nothing_here(root))?;
    let secrets: Secrets = read(&root.join(deployment.to_string()).join("secrets.json"))?;
    let address: Address = read(&root.join("address.json"))?;
    if out.is_json() {
        out.json(&json!({ "url": address.url, "user": USER, "password": secrets.admin_password }))?;
        return Ok(Exit::Success);
    }
    let mut data = out.data();
    writeln!(data, "address   {}", address.url)?;
    writeln!(data, "user      {USER}")?;
    writeln!(data, "password  {}", secrets.admin_password)?;
    Ok(Exit::Success)
}

fn read<T: for<'de> Deserialize<'de>>(path: &Path) -> Result<T> {
    let bytes = std::fs::read(path).map_err(|error| match error.kind() {
        std::io::ErrorKind::NotFound => nothing_here(path.parent().unwrap_or(path)),
        _ => Failure::file("read", path, &error),
    })?;
    Ok(serde_json::from_slice(&bytes)?)
}

fn nothing_here(root: &Path) -> Failure {
    Failure::new(
        Exit::NotFound,
        format!("no agent has run an Airflow in `{}` yet", root.display()),
    )
    .help("name the agent's folder with --root")
}
