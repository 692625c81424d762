//! What happens by itself, with time.
//!
//! Each job looks at what is there and acts on it, so a missed round, a repeated
//! one and a restart in the middle all do no harm.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Mutex;
use tokio::time::{MissedTickBehavior, interval};
use updraft_api::ErrorCode;
use updraft_model::{AgentId, DeployId, DeploymentId, Digest, Timestamp};
use updraft_store::InProgress;

use crate::app::App;
use crate::auth::LONGEST_DEPLOY;
use crate::bundle::ShelfError;
use crate::deploy::{DeployError, GoingBack, advance};
use crate::error::{Problem as _, chain};
use crate::{preview, registry};

/// Read again only by a restarted server…
const WRITE_LEASES: Duration = Duration::from_secs(30);
/// …or also by others on the same database.
const WRITE_LEASES_SHARED: Duration = Duration::from_secs(5);
const COUNT_AGENTS: Duration = Duration::from_secs(5);
const EXPIRE: Duration = Duration::from_secs(60);
const COLLECT_GARBAGE: Duration = Duration::from_secs(3600);
const OTHERS_NEWS: Duration = Duration::from_secs(1);
const REMOVED_AT_ONCE: usize = 500;
/// What was half written, or damaged, may still be looked at for this long.
const LEFTOVERS: Duration = Duration::from_secs(7 * 24 * 3600);
/// A blob that nothing names may be about to be named.
const YOUNG: Duration = Duration::from_secs(3600);
/// What is pushed may be tagged later, and an index comes after all of its images.
const UNTAGGED: Duration = Duration::from_secs(24 * 3600);
/// Agents that nobody heard of for this long are no longer listed.
const FORGET_AGENTS: chrono::Duration = chrono::Duration::days(7);

/// What is too young to go, though nothing names it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Young {
    blob: Duration,
    untagged: Duration,
}

impl Young {
    const USUAL: Self = Self {
        blob: YOUNG,
        untagged: UNTAGGED,
    };
    pub(crate) const NOTHING: Self = Self {
        blob: Duration::ZERO,
        untagged: Duration::ZERO,
    };
}

/// Starts the jobs; they end when the server stops.
pub(crate) fn start(app: &App) {
    let sweep = Duration::from_millis(app.config.sweep_ms.max(10));
    let counted = Arc::new(Mutex::new(Counted::new()));
    every(app, "look for what ran out of time", sweep, move |app| {
        let counted = counted.clone();
        async move { Box::pin(give_up_waiting(&app, &mut *counted.lock().await)).await }
    });
    let write_leases = if app.store.is_shared() {
        WRITE_LEASES_SHARED
    } else {
        WRITE_LEASES
    };
    every(app, "write leases", write_leases, |app| async move {
        app.leases
            .write(&app.store)
            .await
            .map_err(DeployError::from)
    });
    every(app, "count agents", COUNT_AGENTS, |app| async move {
        let connected = if app.store.is_shared() {
            app.store.read().await?.agents_with_lease(app.now()).await?
        } else {
            i64::try_from(app.leases.counted()).unwrap_or(i64::MAX)
        };
        app.metrics.agents(connected);
        Ok::<_, DeployError>(())
    });
    let expiry = EXPIRE.min(Duration::from_secs(
        u64::from(app.config.upload_expiry_s).max(1),
    ));
    every(app, "expire uploads", expiry, |app| async move {
        expire_uploads(&app).await
    });
    every(app, "expire Previews", expiry, |app| async move {
        preview::expire(&app).await?;
        preview::let_go(&app).await
    });
    every(app, "collect garbage", COLLECT_GARBAGE, |app| async move {
        collect_garbage(&app, Young::USUAL).await.map(drop)
    });
    if app.store.is_shared() {
        let app = app.clone();
        tokio::spawn(async move { hear_others(&app).await });
    }
}

