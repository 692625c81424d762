//! What a project's Airflow runs in on this machine: processes, in an Environment
//! that `uv` makes.
//!
//! [`of_project`] is the one place that decides. A project whose Dockerfile has
//! steps of its own needs a container, and is refused here until there is one.

use std::path::Path;

use updraft_image::{EnvironmentConfig, LockRequest, Realised, Stop, Uv, lock};
use updraft_project::{ImageRecipe, Project, ProjectError};

use crate::checks::host;
use crate::checks::reach::Reach;
use crate::exit::Exit;
use crate::failure::{Failure, Result};

/// What its processes run in.
pub(super) fn of_project(project: &Project) -> Result<ImageRecipe> {
    match project.image_recipe() {
        Ok(recipe) => Ok(recipe),
        Err(error @ ProjectError::OwnSteps(_)) => {
            let failure = Failure::from_error(Exit::Refused, &error).code("needs_a_container");
            Err(failure.help(
                "`updraft dev start` runs no containers yet: it takes a Dockerfile of FROM, ARG, ENV and LABEL, with Python \
                 packages in requirements.txt. `updraft dev parse` and `updraft dev pytest` work in the image as it is, through docker or podman",
            ))
        }
        Err(error) => Err(error.into()),
    }
}

/// Makes it, or answers at once when it is there. Blocks.
pub(super) fn make(
    recipe: ImageRecipe,
    cache: &Path,
    stop: &Stop,
    say: &dyn Fn(&str),
) -> Result<Realised> {
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
    let config = EnvironmentConfig::new(fingerprint, requirements, env, lock);
    let ready = host::ready(config, &Reach::default(), cache, stop, say)?;
    let realised = ready.realised().cloned();
    realised.ok_or_else(|| Failure::new(Exit::Internal, "the environment is no folder"))
}
