//! Compares a version on disk with its record.

use std::collections::HashSet;
use std::io;
use std::path::Path;

use rustix::fs::FileType;
use serde::{Deserialize, Serialize};

use crate::hashing::Hasher;
use crate::path::folders_of;
use crate::record::{Record, looks_untouched, mode_of};
use crate::spread::spread;
use crate::stat::FileStat;
use crate::table::{Entry, EntryKind};
use crate::tree;

/// How closely to look.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Verify {
    /// Names, sizes, times, inodes and modes. Finds what programs do by
    /// accident, not somebody who sets times back.
    #[default]
    Quick,
    /// Reads and digests every file.
    Full,
}

/// One difference between a version and what it should be.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Damage {
    pub path: String,
    pub kind: DamageKind,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DamageKind {
    /// It should be there.
    Missing,
    /// It should not be there.
    Extra,
    /// Its content (or a link's target, or the kind of file) is another.
    Changed,
    /// Its permissions are others.
    Mode,
}

struct OnDiskFile {
    path: String,
    stat: FileStat,
    target: Option<String>,
}

/// Lists every difference, sorted by path.
pub(crate) fn compare(root: &Path, record: &Record, how: Verify) -> io::Result<Vec<Damage>> {
    let fd = tree::open_root(root)?;
    let folders: HashSet<&str> = record
        .entries()
        .flat_map(|entry| folders_of(&entry.path))
        .collect();
    let mut damage = Vec::new();
    let mut found = Vec::new();
    let mut open = vec![String::new()];
    while let Some(folder) = open.pop() {
        let listed = tree::list(&fd, &folder)?;
        for (name, _) in &listed.names {
            let text = name.to_string_lossy();
            let path = if folder.is_empty() {
                text.into_owned()
            } else {
                format!("{folder}/{text}")
            };
            let stat = listed.stat(name)?;
            let target = match FileType::from_raw_mode(stat.mode) {
                FileType::Directory if folders.contains(path.as_str()) => {
                    open.push(path);
                    continue;
                }
                FileType::Symlink => Some(listed.link_target(name)?.to_string_lossy().into_owned()),
                _ => None,
            };
            found.push(OnDiskFile { path, stat, target });
        }
    }
    found.sort_unstable_by(|a, b| a.path.cmp(&b.path));

    let mut found = found.into_iter().peekable();
    let mut to_read = Vec::new();
    for (entry, on_disk) in record.rows() {
        while let Some(extra) = found.next_if(|found| found.path < entry.path) {
            damage.push(Damage {
                path: extra.path,
                kind: DamageKind::Extra,
            });
        }
        let Some(found) = found.next_if(|found| found.path == entry.path) else {
            damage.push(Damage {
                path: entry.path.clone(),
                kind: DamageKind::Missing,
            });
            continue;
        };
        match differs(entry, &found) {
            Some(kind) => damage.push(Damage {
                path: found.path,
                kind,
            }),
            None if found.target.is_some() => {}
            None if how == Verify::Full => to_read.push((entry, found.stat)),
            None if looks_untouched(entry, on_disk, &found.stat) => {}
            None => damage.push(Damage {
                path: found.path,
                kind: DamageKind::Changed,
            }),
        }
    }
    damage.extend(found.map(|extra| Damage {
        path: extra.path,
        kind: DamageKind::Extra,
    }));

    let parts = to_read.chunks(64).collect();
    let read = spread(parts, |part: &[(&Entry, FileStat)]| {
        let mut buffer = vec![0; 128 * 1024];
        let mut changed = Vec::new();
        for (entry, stat) in part {
            let EntryKind::File { digest, .. } = &entry.kind else {
                continue;
            };
            let mut hasher = Hasher::default();
            let read = tree::read_file(&fd, &entry.path, stat, &mut buffer, |piece| {
                hasher.update(piece);
                Ok(())
            });
            match read {
                Ok(()) if hasher.finish() == *digest => {}
                Ok(()) | Err(tree::ReadFailed::Changed) => {
                    changed.push(Damage {
                        path: entry.path.clone(),
                        kind: DamageKind::Changed,
                    });
                }
                Err(tree::ReadFailed::Io(error)) => return Err(error),
            }
        }
        Ok(changed)
    })?;
    damage.extend(read.into_iter().flatten());
    damage.sort_unstable();
    Ok(damage)
}

fn differs(entry: &Entry, found: &OnDiskFile) -> Option<DamageKind> {
    match &entry.kind {
        EntryKind::Link { target } => {
            (found.target.as_ref() != Some(target)).then_some(DamageKind::Changed)
        }
        EntryKind::File {
            size, executable, ..
        } => {
            let is_file = FileType::from_raw_mode(found.stat.mode) == FileType::RegularFile;
            if !is_file || found.stat.size != *size {
                Some(DamageKind::Changed)
            } else if found.stat.mode & 0o7777 != mode_of(*executable) {
                Some(DamageKind::Mode)
            } else {
                None
            }
        }
    }
}
