use updraft_api::agent::Report;
use updraft_api::deployment::{AgentView, DeploymentView, StatusView};
use updraft_model::{AirflowNames, DeploymentName, ImportError, ReleaseId};
use updraft_store::{Agent, Deployment, Read, StoreError};

use super::DeploymentError;
use crate::app::App;
use crate::auth::Caller;
use crate::deploy;

/// The Deployments that the caller may see, by name.
pub(crate) async fn list(
    app: &App,
    caller: &Caller,
) -> Result<Vec<DeploymentView>, DeploymentError> {
    let mut read = app.store.read().await?;
    let visible = caller.visible_deployments(&mut read).await?;
    let mut views = Vec::with_capacity(visible.len());
    for deployment in visible {
        views.push(view(&mut read, deployment).await?);
    }
    Ok(views)
}

pub(crate) async fn show(
    app: &App,
    caller: &Caller,
    name: &DeploymentName,
) -> Result<DeploymentView, DeploymentError> {
    let mut read = app.store.read().await?;
    let deployment = caller.deployment(&mut read, name).await?;
    view(&mut read, deployment).await
}

/// What is wanted, what is proven, and what each agent says.
pub(crate) async fn status(
    app: &App,
    caller: &Caller,
    name: &DeploymentName,
) -> Result<StatusView, DeploymentError> {
    let mut read = app.store.read().await?;
    let deployment = caller.deployment(&mut read, name).await?;
    let agents = read.agents(deployment.id).await?;

    let wanted_deploy = match deployment.target {
        Some(target) => read.deploy(target.deploy).await?,
        None => None,
    };
    let wanted_deploy = wanted_deploy
        .map(|wanted| deploy::view(wanted, &deployment, &deploy::agents_now(app, &agents)));
    let proven_deploy = deployment.proven.map(|proven| proven.deploy);

    let mut dags: Option<u64> = None;
    let mut import_errors: Vec<ImportError> = Vec::new();
    let mut names: Option<AirflowNames> = None;
    let mut views = Vec::with_capacity(agents.len());
    for agent in &agents {
        let connected = app.leases.until(agent) > app.now();
        let report: Option<Report> = serde_json::from_str(&agent.report).ok();
        if let Some(report) = report.as_ref().filter(|_| connected) {
            dags = dags.max(report.dags);
            names = names.or_else(|| report.names.clone());
            for error in &report.import_errors {
                if !import_errors.contains(error) {
                    import_errors.push(error.clone());
                }
            }
        }
        views.push(agent_view(&mut read, agent, report, connected).await?);
    }
    Ok(StatusView {
        deployment: view(&mut read, deployment).await?,
        wanted_deploy,
        proven_deploy,
        agents: views,
        dags,
        import_errors,
        names,
    })
}

async fn agent_view(
    read: &mut Read,
    agent: &Agent,
    report: Option<Report>,
    connected: bool,
) -> Result<AgentView, StoreError> {
    let serving = match report.as_ref().and_then(|report| report.serving) {
        Some(id) => read.release(id).await?,
        None => None,
    };
    let report = report.as_ref();
    Ok(AgentView {
        id: agent.id,
        host: agent.host.clone(),
        version: report
            .map(|report| report.version.clone())
            .unwrap_or_default(),
        first_seen: agent.first_seen,
        last_seen: agent.last_seen,
        connected,
        serving,
        isolation: report
            .map(|report| report.isolation.clone())
            .unwrap_or_default(),
        airflow: report.and_then(|report| report.airflow.clone()),
        problem: report.and_then(|report| report.problem.clone()),
    })
}

pub(super) async fn view(
    read: &mut Read,
    deployment: Deployment,
) -> Result<DeploymentView, DeploymentError> {
    let wanted: Option<ReleaseId> = deployment.target.map(|target| target.release);
    let proven: Option<ReleaseId> = deployment.proven.map(|proven| proven.release);
    let wanted = match wanted {
        Some(id) => read.release(id).await?,
        None => None,
    };
    let proven = match proven {
        Some(id) => read.release(id).await?,
        None => None,
    };
    Ok(DeploymentView {
        id: deployment.id,
        name: deployment.name,
        workspace: deployment.workspace,
        created_at: deployment.created_at,
        description: deployment.settings.description,
        after_failure: deployment.settings.after_failure,
        proof_timeout_s: deployment.settings.proof_timeout_s,
        keep_releases: deployment.settings.keep_releases,
        runtime: deployment.settings.runtime,
        registry: deployment.settings.registry,
        executor: deployment.settings.executor,
        require: deployment.settings.require,
        ci_only: deployment.settings.ci_only,
        preview_values: deployment.settings.preview_values,
        preview_of: deployment.preview.map(|preview| preview.of),
        environment: deployment.environment_names,
        wanted,
        proven,
        hold: deployment.hold,
    })
}
