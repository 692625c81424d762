use updraft_model::DeploymentName;

use super::DeploymentError;
use crate::app::App;
use crate::auth::Caller;

/// Removes a Deployment with its history and tokens. While agents are connected
/// that takes `force`; they then keep what runs as it is.
pub(crate) async fn delete(
    app: &App,
    caller: &Caller,
    name: &DeploymentName,
    force: bool,
) -> Result<(), DeploymentError> {
    let mut tx = app.store.begin().await?;
    let deployment = caller.deployment(&mut tx, name).await?;
    tx.lock_deployment(deployment.id).await?;
    let agents = tx.agents(deployment.id).await?;
    let now = app.now();
    let connected: Vec<&str> = agents
        .iter()
        .filter(|agent| app.leases.until(agent) > now)
        .map(|agent| agent.host.as_str())
        .collect();
    if !connected.is_empty() && !force {
        return Err(DeploymentError::AgentsConnected {
            name: name.to_string(),
            hosts: connected.join(", "),
        });
    }
    tx.delete_deployment(deployment.id).await?;
    tx.commit().await?;
    app.callers.forget();
    app.announce(deployment.id);
    tracing::info!(deployment = %name, by = caller.name(), "Deployment deleted");
    Ok(())
}
