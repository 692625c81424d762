//! Deploys: append-only history, and the state of each.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use updraft_model::{
    BundleName, Checks, CiRun, DeployId, DeployKind, DeployState, DeploymentId, Digest, Failure,
    GitState, ImageRef, Proof, Release, ReleaseId, ReleasePart, Timestamp,
};

use crate::sql::{Row, json, sql};
use crate::{Read, StoreError, Write};

#[derive(Debug, Clone, PartialEq)]
pub struct Deploy {
    pub id: DeployId,
    pub deployment: DeploymentId,
    pub kind: DeployKind,
    pub state: DeployState,
    /// Grows with every change of this row.
    pub revision: i64,
    /// What the client named its request.
    pub key: String,
    pub parts: DeployParts,
    pub release: Option<Release>,
    /// What was wanted when it was accepted.
    pub base: Option<ReleaseId>,
    /// The parts in which its Release differs from that.
    pub changed: Vec<ReleasePart>,
    /// Those, and the parts of unfinished deploys whose place it took: what has
    /// not been proven but by it.
    pub carried: Vec<ReleasePart>,
    pub files: BTreeMap<BundleName, FileLists>,
    pub description: String,
    pub git: Option<GitState>,
    pub ci: Option<Box<CiRun>>,
    pub created_by: String,
    pub created_at: Timestamp,
    /// When its upload last moved.
    pub touched_at: Timestamp,
    pub accepted_at: Option<Timestamp>,
    pub on_disk_at: Option<Timestamp>,
    pub proven_at: Option<Timestamp>,
    pub ended_at: Option<Timestamp>,
    /// The last proof, whatever its outcome.
    pub proof: Option<Proof>,
    pub failure: Option<Failure>,
    pub checks: Option<Checks>,
    pub returns_to: Option<DeployId>,
    /// For a promotion, the deploy of another Deployment whose Release it takes.
    pub promotes: Option<DeployId>,
    /// Whether Airflow's database may lose what an older Airflow does not know.
    pub allow_downgrade: bool,
}

/// The manifests that a deploy brings.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeployParts {
    pub bundles: BTreeMap<BundleName, Digest>,
    pub image: Option<ImageRef>,
}

impl DeployParts {
    pub fn manifests(&self) -> impl Iterator<Item = Digest> {
        let image = self.image.as_ref().map(ImageRef::digest);
        self.bundles.values().copied().chain(image)
    }
}

