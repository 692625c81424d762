//! Manifests: taken when all that they name is there, told as they were pushed.

use std::collections::BTreeMap;

use bytes::Bytes;
use serde::Deserialize;
use updraft_blob::BlobError;
use updraft_bundle::failpoint;
use updraft_model::{Digest, OciDigest, RepositoryName, Tag};
use updraft_store::{PushedManifest, Read, RegistryManifest, RegistryTag};

use super::asked::Reference;
use super::quota::check_added;
use super::{Action, RegistryError, Visitor};
use crate::app::App;

const IMAGE: &str = "application/vnd.oci.image.manifest.v1+json";
pub(super) const INDEX: &str = "application/vnd.oci.image.index.v1+json";
const DOCKER_IMAGE: &str = "application/vnd.docker.distribution.manifest.v2+json";
const DOCKER_LIST: &str = "application/vnd.docker.distribution.manifest.list.v2+json";

/// What is read of a manifest; everything else is kept as it is.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Document {
    schema_version: u32,
    media_type: Option<String>,
    artifact_type: Option<String>,
    config: Option<Descriptor>,
    layers: Option<Vec<Descriptor>>,
    manifests: Option<Vec<Descriptor>>,
    subject: Option<Descriptor>,
    annotations: Option<BTreeMap<String, String>>,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Descriptor {
    media_type: String,
    digest: String,
    size: u64,
    #[serde(default)]
    urls: Option<Vec<String>>,
}

/// What has to be in the repository with a manifest.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Named {
    digest: OciDigest,
    size: u64,
    /// Some layers may not be given to others, and lie elsewhere.
    may_be_elsewhere: bool,
}

#[derive(Debug)]
struct Parsed {
    artifact_type: Option<String>,
    subject: Option<OciDigest>,
    annotations: BTreeMap<String, String>,
    named: Vec<Named>,
}

/// A manifest that was taken.
#[derive(Debug)]
pub(super) struct Taken {
    pub(super) digest: OciDigest,
    pub(super) subject: Option<OciDigest>,
}

/// A manifest as somebody pushes it.
#[derive(Debug)]
pub(super) struct Push {
    pub(super) reference: Reference,
    /// Tags besides the reference.
    pub(super) tags: Vec<Tag>,
    pub(super) media_type: Option<String>,
    pub(super) bytes: Bytes,
}

/// Takes a manifest whose parts are all there, and has tags name it.
pub(super) async fn push(
    app: &App,
    visitor: &Visitor,
    repository: &RepositoryName,
    push: Push,
) -> Result<Taken, RegistryError> {
    let mut read = app.store.read().await?;
    let deployment = visitor
        .deployment(&mut read, repository, Action::Push)
        .await?;
    let media_type = push.media_type.as_deref().unwrap_or_default();
    let parsed = parse(media_type, &push.bytes)?;
    let stored = Digest::of(&push.bytes);
    let digest = match &push.reference {
        Reference::Digest(digest) => {
            check_digest(digest, &push.bytes)?;
            digest.clone()
        }
        // As it is named already, if it is.
        Reference::Tag(_) => read
            .registry_manifest_of_bytes(repository, stored)
            .await?
            .unwrap_or_else(|| stored.into()),
    };
    present(app, &mut read, repository, &parsed.named).await?;
    drop(read);

    // What is there stays until the row that needs it is.
    let _gate = app.blob_gate.read().await;
    let size = push.bytes.len() as u64;
    app.blobs.put(stored, push.bytes).await?;
    failpoint("server.registry.after_manifest");
    let now = app.now();
    let mut tx = app.store.begin().await?;
    tx.lock_deployment(deployment.id)
        .await?
        .ok_or_else(|| RegistryError::NameUnknown(repository.clone()))?;
    let named = present(app, &mut tx, repository, &parsed.named).await?;
    let pushed = PushedManifest {
        deployment: deployment.id,
        repository: repository.clone(),
        manifest: RegistryManifest {
            digest: digest.clone(),
            stored,
            size,
            media_type: media_type.to_owned(),
            artifact_type: parsed.artifact_type,
            subject: parsed.subject.clone(),
            annotations: parsed.annotations,
            named,
        },
        pushed_at: now,
    };
    tx.insert_registry_manifest(&pushed).await?;
    check_added(app, &mut tx, &deployment, size).await?;
    let tags = match push.reference {
        Reference::Tag(tag) => vec![tag],
        Reference::Digest(_) => push.tags,
    };
    for tag in tags {
        let tag = RegistryTag {
            repository: repository.clone(),
            tag,
            digest: digest.clone(),
        };
        tx.set_registry_tag(deployment.id, &tag, now).await?;
    }
    tx.commit().await?;
    failpoint("server.registry.after_manifest_row");
    Ok(Taken {
        digest,
        subject: parsed.subject,
    })
}

