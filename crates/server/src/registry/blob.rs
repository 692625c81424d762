//! Blobs on their way out.

use std::ops::Range;

use updraft_blob::Download;
use updraft_model::{OciDigest, RepositoryName};

use super::{Action, RegistryError, Visitor};
use crate::app::App;

/// A pusher that looks for a blob counts on it from then on; how old that may get
/// before it is written down again.
const COUNTED_ON: chrono::Duration = chrono::Duration::hours(1);

/// Opens a blob of a repository.
pub(super) async fn open(
    app: &App,
    visitor: &Visitor,
    repository: &RepositoryName,
    digest: &OciDigest,
) -> Result<Download, RegistryError> {
    let unknown = || RegistryError::BlobUnknown {
        repository: repository.clone(),
        digest: digest.clone(),
    };
    let mut read = app.store.read().await?;
    let source = visitor.source(&mut read, repository).await?;
    let link = read.registry_blob(&source, digest).await?;
    let mut link = link.ok_or_else(unknown)?;
    let now = app.now();
    let is_pusher = visitor.may(&mut read, repository, Action::Push).await?;
    drop(read);
    let download = app.blobs.open(&link.stored).await?.ok_or_else(unknown)?;
    if download.size() != link.size {
        return Err(unknown());
    }
    if is_pusher && now - link.linked_at > COUNTED_ON {
        link.linked_at = now;
        let mut tx = app.store.begin().await?;
        // Gone meanwhile: then it is not there, and comes again.
        if tx.registry_blob(repository, digest).await?.is_none() {
            return Err(unknown());
        }
        tx.link_registry_blob(&link).await?;
        tx.commit().await?;
    }
    Ok(download)
}

/// Takes a blob from a repository, unless a manifest there names it.
pub(super) async fn delete(
    app: &App,
    visitor: &Visitor,
    repository: &RepositoryName,
    digest: &OciDigest,
) -> Result<(), RegistryError> {
    let mut tx = app.store.begin().await?;
    let deployment = visitor
        .deployment(&mut tx, repository, Action::Delete)
        .await?;
    tx.lock_deployment(deployment.id).await?;
    for pushed in tx.registry_manifests_of(deployment.id).await? {
        if pushed.repository == *repository && pushed.manifest.named.contains(digest) {
            return Err(RegistryError::StillNeeded {
                what: format!("the blob {digest}"),
                by: format!("the manifest {}", pushed.manifest.digest),
            });
        }
    }
    if !tx.unlink_registry_blob(repository, digest).await? {
        return Err(RegistryError::BlobUnknown {
            repository: repository.clone(),
            digest: digest.clone(),
        });
    }
    tx.commit().await?;
    tracing::info!(repository = %repository, %digest, by = visitor.caller.name(), "blob deleted");
    Ok(())
}

/// What of a blob a request is for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Wanted {
    Whole,
    Part(Range<u64>),
}

/// Reads a `Range` header. Several ranges, and what is not understood, are
/// answered with the whole blob, as HTTP allows.
pub(super) fn wanted(header: Option<&str>, size: u64) -> Result<Wanted, RegistryError> {
    let Some(ranges) = header.and_then(|header| header.trim().strip_prefix("bytes=")) else {
        return Ok(Wanted::Whole);
    };
    let Some((first, last)) = ranges.split_once('-').filter(|_| !ranges.contains(',')) else {
        return Ok(Wanted::Whole);
    };
    let number = |text: &str| text.trim().parse::<u64>().ok();
    let range = match (number(first), number(last)) {
        (Some(first), Some(last)) => first..last.saturating_add(1).min(size),
        (Some(first), None) if last.trim().is_empty() => first..size,
        (None, Some(length)) if first.trim().is_empty() => size.saturating_sub(length)..size,
        _ => return Ok(Wanted::Whole),
    };
    if range.start >= range.end {
        return Err(RegistryError::RangeNotSatisfiable { size });
    }
    Ok(Wanted::Part(range))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_ranges() {
        let part = |header| match wanted(Some(header), 100) {
            Ok(Wanted::Part(range)) => Some(range),
            Ok(Wanted::Whole) => None,
            Err(_) => Some(0..0),
        };
        assert_eq!(part("bytes=0-0"), Some(0..1));
        assert_eq!(part("bytes=10-19"), Some(10..20));
        assert_eq!(part("bytes=10-"), Some(10..100));
        assert_eq!(part("bytes=-10"), Some(90..100));
        assert_eq!(part("bytes=-1000"), Some(0..100));
        assert_eq!(part("bytes=90-18446744073709551615"), Some(90..100));
        for outside in ["bytes=100-", "bytes=50-40", "bytes=-0", "bytes=200-300"] {
            assert_eq!(part(outside), Some(0..0), "{outside}");
        }
        for whole in [
            "bytes=0-1,3-4",
            "bytes=x-",
            "items=0-1",
            "bytes=-",
            "bytes=1",
            "",
        ] {
            assert_eq!(part(whole), None, "{whole}");
        }
        assert_eq!(wanted(None, 5).unwrap(), Wanted::Whole);
    }
}
