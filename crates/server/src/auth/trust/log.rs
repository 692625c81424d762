//! What became of each exchange.

use std::sync::{Mutex, PoisonError};

use chrono::Duration;
use updraft_api::trust::ExchangeView;
use updraft_model::{DeploymentName, ExchangeId, ExchangeOutcome, Scope, Timestamp};
use updraft_store::{Exchange, Read, StoreError};

use super::{Refusal, TrustError};
use crate::app::App;
use crate::auth::Caller;

const MOST_SHOWN: u32 = 1000;
/// Anybody with an account at a public issuer can be refused, as often as he likes.
const REFUSALS_KEPT: u32 = 1000;

/// The newest exchanges that the caller may know of, newest first.
pub(crate) async fn exchanges(
    app: &App,
    caller: &Caller,
    of: Option<&DeploymentName>,
    limit: u32,
) -> Result<Vec<ExchangeView>, TrustError> {
    let mut read = app.store.read().await?;
    let of = match (of, caller.token.scope) {
        (Some(name), _) => Some(caller.deployment(&mut read, name).await?.id),
        (None, Scope::Deployment { deployment }) => Some(deployment),
        (None, Scope::Organization | Scope::Workspace { .. }) => None,
    };
    let mut views = Vec::new();
    for exchange in read.exchanges(of, limit.clamp(1, MOST_SHOWN)).await? {
        let may_know = match exchange.scope {
            Some(scope) => caller.covers(&mut read, scope).await?,
            None => caller.is_for_all(),
        };
        if may_know {
            let deployment = match exchange.scope {
                Some(scope) => name_of(&mut read, scope).await?,
                None => None,
            };
            views.push(ExchangeView {
                id: exchange.id,
                at: exchange.at,
                outcome: exchange.outcome,
                identity: exchange.identity,
                deployment,
                trust: exchange.trust,
                token: exchange.token,
                why: exchange.why,
            });
        }
    }
    Ok(views)
}

/// The name of a scope that is a Deployment.
pub(super) async fn name_of(
    read: &mut Read,
    scope: Scope,
) -> Result<Option<DeploymentName>, StoreError> {
    match scope {
        Scope::Deployment { deployment } => {
            Ok(read.deployment(deployment).await?.map(|it| it.name))
        }
        Scope::Organization | Scope::Workspace { .. } => Ok(None),
    }
}

/// Whoever is refused can be so again at once: what is more than sixty a minute is in the
/// log of the process alone.
#[derive(Debug, Default)]
pub(crate) struct Refusals {
    /// Since when they are counted, and how many there were.
    counted: Mutex<(Timestamp, u32)>,
}

impl Refusals {
    const MOST_A_MINUTE: u32 = 60;

    fn may_write(&self, now: Timestamp) -> bool {
        let mut counted = self.counted.lock().unwrap_or_else(PoisonError::into_inner);
        let (since, count) = &mut *counted;
        if now - *since > Duration::minutes(1) {
            (*since, *count) = (now, 0);
        }
        *count += 1;
        *count <= Self::MOST_A_MINUTE
    }
}

/// Keeps a refusal, in place of the oldest.
pub(super) async fn refused(app: &App, refusal: &Refusal) -> Result<(), StoreError> {
    if !app.refusals.may_write(app.now()) {
        return Ok(());
    }
    let mut tx = app.store.begin().await?;
    tx.insert_exchange(&Exchange {
        id: ExchangeId::new(),
        at: app.now(),
        trust: refusal.trust.map(|(trust, _)| trust),
        scope: refusal.trust.map(|(_, scope)| scope),
        outcome: ExchangeOutcome::Refused,
        identity: refusal.identity.clone(),
        token: None,
        why: Some(refusal.why.clone()),
    })
    .await?;
    tx.forget_refused_exchanges(REFUSALS_KEPT).await?;
    tx.commit().await
}
