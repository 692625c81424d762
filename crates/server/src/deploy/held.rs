//! Which blobs a Deployment holds, whatever else the store has.

use std::collections::HashSet;

use updraft_bundle::EMPTY_BLOB;
use updraft_model::{DeploymentId, Digest, Scope};
use updraft_store::Read;

use super::DeployError;
use crate::app::App;
use crate::auth::Caller;

/// The blobs that somebody still has to send for a Deployment.
///
/// A digest is no secret, so knowing one proves nothing: a blob counts as there
/// when it was sent for this Deployment, when one of its Releases names it, or
/// when the caller could read it from another Deployment. Otherwise it would
/// become readable here by being named, and the answer would tell what others have.
pub(super) async fn to_send(
    app: &App,
    caller: &Caller,
    read: &mut Read,
    deployment: DeploymentId,
    blobs: Vec<(Digest, u64)>,
) -> Result<Vec<Digest>, DeployError> {
    let all: Vec<Digest> = blobs.iter().map(|(digest, _)| *digest).collect();
    let absent: HashSet<Digest> = app.blobs.missing(blobs).await?.into_iter().collect();
    let mut unheld: Vec<Digest> = all
        .iter()
        .filter(|digest| !absent.contains(*digest) && **digest != Digest::of(EMPTY_BLOB))
        .copied()
        .collect();
    let own = Scope::Deployment { deployment };
    for scope in [&own, &caller.token.scope] {
        if !unheld.is_empty() {
            let held = read.blobs_within(scope, &unheld).await?;
            let held: HashSet<Digest> = held.into_iter().collect();
            unheld.retain(|digest| !held.contains(digest));
        }
    }
    let unheld: HashSet<Digest> = unheld.into_iter().collect();
    Ok(all
        .into_iter()
        .filter(|digest| absent.contains(digest) || unheld.contains(digest))
        .collect())
}
