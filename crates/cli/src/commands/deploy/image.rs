//! The image half of a deploy, where the Deployment runs containers: built from the
//! project and pushed, or an image that is there.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;

use updraft_image::registry::{ImageReference, ImageRepository};
use updraft_image::{
    Access, BuildOptions, DaemonlessBuild, DaemonlessError, Engine, EngineError, EngineName,
    EnvironmentConfig, Image, ImagePackages, Lock, Stop, build_daemonless, digest_in_registry,
    look_at_image, without_tag,
};
use updraft_model::{ContainerImage, DeploymentName, Digest, Tag};
use updraft_project::{BuildHalf, Dockerfile, Making, Project, ProjectError, Requirements};
use uuid::Uuid;

use crate::busy::{busy, telling};
use crate::checks::reach::{Reach, remember};
use crate::console::{Aside, Console, Step};
use crate::environment::Environment;
use crate::exit::Exit;
use crate::failure::{Failure, Result};
use crate::image_build::{Builder, EngineArgs, ImageBuild};
use crate::scan;

/// Which image, and how it comes about.
#[derive(Debug, Clone, Default, clap::Args)]
#[command(next_help_heading = "Container image")]
pub(crate) struct ImageArgs {
    /// Take this image as it is: one that an engine here has, or REGISTRY/NAME@sha256:…
    #[arg(long, value_name = "NAME", conflicts_with = "dags")]
    pub(super) image_name: Option<String>,

    /// Bring the image half as this alone: a container image, or an Environment without one
    #[arg(long = "as", value_name = "KIND", value_enum, conflicts_with = "dags")]
    pub(super) kind: Option<ImageKind>,

    #[command(flatten)]
    pub(super) engine: EngineArgs,
}

/// What an image half can be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum ImageKind {
    Image,
    Environment,
}

/// The image half of a Deployment that runs containers.
pub(super) struct ContainerHalf {
    pub(super) project: Project,
    pub(super) deployment: DeploymentName,
    pub(super) args: ImageArgs,
    pub(super) reach: Reach,
    /// Asks registries without an engine.
    pub(super) access: Option<Access>,
    /// The repository that the Deployment names; none: in the control plane.
    pub(super) registry: Option<String>,
    /// What its agents run; empty: none has said so.
    pub(super) platforms: BTreeSet<String>,
    pub(super) cache: Option<PathBuf>,
    /// Build also what was built before.
    pub(super) rebuild: bool,
}

/// What is known of a difference without asking a registry.
enum Compared {
    Differs(Vec<String>),
    /// Nothing but what this name is now could differ.
    Unless(ImageReference, Option<Digest>),
}

impl ContainerHalf {
    /// Names what differs from what runs, a line each.
    pub(super) async fn differences(
        self: &Arc<Self>,
        runs: &EnvironmentConfig,
        step: &mut Step,
        out: &mut Console,
    ) -> Result<Vec<String>> {
        let (half, known) = (Arc::clone(self), runs.clone());
        let compared = busy(step, out, move |stop, _| half.compare_here(&known, stop)).await?;
        let (name, before) = match compared {
            Compared::Differs(found) => return Ok(found),
            Compared::Unless(name, before) => (name, before),
        };
        let now = match &self.access {
            Some(access) => digest_in_registry(access, &name).await,
            None => Ok(None),
        };
        if self.args.image_name.is_some() {
            let now = now?.ok_or_else(|| DaemonlessError::NoImage {
                name: name.to_string(),
            })?;
            let differs = before != Some(now);
            return Ok(differs
                .then(|| format!("image: {name} is another than before"))
                .into_iter()
                .collect());
        }
        // A registry that is not in reach is no reason to build anything.
        let now = now.ok().flatten();
        let differs = now.is_some() && before.is_some() && now != before;
        Ok(differs
            .then(|| "base image: changed".to_owned())
            .into_iter()
            .collect())
    }

