//! How much the repositories of a Deployment may hold.

use updraft_model::UploadId;
use updraft_store::{Deployment, Read};

use super::RegistryError;
use crate::app::App;

/// How many more bytes an upload may have than it has; uploads that are under
/// way count as what has come of them.
pub(super) async fn room_for(
    app: &App,
    read: &mut Read,
    deployment: &Deployment,
    upload: UploadId,
) -> Result<Room, RegistryError> {
    let Some(quota) = app.config.registry_quota else {
        return Ok(Room::unlimited(deployment));
    };
    let mut used = read.registry_usage(deployment.id).await?;
    for other in read.registry_uploads_of(deployment.id).await? {
        if other.id != upload {
            used += app.blobs.uploaded(other.id)?;
        }
    }
    used += app.blobs.uploaded(upload)?;
    Ok(Room {
        deployment: deployment.name.to_string(),
        used,
        quota: Some(quota),
    })
}

/// What a Deployment has and may have.
#[derive(Debug, Clone)]
pub(super) struct Room {
    deployment: String,
    used: u64,
    quota: Option<u64>,
}

impl Room {
    fn unlimited(deployment: &Deployment) -> Self {
        Self {
            deployment: deployment.name.to_string(),
            used: 0,
            quota: None,
        }
    }

    /// Says no to more bytes than fit.
    pub(super) fn check(&self, more: u64) -> Result<(), RegistryError> {
        match self.quota {
            Some(quota) if self.used.saturating_add(more) > quota => Err(RegistryError::Quota {
                deployment: self.deployment.clone(),
                used: self.used,
                quota,
                more,
            }),
            _ => Ok(()),
        }
    }
}

/// Says no, in the transaction that has added something, to what does not fit.
/// What the Deployment had already takes up no more.
pub(super) async fn check_added(
    app: &App,
    read: &mut Read,
    deployment: &Deployment,
    added: u64,
) -> Result<(), RegistryError> {
    let Some(quota) = app.config.registry_quota else {
        return Ok(());
    };
    let used = read.registry_usage(deployment.id).await?;
    if used <= quota {
        return Ok(());
    }
    Err(RegistryError::Quota {
        deployment: deployment.name.to_string(),
        used: used.saturating_sub(added),
        quota,
        more: added,
    })
}
