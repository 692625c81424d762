//! Where a project's Airflow is kept: outside the project, which nothing of it
//! writes to, and named by the project's path, as names are there twice.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use updraft_agent::{LocalAirflow, LocalComponent, LocalRun, LocalState};
use updraft_image::ImagePackages;
use updraft_model::Digest;
use updraft_project::{ImageFingerprint, Making, Project, project_name_for};

use super::runtime::RuntimeArgs;
use super::{image, inputs};
use crate::console::Console;
use crate::context::{Context, state_dir};
use crate::exit::Exit;
use crate::failure::{Failure, Result};

/// The place of one project's Airflow.
pub(crate) struct Place {
    pub(crate) project: Project,
    root: PathBuf,
    /// Where scans are remembered.
    cache: Option<PathBuf>,
}

/// What the last start was made from. No values of `.env` are in it.
#[derive(Serialize, Deserialize)]
pub(crate) struct Kept {
    #[serde(flatten)]
    pub(crate) run: LocalRun,
    /// Without the project's files, which are live.
    pub(super) image: ImageFingerprint,
    pub(super) env_file: PathBuf,
    pub(super) settings_file: PathBuf,
    /// Of the variables in it.
    pub(super) env: Digest,
    /// What the start was told of how it runs.
    #[serde(default)]
    pub(super) runtime: RuntimeArgs,
}

/// One command at a time starts and stops.
pub(crate) struct Locked(#[expect(dead_code, reason = "it is held")] File);

const KEPT: &str = "dev.json";

impl Place {
    pub(crate) fn of(cx: &Context) -> Result<Self> {
        let project = cx.project()?.clone();
        let key = Digest::of(project.root().as_os_str().as_bytes()).short();
        let name = format!("{}-{key}", project_name_for(project.root()));
        Ok(Self {
            root: state_dir()?.join("dev").join(name),
            project,
            cache: cx.cache_dir(),
        })
    }

    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    /// Waits for another command that starts or stops the same.
    pub(crate) async fn lock(&self, out: &mut Console) -> Result<Locked> {
        // Beside the folder, which can be removed.
        let path = self.root.with_extension("lock");
        let failed = |error: io::Error| Failure::file("use", &path, &error);
        if let Some(folder) = path.parent() {
            fs::create_dir_all(folder).map_err(failed)?;
        }
        let file = File::options()
            .create(true)
            .truncate(false)
            .write(true)
            .open(&path)
            .map_err(failed)?;
        match file.try_lock() {
            Ok(()) => return Ok(Locked(file)),
            Err(fs::TryLockError::WouldBlock) => {}
            Err(fs::TryLockError::Error(error)) => return Err(failed(error)),
        }
        let step = out.step("waiting for another `updraft dev` command of this project");
        out.announce(&step);
        let locked = tokio::task::spawn_blocking(move || file.lock().map(|()| file)).await?;
        out.abandon(step);
        Ok(Locked(locked.map_err(failed)?))
    }

    /// What was started here last, with the `.env` as it is now; none where nothing was.
    pub(crate) fn kept(&self) -> Result<Option<Kept>> {
        let path = self.root.join(KEPT);
        let failed = |error: io::Error| Failure::file("read", &path, &error);
        let text = match fs::read(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(failed(error)),
        };
        let mut kept: Kept = serde_json::from_slice(&text).map_err(|error| failed(error.into()))?;
        // What is wrong with it is said by who needs it.
        kept.run.own = inputs::variables(&kept.env_file, false).unwrap_or_default();
        Ok(Some(kept))
    }

    pub(super) fn keep(&self, kept: &Kept) -> Result<()> {
        let path = self.root.join(KEPT);
        crate::files::write_private(&path, &serde_json::to_string_pretty(kept)?)
            .map_err(|error| Failure::file("write", &path, &error))
    }

    /// What was started here last, and its Airflow.
    pub(crate) fn started(&self) -> Result<(Kept, LocalAirflow)> {
        let kept = self.kept()?.ok_or_else(|| {
            let name = self.project.name();
            Failure::new(
                Exit::Conflict,
                format!("no Airflow was started for `{name}` yet"),
            )
            .code("not_started")
            .help("`updraft dev start` does")
        })?;
        Ok((kept, LocalAirflow::open(&self.root)?))
    }

    /// The same, where its environment and its variables have to be there.
    pub(crate) fn installed(&self) -> Result<(Kept, LocalAirflow)> {
        let (mut kept, airflow) = self.started()?;
        kept.run.own = inputs::variables(&kept.env_file, false)?;
        if !kept.run.is_installed()? {
            return Err(Failure::new(
                Exit::Conflict,
                "the environment that Airflow ran in is not there any more",
            )
            .code("not_started")
            .help("`updraft dev restart` makes it again"));
        }
        Ok((kept, airflow))
    }

    /// The ports of other projects whose Airflow runs, or is being started.
    pub(super) fn ports_of_others(&self) -> Vec<u16> {
        let folder = self.root.parent().unwrap_or(&self.root);
        let entries = fs::read_dir(folder).into_iter().flatten().flatten();
        let others = entries.map(|entry| entry.path());
        let others = others.filter(|path| path.is_dir() && *path != self.root);
        let port = |root: PathBuf| {
            let text = fs::read(root.join(KEPT)).ok()?;
            let kept: Kept = serde_json::from_slice(&text).ok()?;
            let lock = File::open(root.with_extension("lock")).ok()?;
            let is_busy = lock.try_lock().is_err();
            let runs = || LocalAirflow::open(&root).is_ok_and(|airflow| airflow.runs());
            (is_busy || runs()).then_some(kept.run.port)
        };
        others.filter_map(port).collect()
    }

    /// What would be installed, or built, for the project as it is.
    fn fingerprint(&self, kept: &Kept) -> Result<ImageFingerprint> {
        let before = &kept.image;
        match before.making {
            Making::Built { .. } => {
                // What is in an image is known once it is built.
                let has = ImagePackages {
                    airflow: before.airflow_version.clone(),
                    python: before.python_version,
                    packages: BTreeMap::new(),
                };
                let steps = &kept.runtime.steps;
                image::fingerprint(&self.project, steps, &has, self.cache.as_deref())
            }
            Making::Locked | Making::Prebuilt { .. } => {
                Ok(self.project.image_recipe()?.fingerprint)
            }
        }
    }

    /// What of the project is not what runs, a line each. Its DAGs and other files are live.
    pub(crate) fn changed_since(&self, kept: &Kept) -> Vec<String> {
        let mut changed = match self.fingerprint(kept) {
            Ok(fingerprint) => fingerprint.differences(&kept.image),
            Err(failure) => vec![failure.message],
        };
        match inputs::variables(&kept.env_file, false) {
            Ok(variables) if inputs::digest(&variables) == kept.env => {}
            Ok(_) => changed.push(format!("{}: changed", inputs::shown(&kept.env_file))),
            Err(failure) => changed.push(failure.message),
        }
        changed
    }
}

/// Whether all of its components run.
pub(crate) fn all_run(components: &[LocalComponent]) -> bool {
    let runs = |it: &LocalComponent| it.state == LocalState::Running;
    components.iter().all(runs)
}
