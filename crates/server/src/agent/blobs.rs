//! Blobs on their way out to an agent.

use std::collections::BTreeSet;
use std::io;

use axum::body::Body;
use bytes::Bytes;
use futures_util::{Stream, StreamExt as _, stream};
use updraft_api::agent::FetchBlobs;
use updraft_api::frames;
use updraft_model::Digest;

use crate::app::App;
use crate::auth::Caller;
use crate::deploy::DeployError;

/// Blobs that are read ahead of the connection.
const AHEAD: usize = 3;
const MOST: usize = 10_000;

/// Streams blobs that Releases of the agent's Deployment name. One that is
/// damaged ends the stream; asked for again, it is named in the error.
pub(crate) async fn fetch(
    app: &App,
    caller: &Caller,
    ask: FetchBlobs,
) -> Result<Body, DeployError> {
    let id = caller.agent_deployment()?;
    if ask.digests.len() > MOST {
        return Err(DeployError::Invalid(format!(
            "one request asks for at most {MOST} blobs"
        )));
    }
    let mut read = app.store.read().await?;
    let named: BTreeSet<Digest> = read
        .named_blobs(id, &ask.digests)
        .await?
        .into_iter()
        .collect();
    drop(read);
    if let Some(digest) = ask.digests.iter().find(|digest| !named.contains(*digest)) {
        return Err(DeployError::BlobUnknown {
            digest: *digest,
            deployment: id.to_string(),
        });
    }
    if let Some(digest) = app.blobs.absent(ask.digests.clone()).await?.first() {
        return Err(DeployError::BlobGone {
            digest: *digest,
            deployment: id.to_string(),
        });
    }
    Ok(Body::from_stream(frames_of(app.clone(), ask.digests)))
}

fn frames_of(app: App, digests: Vec<Digest>) -> impl Stream<Item = io::Result<Bytes>> {
    stream::iter(digests)
        .map(move |digest| {
            let app = app.clone();
            async move {
                match app.blobs.get(&digest).await {
                    Ok(Some(bytes)) => Ok((digest, bytes)),
                    Ok(None) => Err(io::Error::other(format!("blob {digest} is gone"))),
                    Err(error) => {
                        tracing::error!(%digest, error = %crate::error::chain(&error), "could not send a blob");
                        Err(io::Error::other(error))
                    }
                }
            }
        })
        .buffered(AHEAD)
        .flat_map(|blob| {
            stream::iter(match blob {
                Ok((digest, bytes)) => {
                    vec![Ok(frames::head(digest, bytes.len() as u64)), Ok(bytes)]
                }
                Err(error) => vec![Err(error)],
            })
        })
}
