//! The Environment as an OCI artifact: a manifest, a config blob that says what
//! it was made from, the lock as the first layer, and the project's files in the
//! layers of a bundle. So an edited file leaves the lock where it is.
//!
//! Where all of that is in a container image, the artifact is what is known of
//! it: the image's name is in an annotation, its packages are the lock, and there
//! are no files.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use updraft_bundle::{ARTIFACT_TYPE, EMPTY_BLOB, EMPTY_MEDIA_TYPE, Manifest, ManifestError};
use updraft_model::{ContainerImage, Digest, ImageRef, InvalidContainerImage};
use updraft_project::{ImageFingerprint, ImageHalf, PythonVersion, Requirements};

use crate::lock::Lock;

pub const ENVIRONMENT_ARTIFACT_TYPE: &str = "application/vnd.updraft.environment.v1";
pub const ENVIRONMENT_CONFIG_MEDIA_TYPE: &str =
    "application/vnd.updraft.environment.config.v1+json";

/// The annotation that names the container image.
const IMAGE: &str = "io.updraft.image";

const ENVIRONMENT_LOCK_MEDIA_TYPE: &str = "application/vnd.updraft.environment.lock.v1+text";

/// A lock of a thousand packages has about 3 MB.
pub const MAX_CONFIG_BYTES: usize = 16 << 20;

/// Everything an agent needs to make the environment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EnvironmentConfig {
    /// Versions, and digests of what it was made from.
    pub fingerprint: ImageFingerprint,
    /// Where the lock holds; `any`, since it is universal.
    pub platform: String,
    pub lock: Lock,
    /// What the lock was made from, to resolve again for another Python.
    pub requirements_text: Requirements,
    /// What the Dockerfile's `ENV` sets.
    pub env: BTreeMap<String, String>,
    /// The container image that all of it is in, and nothing is installed.
    pub container: Option<ContainerImage>,
}

/// The manifest by itself: which config, which lock, which layers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EnvironmentManifest {
    config: Digest,
    config_size: u64,
    lock: Digest,
    lock_size: u64,
    files: Manifest,
    container: Option<ContainerImage>,
}

/// An Environment with its config.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Environment {
    manifest: EnvironmentManifest,
    config: EnvironmentConfig,
    config_bytes: Vec<u8>,
}

