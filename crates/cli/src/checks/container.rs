//! An image in a container engine, as the place where a project's code is
//! imported and tested.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::Command;

use updraft_check::parse::Start;
use updraft_image::{
    BuildOptions, Engine, EngineError, EngineName, Image, ImagePackages, Mount, PythonRun, Stop,
    wheel_file,
};
use updraft_model::{ContainerImage, Digest};
use updraft_project::{Project, ProjectError};
use uuid::Uuid;

use super::host::{Place, Ready, Runs, about_project};
use super::reach::Reach;
use crate::exit::Exit;
use crate::failure::{Failure, Result};
use crate::image_build::ImageBuild;

pub(super) struct Container {
    pub(super) engine: Engine,
    image: Image,
    pub(super) packages: ImagePackages,
    /// The worker, for a mount.
    wheel: PathBuf,
}

impl Container {
    /// An image that is here, or in a registry. Blocks.
    pub(super) fn of_image(
        name: &str,
        engine: Option<EngineName>,
        cache: &Path,
        stop: &Stop,
        say: &dyn Fn(&str),
    ) -> Result<Self> {
        let engine = Engine::find(engine, stop)?;
        let image = engine.image(name, stop, say)?;
        Self::of(engine, image, name, cache, stop)
    }

    /// The image of a Release; none: no engine runs it here. Blocks.
    pub(super) fn of_release(
        image: &ContainerImage,
        reach: &Reach,
        cache: &Path,
        stop: &Stop,
        say: &dyn Fn(&str),
    ) -> Result<Option<Self>> {
        let engine = reach.engine(stop).map_err(|error| {
            let message = format!("the Release runs in the container image `{image}`");
            Failure::new(Exit::Prerequisite, message)
                .cause(&error)
                .help(error.help())
        })?;
        let Some(engine) = engine else {
            return Ok(None);
        };
        let found = reach.image(&engine, image, cache, stop, say)?;
        Self::of(engine, found, &image.to_string(), cache, stop).map(Some)
    }

    /// What the project's Dockerfile makes: built where anything that goes in
    /// has changed. Blocks.
    pub(super) fn of_project(
        project: &Project,
        why: &ProjectError,
        engine: Option<EngineName>,
        cache: &Path,
        stop: &Stop,
        say: &dyn Fn(&str),
    ) -> Result<Self> {
        let engine = Engine::find(engine, stop).map_err(|error| {
            Failure::from_error(Exit::Prerequisite, why)
                .cause(&error)
                .help(error.help())
        })?;
        let key = Digest::of(project.root().as_os_str().as_encoded_bytes()).short();
        let tag = format!("updraft-check:{key}");
        let build = ImageBuild {
            project,
            engine: &engine,
            tag: &tag,
            options: BuildOptions::default(),
            cache: Some(cache),
            reuse: true,
            tell: None,
        };
        let image = build.run(stop, say)?.image;
        Self::of(engine, image, &tag, cache, stop)
    }

    fn of(engine: Engine, image: Image, name: &str, cache: &Path, stop: &Stop) -> Result<Self> {
        let packages = engine.packages(&image, name, cache, stop)?;
        let wheel = wheel_file(cache)?;
        Ok(Self {
            engine,
            image,
            packages,
            wheel,
        })
    }

    pub(super) fn into_ready(self) -> Ready {
        Ready {
            note: None,
            runs: Runs {
                airflow: self.packages.airflow.clone(),
                python: self.packages.python,
                env: self.image.env.clone(),
            },
            place: Place::Container(self),
        }
    }

    /// The process that parses.
    pub(super) fn worker(&self, project: &Project) -> Start {
        let mounts = [Mount::read_only(project.root())];
        let command = self.python(project, &name(), &[], &mounts, false);
        Start::Container {
            program: command.get_program().into(),
            arguments: command.get_args().map(OsStr::to_owned).collect(),
            like: self.image.id.clone(),
        }
    }

    /// Python with the project's files, to which arguments are to be added.
    pub(super) fn python(
        &self,
        project: &Project,
        container: &str,
        more_path: &[&Path],
        mounts: &[Mount<'_>],
        on_terminal: bool,
    ) -> Command {
        let mut path = vec![self.wheel.as_path(), project.root()];
        path.extend(more_path);
        let mut mounts = mounts.to_vec();
        mounts.push(Mount::read_only(&self.wheel));
        mounts.extend(more_path.iter().map(|folder| Mount::read_only(folder)));
        let mut variables: Vec<_> = about_project(project).into();
        // Nobody in the image has the user's number.
        let user = [
            ("HOME", "/tmp"),
            ("USER", "airflow"),
            ("LOGNAME", "airflow"),
        ];
        variables.extend(user.map(|(name, value)| (name.to_owned(), value.to_owned())));
        if !self.image.env.contains_key("AIRFLOW_HOME") {
            variables.push(("AIRFLOW_HOME".into(), "/tmp/airflow".into()));
        }
        self.engine.python(&PythonRun {
            image: &self.image,
            container,
            python_path: &path,
            mounts: &mounts,
            variables: &variables.into_iter().collect(),
            folder: project.root(),
            on_terminal,
        })
    }
}

/// A name for a container, which nothing else has.
pub(super) fn name() -> String {
    format!("updraft-check-{}", Uuid::new_v4().simple())
}

impl From<EngineError> for Failure {
    fn from(error: EngineError) -> Self {
        let exit = match &error {
            EngineError::None(_)
            | EngineError::Run { .. }
            | EngineError::Write { .. }
            | EngineError::NoBuildx(_) => Exit::Prerequisite,
            EngineError::Push { said, .. } if is_denied(said) => Exit::NotAllowed,
            EngineError::Pull { .. }
            | EngineError::NoAirflow { .. }
            | EngineError::Push { .. }
            | EngineError::NoSecret { .. } => Exit::Refused,
            EngineError::Build { .. } => Exit::CheckFailed,
            EngineError::Refused { .. } => Exit::Internal,
        };
        Self::from_error(exit, &error).help(error.help())
    }
}

/// Whether a registry has said that this user may not.
fn is_denied(said: &str) -> bool {
    let said = said.to_lowercase();
    [
        "denied",
        "forbidden",
        "unauthorized",
        "authentication required",
    ]
    .iter()
    .any(|sign| said.contains(sign))
}
