//! What files say together.

use std::collections::BTreeMap;

use crate::finding::Found;
use crate::module::{DagId, Facts};
use crate::rule::Rule;

/// Finds ids that two DAGs have; told of each but the first.
pub(crate) fn duplicates<'a>(files: &[(&'a str, &'a Facts)]) -> Vec<(&'a str, Found)> {
    let mut by_id: BTreeMap<&str, Vec<(&str, &DagId)>> = BTreeMap::new();
    for (file, facts) in files {
        for dag in &facts.dags {
            by_id.entry(&dag.id).or_default().push((file, dag));
        }
    }
    let mut found = Vec::new();
    for (id, dags) in by_id {
        let mut dags = dags.into_iter();
        let Some((first, at)) = dags.next() else {
            continue;
        };
        found.extend(dags.map(|(file, dag)| {
            let message = format!(
                "`{id}` is also the id of a DAG in {first}:{}",
                at.place.line
            );
            let found = Found {
                rule: Rule::DuplicateDag,
                place: dag.place,
                text: dag.text.clone(),
                message,
            };
            (file, found)
        }));
    }
    found
}

/// Finds ids that DAGs of other bundles have; they come with their bundles.
pub(crate) fn elsewhere<'a>(
    files: &[(&'a str, &'a Facts)],
    ids: &BTreeMap<String, String>,
) -> Vec<(&'a str, Found)> {
    let dags = files.iter().flat_map(|(file, facts)| {
        let dags = facts.dags.iter();
        dags.map(move |dag| (*file, dag))
    });
    dags.filter_map(|(file, dag)| {
        let bundle = ids.get(&dag.id)?;
        let found = Found {
            rule: Rule::ElsewhereDag,
            place: dag.place,
            text: dag.text.clone(),
            message: format!(
                "`{}` is also the id of a DAG in the bundle `{bundle}` of this Deployment",
                dag.id
            ),
        };
        Some((file, found))
    })
    .collect()
}
