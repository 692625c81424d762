//! From a header to a [`Caller`], and what a caller may see.

use axum::extract::{FromRequestParts as _, Path, Request, State};
use axum::http::{HeaderMap, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use chrono::Duration;
use serde::{Deserialize, Serialize};
use updraft_api::ErrorCode;
use updraft_model::{
    DeployId, DeploymentId, DeploymentName, Digest, Role, Scope, TokenId, nearest,
};
use updraft_store::{Deploy, Deployment, Read, StoreError, Token, Write};

use super::keys::ISSUER;
use super::known::Seen;
use crate::app::App;
use crate::error::{Problem, answers};

/// What a route asks of who calls it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Needs {
    /// No token.
    Nothing,
    /// Any token that holds.
    AnyToken,
    /// A token whose role includes this one.
    Role(Role),
}

/// Somebody whose token holds.
#[derive(Debug, Clone)]
pub struct Caller {
    pub(crate) token: Token,
}

/// What a token says about itself, for those that look inside.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Claims {
    pub(crate) iss: String,
    pub(crate) sub: TokenId,
    pub(crate) name: String,
    pub(crate) role: Role,
    pub(crate) scope: Scope,
    pub(crate) iat: i64,
    pub(crate) exp: i64,
    pub(crate) jti: String,
}

#[derive(Debug, thiserror::Error)]
pub enum AuthError {
    #[error("the request has no token")]
    Missing,
    #[error("the token cannot be read, or was not made by this control plane")]
    Malformed,
    #[error("the token `{name}` expired at {at}")]
    Expired { name: String, at: String },
    #[error("the token `{0}` was revoked")]
    Revoked(String),
    /// A short-lived one, that its client gets again by itself.
    #[error("the short-lived token expired")]
    PassExpired,
    #[error("the token `{name}` has the role {role}; this needs {needed}")]
    Role {
        name: String,
        role: Role,
        needed: Role,
    },
    #[error("could not look the token up")]
    Store(#[from] StoreError),
}

impl Problem for AuthError {
    fn code(&self) -> ErrorCode {
        match self {
            Self::Missing => ErrorCode::TokenMissing,
            Self::Malformed => ErrorCode::TokenMalformed,
            Self::Expired { .. } | Self::PassExpired => ErrorCode::TokenExpired,
            Self::Revoked(_) => ErrorCode::TokenRevoked,
            Self::Role { .. } => ErrorCode::Forbidden,
            Self::Store(error) => error.code(),
        }
    }

    fn help(&self) -> Option<String> {
        match self {
            Self::Missing => Some("sign in with `updraft login`, or set UPDRAFT_TOKEN".into()),
            Self::Malformed => Some(
                "check that the whole token was copied, and that it is for this control plane"
                    .into(),
            ),
            Self::Expired { .. } | Self::Revoked(_) => {
                Some("ask an admin for a new one: `updraft token create`".into())
            }
            Self::PassExpired => Some("ask for another one with your token".into()),
            Self::Role { .. } => Some("ask an admin for a token with that role".into()),
            Self::Store(error) => error.help().map(Into::into),
        }
    }
}

/// Why a caller does not get to a Deployment or a deploy.
#[derive(Debug, thiserror::Error)]
pub enum AccessError {
    #[error("there is no Deployment `{name}`{}", hint(.nearest.as_deref()))]
    DeploymentNotFound {
        name: String,
        nearest: Option<String>,
    },
    #[error("there is no deploy `{0}`")]
    DeployNotFound(DeployId),
    #[error("no Release of the Deployment `{deployment}` has the version {version}")]
    VersionNotFound { version: Digest, deployment: String },
    #[error("the token `{token}` is not for {what}")]
    Scope { token: String, what: String },
    #[error(
        "the Deployment `{deployment}` takes deploys from trusted pipelines alone, and the token `{token}` is of none"
    )]
    CiOnly { deployment: String, token: String },
    #[error(
        "the token `{token}` has the role previewer, which brings something to Previews alone, and the Deployment `{deployment}` is none"
    )]
    PreviewsOnly { deployment: String, token: String },
    #[error("could not read the database")]
    Store(#[from] StoreError),
}

fn hint(nearest: Option<&str>) -> String {
    nearest
        .map(|nearest| format!("; did you mean `{nearest}`?"))
        .unwrap_or_default()
}

