//! docker and podman: images that are here, or can be pulled or built, and
//! commands that run in them.

use std::collections::BTreeMap;
use std::fmt;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde::{Deserialize, Serialize};
use updraft_model::Digest;
use updraft_project::{AirflowVersion, PythonVersion};

use crate::process::{Finished, Stop, run_until};
use crate::wheel::{airflow_updraft_wheel, airflow_updraft_wheel_name};

/// The label of an image that we build: a digest of what it is built from.
pub(crate) const INPUTS: &str = "io.updraft.inputs";

/// What a Dockerfile calls the image that has no file.
pub(crate) const EMPTY: &str = "scratch";

/// A program that builds images, and but for buildah runs containers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EngineName {
    Docker,
    Podman,
    Buildah,
}

/// A container engine that works here.
#[derive(Debug, Clone)]
pub struct Engine {
    name: EngineName,
    /// Whether root in a container is the user who runs it.
    rootless: bool,
}

/// An image that the engine has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Image {
    /// Never changes its meaning, unlike a name.
    pub id: String,
    /// What its processes have set.
    pub env: BTreeMap<String, String>,
    /// What it was built from, where we built it.
    pub inputs: Option<String>,
    /// Whom its processes run as; empty: root.
    pub user: String,
    /// Steps of its own that a build from it begins with.
    pub on_build: Vec<String>,
    /// Its names in registries, by digest.
    pub digests: Vec<String>,
    /// What it runs on, as in `linux/amd64`.
    pub platform: String,
}

/// What the Python of an image can import.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImagePackages {
    pub airflow: AirflowVersion,
    pub python: PythonVersion,
    /// With their versions.
    pub packages: BTreeMap<String, String>,
}

/// A file or folder of this machine, and where a container has it.
#[derive(Debug, Clone, Copy)]
pub struct Mount<'a> {
    pub path: &'a Path,
    pub target: &'a Path,
    pub writable: bool,
}

/// How Python is started in a container.
pub struct PythonRun<'a> {
    pub image: &'a Image,
    /// Under which it can be ended.
    pub container: &'a str,
    /// The wheel of the worker and what else is imported before anything.
    pub python_path: &'a [&'a Path],
    pub mounts: &'a [Mount<'a>],
    pub variables: &'a BTreeMap<String, String>,
    pub folder: &'a Path,
    /// Whether this process's terminal is that of the container.
    pub on_terminal: bool,
}

impl ImagePackages {
    /// What images of Airflow say of themselves, where nobody asks their Python.
    pub fn by_variables(env: &BTreeMap<String, String>) -> Option<Self> {
        let python = env.get("PYTHON_VERSION")?;
        let mut parts = python.split('.');
        let python = format!("{}.{}", parts.next()?, parts.next()?);
        let airflow = env.get("AIRFLOW_VERSION")?;
        Some(Self {
            airflow: airflow.parse().ok()?,
            python: python.parse().ok()?,
            packages: BTreeMap::from([("apache-airflow".to_owned(), airflow.clone())]),
        })
    }

    /// As `pip freeze` writes them.
    pub fn lock_text(&self) -> String {
        let mut names: Vec<_> = self
            .packages
            .iter()
            .map(|(name, version)| format!("{}=={version}\n", name.to_lowercase()))
            .collect();
        names.sort_unstable();
        names.concat()
    }
}

#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    #[error("no container engine works here: {}", tried(.0))]
    None(Vec<(EngineName, String)>),
    #[error("{engine} does not have the image `{name}` and could not pull it: {said}")]
    Pull {
        engine: EngineName,
        name: String,
        said: String,
    },
    #[error("{engine} could not build the project's image:\n{said}")]
    Build { engine: EngineName, said: String },
    #[error("there is no build secret `{id}`: {what} does not exist")]
    NoSecret { id: String, what: String },
    #[error("docker has no buildx here, and its old builder does not know {0}")]
    NoBuildx(&'static str),
    #[error("{engine} could not push `{name}`: {said}")]
    Push {
        engine: EngineName,
        name: String,
        said: String,
    },
    #[error("{engine} could not {what}: {said}")]
    Refused {
        engine: EngineName,
        what: &'static str,
        said: String,
    },
    #[error("the image `{name}` has no Airflow that its Python can import: {said}")]
    NoAirflow { name: String, said: String },
    #[error("could not run {engine}")]
    Run {
        engine: EngineName,
        source: io::Error,
    },
    #[error("could not write `{}`", path.display())]
    Write { path: PathBuf, source: io::Error },
}

