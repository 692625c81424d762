//! Blobs that come in parts, however large: what has come is on the disk and
//! not in memory, and an upload goes on where it stopped, also after a restart.
//!
//! ```text
//! blobs/uploads/upl_01…#   what has come; the `#` keeps it out of backups
//! ```

use std::collections::HashMap;
use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Seek as _, SeekFrom, Write as _};
use std::os::unix::fs::{FileExt as _, MetadataExt as _};
use std::path::{Path as FsPath, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use bytes::Bytes;
use sha2::{Digest as _, Sha256, Sha512};
use tokio::task::JoinHandle;
use updraft_model::{Digest, OciDigest, UploadId};

use crate::{BlobError, Blobs, entries, local_path, off_thread};

pub(crate) const UPLOADS: &str = "blobs/uploads";

/// A request whose client is gone has its upload for a moment more.
const PATIENCE: Duration = Duration::from_secs(5);
const READ_AT_ONCE: usize = 1 << 20;

/// How far digesting is, so that what came is not read again.
#[derive(Debug, Clone, Default)]
struct Digested {
    length: u64,
    sha256: Sha256,
}

/// What this process knows of uploads that nobody writes to at the moment.
#[derive(Debug, Clone, Default)]
pub(crate) struct Resting(Arc<Mutex<HashMap<UploadId, Digested>>>);

/// An upload that nobody else writes to as long as this lives.
#[derive(Debug)]
pub struct Upload {
    id: UploadId,
    path: PathBuf,
    file: File,
    digested: Digested,
    resting: Resting,
}

impl Resting {
    fn take(&self, id: UploadId) -> Option<Digested> {
        self.lock().remove(&id)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<UploadId, Digested>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Upload {
    fn drop(&mut self) {
        let digested = std::mem::take(&mut self.digested);
        self.resting.lock().insert(self.id, digested);
    }
}

impl Upload {
    /// How many bytes have come.
    pub fn length(&self) -> u64 {
        self.digested.length
    }

    /// Writes more bytes, in a thread that is at it when this returns. What
    /// cannot be written whole is not there at all.
    pub fn append(mut self, chunks: Vec<Bytes>) -> JoinHandle<Result<Self, BlobError>> {
        tokio::task::spawn_blocking(move || {
            let before = self.digested.length;
            let written = chunks
                .iter()
                .try_for_each(|chunk| self.file.write_all(chunk));
            if let Err(error) = written {
                let cut = self.cut(before);
                return Err(BlobError::at(&self.path, cut.err().unwrap_or(error)));
            }
            for chunk in &chunks {
                self.digested.length += chunk.len() as u64;
                self.digested.sha256.update(chunk);
            }
            Ok(self)
        })
    }

    fn cut(&mut self, length: u64) -> io::Result<()> {
        self.file.set_len(length)?;
        self.file.seek(SeekFrom::Start(length)).map(drop)
    }

    /// Takes back what came after this many bytes.
    pub async fn take_back(mut self, length: u64) -> Result<Self, BlobError> {
        off_thread(move || {
            let cut = self.cut(length).and_then(|()| digest(&self.file));
            self.digested = cut.map_err(|error| BlobError::at(&self.path, error))?;
            Ok(self)
        })
        .await
    }

    /// Sees to it that what has come survives a power cut.
    pub async fn sync(self) -> Result<Self, BlobError> {
        off_thread(move || {
            let synced = self.file.sync_data();
            synced.map_err(|error| BlobError::at(&self.path, error))?;
            Ok(self)
        })
        .await
    }

    /// The SHA-256 of what has come.
    pub fn digest(&self) -> Digest {
        Digest::from_bytes(self.digested.sha256.clone().finalize().into())
    }

    /// The digest of what has come, of the same kind as another.
    pub async fn digest_like(self, other: &OciDigest) -> Result<(Self, OciDigest), BlobError> {
        if let OciDigest::Sha256(_) = other {
            let digest = self.digest();
            return Ok((self, digest.into()));
        }
        off_thread(move || {
            let mut sha512 = Sha512::new();
            read_all(&self.file, |bytes| sha512.update(bytes))
                .map_err(|error| BlobError::at(&self.path, error))?;
            let digest = OciDigest::Sha512(Box::new(sha512.finalize().into()));
            Ok((self, digest))
        })
        .await
    }
}

impl Blobs {
    /// Goes on with an upload, or begins it.
    pub async fn resume_upload(&self, id: UploadId) -> Result<Upload, BlobError> {
        let path = self.upload_path(id)?;
        let resting = self.resting.clone();
        off_thread(move || {
            let open = || -> io::Result<Upload> {
                let file = open_alone(&path)?;
                let length = file.metadata()?.len();
                let known = resting.take(id).filter(|known| known.length == length);
                let digested = match known {
                    Some(known) => known,
                    None => digest(&file)?,
                };
                let mut upload = Upload {
                    id,
                    path: path.clone(),
                    file,
                    digested,
                    resting,
                };
                upload.file.seek(SeekFrom::End(0))?;
                Ok(upload)
            };
            open().map_err(|error| match error.kind() {
                io::ErrorKind::WouldBlock => BlobError::UploadBusy,
                _ => BlobError::at(&path, error),
            })
        })
        .await
    }

    /// How many bytes of an upload have come; none when nothing has.
    pub fn uploaded(&self, id: UploadId) -> Result<u64, BlobError> {
        let path = self.upload_path(id)?;
        match fs::metadata(&path) {
            Ok(found) => Ok(found.len()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(0),
            Err(error) => Err(BlobError::at(&path, error)),
        }
    }

    /// Makes an upload a blob, durably, and says which.
    pub async fn keep_upload(&self, upload: Upload) -> Result<Digest, BlobError> {
        let root = self.root()?;
        let digest = upload.digest();
        let _lock = self.lock(&digest).await;
        let (id, kept) = off_thread(move || {
            let path = local_path(&root, &digest);
            let folder = path.parent().unwrap_or(&root);
            let keep = || -> io::Result<()> {
                upload.file.sync_all()?;
                let is_new = !folder.exists();
                fs::create_dir_all(folder)?;
                // Over what is there already: it may be damaged, and these bytes are not.
                fs::rename(&upload.path, &path)?;
                File::open(folder)?.sync_all()?;
                if is_new && let Some(parent) = folder.parent() {
                    File::open(parent)?.sync_all()?;
                }
                Ok(())
            };
            (
                upload.id,
                keep().map_err(|error| BlobError::at(&path, error)),
            )
        })
        .await;
        self.resting.take(id);
        kept.map(|()| digest)
    }

    /// Forgets what has come of an upload; one that is not there counts as forgotten.
    pub fn discard_upload(&self, id: UploadId) -> Result<(), BlobError> {
        let path = self.upload_path(id)?;
        self.resting.take(id);
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(BlobError::at(&path, error))
            }
            _ => Ok(()),
        }
    }

    /// The uploads that nothing was written to for this long.
    pub async fn resting_uploads(&self, age: Duration) -> Result<Vec<UploadId>, BlobError> {
        let Some(root) = self.local.clone() else {
            return Ok(Vec::new());
        };
        off_thread(move || {
            let before = SystemTime::now().checked_sub(age);
            let before = before.unwrap_or(SystemTime::UNIX_EPOCH);
            let mut resting = Vec::new();
            for path in entries(&root.join(UPLOADS))? {
                let id = path
                    .file_name()
                    .and_then(|name| name.to_str()?.strip_suffix('#')?.parse().ok());
                let written = fs::metadata(&path).and_then(|found| found.modified());
                if let (Some(id), Ok(written)) = (id, written)
                    && written <= before
                {
                    resting.push(id);
                }
            }
            Ok(resting)
        })
        .await
    }

    fn root(&self) -> Result<PathBuf, BlobError> {
        let root = self.local.as_deref().cloned();
        root.ok_or(BlobError::NoUploads)
    }

    fn upload_path(&self, id: UploadId) -> Result<PathBuf, BlobError> {
        Ok(self.root()?.join(UPLOADS).join(format!("{id}#")))
    }
}

/// Opens an upload's file for nobody else.
fn open_alone(path: &FsPath) -> io::Result<File> {
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder)?;
    }
    let end = Instant::now() + PATIENCE;
    loop {
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(path)?;
        match file.try_lock() {
            // Meanwhile it may have become a blob, which nobody may write to.
            Ok(()) if is_at(&file, path)? => return Ok(file),
            Ok(()) => {}
            Err(TryLockError::WouldBlock) if Instant::now() < end => {
                std::thread::sleep(Duration::from_millis(20));
            }
            Err(TryLockError::WouldBlock) => return Err(io::ErrorKind::WouldBlock.into()),
            Err(TryLockError::Error(error)) => return Err(error),
        }
    }
}

