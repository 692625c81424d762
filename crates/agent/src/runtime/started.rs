//! What has been asked to start, until it is seen to run, and its end.

use std::io;
use std::process::ExitStatus;

use rustix::process::Signal;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::process::Child;

use super::exec::ALREADY_RUNNING;
use super::identity::ProcessIdentity;
use crate::engine::Engine;

pub(crate) type Input = Box<dyn AsyncWrite + Send + Unpin>;
pub(crate) type Output = Box<dyn AsyncRead + Send + Unpin>;

pub(crate) struct Started {
    how: How,
    /// Both only where they were asked for.
    pub(crate) stdin: Option<Input>,
    pub(crate) stdout: Option<Output>,
}

enum How {
    /// The wrapper, which becomes the component.
    Wrapper(Child),
    Container {
        engine: Engine,
        id: String,
        /// None: it ended at once.
        process: Option<ProcessIdentity>,
    },
    /// Another one runs.
    GaveWay,
}

/// How something ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Ended {
    /// None: by a signal, or nobody knows.
    code: Option<i32>,
    text: String,
}

impl Started {
    pub(super) fn wrapper(mut child: Child) -> Self {
        let stdin = child.stdin.take().map(|input| Box::new(input) as Input);
        let stdout = child.stdout.take().map(|output| Box::new(output) as Output);
        Self {
            how: How::Wrapper(child),
            stdin,
            stdout,
        }
    }

    pub(super) fn container(
        engine: Engine,
        id: String,
        process: Option<ProcessIdentity>,
        (stdin, stdout): (Option<Input>, Option<Output>),
    ) -> Self {
        Self {
            how: How::Container {
                engine,
                id,
                process,
            },
            stdin,
            stdout,
        }
    }

    pub(super) const fn gave_way() -> Self {
        Self {
            how: How::GaveWay,
            stdin: None,
            stdout: None,
        }
    }

    /// The process that is the component, or becomes it.
    pub(crate) fn pid(&self) -> Option<u32> {
        match &self.how {
            How::Wrapper(child) => child.id(),
            How::Container { process, .. } => process.as_ref().map(|process| process.pid),
            How::GaveWay => None,
        }
    }

    /// How it ended, if it has.
    pub(super) async fn ended(&mut self) -> Option<Ended> {
        match &mut self.how {
            How::Wrapper(child) => child.try_wait().ok()?.map(Ended::from),
            How::Container { process, .. } => {
                if process.as_ref().is_some_and(ProcessIdentity::is_alive) {
                    return None;
                }
                self.wait().await.ok()
            }
            How::GaveWay => Some(Ended::gave_way()),
        }
    }

    /// Waits for its end. Its input is closed before, or it might wait for that.
    pub(crate) async fn wait(&mut self) -> io::Result<Ended> {
        self.stdin.take();
        match &mut self.how {
            How::Wrapper(child) => child.wait().await.map(Ended::from),
            How::Container {
                engine,
                id,
                process,
            } => {
                if let Some(process) = process {
                    process.ended().await;
                }
                let code = engine.wait(id).await?;
                Ok(Ended::of_container(code))
            }
            How::GaveWay => Ok(Ended::gave_way()),
        }
    }

    pub(crate) fn kill(&mut self) {
        match &mut self.how {
            How::Wrapper(child) => {
                let _ = child.start_kill();
            }
            How::Container { process, .. } => {
                if let Some(process) = process {
                    process.signal(Signal::KILL);
                }
            }
            How::GaveWay => {}
        }
    }
}

impl Ended {
    fn gave_way() -> Self {
        Self {
            code: Some(ALREADY_RUNNING),
            text: "another one runs".into(),
        }
    }

    fn of_container(code: Option<i64>) -> Self {
        let code = code.and_then(|code| i32::try_from(code).ok());
        Self {
            text: match code {
                Some(code) => format!("exit status: {code}"),
                None => "its container is gone".into(),
            },
            // A component's own code of this number is no such thing.
            code: code.filter(|code| *code != ALREADY_RUNNING),
        }
    }

    pub(crate) fn well(&self) -> bool {
        self.code == Some(0)
    }

    pub(crate) fn found_another(&self) -> bool {
        self.code == Some(ALREADY_RUNNING)
    }
}

impl From<ExitStatus> for Ended {
    fn from(status: ExitStatus) -> Self {
        Self {
            code: status.code(),
            text: status.to_string(),
        }
    }
}

impl std::fmt::Display for Ended {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.text)
    }
}