impl EngineError {
    pub fn help(&self) -> &'static str {
        match self {
            Self::None(_) => "install docker or podman, or start its service",
            Self::Pull { .. } => "build it, correct the name, or sign in to its registry",
            Self::Push { .. } => {
                "see whether the engine reaches that registry, and may push there (`docker login`)"
            }
            Self::Build { .. } => "correct the step that failed",
            Self::NoSecret { .. } => "correct the path or the name after `src=` or `env=`",
            Self::NoBuildx(_) => {
                "install docker's buildx plugin, or build with `--engine podman` or `buildah`"
            }
            Self::Refused { .. } => "the engine's own log may say more",
            Self::NoAirflow { .. } => "name an image whose `python` has Airflow",
            Self::Run { .. } => "check that it can be run",
            Self::Write { .. } => "make the folder writable, or set `UPDRAFT_CACHE_DIR`",
        }
    }
}

fn tried(engines: &[(EngineName, String)]) -> String {
    let named = engines.iter().map(|(name, why)| format!("{name}: {why}"));
    named.collect::<Vec<_>>().join("; ")
}

impl EngineName {
    /// Those that run containers.
    pub const RUN: [Self; 2] = [Self::Docker, Self::Podman];
    pub const BUILD: [Self; 3] = [Self::Docker, Self::Podman, Self::Buildah];

    pub const fn program(self) -> &'static str {
        match self {
            Self::Docker => "docker",
            Self::Podman => "podman",
            Self::Buildah => "buildah",
        }
    }

    /// What it says of itself when it works; otherwise why it does not.
    fn probe(self, stop: &Stop) -> Result<String, String> {
        let asked = match self {
            Self::Docker => "{{.ServerVersion}} {{json .SecurityOptions}}",
            Self::Podman => "{{.Version.Version}} rootless={{.Host.Security.Rootless}}",
            Self::Buildah => "{{.store.GraphRoot}} rootless={{.host.rootless}}",
        };
        let mut command = Command::new(self.program());
        command
            .args(["info", "--format", asked])
            .stdin(Stdio::null());
        match run_until(&mut command, stop) {
            Ok(finished) if finished.success && !finished.stdout.trim_start().is_empty() => {
                Ok(finished.stdout)
            }
            Ok(finished) => Err(short(&finished)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Err("not installed".into()),
            Err(error) => Err(error.to_string()),
        }
    }
}

impl fmt::Display for EngineName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.program())
    }
}

impl Engine {
    /// The one that was asked for; otherwise the first that works and runs containers.
    pub fn find(asked: Option<EngineName>, stop: &Stop) -> Result<Self, EngineError> {
        Self::find_among(&EngineName::RUN, asked, stop)
    }

    /// The one that was asked for; otherwise the first that works and builds.
    pub fn find_builder(asked: Option<EngineName>, stop: &Stop) -> Result<Self, EngineError> {
        Self::find_among(&EngineName::BUILD, asked, stop)
    }

    fn find_among(
        names: &[EngineName],
        asked: Option<EngineName>,
        stop: &Stop,
    ) -> Result<Self, EngineError> {
        let mut tried = Vec::new();
        for &name in names {
            if asked.is_some_and(|asked| asked != name) {
                continue;
            }
            match name.probe(stop) {
                Ok(info) => {
                    let rootless = info.contains("name=rootless") || info.contains("rootless=true");
                    return Ok(Self { name, rootless });
                }
                Err(why) => tried.push((name, why)),
            }
        }
        Err(EngineError::None(tried))
    }

    /// One that has worked before.
    pub const fn known(name: EngineName, rootless: bool) -> Self {
        Self { name, rootless }
    }

    pub fn name(&self) -> EngineName {
        self.name
    }

