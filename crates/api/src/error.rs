//! The body of every answer that is not a success.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// What scripts match on. A code never changes its meaning.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum ErrorCode {
    /// The request has no token.
    TokenMissing,
    /// The token cannot be read, or was not signed by this control plane.
    TokenMalformed,
    TokenExpired,
    TokenRevoked,
    /// The token's role or scope does not allow this.
    Forbidden,
    /// The one-time enrolment code is unknown, used or too old.
    EnrollmentCodeRefused,
    /// A pipeline's identity is not exchanged: nobody trusts it, or it is not what a trust asks for.
    IdentityRefused,
    DeploymentNotFound,
    DeployNotFound,
    TokenNotFound,
    TrustNotFound,
    BlobNotFound,
    RouteNotFound,
    /// A field is missing, has the wrong form or is out of range.
    InvalidRequest,
    NameTaken,
    /// The Deployment has no image yet and the deploy brings none.
    ImageMissing,
    /// The image half is none that the Deployment's runtime runs.
    ImageUnsuitable,
    /// The deploy is not in a state in which this can be done.
    DeployState,
    /// The deploy never became a Release that can be returned to.
    NotARollbackTarget,
    /// Somebody rolled this very content back, and nobody lifted the hold since.
    OnHold,
    /// Another deploy of the branch came in between: compare again.
    MovedOn,
    /// What is to be promoted never was live.
    NotProven,
    /// No agent of the Deployment has a place for another Preview.
    NoPreviewPlace,
    /// Another agent runs the Preview.
    PreviewTaken,
    /// There is no such Preview.
    PreviewNotFound,
    /// The Deployment accepts no deploy without certain checks, and these are not they.
    ChecksRequired,
    /// The checks that a deploy names failed, or are of something else.
    ChecksRefused,
    /// A bundle's archive or manifest was refused.
    BundleRefused,
    /// A blob's bytes are not those that its digest names.
    BlobCorrupt,
    /// Blobs that the deploy names were not uploaded.
    BlobsMissing,
    LimitExceeded,
    /// The control plane's disk is full.
    StorageFull,
    /// Client and server are more than one minor version apart.
    VersionSkew,
    /// Try again: the server is starting, stopping or busy.
    Unavailable,
    Internal,
    /// One that a later release has.
    #[serde(other)]
    Unknown,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ErrorBody {
    pub code: ErrorCode,
    /// What happened, naming the thing.
    pub message: String,
    /// What to do next.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub help: Option<String>,
    /// Finds the request in the server's log.
    #[serde(default)]
    pub request_id: String,
}
