use std::io::Write;

use updraft_api::agent::ComponentState;
use updraft_api::deploy::DeployView;
use updraft_api::deployment::{AgentView, StatusView};
use updraft_model::{DeployState, DeploymentName, Timestamp};

use crate::cli::OutputArgs;
use crate::console::{BOLD, Console, DIM, GREEN, RED, YELLOW};
use crate::context::Context;
use crate::exit::Exit;
use crate::failure::Result;
use crate::output::fold::fold;
use crate::output::size::things;
use crate::output::time::ago;
use crate::output::{deploy_ref, names};

/// Show what runs where: Release, agents, Airflow, DAGs, import errors
#[derive(Debug, clap::Args)]
pub(crate) struct StatusArgs {
    /// Deployment, by name (default: the configured one)
    deployment: Option<DeploymentName>,

    #[command(flatten)]
    pub(crate) output: OutputArgs,
}

pub(crate) async fn run(args: &StatusArgs, cx: &Context, out: &mut Console) -> Result<Exit> {
    let signed_in = cx.client_and_deployment(args.deployment.as_ref());
    let (client, name) = signed_in.await?;
    let status = client.status(&name).await?;
    if out.is_json() {
        out.json(&status)?;
        return Ok(Exit::Success);
    }
    let (mut text, mut errors) = (Vec::new(), Vec::new());
    write(&status, chrono::Utc::now(), &mut text)?;
    write_errors(&status, &mut errors)?;
    let text = fold(&String::from_utf8_lossy(&text), out.width());
    let mut data = out.data();
    data.write_all(text.as_bytes())?;
    data.write_all(&errors)?;
    drop(data);
    Ok(Exit::Success)
}

fn write(status: &StatusView, now: Timestamp, to: &mut impl Write) -> std::io::Result<()> {
    let deployment = &status.deployment;
    writeln!(to, "{BOLD}{}{BOLD:#}", deployment.name)?;
    match &status.wanted_deploy {
        None => writeln!(to, "  nothing was deployed yet; `updraft deploy` is next")?,
        Some(deploy) => write_wanted(deploy, now, to)?,
    }
    let wanted = deployment.wanted.as_ref();
    let other = deployment
        .proven
        .as_ref()
        .filter(|proven| wanted.is_none_or(|wanted| !wanted.same_content(proven)));
    if let Some(proven) = other {
        let release = names::release(proven);
        let id = status
            .proven_deploy
            .map(|id| format!(" ({})", deploy_ref::short(id)));
        writeln!(to, "  last live  {release}{}", id.unwrap_or_default())?;
    }
    if let Some(hold) = &deployment.hold {
        writeln!(
            to,
            "  {YELLOW}on hold{YELLOW:#}    {}, {}; other content ends it, or `updraft hold lift {}`",
            names::hold(hold),
            ago(hold.since, now),
            deployment.name
        )?;
    }
    if let Some(dags) = status.dags {
        let errors = match status.import_errors.len() {
            0 => format!("{GREEN}no import errors{GREEN:#}"),
            many => format!("{RED}{}{RED:#}", things(many as u64, "import error")),
        };
        writeln!(to, "  Airflow    {}, {errors}", things(dags, "DAG"))?;
    }
    if status.agents.is_empty() {
        writeln!(
            to,
            "  agents     none; `updraft agent invite {}` makes a code for one",
            deployment.name
        )?;
    }
    for agent in &status.agents {
        write_agent(agent, status, now, to)?;
    }
    Ok(())
}

fn write_errors(status: &StatusView, to: &mut impl Write) -> std::io::Result<()> {
    for error in &status.import_errors {
        writeln!(to, "\n{RED}{}{RED:#}", error.file)?;
        for line in error.traceback.trim_end().lines() {
            writeln!(to, "  {line}")?;
        }
    }
    Ok(())
}

