//! Ctrl-C, for commands that have something to say when it comes.

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::watch;

use crate::failure::{Failure, Result};

/// Becomes true when somebody wants the command to end. Clones see the same.
#[derive(Debug, Clone)]
pub(crate) struct Interrupt(watch::Receiver<bool>);

impl Interrupt {
    /// Listens for Ctrl-C and for a polite request to end.
    pub(crate) fn listen() -> Result<Self> {
        Self::listen_for(None)
    }

    /// The same, and when the terminal goes away; unless `nohup` said to go on.
    pub(crate) fn listen_also_for_hangup() -> Result<Self> {
        let hangup = (!is_hangup_ignored())
            .then(|| signal(SignalKind::hangup()))
            .transpose()?;
        Self::listen_for(hangup)
    }

    fn listen_for(mut hangup: Option<Signal>) -> Result<Self> {
        let mut interrupt = signal(SignalKind::interrupt())?;
        let mut terminate = signal(SignalKind::terminate())?;
        let (tell, told) = watch::channel(false);
        tokio::spawn(async move {
            tokio::select! {
                _ = interrupt.recv() => {}
                _ = terminate.recv() => {}
                () = hung_up(&mut hangup) => {}
            }
            tell.send_replace(true);
            // Whoever waits later still sees it.
            tell.closed().await;
        });
        Ok(Self(told))
    }

    /// Works until it comes.
    pub(crate) async fn ends<T>(&self, work: impl Future<Output = Result<T>>) -> Result<T> {
        tokio::select! {
            done = work => done,
            () = self.came() => Err(Failure::interrupted()),
        }
    }

    /// Waits until it came; at once when it already has.
    pub(crate) async fn came(&self) {
        let mut told = self.0.clone();
        if told.wait_for(|came| *came).await.is_err() {
            // Nobody can interrupt any more.
            std::future::pending::<()>().await;
        }
    }
}

async fn hung_up(hangup: &mut Option<Signal>) {
    match hangup {
        Some(hangup) => drop(hangup.recv().await),
        None => std::future::pending().await,
    }
}

/// Whether this process was started with hang-ups ignored.
fn is_hangup_ignored() -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let ignored = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    ignored
        .and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok())
        .is_some_and(|mask| mask & 1 == 1)
}
