use chrono::Duration;
use updraft_api::agent::{TakePreview, TakenPreview};
use updraft_model::{DeploymentId, Role, Scope};

use super::PreviewError;
use crate::app::App;
use crate::auth::{Caller, Issue, issue};

const TOKEN_DAYS: i64 = 3650;

/// Gives a Preview to an agent of the Deployment that it is made from, with a token for
/// it. What another agent took stays there for as long as that one is connected.
pub(crate) async fn take(
    app: &App,
    caller: &Caller,
    id: DeploymentId,
    ask: TakePreview,
) -> Result<TakenPreview, PreviewError> {
    let of = caller.agent_deployment()?;
    let not_found = || PreviewError::NotFound(id.to_string());
    let now = app.now();
    let mut tx = app.store.begin().await?;
    let origin = tx.lock_deployment(of).await?;
    let found = tx.deployment(id).await?.ok_or_else(not_found)?;
    let mut preview = found.preview.ok_or_else(not_found)?;
    let others = || caller.out_of_scope(format!("the Preview `{}`", found.name));
    let mut origin = origin.filter(|_| preview.of == of).ok_or_else(others)?;
    let agents = tx.agents(of).await?;
    let is_own = |id| agents.iter().any(|agent| agent.id == id);
    if !is_own(ask.agent) {
        return Err(caller
            .out_of_scope(format!("the agent `{}`", ask.agent))
            .into());
    }
    let connected = |id| {
        let mut named = agents.iter().filter(|agent| agent.id == id);
        named.any(|agent| app.leases.until(agent) > now)
    };
    let other = preview.facts.agent.filter(|agent| *agent != ask.agent);
    if other.is_some_and(connected) {
        return Err(PreviewError::Taken(found.name));
    }
    preview.facts.agent = Some(ask.agent);
    tx.set_preview(id, &preview).await?;
    // One agent runs it: what was given for it before is over.
    for token in tx.tokens_of(id).await? {
        if token.role == Role::Agent && token.revoked_at.is_none() {
            tx.revoke_token(token.id, now).await?;
        }
    }
    let new = issue(
        &app.keys,
        &mut tx,
        Issue {
            name: format!("agent of the Preview {}", found.name),
            role: Role::Agent,
            scope: Scope::Deployment { deployment: id },
            lives: Duration::days(TOKEN_DAYS),
            trust: None,
            created_by: caller.name().to_owned(),
        },
        now,
    )
    .await?;
    origin.generation += 1;
    tx.update_deployment(&origin, now).await?;
    tx.commit().await?;
    app.callers.forget();
    app.announce(of);
    app.announce(id);
    tracing::info!(preview = %found.name, agent = %ask.agent, "Preview taken");
    Ok(TakenPreview { secret: new.secret })
}
