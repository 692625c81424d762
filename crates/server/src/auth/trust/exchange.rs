//! From a pipeline's identity to a token of ours.

use std::collections::BTreeSet;

use chrono::Duration;
use updraft_api::trust::{ExchangeToken, ExchangedToken, ID_TOKEN, JWT, TOKEN_EXCHANGE};
use updraft_model::{
    DeploymentId, DeploymentName, ExchangeId, ExchangeOutcome, Identity, Role, Scope, Timestamp,
};
use updraft_store::{Exchange, Trust};

use super::claims::{Claims, Unfit, judge};
use super::identity::{Unverified, out_of_time};
use super::{Refusal, TrustError, log};
use crate::app::App;
use crate::auth::tokens::{Issue, issue};

/// How long the token lives. A deploy that was begun with it ends whenever it ends.
const LIFE: Duration = Duration::minutes(15);
/// Of a name, as for any other token.
const MOST_NAME: usize = 100;

/// Exchanges an identity. As often as a job likes until it expires: steps that
/// are tried again, and jobs of several steps.
pub(crate) async fn exchange(app: &App, ask: ExchangeToken) -> Result<ExchangedToken, TrustError> {
    let given = match believed(app, &ask).await {
        Ok(given) => given,
        Err(error) => {
            tracing::info!(error = %crate::error::chain(&error), "an identity is not believed");
            return Err(error);
        }
    };
    let exchanged = give(app, &given).await;
    if let Err(TrustError::Refused(refusal)) = &exchanged {
        tracing::info!(identity = %refusal.identity, why = refusal.why, "an identity is refused");
        log::refused(app, refusal).await?;
    }
    exchanged
}

/// An identity whose issuer signed it.
struct Given {
    claims: Claims,
    identity: Identity,
    /// The trusts that it may be for.
    trusts: Vec<Trust>,
    /// The Deployment that it names.
    deployment: Option<(DeploymentId, DeploymentName)>,
}

/// Finds out whether the issuer says what the identity says. No issuer is asked
/// for its keys unless somebody here trusts it.
async fn believed(app: &App, ask: &ExchangeToken) -> Result<Given, TrustError> {
    if ask.grant_type != TOKEN_EXCHANGE {
        return Err(TrustError::Invalid(format!(
            "`grant_type` has to be `{TOKEN_EXCHANGE}`"
        )));
    }
    if ![ID_TOKEN, JWT].contains(&ask.subject_token_type.as_str()) {
        return Err(TrustError::Invalid(format!(
            "`subject_token_type` has to be `{ID_TOKEN}` or `{JWT}`"
        )));
    }
    let name = ask.audience.as_deref().map(str::parse::<DeploymentName>);
    let name = name.transpose().map_err(|error| {
        TrustError::Invalid(format!("`audience` is the name of a Deployment: {error}"))
    })?;
    let unverified = Unverified::read(&ask.subject_token)?;
    let issuer = &unverified.issuer;
    let no_trust = || TrustError::NoTrust {
        issuer: issuer.chars().take(200).collect(),
        deployment: name.as_ref().map(ToString::to_string),
    };
    let mut trusts = app.store.look().await?.trusts_of_issuer(issuer).await?;
    if trusts.is_empty() {
        return Err(no_trust());
    }
    let key = unverified.key.as_deref();
    let key = app
        .issuers
        .key(issuer, key, unverified.algorithm, app.now())
        .await?;
    let claims = unverified.verify(&key)?;
    // Nobody learns which Deployments there are before he has shown who he is.
    let mut deployment = None;
    if let Some(name) = &name {
        // One that is not there and one that trusts nobody look the same.
        let mut look = app.store.look().await?;
        let found = look.deployment_named(name).await?.ok_or_else(no_trust)?;
        let of = found.preview.as_ref().map(|preview| preview.of);
        let covers = |it: &Trust, id| it.scope.covers(found.workspace, id);
        trusts.retain(|it| covers(it, found.id) || of.is_some_and(|of| covers(it, of)));
        deployment = Some((found.id, found.name));
    }
    if trusts.is_empty() {
        return Err(no_trust());
    }
    Ok(Given {
        identity: claims.identity(issuer),
        claims,
        trusts,
        deployment,
    })
}