/// What has to stay because a Release or a deploy names it.
#[derive(Debug, Default)]
pub struct Kept {
    /// Of bundles and Environments.
    pub manifests: Vec<Digest>,
    /// Manifests of container images, which lie in a registry.
    pub images: Vec<Digest>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileLists {
    pub added: Vec<String>,
    pub changed: Vec<String>,
    pub removed: Vec<String>,
}

/// What is known of a deploy when it is recorded.
#[derive(Debug, Clone)]
pub struct NewDeploy {
    pub deployment: DeploymentId,
    pub kind: DeployKind,
    pub key: String,
    pub parts: DeployParts,
    pub description: String,
    pub git: Option<GitState>,
    pub ci: Option<Box<CiRun>>,
    pub created_by: String,
    pub created_at: Timestamp,
    pub returns_to: Option<DeployId>,
    pub promotes: Option<DeployId>,
    pub allow_downgrade: bool,
}

impl NewDeploy {
    /// The deploy that comes after `latest`: history goes by ids.
    pub fn into_deploy(self, latest: Option<DeployId>) -> Deploy {
        Deploy {
            id: latest.map_or_else(DeployId::new, DeployId::after),
            deployment: self.deployment,
            kind: self.kind,
            state: DeployState::Created,
            revision: 0,
            key: self.key,
            parts: self.parts,
            release: None,
            base: None,
            changed: Vec::new(),
            carried: Vec::new(),
            files: BTreeMap::new(),
            description: self.description,
            git: self.git,
            ci: self.ci,
            created_by: self.created_by,
            created_at: self.created_at,
            touched_at: self.created_at,
            accepted_at: None,
            on_disk_at: None,
            proven_at: None,
            ended_at: None,
            proof: None,
            failure: None,
            checks: None,
            returns_to: self.returns_to,
            promotes: self.promotes,
            allow_downgrade: self.allow_downgrade,
        }
    }
}

macro_rules! select {
    ($rest:literal) => {
        concat!(
            "SELECT deploy.*, release.content AS release_content FROM deploy ",
            "LEFT JOIN release ON release.id = deploy.release_id ",
            $rest
        )
    };
}

impl Deploy {
    fn from_row(row: &Row) -> Result<Self, StoreError> {
        Ok(Self {
            id: row.get("id")?,
            deployment: row.get("deployment_id")?,
            kind: row.get("kind")?,
            state: row.json("state_facts")?,
            revision: row.get("revision")?,
            key: row.get("idempotency_key")?,
            parts: row.json("parts")?,
            release: row.optional_json("release_content")?,
            base: row.optional("base_release_id")?,
            changed: row.json("changed")?,
            carried: row.json("carried")?,
            files: row.json("files")?,
            description: row.get("description")?,
            git: row.optional_json("git")?,
            ci: row.optional_json("ci")?,
            created_by: row.get("created_by")?,
            created_at: row.get("created_at")?,
            touched_at: row.get("touched_at")?,
            accepted_at: row.optional("accepted_at")?,
            on_disk_at: row.optional("on_disk_at")?,
            proven_at: row.optional("proven_at")?,
            ended_at: row.optional("ended_at")?,
            proof: row.optional_json("proof")?,
            failure: row.optional_json("failure")?,
            checks: row.optional_json("checks")?,
            returns_to: row.optional("returns_to")?,
            promotes: row.optional("promotes")?,
            allow_downgrade: row.get::<i64>("allow_downgrade")? != 0,
        })
    }

    fn all_from(rows: &[Row]) -> Result<Vec<Self>, StoreError> {
        rows.iter().map(Self::from_row).collect()
    }
}

impl Read {
    pub async fn deploy(&mut self, id: DeployId) -> Result<Option<Deploy>, StoreError> {
        sql(select!("WHERE deploy.id = $1"))
            .bind(id)
            .one(&mut self.on)
            .await?
            .map(|row| Deploy::from_row(&row))
            .transpose()
    }

    /// The deploy that a request of this key made before.
    pub async fn deploy_by_key(
        &mut self,
        deployment: DeploymentId,
        key: &str,
    ) -> Result<Option<Deploy>, StoreError> {
        sql(select!(
            "WHERE deploy.deployment_id = $1 AND deploy.idempotency_key = $2"
        ))
        .bind(deployment)
        .bind(key)
        .one(&mut self.on)
        .await?
        .map(|row| Deploy::from_row(&row))
        .transpose()
    }

    /// The newest of a Deployment.
    pub async fn latest_deploy(
        &mut self,
        deployment: DeploymentId,
    ) -> Result<Option<DeployId>, StoreError> {
        let rows = sql("SELECT id FROM deploy WHERE deployment_id = $1 ORDER BY id DESC LIMIT 1")
            .bind(deployment)
            .all(&mut self.on)
            .await?;
        rows.first().map(|row| row.get("id")).transpose()
    }

    /// A Deployment's deploys, newest first, older than a given one.
    pub async fn history(
        &mut self,
        deployment: DeploymentId,
        before: Option<DeployId>,
        limit: u32,
    ) -> Result<Vec<Deploy>, StoreError> {
        let rows = match before {
            Some(before) => {
                sql(select!(
                    "WHERE deploy.deployment_id = $1 AND deploy.id < $2 ORDER BY deploy.id DESC LIMIT $3"
                ))
                .bind(deployment)
                .bind(before)
                .bind(limit)
                .all(&mut self.on)
                .await?
            }
            None => {
                sql(select!(
                    "WHERE deploy.deployment_id = $1 ORDER BY deploy.id DESC LIMIT $2"
                ))
                .bind(deployment)
                .bind(limit)
                .all(&mut self.on)
                .await?
            }
        };
        Deploy::all_from(&rows)
    }

