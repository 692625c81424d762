//! The image of a project, built by a container engine.
//!
//! A Dockerfile that only names its base gets the standard steps; everything
//! else in one is the project's own, and is built as it stands.

use std::collections::BTreeMap;
use std::path::Path;

use serde::{Deserialize, Serialize};
use updraft_image::{
    BuildOptions, BuildRequest, BuildSecret, Engine, EngineName, INDEX_VARIABLES, Image,
    SecretFrom, Standard, Stop,
};
use updraft_model::Digest;
use updraft_project::{Dockerfile, Project, ProjectError};

use crate::exit::Exit;
use crate::failure::{Failure, Result};
use crate::scan;

/// Who builds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Builder {
    Engine(EngineName),
    /// Nobody but us.
    None,
}

/// Which engine builds, and what it is given.
#[derive(Debug, Clone, Default, clap::Args)]
pub(crate) struct EngineArgs {
    /// The container engine, docker, podman or buildah, or none (default: the first that works)
    #[arg(long = "engine", id = "engine", value_name = "ENGINE", value_parser = builder)]
    pub(crate) builder: Option<Builder>,

    /// What it is to run on, such as linux/amd64 or linux/arm64
    #[arg(long, value_name = "PLATFORM", value_parser = platform)]
    pub(crate) platform: Option<String>,

    #[command(flatten)]
    pub(crate) steps: StepArgs,
}

/// What the steps of a build are given.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, clap::Args)]
pub(crate) struct StepArgs {
    /// A value for an ARG, as NAME=VALUE, or NAME for that variable's; may be repeated
    #[arg(long = "build-arg", value_name = "ARG")]
    pub(crate) args: Vec<String>,

    /// What steps may read and no layer keeps, as id=NAME,src=FILE or id=NAME,env=VARIABLE; may be repeated
    #[arg(long = "build-secret", value_name = "SECRET")]
    secrets: Vec<BuildSecret>,

    /// An SSH agent or key that steps may use, as default or ID=PATH; may be repeated
    #[arg(long, value_name = "SSH")]
    ssh: Vec<String>,

    /// The network of its steps, as the engine calls it
    #[arg(long, value_name = "NETWORK")]
    network: Option<String>,

    /// Take steps from this cache, as the engine writes it; may be repeated
    #[arg(long, value_name = "CACHE")]
    cache_from: Vec<String>,

    /// Keep steps in this cache; may be repeated
    #[arg(long, value_name = "CACHE")]
    cache_to: Vec<String>,

    /// Ask the registry for a newer base
    #[arg(long)]
    #[serde(skip)]
    pull: bool,
}

impl EngineArgs {
    /// The engine that is named.
    pub(crate) fn engine(&self) -> Option<EngineName> {
        match self.builder {
            Some(Builder::Engine(name)) => Some(name),
            Some(Builder::None) | None => None,
        }
    }

    pub(crate) fn options(&self) -> BuildOptions {
        BuildOptions {
            platform: self.platform.clone(),
            ..self.steps.options()
        }
    }
}

impl StepArgs {
    /// The first flag that means nothing without an engine.
    pub(crate) fn needs_engine(&self) -> Option<&'static str> {
        [
            (!self.secrets.is_empty(), "--build-secret"),
            (!self.ssh.is_empty(), "--ssh"),
            (self.network.is_some(), "--network"),
            (!self.cache_from.is_empty(), "--cache-from"),
            (!self.cache_to.is_empty(), "--cache-to"),
        ]
        .into_iter()
        .find_map(|(is_given, flag)| is_given.then_some(flag))
    }

    pub(crate) fn options(&self) -> BuildOptions {
        BuildOptions {
            args: self.args.clone(),
            secrets: self.secrets.clone(),
            ssh: self.ssh.clone(),
            platform: None,
            network: self.network.clone(),
            cache_from: self.cache_from.clone(),
            cache_to: self.cache_to.clone(),
            pull: self.pull,
        }
    }

    /// Build arguments, as the build sees them.
    pub(crate) fn values(&self) -> BTreeMap<String, String> {
        self.args.iter().filter_map(|arg| value_of(arg)).collect()
    }

    /// The names of build arguments, with digests of their values.
    pub(crate) fn digests(&self) -> BTreeMap<String, Digest> {
        let given = self.args.iter().filter_map(|arg| value_of(arg));
        given
            .map(|(name, value)| (name, Digest::of(value.as_bytes())))
            .collect()
    }

    /// The first that is given.
    pub(crate) fn first(&self) -> Option<&'static str> {
        [
            (!self.args.is_empty(), "--build-arg"),
            (self.pull, "--pull"),
        ]
        .into_iter()
        .find_map(|(is_given, flag)| is_given.then_some(flag))
        .or_else(|| self.needs_engine())
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.first().is_none()
    }

    /// These, or where none is given others; what is asked for once is not among them.
    pub(crate) fn or(self, others: Self) -> Self {
        let pull = self.pull;
        let kept = Self {
            pull: false,
            ..self
        };
        let kept = if kept.is_empty() { others } else { kept };
        Self { pull, ..kept }
    }

    /// The same, given from any folder.
    pub(crate) fn absolute(mut self) -> std::io::Result<Self> {
        for secret in &mut self.secrets {
            if let SecretFrom::File(path) = &mut secret.from {
                *path = std::path::absolute(&*path)?;
            }
        }
        Ok(self)
    }
}

