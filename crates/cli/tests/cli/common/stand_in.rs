//! An agent without an Airflow: it asks what is wanted, says that it has it,
//! and answers for Airflow as it is told.

use std::collections::HashSet;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use updraft_api::Client;
use updraft_api::agent::{AirflowView, ProofReport, Report, TakePreview, Target};
use updraft_api::client::Connect;
use updraft_api::token::Enroll;
use updraft_model::{
    AgentId, DagChanges, ImportError, Proof, ProofOutcome, ProofTimings, ReleaseId,
};
use updraft_testkit::dag_ids;

/// Where the Airflow of each Preview would be.
pub(crate) const PREVIEW_URL: &str = "http://127.0.0.1:8099";

/// What Airflow would say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Answer {
    Proven,
    /// `orders.py` cannot be imported.
    ImportError,
    /// Nothing, for as long as one waits.
    Silence,
}

/// The ids of a bundle's DAGs; of others it tells nothing.
type Dags = Option<(&'static str, &'static [&'static str])>;

pub(crate) struct Agent {
    answer: Arc<Mutex<Answer>>,
    dags: Arc<Mutex<Dags>>,
    ended: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Agent {
    pub(crate) fn start(url: &str, code: &str, answer: Answer) -> Self {
        let connect = Connect {
            server: url.to_owned(),
            ..Connect::default()
        };
        let client = Client::new(&connect, None).unwrap();
        let answer = Arc::new(Mutex::new(answer));
        let ended = Arc::new(AtomicBool::new(false));
        let dags: Arc<Mutex<Dags>> = Arc::default();
        let told = (Arc::clone(&answer), Arc::clone(&dags));
        let over = Arc::clone(&ended);
        let code = code.to_owned();
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .unwrap();
            let alone = tokio::task::LocalSet::new();
            alone.block_on(&runtime, run(client, code, told, over));
        });
        Self {
            answer,
            dags,
            ended,
            thread: Some(thread),
        }
    }

    pub(crate) fn has_dags(&self, bundle: &'static str, ids: &'static [&'static str]) {
        *self.dags.lock().unwrap() = Some((bundle, ids));
    }

    pub(crate) fn answer(&self, answer: Answer) {
        *self.answer.lock().unwrap() = answer;
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        self.ended.store(true, Ordering::SeqCst);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// What every stand-in is told.
type Told = (Arc<Mutex<Answer>>, Arc<Mutex<Dags>>);

async fn run(client: Client, code: String, told: Told, ended: Arc<AtomicBool>) {
    let enroll = Enroll {
        code,
        host: "stand-in".into(),
    };
    let token = client.enroll(&enroll).await.unwrap();
    converse(client.with_token(token.secret), told, ended, 2).await;
}

/// Speaks for one Deployment, and for the Previews of it that it has places for.
fn converse(
    client: Client,
    told: Told,
    ended: Arc<AtomicBool>,
    preview_places: u32,
) -> Pin<Box<dyn Future<Output = ()>>> {
    Box::pin(speak(client, told, ended, preview_places))
}

async fn speak(client: Client, told: Told, ended: Arc<AtomicBool>, preview_places: u32) {
    let (answer, dags) = told.clone();
    let agent = AgentId::new();
    let mut previews = HashSet::new();
    let mut generation = -1;
    let mut target: Option<Target> = None;
    while !ended.load(Ordering::SeqCst) {
        // A control plane that is away is asked again.
        match client.wanted(generation, Duration::from_secs(1)).await {
            Ok(Some(wanted)) => {
                generation = wanted.generation;
                target = wanted.target;
                for preview in wanted.previews {
                    if !previews.insert(preview.id) {
                        continue;
                    }
                    // An agent takes Previews when it is known itself.
                    let _ = client
                        .report(&report(agent, generation, None, Answer::Silence))
                        .await;
                    let ask = TakePreview { agent };
                    let taken = client.take_preview(preview.id, &ask).await.unwrap();
                    let client = client.with_token(taken.secret);
                    tokio::task::spawn_local(converse(client, told.clone(), Arc::clone(&ended), 0));
                }
            }
            Ok(None) => {}
            Err(_) => {
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        }
        let answer = *answer.lock().unwrap();
        let mut report = report(agent, generation, target.as_ref(), answer);
        report.preview_places = preview_places;
        if preview_places == 0 && target.is_some() {
            report.airflow = Some(AirflowView {
                url: Some(PREVIEW_URL.into()),
                ..AirflowView::default()
            });
        }
        let (dags, release) = (*dags.lock().unwrap(), target.as_ref().map(|it| &it.release));
        let told = dags
            .zip(release)
            .map(|(dags, of)| dag_ids(agent, of, &[dags]));
        report.dag_ids = told.as_ref().map(|told| told.digest);
        let lack = client.report(&report).await;
        if let Some(told) = told.filter(|_| lack.is_ok_and(|answer| answer.lacks_dag_ids)) {
            let _ = client.report_dag_ids(&told).await;
        }
    }
}

fn report(agent: AgentId, generation: i64, target: Option<&Target>, answer: Answer) -> Report {
    let staged = target.map(|target| target.release.id);
    let serving = target
        .filter(|target| target.may_switch)
        .map(|target| target.release.id);
    let proof = target
        .filter(|target| target.may_switch && answer != Answer::Silence)
        .map(|target| proof(target.release.id, target.attempt, answer));
    Report {
        agent,
        host: "stand-in".into(),
        version: updraft_api::VERSION.into(),
        generation,
        staged,
        serving,
        proof,
        activity: None,
        problem: None,
        isolation: String::new(),
        platform: Some("linux/amd64".into()),
        airflow: None,
        dags: Some(1),
        import_errors: Vec::new(),
        names: None,
        dag_ids: None,
        runs: None,
        preview_places: 0,
    }
}

fn proof(release: ReleaseId, attempt: u32, answer: Answer) -> ProofReport {
    let import_errors = match answer {
        Answer::ImportError => vec![ImportError {
            file: "orders.py".into(),
            traceback: "Traceback (most recent call last):\n  File \"orders.py\", line 2\nModuleNotFoundError: No module named 'nope'\n".into(),
            new: true,
        }],
        Answer::Proven | Answer::Silence => Vec::new(),
    };
    ProofReport {
        release,
        attempt,
        switched_at: chrono::Utc::now(),
        proof: Proof {
            outcome: if import_errors.is_empty() {
                ProofOutcome::Proven
            } else {
                ProofOutcome::ImportErrors
            },
            reason: String::new(),
            parsed: 1,
            affected: 1,
            files: 1,
            dags: DagChanges {
                added: vec![],
                changed: vec!["orders".into()],
                removed: vec![],
                total: 1,
            },
            import_errors,
            silent: vec![],
            seen: String::new(),
            not_seen: String::new(),
            timings_ms: ProofTimings::default(),
        },
    }
}