    /// Accepted deploys that wait for evidence, or waited in vain.
    pub async fn unfinished_deploys(
        &mut self,
        deployment: DeploymentId,
    ) -> Result<Vec<Deploy>, StoreError> {
        let rows = sql(select!(
            "WHERE deploy.deployment_id = $1 AND deploy.state IN ('accepted', 'rolling_out', 'timed_out')"
        ))
        .bind(deployment)
        .all(&mut self.on)
        .await?;
        Deploy::all_from(&rows)
    }

    pub async fn live_deploys(
        &mut self,
        deployment: DeploymentId,
    ) -> Result<Vec<Deploy>, StoreError> {
        let rows = sql(select!(
            "WHERE deploy.deployment_id = $1 AND deploy.state = 'live'"
        ))
        .bind(deployment)
        .all(&mut self.on)
        .await?;
        Deploy::all_from(&rows)
    }

    /// Deploys that were live once, the last proven first.
    pub async fn proven_deploys(
        &mut self,
        deployment: DeploymentId,
        limit: u32,
    ) -> Result<Vec<Deploy>, StoreError> {
        let rows = sql(select!(
            "WHERE deploy.deployment_id = $1 AND deploy.proven_at IS NOT NULL
             ORDER BY deploy.proven_at DESC LIMIT $2"
        ))
        .bind(deployment)
        .bind(limit)
        .all(&mut self.on)
        .await?;
        Deploy::all_from(&rows)
    }

    /// The deploy that made a Release.
    pub async fn deploy_of_release(
        &mut self,
        deployment: DeploymentId,
        release: ReleaseId,
    ) -> Result<Option<Deploy>, StoreError> {
        sql(select!(
            "WHERE deploy.deployment_id = $1 AND deploy.release_id = $2"
        ))
        .bind(deployment)
        .bind(release)
        .one(&mut self.on)
        .await?
        .map(|row| Deploy::from_row(&row))
        .transpose()
    }

    /// The deploy that brought a bundle of this digest, the last time that one
    /// did: the first to be accepted since Releases without it.
    pub async fn deploy_of_version(
        &mut self,
        deployment: DeploymentId,
        version: &Digest,
    ) -> Result<Option<DeployId>, StoreError> {
        sql("WITH accepted AS (
                 SELECT deploy.id AS id, deploy.accepted_at AS at,
                        CASE WHEN release.content LIKE $2 THEN 1 ELSE 0 END AS has_it
                 FROM deploy JOIN release ON release.id = deploy.release_id
                 WHERE deploy.deployment_id = $1)
             SELECT id FROM accepted WHERE has_it = 1 AND at > COALESCE(
                 (SELECT max(at) FROM accepted WHERE has_it = 0
                     AND at < (SELECT max(at) FROM accepted WHERE has_it = 1)), 0)
             ORDER BY at, id LIMIT 1")
        .bind(deployment)
        .bind(format!("%\"{version}\"%"))
        .one(&mut self.on)
        .await?
        .map(|row| row.get("id"))
        .transpose()
    }

    /// Proofs of deploys that were accepted after a moment and until another, in
    /// that order: one may be recorded before another and accepted after it.
    pub async fn proofs_between(
        &mut self,
        deployment: DeploymentId,
        after: Option<Timestamp>,
        to: Option<Timestamp>,
    ) -> Result<Vec<Proof>, StoreError> {
        let rows = sql(
            "SELECT proof FROM deploy WHERE deployment_id = $1 AND accepted_at > $2 AND accepted_at <= $3
                AND proof IS NOT NULL AND proven_at IS NOT NULL ORDER BY accepted_at, id",
        )
        .bind(deployment)
        .bind(after)
        .bind(to)
        .all(&mut self.on)
        .await?;
        rows.iter().map(|row| row.json("proof")).collect()
    }

