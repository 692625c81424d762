//! Trusts in pipelines, and what became of each exchange.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use updraft_model::{
    DeployId, DeploymentId, ExchangeId, ExchangeOutcome, Expected, Identity, Role, Scope,
    Timestamp, TokenId, TrustId, TrustProvider,
};

use crate::sql::{Row, sql};
use crate::{Read, StoreError, Write};

#[derive(Debug, Clone, PartialEq)]
pub struct Trust {
    pub id: TrustId,
    pub scope: Scope,
    pub issuer: String,
    pub content: TrustContent,
    pub pinned: BTreeMap<String, String>,
    pub created_by: String,
    pub created_at: Timestamp,
    pub last_used_at: Option<Timestamp>,
}

/// What a trust asks of an identity, and gives for it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TrustContent {
    pub provider: TrustProvider,
    pub role: Role,
    /// None: the control plane's own address.
    pub audience: Option<String>,
    pub claims: BTreeMap<String, Expected>,
    /// Claims that stay what they are at the first exchange.
    pub pin: Vec<String>,
}

#[derive(Debug, Clone, PartialEq)]
pub struct Exchange {
    pub id: ExchangeId,
    pub at: Timestamp,
    pub trust: Option<TrustId>,
    pub scope: Option<Scope>,
    pub outcome: ExchangeOutcome,
    pub identity: Identity,
    pub token: Option<TokenId>,
    /// What was wrong with it.
    pub why: Option<String>,
}

/// The Deployment that a scope is, for the column that finds rows by it.
pub(crate) fn deployment_of(scope: Scope) -> Option<DeploymentId> {
    match scope {
        Scope::Deployment { deployment } => Some(deployment),
        Scope::Organization | Scope::Workspace { .. } => None,
    }
}

impl Trust {
    fn from_row(row: &Row) -> Result<Self, StoreError> {
        Ok(Self {
            id: row.get("id")?,
            scope: row.json("scope")?,
            issuer: row.get("issuer")?,
            content: row.json("content")?,
            pinned: row.json("pinned")?,
            created_by: row.get("created_by")?,
            created_at: row.get("created_at")?,
            last_used_at: row.optional("last_used_at")?,
        })
    }
}

impl Exchange {
    fn from_row(row: &Row) -> Result<Self, StoreError> {
        Ok(Self {
            id: row.get("id")?,
            at: row.get("at")?,
            trust: row.optional("trust_id")?,
            scope: row.optional_json("scope")?,
            outcome: row.get("outcome")?,
            identity: row.json("identity")?,
            token: row.optional("token_id")?,
            why: row.optional("why")?,
        })
    }
}

impl Read {
    pub async fn trust(&mut self, id: TrustId) -> Result<Option<Trust>, StoreError> {
        sql("SELECT * FROM trust WHERE id = $1")
            .bind(id)
            .one(&mut self.on)
            .await?
            .map(|row| Trust::from_row(&row))
            .transpose()
    }

    /// All of them, oldest first.
    pub async fn trusts(&mut self) -> Result<Vec<Trust>, StoreError> {
        let rows = sql("SELECT * FROM trust ORDER BY id")
            .all(&mut self.on)
            .await?;
        rows.iter().map(Trust::from_row).collect()
    }

    pub async fn trusts_of_issuer(&mut self, issuer: &str) -> Result<Vec<Trust>, StoreError> {
        let rows = sql("SELECT * FROM trust WHERE issuer = $1 ORDER BY id")
            .bind(issuer)
            .all(&mut self.on)
            .await?;
        rows.iter().map(Trust::from_row).collect()
    }

    /// The newest exchanges, newest first: of one Deployment, or all.
    pub async fn exchanges(
        &mut self,
        deployment: Option<DeploymentId>,
        limit: u32,
    ) -> Result<Vec<Exchange>, StoreError> {
        let rows = match deployment {
            Some(deployment) => {
                sql("SELECT * FROM trust_log WHERE deployment_id = $1 ORDER BY id DESC LIMIT $2")
                    .bind(deployment)
                    .bind(limit)
            }
            None => sql("SELECT * FROM trust_log ORDER BY id DESC LIMIT $1").bind(limit),
        };
        let rows = rows.all(&mut self.on).await?;
        rows.iter().map(Exchange::from_row).collect()
    }

    /// Whether a deploy is one that this token may go on with.
    pub async fn is_deploy_of_token(
        &mut self,
        token: TokenId,
        deploy: DeployId,
    ) -> Result<bool, StoreError> {
        let row = sql("SELECT deploy_id FROM token_deploy WHERE token_id = $1 AND deploy_id = $2")
            .bind(token)
            .bind(deploy)
            .one(&mut self.on)
            .await?;
        Ok(row.is_some())
    }
}

