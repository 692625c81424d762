//! Content-addressed blobs: written once, by digest, and never changed.
//!
//! ```text
//! blobs/sha256/ab/ab34…   a blob; its name is the digest of its bytes
//! corrupt/ab34…           bytes that no longer matched their name
//! ```
//!
//! Small ones go in and out whole ([`Blobs::put`], [`Blobs::get`]), large ones in
//! parts ([`Upload`], [`Download`]).
//!
//! What [`Blobs::put`] returns for is on the disk, not only in a cache. What
//! [`Blobs::get`] returns was verified; a blob whose bytes went bad is moved
//! aside, so that sending it once more repairs the store.

mod download;
mod upload;

use std::io;
use std::path::{Path as FsPath, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use futures_util::{StreamExt, TryStreamExt, stream};
use object_store::local::LocalFileSystem;
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt, PutMode, PutOptions};
use tokio::sync::{Mutex, MutexGuard};
use updraft_model::Digest;

pub use download::Download;
pub use upload::Upload;

/// Requests to the store that are under way at once. Writes to one disk share
/// its journal commits, so a few together cost little more than one.
const CONCURRENT: usize = 16;

const BLOBS: &str = "blobs/sha256";
const CORRUPT: &str = "corrupt";

/// Locks that digests share: enough that blobs seldom wait for one another.
const LOCKS: usize = 256;

/// A place for blobs.
#[derive(Debug, Clone)]
pub struct Blobs {
    store: Arc<dyn ObjectStore>,
    /// Whoever replaces, moves or removes a blob holds its digest's lock, so
    /// that what was found damaged is still what is moved aside.
    locks: Arc<Vec<Mutex<()>>>,
    /// Where the blobs are on this machine, if they are: looking is cheaper
    /// than asking.
    local: Option<Arc<PathBuf>>,
    resting: upload::Resting,
}

#[derive(Debug, thiserror::Error)]
pub enum BlobError {
    #[error("the bytes given for blob {expected} have the digest {actual}")]
    WrongDigest { expected: Digest, actual: Digest },
    #[error("the stored bytes of blob {0} are damaged; they were moved aside")]
    Corrupt(Digest),
    #[error("the disk that holds the blobs is full")]
    Full(#[source] Box<dyn std::error::Error + Send + Sync>),
    #[error("could not read or write blobs")]
    Store(#[source] object_store::Error),
    #[error("could not read or write `{}`", path.display())]
    Io { path: PathBuf, source: io::Error },
    #[error("another request writes to this upload")]
    UploadBusy,
    #[error("this blob store takes no uploads in parts")]
    NoUploads,
}

impl BlobError {
    fn of(error: object_store::Error) -> Self {
        if is_full(&error) {
            Self::Full(error.into())
        } else {
            Self::Store(error)
        }
    }

    fn at(path: &FsPath, source: io::Error) -> Self {
        if is_full(&source) {
            return Self::Full(source.into());
        }
        Self::Io {
            path: path.to_owned(),
            source,
        }
    }
}

impl BlobError {
    /// One sentence that says what to do next.
    pub fn help(&self) -> &'static str {
        match self {
            Self::WrongDigest { .. } => "send the blob again",
            Self::Corrupt(_) => "deploy the same files again: what is missing is sent again",
            Self::Full(_) => "free some space on the control plane and try again",
            Self::UploadBusy => "wait for it to end, then ask how far it came",
            Self::Store(_) | Self::Io { .. } | Self::NoUploads => {
                "see whether the control plane's data folder is its own and its disk is healthy"
            }
        }
    }
}

fn is_full(error: &(dyn std::error::Error + 'static)) -> bool {
    let mut source = Some(error);
    while let Some(error) = source {
        if let Some(io) = error.downcast_ref::<io::Error>()
            && matches!(
                io.kind(),
                io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded
            )
        {
            return true;
        }
        source = error.source();
    }
    false
}

/// A blob that is there, and since when.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stored {
    pub digest: Digest,
    pub size: u64,
    pub age: Duration,
}

/// What lies under a blob's name.
enum Found {
    Good(Bytes),
    Damaged,
    Nothing,
}

impl Blobs {
    /// Opens a folder on this machine, and makes it if need be.
    pub fn local(root: &FsPath) -> Result<Self, BlobError> {
        std::fs::create_dir_all(root).map_err(|source| BlobError::Io {
            path: root.to_owned(),
            source,
        })?;
        let store = LocalFileSystem::new_with_prefix(root)
            .map_err(BlobError::of)?
            .with_fsync(true);
        Ok(Self {
            local: Some(Arc::new(root.to_owned())),
            ..Self::new(Arc::new(store))
        })
    }

