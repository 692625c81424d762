//! Finds uv, or installs it into a folder of ours.

use std::fs::{self, File, Permissions};
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::exclusive;
use crate::process::{self, Finished, Stop};
use crate::python::{self, RunAs};

/// Older ones lack options that are used here.
const OLDEST: (u32, u32) = (0, 6);

/// A uv that is recent enough.
#[derive(Debug, Clone)]
pub struct Uv {
    program: PathBuf,
    version: String,
    /// What it downloads lies in a folder of ours, unless the user names one.
    cache: Option<PathBuf>,
    stop: Stop,
    /// Installs what has a wheel and refuses the rest.
    only_wheels: bool,
    /// Who it runs as, and that user's folder.
    user: Option<(RunAs, PathBuf)>,
}

#[derive(Debug, thiserror::Error)]
pub enum UvError {
    #[error("`UPDRAFT_UV` names `{}`, which is not uv {}.{} or newer: {problem}", program.display(), OLDEST.0, OLDEST.1)]
    Unusable { program: PathBuf, problem: String },
    #[error("no Python 3.10 or newer was found")]
    NoPython,
    #[error("uv could not be installed, because no package index was in reach:\n{0}")]
    Offline(String),
    #[error("uv could not be installed:\n{0}")]
    Install(String),
    #[error("could not write to `{}`", path.display())]
    Io { path: PathBuf, source: io::Error },
}

impl UvError {
    pub fn help(&self) -> &'static str {
        match self {
            Self::Unusable { .. } => "correct or unset `UPDRAFT_UV`",
            Self::NoPython => {
                "install Python 3.10 or newer (on Debian: `apt-get install python3`), or uv itself"
            }
            Self::Offline(_) => {
                "check the network, or name your package index in `PIP_INDEX_URL`, or install uv and have it on PATH"
            }
            Self::Install(_) => {
                "install uv yourself and have it on PATH, or name it in `UPDRAFT_UV`"
            }
            Self::Io { .. } => "check the folder's permissions and the space left on the disk",
        }
    }
}

impl Uv {
    /// Finds uv: `UPDRAFT_UV`, then PATH, then the one in `cache`, which is
    /// installed there from the package index when it is missing. Nothing
    /// else on the machine changes. Two at once are safe.
    pub fn find_or_install(cache: &Path, stop: &Stop, say: &dyn Fn(&str)) -> Result<Self, UvError> {
        if let Some(program) = std::env::var_os("UPDRAFT_UV").filter(|value| !value.is_empty()) {
            let program = PathBuf::from(program);
            return Self::at(&program, cache, stop)
                .map_err(|problem| UvError::Unusable { program, problem });
        }
        for folder in python::path_folders() {
            if let Ok(found) = Self::at(&folder.join("uv"), cache, stop) {
                return Ok(found);
            }
        }
        Self::find_or_install_in(cache, stop, say)
    }

    /// Finds or installs the one in `cache`, whatever else there is.
    pub fn find_or_install_in(
        cache: &Path,
        stop: &Stop,
        say: &dyn Fn(&str),
    ) -> Result<Self, UvError> {
        let folder = cache.join("uv");
        let program = folder.join("bin/uv");
        if let Ok(found) = Self::at(&program, cache, stop) {
            return Ok(found);
        }
        let failed = |source| UvError::Io {
            path: folder.clone(),
            source,
        };
        fs::create_dir_all(folder.join("bin")).map_err(failed)?;
        let _lock = exclusive::take(&folder.join("lock"), stop, say).map_err(failed)?;
        // Somebody else may have installed it while this one waited.
        if let Ok(found) = Self::at(&program, cache, stop) {
            return Ok(found);
        }
        say("installing uv from the package index");
        let scratch = tempfile::Builder::new()
            .prefix(".installing-")
            .tempdir_in(&folder)
            .map_err(failed)?;
        let python = python::any().ok_or(UvError::NoPython)?;
        let installed = install(&python, scratch.path(), stop)?;
        let new = folder.join("bin/.uv-new");
        fs::copy(&installed, &new).map_err(failed)?;
        fs::set_permissions(&new, Permissions::from_mode(0o755)).map_err(failed)?;
        File::open(&new)
            .and_then(|file| file.sync_all())
            .map_err(failed)?;
        fs::rename(&new, &program).map_err(failed)?;
        Self::at(&program, cache, stop).map_err(UvError::Install)
    }

