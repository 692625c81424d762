//! The Python environment that an Airflow runs in: fetched, installed, checked.
//!
//! An image is two things on disk: a virtual environment, named by what is
//! installed in it, and the project's non-DAG files, a tree like a bundle's.
//! Images that differ in only one of them share the other. A container image has
//! both, and an engine keeps it.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use tokio::sync::Mutex;
use updraft_api::Client;
use updraft_bundle::{BundleDir, Verify};
use updraft_image::registry::Credentials;
use updraft_image::{
    Image, LockError, RealiseError, RealiseRequest, RunAs, StopOnDrop, Uv, UvError, realise,
    realised_key, reopen, wheel_file,
};
use updraft_model::{ContainerImage, Digest};

use crate::config::{AgentConfig, TokenSource};
use crate::control::explain;
use crate::disk::Disk;
use crate::engine::{Engine, EngineError};
use crate::failpoint::failpoint;
use crate::fetch::{self, Blobs, FetchError, blocking};
use crate::files;
use crate::observed::Board;
use crate::previews::lending::Lender;
use crate::runtime::container::Mount;

/// An environment that is completely on disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Environment {
    /// The image's digest.
    pub(crate) digest: Digest,
    /// Names the virtual environment, where there is one.
    pub(crate) key: Digest,
    pub(crate) packages: Packages,
    /// The project's non-DAG files: `include/`, `plugins/`.
    pub(crate) project: PathBuf,
    /// What the project's Dockerfile sets.
    pub(crate) variables: BTreeMap<String, String>,
    pub(crate) airflow_version: String,
    pub(crate) python_version: String,
    /// Where it differs from what the Release asks for.
    pub(crate) note: Option<String>,
}

/// Where an environment's packages are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Packages {
    /// In a virtual environment on this disk.
    Venv {
        folder: PathBuf,
        bin: PathBuf,
        python: PathBuf,
    },
    /// In a container image, with the project's files.
    Image(InImage),
}

/// A container image that an engine has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct InImage {
    pub(crate) engine: Engine,
    /// As the engine knows it.
    pub(crate) name: String,
    /// What the image sets.
    pub(crate) variables: BTreeMap<String, String>,
    /// Our package, which is mounted.
    pub(crate) wheel: PathBuf,
    /// What else it sees of this machine: a project that people edit.
    pub(crate) mounts: Vec<Mount>,
}

/// Which virtual environment the live image runs in, kept in a file: another
/// agent brings another package of ours, and would make another.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Made {
    image: Digest,
    environment: Digest,
}

pub(crate) const MADE: &str = "environment.json";

impl Environment {
    pub(crate) fn made(&self) -> Made {
        Made {
            image: self.digest,
            environment: self.key,
        }
    }

    pub(crate) fn image(&self) -> Option<&InImage> {
        match &self.packages {
            Packages::Venv { .. } => None,
            Packages::Image(image) => Some(image),
        }
    }

    /// Whether it is there as it was when it was made.
    pub(crate) async fn is_there(&self) -> bool {
        match &self.packages {
            Packages::Venv { python, .. } => python.exists() && self.project.is_dir(),
            Packages::Image(image) => {
                // An engine that does not answer has not lost it.
                let found = image.engine.image(&image.name).await;
                image.wheel.exists() && !matches!(found, Ok(None))
            }
        }
    }

    pub(crate) fn is_airflow_2(&self) -> bool {
        self.airflow_version.starts_with("2.")
    }
}

#[derive(Debug)]
pub(crate) enum EnvironmentError {
    Fetch(FetchError),
    Retry(String),
    DiskFull(String),
    Stalled(String),
}

impl From<FetchError> for EnvironmentError {
    fn from(error: FetchError) -> Self {
        Self::Fetch(error)
    }
}

impl From<updraft_bundle::VersionError> for EnvironmentError {
    fn from(error: updraft_bundle::VersionError) -> Self {
        Self::Fetch(error.into())
    }
}