    /// Uses any object store that can create without overwriting.
    pub fn new(store: Arc<dyn ObjectStore>) -> Self {
        let locks = std::iter::repeat_with(Mutex::default).take(LOCKS);
        Self {
            store,
            locks: Arc::new(locks.collect()),
            local: None,
            resting: upload::Resting::default(),
        }
    }

    async fn lock(&self, digest: &Digest) -> MutexGuard<'_, ()> {
        self.locks[usize::from(digest.as_bytes()[0]) % LOCKS]
            .lock()
            .await
    }

    /// Stores a blob durably. One that is there already is fine.
    pub async fn put(&self, digest: Digest, bytes: Bytes) -> Result<(), BlobError> {
        verify(digest, bytes.clone()).await?;
        self.put_verified(digest, bytes).await
    }

    /// Stores many, several at a time. When one fails, others may be there.
    pub async fn put_many(&self, blobs: Vec<(Digest, Bytes)>) -> Result<(), BlobError> {
        stream::iter(
            blobs
                .into_iter()
                .map(|(digest, bytes)| self.put(digest, bytes)),
        )
        .buffer_unordered(CONCURRENT)
        .try_collect()
        .await
    }

    async fn put_verified(&self, digest: Digest, bytes: Bytes) -> Result<(), BlobError> {
        let create = || PutOptions {
            mode: PutMode::Create,
            ..PutOptions::default()
        };
        let path = path_of(&digest);
        let _lock = self.lock(&digest).await;
        match self
            .store
            .put_opts(&path, bytes.clone().into(), create())
            .await
        {
            Ok(_) => return Ok(()),
            Err(object_store::Error::AlreadyExists { .. }) => {}
            Err(error) => return Err(BlobError::of(error)),
        }
        // Somebody sends what is there: either twice, or to repair it.
        match self.read(&digest).await? {
            Found::Good(_) => return Ok(()),
            Found::Nothing => {}
            Found::Damaged => self.move_aside(&digest).await?,
        }
        match self.store.put_opts(&path, bytes.into(), create()).await {
            Ok(_) | Err(object_store::Error::AlreadyExists { .. }) => Ok(()),
            Err(error) => Err(BlobError::of(error)),
        }
    }

    /// Reads a blob and verifies it; none when it is not there.
    pub async fn get(&self, digest: &Digest) -> Result<Option<Bytes>, BlobError> {
        if let Found::Good(bytes) = self.read(digest).await? {
            return Ok(Some(bytes));
        }
        // Looked at again, since it may have been repaired meanwhile.
        let _lock = self.lock(digest).await;
        match self.read(digest).await? {
            Found::Good(bytes) => Ok(Some(bytes)),
            Found::Nothing => Ok(None),
            Found::Damaged => {
                self.move_aside(digest).await?;
                Err(BlobError::Corrupt(*digest))
            }
        }
    }

    async fn read(&self, digest: &Digest) -> Result<Found, BlobError> {
        let bytes = match self.store.get(&path_of(digest)).await {
            Ok(found) => found.bytes().await.map_err(BlobError::of)?,
            Err(object_store::Error::NotFound { .. }) => return Ok(Found::Nothing),
            Err(error) => return Err(BlobError::of(error)),
        };
        let expected = *digest;
        Ok(off_thread(move || {
            if Digest::of(&bytes) == expected {
                Found::Good(bytes)
            } else {
                Found::Damaged
            }
        })
        .await)
    }

