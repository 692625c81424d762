//! The Python process that parses and asks inside Airflow's own code, kept warm.
//!
//! JSON lines both ways; requests may overlap. It is started through the same
//! wrapper as the components, so that the next agent finds what a killed one
//! left and ends it: two workers must not write to Airflow's database at once.

use std::collections::HashMap;
use std::time::Duration;

use rustix::process::Signal;
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinHandle;

use crate::runtime::logs;
use crate::runtime::record::Record;
use crate::runtime::started::{Input, Output};
use crate::runtime::supervisor::{Launcher, Spec};

pub(crate) const WORKER: &str = "worker";

#[derive(Debug, Clone, thiserror::Error)]
pub(crate) enum WorkerError {
    #[error("the proof worker ended while it was asked: {0}")]
    Died(String),
    #[error("the proof worker answered: {0}")]
    Answered(String),
    #[error("the proof worker did not answer in time")]
    TimedOut,
    #[error("the proof worker's answer makes no sense: {0}")]
    Nonsense(String),
}

struct Ask {
    request: Value,
    answer: oneshot::Sender<Result<Value, WorkerError>>,
}

enum Message {
    Ask(Ask),
    /// Nobody waits for this answer any more.
    Cancel(u64),
}

/// A handle on the worker, whichever process it is at the moment.
pub(crate) struct Worker {
    spec: watch::Sender<Option<Spec>>,
    messages: mpsc::UnboundedSender<Message>,
    task: JoinHandle<()>,
    next_id: std::sync::atomic::AtomicU64,
}

impl Drop for Worker {
    fn drop(&mut self) {
        // Its input closes with the task, and it ends by that.
        self.task.abort();
    }
}

impl Worker {
    pub(crate) fn new(launcher: Launcher) -> Self {
        let (spec, specs) = watch::channel(None);
        let (messages, inbox) = mpsc::unbounded_channel();
        let keeper = Keeper {
            launcher,
            patience: PATIENCE,
            specs,
            inbox,
        };
        let task = tokio::spawn(keeper.keep());
        Self {
            spec,
            messages,
            task,
            next_id: 1.into(),
        }
    }

    /// Says what to run, and starts it when that is news.
    pub(crate) fn want(&self, spec: Spec) {
        self.spec.send_if_modified(|wanted| {
            let differs = wanted.as_ref() != Some(&spec);
            *wanted = Some(spec);
            differs
        });
    }

    /// Asks and waits for the answer. Giving up on this future cancels what was
    /// asked.
    pub(crate) async fn ask(
        &self,
        mut request: Value,
        limit: Duration,
    ) -> Result<Value, WorkerError> {
        let id = self
            .next_id
            .fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        request["id"] = id.into();
        let (answer, answered) = oneshot::channel();
        let gone = || WorkerError::Died("the agent is stopping".into());
        self.messages
            .send(Message::Ask(Ask { request, answer }))
            .map_err(|_| gone())?;
        let mut cancel = CancelOnDrop {
            id,
            messages: &self.messages,
            armed: true,
        };
        let answer = tokio::time::timeout(limit, answered)
            .await
            .map_err(|_| WorkerError::TimedOut)?
            .map_err(|_| gone())?;
        cancel.armed = false;
        let answer = answer?;
        match answer.get("error").and_then(Value::as_str) {
            Some(error) => Err(WorkerError::Answered(error.to_owned())),
            None => Ok(answer),
        }
    }
}

struct CancelOnDrop<'a> {
    id: u64,
    messages: &'a mpsc::UnboundedSender<Message>,
    armed: bool,
}

impl Drop for CancelOnDrop<'_> {
    fn drop(&mut self) {
        if self.armed {
            let _ = self.messages.send(Message::Cancel(self.id));
        }
    }
}

/// Who waits for which answer.
type Waiting = HashMap<u64, oneshot::Sender<Result<Value, WorkerError>>>;

/// How long a worker that is told to stop may wait for a database that is locked.
const PATIENCE: Duration = Duration::from_secs(60);

