//! A container image without a container engine: the standard build of a project,
//! written straight into a registry.
//!
//! ```text
//!  base            its manifest and config; what is in its layers, read once
//!  packages        what `requirements.txt` adds to the base's, as one layer
//!  layer           archives that are the same each time, kept by what they are made from
//!  compose         config and manifest of the whole
//! ```
//!
//! Start with [`build_daemonless`]. The base's layers go by reference: where the registry
//! has them they stay, from another repository they are mounted, and from another
//! registry they are passed on as they come.

mod base;
mod compose;
mod contents;
mod layer;
mod look;
mod packages;

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use updraft_bundle::EntryKind;
use updraft_model::Digest;
use updraft_project::{Dockerfile, OwnStep, Project, ProjectError};

use crate::engine::ImagePackages;
use crate::lock::LockError;
use crate::process::{Stop, StopOnDrop};
use crate::registry::{
    BlobContent, ImageBlob, ImageReference, ImageRepository, OciImage, PushError, Pushed, Registry,
    RegistryAccess,
};
use crate::standard::{AIRFLOW_HOME, python_path};
use crate::uv::{Uv, UvError};
use base::{Base, BaseContents};
use compose::{Additions, compose};
use contents::{Owner, join};
use layer::{Item, Layer, Layers, Tree};
pub use look::{RegistryImage, digest_in_registry, look_at_image};

/// How the registry of a repository may be reached.
pub type Access = Arc<dyn Fn(&ImageRepository) -> Result<RegistryAccess, PushError> + Send + Sync>;
/// Told what is happening, a line at a time.
pub type Say = Arc<dyn Fn(&str) + Send + Sync>;

/// What is built, and where to.
pub struct DaemonlessBuild {
    pub project: Project,
    pub to: ImageRepository,
    /// None: a name made from the digest.
    pub tag: Option<String>,
    /// `linux/amd64` or `linux/arm64`; none: what this machine is.
    pub platform: Option<String>,
    /// Values for the Dockerfile's `ARG`s.
    pub args: BTreeMap<String, String>,
    /// Resolve and install anew.
    pub fresh: bool,
    /// Where things are kept that can be made again.
    pub cache: PathBuf,
    /// Where it is remembered which files of the project did not change.
    pub scan_cache: Option<PathBuf>,
    pub access: Access,
}

/// An image that is in the registry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DaemonlessImage {
    pub digest: Digest,
    pub tag: String,
    pub pushed: Pushed,
    /// As the Dockerfile names it, and the digest that it had.
    pub base: String,
    pub base_digest: Digest,
    pub platform: String,
    /// What the Dockerfile sets.
    pub env: BTreeMap<String, String>,
    /// What its Python can import.
    pub contents: ImagePackages,
    /// What of that the base does not have; what comes from an address has no version.
    pub added: BTreeMap<String, String>,
    /// Those of them that the base has in another version.
    pub replaced: Vec<String>,
    /// The layer with the packages was there: nothing was installed.
    pub reused: bool,
}

