//! The container engine of a local Airflow, which is the one that built its image.
//!
//! docker's daemon listens where docker itself would ask. podman has none, and its
//! service is started for as long as a command needs it: containers go on without.

use std::io;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use tokio::process::{Child, Command};
use updraft_image::{EngineName, Stop};
use updraft_model::Digest;

use super::{LocalAirflow, LocalError, LocalRun};
use crate::control::explain;
use crate::engine::{Engine, EngineError, socket_of};
use crate::files;
use crate::runtime::container;

/// An engine, and where it is asked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LocalEngine {
    name: EngineName,
    socket: PathBuf,
    rootless: bool,
}

impl LocalEngine {
    /// The engine that its program speaks to, for the Airflow that is kept in a folder. Blocks.
    pub fn of(
        engine: &updraft_image::Engine,
        root: &Path,
        stop: &Stop,
    ) -> Result<Self, LocalError> {
        let socket = if engine.name() == EngineName::Docker {
            let address = updraft_image::Engine::docker_address(stop)
                .map_err(|error| LocalError::no_engine(&error, error.help()))?;
            let socket = socket_of(&address).map_err(|_| LocalError::Engine {
                message: format!("docker's daemon at `{address}` may be on another machine"),
                help: "let docker use a daemon of this machine (`docker context use default`), or give `--engine podman`",
            })?;
            socket.to_owned()
        } else {
            // Addresses of sockets are short, and a project's name may not be.
            let key = Digest::of(root.as_os_str().as_encoded_bytes()).short();
            root.with_file_name(format!("podman-{key}.sock"))
        };
        Ok(Self {
            name: engine.name(),
            socket,
            rootless: engine.is_rootless(),
        })
    }

    pub fn name(&self) -> EngineName {
        self.name
    }

    pub(super) fn program(&self) -> updraft_image::Engine {
        updraft_image::Engine::known(self.name, self.rootless)
    }

    /// To be asked at its socket.
    pub(super) fn asked(&self) -> Engine {
        Engine::known(&self.socket, self.name.program(), self.rootless)
    }
}

/// podman's service, which ends with this.
pub(super) struct Served {
    _service: Child,
    socket: PathBuf,
}

impl Drop for Served {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.socket);
    }
}

/// How long it goes on where whoever started it was killed.
const IDLE: &str = "--time=600";
/// How long it may take to answer.
const ANSWERS: Duration = Duration::from_secs(30);

/// The engines in which there may be containers.
const USED: &str = "engines.json";

impl LocalAirflow {
    /// Has the engine answer that this needs, and lets go of every other.
    pub(super) async fn reach_engine_of(&self, run: &LocalRun) -> Result<(), LocalError> {
        let used = self.used_engines()?;
        if used.iter().any(|it| Some(it) != run.engine())
            && let Err(error) = self.stop().await
        {
            // An engine that is away, for good perhaps. Should it come back, its next
            // containers of these names take the place of what it has.
            tracing::warn!(%error, "could not remove containers");
        }
        if let Some(engine) = run.engine() {
            self.answering(engine).await?;
        }
        let used: Vec<_> = run.engine().into_iter().collect();
        self.keep_used(&used)
    }

    fn keep_used(&self, used: &[&LocalEngine]) -> Result<(), LocalError> {
        let path = self.disk.root().join(USED);
        let kept = if used.is_empty() {
            files::remove(&path)
        } else {
            files::write_json(&path, &used, 0o600)
        };
        kept.map_err(|source| self.failed(source))
    }

    fn used_engines(&self) -> Result<Vec<LocalEngine>, LocalError> {
        let used = files::read_json(&self.disk.root().join(USED));
        Ok(used
            .map_err(|source| self.failed(source))?
            .unwrap_or_default())
    }

    /// Removes its containers from every engine. All that ran in them has ended.
    pub(super) async fn remove_containers(&self) -> Result<(), LocalError> {
        let used = self.used_engines()?;
        let (mut left, mut failed) = (Vec::new(), Ok(()));
        for engine in &used {
            if let Err(error) = self.remove_containers_of(engine).await {
                left.push(engine);
                failed = Err(error);
            }
        }
        // They lead to what is gone, or was ended.
        let forgotten = self.launcher.forget_notes();
        forgotten.map_err(|source| self.failed(source))?;
        self.keep_used(&left)?;
        failed
    }

    async fn remove_containers_of(&self, engine: &LocalEngine) -> Result<(), LocalError> {
        let asked = self.answering(engine).await?;
        let removed = container::remove(&asked, self.disk.root(), &[]).await;
        removed.map_err(|error| LocalError::no_engine(&error, error.help()))
    }

    /// Removes containers of what has come to its end.
    pub(super) async fn remove_ended(&self, run: &LocalRun) {
        if let Some(engine) = run.engine() {
            container::remove_ended(&engine.asked(), self.disk.root()).await;
        }
    }

    /// The engine, once it answers.
    async fn answering(&self, engine: &LocalEngine) -> Result<Engine, LocalError> {
        let answer = match Engine::at(&engine.socket).await {
            Err(_) if engine.name == EngineName::Podman => self.serve(engine).await?,
            other => other,
        };
        answer
            .map(|_| engine.asked())
            .map_err(|error| LocalError::no_engine(&error, "start its service"))
    }

    /// Has podman answer at its socket.
    async fn serve(&self, engine: &LocalEngine) -> Result<Result<Engine, EngineError>, LocalError> {
        let failed = |source: io::Error| LocalError::Engine {
            message: format!("could not start podman's service: {source}"),
            help: "see what `podman system service` says",
        };
        // Of one that was killed.
        files::remove(&engine.socket).map_err(failed)?;
        let mut service = Command::new(engine.name.program())
            .args(["system", "service", IDLE])
            .arg(format!("unix://{}", engine.socket.display()))
            // A terminal's Ctrl-C is ours to answer.
            .process_group(0)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .map_err(failed)?;
        let begun = Instant::now();
        let answer = loop {
            match Engine::at(&engine.socket).await {
                Err(_) if begun.elapsed() < ANSWERS => {}
                answer => break answer,
            }
            if let Some(status) = service.try_wait().map_err(failed)? {
                return Err(failed(io::Error::other(status.to_string())));
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        };
        *self.served.lock().await = Some(Served {
            _service: service,
            socket: engine.socket.clone(),
        });
        Ok(answer)
    }
}

impl LocalError {
    fn no_engine(error: &dyn std::error::Error, help: &'static str) -> Self {
        Self::Engine {
            message: explain(error),
            help,
        }
    }
}
