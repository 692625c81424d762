use updraft_api::deploy::{DeployView, WithdrawDeploy};
use updraft_model::DeployId;

use super::create::lock;
use super::{DeployError, agents_now, checks, view};
use crate::app::App;
use crate::auth::Caller;

/// Gives a deploy up that was not accepted, with the checks that failed. What
/// was uploaded for it goes with the next collection.
pub(crate) async fn withdraw(
    app: &App,
    caller: &Caller,
    id: DeployId,
    ask: WithdrawDeploy,
) -> Result<DeployView, DeployError> {
    let checks = ask
        .checks
        .map(|checks| checks::tidy(checks, caller))
        .transpose()?;
    let now = app.now();
    let mut tx = app.store.begin().await?;
    let (deployment, _) = caller.deploy(&mut tx, id).await?;
    caller.check_deploys_to(&deployment)?;
    let deployment = lock(&mut tx, deployment.id, &deployment.name).await?;
    // Read again, now that nobody else can accept it.
    let (_, mut deploy) = caller.deploy(&mut tx, id).await?;
    if deploy.state.is_settled() {
        let agents = agents_now(app, &tx.agents(deployment.id).await?);
        deploy.state.clone().expire(now)?;
        return Ok(view(deploy, &deployment, &agents));
    }
    if checks
        .as_ref()
        .is_some_and(|checks| checks.bundles != deploy.parts.bundles)
    {
        return Err(DeployError::ChecksRefused(
            "they are of other bundles than the deploy brings".into(),
        ));
    }
    deploy.state = deploy.state.expire(now)?;
    deploy.ended_at = Some(now);
    deploy.checks = checks;
    tx.update_deploy(&mut deploy, now).await?;
    let agents = agents_now(app, &tx.agents(deployment.id).await?);
    tx.commit().await?;
    app.announce(deployment.id);
    app.metrics.deploy_came_to(&deploy);
    Ok(view(deploy, &deployment, &agents))
}
