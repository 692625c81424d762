//! What layers hold, and what nobody needs any more.

use std::collections::HashSet;

use updraft_model::{Digest, Timestamp};

use crate::sql::{Row, places, sql, sql_with_list};
use crate::{Read, StoreError, Write};

const CHUNK: usize = 128;

/// A layer's file table, as the caller packed it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredLayer {
    pub digest: Digest,
    pub file_table: Vec<u8>,
}

impl StoredLayer {
    fn from_row(row: &Row) -> Result<Self, StoreError> {
        Ok(Self {
            digest: row.get("digest")?,
            file_table: row.get("file_table")?,
        })
    }
}

impl Read {
    /// The tables of those layers that are known, in no order.
    pub async fn layers(&mut self, digests: &[Digest]) -> Result<Vec<StoredLayer>, StoreError> {
        let mut layers = Vec::with_capacity(digests.len());
        for chunk in digests.chunks(CHUNK) {
            let mut query = sql_with_list(
                "SELECT digest, file_table FROM layer WHERE digest IN ({})",
                &places(1, chunk.len()),
            );
            for digest in chunk {
                query = query.bind(digest);
            }
            for row in query.all(&mut self.on).await? {
                layers.push(StoredLayer::from_row(&row)?);
            }
        }
        Ok(layers)
    }
}

impl Read {
    /// Those of these layers whose table is stored, without reading it.
    pub async fn stored_layers(
        &mut self,
        digests: &[Digest],
    ) -> Result<HashSet<Digest>, StoreError> {
        let mut stored = HashSet::new();
        for chunk in digests.chunks(CHUNK) {
            let mut query = sql_with_list(
                "SELECT digest FROM layer WHERE digest IN ({})",
                &places(1, chunk.len()),
            );
            for digest in chunk {
                query = query.bind(digest);
            }
            for row in query.all(&mut self.on).await? {
                stored.insert(row.get("digest")?);
            }
        }
        Ok(stored)
    }
}

impl Write {
    /// Stores layers' tables; those that are there already are fine. By digest,
    /// whatever order they come in: two transactions that store the same would
    /// otherwise wait for each other.
    pub async fn insert_layers(
        &mut self,
        mut layers: Vec<StoredLayer>,
        at: Timestamp,
    ) -> Result<(), StoreError> {
        layers.sort_unstable_by_key(|layer| layer.digest);
        for layer in layers {
            sql(
                "INSERT INTO layer (digest, file_table, created_at) VALUES ($1, $2, $3)
                 ON CONFLICT (digest) DO NOTHING",
            )
            .bind(layer.digest)
            .bind(layer.file_table)
            .bind(at)
            .run(&mut self.on)
            .await?;
        }
        Ok(())
    }

    /// Forgets manifests, layers and names of blobs that are older than a
    /// moment and not among those to keep.
    pub async fn forget_unused(
        &mut self,
        keep: &HashSet<Digest>,
        before: Timestamp,
    ) -> Result<u64, StoreError> {
        let manifests = sql("SELECT digest FROM manifest WHERE created_at < $1 ORDER BY digest");
        let layers = sql("SELECT digest FROM layer WHERE created_at < $1 ORDER BY digest");
        // Whatever their age: named in the transaction that names them in a Release.
        let named = sql("SELECT DISTINCT digest FROM release_blob ORDER BY digest");
        let mut forgotten = 0;
        for (select, delete) in [
            (
                manifests.bind(before),
                "DELETE FROM manifest WHERE digest = $1",
            ),
            (layers.bind(before), "DELETE FROM layer WHERE digest = $1"),
            (named, "DELETE FROM release_blob WHERE digest = $1"),
        ] {
            for row in select.all(&mut self.on).await? {
                let digest: Digest = row.get("digest")?;
                if !keep.contains(&digest) {
                    forgotten += sql(delete).bind(digest).run(&mut self.on).await?;
                }
            }
        }
        Ok(forgotten)
    }
}
