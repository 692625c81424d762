//! What a container registry calls things: repositories, tags, digests.

use std::fmt;
use std::str::FromStr;

use crate::{DeploymentName, Digest, InvalidDigest};

/// The name of a repository: its first part is that of the Deployment that it
/// belongs to, as in `sales-prod` or `sales-prod/airflow`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RepositoryName {
    text: String,
    deployment: DeploymentName,
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{given}` is not a repository: {why}")]
pub struct InvalidRepository {
    pub given: String,
    pub why: &'static str,
}

/// A tag of a repository.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Tag(String);

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "`{0}` is not a tag: use up to 128 letters, digits, `_`, `.` and `-`, and begin with none of the last two"
)]
pub struct InvalidTag(pub String);

/// A digest as clients of a registry name content. The blob store knows every
/// content by its SHA-256.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum OciDigest {
    Sha256(Digest),
    Sha512(Box<[u8; 64]>),
}

/// Longer names are longer than a host name and a path of them can be.
const MOST: usize = 255;

impl RepositoryName {
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// The same name in another Deployment.
    pub fn within(&self, deployment: &DeploymentName) -> Option<Self> {
        let rest = self.text.split_once('/').map(|(_, rest)| rest);
        let text = match rest {
            Some(rest) => format!("{deployment}/{rest}"),
            None => deployment.to_string(),
        };
        text.parse().ok()
    }

    /// The Deployment that it belongs to.
    pub const fn deployment(&self) -> &DeploymentName {
        &self.deployment
    }
}

impl FromStr for RepositoryName {
    type Err = InvalidRepository;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let invalid = |why| InvalidRepository {
            given: text.chars().take(80).collect(),
            why,
        };
        if text.len() > MOST {
            return Err(invalid("it is longer than 255 characters"));
        }
        if !text.split('/').all(is_component) {
            return Err(invalid(
                "use lower-case letters and digits, separated by `/`, `.`, `_`, `__` or `-`",
            ));
        }
        let first = text.split('/').next().unwrap_or_default();
        let deployment = first
            .parse()
            .map_err(|_| invalid("its first part is not the name of a Deployment"))?;
        Ok(Self {
            text: text.to_owned(),
            deployment,
        })
    }
}

/// `[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*`
fn is_component(text: &str) -> bool {
    let is_inner = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
    let mut separators = text.split(is_inner).filter(|part| !part.is_empty());
    text.starts_with(is_inner)
        && text.ends_with(is_inner)
        && separators
            .all(|part| matches!(part, "." | "_" | "__") || part.bytes().all(|b| b == b'-'))
}

/// What the tags begin with that a deploy pushes its image under.
const OF_DEPLOY: &str = "updraft-";

impl Tag {
    /// A tag that nothing else has, for the way to the registry: what is deployed is a
    /// digest.
    pub fn of_deploy(unique: impl fmt::Display) -> Self {
        Self(format!("{OF_DEPLOY}{unique}"))
    }

    /// Whether it was for the way alone, and keeps nothing.
    pub fn is_of_deploy(&self) -> bool {
        self.0.starts_with(OF_DEPLOY)
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for Tag {
    type Err = InvalidTag;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let is_word = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
        let fits = text.len() <= 128
            && text.bytes().next().is_some_and(is_word)
            && text.bytes().all(|b| is_word(b) || b == b'.' || b == b'-');
        if fits {
            Ok(Self(text.to_owned()))
        } else {
            Err(InvalidTag(text.chars().take(80).collect()))
        }
    }
}

impl FromStr for OciDigest {
    type Err = InvalidDigest;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let Some(digits) = text.strip_prefix("sha512:") else {
            return text.parse().map(Self::Sha256);
        };
        let mut bytes = [0; 64];
        let is_lower = !digits.bytes().any(|b| b.is_ascii_uppercase());
        if is_lower && hex::decode_to_slice(digits, &mut bytes).is_ok() {
            return Ok(Self::Sha512(Box::new(bytes)));
        }
        Err(InvalidDigest(text.chars().take(80).collect()))
    }
}

impl From<Digest> for OciDigest {
    fn from(digest: Digest) -> Self {
        Self::Sha256(digest)
    }
}

impl fmt::Display for RepositoryName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl fmt::Display for Tag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Display for OciDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Sha256(digest) => digest.fmt(f),
            Self::Sha512(bytes) => write!(f, "sha512:{}", hex::encode(bytes.as_slice())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_repository_belongs_to_the_deployment_that_it_begins_with() {
        for good in ["shop", "sales-prod/airflow", "a/b.c/d_e/f__g/h--i/0"] {
            let name: RepositoryName = good.parse().unwrap();
            assert_eq!(name.as_str(), good);
            assert!(good.starts_with(name.deployment().as_str()));
        }
        let long = format!("a/{}", "b".repeat(MOST));
        for wrong in [
            "", "/", "a/", "/a", "a//b", "..", "a/..", "a/../b", "a/.b", "a/b.", "A", "a/B",
            "a/b c", "a%2fb", "a/b___c", "a/b._c", "a_b", "a.b/c", "a/ä", "a\\b", "a/\u{0}", &long,
        ] {
            assert!(wrong.parse::<RepositoryName>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn tags_are_words() {
        let long = "x".repeat(128);
        for good in ["latest", "V1.2-rc_1", "_", &long] {
            assert!(good.parse::<Tag>().is_ok(), "{good}");
        }
        let longer = "x".repeat(129);
        for wrong in ["", ".a", "-a", "a/b", "a b", "a:b", "ä", "..", &longer] {
            assert!(wrong.parse::<Tag>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn digests_are_of_two_kinds() {
        let one = Digest::of(b"one").to_string();
        let other = format!("sha512:{}", "0a".repeat(64));
        for good in [one.as_str(), &other] {
            assert_eq!(good.parse::<OciDigest>().unwrap().to_string(), good);
        }
        for wrong in ["sha512:0a", "md5:00", &other.to_uppercase(), "sha256:", ""] {
            assert!(wrong.parse::<OciDigest>().is_err(), "{wrong}");
        }
    }
}
