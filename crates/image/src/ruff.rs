//! Gets ruff, which knows what Airflow 3 removed, into a folder of ours.

use std::fs::{self, Permissions};
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::exclusive;
use crate::process::Stop;
use crate::python;
use crate::uv::{Uv, UvError};

/// The one that is fetched: what is found should not depend on the machine.
pub const RUFF_VERSION: &str = "0.17.6";

const TRY_AGAIN: Duration = Duration::from_mins(10);

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
    #[error("{0}; it is tried again ten minutes later")]
    NotYet(String),
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
    // Without a network each try takes seconds.
    let tried = folder.join("tried");
    if let Some(why) = failed_just_now(&tried) {
        return Err(RuffError::NotYet(why));
    }
    let installed = install(cache, &folder, &program, stop, say);
    if let Err(error) = &installed
        && !stop.is_requested()
    {
        let text = error.to_string();
        let first = text.lines().next().unwrap_or_default();
        // Without it the next one tries again, and takes as long.
        let _ = fs::write(&tried, first.trim_end_matches(':'));
    }
    installed.map(|()| program)
}

/// What went wrong less than ten minutes ago.
fn failed_just_now(tried: &Path) -> Option<String> {
    let at = fs::metadata(tried).and_then(|it| it.modified()).ok()?;
    let is_recent = at.elapsed().is_ok_and(|age| age < TRY_AGAIN);
    is_recent.then(|| fs::read_to_string(tried).ok()).flatten()
}

fn install(
    cache: &Path,
    folder: &Path,
    program: &Path,
    stop: &Stop,
    say: &dyn Fn(&str),
) -> Result<(), RuffError> {
    let failed = |source| RuffError::Io {
        path: folder.to_owned(),
        source,
    };
    fs::create_dir_all(folder).map_err(failed)?;
    let uv = Uv::find_or_install(cache, stop, say)?;
    let _lock = exclusive::take(&folder.join("lock"), stop, say).map_err(failed)?;
    // Somebody else may have installed it while this one waited.
    if program.is_file() {
        return Ok(());
    }
    say("installing ruff from the package index");
    let scratch = tempfile::Builder::new()
        .prefix(".installing-")
        .tempdir_in(folder)
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
    fs::rename(&new, program).map_err(failed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_is_remembered_for_a_while() {
        let folder = tempfile::tempdir().unwrap();
        let tried = folder.path().join("tried");
        assert_eq!(failed_just_now(&tried), None);
        fs::write(&tried, "no network").unwrap();
        assert_eq!(failed_just_now(&tried).as_deref(), Some("no network"));
        let long_ago = std::time::SystemTime::now() - TRY_AGAIN;
        fs::File::options()
            .write(true)
            .open(&tried)
            .and_then(|file| file.set_modified(long_ago))
            .unwrap();
        assert_eq!(failed_just_now(&tried), None);
    }
}
