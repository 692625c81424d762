//! Deployments, and what each one should run.

use serde::{Deserialize, Serialize};
use updraft_model::{
    AfterFailure, CheckStage, DeployId, DeploymentId, DeploymentName, Hold, PreviewValues,
    ReleaseId, Runtime, Timestamp, WorkspaceId,
};

use crate::sql::{Row, json, sql};
use crate::{Preview, Read, StoreError, Write};

#[derive(Debug, Clone, PartialEq)]
pub struct Deployment {
    pub id: DeploymentId,
    pub name: DeploymentName,
    pub workspace: WorkspaceId,
    pub created_at: Timestamp,
    pub settings: Settings,
    /// The environment variables, sealed.
    pub environment: Option<Vec<u8>>,
    pub environment_names: Vec<String>,
    /// Grows with everything that changes what agents are answered.
    pub generation: i64,
    pub target: Option<Target>,
    pub proven: Option<Proven>,
    pub hold: Option<Box<Hold>>,
    /// There for one that lives as long as a pull request.
    pub preview: Option<Box<Preview>>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Settings {
    pub description: String,
    pub after_failure: AfterFailure,
    pub proof_timeout_s: u32,
    pub keep_releases: u32,
    pub runtime: Runtime,
    pub executor: String,
    #[serde(default)]
    pub require: Vec<CheckStage>,
    /// Where its container images lie; none: in this control plane.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub registry: Option<String>,
    /// Whether nobody but trusted pipelines may deploy.
    #[serde(default, skip_serializing_if = "is_false")]
    pub ci_only: bool,
    /// What Previews that are made from it have of its connections and variables.
    #[serde(default)]
    pub preview_values: PreviewValues,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "as serde calls it")]
fn is_false(value: &bool) -> bool {
    !value
}

/// The wanted Release: of the newest accepted deploy that was not undone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Target {
    pub deploy: DeployId,
    pub release: ReleaseId,
    /// Grows each time that the same Release has to be proven again.
    pub attempt: u32,
    /// When this attempt began.
    pub since: Timestamp,
    /// The generation in which this attempt began.
    pub generation: i64,
    pub may_switch: bool,
}

/// The last Release that was live.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Proven {
    pub deploy: DeployId,
    pub release: ReleaseId,
}

impl Deployment {
    pub(crate) fn from_row(row: &Row) -> Result<Self, StoreError> {
        let target = row
            .optional("target_deploy")?
            .map(|deploy| -> Result<_, StoreError> {
                Ok(Target {
                    deploy,
                    release: row.get("target_release")?,
                    attempt: row.get("target_attempt")?,
                    since: row.get("target_since")?,
                    generation: row.get("target_generation")?,
                    may_switch: row.get("target_may_switch")?,
                })
            })
            .transpose()?;
        let proven = row
            .optional("proven_deploy")?
            .map(|deploy| -> Result<_, StoreError> {
                Ok(Proven {
                    deploy,
                    release: row.get("proven_release")?,
                })
            })
            .transpose()?;
        Ok(Self {
            id: row.get("id")?,
            name: row.get("name")?,
            workspace: row.get("workspace_id")?,
            created_at: row.get("created_at")?,
            settings: row.json("settings")?,
            environment: row.optional("environment")?,
            environment_names: row.json("environment_names")?,
            generation: row.get("generation")?,
            target,
            proven,
            hold: row.optional_json("hold")?,
            preview: Preview::from_row(row)?.map(Box::new),
        })
    }
}

/// What a Deployment's wanted deploy waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum InProgress {
    /// Evidence, or the end of its time.
    Waits,
    /// Evidence, for as long as that takes.
    TimedOut,
}

impl Read {
    pub async fn deployment(&mut self, id: DeploymentId) -> Result<Option<Deployment>, StoreError> {
        sql("SELECT * FROM deployment WHERE id = $1")
            .bind(id)
            .one(&mut self.on)
            .await?
            .map(|row| Deployment::from_row(&row))
            .transpose()
    }

    pub async fn deployment_named(
        &mut self,
        name: &DeploymentName,
    ) -> Result<Option<Deployment>, StoreError> {
        sql("SELECT * FROM deployment WHERE name = $1")
            .bind(name)
            .one(&mut self.on)
            .await?
            .map(|row| Deployment::from_row(&row))
            .transpose()
    }

    /// All of them, by name.
    pub async fn deployments(&mut self) -> Result<Vec<Deployment>, StoreError> {
        let rows = sql("SELECT * FROM deployment ORDER BY name")
            .all(&mut self.on)
            .await?;
        rows.iter().map(Deployment::from_row).collect()
    }

    /// Only the number that moves with what agents are answered.
    pub async fn generation(&mut self, id: DeploymentId) -> Result<Option<i64>, StoreError> {
        sql("SELECT generation FROM deployment WHERE id = $1")
            .bind(id)
            .one(&mut self.on)
            .await?
            .map(|row| row.get("generation"))
            .transpose()
    }

