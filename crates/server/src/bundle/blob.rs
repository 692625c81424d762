use bytes::Bytes;
use updraft_blob::BlobError;
use updraft_model::{DeploymentName, Digest};

use crate::app::App;
use crate::auth::Caller;
use crate::deploy::DeployError;

/// Reads one blob, if a Release of the Deployment names it.
pub(crate) async fn blob(
    app: &App,
    caller: &Caller,
    name: &DeploymentName,
    digest: Digest,
) -> Result<Bytes, DeployError> {
    let mut read = app.store.read().await?;
    let deployment = caller.deployment(&mut read, name).await?;
    let named = read.named_blobs(deployment.id, &[digest]).await?;
    drop(read);
    let deployment = || name.to_string();
    if named.is_empty() {
        return Err(DeployError::BlobUnknown {
            digest,
            deployment: deployment(),
        });
    }
    match app.blobs.get(&digest).await {
        Ok(Some(bytes)) => Ok(bytes),
        Ok(None) | Err(BlobError::Corrupt(_)) => Err(DeployError::BlobGone {
            digest,
            deployment: deployment(),
        }),
        Err(error) => Err(error.into()),
    }
}
