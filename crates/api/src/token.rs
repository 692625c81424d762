//! Tokens and enrolment codes.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use updraft_model::{DeploymentName, Role, Scope, TokenId};
use utoipa::ToSchema;

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct CreateToken {
    pub name: String,
    pub role: Role,
    /// The Deployment that the token is for.
    #[serde(default)]
    pub deployment: Option<DeploymentName>,
    /// The Workspace that the token is for, by name. Without a Deployment or a
    /// Workspace the token is for all that the caller's own is for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub workspace: Option<String>,
    /// Days until it expires (default 90, at most 3650).
    #[serde(default)]
    pub expires_in_days: Option<u32>,
}

/// A token as the control plane remembers it: without its secret.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct TokenView {
    pub id: TokenId,
    pub name: String,
    pub role: Role,
    pub scope: Scope,
    pub created_at: DateTime<Utc>,
    pub created_by: String,
    pub expires_at: DateTime<Utc>,
    pub revoked_at: Option<DateTime<Utc>>,
    pub last_used_at: Option<DateTime<Utc>>,
}

#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct Tokens {
    pub tokens: Vec<TokenView>,
}

/// A new token, with its secret: shown once.
#[derive(Clone, Serialize, Deserialize, ToSchema)]
pub struct NewToken {
    pub token: TokenView,
    pub secret: String,
}

/// A one-time code that an agent trades for its token.
#[derive(Clone, Serialize, Deserialize, ToSchema)]
pub struct NewEnrollmentCode {
    pub deployment: DeploymentName,
    pub code: String,
    pub expires_at: DateTime<Utc>,
}

#[derive(Clone, Serialize, Deserialize, ToSchema)]
pub struct Enroll {
    pub code: String,
    pub host: String,
}

/// Who the caller is.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct WhoAmI {
    pub token: TokenView,
    pub server_version: String,
}
