//! Pipelines that deploy without a token of ours.
//!
//! ```text
//! pipeline ─ identity (JWT) ─▶ exchange ─ issuers: whose key signed it?
//!                                       ─ identity: may it be believed, now?
//!                                       ─ claims: is it what a trust asks for?
//!          ◀─ token, 15 minutes ────────┘
//! ```

mod add;
mod claims;
mod exchange;
pub(crate) mod http;
mod identity;
mod issuers;
mod log;

use updraft_api::ErrorCode;
use updraft_model::{Identity, Scope, TrustId};
use updraft_store::StoreError;

use super::TokenError;
use super::caller::AccessError;
use crate::error::{Problem, answers};

pub(crate) use add::{add, list, remove};
pub(crate) use exchange::exchange;
pub(crate) use issuers::Issuers;
pub(crate) use log::{Refusals, exchanges};

#[derive(Debug, thiserror::Error)]
pub(crate) enum TrustError {
    #[error("there is no trust `{0}`")]
    NotFound(TrustId),
    #[error("{0}")]
    Invalid(String),
    #[error("the identity is {bytes} bytes long; {most} is the most")]
    TooLarge { bytes: usize, most: usize },
    #[error("the identity cannot be read: it is no signed JWT with an issuer")]
    NoJwt,
    #[error("the identity is signed by `{0}`, which is not taken: anybody could have made it")]
    Algorithm(String),
    #[error("nothing here trusts the issuer `{issuer}`{}", for_deployment(.deployment.as_deref()))]
    NoTrust {
        issuer: String,
        deployment: Option<String>,
    },
    #[error("the issuer `{issuer}` has no key {} that fits the identity", .key.as_deref().unwrap_or("without an id"))]
    UnknownKey { issuer: String, key: Option<String> },
    #[error("the identity is not signed by its issuer `{0}`")]
    Signature(String),
    // Why is in the log alone: anybody may ask, and the issuer may be in an inner network.
    #[error("the keys of the issuer `{0}` cannot be had, so nobody is let in with them")]
    IssuerDown(String),
    #[error("{0}")]
    Refused(Box<Refusal>),
    #[error("the identity fits trusts of several Deployments: {}", .0.join(", "))]
    Ambiguous(Vec<String>),
    #[error(transparent)]
    Token(#[from] TokenError),
    #[error(transparent)]
    Access(#[from] AccessError),
    #[error("could not read or write trusts")]
    Store(#[from] StoreError),
}

/// An identity with a good signature that is not what is asked for.
#[derive(Debug)]
pub(crate) struct Refusal {
    identity: Identity,
    /// The trust that it is nearest to.
    trust: Option<(TrustId, Scope)>,
    /// For whoever asked.
    told: String,
    /// For the log.
    why: String,
}

impl std::fmt::Display for Refusal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "the identity `{}` is refused: {}",
            self.identity, self.told
        )
    }
}

fn for_deployment(name: Option<&str>) -> String {
    name.map(|name| format!(" for the Deployment `{name}`"))
        .unwrap_or_default()
}

impl Problem for TrustError {
    fn code(&self) -> ErrorCode {
        match self {
            Self::NotFound(_) => ErrorCode::TrustNotFound,
            Self::Invalid(_) | Self::Ambiguous(_) => ErrorCode::InvalidRequest,
            Self::TooLarge { .. }
            | Self::NoJwt
            | Self::Algorithm(_)
            | Self::NoTrust { .. }
            | Self::UnknownKey { .. }
            | Self::Signature(_)
            | Self::Refused(_) => ErrorCode::IdentityRefused,
            Self::IssuerDown(_) => ErrorCode::Unavailable,
            Self::Token(error) => error.code(),
            Self::Access(error) => error.code(),
            Self::Store(error) => error.code(),
        }
    }

    fn help(&self) -> Option<String> {
        match self {
            Self::NotFound(_) => Some("see `updraft trust list`".into()),
            Self::TooLarge { .. } | Self::NoJwt | Self::Algorithm(_) | Self::Signature(_) => {
                Some("send the identity as the pipeline's tool gives it".into())
            }
            Self::NoTrust { .. } => Some(
                "an admin adds a trust with `updraft trust add`; `updraft trust list` shows those that there are".into(),
            ),
            Self::UnknownKey { .. } => {
                Some("have the job ask for a new identity: the issuer may have new keys".into())
            }
            Self::IssuerDown(_) => {
                Some("try again once the issuer answers; the control plane's log says why it does not".into())
            }
            Self::Refused(refusal) => Some(match &refusal.trust {
                Some((trust, _)) => format!(
                    "run it where that is so, or have an admin replace the trust {trust}; `updraft trust log` has each refusal"
                ),
                None => "have the job ask for a new identity".into(),
            }),
            Self::Ambiguous(_) => Some("name the Deployment".into()),
            Self::Token(error) => error.help(),
            Self::Access(error) => error.help(),
            Self::Store(error) => error.help().map(Into::into),
            Self::Invalid(_) => None,
        }
    }
}

answers!(TrustError);
