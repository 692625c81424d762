//! Blobs on their way in: begun, gone on with, ended.
//!
//! What came stays where a connection breaks or the server is killed, and the
//! client is told how far it got. What can never become the blob that was
//! promised is forgotten at once.

use std::time::Duration;

use axum::body::BodyDataStream;
use bytes::Bytes;
use futures_util::StreamExt as _;
use tokio::task::JoinHandle;
use tokio::time::timeout;
use updraft_blob::{BlobError, Upload};
use updraft_bundle::failpoint;
use updraft_model::{OciDigest, RepositoryName, Timestamp, UploadId};
use updraft_store::{Deployment, RegistryLink, RegistryUpload};

use super::error::UploadAt;
use super::quota::{Room, check_added, room_for};
use super::{Action, RegistryError, Visitor};
use crate::app::App;

/// A client that sends nothing for this long is gone.
const IDLE: Duration = Duration::from_secs(60);
/// How much is written at once, while as much again comes.
const PART: usize = 1 << 20;
/// Uploads to a Deployment at once: enough for many builds that push.
const MOST_UPLOADS: usize = 100;
/// How stale `touched_at` may get while bytes come.
const TOUCH: chrono::Duration = chrono::Duration::minutes(5);

/// How an upload is to begin.
#[derive(Debug)]
pub(super) struct Begin {
    /// A blob that another repository may have: a named one, or any.
    pub(super) mount: Option<(OciDigest, Option<RepositoryName>)>,
    /// The whole blob comes with the request.
    pub(super) digest: Option<OciDigest>,
    /// How many bytes come, when that is known.
    pub(super) length: Option<u64>,
}

/// A part of an upload as the request announces it.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Part {
    /// First and last byte.
    pub(super) range: Option<(u64, u64)>,
    /// How many bytes come, when that is known.
    pub(super) length: Option<u64>,
}

/// Where a blob is to be, and the upload that it comes by, if that is one of several
/// requests.
#[derive(Clone, Copy)]
struct Place<'a> {
    deployment: &'a Deployment,
    repository: &'a RepositoryName,
    session: Option<UploadId>,
}

pub(super) enum Begun {
    /// The repository has the blob now.
    Blob(OciDigest),
    Upload(UploadId),
}

/// Begins an upload, unless the blob is there or comes at once.
pub(super) async fn begin(
    app: &App,
    visitor: &Visitor,
    repository: &RepositoryName,
    ask: Begin,
    body: &mut BodyDataStream,
) -> Result<Begun, RegistryError> {
    let mut read = app.store.read().await?;
    let deployment = visitor
        .deployment(&mut read, repository, Action::Push)
        .await?;
    drop(read);
    if let Some((digest, from)) = ask.mount
        && mount(app, visitor, repository, &deployment, from, &digest).await?
    {
        return Ok(Begun::Blob(digest));
    }
    let id = UploadId::new();
    if let Some(digest) = ask.digest {
        let part = Part {
            range: None,
            length: ask.length,
        };
        let place = Place {
            deployment: &deployment,
            repository,
            session: None,
        };
        let whole = at_once(app, place, id, &digest, part, body).await;
        if whole.is_err() {
            app.blobs.discard_upload(id)?;
        }
        return whole.map(|()| Begun::Blob(digest));
    }

    let now = app.now();
    let mut tx = app.store.begin().await?;
    tx.lock_deployment(deployment.id)
        .await?
        .ok_or_else(|| RegistryError::NameUnknown(repository.clone()))?;
    if tx.registry_uploads_of(deployment.id).await?.len() >= MOST_UPLOADS {
        let name = deployment.name.to_string();
        return Err(RegistryError::ManyUploads(MOST_UPLOADS, name));
    }
    tx.insert_registry_upload(&RegistryUpload {
        id,
        deployment: deployment.id,
        repository: repository.clone(),
        begun_at: now,
        touched_at: now,
    })
    .await?;
    tx.commit().await?;
    Ok(Begun::Upload(id))
}

