//! What a pipeline is for: the tool, what the repository holds, where it goes.

use std::fmt;

use super::plain::Plain;

/// A pipeline to be written.
#[derive(Debug, Clone)]
pub struct Pipeline {
    pub tool: Tool,
    pub layout: Layout,
    pub strategy: Strategy,
    /// Sign in with the pipeline's own identity, without a token that is kept.
    pub oidc: bool,
    /// Address of the control plane.
    pub server: Plain,
    /// SHA-256 of the binary that it serves.
    pub checksum: Plain,
    /// What is deployed, where that is one branch.
    pub branch: Plain,
    /// The project's folder, where that is not the repository's.
    pub project: Option<Plain>,
    /// Pull requests get a Preview, besides being checked.
    pub previews: bool,
    /// The address is plain http, and is to be used.
    pub insecure_http: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tool {
    Github,
    Gitlab,
    Circleci,
    Jenkins,
    Bitbucket,
    Azure,
    Codebuild,
    Drone,
}

/// What a repository holds of a project.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Layout {
    Whole,
    Dags,
    Image,
}

/// What is deployed when.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Strategy {
    /// One branch goes to one Deployment.
    OneBranch,
    /// Every branch and tag goes where its target says.
    MultiBranch,
    /// One branch, and its image is built by a container engine on the way.
    CustomImage,
}

/// A combination that nobody needs, or that a tool cannot do.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    #[error("a repository of DAGs has no image that a pipeline could build")]
    ImageOfDags,
    #[error("{0} gives its jobs no identity token")]
    NoIdentity(Tool),
    #[error("{0} does not say whether a pull request comes from a fork, which gets no Preview")]
    NoForks(Tool),
}

impl Refused {
    pub fn help(&self) -> &'static str {
        match self {
            Self::ImageOfDags => {
                "use `--strategy one-branch` or `multi-branch` here, and `custom-image` in the repository with the image"
            }
            Self::NoForks(_) => "leave out `--previews`",
            Self::NoIdentity(_) => "leave out `--oidc`, and keep a token as a secret of the tool",
        }
    }
}

impl Pipeline {
    /// Whether there is such a pipeline.
    pub fn is_meaningful(
        tool: Tool,
        layout: Layout,
        strategy: Strategy,
        oidc: bool,
    ) -> Result<(), Refused> {
        if (layout, strategy) == (Layout::Dags, Strategy::CustomImage) {
            return Err(Refused::ImageOfDags);
        }
        if oidc && !tool.has_identity() {
            return Err(Refused::NoIdentity(tool));
        }
        Ok(())
    }
}

impl Tool {
    pub const ALL: [Self; 8] = [
        Self::Github,
        Self::Gitlab,
        Self::Circleci,
        Self::Jenkins,
        Self::Bitbucket,
        Self::Azure,
        Self::Codebuild,
        Self::Drone,
    ];