    fn compare_here(&self, runs: &EnvironmentConfig, stop: &Stop) -> Result<Compared> {
        let versions = (
            runs.fingerprint.airflow_version.clone(),
            runs.fingerprint.python_version,
        );
        let differences = |half: BuildHalf, making| {
            let fingerprint = half.fingerprint(versions.0.clone(), versions.1, making);
            fingerprint.differences(&runs.fingerprint)
        };
        if let Some(name) = &self.args.image_name {
            return self.compare_named(name, runs, stop, &differences);
        }
        let half = match self.build_half() {
            Ok(half) => half,
            // A repository of DAGs alone has no image half.
            Err(ProjectError::NoDockerfile) => return Ok(Compared::Differs(Vec::new())),
            Err(error) => return Err(error.into()),
        };
        let found = differences(half.clone(), self.making(None));
        let Making::Built {
            base: Some(before), ..
        } = &runs.fingerprint.making
        else {
            return Ok(Compared::Differs(found));
        };
        if !found.is_empty() {
            return Ok(Compared::Differs(found));
        }
        // The base is asked for only when that decides.
        if let Some(base) = self.base(stop) {
            return Ok(Compared::Differs(differences(
                half,
                self.making(Some(base)),
            )));
        }
        Ok(match self.base_name() {
            Some(name) => Compared::Unless(name, before.parse().ok()),
            None => Compared::Differs(Vec::new()),
        })
    }

    /// Whether a name means the image that runs.
    fn compare_named(
        &self,
        name: &str,
        runs: &EnvironmentConfig,
        stop: &Stop,
        differences: &dyn Fn(BuildHalf, Making) -> Vec<String>,
    ) -> Result<Compared> {
        let differs = |image: &str| {
            let image = image.to_owned();
            differences(BuildHalf::default(), Making::Prebuilt { image })
        };
        let (Making::Prebuilt { image }, Some(there)) = (&runs.fingerprint.making, &runs.container)
        else {
            return Ok(Compared::Differs(differs(name)));
        };
        if name == image {
            return Ok(Compared::Differs(Vec::new()));
        }
        if let Some(here) = self.here(name, stop)? {
            let digest = there.digest.to_string();
            let has_digest = |name: &String| name.ends_with(&digest);
            let is_it = image.ends_with(&here.id) || here.digests.iter().any(has_digest);
            let found = if is_it { Vec::new() } else { differs(name) };
            return Ok(Compared::Differs(found));
        }
        match name.parse::<ImageReference>() {
            Ok(name) if !is_local(&name) && same_repository(&name, image) => {
                Ok(Compared::Unless(name, Some(there.digest)))
            }
            _ => Ok(Compared::Differs(differs(name))),
        }
    }

    /// Has the image in its registry, and says what is known of it.
    pub(super) async fn make(
        self: Arc<Self>,
        step: &mut Step,
        out: &mut Console,
    ) -> Result<Environment> {
        let half = Arc::clone(&self);
        let aside = out.aside();
        let made = busy(step, out, move |stop, say| {
            half.make_with_engine(stop, say, &aside)
        });
        if let Some(pushed) = made.await? {
            return Ok(pushed);
        }
        match &self.args.image_name {
            Some(name) => self.look_at(name, step, out).await,
            None => self.build_without_engine(step, out).await,
        }
    }

    /// None: it is to be done without an engine.
    fn make_with_engine(
        &self,
        stop: &Stop,
        say: &dyn Fn(&str),
        aside: &Aside,
    ) -> Result<Option<Environment>> {
        if let Some(name) = &self.args.image_name {
            return match self.here(name, stop)? {
                Some(image) => self.take(name, &image, stop, say).map(Some),
                None => Ok(None),
            };
        }
        if self.args.engine.builder == Some(Builder::None) {
            return Ok(None);
        }
        let engine = match Engine::find_builder(self.args.engine.engine(), stop) {
            Ok(engine) => engine,
            // What needs one is refused by its name.
            Err(EngineError::None(_)) if self.args.engine.builder.is_none() => return Ok(None),
            Err(error) => return Err(self.no_engine(&error)),
        };
        self.build(&engine, stop, say, aside).map(Some)
    }

    /// An image that an engine here has.
    fn here(&self, name: &str, stop: &Stop) -> Result<Option<Image>> {
        match self.engine(stop) {
            Some(engine) => Ok(engine.inspect(name, stop)?),
            None => Ok(None),
        }
    }

