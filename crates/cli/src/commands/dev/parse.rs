use std::path::PathBuf;
use std::time::Instant;

use serde_json::json;
use updraft_check::parse::Parsed;
use updraft_model::DeploymentName;

use crate::busy::busy;
use crate::checks::findings::{self, ReportArgs};
use crate::checks::host::{self, EnvironmentArgs};
use crate::checks::parse::Ask;
use crate::cli::OutputArgs;
use crate::console::Console;
use crate::context::Context;
use crate::exit::Exit;
use crate::failure::Result;
use crate::output::size::things;

/// Import every DAG file as the Deployment's Airflow would
///
/// Uses the Airflow, the Python and the locked packages that the Deployment has.
/// Variables and connections are known by name and never by value: a file that
/// needs a value ends as undetermined. docs/reference/checks.md explains each rule.
#[derive(Debug, clap::Args)]
pub(crate) struct ParseArgs {
    /// Files and folders to parse (default: all of dags/)
    paths: Vec<PathBuf>,

    #[command(flatten)]
    environment: EnvironmentArgs,

    /// Parse every file, also those that nothing changed for since the last time
    #[arg(long)]
    no_cache: bool,

    #[command(flatten)]
    reports: ReportArgs,

    #[command(flatten)]
    pub(crate) output: OutputArgs,
}

pub(crate) async fn run(args: &ParseArgs, cx: &Context, out: &mut Console) -> Result<Exit> {
    let started = Instant::now();
    let project = cx.project()?;
    let mut step = out.step("finding the environment");
    let wanted = host::wanted(cx, &args.environment, project).await?;
    if let Some(note) = &wanted.note {
        out.warn(note);
    }
    let deployment = wanted.deployment.clone();
    let cache = host::cache(cx)?;
    let ask = Ask {
        project: project.clone(),
        paths: args.paths.clone(),
        deployment: deployment.clone(),
        names: wanted.names.clone(),
        cache: cache.clone(),
        no_cache: args.no_cache,
        also_known: None,
        aside: out.aside(),
    };
    let parsed = busy(&mut step, out, move |stop, say| {
        let ready = wanted.make(&cache, stop, say)?;
        ask.parse(&ready, say)
    })
    .await?;
    out.abandon(step);
    let files: Vec<String> = parsed.dags.keys().cloned().collect();
    args.reports
        .write(&files, &parsed.checked.findings, project)?;
    let exit = match parsed.checked.errors() {
        0 => Exit::Success,
        _ => Exit::CheckFailed,
    };
    if out.is_json() {
        out.json(&document(&parsed, deployment.as_ref()))?;
        return Ok(exit);
    }
    let dags: usize = parsed.dags.values().map(Vec::len).sum();
    let what = format!(
        "{} with {}",
        things(parsed.checked.files as u64, "DAG file"),
        things(dags as u64, "DAG")
    );
    findings::print(&parsed.checked, &what, started.elapsed(), out)?;
    findings::annotate(&parsed.checked.findings, project, out)?;
    Ok(exit)
}

fn document(parsed: &Parsed, deployment: Option<&DeploymentName>) -> serde_json::Value {
    let files: Vec<_> = parsed
        .dags
        .iter()
        .map(|(file, dags)| json!({"file": file, "dags": dags, "seconds": parsed.seconds[file]}))
        .collect();
    let checked = &parsed.checked;
    json!({
        "deployment": deployment,
        "files": checked.files,
        "known": checked.known,
        "errors": checked.errors(),
        "warnings": checked.findings.len() - checked.errors(),
        "findings": checked.findings,
        "parsed": files,
    })
}
