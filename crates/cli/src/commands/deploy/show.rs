use std::io::Write;

use updraft_api::deploy::DeployView;
use updraft_model::{CheckFinding, Checks, DeployState, DeploymentName, StageResult};

use super::report::{has_changed_image, merged, proof, summary, write_failure, write_names};
use crate::cli::OutputArgs;
use crate::console::{Console, DIM, RED, YELLOW};
use crate::context::Context;
use crate::exit::Exit;
use crate::failure::{Failure, Result};
use crate::output::deploy_ref::DeployRef;
use crate::output::names;
use crate::output::size::{count, things};
use crate::output::tame::tame_line;

/// Show one deploy: what it changed, what was checked, what Airflow answered
#[derive(Debug, clap::Args)]
pub(crate) struct ShowArgs {
    /// The deploy, by id or the beginning of one (default: the newest)
    deploy: Option<DeployRef>,

    /// Where to look for it (default: the configured one)
    #[arg(long, value_name = "DEPLOYMENT")]
    deployment: Option<DeploymentName>,

    #[command(flatten)]
    pub(crate) output: OutputArgs,
}

pub(crate) async fn run(args: &ShowArgs, cx: &Context, out: &mut Console) -> Result<Exit> {
    let client = cx.client().await?;
    let deployment = async || cx.deployment_of(&client, args.deployment.as_ref()).await;
    let id = if let Some(deploy) = &args.deploy {
        deploy.resolve(&client, deployment).await?
    } else {
        let name = deployment().await?;
        let newest = client.history(&name, 1, None).await?.deploys;
        let newest = newest.first().map(|deploy| deploy.id);
        newest.ok_or_else(|| {
            Failure::new(
                Exit::NotFound,
                format!("nothing was deployed to `{name}` yet"),
            )
        })?
    };
    let deploy = client.deploy(id).await?;
    if out.is_json() {
        out.json(&deploy)?;
        return Ok(Exit::Success);
    }
    let mut text = Vec::new();
    write(&deploy, &mut text)?;
    out.data().write_all(&text)?;
    Ok(Exit::Success)
}

fn write(deploy: &DeployView, to: &mut impl Write) -> std::io::Result<()> {
    writeln!(to, "deploy       {}", deploy.id)?;
    writeln!(to, "deployment   {}", deploy.deployment_name)?;
    writeln!(to, "kind         {}", names::kind(deploy.kind))?;
    writeln!(to, "state        {}", names::state_of(deploy))?;
    let at = deploy.created_at.format("%Y-%m-%d %H:%M UTC");
    writeln!(to, "begun        {at} by {}", deploy.created_by)?;
    if let Some(git) = &deploy.git {
        let dirty = if git.dirty {
            ", with changes on top"
        } else {
            ""
        };
        let commit = git.commit.as_deref().unwrap_or("none");
        writeln!(to, "commit       {commit}{dirty}")?;
        if let Some(subject) = &git.subject {
            writeln!(to, "             {subject}")?;
        }
    }
    if let Some(run) = &deploy.ci {
        let by = run.actor.as_ref().map(|it| format!(" by {it}"));
        writeln!(
            to,
            "run          {}{}",
            run.provider,
            by.unwrap_or_default()
        )?;
        if let Some(url) = &run.run_url {
            writeln!(to, "             {url}")?;
        }
    }
    if !deploy.description.is_empty() {
        writeln!(to, "description  {}", deploy.description)?;
    }
    if let Some(release) = &deploy.release {
        writeln!(to, "release      {}", names::release(release))?;
    }
    if has_changed_image(deploy) {
        writeln!(to, "image        changed")?;
    }
    let files = merged(deploy.files.values());
    if deploy.release.is_some() {
        writeln!(to, "files        {}", summary(&files))?;
        write_names(
            &files.added,
            &files.changed,
            &files.removed,
            "             ",
            to,
        )?;
    }
    match &deploy.checks {
        Some(checks) => write_checks(checks, to)?,
        None => writeln!(to, "checks       none")?,
    }
    if let Some(proof) = deploy.proof.as_ref().or_else(|| proof(deploy)) {
        writeln!(
            to,
            "proof        Airflow parsed {} of {}: {}, {} in all",
            count(proof.parsed),
            things(proof.files, "DAG file"),
            names::dag_changes(&proof.dags),
            count(proof.dags.total),
        )?;
    }
    if matches!(deploy.state, DeployState::Failed { .. }) || deploy.failure.is_some() {
        write_failure(deploy, to)?;
    }
    Ok(())
}

/// What each stage came to. Nobody but the deployer saw them run, so it says whose word it is.
fn write_checks(checks: &Checks, to: &mut impl Write) -> std::io::Result<()> {
    let mut name = "checks";
    for (stage, result) in &checks.stages {
        writeln!(
            to,
            "{name:<12} {stage}: {} in {:.1} s {DIM}({}, told by {}){DIM:#}",
            names::stage(result),
            result.seconds,
            checks.tool,
            checks.claimed_by,
        )?;
        name = "";
        for finding in &result.findings {
            write_finding(finding, to)?;
        }
        for note in &result.notes {
            writeln!(to, "             {}", tame_line(note))?;
        }
        let told = result.findings.len();
        if told == StageResult::MOST_FINDINGS {
            writeln!(to, "             {DIM}the first {told} are kept{DIM:#}")?;
        }
    }
    Ok(())
}

fn write_finding(finding: &CheckFinding, to: &mut impl Write) -> std::io::Result<()> {
    let CheckFinding {
        code,
        is_error,
        file,
        line,
        column,
        message,
    } = finding;
    let (style, level) = if *is_error {
        (RED, "error")
    } else {
        (YELLOW, "warning")
    };
    writeln!(
        to,
        "             {}:{line}:{column}: {style}{level} {}{style:#}: {}",
        tame_line(file),
        tame_line(code),
        tame_line(message),
    )
}