impl Write {
    pub async fn insert_trust(&mut self, trust: &Trust) -> Result<(), StoreError> {
        sql("INSERT INTO trust
                (id, scope, deployment_id, issuer, content, pinned, created_by, created_at, last_used_at)
             VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)")
        .bind(trust.id)
        .bind_json(&trust.scope)
        .bind(deployment_of(trust.scope))
        .bind(trust.issuer.as_str())
        .bind_json(&trust.content)
        .bind_json(&trust.pinned)
        .bind(trust.created_by.as_str())
        .bind(trust.created_at)
        .bind(trust.last_used_at)
        .run(&mut self.on)
        .await?;
        Ok(())
    }

    /// Reads a trust and keeps every other transaction that does the same
    /// waiting: of two first exchanges one pins, and the other is judged by that.
    pub async fn lock_trust(&mut self, id: TrustId) -> Result<Option<Trust>, StoreError> {
        let text = if self.locks_rows() {
            "SELECT * FROM trust WHERE id = $1 FOR UPDATE"
        } else {
            "SELECT * FROM trust WHERE id = $1"
        };
        sql(text)
            .bind(id)
            .one(&mut self.on)
            .await?
            .map(|row| Trust::from_row(&row))
            .transpose()
    }

    pub async fn trust_was_used(
        &mut self,
        id: TrustId,
        pinned: &BTreeMap<String, String>,
        at: Timestamp,
    ) -> Result<(), StoreError> {
        sql("UPDATE trust SET pinned = $2, last_used_at = $3 WHERE id = $1")
            .bind(id)
            .bind_json(pinned)
            .bind(at)
            .run(&mut self.on)
            .await?;
        Ok(())
    }

    /// Removes a trust and revokes what came of it.
    pub async fn delete_trust(&mut self, id: TrustId, at: Timestamp) -> Result<(), StoreError> {
        sql("UPDATE token SET revoked_at = $2 WHERE trust_id = $1 AND revoked_at IS NULL")
            .bind(id)
            .bind(at)
            .run(&mut self.on)
            .await?;
        sql("DELETE FROM trust WHERE id = $1")
            .bind(id)
            .run(&mut self.on)
            .await?;
        Ok(())
    }

    pub async fn insert_exchange(&mut self, exchange: &Exchange) -> Result<(), StoreError> {
        sql("INSERT INTO trust_log
                (id, at, trust_id, scope, deployment_id, outcome, identity, token_id, why)
             VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)")
        .bind(exchange.id)
        .bind(exchange.at)
        .bind(exchange.trust)
        .bind(
            exchange
                .scope
                .map(|scope| serde_json::to_string(&scope).expect("our types always serialise")),
        )
        .bind(exchange.scope.and_then(deployment_of))
        .bind(exchange.outcome)
        .bind_json(&exchange.identity)
        .bind(exchange.token)
        .bind(exchange.why.clone())
        .run(&mut self.on)
        .await?;
        Ok(())
    }

    /// Lets a token go on with a deploy after it has expired.
    pub async fn bind_deploy_to_token(
        &mut self,
        token: TokenId,
        deploy: DeployId,
    ) -> Result<(), StoreError> {
        sql(
            "INSERT INTO token_deploy (token_id, deploy_id) VALUES ($1, $2) ON CONFLICT DO NOTHING",
        )
        .bind(token)
        .bind(deploy)
        .run(&mut self.on)
        .await?;
        Ok(())
    }

    /// Removes all refused exchanges but the newest, which anybody with an
    /// account at an issuer can cause.
    pub async fn forget_refused_exchanges(&mut self, keep: u32) -> Result<(), StoreError> {
        sql("DELETE FROM trust_log WHERE outcome = $1 AND id NOT IN
                (SELECT id FROM trust_log WHERE outcome = $1 ORDER BY id DESC LIMIT $2)")
        .bind(ExchangeOutcome::Refused)
        .bind(keep)
        .run(&mut self.on)
        .await?;
        Ok(())
    }

    /// Removes exchanges, and tokens that came of one, from before a time.
    pub async fn forget_exchanges(
        &mut self,
        log_before: Timestamp,
        tokens_before: Timestamp,
    ) -> Result<(), StoreError> {
        sql("DELETE FROM trust_log WHERE at < $1")
            .bind(log_before)
            .run(&mut self.on)
            .await?;
        sql("DELETE FROM token WHERE trust_id IS NOT NULL AND expires_at < $1")
            .bind(tokens_before)
            .run(&mut self.on)
            .await?;
        Ok(())
    }
}
