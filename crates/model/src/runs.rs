//! DAG runs that are under way.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::DagId;

/// DAG runs that have not ended, at some time.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct UnfinishedRuns {
    pub total: u64,
    /// How many of each DAG. Where these are too many to be told, of those with the most.
    pub dags: BTreeMap<DagId, u64>,
}

impl UnfinishedRuns {
    /// DAGs that are told.
    const MOST_DAGS: usize = 100;

    /// From how many each DAG has.
    pub fn new(dags: impl IntoIterator<Item = (DagId, u64)>) -> Self {
        let mut dags: Vec<_> = dags.into_iter().collect();
        let total = dags.iter().map(|(_, runs)| runs).sum();
        dags.sort_by(|one, other| other.1.cmp(&one.1).then_with(|| one.0.cmp(&other.0)));
        dags.truncate(Self::MOST_DAGS);
        Self {
            total,
            dags: dags.into_iter().collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_are_counted_and_the_busiest_are_told() {
        let id = |number: usize| format!("d{number}").parse::<DagId>().unwrap();
        let runs = UnfinishedRuns::new((0..150).map(|number| (id(number), number as u64)));
        assert_eq!(runs.total, 149 * 150 / 2);
        assert_eq!(runs.dags.len(), 100);
        assert!(runs.dags.contains_key(&id(149)) && !runs.dags.contains_key(&id(49)));
    }
}
