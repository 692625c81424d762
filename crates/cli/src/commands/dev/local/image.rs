//! The image that a project's Airflow runs in: built by docker or podman where
//! anything that goes in has changed.

use std::collections::BTreeMap;
use std::path::Path;

use updraft_agent::{LIVE_FOLDERS, LocalEngine, LocalPackages};
use updraft_image::{Engine, EngineError, Image, ImagePackages, Stop, wheel_file};
use updraft_model::Digest;
use updraft_project::{BuildHalf, Dockerfile, ImageFingerprint, Making, Project, ProjectError};

use super::runtime::{Made, RuntimeArgs};
use crate::exit::Exit;
use crate::failure::{Failure, Result};
use crate::image_build::{ImageBuild, StepArgs, value_of};
use crate::scan;

/// Which image is made.
pub(super) struct ImageAsk {
    pub(super) project: Project,
    pub(super) args: RuntimeArgs,
    /// Why nothing less than a container will do; none: it was asked for.
    pub(super) why: Option<String>,
}

impl ImageAsk {
    /// Makes it for the Airflow that is kept in a folder, or answers at once when it
    /// is there. Blocks.
    pub(super) fn make(
        &self,
        root: &Path,
        cache: &Path,
        stop: &Stop,
        say: &dyn Fn(&str),
        tell: &dyn Fn(&str),
    ) -> Result<Made> {
        let engine =
            Engine::find(self.args.engine, stop).map_err(|error| self.no_engine(&error))?;
        let key = Digest::of(self.project.root().as_os_str().as_encoded_bytes()).short();
        let tag = format!("updraft-dev:{key}");
        let before = engine.inspect(&tag, stop)?;
        let options = self.args.steps.options();
        let build = ImageBuild {
            project: &self.project,
            engine: &engine,
            tag: &tag,
            // An image that is there says nothing of what its base is now.
            reuse: !options.pull,
            options,
            cache: Some(cache),
            tell: Some(tell),
        };
        let image = build.run(stop, say)?.image;
        if !image.runs_here() {
            let message = format!(
                "the image is for {}, and this machine runs {}",
                image.platform,
                Image::platform_here()
            );
            return Err(Failure::new(Exit::Refused, message)
                .help("correct `--platform` in the Dockerfile's `FROM`"));
        }
        let has = engine.packages(&image, &tag, cache, stop)?;
        has.airflow
            .check(has.python)
            .map_err(|error| Failure::from_error(Exit::Refused, &error).help(error.help()))?;
        let packages = LocalPackages::Image {
            engine: LocalEngine::of(&engine, root, stop)?,
            id: image.id.clone(),
            wheel: wheel_file(cache)?,
        };
        Ok(Made {
            packages,
            image: fingerprint(&self.project, &self.args.steps, &has, Some(cache))?,
            airflow: has.airflow,
            python: has.python,
            reused: before.is_some_and(|before| before.id == image.id),
            variables: image.env,
            note: None,
        })
    }

    fn no_engine(&self, error: &EngineError) -> Failure {
        let why = self.why.as_deref();
        let message = match why {
            Some(why) => format!("Airflow has to run in containers here: {why}"),
            None => "Airflow cannot run in containers here".to_owned(),
        };
        let help = match why {
            Some(why) if why.contains("packages.txt") => {
                "install docker or podman, or start its service; `--runtime process` does without these packages"
            }
            _ => error.help(),
        };
        Failure::new(Exit::Prerequisite, message)
            .code("no_engine")
            .cause(error)
            .help(help)
    }
}

/// What an image is made from, but for what is live. The base counts by its name.
pub(super) fn fingerprint(
    project: &Project,
    steps: &StepArgs,
    has: &ImagePackages,
    cache: Option<&Path>,
) -> Result<ImageFingerprint> {
    let text = project.dockerfile_text()?;
    let text = text.ok_or(ProjectError::NoDockerfile)?;
    let given: BTreeMap<_, _> = steps.args.iter().filter_map(|it| value_of(it)).collect();
    let dockerfile = Dockerfile::parse_with(&text, &given).map_err(ProjectError::from)?;
    let mut files = Vec::new();
    // The standard steps do nothing with a file that is not live.
    if !dockerfile.own_steps().is_empty() {
        let cache = cache.map(|cache| scan::cache_file(cache, project, "image"));
        files.extend_from_slice(project.files(cache)?.entries());
        files.retain(|entry| {
            let top = entry.path.split('/').next();
            top.is_none_or(|top| !LIVE_FOLDERS.contains(&top))
        });
    }
    let half = BuildHalf {
        dockerfile: dockerfile.digest(),
        requirements: project.requirements()?.digest(),
        packages: project.packages()?,
        files,
    };
    let making = Making::Built {
        base: None,
        args: steps.digests(),
        platform: Image::platform_here().to_owned(),
    };
    Ok(half.fingerprint(has.airflow.clone(), has.python, making))
}
