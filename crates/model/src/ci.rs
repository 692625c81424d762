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

impl CiRun {
    /// Whether both are of one branch of one repository, on which the newer wins.
    pub fn is_in_line_with(&self, other: &Self) -> bool {
        self.branch.is_some()
            && self.branch == other.branch
            && self.repository == other.repository
            && self.provider == other.provider
    }

    /// Whether it is an earlier run of the same pipeline.
    pub fn ran_before(&self, other: &Self) -> bool {
        let numbers = self.run_number.zip(other.run_number);
        self.workflow == other.workflow && numbers.is_some_and(|(own, its)| own < its)
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    fn run(branch: Option<&str>, number: Option<u64>) -> CiRun {
        CiRun {
            provider: CiProvider::Github,
            repository: Some("acme/sales".into()),
            branch: branch.map(Into::into),
            run_number: number,
            ..CiRun::default()
        }
    }

    #[test]
    fn runs_are_in_line_on_one_branch_of_one_repository() {
        let one = run(Some("main"), Some(1));
        assert!(one.is_in_line_with(&run(Some("main"), Some(2))));
        assert!(!one.is_in_line_with(&run(Some("other"), Some(2))));
        let fork = CiRun {
            repository: Some("mallory/sales".into()),
            ..one.clone()
        };
        assert!(!one.is_in_line_with(&fork));
        // Tags have no order.
        assert!(!run(None, None).is_in_line_with(&run(None, None)));
    }

    #[test]
    fn a_lower_number_of_the_same_pipeline_ran_before() {
        let (one, two) = (run(None, Some(1)), run(None, Some(2)));
        assert!(one.ran_before(&two) && !two.ran_before(&one) && !one.ran_before(&one));
        assert!(!run(None, None).ran_before(&two));
        let other = CiRun {
            workflow: Some("nightly".into()),
            ..two
        };
        assert!(!one.ran_before(&other));
    }
}
