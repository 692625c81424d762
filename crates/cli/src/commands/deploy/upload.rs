//! Sending what the control plane lacks: a few batches at once, each made
//! when its turn comes, so that a large tree is never in memory whole.

use std::sync::Arc;

use bytes::Bytes;
use futures_util::{StreamExt, TryStreamExt};
use updraft_api::Client;
use updraft_bundle::{EMPTY_BLOB, Scan};
use updraft_model::{DeployId, Digest};

use crate::environment::Environment;
use crate::exit::Exit;
use crate::failpoint::failpoint;
use crate::failure::{Failure, Result};

const BATCH_BYTES: u64 = 8 << 20;
const AT_ONCE: usize = 3;

/// Where the bytes of a digest come from.
pub(super) struct Source {
    pub(super) scan: Arc<Scan>,
    pub(super) environment: Option<Environment>,
}

impl Source {
    /// The length of a blob, where this has it.
    fn size(&self, digest: Digest) -> Option<u64> {
        if digest == Digest::of(EMPTY_BLOB) {
            return Some(EMPTY_BLOB.len() as u64);
        }
        let layers = self.scan.manifest().layers();
        let layer = layers.iter().find(|layer| layer.digest == digest);
        match layer {
            Some(layer) => Some(layer.size),
            None => self.environment.as_ref()?.size(digest),
        }
    }

    pub(super) fn has(&self, digest: Digest) -> bool {
        self.size(digest).is_some()
    }

    fn bytes(&self, digest: Digest) -> Result<Bytes> {
        if digest == Digest::of(EMPTY_BLOB) {
            return Ok(Bytes::from_static(EMPTY_BLOB));
        }
        let layers = self.scan.manifest().layers();
        if layers.iter().any(|layer| layer.digest == digest) {
            return Ok(self.scan.layer_bytes(&digest)?);
        }
        match &self.environment {
            Some(environment) => environment.bytes(digest),
            None => Err(Failure::new(
                Exit::Internal,
                format!("the control plane asks for {digest}, which is no part of this deploy"),
            )),
        }
    }
}

pub(super) async fn send(
    client: &Client,
    deploy: DeployId,
    missing: &[Digest],
    source: &Arc<Source>,
) -> Result<()> {
    let sends = batches(missing, |digest| source.size(digest).unwrap_or(0))
        .into_iter()
        .map(|batch| {
            let source = Arc::clone(source);
            async move {
                // Reading and packing must not hold up the connection.
                let read = move || {
                    batch
                        .into_iter()
                        .map(|digest| Ok((digest, source.bytes(digest)?)))
                        .collect()
                };
                let blobs: Result<Vec<_>> = tokio::task::spawn_blocking(read).await?;
                client.upload_blobs(deploy, &blobs?).await?;
                failpoint("cli.sent_one_batch");
                Ok::<_, Failure>(())
            }
        });
    futures_util::stream::iter(sends)
        .buffer_unordered(AT_ONCE)
        .try_collect::<()>()
        .await
}

fn batches(digests: &[Digest], size: impl Fn(Digest) -> u64) -> Vec<Vec<Digest>> {
    let mut batches: Vec<Vec<Digest>> = Vec::new();
    let mut room = 0;
    for digest in digests {
        let size = size(*digest);
        match batches.last_mut() {
            Some(batch) if size <= room => {
                batch.push(*digest);
                room -= size;
            }
            _ => {
                batches.push(vec![*digest]);
                room = BATCH_BYTES.saturating_sub(size);
            }
        }
    }
    batches
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn batches_hold_everything_once_and_are_not_too_large() {
        let digests: Vec<_> = (0..20_u8).map(|at| Digest::of(&[at])).collect();
        let batched = batches(&digests, |_| 3 << 20);
        assert_eq!(batched.concat(), digests);
        assert!(batched.iter().all(|batch| batch.len() == 2));
        assert_eq!(batches(&digests, |_| 100 << 20).len(), 20);
        assert!(batches(&[], |_| 1).is_empty());
    }
}
