//! Connections, variables and pools of a local Airflow.

use std::io;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use updraft_project::AirflowObjects;

use super::{LocalAirflow, LocalError, LocalRun};
use crate::runtime::logs;
use crate::runtime::supervisor::Spec;

/// What reads and writes objects is done within this.
const OBJECTS: Duration = Duration::from_secs(120);

/// What of Airflow is imported and exported.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ObjectKind {
    Connections,
    Variables,
    Pools,
}

impl ObjectKind {
    pub const ALL: [Self; 3] = [Self::Connections, Self::Variables, Self::Pools];
}

/// How many there were of each kind, and how many of them Airflow had otherwise.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Imported {
    pub connections: usize,
    pub variables: usize,
    pub pools: usize,
    pub changed: usize,
}

impl LocalAirflow {
    /// Gives Airflow what a settings file has, all of it or nothing. Twice is once.
    pub async fn import(
        &self,
        run: &LocalRun,
        objects: &AirflowObjects,
    ) -> Result<Imported, LocalError> {
        let request = json!({ "op": "import", "objects": objects });
        self.ask(run, &request).await
    }

    /// Reads what Airflow has, values included.
    pub async fn export(
        &self,
        run: &LocalRun,
        kinds: &[ObjectKind],
    ) -> Result<AirflowObjects, LocalError> {
        let request = json!({ "op": "export", "kinds": kinds });
        self.ask(run, &request).await
    }

    /// Has Airflow's own models do it, in a process that is told by its standard
    /// input: command lines and variables are for others to see.
    async fn ask<T: serde::de::DeserializeOwned>(
        &self,
        run: &LocalRun,
        request: &Value,
    ) -> Result<T, LocalError> {
        self.reach_engine_of(run).await?;
        let setup = self.setup(run);
        let spec = setup.common(&self.disk).objects();
        let offset = std::fs::metadata(self.log(spec.component)).map_or(0, |it| it.len());
        let answered = tokio::time::timeout(OBJECTS, self.answer(&spec, request)).await;
        let text = answered
            .map_err(|_| LocalError::Objects("Airflow's database did not answer in time".into()))?
            .map_err(|source| self.failed(source))?;
        self.remove_ended(run).await;
        let answer: Value = serde_json::from_slice(&text).map_err(|_| LocalError::Step {
            what: "asking Airflow for its objects".into(),
            said: logs::tail(&self.log(spec.component), offset, 20, &setup.hidden),
        })?;
        if let Some(error) = answer["error"].as_str() {
            return Err(LocalError::Objects(error.to_owned()));
        }
        // An error of serde's would quote what it read.
        serde_json::from_value(answer)
            .map_err(|_| LocalError::Objects("Airflow's answer makes no sense".into()))
    }

    async fn answer(&self, spec: &Spec, request: &Value) -> io::Result<Vec<u8>> {
        let mut child = self.launcher.spawn(spec, true).await?;
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
}