    /// The newest accepted deploys of pipelines that nobody took back, the last
    /// accepted first.
    pub async fn landed_runs(
        &mut self,
        deployment: DeploymentId,
        limit: u32,
    ) -> Result<Vec<(DeployId, CiRun)>, StoreError> {
        let rows = sql(
            "SELECT id, ci FROM deploy WHERE deployment_id = $1 AND accepted_at IS NOT NULL
                AND ci IS NOT NULL AND state <> 'rolled_back' ORDER BY accepted_at DESC, id DESC LIMIT $2",
        )
        .bind(deployment)
        .bind(limit)
        .all(&mut self.on)
        .await?;
        let landed = rows.iter().map(|row| Ok((row.get("id")?, row.json("ci")?)));
        landed.collect()
    }

    /// Deploys whose upload has not moved since a moment.
    pub async fn stale_uploads(&mut self, before: Timestamp) -> Result<Vec<DeployId>, StoreError> {
        let rows = sql(
            "SELECT id FROM deploy WHERE state IN ('created', 'uploading') AND touched_at < $1",
        )
        .bind(before)
        .all(&mut self.on)
        .await?;
        rows.iter().map(|row| row.get("id")).collect()
    }

    /// The manifests that have to stay: of deploys since a moment, of uploads,
    /// and of what is wanted, proven, or among the newest `keep_releases`.
    pub async fn manifests_to_keep(&mut self, since: Timestamp) -> Result<Kept, StoreError> {
        let mut kept = Kept::default();
        let rows = sql(select!(
            "WHERE deploy.created_at >= $1 OR deploy.state IN ('created', 'uploading')"
        ))
        .bind(since)
        .all(&mut self.on)
        .await?;
        for deploy in Deploy::all_from(&rows)? {
            kept.manifests.extend(deploy.parts.manifests());
            kept.keep_image(deploy.parts.image.as_ref());
            deploy.release.iter().for_each(|release| kept.keep(release));
        }
        for deployment in self.deployments().await? {
            let newest = deployment.settings.keep_releases.saturating_add(2);
            let mut releases = self.newest_releases(deployment.id, newest).await?;
            let pointers = deployment
                .target
                .map(|target| target.release)
                .into_iter()
                .chain(deployment.proven.map(|proven| proven.release));
            for id in pointers {
                releases.extend(self.release(id).await?);
            }
            for release in &releases {
                kept.keep(release);
            }
        }
        Ok(kept)
    }
}

impl Kept {
    fn keep(&mut self, release: &Release) {
        let bundles = release.bundles.values().map(|bundle| bundle.digest);
        self.manifests
            .extend(bundles.chain([release.image.digest()]));
        self.keep_image(Some(&release.image));
    }

