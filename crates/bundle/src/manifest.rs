//! A bundle version as an OCI image manifest.
//!
//! There is one way to write a manifest, so its digest names the tree: the
//! same files give the same bytes everywhere, and anything else is refused.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use updraft_model::Digest;

use crate::limits::MAX_LAYERS;

pub const MANIFEST_MEDIA_TYPE: &str = "application/vnd.oci.image.manifest.v1+json";
pub const ARTIFACT_TYPE: &str = "application/vnd.updraft.bundle.v1";
pub const LAYER_MEDIA_TYPE: &str = "application/vnd.oci.image.layer.v1.tar+zstd";
pub const EMPTY_MEDIA_TYPE: &str = "application/vnd.oci.empty.v1+json";

/// The blob that OCI defines for "nothing": the config of every bundle, and
/// the only layer of an empty one (some registries refuse zero layers).
pub const EMPTY_BLOB: &[u8] = b"{}";

/// Registries refuse larger ones.
pub const MAX_MANIFEST_BYTES: usize = 4 << 20;

const FILES: &str = "vnd.updraft.layer.files";
const FIRST: &str = "vnd.updraft.layer.first";
const SIZE: &str = "vnd.updraft.layer.size";

/// Which layers make up a bundle, in the order of their paths.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Manifest {
    layers: Vec<Layer>,
}

/// One layer as the manifest describes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Layer {
    /// Digest of the compressed bytes.
    pub digest: Digest,
    /// Length of the compressed bytes.
    pub size: u64,
    /// Files and links in it.
    pub files: u64,
    /// Bytes of their content.
    pub content_size: u64,
    /// The first path, which is also the smallest.
    pub first: String,
}

impl Manifest {
    /// Names layers that are in the order of their paths.
    pub fn new(layers: Vec<Layer>) -> Result<Self, ManifestError> {
        if layers.len() > MAX_LAYERS {
            return Err(ManifestError::TooManyLayers(layers.len()));
        }
        Ok(Self { layers })
    }

    /// Reads a manifest and refuses every spelling but the canonical one.
    pub fn parse(bytes: &[u8]) -> Result<Self, ManifestError> {
        if bytes.len() > MAX_MANIFEST_BYTES {
            return Err(ManifestError::TooLarge);
        }
        let wire: WireManifest = serde_json::from_slice(bytes)?;
        if wire.artifact_type.as_deref() != Some(ARTIFACT_TYPE) {
            return Err(ManifestError::NotABundle);
        }
        let empty = wire.layers.len() == 1 && wire.layers[0].media_type == EMPTY_MEDIA_TYPE;
        let layers = if empty {
            Vec::new()
        } else {
            wire.layers
                .iter()
                .map(Layer::from_wire)
                .collect::<Result<_, _>>()?
        };
        let manifest = Self::new(layers)?;
        if manifest.to_bytes() != bytes {
            return Err(ManifestError::NotCanonical);
        }
        Ok(manifest)
    }

    /// The canonical bytes: what is stored, sent, signed and digested.
    pub fn to_bytes(&self) -> Vec<u8> {
        let layers = if self.layers.is_empty() {
            vec![WireDescriptor::empty()]
        } else {
            self.layers.iter().map(Layer::to_wire).collect()
        };
        let wire = WireManifest {
            schema_version: 2,
            media_type: Some(MANIFEST_MEDIA_TYPE.to_owned()),
            artifact_type: Some(ARTIFACT_TYPE.to_owned()),
            config: WireDescriptor::empty(),
            layers,
        };
        serde_json::to_vec(&wire).expect("strings and numbers always serialise")
    }

    /// The bundle's digest.
    pub fn digest(&self) -> Digest {
        Digest::of(&self.to_bytes())
    }

    /// The layers with content; none for an empty bundle.
    pub fn layers(&self) -> &[Layer] {
        &self.layers
    }

    /// Every blob a registry needs before the manifest: the empty config and
    /// the layers, with their sizes, each once.
    pub fn blobs(&self) -> Vec<(Digest, u64)> {
        let mut blobs = vec![(Digest::of(EMPTY_BLOB), EMPTY_BLOB.len() as u64)];
        blobs.extend(self.layers.iter().map(|layer| (layer.digest, layer.size)));
        blobs
    }

    /// Files and links in the whole bundle.
    pub fn files(&self) -> u64 {
        self.layers
            .iter()
            .map(|layer| layer.files)
            .fold(0, u64::saturating_add)
    }

    /// Bytes of content in the whole bundle.
    pub fn content_size(&self) -> u64 {
        self.layers
            .iter()
            .map(|layer| layer.content_size)
            .fold(0, u64::saturating_add)
    }
}

