//! Connections, variables and pools, read and written by Airflow's own models.

use std::io;
use std::time::Duration;

use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::runtime::logs;
use crate::runtime::supervisor::{Launcher, Spec};

/// What reads and writes objects is done within this.
const LIMIT: Duration = Duration::from_secs(120);

#[derive(Debug, thiserror::Error)]
pub(crate) enum ObjectsError {
    #[error("Airflow's database did not answer in time")]
    Late,
    #[error("could not start what reads Airflow's objects")]
    NotStarted(#[source] io::Error),
    /// What it wrote instead of an answer.
    #[error("Airflow did not say what it has: {0}")]
    NoAnswer(String),
    /// It says what is wrong, without a value.
    #[error("{0}")]
    Refused(String),
}

/// Asks a process that is told by its standard input: command lines and variables
/// are for others to see.
pub(crate) async fn ask(
    launcher: &Launcher,
    spec: &Spec,
    request: &Value,
) -> Result<Value, ObjectsError> {
    let log = launcher.files(spec.component).log;
    let offset = std::fs::metadata(&log).map_or(0, |it| it.len());
    let answered = tokio::time::timeout(LIMIT, answer(launcher, spec, request)).await;
    let text = answered
        .map_err(|_| ObjectsError::Late)?
        .map_err(ObjectsError::NotStarted)?;
    let answer: Value = serde_json::from_slice(&text)
        .map_err(|_| ObjectsError::NoAnswer(logs::tail(&log, offset, 20, &spec.hidden)))?;
    match answer["error"].as_str() {
        Some(error) => Err(ObjectsError::Refused(error.to_owned())),
        None => Ok(answer),
    }
}

async fn answer(launcher: &Launcher, spec: &Spec, request: &Value) -> io::Result<Vec<u8>> {
    let mut child = launcher.spawn(spec, true).await?;
    if let Some(mut input) = child.stdin.take() {
        // One that ends before it has read it says why.
        let _ = input.write_all(format!("{request}\n").as_bytes()).await;
    }
    let mut text = Vec::new();
    if let Some(output) = &mut child.stdout {
        output.read_to_end(&mut text).await?;
    }
    if child.wait().await?.found_another() {
        return Err(io::Error::other("another import or export is under way"));
    }
    Ok(text)
}