#[derive(Debug, thiserror::Error)]
pub enum DaemonlessError {
    #[error(transparent)]
    Project(#[from] ProjectError),
    #[error("the Dockerfile has steps of its own, which only a container engine can do: {}", listed(.0))]
    OwnSteps(Vec<OwnStep>),
    #[error(
        "the base `{0}` brings steps of its own along (`ONBUILD`), which only a container engine can do"
    )]
    OnBuild(String),
    #[error("`packages.txt` names system packages, which only a container engine can install: {}", .0.join(", "))]
    SystemPackages(Vec<String>),
    #[error("there is no image `{name}` in its registry")]
    NoBase { name: String },
    #[error("there is no image `{name}`, neither in an engine here nor in its registry")]
    NoImage { name: String },
    #[error("the base `{name}` is not for linux/{architecture}, only for {has}")]
    NoPlatform {
        name: String,
        architecture: String,
        has: String,
    },
    #[error("the base `{name}` is no image that can be built on: {why}")]
    OddBase { name: String, why: String },
    #[error("the base `{name}` has no Airflow that a Python could import: {why}")]
    NoAirflow { name: String, why: &'static str },
    #[error("the layer {digest} of the base `{name}` cannot be read")]
    Layer {
        name: String,
        digest: Digest,
        source: io::Error,
    },
    #[error(transparent)]
    Registry(#[from] PushError),
    #[error(transparent)]
    Uv(#[from] UvError),
    #[error(transparent)]
    Lock(#[from] LockError),
    #[error("could not install the packages, because a package index was not in reach:\n{0}")]
    Offline(String),
    #[error("could not install the packages:\n{0}")]
    Install(String),
    #[error("`{0}` has no wheel, and what is compiled on this machine may not run in the image")]
    Compiled(String),
    #[error("could not read or write below `{}`", path.display())]
    Io { path: PathBuf, source: io::Error },
    #[error("the build was interrupted")]
    Interrupted,
}

impl DaemonlessError {
    /// One sentence that says what to do next.
    pub fn help(&self) -> Option<&'static str> {
        Some(match self {
            Self::Project(error) => error.help(),
            Self::OwnSteps(_) | Self::OnBuild(_) => {
                "build it with an engine (`--engine docker`, `podman` or `buildah`)"
            }
            Self::SystemPackages(_) => {
                "build it with an engine, or start from a base that has them and empty `packages.txt`"
            }
            Self::NoBase { .. } => {
                "correct the name after `FROM`, or push the image there: one that only an engine here has cannot be seen"
            }
            Self::NoImage { .. } => {
                "correct the name after `--image-name`, or push the image there"
            }
            Self::NoPlatform { .. } => "name another `--platform`, or a base for this one",
            Self::OddBase { .. } => "name another base after `FROM`",
            Self::NoAirflow { .. } => {
                "start from an image with Airflow, as in `FROM apache/airflow:3.3.2-python3.12`"
            }
            Self::Layer { .. } => "the registry may have a damaged blob; push the base again",
            Self::Registry(error) => return error.help(),
            Self::Uv(error) => error.help(),
            Self::Lock(error) => error.help(),
            Self::Offline(_) => {
                "check the network, or name your package index in `UV_DEFAULT_INDEX` or `UV_INDEX`"
            }
            Self::Install(_) | Self::Compiled(_) => {
                "require a version with a wheel for this platform, or build with an engine"
            }
            Self::Io { .. } => "check the folder's permissions and the space left on the disk",
            Self::Interrupted => return None,
        })
    }
}

fn listed(steps: &[OwnStep]) -> String {
    let named = steps
        .iter()
        .map(|step| format!("line {}: `{}`", step.line, step.text));
    named.collect::<Vec<_>>().join("; ")
}

impl fmt::Debug for DaemonlessBuild {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DaemonlessBuild")
            .field("project", &self.project)
            .field("to", &self.to)
            .finish_non_exhaustive()
    }
}

/// Builds a project's image and pushes it. The same project on the same base is the
/// same digest.
///
/// Whoever drops the future ends what it runs.
pub async fn build_daemonless(
    ask: DaemonlessBuild,
    say: Say,
) -> Result<DaemonlessImage, DaemonlessError> {
    let ask = Arc::new(ask);
    let cache = ask.cache.join("daemonless");
    let packages = ask.project.packages()?;
    if !packages.is_empty() {
        return Err(DaemonlessError::SystemPackages(packages));
    }
    let text = ask.project.dockerfile_text()?;
    let text = text.ok_or(ProjectError::NoDockerfile)?;
    let first = Dockerfile::parse_with(&text, &ask.args).map_err(ProjectError::from)?;
    let name: ImageReference = first.base().parse()?;

    let from = Registry::connect(name.repository.clone(), (ask.access)(&name.repository)?)?;
    let base = Base::resolve(from, name, ask.architecture(), &cache).await?;
    let dockerfile = Dockerfile::parse_on(&text, &ask.args, &base.env());
    let dockerfile = dockerfile.map_err(ProjectError::from)?;
    if !dockerfile.own_steps().is_empty() {
        return Err(DaemonlessError::OwnSteps(dockerfile.own_steps().to_vec()));
    }
    if base.has_on_build() {
        return Err(DaemonlessError::OnBuild(dockerfile.base().to_owned()));
    }
    let inside = base.read(&cache, &say).await?;

    let base = Arc::new(base);
    let work = Work {
        ask: Arc::clone(&ask),
        base: Arc::clone(&base),
        inside,
        env: dockerfile.env().clone(),
        layers: Layers::at(cache.join("layers")),
        cache,
        say: Arc::clone(&say),
    };
    let ending = StopOnDrop::default();
    let stop = ending.stop();
    let made = tokio::task::spawn_blocking(move || work.run(&stop));
    let made = made.await.map_err(|_| DaemonlessError::Interrupted)??;

    let layers: Vec<(Layer, &'static str)> = made
        .layers
        .iter()
        .map(|(layer, _, what)| (layer.clone(), *what))
        .collect();
    let composed = compose(
        &base,
        &Additions {
            layers: &layers,
            env: &made.env,
            labels: dockerfile.labels(),
        },
    );
    let mut blobs: Vec<ImageBlob> = base
        .layers
        .iter()
        .map(|layer| ImageBlob {
            digest: layer.digest,
            size: layer.size,
            content: BlobContent::Remote(Arc::clone(&base.registry)),
        })
        .collect();
    blobs.extend(made.layers.into_iter().map(|(layer, file, _)| ImageBlob {
        digest: layer.digest,
        size: layer.size,
        content: BlobContent::File(file),
    }));
    blobs.push(composed.config.into());
    let image = OciImage {
        manifest: composed.manifest,
        media_type: composed.media_type,
        blobs,
    };

    let digest = image.digest();
    // Named by what it is, a tag is never used for something else.
    let tag = ask.tag.clone().unwrap_or_else(|| digest.short());
    say(&format!("pushing to `{}:{tag}`", ask.to));
    let to = Registry::connect(ask.to.clone(), (ask.access)(&ask.to)?)?;
    let beside = &base.name.repository;
    let others = if beside.registry == ask.to.registry && *beside != ask.to {
        vec![beside.repository.clone()]
    } else {
        Vec::new()
    };
    let pushed = to.push(&image, Some(&tag), &others).await?;
    Ok(DaemonlessImage {
        digest,
        tag,
        pushed,
        base: dockerfile.base().to_owned(),
        base_digest: base.digest,
        platform: format!("linux/{}", ask.architecture()),
        env: dockerfile.env().clone(),
        contents: made.contents,
        added: made.added,
        replaced: made.replaced,
        reused: made.reused,
    })
}

impl DaemonlessBuild {
    fn architecture(&self) -> &str {
        match &self.platform {
            Some(platform) => platform.strip_prefix("linux/").unwrap_or(platform),
            None => this_architecture(),
        }
    }
}

/// What registries call this machine's processor.
fn this_architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

/// The part of a build that blocks.
struct Work {
    ask: Arc<DaemonlessBuild>,
    base: Arc<Base>,
    inside: BaseContents,
    /// What the Dockerfile sets.
    env: BTreeMap<String, String>,
    layers: Layers,
    cache: PathBuf,
    say: Say,
}

struct Made {
    /// With their files, and what their history says.
    layers: Vec<(Layer, PathBuf, &'static str)>,
    env: BTreeMap<String, String>,
    contents: ImagePackages,
    added: BTreeMap<String, String>,
    replaced: Vec<String>,
    reused: bool,
}

impl Work {
    fn run(self, stop: &Stop) -> Result<Made, DaemonlessError> {
        let site = &self.inside.site;
        let mut made = Made {
            layers: Vec::new(),
            env: self.env.clone(),
            contents: ImagePackages {
                airflow: site.airflow.clone(),
                python: site.python_version,
                packages: site.packages.clone(),
            },
            added: BTreeMap::new(),
            replaced: Vec::new(),
            reused: true,
        };
        self.add_packages(stop, &mut made)?;
        let mut env = self.base.env();
        env.extend(self.env.clone());
        let home = env.get("AIRFLOW_HOME").map_or(AIRFLOW_HOME, String::as_str);
        self.add_files(home, &mut made)?;
        // As in an Environment, the project's folders can be imported.
        made.env
            .insert("PYTHONPATH".into(), python_path(home, &env));
        Ok(made)
    }

    fn add_packages(&self, stop: &Stop, made: &mut Made) -> Result<(), DaemonlessError> {
        let requirements = self.ask.project.requirements()?;
        if requirements.is_empty() {
            return Ok(());
        }
        let say = &*self.say;
        let uv = Uv::find_or_install(&self.ask.cache, stop, say)?;
        let site = &self.inside.site;
        let packages = packages::Ask {
            uv: &uv,
            site,
            base: &self.inside.contents,
            requirements: &requirements,
            architecture: self.ask.architecture(),
            fresh: self.ask.fresh,
            cache: &self.cache,
            layers: &self.layers,
            say,
        };
        let added = packages.resolve()?;
        if added.packages.is_empty() {
            return Ok(());
        }
        let records = || self.base.records(&self.cache);
        let (layer, file, reused) = packages.layer(&added, records)?;
        made.layers
            .push((layer, file, "updraft: packages of requirements.txt"));
        made.reused = reused;
        made.replaced = added.replaced(site);
        let named = added
            .packages
            .iter()
            .filter(|(_, version)| !version.is_empty());
        let named = named.map(|(name, version)| (name.clone(), version.clone()));
        made.contents.packages.extend(named);
        made.added = added.packages;
        Ok(())
    }

    fn add_files(&self, home: &str, made: &mut Made) -> Result<(), DaemonlessError> {
        let project = &self.ask.project;
        let files = project.files(self.ask.scan_cache.clone())?;
        if files.entries().is_empty() {
            return Ok(());
        }
        let home = self.inside.contents.real(home);
        let mut tree = Tree::on(&self.inside.contents, Owner::ROOT);
        for entry in files.entries() {
            let item = match &entry.kind {
                EntryKind::File {
                    size, executable, ..
                } => Item::File {
                    from: project.root().join(&entry.path),
                    size: *size,
                    executable: *executable,
                },
                EntryKind::Link { target } => Item::Link {
                    target: target.clone(),
                },
            };
            tree.add(&join(&home, &entry.path), item);
        }
        let key = Layers::key(&("files", &home, files.entries(), tree.folders()));
        let layer = match self.layers.find(key) {
            Some(layer) => layer,
            None => self
                .layers
                .write(key, &tree)
                .map_err(|source| DaemonlessError::Io {
                    path: project.root().to_owned(),
                    source,
                })?,
        };
        let file = self.layers.file(key);
        made.layers
            .push((layer, file, "updraft: files of the project"));
        Ok(())
    }
}
