//! Blobs on their way in.

use std::collections::{BTreeMap, HashSet};
use std::time::Duration;

use axum::body::Body;
use bytes::Bytes;
use futures_util::stream::FuturesUnordered;
use futures_util::{StreamExt as _, TryStreamExt as _};
use updraft_api::frames::FrameReader;
use updraft_bundle::failpoint;
use updraft_model::{DeployId, Digest, Timestamp};
use updraft_store::{Deploy, DeployParts, Read};

use super::DeployError;
use super::held::to_send;
use crate::app::{App, UPLOAD_MEMORY};
use crate::auth::Caller;

/// A client that sends nothing for this long is gone.
const IDLE: Duration = Duration::from_secs(60);
/// Bytes that wait for the disk at once.
const MOST_UNWRITTEN: usize = 64 << 20;
const MOST_WRITERS: usize = 16;
/// How stale `touched_at` may get during an upload.
const TOUCH: chrono::Duration = chrono::Duration::minutes(5);

/// Takes the blobs that a deploy names and lacks, each verified and on the disk
/// before this returns. Also for one that was accepted long ago: that repairs
/// a blob that went bad.
pub(crate) async fn upload(
    app: &App,
    caller: &Caller,
    id: DeployId,
    body: Body,
) -> Result<(), DeployError> {
    let mut read = app.store.read().await?;
    let (deployment, deploy) = caller.deploy(&mut read, id).await?;
    if deploy.ended_at.is_some() && deploy.release.is_none() {
        return Err(DeployError::State {
            id,
            state: deploy.state.name(),
            to: "uploaded to",
        });
    }
    let parts = whole(&deploy);
    let named = named_blobs(app, &mut read, &parts).await?;
    let manifests = manifests_of(app, &mut read, &parts).await?;
    let all: Vec<_> = named
        .iter()
        .map(|(digest, size)| (*digest, *size))
        .collect();
    let missing = to_send(app, caller, &mut read, deployment.id, all.clone()).await?;
    drop(read);
    let now = app.now();
    if now - deploy.touched_at > TOUCH {
        touch(app, id, now).await?;
    }
    let mut receipt = Receipt {
        deploy: id,
        absent: app.blobs.missing(all).await?.into_iter().collect(),
        missing: missing.into_iter().collect(),
        named,
        written: Vec::new(),
    };
    // Needed at acceptance; now they share the disk's commits with the rest.
    let manifests = absent_manifests(app, manifests).await?;
    let received = receipt.receive(app, manifests, body).await;
    // Also when the upload broke: what arrived whole is not sent again.
    if !receipt.written.is_empty() {
        let mut tx = app.store.begin().await?;
        tx.insert_named_blobs(deployment.id, &receipt.written)
            .await?;
        tx.commit().await?;
    }
    failpoint("server.upload.end");
    received
}

/// What came of one upload.
struct Receipt {
    deploy: DeployId,
    named: BTreeMap<Digest, u64>,
    /// Taken when they come: the others are held already.
    missing: HashSet<Digest>,
    /// Those that the store lacks as well.
    absent: HashSet<Digest>,
    /// On the disk now.
    written: Vec<Digest>,
}

