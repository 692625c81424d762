//! Whether a Deployment's agents can run the image half that a deploy brings.

use std::collections::BTreeSet;

use updraft_image::{EnvironmentManifest, platform_of};
use updraft_model::{ImageRef, Runtime};
use updraft_store::{Agent, Deployment, Read};

use super::DeployError;
use super::compare::reports;
use crate::app::App;

/// Refuses an image half that nobody beside that Airflow can run.
pub(super) fn refuse_other_kind(
    deployment: &Deployment,
    image: Option<&ImageRef>,
) -> Result<(), DeployError> {
    let (runs, brings, other) = match (deployment.settings.runtime, image) {
        (Runtime::Process, Some(ImageRef::Container { .. })) => {
            ("virtual environments", "a container image", "container")
        }
        (Runtime::Container, Some(ImageRef::Environment { .. })) => {
            ("container images", "an Environment without one", "process")
        }
        (Runtime::Process | Runtime::Container | Runtime::External, _) => return Ok(()),
    };
    Err(DeployError::ImageUnsuitable {
        deployment: deployment.name.to_string(),
        runs,
        brings,
        other,
    })
}

/// What a container image has to be made for, as the agents that count say.
pub(super) fn platforms(app: &App, agents: &[Agent]) -> BTreeSet<String> {
    reports(app, agents)
        .filter_map(|report| report.platform)
        .collect()
}

/// Refuses a container image that is made for other machines than those of the agents.
pub(super) async fn refuse_other_platform(
    app: &App,
    read: &mut Read,
    deployment: &Deployment,
    image: Option<&ImageRef>,
) -> Result<(), DeployError> {
    let Some(ImageRef::Container { digest, .. }) = image else {
        return Ok(());
    };
    let run = platforms(app, &read.agents(deployment.id).await?);
    let manifest = app.shelf.manifest(read, *digest).await?;
    let Ok(manifest) = EnvironmentManifest::parse(manifest.text.as_bytes()) else {
        return Ok(());
    };
    let config = app.blobs.get(&manifest.config()).await?;
    let Some(made_for) = config.as_deref().and_then(platform_of) else {
        return Ok(());
    };
    if run.iter().all(|platform| *platform == made_for) {
        return Ok(());
    }
    Err(DeployError::OtherPlatform {
        deployment: deployment.name.to_string(),
        run: run.into_iter().collect::<Vec<_>>().join(" and "),
        made_for,
    })
}