/// An engine would fetch all of it before its first process fails.
fn refuse_other_platform(image: &ContainerImage, made_for: &str) -> Result<(), EnvironmentError> {
    let here = Image::platform_here();
    if made_for == here {
        return Ok(());
    }
    Err(EnvironmentError::Stalled(format!(
        "the image `{image}` is made for {made_for}, and this machine runs {here}; build it with `--platform {here}`"
    )))
}

/// Which environment to make, and for whom.
pub(crate) struct EnvironmentAsk {
    pub(crate) image: Digest,
    pub(crate) user: Option<RunAs>,
    /// Whether Airflow may run as the agent where that user cannot run it.
    pub(crate) or_own: bool,
    pub(crate) airflow_runs: bool,
}

/// Makes environments.
pub(crate) struct Environments {
    /// Where `uv` and locks lie.
    tools: PathBuf,
    token: TokenSource,
    engines: Engines,
    lender: Option<Lender>,
}

impl Environments {
    pub(crate) fn new(config: &AgentConfig, engines: Engines, lender: Option<Lender>) -> Self {
        Self {
            token: config.token.clone(),
            engines,
            tools: config.tools(),
            lender,
        }
    }

    /// Makes the environment of an image, or answers at once when it is there.
    pub(crate) async fn realise(
        &self,
        disk: &Disk,
        client: &Client,
        ask: EnvironmentAsk,
        writing: &Arc<Mutex<()>>,
        board: &Board,
    ) -> Result<Environment, EnvironmentError> {
        let described = describe(disk, client, ask.image).await?;
        if let Some(container) = &described.config().container {
            let config = described.config();
            refuse_other_platform(container, &config.platform)?;
            let image = self
                .in_image(disk, ask.image, container, client, board)
                .await?;
            let (project, image) = image;
            return Ok(Environment {
                digest: ask.image,
                key: ask.image,
                packages: Packages::Image(image),
                project,
                variables: BTreeMap::new(),
                airflow_version: config.fingerprint.airflow_version.to_string(),
                python_version: config.fingerprint.python_version.to_string(),
                note: None,
            });
        }
        let EnvironmentAsk {
            image,
            user: run_as,
            or_own,
            airflow_runs,
        } = ask;
        let files = described.manifest().files().clone();
        let dir = project_dir(disk)?;
        let latest = dir.versions()?.pop();
        let project = {
            let writing = fetch::may_write(writing).await;
            // Once for each agent and image: somebody may have written to it.
            fetch::materialize_manifest(&writing, disk, client, &dir, &files, latest, Verify::Full)
                .await?
        };

        let (tools, environments, board) = (self.tools.clone(), disk.environments(), board.clone());
        let before = made(disk).filter(|made| made.image == image);
        let lender = self.lender.clone();
        // An agent that stops must not leave an installation to the next one.
        let ending = StopOnDrop::default();
        let stop = ending.stop();
        blocking(move || {
            let say = |line: &str| board.busy(line);
            let config = described.config();
            let ask = |run_as| RealiseRequest {
                config,
                dir: &environments,
                cache: &tools,
                run_as,
                say: &say,
            };
            let lent = |key| lender.as_ref()?.lend(key, run_as);
            let make = || {
                if let Some(lent) = lent(realised_key(config)) {
                    return Ok(lent);
                }
                let uv =
                    Uv::find_or_install(&tools, &stop, &say).map_err(|error| uv_failed(&error))?;
                let realised = match realise(&uv, &ask(run_as)) {
                    // No Python that the other user can run: Airflow runs as this
                    // one then, and `isolation` says so.
                    Err(RealiseError::Python(_)) if run_as.is_some() && or_own => {
                        realise(&uv, &ask(None))
                    }
                    other => other,
                };
                realised.map_err(|error| realise_failed(&error))
            };
            let kept = || {
                let key = before?.environment;
                reopen(&environments, key, run_as).or_else(|| lent(key))
            };
            let realised = kept_or_made(airflow_runs, kept, make)?;
            Ok(Environment {
                digest: image,
                key: realised.key,
                packages: Packages::Venv {
                    folder: realised.folder,
                    bin: realised.bin,
                    python: realised.python,
                },
                project: project.path,
                variables: config.env.clone(),
                airflow_version: config.fingerprint.airflow_version.to_string(),
                python_version: realised.python_version.to_string(),
                note: realised.note,
            })
        })
        .await?
    }