    /// Only for whoever holds the digest's lock and has just seen it damaged.
    async fn move_aside(&self, digest: &Digest) -> Result<(), BlobError> {
        let aside = Path::from(format!("{CORRUPT}/{}", digest.hex()));
        match self.store.rename(&path_of(digest), &aside).await {
            Ok(()) | Err(object_store::Error::NotFound { .. }) => Ok(()),
            Err(error) => Err(BlobError::of(error)),
        }
    }

    /// Which of these are not there, or not of the given size. Their bytes are
    /// not looked at.
    pub async fn missing(&self, blobs: Vec<(Digest, u64)>) -> Result<Vec<Digest>, BlobError> {
        let blobs: Vec<_> = blobs
            .into_iter()
            .map(|(digest, size)| (digest, Some(size)))
            .collect();
        self.not_there(blobs).await
    }

    /// Which of these are not there, whatever their size.
    pub async fn absent(&self, digests: Vec<Digest>) -> Result<Vec<Digest>, BlobError> {
        self.not_there(digests.into_iter().map(|digest| (digest, None)).collect())
            .await
    }

    async fn not_there(&self, blobs: Vec<(Digest, Option<u64>)>) -> Result<Vec<Digest>, BlobError> {
        if let Some(root) = self.local.clone() {
            return tokio::task::spawn_blocking(move || not_there_locally(&root, &blobs))
                .await
                .expect("looking at files does not panic");
        }
        let ask = |(digest, size): (Digest, Option<u64>)| async move {
            match self.store.head(&path_of(&digest)).await {
                Ok(found) => Ok(size
                    .is_some_and(|size| size != found.size)
                    .then_some(digest)),
                Err(object_store::Error::NotFound { .. }) => Ok(Some(digest)),
                Err(error) => Err(BlobError::of(error)),
            }
        };
        stream::iter(blobs.into_iter().map(ask))
            .buffered(CONCURRENT)
            .try_filter_map(|missing| async move { Ok(missing) })
            .try_collect()
            .await
    }

    /// Removes a blob; one that is not there counts as removed.
    pub async fn delete(&self, digest: &Digest) -> Result<(), BlobError> {
        let _lock = self.lock(digest).await;
        match self.store.delete(&path_of(digest)).await {
            Ok(()) | Err(object_store::Error::NotFound { .. }) => Ok(()),
            Err(error) => Err(BlobError::of(error)),
        }
    }

    /// Removes what a killed process left half written, and damaged bytes that
    /// nobody looked at, once they are this old. Lists name neither.
    pub async fn remove_leftovers(&self, age: Duration) -> Result<u64, BlobError> {
        let Some(root) = self.local.clone() else {
            return Ok(0);
        };
        off_thread(move || {
            let before = SystemTime::now().checked_sub(age);
            let before = before.unwrap_or(SystemTime::UNIX_EPOCH);
            let is_unfinished = |name: &[u8]| name.contains(&b'#');
            let mut removed = remove_old(&root.join(CORRUPT), before, &|_| true)?;
            for folder in entries(&root.join(BLOBS))? {
                removed += remove_old(&folder, before, &is_unfinished)?;
            }
            Ok(removed)
        })
        .await
    }

    /// Lists what is there.
    pub async fn list(&self) -> Result<Vec<Stored>, BlobError> {
        let now = SystemTime::now();
        self.store
            .list(Some(&Path::from(BLOBS)))
            .map_err(BlobError::of)
            .try_filter_map(|object| async move {
                let digest = object
                    .location
                    .filename()
                    .and_then(|hex| format!("sha256:{hex}").parse().ok());
                let age = now
                    .duration_since(object.last_modified.into())
                    .unwrap_or_default();
                Ok(digest.map(|digest| Stored {
                    digest,
                    size: object.size,
                    age,
                }))
            })
            .try_collect()
            .await
    }
}

/// Says whether bytes are those that a digest names.
pub async fn verify(digest: Digest, bytes: Bytes) -> Result<(), BlobError> {
    let actual = off_thread(move || Digest::of(&bytes)).await;
    if actual == digest {
        return Ok(());
    }
    Err(BlobError::WrongDigest {
        expected: digest,
        actual,
    })
}