#[derive(Debug, thiserror::Error)]
pub enum EnvironmentError {
    #[error("the manifest is not one of an Updraft Environment")]
    NotAnEnvironment,
    #[error("the manifest of the Environment is not valid JSON for an OCI image manifest")]
    Json(#[source] serde_json::Error),
    #[error("the layers of the Environment are not those of Updraft")]
    Layers(#[source] ManifestError),
    #[error("the {what} of the Environment has the digest {actual} instead of {expected}")]
    WrongBlob {
        what: &'static str,
        expected: Digest,
        actual: Digest,
    },
    #[error("the config or the lock of the Environment is larger than {MAX_CONFIG_BYTES} bytes")]
    TooLarge,
    #[error("the lock of the Environment is not text")]
    Lock(#[source] std::str::Utf8Error),
    #[error("the config of the Environment cannot be read")]
    Config(#[source] serde_json::Error),
    #[error("the container image of the Environment has no valid name")]
    Image(#[source] InvalidContainerImage),
    #[error("the config of the Environment names another container image than its manifest")]
    OtherImage,
}

impl EnvironmentError {
    pub fn help(&self) -> &'static str {
        match self {
            Self::NotAnEnvironment
            | Self::Json(_)
            | Self::Layers(_)
            | Self::Image(_)
            | Self::OtherImage => {
                "Environments are made by `updraft deploy`; another artifact may have been pushed instead"
            }
            Self::WrongBlob { .. } | Self::Lock(_) => {
                "it was damaged on the way or where it is stored; fetch or send it again"
            }
            Self::TooLarge => "require fewer packages",
            Self::Config(_) => "it may be from a newer Updraft; upgrade this one",
        }
    }
}

impl EnvironmentConfig {
    pub fn new(
        fingerprint: ImageFingerprint,
        requirements_text: Requirements,
        env: BTreeMap<String, String>,
        lock: Lock,
    ) -> Self {
        Self {
            fingerprint,
            platform: "any".to_owned(),
            lock,
            requirements_text,
            env,
            container: None,
        }
    }

    /// Reads the two blobs that it is kept in.
    pub fn parse(config: &[u8], lock: &[u8]) -> Result<Self, EnvironmentError> {
        if config.len().max(lock.len()) > MAX_CONFIG_BYTES {
            return Err(EnvironmentError::TooLarge);
        }
        let wire: WireConfig = serde_json::from_slice(config).map_err(EnvironmentError::Config)?;
        let lock = std::str::from_utf8(lock).map_err(EnvironmentError::Lock)?;
        Ok(Self {
            fingerprint: wire.fingerprint,
            platform: wire.platform,
            lock: Lock {
                python_from: wire.lock_python_from,
                text: lock.to_owned(),
            },
            requirements_text: wire.requirements_text,
            env: wire.env,
            container: wire.container,
        })
    }

    /// The config blob: all but the lock's text.
    fn to_bytes(&self) -> Vec<u8> {
        let wire = WireConfig {
            fingerprint: self.fingerprint.clone(),
            platform: self.platform.clone(),
            lock_python_from: self.lock.python_from,
            requirements_text: self.requirements_text.clone(),
            env: self.env.clone(),
            container: self.container.clone(),
        };
        serde_json::to_vec(&wire).expect("text and numbers always serialise")
    }

    /// Names the files, requirements and versions in which this differs from
    /// an earlier one, a line each. Two locks of the same requirements may
    /// differ because time has passed; that is not a difference of projects.
    pub fn differences(&self, earlier: &Self) -> Vec<String> {
        self.fingerprint.differences(&earlier.fingerprint)
    }
}

/// What an image is made for, as its config blob has it.
pub fn platform_of(config: &[u8]) -> Option<String> {
    #[derive(Deserialize)]
    struct Config {
        platform: String,
    }
    let read = serde_json::from_slice::<Config>(config);
    read.ok().map(|config| config.platform)
}

impl EnvironmentManifest {
    /// Reads a manifest and refuses every spelling but the canonical one.
    pub fn parse(bytes: &[u8]) -> Result<Self, EnvironmentError> {
        if bytes.len() > updraft_bundle::MAX_MANIFEST_BYTES {
            return Err(EnvironmentError::TooLarge);
        }
        let mut wire: WireManifest =
            serde_json::from_slice(bytes).map_err(EnvironmentError::Json)?;
        let config = wire.config.clone();
        if wire.artifact_type.as_deref() != Some(ENVIRONMENT_ARTIFACT_TYPE)
            || config.media_type != ENVIRONMENT_CONFIG_MEDIA_TYPE
        {
            return Err(EnvironmentError::NotAnEnvironment);
        }
        let is_lock = |layer: &WireDescriptor| layer.media_type == ENVIRONMENT_LOCK_MEDIA_TYPE;
        if !wire.layers.first().is_some_and(is_lock) {
            return Err(EnvironmentError::NotAnEnvironment);
        }
        let lock = wire.layers.remove(0);
        let container = match wire.annotations.take() {
            None => None,
            Some(mut annotations) => {
                let name = annotations.remove(IMAGE);
                let name = name.ok_or(EnvironmentError::NotAnEnvironment)?;
                Some(name.parse().map_err(EnvironmentError::Image)?)
            }
        };
        if config.size.max(lock.size) > MAX_CONFIG_BYTES as u64 {
            return Err(EnvironmentError::TooLarge);
        }
        // But for these three fields it is a bundle's manifest, down to the
        // bytes, so the bundle's reader checks the rest.
        wire.artifact_type = Some(ARTIFACT_TYPE.to_owned());
        wire.config = WireDescriptor {
            media_type: EMPTY_MEDIA_TYPE.to_owned(),
            digest: Digest::of(EMPTY_BLOB),
            size: EMPTY_BLOB.len() as u64,
            annotations: None,
        };
        let files = Manifest::parse(&wire.to_bytes()).map_err(EnvironmentError::Layers)?;
        let manifest = Self {
            config: config.digest,
            config_size: config.size,
            lock: lock.digest,
            lock_size: lock.size,
            files,
            container,
        };
        if manifest.container.is_some() && !manifest.files.layers().is_empty() {
            return Err(EnvironmentError::NotAnEnvironment);
        }
        if manifest.to_bytes() != bytes {
            return Err(EnvironmentError::Layers(ManifestError::NotCanonical));
        }
        Ok(manifest)
    }

    /// The canonical bytes: what is stored, sent and digested.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut wire: WireManifest = serde_json::from_slice(&self.files.to_bytes())
            .expect("a bundle's manifest is an OCI manifest");
        wire.artifact_type = Some(ENVIRONMENT_ARTIFACT_TYPE.to_owned());
        wire.config = WireDescriptor {
            media_type: ENVIRONMENT_CONFIG_MEDIA_TYPE.to_owned(),
            digest: self.config,
            size: self.config_size,
            annotations: None,
        };
        let lock = WireDescriptor {
            media_type: ENVIRONMENT_LOCK_MEDIA_TYPE.to_owned(),
            digest: self.lock,
            size: self.lock_size,
            annotations: None,
        };
        wire.layers.insert(0, lock);
        wire.annotations = self
            .container
            .as_ref()
            .map(|image| [(IMAGE.to_owned(), image.to_string())].into());
        wire.to_bytes()
    }

    /// The Environment's digest.
    pub fn digest(&self) -> Digest {
        Digest::of(&self.to_bytes())
    }

    /// How a Release names it.
    pub fn image_ref(&self) -> ImageRef {
        let digest = self.digest();
        match self.container.clone() {
            None => ImageRef::Environment { digest },
            Some(image) => ImageRef::Container { digest, image },
        }
    }

    /// Digest of the config blob.
    pub fn config(&self) -> Digest {
        self.config
    }

    /// Digest of the blob with the lock's text.
    pub fn lock(&self) -> Digest {
        self.lock
    }

    /// The project's files as a bundle, to fetch, check and put on disk like
    /// any other.
    pub fn files(&self) -> &Manifest {
        &self.files
    }

    /// Every blob besides the manifest, with its size, each once.
    pub fn blobs(&self) -> Vec<(Digest, u64)> {
        let mut blobs = vec![(self.config, self.config_size), (self.lock, self.lock_size)];
        if self.files.layers().is_empty() {
            blobs.push((Digest::of(EMPTY_BLOB), EMPTY_BLOB.len() as u64));
        }
        blobs.extend(
            self.files
                .layers()
                .iter()
                .map(|layer| (layer.digest, layer.size)),
        );
        blobs
    }
}

impl Environment {
    /// Puts a project's image half and its lock together.
    pub fn new(half: &ImageHalf, lock: Lock) -> Self {
        let (requirements, env) = (half.requirements.clone(), half.env.clone());
        let config = EnvironmentConfig::new(half.fingerprint.clone(), requirements, env, lock);
        Self::of(config, half.scan.manifest().clone())
    }

    /// What is known of a container image.
    pub fn of_image(config: EnvironmentConfig) -> Self {
        Self::of(
            config,
            Manifest::new(Vec::new()).expect("none is not too many"),
        )
    }

    fn of(config: EnvironmentConfig, files: Manifest) -> Self {
        let config_bytes = config.to_bytes();
        let manifest = EnvironmentManifest {
            config: Digest::of(&config_bytes),
            config_size: config_bytes.len() as u64,
            lock: Digest::of(config.lock.text.as_bytes()),
            lock_size: config.lock.text.len() as u64,
            files,
            container: config.container.clone(),
        };
        Self {
            manifest,
            config,
            config_bytes,
        }
    }

    /// Reads what another machine made, and checks that it belongs together.
    pub fn read(manifest: &[u8], config: &[u8], lock: &[u8]) -> Result<Self, EnvironmentError> {
        let manifest = EnvironmentManifest::parse(manifest)?;
        for (what, expected, blob) in [
            ("config", manifest.config, config),
            ("lock", manifest.lock, lock),
        ] {
            let actual = Digest::of(blob);
            if actual != expected {
                return Err(EnvironmentError::WrongBlob {
                    what,
                    expected,
                    actual,
                });
            }
        }
        let parsed = EnvironmentConfig::parse(config, lock)?;
        if parsed.container != manifest.container {
            return Err(EnvironmentError::OtherImage);
        }
        Ok(Self {
            config: parsed,
            manifest,
            config_bytes: config.to_vec(),
        })
    }

    pub fn digest(&self) -> Digest {
        self.manifest.digest()
    }

    pub fn manifest(&self) -> &EnvironmentManifest {
        &self.manifest
    }

    pub fn config(&self) -> &EnvironmentConfig {
        &self.config
    }

    /// The bytes of the config blob.
    pub fn config_bytes(&self) -> &[u8] {
        &self.config_bytes
    }
}

#[derive(Serialize, Deserialize)]
struct WireConfig {
    #[serde(flatten)]
    fingerprint: ImageFingerprint,
    platform: String,
    lock_python_from: PythonVersion,
    requirements_text: Requirements,
    env: BTreeMap<String, String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    container: Option<ContainerImage>,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct WireManifest {
    schema_version: u32,
    media_type: Option<String>,
    artifact_type: Option<String>,
    config: WireDescriptor,
    layers: Vec<WireDescriptor>,
    #[serde(skip_serializing_if = "Option::is_none")]
    annotations: Option<BTreeMap<String, String>>,
}

#[derive(Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct WireDescriptor {
    media_type: String,
    digest: Digest,
    size: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    annotations: Option<BTreeMap<String, String>>,
}

impl WireManifest {
    fn to_bytes(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("text and numbers always serialise")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use updraft_project::Project;

    fn environment(include: &str) -> Environment {
        let dir = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| fs::write(dir.path().join(name), text).unwrap();
        write("updraft.toml", "");
        write(
            "Dockerfile",
            "FROM apache/airflow:3.3.2-python3.12\nENV REGION=eu\n",
        );
        write("requirements.txt", "pandas\n");
        fs::create_dir(dir.path().join("include")).unwrap();
        if !include.is_empty() {
            write("include/a.py", include);
        }
        let half = Project::open(dir.path()).unwrap().image_half(None).unwrap();
        let lock = Lock {
            python_from: PythonVersion::new(3, 10),
            text: "apache-airflow==3.3.2\n".into(),
        };
        Environment::new(&half, lock)
    }

    #[test]
    fn the_same_project_gives_the_same_digest() {
        let (one, two) = (environment("1"), environment("1"));
        assert_eq!(one.digest(), two.digest());
        let other = environment("2");
        assert_ne!(one.digest(), other.digest());
        assert_eq!(one.manifest().lock(), other.manifest().lock());
        assert_eq!(
            environment("2").config().differences(one.config()),
            ["include/a.py: changed"]
        );
    }

    #[test]
    fn reads_what_it_writes_and_refuses_the_rest() {
        for environment in [environment("1"), environment("")] {
            let manifest = environment.manifest().to_bytes();
            let lock = environment.config().lock.text.clone();
            let read =
                |config: &[u8], lock: &str| Environment::read(&manifest, config, lock.as_bytes());
            let (config, wrong) = (environment.config_bytes(), read(b"{}", &lock));
            assert!(matches!(wrong, Err(EnvironmentError::WrongBlob { .. })));
            assert!(read(config, "another").is_err());
            let read = read(config, &lock).unwrap();
            assert_eq!(read, environment);
            let digests: Vec<_> = read
                .manifest()
                .blobs()
                .iter()
                .map(|(digest, _)| *digest)
                .collect();
            assert_eq!(digests[0], read.manifest().config());
            assert_eq!(digests[1], read.manifest().lock());
            assert_eq!(digests.len(), 3);
            let bundle = environment.manifest().files().to_bytes();
            assert!(matches!(
                EnvironmentManifest::parse(&bundle),
                Err(EnvironmentError::NotAnEnvironment)
            ));
            let spaced = String::from_utf8(manifest).unwrap().replace("\":", "\" :");
            assert!(EnvironmentManifest::parse(spaced.as_bytes()).is_err());
        }
    }
}