impl Problem for AccessError {
    fn code(&self) -> ErrorCode {
        match self {
            Self::DeploymentNotFound { .. } => ErrorCode::DeploymentNotFound,
            Self::DeployNotFound(_) | Self::VersionNotFound { .. } => ErrorCode::DeployNotFound,
            Self::Scope { .. } | Self::CiOnly { .. } | Self::PreviewsOnly { .. } => {
                ErrorCode::Forbidden
            }
            Self::Store(error) => error.code(),
        }
    }

    fn help(&self) -> Option<String> {
        match self {
            Self::DeploymentNotFound { .. } => Some(
                "see `updraft deployment list`, or make it with `updraft deployment create`".into(),
            ),
            Self::DeployNotFound(_) | Self::VersionNotFound { .. } => {
                Some("see `updraft history`".into())
            }
            Self::Scope { .. } => Some("use a token whose scope covers it".into()),
            Self::PreviewsOnly { .. } => Some(
                "have the pipeline of a pull request deploy with `[preview]` in updraft.toml, or use a token with the role deployer".into(),
            ),
            Self::CiOnly { deployment, .. } => Some(format!(
                "have the pipeline deploy, without UPDRAFT_TOKEN (`updraft trust list` shows which are trusted); \
                 an admin lifts it with `updraft deployment update {deployment} --ci-only=false`"
            )),
            Self::Store(error) => error.help().map(Into::into),
        }
    }
}

answers!(AuthError, AccessError);

impl Caller {
    /// The token's name, which history keeps.
    pub fn name(&self) -> &str {
        &self.token.name
    }

    /// Whoever may see a Deployment sees the Previews that are made from it; its agents
    /// get a token for each that they run.
    pub(crate) fn sees(&self, deployment: &Deployment) -> bool {
        let scope = self.token.scope;
        let is_made_from = deployment.preview.as_ref().is_some_and(|preview| {
            self.token.role != Role::Agent && scope.covers(deployment.workspace, preview.of)
        });
        is_made_from || scope.covers(deployment.workspace, deployment.id)
    }

    /// Whether the caller's role holds everywhere.
    pub(crate) fn is_for_all(&self) -> bool {
        matches!(self.token.scope, Scope::Organization)
    }

    /// Whether the caller's scope is as wide as that of a token or a trust.
    pub(crate) async fn covers(&self, read: &mut Read, scope: Scope) -> Result<bool, StoreError> {
        Ok(match scope {
            Scope::Deployment { deployment } => match read.deployment(deployment).await? {
                Some(deployment) => self.sees(&deployment),
                None => self.is_for_all(),
            },
            Scope::Organization | Scope::Workspace { .. } => {
                self.is_for_all() || scope == self.token.scope
            }
        })
    }

    /// Whether this token may begin, feed or end a deploy of the Deployment, whoever
    /// began it.
    pub(crate) fn check_deploys_to(&self, deployment: &Deployment) -> Result<(), AccessError> {
        if self.token.role == Role::Previewer && deployment.preview.is_none() {
            return Err(AccessError::PreviewsOnly {
                deployment: deployment.name.to_string(),
                token: self.token.name.clone(),
            });
        }
        Ok(())
    }

    /// Whether what comes with this token may become what the Deployment runs.
    pub(crate) fn check_brings(&self, deployment: &Deployment) -> Result<(), AccessError> {
        self.check_deploys_to(deployment)?;
        if deployment.settings.ci_only && self.token.trust.is_none() {
            return Err(AccessError::CiOnly {
                deployment: deployment.name.to_string(),
                token: self.token.name.clone(),
            });
        }
        Ok(())
    }

    /// Remembers a deploy that the caller's token, if it is short-lived, may go
    /// on with to its end.
    pub(crate) async fn goes_on_with(
        &self,
        tx: &mut Write,
        deploy: DeployId,
    ) -> Result<(), StoreError> {
        if self.token.trust.is_some() {
            tx.bind_deploy_to_token(self.token.id, deploy).await?;
        }
        Ok(())
    }

    pub(crate) fn out_of_scope(&self, what: impl Into<String>) -> AccessError {
        AccessError::Scope {
            token: self.token.name.clone(),
            what: what.into(),
        }
    }

