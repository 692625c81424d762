use updraft_api::deploy::DeployView;
use updraft_model::{DeployId, DeploymentName, Digest};

use super::{DeployError, agents_now, view};
use crate::app::App;
use crate::auth::{AccessError, Caller};

const MOST: u32 = 200;

/// A Deployment's deploys, newest first, older than a given one.
pub(crate) async fn history(
    app: &App,
    caller: &Caller,
    name: &DeploymentName,
    limit: u32,
    before: Option<DeployId>,
) -> Result<Vec<DeployView>, DeployError> {
    let mut read = app.store.read().await?;
    let deployment = caller.deployment(&mut read, name).await?;
    let agents = agents_now(app, &read.agents(deployment.id).await?);
    let deploys = read
        .history(deployment.id, before, limit.clamp(1, MOST))
        .await?;
    Ok(deploys
        .into_iter()
        .map(|deploy| view(deploy, &deployment, &agents))
        .collect())
}

/// The deploy that brought a bundle of this digest: where a DAG run's version
/// link leads.
pub(crate) async fn of_version(
    app: &App,
    caller: &Caller,
    name: &DeploymentName,
    version: Digest,
) -> Result<DeployId, AccessError> {
    let mut read = app.store.read().await?;
    let deployment = caller.deployment(&mut read, name).await?;
    read.deploy_of_version(deployment.id, &version)
        .await?
        .ok_or_else(|| AccessError::VersionNotFound {
            version,
            deployment: deployment.name.to_string(),
        })
}