fn builder(text: &str) -> std::result::Result<Builder, &'static str> {
    if text == "none" {
        return Ok(Builder::None);
    }
    let found = EngineName::BUILD
        .into_iter()
        .find(|it| it.program() == text);
    let found = found.map(Builder::Engine);
    found.ok_or("it is `docker`, `podman`, `buildah` or `none`")
}

fn platform(text: &str) -> std::result::Result<String, &'static str> {
    match text {
        "linux/amd64" | "linux/arm64" => Ok(text.to_owned()),
        _ => Err("Airflow's images are for `linux/amd64` and `linux/arm64`"),
    }
}

/// The name and the value of a build argument, which may be that of a variable here.
pub(crate) fn value_of(arg: &str) -> Option<(String, String)> {
    let (name, value) = match arg.split_once('=') {
        Some((name, value)) => (name, Some(value.to_owned())),
        None => (arg, std::env::var(arg).ok()),
    };
    Some((name.to_owned(), value?))
}

/// What is built, and how.
pub(crate) struct ImageBuild<'a> {
    pub(crate) project: &'a Project,
    pub(crate) engine: &'a Engine,
    pub(crate) tag: &'a str,
    pub(crate) options: BuildOptions,
    /// Where scans are remembered.
    pub(crate) cache: Option<&'a Path>,
    /// Take an image of that tag which was built from the same.
    pub(crate) reuse: bool,
    /// Told each line that the engine says.
    pub(crate) tell: Option<&'a dyn Fn(&str)>,
}

/// The steps of a build.
pub(crate) enum Steps {
    /// Those of the Dockerfile, in the project's folder.
    Own,
    /// Those of the standard build, on this base.
    Standard(Box<Image>),
}

pub(crate) struct Built {
    pub(crate) image: Image,
    pub(crate) is_standard: bool,
}

