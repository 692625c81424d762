//! What is trusted of a pipeline, and who it says that it is.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// How the names of GitHub's events begin that run with the default branch's name and may be
/// caused by anybody.
pub const EVENTS_OF_OTHERS: [&str; 4] = [
    "pull_request",
    "issue_comment",
    "discussion",
    "workflow_run",
];

/// Who issues a pipeline's identity.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum TrustProvider {
    Github,
    Gitlab,
    Circleci,
    Buildkite,
    Bitbucket,
    Azure,
    /// Any other, by discovery.
    Oidc,
}

impl TrustProvider {
    pub const fn name(self) -> &'static str {
        match self {
            Self::Github => "github",
            Self::Gitlab => "gitlab",
            Self::Circleci => "circleci",
            Self::Buildkite => "buildkite",
            Self::Bitbucket => "bitbucket",
            Self::Azure => "azure",
            Self::Oidc => "oidc",
        }
    }
}

impl fmt::Display for TrustProvider {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// What a claim has to be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Expected {
    /// Exactly this.
    Is(String),
    /// Exactly one of these.
    OneOf(Vec<String>),
    /// A pattern: `*` is anything but `/`, `**` anything at all.
    Like(String),
    /// This file, at any ref: `FILE@refs/…`.
    File(String),
}

impl fmt::Display for Expected {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Is(value) => write!(f, "`{value}`"),
            Self::OneOf(values) => {
                let values: Vec<_> = values.iter().map(|it| format!("`{it}`")).collect();
                f.write_str(&values.join(" or "))
            }
            Self::Like(pattern) => write!(f, "like `{pattern}`"),
            Self::File(file) => write!(f, "`{file}@refs/…`"),
        }
    }
}

/// Who a pipeline said that it is, in words that all providers share.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(default)]
pub struct Identity {
    pub issuer: String,
    pub subject: String,
    /// Such as `acme/sales`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub repository: Option<String>,
    /// Such as `refs/heads/main`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reference: Option<String>,
    /// The run's number or id.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub run: Option<String>,
    /// Who set it off.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub actor: Option<String>,
}

impl fmt::Display for Identity {
    /// As history shows it: `acme/sales refs/heads/main, run 4711`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some(repository) = &self.repository else {
            return f.write_str(&self.subject);
        };
        f.write_str(repository)?;
        if let Some(reference) = &self.reference {
            write!(f, " {reference}")?;
        }
        if let Some(run) = &self.run {
            write!(f, ", run {run}")?;
        }
        Ok(())
    }
}

/// How somebody's exchange ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum ExchangeOutcome {
    Exchanged,
    Refused,
}

impl ExchangeOutcome {
    pub const fn name(self) -> &'static str {
        match self {
            Self::Exchanged => "exchanged",
            Self::Refused => "refused",
        }
    }
}

impl fmt::Display for ExchangeOutcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for ExchangeOutcome {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "exchanged" => Ok(Self::Exchanged),
            "refused" => Ok(Self::Refused),
            other => Err(format!("`{other}` is no outcome of an exchange")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn history_names_repository_ref_and_run() {
        let mut identity = Identity {
            issuer: "https://issuer.example".into(),
            subject: "repo:acme/sales:ref:refs/heads/main".into(),
            ..Identity::default()
        };
        assert_eq!(identity.to_string(), identity.subject);
        identity.repository = Some("acme/sales".into());
        identity.reference = Some("refs/heads/main".into());
        identity.run = Some("4711".into());
        assert_eq!(identity.to_string(), "acme/sales refs/heads/main, run 4711");
    }
}