    fn engine(&self, stop: &Stop) -> Option<Engine> {
        if self.args.engine.builder == Some(Builder::None) {
            return None;
        }
        Engine::find_builder(self.args.engine.engine(), stop).ok()
    }

    /// Describes an image that stays where it is, without pulling it.
    async fn look_at(&self, name: &str, step: &mut Step, out: &mut Console) -> Result<Environment> {
        let (reference, access) = (name.parse::<ImageReference>()?, self.access()?);
        if is_local(&reference) {
            let name = name.to_owned();
            return Err(DaemonlessError::NoImage { name }.into());
        }
        let platform = self.platform();
        let scratch = std::env::temp_dir();
        let cache = self.cache.as_deref().unwrap_or(&scratch);
        let found = telling(step, out, async |say| {
            look_at_image(&access, &reference, platform.as_deref(), cache, &say).await
        });
        let found = found.await?;
        self.refuse_other_platform(&found.platform)?;
        let there = self.named(&reference.repository, found.digest);
        let making = Making::Prebuilt {
            image: there.to_string(),
        };
        let made = (BuildHalf::default(), making);
        Ok(Self::known(
            there,
            found.platform,
            found.has,
            BTreeMap::new(),
            made,
        ))
    }

    /// Builds straight into the registry.
    async fn build_without_engine(
        &self,
        step: &mut Step,
        out: &mut Console,
    ) -> Result<Environment> {
        if let Some(flag) = self.args.engine.steps.needs_engine() {
            return Err(Failure::new(
                Exit::Usage,
                format!("`{flag}` is for a container engine, and none builds here"),
            )
            .help("leave it out, or install docker, podman or buildah"));
        }
        let platform = self.platform();
        self.refuse_other_platform(platform.as_deref().unwrap_or(Image::platform_here()))?;
        let (half, access) = (self.build_half()?, self.access()?);
        let scratch = tempfile::tempdir()?;
        let (_, to) = self.repository()?;
        let args = &self.args.engine;
        let work = DaemonlessBuild {
            project: self.project.clone(),
            to: to.clone(),
            tag: Some(Tag::of_deploy(Uuid::now_v7().simple()).to_string()),
            platform,
            args: args.steps.values(),
            fresh: self.rebuild,
            scan_cache: self.scan_cache(),
            cache: self
                .cache
                .clone()
                .unwrap_or_else(|| scratch.path().to_owned()),
            access: Arc::clone(&access),
        };
        let built = telling(step, out, |say| build_daemonless(work, say)).await?;
        let base = match self.base_name() {
            Some(name) => digest_in_registry(&access, &name).await?,
            None => None,
        };
        let making = self.making(base.map(|digest| digest.to_string()));
        let there = self.named(&to, built.digest);
        let env = without_paths(built.env);
        Ok(Self::known(
            there,
            built.platform,
            built.contents,
            env,
            (half, making),
        ))
    }

    fn access(&self) -> Result<Access> {
        self.access
            .clone()
            .ok_or_else(|| Failure::new(Exit::Internal, "no registry can be asked from here"))
    }

    /// As Releases name it: agents may know the control plane by another address.
    fn named(&self, repository: &ImageRepository, digest: Digest) -> ContainerImage {
        let is_own = Some(repository.registry.as_str()) == self.reach.host();
        let repository = if is_own {
            repository.repository.clone()
        } else {
            repository.to_string()
        };
        ContainerImage { repository, digest }
    }

    fn build(
        &self,
        engine: &Engine,
        stop: &Stop,
        say: &dyn Fn(&str),
        aside: &Aside,
    ) -> Result<Environment> {
        let platform = self.platform();
        self.refuse_other_platform(platform.as_deref().unwrap_or(Image::platform_here()))?;
        let half = self.build_half()?;
        let base = self.base(stop);
        let tag = format!("updraft/{}", self.deployment);
        let build = ImageBuild {
            project: &self.project,
            engine,
            tag: &tag,
            options: BuildOptions {
                platform,
                ..self.args.engine.options()
            },
            cache: self.cache.as_deref(),
            reuse: !self.rebuild,
            tell: Some(&|line| aside.say(line)),
        };
        let image = build.run(stop, say)?.image;
        // Pulled by the build, perhaps.
        let base = base.or_else(|| self.base(stop));
        let making = self.making(base);
        self.publish(engine, &image, &tag, (half, making), stop, say)
    }

