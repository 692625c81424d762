//! Previews: Deployments that live as long as a pull request, and that the
//! agents of the Deployment they are made from run.

mod close;
mod environment;
pub(crate) mod http;
mod open;
mod show;
mod take;

use updraft_api::ErrorCode;
use updraft_model::DeploymentName;
use updraft_store::StoreError;

use crate::auth::AccessError;
use crate::deploy::DeployError;
use crate::deployment::DeploymentError;
use crate::error::{Problem, answers};

pub(crate) use close::{close, expire, let_go};
pub(crate) use open::open;
pub(crate) use show::{list, show};
pub(crate) use take::take;

#[derive(Debug, thiserror::Error)]
pub(crate) enum PreviewError {
    #[error("there is no Preview `{0}`")]
    NotFound(String),
    #[error("{0}")]
    Invalid(String),
    #[error("the Deployment `{0}` has no agent connected that could run a Preview")]
    NoAgent(DeploymentName),
    #[error("no agent of the Deployment `{0}` runs Previews")]
    NoPlaces(DeploymentName),
    #[error("all {places} places for Previews of `{from}` are taken: {names}")]
    Full {
        from: DeploymentName,
        places: u32,
        names: String,
    },
    #[error("another agent runs the Preview `{0}`")]
    Taken(DeploymentName),
    #[error("all names for a Preview of `{0}` are taken")]
    NoName(DeploymentName),
    #[error(transparent)]
    Access(#[from] AccessError),
    #[error(transparent)]
    Deployment(#[from] DeploymentError),
    #[error(transparent)]
    Deploy(#[from] DeployError),
    #[error("could not read or write Previews")]
    Store(#[from] StoreError),
}

impl Problem for PreviewError {
    fn code(&self) -> ErrorCode {
        match self {
            Self::NotFound(_) => ErrorCode::PreviewNotFound,
            Self::Invalid(_) => ErrorCode::InvalidRequest,
            Self::NoAgent(_) | Self::NoPlaces(_) | Self::Full { .. } => ErrorCode::NoPreviewPlace,
            Self::Taken(_) => ErrorCode::PreviewTaken,
            Self::NoName(_) => ErrorCode::NameTaken,
            Self::Access(error) => error.code(),
            Self::Deployment(error) => error.code(),
            Self::Deploy(error) => error.code(),
            Self::Store(error) => error.code(),
        }
    }

    fn help(&self) -> Option<String> {
        match self {
            Self::NotFound(_) => Some("see `updraft preview list`".into()),
            Self::NoAgent(from) => Some(format!("see `updraft status {from}`")),
            Self::NoPlaces(_) => {
                Some("start its agent with `updraft agent --previews 2`, or more".into())
            }
            Self::Full { .. } => Some(
                "close one with `updraft preview close`, or start the agent with more: `updraft agent --previews N`".into(),
            ),
            Self::NoName(_) => Some("see `updraft deployment list`".into()),
            Self::Access(error) => error.help(),
            Self::Deployment(error) => error.help(),
            Self::Deploy(error) => error.help(),
            Self::Store(error) => error.help().map(Into::into),
            Self::Invalid(_) | Self::Taken(_) => None,
        }
    }
}

answers!(PreviewError);
