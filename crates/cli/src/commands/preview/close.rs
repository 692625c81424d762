use std::io::Write;

use serde_json::json;
use updraft_model::DeploymentName;

use crate::cli::OutputArgs;
use crate::console::Console;
use crate::context::Context;
use crate::destination::no_previews;
use crate::exit::Exit;
use crate::failure::{Failure, Result};
use crate::preview::Request;

/// Close a Preview: its Airflow is stopped, its files are removed
///
/// Without a name, in a pipeline, that of the pull request: then none that is there is no error.
#[derive(Debug, clap::Args)]
pub(crate) struct CloseArgs {
    /// Its name, as `updraft preview list` shows it
    preview: Option<DeploymentName>,

    #[command(flatten)]
    pub(crate) output: OutputArgs,
}

pub(crate) async fn run(args: &CloseArgs, cx: &Context, out: &mut Console) -> Result<Exit> {
    let closed = match &args.preview {
        Some(name) => {
            cx.client().await?.close_preview(name).await?;
            Some(name.clone())
        }
        None => of_pull_request(cx).await?,
    };
    if out.is_json() {
        out.json(&json!({ "closed": closed }))?;
        return Ok(Exit::Success);
    }
    match closed {
        Some(name) => writeln!(out.status(), "Closed the Preview `{name}`")?,
        None => writeln!(out.status(), "The pull request has no Preview")?,
    }
    Ok(Exit::Success)
}

async fn of_pull_request(cx: &Context) -> Result<Option<DeploymentName>> {
    let is_requested = cx.ci().is_some_and(|run| run.pull_request.is_some());
    if is_requested && cx.project()?.settings().preview.is_none() {
        return Err(no_previews());
    }
    let request = Request::of(cx)?.ok_or_else(|| {
        Failure::new(
            Exit::Usage,
            "no Preview is named, and this is no pipeline of a pull request",
        )
        .help("name one of `updraft preview list`")
    })?;
    let client = cx.client_to(&request.from).await?;
    let Some(preview) = request.find(&client).await? else {
        return Ok(None);
    };
    match client.close_preview(&preview.name).await {
        // Somebody else, or an attempt whose answer was lost.
        Err(error) if error.code() == Some(updraft_api::ErrorCode::PreviewNotFound) => {}
        other => other?,
    }
    Ok(Some(preview.name))
}