    fn keep_image(&mut self, image: Option<&ImageRef>) {
        let container = image.and_then(ImageRef::container);
        self.images.extend(container.map(|image| image.digest));
    }
}

impl Write {
    pub async fn insert_deploy(&mut self, deploy: &Deploy) -> Result<(), StoreError> {
        sql("INSERT INTO deploy
                (id, deployment_id, kind, state, state_facts, revision, idempotency_key, parts, release_id,
                 base_release_id, changed, carried, files, description, git, created_by, created_at, touched_at,
                 accepted_at, on_disk_at, proven_at, ended_at, proof, failure, returns_to, checks,
                 allow_downgrade, ci, promotes)
             VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18,
                     $19, $20, $21, $22, $23, $24, $25, $26, $27, $28, $29)")
        .bind(deploy.id)
        .bind(deploy.deployment)
        .bind(deploy.kind)
        .bind(deploy.state.name())
        .bind_json(&deploy.state)
        .bind(deploy.revision)
        .bind(deploy.key.as_str())
        .bind_json(&deploy.parts)
        .bind(deploy.release.as_ref().map(|release| release.id))
        .bind(deploy.base)
        .bind_json(&deploy.changed)
        .bind_json(&deploy.carried)
        .bind_json(&deploy.files)
        .bind(deploy.description.as_str())
        .bind(json(deploy.git.as_ref()))
        .bind(deploy.created_by.as_str())
        .bind(deploy.created_at)
        .bind(deploy.touched_at)
        .bind(deploy.accepted_at)
        .bind(deploy.on_disk_at)
        .bind(deploy.proven_at)
        .bind(deploy.ended_at)
        .bind(json(deploy.proof.as_ref()))
        .bind(json(deploy.failure.as_ref()))
        .bind(deploy.returns_to)
        .bind(json(deploy.checks.as_ref()))
        .bind(i64::from(deploy.allow_downgrade))
        .bind(json(deploy.ci.as_ref()))
        .bind(deploy.promotes)
        .run(&mut self.on)
        .await?;
        self.insert_event(deploy, deploy.created_at).await
    }

    /// Writes what changed about a deploy, as its next revision, with the event
    /// that says so. Fails when somebody else did since it was read.
    pub async fn update_deploy(
        &mut self,
        deploy: &mut Deploy,
        at: Timestamp,
    ) -> Result<(), StoreError> {
        let read = deploy.revision;
        deploy.revision += 1;
        let rows = sql(
            "UPDATE deploy SET
                state = $3, state_facts = $4, revision = $5, release_id = $6, base_release_id = $7, changed = $8,
                carried = $9, files = $10, touched_at = $11, accepted_at = $12, on_disk_at = $13, proven_at = $14,
                ended_at = $15, proof = $16, failure = $17, checks = $18
             WHERE id = $1 AND revision = $2",
        )
        .bind(deploy.id)
        .bind(read)
        .bind(deploy.state.name())
        .bind_json(&deploy.state)
        .bind(deploy.revision)
        .bind(deploy.release.as_ref().map(|release| release.id))
        .bind(deploy.base)
        .bind_json(&deploy.changed)
        .bind_json(&deploy.carried)
        .bind_json(&deploy.files)
        .bind(deploy.touched_at)
        .bind(deploy.accepted_at)
        .bind(deploy.on_disk_at)
        .bind(deploy.proven_at)
        .bind(deploy.ended_at)
        .bind(json(deploy.proof.as_ref()))
        .bind(json(deploy.failure.as_ref()))
        .bind(json(deploy.checks.as_ref()))
        .run(&mut self.on)
        .await?;
        if rows == 0 {
            return Err(StoreError::Conflict);
        }
        if self.locks_rows() {
            // Other processes look here for news.
            sql("UPDATE deployment SET changed_at = $2 WHERE id = $1")
                .bind(deploy.deployment)
                .bind(at)
                .run(&mut self.on)
                .await?;
        }
        self.insert_event(deploy, at).await
    }

    /// Records that an upload moved. No revision: nobody waits for it.
    pub async fn touch_deploy(&mut self, id: DeployId, at: Timestamp) -> Result<(), StoreError> {
        sql("UPDATE deploy SET touched_at = $2 WHERE id = $1")
            .bind(id)
            .bind(at)
            .run(&mut self.on)
            .await?;
        Ok(())
    }

    async fn insert_event(&mut self, deploy: &Deploy, at: Timestamp) -> Result<(), StoreError> {
        sql("INSERT INTO deploy_event (deploy_id, revision, at, state, facts) VALUES ($1, $2, $3, $4, $5)")
            .bind(deploy.id)
            .bind(deploy.revision)
            .bind(at)
            .bind(deploy.state.name())
            .bind_json(&deploy.state)
            .run(&mut self.on)
            .await?;
        Ok(())
    }
}
