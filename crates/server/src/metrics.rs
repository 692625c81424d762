//! What `/metrics` tells Prometheus.

use std::sync::atomic::{AtomicI64, AtomicU64};
use std::time::Duration;

use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;
use updraft_model::DeployState;
use updraft_store::Deploy;

use crate::deploy::Advanced;

type Labels = Vec<(&'static str, String)>;

#[derive(Debug)]
pub(crate) struct Metrics {
    registry: Registry,
    requests: Family<Labels, Counter<u64, AtomicU64>>,
    request_seconds: Family<Labels, Histogram>,
    deploys: Family<Labels, Counter<u64, AtomicU64>>,
    deploy_seconds: Family<Labels, Histogram>,
    agents: Gauge<i64, AtomicI64>,
    blob_bytes: Gauge<i64, AtomicI64>,
    blobs: Gauge<i64, AtomicI64>,
}

fn request_buckets() -> Histogram {
    Histogram::new([0.001, 0.005, 0.02, 0.1, 0.5, 2.0, 10.0, 60.0])
}

fn deploy_buckets() -> Histogram {
    Histogram::new([
        0.05, 0.1, 0.25, 0.5, 1.0, 2.0, 5.0, 15.0, 60.0, 300.0, 1800.0,
    ])
}

impl Metrics {
    pub(crate) fn new() -> Self {
        let mut registry = Registry::with_prefix("updraft");
        let requests = Family::default();
        registry.register("requests", "Requests by route and status", requests.clone());
        let request_seconds = Family::new_with_constructor(request_buckets as fn() -> Histogram);
        registry.register(
            "request_duration_seconds",
            "Time to answer, by route",
            request_seconds.clone(),
        );
        let deploys = Family::default();
        registry.register(
            "deploys",
            "Deploys by the state they came to",
            deploys.clone(),
        );
        let deploy_seconds = Family::new_with_constructor(deploy_buckets as fn() -> Histogram);
        registry.register(
            "deploy_duration_seconds",
            "Time from a deploy's creation until it was accepted, on disk, live",
            deploy_seconds.clone(),
        );
        let agents = Gauge::default();
        registry.register(
            "agents_connected",
            "Agents that hold a lease",
            agents.clone(),
        );
        let blob_bytes = Gauge::default();
        registry.register("blob_bytes", "Bytes in the blob store", blob_bytes.clone());
        let blobs = Gauge::default();
        registry.register("blobs", "Blobs in the blob store", blobs.clone());
        Self {
            registry,
            requests,
            request_seconds,
            deploys,
            deploy_seconds,
            agents,
            blob_bytes,
            blobs,
        }
    }

    pub(crate) fn request(&self, method: &str, route: &str, status: u16, took: Duration) {
        let route = vec![("method", method.to_owned()), ("route", route.to_owned())];
        self.request_seconds
            .get_or_create(&route)
            .observe(took.as_secs_f64());
        let mut labels = route;
        labels.push(("status", status.to_string()));
        self.requests.get_or_create(&labels).inc();
    }

    /// Counts a deploy that came to a state people ask about.
    pub(crate) fn deploy_came_to(&self, deploy: &Deploy) {
        let outcome = vec![("state", deploy.state.name().to_owned())];
        self.deploys.get_or_create(&outcome).inc();
        if let DeployState::Live { since, .. } = &deploy.state {
            self.deploy_took(deploy, "live", *since);
        }
    }

    /// Counts what evidence moved, after the commit.
    pub(crate) fn advanced(&self, advanced: &Advanced) {
        for deploy in &advanced.moved {
            self.deploy_came_to(deploy);
        }
        if let Some(deploy) = &advanced.on_disk
            && let Some(at) = deploy.on_disk_at
        {
            self.deploy_took(deploy, "on_disk", at);
        }
    }

    /// Observes how long a deploy took to get somewhere.
    pub(crate) fn deploy_took(
        &self,
        deploy: &Deploy,
        until: &'static str,
        at: updraft_model::Timestamp,
    ) {
        if let Ok(took) = (at - deploy.created_at).to_std() {
            self.deploy_seconds
                .get_or_create(&vec![("until", until.to_owned())])
                .observe(took.as_secs_f64());
        }
    }

    pub(crate) fn agents(&self, connected: i64) {
        self.agents.set(connected);
    }

    pub(crate) fn blobs(&self, count: usize, bytes: u64) {
        self.blobs.set(i64::try_from(count).unwrap_or(i64::MAX));
        self.blob_bytes
            .set(i64::try_from(bytes).unwrap_or(i64::MAX));
    }

    pub(crate) fn text(&self) -> String {
        let mut text = String::new();
        // Writing to a string does not fail.
        let _ = encode(&mut text, &self.registry);
        text
    }
}
