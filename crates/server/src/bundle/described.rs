use updraft_bundle::{Manifest, ManifestError};
use updraft_image::{EnvironmentError, EnvironmentManifest};
use updraft_model::{Digest, ImageRef};

/// A manifest that was read: of a bundle, or of an Environment, whose files are
/// a bundle as well.
#[derive(Debug)]
pub(crate) struct Described {
    pub(crate) text: String,
    pub(crate) files: Manifest,
    /// Every blob that it names, with its size.
    pub(crate) blobs: Vec<(Digest, u64)>,
    /// The image half of a Release, where it is one.
    pub(crate) image: Option<ImageRef>,
}

#[derive(Debug, thiserror::Error)]
pub(crate) enum DescribedError {
    #[error(transparent)]
    Bundle(#[from] ManifestError),
    #[error(transparent)]
    Environment(#[from] EnvironmentError),
}

impl DescribedError {
    pub(crate) fn help(&self) -> Option<&'static str> {
        match self {
            Self::Bundle(error) => Some(error.help()),
            Self::Environment(error) => Some(error.help()),
        }
    }
}

impl Described {
    pub(crate) fn bundle(text: String) -> Result<Self, DescribedError> {
        let files = Manifest::parse(text.as_bytes())?;
        Ok(Self {
            blobs: files.blobs(),
            files,
            text,
            image: None,
        })
    }

    pub(crate) fn environment(text: String) -> Result<Self, DescribedError> {
        let manifest = EnvironmentManifest::parse(text.as_bytes())?;
        Ok(Self {
            blobs: manifest.blobs(),
            files: manifest.files().clone(),
            image: Some(manifest.image_ref()),
            text,
        })
    }

    /// Reads one that is either.
    pub(crate) fn either(text: String) -> Result<Self, DescribedError> {
        match Manifest::parse(text.as_bytes()) {
            Ok(files) => Ok(Self {
                blobs: files.blobs(),
                files,
                text,
                image: None,
            }),
            Err(ManifestError::NotABundle) => Self::environment(text),
            Err(error) => Err(error.into()),
        }
    }

    /// The layers, in their order.
    pub(crate) fn layers(&self) -> Vec<Digest> {
        let layers = self.files.layers().iter();
        layers.map(|layer| layer.digest).collect()
    }
}
