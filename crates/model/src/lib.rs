//! The words of Updraft as types: ids, names, digests, releases, deploys and
//! their states, proofs, roles. No input, no output, no clock.
//!
//! Start with [`Release`] (what a Deployment runs), [`DeployState`] (how one
//! attempt to change that goes) and [`Proof`] (what Airflow answered).

mod check;
mod ci;
mod container;
mod dag_ids;
mod deploy;
mod deployment;
mod digest;
mod git;
mod hold;
mod id;
mod name;
mod nearest;
mod preview;
mod proof;
mod release;
mod repository;
mod role;
mod runs;
mod trust;

pub use check::{AirflowNames, CheckFinding, CheckStage, Checks, StageResult};
pub use ci::{CiProvider, CiRun, PullRequest};
pub use container::{ContainerImage, InvalidContainerImage};
pub use dag_ids::{BundleDags, DagId, DagIds};
pub use deploy::{DeployKind, DeployState, Failure, InvalidTransition};
pub use deployment::{AfterFailure, Runtime};
pub use digest::{Digest, InvalidDigest};
pub use git::GitState;
pub use hold::{Held, HeldRelease, Hold};
pub use id::{
    AgentId, DeployId, DeploymentId, EnrollmentId, ExchangeId, InvalidId, ReleaseId, TokenId,
    TrustId, UploadId, WorkspaceId,
};
pub use name::{BundleName, DeploymentName, InvalidName};
pub use nearest::nearest;
pub use preview::{InvalidPreviewValues, PreviewValues};
pub use proof::{DagChanges, ImportError, Proof, ProofOutcome, ProofTimings};
pub use release::{BundleRef, ImageRef, Release, ReleasePart};
pub use repository::{InvalidRepository, InvalidTag, OciDigest, RepositoryName, Tag};
pub use role::{Role, Scope};
pub use runs::UnfinishedRuns;
pub use trust::{EVENTS_OF_OTHERS, ExchangeOutcome, Expected, Identity, TrustProvider};

/// A point in time, always UTC.
pub type Timestamp = chrono::DateTime<chrono::Utc>;
