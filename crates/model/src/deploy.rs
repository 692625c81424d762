//! The state of a deploy, as a machine.
//!
//! ```text
//! created → uploading → accepted → rolling out → live | failed | timed out
//!                          │            │          │      │        │
//!    └── expired           └────────────┴──────────┴──────┴────────┴→ superseded | rolled back
//! ```
//!
//! A timed-out deploy is still wanted: evidence that comes later makes it live
//! or failed. A failed or timed-out one can be proven again, which sends it back
//! to rolling out. Everything else only moves to the right.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use chrono::{DateTime, Utc};

use crate::{DeployId, Proof};

/// Where one deploy stands, with the facts that are true only there.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(tag = "name", rename_all = "snake_case")]
pub enum DeployState {
    /// Recorded; nothing has been sent.
    Created,
    /// Blobs are missing and are being sent.
    Uploading,
    /// Its Release is the wanted one; no agent has begun.
    Accepted,
    /// At least one agent is fetching, switching or proving.
    RollingOut {
        since: DateTime<Utc>,
    },
    /// Every agent with a lease serves the Release and Airflow has its content.
    Live {
        since: DateTime<Utc>,
        proof: Proof,
    },
    Failed {
        at: DateTime<Utc>,
        failure: Failure,
    },
    /// Time ran out; the Release is still wanted.
    TimedOut {
        at: DateTime<Utc>,
        seen: String,
        not_seen: String,
    },
    /// A later deploy took its place.
    Superseded {
        at: DateTime<Utc>,
        by: DeployId,
    },
    /// Its upload was never finished.
    Expired {
        at: DateTime<Utc>,
    },
    /// A later deploy took its parts back.
    RolledBack {
        at: DateTime<Utc>,
        by: DeployId,
    },
}

/// Why a deploy failed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(tag = "kind", rename_all = "snake_case")]
#[expect(
    clippy::large_enum_variant,
    reason = "one failure at a time is held, and most are the large one"
)]
pub enum Failure {
    /// Airflow could not import files that the change affects.
    ImportErrors { proof: Proof },
    /// An agent could not make the Release so and cannot by itself.
    Agent { message: String },
}

/// What brought a deploy about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum DeployKind {
    Deploy,
    Rollback,
    /// The Deployment's policy took a failed deploy back.
    AutomaticRollback,
    /// What another Deployment has, deployed to this one.
    Promotion,
}

