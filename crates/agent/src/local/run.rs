//! What a local Airflow runs, and in what.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use updraft_image::{Engine, EngineError, Realised, Stop};
use updraft_model::Digest;

use super::engine::LocalEngine;
use crate::airflow::settings;
use crate::environment::{Environment, InImage, Packages};
use crate::runtime::container::Mount;

/// The project's folders that an image has copies of: in a container they are the
/// project's own under both paths.
pub const LIVE_FOLDERS: [&str; 3] = ["dags", "include", "plugins"];

/// What it runs, and in which environment.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LocalRun {
    #[serde(flatten)]
    packages: LocalPackages,
    pub airflow_version: String,
    pub python_version: String,
    /// The project's folder.
    pub project: PathBuf,
    /// Where its web server listens, on loopback.
    pub port: u16,
    /// What the project's Dockerfile sets, or the image that it makes.
    image_variables: BTreeMap<String, String>,
    /// What its `.env` sets: secrets, which are read there each time.
    #[serde(skip)]
    pub own: BTreeMap<String, String>,
}

/// Where its packages are.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum LocalPackages {
    Venv {
        /// Names what is installed in it.
        key: Digest,
        venv: PathBuf,
        bin: PathBuf,
        python: PathBuf,
    },
    Image {
        engine: LocalEngine,
        /// The image's, which never changes its meaning, unlike a name.
        id: String,
        /// Our package, which is mounted.
        wheel: PathBuf,
    },
}

impl From<&Realised> for LocalPackages {
    fn from(realised: &Realised) -> Self {
        Self::Venv {
            key: realised.key,
            venv: realised.folder.clone(),
            bin: realised.bin.clone(),
            python: realised.python.clone(),
        }
    }
}

impl LocalRun {
    pub fn new(
        packages: LocalPackages,
        (airflow, python): (String, String),
        image_variables: BTreeMap<String, String>,
        project: PathBuf,
        port: u16,
    ) -> Self {
        Self {
            packages,
            airflow_version: airflow,
            python_version: python,
            project,
            port,
            image_variables,
            own: BTreeMap::new(),
        }
    }

    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// The virtual environment; none: it runs in containers.
    pub(super) fn venv(&self) -> Option<&Path> {
        match &self.packages {
            LocalPackages::Venv { venv, .. } => Some(venv),
            LocalPackages::Image { .. } => None,
        }
    }

    pub(super) fn packages(&self) -> &LocalPackages {
        &self.packages
    }

    /// The engine of its containers; none: it runs as processes.
    pub fn engine(&self) -> Option<&LocalEngine> {
        match &self.packages {
            LocalPackages::Venv { .. } => None,
            LocalPackages::Image { engine, .. } => Some(engine),
        }
    }

    /// Whether what it runs in is still there.
    pub fn is_installed(&self) -> Result<bool, EngineError> {
        match &self.packages {
            LocalPackages::Venv { python, .. } => Ok(python.exists()),
            LocalPackages::Image { engine, id, wheel } => {
                let stop = Stop::default();
                // One that does not answer has not lost it.
                let engine = Engine::find(Some(engine.name()), &stop)?;
                Ok(wheel.exists() && engine.inspect(id, &stop)?.is_some())
            }
        }
    }

    /// Variables of its own that Updraft sets otherwise. What an image sets, nobody
    /// meant for here.
    pub fn reserved(&self) -> impl Iterator<Item = &str> {
        let dockerfile = self.venv().map(|_| self.image_variables.keys());
        let names = dockerfile.into_iter().flatten().chain(self.own.keys());
        names
            .map(String::as_str)
            .filter(|name| settings::is_reserved(name))
    }

    pub(super) fn environment(&self) -> Environment {
        let (key, packages, variables) = match &self.packages {
            LocalPackages::Venv {
                key,
                venv,
                bin,
                python,
            } => {
                let packages = Packages::Venv {
                    folder: venv.clone(),
                    bin: bin.clone(),
                    python: python.clone(),
                };
                (*key, packages, self.image_variables.clone())
            }
            LocalPackages::Image { engine, id, wheel } => {
                let key = format!("{} {id}", engine.name());
                let packages = Packages::Image(InImage {
                    engine: engine.asked(),
                    name: id.clone(),
                    variables: self.image_variables.clone(),
                    wheel: wheel.clone(),
                    mounts: self.mounts(),
                });
                (Digest::of(key.as_bytes()), packages, BTreeMap::new())
            }
        };
        Environment {
            digest: key,
            key,
            packages,
            project: self.project.clone(),
            variables,
            airflow_version: self.airflow_version.clone(),
            python_version: self.python_version.clone(),
            note: None,
        }
    }

    /// What containers see of the project: all of it under its own path, and what is
    /// live also where the image has it.
    fn mounts(&self) -> Vec<Mount> {
        let home = self.image_variables.get("AIRFLOW_HOME");
        let home = Path::new(home.map_or("/opt/airflow", String::as_str));
        let live = LIVE_FOLDERS.iter().map(|name| self.project.join(name));
        let live = live.filter(|folder| folder.is_dir() && home != self.project);
        let live = live.filter_map(|folder| {
            let target = home.join(folder.file_name()?);
            Some(Mount::read_only(folder, target))
        });
        let all = Mount::same(&self.project, false);
        std::iter::once(all).chain(live).collect()
    }
}