fn check_digest(expected: &OciDigest, bytes: &[u8]) -> Result<(), RegistryError> {
    use sha2::{Digest as _, Sha512};
    let actual = match expected {
        OciDigest::Sha256(_) => Digest::of(bytes).into(),
        OciDigest::Sha512(_) => OciDigest::Sha512(Box::new(Sha512::digest(bytes).into())),
    };
    if actual == *expected {
        return Ok(());
    }
    Err(RegistryError::WrongDigest {
        expected: expected.clone(),
        actual,
    })
}

/// What of the named is in the repository; an error when something lacks that has
/// to be, or is of another size than the manifest says.
async fn present(
    app: &App,
    read: &mut Read,
    repository: &RepositoryName,
    all: &[Named],
) -> Result<Vec<OciDigest>, RegistryError> {
    let mut present = Vec::new();
    for named in all {
        let found = match read.registry_blob(repository, &named.digest).await? {
            Some(blob) => Some((blob.stored, blob.size)),
            None => read
                .registry_manifest(repository, &named.digest)
                .await?
                .map(|pushed| (pushed.manifest.stored, pushed.manifest.size)),
        };
        let found = match found {
            // What the disk lost has to come again.
            Some(blob) if app.blobs.missing(vec![blob]).await?.is_empty() => Some(blob),
            Some(_) | None => None,
        };
        match found {
            Some((_, size)) if size != named.size => {
                return Err(RegistryError::ManifestInvalid(format!(
                    "the manifest says that {} has {} bytes, and it has {size}",
                    named.digest, named.size
                )));
            }
            Some(_) => present.push(named.digest.clone()),
            None if named.may_be_elsewhere => {}
            None => {
                return Err(RegistryError::ManifestBlobUnknown {
                    repository: repository.clone(),
                    digest: named.digest.clone(),
                });
            }
        }
    }
    Ok(present)
}

