//! Wakes whoever waits for something about a Deployment.
//!
//! A wake-up says only "look again": a lost one costs a moment, never a fact.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use tokio::sync::watch;
use updraft_model::DeploymentId;

#[derive(Debug, Default)]
pub(crate) struct News {
    waiting: Mutex<HashMap<DeploymentId, watch::Sender<()>>>,
}

impl News {
    /// Subscribe first, look second: what happens in between is not missed.
    pub(crate) fn subscribe(&self, deployment: DeploymentId) -> watch::Receiver<()> {
        self.lock()
            .entry(deployment)
            .or_insert_with(|| watch::channel(()).0)
            .subscribe()
    }

    pub(crate) fn announce(&self, deployment: DeploymentId) {
        let mut waiting = self.lock();
        if let Some(sender) = waiting.get(&deployment)
            && sender.send(()).is_err()
        {
            waiting.remove(&deployment);
        }
    }

    /// How many wait for news of a Deployment.
    pub(crate) fn waiting(&self, deployment: DeploymentId) -> usize {
        let waiting = self.lock();
        waiting
            .get(&deployment)
            .map_or(0, watch::Sender::receiver_count)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<DeploymentId, watch::Sender<()>>> {
        // A panic while it was held left the map as it was.
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
