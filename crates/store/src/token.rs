//! Tokens, never their secrets, and enrolment codes, only hashed.

use updraft_model::{DeploymentId, EnrollmentId, Role, Scope, Timestamp, TokenId, TrustId};

use crate::sql::{Row, sql};
use crate::trust::deployment_of;
use crate::{Read, StoreError, Write};

#[derive(Debug, Clone, PartialEq)]
pub struct Token {
    pub id: TokenId,
    pub name: String,
    pub role: Role,
    pub scope: Scope,
    pub created_by: String,
    pub created_at: Timestamp,
    pub expires_at: Timestamp,
    pub revoked_at: Option<Timestamp>,
    pub last_used_at: Option<Timestamp>,
    /// What a pipeline's short-lived one comes from.
    pub trust: Option<TrustId>,
}

#[derive(Debug, Clone, PartialEq)]
pub struct Enrollment {
    pub id: EnrollmentId,
    pub deployment: DeploymentId,
    pub created_by: String,
    pub created_at: Timestamp,
    pub expires_at: Timestamp,
}

impl Token {
    fn from_row(row: &Row) -> Result<Self, StoreError> {
        Ok(Self {
            id: row.get("id")?,
            name: row.get("name")?,
            role: row.get("role")?,
            scope: row.json("scope")?,
            created_by: row.get("created_by")?,
            created_at: row.get("created_at")?,
            expires_at: row.get("expires_at")?,
            revoked_at: row.optional("revoked_at")?,
            last_used_at: row.optional("last_used_at")?,
            trust: row.optional("trust_id")?,
        })
    }
}

impl Read {
    pub async fn token(&mut self, id: TokenId) -> Result<Option<Token>, StoreError> {
        sql("SELECT * FROM token WHERE id = $1")
            .bind(id)
            .one(&mut self.on)
            .await?
            .map(|row| Token::from_row(&row))
            .transpose()
    }

    /// Whether any token was ever made.
    pub async fn has_tokens(&mut self) -> Result<bool, StoreError> {
        let one = sql("SELECT id FROM token LIMIT 1")
            .one(&mut self.on)
            .await?;
        Ok(one.is_some())
    }

    /// All tokens, oldest first.
    pub async fn tokens(&mut self) -> Result<Vec<Token>, StoreError> {
        let rows = sql("SELECT * FROM token ORDER BY id")
            .all(&mut self.on)
            .await?;
        rows.iter().map(Token::from_row).collect()
    }

    /// The tokens for one Deployment, oldest first.
    pub async fn tokens_of(&mut self, deployment: DeploymentId) -> Result<Vec<Token>, StoreError> {
        let rows = sql("SELECT * FROM token WHERE deployment_id = $1 ORDER BY id")
            .bind(deployment)
            .all(&mut self.on)
            .await?;
        rows.iter().map(Token::from_row).collect()
    }
}

impl Write {
    pub async fn insert_token(&mut self, token: &Token) -> Result<(), StoreError> {
        sql("INSERT INTO token
                (id, name, role, scope, deployment_id, created_by, created_at, expires_at, revoked_at, last_used_at, trust_id)
             VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11)")
        .bind(token.id)
        .bind(token.name.as_str())
        .bind(token.role)
        .bind_json(&token.scope)
        .bind(deployment_of(token.scope))
        .bind(token.created_by.as_str())
        .bind(token.created_at)
        .bind(token.expires_at)
        .bind(token.revoked_at)
        .bind(token.last_used_at)
        .bind(token.trust)
        .run(&mut self.on)
        .await?;
        Ok(())
    }

    /// Revokes a token; a second time changes nothing.
    pub async fn revoke_token(&mut self, id: TokenId, at: Timestamp) -> Result<(), StoreError> {
        sql("UPDATE token SET revoked_at = $2 WHERE id = $1 AND revoked_at IS NULL")
            .bind(id)
            .bind(at)
            .run(&mut self.on)
            .await?;
        Ok(())
    }

    pub async fn token_was_used(&mut self, id: TokenId, at: Timestamp) -> Result<(), StoreError> {
        sql("UPDATE token SET last_used_at = $2
             WHERE id = $1 AND (last_used_at IS NULL OR last_used_at < $2)")
        .bind(id)
        .bind(at)
        .run(&mut self.on)
        .await?;
        Ok(())
    }

    pub async fn insert_enrollment(
        &mut self,
        enrollment: &Enrollment,
        code_hash: &str,
    ) -> Result<(), StoreError> {
        sql("INSERT INTO enrollment (id, deployment_id, code_hash, created_by, created_at, expires_at)
             VALUES ($1, $2, $3, $4, $5, $6)")
        .bind(enrollment.id)
        .bind(enrollment.deployment)
        .bind(code_hash)
        .bind(enrollment.created_by.as_str())
        .bind(enrollment.created_at)
        .bind(enrollment.expires_at)
        .run(&mut self.on)
        .await?;
        Ok(())
    }

    /// Uses up the code of this hash: of two that try at once, one gets it.
    pub async fn use_enrollment(
        &mut self,
        code_hash: &str,
        at: Timestamp,
    ) -> Result<Option<Enrollment>, StoreError> {
        sql("UPDATE enrollment SET used_at = $2
             WHERE code_hash = $1 AND used_at IS NULL AND expires_at > $2 RETURNING *")
        .bind(code_hash)
        .bind(at)
        .one(&mut self.on)
        .await?
        .map(|row| {
            Ok(Enrollment {
                id: row.get("id")?,
                deployment: row.get("deployment_id")?,
                created_by: row.get("created_by")?,
                created_at: row.get("created_at")?,
                expires_at: row.get("expires_at")?,
            })
        })
        .transpose()
    }
}
