//! Blobs that go out in parts, however large: verified while they go.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt as _;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::{Stream, stream};
use object_store::ObjectStoreExt as _;
use sha2::{Digest as _, Sha256};
use tokio::task::JoinHandle;
use updraft_model::Digest;

use crate::upload::read_all;
use crate::{BlobError, Blobs, local_path, off_thread, path_of};

/// How much is read at once, and as much again is read ahead.
const PART: usize = 512 << 10;

/// A blob that is there to be sent.
#[derive(Debug, Clone)]
pub struct Download {
    blobs: Blobs,
    digest: Digest,
    size: u64,
    /// None where blobs are not on this machine.
    file: Option<Arc<File>>,
}

/// How far a stream is.
struct Reading {
    download: Download,
    next: Option<JoinHandle<io::Result<Bytes>>>,
    read: u64,
    end: u64,
    sent: u64,
    /// Only of a whole blob there is something to compare with.
    sha256: Option<Sha256>,
}

impl Blobs {
    /// Opens a blob; none when it is not there.
    pub async fn open(&self, digest: &Digest) -> Result<Option<Download>, BlobError> {
        let (file, size) = match self.local.clone() {
            Some(root) => {
                let path = local_path(&root, digest);
                let opened = off_thread(move || {
                    let open = || -> io::Result<(File, u64)> {
                        let file = File::open(&path)?;
                        let size = file.metadata()?.len();
                        Ok((file, size))
                    };
                    match open() {
                        Ok(opened) => Ok(Some(opened)),
                        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
                        Err(error) => Err(BlobError::at(&path, error)),
                    }
                });
                match opened.await? {
                    Some((file, size)) => (Some(Arc::new(file)), size),
                    None => return Ok(None),
                }
            }
            None => match self.store.head(&path_of(digest)).await {
                Ok(found) => (None, found.size),
                Err(object_store::Error::NotFound { .. }) => return Ok(None),
                Err(error) => return Err(BlobError::of(error)),
            },
        };
        Ok(Some(Download {
            blobs: self.clone(),
            digest: *digest,
            size,
            file,
        }))
    }

    /// Moves a blob aside if it is damaged.
    pub async fn examine(&self, digest: Digest) -> Result<(), BlobError> {
        let Some(root) = self.local.clone() else {
            return self.get(&digest).await.map(drop);
        };
        let _lock = self.lock(&digest).await;
        let is_damaged = off_thread(move || {
            let path = local_path(&root, &digest);
            let mut sha256 = Sha256::new();
            let file = match File::open(&path) {
                Ok(file) => file,
                Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
                Err(error) => return Err(BlobError::at(&path, error)),
            };
            read_all(&file, |bytes| sha256.update(bytes))
                .map_err(|error| BlobError::at(&path, error))?;
            Ok(is_other(sha256, &digest))
        });
        if is_damaged.await? {
            self.move_aside(&digest).await?;
            return Err(BlobError::Corrupt(digest));
        }
        Ok(())
    }
}

fn is_other(sha256: Sha256, digest: &Digest) -> bool {
    Digest::from_bytes(sha256.finalize().into()) != *digest
}

impl Download {
    pub const fn size(&self) -> u64 {
        self.size
    }

    /// Sends these bytes. A whole blob that is damaged ends in an error before its
    /// last part: nobody takes it for what it is not.
    pub fn stream(self, range: Range<u64>) -> impl Stream<Item = io::Result<Bytes>> + Send {
        let is_whole = range == (0..self.size);
        let mut reading = Reading {
            download: self,
            next: None,
            read: range.start,
            sent: range.start,
            end: range.end,
            sha256: is_whole.then(Sha256::new),
        };
        reading.read_ahead();
        stream::try_unfold(reading, Reading::part)
    }

    fn read(&self, range: Range<u64>) -> JoinHandle<io::Result<Bytes>> {
        if let Some(file) = self.file.clone() {
            return tokio::task::spawn_blocking(move || {
                let length = usize::try_from(range.end - range.start).unwrap_or(usize::MAX);
                let mut buffer = vec![0; length];
                file.read_exact_at(&mut buffer, range.start)?;
                Ok(buffer.into())
            });
        }
        let (store, path) = (self.blobs.store.clone(), path_of(&self.digest));
        tokio::spawn(async move {
            let part = store.get_range(&path, range).await;
            part.map_err(io::Error::other)
        })
    }
}

