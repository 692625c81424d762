//! What a version on disk should be, kept beside it in `<version>.json`.

use std::fs;
use std::io::{self, Write};
use std::path::Path;

use serde::{Deserialize, Serialize};
use updraft_model::Digest;

use crate::stat::FileStat;
use crate::table::{Entry, EntryKind, LayerTable};

const FORMAT: u32 = 1;

#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Record {
    format: u32,
    pub(crate) digest: Digest,
    pub(crate) layers: Vec<LayerTable>,
    /// One for each entry of all layers, in order.
    pub(crate) on_disk: Vec<OnDisk>,
}

/// The inode and modification time a file was left with. Not its change
/// time, which every further hard link moves.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct OnDisk(pub(crate) u64, pub(crate) i64);

impl OnDisk {
    pub(crate) fn new(stat: &FileStat) -> Self {
        Self(stat.inode, stat.mtime)
    }
}

impl Record {
    pub(crate) fn new(digest: Digest, layers: Vec<LayerTable>, on_disk: Vec<OnDisk>) -> Self {
        Self {
            format: FORMAT,
            digest,
            layers,
            on_disk,
        }
    }

    /// Reads a record; one that is damaged or of another format is no record.
    pub(crate) fn load(file: &Path, digest: &Digest) -> io::Result<Option<Self>> {
        let bytes = match fs::read(file) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        };
        Ok(serde_json::from_slice(&bytes).ok().filter(|record: &Self| {
            record.format == FORMAT
                && record.digest == *digest
                && record.entries().count() == record.on_disk.len()
        }))
    }

    /// Writes the record to `file` by way of `temporary`, durably but for the
    /// folder they are in.
    pub(crate) fn save(&self, temporary: &Path, file: &Path) -> io::Result<()> {
        let write = || {
            let mut out = fs::File::create(temporary)?;
            out.write_all(&serde_json::to_vec(self).map_err(io::Error::other)?)?;
            out.sync_all()?;
            fs::rename(temporary, file)
        };
        write().inspect_err(|_| {
            let _ = fs::remove_file(temporary);
        })
    }

    pub(crate) fn entries(&self) -> impl Iterator<Item = &Entry> {
        self.layers.iter().flat_map(|layer| &layer.entries)
    }

    pub(crate) fn rows(&self) -> impl Iterator<Item = (&Entry, OnDisk)> {
        self.entries().zip(self.on_disk.iter().copied())
    }
}

/// The permissions of a file in a version: nobody writes to it.
pub(crate) fn mode_of(executable: bool) -> u32 {
    if executable { 0o555 } else { 0o444 }
}

/// Whether a file still looks as it was left.
pub(crate) fn looks_untouched(entry: &Entry, on_disk: OnDisk, stat: &FileStat) -> bool {
    match entry.kind {
        EntryKind::File {
            size, executable, ..
        } => {
            stat.size == size
                && OnDisk::new(stat) == on_disk
                && stat.mode & 0o7777 == mode_of(executable)
        }
        EntryKind::Link { .. } => false,
    }
}