/// Gives the repository a blob that another has: a named one from which the caller may
/// pull, or any of the same Deployment.
async fn mount(
    app: &App,
    visitor: &Visitor,
    repository: &RepositoryName,
    deployment: &Deployment,
    from: Option<RepositoryName>,
    digest: &OciDigest,
) -> Result<bool, RegistryError> {
    // Nothing goes between the look and the row.
    let _gate = app.blob_gate.read().await;
    let mut read = app.store.read().await?;
    let found = match &from {
        // Whoever pushes to one of a Deployment's repositories may pull from them all.
        None => read.registry_blob_within(deployment.id, digest).await?,
        Some(from) if from.deployment() == repository.deployment() => {
            read.registry_blob(from, digest).await?
        }
        Some(from) => match visitor.deployment(&mut read, from, Action::Pull).await {
            Ok(_) => read.registry_blob(from, digest).await?,
            // Worth asking for another token; everything else is worth sending the blob.
            Err(error @ (RegistryError::OtherScope | RegistryError::Store(_))) => {
                return Err(error);
            }
            Err(_) => None,
        },
    };
    drop(read);
    let Some(found) = found else {
        return Ok(false);
    };
    let blob = vec![(found.stored, found.size)];
    if !app.blobs.missing(blob).await?.is_empty() {
        return Ok(false);
    }
    let link = RegistryLink {
        deployment: deployment.id,
        repository: repository.clone(),
        linked_at: app.now(),
        ..found
    };
    link_blob(app, deployment, &link, None).await?;
    Ok(true)
}

/// Takes a blob that comes whole in the request that begins it.
async fn at_once(
    app: &App,
    place: Place<'_>,
    id: UploadId,
    digest: &OciDigest,
    part: Part,
    body: &mut BodyDataStream,
) -> Result<(), RegistryError> {
    let mut read = app.store.read().await?;
    let room = room_for(app, &mut read, place.deployment, id).await?;
    drop(read);
    let mut receipt = Receipt::begin(app, id, room, part, None).await?;
    receipt.receive(body).await?;
    let upload = receipt.end().await?;
    finish(app, place, digest, upload).await
}

/// Goes on with an upload, and says how much of it is there.
pub(super) async fn append(
    app: &App,
    visitor: &Visitor,
    at: &UploadAt,
    part: Part,
    body: &mut BodyDataStream,
) -> Result<u64, RegistryError> {
    let deployment = find(app, visitor, at, Action::Push).await?;
    let upload = take(app, &deployment, at, part, body).await?.sync().await?;
    touch(app, at.id, app.now()).await?;
    failpoint("server.registry.after_part");
    Ok(upload.length())
}

/// Ends an upload with its last part, if there is one more: the blob is there, or
/// the upload is forgotten.
pub(super) async fn end(
    app: &App,
    visitor: &Visitor,
    at: &UploadAt,
    digest: &OciDigest,
    part: Part,
    body: &mut BodyDataStream,
) -> Result<(), RegistryError> {
    let deployment = find(app, visitor, at, Action::Push).await?;
    let upload = take(app, &deployment, at, part, body).await?;
    let place = Place {
        deployment: &deployment,
        repository: &at.repository,
        session: Some(at.id),
    };
    finish(app, place, digest, upload).await
}

/// Says how much of an upload is there.
pub(super) async fn status(
    app: &App,
    visitor: &Visitor,
    at: &UploadAt,
) -> Result<u64, RegistryError> {
    find(app, visitor, at, Action::Push).await?;
    Ok(app.blobs.uploaded(at.id)?)
}

pub(super) async fn cancel(
    app: &App,
    visitor: &Visitor,
    at: &UploadAt,
) -> Result<(), RegistryError> {
    find(app, visitor, at, Action::Push).await?;
    forget(app, at.id).await
}

async fn find(
    app: &App,
    visitor: &Visitor,
    at: &UploadAt,
    action: Action,
) -> Result<Deployment, RegistryError> {
    let mut read = app.store.read().await?;
    let deployment = visitor
        .deployment(&mut read, &at.repository, action)
        .await?;
    let upload = read.registry_upload(at.id).await?;
    upload
        .filter(|upload| upload.repository == at.repository)
        .ok_or(RegistryError::UploadUnknown)?;
    Ok(deployment)
}

