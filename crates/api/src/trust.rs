//! Trusts in pipelines, and the exchange of a pipeline's identity for a token.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use updraft_model::{
    DeploymentName, ExchangeId, ExchangeOutcome, Expected, Identity, Role, Scope, TokenId, TrustId,
    TrustProvider,
};
use utoipa::ToSchema;

use crate::token::TokenView;

/// The grant of RFC 8693.
pub const TOKEN_EXCHANGE: &str = "urn:ietf:params:oauth:grant-type:token-exchange";
/// A JWT, whoever issued it; also what we give for it.
pub const JWT: &str = "urn:ietf:params:oauth:token-type:jwt";
/// A JWT that says who somebody is.
pub const ID_TOKEN: &str = "urn:ietf:params:oauth:token-type:id_token";

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct CreateTrust {
    pub provider: TrustProvider,
    /// As the identity's `iss` has it.
    pub issuer: String,
    /// What the identity's `aud` has to be or hold (default: the control plane's address).
    #[serde(default)]
    pub audience: Option<String>,
    /// What each claim has to be.
    pub claims: BTreeMap<String, Expected>,
    /// Claims that stay what they are at the first exchange, where they come.
    #[serde(default)]
    pub pin: Vec<String>,
    /// What the identity is exchanged for may do: viewer, previewer or deployer.
    pub role: Role,
    /// The Deployment that it is for; or a Workspace, by name.
    #[serde(default)]
    pub deployment: Option<DeploymentName>,
    #[serde(default)]
    pub workspace: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct TrustView {
    pub id: TrustId,
    pub provider: TrustProvider,
    pub issuer: String,
    pub audience: String,
    pub claims: BTreeMap<String, Expected>,
    pub pin: Vec<String>,
    /// What the first exchange brought.
    pub pinned: BTreeMap<String, String>,
    pub role: Role,
    pub scope: Scope,
    /// The Deployment of a scope that is one.
    pub deployment: Option<DeploymentName>,
    pub created_by: String,
    pub created_at: DateTime<Utc>,
    pub last_used_at: Option<DateTime<Utc>>,
}

#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct Trusts {
    pub trusts: Vec<TrustView>,
}

/// An exchange that was asked for with a good signature.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ExchangeView {
    pub id: ExchangeId,
    pub at: DateTime<Utc>,
    pub outcome: ExchangeOutcome,
    pub identity: Identity,
    pub deployment: Option<DeploymentName>,
    /// The trust that fits, or is nearest.
    pub trust: Option<TrustId>,
    pub token: Option<TokenId>,
    /// What was wrong.
    pub why: Option<String>,
}

#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct Exchanges {
    pub exchanges: Vec<ExchangeView>,
}

/// RFC 8693, as a form.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ExchangeToken {
    /// `urn:ietf:params:oauth:grant-type:token-exchange`
    pub grant_type: String,
    /// The pipeline's identity: a JWT of its issuer.
    pub subject_token: String,
    /// `urn:ietf:params:oauth:token-type:id_token` or `…:jwt`
    pub subject_token_type: String,
    /// The Deployment that the token is to be for; needed where several trusts fit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub audience: Option<String>,
}

/// RFC 8693's answer.
#[derive(Clone, Serialize, Deserialize, ToSchema)]
pub struct ExchangedToken {
    pub access_token: String,
    pub issued_token_type: String,
    pub token_type: String,
    /// Seconds.
    pub expires_in: u64,
    pub token: TokenView,
}