    /// Has the engine get an image, and says what is in it, and where the project's files are.
    async fn in_image(
        &self,
        disk: &Disk,
        digest: Digest,
        image: &ContainerImage,
        client: &Client,
        board: &Board,
    ) -> Result<(PathBuf, InImage), EnvironmentError> {
        let engine = self.engines.engine().await.map_err(|error| {
            EnvironmentError::of_engine(&error, &format!("the Release has the image `{image}`: "))
        })?;
        let failed = |error: EngineError| EnvironmentError::of_engine(&error, "");
        let control_plane = client.address().authority().to_owned();
        let name = image.seen_from(&control_plane);
        let mut found = engine.image(&name).await.map_err(failed)?;
        if found.is_none() {
            board.busy(format!("pulling {name}"));
            let (credentials, who) = self.credentials(image, &control_plane).await?;
            Pulled::note(disk, digest, &name)
                .map_err(|error| EnvironmentError::Retry(error.to_string()))?;
            engine
                .pull(&name, credentials.as_ref(), &who)
                .await
                .map_err(failed)?;
            found = engine.image(&name).await.map_err(failed)?;
        }
        let found = found.ok_or_else(|| {
            EnvironmentError::Retry(format!(
                "{} pulled `{name}`, and does not have it",
                engine.name()
            ))
        })?;
        failpoint("agent.image.pulled");
        let tools = self.tools.clone();
        let wheel = blocking(move || wheel_file(&tools)).await?;
        let wheel = wheel.map_err(|error| {
            EnvironmentError::Retry(format!("{}; {}", explain(&error), error.help()))
        })?;
        let variables = found.variables();
        let home = variables.get("AIRFLOW_HOME").map(String::as_str);
        let home = home.or(found.folder()).unwrap_or("/opt/airflow");
        let project = PathBuf::from(home);
        Ok((
            project,
            InImage {
                engine,
                name,
                variables,
                wheel,
                mounts: Vec::new(),
            },
        ))
    }

    /// Who pulls: the agent with its own token from the control plane, and whoever
    /// signed in with docker elsewhere.
    async fn credentials(
        &self,
        image: &ContainerImage,
        control_plane: &str,
    ) -> Result<(Option<Credentials>, String), EnvironmentError> {
        let registry = image.registry().unwrap_or(control_plane).to_owned();
        if registry == control_plane {
            let token = self.token.read();
            let password = token.map_err(|error| {
                EnvironmentError::Retry(format!("could not read the agent's token: {error}"))
            })?;
            let user = "agent".to_owned();
            let credentials = Credentials::Password { user, password };
            return Ok((Some(credentials), "this agent".into()));
        }
        let found = blocking(move || Credentials::of_docker(&registry)).await?;
        let found = found.map_err(|error| EnvironmentError::Stalled(explain(&error)))?;
        let who = match &found {
            Some(Credentials::Password { user, .. }) => format!("`{user}`"),
            Some(Credentials::IdentityToken(_)) => "who signed in with docker".into(),
            None => "nobody, as the agent's user has not signed in to that registry".into(),
        };
        Ok((found, who))
    }
}

/// The images that this agent had an engine get: what somebody else brought is not
/// the agent's to remove.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(crate) struct Pulled(BTreeMap<Digest, String>);

impl Pulled {
    fn path(disk: &Disk) -> PathBuf {
        disk.root().join("pulled.json")
    }

