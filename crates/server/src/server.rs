//! Starting and stopping a control plane.

use std::fs::{DirBuilder, File, OpenOptions, Permissions, TryLockError};
use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::{DirBuilderExt as _, PermissionsExt as _};
use std::path::PathBuf;
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use axum_server::Handle;
use axum_server::accept::NoDelayAcceptor;
use axum_server::tls_rustls::{RustlsAcceptor, RustlsConfig};
use tokio::sync::{RwLock, Semaphore};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use updraft_blob::{BlobError, Blobs};
use updraft_bundle::EMPTY_BLOB;
use updraft_model::{DeploymentId, Digest};
use updraft_store::{Store, StoreError};

use crate::agent::Leases;
use crate::app::{App, Parts, READERS};
use crate::auth::trust::{Issuers, Refusals};
use crate::auth::{KeyError, Keys, KnownCallers, Lacking};
use crate::backup::RESTORING;
use crate::bundle::Shelf;
use crate::config::ServerConfig;
use crate::metrics::Metrics;
use crate::news::News;
use crate::room::UploadRoom;
use crate::router::{Route, router};
use crate::{jobs, openapi};

/// How long requests that are under way get to end.
const DRAIN: Duration = Duration::from_secs(10);
/// More would only wait for the database.
const ANSWERS_AT_ONCE: usize = 64;
/// Agents that were last heard of this much before the very last one count again
/// after a restart, for one lease: longer than leases go unwritten.
const REVIVED: chrono::Duration = chrono::Duration::seconds(60);

