//! The pipeline run that a deploy comes from, as its environment tells it.

use std::fmt;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// A run of a pipeline. It is a claim of whoever deploys: nothing is allowed
/// because of it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(default)]
pub struct CiRun {
    pub provider: CiProvider,
    /// Such as `acme/sales`.
    pub repository: Option<String>,
    /// The branch that was pushed; absent for a tag, and for a pull request of
    /// which only its own branch is known.
    pub branch: Option<String>,
    pub tag: Option<String>,
    pub commit: Option<String>,
    pub pull_request: Option<PullRequest>,
    /// Where people see the run.
    pub run_url: Option<String>,
    /// Counts the runs of a pipeline.
    pub run_number: Option<u64>,
    /// The pipeline, as its tool names it.
    pub workflow: Option<String>,
    /// Who set it off.
    pub actor: Option<String>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(default)]
pub struct PullRequest {
    pub number: u64,
    /// The branch that it wants to change.
    pub into: Option<String>,
    /// The branch that it brings.
    pub from: Option<String>,
    /// Whether that branch lies in somebody else's repository.
    pub is_fork: bool,
}

#[derive(
    Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, ToSchema,
)]
#[serde(rename_all = "lowercase")]
pub enum CiProvider {
    Github,
    Gitlab,
    Circleci,
    Jenkins,
    Bitbucket,
    Azure,
    Codebuild,
    Drone,
    Buildkite,
    /// One that says no more than that it is one.
    #[default]
    Other,
}

impl CiProvider {
    /// As its makers write it.
    pub fn title(self) -> &'static str {
        match self {
            Self::Github => "GitHub Actions",
            Self::Gitlab => "GitLab CI",
            Self::Circleci => "CircleCI",
            Self::Jenkins => "Jenkins",
            Self::Bitbucket => "Bitbucket Pipelines",
            Self::Azure => "Azure DevOps",
            Self::Codebuild => "AWS CodeBuild",
            Self::Drone => "Drone",
            Self::Buildkite => "Buildkite",
            Self::Other => "CI",
        }
    }
}

impl fmt::Display for CiProvider {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.title())
    }
}