impl Layer {
    fn to_wire(&self) -> WireDescriptor {
        WireDescriptor {
            media_type: LAYER_MEDIA_TYPE.to_owned(),
            digest: self.digest,
            size: self.size,
            annotations: Some(BTreeMap::from([
                (FILES.to_owned(), self.files.to_string()),
                (FIRST.to_owned(), self.first.clone()),
                (SIZE.to_owned(), self.content_size.to_string()),
            ])),
        }
    }

    fn from_wire(wire: &WireDescriptor) -> Result<Self, ManifestError> {
        if wire.media_type != LAYER_MEDIA_TYPE {
            return Err(ManifestError::UnknownLayer(wire.media_type.clone()));
        }
        let annotation = |name: &'static str| {
            wire.annotations
                .as_ref()
                .and_then(|all| all.get(name))
                .ok_or(ManifestError::Annotation {
                    layer: wire.digest,
                    name,
                })
        };
        let number = |name| {
            annotation(name)?
                .parse()
                .map_err(|_| ManifestError::Annotation {
                    layer: wire.digest,
                    name,
                })
        };
        Ok(Self {
            digest: wire.digest,
            size: wire.size,
            files: number(FILES)?,
            content_size: number(SIZE)?,
            first: annotation(FIRST)?.clone(),
        })
    }
}

#[derive(Debug, thiserror::Error)]
pub enum ManifestError {
    #[error("the manifest is larger than {MAX_MANIFEST_BYTES} bytes")]
    TooLarge,
    #[error("the manifest is not valid JSON for an OCI image manifest")]
    Json(#[from] serde_json::Error),
    #[error("the manifest is not one of an Updraft bundle")]
    NotABundle,
    #[error("the manifest has {0} layers; a bundle has at most {MAX_LAYERS}")]
    TooManyLayers(usize),
    #[error("the manifest has a layer of the unknown type `{0}`")]
    UnknownLayer(String),
    #[error("layer {layer} lacks a valid annotation `{name}`")]
    Annotation { layer: Digest, name: &'static str },
    #[error(
        "the manifest is not written in the canonical form, so its digest would not name its content"
    )]
    NotCanonical,
}

impl ManifestError {
    /// One sentence on what to do next.
    pub fn help(&self) -> &'static str {
        match self {
            Self::NotABundle => "an image or another artifact may have been pushed under this name",
            Self::TooLarge
            | Self::Json(_)
            | Self::TooManyLayers(_)
            | Self::UnknownLayer(_)
            | Self::Annotation { .. }
            | Self::NotCanonical => {
                "bundles are made by `updraft deploy`; send its manifest unchanged"
            }
        }
    }
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct WireManifest {
    schema_version: u32,
    media_type: Option<String>,
    artifact_type: Option<String>,
    config: WireDescriptor,
    layers: Vec<WireDescriptor>,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct WireDescriptor {
    media_type: String,
    digest: Digest,
    size: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    annotations: Option<BTreeMap<String, String>>,
}

impl WireDescriptor {
    fn empty() -> Self {
        Self {
            media_type: EMPTY_MEDIA_TYPE.to_owned(),
            digest: Digest::of(EMPTY_BLOB),
            size: EMPTY_BLOB.len() as u64,
            annotations: None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn manifest() -> Manifest {
        Manifest::new(vec![Layer {
            digest: Digest::of(b"layer"),
            size: 5,
            files: 2,
            content_size: 10,
            first: "dags/a \"quoted\".py".into(),
        }])
        .expect("few")
    }

    #[test]
    fn reads_what_it_writes() {
        for manifest in [manifest(), Manifest::new(vec![]).expect("few")] {
            let bytes = manifest.to_bytes();
            assert_eq!(Manifest::parse(&bytes).expect("canonical"), manifest);
        }
    }

    #[test]
    fn an_empty_bundle_has_the_empty_layer() {
        let json =
            String::from_utf8(Manifest::new(vec![]).expect("few").to_bytes()).expect("utf-8");
        assert_eq!(
            json,
            r#"{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json","artifactType":"application/vnd.updraft.bundle.v1","config":{"mediaType":"application/vnd.oci.empty.v1+json","digest":"sha256:44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a","size":2},"layers":[{"mediaType":"application/vnd.oci.empty.v1+json","digest":"sha256:44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a","size":2}]}"#
        );
    }

    #[test]
    fn another_spelling_of_the_same_manifest_is_refused() {
        let text = String::from_utf8(manifest().to_bytes()).expect("utf-8");
        for other in [
            text.replace(":2,", ": 2,"),
            text.replace(
                "\"vnd.updraft.layer.files\":\"2\"",
                "\"vnd.updraft.layer.files\":\"02\"",
            ),
            text.replace("\"config\"", "\"subject\":null,\"config\""),
            format!("{text}\n"),
        ] {
            assert_ne!(other, text);
            let refused = Manifest::parse(other.as_bytes());
            assert!(
                matches!(refused, Err(ManifestError::NotCanonical)),
                "{other}"
            );
        }
    }
}