    /// Takes an image that the engine has. One that is in a registry stays in it.
    fn take(
        &self,
        name: &str,
        image: &Image,
        stop: &Stop,
        say: &dyn Fn(&str),
    ) -> Result<Environment> {
        self.refuse_other_platform(&image.platform)?;
        let engine = Engine::find_builder(self.args.engine.engine(), stop)?;
        let repository = without_tag(name);
        let mut names = image.digests.iter().filter_map(|name| name.parse().ok());
        let there = names.find(|it: &ContainerImage| it.repository == repository);
        if let Some(there) = there.filter(|it| it.registry().is_some()) {
            let there = self.named(&there.repository.parse()?, there.digest);
            let has = self.packages(&engine, image, name, stop)?;
            let making = Making::Prebuilt {
                image: there.to_string(),
            };
            self.remember(&there, image);
            let made = (BuildHalf::default(), making);
            return Ok(Self::known(
                there,
                image.platform.clone(),
                has,
                BTreeMap::new(),
                made,
            ));
        }
        let making = Making::Prebuilt {
            image: format!("{name}@{}", image.id),
        };
        let made = (BuildHalf::default(), making);
        self.publish(&engine, image, name, made, stop, say)
    }

    /// Pushes an image that the engine has.
    fn publish(
        &self,
        engine: &Engine,
        image: &Image,
        name: &str,
        made: (BuildHalf, Making),
        stop: &Stop,
        say: &dyn Fn(&str),
    ) -> Result<Environment> {
        let packages = self.packages(engine, image, name, stop)?;
        let (repository, to) = self.repository()?;
        say(&format!("pushing the image to `{to}`"));
        let login = match &self.registry {
            None => self.reach.login(None)?,
            Some(_) => None,
        };
        let tag = Tag::of_deploy(Uuid::now_v7().simple());
        let digest = engine.push(image, &to, tag.as_str(), login.as_deref(), stop, None)?;
        let there = ContainerImage { repository, digest };
        self.remember(&there, image);
        let env = match &made.1 {
            Making::Built { .. } => self.dockerfile_env(image),
            Making::Prebuilt { .. } | Making::Locked => BTreeMap::new(),
        };
        Ok(Self::known(
            there,
            image.platform.clone(),
            packages,
            env,
            made,
        ))
    }

    /// An engine may know what it has pushed by no other name.
    fn remember(&self, there: &ContainerImage, image: &Image) {
        if let Some(cache) = &self.cache {
            remember(cache, there, &image.id);
        }
    }

    fn known(
        there: ContainerImage,
        platform: String,
        has: ImagePackages,
        env: BTreeMap<String, String>,
        (half, making): (BuildHalf, Making),
    ) -> Environment {
        let lock = Lock {
            python_from: has.python,
            text: has.lock_text(),
        };
        let fingerprint = half.fingerprint(has.airflow, has.python, making);
        let config = EnvironmentConfig {
            platform,
            container: Some(there),
            ..EnvironmentConfig::new(fingerprint, Requirements::default(), env, lock)
        };
        Environment::of_image(config)
    }

    fn packages(
        &self,
        engine: &Engine,
        image: &Image,
        name: &str,
        stop: &Stop,
    ) -> Result<ImagePackages> {
        if !EngineName::RUN.contains(&engine.name()) || !image.runs_here() {
            return ImagePackages::by_variables(&image.env).ok_or_else(|| {
                let message = format!(
                    "what is in `{name}` is not to be found out: {} runs no containers of {} here, and the image has no variables `AIRFLOW_VERSION` and `PYTHON_VERSION`",
                    engine.name(),
                    image.platform
                );
                Failure::new(Exit::Refused, message)
                    .code("image_unknown")
                    .help("build with docker or podman, or set both with `ENV` in the Dockerfile")
            });
        }
        let temporary = std::env::temp_dir();
        let cache = self.cache.as_deref().unwrap_or(&temporary);
        Ok(engine.packages(image, name, cache, stop)?)
    }