    /// Before it is there, as the agent may be cut off right after.
    fn note(disk: &Disk, image: Digest, name: &str) -> io::Result<()> {
        let mut pulled = files::read_json::<Self>(&Self::path(disk))?.unwrap_or_default();
        pulled.0.insert(image, name.to_owned());
        files::write_json(&Self::path(disk), &pulled, 0o600)
    }

    /// Has the engine remove those that nothing holds. It refuses for one that a
    /// container is made of, which is looked at again.
    pub(crate) async fn collect(
        disk: &Disk,
        engine: &Engine,
        held: &BTreeSet<Digest>,
    ) -> io::Result<()> {
        let path = Self::path(disk);
        let Some(mut pulled) = files::read_json::<Self>(&path)? else {
            return Ok(());
        };
        let is_held = |name: &String| {
            let mut others = pulled.0.iter();
            others.any(|(image, other)| held.contains(image) && other == name)
        };
        let doomed: Vec<_> = pulled.0.iter().filter(|(_, name)| !is_held(name)).collect();
        let mut gone = Vec::new();
        for (image, name) in doomed {
            if engine.remove_image(name).await? {
                tracing::info!(name, "removed an image that nothing holds");
                gone.push(*image);
            }
        }
        if gone.is_empty() {
            return Ok(());
        }
        pulled.0.retain(|image, _| !gone.contains(image));
        files::write_json(&path, &pulled, 0o600)
    }
}

/// The container engine of this machine, looked for when it is first needed.
#[derive(Clone)]
pub(crate) struct Engines {
    address: Option<String>,
    found: Arc<Mutex<Option<Engine>>>,
}

impl Engines {
    pub(crate) fn new(config: &AgentConfig) -> Self {
        Self {
            address: config.engine_socket.clone(),
            found: Arc::default(),
        }
    }

    pub(crate) async fn engine(&self) -> Result<Engine, EngineError> {
        let mut found = self.found.lock().await;
        if let Some(engine) = &*found {
            return Ok(engine.clone());
        }
        let engine = Engine::find(self.address.as_deref()).await?;
        tracing::info!(
            engine = engine.name(),
            socket = %engine.socket().display(),
            "a container engine answers"
        );
        Ok(found.insert(engine).clone())
    }

    /// The one that was needed so far.
    pub(crate) async fn known(&self) -> Option<Engine> {
        self.found.lock().await.clone()
    }
}

impl EnvironmentError {
    fn of_engine(error: &EngineError, what: &str) -> Self {
        let text = format!("{what}{}; {}", explain(error), error.help());
        if text.contains("no space left on device") {
            return Self::DiskFull(format!("the disk is full: {text}"));
        }
        if error.may_pass() {
            Self::Retry(text)
        } else {
            Self::Stalled(text)
        }
    }
}

/// The one rule of which virtual environment a live image has: as long as
/// anything of Airflow runs, the one that it runs in; otherwise the one that
/// this agent makes, and where it cannot (no network), the one there is.
fn kept_or_made<T: std::fmt::Debug, E: std::fmt::Debug>(
    airflow_runs: bool,
    kept: impl Fn() -> Option<T>,
    make: impl FnOnce() -> Result<T, E>,
) -> Result<T, E> {
    if airflow_runs && let Some(kept) = kept() {
        return Ok(kept);
    }
    make().or_else(|error| {
        let kept = kept().ok_or(error)?;
        tracing::warn!(environment = ?kept, "no new environment can be made, so Airflow goes on in the one there is");
        Ok(kept)
    })
}

fn made(disk: &Disk) -> Option<Made> {
    files::read_json(&disk.root().join(MADE)).ok().flatten()
}

/// The virtual environment that the live image was last seen to run in.
pub(crate) fn kept(disk: &Disk) -> Option<Digest> {
    made(disk).map(|made| made.environment)
}

fn uv_failed(error: &UvError) -> EnvironmentError {
    let text = format!("{}; {}", explain(error), error.help());
    match error {
        UvError::Offline(_) | UvError::Install(_) | UvError::Io { .. } => {
            EnvironmentError::Retry(text)
        }
        UvError::Unusable { .. } | UvError::NoPython => EnvironmentError::Stalled(text),
    }
}

