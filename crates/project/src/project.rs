//! A project: the folder that people edit and deploy from.

use std::io;
use std::path::{Path, PathBuf};

use updraft_bundle::{Limits, Scan};
use updraft_model::{Digest, GitState};

use crate::airflow_settings::{AirflowNames, AirflowSettingsError};
use crate::dockerfile::{Dockerfile, DockerfileError};
use crate::image_half::{
    self, BuildHalf, ImageFingerprint, ImageHalf, ImageHalfError, ImageRecipe, Making,
};
use crate::packages::PackagesError;
use crate::requirements::{Requirements, RequirementsError};
use crate::settings::{ProjectParts, Settings, SettingsError};

/// The file that marks a project.
pub const SETTINGS_FILE: &str = "updraft.toml";

/// A project on disk.
#[derive(Debug, Clone)]
pub struct Project {
    root: PathBuf,
    settings: Settings,
}

#[derive(Debug, thiserror::Error)]
pub enum ProjectError {
    #[error("there is no project in `{}`", .0.display())]
    NotHere(PathBuf),
    #[error("there is no folder `{}`", .0.display())]
    NoFolder(PathBuf),
    #[error("could not read `{}`", path.display())]
    Unreadable { path: PathBuf, source: io::Error },
    #[error("the project has no Dockerfile, so it is not known which Airflow it is for")]
    NoDockerfile,
    #[error("the Dockerfile has steps of its own, which need a container build: {}", steps(.0))]
    OwnSteps(Vec<crate::OwnStep>),
    #[error(transparent)]
    AirflowSettings(#[from] AirflowSettingsError),
    #[error(transparent)]
    Settings(#[from] SettingsError),
    #[error(transparent)]
    Dockerfile(#[from] DockerfileError),
    #[error(transparent)]
    Requirements(#[from] RequirementsError),
    #[error(transparent)]
    Packages(#[from] PackagesError),
    #[error(transparent)]
    ImageHalf(#[from] ImageHalfError),
}

impl ProjectError {
    pub fn help(&self) -> &'static str {
        match self {
            Self::NotHere(_) => {
                "change to a folder with `updraft.toml`, or with `dags/` and a Dockerfile, or make one with `updraft dev init`"
            }
            Self::NoFolder(_) => "check the path; `updraft dev init` makes a project",
            Self::Unreadable { .. } => "make it readable",
            Self::NoDockerfile => {
                "write one with a line such as `FROM apache/airflow:3.3.2-python3.12`"
            }
            Self::OwnSteps(_) => {
                "without a container build only `FROM`, `ARG`, `ENV` and `LABEL` work; Python packages go into `requirements.txt`"
            }
            Self::AirflowSettings(_) => "correct it, or remove it: it is only for local runs",
            Self::Settings(error) => error.help(),
            Self::Dockerfile(error) => error.help(),
            Self::Requirements(error) => error.help(),
            Self::Packages(error) => error.help(),
            Self::ImageHalf(error) => error.help(),
        }
    }
}

fn steps(steps: &[crate::OwnStep]) -> String {
    let named: Vec<_> = steps
        .iter()
        .take(3)
        .map(|s| format!("line {}: `{}`", s.line, s.text))
        .collect();
    let more = if steps.len() > 3 { ", …" } else { "" };
    named.join(", ") + more
}

impl Project {
    /// Finds the project that a folder lies in: itself or the nearest above.
    pub fn find(start: &Path) -> Result<Self, ProjectError> {
        let start = start
            .canonicalize()
            .map_err(|source| ProjectError::Unreadable {
                path: start.to_owned(),
                source,
            })?;
        let root = start.ancestors().find(|dir| is_project(dir));
        Self::open(root.unwrap_or(&start))
    }

    /// Opens the project whose root a folder is.
    pub fn open(dir: &Path) -> Result<Self, ProjectError> {
        let failed = |path: &Path| {
            let path = path.to_owned();
            |source| ProjectError::Unreadable { path, source }
        };
        let root = dir.canonicalize().map_err(|source| match source.kind() {
            io::ErrorKind::NotFound => ProjectError::NoFolder(dir.to_owned()),
            _ => failed(dir)(source),
        })?;
        if !is_project(&root) {
            return Err(ProjectError::NotHere(root));
        }
        let file = root.join(SETTINGS_FILE);
        let settings = match read_if_there(&file).map_err(failed(&file))? {
            Some(text) => Settings::parse(&text)?,
            None => Settings::default(),
        };
        Ok(Self { root, settings })
    }

    pub fn root(&self) -> &Path {
        &self.root
    }

    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// Which halves this repository has.
    pub fn parts(&self) -> ProjectParts {
        self.settings.parts
    }

    /// The name in `updraft.toml`, or one made of the folder's.
    pub fn name(&self) -> String {
        self.settings
            .name
            .clone()
            .unwrap_or_else(|| crate::project_name_for(&self.root))
    }

    /// The names in `airflow_settings.yaml`; none where it names nothing.
    pub fn airflow_names(&self) -> Result<Option<AirflowNames>, ProjectError> {
        let file = self.root.join("airflow_settings.yaml");
        let text = read_if_there(&file).map_err(|source| ProjectError::Unreadable {
            path: file.clone(),
            source,
        })?;
        Ok(AirflowNames::parse(&text.unwrap_or_default())?)
    }

    /// Where the DAGs are; the folder may be missing.
    pub fn dags(&self) -> PathBuf {
        self.root.join("dags")
    }

    /// The limits that `updraft.toml` sets, and the usual ones.
    pub fn limits(&self) -> Limits {
        let usual = Limits::default();
        let deploy = &self.settings.deploy;
        Limits {
            file_bytes: deploy.max_file.map_or(usual.file_bytes, |size| size.0),
            total_bytes: deploy.max_bundle.map_or(usual.total_bytes, |size| size.0),
            files: deploy.max_files.unwrap_or(usual.files),
        }
    }

    /// The Dockerfile; `None` when there is none.
    pub fn dockerfile(&self) -> Result<Option<Dockerfile>, ProjectError> {
        let text = self.dockerfile_text()?;
        Ok(text.as_deref().map(Dockerfile::parse).transpose()?)
    }

    /// The text of the Dockerfile; `None` when there is none, or the image is
    /// another repository's.
    pub fn dockerfile_text(&self) -> Result<Option<String>, ProjectError> {
        if self.settings.parts == ProjectParts::Dags {
            return Ok(None);
        }
        let path = self.root.join("Dockerfile");
        read_if_there(&path).map_err(|source| ProjectError::Unreadable { path, source })
    }

    pub fn requirements(&self) -> Result<Requirements, ProjectError> {
        Ok(Requirements::read(&self.root)?)
    }

    /// What `packages.txt` names, sorted.
    pub fn packages(&self) -> Result<Vec<String>, ProjectError> {
        Ok(crate::read_packages(&self.root)?)
    }

    /// Where the files came from; `None` without git.
    pub fn git(&self) -> Option<GitState> {
        crate::git_state(&self.root)
    }

    /// The files that are not DAGs, as an Environment carries them.
    pub fn files(&self, cache: Option<PathBuf>) -> Result<Scan, ProjectError> {
        Ok(image_half::scan_files(&self.root, &self.limits(), cache)?)
    }

    /// What a container build of the project sees, but for its DAGs.
    pub fn build_inputs(&self, cache: Option<PathBuf>) -> Result<Digest, ProjectError> {
        let mut inputs = serde_json::to_vec(self.files(cache)?.entries()).unwrap_or_default();
        for name in [
            "Dockerfile",
            ".dockerignore",
            "requirements.txt",
            "packages.txt",
        ] {
            let path = self.root.join(name);
            let text =
                read_if_there(&path).map_err(|source| ProjectError::Unreadable { path, source })?;
            inputs.extend(serde_json::to_vec(&text).unwrap_or_default());
        }
        Ok(Digest::of(&inputs))
    }

    /// What an image is built from, to compare.
    pub fn build_half(&self, cache: Option<PathBuf>) -> Result<BuildHalf, ProjectError> {
        let dockerfile = self.dockerfile()?.ok_or(ProjectError::NoDockerfile)?;
        Ok(BuildHalf {
            dockerfile: dockerfile.digest(),
            requirements: self.requirements()?.digest(),
            packages: self.packages()?,
            files: self.files(cache)?.entries().to_vec(),
        })
    }

    /// What Airflow is installed from, without looking at the project's files.
    /// Fails when the project needs a container build.
    pub fn image_recipe(&self) -> Result<ImageRecipe, ProjectError> {
        let dockerfile = self.dockerfile()?.ok_or(ProjectError::NoDockerfile)?;
        if !dockerfile.own_steps().is_empty() {
            return Err(ProjectError::OwnSteps(dockerfile.own_steps().to_vec()));
        }
        let base = dockerfile.airflow()?;
        let requirements = self.requirements()?;
        let packages = self.packages()?;

        let mut notes = Vec::new();
        if base.python_is_default {
            notes.push(format!(
                "the Dockerfile names no Python version, so it is {}, as in the official image",
                base.python
            ));
        }
        if !packages.is_empty() {
            notes.push(format!(
                "`packages.txt` is left out, because an Environment has no system packages: {}",
                packages.join(", ")
            ));
        }
        let fingerprint = ImageFingerprint {
            airflow_version: base.version,
            python_version: base.python,
            dockerfile: dockerfile.digest(),
            requirements: requirements.digest(),
            packages,
            files: Vec::new(),
            making: Making::Locked,
        };
        Ok(ImageRecipe {
            fingerprint,
            requirements,
            env: dockerfile.env().clone(),
            notes,
        })
    }

    /// Everything the Environment is made from. Fails when the project needs
    /// a container build.
    ///
    /// With a cache file, files that did not change are not read again.
    pub fn image_half(&self, cache: Option<PathBuf>) -> Result<ImageHalf, ProjectError> {
        let recipe = self.image_recipe()?;
        let scan = self.files(cache)?;
        Ok(ImageHalf {
            fingerprint: ImageFingerprint {
                files: scan.entries().to_vec(),
                ..recipe.fingerprint
            },
            scan,
            requirements: recipe.requirements,
            env: recipe.env,
            notes: recipe.notes,
        })
    }
}

fn is_project(dir: &Path) -> bool {
    dir.join(SETTINGS_FILE).is_file()
        || (dir.join("dags").is_dir() && dir.join("Dockerfile").is_file())
}

fn read_if_there(path: &Path) -> io::Result<Option<String>> {
    match std::fs::read_to_string(path) {
        Ok(text) => Ok(Some(text)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn finds_the_project_above_and_says_when_there_is_none() {
        let dir = tempfile::tempdir().unwrap();
        let deep = dir.path().join("dags/sales");
        fs::create_dir_all(&deep).unwrap();
        let error = Project::find(&deep).unwrap_err();
        assert!(matches!(error, ProjectError::NotHere(_)));
        assert!(error.help().contains("updraft dev init"));

        fs::write(dir.path().join("Dockerfile"), "FROM apache/airflow:3.3.2\n").unwrap();
        let project = Project::find(&deep).unwrap();
        assert_eq!(project.root(), dir.path().canonicalize().unwrap());

        fs::write(dir.path().join("updraft.toml"), "[deploy]\nmax_file = 5\n").unwrap();
        assert_eq!(Project::find(&deep).unwrap().limits().file_bytes, 5);
        fs::write(dir.path().join("updraft.toml"), "nam = 5\n").unwrap();
        assert!(matches!(
            Project::find(&deep),
            Err(ProjectError::Settings(_))
        ));
    }

    #[test]
    fn a_repository_of_dags_has_no_image_half() {
        let dir = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| fs::write(dir.path().join(name), text).unwrap();
        write("Dockerfile", "not a Dockerfile at all\n");
        write("updraft.toml", "[project]\nparts = [\"dags\"]\n");
        let project = Project::open(dir.path()).unwrap();
        assert!(project.dockerfile().unwrap().is_none());
        assert!(matches!(
            project.image_half(None),
            Err(ProjectError::NoDockerfile)
        ));
    }

    #[test]
    fn an_image_half_says_what_was_assumed_and_what_is_left_out() {
        let dir = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| fs::write(dir.path().join(name), text).unwrap();
        write("updraft.toml", "");
        let half = || Project::open(dir.path()).unwrap().image_half(None);
        assert!(matches!(half(), Err(ProjectError::NoDockerfile)));
        write("Dockerfile", "FROM apache/airflow:3.3.2\nENV A=1\n");
        write("packages.txt", "gcc\n");
        let made = half().unwrap();
        assert_eq!(made.env["A"], "1");
        assert_eq!(made.notes.len(), 2, "{:?}", made.notes);
        write(
            "Dockerfile",
            "FROM apache/airflow:3.3.2\nRUN pip install x\n",
        );
        let error = half().unwrap_err();
        assert!(
            error.to_string().contains("line 2: `RUN pip install x`"),
            "{error}"
        );
    }
}