impl ImageBuild<'_> {
    /// Blocks.
    pub(crate) fn run(mut self, stop: &Stop, say: &dyn Fn(&str)) -> Result<Built> {
        let dockerfile = self.dockerfile()?;
        self.options
            .secrets
            .iter()
            .try_for_each(BuildSecret::check)?;
        let steps = self.steps(&dockerfile, stop, say)?;
        let is_standard = matches!(steps, Steps::Standard(_));
        let inputs = self.inputs(&steps, dockerfile.base(), stop)?.to_string();
        if self.reuse
            && let Some(image) = self.engine.inspect(self.tag, stop)?
            && image.inputs.as_ref() == Some(&inputs)
        {
            return Ok(Built { image, is_standard });
        }
        if let Steps::Standard(base) = &steps {
            self.look_for_airflow(base, dockerfile.base(), stop)?;
        }
        say(&format!("building `{}`", self.tag));
        let image = match steps {
            Steps::Own => self.build(self.project.root(), &inputs, stop)?,
            Steps::Standard(base) => {
                let context = tempfile::tempdir()?;
                self.write_standard(&base, context.path(), stop)?;
                self.build(context.path(), &inputs, stop)?
            }
        };
        self.look_for_airflow(&image, self.tag, stop)?;
        Ok(Built { image, is_standard })
    }

    /// Refuses an image without Airflow, where the engine here can run it.
    fn look_for_airflow(&self, image: &Image, name: &str, stop: &Stop) -> Result<()> {
        let runs = EngineName::RUN.contains(&self.engine.name()) && self.options.platform.is_none();
        if let (true, Some(cache)) = (runs, self.cache) {
            self.engine.packages(image, name, cache, stop)?;
        }
        Ok(())
    }

    fn dockerfile(&self) -> Result<Dockerfile> {
        let text = self.project.dockerfile_text()?;
        let text = text.ok_or(ProjectError::NoDockerfile)?;
        let given = self.options.args.iter().filter_map(|arg| value_of(arg));
        let given: BTreeMap<String, String> = given.collect();
        Ok(Dockerfile::parse_with(&text, &given).map_err(ProjectError::from)?)
    }

    /// A base with steps of its own for that, such as Astro's, does what the
    /// standard build would.
    fn steps(&self, dockerfile: &Dockerfile, stop: &Stop, say: &dyn Fn(&str)) -> Result<Steps> {
        if !dockerfile.own_steps().is_empty() {
            let bases = dockerfile.bases();
            self.engine.find_short_names(bases, stop, say)?;
            return Ok(Steps::Own);
        }
        let base = self.engine.image(dockerfile.base(), stop, say)?;
        if base.on_build.is_empty() {
            return Ok(Steps::Standard(Box::new(base)));
        }
        Ok(Steps::Own)
    }

    /// Stands for all that the image is made from.
    fn inputs(&self, steps: &Steps, base: &str, stop: &Stop) -> Result<Digest> {
        let cache = self
            .cache
            .map(|cache| scan::cache_file(cache, self.project, "image"));
        let base = match steps {
            Steps::Own => self.engine.inspect(base, stop)?.map(|base| base.id),
            Steps::Standard(base) => Some(base.id.clone()),
        };
        let options = &self.options;
        let facts = serde_json::json!([
            self.project.build_inputs(cache)?,
            base,
            options.args,
            options.platform,
        ]);
        Ok(Digest::of(facts.to_string().as_bytes()))
    }

    /// Lays out the standard build. Where an index is private, its credentials
    /// come as secrets.
    fn write_standard(&mut self, base: &Image, context: &Path, stop: &Stop) -> Result<()> {
        let project = self.project;
        let requirements = project.requirements()?;
        let secrets = if requirements.is_empty() {
            Vec::new()
        } else {
            self.index_secrets(stop)?
        };
        let dockerfile = project.dockerfile_text()?.unwrap_or_default();
        let cache = self
            .cache
            .map(|cache| scan::cache_file(cache, project, "image"));
        let files = project.files(cache)?;
        let standard = Standard {
            dockerfile: &dockerfile,
            base,
            packages: &project.packages()?,
            requirements: &requirements,
            files: files.entries(),
            root: project.root(),
            secrets: &secrets,
        };
        standard
            .write_context(context)
            .map_err(|error| Failure::file("write", context, &error))
    }

    /// The variables of indexes that are set here, made secrets of the build.
    fn index_secrets(&mut self, stop: &Stop) -> Result<Vec<String>> {
        let set: Vec<String> = INDEX_VARIABLES
            .into_iter()
            .filter(|name| std::env::var_os(name).is_some_and(|value| !value.is_empty()))
            .map(str::to_owned)
            .collect();
        if !set.is_empty() && !self.engine.knows_secrets(stop)? {
            let message = format!(
                "docker has no buildx here, and its old builder would keep `{}` in the image",
                set[0]
            );
            return Err(Failure::new(Exit::Prerequisite, message).help(
                "install docker's buildx plugin, or build with `--engine podman` or `buildah`",
            ));
        }
        let secrets = set.iter().map(|name| BuildSecret {
            id: name.clone(),
            from: SecretFrom::Variable(name.clone()),
        });
        self.options.secrets.extend(secrets);
        Ok(set)
    }

    fn build(&self, context: &Path, inputs: &str, stop: &Stop) -> Result<Image> {
        let ask = BuildRequest {
            context,
            tag: self.tag,
            inputs,
            options: &self.options,
            tell: self.tell,
        };
        Ok(self.engine.build(&ask, stop)?)
    }
}