    /// Those whose wanted Release waits for evidence, or waited in vain: what it
    /// lacked may be that of an agent that is gone since.
    pub async fn deployments_in_progress(
        &mut self,
    ) -> Result<Vec<(DeploymentId, InProgress)>, StoreError> {
        let rows = sql(
            "SELECT deployment.id AS id, deploy.state AS state FROM deploy
             JOIN deployment ON deployment.target_deploy = deploy.id
             WHERE deploy.state IN ('accepted', 'rolling_out', 'timed_out')",
        )
        .all(&mut self.on)
        .await?;
        rows.iter()
            .map(|row| {
                let state: String = row.get("state")?;
                let progress = match state.as_str() {
                    "timed_out" => InProgress::TimedOut,
                    _ => InProgress::Waits,
                };
                Ok((row.get("id")?, progress))
            })
            .collect()
    }

    /// Those that changed at or after a moment, for other processes' news.
    pub async fn deployments_changed_since(
        &mut self,
        since: Timestamp,
    ) -> Result<Vec<(DeploymentId, Timestamp)>, StoreError> {
        let rows = sql("SELECT id, changed_at FROM deployment WHERE changed_at >= $1")
            .bind(since)
            .all(&mut self.on)
            .await?;
        rows.iter()
            .map(|row| Ok((row.get("id")?, row.get("changed_at")?)))
            .collect()
    }
}

impl Write {
    /// Reads a Deployment and keeps every other transaction that does the same
    /// waiting until this one ends, which puts deploys in one order.
    pub async fn lock_deployment(
        &mut self,
        id: DeploymentId,
    ) -> Result<Option<Deployment>, StoreError> {
        let text = if self.locks_rows() {
            "SELECT * FROM deployment WHERE id = $1 FOR UPDATE"
        } else {
            "SELECT * FROM deployment WHERE id = $1"
        };
        sql(text)
            .bind(id)
            .one(&mut self.on)
            .await?
            .map(|row| Deployment::from_row(&row))
            .transpose()
    }

    /// False when the name is taken.
    pub async fn insert_deployment(&mut self, deployment: &Deployment) -> Result<bool, StoreError> {
        let rows = sql(
            "INSERT INTO deployment
                (id, name, workspace_id, created_at, changed_at, settings, environment, environment_names, generation)
             VALUES ($1, $2, $3, $4, $4, $5, $6, $7, $8)
             ON CONFLICT (name) DO NOTHING",
        )
        .bind(deployment.id)
        .bind(&deployment.name)
        .bind(deployment.workspace)
        .bind(deployment.created_at)
        .bind_json(&deployment.settings)
        .bind(deployment.environment.clone())
        .bind_json(&deployment.environment_names)
        .bind(deployment.generation)
        .run(&mut self.on)
        .await?;
        if let Some(preview) = deployment.preview.as_deref().filter(|_| rows == 1) {
            self.set_preview(deployment.id, preview).await?;
        }
        Ok(rows == 1)
    }

    /// Writes everything about a Deployment that can change.
    pub async fn update_deployment(
        &mut self,
        deployment: &Deployment,
        at: Timestamp,
    ) -> Result<(), StoreError> {
        let (target, proven) = (deployment.target, deployment.proven);
        sql("UPDATE deployment SET
                changed_at = $2, settings = $3, environment = $4, environment_names = $5, generation = $6,
                target_deploy = $7, target_release = $8, target_attempt = $9, target_since = $10,
                target_generation = $11, target_may_switch = $12, proven_deploy = $13, proven_release = $14,
                hold = $15
             WHERE id = $1")
        .bind(deployment.id)
        .bind(at)
        .bind_json(&deployment.settings)
        .bind(deployment.environment.clone())
        .bind_json(&deployment.environment_names)
        .bind(deployment.generation)
        .bind(target.map(|target| target.deploy))
        .bind(target.map(|target| target.release))
        .bind(target.map(|target| target.attempt))
        .bind(target.map(|target| target.since))
        .bind(target.map(|target| target.generation))
        .bind(target.map(|target| target.may_switch))
        .bind(proven.map(|proven| proven.deploy))
        .bind(proven.map(|proven| proven.release))
        .bind(json(deployment.hold.as_ref()))
        .run(&mut self.on)
        .await?;
        Ok(())
    }

    /// Removes a Deployment with its history, agents, tokens and Previews.
    pub async fn delete_deployment(&mut self, id: DeploymentId) -> Result<(), StoreError> {
        sql("DELETE FROM token WHERE deployment_id = $1
             OR deployment_id IN (SELECT id FROM deployment WHERE preview_of = $1)")
        .bind(id)
        .run(&mut self.on)
        .await?;
        sql("DELETE FROM deployment WHERE id = $1")
            .bind(id)
            .run(&mut self.on)
            .await?;
        Ok(())
    }
}
