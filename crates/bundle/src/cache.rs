//! What an earlier scan learned, so that unchanged files are not read again
//! and unchanged layers are not built again.
//!
//! The file is a help and never a truth: one that is damaged, of another
//! version or of another folder is treated as absent.

use std::collections::HashMap;
use std::fs;
use std::io::{self, Write};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use updraft_model::Digest;

use crate::layer::encoder_id;
use crate::stat::FileStat;

const MAGIC: &[u8] = b"updraft scan 1\n";
const DIGEST: usize = 32;
/// Layers of earlier scans that are kept, for going back and forth between
/// branches.
const MOST_LAYERS: usize = 2_000;

#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Cache {
    /// Sorted by path.
    pub(crate) files: Vec<KnownFile>,
    /// By the digest of a layer's entries.
    pub(crate) layers: HashMap<Digest, KnownLayer>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct KnownFile {
    pub(crate) path: String,
    pub(crate) stat: FileStat,
    pub(crate) digest: Digest,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct KnownLayer {
    pub(crate) digest: Digest,
    pub(crate) size: u64,
}

impl Cache {
    pub(crate) fn load(file: &Path, root: &Path) -> Self {
        fs::read(file)
            .ok()
            .and_then(|bytes| Self::decode(&bytes, root))
            .unwrap_or_default()
    }

    /// Writes the cache. Not synced: the checksum finds a torn file.
    pub(crate) fn save(&self, file: &Path, root: &Path) -> io::Result<()> {
        let folder = file.parent().unwrap_or(Path::new("."));
        fs::create_dir_all(folder)?;
        let mut temporary = tempfile::Builder::new()
            .prefix(".scan-")
            .tempfile_in(folder)?;
        temporary.write_all(&self.encode(root))?;
        temporary.persist(file)?;
        Ok(())
    }

    pub(crate) fn forget_surplus_layers(&mut self, used: &[Digest]) {
        if self.layers.len() > MOST_LAYERS {
            self.layers.retain(|key, _| used.contains(key));
        }
    }

    fn encode(&self, root: &Path) -> Vec<u8> {
        let mut body = Vec::with_capacity(256 + self.files.len() * 160);
        put_u32(&mut body, encoder_id());
        put_bytes(&mut body, root.as_os_str().as_bytes());
        put_u32(&mut body, u32::try_from(self.files.len()).unwrap_or(0));
        for file in &self.files {
            put_bytes(&mut body, file.path.as_bytes());
            for number in [file.stat.size, file.stat.inode] {
                body.extend_from_slice(&number.to_le_bytes());
            }
            for time in [file.stat.mtime, file.stat.ctime] {
                body.extend_from_slice(&time.to_le_bytes());
            }
            put_u32(&mut body, file.stat.mode);
            body.extend_from_slice(file.digest.as_bytes());
        }
        put_u32(&mut body, u32::try_from(self.layers.len()).unwrap_or(0));
        for (key, layer) in &self.layers {
            body.extend_from_slice(key.as_bytes());
            body.extend_from_slice(layer.digest.as_bytes());
            body.extend_from_slice(&layer.size.to_le_bytes());
        }
        [MAGIC, Digest::of(&body).as_bytes(), &body].concat()
    }

    fn decode(bytes: &[u8], root: &Path) -> Option<Self> {
        let (checksum, body) = bytes.strip_prefix(MAGIC)?.split_at_checked(DIGEST)?;
        if Digest::of(body).as_bytes() != checksum {
            return None;
        }
        let mut from = Fields(body);
        if from.u32()? != encoder_id() || from.bytes()? != root.as_os_str().as_bytes() {
            return None;
        }
        let files = (0..from.u32()?)
            .map(|_| {
                let path = String::from_utf8(from.bytes()?.to_vec()).ok()?;
                let (size, inode) = (from.u64()?, from.u64()?);
                let (mtime, ctime) = (from.u64()?.cast_signed(), from.u64()?.cast_signed());
                let stat = FileStat {
                    size,
                    mtime,
                    ctime,
                    inode,
                    mode: from.u32()?,
                };
                Some(KnownFile {
                    path,
                    stat,
                    digest: from.digest()?,
                })
            })
            .collect::<Option<_>>()?;
        let layers = (0..from.u32()?)
            .map(|_| {
                let key = from.digest()?;
                Some((
                    key,
                    KnownLayer {
                        digest: from.digest()?,
                        size: from.u64()?,
                    },
                ))
            })
            .collect::<Option<_>>()?;
        from.0.is_empty().then_some(Self { files, layers })
    }
}

fn put_u32(out: &mut Vec<u8>, number: u32) {
    out.extend_from_slice(&number.to_le_bytes());
}

fn put_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    put_u32(out, u32::try_from(bytes.len()).unwrap_or(0));
    out.extend_from_slice(bytes);
}

struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    fn take(&mut self, count: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(count)?;
        self.0 = rest;
        Some(taken)
    }

    fn u32(&mut self) -> Option<u32> {
        Some(u32::from_le_bytes(self.take(4)?.try_into().ok()?))
    }

    fn u64(&mut self) -> Option<u64> {
        Some(u64::from_le_bytes(self.take(8)?.try_into().ok()?))
    }

    fn digest(&mut self) -> Option<Digest> {
        Some(Digest::from_bytes(self.take(DIGEST)?.try_into().ok()?))
    }

    fn bytes(&mut self) -> Option<&'a [u8]> {
        let count = self.u32()?;
        self.take(usize::try_from(count).ok()?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cache() -> Cache {
        let stat = FileStat {
            size: 3,
            mtime: -5,
            ctime: 7,
            inode: 9,
            mode: 0o100_644,
        };
        let layer = KnownLayer {
            digest: Digest::of(b"layer"),
            size: 77,
        };
        Cache {
            files: vec![KnownFile {
                path: "a/ü.py".into(),
                stat,
                digest: Digest::of(b"abc"),
            }],
            layers: HashMap::from([(Digest::of(b"key"), layer)]),
        }
    }

    #[test]
    fn reads_what_it_writes_for_the_same_folder_only() {
        let bytes = cache().encode(Path::new("/project"));
        assert_eq!(Cache::decode(&bytes, Path::new("/project")), Some(cache()));
        assert_eq!(Cache::decode(&bytes, Path::new("/elsewhere")), None);
    }

    #[test]
    fn a_damaged_cache_is_no_cache() {
        let bytes = cache().encode(Path::new("/project"));
        for at in 0..bytes.len() {
            let mut damaged = bytes.clone();
            damaged[at] ^= 1;
            assert_eq!(
                Cache::decode(&damaged, Path::new("/project")),
                None,
                "byte {at}"
            );
            assert_eq!(
                Cache::decode(&bytes[..at], Path::new("/project")),
                None,
                "cut at {at}"
            );
        }
    }
}
