use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use serde_json::json;
use updraft_model::DeploymentName;

use super::enroll::RootArgs;
use crate::cli::OutputArgs;
use crate::console::Console;
use crate::exit::Exit;
use crate::failure::{Failure, Result};
use crate::files::write_private;

/// Show how to sign in to the Airflow that the agent here runs
#[derive(Debug, clap::Args)]
pub(crate) struct AirflowArgs {
    #[command(flatten)]
    root: RootArgs,

    /// The Airflow of this Preview, which the agent here runs
    #[arg(long, value_name = "NAME")]
    preview: Option<DeploymentName>,

    #[command(flatten)]
    pub(crate) output: OutputArgs,
}

#[derive(Serialize, Deserialize)]
struct Address {
    url: String,
}

pub(crate) const USER: &str = "admin";
const ADDRESS: &str = "address.json";

/// Keeps Airflow's address, so that it can be asked for.
pub(crate) fn keep_address(root: &Path, url: &str) -> Result<()> {
    let text = serde_json::to_string(&Address {
        url: url.to_owned(),
    })?;
    let path = root.join(ADDRESS);
    write_private(&path, &text).map_err(|error| Failure::file("write", &path, &error))
}

/// Where Airflow listened before, when there was one.
pub(crate) fn kept_port(root: &Path) -> Result<Option<u16>> {
    let port = |url: &str| url.rsplit_once(':')?.1.trim_end_matches('/').parse().ok();
    Ok(kept_address(root)?.and_then(|address| port(&address.url)))
}

fn kept_address(root: &Path) -> Result<Option<Address>> {
    let path = root.join(ADDRESS);
    match std::fs::read(&path) {
        Ok(text) => Ok(Some(serde_json::from_slice(&text)?)),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(Failure::file("read", &path, &error)),
    }
}

pub(crate) fn run(args: &AirflowArgs, out: &mut Console) -> Result<Exit> {
    let (root, address) = match &args.preview {
        None => (args.root.root.clone(), kept_address(&args.root.root)?),
        Some(name) => {
            let (root, url) = kept_preview(&args.root.root, name)?;
            (root, Some(Address { url }))
        }
    };
    let password = updraft_agent::admin_password(&root)
        .map_err(|error| Failure::file("read", &root, &error))?;
    let password = password.ok_or_else(|| nothing_here(&root))?;
    let address = address.ok_or_else(|| nothing_here(&root))?;
    if out.is_json() {
        out.json(&json!({ "url": address.url, "user": USER, "password": password }))?;
        return Ok(Exit::Success);
    }
    let mut data = out.data();
    writeln!(data, "address   {}", address.url)?;
    writeln!(data, "user      {USER}")?;
    writeln!(data, "password  {password}")?;
    Ok(Exit::Success)
}

/// The folder of a Preview that the agent here runs, and its Airflow's address.
fn kept_preview(root: &Path, name: &DeploymentName) -> Result<(PathBuf, String)> {
    let all =
        updraft_agent::kept_previews(root).map_err(|error| Failure::file("read", root, &error))?;
    let names: Vec<String> = all
        .iter()
        .map(|(_, kept)| format!("`{}`", kept.name))
        .collect();
    let found = all.into_iter().find(|(_, kept)| kept.name == *name);
    found
        .map(|(folder, kept)| (folder, kept.url))
        .ok_or_else(|| {
            let here = match names.as_slice() {
                [] => "it runs none".to_owned(),
                names => format!("it runs {}", names.join(", ")),
            };
            let folder = root.display();
            Failure::new(
                Exit::NotFound,
                format!("the agent in `{folder}` runs no Preview `{name}`; {here}"),
            )
            .help("`updraft preview list` shows all of them; another agent may run it")
        })
}

fn nothing_here(root: &Path) -> Failure {
    Failure::new(
        Exit::NotFound,
        format!("no agent has run an Airflow in `{}` yet", root.display()),
    )
    .help("name the agent's folder with --root")
}
