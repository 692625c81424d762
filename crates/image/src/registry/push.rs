//! Blobs that lack, several at a time, and then the manifest: whoever pulls finds
//! all of an image or nothing.

use std::io::SeekFrom;

use bytes::Bytes;
use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use reqwest::header;
use reqwest::{Body, Response, StatusCode};
use tokio::fs::File;
use tokio::io::{AsyncReadExt as _, AsyncSeekExt as _};
use tokio_util::io::ReaderStream;
use updraft_model::Digest;
use url::Url;

use super::connection::{is_passing, pauses, wait};
use super::image::BlobContent;
use super::{ImageBlob, OciImage, PushError, Registry};

/// Uploads at once.
const AT_ONCE: usize = 10;

/// What came of a push.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pushed {
    pub digest: Digest,
    /// Blobs that were sent, that were there, and that were taken from another repository.
    pub sent: usize,
    pub skipped: usize,
    pub mounted: usize,
    /// Bytes in what was sent.
    pub bytes: u64,
}

enum Came {
    Sent(u64),
    Skipped,
    Mounted,
}

impl Registry {
    /// Pushes an image under a tag, or by its digest alone. `others` are repositories
    /// of the same registry that may have some of its blobs.
    pub async fn push(
        &self,
        image: &OciImage,
        tag: Option<&str>,
        others: &[String],
    ) -> Result<Pushed, PushError> {
        let mut pushed = Pushed {
            digest: image.digest(),
            sent: 0,
            skipped: 0,
            mounted: 0,
            bytes: 0,
        };
        let mut blobs: Vec<&ImageBlob> = image.blobs.iter().collect();
        blobs.sort_unstable_by_key(|blob| blob.digest);
        blobs.dedup_by_key(|blob| blob.digest);
        let mut coming = stream::iter(blobs)
            .map(|blob| self.push_blob(blob, others))
            .buffer_unordered(AT_ONCE);
        while let Some(came) = coming.try_next().await? {
            match came {
                Came::Sent(bytes) => {
                    pushed.sent += 1;
                    pushed.bytes += bytes;
                }
                Came::Skipped => pushed.skipped += 1,
                Came::Mounted => pushed.mounted += 1,
            }
        }
        self.push_manifest(image, tag).await?;
        Ok(pushed)
    }

    fn scope(&self) -> String {
        format!("repository:{}:pull,push", self.name.repository)
    }

    async fn push_blob(&self, blob: &ImageBlob, others: &[String]) -> Result<Came, PushError> {
        let scope = self.scope();
        let url = self.url(&format!("blobs/{}", blob.digest))?;
        let looked = self.send(&scope, || self.http().head(url.clone())).await?;
        match looked.status() {
            StatusCode::OK => return Ok(Came::Skipped),
            StatusCode::NOT_FOUND => {}
            _ => return Err(self.refused("push to", looked, Some(scope)).await),
        }
        for other in others {
            if self.mount(blob, other).await? {
                return Ok(Came::Mounted);
            }
        }
        self.upload(blob).await?;
        Ok(Came::Sent(blob.size))
    }

    /// Whether the registry has taken a blob from another repository. A refusal means
    /// only that it has to be sent.
    async fn mount(&self, blob: &ImageBlob, other: &str) -> Result<bool, PushError> {
        let scope = format!("{} repository:{other}:pull", self.scope());
        let mut url = self.url("blobs/uploads/")?;
        url.query_pairs_mut()
            .append_pair("mount", &blob.digest.to_string())
            .append_pair("from", other);
        let answer = self.send(&scope, || self.http().post(url.clone())).await?;
        if answer.status() == StatusCode::ACCEPTED {
            // An upload has begun that nobody goes on with.
            let begun = self.location(&url, answer.headers())?;
            let _ = self.send_once(&scope, self.http().delete(begun)).await;
        }
        Ok(answer.status() == StatusCode::CREATED)
    }

    /// Sends a blob. When the connection breaks, it goes on from where the registry
    /// says that it is; attempts are counted anew when it came further.
    async fn upload(&self, blob: &ImageBlob) -> Result<(), PushError> {
        let scope = self.scope();
        let mut at = self.begin().await?;
        let mut sent = 0;
        let mut attempts = pauses();
        while sent < blob.size {
            let part = self.part(blob, sent, &at).await?;
            let answer = self.send_once(&scope, part).await;
            let (error, is_lost) = match answer {
                Ok(answer) if answer.status() == StatusCode::ACCEPTED => {
                    at = self.location(&at, answer.headers())?;
                    break;
                }
                Ok(answer) => {
                    let status = answer.status();
                    let is_lost = status == StatusCode::NOT_FOUND;
                    let may_pass = is_passing(status)
                        || is_lost
                        || status == StatusCode::RANGE_NOT_SATISFIABLE
                        || status == StatusCode::UNAUTHORIZED;
                    let error = self.refused("push to", answer, Some(scope.clone())).await;
                    if !may_pass {
                        return Err(error);
                    }
                    (error, is_lost)
                }
                Err(error @ PushError::Unreachable { .. }) => (error, false),
                Err(error) => return Err(error),
            };
            let Some(pause) = attempts.next() else {
                return Err(error);
            };
            wait(pause).await;
            let there = if is_lost {
                None
            } else {
                self.how_far(&mut at).await?
            };
            let before = sent;
            if let Some(there) = there {
                sent = there.min(blob.size);
            } else {
                at = self.begin().await?;
                sent = 0;
            }
            if sent > before {
                attempts = pauses();
            }
        }
        self.end(blob, at).await
    }

