//! The image half of a deploy, where the Deployment runs containers: built from the
//! project and pushed, or an image that is there.

use std::collections::BTreeMap;
use std::path::PathBuf;

use updraft_image::registry::ImageRepository;
use updraft_image::{
    Engine, EngineError, EngineName, EnvironmentConfig, Image, ImagePackages, Lock, Stop,
    without_tag,
};
use updraft_model::{ContainerImage, DeploymentName, Digest, Tag};
use updraft_project::{BuildHalf, Making, Project, ProjectError, Requirements};
use uuid::Uuid;

use crate::checks::reach::{Reach, remember};
use crate::console::Aside;
use crate::environment::Environment;
use crate::exit::Exit;
use crate::failure::{Failure, Result};
use crate::image_build::{Builder, EngineArgs, ImageBuild, value_of};
use crate::scan;

/// Which image, and how it comes about.
#[derive(Debug, Clone, Default, clap::Args)]
#[command(next_help_heading = "Container image")]
pub(crate) struct ImageArgs {
    /// Take this image as it is: one that an engine here has, or REGISTRY/NAME@sha256:…
    #[arg(long, value_name = "NAME", conflicts_with = "dags")]
    pub(super) image_name: Option<String>,

    #[command(flatten)]
    pub(super) engine: EngineArgs,
}

/// The image half of a Deployment that runs containers. Its methods block.
pub(super) struct ContainerHalf {
    pub(super) project: Project,
    pub(super) deployment: DeploymentName,
    pub(super) args: ImageArgs,
    pub(super) reach: Reach,
    /// The repository that the Deployment names; none: in the control plane.
    pub(super) registry: Option<String>,
    pub(super) cache: Option<PathBuf>,
    /// Build also what was built before.
    pub(super) rebuild: bool,
}

/// An image that is in its registry.
pub(super) struct Pushed {
    pub(super) environment: Environment,
    pub(super) reach: Reach,
}

impl ContainerHalf {
    /// Names what differs from what runs, a line each.
    pub(super) fn differences(&self, runs: &EnvironmentConfig, stop: &Stop) -> Result<Vec<String>> {
        let versions = (
            runs.fingerprint.airflow_version.clone(),
            runs.fingerprint.python_version,
        );
        let of = |half: BuildHalf, making| half.fingerprint(versions.0.clone(), versions.1, making);
        if let Some(name) = &self.args.image_name {
            let image = match &runs.fingerprint.making {
                Making::Prebuilt { image, .. } if self.is_named(name, image, runs, stop)? => {
                    image.clone()
                }
                _ => name.clone(),
            };
            let fingerprint = of(BuildHalf::default(), Making::Prebuilt { image });
            return Ok(fingerprint.differences(&runs.fingerprint));
        }
        let half = match self.build_half() {
            Ok(half) => half,
            // A repository of DAGs alone has no image half.
            Err(ProjectError::NoDockerfile) => return Ok(Vec::new()),
            Err(error) => return Err(error.into()),
        };
        let making = self.making(None);
        let found = of(half.clone(), making).differences(&runs.fingerprint);
        if !found.is_empty() {
            return Ok(found);
        }
        // The base is asked for only when that decides.
        let making = self.making(self.base(stop));
        Ok(of(half, making).differences(&runs.fingerprint))
    }

    /// Whether a name means the image that runs.
    fn is_named(
        &self,
        name: &str,
        image: &str,
        runs: &EnvironmentConfig,
        stop: &Stop,
    ) -> Result<bool> {
        if name == image {
            return Ok(true);
        }
        let Ok(engine) = Engine::find_builder(self.args.engine.engine(), stop) else {
            return Ok(false);
        };
        let Some(here) = engine.inspect(name, stop)? else {
            return Ok(false);
        };
        let container = runs.container.as_ref().map(|it| it.digest.to_string());
        let has_digest =
            |name: &String| name.split_once('@').map(|(_, it)| it) == container.as_deref();
        Ok(image.ends_with(&here.id) || here.digests.iter().any(has_digest))
    }

