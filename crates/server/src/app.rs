//! What all operations share.

use std::ops::Deref;
use std::sync::{Arc, OnceLock};

use tokio::sync::{RwLock, Semaphore};
use tokio_util::sync::CancellationToken;
use updraft_blob::Blobs;
use updraft_model::{DeploymentId, Timestamp, WorkspaceId};
use updraft_store::Store;

use crate::agent::Leases;
use crate::auth::trust::{Issuers, Refusals};
use crate::auth::{Keys, KnownCallers};
use crate::bundle::Shelf;
use crate::config::ServerConfig;
use crate::metrics::Metrics;
use crate::news::News;
use crate::room::UploadRoom;

/// Archives that are read at once: each is a thread, with its bytes in memory.
pub(crate) const READERS: usize = 4;

/// The control plane's parts; cheap to clone.
#[derive(Clone)]
pub struct App(Arc<Parts>);

pub struct Parts {
    pub(crate) config: ServerConfig,
    pub(crate) store: Store,
    pub(crate) blobs: Blobs,
    /// Held shared while blobs are counted on, alone while unused ones go.
    pub(crate) blob_gate: RwLock<()>,
    pub(crate) keys: Keys,
    pub(crate) callers: KnownCallers,
    /// Of pipelines that are trusted.
    pub(crate) issuers: Issuers,
    pub(crate) refusals: Refusals,
    pub(crate) shelf: Shelf,
    pub(crate) news: News,
    /// How many agents that wait are answered at once.
    pub(crate) turns: Semaphore,
    pub(crate) upload_room: UploadRoom,
    /// How many archives are read at once, whoever sent them.
    pub(crate) readers: Semaphore,
    pub(crate) leases: Leases,
    pub(crate) metrics: Metrics,
    /// The one Workspace that there is until there are more.
    pub(crate) workspace: WorkspaceId,
    /// How users reach this control plane, without a slash at the end.
    pub(crate) public_url: String,
    /// The API's description of itself; known once there is a router.
    pub(crate) openapi: OnceLock<String>,
    /// Long waits end when this is cancelled.
    pub(crate) stopping: CancellationToken,
}

impl App {
    pub(crate) fn new(parts: Parts) -> Self {
        Self(Arc::new(parts))
    }

    pub(crate) fn now(&self) -> Timestamp {
        self.config.clock.now()
    }

    /// Says that something about a Deployment changed. Only after the commit:
    /// who looked earlier would find nothing new.
    pub(crate) fn announce(&self, deployment: DeploymentId) {
        self.news.announce(deployment);
    }
}

impl Deref for App {
    type Target = Parts;

    fn deref(&self) -> &Parts {
        &self.0
    }
}

impl std::fmt::Debug for App {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("App").finish_non_exhaustive()
    }
}
