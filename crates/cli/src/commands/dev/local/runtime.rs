//! What a project's Airflow runs in on this machine: processes, in an Environment
//! that `uv` makes, or containers of the image that its Dockerfile makes.
//!
//! [`of_project`] is the one place that decides.

use std::collections::BTreeMap;
use std::path::Path;

use serde::{Deserialize, Serialize};
use updraft_agent::LocalPackages;
use updraft_image::{EngineName, EnvironmentConfig, LockRequest, Stop, Uv, lock};
use updraft_project::{
    AirflowVersion, DockerfileError, ImageFingerprint, ImageRecipe, InvalidVersion, Project,
    ProjectError, PythonVersion,
};

use crate::checks::host;
use crate::checks::reach::Reach;
use crate::exit::Exit;
use crate::failure::{Failure, Result};
use crate::image_build::StepArgs;

/// What Airflow runs as, and how its image is built.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, clap::Args)]
#[command(next_help_heading = "Containers")]
pub(crate) struct RuntimeArgs {
    /// What Airflow runs as (default: that of the last start, or auto)
    #[arg(long, value_enum, value_name = "RUNTIME")]
    runtime: Option<RuntimeArg>,

    /// The container engine, docker or podman (default: that of the last start, or the first that works)
    #[arg(long, value_name = "ENGINE", value_parser = host::engine)]
    pub(super) engine: Option<EngineName>,

    #[command(flatten)]
    pub(super) steps: StepArgs,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "snake_case")]
enum RuntimeArg {
    /// Containers where the project needs them, and otherwise processes
    Auto,
    /// Processes of this machine, in a virtual environment
    Process,
    /// Containers of docker or podman, from the image that the Dockerfile makes
    Container,
}

impl RuntimeArgs {
    /// What is given now, and for the rest what was given before.
    pub(super) fn or(&self, before: Option<&Self>) -> std::io::Result<Self> {
        let before = before.cloned().unwrap_or_default();
        Ok(Self {
            runtime: self.runtime.or(before.runtime),
            engine: self.engine.or(before.engine),
            steps: self.steps.clone().absolute()?.or(before.steps),
        })
    }

    /// The first flag that means nothing without containers.
    pub(super) fn needs_container(&self) -> Option<&'static str> {
        let engine = self.engine.map(|_| "--engine");
        engine.or_else(|| self.steps.first())
    }
}

/// What it runs in.
pub(super) enum Runtime {
    Process(Box<ImageRecipe>),
    Container {
        /// Why nothing less will do; none: it was asked for.
        why: Option<String>,
    },
}

/// What it runs in, made.
pub(super) struct Made {
    pub(super) packages: LocalPackages,
    pub(super) airflow: AirflowVersion,
    pub(super) python: PythonVersion,
    pub(super) variables: BTreeMap<String, String>,
    pub(super) image: ImageFingerprint,
    /// It was there already.
    pub(super) reused: bool,
    pub(super) note: Option<String>,
}

/// Decides what the project's Airflow runs in.
pub(super) fn of_project(project: &Project, args: &RuntimeArgs) -> Result<Runtime> {
    let container = |why| Ok(Runtime::Container { why });
    if args.runtime == Some(RuntimeArg::Container) {
        return container(None);
    }
    let may_choose = args.runtime != Some(RuntimeArg::Process);
    match project.image_recipe() {
        Ok(recipe) => {
            let packages = &recipe.fingerprint.packages;
            if may_choose && !packages.is_empty() {
                let names = packages.join(", ");
                return container(Some(format!(
                    "`packages.txt` names packages of the operating system: {names}"
                )));
            }
            Ok(Runtime::Process(Box::new(recipe)))
        }
        Err(error) if may_choose && needs_container(&error, args) => {
            container(Some(error.to_string()))
        }
        Err(error @ ProjectError::OwnSteps(_)) => {
            let failure = Failure::from_error(Exit::Refused, &error).code("needs_a_container");
            Err(failure.help("leave `--runtime process` out, or give `--runtime auto`"))
        }
        Err(error) => Err(error.into()),
    }
}

/// Whether an image has what no Environment could.
fn needs_container(error: &ProjectError, args: &RuntimeArgs) -> bool {
    match error {
        ProjectError::OwnSteps(_) => true,
        ProjectError::Dockerfile(error) => match error {
            DockerfileError::UnknownBase(_) | DockerfileError::NoVersion(_) => true,
            DockerfileError::Version { source, .. } => matches!(
                source,
                InvalidVersion::Airflow(_) | InvalidVersion::Python(_)
            ),
            // Of an `ARG` that only a build gets.
            DockerfileError::NoValue { .. } => !args.steps.is_empty(),
            _ => false,
        },
        _ => false,
    }
}

/// Makes what processes run in, or answers at once when it is there. Blocks.
pub(super) fn make_environment(
    recipe: ImageRecipe,
    cache: &Path,
    stop: &Stop,
    say: &dyn Fn(&str),
) -> Result<Made> {
    let uv = Uv::find_or_install(cache, stop, say)?;
    let ask = LockRequest {
        airflow: &recipe.fingerprint.airflow_version,
        python: recipe.fingerprint.python_version,
        requirements: &recipe.requirements,
        fresh: false,
    };
    let lock = lock(&uv, &ask, cache, say)?;
    let ImageRecipe {
        fingerprint,
        requirements,
        env,
        notes: _,
    } = recipe;
    let (image, variables) = (fingerprint.clone(), env.clone());
    let config = EnvironmentConfig::new(fingerprint, requirements, env, lock);
    let ready = host::ready(config, &Reach::default(), cache, stop, say)?;
    let realised = ready.realised();
    let realised =
        realised.ok_or_else(|| Failure::new(Exit::Internal, "the environment is no folder"))?;
    Ok(Made {
        packages: LocalPackages::from(realised),
        airflow: image.airflow_version.clone(),
        python: realised.python_version,
        variables,
        image,
        reused: realised.reused,
        note: realised.note.clone(),
    })
}
