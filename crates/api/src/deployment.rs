//! Deployments: making, listing, changing, and what runs where.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use updraft_model::{
    AfterFailure, AgentId, AirflowNames, BundleName, CheckStage, DagId, DeployId, DeploymentId,
    DeploymentName, Hold, ImportError, PreviewValues, Release, Runtime, WorkspaceId,
};
use utoipa::ToSchema;

use crate::agent::{AirflowView, Problem};
use crate::deploy::DeployView;

/// The settings of a Deployment that a request may give. What is absent keeps
/// its value, or gets the default at creation.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct DeploymentSettings {
    pub after_failure: Option<AfterFailure>,
    /// How long a deploy may take to be proven, in seconds (default 300).
    pub proof_timeout_s: Option<u32>,
    /// How many Releases keep their files on agents besides the wanted and the proven one (default 10).
    pub keep_releases: Option<u32>,
    pub runtime: Option<Runtime>,
    /// The repository that its container images lie in, as in `ghcr.io/acme/airflow`;
    /// empty: that of this control plane.
    pub registry: Option<String>,
    /// The Airflow executor (default `LocalExecutor`).
    pub executor: Option<String>,
    pub description: Option<String>,
    /// Checks without which no deploy is accepted; an empty list asks for none.
    pub require: Option<Vec<CheckStage>>,
    /// Whether nobody but trusted pipelines may deploy (default false). Anybody with the role goes back.
    pub ci_only: Option<bool>,
    /// What Previews that are made from it have of its connections and variables (default mask).
    pub preview_values: Option<PreviewValues>,
    /// Environment variables of Airflow's processes: a value sets, null removes.
    /// Kept encrypted, never given back by the API.
    pub environment: BTreeMap<String, Option<String>>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct CreateDeployment {
    pub name: DeploymentName,
    #[serde(default)]
    pub settings: DeploymentSettings,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct DeploymentView {
    pub id: DeploymentId,
    pub name: DeploymentName,
    pub workspace: WorkspaceId,
    pub created_at: DateTime<Utc>,
    pub description: String,
    pub after_failure: AfterFailure,
    pub proof_timeout_s: u32,
    pub keep_releases: u32,
    pub runtime: Runtime,
    /// Where its container images lie; none: in this control plane.
    #[serde(default)]
    pub registry: Option<String>,
    pub executor: String,
    /// Checks without which no deploy is accepted.
    #[serde(default)]
    pub require: Vec<CheckStage>,
    /// Whether nobody but trusted pipelines may deploy.
    #[serde(default)]
    pub ci_only: bool,
    /// What Previews that are made from it have of its connections and variables.
    #[serde(default)]
    pub preview_values: PreviewValues,
    /// For a Preview, the Deployment that it is made from.
    #[serde(default)]
    pub preview_of: Option<DeploymentId>,
    /// The names of the environment variables; values are not given back.
    pub environment: Vec<String>,
    /// The newest accepted Release that was not undone.
    pub wanted: Option<Release>,
    /// The last Release that was live.
    pub proven: Option<Release>,
    /// What a rollback keeps from coming back.
    #[serde(default)]
    pub hold: Option<Box<Hold>>,
}

#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct Deployments {
    pub deployments: Vec<DeploymentView>,
}

/// What runs where, in one answer.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct StatusView {
    pub deployment: DeploymentView,
    /// The deploy whose Release is wanted.
    pub wanted_deploy: Option<DeployView>,
    /// The deploy whose Release was last proven.
    pub proven_deploy: Option<DeployId>,
    pub agents: Vec<AgentView>,
    pub dags: Option<u64>,
    pub import_errors: Vec<ImportError>,
    /// What DAG files can ask its Airflow for; none where no agent tells.
    #[serde(default)]
    pub names: Option<AirflowNames>,
}

/// The ids of a Deployment's DAGs, as its Airflow has them.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct DeploymentDags {
    /// Those bundles whose wanted version Airflow is known to have taken in.
    pub bundles: BTreeMap<BundleName, Vec<DagId>>,
}

/// An agent as the control plane last heard of it.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct AgentView {
    pub id: AgentId,
    pub host: String,
    pub version: String,
    pub first_seen: DateTime<Utc>,
    pub last_seen: DateTime<Utc>,
    /// Whether its lease holds; a deploy waits only for agents whose lease does.
    pub connected: bool,
    pub serving: Option<Release>,
    /// Who can read what: whether DAG code runs as a user of its own.
    pub isolation: String,
    pub airflow: Option<AirflowView>,
    pub problem: Option<Problem>,
}
