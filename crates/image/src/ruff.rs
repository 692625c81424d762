//! Gets ruff, which knows what Airflow 3 removed, into a folder of ours.

use std::fs::{self, Permissions};
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use crate::exclusive;
use crate::process::Stop;
use crate::python;
use crate::uv::{Uv, UvError};

/// The one that is fetched: what is found should not depend on the machine.
pub const RUFF_VERSION: &str = "0.17.6";

#[derive(Debug, thiserror::Error)]
pub enum RuffError {
    #[error("`UPDRAFT_RUFF` names `{}`, which is no program", .0.display())]
    Unusable(PathBuf),
    #[error("ruff could not be installed, because there is no uv: {0}")]
    Uv(#[from] UvError),
    #[error("ruff could not be installed, because no package index was in reach")]
    Offline,
    #[error("ruff could not be installed: {0}")]
    Install(String),
    #[error("could not write to `{}`: {source}", path.display())]
    Io { path: PathBuf, source: io::Error },
}

/// Finds ruff: `UPDRAFT_RUFF`, or the one in `cache`, which is installed there
/// with uv when it is missing. Two at once are safe.
pub fn find_or_install_ruff(
    cache: &Path,
    stop: &Stop,
    say: &dyn Fn(&str),
) -> Result<PathBuf, RuffError> {
    if let Some(program) = std::env::var_os("UPDRAFT_RUFF").filter(|value| !value.is_empty()) {
        let program = PathBuf::from(program);
        if program.is_file() {
            return Ok(program);
        }
        return Err(RuffError::Unusable(program));
    }
    let folder = cache.join("ruff");
    let program = folder.join(format!("ruff-{RUFF_VERSION}"));
    if program.is_file() {
        return Ok(program);
    }
    let failed = |source| RuffError::Io {
        path: folder.clone(),
        source,
    };
    fs::create_dir_all(&folder).map_err(failed)?;
    let uv = Uv::find_or_install(cache, stop, say)?;
    let _lock = exclusive::take(&folder.join("lock"), stop, say).map_err(failed)?;
    // Somebody else may have installed it while this one waited.
    if program.is_file() {
        return Ok(program);
    }
    say("installing ruff from the package index");
    let scratch = tempfile::Builder::new()
        .prefix(".installing-")
        .tempdir_in(&folder)
        .map_err(failed)?;
    let mut command = uv.pip(scratch.path(), "install");
    if let Some(python) = python::any() {
        command.arg("--python").arg(python);
    }
    command
        .args(["--no-deps", "--no-build", "--target"])
        .arg(scratch.path().join("packages"))
        .arg(format!("ruff=={RUFF_VERSION}"))
        // Whoever waits for a check does without rather than wait long.
        .env("UV_HTTP_RETRIES", "1");
    let finished = uv.run(&mut command).map_err(failed)?;
    if finished.is_offline() {
        return Err(RuffError::Offline);
    } else if !finished.success {
        return Err(RuffError::Install(finished.complaint()));
    }
    let new = scratch.path().join("ruff");
    fs::copy(scratch.path().join("packages/bin/ruff"), &new).map_err(failed)?;
    fs::set_permissions(&new, Permissions::from_mode(0o755)).map_err(failed)?;
    fs::rename(&new, &program).map_err(failed)?;
    Ok(program)
}
