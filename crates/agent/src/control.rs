//! The two conversations with the control plane: what is wanted, and what is so.
//!
//! Each is a task of its own and never waits for the other or for the loop, so
//! an agent that installs for minutes keeps its lease, and one whose control
//! plane is away keeps Airflow running what it has.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::watch;
use updraft_api::agent::{DagIdsReport, Problem, Report, Wanted};
use updraft_api::{Client, ClientError, ErrorCode};
use updraft_image::Image;
use updraft_model::{AgentId, DeploymentId, Runtime};

use crate::config::TokenSource;
use crate::disk::{Disk, remember_deployment};
use crate::failpoint::failpoint;
use crate::files;
use crate::observed::{Board, KnownDagIds, Observed};

/// Below the minute after which common proxies cut a silent connection.
const POLL: Duration = Duration::from_secs(50);
const REFUSED: &str = "the control plane refuses this agent";
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// The control plane, with whichever token is the newest.
#[derive(Clone)]
pub(crate) struct ControlPlane {
    client: Arc<Mutex<Client>>,
    token: TokenSource,
}

impl ControlPlane {
    pub(crate) fn new(client: Client, token: TokenSource) -> Self {
        Self {
            client: Arc::new(Mutex::new(client)),
            token,
        }
    }

    pub(crate) fn client(&self) -> Client {
        self.client
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// Reads the token again after a refusal: somebody may have renewed it.
    fn heed(&self, error: &ClientError) {
        if is_refused(error)
            && let Ok(token) = self.token.read()
        {
            let mut client = self.client.lock().unwrap_or_else(PoisonError::into_inner);
            *client = client.with_token(token);
        }
    }
}

/// Whether the control plane refuses this agent, rather than being away.
pub(crate) fn is_refused(error: &ClientError) -> bool {
    matches!(
        error.code(),
        Some(
            ErrorCode::TokenMissing
                | ErrorCode::TokenMalformed
                | ErrorCode::TokenExpired
                | ErrorCode::TokenRevoked
                | ErrorCode::Forbidden
                | ErrorCode::DeploymentNotFound
                | ErrorCode::VersionSkew
        )
    )
}

/// Says in one line what went wrong, with what is behind it.
pub(crate) fn explain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        let more = error.to_string();
        if !text.contains(&more) {
            text = format!("{text}: {more}");
        }
        source = error.source();
    }
    text
}

/// Keeps the newest answer to "what is wanted", also on disk.
pub(crate) struct Poller {
    pub(crate) control: ControlPlane,
    pub(crate) root: std::path::PathBuf,
    /// The Deployment that the root belongs to, when there was an agent before.
    pub(crate) deployment: Option<DeploymentId>,
    pub(crate) wanted: watch::Sender<Option<Arc<Wanted>>>,
    pub(crate) board: Board,
    /// The generation that a report's answer named.
    pub(crate) told: watch::Receiver<i64>,
}

impl Poller {
    pub(crate) async fn run(mut self) {
        // Not the generation from the disk: the control plane may have been
        // restored from a backup and be behind it.
        let mut generation = -1;
        let mut pause = Duration::from_millis(200);
        loop {
            let client = self.control.client();
            let answer = tokio::select! {
                answer = client.wanted(generation, POLL) => answer,
                () = told_otherwise(&mut self.told, generation) => {
                    generation = -1;
                    continue;
                }
            };
            match answer {
                Ok(Some(wanted)) => {
                    pause = Duration::from_millis(200);
                    generation = wanted.generation;
                    self.keep(wanted);
                }
                Ok(None) => pause = Duration::from_millis(200),
                Err(error) => {
                    self.control.heed(&error);
                    tracing::warn!(error = %explain(&error), "could not ask what is wanted");
                    self.board.change(|observed| observed.connected = false);
                    if is_refused(&error) {
                        self.board.change(|observed| {
                            observed.problem = Some(Problem {
                                message: format!("{REFUSED}: {}", explain(&error)),
                                // Who reads this has taken the agent back, so
                                // it is not stuck any more.
                                stalled: false,
                            });
                        });
                    }
                    tokio::time::sleep(pause.mul_f64(rand::random_range(0.7..1.3))).await;
                    pause = (pause * 2).min(LONGEST_PAUSE);
                    continue;
                }
            }
            self.board.change(|observed| {
                observed.connected = true;
                let refused = |problem: &mut Problem| problem.message.starts_with(REFUSED);
                observed.problem.take_if(refused);
            });
        }
    }

    fn keep(&self, wanted: Wanted) {
        failpoint("agent.wanted.before_keep");
        let kept = if self.deployment.is_some_and(|own| own != wanted.deployment) {
            // Not what this folder is for; the loop says so.
            Ok(())
        } else {
            Disk::open(&self.root, wanted.deployment).and_then(|disk| {
                // The Deployment's variables are in it, in clear.
                files::write_json(&disk.wanted(), &wanted, 0o600)?;
                remember_deployment(&self.root, wanted.deployment)
            })
        };
        if let Err(error) = kept {
            tracing::warn!(%error, "could not keep what is wanted for the next start");
        }
        failpoint("agent.wanted.after_keep");
        self.wanted.send_replace(Some(Arc::new(wanted)));
    }
}

