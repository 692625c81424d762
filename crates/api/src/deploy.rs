//! Deploys: comparing, creating, uploading, accepting, following, undoing.

use std::collections::{BTreeMap, BTreeSet};

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use updraft_bundle::LayerTable;
use updraft_model::{
    BundleName, CheckStage, Checks, CiRun, DeployId, DeployKind, DeployState, DeploymentId,
    DeploymentName, Digest, Failure, GitState, Hold, Proof, Release, ReleasePart, Runtime,
    UnfinishedRuns,
};
use utoipa::ToSchema;

/// The parts of a Release that a deploy brings. A part that is absent keeps
/// what the wanted Release has.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Parts {
    /// Bundle name to the exact bytes of its OCI manifest.
    #[serde(default)]
    pub bundles: BTreeMap<BundleName, String>,
    /// The exact bytes of the Environment's OCI manifest.
    #[serde(default)]
    pub environment: Option<String>,
}

/// Asks what a deploy of these parts would change. Records nothing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct PlanRequest {
    pub parts: Parts,
}

/// Asks for a deploy. Answered like a plan; recorded when there is something to do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct CreateDeploy {
    pub parts: Parts,
    #[serde(default)]
    pub description: String,
    #[serde(default)]
    pub git: Option<GitState>,
    /// The pipeline run that asks.
    #[serde(default)]
    pub ci: Option<Box<CiRun>>,
    /// Whether Airflow's database may be taken back to what an older Airflow knows.
    #[serde(default)]
    pub allow_downgrade: bool,
    /// Also what a hold keeps back.
    #[serde(default, skip_serializing_if = "is_false")]
    pub force: bool,
    /// Made once per command, so that a repeated request finds its deploy
    /// instead of making a second one.
    pub key: String,
}

/// How given parts compare with the wanted Release.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Comparison {
    pub outcome: ComparisonOutcome,
    /// The wanted Release that the parts were compared with.
    pub wanted: Option<Release>,
    /// The deploy that was created, or the one whose Release this already is.
    pub deploy: Option<DeployView>,
    /// Blobs that the control plane lacks: of what is offered, and of the parts
    /// of the wanted Release that stay. Whoever has the latter sends them to an
    /// accepted deploy; a manifest among them comes back with any upload.
    pub missing: Vec<Digest>,
    /// For each given bundle, the file tables of those layers of the wanted
    /// bundle that the given one does not have: enough to name what differs.
    #[schema(value_type = Object)]
    pub replaced: BTreeMap<BundleName, Vec<LayerTable>>,
    /// The checks without which the Deployment accepts no deploy.
    #[serde(default)]
    pub require: Vec<CheckStage>,
    /// DAG runs under way, as an agent told them last.
    #[serde(default)]
    pub runs: Option<UnfinishedRuns>,
    /// How its agents run Airflow, which decides what an image half is.
    #[serde(default)]
    pub runtime: Runtime,
    /// Where its container images lie; none: in the control plane.
    #[serde(default)]
    pub registry: Option<String>,
    /// What container images have to be made for, as the agents that count say.
    #[serde(default)]
    pub platforms: BTreeSet<String>,
    /// The hold that keeps these parts back.
    #[serde(default)]
    pub hold: Option<Box<Hold>>,
    /// The newest deploy of each branch that pipelines deployed lately.
    #[serde(default)]
    pub landed: Vec<Landed>,
}

/// A pipeline run whose deploy was accepted and not taken back.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Landed {
    pub deploy: DeployId,
    pub ci: CiRun,
}

/// What a deploy of a pipeline takes for the newest one of its branch.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Order {
    /// None: there was none.
    #[serde(default)]
    pub after: Option<DeployId>,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde asks for it")]
const fn is_false(value: &bool) -> bool {
    !*value
}

/// Asks to make a deploy's Release the wanted one.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct AcceptDeploy {
    /// What was checked before, and how that went.
    pub checks: Option<Checks>,
    /// Refused when another deploy of its branch came in between; none: whatever came.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub order: Option<Order>,
    /// Also what a hold keeps back.
    #[serde(skip_serializing_if = "is_false")]
    pub force: bool,
}

/// Gives a deploy up before it was accepted.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct WithdrawDeploy {
    /// The checks that failed.
    pub checks: Option<Checks>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum ComparisonOutcome {
    /// Something differs.
    Changes,
    /// Equal to the wanted Release, and that is proven.
    NothingToDo,
    /// Equal to the wanted Release, which is still rolling out: wait for it.
    RollingOut,
    /// Equal to the wanted Release, which failed or timed out: it is proven
    /// again (by a plan: would be).
    ProvingAgain,
}

