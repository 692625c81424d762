//! Repositories of the registry: their blobs, manifests, tags and uploads.

use std::collections::{BTreeMap, HashSet};

use updraft_model::{DeploymentId, Digest, OciDigest, RepositoryName, Tag, Timestamp, UploadId};

use crate::sql::{Row, sql};
use crate::{Read, StoreError, Write};

/// A blob in a repository.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RegistryLink {
    pub deployment: DeploymentId,
    pub repository: RepositoryName,
    pub digest: OciDigest,
    /// The same bytes in the blob store.
    pub stored: Digest,
    pub size: u64,
    pub linked_at: Timestamp,
}

/// What a manifest says, as far as others ask for it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RegistryManifest {
    pub digest: OciDigest,
    pub stored: Digest,
    pub size: u64,
    pub media_type: String,
    pub artifact_type: Option<String>,
    pub subject: Option<OciDigest>,
    pub annotations: BTreeMap<String, String>,
    /// What has to be in the repository with it.
    pub named: Vec<OciDigest>,
}

/// A manifest in a repository.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PushedManifest {
    pub deployment: DeploymentId,
    pub repository: RepositoryName,
    pub manifest: RegistryManifest,
    pub pushed_at: Timestamp,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RegistryTag {
    pub repository: RepositoryName,
    pub tag: Tag,
    pub digest: OciDigest,
}

/// A blob on its way in; its bytes lie beside the blobs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RegistryUpload {
    pub id: UploadId,
    pub deployment: DeploymentId,
    pub repository: RepositoryName,
    pub begun_at: Timestamp,
    pub touched_at: Timestamp,
}

/// Some of a repository's tags, in the order of their bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TagPage {
    pub tags: Vec<Tag>,
    pub has_more: bool,
}

impl RegistryLink {
    fn from_row(row: &Row) -> Result<Self, StoreError> {
        Ok(Self {
            deployment: row.get("deployment_id")?,
            repository: row.get("repository")?,
            digest: row.get("digest")?,
            stored: row.get("stored")?,
            size: row.get("size")?,
            linked_at: row.get("linked_at")?,
        })
    }
}

impl PushedManifest {
    fn from_row(row: &Row) -> Result<Self, StoreError> {
        let named: Vec<String> = row.json("named")?;
        let named = named.iter().map(|digest| {
            digest.parse().map_err(|_| StoreError::Unreadable {
                column: "named",
                why: format!("`{digest}` is no digest"),
            })
        });
        Ok(Self {
            deployment: row.get("deployment_id")?,
            repository: row.get("repository")?,
            manifest: RegistryManifest {
                digest: row.get("digest")?,
                stored: row.get("stored")?,
                size: row.get("size")?,
                media_type: row.get("media_type")?,
                artifact_type: row.optional("artifact_type")?,
                subject: row.optional("subject")?,
                annotations: row.json("annotations")?,
                named: named.collect::<Result<_, _>>()?,
            },
            pushed_at: row.get("pushed_at")?,
        })
    }
}

impl RegistryUpload {
    fn from_row(row: &Row) -> Result<Self, StoreError> {
        Ok(Self {
            id: row.get("id")?,
            deployment: row.get("deployment_id")?,
            repository: row.get("repository")?,
            begun_at: row.get("begun_at")?,
            touched_at: row.get("touched_at")?,
        })
    }
}

/// Sizes on their way into a statement.
fn int(size: u64) -> i64 {
    i64::try_from(size).unwrap_or(i64::MAX)
}

impl Read {
    /// A blob of a repository.
    pub async fn registry_blob(
        &mut self,
        repository: &RepositoryName,
        digest: &OciDigest,
    ) -> Result<Option<RegistryLink>, StoreError> {
        sql("SELECT * FROM registry_blob WHERE repository = $1 AND digest = $2")
            .bind(repository)
            .bind(digest)
            .one(&mut self.on)
            .await?
            .map(|row| RegistryLink::from_row(&row))
            .transpose()
    }

    /// A blob in whatever repository of a Deployment has it.
    pub async fn registry_blob_within(
        &mut self,
        deployment: DeploymentId,
        digest: &OciDigest,
    ) -> Result<Option<RegistryLink>, StoreError> {
        sql("SELECT * FROM registry_blob WHERE digest = $1 AND deployment_id = $2 LIMIT 1")
            .bind(digest)
            .bind(deployment)
            .one(&mut self.on)
            .await?
            .map(|row| RegistryLink::from_row(&row))
            .transpose()
    }