/// Judges the identity by each trust, and makes a token by the one that fits.
async fn give(app: &App, given: &Given) -> Result<ExchangedToken, TrustError> {
    let now = app.now();
    if let Some(why) = out_of_time(&given.claims, now) {
        return Err(given.refusal(None, why.clone(), why));
    }
    let mut fitting = Vec::new();
    let mut unfit = Vec::new();
    for trust in &given.trusts {
        match judge(trust, &given.claims, &app.public_url) {
            Ok(_) => fitting.push(trust),
            Err(why) => unfit.push((trust, why)),
        }
    }
    let Some(best) = best(&fitting) else {
        return Err(given.unfit(unfit));
    };
    if given.deployment.is_none() && fitting.iter().any(|it| it.scope != best.scope) {
        return Err(TrustError::Ambiguous(names(app, &fitting).await?));
    }

    let mut tx = app.store.begin().await?;
    let trust = tx.lock_trust(best.id).await?;
    let trust = trust.ok_or_else(|| TrustError::NoTrust {
        issuer: best.issuer.clone(),
        deployment: given.deployment.as_ref().map(|(_, name)| name.to_string()),
    })?;
    // Somebody else's first exchange may have pinned in between.
    let pinned = judge(&trust, &given.claims, &app.public_url)
        .map_err(|why| given.unfit(vec![(&trust, why)]))?;
    let new = issue(
        &app.keys,
        &mut tx,
        Issue {
            name: given.identity.to_string().chars().take(MOST_NAME).collect(),
            role: trust.content.role,
            scope: given.scope(&trust),
            lives: LIFE,
            created_by: format!("trust {}", trust.id),
            trust: Some(trust.id),
        },
        now,
    )
    .await?;
    tx.trust_was_used(trust.id, &pinned, now).await?;
    tx.insert_exchange(&Exchange {
        id: ExchangeId::new(),
        at: now,
        trust: Some(trust.id),
        scope: Some(given.scope(&trust)),
        outcome: ExchangeOutcome::Exchanged,
        identity: given.identity.clone(),
        token: Some(new.token.id),
        why: None,
    })
    .await?;
    tx.commit().await?;
    tracing::info!(identity = %given.identity, trust = %trust.id, token = %new.token.id, "identity exchanged");
    Ok(ExchangedToken {
        access_token: new.secret,
        issued_token_type: JWT.into(),
        token_type: "Bearer".into(),
        expires_in: seconds_until(new.token.expires_at, now),
        token: new.token,
    })
}

fn seconds_until(end: Timestamp, now: Timestamp) -> u64 {
    (end - now).num_seconds().try_into().unwrap_or(0)
}

/// Of those that fit the one that gives most, and of those the narrowest.
fn best<'a>(fitting: &[&'a Trust]) -> Option<&'a Trust> {
    fitting.iter().copied().max_by_key(|trust| {
        let is_narrow = matches!(trust.scope, Scope::Deployment { .. });
        let role = trust.content.role;
        let gives = [Role::Deployer, Role::Previewer].map(|it| role.includes(it));
        (gives, is_narrow)
    })
}

async fn names(app: &App, trusts: &[&Trust]) -> Result<Vec<String>, TrustError> {
    let mut read = app.store.look().await?;
    let mut names = BTreeSet::new();
    for trust in trusts {
        let name = log::name_of(&mut read, trust.scope).await?;
        let name = name.map_or("a Workspace".to_owned(), |name| format!("`{name}`"));
        names.insert(name);
    }
    Ok(names.into_iter().collect())
}

impl Given {
    /// As narrow as it is asked for.
    fn scope(&self, trust: &Trust) -> Scope {
        match &self.deployment {
            Some((deployment, _)) => Scope::Deployment {
                deployment: *deployment,
            },
            None => trust.scope,
        }
    }

    fn refusal(&self, trust: Option<&Trust>, told: String, why: String) -> TrustError {
        // Where there is no choice, it is that one's.
        let only = self.trusts.first().filter(|_| self.trusts.len() == 1);
        TrustError::Refused(Box::new(Refusal {
            identity: self.identity.clone(),
            trust: trust.or(only).map(|trust| (trust.id, self.scope(trust))),
            told,
            why,
        }))
    }

    /// By the trust that the least is wrong for.
    fn unfit(&self, unfit: Vec<(&Trust, Unfit)>) -> TrustError {
        let nearest = unfit
            .into_iter()
            .min_by_key(|(_, why)| (!why.is_near, why.mismatches.len()));
        match nearest {
            Some((trust, why)) => self.refusal(Some(trust), why.text_for_caller(), why.text()),
            None => self.refusal(None, String::new(), String::new()),
        }
    }
}
