use std::time::Duration;

use tokio::time::{Instant, timeout_at};
use updraft_api::deploy::DeployView;
use updraft_model::DeployId;

use super::{DeployError, agents_now, view};
use crate::app::App;
use crate::auth::Caller;

/// The longest that one request may wait.
pub(crate) const LONGEST_WAIT: Duration = Duration::from_secs(60);

pub(crate) async fn show(
    app: &App,
    caller: &Caller,
    id: DeployId,
) -> Result<DeployView, DeployError> {
    let mut read = app.store.read().await?;
    let (deployment, mut deploy) = caller.deploy(&mut read, id).await?;
    let agents = agents_now(app, &read.agents(deployment.id).await?);
    let proof = deploy.proof.take();
    let checks = deploy.checks.take();
    let mut view = view(deploy, &deployment, &agents);
    view.checks = checks;
    view.proof = proof.filter(|_| view.state.proof().is_none());
    Ok(view)
}

/// Waits until a deploy's revision is larger than the one seen, or time is over.
pub(crate) async fn follow(
    app: &App,
    caller: &Caller,
    id: DeployId,
    seen: i64,
    wait: Duration,
) -> Result<DeployView, DeployError> {
    let deadline = Instant::now() + wait.min(LONGEST_WAIT);
    let first = show(app, caller, id).await?;
    let mut news = app.news.subscribe(first.deployment);
    loop {
        let now = show(app, caller, id).await?;
        if now.revision > seen {
            return Ok(now);
        }
        let changed = async {
            tokio::select! {
                _ = news.changed() => true,
                () = app.stopping.cancelled() => false,
            }
        };
        if !timeout_at(deadline, changed).await.unwrap_or(false) {
            return Ok(now);
        }
    }
}
