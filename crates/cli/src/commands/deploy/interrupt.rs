//! Ctrl-C, for commands that have something to say when it comes.

use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

use crate::failure::Result;

/// Becomes true when somebody wants the command to end. Clones see the same.
#[derive(Debug, Clone)]
pub(crate) struct Interrupt(watch::Receiver<bool>);

impl Interrupt {
    /// Listens for Ctrl-C and for a polite request to end.
    pub(crate) fn listen() -> Result<Self> {
        let mut interrupt = signal(SignalKind::interrupt())?;
        let mut terminate = signal(SignalKind::terminate())?;
        let (tell, told) = watch::channel(false);
        tokio::spawn(async move {
            tokio::select! {
                _ = interrupt.recv() => {}
                _ = terminate.recv() => {}
            }
            tell.send_replace(true);
            // Whoever waits later still sees it.
            tell.closed().await;
        });
        Ok(Self(told))
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