fn parse(media_type: &str, bytes: &[u8]) -> Result<Parsed, RegistryError> {
    let invalid = |why: String| Err(RegistryError::ManifestInvalid(why));
    let is_list = match media_type {
        IMAGE | DOCKER_IMAGE => false,
        INDEX | DOCKER_LIST => true,
        "" => {
            return invalid(format!(
                "the request has no Content-Type, so it is not known what kind of manifest this is: use {IMAGE} or {INDEX}"
            ));
        }
        other => {
            let other: String = other.chars().take(100).collect();
            return invalid(format!(
                "`{other}` is no kind of manifest that is taken here: use {IMAGE}, {INDEX} or Docker's version 2 of them"
            ));
        }
    };
    let document: Document = match serde_json::from_slice(bytes) {
        Ok(document) => document,
        Err(error) => return invalid(format!("the manifest cannot be read: {error}")),
    };
    if document.schema_version != 2 {
        return invalid(format!(
            "the manifest has the schema version {}, and has to have 2",
            document.schema_version
        ));
    }
    if let Some(own) = &document.media_type
        && own != media_type
    {
        return invalid(format!(
            "the manifest says that it is `{own}`, and the request that it is `{media_type}`"
        ));
    }
    let config_type = document
        .config
        .as_ref()
        .map(|config| config.media_type.clone());
    let named: Vec<Descriptor> = match (
        is_list,
        document.config,
        document.layers,
        document.manifests,
    ) {
        (false, Some(config), Some(layers), None) => [config].into_iter().chain(layers).collect(),
        (true, None, None, Some(manifests)) => manifests,
        (false, ..) => return invalid("an image's manifest has `config` and `layers`".into()),
        (true, ..) => {
            return invalid("an index has `manifests`, and no `config` or `layers`".into());
        }
    };
    let subject = match document.subject {
        Some(subject) => Some(digest_of(&subject)?),
        None => None,
    };
    Ok(Parsed {
        artifact_type: document.artifact_type.or(config_type),
        subject,
        annotations: document.annotations.unwrap_or_default(),
        named: named
            .iter()
            .map(|descriptor| {
                Ok(Named {
                    digest: digest_of(descriptor)?,
                    size: descriptor.size,
                    may_be_elsewhere: descriptor.may_be_elsewhere(),
                })
            })
            .collect::<Result<_, RegistryError>>()?,
    })
}

impl Descriptor {
    fn may_be_elsewhere(&self) -> bool {
        self.urls.as_ref().is_some_and(|urls| !urls.is_empty())
            || self.media_type.contains(".nondistributable.")
            || self.media_type.contains(".foreign.")
    }
}

fn digest_of(descriptor: &Descriptor) -> Result<OciDigest, RegistryError> {
    let digest = descriptor.digest.parse();
    digest.map_err(|error: updraft_model::InvalidDigest| {
        RegistryError::ManifestInvalid(format!("the manifest names something wrongly: {error}"))
    })
}

/// A manifest with its bytes.
pub(super) async fn fetch(
    app: &App,
    visitor: &Visitor,
    repository: &RepositoryName,
    reference: &Reference,
) -> Result<(RegistryManifest, Bytes), RegistryError> {
    let unknown = || RegistryError::ManifestUnknown {
        repository: repository.clone(),
        reference: reference.to_string(),
    };
    let mut read = app.store.read().await?;
    let found = match reference {
        Reference::Tag(tag) => {
            visitor
                .deployment(&mut read, repository, Action::Pull)
                .await?;
            read.registry_tagged(repository, tag).await?
        }
        Reference::Digest(digest) => {
            let source = visitor.source(&mut read, repository).await?;
            read.registry_manifest(&source, digest).await?
        }
    };
    drop(read);
    let manifest = found.ok_or_else(unknown)?.manifest;
    match app.blobs.get(&manifest.stored).await {
        Ok(Some(bytes)) => Ok((manifest, bytes)),
        Ok(None) | Err(BlobError::Corrupt(_)) => Err(unknown()),
        Err(error) => Err(error.into()),
    }
}

/// Removes a tag, or a manifest with its tags unless somebody needs it.
pub(super) async fn delete(
    app: &App,
    visitor: &Visitor,
    repository: &RepositoryName,
    reference: &Reference,
) -> Result<(), RegistryError> {
    let mut tx = app.store.begin().await?;
    let deployment = visitor
        .deployment(&mut tx, repository, Action::Delete)
        .await?;
    tx.lock_deployment(deployment.id).await?;
    let is_there = match reference {
        Reference::Tag(tag) => tx.delete_registry_tag(repository, tag).await?,
        Reference::Digest(digest) => {
            refuse_if_needed(app, &mut tx, repository, &deployment, digest).await?;
            tx.delete_registry_manifest(repository, digest).await?
        }
    };
    if !is_there {
        return Err(RegistryError::ManifestUnknown {
            repository: repository.clone(),
            reference: reference.to_string(),
        });
    }
    tx.commit().await?;
    tracing::info!(repository = %repository, %reference, by = visitor.caller.name(), "manifest deleted");
    Ok(())
}

