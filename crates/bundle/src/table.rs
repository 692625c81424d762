//! What a layer holds: one row per file or link.

use std::cmp::Ordering;

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use updraft_model::Digest;

/// One file or link of a bundle. Folders are not listed: as in git, they
/// exist because something is in them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Relative to the bundle's root, with `/` between names.
    pub path: String,
    pub kind: EntryKind,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum EntryKind {
    File {
        size: u64,
        digest: Digest,
        executable: bool,
    },
    Link {
        target: String,
    },
}

impl Entry {
    /// The bytes of content; a link has none.
    pub fn size(&self) -> u64 {
        match self.kind {
            EntryKind::File { size, .. } => size,
            EntryKind::Link { .. } => 0,
        }
    }
}

/// The entries of one layer, in order.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LayerTable {
    /// The layer's own digest (of its compressed bytes).
    pub digest: Digest,
    pub entries: Vec<Entry>,
}

/// Which paths differ between two trees, each list sorted.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TreeDiff {
    pub added: Vec<String>,
    pub changed: Vec<String>,
    pub removed: Vec<String>,
}

impl TreeDiff {
    pub fn is_empty(&self) -> bool {
        self.added.is_empty() && self.changed.is_empty() && self.removed.is_empty()
    }
}

/// Compares two bundles by their tables. Layers both have are skipped whole.
pub fn diff(old: &[LayerTable], new: &[LayerTable]) -> TreeDiff {
    let shared = |table: &LayerTable, others: &[LayerTable]| {
        others
            .binary_search_by(|other| first_path(other).cmp(first_path(table)))
            .is_ok_and(|at| others[at].digest == table.digest)
    };
    let mut old_entries = old
        .iter()
        .filter(|t| !shared(t, new))
        .flat_map(|t| &t.entries)
        .peekable();
    let mut new_entries = new
        .iter()
        .filter(|t| !shared(t, old))
        .flat_map(|t| &t.entries)
        .peekable();

    let mut diff = TreeDiff::default();
    loop {
        let order = match (old_entries.peek(), new_entries.peek()) {
            (None, None) => return diff,
            (Some(_), None) => Ordering::Less,
            (None, Some(_)) => Ordering::Greater,
            (Some(old), Some(new)) => old.path.cmp(&new.path),
        };
        match order {
            Ordering::Less => diff
                .removed
                .extend(old_entries.next().map(|e| e.path.clone())),
            Ordering::Greater => diff
                .added
                .extend(new_entries.next().map(|e| e.path.clone())),
            Ordering::Equal => {
                if let (Some(old), Some(new)) = (old_entries.next(), new_entries.next())
                    && old.kind != new.kind
                {
                    diff.changed.push(new.path.clone());
                }
            }
        }
    }
}

fn first_path(table: &LayerTable) -> &str {
    table.entries.first().map_or("", |entry| &entry.path)
}

/// An entry as JSON: `{"path", "size", "digest", "executable"?}` for a file,
/// `{"path", "target"}` for a link.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Row<S> {
    path: S,
    #[serde(skip_serializing_if = "Option::is_none")]
    size: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    digest: Option<Digest>,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    executable: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    target: Option<S>,
}

impl Serialize for Entry {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let path = self.path.as_str();
        match &self.kind {
            EntryKind::File {
                size,
                digest,
                executable,
            } => Row {
                path,
                size: Some(*size),
                digest: Some(*digest),
                executable: *executable,
                target: None,
            },
            EntryKind::Link { target } => Row {
                path,
                size: None,
                digest: None,
                executable: false,
                target: Some(target),
            },
        }
        .serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Entry {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let kind = |row: &mut Row<String>| match (row.size, row.digest, row.target.take()) {
            (Some(size), Some(digest), None) => Some(EntryKind::File {
                size,
                digest,
                executable: row.executable,
            }),
            (None, None, Some(target)) if !row.executable => Some(EntryKind::Link { target }),
            _ => None,
        };
        let mut row = Row::<String>::deserialize(deserializer)?;
        let kind = kind(&mut row).ok_or_else(|| {
            serde::de::Error::custom("an entry is a file (size, digest) or a link (target)")
        })?;
        Ok(Self {
            path: row.path,
            kind,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(path: &str, content: &str) -> Entry {
        Entry {
            path: path.into(),
            kind: EntryKind::File {
                size: content.len() as u64,
                digest: Digest::of(content.as_bytes()),
                executable: false,
            },
        }
    }

    fn layer(name: &str, entries: Vec<Entry>) -> LayerTable {
        LayerTable {
            digest: Digest::of(name.as_bytes()),
            entries,
        }
    }

    #[test]
    fn names_what_was_added_changed_and_removed() {
        let old = [
            layer("1", vec![file("a", "1"), file("b", "1")]),
            layer("2", vec![file("c", "1"), file("d", "1")]),
        ];
        let new = [
            layer("3", vec![file("a", "1"), file("aa", "1"), file("b", "2")]),
            layer("4", vec![file("d", "1")]),
        ];
        let diff = diff(&old, &new);
        assert_eq!(diff.added, ["aa"]);
        assert_eq!(diff.changed, ["b"]);
        assert_eq!(diff.removed, ["c"]);
        assert!(super::diff(&old, &old).is_empty());
        assert_eq!(super::diff(&[], &new).added.len(), 4);
    }

    #[test]
    fn reads_the_json_it_writes() {
        let table = layer(
            "1",
            vec![
                file("a", "1"),
                Entry {
                    path: "b".into(),
                    kind: EntryKind::Link { target: "a".into() },
                },
            ],
        );
        let json = serde_json::to_string(&table).expect("json");
        assert_eq!(
            serde_json::from_str::<LayerTable>(&json).expect("table"),
            table
        );
        assert!(serde_json::from_str::<Entry>(r#"{"path":"a","size":1}"#).is_err());
    }
}
