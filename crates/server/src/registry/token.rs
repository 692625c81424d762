//! Short-lived tokens for what a client is about to do.

use axum::Json;
use axum::response::{IntoResponse as _, Response};
use serde_json::json;
use updraft_model::RepositoryName;

use super::access::{Grant, PASS_ISSUER, Pass};
use super::{Action, RegistryError, Visitor};
use crate::app::App;

/// A push may take long, longer than a pipeline's own token lives; one that was
/// revoked ends at once anyway.
const LIFETIME_S: i64 = 3600;
/// More repositories than any client names at once.
const MOST_GRANTS: usize = 64;

/// Gives a token for what of the scopes its owner may do: less than was asked for
/// is no error, the request that follows is.
pub(super) async fn issue(
    app: &App,
    visitor: &Visitor,
    scopes: &[String],
) -> Result<Response, RegistryError> {
    let mut access = Vec::new();
    let mut read = app.store.read().await?;
    let asked = scopes.iter().flat_map(|scope| scope.split_whitespace());
    for scope in asked.take(MOST_GRANTS) {
        let Some((repository, actions)) = parse(scope) else {
            continue;
        };
        let mut granted = Vec::new();
        for action in actions {
            if visitor.may(&mut read, &repository, action).await? {
                granted.push(action);
            }
        }
        access.push(Grant {
            repository: repository.to_string(),
            actions: granted,
        });
    }
    let now = app.now();
    let owner = &visitor.caller.token;
    // However often one is exchanged for another, the last one ends with this.
    let after_owner = if owner.trust.is_some() { LIFETIME_S } else { 0 };
    let left = (owner.expires_at - now).num_seconds() + after_owner;
    let lives = LIFETIME_S.min(left);
    let token = app.keys.sign(&Pass {
        iss: PASS_ISSUER.into(),
        sub: owner.id,
        name: owner.name.clone(),
        access,
        iat: now.timestamp(),
        exp: now.timestamp() + lives,
    });
    let body = Json(json!({
        "token": token,
        "access_token": token,
        "expires_in": lives,
        "issued_at": now.to_rfc3339_opts(chrono::SecondsFormat::Secs, true),
    }));
    Ok(([("cache-control", "no-store")], body).into_response())
}

/// Reads `repository:sales-prod/airflow:pull,push`.
fn parse(scope: &str) -> Option<(RepositoryName, Vec<Action>)> {
    let rest = scope.strip_prefix("repository:")?;
    let (name, actions) = rest.rsplit_once(':')?;
    let mut all: Vec<Action> = Vec::new();
    for action in actions.split(',').flat_map(Action::parse) {
        if !all.contains(action) {
            all.push(*action);
        }
    }
    Some((name.parse().ok()?, all))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_scopes_and_leaves_out_what_it_does_not_know() {
        let (name, actions) = parse("repository:shop/airflow:pull,push,pull,dance").unwrap();
        assert_eq!(name.as_str(), "shop/airflow");
        assert_eq!(actions, [Action::Pull, Action::Push]);
        let (_, all) = parse("repository:shop:*").unwrap();
        assert_eq!(all, [Action::Pull, Action::Push, Action::Delete]);
        for other in [
            "registry:catalog:*",
            "repository:shop",
            "repository:../x:pull",
            "",
        ] {
            assert!(parse(other).is_none(), "{other}");
        }
    }
}