struct Keeper {
    launcher: Launcher,
    patience: Duration,
    specs: watch::Receiver<Option<Spec>>,
    inbox: mpsc::UnboundedReceiver<Message>,
}

impl Keeper {
    async fn keep(mut self) {
        let mut pause = Duration::from_millis(200);
        loop {
            let Some(spec) = self.specs.borrow_and_update().clone() else {
                if self.specs.changed().await.is_err() {
                    return;
                }
                continue;
            };
            self.end_leftover().await;
            let begun = tokio::time::Instant::now();
            if self.run(&spec).await.is_err() {
                return;
            }
            if begun.elapsed() > Duration::from_secs(60) {
                pause = Duration::from_millis(200);
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(Duration::from_secs(30));
        }
    }

    async fn end_leftover(&self) {
        if let Some(record) = Record::read_alive(&self.launcher.files(WORKER).record) {
            tracing::info!(
                pid = record.process.pid,
                "ending the worker of an earlier agent"
            );
            record.process.signal(Signal::KILL);
            record.process.ended().await;
        }
    }

    /// Runs one worker until it ends or another is wanted. `Err`: the agent ends.
    async fn run(&mut self, spec: &Spec) -> Result<(), ()> {
        let files = self.launcher.files(WORKER);
        let _ = logs::rotate(&files.log);
        let offset = std::fs::metadata(&files.log).map_or(0, |metadata| metadata.len());
        let died = |what: &str| {
            let tail = logs::tail(&files.log, offset, 12, &spec.hidden);
            WorkerError::Died(format!("{what}\n{tail}").trim().to_owned())
        };

        let mut started = match self.launcher.spawn(spec, true).await {
            Ok(started) => started,
            Err(error) => return self.fail_next(died(&error.to_string())).await,
        };
        let (Some(input), Some(output)) = (started.stdin.take(), started.stdout.take()) else {
            return Ok(());
        };
        let mut waiting: Waiting = HashMap::new();
        let end = self.serve(input, output, &mut waiting).await;
        if matches!(end, End::ToldToStop | End::AgentEnds | End::Hung) {
            started.kill();
        }
        let status = started
            .wait()
            .await
            .map_or_else(|error| error.to_string(), |ended| ended.to_string());
        let error = died(&status);
        for (_, answer) in waiting {
            let _ = answer.send(Err(error.clone()));
        }
        match end {
            End::AgentEnds => Err(()),
            End::ToldToStop => Ok(()),
            End::Hung => {
                tracing::warn!("the proof worker did not answer any more; it is started again");
                Ok(())
            }
            End::OutputClosed { was_ready: true } => {
                tracing::warn!(%error, "it will be started again");
                Ok(())
            }
            // Whoever asks next has to hear why there is no answer.
            End::OutputClosed { was_ready: false } => self.fail_next(error).await,
        }
    }

    async fn serve(&mut self, input: Input, output: Output, waiting: &mut Waiting) -> End {
        let mut lines = BufReader::new(output).lines();
        let mut was_ready = false;
        // By when it has to say something, because it was told to stop.
        let mut heeds_by: Option<tokio::time::Instant> = None;
        // Apart: the worker may first want to be rid of a long answer.
        let (requests, waiting_requests) = mpsc::unbounded_channel();
        let writer = tokio::spawn(write_requests(input, waiting_requests));
        let _writer = AbortOnDrop(writer);
        loop {
            tokio::select! {
                line = lines.next_line() => {
                    let Ok(Some(line)) = line else { return End::OutputClosed { was_ready } };
                    heeds_by = None;
                    let Ok(message) = serde_json::from_str::<Value>(&line) else {
                        tracing::debug!(%line, "the worker said something that is no answer");
                        continue;
                    };
                    if message["event"] == "ready" {
                        was_ready = true;
                        tracing::info!(after_ms = message["ms"].as_u64(), "the proof worker is up");
                    } else if message["event"].is_null()
                        && let Some(answer) = message["id"].as_u64().and_then(|id| waiting.remove(&id))
                    {
                        let _ = answer.send(Ok(message));
                    }
                }
                message = self.inbox.recv() => match message {
                    None => return End::AgentEnds,
                    Some(Message::Ask(ask)) => {
                        let Some(id) = ask.request["id"].as_u64() else { continue };
                        waiting.insert(id, ask.answer);
                        // A failure shows as the end of its output.
                        let _ = requests.send(ask.request);
                    }
                    Some(Message::Cancel(id)) => if waiting.remove(&id).is_some() {
                        let cancel = json!({"id": format!("cancel-{id}"), "op": "cancel", "target": id});
                        let _ = requests.send(cancel);
                        heeds_by.get_or_insert(tokio::time::Instant::now() + self.patience);
                    },
                },
                () = until(heeds_by) => return End::Hung,
                changed = self.specs.changed() => {
                    return if changed.is_ok() { End::ToldToStop } else { End::AgentEnds };
                }
            }
        }
    }

    /// Answers the next request with an error, so that a worker that cannot
    /// start is not tried in a tight loop and not silently either.
    async fn fail_next(&mut self, error: WorkerError) -> Result<(), ()> {
        tracing::warn!(%error, "the proof worker did not start");
        let patience = tokio::time::sleep(Duration::from_secs(10));
        tokio::select! {
            () = patience => Ok(()),
            _ = self.specs.changed() => Ok(()),
            message = self.inbox.recv() => match message {
                None => Err(()),
                Some(Message::Ask(ask)) => {
                    let _ = ask.answer.send(Err(error));
                    Ok(())
                }
                Some(Message::Cancel(_)) => Ok(()),
            },
        }
    }
}

async fn until(end: Option<tokio::time::Instant>) {
    match end {
        Some(end) => tokio::time::sleep_until(end).await,
        None => std::future::pending().await,
    }
}

enum End {
    OutputClosed {
        was_ready: bool,
    },
    /// It was told to stop what it does, and said nothing for too long.
    Hung,
    ToldToStop,
    AgentEnds,
}

struct AbortOnDrop(JoinHandle<()>);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        // With it goes the worker's input, and the worker ends by that.
        self.0.abort();
    }
}

