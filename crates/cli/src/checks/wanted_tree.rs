//! What a Deployment should run, laid out on this disk like the project that it
//! came from, so that it can be parsed beside the project.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use futures_util::{StreamExt, TryStreamExt, stream};
use updraft_api::Client;
use updraft_bundle::{BundleDir, Limits, Manifest, ManifestError, Materialize, VersionError};
use updraft_image::EnvironmentManifest;
use updraft_model::{BundleName, DeploymentName, Digest, Release};
use updraft_project::{Project, SETTINGS_FILE};

use super::host;
use crate::exit::Exit;
use crate::failure::{Failure, Result, exit_of_io};

/// Blobs that are fetched at once.
const AT_ONCE: usize = 8;

/// The trees of a Release, their layers on this disk.
pub(crate) struct Fetched {
    folder: PathBuf,
    dags: Manifest,
    /// The files beside the DAGs; in a container image, nobody can have them from here.
    files: Manifest,
    is_image: bool,
}

/// The trees as a project. Nobody else changes it while this is kept.
pub(crate) struct LaidOut {
    pub(crate) project: Project,
    _lock: File,
}

/// Fetches what is not here from an earlier time.
pub(crate) async fn fetch(
    client: &Client,
    deployment: &DeploymentName,
    wanted: &Release,
    project: &Project,
    cache: &Path,
) -> Result<Fetched> {
    let folder = host::folder(cache, project).join("wanted");
    let blobs = folder.join("blobs");
    fs::create_dir_all(&blobs).map_err(|error| Failure::file("make", &blobs, &error))?;
    let environment = client.blob(deployment, wanted.image.digest()).await?;
    let files = EnvironmentManifest::parse(&environment)?.files().clone();
    let dags = match wanted.bundles.get(&BundleName::dags()) {
        Some(bundle) => bundle_manifest(client, deployment, bundle.digest).await?,
        None => Manifest::new(Vec::new()).map_err(|error| unreadable(&error))?,
    };
    let layers = dags.layers().iter().chain(files.layers());
    let lacking: Vec<Digest> = layers
        .map(|layer| layer.digest)
        .filter(|digest| !blobs.join(digest.hex()).is_file())
        .collect();
    stream::iter(lacking)
        .map(|digest| {
            let blobs = &blobs;
            async move {
                let bytes = client.blob(deployment, digest).await?;
                let path = blobs.join(digest.hex());
                keep(&path, &bytes).map_err(|error| Failure::file("write", &path, &error))
            }
        })
        .buffer_unordered(AT_ONCE)
        .try_collect::<()>()
        .await?;
    Ok(Fetched {
        folder,
        dags,
        files,
        is_image: wanted.image.container().is_some(),
    })
}

/// The manifest of a bundle that a Release names.
pub(crate) async fn bundle_manifest(
    client: &Client,
    deployment: &DeploymentName,
    digest: Digest,
) -> Result<Manifest> {
    let text = client.blob(deployment, digest).await?;
    Manifest::parse(&text).map_err(|error| unreadable(&error))
}

fn unreadable(error: &ManifestError) -> Failure {
    Failure::new(
        Exit::Internal,
        "the wanted bundle's manifest is not readable",
    )
    .cause(error)
}

fn keep(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut file = tempfile::NamedTempFile::new_in(path.parent().unwrap_or(path))?;
    file.write_all(bytes)?;
    file.persist(path).map_err(|error| error.error)?;
    Ok(())
}