    pub fn is_rootless(&self) -> bool {
        self.rootless
    }

    /// Where docker's daemon listens, as its own settings have it.
    pub fn docker_address(stop: &Stop) -> Result<String, EngineError> {
        let docker = Self::known(EngineName::Docker, false);
        let format = "{{.Endpoints.docker.Host}}";
        let finished = docker.run(
            docker.command(&["context", "inspect", "--format", format]),
            stop,
        )?;
        if !finished.success {
            return Err(EngineError::Refused {
                engine: EngineName::Docker,
                what: "say where its daemon listens",
                said: short(&finished),
            });
        }
        Ok(finished.stdout.trim().to_owned())
    }

    /// The image of this name, pulled where it is not here.
    pub fn image(&self, name: &str, stop: &Stop, say: &dyn Fn(&str)) -> Result<Image, EngineError> {
        self.image_as(name, None, stop, say)
    }

    /// Has what a build starts from at hand where a name has no registry.
    pub fn find_short_names<'a>(
        &self,
        names: impl IntoIterator<Item = &'a String>,
        stop: &Stop,
        say: &dyn Fn(&str),
    ) -> Result<(), EngineError> {
        if self.name == EngineName::Docker {
            return Ok(());
        }
        let is_short = |name: &&String| *name != EMPTY && on_docker_hub(name).is_some();
        for name in names.into_iter().filter(is_short) {
            self.image(name, stop, say)?;
        }
        Ok(())
    }

    /// The image that the engine has under a name or an id.
    pub fn inspect(&self, name: &str, stop: &Stop) -> Result<Option<Image>, EngineError> {
        let asked: &[&str] = match self.name {
            EngineName::Docker | EngineName::Podman => &["image", "inspect", "--", name],
            EngineName::Buildah => &["inspect", "--type", "image", "--", name],
        };
        let finished = self.run(self.command(asked), stop)?;
        if !finished.success {
            return Ok(None);
        }
        let read = match self.name {
            EngineName::Docker | EngineName::Podman => {
                serde_json::from_str(&finished.stdout).map(|[found]: [Inspected; 1]| found)
            }
            EngineName::Buildah => serde_json::from_str(&finished.stdout).map(|found: Buildah| {
                let docker = found.docker;
                Inspected {
                    id: found.id,
                    config: docker.config,
                    digests: None,
                    os: docker.os,
                    architecture: docker.architecture,
                }
            }),
        };
        let Inspected {
            id,
            config,
            digests,
            os,
            architecture,
        } = read.map_err(|error| EngineError::Refused {
            engine: self.name,
            what: "describe the image",
            said: error.to_string(),
        })?;
        let env = config.env.unwrap_or_default();
        let pairs = env.iter().filter_map(|pair| pair.split_once('='));
        Ok(Some(Image {
            id,
            env: pairs
                .map(|(name, value)| (name.into(), value.into()))
                .collect(),
            inputs: config.labels.and_then(|mut labels| labels.remove(INPUTS)),
            user: config.user.unwrap_or_default(),
            on_build: config.on_build.unwrap_or_default(),
            digests: digests.unwrap_or_default(),
            platform: format!("{os}/{architecture}"),
        }))
    }

    /// Asks the image's Python what it has. An id never changes its meaning, so
    /// the answer is kept.
    pub fn packages(
        &self,
        image: &Image,
        name: &str,
        cache: &Path,
        stop: &Stop,
    ) -> Result<ImagePackages, EngineError> {
        const SCRIPT: &str = "import json, platform\n\
             from importlib.metadata import distributions, version\n\
             named = {found.metadata['Name']: found.version for found in distributions()}\n\
             print(json.dumps({'airflow': version('apache-airflow'), 'python': \
             '.'.join(platform.python_version_tuple()[:2]), 'packages': named}))";
        let kept = cache
            .join("images")
            .join(format!("{}.json", Digest::of(image.id.as_bytes()).short()));
        if let Ok(text) = fs::read(&kept)
            && let Ok(packages) = serde_json::from_slice(&text)
        {
            return Ok(packages);
        }
        let mut command = self.command(&["run", "--rm", "--pull=never", "--network=none"]);
        command.args(entry(&image.id)).args(["-c", SCRIPT]);
        let finished = self.run(command, stop)?;
        let no_airflow = |said| EngineError::NoAirflow {
            name: name.to_owned(),
            said,
        };
        if !finished.success {
            return Err(no_airflow(short(&finished)));
        }
        let packages: ImagePackages = serde_json::from_str(&finished.stdout)
            .map_err(|error| no_airflow(error.to_string()))?;
        write(&kept, finished.stdout.as_bytes())?;
        Ok(packages)
    }

    /// Python in a container that is gone when it ends; its arguments are to be
    /// added.
    pub fn python(&self, run: &PythonRun<'_>) -> Command {
        let mut command = self.command(&["run", "--rm", "--interactive", "--pull=never"]);
        if run.on_terminal {
            command.arg("--tty");
        }
        command
            .args(["--name", run.container])
            .args(["--user", &self.user()])
            // Files keep the labels that they have.
            .args(["--security-opt", "label=disable"])
            .arg("--workdir")
            .arg(run.folder);
        for mount in run.mounts {
            command.arg("--mount").arg(mount.to_field());
        }
        let path = run
            .python_path
            .iter()
            .map(|path| path.display().to_string());
        let theirs = run.image.env.get("PYTHONPATH").cloned();
        let path: Vec<String> = path.chain(theirs.filter(|path| !path.is_empty())).collect();
        let variable = |name: &str, value: &str| format!("--env={name}={value}");
        command.arg(variable("PYTHONPATH", &path.join(":")));
        command.args(
            run.variables
                .iter()
                .map(|(name, value)| variable(name, value)),
        );
        command.args(entry(&run.image.id));
        command
    }

    /// Ends a container that nobody waits for any more, if it is there still.
    pub fn remove(&self, container: &str) {
        let mut command = self.command(&["rm", "--force", container]);
        let _ = command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status();
    }

    /// What is written to a mounted folder should be the caller's, and images of
    /// Airflow take any user of group 0.
    pub(crate) fn user(&self) -> String {
        if self.rootless {
            return "0:0".into();
        }
        format!("{}:0", rustix::process::getuid().as_raw())
    }

    pub(crate) fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(self.name.program());
        command.args(arguments);
        command
    }

    pub(crate) fn run(&self, mut command: Command, stop: &Stop) -> Result<Finished, EngineError> {
        run_until(command.stdin(Stdio::null()), stop).map_err(|source| EngineError::Run {
            engine: self.name,
            source,
        })
    }
}

