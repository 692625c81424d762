//! What a registry tells of an image that nobody pulls.

use std::path::Path;

use updraft_model::Digest;

use super::base::Base;
use super::{Access, DaemonlessError, Say, this_architecture};
use crate::engine::ImagePackages;
use crate::registry::{ImageReference, Registry};

/// An image in its registry.
#[derive(Debug, Clone)]
pub struct RegistryImage {
    /// Of what the name is: a manifest, or the index of several platforms' ones.
    pub digest: Digest,
    pub platform: String,
    pub has: ImagePackages,
}

/// Reads the config of an image, and where that does not say which Airflow it has, its
/// layers, once.
pub async fn look_at_image(
    access: &Access,
    name: &ImageReference,
    platform: Option<&str>,
    cache: &Path,
    say: &Say,
) -> Result<RegistryImage, DaemonlessError> {
    let cache = cache.join("daemonless");
    let architecture = match platform {
        Some(platform) => platform.strip_prefix("linux/").unwrap_or(platform),
        None => this_architecture(),
    };
    let digest = digest_in_registry(access, name).await?;
    let digest = digest.ok_or_else(|| DaemonlessError::NoImage {
        name: name.to_string(),
    })?;
    let registry = Registry::connect(name.repository.clone(), access(&name.repository)?)?;
    let image = Base::resolve(registry, name.clone(), architecture, &cache).await?;
    let has = if let Some(has) = ImagePackages::by_variables(&image.env()) {
        has
    } else {
        let site = image.read(&cache, say).await?.site;
        ImagePackages {
            airflow: site.airflow,
            python: site.python_version,
            packages: site.packages,
        }
    };
    Ok(RegistryImage {
        digest,
        platform: format!("linux/{architecture}"),
        has,
    })
}

/// The digest that a name has in its registry now; none: there is no such image.
pub async fn digest_in_registry(
    access: &Access,
    name: &ImageReference,
) -> Result<Option<Digest>, DaemonlessError> {
    if let Some(digest) = name.digest {
        return Ok(Some(digest));
    }
    let registry = Registry::connect(name.repository.clone(), access(&name.repository)?)?;
    let found = registry.manifest(&name.reference()).await?;
    Ok(found.map(|found| found.digest))
}
