use updraft_api::agent::Report;
use updraft_api::preview::{PreviewOf, PreviewView};
use updraft_model::{DeploymentId, DeploymentName};
use updraft_store::{Deployment, Read};

use super::PreviewError;
use crate::app::App;
use crate::auth::Caller;
use crate::deploy;

/// The Previews that the caller may see, by name; only those of one Deployment, when that
/// is named.
pub(crate) async fn list(
    app: &App,
    caller: &Caller,
    from: Option<&DeploymentName>,
) -> Result<Vec<PreviewView>, PreviewError> {
    let mut read = app.store.read().await?;
    let from = match from {
        Some(name) => Some(caller.deployment(&mut read, name).await?.id),
        None => None,
    };
    let mut all = caller.visible_deployments(&mut read).await?;
    all.sort_by(|a, b| a.name.cmp(&b.name));
    let mut views = Vec::new();
    for deployment in all {
        let of = deployment.preview.as_ref().map(|preview| preview.of);
        if of.is_some_and(|of| from.is_none_or(|from| from == of)) {
            views.push(view(app, &mut read, deployment).await?);
        }
    }
    Ok(views)
}

pub(crate) async fn show(
    app: &App,
    caller: &Caller,
    name: &DeploymentName,
) -> Result<PreviewView, PreviewError> {
    let mut read = app.store.read().await?;
    let deployment = find(caller, &mut read, name).await?;
    view(app, &mut read, deployment).await
}

/// A Preview that the caller may see.
pub(super) async fn find(
    caller: &Caller,
    read: &mut Read,
    name: &DeploymentName,
) -> Result<Deployment, PreviewError> {
    let not_found = || PreviewError::NotFound(name.to_string());
    let found = read.deployment_named(name).await?.ok_or_else(not_found)?;
    caller.check_scope(&found)?;
    if found.preview.is_none() {
        return Err(not_found());
    }
    Ok(found)
}

async fn view(
    app: &App,
    read: &mut Read,
    deployment: Deployment,
) -> Result<PreviewView, PreviewError> {
    let not_found = || PreviewError::NotFound(deployment.name.to_string());
    let preview = deployment.preview.as_deref().ok_or_else(not_found)?;
    let from = name_of(read, preview.of).await?.ok_or_else(not_found)?;
    let agents = read.agents(deployment.id).await?;
    let wanted = match deployment.target {
        Some(target) => read.deploy(target.deploy).await?,
        None => None,
    };
    let now = deploy::agents_now(app, &agents);
    Ok(PreviewView {
        id: deployment.id,
        name: deployment.name.clone(),
        from,
        of: PreviewOf {
            repository: preview.facts.repository.clone(),
            project: preview.facts.project.clone(),
            pull_request: preview.facts.pull_request,
        },
        branch: preview.facts.branch.clone(),
        values: deployment.settings.preview_values,
        created_at: deployment.created_at,
        expires_at: preview.expires_at,
        url: deploy::reports(app, &agents).find_map(url),
        wanted_deploy: wanted.map(|wanted| Box::new(deploy::view(wanted, &deployment, &now))),
        proven_deploy: deployment.proven.map(|proven| proven.deploy),
    })
}

async fn name_of(
    read: &mut Read,
    id: DeploymentId,
) -> Result<Option<DeploymentName>, PreviewError> {
    Ok(read.deployment(id).await?.map(|it| it.name))
}

fn url(report: Report) -> Option<String> {
    report.airflow?.url
}
