//! The one place where what a Deployment should run changes.

use std::collections::{BTreeMap, BTreeSet};

use updraft_model::{BundleName, DeployId, Digest, Release, Timestamp};
use updraft_store::{Deploy, Deployment, FileLists, Read, Target, Write};

use super::DeployError;
use crate::app::App;

/// A change of what is wanted.
pub(super) struct Become {
    /// What was wanted until now.
    pub(super) wanted: Option<Release>,
    pub(super) release: Release,
    pub(super) files: BTreeMap<BundleName, FileLists>,
    /// The deploy that this one takes back.
    pub(super) undone: Option<DeployId>,
}

/// Makes a Release the wanted one, within the transaction that holds the
/// Deployment's lock. Returns the other deploys whose state that changed.
///
/// What was still rolling out is superseded; what is live stays so until the
/// new Release is on disk.
pub(super) async fn become_wanted(
    app: &App,
    tx: &mut Write,
    deployment: &mut Deployment,
    deploy: &mut Deploy,
    change: Become,
    now: Timestamp,
) -> Result<Vec<Deploy>, DeployError> {
    let Become {
        wanted,
        release,
        files,
        undone,
    } = change;
    let mut carried: BTreeSet<_> = release
        .parts_that_differ_from(wanted.as_ref())
        .into_iter()
        .collect();
    deploy.changed = carried.iter().cloned().collect();

    let mut moved = Vec::new();
    for mut other in tx.unfinished_deploys(deployment.id).await? {
        if other.id == deploy.id {
            continue;
        }
        if Some(other.id) != undone {
            carried.extend(other.carried.iter().cloned());
            other.state = other.state.supersede(now, deploy.id)?;
            tx.update_deploy(&mut other, now).await?;
            moved.push(other);
        }
    }
    if let Some(undone) = undone
        && let Some(mut other) = tx.deploy(undone).await?
    {
        other.state = other.state.roll_back(now, deploy.id)?;
        tx.update_deploy(&mut other, now).await?;
        moved.push(other);
    }

    // What it names and the Release before did not: agents may fetch it now.
    let before: BTreeSet<Digest> = match &wanted {
        Some(wanted) => digests(app, tx, wanted).await?,
        None => BTreeSet::new(),
    };
    let after = digests(app, tx, &release).await?;
    let new: Vec<Digest> = after.difference(&before).copied().collect();
    tx.insert_release(deployment.id, &release, now).await?;
    tx.insert_named_blobs(deployment.id, &new).await?;

    let connected = tx
        .agents(deployment.id)
        .await?
        .iter()
        .filter(|agent| app.leases.until(agent) > now)
        .count();
    deployment.generation += 1;
    deployment.target = Some(Target {
        deploy: deploy.id,
        release: release.id,
        attempt: 1,
        since: now,
        generation: deployment.generation,
        // A lone agent need not ask again once it has the Release staged.
        may_switch: connected == 1,
    });
    tx.update_deployment(deployment, now).await?;

    deploy.base = wanted.map(|wanted| wanted.id);
    deploy.carried = carried.into_iter().collect();
    deploy.release = Some(release);
    deploy.files = files;
    deploy.accepted_at = Some(now);
    tx.update_deploy(deploy, now).await?;
    Ok(moved)
}

async fn digests(
    app: &App,
    read: &mut Read,
    release: &Release,
) -> Result<BTreeSet<Digest>, DeployError> {
    let blobs = app.shelf.blobs_of(read, release).await?;
    Ok(blobs.into_iter().map(|(digest, _)| digest).collect())
}

/// The files that differ between two Releases, by bundle; bundles that do not
/// differ are left out.
pub(super) async fn files_between(
    app: &App,
    read: &mut Read,
    old: Option<&Release>,
    new: &Release,
) -> Result<BTreeMap<BundleName, FileLists>, DeployError> {
    let bundle = |release: &Release, name| release.bundles.get(name).map(|bundle| bundle.digest);
    let names: BTreeSet<&BundleName> = old
        .into_iter()
        .chain([new])
        .flat_map(|release| release.bundles.keys())
        .collect();
    let mut files = BTreeMap::new();
    for name in names {
        let (old, new) = (old.and_then(|old| bundle(old, name)), bundle(new, name));
        if old != new {
            let lists = app.shelf.files_between(read, old, new).await?;
            files.insert(name.clone(), lists);
        }
    }
    Ok(files)
}