/// Files that differ between two versions of a bundle.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct FileChanges {
    pub added: Vec<String>,
    pub changed: Vec<String>,
    pub removed: Vec<String>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct DeployView {
    pub id: DeployId,
    pub deployment: DeploymentId,
    pub deployment_name: DeploymentName,
    pub kind: DeployKind,
    pub state: DeployState,
    /// Counts changes of this deploy; `seen` of a long poll refers to it.
    pub revision: i64,
    pub release: Option<Release>,
    /// The parts in which its Release differs from what was wanted before.
    #[serde(default)]
    pub changed: Vec<ReleasePart>,
    /// The files that it changed, by bundle; known from acceptance on.
    pub files: BTreeMap<BundleName, FileChanges>,
    pub description: String,
    pub git: Option<GitState>,
    /// The pipeline run that asked for it, as it said.
    #[serde(default)]
    pub ci: Option<Box<CiRun>>,
    /// The name of the token that asked for it.
    pub created_by: String,
    pub created_at: DateTime<Utc>,
    pub accepted_at: Option<DateTime<Utc>>,
    /// When every agent with a lease had the Release on its disk and switched to it.
    pub on_disk_at: Option<DateTime<Utc>>,
    /// When it was proven last, also if another has taken its place since.
    #[serde(default)]
    pub proven_at: Option<DateTime<Utc>>,
    /// When it ended: live, failed or timed out.
    pub ended_at: Option<DateTime<Utc>>,
    /// Why it failed; kept when its state goes on to rolled back.
    #[serde(default)]
    pub failure: Option<Failure>,
    /// The last proof, when the state went on and has it no more. Lists leave it out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub proof: Option<Proof>,
    /// What was checked before it, told by whoever deployed. Lists leave the findings out.
    #[serde(default)]
    pub checks: Option<Checks>,
    /// For a rollback, the deploy that it returns to.
    pub returns_to: Option<DeployId>,
    /// For a promotion, the deploy of another Deployment whose Release it takes.
    #[serde(default)]
    pub promotes: Option<DeployId>,
    /// Whether an agent with a lease was there at the last look.
    pub agents_connected: u32,
    /// Agents whose lease ran out, by host: named, not waited for.
    pub agents_lost: Vec<String>,
    /// What an agent is busy with, in one sentence.
    pub activity: Option<String>,
}

#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct Deploys {
    /// Newest first.
    pub deploys: Vec<DeployView>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct RollbackRequest {
    /// The deploy to return to; by default the last proven one that differs.
    #[serde(default)]
    pub to: Option<DeployId>,
    #[serde(default)]
    pub description: String,
    /// Whether Airflow's database may be taken back to what an older Airflow knows.
    #[serde(default)]
    pub allow_downgrade: bool,
    pub key: String,
}

/// What a promotion takes of another Deployment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct PromotionSource {
    pub from: DeploymentName,
    #[serde(default)]
    pub halves: PromotedHalves,
    /// Take what it should run also when that never was live.
    #[serde(default)]
    pub allow_unproven: bool,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum PromotedHalves {
    #[default]
    Both,
    /// Its bundles.
    Dags,
    Image,
}

/// Asks to deploy what another Deployment has.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct PromoteRequest {
    pub source: PromotionSource,
    #[serde(default)]
    pub description: String,
    /// Whether Airflow's database may be taken back to what an older Airflow knows.
    #[serde(default)]
    pub allow_downgrade: bool,
    /// Also what a hold keeps back.
    #[serde(default)]
    pub force: bool,
    pub key: String,
}

/// What a promotion comes to.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Promotion {
    pub outcome: ComparisonOutcome,
    /// The deploy of the other Deployment whose Release is taken.
    pub taken: DeployId,
    /// What the other one should run by now, where that is not proven and so not taken.
    pub newer: Option<DeployId>,
    /// What was wanted before.
    pub wanted: Option<Release>,
    /// What is wanted then.
    pub release: Release,
    pub changed: Vec<ReleasePart>,
    pub files: BTreeMap<BundleName, FileChanges>,
    /// DAG runs under way, as an agent told them last.
    pub runs: Option<UnfinishedRuns>,
    /// The hold that keeps it back.
    pub hold: Option<Box<Hold>>,
    /// The new deploy, or the one whose Release this already is.
    pub deploy: Option<DeployView>,
}

/// What a lifted hold kept back.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct LiftedHold {
    /// None: there was none.
    pub hold: Option<Hold>,
}

/// How two deploys' Releases differ.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct DiffView {
    /// Absent when nothing was deployed before.
    pub from: Option<DeployId>,
    pub to: DeployId,
    pub bundles: BTreeMap<BundleName, FileChanges>,
    pub image_changed: bool,
    /// DAGs, as Airflow answered at each deploy's proof.
    pub dags: FileChanges,
}
