use updraft_model::DeploymentName;
use updraft_store::{Deployment, Write};

use super::PreviewError;
use super::show::find;
use crate::app::App;
use crate::auth::Caller;

/// Removes a Preview with its history. The agent that runs it stops its Airflow and
/// removes its files, now or when it is back.
pub(crate) async fn close(
    app: &App,
    caller: &Caller,
    name: &DeploymentName,
) -> Result<(), PreviewError> {
    let mut tx = app.store.begin().await?;
    let found = find(caller, &mut tx, name).await?;
    remove(app, tx, found).await?;
    tracing::info!(preview = %name, by = caller.name(), "Preview closed");
    Ok(())
}

/// Removes those whose time is over.
pub(crate) async fn expire(app: &App) -> Result<(), PreviewError> {
    for expired in app.store.read().await?.expired_previews(app.now()).await? {
        let Some(of) = expired.preview.as_ref().map(|it| it.of) else {
            continue;
        };
        let mut tx = app.store.begin().await?;
        tx.lock_deployment(of).await?;
        // Somebody may have had it live on meanwhile.
        let still = tx.deployment(expired.id).await?.filter(|still| {
            let preview = still.preview.as_ref();
            preview.is_some_and(|it| it.expires_at <= app.now())
        });
        if let Some(still) = still {
            remove(app, tx, still).await?;
            tracing::info!(preview = %expired.name, "Preview expired");
        }
    }
    Ok(())
}

async fn remove(app: &App, mut tx: Write, preview: Deployment) -> Result<(), PreviewError> {
    let origin = preview.preview.as_ref().map(|it| it.of);
    let origin = match origin {
        Some(of) => tx.lock_deployment(of).await?,
        None => None,
    };
    tx.delete_deployment(preview.id).await?;
    if let Some(mut origin) = origin {
        origin.generation += 1;
        tx.update_deployment(&origin, app.now()).await?;
        tx.commit().await?;
        app.announce(origin.id);
    } else {
        tx.commit().await?;
    }
    app.callers.forget();
    app.announce(preview.id);
    Ok(())
}