    pub(crate) fn check_scope(&self, deployment: &Deployment) -> Result<(), AccessError> {
        if self.sees(deployment) {
            Ok(())
        } else {
            Err(self.out_of_scope(format!("the Deployment `{}`", deployment.name)))
        }
    }

    /// Finds a Deployment by name, when the caller may see it.
    pub(crate) async fn deployment(
        &self,
        read: &mut Read,
        name: &DeploymentName,
    ) -> Result<Deployment, AccessError> {
        if let Some(deployment) = read.deployment_named(name).await? {
            self.check_scope(&deployment)?;
            return Ok(deployment);
        }
        let visible = self.visible_deployments(read).await?;
        let names = visible.iter().map(|deployment| deployment.name.as_str());
        Err(AccessError::DeploymentNotFound {
            name: name.to_string(),
            nearest: nearest(name.as_str(), names).map(Into::into),
        })
    }

    pub(crate) async fn visible_deployments(
        &self,
        read: &mut Read,
    ) -> Result<Vec<Deployment>, AccessError> {
        let mut all = match self.token.scope {
            Scope::Deployment { deployment } => {
                let mut own: Vec<_> = read.deployment(deployment).await?.into_iter().collect();
                own.extend(read.previews_of(deployment).await?);
                own
            }
            Scope::Organization | Scope::Workspace { .. } => read.deployments().await?,
        };
        all.retain(|deployment| self.sees(deployment));
        Ok(all)
    }

    /// Finds a deploy and its Deployment, when the caller may see them.
    pub(crate) async fn deploy(
        &self,
        read: &mut Read,
        id: DeployId,
    ) -> Result<(Deployment, Deploy), AccessError> {
        let not_found = || AccessError::DeployNotFound(id);
        let deploy = read.deploy(id).await?.ok_or_else(not_found)?;
        let deployment = read
            .deployment(deploy.deployment)
            .await?
            .ok_or_else(not_found)?;
        if !self.sees(&deployment) {
            return Err(self.out_of_scope(format!("the deploy `{id}`")));
        }
        Ok((deployment, deploy))
    }

    /// The Deployment that an agent's token is for.
    pub(crate) fn agent_deployment(&self) -> Result<DeploymentId, AccessError> {
        match self.token.scope {
            Scope::Deployment { deployment } => Ok(deployment),
            Scope::Organization | Scope::Workspace { .. } => {
                Err(self.out_of_scope("one Deployment, as an agent's has to be"))
            }
        }
    }
}

/// Finds out whose secret this is. The dashboard asks it too.
pub(crate) async fn authenticate(app: &App, secret: &str) -> Result<Caller, AuthError> {
    holds(app, token_of(app, secret).await?)
}

/// Finds a token that was not revoked; it may have expired.
async fn token_of(app: &App, secret: &str) -> Result<Token, AuthError> {
    match app.callers.get(secret) {
        Seen::Known(token) => Ok(token),
        Seen::Unknown(seen) => Box::pin(look_up(app, secret, seen)).await,
    }
}

async fn look_up(app: &App, secret: &str, seen: u64) -> Result<Token, AuthError> {
    let claims: Claims = app
        .keys
        .verify(ISSUER, secret)
        .map_err(|_| AuthError::Malformed)?;
    let token = find(app, claims.sub, &claims.name).await?;
    // Others revoke tokens in a shared database without telling this process.
    if !app.store.is_shared() {
        app.callers.put(seen, secret, &token);
    }
    Ok(token)
}

async fn find(app: &App, id: TokenId, name: &str) -> Result<Token, AuthError> {
    let token = app.store.look().await?.token(id).await?;
    // Signed by us and not there: it went with its Deployment.
    let token = token.ok_or_else(|| AuthError::Revoked(name.to_owned()))?;
    if token.revoked_at.is_some() {
        return Err(AuthError::Revoked(token.name));
    }
    Ok(token)
}

/// Finds the caller of whose token something was made, if that was not revoked. How long
/// it holds is what was made to say.
pub(crate) async fn caller_of(app: &App, id: TokenId, name: &str) -> Result<Caller, AuthError> {
    let token = find(app, id, name).await?;
    app.leases.token_used(&token, app.now());
    Ok(Caller { token })
}

