//! The long poll that agents wait on.

use std::pin::Pin;
use std::time::Duration;

use tokio::time::{Instant, sleep_until};
use updraft_api::agent::{Target, Wanted, WantedPreview};
use updraft_model::{AgentId, DeployState, DeploymentId, Digest, Release};
use updraft_store::{Deployment, Read};

use crate::app::App;
use crate::auth::{AccessError, Caller, still_holds};
use crate::deploy::DeployError;
use crate::deployment::environment;

pub(crate) const LONGEST_WAIT: Duration = Duration::from_secs(60);

/// Who asks, and what it knows.
pub(crate) struct Ask {
    pub(crate) generation: i64,
    pub(crate) wait: Duration,
    pub(crate) agent: Option<AgentId>,
}

/// Waits until what is wanted is another than the agent knows. None when time
/// is over or the server stops: then there is no news.
///
/// Another, not only a newer one: a control plane that was restored from a
/// backup counts from further back.
pub(crate) async fn wanted(
    app: &App,
    caller: &Caller,
    ask: Ask,
) -> Result<Option<Wanted>, DeployError> {
    let id = caller.agent_deployment()?;
    let deadline = Instant::now() + ask.wait.min(LONGEST_WAIT);
    let mut news = app.news.subscribe(id);
    let mut asking = Vec::new();
    loop {
        // Thousands ask at once. They take turns, and what a turn needs is made
        // when it comes.
        let turn = app.turns.acquire().await;
        let found = boxed_look(app, caller, &ask, &mut asking).await?;
        drop(turn);
        if found.is_some() {
            return Ok(found);
        }
        tokio::select! {
            _ = news.changed() => {}
            () = sleep_until(deadline) => return Ok(None),
            () = app.stopping.cancelled() => return Ok(None),
        }
    }
}

/// A look is gone before the wait, and thousands wait at once. Never inlined:
/// then the optimiser would give it a place in what waits.
#[inline(never)]
fn boxed_look<'a>(
    app: &'a App,
    caller: &'a Caller,
    ask: &'a Ask,
    asking: &'a mut Vec<AgentId>,
) -> Pin<Box<dyn Future<Output = Result<Option<Wanted>, DeployError>> + Send + 'a>> {
    Box::pin(look(app, caller, ask, asking))
}

/// What is wanted, if that is another than the agent knows.
async fn look(
    app: &App,
    caller: &Caller,
    ask: &Ask,
    asking: &mut Vec<AgentId>,
) -> Result<Option<Wanted>, DeployError> {
    let id = caller.agent_deployment()?;
    if asking.is_empty() {
        *asking = agents_that_ask(app, caller, id, ask.agent).await?;
    }
    let generation = {
        let mut read = app.store.look().await?;
        // Also after a wait: it may have been revoked meanwhile.
        still_holds(app, &mut read, caller).await?;
        read.generation(id).await?.ok_or_else(|| gone(id))?
    };
    for agent in asking.iter() {
        app.leases.renew(*agent);
    }
    if generation == ask.generation {
        return Ok(None);
    }
    answer(app, caller, id, asking).await.map(Some)
}

/// Whose leases waiting renews: the one that says so, or those that reported
/// with this token.
async fn agents_that_ask(
    app: &App,
    caller: &Caller,
    id: DeploymentId,
    agent: Option<AgentId>,
) -> Result<Vec<AgentId>, DeployError> {
    let mut read = app.store.look().await?;
    let Some(agent) = agent else {
        return Ok(read.agents_of_token(caller.token.id).await?);
    };
    match read.agent(agent).await? {
        Some(known) if known.deployment != id => {
            Err(caller.out_of_scope(format!("the agent `{agent}`")).into())
        }
        Some(_) | None => Ok(vec![agent]),
    }
}

fn gone(id: DeploymentId) -> AccessError {
    AccessError::DeploymentNotFound {
        name: id.to_string(),
        nearest: None,
    }
}

async fn answer(
    app: &App,
    caller: &Caller,
    id: DeploymentId,
    agents: &[AgentId],
) -> Result<Wanted, DeployError> {
    let mut read = app.store.read().await?;
    let mut deployment = read.deployment(id).await?.ok_or_else(|| gone(id))?;
    if deployment.target.is_some_and(|target| !target.may_switch)
        && is_alone(app, &mut read, id, agents).await?
    {
        drop(read);
        deployment = allow_switch(app, id).await?;
        read = app.store.read().await?;
    }
    // In the same picture as the secrets that it is about to get.
    still_holds(app, &mut read, caller).await?;
    compose(app, &mut read, deployment).await
}

