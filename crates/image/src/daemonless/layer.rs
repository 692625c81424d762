//! Layers of an image that are the same each time: sorted, with fixed times, and
//! with the folders that they go through as the base has them.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use flate2::{Compression, GzBuilder};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use tar::{EntryType, Header};
use updraft_model::Digest;

use super::contents::{Contents, Owner, split};

/// Counts up when the same is written in other bytes.
const FORMAT: u32 = 1;
/// Some archives cannot hold earlier times: the first of January 1980.
const TIME: u64 = 315_532_800;
/// Layers that nobody used for so long are removed.
const KEPT: Duration = Duration::from_hours(24 * 14);

/// Something at a path of a layer.
#[derive(Debug, Clone)]
pub(super) enum Item {
    Folder(Owner),
    File {
        from: PathBuf,
        size: u64,
        executable: bool,
    },
    Text {
        text: Vec<u8>,
        executable: bool,
    },
    Link {
        target: String,
    },
    /// What a layer below has there is gone.
    Gone,
}

/// What a layer holds, by path, and whose it is.
pub(super) struct Tree<'a> {
    base: &'a Contents,
    owner: Owner,
    items: BTreeMap<String, Item>,
}

/// A layer as a file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Layer {
    pub(super) digest: Digest,
    /// Of the archive, before it is compressed.
    pub(super) diff_id: Digest,
    pub(super) size: u64,
}

impl<'a> Tree<'a> {
    /// Files and new folders are `owner`'s.
    pub(super) fn on(base: &'a Contents, owner: Owner) -> Self {
        Self {
            base,
            owner,
            items: BTreeMap::new(),
        }
    }

    /// Adds something, and the folders above it.
    pub(super) fn add(&mut self, path: &str, item: Item) {
        let mut above = split(path).0;
        while !above.is_empty() && !self.items.contains_key(above) {
            let new = Owner {
                mode: 0o755,
                ..self.owner
            };
            // An engine that unpacks a layer by itself would make them root's.
            let owner = self.base.folders.get(above).copied().unwrap_or(new);
            self.items.insert(above.to_owned(), Item::Folder(owner));
            above = split(above).0;
        }
        self.items.insert(path.to_owned(), item);
    }

    pub(super) fn has(&self, path: &str) -> bool {
        self.items.contains_key(path)
    }

    /// Its folders, with whose they are.
    pub(super) fn folders(&self) -> Vec<(&str, Owner)> {
        let folders = self.items.iter().filter_map(|(path, item)| match item {
            Item::Folder(owner) => Some((path.as_str(), *owner)),
            Item::File { .. } | Item::Text { .. } | Item::Link { .. } | Item::Gone => None,
        });
        folders.collect()
    }

    fn write(&self, out: impl Write) -> io::Result<(Digest, Digest, u64)> {
        let out = Hashed::new(BufWriter::with_capacity(256 << 10, out));
        let zipped = GzBuilder::new().mtime(0).write(out, Compression::default());
        let mut tar = tar::Builder::new(Hashed::new(zipped));
        for (path, item) in &self.items {
            self.append(&mut tar, path, item)?;
        }
        let Hashed { inner, hasher, .. } = tar.into_inner()?;
        let diff_id = Digest::from_bytes(hasher.finalize().into());
        let Hashed {
            mut inner,
            hasher,
            bytes,
        } = inner.finish()?;
        inner.flush()?;
        Ok((Digest::from_bytes(hasher.finalize().into()), diff_id, bytes))
    }

    fn append(
        &self,
        tar: &mut tar::Builder<impl Write>,
        path: &str,
        item: &Item,
    ) -> io::Result<()> {
        let mut header = Header::new_gnu();
        header.set_mtime(TIME);
        header.set_uid(self.owner.uid);
        header.set_gid(self.owner.gid);
        header.set_size(0);
        let mode = |executable| if executable { 0o755 } else { 0o644 };
        match item {
            Item::Folder(owner) => {
                header.set_entry_type(EntryType::Directory);
                header.set_mode(owner.mode);
                header.set_uid(owner.uid);
                header.set_gid(owner.gid);
                tar.append_data(&mut header, format!("{path}/"), io::empty())
            }
            Item::File {
                from,
                size,
                executable,
            } => {
                header.set_mode(mode(*executable));
                header.set_size(*size);
                let mut content = CountedFile::open(from, *size)?;
                tar.append_data(&mut header, path, &mut content)?;
                content.expect_end()
            }
            Item::Text { text, executable } => {
                header.set_mode(mode(*executable));
                header.set_size(text.len() as u64);
                tar.append_data(&mut header, path, &text[..])
            }
            Item::Link { target } => {
                header.set_entry_type(EntryType::Symlink);
                header.set_mode(0o777);
                tar.append_link(&mut header, path, target)
            }
            Item::Gone => {
                let (above, name) = split(path);
                header.set_mode(0o644);
                let path = super::contents::join(above, &format!(".wh.{name}"));
                tar.append_data(&mut header, path, io::empty())
            }
        }
    }
}

/// A file that has to be as long as it was when it was listed.
struct CountedFile {
    file: File,
    left: u64,
}

impl CountedFile {
    fn open(path: &Path, size: u64) -> io::Result<Self> {
        let file = File::open(path);
        let file = file.map_err(|error| {
            io::Error::new(error.kind(), format!("`{}`: {error}", path.display()))
        })?;
        if file.metadata()?.len() != size {
            let changed = format!("`{}` changed meanwhile", path.display());
            return Err(io::Error::other(changed));
        }
        Ok(Self { file, left: size })
    }