    pub async fn registry_manifest(
        &mut self,
        repository: &RepositoryName,
        digest: &OciDigest,
    ) -> Result<Option<PushedManifest>, StoreError> {
        sql("SELECT * FROM registry_manifest WHERE repository = $1 AND digest = $2")
            .bind(repository)
            .bind(digest)
            .one(&mut self.on)
            .await?
            .map(|row| PushedManifest::from_row(&row))
            .transpose()
    }

    /// The name that a repository has for the manifest of these bytes.
    pub async fn registry_manifest_of_bytes(
        &mut self,
        repository: &RepositoryName,
        stored: Digest,
    ) -> Result<Option<OciDigest>, StoreError> {
        sql(
            "SELECT digest FROM registry_manifest WHERE repository = $1 AND stored = $2
             ORDER BY pushed_at DESC LIMIT 1",
        )
        .bind(repository)
        .bind(stored)
        .one(&mut self.on)
        .await?
        .map(|row| row.get("digest"))
        .transpose()
    }

    /// The manifest that a tag names.
    pub async fn registry_tagged(
        &mut self,
        repository: &RepositoryName,
        tag: &Tag,
    ) -> Result<Option<PushedManifest>, StoreError> {
        sql(
            "SELECT manifest.* FROM registry_tag tag JOIN registry_manifest manifest
                ON manifest.repository = tag.repository AND manifest.digest = tag.digest
             WHERE tag.repository = $1 AND tag.tag = $2",
        )
        .bind(repository)
        .bind(tag)
        .one(&mut self.on)
        .await?
        .map(|row| PushedManifest::from_row(&row))
        .transpose()
    }

    /// The manifests that refer to a subject, oldest first.
    pub async fn registry_referrers(
        &mut self,
        repository: &RepositoryName,
        subject: &OciDigest,
    ) -> Result<Vec<PushedManifest>, StoreError> {
        let rows = sql(
            "SELECT * FROM registry_manifest WHERE repository = $1 AND subject = $2
             ORDER BY pushed_at, digest",
        )
        .bind(repository)
        .bind(subject)
        .all(&mut self.on)
        .await?;
        rows.iter().map(PushedManifest::from_row).collect()
    }

    /// The tags after one of them, in the order of their bytes, whatever order
    /// the database has for text.
    pub async fn registry_tags(
        &mut self,
        repository: &RepositoryName,
        after: Option<&str>,
        most: usize,
    ) -> Result<TagPage, StoreError> {
        let rows = sql("SELECT tag FROM registry_tag WHERE repository = $1")
            .bind(repository)
            .all(&mut self.on)
            .await?;
        let mut tags: Vec<Tag> = rows
            .iter()
            .map(|row| row.get("tag"))
            .collect::<Result<_, _>>()?;
        tags.retain(|tag| after.is_none_or(|after| tag.as_str() > after));
        tags.sort_unstable();
        let has_more = tags.len() > most;
        tags.truncate(most);
        Ok(TagPage { tags, has_more })
    }

    /// Whether a repository has anything.
    pub async fn has_repository(
        &mut self,
        repository: &RepositoryName,
    ) -> Result<bool, StoreError> {
        let found = sql("SELECT digest FROM registry_blob WHERE repository = $1
             UNION ALL SELECT digest FROM registry_manifest WHERE repository = $1
             UNION ALL SELECT id FROM registry_upload WHERE repository = $1 LIMIT 1")
        .bind(repository)
        .one(&mut self.on)
        .await?;
        Ok(found.is_some())
    }

    /// The bytes that a Deployment's repositories take up: each once, however
    /// many of them have it.
    pub async fn registry_usage(&mut self, deployment: DeploymentId) -> Result<u64, StoreError> {
        let row = sql(
            "SELECT CAST(COALESCE(SUM(size), 0) AS BIGINT) AS used FROM (
                SELECT stored, size FROM registry_blob WHERE deployment_id = $1
                UNION SELECT stored, size FROM registry_manifest WHERE deployment_id = $1
             ) AS kept",
        )
        .bind(deployment)
        .one(&mut self.on)
        .await?;
        row.map_or(Ok(0), |row| row.get("used"))
    }