    /// Uses this program, if it is uv and recent enough.
    fn at(program: &Path, cache: &Path, stop: &Stop) -> Result<Self, String> {
        let finished =
            process::run(process::for_probe(&mut Command::new(program)).arg("--version"))
                .map_err(|error| error.to_string())?;
        let version = finished
            .stdout
            .strip_prefix("uv ")
            .and_then(|rest| rest.split_whitespace().next());
        let version = version.ok_or("it does not say its version")?.to_owned();
        let mut numbers = version.split('.').map(|part| part.parse::<u32>().ok());
        match (numbers.next().flatten(), numbers.next().flatten()) {
            (Some(major), Some(minor)) if (major, minor) >= OLDEST => {
                let named = std::env::var_os("UV_CACHE_DIR").is_some_and(|dir| !dir.is_empty());
                let cache = (!named).then(|| cache.join("uv-cache"));
                Ok(Self {
                    program: program.to_owned(),
                    version,
                    cache,
                    stop: stop.clone(),
                    only_wheels: false,
                    user: None,
                })
            }
            _ => Err(format!("it is version {version}")),
        }
    }

    pub fn program(&self) -> &Path {
        &self.program
    }

    pub fn version(&self) -> &str {
        &self.version
    }

    /// The same uv, which runs no code of the packages that it installs.
    pub(crate) fn only_wheels(&self) -> Self {
        Self {
            only_wheels: true,
            ..self.clone()
        }
    }

    /// The same uv as another user, with all that it keeps in a folder of theirs.
    pub(crate) fn as_user(&self, user: RunAs, folder: &Path) -> io::Result<Self> {
        // It may lie where that user cannot get to.
        let program = folder.join("uv");
        fs::copy(&self.program, &program)?;
        fs::set_permissions(&program, Permissions::from_mode(0o755))?;
        Ok(Self {
            program,
            cache: Some(folder.join("cache")),
            user: Some((user, folder.to_owned())),
            ..self.clone()
        })
    }

    pub(crate) fn stop(&self) -> &Stop {
        &self.stop
    }

    pub(crate) fn run(&self, command: &mut Command) -> io::Result<Finished> {
        process::run_until(command, &self.stop)
    }

    /// A `uv pip` command.
    pub(crate) fn pip(&self, folder: &Path, name: &str) -> Command {
        let mut command = self.command(folder);
        command.args(["pip", name, "--quiet"]);
        // The variable of this name is not for these commands.
        if self.only_wheels {
            command.arg("--no-build");
        }
        command
    }

    /// A command that depends on the user's uv settings for indexes and
    /// nothing else of the folder or shell it is called from.
    pub(crate) fn command(&self, folder: &Path) -> Command {
        let mut command = Command::new(&self.program);
        process::for_packages(&mut command);
        command.current_dir(folder).stdin(Stdio::null()).envs([
            ("UV_PYTHON_DOWNLOADS", "never"),
            ("UV_NO_PROGRESS", "1"),
            ("NO_COLOR", "1"),
            ("PYTHONDONTWRITEBYTECODE", "1"),
        ]);
        for inherited in [
            "VIRTUAL_ENV",
            "CONDA_PREFIX",
            "PYTHONPATH",
            "PYTHONHOME",
            "UV_SYSTEM_PYTHON",
            "UV_PYTHON",
            "UV_PROJECT_ENVIRONMENT",
            "UV_REQUIRE_HASHES",
            "UV_NO_VERIFY_HASHES",
            "UV_COMPILE_BYTECODE",
            "UV_WORKING_DIRECTORY",
            "UV_PROJECT",
            "RUST_LOG",
        ] {
            command.env_remove(inherited);
        }
        if let Some(cache) = &self.cache {
            command.env("UV_CACHE_DIR", cache);
        }
        if let Some((user, folder)) = &self.user {
            command.uid(user.uid).gid(user.gid);
            command.env("HOME", folder).env("TMPDIR", folder);
        }
        command
    }
}

