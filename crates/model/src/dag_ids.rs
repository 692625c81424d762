//! Which DAGs an Airflow has, by the bundle that each comes from.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::{BundleName, Digest, InvalidName};

/// A DAG's id: up to 250 letters, digits, `_`, `-` and `.`, as Airflow has it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, ToSchema)]
#[serde(try_from = "String")]
#[schema(value_type = String, max_length = 250)]
pub struct DagId(String);

impl DagId {
    pub const LONGEST: usize = 250;

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for DagId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl TryFrom<String> for DagId {
    type Error = InvalidName;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        let is_fine = |c: char| c.is_alphanumeric() || matches!(c, '_' | '-' | '.');
        let why = if text.is_empty() {
            "it is empty"
        } else if text.chars().count() > Self::LONGEST {
            "it is longer than 250 characters"
        } else if !text.chars().all(is_fine) {
            "use letters, digits, `_`, `-` and `.`"
        } else {
            return Ok(Self(text));
        };
        Err(InvalidName {
            given: text.escape_debug().take(80).collect(),
            what: "DAG",
            why,
        })
    }
}

impl FromStr for DagId {
    type Err = InvalidName;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::try_from(text.to_owned())
    }
}

/// The ids of one bundle's DAGs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct BundleDags {
    /// The version that Airflow had taken in. Of another one they say nothing.
    pub version: Digest,
    pub ids: Vec<DagId>,
}

/// The ids of an Airflow's DAGs, by bundle.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(transparent)]
pub struct DagIds(pub BTreeMap<BundleName, BundleDags>);

impl DagIds {
    /// More than this many nobody sends around.
    pub const MOST: usize = 20_000;
    /// And not more text than so many long ones have.
    pub const MOST_BYTES: usize = Self::MOST * DagId::LONGEST;

    pub fn are_too_many(&self) -> bool {
        let ids = || self.0.values().flat_map(|bundle| &bundle.ids);
        let bytes: usize = ids().map(|id| id.as_str().len()).sum();
        ids().count() > Self::MOST || bytes > Self::MOST_BYTES
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_those_that_airflow_takes() {
        for fine in ["a", "sales.daily-2_x", "größe", &"x".repeat(250)] {
            assert!(fine.parse::<DagId>().is_ok(), "{fine}");
        }
        for wrong in ["", "a b", "a/b", "a\u{1b}[2J", "a\n", &"x".repeat(251)] {
            assert!(wrong.parse::<DagId>().is_err(), "{wrong}");
            let sent = serde_json::to_string(wrong).unwrap();
            assert!(serde_json::from_str::<DagId>(&sent).is_err(), "{wrong}");
        }
    }

    #[test]
    fn ten_thousand_are_fine_and_what_is_absurd_is_not() {
        let ids = |many: usize, width: usize| {
            let ids = (0..many).map(|id| format!("{id:0>width$}").parse().unwrap());
            let dags = BundleDags {
                version: Digest::of(b""),
                ids: ids.collect(),
            };
            DagIds([(BundleName::dags(), dags)].into())
        };
        assert!(!ids(10_000, 250).are_too_many());
        assert!(ids(DagIds::MOST + 1, 1).are_too_many());
        let wide = "é".repeat(DagId::LONGEST).parse().unwrap();
        let mut most = ids(DagIds::MOST - 1, 250);
        most.0.get_mut(&BundleName::dags()).unwrap().ids.push(wide);
        assert!(most.are_too_many());
    }
}
