//! What of the registry goes by itself: uploads that nobody ended, and what no
//! tag, no Release and nothing young reaches.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use updraft_model::{DeploymentId, OciDigest, RepositoryName, Timestamp};
use updraft_store::{PushedManifest, Read, RegistryLink, StoreError};

use crate::app::App;
use crate::deploy::DeployError;

/// Ends the uploads that nobody touched since a moment, and removes what came of
/// those that have no row any more.
pub(crate) async fn expire_uploads(app: &App, before: Timestamp) -> Result<(), DeployError> {
    let mut tx = app.store.begin().await?;
    let expired = tx.expire_registry_uploads(before).await?;
    tx.commit().await?;
    for id in &expired {
        app.blobs.discard_upload(*id)?;
        tracing::info!(upload = %id, "an upload to the registry expired");
    }
    let age = Duration::from_secs(u64::from(app.config.upload_expiry_s));
    for id in app.blobs.resting_uploads(age).await? {
        if app.store.look().await?.registry_upload(id).await?.is_none() {
            app.blobs.discard_upload(id)?;
        }
    }
    Ok(())
}

/// Takes from every repository what nothing reaches any more and is older than
/// this. Blobs go later, with all others that nothing names.
pub(crate) async fn collect(app: &App, untagged: Duration) -> Result<u64, DeployError> {
    let untagged = chrono::Duration::from_std(untagged).unwrap_or(chrono::Duration::MAX);
    let before = app.now() - untagged;
    let since = app.now() - chrono::Duration::days(i64::from(app.config.retention_days));
    let deployments = app.store.look().await?.deployments().await?;
    let mut removed = 0;
    for deployment in deployments {
        let id = deployment.id;
        let mut read = app.store.read().await?;
        let is_something = !unreached(&mut read, id, before, since).await?.is_empty();
        drop(read);
        if !is_something {
            continue;
        }
        let mut tx = app.store.begin().await?;
        // Nobody pushes to it meanwhile; read again, since somebody may have just now.
        if tx.lock_deployment(id).await?.is_none() {
            continue;
        }
        let unreached = unreached(&mut tx, id, before, since).await?;
        for manifest in &unreached.manifests {
            tx.delete_registry_manifest(&manifest.0, &manifest.1)
                .await?;
        }
        for blob in &unreached.blobs {
            tx.unlink_registry_blob(&blob.0, &blob.1).await?;
        }
        tx.commit().await?;
        removed += unreached.len();
    }
    if removed > 0 {
        tracing::info!(removed, "removed what nothing in the registry reaches");
    }
    Ok(removed)
}

type Place = (RepositoryName, OciDigest);

#[derive(Debug, Default)]
struct Unreached {
    manifests: Vec<Place>,
    blobs: Vec<Place>,
}

impl Unreached {
    fn is_empty(&self) -> bool {
        self.manifests.is_empty() && self.blobs.is_empty()
    }

    fn len(&self) -> u64 {
        (self.manifests.len() + self.blobs.len()) as u64
    }
}

/// What of a Deployment's repositories nothing reaches. Kept is what begins with a
/// tag, a Release that is kept, or something young; and all of a repository that
/// somebody uploads to, since nobody knows what the manifest will name.
async fn unreached(
    read: &mut Read,
    deployment: DeploymentId,
    before: Timestamp,
    since: Timestamp,
) -> Result<Unreached, StoreError> {
    let manifests = read.registry_manifests_of(deployment).await?;
    let blobs = read.registry_blobs_of(deployment).await?;
    if manifests.is_empty() && blobs.is_empty() {
        return Ok(Unreached::default());
    }
    let uploads = read.registry_uploads_of(deployment).await?;
    let busy: HashSet<_> = uploads
        .into_iter()
        .map(|upload| upload.repository)
        .collect();
    let mut roots: Vec<Place> = Vec::new();
    for tag in read.registry_tags_of(deployment).await? {
        if !tag.tag.is_of_deploy() {
            roots.push((tag.repository, tag.digest));
        }
    }
    // The images that kept Releases run in.
    let released: HashSet<OciDigest> = read
        .manifests_to_keep(since)
        .await?
        .images
        .into_iter()
        .map(Into::into)
        .collect();
    for pushed in &manifests {
        if released.contains(&pushed.manifest.digest) || pushed.pushed_at > before {
            roots.push(place_of(pushed));
        }
    }
    let reached = reach(&manifests, roots);
    let goes = |place: &Place| !reached.contains(place) && !busy.contains(&place.0);
    let is_old = |blob: &&RegistryLink| blob.linked_at <= before;
    let blobs = blobs.iter().filter(is_old);
    Ok(Unreached {
        manifests: manifests.iter().map(place_of).filter(goes).collect(),
        blobs: blobs
            .map(|blob| (blob.repository.clone(), blob.digest.clone()))
            .filter(goes)
            .collect(),
    })
}

fn place_of(pushed: &PushedManifest) -> Place {
    (pushed.repository.clone(), pushed.manifest.digest.clone())
}

/// All that is reached from the roots: what manifests name, and what refers to
/// something that is reached.
fn reach(manifests: &[PushedManifest], roots: Vec<Place>) -> HashSet<Place> {
    let by_place: HashMap<Place, &PushedManifest> = manifests
        .iter()
        .map(|pushed| (place_of(pushed), pushed))
        .collect();
    let mut referrers: HashMap<Place, Vec<Place>> = HashMap::new();
    for pushed in manifests {
        if let Some(subject) = &pushed.manifest.subject {
            let subject = (pushed.repository.clone(), subject.clone());
            referrers.entry(subject).or_default().push(place_of(pushed));
        }
    }
    let mut reached = HashSet::new();
    let mut next = roots;
    while let Some(place) = next.pop() {
        if !reached.insert(place.clone()) {
            continue;
        }
        next.extend(referrers.get(&place).into_iter().flatten().cloned());
        if let Some(pushed) = by_place.get(&place) {
            let named = pushed.manifest.named.iter();
            next.extend(named.map(|digest| (place.0.clone(), digest.clone())));
        }
    }
    reached
}