    async fn begin(&self) -> Result<Url, PushError> {
        let scope = self.scope();
        let url = self.url("blobs/uploads/")?;
        let begun = self.send(&scope, || self.http().post(url.clone())).await?;
        if begun.status() != StatusCode::ACCEPTED {
            return Err(self.refused("push to", begun, Some(scope)).await);
        }
        self.location(&url, begun.headers())
    }

    /// How many bytes of an upload the registry has; none when it has lost it, or
    /// nothing is lost with it.
    async fn how_far(&self, at: &mut Url) -> Result<Option<u64>, PushError> {
        let asked = at.clone();
        let scope = self.scope();
        let told = self.send(&scope, || self.http().get(asked.clone())).await?;
        if told.status() != StatusCode::NO_CONTENT {
            return Ok(None);
        }
        if told.headers().contains_key(header::LOCATION) {
            *at = self.location(&asked, told.headers())?;
        }
        let last = told
            .headers()
            .get(header::RANGE)
            .and_then(|range| range.to_str().ok()?.split_once('-')?.1.parse::<u64>().ok());
        // Of one byte and of none it says the same.
        Ok(last.filter(|last| *last > 0).map(|last| last + 1))
    }

    async fn part(
        &self,
        blob: &ImageBlob,
        from: u64,
        at: &Url,
    ) -> Result<reqwest::RequestBuilder, PushError> {
        let length = blob.size - from;
        let body = match &blob.content {
            BlobContent::Bytes(bytes) => {
                let from = usize::try_from(from)
                    .unwrap_or(bytes.len())
                    .min(bytes.len());
                Body::from(bytes.slice(from..))
            }
            BlobContent::File(path) => {
                let open = async {
                    let mut file = File::open(path).await?;
                    file.seek(SeekFrom::Start(from)).await?;
                    Ok(file.take(length))
                };
                let file = open.await.map_err(|source| PushError::Io {
                    path: path.clone(),
                    source,
                })?;
                Body::wrap_stream(ReaderStream::with_capacity(file, 256 << 10))
            }
            BlobContent::Remote(registry) => {
                Body::wrap_stream(registry.blob_from(&blob.digest, from).await?)
            }
        };
        let mut request = self
            .http()
            .patch(at.clone())
            .header(header::CONTENT_TYPE, "application/octet-stream")
            .header(header::CONTENT_LENGTH, length)
            .body(body);
        // The first goes without, as docker's does: not every registry likes it.
        if from > 0 {
            let range = format!("{from}-{}", blob.size - 1);
            request = request.header(header::CONTENT_RANGE, range);
        }
        Ok(request)
    }

    async fn end(&self, blob: &ImageBlob, mut at: Url) -> Result<(), PushError> {
        at.query_pairs_mut()
            .append_pair("digest", &blob.digest.to_string());
        let scope = self.scope();
        let mut attempts = pauses();
        loop {
            let put = self
                .http()
                .put(at.clone())
                .header(header::CONTENT_LENGTH, 0);
            let answer = self.send_once(&scope, put).await;
            let error = match answer {
                Ok(answer) if answer.status() == StatusCode::CREATED => return Ok(()),
                Ok(answer) if is_passing(answer.status()) => {
                    self.refused("push to", answer, Some(scope.clone())).await
                }
                Ok(answer) => return self.is_there(blob, answer).await,
                Err(error) => error,
            };
            let Some(pause) = attempts.next() else {
                return Err(error);
            };
            wait(pause).await;
        }
    }

    /// An answer to the end of an upload that was lost on its way is not given again:
    /// then the blob is there.
    async fn is_there(&self, blob: &ImageBlob, answer: Response) -> Result<(), PushError> {
        let scope = self.scope();
        let url = self.url(&format!("blobs/{}", blob.digest))?;
        let looked = self.send(&scope, || self.http().head(url.clone())).await?;
        if looked.status() == StatusCode::OK {
            return Ok(());
        }
        Err(self.refused("push to", answer, Some(scope)).await)
    }

    async fn push_manifest(&self, image: &OciImage, tag: Option<&str>) -> Result<(), PushError> {
        let scope = self.scope();
        let reference = tag.map_or_else(|| image.digest().to_string(), ToOwned::to_owned);
        let url = self.url(&format!("manifests/{reference}"))?;
        let manifest: Bytes = image.manifest.clone();
        let put = || {
            self.http()
                .put(url.clone())
                .header(header::CONTENT_TYPE, image.media_type.as_str())
                .body(manifest.clone())
        };
        let answer = self.send(&scope, put).await?;
        if answer.status() == StatusCode::CREATED {
            return Ok(());
        }
        Err(self.refused("push to", answer, Some(scope)).await)
    }
}
