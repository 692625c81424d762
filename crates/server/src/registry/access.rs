//! Who asks the registry, and what of it they may do.

use axum::http::{HeaderMap, header};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};
use updraft_model::{RepositoryName, Role, Scope, TokenId};
use updraft_store::{Deployment, Read};

use super::RegistryError;
use crate::app::App;
use crate::auth::{AuthError, Caller, authenticate, caller_of};

/// What somebody does to a repository.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Action {
    Pull,
    Push,
    Delete,
}

/// Somebody whose token holds, with what a short-lived one restricts it to.
#[derive(Debug, Clone)]
pub(crate) struct Visitor {
    pub(crate) caller: Caller,
    only: Option<Vec<Grant>>,
}

/// Actions on one repository, as a short-lived token carries them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Grant {
    pub(crate) repository: String,
    pub(crate) actions: Vec<Action>,
}

/// Who signs short-lived tokens: nothing but the registry takes them.
pub(crate) const PASS_ISSUER: &str = "updraft-registry";

/// What a short-lived token says: that of whose token it was made, and for what.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Pass {
    pub(crate) iss: String,
    pub(crate) sub: TokenId,
    pub(crate) name: String,
    pub(crate) access: Vec<Grant>,
    pub(crate) iat: i64,
    pub(crate) exp: i64,
}

impl Action {
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Pull => "pull from",
            Self::Push => "push to",
            Self::Delete => "delete from",
        }
    }

    /// Reads what clients ask for. Some ask for everything.
    pub(crate) fn parse(text: &str) -> &'static [Self] {
        match text {
            "pull" => &[Self::Pull],
            "push" => &[Self::Push],
            "delete" => &[Self::Delete],
            "*" => &[Self::Pull, Self::Push, Self::Delete],
            _ => &[],
        }
    }

    /// Whether a role may do this. Deleting is an admin's, as deleting a Deployment is.
    const fn is_for(self, role: Role) -> bool {
        match self {
            Self::Pull => role.includes(Role::Viewer) || role.includes(Role::Agent),
            Self::Push => role.includes(Role::Previewer),
            Self::Delete => role.includes(Role::Admin),
        }
    }
}

impl Visitor {
    /// Finds out who asks, from a token of ours, the short-lived kind, or a
    /// token as the password of any user.
    pub(crate) async fn of(app: &App, headers: &HeaderMap) -> Result<Self, RegistryError> {
        let visitor = match credentials(headers) {
            Ok(Credentials::Token(secret)) => match app.keys.verify::<Pass>(PASS_ISSUER, &secret) {
                Ok(pass) => with_pass(app, pass).await,
                Err(_) => unrestricted(app, &secret).await,
            },
            Ok(Credentials::Password(secret)) => unrestricted(app, &secret).await,
            Err(error) => Err(error),
        };
        visitor.map_err(RegistryError::Unauthorized)
    }

    /// The Deployment that a repository belongs to, if this may be done to it. One
    /// that the caller may not see is not there.
    pub(crate) async fn deployment(
        &self,
        read: &mut Read,
        repository: &RepositoryName,
        action: Action,
    ) -> Result<Deployment, RegistryError> {
        let deployment = read.deployment_named(repository.deployment()).await?;
        let deployment = deployment
            .filter(|deployment| self.caller.sees(deployment))
            .ok_or_else(|| RegistryError::NameUnknown(repository.clone()))?;
        let token = &self.caller.token;
        let is_allowed = match action {
            Action::Push => self.caller.check_deploys_to(&deployment).is_ok(),
            Action::Pull | Action::Delete => true,
        };
        if !action.is_for(token.role) || !is_allowed {
            return Err(RegistryError::Denied {
                token: token.name.clone(),
                role: token.role,
                action,
                repository: repository.clone(),
            });
        }
        if !self.was_granted(repository, action) {
            return Err(RegistryError::OtherScope);
        }
        Ok(deployment)
    }

