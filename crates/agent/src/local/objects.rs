//! Connections, variables and pools of a local Airflow.

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use updraft_project::AirflowObjects;

use super::{LocalAirflow, LocalError, LocalRun};
use crate::airflow::objects::{self, ObjectsError};

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

    async fn ask<T: serde::de::DeserializeOwned>(
        &self,
        run: &LocalRun,
        request: &Value,
    ) -> Result<T, LocalError> {
        self.reach_engine_of(run).await?;
        let setup = self.setup(run);
        let spec = setup.common(&self.disk).objects();
        let answered = objects::ask(&self.launcher, &spec, request).await;
        self.remove_ended(run).await;
        let answer = answered.map_err(|error| match error {
            ObjectsError::Late | ObjectsError::Refused(_) => LocalError::Objects(error.to_string()),
            ObjectsError::NotStarted(source) => self.failed(source),
            ObjectsError::NoAnswer(said) => LocalError::Step {
                what: "asking Airflow for its objects".into(),
                said,
            },
        })?;
        // An error of serde's would quote what it read.
        serde_json::from_value(answer)
            .map_err(|_| LocalError::Objects("Airflow's answer makes no sense".into()))
    }
}