/// Digesting hundreds of megabytes would hold up every other request.
async fn off_thread<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    tokio::task::spawn_blocking(work)
        .await
        .expect("digesting does not panic")
}

fn path_of(digest: &Digest) -> Path {
    let hex = digest.hex();
    Path::from(format!("{BLOBS}/{}/{hex}", &hex[..2]))
}

/// Where a blob is below the root of a local store.
pub fn local_path(root: &FsPath, digest: &Digest) -> PathBuf {
    let hex = digest.hex();
    root.join(BLOBS).join(&hex[..2]).join(&hex)
}

fn entries(folder: &FsPath) -> Result<Vec<PathBuf>, BlobError> {
    let list = || -> io::Result<Vec<PathBuf>> {
        std::fs::read_dir(folder)?
            .map(|entry| Ok(entry?.path()))
            .collect()
    };
    match list() {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        listed => listed.map_err(|source| BlobError::Io {
            path: folder.to_owned(),
            source,
        }),
    }
}

fn remove_old(
    folder: &FsPath,
    before: SystemTime,
    which: &dyn Fn(&[u8]) -> bool,
) -> Result<u64, BlobError> {
    let mut removed = 0;
    for path in entries(folder)? {
        let name = path.file_name().unwrap_or_default().as_encoded_bytes();
        let remove = || -> io::Result<bool> {
            let old = which(name) && std::fs::metadata(&path)?.modified()? <= before;
            if old {
                std::fs::remove_file(&path)?;
            }
            Ok(old)
        };
        match remove() {
            Ok(old) => removed += u64::from(old),
            // Just finished, or removed by somebody else.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(source) => return Err(BlobError::Io { path, source }),
        }
    }
    Ok(removed)
}

fn not_there_locally(
    root: &FsPath,
    blobs: &[(Digest, Option<u64>)],
) -> Result<Vec<Digest>, BlobError> {
    let mut missing = Vec::new();
    for (digest, size) in blobs {
        let path = local_path(root, digest);
        match std::fs::metadata(&path) {
            Ok(found) if size.is_none_or(|size| size == found.len()) => {}
            Ok(_) => missing.push(*digest),
            Err(error) if error.kind() == io::ErrorKind::NotFound => missing.push(*digest),
            Err(source) => return Err(BlobError::Io { path, source }),
        }
    }
    Ok(missing)
}

#[cfg(test)]
mod tests {
    use object_store::memory::InMemory;
    use object_store::throttle::{ThrottleConfig, ThrottledStore};

    use super::*;

    fn blob(text: &'static str) -> (Digest, Bytes) {
        (
            Digest::of(text.as_bytes()),
            Bytes::from_static(text.as_bytes()),
        )
    }

    /// One store on this machine's disk, one as an object store elsewhere.
    fn stores(root: &FsPath) -> [Blobs; 2] {
        [
            Blobs::local(root).unwrap(),
            Blobs::new(Arc::new(InMemory::new())),
        ]
    }

    #[tokio::test]
    async fn keeps_blobs_and_knows_which_are_missing() {
        let folder = tempfile::tempdir().unwrap();
        for blobs in stores(folder.path()) {
            let (one, two) = (blob("one"), blob("two"));
            blobs
                .put_many(vec![one.clone(), one.clone()])
                .await
                .unwrap();
            assert_eq!(blobs.get(&one.0).await.unwrap(), Some(one.1.clone()));
            assert_eq!(blobs.get(&two.0).await.unwrap(), None);
            assert_eq!(
                blobs.missing(vec![(one.0, 3), (two.0, 3)]).await.unwrap(),
                [two.0]
            );
            assert_eq!(blobs.missing(vec![(one.0, 4)]).await.unwrap(), [one.0]);
            let stored: Vec<_> = blobs.list().await.unwrap();
            assert_eq!(
                (stored.len(), stored[0].digest, stored[0].size),
                (1, one.0, 3)
            );
            blobs.delete(&one.0).await.unwrap();
            blobs.delete(&one.0).await.unwrap();
            assert_eq!(blobs.get(&one.0).await.unwrap(), None);
        }
    }

