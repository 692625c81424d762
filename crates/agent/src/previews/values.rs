//! What a Preview's Airflow gets of the connections, variables and pools of the
//! Deployment that it is made from: once, before it parses a DAG file.
//!
//! The control plane has no route to an Airflow, and values are not its business:
//! one agent runs both, so they go from a process of the one Airflow to a process of
//! the other, and are in no file, no log and no argument.

use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio::sync::{Mutex, watch};
use tokio::time::{Instant, sleep, timeout_at};
use updraft_model::{DeploymentName, PreviewValues, ReleaseId};

use super::lending::Lender;
use crate::airflow::components::Common;
use crate::airflow::objects;
use crate::control::explain;
use crate::converge::Converge;
use crate::deliver::PassError;
use crate::disk::Live;
use crate::observed::Board;
use crate::runtime::supervisor::{Launcher, Spec};

/// How long the Airflow that a Preview is made from may take to be there.
const WAIT: Duration = Duration::from_secs(120);
const ASK_AGAIN: Duration = Duration::from_secs(2);

const GIVEN: &str = "values.json";

/// The Deployment that a Preview is made from, as its agent knows it.
#[derive(Clone)]
pub(crate) struct Origin {
    pub(crate) name: DeploymentName,
    pub(crate) values: PreviewValues,
    /// Whose environments the Preview's agent may use.
    pub(crate) lender: Lender,
    pub(crate) objects: watch::Receiver<Option<Objects>>,
    /// Whether its Airflow runs as the same user as the Preview's.
    pub(crate) shares_user: bool,
}

/// Reads an Airflow's objects.
#[derive(Clone)]
pub(crate) struct Objects {
    pub(crate) launcher: Launcher,
    pub(crate) spec: Spec,
    /// One at a time: each is the one process of its name.
    pub(crate) asking: Arc<Mutex<()>>,
}

/// What became of the values of a Preview.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "snake_case")]
enum Given {
    Copied {
        values: PreviewValues,
        at: DateTime<Utc>,
        connections: u64,
        variables: u64,
        pools: u64,
    },
    /// The next Release tries again.
    Without { release: ReleaseId, why: String },
}

impl Objects {
    async fn export(&self, values: PreviewValues) -> Result<Value, String> {
        let kinds = ["connections", "variables", "pools"];
        let request = json!({ "op": "export", "kinds": kinds, "values": values });
        let _asking = self.asking.lock().await;
        let answer = objects::ask(&self.launcher, &self.spec, &request).await;
        answer.map_err(|error| explain(&error))
    }
}

impl Origin {
    /// What its Airflow has, once that can be asked.
    async fn export(&self, board: &Board) -> Result<Value, String> {
        let end = Instant::now() + WAIT;
        let mut objects = self.objects.clone();
        if objects.borrow().is_none() {
            let name = &self.name;
            board.busy(format!(
                "waiting for the Airflow of `{name}`, to copy its connections and variables"
            ));
        }
        let mut why = "its Airflow is not up".to_owned();
        loop {
            let found = timeout_at(end, objects.wait_for(Option::is_some)).await;
            let Some(found) = found.ok().and_then(|it| it.ok()?.clone()) else {
                break;
            };
            match found.export(self.values).await {
                Ok(exported) => return Ok(exported),
                Err(error) => why = error,
            }
            if Instant::now() + ASK_AGAIN > end {
                break;
            }
            sleep(ASK_AGAIN).await;
        }
        Err(why)
    }
}

impl Converge {
    /// Gives a Preview's Airflow its values, where it has not got them. Comes back
    /// with what is to be said about that.
    pub(crate) async fn give_values(
        &self,
        common: &Common<'_>,
        live: &Live,
    ) -> Result<Option<String>, PassError> {
        let Some(origin) = &self.origin else {
            return Ok(None);
        };
        if origin.values == PreviewValues::None {
            return Ok(None);
        }
        let release = live.release.id;
        let before: Option<Given> = self.deliver.read(GIVEN)?;
        // Somebody may have made by hand what was missing.
        let only_new = before.is_some();
        match before {
            Some(Given::Copied { .. }) => return Ok(None),
            Some(Given::Without { release: of, why }) if of == release => return Ok(Some(why)),
            Some(Given::Without { .. }) | None => {}
        }
        let (given, note) = match self.copy_values(origin, common, only_new).await {
            Ok(copied) => (copied, None),
            Err(why) => {
                let why = format!(
                    "connections, variables and pools of `{}` were not copied, and the next deploy tries again: {why}",
                    origin.name
                );
                tracing::warn!("{why}");
                let note = Some(why.clone());
                (Given::Without { release, why }, note)
            }
        };
        self.deliver.keep(GIVEN, &given)?;
        Ok(note)
    }

    async fn copy_values(
        &self,
        origin: &Origin,
        common: &Common<'_>,
        only_new: bool,
    ) -> Result<Given, String> {
        let (name, values) = (&origin.name, origin.values);
        let board = &self.deliver.board;
        let exported = origin.export(board).await?;
        let masked = match values {
            PreviewValues::Mask => " without secrets",
            PreviewValues::Copy | PreviewValues::None => "",
        };
        board.busy(format!(
            "copying connections, variables and pools of `{name}`{masked}"
        ));
        let request = json!({ "op": "import", "objects": exported, "only_new": only_new });
        let answer = objects::ask(&self.launcher, &common.objects(), &request).await;
        let answer = answer.map_err(|error| explain(&error))?;
        let count = |kind: &str| answer[kind].as_u64().unwrap_or_default();
        Ok(Given::Copied {
            values,
            at: Utc::now(),
            connections: count("connections"),
            variables: count("variables"),
            pools: count("pools"),
        })
    }
}
