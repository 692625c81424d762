//! pytest for an environment that does not have it.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use updraft_model::Digest;
use updraft_project::PythonVersion;

use crate::exclusive;
use crate::process::Stop;
use crate::python;
use crate::realise::RealiseError;
use crate::uv::Uv;

/// The one that is put beside; a project that requires another has that.
const PYTEST: &str = "pytest>=8,<10";

/// Installs pytest into a folder for `PYTHONPATH`, for an environment with
/// these packages: what is tested stays what was locked.
pub fn pytest_beside<'a>(
    packages: impl Iterator<Item = (&'a str, &'a str)>,
    python: PythonVersion,
    cache: &Path,
    stop: &Stop,
    say: &dyn Fn(&str),
) -> Result<PathBuf, RealiseError> {
    // What both need has one version.
    let constraints: String = packages
        .map(|(name, version)| format!("{name}=={version}\n"))
        .collect();
    let key = Digest::of(format!("{python}\n{constraints}").as_bytes()).short();
    let parent = cache.join("pytest");
    let folder = parent.join(key);
    let failed = |source| RealiseError::Io {
        path: folder.clone(),
        source,
    };
    if folder.is_dir() {
        return Ok(folder);
    }
    fs::create_dir_all(&parent).map_err(failed)?;
    let uv = Uv::find_or_install(cache, stop, say)
        .map_err(|error| RealiseError::Uv(io::Error::other(error)))?;
    let _guard = exclusive::take(&parent.join(".lock"), stop, say).map_err(failed)?;
    if folder.is_dir() {
        return Ok(folder);
    }
    say("installing pytest");
    let scratch = tempfile::Builder::new()
        .prefix(".installing-")
        .tempdir_in(&parent)
        .map_err(failed)?;
    let listed = scratch.path().join("constraints.txt");
    fs::write(&listed, constraints).map_err(failed)?;
    let target = scratch.path().join("packages");
    let mut command = uv.pip(scratch.path(), "install");
    if let Some(any) = python::any() {
        command.arg("--python").arg(any);
    }
    command
        .arg("--python-version")
        .arg(python.to_string())
        .arg("--constraints")
        .arg(&listed)
        .arg("--target")
        .arg(&target)
        .arg(PYTEST);
    let finished = uv.run(&mut command).map_err(failed)?;
    if finished.is_offline() {
        return Err(RealiseError::Offline(finished.complaint()));
    } else if !finished.success {
        return Err(RealiseError::Install(finished.complaint()));
    }
    fs::rename(&target, &folder).map_err(failed)?;
    Ok(folder)
}
