//! What the registry refuses, in the words and the shape that OCI clients know.

use axum::Json;
use axum::http::{HeaderName, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};
use updraft_api::ErrorCode;
use updraft_blob::BlobError;
use updraft_model::{
    InvalidDigest, InvalidRepository, InvalidTag, OciDigest, RepositoryName, UploadId,
};
use updraft_store::StoreError;

use super::Action;
use crate::auth::AuthError;
use crate::error::{ApiError, Problem, chain, status_of};

/// Most bytes of a manifest.
pub(crate) const MOST_MANIFEST: usize = 4 << 20;

#[derive(Debug, thiserror::Error)]
pub(crate) enum RegistryError {
    #[error("there is nothing at this address of the registry")]
    Nowhere,
    #[error("this address of the registry does not answer to this method")]
    Method,
    #[error(transparent)]
    Name(#[from] InvalidRepository),
    #[error(transparent)]
    Tag(#[from] InvalidTag),
    #[error(transparent)]
    Digest(#[from] InvalidDigest),
    #[error("{0}")]
    Unauthorized(AuthError),
    /// The short-lived token is for less than its owner may do.
    #[error("the token that was given for this is for something else; ask for one with this scope")]
    OtherScope,
    #[error(
        "there is no repository `{0}` here: a repository's name begins with that of its Deployment"
    )]
    NameUnknown(RepositoryName),
    #[error("the repository `{0}` has nothing in it")]
    Empty(RepositoryName),
    #[error("the token `{token}` has the role {role}, which may not {} `{repository}`", .action.name())]
    Denied {
        token: String,
        role: updraft_model::Role,
        action: Action,
        repository: RepositoryName,
    },
    #[error(
        "the repositories of the Deployment `{deployment}` hold {used} bytes and may hold {quota}: {more} more do not fit; delete what is not needed, or have the quota raised (`--registry-quota`)"
    )]
    Quota {
        deployment: String,
        used: u64,
        quota: u64,
        more: u64,
    },
    #[error("the repository `{repository}` has no blob {digest}")]
    BlobUnknown {
        repository: RepositoryName,
        digest: OciDigest,
    },
    #[error("the repository `{repository}` has no manifest `{reference}`")]
    ManifestUnknown {
        repository: RepositoryName,
        reference: String,
    },
    #[error(
        "the manifest names {digest}, which the repository `{repository}` does not have: push that first"
    )]
    ManifestBlobUnknown {
        repository: RepositoryName,
        digest: OciDigest,
    },
    #[error("{0}")]
    ManifestInvalid(String),
    #[error("the manifest is larger than {MOST_MANIFEST} bytes, the most that is taken")]
    ManifestTooLarge,
    #[error(
        "the bytes that were sent have the digest {actual}, and not {expected}: send them again"
    )]
    WrongDigest {
        expected: OciDigest,
        actual: OciDigest,
    },
    #[error("`{0}` is missing from the query, or is no digest")]
    NoDigest(&'static str),
    #[error("there is no such upload: it ended, was cancelled or waited for too long; begin again")]
    UploadUnknown,
    #[error("this part does not begin where the upload is, at byte {length}")]
    OutOfOrder { upload: UploadAt, length: u64 },
    #[error("`{0}` is no range of bytes")]
    InvalidRange(String),
    #[error("the part should have {expected} bytes, and has {actual}")]
    WrongSize { expected: u64, actual: u64 },
    #[error("nothing came for a minute; the upload can go on from what is there")]
    UploadStopped,
    #[error("the connection broke; the upload can go on from what is there")]
    UploadBroke,
    #[error(
        "{0} uploads to the Deployment `{1}` are under way, the most at a time; end some of them, or wait"
    )]
    ManyUploads(usize, String),
    #[error("{what} is still needed: {by} names it")]
    StillNeeded { what: String, by: String },
    #[error("this range is outside the blob, which has {size} bytes")]
    RangeNotSatisfiable { size: u64 },
    #[error("could not read or write blobs")]
    Blob(#[from] BlobError),
    #[error("could not read or write the registry's rows")]
    Store(#[from] StoreError),
}

/// Where an upload is found again.
#[derive(Debug, Clone)]
pub(crate) struct UploadAt {
    pub(crate) repository: RepositoryName,
    pub(crate) id: UploadId,
}

impl UploadAt {
    pub(crate) fn location(&self) -> String {
        format!("/v2/{}/blobs/uploads/{}", self.repository, self.id)
    }
}

/// Marks an answer whose body is made already.
#[derive(Debug, Clone, Copy)]
pub(crate) struct OciBody;

/// Whether an address is one of the registry's, where errors look as OCI wants.
pub(crate) fn is_registry(path: &str) -> bool {
    path == "/v2" || path.starts_with("/v2/")
}

impl RegistryError {
    fn status_and_code(&self) -> (StatusCode, &'static str) {
        match self {
            Self::Nowhere => (StatusCode::NOT_FOUND, "UNSUPPORTED"),
            Self::Method => (StatusCode::METHOD_NOT_ALLOWED, "UNSUPPORTED"),
            Self::Name(_) => (StatusCode::BAD_REQUEST, "NAME_INVALID"),
            Self::Tag(_) => (StatusCode::BAD_REQUEST, "TAG_INVALID"),
            Self::Digest(_) | Self::WrongDigest { .. } | Self::NoDigest(_) => {
                (StatusCode::BAD_REQUEST, "DIGEST_INVALID")
            }
            Self::NameUnknown(_) | Self::Empty(_) => (StatusCode::NOT_FOUND, "NAME_UNKNOWN"),
            Self::Denied { .. } | Self::Quota { .. } => (StatusCode::FORBIDDEN, "DENIED"),
            Self::StillNeeded { .. } => (StatusCode::CONFLICT, "DENIED"),
            Self::BlobUnknown { .. } => (StatusCode::NOT_FOUND, "BLOB_UNKNOWN"),
            Self::ManifestUnknown { .. } => (StatusCode::NOT_FOUND, "MANIFEST_UNKNOWN"),
            Self::ManifestBlobUnknown { .. } => (StatusCode::NOT_FOUND, "MANIFEST_BLOB_UNKNOWN"),
            Self::ManifestInvalid(_) => (StatusCode::BAD_REQUEST, "MANIFEST_INVALID"),
            Self::ManifestTooLarge => (StatusCode::PAYLOAD_TOO_LARGE, "SIZE_INVALID"),
            Self::UploadUnknown => (StatusCode::NOT_FOUND, "BLOB_UPLOAD_UNKNOWN"),
            Self::OutOfOrder { .. } => (StatusCode::RANGE_NOT_SATISFIABLE, "BLOB_UPLOAD_INVALID"),
            Self::InvalidRange(_) | Self::UploadBroke => {
                (StatusCode::BAD_REQUEST, "BLOB_UPLOAD_INVALID")
            }
            Self::WrongSize { .. } => (StatusCode::BAD_REQUEST, "SIZE_INVALID"),
            Self::UploadStopped => (StatusCode::REQUEST_TIMEOUT, "BLOB_UPLOAD_INVALID"),
            Self::ManyUploads(..) | Self::Blob(BlobError::UploadBusy) => {
                (StatusCode::TOO_MANY_REQUESTS, "TOOMANYREQUESTS")
            }
            Self::RangeNotSatisfiable { .. } => (StatusCode::RANGE_NOT_SATISFIABLE, "SIZE_INVALID"),
            Self::Blob(BlobError::Full(_)) => {
                (StatusCode::INSUFFICIENT_STORAGE, "BLOB_UPLOAD_INVALID")
            }
            Self::Blob(error) => (status_of(error.code()), "UNKNOWN"),
            Self::Unauthorized(AuthError::Store(error)) | Self::Store(error) => {
                (status_of(error.code()), "UNKNOWN")
            }
            Self::Unauthorized(_) | Self::OtherScope => (StatusCode::UNAUTHORIZED, "UNAUTHORIZED"),
        }
    }

    /// One sentence for whoever reads it: these bodies have no place for a help.
    fn message(&self) -> String {
        let (text, help) = match self {
            Self::Unauthorized(error @ AuthError::Missing) => (
                error.to_string(),
                Some("sign in with any user name and a token of this control plane as the password (`docker login`)".into()),
            ),
            Self::Unauthorized(error) => (error.to_string(), error.help()),
            Self::Blob(error) => (error.to_string(), Problem::help(error)),
            Self::Store(error) => (error.to_string(), Problem::help(error)),
            _ => (self.to_string(), None),
        };
        match help {
            Some(help) => format!("{text}; {help}"),
            None => text,
        }
    }

    fn detail(&self) -> Value {
        match self {
            Self::BlobUnknown { digest, .. } | Self::ManifestBlobUnknown { digest, .. } => {
                json!({ "digest": digest.to_string() })
            }
            Self::WrongDigest { expected, actual } => {
                json!({ "expected": expected.to_string(), "actual": actual.to_string() })
            }
            Self::Quota {
                used, quota, more, ..
            } => {
                json!({ "used": used, "quota": quota, "more": more })
            }
            _ => Value::Null,
        }
    }

    /// The answer; `challenge` says where a token for this can be had.
    pub(super) fn answer(&self, challenge: &str) -> Response {
        let (status, code) = self.status_and_code();
        if status == StatusCode::INTERNAL_SERVER_ERROR {
            tracing::error!(error = %chain(self), "a request to the registry failed");
        }
        let mut response = body(status, code, &self.message(), self.detail());
        let headers = response.headers_mut();
        let mut set = |name: HeaderName, value: &str| {
            if let Ok(value) = HeaderValue::from_str(value) {
                headers.insert(name, value);
            }
        };
        match self {
            Self::OutOfOrder { upload, length } => {
                set(header::LOCATION, &upload.location());
                set(header::RANGE, &format!("0-{}", length.saturating_sub(1)));
            }
            Self::RangeNotSatisfiable { size } => {
                set(header::CONTENT_RANGE, &format!("bytes */{size}"));
            }
            _ if status == StatusCode::UNAUTHORIZED => set(header::WWW_AUTHENTICATE, challenge),
            _ => {}
        }
        response
    }
}

/// An error that was made before the registry was asked.
pub(crate) fn outer(error: &ApiError) -> Response {
    let status = status_of(error.code);
    let code = match error.code {
        ErrorCode::RouteNotFound => "UNSUPPORTED",
        _ => "UNKNOWN",
    };
    body(status, code, &error.message, Value::Null)
}

fn body(status: StatusCode, code: &str, message: &str, detail: Value) -> Response {
    let mut error = json!({ "code": code, "message": message });
    if !detail.is_null() {
        error["detail"] = detail;
    }
    let mut response = (status, Json(json!({ "errors": [error] }))).into_response();
    response.extensions_mut().insert(OciBody);
    response
}
