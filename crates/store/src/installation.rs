//! Facts about this installation as a whole.

use updraft_model::{Timestamp, WorkspaceId};

use crate::sql::sql;
use crate::{Read, StoreError, Write};

impl Read {
    pub async fn fact(&mut self, name: &str) -> Result<Option<String>, StoreError> {
        sql("SELECT value FROM installation WHERE name = $1")
            .bind(name)
            .one(&mut self.on)
            .await?
            .map(|row| row.get("value"))
            .transpose()
    }

    pub async fn workspace_named(&mut self, name: &str) -> Result<Option<WorkspaceId>, StoreError> {
        sql("SELECT id FROM workspace WHERE name = $1")
            .bind(name)
            .one(&mut self.on)
            .await?
            .map(|row| row.get("id"))
            .transpose()
    }
}

impl Write {
    /// Records a fact once. False when it was recorded before.
    pub async fn record_fact(&mut self, name: &str, value: &str) -> Result<bool, StoreError> {
        let rows = sql(
            "INSERT INTO installation (name, value) VALUES ($1, $2) ON CONFLICT (name) DO NOTHING",
        )
        .bind(name)
        .bind(value)
        .run(&mut self.on)
        .await?;
        Ok(rows == 1)
    }

    /// The Workspace of this name, made when it is not there.
    pub async fn ensure_workspace(
        &mut self,
        name: &str,
        at: Timestamp,
    ) -> Result<WorkspaceId, StoreError> {
        sql("INSERT INTO workspace (id, name, created_at) VALUES ($1, $2, $3) ON CONFLICT (name) DO NOTHING")
            .bind(WorkspaceId::new())
            .bind(name)
            .bind(at)
            .run(&mut self.on)
            .await?;
        let found = self.workspace_named(name).await?;
        found.ok_or(StoreError::Conflict)
    }
}