async fn refuse_if_needed(
    app: &App,
    read: &mut Read,
    repository: &RepositoryName,
    deployment: &updraft_store::Deployment,
    digest: &OciDigest,
) -> Result<(), RegistryError> {
    let needed = |by: String| {
        Err(RegistryError::StillNeeded {
            what: format!("the manifest {digest}"),
            by,
        })
    };
    let all = read.registry_manifests_of(deployment.id).await?;
    let mut own = all.iter().filter(|pushed| pushed.repository == *repository);
    if let Some(index) = own.find(|pushed| pushed.manifest.named.contains(digest)) {
        return needed(format!("the index {}", index.manifest.digest));
    }
    let since = app.now() - chrono::Duration::days(i64::from(app.config.retention_days));
    let kept = read.manifests_to_keep(since).await?;
    if kept
        .images
        .iter()
        .any(|kept| OciDigest::from(*kept) == *digest)
    {
        return needed(format!("a Release of the Deployment `{}`", deployment.name));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn descriptor(content: &str) -> Value {
        json!({
            "mediaType": "application/octet-stream",
            "digest": Digest::of(content.as_bytes()).to_string(),
            "size": content.len(),
        })
    }

    fn refused(media_type: &str, document: &Value) -> String {
        parse(media_type, document.to_string().as_bytes())
            .unwrap_err()
            .to_string()
    }

    #[test]
    fn reads_what_others_ask_for() {
        let mut image = json!({
            "schemaVersion": 2, "mediaType": IMAGE, "config": descriptor("c"),
            "layers": [descriptor("l")], "subject": descriptor("s"), "annotations": {"a": "b"},
            "something": {"else": 1},
        });
        let parsed = parse(IMAGE, image.to_string().as_bytes()).unwrap();
        assert_eq!(
            parsed.artifact_type.as_deref(),
            Some("application/octet-stream")
        );
        assert_eq!(parsed.subject, Some(Digest::of(b"s").into()));
        assert_eq!(parsed.annotations["a"], "b");
        let digests: Vec<_> = parsed
            .named
            .iter()
            .map(|named| named.digest.clone())
            .collect();
        assert_eq!(digests, [Digest::of(b"c").into(), Digest::of(b"l").into()]);

        image["artifactType"] = "application/x".into();
        image["layers"][0]["mediaType"] =
            "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip".into();
        let parsed = parse(IMAGE, image.to_string().as_bytes()).unwrap();
        assert_eq!(parsed.artifact_type.as_deref(), Some("application/x"));
        assert!(parsed.named[1].may_be_elsewhere && !parsed.named[0].may_be_elsewhere);
    }

    #[test]
    fn says_what_is_wrong_with_a_manifest() {
        let index = json!({"schemaVersion": 2, "manifests": [descriptor("m")]});
        assert!(parse(INDEX, index.to_string().as_bytes()).is_ok());
        assert!(refused(IMAGE, &index).contains("`config` and `layers`"));
        assert!(refused("text/html", &index).contains("text/html"));
        assert!(refused("", &index).contains("Content-Type"));
        assert!(
            refused(INDEX, &json!({"schemaVersion": 1, "manifests": []})).contains("version 1")
        );
        assert!(refused(INDEX, &json!({"schemaVersion": 2})).contains("`manifests`"));
        assert!(refused(INDEX, &json!([1])).contains("cannot be read"));
        let other = json!({"schemaVersion": 2, "mediaType": IMAGE, "manifests": []});
        assert!(refused(INDEX, &other).contains(IMAGE));
        let wrong = json!({"schemaVersion": 2, "manifests": [{"mediaType": "x", "digest": "../x", "size": 1}]});
        assert!(refused(INDEX, &wrong).contains("../x"));
        let negative = json!({"schemaVersion": 2, "manifests": [{"mediaType": "x", "digest": "x", "size": -1}]});
        assert!(refused(INDEX, &negative).contains("cannot be read"));
    }
}
