//! How two deploys' Releases differ, in files and in DAGs.

use std::collections::BTreeMap;

use updraft_api::deploy::{DiffView, FileChanges};
use updraft_model::{DeployId, Proof, Release};
use updraft_store::Deploy;

use super::DeployError;
use super::view::file_changes;
use super::wanted::files_between;
use crate::app::App;
use crate::auth::Caller;

/// Compares two deploys; with one, that one with what was wanted before it.
pub(crate) async fn diff(
    app: &App,
    caller: &Caller,
    from: DeployId,
    to: Option<DeployId>,
) -> Result<DiffView, DeployError> {
    let mut read = app.store.read().await?;
    let (deployment, first) = caller.deploy(&mut read, from).await?;
    let (old, new): (Option<Deploy>, Deploy) = if let Some(to) = to {
        let (other, second) = caller.deploy(&mut read, to).await?;
        if other.id != deployment.id {
            return Err(DeployError::OtherDeployment {
                id: to,
                deployment: deployment.name.to_string(),
            });
        }
        (Some(first), second)
    } else {
        let base = match first.base {
            Some(base) => read.deploy_of_release(deployment.id, base).await?,
            None => None,
        };
        (base, first)
    };
    let old_release = old.as_ref().map(release_of).transpose()?;
    let new_release = release_of(&new)?;
    for deploy in old.iter().chain([&new]) {
        if let Some(release) = &deploy.release
            && !read.has_manifests(release).await?
        {
            return Err(DeployError::PastRetention {
                id: deploy.id,
                days: app.config.retention_days,
                others: Vec::new(),
            });
        }
    }
    let files = files_between(app, &mut read, old_release, new_release).await?;

    let dags = match &old {
        None => new.proof.as_ref().map(one_proof).unwrap_or_default(),
        // What changed in between changed back.
        Some(_) if old_release.is_some_and(|old| old.same_content(new_release)) => {
            FileChanges::default()
        }
        Some(old) => {
            let (from, to) = (old.accepted_at, new.accepted_at);
            let is_forwards = from <= to;
            let (first, last) = if is_forwards { (from, to) } else { (to, from) };
            let proofs = read.proofs_between(deployment.id, first, last).await?;
            if is_forwards {
                fold(&proofs)
            } else {
                backwards(fold(&proofs))
            }
        }
    };
    Ok(DiffView {
        from: old.as_ref().map(|old| old.id),
        to: new.id,
        bundles: files
            .into_iter()
            .map(|(name, lists)| (name, file_changes(lists)))
            .collect(),
        image_changed: old_release.is_none_or(|old| old.image != new_release.image),
        dags,
    })
}

fn release_of(deploy: &Deploy) -> Result<&Release, DeployError> {
    deploy.release.as_ref().ok_or(DeployError::State {
        id: deploy.id,
        state: deploy.state.name(),
        to: "compared",
    })
}

fn one_proof(proof: &Proof) -> FileChanges {
    fold(std::slice::from_ref(proof))
}

#[derive(Clone, Copy, PartialEq)]
enum Change {
    Added,
    Changed,
    Removed,
}

/// What a row of changes comes to: added and removed again is nothing.
fn fold(proofs: &[Proof]) -> FileChanges {
    let mut changes: BTreeMap<&str, Change> = BTreeMap::new();
    for proof in proofs {
        for dag in &proof.dags.added {
            match changes.get(dag.as_str()) {
                Some(Change::Removed) => changes.insert(dag, Change::Changed),
                _ => changes.insert(dag, Change::Added),
            };
        }
        for dag in &proof.dags.changed {
            changes.entry(dag).or_insert(Change::Changed);
        }
        for dag in &proof.dags.removed {
            match changes.get(dag.as_str()) {
                Some(Change::Added) => changes.remove(dag.as_str()),
                _ => changes.insert(dag, Change::Removed),
            };
        }
    }
    let with = |wanted: Change| -> Vec<String> {
        changes
            .iter()
            .filter(|(_, change)| **change == wanted)
            .map(|(dag, _)| (*dag).to_owned())
            .collect()
    };
    FileChanges {
        added: with(Change::Added),
        changed: with(Change::Changed),
        removed: with(Change::Removed),
    }
}

fn backwards(changes: FileChanges) -> FileChanges {
    FileChanges {
        added: changes.removed,
        removed: changes.added,
        changed: changes.changed,
    }
}
