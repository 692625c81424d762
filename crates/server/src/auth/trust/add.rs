//! Adding, listing and removing trusts.

use std::collections::BTreeMap;

use globset::GlobBuilder;
use updraft_api::client::is_loopback;
use updraft_api::trust::{CreateTrust, TrustView};
use updraft_model::{Expected, Role, Scope, TrustId};
use updraft_store::{Read, Trust, TrustContent};

use super::TrustError;
use super::claims::trusts_pull_requests;
use super::issuers::address;
use crate::app::App;
use crate::auth::Caller;
use crate::auth::tokens::workspace;

const MOST_CLAIMS: usize = 50;
const MOST_TEXT: usize = 1000;
/// What is looked at for every identity, whatever a trust says.
const OWN: &[&str] = &["iss", "aud", "exp", "nbf", "iat"];

/// Trusts a pipeline. The same once more is the one that is there.
pub(crate) async fn add(
    app: &App,
    caller: &Caller,
    ask: CreateTrust,
) -> Result<TrustView, TrustError> {
    check(&ask)?;
    if address(&ask.issuer).is_ok_and(|at| is_loopback(&at)) && !caller.is_for_all() {
        return Err(TrustError::Invalid(
            "an issuer on the control plane's own machine is added by an admin of all".into(),
        ));
    }
    let mut tx = app.store.begin().await?;
    let scope = match (&ask.deployment, &ask.workspace) {
        (Some(name), None) => Scope::Deployment {
            deployment: caller.deployment(&mut tx, name).await?.id,
        },
        (None, Some(name)) => workspace(caller, &mut tx, name).await?,
        (Some(_), Some(_)) | (None, None) => {
            return Err(TrustError::Invalid(
                "a trust is for a Deployment or for a Workspace: name one of the two".into(),
            ));
        }
    };
    let content = TrustContent {
        provider: ask.provider,
        role: ask.role,
        audience: ask.audience,
        claims: ask.claims,
        pin: ask.pin,
    };
    let there = tx.trusts_of_issuer(&ask.issuer).await?;
    let same = |it: &Trust| it.scope == scope && it.content == content;
    if let Some(trust) = there.into_iter().find(same) {
        return view(app, &mut tx, trust).await;
    }
    let trust = Trust {
        id: TrustId::new(),
        scope,
        issuer: ask.issuer,
        content,
        pinned: BTreeMap::new(),
        created_by: caller.name().to_owned(),
        created_at: app.now(),
        last_used_at: None,
    };
    tx.insert_trust(&trust).await?;
    let view = view(app, &mut tx, trust).await?;
    tx.commit().await?;
    tracing::info!(trust = %view.id, issuer = view.issuer, by = caller.name(), "trust added");
    Ok(view)
}

/// The trusts that the caller may remove.
pub(crate) async fn list(app: &App, caller: &Caller) -> Result<Vec<TrustView>, TrustError> {
    let mut read = app.store.read().await?;
    let mut views = Vec::new();
    for trust in read.trusts().await? {
        if caller.covers(&mut read, trust.scope).await? {
            views.push(view(app, &mut read, trust).await?);
        }
    }
    Ok(views)
}

/// Removes a trust, and ends at once every token that came of it.
pub(crate) async fn remove(app: &App, caller: &Caller, id: TrustId) -> Result<(), TrustError> {
    let mut tx = app.store.begin().await?;
    // An exchange under way ends first, so that its token is revoked as well.
    let trust = tx.lock_trust(id).await?.ok_or(TrustError::NotFound(id))?;
    if !caller.covers(&mut tx, trust.scope).await? {
        return Err(caller.out_of_scope(format!("the trust `{id}`")).into());
    }
    tx.delete_trust(id, app.now()).await?;
    tx.commit().await?;
    app.callers.forget();
    tracing::info!(trust = %id, by = caller.name(), "trust removed");
    Ok(())
}

fn check(ask: &CreateTrust) -> Result<(), TrustError> {
    let invalid = |why: String| Err(TrustError::Invalid(why));
    if !matches!(ask.role, Role::Viewer | Role::Previewer | Role::Deployer) {
        return invalid(format!(
            "a pipeline's role is viewer, previewer or deployer, not {}",
            ask.role
        ));
    }
    if trusts_pull_requests(&ask.claims) && ask.role != Role::Previewer {
        return invalid(format!(
            "what a pull request brings nobody has merged, so its pipeline's role is previewer, not {}",
            ask.role
        ));
    }
    let issuer = address(&ask.issuer).map_err(TrustError::Invalid)?;
    if issuer.query().is_some() || issuer.fragment().is_some() || ask.issuer.len() > MOST_TEXT {
        return invalid("the issuer's address has a query or a fragment, or is too long".into());
    }
    let audience = ask.audience.iter();
    let names = ask.claims.keys().chain(&ask.pin).chain(audience);
    for name in names.chain(ask.claims.values().flat_map(values)) {
        let is_good = !name.trim().is_empty() && name.len() <= MOST_TEXT;
        if !is_good || name.chars().any(char::is_control) {
            return invalid(
                "names and values of claims have to be of 1 to 1000 printable bytes".into(),
            );
        }
    }
    if ask.claims.len() + ask.pin.len() > MOST_CLAIMS {
        return invalid(format!("a trust has at most {MOST_CLAIMS} claims"));
    }
    let mut all = ask.claims.keys().chain(&ask.pin);
    if let Some(own) = all.find(|name| OWN.contains(&name.as_str())) {
        return invalid(format!("`{own}` is looked at anyway; leave it out"));
    }
    if let Some(twice) = ask.pin.iter().find(|name| ask.claims.contains_key(*name)) {
        return invalid(format!("`{twice}` is given, so it cannot be pinned too"));
    }
    let says_who = |it: &Expected| matches!(it, Expected::Is(_) | Expected::File(_));
    if !ask.claims.values().any(says_who) {
        return invalid(
            "without a claim that has to be exactly something, anybody of that issuer is trusted"
                .into(),
        );
    }
    for expected in ask.claims.values() {
        if let Expected::Like(pattern) = expected
            && let Err(error) = GlobBuilder::new(pattern).literal_separator(true).build()
        {
            return invalid(format!("`{pattern}` is no pattern: {}", error.kind()));
        }
        if matches!(expected, Expected::OneOf(values) if values.is_empty()) {
            return invalid("a claim that is one of nothing fits nobody".into());
        }
    }
    Ok(())
}

fn values(expected: &Expected) -> &[String] {
    match expected {
        Expected::Is(one) | Expected::Like(one) | Expected::File(one) => std::slice::from_ref(one),
        Expected::OneOf(several) => several,
    }
}

async fn view(app: &App, read: &mut Read, trust: Trust) -> Result<TrustView, TrustError> {
    let content = trust.content;
    Ok(TrustView {
        id: trust.id,
        provider: content.provider,
        issuer: trust.issuer,
        audience: content.audience.unwrap_or_else(|| app.public_url.clone()),
        claims: content.claims,
        pin: content.pin,
        pinned: trust.pinned,
        role: content.role,
        scope: trust.scope,
        deployment: super::log::name_of(read, trust.scope).await?,
        created_by: trust.created_by,
        created_at: trust.created_at,
        last_used_at: trust.last_used_at,
    })
}