/// Resolves when a report's answer keeps naming another generation than the one
/// that is waited on: a wake-up was lost, or the control plane went back.
async fn told_otherwise(told: &mut watch::Receiver<i64>, generation: i64) {
    loop {
        let named = *told.borrow_and_update();
        if generation >= 0 && named >= 0 && named != generation {
            // The answer to the long poll may be on its way.
            tokio::time::sleep(Duration::from_secs(2)).await;
            if *told.borrow() == named {
                return;
            }
        } else if told.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}

/// Whether an agent that sees this is refused by the control plane.
pub(crate) fn refuses(observed: &Observed) -> bool {
    let problem = observed.problem.as_ref();
    problem.is_some_and(|problem| problem.message.starts_with(REFUSED))
}

/// Tells the control plane what is so: at once on a change, and often enough to
/// keep the lease.
pub(crate) struct Reporter {
    pub(crate) control: ControlPlane,
    pub(crate) agent: AgentId,
    pub(crate) host: String,
    /// How many Previews it runs at most, unless somebody else runs Airflow.
    pub(crate) preview_places: u32,
    pub(crate) board: Board,
    pub(crate) wanted: watch::Receiver<Option<Arc<Wanted>>>,
    pub(crate) told: watch::Sender<i64>,
}

impl Reporter {
    pub(crate) async fn run(self) {
        let mut observed = self.board.subscribe();
        let mut pause = Duration::from_millis(200);
        loop {
            // Nothing to say before it is known for whom.
            let Some(lease) = self.wanted.borrow().as_ref().map(|wanted| wanted.lease_s) else {
                let _ = observed.changed().await;
                continue;
            };
            let (report, dag_ids) = {
                let observed = observed.borrow_and_update();
                (self.report(&observed), observed.dag_ids.clone())
            };
            failpoint("agent.report.start");
            match self.control.client().report(&report).await {
                Ok(answer) => {
                    failpoint("agent.report.end");
                    pause = Duration::from_millis(200);
                    self.told.send_replace(answer.generation);
                    if let Some(dag_ids) = dag_ids.filter(|_| answer.lacks_dag_ids) {
                        self.tell(dag_ids).await;
                    }
                }
                Err(error) => {
                    tracing::warn!(error = %explain(&error), "could not report");
                    tokio::time::sleep(pause).await;
                    pause = (pause * 2).min(LONGEST_PAUSE);
                    continue;
                }
            }
            let next = tokio::time::sleep(Duration::from_secs_f64(f64::from(lease.max(3)) / 3.0));
            tokio::pin!(next);
            loop {
                tokio::select! {
                    () = &mut next => break,
                    changed = observed.changed() => {
                        if changed.is_err() {
                            return;
                        }
                        // Not every change is of what is reported.
                        if report != self.report(&observed.borrow_and_update()) {
                            break;
                        }
                    }
                }
            }
        }
    }

    /// Tells the DAG ids. Where that fails, the next answer says that they lack.
    async fn tell(&self, dag_ids: KnownDagIds) {
        let told = DagIdsReport {
            agent: self.agent,
            digest: dag_ids.digest,
            bundles: Arc::unwrap_or_clone(dag_ids.bundles),
        };
        if let Err(error) = self.control.client().report_dag_ids(&told).await {
            tracing::warn!(error = %explain(&error), "could not tell the ids of Airflow's DAGs");
        }
    }

    fn preview_places(&self) -> u32 {
        let wanted = self.wanted.borrow();
        let runtime = wanted.as_ref().map(|wanted| wanted.runtime);
        if runtime == Some(Runtime::External) {
            return 0;
        }
        self.preview_places
    }

    fn report(&self, observed: &Observed) -> Report {
        Report {
            agent: self.agent,
            host: self.host.clone(),
            version: updraft_api::VERSION.to_owned(),
            generation: observed.generation,
            staged: observed.staged.as_ref().map(|release| release.id),
            serving: observed.serving.as_ref().map(|release| release.id),
            proof: observed.proof.clone(),
            activity: observed.activity.clone(),
            problem: observed.problem.clone(),
            isolation: observed.isolation.clone(),
            platform: Some(Image::platform_here().to_owned()),
            airflow: observed.airflow.clone(),
            dags: observed.dags,
            import_errors: observed.import_errors.clone(),
            names: observed.names.clone(),
            dag_ids: observed.dag_ids.as_ref().map(|known| known.digest),
            runs: observed.runs.clone(),
            preview_places: self.preview_places(),
        }
    }
}
