//! Making, listing and revoking tokens.

use chrono::Duration;
use updraft_api::ErrorCode;
use updraft_api::token::{CreateToken, NewToken, TokenView};
use updraft_model::{Role, Scope, Timestamp, TokenId, TrustId};
use updraft_store::{Read, StoreError, Token, Write};
use uuid::Uuid;

use super::caller::{AccessError, Claims};
use super::keys::ISSUER;
use super::{Caller, KeyError, Keys};
use crate::app::App;
use crate::error::{Problem, answers};

const DEFAULT_DAYS: u32 = 90;
const MOST_DAYS: u32 = 3650;

#[derive(Debug, thiserror::Error)]
pub(crate) enum TokenError {
    #[error("there is no token `{0}`")]
    NotFound(TokenId),
    #[error("there is no Workspace `{0}`")]
    WorkspaceNotFound(String),
    #[error("{0}")]
    Invalid(String),
    #[error("the enrolment code is unknown, was used before or is too old")]
    CodeRefused,
    #[error(transparent)]
    Access(#[from] AccessError),
    #[error("could not make a secret")]
    Key(#[from] KeyError),
    #[error("could not read or write tokens")]
    Store(#[from] StoreError),
}

impl Problem for TokenError {
    fn code(&self) -> ErrorCode {
        match self {
            Self::NotFound(_) => ErrorCode::TokenNotFound,
            Self::Invalid(_) | Self::WorkspaceNotFound(_) => ErrorCode::InvalidRequest,
            Self::CodeRefused => ErrorCode::EnrollmentCodeRefused,
            Self::Access(error) => error.code(),
            Self::Key(_) => ErrorCode::Internal,
            Self::Store(error) => error.code(),
        }
    }

    fn help(&self) -> Option<String> {
        match self {
            Self::NotFound(_) => Some("see `updraft token list`".into()),
            Self::WorkspaceNotFound(_) => {
                Some("every Deployment is in the Workspace `default`".into())
            }
            Self::CodeRefused => Some(
                "make a new one with `updraft agent invite`; a code works once, for an hour".into(),
            ),
            Self::Access(error) => error.help(),
            Self::Store(error) => error.help().map(Into::into),
            Self::Invalid(_) | Self::Key(_) => None,
        }
    }
}

answers!(TokenError);

/// What a new token is to be.
pub(crate) struct Issue {
    pub(crate) name: String,
    pub(crate) role: Role,
    pub(crate) scope: Scope,
    pub(crate) lives: Duration,
    pub(crate) created_by: String,
    /// What a pipeline's comes from.
    pub(crate) trust: Option<TrustId>,
}

/// Makes a token within a transaction. The secret is in the answer and nowhere
/// else.
pub(crate) async fn issue(
    keys: &Keys,
    tx: &mut Write,
    issue: Issue,
    now: Timestamp,
) -> Result<NewToken, StoreError> {
    let token = Token {
        id: TokenId::new(),
        name: issue.name,
        role: issue.role,
        scope: issue.scope,
        created_by: issue.created_by,
        created_at: now,
        expires_at: now + issue.lives,
        revoked_at: None,
        last_used_at: None,
        trust: issue.trust,
    };
    tx.insert_token(&token).await?;
    let secret = keys.sign(&Claims {
        iss: ISSUER.into(),
        sub: token.id,
        name: token.name.clone(),
        role: token.role,
        scope: token.scope,
        iat: now.timestamp(),
        exp: token.expires_at.timestamp(),
        jti: Uuid::now_v7().to_string(),
    });
    Ok(NewToken {
        token: token_view(token),
        secret,
    })
}

/// Makes a token that can do no more than who asks for it.
pub(crate) async fn create_token(
    app: &App,
    caller: &Caller,
    ask: CreateToken,
) -> Result<NewToken, TokenError> {
    let name = ask.name.trim().to_owned();
    if name.is_empty() || name.chars().count() > 100 || name.chars().any(char::is_control) {
        return Err(TokenError::Invalid(
            "a token's name has 1 to 100 printable characters".into(),
        ));
    }
    let days = ask.expires_in_days.unwrap_or(DEFAULT_DAYS);
    if !(1..=MOST_DAYS).contains(&days) {
        return Err(TokenError::Invalid(format!(
            "`expires_in_days` is {days}; it has to be 1 to {MOST_DAYS}"
        )));
    }

    let mut tx = app.store.begin().await?;
    let scope = match (&ask.deployment, &ask.workspace) {
        (Some(_), Some(_)) => {
            return Err(TokenError::Invalid(
                "a token is for a Deployment or for a Workspace: name one of the two".into(),
            ));
        }
        (Some(name), None) => Scope::Deployment {
            deployment: caller.deployment(&mut tx, name).await?.id,
        },
        (None, _) if ask.role == Role::Agent => {
            return Err(TokenError::Invalid(
                "an agent's token is for one Deployment: name it in `deployment`".into(),
            ));
        }
        (None, Some(name)) => workspace(caller, &mut tx, name).await?,
        // As wide as the caller's own.
        (None, None) => caller.token.scope,
    };
    let new = issue(
        &app.keys,
        &mut tx,
        Issue {
            name,
            role: ask.role,
            scope,
            lives: Duration::days(i64::from(days)),
            created_by: caller.token.name.clone(),
            trust: None,
        },
        app.now(),
    )
    .await?;
    tx.commit().await?;
    Ok(new)
}

/// A Workspace as a scope, when the caller's own is as wide.
pub(super) async fn workspace(
    caller: &Caller,
    read: &mut Read,
    name: &str,
) -> Result<Scope, TokenError> {
    let found = read.workspace_named(name).await?;
    match (caller.token.scope, found) {
        (Scope::Organization, Some(workspace)) => Ok(Scope::Workspace { workspace }),
        (Scope::Workspace { workspace: own }, Some(workspace)) if own == workspace => {
            Ok(caller.token.scope)
        }
        (Scope::Organization, None) => Err(TokenError::WorkspaceNotFound(name.to_owned())),
        // Nor does it learn which others there are.
        (Scope::Workspace { .. } | Scope::Deployment { .. }, _) => Err(caller
            .out_of_scope(format!("the Workspace `{name}`"))
            .into()),
    }
}

/// The tokens that the caller may revoke.
pub(crate) async fn list_tokens(app: &App, caller: &Caller) -> Result<Vec<TokenView>, TokenError> {
    let mut read = app.store.read().await?;
    let mut tokens = match caller.token.scope {
        Scope::Deployment { deployment } => read.tokens_of(deployment).await?,
        Scope::Organization | Scope::Workspace { .. } => {
            let mut all = read.tokens().await?;
            let visible = caller.visible_deployments(&mut read).await?;
            all.retain(|token| {
                caller.is_for_all()
                    || token.scope == caller.token.scope
                    || visible.iter().any(
                        |d| matches!(token.scope, Scope::Deployment { deployment } if deployment == d.id),
                    )
            });
            all
        }
    };
    // A pipeline makes one with every run; the log of exchanges has those that are over.
    let now = app.now();
    tokens.retain(|token| token.trust.is_none() || token.expires_at > now);
    Ok(tokens.into_iter().map(token_view).collect())
}

/// Ends a token at once, for good. A second time changes nothing.
pub(crate) async fn revoke_token(
    app: &App,
    caller: &Caller,
    id: TokenId,
) -> Result<(), TokenError> {
    let mut tx = app.store.begin().await?;
    let token = tx.token(id).await?.ok_or(TokenError::NotFound(id))?;
    if !caller.covers(&mut tx, token.scope).await? {
        return Err(caller.out_of_scope(format!("the token `{id}`")).into());
    }
    tx.revoke_token(id, app.now()).await?;
    tx.commit().await?;
    app.callers.forget();
    if let Scope::Deployment { deployment } = token.scope {
        // Whoever waits with it is told now, not at the end of the wait.
        app.announce(deployment);
    }
    tracing::info!(token = %id, by = caller.name(), "token revoked");
    Ok(())
}

pub(crate) fn token_view(token: Token) -> TokenView {
    TokenView {
        id: token.id,
        name: token.name,
        role: token.role,
        scope: token.scope,
        created_at: token.created_at,
        created_by: token.created_by,
        expires_at: token.expires_at,
        revoked_at: token.revoked_at,
        last_used_at: token.last_used_at,
    }
}
