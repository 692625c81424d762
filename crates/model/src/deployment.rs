//! Settings of a Deployment that decide something.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// What follows when a deploy fails after the switch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum AfterFailure {
    /// The new Release stays wanted; somebody fixes forward or rolls back.
    #[default]
    Keep,
    /// The parts that the failed deploy changed go back, once.
    Rollback,
}

/// How the agent runs Airflow.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Runtime {
    /// A virtual environment on the agent's host.
    #[default]
    Process,
    /// Containers of the Release's image, by docker or podman on the agent's host.
    Container,
    /// Somebody else runs Airflow; the agent only delivers and asks.
    External,
}
