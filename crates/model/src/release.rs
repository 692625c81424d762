//! What a Deployment runs, switched as one.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::{BundleName, ContainerImage, Digest, ReleaseId};

/// The immutable pair of an image and bundles.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Release {
    pub id: ReleaseId,
    pub image: ImageRef,
    pub bundles: BTreeMap<BundleName, BundleRef>,
}

/// What Airflow runs in. The digest is that of the OCI manifest by which the control
/// plane knows it: what it was made from, and what is in it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum ImageRef {
    /// A locked Python environment with the project's non-DAG files.
    Environment { digest: Digest },
    /// A container image, which lies in a registry.
    Container {
        digest: Digest,
        image: ContainerImage,
    },
}

impl ImageRef {
    pub const fn digest(&self) -> Digest {
        match self {
            Self::Environment { digest } | Self::Container { digest, .. } => *digest,
        }
    }

    /// The container image, where it is one.
    pub const fn container(&self) -> Option<&ContainerImage> {
        match self {
            Self::Environment { .. } => None,
            Self::Container { image, .. } => Some(image),
        }
    }
}

/// One bundle in a Release. The digest is that of an OCI manifest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct BundleRef {
    pub digest: Digest,
}

/// A part of a Release that a deploy may change on its own.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, ToSchema)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum ReleasePart {
    Image,
    Bundle { name: BundleName },
}

impl Release {
    /// Whether both would run the same, whatever their ids.
    pub fn same_content(&self, other: &Self) -> bool {
        self.image == other.image && self.bundles == other.bundles
    }

    /// Whether one part is the same in both.
    pub fn same_part(&self, part: &ReleasePart, other: &Self) -> bool {
        match part {
            ReleasePart::Image => self.image == other.image,
            ReleasePart::Bundle { name } => self.bundles.get(name) == other.bundles.get(name),
        }
    }

    /// The parts in which this Release differs from an earlier one.
    pub fn parts_that_differ_from(&self, earlier: Option<&Self>) -> Vec<ReleasePart> {
        let mut parts = Vec::new();
        if earlier.is_none_or(|earlier| earlier.image != self.image) {
            parts.push(ReleasePart::Image);
        }
        let earlier = earlier.map(|earlier| &earlier.bundles);
        let gone = earlier
            .into_iter()
            .flat_map(BTreeMap::keys)
            .filter(|name| !self.bundles.contains_key(*name));
        let differing = self
            .bundles
            .iter()
            .filter(|(name, bundle)| {
                earlier.and_then(|earlier| earlier.get(*name)) != Some(*bundle)
            })
            .map(|(name, _)| name);
        parts.extend(
            gone.chain(differing)
                .cloned()
                .map(|name| ReleasePart::Bundle { name }),
        );
        parts
    }
}
