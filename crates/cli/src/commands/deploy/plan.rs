//! `updraft deploy --plan`: what would change.

use std::collections::HashSet;
use std::io::Write;

use updraft_api::Client;
use updraft_api::deploy::{ComparisonOutcome, FileChanges};
use updraft_bundle::{LayerTable, Scan, diff};
use updraft_model::{BundleName, DeploymentName};

use super::compare::Planned;
use super::dags;
use super::report::{Outcome, is_empty, summary, write_names, write_some};
use crate::checks::wanted_tree::bundle_manifest;
use crate::console::Console;
use crate::failure::Result;
use crate::output::deploy_ref;
use crate::output::size::{bytes, things};

/// Names the files that differ. The answer has the tables of the layers that
/// go away; which of ours come new is told by the wanted bundle's manifest.
pub(super) async fn files(
    client: &Client,
    deployment: &DeploymentName,
    scan: &Scan,
    planned: &Planned,
) -> Result<FileChanges> {
    let name = BundleName::dags();
    let comparison = &planned.comparison;
    if comparison.outcome != ComparisonOutcome::Changes || planned.parts.bundles.is_empty() {
        return Ok(FileChanges::default());
    }
    let wanted = comparison
        .wanted
        .as_ref()
        .and_then(|wanted| wanted.bundles.get(&name));
    let kept: HashSet<_> = match wanted {
        Some(bundle) => {
            let manifest = bundle_manifest(client, deployment, bundle.digest).await?;
            manifest.layers().iter().map(|layer| layer.digest).collect()
        }
        None => HashSet::new(),
    };
    let new: Vec<LayerTable> = scan
        .tables()
        .into_iter()
        .filter(|table| !kept.contains(&table.digest))
        .collect();
    let old = comparison
        .replaced
        .get(&name)
        .map(Vec::as_slice)
        .unwrap_or_default();
    let changes = diff(old, &new);
    Ok(FileChanges {
        added: changes.added,
        changed: changes.changed,
        removed: changes.removed,
    })
}

pub(super) fn print(outcome: &Outcome, planned: &Planned, out: &mut Console) -> Result<()> {
    let comparison = &planned.comparison;
    if out.is_json() {
        return out.json(outcome);
    }
    let mut text = Vec::new();
    let name = &outcome.deployment;
    let since = comparison
        .deploy
        .as_ref()
        .map(|deploy| deploy_ref::short(deploy.id));
    let since = since.map(|id| format!(" ({id})")).unwrap_or_default();
    match comparison.outcome {
        ComparisonOutcome::NothingToDo => {
            writeln!(text, "Nothing to do: `{name}` runs exactly this{since}")?;
        }
        ComparisonOutcome::RollingOut => {
            writeln!(
                text,
                "`{name}` is rolling out exactly this{since}; a deploy would wait for it"
            )?;
        }
        ComparisonOutcome::ProvingAgain => {
            writeln!(
                text,
                "`{name}` should run exactly this and it is not proven{since}; a deploy would prove it again"
            )?;
        }
        ComparisonOutcome::Changes => {
            let files = &outcome.files;
            let what = match (outcome.environment, is_empty(files)) {
                ("made", true) => "the image".to_owned(),
                ("made", false) => format!("{}, and the image", summary(files)),
                _ => summary(files),
            };
            writeln!(text, "`{name}` would change: {what}")?;
            write_names(
                &files.added,
                &files.changed,
                &files.removed,
                "  ",
                &mut text,
            )?;
            dags::write(outcome.planned_dags.as_ref(), planned, &mut text)?;
            if let Some(sent) = &outcome.sent {
                writeln!(
                    text,
                    "to send: {} of {}, in {} of {}",
                    bytes(sent.bytes),
                    bytes(sent.of_bytes),
                    sent.layers,
                    things(sent.of_layers, "layer"),
                )?;
            }
        }
    }
    if !outcome.image_changes.is_empty() {
        writeln!(text, "the image would change:")?;
        write_some(&outcome.image_changes, &mut text)?;
    }
    if !outcome.image_differs.is_empty() {
        writeln!(
            text,
            "besides the DAGs this differs, and would stay as it is:"
        )?;
        write_some(&outcome.image_differs, &mut text)?;
    }
    out.data().write_all(&text)?;
    Ok(())
}