fn is_at(file: &File, path: &FsPath) -> io::Result<bool> {
    let opened = file.metadata()?;
    match fs::metadata(path) {
        Ok(found) => Ok((found.dev(), found.ino()) == (opened.dev(), opened.ino())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

fn digest(file: &File) -> io::Result<Digested> {
    let mut digested = Digested::default();
    digested.length = read_all(file, |bytes| digested.sha256.update(bytes))?;
    Ok(digested)
}

/// Reads a file from its beginning, and says how long it is.
pub(crate) fn read_all(file: &File, mut each: impl FnMut(&[u8])) -> io::Result<u64> {
    let mut buffer = vec![0; READ_AT_ONCE];
    let mut at = 0;
    loop {
        match file.read_at(&mut buffer, at) {
            Ok(0) => return Ok(at),
            Ok(read) => {
                each(&buffer[..read]);
                at += read as u64;
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn append(upload: Upload, text: &'static str) -> Upload {
        let chunks = vec![Bytes::from_static(text.as_bytes())];
        upload.append(chunks).await.unwrap().unwrap()
    }

    #[tokio::test]
    async fn an_upload_goes_on_where_it_stopped_also_after_a_restart() {
        let folder = tempfile::tempdir().unwrap();
        let blobs = Blobs::local(folder.path()).unwrap();
        let id = UploadId::new();
        assert_eq!(blobs.uploaded(id).unwrap(), 0);
        let upload = append(blobs.resume_upload(id).await.unwrap(), "on").await;
        drop(upload.sync().await.unwrap());
        assert_eq!(blobs.uploaded(id).unwrap(), 2);

        // Whoever starts anew knows only what is on the disk.
        let blobs = Blobs::local(folder.path()).unwrap();
        let upload = append(blobs.resume_upload(id).await.unwrap(), "xx").await;
        let upload = append(upload.take_back(2).await.unwrap(), "e").await;
        assert_eq!((upload.length(), upload.digest()), (3, Digest::of(b"one")));
        assert!(blobs.list().await.unwrap().is_empty());

        let digest = blobs.keep_upload(upload).await.unwrap();
        assert_eq!(blobs.get(&digest).await.unwrap().unwrap(), "one");
        assert_eq!(blobs.uploaded(id).unwrap(), 0);
        assert!(
            blobs
                .resting_uploads(Duration::ZERO)
                .await
                .unwrap()
                .is_empty()
        );
    }

    #[tokio::test]
    async fn an_upload_repairs_a_damaged_blob() {
        let folder = tempfile::tempdir().unwrap();
        let blobs = Blobs::local(folder.path()).unwrap();
        let digest = Digest::of(b"one");
        blobs.put(digest, "one".into()).await.unwrap();
        fs::write(local_path(folder.path(), &digest), "eno").unwrap();
        let upload = append(blobs.resume_upload(UploadId::new()).await.unwrap(), "one").await;
        blobs.keep_upload(upload).await.unwrap();
        assert_eq!(blobs.get(&digest).await.unwrap().unwrap(), "one");
    }

    #[tokio::test]
    async fn uploads_rest_until_they_are_discarded() {
        let folder = tempfile::tempdir().unwrap();
        let blobs = Blobs::local(folder.path()).unwrap();
        let id = UploadId::new();
        drop(append(blobs.resume_upload(id).await.unwrap(), "on").await);
        let hour = Duration::from_secs(3600);
        assert_eq!(blobs.resting_uploads(hour).await.unwrap(), []);
        assert_eq!(blobs.resting_uploads(Duration::ZERO).await.unwrap(), [id]);
        blobs.discard_upload(id).unwrap();
        blobs.discard_upload(id).unwrap();
        assert_eq!(blobs.uploaded(id).unwrap(), 0);
        let upload = blobs.resume_upload(id).await.unwrap();
        assert_eq!(upload.digest(), Digest::of(b""));
        let like = OciDigest::Sha512(Box::new([0; 64]));
        let (_, sha512) = upload.digest_like(&like).await.unwrap();
        assert!(sha512.to_string().starts_with("sha512:cf83e1357eefb8bd"));
    }
}