fn every<F, E>(
    app: &App,
    what: &'static str,
    period: Duration,
    job: impl Fn(App) -> F + Send + 'static,
) where
    F: Future<Output = Result<(), E>> + Send,
    E: std::error::Error,
{
    let app = app.clone();
    tokio::spawn(async move {
        let mut ticks = interval(period);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                _ = ticks.tick() => {}
                () = app.stopping.cancelled() => return,
            }
            if let Err(error) = job(app.clone()).await {
                tracing::warn!(error = %chain(&error), job = what, "a job failed; it runs again");
            }
        }
    });
}

/// Looks at every deploy that waits for evidence: time may have run out, or an
/// agent's lease that it waited for.
async fn give_up_waiting(app: &App, counted: &mut Counted) -> Result<(), DeployError> {
    let waiting = app.store.look().await?.deployments_in_progress().await?;
    counted.retain(|id, _| waiting.iter().any(|(waits, _)| waits == id));
    for (id, progress) in waiting {
        // Out of time, only other agents can make a difference: reports are
        // looked at when they come.
        let agents = agents_that_count(app, id).await?;
        let is_same = counted.insert(id, agents.clone()) == Some(agents);
        if is_same && progress == InProgress::TimedOut {
            continue;
        }
        let looked = match look_again(app, id, GoingBack::AsThePolicySays).await {
            Err(error) if error.code() == ErrorCode::Internal => {
                tracing::error!(deployment = %id, error = %chain(&error), "could not go back");
                look_again(app, id, GoingBack::Impossible).await
            }
            looked => looked,
        };
        // One Deployment's trouble is no reason to leave the others waiting.
        if let Err(error) = looked {
            tracing::warn!(deployment = %id, error = %chain(&error), "could not look at its deploy");
        }
    }
    Ok(())
}

/// The agents that counted when each Deployment was last looked at.
type Counted = HashMap<DeploymentId, Vec<AgentId>>;

async fn agents_that_count(app: &App, id: DeploymentId) -> Result<Vec<AgentId>, DeployError> {
    let now = app.now();
    let mut agents = app.store.look().await?.agents(id).await?;
    agents.retain(|agent| app.leases.until(agent) > now);
    Ok(agents.into_iter().map(|agent| agent.id).collect())
}

async fn look_again(app: &App, id: DeploymentId, going_back: GoingBack) -> Result<(), DeployError> {
    let now = app.now();
    let mut tx = app.store.begin().await?;
    let Some(mut deployment) = tx.lock_deployment(id).await? else {
        return Ok(());
    };
    let generation = deployment.generation;
    let advanced = advance(app, &mut tx, &mut deployment, going_back, now).await?;
    let is_news = !advanced.moved.is_empty() || advanced.on_disk.is_some();
    if !is_news && generation == deployment.generation {
        return Ok(());
    }
    tx.commit().await?;
    app.metrics.advanced(&advanced);
    app.announce(id);
    Ok(())
}

pub(crate) async fn expire_uploads(app: &App) -> Result<(), DeployError> {
    let before = app.now() - chrono::Duration::seconds(i64::from(app.config.upload_expiry_s));
    let stale = app.store.read().await?.stale_uploads(before).await?;
    for id in stale {
        expire(app, id, before).await?;
    }
    registry::expire_uploads(app, before).await
}

async fn expire(app: &App, id: DeployId, before: Timestamp) -> Result<(), DeployError> {
    let now = app.now();
    let mut tx = app.store.begin().await?;
    let Some(deploy) = tx.deploy(id).await? else {
        return Ok(());
    };
    tx.lock_deployment(deploy.deployment).await?;
    // Read again, now that nobody else can accept it.
    let Some(mut deploy) = tx.deploy(id).await? else {
        return Ok(());
    };
    if deploy.touched_at >= before || deploy.state.is_settled() || deploy.release.is_some() {
        return Ok(());
    }
    deploy.state = deploy.state.expire(now)?;
    deploy.ended_at = Some(now);
    tx.update_deploy(&mut deploy, now).await?;
    tx.commit().await?;
    app.metrics.deploy_came_to(&deploy);
    app.announce(deploy.deployment);
    tracing::info!(deploy = %id, "upload expired");
    Ok(())
}