impl Fetched {
    /// Blocks.
    pub(crate) fn lay_out(&self, like: &Project) -> Result<LaidOut> {
        let failed = |doing| {
            let folder = self.folder.clone();
            move |error: io::Error| Failure::file(doing, &folder, &error)
        };
        let lock = File::create(self.folder.join("lock")).map_err(failed("lock"))?;
        lock.lock().map_err(failed("lock"))?;
        let root = self.folder.join("tree");
        let made = self.folder.join("made");
        // Beside what is the same, only DAGs that differ do.
        let beside = if self.is_image {
            like.files(None)?.entries().to_vec()
        } else {
            Vec::new()
        };
        let beside_is = Digest::of(&serde_json::to_vec(&beside).unwrap_or_default());
        let what = format!(
            "{}\n{}\n{beside_is}\n",
            self.dags.digest(),
            self.files.digest()
        );
        if fs::read_to_string(&made).ok().as_deref() != Some(&what) {
            let dags = self.version("dags", &self.dags)?;
            let files = self.version("files", &self.files)?;
            let lay = || -> io::Result<()> {
                remove(&made)?;
                remove(&root)?;
                link_tree(&files, &root)?;
                link_tree(&dags, &root.join("dags"))?;
                for entry in &beside {
                    let (from, to) = (like.root().join(&entry.path), root.join(&entry.path));
                    fs::create_dir_all(to.parent().unwrap_or(&root))?;
                    fs::copy(from, to)?;
                }
                // What it is checked for is the project's to say.
                match fs::copy(like.root().join(SETTINGS_FILE), root.join(SETTINGS_FILE)) {
                    Err(error) if error.kind() == io::ErrorKind::NotFound => {
                        fs::write(root.join(SETTINGS_FILE), "")?;
                    }
                    copied => drop(copied?),
                }
                fs::write(&made, &what)
            };
            lay().map_err(failed("write"))?;
            self.forget_others().map_err(failed("clean"))?;
        }
        Ok(LaidOut {
            project: Project::open(&root)?,
            _lock: lock,
        })
    }

    /// Puts a tree on disk, and gives its folder.
    fn version(&self, name: &str, manifest: &Manifest) -> Result<PathBuf> {
        let dir = BundleDir::open(self.folder.join(name))?;
        let open = |digest: &Digest| -> io::Result<Box<dyn Read>> {
            Ok(Box::new(File::open(
                self.folder.join("blobs").join(digest.hex()),
            )?))
        };
        let ask = Materialize {
            limits: Limits::of(manifest),
            ..Materialize::new(manifest, &open)
        };
        Ok(dir.materialize(&ask)?.path)
    }

    /// Removes the blobs and versions of earlier Releases.
    fn forget_others(&self) -> io::Result<()> {
        let layers = self.dags.layers().iter().chain(self.files.layers());
        let names: Vec<String> = layers.map(|layer| layer.digest.hex()).collect();
        for entry in fs::read_dir(self.folder.join("blobs"))?.flatten() {
            if !names
                .iter()
                .any(|name| entry.file_name() == std::ffi::OsStr::new(name))
            {
                remove(&entry.path())?;
            }
        }
        for (name, manifest) in [("dags", &self.dags), ("files", &self.files)] {
            let Ok(dir) = BundleDir::open(self.folder.join(name)) else {
                continue;
            };
            let others = dir.versions().unwrap_or_default().into_iter();
            for other in others.filter(|digest| *digest != manifest.digest()) {
                let _ = dir.remove_version(&other);
            }
        }
        Ok(())
    }
}

fn remove(path: &Path) -> io::Result<()> {
    let removed = match path.symlink_metadata() {
        Ok(there) if there.is_dir() => fs::remove_dir_all(path),
        Ok(_) => fs::remove_file(path),
        Err(error) => Err(error),
    };
    match removed {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        removed => removed,
    }
}

/// Files are shared, folders and links made.
fn link_tree(from: &Path, to: &Path) -> io::Result<()> {
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let (kind, from, to) = (entry.file_type()?, entry.path(), to.join(entry.file_name()));
        if kind.is_dir() {
            link_tree(&from, &to)?;
        } else if kind.is_symlink() {
            std::os::unix::fs::symlink(fs::read_link(&from)?, &to)?;
        } else {
            fs::hard_link(&from, &to)?;
        }
    }
    Ok(())
}

impl From<VersionError> for Failure {
    fn from(error: VersionError) -> Self {
        let exit = match &error {
            VersionError::DiskFull { source, .. } | VersionError::Io { source, .. } => {
                exit_of_io(source, Exit::Internal)
            }
            _ => Exit::Internal,
        };
        Self::from_error(exit, &error)
    }
}
