//! The image half of a deploy: an Environment, where the Deployment has none.

use std::path::{Path, PathBuf};

use bytes::Bytes;
use updraft_api::Client;
use updraft_bundle::{EMPTY_BLOB, Scan};
use updraft_image::{
    EnvironmentConfig, EnvironmentError, EnvironmentManifest, LockError, LockRequest, Stop, Uv,
    UvError, lock,
};
use updraft_model::{DeploymentName, Digest};
use updraft_project::{ImageHalf, Making, ProjectError};

use crate::busy::busy;
use crate::console::{Console, Step};
use crate::exit::Exit;
use crate::failure::{Failure, Result, exit_of_chain};

/// An Environment artifact, ready to be sent.
pub(crate) struct Environment {
    environment: updraft_image::Environment,
    /// None: they are in a container image.
    files: Option<Scan>,
}

impl Environment {
    /// What is known of a container image.
    pub(crate) fn of_image(config: EnvironmentConfig) -> Self {
        Self {
            environment: updraft_image::Environment::of_image(config),
            files: None,
        }
    }

    pub(crate) fn manifest(&self) -> Result<String> {
        text(self.environment.manifest().to_bytes())
    }

    pub(crate) fn config(&self) -> &EnvironmentConfig {
        self.environment.config()
    }

    /// Whether it is an image that was there.
    pub(crate) fn is_prebuilt(&self) -> bool {
        matches!(self.config().fingerprint.making, Making::Prebuilt { .. })
    }

    pub(crate) fn digest(&self) -> Digest {
        self.environment.digest()
    }

    /// Layers of the project's non-DAG files.
    pub(crate) fn layers(&self) -> &[updraft_bundle::Layer] {
        self.environment.manifest().files().layers()
    }

    /// What it was made from, and the lock.
    pub(crate) fn own_blobs(&self) -> [Digest; 2] {
        let manifest = self.environment.manifest();
        [manifest.config(), manifest.lock()]
    }

    pub(crate) fn size(&self, digest: Digest) -> Option<u64> {
        let blobs = self.environment.manifest().blobs();
        blobs
            .into_iter()
            .find(|(blob, _)| *blob == digest)
            .map(|(_, size)| size)
    }

    pub(crate) fn bytes(&self, digest: Digest) -> Result<Bytes> {
        if digest == self.environment.manifest().config() {
            return Ok(Bytes::copy_from_slice(self.environment.config_bytes()));
        }
        if digest == self.environment.manifest().lock() {
            let lock = &self.environment.config().lock.text;
            return Ok(Bytes::copy_from_slice(lock.as_bytes()));
        }
        match &self.files {
            Some(files) => Ok(files.layer_bytes(&digest)?),
            None => Ok(Bytes::from_static(EMPTY_BLOB)),
        }
    }
}

/// Locks Airflow and the project's requirements, and puts its other files
/// beside them. Says meanwhile what is going on.
pub(crate) async fn make(
    half: ImageHalf,
    cache: Option<PathBuf>,
    step: &mut Step,
    out: &mut Console,
) -> Result<Environment> {
    let tools = cache.ok_or_else(|| {
        Failure::new(Exit::Prerequisite, "there is no folder to keep tools in")
            .help("set UPDRAFT_CACHE_DIR")
    })?;
    busy(step, out, move |stop, say| {
        make_blocking(half, &tools, stop, say)
    })
    .await
}

pub(crate) fn make_blocking(
    half: ImageHalf,
    tools: &Path,
    stop: &Stop,
    say: &dyn Fn(&str),
) -> Result<Environment> {
    let uv = Uv::find_or_install(tools, stop, say)?;
    let fingerprint = &half.fingerprint;
    let ask = LockRequest {
        airflow: &fingerprint.airflow_version,
        python: fingerprint.python_version,
        requirements: &half.requirements,
        fresh: false,
    };
    let lock = lock(&uv, &ask, tools, say)?;
    let environment = updraft_image::Environment::new(&half, lock);
    Ok(Environment {
        environment,
        files: Some(half.scan),
    })
}

/// Names what differs between the project's image half and the wanted one.
///
/// A DAG deploy leaves the image half as it is, so nothing here can fail it.
pub(crate) fn differences(
    runs: &Result<EnvironmentConfig>,
    half: &Result<ImageHalf, ProjectError>,
) -> Vec<String> {
    let half = match half {
        Ok(half) => half,
        // A repository of DAGs alone has no image half.
        Err(ProjectError::NoDockerfile) => return Vec::new(),
        Err(error) => return vec![format!("it cannot be compared: {error}")],
    };
    match runs {
        Ok(runs) => half.fingerprint.differences(&runs.fingerprint),
        Err(failure) => vec![format!("it cannot be compared: {}", failure.message)],
    }
}

/// What an Environment was made from. A digest never changes its
/// meaning, so the answer is kept.
pub(crate) async fn config(
    client: &Client,
    deployment: &DeploymentName,
    digest: Digest,
    cache: Option<&Path>,
) -> Result<EnvironmentConfig> {
    let kept = cache.map(|dir| {
        let file = |ending| {
            dir.join("environments")
                .join(format!("{}.{ending}", digest.hex()))
        };
        (file("json"), file("lock"))
    });
    if let Some((config, lock)) = &kept
        && let (Ok(config), Ok(lock)) = (std::fs::read(config), std::fs::read(lock))
        && let Ok(config) = EnvironmentConfig::parse(&config, &lock)
    {
        return Ok(config);
    }
    let manifest = EnvironmentManifest::parse(&client.blob(deployment, digest).await?)?;
    let (config, lock) = tokio::try_join!(
        client.blob(deployment, manifest.config()),
        client.blob(deployment, manifest.lock())
    )?;
    let (config, lock) = (text(config.into())?, text(lock.into())?);
    let read = EnvironmentConfig::parse(config.as_bytes(), lock.as_bytes())?;
    if let Some((config_file, lock_file)) = &kept {
        // Without them the next deploy asks again.
        let _ = crate::files::write_private(config_file, &config);
        let _ = crate::files::write_private(lock_file, &lock);
    }
    Ok(read)
}

/// Manifests are JSON, so they are text.
pub(crate) fn text(bytes: Vec<u8>) -> Result<String> {
    String::from_utf8(bytes)
        .map_err(|error| Failure::new(Exit::Internal, "a manifest is not text").cause(&error))
}

impl From<EnvironmentError> for Failure {
    fn from(error: EnvironmentError) -> Self {
        let help = error.help();
        Self::from_error(Exit::Internal, &error).help(help)
    }
}

impl From<UvError> for Failure {
    fn from(error: UvError) -> Self {
        let exit = exit_of_chain(&error, Exit::Prerequisite);
        Self::from_error(exit, &error).help(error.help())
    }
}

impl From<LockError> for Failure {
    fn from(error: LockError) -> Self {
        let exit = match &error {
            LockError::Offline { .. } | LockError::NoPython { .. } | LockError::Uv(_) => {
                Exit::Prerequisite
            }
            LockError::Unsatisfiable { .. } | LockError::Credentials(_) => Exit::Refused,
            LockError::Io { source, .. } => crate::failure::exit_of_io(source, Exit::Internal),
        };
        Self::from_error(exit, &error).help(error.help())
    }
}
