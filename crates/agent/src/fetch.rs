//! Blobs: fetched many in one request, kept as long as a version needs them.
//!
//! The folder is a cache of what the control plane has. Every use checks the
//! digest, so a file that a power cut left empty is fetched again like one that
//! never arrived; that is why they are not synced one by one.

use std::fs;
use std::io::{self, Read, Write};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::{Mutex, OwnedMutexGuard};
use updraft_api::{Client, ClientError};
use updraft_bundle::{
    BundleDir, How, Limits, Manifest, Materialize, Materialized, Verify, VersionError,
};
use updraft_model::{BundleName, Digest};

use crate::disk::Disk;
use crate::failpoint::failpoint;
use crate::files;

/// The right to write versions. Work that blocks goes on after whoever waits
/// for it was dropped, so it holds a share of this for as long as it runs.
pub(crate) type Writing = Arc<OwnedMutexGuard<()>>;

pub(crate) async fn may_write(lock: &Arc<Mutex<()>>) -> Writing {
    Arc::new(Arc::clone(lock).lock_owned().await)
}

/// One blob is held in memory while it arrives.
const LARGEST: u64 = 2 << 30;

#[derive(Debug, thiserror::Error)]
pub(crate) enum FetchError {
    #[error("could not fetch from the control plane")]
    Client(#[from] ClientError),
    #[error("{0}")]
    Keep(io::Error),
    #[error("the control plane did not send {0}")]
    NotSent(Digest),
    #[error("the manifest {digest} is not one")]
    Manifest {
        digest: Digest,
        source: updraft_bundle::ManifestError,
    },
    #[error(transparent)]
    Version(#[from] VersionError),
    #[error("the work was interrupted")]
    Interrupted,
}

#[derive(Debug, Clone)]
pub(crate) struct Blobs {
    folder: PathBuf,
}

impl Blobs {
    pub(crate) fn new(disk: &Disk) -> Self {
        Self {
            folder: disk.blobs(),
        }
    }

    fn path(&self, digest: &Digest) -> PathBuf {
        self.folder.join(digest.folder())
    }

    fn has(&self, digest: &Digest) -> bool {
        self.path(digest).is_file()
    }

    /// Reads a blob whole; one with other bytes than its digest says is removed.
    pub(crate) fn read(&self, digest: &Digest) -> Option<Bytes> {
        let bytes = fs::read(self.path(digest)).ok()?;
        if Digest::of(&bytes) == *digest {
            return Some(bytes.into());
        }
        tracing::warn!(%digest, "a kept blob is damaged; it will be fetched again");
        let _ = fs::remove_file(self.path(digest));
        None
    }

    /// Removes a blob that turned out to be damaged.
    pub(crate) fn discard(&self, digest: &Digest) {
        let _ = fs::remove_file(self.path(digest));
    }

    fn open(&self, digest: &Digest) -> io::Result<Box<dyn Read>> {
        Ok(Box::new(fs::File::open(self.path(digest))?))
    }

    /// `bytes` have been verified against the digest.
    fn put(&self, digest: &Digest, bytes: &[u8]) -> io::Result<()> {
        let mut file = tempfile::Builder::new()
            .prefix(".tmp-")
            .tempfile_in(&self.folder)?;
        file.write_all(bytes)?;
        file.persist(self.path(digest))
            .map_err(|error| error.error)?;
        Ok(())
    }

    /// Fetches those that are not here, in one request.
    pub(crate) async fn fetch(
        &self,
        client: &Client,
        digests: &[Digest],
    ) -> Result<u64, FetchError> {
        let missing: Vec<Digest> = digests
            .iter()
            .filter(|digest| !self.has(digest))
            .copied()
            .collect();
        if missing.is_empty() {
            return Ok(0);
        }
        failpoint("agent.fetch.start");
        let mut received = 0;
        client
            .fetch_blobs(missing.clone(), LARGEST, |digest, bytes| {
                received += bytes.len() as u64;
                self.put(&digest, &bytes)
                    .map_err(files::while_doing("keep what was fetched in", &self.folder))?;
                failpoint("agent.fetch.after_one_blob");
                Ok(())
            })
            .await?
            .map_err(FetchError::Keep)?;
        failpoint("agent.fetch.end");
        match missing.into_iter().find(|digest| !self.has(digest)) {
            Some(digest) => Err(FetchError::NotSent(digest)),
            None => Ok(received),
        }
    }

    /// Removes all but these.
    pub(crate) fn keep_only(&self, keep: &std::collections::BTreeSet<Digest>) -> io::Result<u32> {
        let mut removed = 0;
        for entry in fs::read_dir(&self.folder)?.flatten() {
            let name = entry.file_name();
            let digest = name.to_str().and_then(Digest::from_folder);
            if digest.is_none_or(|digest| !keep.contains(&digest)) {
                files::remove(&entry.path())?;
                removed += 1;
            }
        }
        Ok(removed)
    }

    /// Reads a small blob, fetching it first if need be.
    pub(crate) async fn get(&self, client: &Client, digest: Digest) -> Result<Bytes, FetchError> {
        for _ in 0..2 {
            self.fetch(client, &[digest]).await?;
            if let Some(bytes) = self.read(&digest) {
                return Ok(bytes);
            }
        }
        Err(FetchError::NotSent(digest))
    }

    /// Fetches a bundle's manifest and reads it.
    async fn manifest(&self, client: &Client, digest: Digest) -> Result<Manifest, FetchError> {
        let bytes = self.get(client, digest).await?;
        Manifest::parse(&bytes).map_err(|source| FetchError::Manifest { digest, source })
    }
}

/// Makes a bundle version present, complete and verified, with as little
/// fetching as the versions that are here allow.
pub(crate) async fn materialize(
    writing: &Writing,
    disk: &Disk,
    client: &Client,
    bundle: &BundleName,
    digest: Digest,
    previous: Option<Digest>,
    verify: Verify,
) -> Result<Materialized, FetchError> {
    let dir = disk.bundle(bundle)?;
    // What is here and good needs no control plane: an agent without one keeps
    // what it has, and goes back to what it had.
    if let Some(reused) = reuse(writing, &dir, digest, verify).await? {
        return Ok(reused);
    }
    let manifest = Blobs::new(disk).manifest(client, digest).await?;
    materialize_manifest(writing, disk, client, &dir, &manifest, previous, verify).await
}

/// The same, for a manifest that is at hand.
pub(crate) async fn materialize_manifest(
    writing: &Writing,
    disk: &Disk,
    client: &Client,
    dir: &BundleDir,
    manifest: &Manifest,
    previous: Option<Digest>,
    verify: Verify,
) -> Result<Materialized, FetchError> {
    let digest = manifest.digest();
    if let Some(reused) = reuse(writing, dir, digest, verify).await? {
        return Ok(reused);
    }
    let blobs = Blobs::new(disk);
    let previous = previous.filter(|previous| *previous != digest);
    let known = match previous {
        Some(previous) => layers_of(&blobs, dir, previous)?,
        None => Vec::new(),
    };
    let all = || manifest.layers().iter().map(|layer| layer.digest);
    let mut needed: Vec<Digest> = all().filter(|layer| !known.contains(layer)).collect();
    for _ in 0..4 {
        blobs.fetch(client, &needed).await?;
        let (source, dir, manifest) = (blobs.clone(), dir.clone(), manifest.clone());
        let writing = writing.clone();
        let built = blocking(move || {
            let _writing = writing;
            let layers = |digest: &Digest| source.open(digest);
            dir.materialize(&Materialize {
                manifest: &manifest,
                layers: &layers,
                previous,
                limits: Limits::of(&manifest),
                verify,
            })
        })
        .await?;
        match built {
            Ok(materialized) => {
                failpoint("agent.materialize.end");
                return Ok(materialized);
            }
            // Files of the version before are damaged, so they cannot be shared.
            Err(VersionError::Fetch { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
                needed = all().collect();
            }
            Err(VersionError::Layer(updraft_bundle::LayerError::WrongDigest {
                expected, ..
            })) => {
                tracing::warn!(layer = %expected, "a kept layer is damaged; it is fetched again");
                blobs.discard(&expected);
                needed.push(expected);
            }
            Err(error) => return Err(error.into()),
        }
    }
    Err(FetchError::NotSent(digest))
}

/// The layers of a version that is here. Its manifest says so in less time than
/// its record, which lists every file.
fn layers_of(blobs: &Blobs, dir: &BundleDir, version: Digest) -> Result<Vec<Digest>, VersionError> {
    let manifest = blobs
        .read(&version)
        .and_then(|bytes| Manifest::parse(&bytes).ok());
    if let Some(manifest) = manifest
        && dir.version_path(&version).is_dir()
    {
        return Ok(manifest.layers().iter().map(|layer| layer.digest).collect());
    }
    let tables = dir.tables(&version)?.unwrap_or_default();
    Ok(tables.iter().map(|table| table.digest).collect())
}

async fn reuse(
    writing: &Writing,
    dir: &BundleDir,
    digest: Digest,
    verify: Verify,
) -> Result<Option<Materialized>, FetchError> {
    let (writing, dir) = (writing.clone(), dir.clone());
    blocking(move || {
        let _writing = writing;
        if dir.tables(&digest)?.is_none() {
            return Ok(None);
        }
        let good = (verify == Verify::Quick
            && dir.verify_version(&digest, Verify::Quick)?.is_empty())
            || dir.verify_version(&digest, Verify::Full)?.is_empty();
        Ok(good.then(|| Materialized {
            digest,
            path: dir.version_path(&digest),
            how: How::Reused,
            layers_fetched: 0,
            files_written: 0,
            bytes_written: 0,
        }))
    })
    .await?
}

/// Blocking work that is under way in this process.
static UNDER_WAY: AtomicUsize = AtomicUsize::new(0);

/// Runs what blocks where it may block.
pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, FetchError> {
    struct Counted;
    impl Drop for Counted {
        fn drop(&mut self) {
            UNDER_WAY.fetch_sub(1, Ordering::SeqCst);
        }
    }
    UNDER_WAY.fetch_add(1, Ordering::SeqCst);
    let counted = Counted;
    let work = move || {
        let _counted = counted;
        work()
    };
    tokio::task::spawn_blocking(work)
        .await
        .map_err(|_| FetchError::Interrupted)
}

/// Waits for work that goes on after its task was cut off: an agent that stops
/// inside a living process must not write to a root that the next one has taken.
pub(crate) async fn blocking_ended(limit: Duration) {
    let end = tokio::time::Instant::now() + limit;
    while UNDER_WAY.load(Ordering::SeqCst) > 0 && tokio::time::Instant::now() < end {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}
