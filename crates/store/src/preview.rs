//! Deployments that live as long as a pull request.

use serde::{Deserialize, Serialize};
use updraft_model::{AgentId, DeploymentId, Timestamp};

use crate::deployment::Deployment;
use crate::sql::{Row, json, sql};
use crate::{Read, StoreError, Write};

/// What makes a Deployment a Preview.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Preview {
    /// The Deployment that it is made from.
    pub of: DeploymentId,
    pub facts: PreviewFacts,
    pub expires_at: Timestamp,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PreviewFacts {
    pub repository: String,
    /// The project's folder in it; empty: the repository itself.
    pub project: String,
    pub pull_request: u64,
    /// The branch that the pull request brings.
    pub branch: Option<String>,
    /// The agent that runs it.
    pub agent: Option<AgentId>,
}

impl Preview {
    pub(crate) fn from_row(row: &Row) -> Result<Option<Self>, StoreError> {
        let Some(of) = row.optional("preview_of")? else {
            return Ok(None);
        };
        Ok(Some(Self {
            of,
            facts: row.json("preview")?,
            expires_at: row.get("preview_expires_at")?,
        }))
    }
}

impl Read {
    /// Those that are made from a Deployment, the oldest first.
    pub async fn previews_of(&mut self, id: DeploymentId) -> Result<Vec<Deployment>, StoreError> {
        let rows = sql("SELECT * FROM deployment WHERE preview_of = $1 ORDER BY id")
            .bind(id)
            .all(&mut self.on)
            .await?;
        rows.iter().map(Deployment::from_row).collect()
    }

    /// Those whose time is over.
    pub async fn expired_previews(&mut self, at: Timestamp) -> Result<Vec<Deployment>, StoreError> {
        let rows = sql("SELECT * FROM deployment WHERE preview_expires_at <= $1 ORDER BY id")
            .bind(at)
            .all(&mut self.on)
            .await?;
        rows.iter().map(Deployment::from_row).collect()
    }
}

impl Write {
    /// Writes what makes a Deployment a Preview.
    pub async fn set_preview(
        &mut self,
        id: DeploymentId,
        preview: &Preview,
    ) -> Result<(), StoreError> {
        sql("UPDATE deployment SET preview_of = $2, preview = $3, preview_expires_at = $4 WHERE id = $1")
            .bind(id)
            .bind(preview.of)
            .bind(json(Some(&preview.facts)))
            .bind(preview.expires_at)
            .run(&mut self.on)
            .await?;
        Ok(())
    }
}
