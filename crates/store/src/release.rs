//! Releases, the manifests they name, and which blobs follow from those.

use updraft_model::{DeploymentId, Digest, Release, ReleaseId, Scope, Timestamp};

use crate::sql::{places, sql, sql_with_list};
use crate::{Read, StoreError, Write};

/// Values in one statement; both databases take many more.
const CHUNK: usize = 256;

impl Read {
    pub async fn release(&mut self, id: ReleaseId) -> Result<Option<Release>, StoreError> {
        sql("SELECT content FROM release WHERE id = $1")
            .bind(id)
            .one(&mut self.on)
            .await?
            .map(|row| row.json("content"))
            .transpose()
    }

    /// The newest Releases of a Deployment, newest first.
    pub async fn newest_releases(
        &mut self,
        deployment: DeploymentId,
        limit: u32,
    ) -> Result<Vec<Release>, StoreError> {
        let rows =
            sql("SELECT content FROM release WHERE deployment_id = $1 ORDER BY id DESC LIMIT $2")
                .bind(deployment)
                .bind(limit)
                .all(&mut self.on)
                .await?;
        rows.iter().map(|row| row.json("content")).collect()
    }

    /// Which of these blobs a Release of the Deployment names.
    pub async fn named_blobs(
        &mut self,
        deployment: DeploymentId,
        digests: &[Digest],
    ) -> Result<Vec<Digest>, StoreError> {
        let mut named = Vec::with_capacity(digests.len());
        for chunk in digests.chunks(CHUNK) {
            let mut query = sql_with_list(
                "SELECT digest FROM release_blob WHERE deployment_id = $1 AND digest IN ({})",
                &places(2, chunk.len()),
            )
            .bind(deployment);
            for digest in chunk {
                query = query.bind(digest);
            }
            for row in query.all(&mut self.on).await? {
                named.push(row.get("digest")?);
            }
        }
        Ok(named)
    }

    /// Which of these blobs are named by a Release of any Deployment in a scope.
    pub async fn blobs_within(
        &mut self,
        scope: &Scope,
        digests: &[Digest],
    ) -> Result<Vec<Digest>, StoreError> {
        let mut named = Vec::new();
        for chunk in digests.chunks(CHUNK) {
            let mut query = match scope {
                Scope::Deployment { deployment } => {
                    return self.named_blobs(*deployment, digests).await;
                }
                Scope::Workspace { workspace } => sql_with_list(
                    "SELECT DISTINCT digest FROM release_blob WHERE deployment_id IN
                        (SELECT id FROM deployment WHERE workspace_id = $1) AND digest IN ({})",
                    &places(2, chunk.len()),
                )
                .bind(*workspace),
                Scope::Organization => sql_with_list(
                    "SELECT DISTINCT digest FROM release_blob WHERE deployment_id IN
                        (SELECT id FROM deployment) AND digest IN ({})",
                    &places(1, chunk.len()),
                ),
            };
            for digest in chunk {
                query = query.bind(digest);
            }
            for row in query.all(&mut self.on).await? {
                named.push(row.get("digest")?);
            }
        }
        Ok(named)
    }

    /// Whether all manifests of a Release are stored: they go, with all that they
    /// name, when the retention period ends.
    pub async fn has_manifests(&mut self, release: &Release) -> Result<bool, StoreError> {
        let bundles = release.bundles.values().map(|bundle| bundle.digest);
        for digest in bundles.chain([release.image.digest()]) {
            let found = sql("SELECT digest FROM manifest WHERE digest = $1")
                .bind(digest)
                .one(&mut self.on)
                .await?;
            if found.is_none() {
                return Ok(false);
            }
        }
        Ok(true)
    }

    pub async fn manifest(&mut self, digest: &Digest) -> Result<Option<String>, StoreError> {
        sql("SELECT content FROM manifest WHERE digest = $1")
            .bind(digest)
            .one(&mut self.on)
            .await?
            .map(|row| row.get("content"))
            .transpose()
    }
}

impl Write {
    pub async fn insert_release(
        &mut self,
        deployment: DeploymentId,
        release: &Release,
        at: Timestamp,
    ) -> Result<(), StoreError> {
        sql("INSERT INTO release (id, deployment_id, created_at, content) VALUES ($1, $2, $3, $4)")
            .bind(release.id)
            .bind(deployment)
            .bind(at)
            .bind_json(release)
            .run(&mut self.on)
            .await?;
        Ok(())
    }

    pub async fn insert_named_blobs(
        &mut self,
        deployment: DeploymentId,
        digests: &[Digest],
    ) -> Result<(), StoreError> {
        let mut digests = digests.to_vec();
        digests.sort_unstable();
        digests.dedup();
        for chunk in digests.chunks(CHUNK) {
            let rows: Vec<String> = (0..chunk.len())
                .map(|at| format!("($1, ${})", at + 2))
                .collect();
            let mut query = sql_with_list(
                "INSERT INTO release_blob (deployment_id, digest) VALUES {} ON CONFLICT DO NOTHING",
                &rows.join(", "),
            )
            .bind(deployment);
            for digest in chunk {
                query = query.bind(digest);
            }
            query.run(&mut self.on).await?;
        }
        Ok(())
    }

    /// Stores manifests' texts, by digest as layers are; those that are there
    /// already are fine.
    pub async fn insert_manifests(
        &mut self,
        mut manifests: Vec<(Digest, &str)>,
        at: Timestamp,
    ) -> Result<(), StoreError> {
        manifests.sort_unstable();
        for (digest, content) in manifests {
            sql(
                "INSERT INTO manifest (digest, content, created_at) VALUES ($1, $2, $3)
                 ON CONFLICT (digest) DO NOTHING",
            )
            .bind(digest)
            .bind(content)
            .bind(at)
            .run(&mut self.on)
            .await?;
        }
        Ok(())
    }
}