    #[tokio::test]
    async fn refuses_bytes_of_another_digest() {
        let folder = tempfile::tempdir().unwrap();
        let blobs = Blobs::local(folder.path()).unwrap();
        let refused = blobs.put(blob("one").0, blob("two").1).await;
        assert!(matches!(refused, Err(BlobError::WrongDigest { .. })));
        assert!(blobs.list().await.unwrap().is_empty());
    }

    #[tokio::test]
    async fn moves_damaged_bytes_aside_and_is_repaired_by_sending_them_again() {
        let folder = tempfile::tempdir().unwrap();
        let blobs = Blobs::local(folder.path()).unwrap();
        let (digest, bytes) = blob("one");
        blobs.put(digest, bytes.clone()).await.unwrap();
        let path = local_path(folder.path(), &digest);

        std::fs::write(&path, "eno").unwrap();
        assert!(
            matches!(blobs.get(&digest).await, Err(BlobError::Corrupt(found)) if found == digest)
        );
        assert!(folder.path().join("corrupt").join(digest.hex()).exists());
        assert_eq!(blobs.missing(vec![(digest, 3)]).await.unwrap(), [digest]);
        blobs.put(digest, bytes.clone()).await.unwrap();
        assert_eq!(blobs.get(&digest).await.unwrap(), Some(bytes.clone()));

        // Sent again before anybody noticed.
        std::fs::write(&path, "").unwrap();
        blobs.put(digest, bytes.clone()).await.unwrap();
        assert_eq!(blobs.get(&digest).await.unwrap(), Some(bytes));
    }

    #[tokio::test(start_paused = true)]
    async fn a_reader_that_saw_damage_leaves_alone_what_repaired_it_meanwhile() {
        let (digest, bytes) = blob("one");
        let path = path_of(&digest);
        let store = Arc::new(ThrottledStore::new(
            InMemory::new(),
            ThrottleConfig::default(),
        ));
        store.put(&path, "eno".into()).await.unwrap();
        let blobs = Blobs::new(store.clone());

        // It has its bytes, and takes long to look at them.
        store.config_mut(|slow| slow.wait_get_per_byte = Duration::from_secs(1));
        let reader = tokio::spawn({
            let blobs = blobs.clone();
            async move { blobs.get(&digest).await }
        });
        tokio::task::yield_now().await;
        store.config_mut(|fast| fast.wait_get_per_byte = Duration::ZERO);
        blobs.put(digest, bytes.clone()).await.unwrap();

        assert!(!reader.is_finished());
        assert_eq!(reader.await.unwrap().unwrap(), Some(bytes.clone()));
        assert_eq!(blobs.get(&digest).await.unwrap(), Some(bytes));
    }

    #[tokio::test]
    async fn leftovers_of_a_killed_write_and_old_damage_go() {
        let folder = tempfile::tempdir().unwrap();
        let blobs = Blobs::local(folder.path()).unwrap();
        let (digest, bytes) = blob("one");
        blobs.put(digest, bytes.clone()).await.unwrap();
        let unfinished = local_path(folder.path(), &digest).with_file_name("ab#1");
        let damaged = folder.path().join(CORRUPT).join("ab");
        std::fs::create_dir_all(damaged.parent().unwrap()).unwrap();
        std::fs::write(&unfinished, "o").unwrap();
        std::fs::write(&damaged, "o").unwrap();

        let hour = Duration::from_secs(3600);
        assert_eq!(blobs.remove_leftovers(hour).await.unwrap(), 0);
        assert_eq!(blobs.remove_leftovers(Duration::ZERO).await.unwrap(), 2);
        assert!(!unfinished.exists() && !damaged.exists());
        assert_eq!(blobs.get(&digest).await.unwrap(), Some(bytes));
    }

    #[test]
    fn a_full_disk_is_its_own_error() {
        let full = object_store::Error::Generic {
            store: "LocalFileSystem",
            source: Box::new(io::Error::from(io::ErrorKind::StorageFull)),
        };
        assert!(matches!(BlobError::of(full), BlobError::Full(_)));
    }
}
