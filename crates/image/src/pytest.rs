//! pytest for an environment that does not have it.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use crate::exclusive;
use crate::lock::Lock;
use crate::process::Stop;
use crate::realise::{RealiseError, Realised};
use crate::uv::Uv;

/// The one that is put beside; a project that requires another has that.
const PYTEST: &str = "pytest>=8,<10";

/// Installs pytest into a folder for `PYTHONPATH`, where the environment has
/// none: what is tested stays what was locked. None: it has one.
pub fn pytest_beside(
    realised: &Realised,
    lock: &Lock,
    cache: &Path,
    stop: &Stop,
    say: &dyn Fn(&str),
) -> Result<Option<PathBuf>, RealiseError> {
    if realised.bin.join("pytest").is_file() {
        return Ok(None);
    }
    let key = realised.key.short();
    let parent = cache.join("pytest");
    let folder = parent.join(&key);
    let failed = |source| RealiseError::Io {
        path: folder.clone(),
        source,
    };
    if folder.is_dir() {
        return Ok(Some(folder));
    }
    fs::create_dir_all(&parent).map_err(failed)?;
    let uv = Uv::find_or_install(cache, stop, say)
        .map_err(|error| RealiseError::Uv(io::Error::other(error)))?;
    let _guard = exclusive::take(&parent.join(".lock"), stop, say).map_err(failed)?;
    if folder.is_dir() {
        return Ok(Some(folder));
    }
    say("installing pytest");
    let scratch = tempfile::Builder::new()
        .prefix(".installing-")
        .tempdir_in(&parent)
        .map_err(failed)?;
    // What both need has one version.
    let constraints = scratch.path().join("constraints.txt");
    fs::write(&constraints, without_hashes(&lock.text)).map_err(failed)?;
    let target = scratch.path().join("packages");
    let mut command = uv.pip(scratch.path(), "install");
    command
        .arg("--python")
        .arg(&realised.python)
        .arg("--constraints")
        .arg(&constraints)
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
    Ok(Some(folder))
}

fn without_hashes(lock: &str) -> String {
    let lines = lock
        .lines()
        .filter(|line| !line.trim_start().starts_with("--hash"));
    let lines = lines.map(|line| line.trim_end_matches('\\').trim_end());
    lines.collect::<Vec<_>>().join("\n")
}