fn realise_failed(error: &RealiseError) -> EnvironmentError {
    let text = format!("{}; {}", explain(error), error.help());
    // uv says so in words only; there may be room again at any time.
    if text.contains("No space left on device") {
        return EnvironmentError::DiskFull(format!("the disk is full: {text}"));
    }
    match error {
        RealiseError::Offline(_)
        | RealiseError::Compile { .. }
        | RealiseError::Io { .. }
        | RealiseError::NotTried { .. }
        | RealiseError::Uv(_)
        | RealiseError::Lock(LockError::Offline { .. } | LockError::Io { .. } | LockError::Uv(_)) => {
            EnvironmentError::Retry(text)
        }
        RealiseError::Lock(
            LockError::Unsatisfiable { .. }
            | LockError::NoPython { .. }
            | LockError::Credentials(_),
        )
        | RealiseError::Python(_)
        | RealiseError::Venv { .. }
        | RealiseError::Install(_)
        | RealiseError::Broken { .. } => EnvironmentError::Stalled(text),
    }
}

async fn describe(
    disk: &Disk,
    client: &Client,
    image: Digest,
) -> Result<updraft_image::Environment, EnvironmentError> {
    let blobs = Blobs::new(disk);
    let stalled = |error: updraft_image::EnvironmentError| {
        EnvironmentError::Stalled(format!("{}; {}", explain(&error), error.help()))
    };
    let manifest = blobs.get(client, image).await?;
    let parsed = updraft_image::EnvironmentManifest::parse(&manifest).map_err(stalled)?;
    let config = blobs.get(client, parsed.config()).await?;
    let lock = blobs.get(client, parsed.lock()).await?;
    updraft_image::Environment::read(&manifest, &config, &lock).map_err(stalled)
}

/// The folder of the project's non-DAG files.
pub(crate) fn project_dir(disk: &Disk) -> Result<BundleDir, updraft_bundle::VersionError> {
    Disk::tree(&disk.root().join("project"))
}

/// What an image keeps on disk besides its blobs: the virtual environment's
/// name and the files' version. None when its blobs are not here.
pub(crate) fn parts(disk: &Disk, image: Digest) -> Option<(Digest, Digest)> {
    let blobs = Blobs::new(disk);
    let manifest = blobs.read(&image)?;
    let parsed = updraft_image::EnvironmentManifest::parse(&manifest).ok()?;
    let (config, lock) = (blobs.read(&parsed.config())?, blobs.read(&parsed.lock())?);
    let config = updraft_image::EnvironmentConfig::parse(&config, &lock).ok()?;
    Some((realised_key(&config), parsed.files().digest()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_only_a_deploy_can_mend_is_not_tried_again_and_again() {
        let (what, complaint) = ("Airflow".to_owned(), "no".to_owned());
        let unsatisfiable = LockError::Unsatisfiable {
            what: what.clone(),
            complaint: complaint.clone(),
        };
        let stalls = |error| matches!(realise_failed(&error), EnvironmentError::Stalled(_));
        assert!(stalls(RealiseError::Lock(unsatisfiable)));
        let offline = LockError::Offline { what, complaint };
        assert!(!stalls(RealiseError::Lock(offline)));
    }

    #[test]
    fn a_new_agent_leaves_a_running_airflow_where_it_is() {
        let rule = |runs, kept: Option<&'static str>, made: Result<&'static str, ()>| {
            kept_or_made(runs, || kept, || made)
        };
        assert_eq!(rule(true, Some("old"), Ok("new")), Ok("old"));
        assert_eq!(rule(false, Some("old"), Ok("new")), Ok("new"));
        // Without a network, also after the machine restarted.
        assert_eq!(rule(false, Some("old"), Err(())), Ok("old"));
        assert_eq!(rule(true, None, Ok("new")), Ok("new"));
        assert_eq!(rule(true, None, Err(())), Err(()));
    }
}
