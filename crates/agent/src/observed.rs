//! What the agent sees, whole, in one place: the report is made from it, and so
//! is what `quickstart` shows.

use std::sync::Arc;

use chrono::{DateTime, Utc};
use tokio::sync::watch;
use updraft_api::agent::{AirflowView, Problem, ProofReport};
use updraft_model::{AirflowNames, DagIds, Digest, ImportError, Release, UnfinishedRuns};

/// The agent's view of itself and of its Airflow.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Observed {
    /// The newest generation of what is wanted that the agent has seen.
    pub generation: i64,
    /// The wanted Release, once all of it is on this disk.
    pub staged: Option<Release>,
    /// The Release that the live tree is.
    pub serving: Option<Release>,
    pub switched_at: Option<DateTime<Utc>>,
    pub proof: Option<ProofReport>,
    /// What the agent is busy with.
    pub activity: Option<String>,
    pub problem: Option<Problem>,
    pub isolation: String,
    pub airflow: Option<AirflowView>,
    /// Whether Airflow's components are up and its API answers.
    pub airflow_up: bool,
    pub dags: Option<u64>,
    pub import_errors: Vec<ImportError>,
    pub names: Option<AirflowNames>,
    pub dag_ids: Option<KnownDagIds>,
    pub runs: Option<UnfinishedRuns>,
    /// Whether the control plane answered last time.
    pub connected: bool,
}

/// The ids of Airflow's DAGs, and what stands for them in reports.
#[derive(Debug, Clone, PartialEq)]
pub struct KnownDagIds {
    pub digest: Digest,
    pub bundles: Arc<DagIds>,
}

impl KnownDagIds {
    /// None where there are more than the control plane takes.
    pub(crate) fn new(bundles: DagIds) -> Option<Self> {
        if bundles.are_too_many() {
            tracing::debug!("Airflow has more DAGs than are told, so checks do not know their ids");
            return None;
        }
        let text = serde_json::to_vec(&bundles).ok()?;
        Some(Self {
            digest: Digest::of(&text),
            bundles: Arc::new(bundles),
        })
    }
}

/// A handle to change it with; equal values wake nobody.
#[derive(Debug, Clone)]
pub(crate) struct Board(watch::Sender<Observed>);

impl Board {
    pub(crate) fn new(observed: Observed) -> Self {
        Self(watch::Sender::new(observed))
    }

    pub(crate) fn subscribe(&self) -> watch::Receiver<Observed> {
        self.0.subscribe()
    }

    pub(crate) fn read(&self) -> Observed {
        self.0.borrow().clone()
    }

    pub(crate) fn change(&self, change: impl FnOnce(&mut Observed)) {
        self.0.send_if_modified(|observed| {
            let before = observed.clone();
            change(observed);
            *observed != before
        });
    }

    pub(crate) fn busy(&self, activity: impl Into<String>) {
        let activity = activity.into();
        tracing::info!("{activity}");
        self.change(|observed| observed.activity = Some(activity));
    }
}
