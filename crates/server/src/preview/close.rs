use chrono::Duration;
use updraft_model::DeploymentName;
use updraft_store::{Deployment, Write};

use super::PreviewError;
use super::show::find;
use crate::app::App;
use crate::auth::Caller;

/// How long an agent may be away before others run its Previews, which begin anew there.
const AWAY: Duration = Duration::minutes(10);

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

/// Has others run the Previews of agents that are gone for a while.
pub(crate) async fn let_go(app: &App) -> Result<(), PreviewError> {
    let all = app.store.read().await?.deployments().await?;
    let taken = all.into_iter().filter_map(|deployment| {
        let preview = deployment.preview?;
        preview.facts.agent.map(|_| (deployment.id, preview.of))
    });
    for (id, of) in taken {
        let mut tx = app.store.begin().await?;
        let origin = tx.lock_deployment(of).await?;
        let preview = tx.deployment(id).await?.and_then(|it| it.preview);
        let (Some(mut origin), Some(mut preview)) = (origin, preview) else {
            continue;
        };
        let agents = tx.agents(of).await?;
        let counts = |agent| app.leases.until(agent) + AWAY > app.now();
        let is_there = |id| agents.iter().any(|agent| agent.id == id && counts(agent));
        if preview.facts.agent.is_none_or(is_there) {
            continue;
        }
        preview.facts.agent = None;
        tx.set_preview(id, &preview).await?;
        origin.generation += 1;
        tx.update_deployment(&origin, app.now()).await?;
        tx.commit().await?;
        app.announce(of);
        tracing::info!(preview = %id, "the agent that ran this Preview is gone");
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