async fn write_requests(mut input: Input, mut requests: mpsc::UnboundedReceiver<Value>) {
    while let Some(request) = requests.recv().await {
        let line = format!("{request}\n");
        if input.write_all(line.as_bytes()).await.is_err() || input.flush().await.is_err() {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    #[tokio::test]
    async fn one_that_does_not_heed_is_replaced() {
        let folder = tempfile::tempdir().unwrap();
        let starts = folder.path().join("starts");
        // Says that it is up, and never anything again.
        let script = format!(
            "echo >>{}; echo '{{\"event\":\"ready\"}}'; exec sleep 300",
            starts.display()
        );
        let launcher = Launcher {
            wrapper: ["sh", "-c", script.as_str(), "sh"].map(Into::into).to_vec(),
            run: folder.path().to_owned(),
            logs: folder.path().to_owned(),
        };
        let spec = Spec {
            component: WORKER,
            command: Vec::new(),
            variables: BTreeMap::new(),
            folder: folder.path().to_owned(),
            user: None,
            environment: None,
            container: None,
            asked: updraft_model::Digest::of(b""),
            hidden: logs::Hidden::default(),
            grace: Duration::ZERO,
            leaves_tasks: false,
        };
        let (_wanted, specs) = watch::channel(Some(spec));
        let (messages, inbox) = mpsc::unbounded_channel();
        let keeper = Keeper {
            launcher,
            patience: Duration::from_millis(50),
            specs,
            inbox,
        };
        let task = AbortOnDrop(tokio::spawn(keeper.keep()));
        let started = || std::fs::read(&starts).map_or(0, |starts| starts.len());
        while started() < 1 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        let (answer, _answered) = oneshot::channel();
        let request = json!({"id": 1, "op": "prove"});
        let ask = Message::Ask(Ask { request, answer });
        assert!(messages.send(ask).is_ok());
        assert!(messages.send(Message::Cancel(1)).is_ok());
        while started() < 2 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        drop(task);
    }
}
