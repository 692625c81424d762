//! Agents, as each last reported.

use chrono::Duration;
use updraft_model::{AgentId, DagIds, DeploymentId, Digest, Timestamp, TokenId};

use crate::sql::{Row, sql, sql_with_list};
use crate::{Read, StoreError, Write};

const CHUNK: usize = 256;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Agent {
    pub id: AgentId,
    pub deployment: DeploymentId,
    pub token: TokenId,
    pub host: String,
    pub first_seen: Timestamp,
    pub last_seen: Timestamp,
    pub lease_until: Timestamp,
    /// The whole last report, as JSON.
    pub report: String,
}

impl Agent {
    fn from_row(row: &Row) -> Result<Self, StoreError> {
        Ok(Self {
            id: row.get("id")?,
            deployment: row.get("deployment_id")?,
            token: row.get("token_id")?,
            host: row.get("host")?,
            first_seen: row.get("first_seen")?,
            last_seen: row.get("last_seen")?,
            lease_until: row.get("lease_until")?,
            report: row.get("report")?,
        })
    }
}

impl Read {
    pub async fn agent(&mut self, id: AgentId) -> Result<Option<Agent>, StoreError> {
        sql("SELECT * FROM agent WHERE id = $1")
            .bind(id)
            .one(&mut self.on)
            .await?
            .map(|row| Agent::from_row(&row))
            .transpose()
    }

    pub async fn agents(&mut self, deployment: DeploymentId) -> Result<Vec<Agent>, StoreError> {
        let rows = sql("SELECT * FROM agent WHERE deployment_id = $1 ORDER BY id")
            .bind(deployment)
            .all(&mut self.on)
            .await?;
        rows.iter().map(Agent::from_row).collect()
    }

    pub async fn agents_of_token(&mut self, token: TokenId) -> Result<Vec<AgentId>, StoreError> {
        let rows = sql("SELECT id FROM agent WHERE token_id = $1")
            .bind(token)
            .all(&mut self.on)
            .await?;
        rows.iter().map(|row| row.get("id")).collect()
    }

    /// What stands for the DAG ids that an agent told last.
    pub async fn dag_ids_digest(&mut self, agent: AgentId) -> Result<Option<Digest>, StoreError> {
        sql("SELECT digest FROM agent_dag_ids WHERE agent_id = $1")
            .bind(agent)
            .one(&mut self.on)
            .await?
            .map(|row| row.get("digest"))
            .transpose()
    }

    /// The DAG ids that an agent told last, if this stands for them.
    pub async fn dag_ids(
        &mut self,
        agent: AgentId,
        digest: Digest,
    ) -> Result<Option<DagIds>, StoreError> {
        sql("SELECT bundles FROM agent_dag_ids WHERE agent_id = $1 AND digest = $2")
            .bind(agent)
            .bind(digest)
            .one(&mut self.on)
            .await?
            .map(|row| row.json("bundles"))
            .transpose()
    }

    /// How many agents hold a lease.
    pub async fn agents_with_lease(&mut self, at: Timestamp) -> Result<i64, StoreError> {
        sql("SELECT count(*) AS agents FROM agent WHERE lease_until > $1")
            .bind(at)
            .one(&mut self.on)
            .await?
            .map_or(Ok(0), |row| row.get("agents"))
    }
}

impl Write {
    /// Stores what an agent said last; who it is stays as it was first said.
    pub async fn save_agent(&mut self, agent: &Agent) -> Result<(), StoreError> {
        sql("INSERT INTO agent
                (id, deployment_id, token_id, host, first_seen, last_seen, lease_until, report)
             VALUES ($1, $2, $3, $4, $5, $6, $7, $8)
             ON CONFLICT (id) DO UPDATE SET
                token_id = $3, host = $4, last_seen = $6, lease_until = $7, report = $8")
        .bind(agent.id)
        .bind(agent.deployment)
        .bind(agent.token)
        .bind(agent.host.as_str())
        .bind(agent.first_seen)
        .bind(agent.last_seen)
        .bind(agent.lease_until)
        .bind(agent.report.as_str())
        .run(&mut self.on)
        .await?;
        Ok(())
    }

    /// Keeps the DAG ids that an agent tells, in place of those before.
    pub async fn save_dag_ids(
        &mut self,
        agent: AgentId,
        digest: Digest,
        ids: &DagIds,
    ) -> Result<(), StoreError> {
        sql(
            "INSERT INTO agent_dag_ids (agent_id, digest, bundles) VALUES ($1, $2, $3)
             ON CONFLICT (agent_id) DO UPDATE SET digest = $2, bundles = $3",
        )
        .bind(agent)
        .bind(digest)
        .bind_json(ids)
        .run(&mut self.on)
        .await?;
        Ok(())
    }

    /// Makes leases end later, each at its own time; never earlier. An agent was
    /// last seen when a lease of this length began.
    pub async fn renew_leases(
        &mut self,
        leases: &[(AgentId, Timestamp)],
        length: Duration,
    ) -> Result<(), StoreError> {
        let length = length.num_microseconds().unwrap_or(i64::MAX);
        for chunk in leases.chunks(CHUNK) {
            let rows: Vec<String> = (0..chunk.len())
                .map(|at| format!("(${}, CAST(${} AS BIGINT))", 2 * at + 2, 2 * at + 3))
                .collect();
            let mut query = sql_with_list(
                "UPDATE agent SET last_seen = renewed.column2 - $1, lease_until = renewed.column2
                 FROM (VALUES {}) AS renewed
                 WHERE agent.id = renewed.column1 AND agent.lease_until < renewed.column2",
                &rows.join(", "),
            )
            .bind(length);
            for (id, until) in chunk {
                query = query.bind(id).bind(*until);
            }
            query.run(&mut self.on).await?;
        }
        Ok(())
    }

    /// Lets every agent that was last heard of around the same time as the very
    /// last one count until a moment: a restart of the control plane is no
    /// reason to lose them.
    pub async fn revive_leases(
        &mut self,
        within_micros: i64,
        until: Timestamp,
    ) -> Result<u64, StoreError> {
        sql("UPDATE agent SET lease_until = $2
             WHERE lease_until < $2 AND lease_until + $1 >= (SELECT max(lease_until) FROM agent)")
        .bind(within_micros)
        .bind(until)
        .run(&mut self.on)
        .await
    }

    pub async fn delete_agent(&mut self, id: AgentId) -> Result<(), StoreError> {
        sql("DELETE FROM agent WHERE id = $1")
            .bind(id)
            .run(&mut self.on)
            .await?;
        Ok(())
    }

    /// Forgets agents that nobody has heard of since a moment.
    pub async fn forget_agents(&mut self, before: Timestamp) -> Result<u64, StoreError> {
        sql("DELETE FROM agent WHERE last_seen < $1")
            .bind(before)
            .run(&mut self.on)
            .await
    }
}
