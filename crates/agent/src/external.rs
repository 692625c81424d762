//! Runtime `external`: somebody else runs Airflow, the agent delivers files to a
//! folder and, where it may, asks Airflow by its REST API.

use std::sync::Arc;

use tokio::sync::watch;
use updraft_api::agent::Wanted;

use crate::config::AgentConfig;
use crate::control::ControlPlane;
use crate::disk::Disk;
use crate::observed::Board;

pub(crate) struct External {
    pub(crate) config: Arc<AgentConfig>,
    pub(crate) control: ControlPlane,
    pub(crate) disk: Disk,
    pub(crate) board: Board,
    pub(crate) wanted: watch::Receiver<Option<Arc<Wanted>>>,
}

impl External {
    pub(crate) async fn run(self) {}
}
