//! Every transition of a deploy, in order.

use updraft_model::{DeployId, DeployState, Timestamp};

use crate::sql::sql;
use crate::{Read, StoreError};

#[derive(Debug, Clone, PartialEq)]
pub struct DeployEvent {
    pub revision: i64,
    pub at: Timestamp,
    pub state: DeployState,
}

impl Read {
    pub async fn deploy_events(
        &mut self,
        deploy: DeployId,
    ) -> Result<Vec<DeployEvent>, StoreError> {
        let rows = sql("SELECT * FROM deploy_event WHERE deploy_id = $1 ORDER BY revision")
            .bind(deploy)
            .all(&mut self.on)
            .await?;
        rows.iter()
            .map(|row| {
                Ok(DeployEvent {
                    revision: row.get("revision")?,
                    at: row.get("at")?,
                    state: row.json("facts")?,
                })
            })
            .collect()
    }
}