    /// As flags name it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Github => "github",
            Self::Gitlab => "gitlab",
            Self::Circleci => "circleci",
            Self::Jenkins => "jenkins",
            Self::Bitbucket => "bitbucket",
            Self::Azure => "azure",
            Self::Codebuild => "codebuild",
            Self::Drone => "drone",
        }
    }

    /// The files that tell that a repository uses it.
    pub const fn marks(self) -> &'static [&'static str] {
        match self {
            Self::Github => &[".github/workflows"],
            Self::Gitlab => &[".gitlab-ci.yml"],
            Self::Circleci => &[".circleci/config.yml"],
            Self::Jenkins => &["Jenkinsfile"],
            Self::Bitbucket => &["bitbucket-pipelines.yml"],
            Self::Azure => &["azure-pipelines.yml"],
            Self::Codebuild => &["buildspec.yml", "buildspec-check.yml"],
            Self::Drone => &[".drone.yml"],
        }
    }

    /// The one that comes with the host of a repository's remote.
    pub fn of_host(host: &str) -> Option<Self> {
        let host = host.to_ascii_lowercase();
        let is_or_below = |name: &str| {
            let rest = host.strip_suffix(name);
            rest.is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
        };
        if is_or_below("github.com") || host.starts_with("github.") {
            Some(Self::Github)
        } else if is_or_below("gitlab.com") || host.starts_with("gitlab.") {
            Some(Self::Gitlab)
        } else if is_or_below("bitbucket.org") {
            Some(Self::Bitbucket)
        } else if is_or_below("dev.azure.com") || is_or_below("visualstudio.com") {
            Some(Self::Azure)
        } else if host.starts_with("git-codecommit.") {
            Some(Self::Codebuild)
        } else {
            None
        }
    }

    /// Whether its jobs get a token that says who they are. Jenkins has it with a plugin only.
    pub const fn has_identity(self) -> bool {
        match self {
            Self::Github | Self::Gitlab | Self::Circleci | Self::Bitbucket | Self::Azure => true,
            Self::Jenkins | Self::Codebuild | Self::Drone => false,
        }
    }

    /// Whether its pull requests can have Previews.
    pub const fn check_previews(self) -> Result<(), Refused> {
        match self {
            Self::Github
            | Self::Gitlab
            | Self::Circleci
            | Self::Jenkins
            | Self::Bitbucket
            | Self::Azure => Ok(()),
            Self::Codebuild | Self::Drone => Err(Refused::NoForks(self)),
        }
    }

    /// Whether something runs when a pull request is closed; elsewhere its Preview expires.
    pub const fn closes_previews(self) -> bool {
        matches!(self, Self::Github | Self::Gitlab)
    }

    /// Where the token is kept, for whoever sets the pipeline up.
    pub const fn keeps_token(self) -> &'static str {
        match self {
            Self::Github => {
                "as the repository's secret `UPDRAFT_TOKEN` (Settings, Secrets and variables, Actions)"
            }
            Self::Gitlab => {
                "as the CI/CD variable `UPDRAFT_TOKEN`, masked and protected (Settings, CI/CD, Variables)"
            }
            Self::Circleci => "as the project's environment variable `UPDRAFT_TOKEN`",
            Self::Jenkins => {
                "as a credential of the kind `Secret text` with the id `updraft-token`"
            }
            Self::Bitbucket => "as the secured repository variable `UPDRAFT_TOKEN`",
            Self::Azure => "as the pipeline's secret variable `UPDRAFT_TOKEN`",
            Self::Codebuild => "as the SecureString `/updraft/token` in the Parameter Store",
            Self::Drone => "as the repository's secret `updraft_token`, not for pull requests",
        }
    }

    /// Where the token of Previews is kept.
    pub const fn keeps_preview_token(self) -> &'static str {
        match self {
            Self::Gitlab => {
                "as the CI/CD variable `UPDRAFT_PREVIEW_TOKEN`, masked and not protected"
            }
            Self::Jenkins => {
                "as a credential of the kind `Secret text` with the id `updraft-preview-token`"
            }
            Self::Bitbucket => "as the secured repository variable `UPDRAFT_PREVIEW_TOKEN`",
            Self::Azure => "as the pipeline's secret variable `UPDRAFT_PREVIEW_TOKEN`",
            Self::Circleci => "as the project's environment variable `UPDRAFT_PREVIEW_TOKEN`",
            Self::Github | Self::Codebuild | Self::Drone => {
                "as the repository's secret `UPDRAFT_PREVIEW_TOKEN`"
            }
        }
    }

    /// What lets a pull request's job write its comment, where that takes more than the file.
    pub const fn needs_to_comment(self) -> Option<&'static str> {
        match self {
            Self::Gitlab => Some(
                "keep an access token of the project's with the scope `api`, for comments, as the CI/CD variable `UPDRAFT_COMMENT_TOKEN`, masked and not protected",
            ),
            Self::Jenkins => Some(
                "keep a token that may comment on pull requests where the repository is as a credential of the kind `Secret text` with the id `updraft-comment-token`; elsewhere than on GitHub, GitLab, Bitbucket Cloud and Azure Repos take `--comment` and that credential out",
            ),
            Self::Bitbucket => Some(
                "keep a repository access token with the scope `pullrequest:write`, for comments, as the secured repository variable `UPDRAFT_COMMENT_TOKEN`",
            ),
            Self::Azure => Some(
                "let the project's build service contribute to pull requests, for comments (Project settings, Repositories, Security)",
            ),
            Self::Circleci => Some(
                "keep a token that may comment on pull requests as the project's environment variable `UPDRAFT_COMMENT_TOKEN`, and leave *Pass secrets to builds from forked pull requests* off",
            ),
            Self::Github | Self::Codebuild | Self::Drone => None,
        }
    }

    /// What else has to be set up by hand, beside the token.
    pub const fn also_needs(self, strategy: Strategy) -> Option<&'static str> {
        match (self, strategy) {
            (Self::Codebuild, _) => Some(
                "make two CodeBuild projects: buildspec.yml on PUSH, and buildspec-check.yml, which may read no parameter, on pull requests",
            ),
            (Self::Azure, _) => {
                Some("in Azure Repos a branch policy (build validation) runs it on pull requests")
            }
            (Self::Jenkins, Strategy::CustomImage) => {
                Some("its agent needs docker, podman or buildah; the job is a multibranch pipeline")
            }
            (Self::Jenkins, _) => Some("the job is a multibranch pipeline"),
            _ => None,
        }
    }
}

impl fmt::Display for Tool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Github => "GitHub Actions",
            Self::Gitlab => "GitLab CI",
            Self::Circleci => "CircleCI",
            Self::Jenkins => "Jenkins",
            Self::Bitbucket => "Bitbucket Pipelines",
            Self::Azure => "Azure DevOps",
            Self::Codebuild => "AWS CodeBuild",
            Self::Drone => "Drone",
        })
    }
}

impl Layout {
    pub const ALL: [Self; 3] = [Self::Whole, Self::Dags, Self::Image];

    pub const fn name(self) -> &'static str {
        match self {
            Self::Whole => "one-repo",
            Self::Dags => "dags-repo",
            Self::Image => "image-repo",
        }
    }
}

impl Strategy {
    pub const ALL: [Self; 3] = [Self::OneBranch, Self::MultiBranch, Self::CustomImage];

    pub const fn name(self) -> &'static str {
        match self {
            Self::OneBranch => "one-branch",
            Self::MultiBranch => "multi-branch",
            Self::CustomImage => "custom-image",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_tells_its_tool() {
        assert_eq!(Tool::of_host("github.com"), Some(Tool::Github));
        assert_eq!(Tool::of_host("gitlab.acme.example"), Some(Tool::Gitlab));
        assert_eq!(Tool::of_host("acme.visualstudio.com"), Some(Tool::Azure));
        assert_eq!(Tool::of_host("notgithub.com"), None);
        assert_eq!(Tool::of_host("git.acme.example"), None);
    }
}