impl DeployKind {
    pub const fn name(self) -> &'static str {
        match self {
            Self::Deploy => "deploy",
            Self::Rollback => "rollback",
            Self::AutomaticRollback => "automatic_rollback",
            Self::Promotion => "promotion",
        }
    }

    /// Whether it brings something, which the policy takes back when it fails.
    pub const fn brings(self) -> bool {
        match self {
            Self::Deploy | Self::Promotion => true,
            Self::Rollback | Self::AutomaticRollback => false,
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("a deploy that is {from} cannot become {to}")]
pub struct InvalidTransition {
    pub from: &'static str,
    pub to: &'static str,
}

impl DeployState {
    /// What Airflow answered, as far as this state holds it.
    pub const fn proof(&self) -> Option<&Proof> {
        match self {
            Self::Live { proof, .. }
            | Self::Failed {
                failure: Failure::ImportErrors { proof },
                ..
            } => Some(proof),
            Self::Created
            | Self::Uploading
            | Self::Accepted
            | Self::RollingOut { .. }
            | Self::Failed {
                failure: Failure::Agent { .. },
                ..
            }
            | Self::TimedOut { .. }
            | Self::Superseded { .. }
            | Self::Expired { .. }
            | Self::RolledBack { .. } => None,
        }
    }

    /// The name that the wire format and the database use.
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Created => "created",
            Self::Uploading => "uploading",
            Self::Accepted => "accepted",
            Self::RollingOut { .. } => "rolling_out",
            Self::Live { .. } => "live",
            Self::Failed { .. } => "failed",
            Self::TimedOut { .. } => "timed_out",
            Self::Superseded { .. } => "superseded",
            Self::Expired { .. } => "expired",
            Self::RolledBack { .. } => "rolled_back",
        }
    }

    /// Whether nothing more is expected to happen by itself.
    pub const fn is_settled(&self) -> bool {
        match self {
            Self::Created | Self::Uploading | Self::Accepted | Self::RollingOut { .. } => false,
            Self::Live { .. }
            | Self::Failed { .. }
            | Self::TimedOut { .. }
            | Self::Superseded { .. }
            | Self::Expired { .. }
            | Self::RolledBack { .. } => true,
        }
    }

    const fn cannot_become(&self, to: &'static str) -> InvalidTransition {
        InvalidTransition {
            from: self.name(),
            to,
        }
    }

    /// Records that blobs have to be sent first.
    pub fn upload(self) -> Result<Self, InvalidTransition> {
        match self {
            Self::Created | Self::Uploading => Ok(Self::Uploading),
            other => Err(other.cannot_become("uploading")),
        }
    }

    /// Makes its Release the wanted one.
    pub fn accept(self) -> Result<Self, InvalidTransition> {
        match self {
            Self::Created | Self::Uploading => Ok(Self::Accepted),
            other => Err(other.cannot_become("accepted")),
        }
    }

    /// Records that an agent began. Late and repeated reports change nothing.
    pub fn roll_out(self, at: DateTime<Utc>) -> Result<Self, InvalidTransition> {
        match self {
            Self::Accepted => Ok(Self::RollingOut { since: at }),
            already @ (Self::RollingOut { .. }
            | Self::Live { .. }
            | Self::Failed { .. }
            | Self::TimedOut { .. }) => Ok(already),
            other => Err(other.cannot_become("rolling_out")),
        }
    }

    /// Sends a deploy that ended badly back to be proven once more.
    pub fn prove_again(self, at: DateTime<Utc>) -> Result<Self, InvalidTransition> {
        match self {
            Self::Failed { .. } | Self::TimedOut { .. } => Ok(Self::RollingOut { since: at }),
            already @ Self::RollingOut { .. } => Ok(already),
            other => Err(other.cannot_become("rolling_out")),
        }
    }

    /// Records the proof. Also late, after time had run out.
    pub fn live(self, at: DateTime<Utc>, proof: Proof) -> Result<Self, InvalidTransition> {
        match self {
            Self::Accepted | Self::RollingOut { .. } | Self::TimedOut { .. } => {
                Ok(Self::Live { since: at, proof })
            }
            already @ Self::Live { .. } => Ok(already),
            other => Err(other.cannot_become("live")),
        }
    }

    /// Records why it failed. Also late, after time had run out.
    pub fn fail(self, at: DateTime<Utc>, failure: Failure) -> Result<Self, InvalidTransition> {
        match self {
            Self::Accepted | Self::RollingOut { .. } | Self::TimedOut { .. } => {
                Ok(Self::Failed { at, failure })
            }
            already @ Self::Failed { .. } => Ok(already),
            other => Err(other.cannot_become("failed")),
        }
    }

    /// Records that time ran out, and what was seen until then.
    pub fn time_out(
        self,
        at: DateTime<Utc>,
        seen: String,
        not_seen: String,
    ) -> Result<Self, InvalidTransition> {
        match self {
            Self::Accepted | Self::RollingOut { .. } => Ok(Self::TimedOut { at, seen, not_seen }),
            already @ Self::TimedOut { .. } => Ok(already),
            other => Err(other.cannot_become("timed_out")),
        }
    }

    /// Records that a later deploy took its place. A failed deploy stays failed.
    pub fn supersede(self, at: DateTime<Utc>, by: DeployId) -> Result<Self, InvalidTransition> {
        match self {
            Self::Accepted
            | Self::RollingOut { .. }
            | Self::TimedOut { .. }
            | Self::Live { .. } => Ok(Self::Superseded { at, by }),
            already @ Self::Superseded { .. } => Ok(already),
            other => Err(other.cannot_become("superseded")),
        }
    }

    /// Records that its parts were taken back. Also of a superseded one: when a
    /// deploy of another part took its place, its own parts are still wanted.
    pub fn roll_back(self, at: DateTime<Utc>, by: DeployId) -> Result<Self, InvalidTransition> {
        match self {
            Self::Accepted
            | Self::RollingOut { .. }
            | Self::TimedOut { .. }
            | Self::Live { .. }
            | Self::Failed { .. }
            | Self::Superseded { .. } => Ok(Self::RolledBack { at, by }),
            already @ Self::RolledBack { .. } => Ok(already),
            other => Err(other.cannot_become("rolled_back")),
        }
    }

    /// Gives up an upload that nobody finished.
    pub fn expire(self, at: DateTime<Utc>) -> Result<Self, InvalidTransition> {
        match self {
            Self::Created | Self::Uploading => Ok(Self::Expired { at }),
            already @ Self::Expired { .. } => Ok(already),
            other => Err(other.cannot_become("expired")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{DagChanges, ProofOutcome, ProofTimings};

    fn at() -> DateTime<Utc> {
        DateTime::from_timestamp(1_800_000_000, 0).unwrap()
    }

    fn proof() -> Proof {
        Proof {
            outcome: ProofOutcome::Proven,
            reason: String::new(),
            parsed: 1,
            affected: 1,
            files: 1,
            dags: DagChanges::default(),
            import_errors: vec![],
            silent: vec![],
            seen: String::new(),
            not_seen: String::new(),
            timings_ms: ProofTimings::default(),
        }
    }

    #[test]
    fn late_evidence_turns_a_timed_out_deploy_live() {
        let timed_out = DeployState::Accepted
            .roll_out(at())
            .and_then(|state| state.time_out(at(), "one file".into(), "another".into()))
            .unwrap();
        assert_eq!(timed_out.live(at(), proof()).unwrap().name(), "live");
    }

    #[test]
    fn a_failed_deploy_is_green_only_by_proving_it_again() {
        let failed = DeployState::Failed {
            at: at(),
            failure: Failure::Agent {
                message: "no".into(),
            },
        };
        assert!(failed.clone().live(at(), proof()).is_err());
        assert!(failed.clone().supersede(at(), DeployId::new()).is_err());
        let again = failed.prove_again(at()).unwrap();
        assert_eq!(again.live(at(), proof()).unwrap().name(), "live");
    }

    #[test]
    fn an_accepted_deploy_never_expires() {
        assert!(DeployState::Accepted.expire(at()).is_err());
        assert_eq!(
            DeployState::Uploading.expire(at()).unwrap().name(),
            "expired"
        );
    }
}
