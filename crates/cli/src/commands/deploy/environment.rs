//! The image half of a deploy: an Environment, where the Deployment has none.

use bytes::Bytes;
use updraft_api::Client;
use updraft_model::{DeploymentName, Digest, Release};
use updraft_project::{ImageHalf, ProjectError};

use crate::exit::Exit;
use crate::failure::{Failure, Result};

/// An Environment artifact, ready to be sent.
pub(super) struct Environment;

impl Environment {
    pub(super) fn manifest(&self) -> Result<String> {
        todo!()
    }
    pub(super) fn size(&self, digest: Digest) -> Option<u64> {
        todo!()
    }
    pub(super) fn bytes(&self, digest: Digest) -> Result<Bytes> {
        todo!()
    }
}

pub(super) async fn make(half: ImageHalf) -> Result<Environment> {
    todo!()
}

/// Names what differs between the project's image half and the wanted one.
pub(super) async fn differences(
    client: &Client,
    deployment: &DeploymentName,
    wanted: &Release,
    half: Result<ImageHalf, ProjectError>,
) -> Vec<String> {
    vec![]
}