impl Reading {
    fn read_ahead(&mut self) {
        if self.read < self.end {
            let end = self.end.min(self.read + PART as u64);
            self.next = Some(self.download.read(self.read..end));
            self.read = end;
        }
    }

    async fn part(mut self) -> io::Result<Option<(Bytes, Self)>> {
        let Some(next) = self.next.take() else {
            return Ok(None);
        };
        self.read_ahead();
        let part = next.await.map_err(io::Error::other)?;
        // A blob is not shorter than it was: that is damage too.
        if let Err(error) = &part
            && error.kind() != io::ErrorKind::UnexpectedEof
        {
            return part.map(|_| None);
        }
        let part = part.unwrap_or_default();
        self.sent += part.len() as u64;
        if let Some(mut sha256) = self.sha256.take() {
            let (sha256, part) = off_thread(move || {
                sha256.update(&part);
                (sha256, part)
            })
            .await;
            let digest = self.download.digest;
            let is_end = self.sent == self.end || part.is_empty();
            if is_end && is_other(sha256.clone(), &digest) {
                let blobs = self.download.blobs.clone();
                blobs.examine(digest).await.map_err(io::Error::other)?;
                return Err(io::Error::other(format!("blob {digest} was damaged")));
            }
            self.sha256 = Some(sha256);
            return Ok(Some((part, self)));
        }
        Ok(Some((part, self)))
    }
}

#[cfg(test)]
mod tests {
    use futures_util::TryStreamExt as _;
    use object_store::memory::InMemory;

    use super::*;

    async fn read(blobs: &Blobs, digest: &Digest, range: Range<u64>) -> io::Result<Vec<u8>> {
        let download = blobs.open(digest).await.unwrap().unwrap();
        let parts: Vec<Bytes> = Box::pin(download.stream(range)).try_collect().await?;
        Ok(parts.concat())
    }

    #[tokio::test]
    async fn sends_all_of_a_blob_or_a_part_of_it() {
        let folder = tempfile::tempdir().unwrap();
        let content: Vec<u8> = (0..u8::MAX).cycle().take(3 * PART + 7).collect();
        let digest = Digest::of(&content);
        for blobs in [
            Blobs::local(folder.path()).unwrap(),
            Blobs::new(Arc::new(InMemory::new())),
        ] {
            assert!(blobs.open(&digest).await.unwrap().is_none());
            blobs.put(digest, content.clone().into()).await.unwrap();
            let size = content.len() as u64;
            assert_eq!(blobs.open(&digest).await.unwrap().unwrap().size(), size);
            let part = PART as u64;
            for range in [0..size, 0..0, 5..6, part - 1..part + 1, size - 9..size] {
                let part = read(&blobs, &digest, range.clone()).await.unwrap();
                let [start, end] = [range.start, range.end].map(|at| usize::try_from(at).unwrap());
                assert!(part == content[start..end], "{range:?}");
            }
            let empty = Digest::of(b"");
            blobs.put(empty, Bytes::new()).await.unwrap();
            assert_eq!(read(&blobs, &empty, 0..0).await.unwrap(), b"");
        }
    }

    #[tokio::test]
    async fn a_damaged_blob_is_never_sent_whole_and_is_moved_aside() {
        let folder = tempfile::tempdir().unwrap();
        let blobs = Blobs::local(folder.path()).unwrap();
        let content = vec![7; 2 * PART];
        let digest = Digest::of(&content);
        let path = local_path(folder.path(), &digest);
        let mut damaged = content.clone();
        damaged[3] = 8;
        for bad in [&damaged, &damaged[..9].to_vec()] {
            blobs.put(digest, content.clone().into()).await.unwrap();
            let size = content.len() as u64;
            let download = blobs.open(&digest).await.unwrap().unwrap();
            std::fs::write(&path, bad).unwrap();
            let sent: io::Result<Vec<Bytes>> =
                Box::pin(download.stream(0..size)).try_collect().await;
            assert!(sent.is_err());
            assert!(blobs.open(&digest).await.unwrap().is_none());
        }
    }
}