/// Takes the bytes of one request.
async fn take(
    app: &App,
    deployment: &Deployment,
    at: &UploadAt,
    part: Part,
    body: &mut BodyDataStream,
) -> Result<Upload, RegistryError> {
    let mut read = app.store.read().await?;
    let room = room_for(app, &mut read, deployment, at.id).await?;
    drop(read);
    let begun = Receipt::begin(app, at.id, room, part, Some(at)).await;
    let received = match begun {
        Ok(mut receipt) => match receipt.receive(body).await {
            Ok(()) => receipt.end().await,
            Err(error) => Err(error),
        },
        Err(error) => Err(error),
    };
    // What cannot go on takes up no space.
    if let Err(RegistryError::Quota { .. } | RegistryError::Blob(BlobError::Full(_))) = &received
        && let Err(error) = forget(app, at.id).await
    {
        tracing::warn!(%error, upload = %at.id, "could not forget an upload; it will expire");
    }
    received
}

/// Bytes that come, and how many may.
struct Receipt<'a> {
    app: &'a App,
    id: UploadId,
    /// Whether the upload is a row that has to be touched.
    is_row: bool,
    room: Room,
    expected: Option<u64>,
    received: u64,
    unwritten: Vec<Bytes>,
    waiting: usize,
    writing: Option<JoinHandle<Result<Upload, BlobError>>>,
    resting: Option<Upload>,
    began_at: u64,
    touched: Timestamp,
}

impl<'a> Receipt<'a> {
    async fn begin(
        app: &'a App,
        id: UploadId,
        room: Room,
        part: Part,
        at: Option<&UploadAt>,
    ) -> Result<Self, RegistryError> {
        let expected = match part.range {
            Some((first, last)) => Some(last - first + 1),
            None => part.length,
        };
        if let (Some(expected), Some(actual)) = (expected, part.length)
            && expected != actual
        {
            return Err(RegistryError::WrongSize { expected, actual });
        }
        // Before any of it comes.
        room.check(expected.unwrap_or(0))?;
        let upload = app.blobs.resume_upload(id).await?;
        let began_at = upload.length();
        let now = app.now();
        if let Some(at) = at {
            if !touch(app, id, now).await? {
                drop(upload);
                app.blobs.discard_upload(id)?;
                return Err(RegistryError::UploadUnknown);
            }
            if let Some((first, _)) = part.range
                && first != began_at
            {
                return Err(RegistryError::OutOfOrder {
                    upload: at.clone(),
                    length: began_at,
                });
            }
        }
        Ok(Self {
            app,
            id,
            is_row: at.is_some(),
            room,
            expected,
            received: 0,
            unwritten: Vec::new(),
            waiting: 0,
            writing: None,
            resting: Some(upload),
            began_at,
            touched: now,
        })
    }

    /// Takes what comes until it ends. What came before an error stays, unless it
    /// is more than was said.
    async fn receive(&mut self, body: &mut BodyDataStream) -> Result<(), RegistryError> {
        let received = self.read(body).await;
        let written = self.write_rest().await;
        received.and(written)?;
        if let Some(expected) = self.expected
            && self.received != expected
        {
            return Err(self.wrong_size(expected).await);
        }
        Ok(())
    }

    async fn read(&mut self, body: &mut BodyDataStream) -> Result<(), RegistryError> {
        loop {
            let chunk = timeout(IDLE, body.next()).await;
            let chunk = chunk.map_err(|_| RegistryError::UploadStopped)?;
            let Some(chunk) = chunk else { return Ok(()) };
            let chunk = chunk.map_err(|_| RegistryError::UploadBroke)?;
            self.received += chunk.len() as u64;
            if let Some(expected) = self.expected
                && self.received > expected
            {
                return Err(self.wrong_size(expected).await);
            }
            self.room.check(self.received)?;
            self.waiting += chunk.len();
            self.unwritten.push(chunk);
            if self.waiting >= PART {
                self.write().await?;
            }
            let now = self.app.now();
            if self.is_row && now - self.touched > TOUCH {
                touch(self.app, self.id, now).await?;
                self.touched = now;
            }
        }
    }