/// Looks again at a token that was let in a while ago.
pub(crate) async fn still_holds(
    app: &App,
    read: &mut Read,
    caller: &Caller,
) -> Result<(), AuthError> {
    let revoked = || AuthError::Revoked(caller.token.name.clone());
    let token = read.token(caller.token.id).await?.ok_or_else(revoked)?;
    if token.revoked_at.is_some() {
        return Err(revoked());
    }
    holds(app, token).map(drop)
}

/// Lets nobody in after their time, however well known.
fn holds(app: &App, token: Token) -> Result<Caller, AuthError> {
    let now = app.now();
    if token.expires_at <= now {
        return Err(AuthError::Expired {
            at: token.expires_at.format("%Y-%m-%d %H:%M UTC").to_string(),
            name: token.name,
        });
    }
    app.leases.token_used(&token, now);
    Ok(Caller { token })
}

fn bearer(headers: &HeaderMap) -> Result<&str, AuthError> {
    let header = headers
        .get(header::AUTHORIZATION)
        .ok_or(AuthError::Missing)?;
    header
        .to_str()
        .ok()
        .and_then(|text| text.split_once(' '))
        .filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer"))
        .map(|(_, token)| token.trim())
        .filter(|token| !token.is_empty())
        .ok_or(AuthError::Malformed)
}

/// What stands before a route.
#[derive(Clone)]
pub(crate) struct Guard {
    pub(crate) app: App,
    pub(crate) needs: Needs,
    /// The route is about one deploy, and whoever began it with a short-lived
    /// token may bring it to its end.
    pub(crate) is_of_deploy: bool,
}

/// Who is let in to a deploy: the time of a token that began it does not count
/// as long as the deploy goes on, and a while after, so that its end is seen.
async fn let_in(app: &App, secret: &str, of: Option<DeployId>) -> Result<Caller, AuthError> {
    let token = token_of(app, secret).await?;
    if let Some(deploy) = of
        && token.expires_at <= app.now()
        && may_go_on(app, &token, deploy).await?
    {
        return Ok(Caller { token });
    }
    holds(app, token)
}

async fn may_go_on(app: &App, token: &Token, deploy: DeployId) -> Result<bool, StoreError> {
    let now = app.now();
    if token.trust.is_none() || now - token.expires_at > LONGEST_DEPLOY {
        return Ok(false);
    }
    let mut look = app.store.look().await?;
    if !look.is_deploy_of_token(token.id, deploy).await? {
        return Ok(false);
    }
    let deploy = look.deploy(deploy).await?;
    Ok(deploy.is_some_and(|it| it.ended_at.is_none_or(|at| now - at < SEEN_AFTER)))
}

/// The longest that a deploy may outlast the token that began it; tokens of
/// pipelines are forgotten after that.
pub(crate) const LONGEST_DEPLOY: Duration = Duration::days(1);
const SEEN_AFTER: Duration = Duration::hours(1);

/// Stands before every route and lets nobody past who may not.
pub(crate) async fn authorise(
    State(guard): State<Guard>,
    request: Request,
    next: Next,
) -> Response {
    let Guard {
        app,
        needs,
        is_of_deploy,
    } = guard;
    let (mut parts, body) = request.into_parts();
    let secret = bearer(&parts.headers).map(ToOwned::to_owned);
    let deploy = if is_of_deploy {
        let path = Path::<DeployId>::from_request_parts(&mut parts, &()).await;
        path.ok().map(|Path(id)| id)
    } else {
        None
    };
    let mut request = Request::from_parts(parts, body);
    let allowed = async {
        if needs == Needs::Nothing {
            return Ok(None);
        }
        let caller = let_in(&app, &secret?, deploy).await?;
        if let Needs::Role(needed) = needs
            && !caller.token.role.includes(needed)
        {
            return Err(AuthError::Role {
                name: caller.token.name,
                role: caller.token.role,
                needed,
            });
        }
        Ok(Some(caller))
    };
    // Boxed and gone before the next: a request may wait for a minute.
    let allowed = Box::pin(allowed).await;
    match allowed {
        Ok(caller) => {
            if let Some(caller) = caller {
                request.extensions_mut().insert(caller);
            }
            next.run(request).await
        }
        Err(error) => error.into_response(),
    }
}
