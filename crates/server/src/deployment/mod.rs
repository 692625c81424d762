//! Deployments: making, listing, changing, removing, and what runs where.

mod create;
mod dag_ids;
mod delete;
pub(crate) mod environment;
pub(crate) mod http;
mod show;
mod update;

use updraft_api::ErrorCode;
use updraft_store::StoreError;

use crate::auth::{AccessError, KeyError};
use crate::error::{Problem, answers};

pub(crate) use create::create;
pub(crate) use dag_ids::dag_ids;
pub(crate) use delete::delete;
pub(crate) use show::{list, show, status};
pub(crate) use update::update;

#[derive(Debug, thiserror::Error)]
pub(crate) enum DeploymentError {
    #[error("there is a Deployment `{0}` already")]
    NameTaken(String),
    #[error("{0}")]
    Invalid(String),
    #[error("the Deployment `{name}` has agents connected: {hosts}")]
    AgentsConnected { name: String, hosts: String },
    #[error(
        "the environment variables of the Deployment `{deployment}` cannot be decrypted: they were made with another key"
    )]
    Sealed { deployment: String, names: String },
    #[error(transparent)]
    Access(#[from] AccessError),
    #[error("could not encrypt the environment variables")]
    Key(#[from] KeyError),
    #[error("could not read or write Deployments")]
    Store(#[from] StoreError),
}

impl Problem for DeploymentError {
    fn code(&self) -> ErrorCode {
        match self {
            Self::NameTaken(_) => ErrorCode::NameTaken,
            Self::Invalid(_) | Self::AgentsConnected { .. } => ErrorCode::InvalidRequest,
            Self::Sealed { .. } | Self::Key(_) => ErrorCode::Internal,
            Self::Access(error) => error.code(),
            Self::Store(error) => error.code(),
        }
    }

    fn help(&self) -> Option<String> {
        match self {
            Self::NameTaken(_) => Some("choose another name, or change that one".into()),
            Self::AgentsConnected { .. } => Some(
                "stop its agents first, or delete it with --force (`?force=true`): Airflow then keeps running what it has"
                    .into(),
            ),
            Self::Sealed { names, .. } => Some(format!(
                "put the right `keys` folder back, or set or remove all of them in one `updraft deployment update`: {names}"
            )),
            Self::Key(error) => Some(error.help().into()),
            Self::Access(error) => error.help(),
            Self::Store(error) => error.help().map(Into::into),
            Self::Invalid(_) => None,
        }
    }
}

answers!(DeploymentError);