    /// The repository in which to look for content by its digest. Who is for one
    /// Deployment finds what another one lent it in that Deployment's own.
    pub(crate) async fn source(
        &self,
        read: &mut Read,
        repository: &RepositoryName,
    ) -> Result<RepositoryName, RegistryError> {
        let Err(refused) = self.deployment(read, repository, Action::Pull).await else {
            return Ok(repository.clone());
        };
        let is_unknown = matches!(refused, RegistryError::NameUnknown(_));
        if is_unknown
            && self.was_granted(repository, Action::Pull)
            && let Some(own) = self.own(read, repository).await?
            && read.has_repository(&own).await?
        {
            return Ok(own);
        }
        Err(refused)
    }

    /// The name that a repository has in the one Deployment that the caller is for.
    async fn own(
        &self,
        read: &mut Read,
        repository: &RepositoryName,
    ) -> Result<Option<RepositoryName>, RegistryError> {
        let token = &self.caller.token;
        let Scope::Deployment { deployment } = token.scope else {
            return Ok(None);
        };
        if !Action::Pull.is_for(token.role) {
            return Ok(None);
        }
        let deployment = read.deployment(deployment).await?;
        Ok(deployment.and_then(|it| repository.within(&it.name)))
    }

    /// Whether the caller may do this, whatever the reason when not.
    pub(crate) async fn may(
        &self,
        read: &mut Read,
        repository: &RepositoryName,
        action: Action,
    ) -> Result<bool, RegistryError> {
        match self.deployment(read, repository, action).await {
            Ok(_) => Ok(true),
            Err(RegistryError::NameUnknown(_)) if action == Action::Pull => {
                match self.own(read, repository).await? {
                    Some(own) => Ok(read.has_repository(&own).await?),
                    None => Ok(false),
                }
            }
            Err(
                RegistryError::NameUnknown(_)
                | RegistryError::Denied { .. }
                | RegistryError::OtherScope,
            ) => Ok(false),
            Err(error) => Err(error),
        }
    }

    fn was_granted(&self, repository: &RepositoryName, action: Action) -> bool {
        self.only.as_ref().is_none_or(|only| {
            only.iter().any(|grant| {
                grant.repository == repository.as_str() && grant.actions.contains(&action)
            })
        })
    }
}

async fn unrestricted(app: &App, secret: &str) -> Result<Visitor, AuthError> {
    let caller = authenticate(app, secret).await?;
    Ok(Visitor { caller, only: None })
}

async fn with_pass(app: &App, pass: Pass) -> Result<Visitor, AuthError> {
    let caller = caller_of(app, pass.sub, &pass.name).await?;
    if pass.exp <= app.now().timestamp() {
        return Err(AuthError::PassExpired);
    }
    Ok(Visitor {
        caller,
        only: Some(pass.access),
    })
}

enum Credentials {
    Token(String),
    Password(String),
}

fn credentials(headers: &HeaderMap) -> Result<Credentials, AuthError> {
    let header = headers
        .get(header::AUTHORIZATION)
        .ok_or(AuthError::Missing)?;
    let (scheme, rest) = header
        .to_str()
        .ok()
        .and_then(|text| text.split_once(' '))
        .ok_or(AuthError::Malformed)?;
    let rest = rest.trim();
    if scheme.eq_ignore_ascii_case("bearer") {
        return Ok(Credentials::Token(rest.to_owned()));
    }
    if !scheme.eq_ignore_ascii_case("basic") {
        return Err(AuthError::Malformed);
    }
    let decoded = STANDARD
        .decode(rest)
        .ok()
        .and_then(|bytes| String::from_utf8(bytes).ok())
        .ok_or(AuthError::Malformed)?;
    // Whoever signs in gives any name: the token says whose it is.
    let (_, secret) = decoded.split_once(':').ok_or(AuthError::Malformed)?;
    if secret.is_empty() {
        return Err(AuthError::Missing);
    }
    Ok(Credentials::Password(secret.to_owned()))
}
