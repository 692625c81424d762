//! Images that move from one Deployment to another without being pushed again.

use std::collections::BTreeSet;

use updraft_model::{ContainerImage, OciDigest, RepositoryName, Timestamp};
use updraft_store::{Deployment, PushedManifest, RegistryLink, StoreError, Write};

/// Gives a Deployment's own repository the image of another one, within the
/// transaction that has it run there: from then on nothing that happens to the first
/// one's repositories takes it away. Whoever is for this Deployment alone still asks for
/// the image by its first name, and is answered from here (`Visitor::source`).
///
/// Only the other Deployment's own repositories count, whatever its Release names.
pub(crate) async fn lend(
    tx: &mut Write,
    image: &ContainerImage,
    from: &Deployment,
    to: &Deployment,
    now: Timestamp,
) -> Result<(), StoreError> {
    let Ok(named) = image.name().parse::<RepositoryName>() else {
        return Ok(());
    };
    let (Some(source), Some(target)) = (named.within(&from.name), named.within(&to.name)) else {
        return Ok(());
    };
    let mut next = vec![OciDigest::from(image.digest)];
    let mut seen = BTreeSet::new();
    while let Some(digest) = next.pop() {
        if !seen.insert(digest.clone()) {
            continue;
        }
        if let Some(pushed) = tx.registry_manifest(&source, &digest).await? {
            next.extend(pushed.manifest.named.iter().cloned());
            let pushed = PushedManifest {
                deployment: to.id,
                repository: target.clone(),
                pushed_at: now,
                ..pushed
            };
            tx.insert_registry_manifest(&pushed).await?;
        } else if let Some(link) = tx.registry_blob(&source, &digest).await? {
            let link = RegistryLink {
                deployment: to.id,
                repository: target.clone(),
                linked_at: now,
                ..link
            };
            tx.link_registry_blob(&link).await?;
        }
    }
    Ok(())
}