    pub async fn registry_upload(
        &mut self,
        id: UploadId,
    ) -> Result<Option<RegistryUpload>, StoreError> {
        sql("SELECT * FROM registry_upload WHERE id = $1")
            .bind(id)
            .one(&mut self.on)
            .await?
            .map(|row| RegistryUpload::from_row(&row))
            .transpose()
    }

    /// The uploads to a Deployment's repositories, oldest first.
    pub async fn registry_uploads_of(
        &mut self,
        deployment: DeploymentId,
    ) -> Result<Vec<RegistryUpload>, StoreError> {
        let rows = sql("SELECT * FROM registry_upload WHERE deployment_id = $1 ORDER BY id")
            .bind(deployment)
            .all(&mut self.on)
            .await?;
        rows.iter().map(RegistryUpload::from_row).collect()
    }

    pub async fn registry_blobs_of(
        &mut self,
        deployment: DeploymentId,
    ) -> Result<Vec<RegistryLink>, StoreError> {
        let rows = sql("SELECT * FROM registry_blob WHERE deployment_id = $1")
            .bind(deployment)
            .all(&mut self.on)
            .await?;
        rows.iter().map(RegistryLink::from_row).collect()
    }

    pub async fn registry_manifests_of(
        &mut self,
        deployment: DeploymentId,
    ) -> Result<Vec<PushedManifest>, StoreError> {
        let rows = sql("SELECT * FROM registry_manifest WHERE deployment_id = $1")
            .bind(deployment)
            .all(&mut self.on)
            .await?;
        rows.iter().map(PushedManifest::from_row).collect()
    }

    pub async fn registry_tags_of(
        &mut self,
        deployment: DeploymentId,
    ) -> Result<Vec<RegistryTag>, StoreError> {
        let rows = sql("SELECT * FROM registry_tag WHERE deployment_id = $1")
            .bind(deployment)
            .all(&mut self.on)
            .await?;
        let tag = |row: &Row| {
            Ok(RegistryTag {
                repository: row.get("repository")?,
                tag: row.get("tag")?,
                digest: row.get("digest")?,
            })
        };
        rows.iter().map(tag).collect()
    }

    /// What of the blob store the registry needs.
    pub async fn registry_stored(&mut self) -> Result<HashSet<Digest>, StoreError> {
        let rows =
            sql("SELECT stored FROM registry_blob UNION SELECT stored FROM registry_manifest")
                .all(&mut self.on)
                .await?;
        rows.iter().map(|row| row.get("stored")).collect()
    }
}

impl Write {
    /// Gives a repository a blob; one that it has is counted on anew.
    pub async fn link_registry_blob(&mut self, link: &RegistryLink) -> Result<(), StoreError> {
        sql(
            "INSERT INTO registry_blob (deployment_id, repository, digest, stored, size, linked_at)
             VALUES ($1, $2, $3, $4, $5, $6)
             ON CONFLICT (repository, digest) DO UPDATE SET linked_at = excluded.linked_at",
        )
        .bind(link.deployment)
        .bind(&link.repository)
        .bind(&link.digest)
        .bind(link.stored)
        .bind(int(link.size))
        .bind(link.linked_at)
        .run(&mut self.on)
        .await?;
        Ok(())
    }

    /// Takes a blob from a repository; false when it has none of that name.
    pub async fn unlink_registry_blob(
        &mut self,
        repository: &RepositoryName,
        digest: &OciDigest,
    ) -> Result<bool, StoreError> {
        let rows = sql("DELETE FROM registry_blob WHERE repository = $1 AND digest = $2")
            .bind(repository)
            .bind(digest)
            .run(&mut self.on)
            .await?;
        Ok(rows > 0)
    }

