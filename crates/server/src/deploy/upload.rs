//! Blobs on their way in.

use std::collections::{BTreeMap, HashSet};
use std::pin::pin;
use std::time::Duration;

use axum::body::Body;
use bytes::Bytes;
use futures_util::future::BoxFuture;
use futures_util::stream::FuturesUnordered;
use futures_util::{StreamExt as _, TryStreamExt as _};
use tokio::time::{Instant, timeout_at};
use updraft_api::frames::FrameReader;
use updraft_bundle::failpoint;
use updraft_model::{DeployId, Digest, Timestamp};
use updraft_store::{Deploy, DeployParts, Read};

use super::DeployError;
use super::held::to_send;
use crate::app::App;
use crate::auth::Caller;
use crate::room::Room;

/// A client that sends nothing for this long is gone.
const IDLE: Duration = Duration::from_secs(60);
/// Bytes per second that a blob has to come with, as long as it takes up room.
const SLOWEST: u64 = 64 << 10;
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
    caller.check_deploys_to(&deployment)?;
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
        // Each blob once or twice, with its head; more is no upload of this deploy.
        let most: u64 = self.named.values().map(|size| 2 * (size + 64)).sum();
        let mut received = 0;
        let mut frames = FrameReader::new(limit);
        let mut chunks = body.into_data_stream();
        let mut writes = Writes::new(app);
        for (digest, bytes) in manifests {
            writes.begin(digest, bytes, true, None);
        }
        let mut touched = app.now();
        // The room of a blob that is in the middle of coming, and until when it has come.
        let mut coming: Option<(Room<'_>, Instant)> = None;
        loop {
            let due = coming.as_ref().map(|(_, due)| *due);
            let idle = Instant::now() + IDLE;
            let chunk = timeout_at(due.map_or(idle, |due| due.min(idle)), chunks.next())
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
                let room = coming.take().map(|(room, _)| room);
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
                let room = match room {
                    Some(room) => room,
                    None => writes.room(bytes.len() as u64, &mut self.written).await?,
                };
                writes.begin(digest, bytes, self.absent.contains(&digest), Some(room));
                while writes.are_many() {
                    writes.end_one(&mut self.written).await?;
                }
            }
            if coming.is_none()
                && let Some(length) = frames.coming()
            {
                let room = writes.room(length, &mut self.written).await?;
                let takes = Duration::from_secs(length / SLOWEST);
                coming = Some((room, Instant::now() + IDLE + takes));
            }
        }
        while writes.end_one(&mut self.written).await? {}
        Ok(frames.finish()?)
    }
}

/// Blobs that are being written.
struct Writes<'a> {
    app: &'a App,
    begun: FuturesUnordered<BoxFuture<'a, Result<(Digest, usize), DeployError>>>,
    unwritten: usize,
}

impl<'a> Writes<'a> {
    fn new(app: &'a App) -> Self {
        Self {
            app,
            begun: FuturesUnordered::new(),
            unwritten: 0,
        }
    }

    fn begin(&mut self, digest: Digest, bytes: Bytes, is_absent: bool, room: Option<Room<'a>>) {
        self.unwritten += bytes.len();
        let app = self.app;
        self.begun.push(Box::pin(async move {
            let written = keep(app, digest, bytes, is_absent).await;
            drop(room);
            written
        }));
    }

    fn are_many(&self) -> bool {
        self.begun.len() >= MOST_WRITERS || self.unwritten > MOST_UNWRITTEN
    }

    /// Waits for one of them; false when there is none.
    async fn end_one(&mut self, written: &mut Vec<Digest>) -> Result<bool, DeployError> {
        let Some((digest, length)) = self.begun.try_next().await? else {
            return Ok(false);
        };
        self.unwritten -= length;
        written.push(digest);
        Ok(true)
    }

    /// Room for one more. Meanwhile these go on: it may be theirs.
    async fn room(
        &mut self,
        size: u64,
        written: &mut Vec<Digest>,
    ) -> Result<Room<'a>, DeployError> {
        let mut room = pin!(self.app.upload_room.take(size));
        loop {
            tokio::select! {
                room = &mut room => return room.ok_or(DeployError::NoRoom),
                ended = self.end_one(written), if !self.begun.is_empty() => drop(ended?),
            }
        }
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
            image: Some(release.image.clone()),
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