/// The whole name of an image that a Dockerfile names without a registry.
pub(crate) fn on_docker_hub(name: &str) -> Option<String> {
    match name.split_once('/') {
        None => Some(format!("docker.io/library/{name}")),
        Some((first, _)) if first.contains(['.', ':']) || first == "localhost" => None,
        Some(_) => Some(format!("docker.io/{name}")),
    }
}

/// What an engine says of an image. The whole of it: names in a format differ
/// between the engines.
#[derive(Deserialize)]
struct Inspected {
    #[serde(rename = "Id")]
    id: String,
    #[serde(rename = "Config")]
    config: Config,
    #[serde(rename = "RepoDigests", default)]
    digests: Option<Vec<String>>,
    #[serde(rename = "Os", default)]
    os: String,
    #[serde(rename = "Architecture", default)]
    architecture: String,
}

#[derive(Deserialize)]
struct Buildah {
    #[serde(rename = "FromImageID")]
    id: String,
    #[serde(rename = "Docker")]
    docker: BuildahDocker,
}

#[derive(Deserialize)]
struct BuildahDocker {
    config: Config,
    #[serde(default)]
    os: String,
    #[serde(default)]
    architecture: String,
}

impl Image {
    /// What stands for its content on every machine: its digest in a registry, where it
    /// came from one.
    pub fn identity(&self) -> &str {
        let digests = self.digests.iter().filter_map(|name| name.split_once('@'));
        let digest = digests.map(|(_, digest)| digest).min();
        digest.unwrap_or(&self.id)
    }

