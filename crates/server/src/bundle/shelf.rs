//! Keeps manifests and file tables at hand, since most requests are about the
//! bundles of the one before.

use std::collections::{BTreeSet, HashMap};
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use updraft_bundle::{LayerTable, diff};
use updraft_model::{Digest, Release};
use updraft_store::{FileLists, Read, StoreError, StoredLayer};

use super::described::{Described, DescribedError};

/// Entries of tables that are kept; each is some 200 bytes.
const MOST_ENTRIES: usize = 200_000;
const MOST_MANIFESTS: usize = 256;
/// Tables are mostly digests, which do not compress, and paths, which do.
const LEVEL: i32 = 1;

#[derive(Debug, Default)]
pub(crate) struct Shelf {
    manifests: Mutex<HashMap<Digest, Arc<Described>>>,
    tables: Mutex<Tables>,
}

#[derive(Debug, Default)]
struct Tables {
    by_layer: HashMap<Digest, Arc<LayerTable>>,
    entries: usize,
}

#[derive(Debug, thiserror::Error)]
pub(crate) enum ShelfError {
    #[error("the manifest {0} is not in the database")]
    ManifestGone(Digest),
    #[error("the manifest {digest} in the database cannot be read")]
    Manifest {
        digest: Digest,
        source: DescribedError,
    },
    #[error("the table of layer {0} is not in the database")]
    TableGone(Digest),
    #[error("the table of layer {layer} in the database cannot be read")]
    Table { layer: Digest, source: io::Error },
    #[error("could not read manifests and tables")]
    Store(#[from] StoreError),
}

impl Shelf {
    pub(crate) async fn manifest(
        &self,
        read: &mut Read,
        digest: Digest,
    ) -> Result<Arc<Described>, ShelfError> {
        if let Some(found) = lock(&self.manifests).get(&digest) {
            return Ok(found.clone());
        }
        let text = read
            .manifest(&digest)
            .await?
            .ok_or(ShelfError::ManifestGone(digest))?;
        let manifest =
            Described::either(text).map_err(|source| ShelfError::Manifest { digest, source })?;
        Ok(self.put_manifest(digest, Arc::new(manifest)))
    }

    pub(crate) fn put_manifest(&self, digest: Digest, manifest: Arc<Described>) -> Arc<Described> {
        let mut manifests = lock(&self.manifests);
        if manifests.len() >= MOST_MANIFESTS {
            manifests.clear();
        }
        manifests.entry(digest).or_insert(manifest).clone()
    }

    /// Those tables that are known, by layer.
    pub(crate) async fn known_tables(
        &self,
        read: &mut Read,
        layers: impl IntoIterator<Item = Digest>,
    ) -> Result<HashMap<Digest, Arc<LayerTable>>, ShelfError> {
        let mut found = HashMap::new();
        let mut unknown = Vec::new();
        {
            let tables = lock(&self.tables);
            for layer in layers {
                match tables.by_layer.get(&layer) {
                    Some(table) => {
                        found.insert(layer, table.clone());
                    }
                    None => unknown.push(layer),
                }
            }
        }
        if !unknown.is_empty() {
            for stored in read.layers(&unknown).await? {
                let table = unpack(&stored)?;
                found.insert(stored.digest, self.put_table(table));
            }
        }
        Ok(found)
    }

    /// The tables of all these layers, in their order.
    pub(crate) async fn tables(
        &self,
        read: &mut Read,
        layers: &[Digest],
    ) -> Result<Vec<LayerTable>, ShelfError> {
        let known = self.known_tables(read, layers.iter().copied()).await?;
        layers
            .iter()
            .map(|layer| {
                known
                    .get(layer)
                    .map(|table| LayerTable::clone(table))
                    .ok_or(ShelfError::TableGone(*layer))
            })
            .collect()
    }

    pub(crate) fn put_table(&self, table: LayerTable) -> Arc<LayerTable> {
        let mut tables = lock(&self.tables);
        if tables.entries > MOST_ENTRIES {
            *tables = Tables::default();
        }
        if let Some(known) = tables.by_layer.get(&table.digest) {
            return known.clone();
        }
        tables.entries += table.entries.len();
        let table = Arc::new(table);
        tables.by_layer.insert(table.digest, table.clone());
        table
    }

    /// Which files differ between two bundles, either of which may be absent.
    pub(crate) async fn files_between(
        &self,
        read: &mut Read,
        old: Option<Digest>,
        new: Option<Digest>,
    ) -> Result<FileLists, ShelfError> {
        if old == new {
            return Ok(FileLists::default());
        }
        let old = self.layers_of(read, old).await?;
        let new = self.layers_of(read, new).await?;
        let only = |these: &[Digest], others: &[Digest]| -> Vec<Digest> {
            let others: BTreeSet<_> = others.iter().collect();
            these
                .iter()
                .filter(|layer| !others.contains(layer))
                .copied()
                .collect()
        };
        let old_tables = self.tables(read, &only(&old, &new)).await?;
        let new_tables = self.tables(read, &only(&new, &old)).await?;
        let diff = diff(&old_tables, &new_tables);
        Ok(FileLists {
            added: diff.added,
            changed: diff.changed,
            removed: diff.removed,
        })
    }

    async fn layers_of(
        &self,
        read: &mut Read,
        manifest: Option<Digest>,
    ) -> Result<Vec<Digest>, ShelfError> {
        Ok(match manifest {
            Some(digest) => self.manifest(read, digest).await?.layers(),
            None => Vec::new(),
        })
    }

    /// Every blob that a Release names: manifests, and what they name.
    pub(crate) async fn blobs_of(
        &self,
        read: &mut Read,
        release: &Release,
    ) -> Result<Vec<(Digest, u64)>, ShelfError> {
        let mut blobs = Vec::new();
        let bundles = release.bundles.values().map(|bundle| bundle.digest);
        for digest in bundles.chain([release.image.digest()]) {
            let manifest = self.manifest(read, digest).await?;
            blobs.push((digest, manifest.text.len() as u64));
            blobs.extend(manifest.blobs.iter().copied());
        }
        blobs.sort_unstable();
        blobs.dedup();
        Ok(blobs)
    }
}

/// Packs a table for its row.
pub(crate) fn pack(table: &LayerTable) -> Result<StoredLayer, ShelfError> {
    let failed = |source| ShelfError::Table {
        layer: table.digest,
        source,
    };
    let json = serde_json::to_vec(&table.entries).map_err(|error| failed(error.into()))?;
    let file_table = zstd::bulk::compress(&json, LEVEL).map_err(failed)?;
    Ok(StoredLayer {
        digest: table.digest,
        file_table,
    })
}

fn unpack(stored: &StoredLayer) -> Result<LayerTable, ShelfError> {
    let failed = |source| ShelfError::Table {
        layer: stored.digest,
        source,
    };
    let json = zstd::stream::decode_all(stored.file_table.as_slice()).map_err(failed)?;
    let entries = serde_json::from_slice(&json).map_err(|error| failed(error.into()))?;
    Ok(LayerTable {
        digest: stored.digest,
        entries,
    })
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Only a cache: whatever a panic left there is still true.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
