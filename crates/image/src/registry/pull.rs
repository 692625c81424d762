//! What a registry has: manifests and blobs, whole or as they come.

use bytes::Bytes;
use futures_util::{Stream, StreamExt as _, TryStreamExt as _};
use reqwest::{RequestBuilder, Response, StatusCode, header};
use updraft_model::Digest;
use url::Url;

use super::connection::{pauses, wait};
use super::{PushError, Registry};

/// Larger ones are refused by the specification.
const MOST_OF_A_MANIFEST: usize = 4 << 20;
/// How often a registry may send on to another address.
const MOST_REDIRECTS: usize = 5;
const MANIFESTS: &str = "application/vnd.oci.image.index.v1+json, \
    application/vnd.oci.image.manifest.v1+json, \
    application/vnd.docker.distribution.manifest.list.v2+json, \
    application/vnd.docker.distribution.manifest.v2+json";

/// A manifest, or an index of them, as the registry has it.
#[derive(Debug, Clone)]
pub struct PulledManifest {
    pub digest: Digest,
    pub bytes: Bytes,
}

impl Registry {
    /// The manifest under a tag or a digest; none: there is no such.
    pub async fn manifest(&self, reference: &str) -> Result<Option<PulledManifest>, PushError> {
        let url = self.url(&format!("manifests/{reference}"))?;
        let get = |url: &Url| {
            self.http()
                .get(url.clone())
                .header(header::ACCEPT, MANIFESTS)
        };
        let answer = self.get(url, get).await?;
        if answer.status() == StatusCode::NOT_FOUND {
            return Ok(None);
        }
        let answer = self.expect(answer, StatusCode::OK).await?;
        let bytes = self.whole(answer, MOST_OF_A_MANIFEST).await?;
        let digest = Digest::of(&bytes);
        match reference.parse() {
            Ok(asked) if asked != digest => Err(PushError::Damaged { digest: asked }),
            _ => Ok(Some(PulledManifest { digest, bytes })),
        }
    }

    /// A blob that is not large.
    pub async fn blob(&self, digest: &Digest, most: usize) -> Result<Bytes, PushError> {
        let answer = self.get_blob(digest, 0).await?;
        let answer = self.expect(answer, StatusCode::OK).await?;
        let bytes = self.whole(answer, most).await?;
        if Digest::of(&bytes) != *digest {
            return Err(PushError::Damaged { digest: *digest });
        }
        Ok(bytes)
    }

    /// A blob from a byte on, as it comes.
    pub async fn blob_from(
        &self,
        digest: &Digest,
        from: u64,
    ) -> Result<impl Stream<Item = Result<Bytes, reqwest::Error>> + Send + use<>, PushError> {
        let answer = self.get_blob(digest, from).await?;
        // Not every registry knows ranges.
        let is_part = answer.status() == StatusCode::PARTIAL_CONTENT;
        let answer = if is_part {
            answer
        } else {
            self.expect(answer, StatusCode::OK).await?
        };
        let mut skip = if is_part { 0 } else { from };
        Ok(answer.bytes_stream().map_ok(move |mut bytes| {
            let skipped = skip.min(bytes.len() as u64);
            skip -= skipped;
            bytes.split_off(usize::try_from(skipped).unwrap_or(usize::MAX))
        }))
    }

    /// Passes a blob on piece by piece, over lines that break, until all of it came or
    /// nobody takes it any more.
    pub(crate) async fn pass_blob(
        &self,
        digest: &Digest,
        size: u64,
        to: &tokio::sync::mpsc::Sender<Bytes>,
    ) -> Result<(), PushError> {
        let mut at = 0;
        let mut attempts = pauses();
        while at < size {
            let mut coming = Box::pin(self.blob_from(digest, at).await?);
            let before = at;
            let broken = loop {
                match coming.next().await {
                    Some(Ok(bytes)) => {
                        at += bytes.len() as u64;
                        if to.send(bytes).await.is_err() {
                            return Ok(());
                        }
                    }
                    Some(Err(source)) => break self.unreachable(source),
                    None => break self.odd("a blob is shorter than its manifest says".into()),
                }
            };
            if at > before {
                attempts = pauses();
            }
            if at < size {
                wait(attempts.next().ok_or(broken)?).await;
            }
        }
        Ok(())
    }

    async fn get_blob(&self, digest: &Digest, from: u64) -> Result<Response, PushError> {
        let url = self.url(&format!("blobs/{digest}"))?;
        let get = |url: &Url| {
            let get = self.http().get(url.clone());
            if from == 0 {
                return get;
            }
            get.header(header::RANGE, format!("bytes={from}-"))
        };
        self.get(url, get).await
    }

    /// Follows the registry to where it keeps its bytes.
    async fn get(
        &self,
        mut url: Url,
        request: impl Fn(&Url) -> RequestBuilder,
    ) -> Result<Response, PushError> {
        let scope = self.pull_scope();
        for _ in 0..MOST_REDIRECTS {
            let answer = self.send(&scope, || request(&url)).await?;
            if !answer.status().is_redirection() {
                return Ok(answer);
            }
            url = self.location(&url, answer.headers())?;
        }
        Err(self.odd("it sends on and on".into()))
    }

    fn pull_scope(&self) -> String {
        format!("repository:{}:pull", self.name.repository)
    }

    async fn expect(&self, answer: Response, status: StatusCode) -> Result<Response, PushError> {
        if answer.status() == status {
            return Ok(answer);
        }
        let scope = self.pull_scope();
        Err(self
            .refused("give out what is in", answer, Some(scope))
            .await)
    }

    async fn whole(&self, answer: Response, most: usize) -> Result<Bytes, PushError> {
        let mut all = Vec::new();
        let mut coming = answer.bytes_stream();
        while let Some(bytes) = coming.next().await {
            let bytes = bytes.map_err(|source| self.unreachable(source))?;
            if all.len() + bytes.len() > most {
                return Err(self.odd(format!("what it sends is larger than {most} bytes")));
            }
            all.extend_from_slice(&bytes);
        }
        Ok(all.into())
    }

    fn unreachable(&self, source: reqwest::Error) -> PushError {
        PushError::Unreachable {
            registry: self.name.registry.clone(),
            source,
        }
    }
}