    /// Has the image in its registry, and says what is known of it.
    pub(super) fn make(&self, stop: &Stop, say: &dyn Fn(&str), aside: &Aside) -> Result<Pushed> {
        if self.args.engine.builder == Some(Builder::None) {
            let message = "a deploy has a container engine build or fetch the image";
            return Err(Failure::new(Exit::Usage, message).help(
                "name another `--engine`, or build with `updraft image build --engine none` and name the image with `--image-name`",
            ));
        }
        let engine = Engine::find_builder(self.args.engine.engine(), stop)
            .map_err(|error| self.no_engine(&error))?;
        match &self.args.image_name {
            Some(name) => self.take(name, &engine, stop, say),
            None => self.build(&engine, stop, say, aside),
        }
    }

    fn build(
        &self,
        engine: &Engine,
        stop: &Stop,
        say: &dyn Fn(&str),
        aside: &Aside,
    ) -> Result<Pushed> {
        let half = self.build_half()?;
        let base = self.base(stop);
        let tag = format!("updraft/{}", self.deployment);
        let build = ImageBuild {
            project: &self.project,
            engine,
            tag: &tag,
            options: self.args.engine.options(),
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

    /// Takes an image that is there. One that is in a registry stays in it.
    fn take(&self, name: &str, engine: &Engine, stop: &Stop, say: &dyn Fn(&str)) -> Result<Pushed> {
        let repository = without_tag(name);
        let registry = repository.parse::<ImageRepository>().ok();
        let is_own = registry.is_some_and(|it| Some(it.registry.as_str()) == self.reach.host());
        let login = if is_own {
            self.reach.login(None)?
        } else {
            None
        };
        let image = engine.image_as(name, login.as_deref(), stop, say)?;
        let mut names = image.digests.iter().filter_map(|name| name.parse().ok());
        let there = names.find(|it: &ContainerImage| it.repository == repository);
        if let Some(mut there) = there.filter(|it| it.registry().is_some()) {
            if is_own {
                // Agents may know the control plane by another address.
                there.repository = there.name().to_owned();
            }
            let packages = self.packages(engine, &image, name, stop)?;
            let making = Making::Prebuilt {
                image: there.to_string(),
            };
            return Ok(self.known(&there, &image, packages, (BuildHalf::default(), making)));
        }
        let making = Making::Prebuilt {
            image: format!("{name}@{}", image.id),
        };
        self.publish(
            engine,
            &image,
            name,
            (BuildHalf::default(), making),
            stop,
            say,
        )
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
    ) -> Result<Pushed> {
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
        Ok(self.known(&there, image, packages, made))
    }

    fn known(
        &self,
        there: &ContainerImage,
        image: &Image,
        packages: ImagePackages,
        (half, making): (BuildHalf, Making),
    ) -> Pushed {
        let lock = Lock {
            python_from: packages.python,
            text: packages.lock_text(),
        };
        let fingerprint = half.fingerprint(packages.airflow, packages.python, making);
        let config = EnvironmentConfig {
            platform: image.platform.clone(),
            container: Some(there.clone()),
            ..EnvironmentConfig::new(fingerprint, Requirements::default(), BTreeMap::new(), lock)
        };
        if let Some(cache) = &self.cache {
            remember(cache, there, &image.id);
        }
        Pushed {
            environment: Environment::of_image(config),
            reach: self.reach.clone(),
        }
    }

    fn packages(
        &self,
        engine: &Engine,
        image: &Image,
        name: &str,
        stop: &Stop,
    ) -> Result<ImagePackages> {
        if !EngineName::RUN.contains(&engine.name()) || !image.runs_here() {
            return image.packages_by_its_variables().ok_or_else(|| {
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
        let cache = self.cache.as_deref();
        let cache = cache.map(|cache| scan::cache_file(cache, &self.project, "image"));
        self.project.build_half(cache)
    }

    fn making(&self, base: Option<String>) -> Making {
        let given = self.args.engine.args.iter().filter_map(|arg| value_of(arg));
        let platform = self.args.engine.platform.clone();
        Making::Built {
            base,
            args: given
                .map(|(name, value)| (name, Digest::of(value.as_bytes())))
                .collect(),
            platform: platform.unwrap_or_else(|| Image::platform_here().to_owned()),
        }
    }

    /// What stands for the content of the base, where it is here.
    fn base(&self, stop: &Stop) -> Option<String> {
        let dockerfile = self.project.dockerfile().ok()??;
        let engine = Engine::find_builder(self.args.engine.engine(), stop).ok()?;
        let image = engine.inspect(dockerfile.base(), stop).ok()??;
        Some(image.identity().to_owned())
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