    /// Where the image goes: as Releases name it, and as it is called from here.
    fn repository(&self) -> Result<(String, ImageRepository)> {
        let refused = |error: updraft_image::registry::PushError| {
            Failure::from_error(Exit::Refused, &error)
                .help("see `registry` in `updraft deployment show`")
        };
        if let Some(name) = &self.registry {
            return Ok((name.clone(), name.parse().map_err(refused)?));
        }
        let host = self.reach.host().unwrap_or_default();
        let name = self.deployment.to_string();
        let to = format!("{host}/{name}").parse().map_err(refused)?;
        Ok((name, to))
    }

    fn build_half(&self) -> std::result::Result<BuildHalf, ProjectError> {
        self.project.build_half(self.scan_cache())
    }

    fn scan_cache(&self) -> Option<PathBuf> {
        let cache = self.cache.as_deref()?;
        Some(scan::cache_file(cache, &self.project, "image"))
    }

    fn making(&self, base: Option<String>) -> Making {
        let platform = self.platform();
        Making::Built {
            base,
            args: self.args.engine.steps.digests(),
            platform: platform.unwrap_or_else(|| Image::platform_here().to_owned()),
        }
    }

    /// What the image has to be made for, where that is not simply this machine.
    fn platform(&self) -> Option<String> {
        let asked = self.args.engine.platform.clone();
        let agents = match self.platforms.first() {
            Some(one) if self.platforms.len() == 1 => Some(one),
            _ => None,
        };
        let others = || agents.filter(|it| *it != Image::platform_here()).cloned();
        asked.or_else(others)
    }

    /// Before anything is built or sent; the control plane and the agent refuse it as well.
    fn refuse_other_platform(&self, made_for: &str) -> Result<()> {
        let run = &self.platforms;
        if run.iter().all(|it| it == made_for) {
            return Ok(());
        }
        let run = run.iter().cloned().collect::<Vec<_>>().join(" and ");
        let message = format!(
            "the agents of `{}` run {run}, and this image is made for {made_for}",
            self.deployment
        );
        Err(Failure::new(Exit::Refused, message)
            .code("image_unsuitable")
            .help(match &self.args.image_name {
                Some(_) => format!("name one for {run}"),
                None => format!("build it with `--platform {run}`, or leave that out"),
            }))
    }

    /// What stands for the content of the base, where it is here.
    fn base(&self, stop: &Stop) -> Option<String> {
        let dockerfile = self.project.dockerfile().ok()??;
        let image = self.here(dockerfile.base(), stop).ok()??;
        Some(image.identity().to_owned())
    }

    /// What checks without an engine have set.
    /// What the Dockerfile sets, as the image has it: it may build on what the base sets.
    fn dockerfile_env(&self, image: &Image) -> BTreeMap<String, String> {
        let args = self.args.engine.steps.values();
        let dockerfile = self.project.dockerfile_text().ok().flatten();
        let dockerfile =
            dockerfile.and_then(|text| Dockerfile::parse_on(&text, &args, &image.env).ok());
        let mut env = image.env.clone();
        env.retain(|name, _| {
            let mut set = dockerfile.iter();
            set.any(|dockerfile| dockerfile.env().contains_key(name))
        });
        without_paths(env)
    }

    fn base_name(&self) -> Option<ImageReference> {
        self.project.dockerfile().ok()??.base().parse().ok()
    }

    fn no_engine(&self, error: &EngineError) -> Failure {
        let message = format!(
            "`{}` runs container images, and none can be built or pushed here",
            self.deployment
        );
        Failure::new(Exit::Prerequisite, message)
            .cause(error)
            .code("no_engine")
            .help(error.help())
    }
}

/// What of an image's variables means the same outside of it.
fn without_paths(mut env: BTreeMap<String, String>) -> BTreeMap<String, String> {
    env.retain(|name, _| name != "PATH" && name != "PYTHONPATH");
    env
}

/// Whether it is called as images are that an engine alone has: in no registry.
fn is_local(name: &ImageReference) -> bool {
    name.repository.registry == "localhost"
}

/// Whether an image that runs came from there.
fn same_repository(name: &ImageReference, image: &str) -> bool {
    without_tag(image).ends_with(&name.repository.repository)
}