    async fn wrong_size(&mut self, expected: u64) -> RegistryError {
        self.unwritten.clear();
        self.waiting = 0;
        let taken_back = async {
            self.write_rest().await?;
            if let Some(upload) = self.resting.take() {
                self.resting = Some(upload.take_back(self.began_at).await?);
            }
            Ok::<_, RegistryError>(())
        };
        match taken_back.await {
            Ok(()) => RegistryError::WrongSize {
                expected,
                actual: self.received,
            },
            Err(error) => error,
        }
    }

    /// Begins to write what came, when what came before is written.
    async fn write(&mut self) -> Result<(), RegistryError> {
        self.written().await?;
        let chunks = std::mem::take(&mut self.unwritten);
        self.waiting = 0;
        if let Some(upload) = self.resting.take() {
            self.writing = Some(upload.append(chunks));
        }
        Ok(())
    }

    async fn written(&mut self) -> Result<(), RegistryError> {
        if let Some(writing) = self.writing.take() {
            let written = writing.await.map_err(|error| BlobError::Io {
                path: std::path::PathBuf::new(),
                source: std::io::Error::other(error),
            })?;
            self.resting = Some(written?);
        }
        Ok(())
    }

    async fn write_rest(&mut self) -> Result<(), RegistryError> {
        self.write().await?;
        self.written().await
    }

    async fn end(mut self) -> Result<Upload, RegistryError> {
        self.write_rest().await?;
        self.resting.take().ok_or(RegistryError::UploadUnknown)
    }
}

/// Makes what came a blob of the repository, if it is the one that was promised.
async fn finish(
    app: &App,
    place: Place<'_>,
    digest: &OciDigest,
    upload: Upload,
) -> Result<(), RegistryError> {
    let (upload, actual) = upload.digest_like(digest).await?;
    if actual != *digest {
        drop(upload);
        if let Some(id) = place.session {
            forget(app, id).await?;
        }
        return Err(RegistryError::WrongDigest {
            expected: digest.clone(),
            actual,
        });
    }
    let size = upload.length();
    // Nothing that is unnamed goes before the row names it.
    let _gate = app.blob_gate.read().await;
    if let Some(id) = place.session
        && app.store.look().await?.registry_upload(id).await?.is_none()
    {
        // Cancelled meanwhile, and its file with it.
        return Err(RegistryError::UploadUnknown);
    }
    let stored = app.blobs.keep_upload(upload).await?;
    failpoint("server.registry.after_blob");
    let link = RegistryLink {
        deployment: place.deployment.id,
        repository: place.repository.clone(),
        digest: digest.clone(),
        stored,
        size,
        linked_at: app.now(),
    };
    link_blob(app, place.deployment, &link, place.session).await
}

/// Only for whoever keeps blobs from going meanwhile.
async fn link_blob(
    app: &App,
    deployment: &Deployment,
    link: &RegistryLink,
    session: Option<UploadId>,
) -> Result<(), RegistryError> {
    let mut tx = app.store.begin().await?;
    tx.lock_deployment(deployment.id)
        .await?
        .ok_or_else(|| RegistryError::NameUnknown(link.repository.clone()))?;
    if let Some(id) = session
        && !tx.delete_registry_upload(id).await?
    {
        return Err(RegistryError::UploadUnknown);
    }
    tx.link_registry_blob(link).await?;
    check_added(app, &mut tx, deployment, link.size).await?;
    tx.commit().await?;
    failpoint("server.registry.after_row");
    Ok(())
}

/// Says that an upload moves; false when it is gone.
async fn touch(app: &App, id: UploadId, now: Timestamp) -> Result<bool, RegistryError> {
    let mut tx = app.store.begin().await?;
    let is_there = tx.touch_registry_upload(id, now).await?;
    tx.commit().await?;
    Ok(is_there)
}

/// Ends an upload without a blob.
async fn forget(app: &App, id: UploadId) -> Result<(), RegistryError> {
    // First the bytes: on a full disk that makes room for the rest.
    app.blobs.discard_upload(id)?;
    let mut tx = app.store.begin().await?;
    tx.delete_registry_upload(id).await?;
    Ok(tx.commit().await?)
}