/// Removes blobs, manifests and tables that nothing in the retention period
/// names. Returns how many blobs that were.
pub(crate) async fn collect_garbage(app: &App, young: Young) -> Result<u64, DeployError> {
    registry::collect(app, young.untagged).await?;
    let young = young.blob;
    // Listing may take long, so it happens while everybody goes on.
    let stored = app.blobs.list().await?;
    let bytes = stored.iter().map(|blob| blob.size).sum();
    app.metrics.blobs(stored.len(), bytes);
    let keep = blobs_to_keep(app).await?;
    let doomed: Vec<Digest> = stored
        .iter()
        .filter(|blob| blob.age >= young && !keep.contains(&blob.digest))
        .map(|blob| blob.digest)
        .collect();

    let mut removed = 0;
    for some in doomed.chunks(REMOVED_AT_ONCE) {
        // Nobody counts on a blob while they go; deploys wait for no more than these.
        let _gate = app.blob_gate.write().await;
        let keep = blobs_to_keep(app).await?;
        for digest in some.iter().filter(|digest| !keep.contains(*digest)) {
            app.blobs.delete(digest).await?;
            removed += 1;
        }
    }
    app.blobs.remove_leftovers(young.max(LEFTOVERS)).await?;
    let _gate = app.blob_gate.write().await;
    let keep = blobs_to_keep(app).await?;
    let now = app.now();
    let young = chrono::Duration::from_std(young).unwrap_or_default();
    let mut tx = app.store.begin().await?;
    tx.forget_unused(&keep, now - young).await?;
    tx.forget_agents(now - FORGET_AGENTS).await?;
    let retention = chrono::Duration::days(i64::from(app.config.retention_days));
    tx.forget_exchanges(now - retention, now - LONGEST_DEPLOY)
        .await?;
    tx.commit().await?;
    if removed > 0 {
        tracing::info!(removed, "removed blobs that nothing names");
    }
    Ok(removed)
}

/// Every blob that a deploy in the retention period, an upload, or what is
/// wanted, proven or kept on agents names, and all that the registry has.
async fn blobs_to_keep(app: &App) -> Result<HashSet<Digest>, DeployError> {
    let since = app.now() - chrono::Duration::days(i64::from(app.config.retention_days));
    let mut read = app.store.read().await?;
    let mut keep = read.registry_stored().await?;
    keep.insert(Digest::of(updraft_bundle::EMPTY_BLOB));
    for digest in read.manifests_to_keep(since).await?.manifests {
        if keep.insert(digest) {
            match app.shelf.manifest(&mut read, digest).await {
                Ok(manifest) => keep.extend(manifest.blobs.iter().map(|(digest, _)| *digest)),
                // Collected when less was kept than now: so are the blobs that it named.
                Err(ShelfError::ManifestGone(digest)) => {
                    tracing::debug!(%digest, "a manifest that is to be kept is gone");
                }
                Err(error) => return Err(error.into()),
            }
        }
    }
    Ok(keep)
}

/// Announces what other processes on the same database changed.
async fn hear_others(app: &App) {
    let mut since = app.now();
    let mut ticks = interval(OTHERS_NEWS);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut told: HashSet<(DeploymentId, Timestamp)> = HashSet::new();
    loop {
        tokio::select! {
            _ = ticks.tick() => {}
            () = app.stopping.cancelled() => return,
        }
        // Clocks of several machines differ a little, and so do commits.
        let from = since - chrono::Duration::seconds(10);
        let now = app.now();
        let changed = async {
            app.store
                .read()
                .await?
                .deployments_changed_since(from)
                .await
        };
        match changed.await {
            Ok(changed) => {
                let changed: HashSet<_> = changed.into_iter().collect();
                for (id, _) in changed.difference(&told) {
                    app.announce(*id);
                }
                told = changed;
                since = now;
            }
            Err(error) => tracing::warn!(error = %chain(&error), "could not look for news"),
        }
    }
}
