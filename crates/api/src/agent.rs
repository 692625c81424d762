//! What an agent asks and tells.
//!
//! The agent's side has two verbs: read what is wanted (a long poll), and
//! report what is so. Everything else follows from comparing the two.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use updraft_model::{
    AgentId, AirflowNames, DagIds, DeployId, DeploymentId, DeploymentName, Digest, ImportError,
    PreviewValues, Proof, Release, ReleaseId, Runtime, UnfinishedRuns,
};
use utoipa::ToSchema;

/// What one Deployment's agents should make true.
#[derive(Clone, Serialize, Deserialize, ToSchema)]
pub struct Wanted {
    /// Grows with every change of this answer; a long poll names the one it has.
    pub generation: i64,
    pub deployment: DeploymentId,
    pub deployment_name: DeploymentName,
    pub runtime: Runtime,
    pub executor: String,
    /// The Deployment's environment variables, in clear: they go to Airflow's
    /// processes and nowhere else.
    pub environment: BTreeMap<String, String>,
    /// Nothing was deployed yet when this is absent.
    pub target: Option<Target>,
    /// The last Release that was live: what a proof compares with.
    pub proven: Option<Release>,
    /// Digests whose files stay on disk whatever else is there.
    pub keep: Vec<Digest>,
    /// How long this agent counts after a report, in seconds.
    pub lease_s: u32,
    /// Where a DAG run's version link leads; `{version}` stands for the digest.
    pub view_url: String,
    /// The Previews that are made from this Deployment, for its agents to run.
    #[serde(default)]
    pub previews: Vec<WantedPreview>,
}

/// A Preview that an agent of the Deployment it is made from has to run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct WantedPreview {
    /// The Preview's own Deployment.
    pub id: DeploymentId,
    pub name: DeploymentName,
    /// What its Airflow gets of this Deployment's connections, variables and pools.
    pub values: PreviewValues,
    /// The agent that took it; none: any that has a place may.
    pub agent: Option<AgentId>,
}

/// An agent takes a Preview.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct TakePreview {
    pub agent: AgentId,
}

/// What the agent that took a Preview runs it with.
#[derive(Clone, Serialize, Deserialize, ToSchema)]
pub struct TakenPreview {
    /// A token of the role agent, for the Preview's own Deployment.
    pub secret: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Target {
    pub deploy: DeployId,
    pub release: Release,
    /// Grows each time the same Release has to be proven again.
    pub attempt: u32,
    /// Whether every agent with a lease has the Release staged: only then does
    /// any of them switch.
    pub may_switch: bool,
    /// Seconds that are left for the proof.
    pub proof_timeout_s: u32,
    /// Whether Airflow's database may be taken back to what an older Airflow knows.
    #[serde(default)]
    pub allow_downgrade: bool,
}

/// What an agent sees, whole: a lost report costs nothing, the next one says
/// the same.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Report {
    pub agent: AgentId,
    pub host: String,
    pub version: String,
    /// The generation that the agent works towards.
    pub generation: i64,
    /// The Release that is fetched and verified, ready to switch to.
    pub staged: Option<ReleaseId>,
    /// The Release that the live tree is, byte for byte.
    pub serving: Option<ReleaseId>,
    pub proof: Option<ProofReport>,
    /// What the agent is busy with, in one sentence.
    pub activity: Option<String>,
    pub problem: Option<Problem>,
    pub isolation: String,
    /// What a container image has to be made for, as in `linux/amd64`.
    #[serde(default)]
    pub platform: Option<String>,
    pub airflow: Option<AirflowView>,
    /// DAGs that Airflow knows, and its import errors, at the last look.
    pub dags: Option<u64>,
    #[serde(default)]
    pub import_errors: Vec<ImportError>,
    /// What DAG files can ask Airflow for, at the last look.
    #[serde(default)]
    pub names: Option<AirflowNames>,
    /// Stands for the ids of Airflow's DAGs at the last look; they are told apart from
    /// this, when the answer says that they lack.
    #[serde(default)]
    pub dag_ids: Option<Digest>,
    /// DAG runs that had not ended at the last look.
    #[serde(default)]
    pub runs: Option<UnfinishedRuns>,
    /// How many Previews this agent runs at most.
    #[serde(default)]
    pub preview_places: u32,
}

/// The ids of the DAGs that an agent's Airflow has.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct DagIdsReport {
    pub agent: AgentId,
    /// What stands for them in [`Report::dag_ids`].
    pub digest: Digest,
    pub bundles: DagIds,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ProofReport {
    pub release: ReleaseId,
    pub attempt: u32,
    /// When the live tree was switched.
    pub switched_at: DateTime<Utc>,
    pub proof: Proof,
}

/// Why an agent does not get on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Problem {
    pub message: String,
    /// Whether it needs somebody to act; otherwise the agent tries again.
    pub stalled: bool,
}

/// Airflow, as its agent runs it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct AirflowView {
    pub version: String,
    pub python: String,
    /// Where Airflow differs from what the Release asks for.
    pub note: Option<String>,
    pub url: Option<String>,
    pub components: Vec<ComponentView>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ComponentView {
    pub name: String,
    pub state: ComponentState,
    pub pid: Option<u32>,
    /// Times that it crashed and was started again.
    pub restarts: u32,
    /// The end of its log, after a crash.
    pub last_error: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum ComponentState {
    Starting,
    Running,
    /// Crashed; started again after a pause.
    Waiting,
    Stopped,
    /// Replaced: it takes no new work and ends with its tasks.
    Draining,
    /// One that a later release has.
    #[serde(other)]
    Unknown,
}

#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct ReportAnswer {
    /// The newest generation; larger than the reported one: ask again at once.
    pub generation: i64,
    pub lease_until: DateTime<Utc>,
    /// Whether the DAG ids that the report stands for are not known yet.
    #[serde(default)]
    pub lacks_dag_ids: bool,
}

/// Blobs that an agent lacks; answered as [`crate::frames`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct FetchBlobs {
    pub digests: Vec<Digest>,
}
