use updraft_api::deployment::{DeploymentSettings, DeploymentView};
use updraft_model::DeploymentName;

use super::create::apply;
use super::{DeploymentError, environment, show};
use crate::app::App;
use crate::auth::Caller;

/// Changes the settings that are given and keeps the others.
pub(crate) async fn update(
    app: &App,
    caller: &Caller,
    name: &DeploymentName,
    given: DeploymentSettings,
) -> Result<DeploymentView, DeploymentError> {
    let mut tx = app.store.begin().await?;
    let id = caller.deployment(&mut tx, name).await?.id;
    let mut deployment = tx.lock_deployment(id).await?.ok_or_else(|| {
        crate::auth::AccessError::DeploymentNotFound {
            name: name.to_string(),
            nearest: None,
        }
    })?;
    if deployment.preview.is_some() && given.preview_values.is_some() {
        return Err(DeploymentError::Invalid(format!(
            "`preview_values` of the Preview `{name}` is that of the Deployment that it is made from: set it there"
        )));
    }
    let before = deployment.settings.clone();
    let variables = apply(&mut deployment.settings, given)?;
    let variables_changed = environment::change(&app.keys, &mut deployment, variables)?;
    if variables_changed || deployment.settings != before {
        deployment.generation += 1;
        tx.update_deployment(&deployment, app.now()).await?;
        tx.commit().await?;
        app.announce(id);
        tracing::info!(deployment = %name, by = caller.name(), "Deployment changed");
    }
    let mut read = app.store.read().await?;
    show::view(&mut read, deployment).await
}