    /// Gives a repository a manifest; one that it has is as good as pushed now.
    pub async fn insert_registry_manifest(
        &mut self,
        pushed: &PushedManifest,
    ) -> Result<(), StoreError> {
        let manifest = &pushed.manifest;
        let named: Vec<String> = manifest.named.iter().map(ToString::to_string).collect();
        sql("INSERT INTO registry_manifest
                (deployment_id, repository, digest, stored, size, media_type, artifact_type, subject, annotations, named, pushed_at)
             VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11)
             ON CONFLICT (repository, digest) DO UPDATE
                SET media_type = excluded.media_type, pushed_at = excluded.pushed_at")
        .bind(pushed.deployment)
        .bind(&pushed.repository)
        .bind(&manifest.digest)
        .bind(manifest.stored)
        .bind(int(manifest.size))
        .bind(manifest.media_type.as_str())
        .bind(manifest.artifact_type.as_deref())
        .bind(manifest.subject.as_ref())
        .bind_json(&manifest.annotations)
        .bind_json(&named)
        .bind(pushed.pushed_at)
        .run(&mut self.on)
        .await?;
        Ok(())
    }

    /// Removes a manifest and the tags that name it; false when there is none.
    pub async fn delete_registry_manifest(
        &mut self,
        repository: &RepositoryName,
        digest: &OciDigest,
    ) -> Result<bool, StoreError> {
        sql("DELETE FROM registry_tag WHERE repository = $1 AND digest = $2")
            .bind(repository)
            .bind(digest)
            .run(&mut self.on)
            .await?;
        let rows = sql("DELETE FROM registry_manifest WHERE repository = $1 AND digest = $2")
            .bind(repository)
            .bind(digest)
            .run(&mut self.on)
            .await?;
        Ok(rows > 0)
    }

    /// Has a tag name a manifest of its repository.
    pub async fn set_registry_tag(
        &mut self,
        deployment: DeploymentId,
        tag: &RegistryTag,
        at: Timestamp,
    ) -> Result<(), StoreError> {
        sql("INSERT INTO registry_tag (deployment_id, repository, tag, digest, tagged_at)
             VALUES ($1, $2, $3, $4, $5)
             ON CONFLICT (repository, tag) DO UPDATE SET digest = excluded.digest, tagged_at = excluded.tagged_at")
        .bind(deployment)
        .bind(&tag.repository)
        .bind(&tag.tag)
        .bind(&tag.digest)
        .bind(at)
        .run(&mut self.on)
        .await?;
        Ok(())
    }

    /// Removes a tag; false when there is none.
    pub async fn delete_registry_tag(
        &mut self,
        repository: &RepositoryName,
        tag: &Tag,
    ) -> Result<bool, StoreError> {
        let rows = sql("DELETE FROM registry_tag WHERE repository = $1 AND tag = $2")
            .bind(repository)
            .bind(tag)
            .run(&mut self.on)
            .await?;
        Ok(rows > 0)
    }

    pub async fn insert_registry_upload(
        &mut self,
        upload: &RegistryUpload,
    ) -> Result<(), StoreError> {
        sql(
            "INSERT INTO registry_upload (id, deployment_id, repository, begun_at, touched_at)
             VALUES ($1, $2, $3, $4, $5)",
        )
        .bind(upload.id)
        .bind(upload.deployment)
        .bind(&upload.repository)
        .bind(upload.begun_at)
        .bind(upload.touched_at)
        .run(&mut self.on)
        .await?;
        Ok(())
    }

    /// Says that an upload moves; false when it is gone.
    pub async fn touch_registry_upload(
        &mut self,
        id: UploadId,
        at: Timestamp,
    ) -> Result<bool, StoreError> {
        let rows = sql("UPDATE registry_upload SET touched_at = $2 WHERE id = $1")
            .bind(id)
            .bind(at)
            .run(&mut self.on)
            .await?;
        Ok(rows > 0)
    }

    /// Ends an upload; false when it is gone already.
    pub async fn delete_registry_upload(&mut self, id: UploadId) -> Result<bool, StoreError> {
        let rows = sql("DELETE FROM registry_upload WHERE id = $1")
            .bind(id)
            .run(&mut self.on)
            .await?;
        Ok(rows > 0)
    }

    /// Ends the uploads that nobody touched since a moment, and says which those were.
    pub async fn expire_registry_uploads(
        &mut self,
        before: Timestamp,
    ) -> Result<Vec<UploadId>, StoreError> {
        let rows = sql("DELETE FROM registry_upload WHERE touched_at < $1 RETURNING id")
            .bind(before)
            .all(&mut self.on)
            .await?;
        rows.iter().map(|row| row.get("id")).collect()
    }
}