    /// What images for this machine run on.
    pub const fn platform_here() -> &'static str {
        if cfg!(target_arch = "aarch64") {
            "linux/arm64"
        } else {
            "linux/amd64"
        }
    }

    pub fn runs_here(&self) -> bool {
        self.platform == Self::platform_here()
    }
}

#[derive(Deserialize)]
struct Config {
    #[serde(rename = "Env")]
    env: Option<Vec<String>>,
    #[serde(rename = "Labels")]
    labels: Option<BTreeMap<String, String>>,
    #[serde(rename = "User")]
    user: Option<String>,
    #[serde(rename = "OnBuild")]
    on_build: Option<Vec<String>>,
}

/// The wheel of `airflow-updraft`, for a mount.
pub fn wheel_file(cache: &Path) -> Result<PathBuf, EngineError> {
    let bytes = airflow_updraft_wheel();
    let folder = cache.join("wheels").join(Digest::of(&bytes).short());
    let file = folder.join(airflow_updraft_wheel_name());
    if !file.is_file() {
        write(&file, &bytes)?;
    }
    Ok(file)
}

impl<'a> Mount<'a> {
    /// Under the same path in the container.
    pub const fn read_only(path: &'a Path) -> Self {
        Self {
            path,
            target: path,
            writable: false,
        }
    }

    /// Under the same path in the container.
    pub const fn writable(path: &'a Path) -> Self {
        Self {
            path,
            target: path,
            writable: true,
        }
    }

    /// A field of the engines' CSV, so that a path may have a comma.
    pub(crate) fn to_field(self) -> String {
        let quoted = |key: &str, path: &Path| {
            let path = path.display().to_string().replace('"', "\"\"");
            format!("\"{key}={path}\"")
        };
        let mode = if self.writable { "" } else { ",readonly" };
        let source = quoted("source", self.path);
        format!("type=bind,{source},{}{mode}", quoted("target", self.target))
    }
}

/// The image's own Python instead of its own entry point, which may want a
/// database.
pub(crate) fn entry(image: &str) -> [&str; 6] {
    const PYTHON: &str = r#"exec "$(command -v python || command -v python3)" "$@""#;
    ["--entrypoint", "/bin/sh", image, "-c", PYTHON, "sh"]
}

/// The last line of what it complained about.
pub(crate) fn short(finished: &Finished) -> String {
    let said = finished.complaint();
    let line = said.lines().rfind(|line| !line.trim().is_empty());
    let line = line.unwrap_or("it said nothing").trim();
    line.trim_start_matches("Error: ").to_owned()
}

/// Whole or not at all, and readable also for a container's user.
fn write(file: &Path, bytes: &[u8]) -> Result<(), EngineError> {
    use std::io::Write as _;
    use std::os::unix::fs::PermissionsExt;

    let failed = |source| EngineError::Write {
        path: file.to_owned(),
        source,
    };
    let folder = file.parent().unwrap_or(file);
    fs::create_dir_all(folder).map_err(failed)?;
    let mut temporary = tempfile::NamedTempFile::new_in(folder).map_err(failed)?;
    temporary.write_all(bytes).map_err(failed)?;
    let mode = fs::Permissions::from_mode(0o644);
    temporary.as_file().set_permissions(mode).map_err(failed)?;
    temporary
        .persist(file)
        .map_err(|error| failed(error.error))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_without_a_registry_is_docker_hubs() {
        let whole = |name| on_docker_hub(name).unwrap_or_default();
        assert_eq!(whole("python:3.12"), "docker.io/library/python:3.12");
        assert_eq!(
            whole("apache/airflow:3.3.2"),
            "docker.io/apache/airflow:3.3.2"
        );
        for named in [
            "docker.io/apache/airflow",
            "localhost/shop:built",
            "localhost:5000/shop",
            "registry:80/a/b@sha256:00",
        ] {
            assert_eq!(on_docker_hub(named), None, "{named}");
        }
    }

    #[test]
    fn a_path_may_have_what_separates_fields() {
        let mount = Mount::read_only(Path::new("/data/a,b \"c\""));
        assert_eq!(
            mount.to_field(),
            r#"type=bind,"source=/data/a,b ""c""","target=/data/a,b ""c""",readonly"#
        );
    }
}