#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error("`{address}` can be reached from other machines, and there is no certificate")]
    Insecure { address: SocketAddr },
    #[error("another control plane uses the data folder `{}`", .0.display())]
    DataDirInUse(PathBuf),
    #[error("the data folder `{}` was not restored completely", .0.display())]
    HalfRestored(PathBuf),
    #[error("could not make or open `{}`", path.display())]
    DataDir { path: PathBuf, source: io::Error },
    #[error("port {} of {} is in use", address.port(), address.ip())]
    PortInUse { address: SocketAddr },
    #[error("could not listen on {address}")]
    Listen {
        address: SocketAddr,
        source: io::Error,
    },
    #[error("could not use the certificate `{}` with its key", path.display())]
    Certificate { path: PathBuf, source: io::Error },
    #[error(transparent)]
    Keys(#[from] KeyError),
    #[error("could not prepare the blob store")]
    Blobs(#[from] BlobError),
    #[error("could not prepare the database")]
    Store(#[from] StoreError),
}

impl StartError {
    /// One sentence that says what to do next.
    pub fn help(&self) -> Option<&'static str> {
        match self {
            Self::Insecure { .. } => Some(
                "give --tls-cert and --tls-key, or --insecure-http if the network between is trusted",
            ),
            Self::DataDirInUse(_) => Some("stop the other one, or choose another --data-dir"),
            Self::HalfRestored(_) => Some("run `updraft restore` again"),
            Self::DataDir { .. } => Some("see whether the folder's parent is writable"),
            Self::PortInUse { .. } => {
                Some("stop what listens there, or choose another port with --listen")
            }
            Self::Listen { .. } => Some("choose an address of this machine with --listen"),
            Self::Certificate { .. } => {
                Some("both files are PEM; the key has to be that of the first certificate")
            }
            Self::Store(error) => error.help(),
            Self::Keys(error) => Some(error.help()),
            Self::Blobs(error) => Some(error.help()),
        }
    }
}

/// A control plane.
#[derive(Debug)]
pub struct Server;

/// A control plane that answers.
#[derive(Debug)]
pub struct RunningServer {
    addr: SocketAddr,
    app: App,
    handle: Handle<SocketAddr>,
    serving: JoinHandle<io::Result<()>>,
    table: Vec<Route>,
    _lock: File,
}

impl Server {
    /// Opens the data folder, brings the database up to date, listens.
    pub async fn start(config: ServerConfig) -> Result<RunningServer, StartError> {
        if !config.listen.ip().is_loopback() && config.tls.is_none() && !config.insecure_http {
            return Err(StartError::Insecure {
                address: config.listen,
            });
        }
        let lock = open_data_dir(&config)?;
        raise_file_limit();
        // Before anything else that takes time: a port in use is said at once.
        let listener = listen(config.listen)?;
        let addr = listener.local_addr().map_err(|source| StartError::Listen {
            address: config.listen,
            source,
        })?;
        // Where nobody chose yet; a choice that was made stays.
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let tls = match &config.tls {
            Some(files) => Some(
                RustlsConfig::from_pem_file(&files.certificate, &files.key)
                    .await
                    .map_err(|source| StartError::Certificate {
                        path: files.certificate.clone(),
                        source,
                    })?,
            ),
            None => None,
        };
        let scheme = if tls.is_some() { "https" } else { "http" };
        let public_url = match &config.public_url {
            Some(url) => url.trim_end_matches('/').to_owned(),
            None => format!("{scheme}://{}", reachable(addr)),
        };
        let app = open_app(config, public_url).await?;
        jobs::start(&app);

        let (router, document, table) = router(&app);
        app.openapi.get_or_init(|| openapi::text(&document));
        let handle = Handle::new();
        let service = router.into_make_service();
        let mut server = axum_server::from_tcp(listener)
            .map_err(|source| StartError::Listen {
                address: addr,
                source,
            })?
            .acceptor(NoDelayAcceptor::new())
            .handle(handle.clone());
        let serving = if let Some(tls) = tls {
            let server = server.map(|plain| RustlsAcceptor::new(tls).acceptor(plain));
            tokio::spawn(server.serve(service))
        } else {
            // Without TLS nobody agrees on HTTP/2, and looking out for it costs
            // memory for every agent that waits.
            let http = server.http_builder();
            *http = http.clone().http1_only();
            tokio::spawn(server.serve(service))
        };
        tracing::info!(%addr, scheme, "control plane listens");
        Ok(RunningServer {
            addr,
            app,
            handle,
            serving,
            table,
            _lock: lock,
        })
    }
}

impl RunningServer {
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// Whether nobody can sign in; false also when that cannot be told.
    pub async fn has_no_token(&self) -> bool {
        let has = async { self.app.store.look().await?.has_tokens().await };
        has.await.is_ok_and(|has| !has)
    }

    /// How users reach it.
    pub fn url(&self) -> &str {
        &self.app.public_url
    }

    /// What all operations share, for whoever calls them in this process.
    pub fn app(&self) -> &App {
        &self.app
    }

    /// Every route, with what it asks of who calls it.
    pub fn routes(&self) -> &[Route] {
        &self.table
    }

    /// The API's description of itself.
    pub fn openapi(&self) -> &str {
        self.app.openapi.get().map_or("", String::as_str)
    }

    /// How many requests wait for news of a Deployment.
    pub fn waiting(&self, deployment: DeploymentId) -> usize {
        self.app.news.waiting(deployment)
    }

    /// Takes no more requests, cuts long waits at once, lets the others end.
    pub async fn stop(self) {
        self.app.stopping.cancel();
        self.handle.graceful_shutdown(Some(DRAIN));
        let _ = self.serving.await;
        if let Err(error) = self.app.leases.write(&self.app.store).await {
            tracing::warn!(%error, "could not write leases");
        }
        self.app.store.close().await;
        tracing::info!("control plane stopped");
    }

    /// Ends at once the uploads that nobody finished in time.
    pub async fn expire_uploads(&self) -> Result<(), String> {
        jobs::expire_uploads(&self.app)
            .await
            .map_err(|error| crate::error::chain(&error))
    }

    /// Removes at once what nothing in the retention period names.
    pub async fn collect_garbage(&self) -> Result<u64, String> {
        jobs::collect_garbage(&self.app, jobs::Young::NOTHING)
            .await
            .map_err(|error| crate::error::chain(&error))
    }
}

fn open_data_dir(config: &ServerConfig) -> Result<File, StartError> {
    let path = &config.data_dir;
    let failed = |source| StartError::DataDir {
        path: path.clone(),
        source,
    };
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path)
        .map_err(failed)?;
    // Also when somebody made it beforehand: the database is for nobody else.
    std::fs::set_permissions(path, Permissions::from_mode(0o700)).map_err(failed)?;
    if path.join(RESTORING).exists() {
        return Err(StartError::HalfRestored(path.clone()));
    }
    let lock = OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .open(path.join("lock"))
        .map_err(failed)?;
    // One that is just ending has it for a moment more, and so has a process that
    // it was about to start.
    let end = Instant::now() + Duration::from_secs(1);
    loop {
        match lock.try_lock() {
            Ok(()) => return Ok(lock),
            Err(TryLockError::WouldBlock) if Instant::now() < end => {
                std::thread::sleep(Duration::from_millis(20));
            }
            Err(TryLockError::WouldBlock) => return Err(StartError::DataDirInUse(path.clone())),
            Err(TryLockError::Error(source)) => return Err(failed(source)),
        }
    }
}

