//! How errors leave the building.
//!
//! Each noun has its own enum with a code, a help and a text. At the edge they
//! all become an [`ApiError`]; the outermost layer turns that into a body,
//! where the request id is known.

use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use updraft_api::ErrorCode;
use updraft_blob::BlobError;
use updraft_store::StoreError;

/// An error on its way out.
#[derive(Debug, Clone)]
pub(crate) struct ApiError {
    pub(crate) code: ErrorCode,
    pub(crate) message: String,
    pub(crate) help: Option<String>,
}

/// What every error of ours can say about itself.
pub(crate) trait Problem: std::error::Error {
    fn code(&self) -> ErrorCode;
    /// One sentence that says what to do next.
    fn help(&self) -> Option<String>;
}

impl<E: Problem> From<&E> for ApiError {
    fn from(error: &E) -> Self {
        let code = error.code();
        if code == ErrorCode::Internal {
            tracing::error!(error = %chain(error), "a request failed");
        }
        Self {
            code,
            message: error.to_string(),
            help: error.help(),
        }
    }
}

/// An error and its causes, on one line.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}

/// Makes an error of a noun an answer.
macro_rules! answers {
    ($($error:ty),*) => {$(
        impl axum::response::IntoResponse for $error {
            fn into_response(self) -> axum::response::Response {
                crate::error::ApiError::from(&self).into_response()
            }
        }
    )*};
}
pub(crate) use answers;

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let mut response = status_of(self.code).into_response();
        response.extensions_mut().insert(self);
        response
    }
}

/// The status that goes with each code.
pub(crate) const fn status_of(code: ErrorCode) -> StatusCode {
    match code {
        ErrorCode::TokenMissing
        | ErrorCode::TokenMalformed
        | ErrorCode::TokenExpired
        | ErrorCode::TokenRevoked => StatusCode::UNAUTHORIZED,
        ErrorCode::Forbidden | ErrorCode::EnrollmentCodeRefused | ErrorCode::IdentityRefused => {
            StatusCode::FORBIDDEN
        }
        ErrorCode::DeploymentNotFound
        | ErrorCode::DeployNotFound
        | ErrorCode::TokenNotFound
        | ErrorCode::TrustNotFound
        | ErrorCode::PreviewNotFound
        | ErrorCode::BlobNotFound
        | ErrorCode::RouteNotFound => StatusCode::NOT_FOUND,
        ErrorCode::InvalidRequest => StatusCode::BAD_REQUEST,
        ErrorCode::NameTaken
        | ErrorCode::ImageMissing
        | ErrorCode::ImageUnsuitable
        | ErrorCode::DeployState
        | ErrorCode::NotARollbackTarget
        | ErrorCode::OnHold
        | ErrorCode::MovedOn
        | ErrorCode::NotProven
        | ErrorCode::NoPreviewPlace
        | ErrorCode::PreviewTaken
        | ErrorCode::BlobsMissing => StatusCode::CONFLICT,
        ErrorCode::BundleRefused
        | ErrorCode::BlobCorrupt
        | ErrorCode::ChecksRequired
        | ErrorCode::ChecksRefused => StatusCode::UNPROCESSABLE_ENTITY,
        ErrorCode::LimitExceeded => StatusCode::PAYLOAD_TOO_LARGE,
        ErrorCode::StorageFull => StatusCode::INSUFFICIENT_STORAGE,
        ErrorCode::VersionSkew => StatusCode::UPGRADE_REQUIRED,
        ErrorCode::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
        ErrorCode::Internal | ErrorCode::Unknown => StatusCode::INTERNAL_SERVER_ERROR,
    }
}

impl Problem for StoreError {
    fn code(&self) -> ErrorCode {
        match self {
            Self::Full(_) => ErrorCode::StorageFull,
            Self::Unavailable(_) | Self::Conflict => ErrorCode::Unavailable,
            Self::Database(_)
            | Self::Unreadable { .. }
            | Self::Migrate(_)
            | Self::TooNew { .. }
            | Self::Copy { .. } => ErrorCode::Internal,
        }
    }

    fn help(&self) -> Option<String> {
        Self::help(self).map(Into::into)
    }
}

impl Problem for BlobError {
    fn code(&self) -> ErrorCode {
        match self {
            Self::WrongDigest { .. } | Self::Corrupt(_) => ErrorCode::BlobCorrupt,
            Self::Full(_) => ErrorCode::StorageFull,
            Self::UploadBusy => ErrorCode::Unavailable,
            Self::Store(_) | Self::Io { .. } | Self::NoUploads => ErrorCode::Internal,
        }
    }

    fn help(&self) -> Option<String> {
        match self {
            Self::WrongDigest { .. } | Self::Corrupt(_) | Self::Full(_) | Self::UploadBusy => {
                Some(Self::help(self).into())
            }
            // The log says more, and who asked cannot look at the disk.
            Self::Store(_) | Self::Io { .. } | Self::NoUploads => None,
        }
    }
}
