//! What was checked before a deploy, as whoever deploys tells it.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::{BundleName, Digest};

#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, ToSchema,
)]
#[serde(rename_all = "snake_case")]
pub enum CheckStage {
    /// Over the syntax tree, without Python.
    Static,
    /// Every DAG file imported, as Airflow would.
    Parse,
    /// The project's own tests.
    Pytest,
}

impl CheckStage {
    pub const ALL: [Self; 3] = [Self::Static, Self::Parse, Self::Pytest];

    pub const fn name(self) -> &'static str {
        match self {
            Self::Static => "static",
            Self::Parse => "parse",
            Self::Pytest => "pytest",
        }
    }

    /// Whether it depends on what is installed, and not on the files alone.
    pub const fn needs_environment(self) -> bool {
        match self {
            Self::Static => false,
            Self::Parse | Self::Pytest => true,
        }
    }
}

impl std::fmt::Display for CheckStage {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

/// The checks of a deploy, and what exactly they were made of. Nobody but the
/// one who deploys has seen them run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Checks {
    /// What checked, such as `updraft 0.1.0`.
    pub tool: String,
    /// The token's name of whoever claims this; the control plane fills it in.
    #[serde(default)]
    pub claimed_by: String,
    pub bundles: BTreeMap<BundleName, Digest>,
    /// The Environment that files were imported in; its digest covers its lock.
    #[serde(default)]
    pub environment: Option<Digest>,
    pub stages: BTreeMap<CheckStage, StageResult>,
}

/// Which variables and connections an Airflow has. Never their values.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct AirflowNames {
    pub variables: Vec<String>,
    pub connections: Vec<String>,
    /// Whether a secrets backend may have more than these.
    #[serde(default)]
    pub secrets_backend: bool,
}

/// How one stage went.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct StageResult {
    /// DAG files, or tests.
    pub checked: u64,
    pub errors: u64,
    pub warnings: u64,
    pub seconds: f64,
    /// The first [`Self::MOST_FINDINGS`], errors before warnings.
    #[serde(default)]
    pub findings: Vec<CheckFinding>,
    /// What was not checked, and why.
    #[serde(default)]
    pub notes: Vec<String>,
}

impl StageResult {
    pub const MOST_FINDINGS: usize = 50;

    pub const fn passed(&self) -> bool {
        self.errors == 0
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct CheckFinding {
    /// The rule, such as `UPD302`.
    pub code: String,
    pub is_error: bool,
    /// Below the project's folder.
    pub file: String,
    pub line: u32,
    pub column: u32,
    pub message: String,
}
