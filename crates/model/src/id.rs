//! Ids: a UUIDv7 each, of its own type, printed with a prefix so that pasting
//! the wrong kind is refused.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use uuid::{NoContext, Timestamp, Uuid};

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{given}` is not {what}: expected an id starting with `{prefix}`")]
pub struct InvalidId {
    pub given: String,
    pub what: &'static str,
    pub prefix: &'static str,
}

macro_rules! id {
    ($name:ident, $prefix:literal, $what:literal) => {
        #[doc = concat!("The id of ", $what, ", printed as `", $prefix, "…`.")]
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(Uuid);

        impl $name {
            pub const PREFIX: &'static str = $prefix;

            pub const fn from_uuid(uuid: Uuid) -> Self {
                Self(uuid)
            }

            /// A new id; later ones sort after earlier ones.
            pub fn new() -> Self {
                Self(Uuid::now_v7())
            }

            /// A new id of a later millisecond than this one, also when the clock
            /// went back: ids of one millisecond look alike when they are short.
            pub fn after(earlier: Self) -> Self {
                let time = |id: Self| id.0.get_timestamp().map_or((0, 0), |at| at.to_unix());
                let new = Self::new();
                if time(new) > time(earlier) {
                    return new;
                }
                let (seconds, nanos) = time(earlier);
                let millis = u64::from(nanos / 1_000_000) + 1;
                let next = Timestamp::from_unix(
                    NoContext,
                    seconds + millis / 1000,
                    u32::try_from(millis % 1000).unwrap_or(0) * 1_000_000,
                );
                Self(Uuid::new_v7(next))
            }
        }

        impl Default for $name {
            fn default() -> Self {
                Self::new()
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}{}", $prefix, self.0.simple())
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(self, f)
            }
        }

        impl FromStr for $name {
            type Err = InvalidId;

            fn from_str(text: &str) -> Result<Self, Self::Err> {
                text.strip_prefix($prefix)
                    .filter(|rest| rest.len() == 32)
                    .and_then(|rest| Uuid::try_parse(rest).ok())
                    .map(Self)
                    .ok_or_else(|| InvalidId {
                        given: text.chars().take(80).collect(),
                        what: $what,
                        prefix: $prefix,
                    })
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
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
                    .pattern(Some(concat!("^", $prefix, "[0-9a-f]{32}$")))
                    .build()
                    .into()
            }
        }

        impl utoipa::ToSchema for $name {}
    };
}

id!(WorkspaceId, "ws_", "a Workspace");
id!(DeploymentId, "dep_", "a Deployment");
id!(DeployId, "dpl_", "a deploy");
id!(ReleaseId, "rel_", "a Release");
id!(TokenId, "tok_", "a token");
id!(UploadId, "upl_", "an upload");
id!(AgentId, "agt_", "an agent");
id!(EnrollmentId, "enr_", "an enrolment code");
id!(TrustId, "tru_", "a trust");
id!(ExchangeId, "exc_", "an exchange");

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refuses_the_id_of_another_kind() {
        let deploy = DeployId::new();
        assert_eq!(deploy.to_string().parse(), Ok(deploy));
        let error = deploy.to_string().parse::<DeploymentId>().unwrap_err();
        assert!(
            error
                .to_string()
                .ends_with("expected an id starting with `dep_`"),
            "{error}"
        );
    }

    #[test]
    fn later_ids_sort_after_earlier_ones() {
        let ahead = Timestamp::from_unix(NoContext, 4_000_000_000, 999_000_000);
        let ahead = DeployId(Uuid::new_v7(ahead));
        let next = DeployId::after(ahead);
        assert!(next > ahead, "also when the clock went back");
        assert!(DeployId::after(next) > next);
        let (first, second) = (DeployId::new(), DeployId::new());
        assert!(DeployId::after(first) > first);
        assert!(first < second);
        assert!(first.to_string() < second.to_string());
    }
}