/// Each waiting agent is an open file, and many systems start with room for a
/// thousand. As far as the system allows; when it does not, that shows later.
fn raise_file_limit() {
    use rustix::process::{Resource, getrlimit, setrlimit};
    let mut limit = getrlimit(Resource::Nofile);
    if limit.current != limit.maximum {
        limit.current = limit.maximum;
        let _ = setrlimit(Resource::Nofile, limit);
    }
}

/// An address that others can use: where it is every address of this machine,
/// this machine's name.
fn reachable(addr: SocketAddr) -> String {
    if !addr.ip().is_unspecified() {
        return addr.to_string();
    }
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    match name.trim() {
        "" => addr.to_string(),
        name => format!("{name}:{}", addr.port()),
    }
}

fn listen(address: SocketAddr) -> Result<std::net::TcpListener, StartError> {
    let listener = std::net::TcpListener::bind(address).map_err(|source| {
        if source.kind() == io::ErrorKind::AddrInUse {
            StartError::PortInUse { address }
        } else {
            StartError::Listen { address, source }
        }
    })?;
    listener
        .set_nonblocking(true)
        .map_err(|source| StartError::Listen { address, source })?;
    Ok(listener)
}

pub(crate) async fn open_store(config: &ServerConfig) -> Result<Store, StoreError> {
    match &config.database_url {
        Some(url) => Store::postgres(url).await,
        None => Store::sqlite(&config.database_file()).await,
    }
}

/// New keys beside a database that was used with others would refuse every
/// token and open no secret, so they are made only for a new one.
pub(crate) async fn lacking_keys(store: &Store) -> Result<Lacking, StoreError> {
    if store.look().await?.has_tokens().await? {
        Ok(Lacking::Refuse)
    } else {
        Ok(Lacking::Make)
    }
}

async fn open_app(config: ServerConfig, public_url: String) -> Result<App, StartError> {
    let blobs = Blobs::local(&config.data_dir)?;
    let store = open_store(&config).await?;
    let keys = Keys::open(&config.keys_dir(), lacking_keys(&store).await?)?;
    // Part of every bundle, so nobody has to send it.
    blobs.put(Digest::of(EMPTY_BLOB), EMPTY_BLOB.into()).await?;

    let at = config.clock.now();
    let lease = chrono::Duration::seconds(i64::from(config.lease_s));
    let mut tx = store.begin().await?;
    let workspace = tx.ensure_workspace("default", at).await?;
    tx.revive_leases(REVIVED.num_microseconds().unwrap_or(i64::MAX), at + lease)
        .await?;
    tx.commit().await?;

    Ok(App::new(Parts {
        leases: Leases::new(config.lease_s, config.clock.clone()),
        config,
        store,
        blobs,
        blob_gate: RwLock::new(()),
        keys,
        callers: KnownCallers::default(),
        issuers: Issuers::default(),
        refusals: Refusals::default(),
        shelf: Shelf::default(),
        news: News::default(),
        turns: Semaphore::new(ANSWERS_AT_ONCE),
        readers: Semaphore::new(READERS),
        upload_room: UploadRoom::new(),
        metrics: Metrics::new(),
        workspace,
        public_url,
        openapi: OnceLock::new(),
        stopping: CancellationToken::new(),
    }))
}
