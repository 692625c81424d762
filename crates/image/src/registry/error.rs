use std::io;
use std::path::PathBuf;

use updraft_model::Digest;

/// Why an image was not pushed.
#[derive(Debug, thiserror::Error)]
pub enum PushError {
    #[error("`{given}` is no repository to push to: {why}")]
    InvalidName { given: String, why: &'static str },
    #[error("the registry refused to {what} `{repository}` ({status}): {message}{}", scope_of(.scope.as_deref()))]
    Refused {
        what: &'static str,
        repository: String,
        status: u16,
        message: String,
        /// What a token would have had to be for.
        scope: Option<String>,
    },
    #[error("the registry `{registry}` cannot be reached")]
    Unreachable {
        registry: String,
        source: reqwest::Error,
    },
    #[error("the registry `{registry}` answers as none does: {why}")]
    Odd { registry: String, why: String },
    #[error("the registry `{registry}` sends passwords to `{realm}`, which is not encrypted")]
    InsecureRealm { registry: String, realm: String },
    #[error("`{}` is no image in OCI's layout: {why}", path.display())]
    Layout { path: PathBuf, why: String },
    #[error("`{}` cannot be read", path.display())]
    Io { path: PathBuf, source: io::Error },
    #[error("the image's blob {digest} is not what its name says")]
    Damaged { digest: Digest },
    #[error("the sign-in for `{registry}` in `{}` cannot be used: {why}", path.display())]
    Credentials {
        registry: String,
        path: PathBuf,
        why: String,
    },
    #[error("could not prepare a connection")]
    Setup(#[source] reqwest::Error),
}

fn scope_of(scope: Option<&str>) -> String {
    scope
        .map(|scope| format!("; it asks for the scope `{scope}`"))
        .unwrap_or_default()
}

impl PushError {
    /// One sentence that says what to do next.
    pub fn help(&self) -> Option<&'static str> {
        match self {
            Self::Refused {
                status: 401 | 403, ..
            } => Some("sign in with an account or token that may push there (`docker login`)"),
            Self::Refused { .. } | Self::Odd { .. } => {
                Some("see whether this is the registry's address, and what its log says")
            }
            Self::Unreachable { .. } => Some("see whether the registry is up and its name right"),
            Self::InsecureRealm { .. } => Some("have the registry use https for its tokens"),
            Self::Damaged { .. } | Self::Layout { .. } => Some("build the image again"),
            Self::Credentials { .. } => Some("sign in again with `docker login`"),
            Self::InvalidName { .. } | Self::Io { .. } | Self::Setup(_) => None,
        }
    }
}