fn write_wanted(deploy: &DeployView, now: Timestamp, to: &mut impl Write) -> std::io::Result<()> {
    let (colour, when) = match &deploy.state {
        DeployState::Live { since, .. } => (GREEN, Some(*since)),
        DeployState::Failed { at, .. } | DeployState::TimedOut { at, .. } => (RED, Some(*at)),
        DeployState::RollingOut { since } => (YELLOW, Some(*since)),
        DeployState::Accepted => (YELLOW, deploy.accepted_at),
        DeployState::Created
        | DeployState::Uploading
        | DeployState::Superseded { .. }
        | DeployState::Expired { .. }
        | DeployState::RolledBack { .. } => (DIM, None),
    };
    let when = when
        .map(|at| format!(", {}", ago(at, now)))
        .unwrap_or_default();
    let state = names::state(&deploy.state);
    let id = deploy_ref::short(deploy.id);
    writeln!(
        to,
        "  state      {colour}{state}{colour:#}{when} ({} {id})",
        names::kind(deploy.kind)
    )?;
    if let Some(release) = &deploy.release {
        let label = if deploy.on_disk_at.is_some() {
            "runs  "
        } else {
            "wanted"
        };
        writeln!(to, "  {label}     {}", names::release(release))?;
    }
    if let Some(git) = &deploy.git
        && let Some(commit) = &git.commit
    {
        let branch = git
            .branch
            .as_deref()
            .map(|name| format!(" on {name}"))
            .unwrap_or_default();
        let dirty = if git.dirty {
            ", with changes that are not committed"
        } else {
            ""
        };
        writeln!(
            to,
            "  from       {}{branch}{dirty}",
            commit.get(..10).unwrap_or(commit)
        )?;
    }
    if let Some(activity) = &deploy.activity
        && !deploy.state.is_settled()
    {
        writeln!(to, "  now        {activity}")?;
    }
    Ok(())
}

fn write_agent(
    agent: &AgentView,
    status: &StatusView,
    now: Timestamp,
    to: &mut impl Write,
) -> std::io::Result<()> {
    let seen = if agent.connected {
        format!("{GREEN}connected{GREEN:#}")
    } else {
        format!(
            "{RED}lost{RED:#}, last heard of {}",
            ago(agent.last_seen, now)
        )
    };
    let wanted = status.deployment.wanted.as_ref();
    let serving = match &agent.serving {
        None => "serves nothing yet".to_owned(),
        Some(serving) if wanted.is_some_and(|wanted| wanted.same_content(serving)) => {
            "serves the wanted Release".to_owned()
        }
        Some(serving) => format!("serves {}", names::release(serving)),
    };
    writeln!(
        to,
        "  agent      {} ({}), {seen}, {serving}",
        agent.host, agent.version
    )?;
    if let Some(problem) = &agent.problem {
        let again = if problem.stalled {
            ""
        } else {
            "; trying again"
        };
        writeln!(to, "    {RED}problem{RED:#}  {}{again}", problem.message)?;
    }
    if !agent.isolation.is_empty() {
        writeln!(to, "    users    {}", agent.isolation)?;
    }
    // One that somebody else runs may not say what it is.
    let known = agent
        .airflow
        .as_ref()
        .filter(|airflow| !airflow.version.is_empty());
    let Some(airflow) = known else {
        return Ok(());
    };
    let url = airflow
        .url
        .as_deref()
        .map(|url| format!(" at {url}"))
        .unwrap_or_default();
    writeln!(
        to,
        "    Airflow  {} on Python {}{url}",
        airflow.version, airflow.python
    )?;
    if let Some(note) = &airflow.note {
        writeln!(to, "    {YELLOW}note{YELLOW:#}     {note}")?;
    }
    for component in &airflow.components {
        let (colour, state) = match component.state {
            ComponentState::Starting => (YELLOW, "starting"),
            ComponentState::Running => (GREEN, "running"),
            ComponentState::Draining => (DIM, "replaced, ends with its tasks"),
            ComponentState::Waiting => (RED, "crashed, starting again soon"),
            ComponentState::Stopped => (DIM, "stopped"),
            ComponentState::Unknown => (DIM, "in a state that a later version knows"),
        };
        let pid = component
            .pid
            .map(|pid| format!(", process {pid}"))
            .unwrap_or_default();
        let restarts = match component.restarts {
            0 => String::new(),
            many => format!(", crashed {}", things(u64::from(many), "time")),
        };
        writeln!(
            to,
            "      {:<15} {colour}{state}{colour:#}{pid}{restarts}",
            component.name
        )?;
        if let (Some(error), ComponentState::Waiting) = (&component.last_error, component.state) {
            for line in error.trim_end().lines() {
                writeln!(to, "        {line}")?;
            }
        }
    }
    Ok(())
}
