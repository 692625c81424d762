//! Names that people give and type.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{given}` is not a {what} name: {why}")]
pub struct InvalidName {
    pub given: String,
    pub what: &'static str,
    pub why: &'static str,
}

/// Checks the shape that all names share: that of a DNS label, so that a name
/// can be a folder, a host, a Kubernetes object and part of a URL.
fn check(text: &str) -> Result<(), &'static str> {
    if text.is_empty() {
        return Err("it is empty");
    }
    if text.len() > 63 {
        return Err("it is longer than 63 characters");
    }
    if !text
        .bytes()
        .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
    {
        return Err("use lower-case letters, digits and `-`");
    }
    if text.starts_with('-') || text.ends_with('-') {
        return Err("it starts or ends with `-`");
    }
    Ok(())
}

macro_rules! name {
    ($name:ident, $what:literal) => {
        #[doc = concat!("The name of a ", $what, ": up to 63 lower-case letters, digits and `-`.")]
        #[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(String);

        impl $name {
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl FromStr for $name {
            type Err = InvalidName;

            fn from_str(text: &str) -> Result<Self, Self::Err> {
                check(text).map_err(|why| InvalidName {
                    given: text.chars().take(80).collect(),
                    what: $what,
                    why,
                })?;
                Ok(Self(text.to_owned()))
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_str(&self.0)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
                text.parse().map_err(serde::de::Error::custom)
            }
        }

        impl utoipa::PartialSchema for $name {
            fn schema() -> utoipa::openapi::RefOr<utoipa::openapi::schema::Schema> {
                utoipa::openapi::ObjectBuilder::new()
                    .schema_type(utoipa::openapi::schema::Type::String)
                    .pattern(Some("^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$"))
                    .build()
                    .into()
            }
        }

        impl utoipa::ToSchema for $name {}
    };
}

name!(DeploymentName, "Deployment");
name!(BundleName, "bundle");

impl BundleName {
    /// The bundle that a project's `dags/` folder becomes.
    pub fn dags() -> Self {
        Self("dags".to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn accepts_labels_and_says_what_is_wrong_with_the_rest() {
        assert!("sales-prod-2".parse::<DeploymentName>().is_ok());
        for wrong in ["", "-a", "a-", "Sales", "a/b", "..", "a b", &"x".repeat(64)] {
            assert!(wrong.parse::<DeploymentName>().is_err(), "{wrong}");
        }
    }
}
