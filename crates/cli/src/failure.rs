//! An outcome that stops a command: what happened, why, what to do next.
//!
//! Every error of a part is turned into one of these here, without wildcard
//! arms, so that a new variant has to choose its exit code.

use std::error::Error;
use std::io;

use updraft_api::{ClientError, ErrorCode};
use updraft_bundle::ScanError;
use updraft_project::ProjectError;

use crate::exit::Exit;

pub(crate) type Result<T, E = Failure> = std::result::Result<T, E>;

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Failure {
    pub(crate) exit: Exit,
    /// What scripts match on, finer than the exit code.
    pub(crate) code: String,
    pub(crate) message: String,
    pub(crate) causes: Vec<String>,
    pub(crate) help: Option<String>,
}

impl Failure {
    pub(crate) fn new(exit: Exit, message: impl Into<String>) -> Self {
        Self {
            exit,
            code: exit.name().to_owned(),
            message: message.into(),
            causes: Vec::new(),
            help: None,
        }
    }

    /// From an error and what lies under it.
    pub(crate) fn from_error(exit: Exit, error: &(dyn Error + 'static)) -> Self {
        let message = error.to_string();
        let mut causes = causes(error.source());
        causes.retain(|cause| !message.contains(cause.as_str()));
        Self {
            causes,
            ..Self::new(exit, message)
        }
    }

    #[must_use]
    pub(crate) fn help(mut self, help: impl Into<String>) -> Self {
        self.help = Some(help.into());
        self
    }

    /// Another way besides, where there is one already.
    #[must_use]
    pub(crate) fn or_help(mut self, other: &str) -> Self {
        self.help = Some(match self.help {
            Some(help) => format!("{help}; {other}"),
            None => other.to_owned(),
        });
        self
    }

    #[must_use]
    pub(crate) fn code(mut self, code: impl Into<String>) -> Self {
        self.code = code.into();
        self
    }

    #[must_use]
    pub(crate) fn cause(mut self, error: &(dyn Error + 'static)) -> Self {
        self.causes.extend(causes(Some(error)));
        self
    }

    /// For a file or folder that could not be used.
    pub(crate) fn file(what: &str, path: &std::path::Path, error: &io::Error) -> Self {
        let exit = exit_of_io(error, Exit::Internal);
        Self::new(exit, format!("could not {what} `{}`", path.display())).cause(error)
    }

    pub(crate) fn interrupted() -> Self {
        Self::new(Exit::Interrupted, "interrupted")
    }
}

/// The texts of an error and its sources, leaving out those that say the same.
fn causes(mut next: Option<&(dyn Error + 'static)>) -> Vec<String> {
    let mut texts: Vec<String> = Vec::new();
    while let Some(error) = next {
        let text = error.to_string();
        if texts.last().is_none_or(|last| !last.contains(&text)) {
            texts.push(text);
        }
        next = error.source();
    }
    texts
}

/// A full disk has an exit code of its own, wherever it shows.
pub(crate) fn exit_of_io(error: &io::Error, otherwise: Exit) -> Exit {
    match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Exit::StorageFull,
        _ => otherwise,
    }
}

/// The same for an I/O error anywhere in a chain of sources.
pub(crate) fn exit_of_chain(error: &(dyn Error + 'static), otherwise: Exit) -> Exit {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(io) = error.downcast_ref::<io::Error>() {
            return exit_of_io(io, otherwise);
        }
        next = error.source();
    }
    otherwise
}

fn exit_of_code(code: ErrorCode) -> Exit {
    match code {
        ErrorCode::TokenMissing
        | ErrorCode::TokenMalformed
        | ErrorCode::TokenExpired
        | ErrorCode::TokenRevoked
        | ErrorCode::EnrollmentCodeRefused
        | ErrorCode::IdentityRefused => Exit::NotSignedIn,
        ErrorCode::Forbidden => Exit::NotAllowed,
        ErrorCode::DeploymentNotFound
        | ErrorCode::DeployNotFound
        | ErrorCode::TokenNotFound
        | ErrorCode::TrustNotFound
        | ErrorCode::PreviewNotFound
        | ErrorCode::BlobNotFound => Exit::NotFound,
        ErrorCode::InvalidRequest
        | ErrorCode::BundleRefused
        | ErrorCode::ImageUnsuitable
        | ErrorCode::LimitExceeded => Exit::Refused,
        ErrorCode::NameTaken
        | ErrorCode::ImageMissing
        | ErrorCode::DeployState
        | ErrorCode::NotARollbackTarget
        | ErrorCode::OnHold
        | ErrorCode::NoPreviewPlace
        | ErrorCode::PreviewTaken
        | ErrorCode::NotProven => Exit::Conflict,
        ErrorCode::MovedOn => Exit::Superseded,
        ErrorCode::ChecksRequired | ErrorCode::ChecksRefused => Exit::CheckFailed,
        ErrorCode::StorageFull => Exit::StorageFull,
        ErrorCode::VersionSkew => Exit::VersionMismatch,
        ErrorCode::Unavailable => Exit::Unreachable,
        ErrorCode::RouteNotFound
        | ErrorCode::BlobCorrupt
        | ErrorCode::BlobsMissing
        | ErrorCode::Internal
        | ErrorCode::Unknown => Exit::Internal,
    }
}

impl From<ClientError> for Failure {
    fn from(error: ClientError) -> Self {
        let exit = match &error {
            ClientError::Address { .. } | ClientError::InsecureAddress(_) => Exit::Refused,
            ClientError::Unreachable { .. }
            | ClientError::Silent { .. }
            | ClientError::Unanswered { .. }
            | ClientError::NotUpdraft { .. } => Exit::Unreachable,
            ClientError::Refused { body, .. } => exit_of_code(body.code),
            ClientError::Setup(_) | ClientError::Frames(_) => Exit::Internal,
        };
        let mut failure = Self::from_error(exit, &error);
        failure.help = error.help();
        if let ClientError::Refused { body, .. } = &error {
            if let Ok(serde_json::Value::String(code)) = serde_json::to_value(body.code) {
                failure.code = code;
            }
            if exit == Exit::Internal && !body.request_id.is_empty() {
                failure.causes.push(format!(
                    "the server's log has it as request {}",
                    body.request_id
                ));
            }
            if exit == Exit::NotSignedIn && failure.help.is_none() {
                failure.help =
                    Some("sign in with `updraft login URL`, or set UPDRAFT_TOKEN".into());
            }
        }
        failure
    }
}

impl From<ProjectError> for Failure {
    fn from(error: ProjectError) -> Self {
        let exit = exit_of_chain(&error, Exit::Refused);
        Self::from_error(exit, &error).help(error.help())
    }
}

impl From<ScanError> for Failure {
    fn from(error: ScanError) -> Self {
        let exit = match &error {
            ScanError::Write(source) => exit_of_io(source, Exit::Internal),
            ScanError::UnknownLayer(_) => Exit::Internal,
            ScanError::Root { .. }
            | ScanError::NotUtf8 { .. }
            | ScanError::PathTooLong { .. }
            | ScanError::Limit { .. }
            | ScanError::LinkLeaves { .. }
            | ScanError::Special { .. }
            | ScanError::Changed { .. }
            | ScanError::Unreadable { .. }
            | ScanError::IgnoreFile { .. } => Exit::Refused,
        };
        Self::from_error(exit, &error).help(error.help())
    }
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        Self::from_error(exit_of_io(&error, Exit::Internal), &error)
    }
}

impl From<serde_json::Error> for Failure {
    fn from(error: serde_json::Error) -> Self {
        Self::new(Exit::Internal, "could not write JSON").cause(&error)
    }
}

impl From<tokio::task::JoinError> for Failure {
    fn from(error: tokio::task::JoinError) -> Self {
        Self::new(Exit::Internal, "a thread ended before its work").cause(&error)
    }
}
