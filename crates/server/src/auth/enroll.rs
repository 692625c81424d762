//! One-time codes that agents trade for their tokens.

use chrono::Duration;
use updraft_api::token::{Enroll, NewEnrollmentCode, NewToken};
use updraft_model::{DeploymentName, Digest, EnrollmentId, Role, Scope};
use updraft_store::Enrollment;

use super::keys::random;
use super::tokens::{Issue, TokenError, issue};
use super::{Caller, KeyError};
use crate::app::App;

/// Without the letters that people confuse.
const ALPHABET: &[u8; 32] = b"ABCDEFGHJKLMNPQRSTUVWXYZ23456789";
const AGENT_TOKEN_DAYS: u32 = 3650;

/// Makes a code for an agent of this Deployment: good for an hour, once.
pub(crate) async fn create_enrollment_code(
    app: &App,
    caller: &Caller,
    name: &DeploymentName,
) -> Result<NewEnrollmentCode, TokenError> {
    let mut tx = app.store.begin().await?;
    let deployment = caller.deployment(&mut tx, name).await?;
    let code = new_code()?;
    let now = app.now();
    let enrollment = Enrollment {
        id: EnrollmentId::new(),
        deployment: deployment.id,
        created_by: caller.token.name.clone(),
        created_at: now,
        expires_at: now + Duration::hours(1),
    };
    tx.insert_enrollment(&enrollment, &hash(&code)).await?;
    tx.commit().await?;
    Ok(NewEnrollmentCode {
        deployment: deployment.name,
        code,
        expires_at: enrollment.expires_at,
    })
}

/// Trades a code for an agent's token.
pub(crate) async fn enroll(app: &App, ask: Enroll) -> Result<NewToken, TokenError> {
    let host: String = ask
        .host
        .chars()
        .filter(|c| !c.is_control())
        .take(100)
        .collect();
    let mut tx = app.store.begin().await?;
    let enrollment = tx
        .use_enrollment(&hash(&ask.code), app.now())
        .await?
        .ok_or(TokenError::CodeRefused)?;
    let new = issue(
        &app.keys,
        &mut tx,
        Issue {
            name: format!("agent on {host}"),
            role: Role::Agent,
            scope: Scope::Deployment {
                deployment: enrollment.deployment,
            },
            lives: Duration::days(i64::from(AGENT_TOKEN_DAYS)),
            trust: None,
            created_by: enrollment.created_by,
        },
        app.now(),
    )
    .await?;
    tx.commit().await?;
    tracing::info!(token = %new.token.id, deployment = %enrollment.deployment, "agent enrolled");
    Ok(new)
}

/// Four groups of five letters: 100 bits.
fn new_code() -> Result<String, KeyError> {
    let mut bytes = [0; 20];
    random(&mut bytes)?;
    let letters: Vec<char> = bytes
        .iter()
        .map(|byte| char::from(ALPHABET[usize::from(byte % 32)]))
        .collect();
    let groups: Vec<String> = letters
        .chunks(5)
        .map(|group| group.iter().collect())
        .collect();
    Ok(groups.join("-"))
}

/// The code is random enough that a plain hash cannot be searched.
fn hash(code: &str) -> String {
    let letters: String = code
        .chars()
        .filter(char::is_ascii_alphanumeric)
        .map(|c| c.to_ascii_uppercase())
        .collect();
    Digest::of(letters.as_bytes()).hex()
}
