//! A control plane of one Deployment, with state: what is wanted changes, and
//! what was reported is kept. It can misbehave, which the real one cannot be
//! asked to.
#![allow(dead_code, unreachable_pub, clippy::unwrap_used, clippy::print_stderr)]

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::{Duration, Instant};

use axum::extract::{Path as UrlPath, Query, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use bytes::Bytes;
use serde::Deserialize;
use tokio::sync::watch;
use updraft_agent::{
    Agent, AgentConfig, ExternalConfig, RootError, RunningAgent, StartError, TokenSource,
};
use updraft_api::agent::{
    FetchBlobs, Report, ReportAnswer, TakePreview, TakenPreview, Target, Wanted,
};
use updraft_api::client::Connect;
use updraft_api::{ErrorBody, ErrorCode, frames};
use updraft_bundle::{ScanOptions, scan};
use updraft_model::{
    BundleRef, DeployId, DeploymentId, Digest, ImageRef, ProofOutcome, Release, ReleaseId, Runtime,
};

#[derive(Clone)]
pub struct ControlPlane {
    pub address: String,
    shared: Arc<Shared>,
}

struct Shared {
    wanted: watch::Sender<Wanted>,
    blobs: Mutex<HashMap<Digest, Bytes>>,
    reports: watch::Sender<Option<Report>>,
    all: Mutex<Vec<Report>>,
    /// Blobs that were asked for, in order.
    asked: Mutex<Vec<Digest>>,
    /// Answers with errors while set.
    down: Mutex<bool>,
    /// Begins to answer a fetch and then says nothing while set.
    silent: Mutex<bool>,
    /// Agents switch as soon as they have staged.
    may_switch: Mutex<bool>,
    /// Who takes a Preview is told that another agent has it, while set.
    is_taken: Mutex<bool>,
    /// Takes of Previews that were granted, in order.
    takes: Mutex<Vec<DeploymentId>>,
    /// What Previews' own agents reported last.
    previews: watch::Sender<BTreeMap<DeploymentId, Report>>,
}

#[derive(Deserialize)]
struct Poll {
    generation: i64,
    wait_s: u64,
}

impl ControlPlane {
    pub async fn start() -> Self {
        let wanted = Wanted {
            generation: 1,
            deployment: DeploymentId::new(),
            deployment_name: "test".parse().unwrap(),
            runtime: Runtime::Process,
            executor: "LocalExecutor".into(),
            environment: BTreeMap::new(),
            target: None,
            proven: None,
            keep: Vec::new(),
            lease_s: 30,
            previews: Vec::new(),
            view_url: "http://127.0.0.1:1/versions/{version}".into(),
        };
        let shared = Arc::new(Shared {
            wanted: watch::Sender::new(wanted),
            blobs: Mutex::default(),
            reports: watch::Sender::new(None),
            all: Mutex::default(),
            asked: Mutex::default(),
            down: Mutex::new(false),
            silent: Mutex::new(false),
            may_switch: Mutex::new(true),
            is_taken: Mutex::default(),
            takes: Mutex::default(),
            previews: watch::Sender::default(),
        });
        let routes = Router::new()
            .route("/api/v1/agent/wanted", get(wanted_answer))
            .route("/api/v1/agent/report", post(take_report))
            .route("/api/v1/agent/blobs", post(send_blobs))
            .route("/api/v1/agent/previews/{id}/take", post(take_preview))
            .with_state(Arc::clone(&shared));
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = format!("http://{}", listener.local_addr().unwrap());
        tokio::spawn(async move { axum::serve(listener, routes).await.unwrap() });
        Self { address, shared }
    }

    pub fn deployment(&self) -> DeploymentId {
        self.shared.wanted.borrow().deployment
    }

    pub fn change(&self, change: impl FnOnce(&mut Wanted)) {
        self.shared.wanted.send_modify(|wanted| {
            change(wanted);
            wanted.generation += 1;
        });
    }

    /// Makes it so that another agent has every Preview, or none has.
    pub fn set_taken(&self, taken: bool) {
        *self.shared.is_taken.lock().unwrap() = taken;
    }

    pub fn takes(&self) -> Vec<DeploymentId> {
        self.shared.takes.lock().unwrap().clone()
    }

    /// Waits for a report of a Preview's own agent.
    pub async fn preview_reported(&self, preview: DeploymentId, limit: Duration) -> Report {
        let mut reports = self.shared.previews.subscribe();
        let found = reports.wait_for(|reports| reports.contains_key(&preview));
        let found = tokio::time::timeout(limit, found).await;
        let reports = found.expect("the Preview's agent reported").unwrap();
        reports[&preview].clone()
    }

    pub fn forget_preview_reports(&self) {
        self.shared.previews.send_replace(BTreeMap::new());
    }

    pub fn put(&self, bytes: impl Into<Bytes>) -> Digest {
        let bytes = bytes.into();
        let digest = Digest::of(&bytes);
        self.shared.blobs.lock().unwrap().insert(digest, bytes);
        digest
    }

    /// Sends other bytes for a digest.
    pub fn corrupt(&self, digest: Digest) {
        self.shared
            .blobs
            .lock()
            .unwrap()
            .insert(digest, Bytes::from_static(b"corrupt"));
    }

    /// Loses everything that was uploaded.
    pub fn forget_blobs(&self) {
        self.shared.blobs.lock().unwrap().clear();
    }

    pub fn set_down(&self, down: bool) {
        *self.shared.down.lock().unwrap() = down;
    }

    pub fn set_silent(&self, silent: bool) {
        *self.shared.silent.lock().unwrap() = silent;
    }

    /// Waits until an agent has asked for a blob since the last look.
    pub async fn until_asked(&self, limit: Duration) {
        let end = Instant::now() + limit;
        while self.shared.asked.lock().unwrap().is_empty() {
            assert!(Instant::now() < end, "nobody asked for a blob");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    pub fn set_may_switch(&self, may: bool) {
        *self.shared.may_switch.lock().unwrap() = may;
        self.change(|wanted| {
            if let Some(target) = &mut wanted.target {
                target.may_switch = may;
            }
        });
    }

    pub fn asked(&self) -> Vec<Digest> {
        std::mem::take(&mut self.shared.asked.lock().unwrap())
    }

    /// Uploads a folder as a bundle.
    pub fn upload(&self, folder: &Path) -> Digest {
        let scanned = scan(folder, &ScanOptions::default()).unwrap();
        for layer in scanned.manifest().layers() {
            self.put(scanned.layer_bytes(&layer.digest).unwrap());
        }
        self.put(updraft_bundle::EMPTY_BLOB);
        self.put(scanned.manifest().to_bytes())
    }

    /// Makes this the wanted Release. Gives the deploy's parts back.
    pub fn deploy(&self, image: Digest, bundles: &[(&str, Digest)]) -> Release {
        let release = Release {
            id: ReleaseId::new(),
            image: ImageRef::Environment { digest: image },
            bundles: bundles
                .iter()
                .map(|(name, digest)| (name.parse().unwrap(), BundleRef { digest: *digest }))
                .collect(),
        };
        self.want(&release, 1);
        release
    }

    pub fn want(&self, release: &Release, attempt: u32) {
        let may_switch = *self.shared.may_switch.lock().unwrap();
        self.change(|wanted| {
            wanted.target = Some(Target {
                deploy: DeployId::new(),
                release: release.clone(),
                attempt,
                may_switch,
                proof_timeout_s: 300,
                allow_downgrade: false,
            });
        });
    }

    /// Waits for a report that says yes.
    pub async fn reported(&self, limit: Duration, wanted: impl Fn(&Report) -> bool) -> Report {
        let mut reports = self.shared.reports.subscribe();
        let found = tokio::time::timeout(limit, async {
            reports
                .wait_for(|report| report.as_ref().is_some_and(&wanted))
                .await
                .unwrap()
                .clone()
                .unwrap()
        })
        .await;
        found.unwrap_or_else(|_| panic!("the last report: {:#?}", self.shared.reports.borrow()))
    }

    pub fn forget_reports(&self) {
        self.shared.reports.send_replace(None);
        self.shared.all.lock().unwrap().clear();
    }

    /// Every report until one says yes.
    pub async fn all_reports(
        &self,
        limit: Duration,
        wanted: impl Fn(&Report) -> bool,
    ) -> Vec<Report> {
        self.reported(limit, wanted).await;
        self.shared.all.lock().unwrap().clone()
    }

    pub async fn serving(&self, release: &Release, limit: Duration) -> Report {
        self.reported(limit, |report| report.serving == Some(release.id))
            .await
    }

    /// Waits for the end of a proof, and takes it as the real one would.
    pub async fn proof(&self, release: &Release, limit: Duration) -> Report {
        let report = self
            .reported(limit, |report| {
                report
                    .proof
                    .as_ref()
                    .is_some_and(|proof| proof.release == release.id)
            })
            .await;
        if report.proof.as_ref().unwrap().proof.outcome == ProofOutcome::Proven {
            self.change(|wanted| wanted.proven = Some(release.clone()));
        }
        report
    }
}

/// The Preview that a token was given for.
fn preview_of(headers: &HeaderMap) -> Option<DeploymentId> {
    let authorization = headers.get("authorization")?.to_str().ok()?;
    authorization.strip_prefix("Bearer preview-")?.parse().ok()
}

async fn take_preview(
    State(shared): State<Arc<Shared>>,
    UrlPath(preview): UrlPath<DeploymentId>,
    Json(_): Json<TakePreview>,
) -> Response {
    if *shared.is_taken.lock().unwrap() {
        let taken = ErrorBody {
            code: ErrorCode::PreviewTaken,
            message: "another agent runs it".into(),
            help: None,
            request_id: String::new(),
        };
        return (StatusCode::CONFLICT, Json(taken)).into_response();
    }
    shared.takes.lock().unwrap().push(preview);
    let secret = format!("preview-{preview}");
    Json(TakenPreview { secret }).into_response()
}

async fn wanted_answer(
    State(shared): State<Arc<Shared>>,
    Query(poll): Query<Poll>,
    headers: HeaderMap,
) -> Response {
    if *shared.down.lock().unwrap() {
        return StatusCode::BAD_GATEWAY.into_response();
    }
    if let Some(preview) = preview_of(&headers) {
        if poll.generation > 0 {
            tokio::time::sleep(Duration::from_secs(poll.wait_s)).await;
            return StatusCode::NO_CONTENT.into_response();
        }
        let mut wanted = shared.wanted.borrow().clone();
        wanted.deployment = preview;
        wanted.previews.clear();
        return Json(wanted).into_response();
    }
    let mut wanted = shared.wanted.subscribe();
    let newer = wanted.wait_for(|wanted| wanted.generation > poll.generation);
    match tokio::time::timeout(Duration::from_secs(poll.wait_s), newer).await {
        Ok(Ok(wanted)) => Json(wanted.clone()).into_response(),
        _ => StatusCode::NO_CONTENT.into_response(),
    }
}

async fn take_report(
    State(shared): State<Arc<Shared>>,
    headers: HeaderMap,
    Json(report): Json<Report>,
) -> Response {
    if *shared.down.lock().unwrap() {
        return StatusCode::BAD_GATEWAY.into_response();
    }
    if let Some(preview) = preview_of(&headers) {
        shared.previews.send_modify(|reports| {
            reports.insert(preview, report.clone());
        });
    } else {
        shared.all.lock().unwrap().push(report.clone());
        shared.reports.send_replace(Some(report));
    }
    let generation = shared.wanted.borrow().generation;
    Json(ReportAnswer {
        lacks_dag_ids: false,
        generation,
        lease_until: chrono::Utc::now() + Duration::from_secs(30),
    })
    .into_response()
}

async fn send_blobs(State(shared): State<Arc<Shared>>, Json(ask): Json<FetchBlobs>) -> Response {
    if *shared.down.lock().unwrap() {
        return StatusCode::BAD_GATEWAY.into_response();
    }
    if *shared.silent.lock().unwrap() {
        shared.asked.lock().unwrap().extend(ask.digests);
        let never = futures_util::stream::pending::<std::io::Result<Bytes>>();
        return axum::body::Body::from_stream(never).into_response();
    }
    let blobs = shared.blobs.lock().unwrap();
    let mut body = Vec::new();
    for digest in &ask.digests {
        shared.asked.lock().unwrap().push(*digest);
        if let Some(bytes) = blobs.get(digest) {
            body.extend_from_slice(&frames::head(*digest, bytes.len() as u64));
            body.extend_from_slice(bytes);
        }
    }
    body.into_response()
}

/// Folders of one test, which Airflow's user can get to.
pub struct Place {
    folder: tempfile::TempDir,
}

impl Place {
    pub fn new() -> Self {
        static LOG: OnceLock<()> = OnceLock::new();
        LOG.get_or_init(|| {
            let _ = tracing_subscriber::fmt()
                .with_env_filter(std::env::var("RUST_LOG").unwrap_or_else(|_| "off".into()))
                .with_writer(std::io::stderr)
                .try_init();
        });
        let folder = tempfile::Builder::new()
            .prefix("updraft-agent-")
            .tempdir()
            .unwrap();
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o711)).unwrap();
        Self { folder }
    }

    pub fn path(&self) -> &Path {
        self.folder.path()
    }

    pub fn root(&self) -> PathBuf {
        self.folder.path().join("agent")
    }

    /// Writes files below a folder of this name.
    pub fn files(&self, name: &str, files: &[(&str, &str)]) -> PathBuf {
        let root = self.folder.path().join(name);
        fs::create_dir_all(&root).unwrap();
        for (path, content) in files {
            let path = root.join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, content).unwrap();
        }
        root
    }

    pub fn config(&self, control: &ControlPlane) -> AgentConfig {
        let connect = Connect {
            server: control.address.clone(),
            ..Connect::default()
        };
        let token = TokenSource::Value("secret-token".into());
        AgentConfig::new(self.root(), connect, token).unwrap()
    }

    /// An agent that only delivers, which is all that these tests look at.
    pub fn start_external(&self, control: &ControlPlane) -> RunningAgent {
        let external = ExternalConfig {
            folder: self.offered(),
            airflow: None,
        };
        self.start(control, Some(&external))
    }

    /// An agent that runs Airflow itself, unless somebody else does.
    pub fn start(&self, control: &ControlPlane, external: Option<&ExternalConfig>) -> RunningAgent {
        let begun = Instant::now();
        loop {
            let mut config = self.config(control);
            config.external = external.cloned();
            match Agent::start(config) {
                // A program that another test starts has the lock of an agent that
                // ended, until it has become that program.
                Err(StartError::Root(RootError::Locked(_)))
                    if begun.elapsed() < Duration::from_secs(10) =>
                {
                    std::thread::sleep(Duration::from_millis(20));
                }
                started => return started.unwrap(),
            }
        }
    }

    pub fn offered(&self) -> PathBuf {
        self.folder.path().join("offered/dags")
    }

    /// What `live` shows of a bundle, by path.
    pub fn live(&self, control: &ControlPlane, bundle: &str) -> BTreeMap<String, String> {
        let folder = self
            .root()
            .join(control.deployment().to_string())
            .join("live")
            .join(bundle);
        read_tree(&folder.join("current"))
    }
}

