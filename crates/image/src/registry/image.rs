//! An image to push: its manifest, and where its blobs are.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use serde::Deserialize;
use updraft_model::Digest;

use super::{PushError, Registry};

/// An image with all that its manifest names.
#[derive(Debug, Clone)]
pub struct OciImage {
    pub manifest: Bytes,
    pub media_type: String,
    pub blobs: Vec<ImageBlob>,
}

/// A blob of an image, and where it is.
#[derive(Debug, Clone)]
pub struct ImageBlob {
    pub digest: Digest,
    pub size: u64,
    pub content: BlobContent,
}

#[derive(Debug, Clone)]
pub enum BlobContent {
    Bytes(Bytes),
    File(PathBuf),
    /// In another repository, and sent on as it comes.
    Remote(Arc<Registry>),
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Descriptor {
    media_type: String,
    digest: String,
    size: u64,
    #[serde(default)]
    annotations: BTreeMap<String, String>,
}

#[derive(Deserialize)]
struct Index {
    manifests: Vec<Descriptor>,
}

#[derive(Deserialize)]
struct Manifest {
    config: Descriptor,
    layers: Vec<Descriptor>,
}

const REF_NAME: &str = "org.opencontainers.image.ref.name";

impl From<Bytes> for ImageBlob {
    fn from(bytes: Bytes) -> Self {
        Self {
            digest: Digest::of(&bytes),
            size: bytes.len() as u64,
            content: BlobContent::Bytes(bytes),
        }
    }
}

impl OciImage {
    pub fn digest(&self) -> Digest {
        Digest::of(&self.manifest)
    }

    /// Reads an image from a folder in OCI's layout: the only one that is there, or
    /// the one of this name.
    pub fn from_layout(folder: &Path, name: Option<&str>) -> Result<Self, PushError> {
        let invalid = |why: String| PushError::Layout {
            path: folder.to_owned(),
            why,
        };
        let blob = |descriptor: &Descriptor| -> Result<(Digest, PathBuf), PushError> {
            let digest: Digest = descriptor
                .digest
                .parse()
                .map_err(|error: updraft_model::InvalidDigest| invalid(error.to_string()))?;
            Ok((digest, folder.join("blobs/sha256").join(digest.hex())))
        };
        let index = read(&folder.join("index.json"))?;
        let index: Index = serde_json::from_slice(&index)
            .map_err(|error| invalid(format!("index.json: {error}")))?;
        let mut found = index.manifests.iter().filter(|manifest| {
            name.is_none() || manifest.annotations.get(REF_NAME).map(String::as_str) == name
        });
        let chosen = match (found.next(), found.next()) {
            (Some(chosen), None) => chosen,
            (None, _) => return Err(invalid("it has no such image".into())),
            (Some(_), Some(_)) => return Err(invalid("it has several such images".into())),
        };
        let (digest, path) = blob(chosen)?;
        let manifest = read(&path)?;
        if Digest::of(&manifest) != digest {
            return Err(PushError::Damaged { digest });
        }
        let parsed: Manifest = serde_json::from_slice(&manifest)
            .map_err(|error| invalid(format!("the manifest: {error}")))?;
        let blobs = [&parsed.config]
            .into_iter()
            .chain(&parsed.layers)
            .map(|descriptor| {
                let (digest, path) = blob(descriptor)?;
                Ok(ImageBlob {
                    digest,
                    size: descriptor.size,
                    content: BlobContent::File(path),
                })
            })
            .collect::<Result<_, PushError>>()?;
        Ok(Self {
            manifest: manifest.into(),
            media_type: chosen.media_type.clone(),
            blobs,
        })
    }
}

fn read(path: &Path) -> Result<Vec<u8>, PushError> {
    fs::read(path).map_err(|source| PushError::Io {
        path: path.to_owned(),
        source,
    })
}
