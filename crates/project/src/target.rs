//! Which branch or tag belongs to which Deployment.

use std::fmt;

use globset::{GlobBuilder, GlobMatcher};
use updraft_model::{CiRun, DeploymentName, GitState};

/// `[[target]]`: a branch or a tag, and where it goes.
#[derive(Debug, Clone)]
pub struct Target {
    pub of: RefPattern,
    pub deployment: DeploymentName,
    /// Where it stands in `updraft.toml`.
    pub line: usize,
}

/// Names as patterns: `*` is anything but `/`, `**` anything at all.
#[derive(Debug, Clone)]
pub struct RefPattern {
    kind: RefKind,
    matcher: GlobMatcher,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RefKind {
    Branch,
    Tag,
}

/// What a pipeline or a checkout is of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Pushed {
    Branch(String),
    Tag(String),
    /// Of a pull request, and of no branch of the repository's own.
    PullRequest(u64),
    /// Nothing that has a name.
    Unknown,
}

impl RefPattern {
    pub(crate) fn new(kind: RefKind, pattern: &str) -> Result<Self, String> {
        if pattern.is_empty() {
            return Err(format!("the {kind} has no name"));
        }
        let glob = GlobBuilder::new(pattern).literal_separator(true).build();
        let glob = glob.map_err(|error| format!("`{pattern}` is no pattern: {}", error.kind()))?;
        Ok(Self {
            kind,
            matcher: glob.compile_matcher(),
        })
    }

    pub fn kind(&self) -> RefKind {
        self.kind
    }

    pub fn pattern(&self) -> &str {
        self.matcher.glob().glob()
    }

    fn matches(&self, pushed: &Pushed) -> bool {
        match (self.kind, pushed) {
            (RefKind::Branch, Pushed::Branch(name)) | (RefKind::Tag, Pushed::Tag(name)) => {
                self.matcher.is_match(name)
            }
            _ => false,
        }
    }
}

impl PartialEq for RefPattern {
    fn eq(&self, other: &Self) -> bool {
        self.kind == other.kind && self.pattern() == other.pattern()
    }
}

impl Eq for RefPattern {}

impl PartialEq for Target {
    fn eq(&self, other: &Self) -> bool {
        self.of == other.of && self.deployment == other.deployment
    }
}

impl Eq for Target {}

impl fmt::Display for RefKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Branch => "branch",
            Self::Tag => "tag",
        })
    }
}

impl fmt::Display for RefPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} `{}`", self.kind, self.pattern())
    }
}

impl Pushed {
    /// What the pipeline says, else what the checkout does. A pipeline's
    /// checkout often has no branch, and one of a pull request may have the
    /// name of one that it is not.
    pub fn of(run: Option<&CiRun>, git: Option<&GitState>) -> Self {
        if let Some(run) = run {
            if let Some(branch) = &run.branch {
                return Self::Branch(branch.clone());
            }
            if let Some(request) = &run.pull_request {
                return Self::PullRequest(request.number);
            }
            if let Some(tag) = &run.tag {
                return Self::Tag(tag.clone());
            }
        }
        if run.is_some_and(|run| run.provider != updraft_model::CiProvider::Other) {
            return Self::Unknown;
        }
        let branch = git.and_then(|git| git.branch.clone()).map(Self::Branch);
        let tag = || git.and_then(|git| git.tag.clone()).map(Self::Tag);
        branch.or_else(tag).unwrap_or(Self::Unknown)
    }
}

impl fmt::Display for Pushed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Branch(name) => write!(f, "the branch `{name}`"),
            Self::Tag(name) => write!(f, "the tag `{name}`"),
            Self::PullRequest(0) => f.write_str("a pull request"),
            Self::PullRequest(number) => write!(f, "pull request {number}"),
            Self::Unknown => f.write_str("a commit without branch or tag"),
        }
    }
}

/// The first target that is for what was pushed.
pub fn target<'a>(targets: &'a [Target], pushed: &Pushed) -> Option<&'a Target> {
    targets.iter().find(|target| target.of.matches(pushed))
}

#[cfg(test)]
mod tests {
    use super::*;
    use updraft_model::{CiProvider, PullRequest};

    fn targets(of: &[(RefKind, &str, &str)]) -> Vec<Target> {
        let made = of.iter().map(|(kind, pattern, deployment)| Target {
            of: RefPattern::new(*kind, pattern).unwrap(),
            deployment: deployment.parse().unwrap(),
            line: 1,
        });
        made.collect()
    }

    fn to<'a>(targets: &'a [Target], pushed: &Pushed) -> Option<&'a str> {
        target(targets, pushed).map(|it| it.deployment.as_str())
    }

    #[test]
    fn the_first_that_matches_counts() {
        let targets = targets(&[
            (RefKind::Branch, "main", "prod"),
            (RefKind::Branch, "release/*", "staging"),
            (RefKind::Branch, "**", "dev"),
            (RefKind::Tag, "v*", "prod"),
        ]);
        let branch = |name: &str| Pushed::Branch(name.to_owned());
        assert_eq!(to(&targets, &branch("main")), Some("prod"));
        assert_eq!(to(&targets, &branch("release/1")), Some("staging"));
        assert_eq!(to(&targets, &branch("release/1/fix")), Some("dev"));
        assert_eq!(to(&targets, &branch("v1")), Some("dev"));
        assert_eq!(to(&targets, &Pushed::Tag("v1".into())), Some("prod"));
        assert_eq!(to(&targets, &Pushed::Tag("main".into())), None);
        assert_eq!(to(&targets, &Pushed::PullRequest(7)), None);
        assert_eq!(to(&targets, &Pushed::Unknown), None);
    }

    #[test]
    fn what_a_pipeline_says_wins_over_the_checkout() {
        let git = GitState {
            branch: Some("main".into()),
            ..GitState::default()
        };
        let main = Pushed::Branch("main".into());
        assert_eq!(Pushed::of(None, Some(&git)), main);
        let of_nobody = CiRun::default();
        assert_eq!(Pushed::of(Some(&of_nobody), Some(&git)), main);
        let request = CiRun {
            provider: CiProvider::Jenkins,
            pull_request: Some(PullRequest {
                number: 7,
                ..PullRequest::default()
            }),
            ..CiRun::default()
        };
        let request = Pushed::of(Some(&request), Some(&git));
        assert_eq!(request, Pushed::PullRequest(7));
        let queue = CiRun {
            provider: CiProvider::Github,
            ..CiRun::default()
        };
        assert_eq!(Pushed::of(Some(&queue), Some(&git)), Pushed::Unknown);
        assert_eq!(Pushed::of(None, None), Pushed::Unknown);
    }
}
