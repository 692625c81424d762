//! How a control plane runs.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;

use updraft_bundle::Limits as BundleLimits;

use crate::clock::Clock;

/// Everything a control plane is told. [`ServerConfig::new`] has the defaults.
#[derive(Debug, Clone)]
pub struct ServerConfig {
    /// The database, blobs and keys, unless a setting puts them elsewhere.
    pub data_dir: PathBuf,
    pub listen: SocketAddr,
    pub tls: Option<TlsFiles>,
    /// Allows plain http on an address that other machines reach.
    pub insecure_http: bool,
    /// A PostgreSQL database instead of SQLite in the data folder.
    pub database_url: Option<String>,
    /// How users reach this control plane, when that is not the address it listens on.
    pub public_url: Option<String>,
    pub limits: Limits,
    /// How long an agent counts after it was last heard of.
    pub lease_s: u32,
    /// How long an upload may rest before it expires.
    pub upload_expiry_s: u32,
    /// How much later than the Deployment's own limit a proof may come before
    /// the control plane gives up on its own.
    pub proof_grace_s: u32,
    /// How long a deploy's blobs stay after it was made.
    pub retention_days: u32,
    /// Most bytes in the registry's repositories of one Deployment; none for no limit.
    pub registry_quota: Option<u64>,
    /// How often to look for what ran out of time.
    pub sweep_ms: u64,
    pub clock: Clock,
}

#[derive(Debug, Clone)]
pub struct TlsFiles {
    pub certificate: PathBuf,
    pub key: PathBuf,
}

#[derive(Debug, Clone, Copy)]
pub struct Limits {
    pub bundle: BundleLimits,
    /// Most bytes in one blob as it is sent.
    pub blob_bytes: u64,
    /// Most bytes in one request that is not an upload.
    pub request_bytes: usize,
    /// Most bundles in one deploy.
    pub bundles: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            bundle: BundleLimits::default(),
            blob_bytes: 256 << 20,
            request_bytes: 32 << 20,
            bundles: 64,
        }
    }
}

impl Limits {
    /// The usual, but for what a bundle may hold. One blob carries whole files,
    /// so it may be as large as the largest.
    pub fn of_bundles(bundle: BundleLimits) -> Self {
        let usual = Self::default();
        Self {
            bundle,
            blob_bytes: usual
                .blob_bytes
                .max(bundle.file_bytes.saturating_add(1 << 20)),
            ..usual
        }
    }
}

impl ServerConfig {
    /// A control plane for this machine alone.
    pub fn new(data_dir: impl Into<PathBuf>) -> Self {
        Self {
            data_dir: data_dir.into(),
            listen: SocketAddr::from((Ipv4Addr::LOCALHOST, 8888)),
            tls: None,
            insecure_http: false,
            database_url: None,
            public_url: None,
            limits: Limits::default(),
            lease_s: 15,
            upload_expiry_s: 3600,
            proof_grace_s: 15,
            retention_days: 90,
            registry_quota: None,
            sweep_ms: 1000,
            clock: Clock::default(),
        }
    }

    pub(crate) fn keys_dir(&self) -> PathBuf {
        self.data_dir.join("keys")
    }

    pub(crate) fn database_file(&self) -> PathBuf {
        self.data_dir.join("updraft.db")
    }
}