impl Receipt {
    async fn receive(
        &mut self,
        app: &App,
        manifests: Vec<(Digest, Bytes)>,
        body: Body,
    ) -> Result<(), DeployError> {
        let limit = self.named.values().copied().max().unwrap_or(0);
        // One blob, and what waits to be written. Who comes later is not read
        // from until there is room.
        let most_held = limit + (MOST_UNWRITTEN as u64).min(self.named.values().sum());
        let mebibytes = u32::try_from(most_held >> 20).unwrap_or(UPLOAD_MEMORY);
        let mebibytes = mebibytes.clamp(1, UPLOAD_MEMORY);
        let _memory = app.upload_memory.acquire_many(mebibytes).await;
        // Each blob once or twice, with its head; more is no upload of this deploy.
        let most: u64 = self.named.values().map(|size| 2 * (size + 64)).sum();
        let mut received = 0;
        let mut frames = FrameReader::new(limit);
        let mut chunks = body.into_data_stream();
        let mut writing = FuturesUnordered::new();
        let mut unwritten = 0;
        for (digest, bytes) in manifests {
            unwritten += bytes.len();
            writing.push(keep(app, digest, bytes, true));
        }
        let mut touched = app.now();
        loop {
            let chunk = tokio::time::timeout(IDLE, chunks.next())
                .await
                .map_err(|_| DeployError::UploadStopped)?;
            let Some(chunk) = chunk else { break };
            let chunk = chunk.map_err(|_| DeployError::UploadBroke)?;
            received += chunk.len() as u64;
            let now = app.now();
            if now - touched > TOUCH {
                touch(app, self.deploy, now).await?;
                touched = now;
            }
            if received > most {
                return Err(DeployError::UploadTooLarge { most });
            }
            frames.push(&chunk);
            while let Some((digest, bytes)) = frames.next_unverified()? {
                if !self.named.contains_key(&digest) {
                    return Err(DeployError::NotNamed {
                        id: self.deploy,
                        digest,
                    });
                }
                // Sent twice, or held already.
                if !self.missing.remove(&digest) {
                    continue;
                }
                unwritten += bytes.len();
                writing.push(keep(app, digest, bytes, self.absent.contains(&digest)));
                while writing.len() >= MOST_WRITERS || unwritten > MOST_UNWRITTEN {
                    match writing.try_next().await? {
                        Some((digest, length)) => {
                            unwritten -= length;
                            self.written.push(digest);
                        }
                        None => break,
                    }
                }
            }
        }
        while let Some((digest, _)) = writing.try_next().await? {
            self.written.push(digest);
        }
        Ok(frames.finish()?)
    }
}

/// What may be sent for a deploy: what it brings, and once it is accepted, all
/// that its Release names.
fn whole(deploy: &Deploy) -> DeployParts {
    match &deploy.release {
        None => deploy.parts.clone(),
        Some(release) => DeployParts {
            bundles: release
                .bundles
                .iter()
                .map(|(name, bundle)| (name.clone(), bundle.digest))
                .collect(),
            environment: Some(release.image.digest()),
        },
    }
}

/// Says that an upload moves, so that it does not expire.
async fn touch(app: &App, id: DeployId, now: Timestamp) -> Result<(), DeployError> {
    let mut tx = app.store.begin().await?;
    tx.touch_deploy(id, now).await?;
    Ok(tx.commit().await?)
}

async fn keep(
    app: &App,
    digest: Digest,
    bytes: Bytes,
    is_absent: bool,
) -> Result<(Digest, usize), DeployError> {
    let length = bytes.len();
    failpoint("server.upload.before_blob");
    if is_absent {
        app.blobs.put(digest, bytes).await?;
    } else {
        // Whoever sends the bytes has them: nothing to write twice.
        updraft_blob::verify(digest, bytes).await?;
    }
    failpoint("server.upload.after_blob");
    Ok((digest, length))
}

/// A deploy's manifests as the blobs that they are too.
pub(super) async fn manifests_of(
    app: &App,
    read: &mut Read,
    parts: &DeployParts,
) -> Result<Vec<(Digest, Bytes)>, DeployError> {
    let mut manifests = Vec::new();
    for digest in parts.manifests() {
        let manifest = app.shelf.manifest(read, digest).await?;
        manifests.push((digest, manifest.text.clone().into()));
    }
    Ok(manifests)
}

/// Those manifests that are not in the blob store yet.
pub(super) async fn absent_manifests(
    app: &App,
    mut manifests: Vec<(Digest, Bytes)>,
) -> Result<Vec<(Digest, Bytes)>, DeployError> {
    let sizes = manifests
        .iter()
        .map(|(digest, bytes)| (*digest, bytes.len() as u64))
        .collect();
    let missing = app.blobs.missing(sizes).await?;
    manifests.retain(|(digest, _)| missing.contains(digest));
    Ok(manifests)
}

/// The blobs that a deploy's manifests name, with their sizes.
pub(super) async fn named_blobs(
    app: &App,
    read: &mut Read,
    parts: &DeployParts,
) -> Result<BTreeMap<Digest, u64>, DeployError> {
    let mut named = BTreeMap::new();
    for digest in parts.manifests() {
        let manifest = app.shelf.manifest(read, digest).await?;
        named.extend(manifest.blobs.iter().copied());
    }
    Ok(named)
}