/// Gets the `uv` program from the package index into a scratch folder, by the
/// first of three ways that this Python has.
fn install(python: &Path, scratch: &Path, stop: &Stop) -> Result<PathBuf, UvError> {
    let failed = |source| UvError::Io {
        path: scratch.to_owned(),
        source,
    };
    let run = |command: &mut Command| {
        process::run_until(quiet(command).stdin(Stdio::null()), stop).map_err(failed)
    };

    let venv = scratch.join("venv");
    if run(Command::new(python).args(["-m", "venv"]).arg(&venv))?.success {
        let pip = run(Command::new(venv.join("bin/python")).args([
            "-m",
            "pip",
            "install",
            "--quiet",
            "--retries",
            "2",
            "uv",
        ]))?;
        return done(&pip, venv.join("bin/uv"));
    }
    // Debian without python3-venv. `--target` changes nothing elsewhere.
    if run(Command::new(python).args(["-m", "pip", "--version"]))?.success {
        let target = scratch.join("target");
        let pip = run(Command::new(python)
            .args([
                "-m",
                "pip",
                "install",
                "--quiet",
                "--retries",
                "2",
                "--target",
            ])
            .arg(&target)
            .arg("uv"))?;
        return done(&pip, target.join("bin/uv"));
    }
    // Debian without python3-pip as well.
    let script = scratch.join("fetch_uv.py");
    fs::write(&script, include_str!("uv/fetch_uv.py")).map_err(failed)?;
    let fetch = run(Command::new(python).arg(&script).arg(scratch))?;
    done(&fetch, scratch.join("uv"))
}

fn quiet(command: &mut Command) -> &mut Command {
    process::for_packages(command)
        // Nothing is kept outside of the folder that it is installed into.
        .env("PIP_NO_CACHE_DIR", "1")
        .env("PIP_DISABLE_PIP_VERSION_CHECK", "1")
        .env("PIP_NO_INPUT", "1")
        .env_remove("PIP_REQUIRE_VIRTUALENV")
        .env_remove("PIP_USER")
        .env_remove("PIP_TARGET")
        .env_remove("VIRTUAL_ENV")
        .env_remove("PYTHONPATH")
        .env_remove("PYTHONHOME")
}

fn done(finished: &Finished, program: PathBuf) -> Result<PathBuf, UvError> {
    if finished.success && program.is_file() {
        Ok(program)
    } else if finished.is_offline() {
        Err(UvError::Offline(finished.complaint()))
    } else {
        Err(UvError::Install(finished.complaint()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A Python that lacks some modules, as on a plain Debian.
    fn python_without(modules: &str, folder: &Path) -> PathBuf {
        let real = python::any().expect("tests need a Python");
        let script = format!(
            "#!/bin/sh\ncase \"$1 $2\" in {modules}) echo \"No module named $2\" >&2; exit 1;; esac\nexec '{}' \"$@\"\n",
            real.display()
        );
        let path = folder.join("python3");
        fs::write(&path, script).unwrap();
        fs::set_permissions(&path, Permissions::from_mode(0o755)).unwrap();
        path
    }

    #[test]
    fn installs_without_venv_and_without_pip() {
        for missing in ["'-m venv'", "'-m venv'|'-m pip'"] {
            let dir = tempfile::tempdir().unwrap();
            let python = python_without(missing, dir.path());
            let program = install(&python, dir.path(), &Stop::default()).unwrap();
            fs::set_permissions(&program, Permissions::from_mode(0o755)).unwrap();
            assert!(
                Uv::at(&program, dir.path(), &Stop::default()).is_ok(),
                "{missing}"
            );
        }
    }
}
