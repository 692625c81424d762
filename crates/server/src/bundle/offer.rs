//! What a request brings, checked as far as that goes without the bytes.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use updraft_api::deploy::Parts;
use updraft_bundle::LimitExceeded;
use updraft_model::{BundleName, BundleRef, Digest, Release, ReleaseId};
use updraft_store::DeployParts;

use super::described::{Described, DescribedError};
use crate::config::Limits;

/// Parts of a Release, given as manifests that are well formed.
#[derive(Debug)]
pub(crate) struct Offer {
    pub(crate) parts: DeployParts,
    pub(crate) manifests: HashMap<Digest, Arc<Described>>,
}

#[derive(Debug, thiserror::Error)]
pub(crate) enum OfferError {
    #[error("the deploy brings nothing: it needs a bundle or an environment")]
    Empty,
    #[error("the deploy brings {given} bundles; one deploy has at most {limit}")]
    TooManyBundles { given: usize, limit: usize },
    #[error("the manifest of {what} was refused: {source}")]
    Manifest {
        what: String,
        source: DescribedError,
    },
    #[error("{what} is too large: {source}")]
    Limit { what: String, source: LimitExceeded },
    #[error("`{path}` of {what} is too large: {source}")]
    File {
        what: String,
        path: String,
        source: LimitExceeded,
    },
    #[error("layer {layer} of {what} is {size} bytes; a blob has at most {limit}")]
    Blob {
        what: String,
        layer: Digest,
        size: u64,
        limit: u64,
    },
}

impl Offer {
    pub(crate) fn read(given: Parts, limits: &Limits) -> Result<Self, OfferError> {
        if given.bundles.is_empty() && given.environment.is_none() {
            return Err(OfferError::Empty);
        }
        if given.bundles.len() > limits.bundles {
            return Err(OfferError::TooManyBundles {
                given: given.bundles.len(),
                limit: limits.bundles,
            });
        }
        let mut manifests = HashMap::new();
        let mut bundles = BTreeMap::new();
        for (name, text) in given.bundles {
            let what = format!("bundle `{name}`");
            bundles.insert(
                name,
                read_one(&mut manifests, Described::bundle(text), what, limits)?,
            );
        }
        let image = match given.environment {
            None => None,
            Some(text) => {
                let what = "the environment".to_owned();
                let read = read_one(&mut manifests, Described::environment(text), what, limits)?;
                manifests.get(&read).and_then(|it| it.image.clone())
            }
        };
        Ok(Self {
            parts: DeployParts { bundles, image },
            manifests,
        })
    }

    pub(crate) fn bundle(&self, name: &BundleName) -> Option<&Described> {
        let digest = self.parts.bundles.get(name)?;
        Some(&**self.manifests.get(digest)?)
    }

    /// Every blob that has to be there, but for the manifests themselves.
    pub(crate) fn blobs(&self) -> Vec<(Digest, u64)> {
        let mut blobs: Vec<_> = self
            .manifests
            .values()
            .flat_map(|manifest| manifest.blobs.iter().copied())
            .collect();
        blobs.sort_unstable();
        blobs.dedup();
        blobs
    }
}

fn read_one(
    manifests: &mut HashMap<Digest, Arc<Described>>,
    described: Result<Described, DescribedError>,
    what: String,
    limits: &Limits,
) -> Result<Digest, OfferError> {
    let described = match described {
        Ok(described) => described,
        Err(source) => return Err(OfferError::Manifest { what, source }),
    };
    let digest = Digest::of(described.text.as_bytes());
    if described.files.files() > limits.bundle.files {
        let limit = limits.bundle.files;
        let source = LimitExceeded::Files { limit };
        return Err(OfferError::Limit { what, source });
    }
    if described.files.content_size() > limits.bundle.total_bytes {
        let limit = limits.bundle.total_bytes;
        let source = LimitExceeded::Total { limit };
        return Err(OfferError::Limit { what, source });
    }
    // Where a layer is one file, its size is known before anything is sent.
    let limit = limits.bundle.file_bytes;
    let mut layers = described.files.layers().iter();
    if let Some(layer) = layers.find(|layer| layer.files == 1 && layer.content_size > limit) {
        let (path, bytes) = (layer.first.clone(), layer.content_size);
        let source = LimitExceeded::File { bytes, limit };
        return Err(OfferError::File { what, path, source });
    }
    let limit = limits.blob_bytes;
    if let Some(&(layer, size)) = described.blobs.iter().find(|(_, size)| *size > limit) {
        return Err(OfferError::Blob {
            what,
            layer,
            size,
            limit,
        });
    }
    manifests.insert(digest, Arc::new(described));
    Ok(digest)
}

/// What would run if these parts took the place of what is wanted. None when
/// there is no image on either side.
pub(crate) fn compose(
    wanted: Option<&Release>,
    parts: &DeployParts,
    id: ReleaseId,
) -> Option<Release> {
    let image = parts
        .image
        .clone()
        .or_else(|| wanted.map(|wanted| wanted.image.clone()))?;
    let mut bundles = wanted
        .map(|wanted| wanted.bundles.clone())
        .unwrap_or_default();
    for (name, digest) in &parts.bundles {
        bundles.insert(name.clone(), BundleRef { digest: *digest });
    }
    Some(Release { id, image, bundles })
}
