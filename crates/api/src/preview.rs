//! Previews: Deployments that live as long as a pull request.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use updraft_model::{DeployId, DeploymentId, DeploymentName, PreviewValues};
use utoipa::ToSchema;

use crate::deploy::DeployView;

/// A pull request, and which of its repository's projects.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct PreviewOf {
    /// Such as `acme/sales`.
    pub repository: String,
    /// The project's folder in the repository; empty: the repository itself.
    #[serde(default)]
    pub project: String,
    pub pull_request: u64,
}

/// Makes the Preview of a pull request, or has the one that is there live on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct OpenPreview {
    #[serde(flatten)]
    pub of: PreviewOf,
    /// The branch that the pull request brings.
    #[serde(default)]
    pub branch: Option<String>,
    /// How long it lives without being opened again, in seconds.
    pub expire_s: u64,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct PreviewView {
    pub id: DeploymentId,
    /// Its own name, as a Deployment.
    pub name: DeploymentName,
    /// The Deployment that it is made from.
    pub from: DeploymentName,
    pub of: PreviewOf,
    pub branch: Option<String>,
    pub values: PreviewValues,
    pub created_at: DateTime<Utc>,
    pub expires_at: DateTime<Utc>,
    /// Where its Airflow answers, once it was started.
    pub url: Option<String>,
    /// The deploy whose Release is wanted.
    pub wanted_deploy: Option<Box<DeployView>>,
    /// The deploy whose Release was last proven.
    pub proven_deploy: Option<DeployId>,
}

#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct OpenedPreview {
    pub preview: PreviewView,
    /// Whether it was not there before.
    pub is_new: bool,
}

#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct Previews {
    pub previews: Vec<PreviewView>,
}