/// An agent in a process of its own, which can be killed.
pub struct AgentProcess {
    pub child: std::process::Child,
}

impl Drop for AgentProcess {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl AgentProcess {
    /// Waits for its end; false when it is still there after the limit.
    pub async fn ended(&mut self, limit: Duration) -> bool {
        let end = Instant::now() + limit;
        while Instant::now() < end {
            if self.child.try_wait().unwrap().is_some() {
                return true;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        false
    }
}

impl Place {
    /// Starts an agent as a process, to be killed at a failpoint or by hand.
    pub fn start_process(&self, control: &ControlPlane, failpoint: &str) -> AgentProcess {
        let child = std::process::Command::new(std::env::current_exe().unwrap())
            .args(["agent_process", "--exact", "--nocapture"])
            .env("UPDRAFT_TEST_ROOT", self.root())
            .env("UPDRAFT_TEST_SERVER", &control.address)
            .env("UPDRAFT_TEST_EXTERNAL", self.offered())
            .env("UPDRAFT_FAILPOINT", failpoint)
            .env("UPDRAFT_TOKEN", "secret-token")
            .stdout(std::process::Stdio::null())
            .spawn()
            .unwrap();
        AgentProcess { child }
    }
}

/// Called by a test named `agent_process` in test binaries that kill agents.
pub fn be_the_agent() {
    let Some(root) = std::env::var_os("UPDRAFT_TEST_ROOT") else {
        return;
    };
    let text = |name: &str| std::env::var(name).unwrap();
    let connect = Connect {
        server: text("UPDRAFT_TEST_SERVER"),
        ..Connect::default()
    };
    let token = TokenSource::Value(text("UPDRAFT_TOKEN"));
    let mut config = AgentConfig::new(root.into(), connect, token).unwrap();
    config.external = Some(ExternalConfig {
        folder: text("UPDRAFT_TEST_EXTERNAL").into(),
        airflow: None,
    });
    let _ = tracing_subscriber::fmt()
        .with_env_filter(std::env::var("RUST_LOG").unwrap_or_else(|_| "off".into()))
        .with_writer(std::io::stderr)
        .try_init();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        let _agent = Agent::start(config).unwrap();
        std::future::pending::<()>().await;
    });
}

pub fn read_tree(root: &Path) -> BTreeMap<String, String> {
    let mut found = BTreeMap::new();
    let mut open = vec![root.to_owned()];
    while let Some(folder) = open.pop() {
        for entry in fs::read_dir(&folder).into_iter().flatten().flatten() {
            let path = entry.path();
            if path.is_dir() {
                open.push(path);
            } else {
                let name = path.strip_prefix(root).unwrap().display().to_string();
                found.insert(name, fs::read_to_string(path).unwrap());
            }
        }
    }
    found
}