    fn expect_end(&self) -> io::Result<()> {
        if self.left == 0 {
            return Ok(());
        }
        Err(io::ErrorKind::UnexpectedEof.into())
    }
}

impl io::Read for CountedFile {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let most = usize::try_from(self.left).unwrap_or(usize::MAX);
        let most = most.min(buffer.len());
        let count = self.file.read(&mut buffer[..most])?;
        self.left -= count as u64;
        Ok(count)
    }
}

struct Hashed<W> {
    inner: W,
    hasher: Sha256,
    bytes: u64,
}

impl<W> Hashed<W> {
    fn new(inner: W) -> Self {
        Self {
            inner,
            hasher: Sha256::new(),
            bytes: 0,
        }
    }
}

impl<W: Write> Write for Hashed<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let count = self.inner.write(bytes)?;
        self.hasher.update(&bytes[..count]);
        self.bytes += count as u64;
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

/// Layers that were made, by what they were made from.
pub(super) struct Layers {
    folder: PathBuf,
}

impl Layers {
    pub(super) fn at(folder: PathBuf) -> Self {
        Self { folder }
    }

    /// Names all that decides a layer.
    pub(super) fn key(facts: &impl Serialize) -> Digest {
        let facts = serde_json::to_vec(&(FORMAT, facts));
        Digest::of(&facts.expect("text and numbers always serialise"))
    }

    pub(super) fn file(&self, key: Digest) -> PathBuf {
        self.folder.join(format!("{}.tar.gz", key.hex()))
    }

    fn record(&self, key: Digest) -> PathBuf {
        self.folder.join(format!("{}.json", key.hex()))
    }

    /// The layer of this name, when it is there.
    pub(super) fn find(&self, key: Digest) -> Option<Layer> {
        let record = self.record(key);
        let layer: Layer = serde_json::from_slice(&fs::read(&record).ok()?).ok()?;
        let file = self.file(key);
        if fs::metadata(&file).ok()?.len() != layer.size {
            return None;
        }
        let now = SystemTime::now();
        for used in [&file, &record] {
            // Where that cannot be, it is made again one day.
            let _ = File::options()
                .append(true)
                .open(used)
                .and_then(|used| used.set_modified(now));
        }
        Some(layer)
    }

    /// Writes a layer, whole or not at all.
    pub(super) fn write(&self, key: Digest, tree: &Tree<'_>) -> io::Result<Layer> {
        fs::create_dir_all(&self.folder)?;
        self.remove_unused();
        let mut new = tempfile::NamedTempFile::new_in(&self.folder)?;
        let (digest, diff_id, size) = tree.write(new.as_file_mut())?;
        new.as_file().sync_all()?;
        new.persist(self.file(key)).map_err(|error| error.error)?;
        let layer = Layer {
            digest,
            diff_id,
            size,
        };
        let mut record = tempfile::NamedTempFile::new_in(&self.folder)?;
        record.write_all(&serde_json::to_vec(&layer)?)?;
        record.as_file().sync_all()?;
        record
            .persist(self.record(key))
            .map_err(|error| error.error)?;
        Ok(layer)
    }

    /// What cannot be removed stays until the next time.
    fn remove_unused(&self) {
        let Some(before) = SystemTime::now().checked_sub(KEPT) else {
            return;
        };
        for entry in fs::read_dir(&self.folder).into_iter().flatten().flatten() {
            let is_old = entry
                .metadata()
                .and_then(|it| it.modified())
                .is_ok_and(|used| used < before);
            if is_old {
                let _ = fs::remove_file(entry.path());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::daemonless::contents::read_layer;

    #[test]
    fn the_same_is_the_same_layer_and_folders_stay_as_they_are() {
        let folder = tempfile::tempdir().unwrap();
        let from = folder.path().join("a.py");
        fs::write(&from, "print()\n").unwrap();
        let owner = Owner {
            mode: 0o775,
            uid: 50_000,
            gid: 0,
        };
        let mut base = Contents::default();
        base.folders.insert("opt/airflow".into(), owner);
        let layers = Layers::at(folder.path().join("layers"));
        let write = |name: &str| {
            let mut tree = Tree::on(&base, Owner::ROOT);
            let long = format!("opt/airflow/include/{}/a.py", "n".repeat(120));
            let item = Item::File {
                from: from.clone(),
                size: 8,
                executable: false,
            };
            tree.add(&long, item);
            tree.add("opt/airflow/old.py", Item::Gone);
            let key = Layers::key(&name);
            (layers.write(key, &tree).unwrap(), layers.file(key), key)
        };
        let (first, file, key) = write("one");
        let (second, ..) = write("two");
        assert_eq!(first, second);
        assert_eq!(layers.find(key), Some(first.clone()));
        let (contents, _) = read_layer(File::open(file).unwrap(), &first.digest).unwrap();
        assert_eq!(contents.folders["opt/airflow"], owner);
        assert_eq!(contents.folders["opt"], Owner::ROOT);
        assert_eq!(contents.folders["opt/airflow/include"], Owner::ROOT);

        // A file that grew since it was listed is no layer.
        fs::write(&from, "print(1)\n").unwrap();
        let mut tree = Tree::on(&base, Owner::ROOT);
        tree.add(
            "a.py",
            Item::File {
                from,
                size: 8,
                executable: false,
            },
        );
        assert!(layers.write(Layers::key(&"three"), &tree).is_err());
    }
}
