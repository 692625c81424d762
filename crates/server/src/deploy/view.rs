//! A deploy as the API shows it.

use updraft_api::agent::Report;
use updraft_api::deploy::{DeployView, FileChanges};
use updraft_model::Checks;
use updraft_store::{Agent, Deploy, Deployment, FileLists};

use crate::app::App;

/// What a Deployment's agents are, at this moment.
#[derive(Debug, Clone, Default)]
pub(crate) struct AgentsNow {
    pub(crate) connected: u32,
    /// Hosts of agents whose lease ran out, but for those that came back as
    /// another agent.
    pub(crate) lost: Vec<String>,
    /// What one is busy with, for the newest generation that any has seen.
    pub(crate) activity: Option<(i64, String)>,
}

pub(crate) fn agents_now(app: &App, agents: &[Agent]) -> AgentsNow {
    let now = app.now();
    let (connected, lost): (Vec<&Agent>, Vec<&Agent>) = agents
        .iter()
        .partition(|agent| app.leases.until(agent) > now);
    let mut hosts: Vec<String> = lost
        .iter()
        .filter(|agent| connected.iter().all(|other| other.host != agent.host))
        .map(|agent| agent.host.clone())
        .collect();
    hosts.sort_unstable();
    hosts.dedup();
    let activities = connected.iter().filter_map(|agent| {
        let report: Report = serde_json::from_str(&agent.report).ok()?;
        let problem = report.problem.map(|problem| problem.message);
        Some((report.generation, problem.or(report.activity)?))
    });
    let activity = activities.max_by_key(|(generation, _)| *generation);
    AgentsNow {
        connected: u32::try_from(connected.len()).unwrap_or(u32::MAX),
        lost: hosts,
        activity,
    }
}

pub(crate) fn view(deploy: Deploy, deployment: &Deployment, agents: &AgentsNow) -> DeployView {
    let is_wanted = deployment
        .target
        .is_some_and(|target| target.deploy == deploy.id);
    // An agent that has not seen this one is busy with the one before.
    let activity = agents
        .activity
        .as_ref()
        .filter(|(generation, _)| is_wanted && *generation >= deployment.generation);
    let activity = activity.map(|(_, activity)| activity.clone());
    DeployView {
        id: deploy.id,
        deployment: deploy.deployment,
        deployment_name: deployment.name.clone(),
        kind: deploy.kind,
        state: deploy.state,
        revision: deploy.revision,
        release: deploy.release,
        changed: deploy.changed,
        files: deploy
            .files
            .into_iter()
            .map(|(bundle, files)| (bundle, file_changes(files)))
            .collect(),
        description: deploy.description,
        git: deploy.git,
        ci: deploy.ci,
        created_by: deploy.created_by,
        created_at: deploy.created_at,
        accepted_at: deploy.accepted_at,
        on_disk_at: deploy.on_disk_at,
        proven_at: deploy.proven_at,
        ended_at: deploy.ended_at,
        failure: deploy.failure,
        proof: None,
        checks: deploy.checks.map(without_findings),
        returns_to: deploy.returns_to,
        promotes: deploy.promotes,
        agents_connected: agents.connected,
        agents_lost: agents.lost.clone(),
        activity,
    }
}

fn without_findings(mut checks: Checks) -> Checks {
    for result in checks.stages.values_mut() {
        result.findings.clear();
    }
    checks
}

pub(crate) fn file_changes(files: FileLists) -> FileChanges {
    FileChanges {
        added: files.added,
        changed: files.changed,
        removed: files.removed,
    }
}