/// Whether no other agent holds a lease: then there is nobody to wait for.
async fn is_alone(
    app: &App,
    read: &mut Read,
    id: DeploymentId,
    agents: &[AgentId],
) -> Result<bool, DeployError> {
    let now = app.now();
    let others = read.agents(id).await?;
    Ok(others
        .iter()
        .all(|other| agents.contains(&other.id) || app.leases.until(other) <= now))
}

async fn allow_switch(app: &App, id: DeploymentId) -> Result<Deployment, DeployError> {
    let mut tx = app.store.begin().await?;
    let mut deployment = tx.lock_deployment(id).await?.ok_or_else(|| gone(id))?;
    if let Some(target) = deployment
        .target
        .as_mut()
        .filter(|target| !target.may_switch)
    {
        target.may_switch = true;
        deployment.generation += 1;
        tx.update_deployment(&deployment, app.now()).await?;
        tx.commit().await?;
        app.announce(id);
    }
    Ok(deployment)
}

async fn compose(
    app: &App,
    read: &mut Read,
    deployment: Deployment,
) -> Result<Wanted, DeployError> {
    let environment = environment::open(&app.keys, &deployment).map_err(Box::new)?;
    let target = match deployment.target {
        Some(target) => read
            .release(target.release)
            .await?
            .map(|release| (target, release)),
        None => None,
    };
    let target = match target {
        Some((target, release)) => {
            let deploy = read.deploy(target.deploy).await?;
            let allow_downgrade = deploy.as_ref().is_some_and(|it| it.allow_downgrade);
            let state = deploy.map(|deploy| deploy.state);
            Some(Target {
                deploy: target.deploy,
                release,
                attempt: target.attempt,
                may_switch: target.may_switch,
                proof_timeout_s: time_left(app, &deployment, &target, state.as_ref()),
                allow_downgrade,
            })
        }
        None => None,
    };
    let proven = match deployment.proven {
        Some(proven) => read.release(proven.release).await?,
        None => None,
    };
    let previews = previews(app, read, &deployment).await?;
    let newest = deployment.settings.keep_releases.saturating_add(2);
    let kept = read.newest_releases(deployment.id, newest).await?;
    Ok(Wanted {
        generation: deployment.generation,
        deployment: deployment.id,
        view_url: format!(
            "{}/deployments/{}/versions/{{version}}",
            app.public_url, deployment.name
        ),
        deployment_name: deployment.name,
        runtime: deployment.settings.runtime,
        executor: deployment.settings.executor,
        environment,
        keep: digests_of(
            kept.iter()
                .chain(&proven)
                .chain(target.as_ref().map(|t| &t.release)),
        ),
        target,
        proven,
        lease_s: app.config.lease_s,
        previews,
    })
}

/// The Previews that its agents have to run.
async fn previews(
    app: &App,
    read: &mut Read,
    deployment: &Deployment,
) -> Result<Vec<WantedPreview>, DeployError> {
    let now = app.now();
    let all = read.previews_of(deployment.id).await?.into_iter();
    let wanted = all.filter_map(|preview| {
        let facts = preview.preview.filter(|it| it.expires_at > now)?.facts;
        Some(WantedPreview {
            id: preview.id,
            name: preview.name,
            values: deployment.settings.preview_values,
            agent: facts.agent,
        })
    });
    Ok(wanted.collect())
}

/// What is left of the time for the proof. All of it, once it ran out: evidence
/// that comes late counts, and an agent that comes late needs time as well.
fn time_left(
    app: &App,
    deployment: &Deployment,
    target: &updraft_store::Target,
    state: Option<&DeployState>,
) -> u32 {
    let all = deployment.settings.proof_timeout_s;
    let waits = matches!(
        state,
        Some(DeployState::Accepted | DeployState::RollingOut { .. })
    );
    let used = (app.now() - target.since).num_seconds();
    match u32::try_from(i64::from(all) - used) {
        Ok(left) if waits && left > 0 => left.min(all),
        _ => all,
    }
}

fn digests_of<'a>(releases: impl Iterator<Item = &'a Release>) -> Vec<Digest> {
    let mut digests: Vec<Digest> = releases
        .flat_map(|release| {
            let bundles = release.bundles.values().map(|bundle| bundle.digest);
            bundles.chain([release.image.digest()])
        })
        .collect();
    digests.sort_unstable();
    digests.dedup();
    digests
}
