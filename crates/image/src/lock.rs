//! Resolves Airflow and a project's requirements to exact packages.
//!
//! A lock is universal: it names the packages, with hashes, for every
//! platform and for every Python from [`Lock::python_from`] on, so that one
//! made on a laptop holds on the server. That is the oldest Python of this
//! Airflow where the requirements allow it, otherwise the wanted one.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use updraft_model::Digest;
use updraft_project::{AirflowVersion, PythonVersion, Requirements};

use crate::process::{self, Finished};
use crate::python::{PythonRequest, nearest_python};
use crate::uv::Uv;

/// Counts up when locks are made in another way.
const FORMAT: u32 = 3;

/// Libraries that published releases of Airflow allow and do not work with:
/// their API server does not start, or their tasks fail. Tried with 3.0.6 and
/// 3.2.2.
pub(crate) const fn known_bounds(airflow: &AirflowVersion) -> &'static str {
    match (airflow.major(), airflow.minor()) {
        (3, 0) => "fastapi<0.118\ncadwyn<6\n",
        (3, 2) => "fastapi<0.137\n",
        _ => "",
    }
}

/// What to resolve.
#[derive(Debug, Clone)]
pub struct LockRequest<'a> {
    pub airflow: &'a AirflowVersion,
    pub python: PythonVersion,
    pub requirements: &'a Requirements,
    /// Resolve anew, even when the same was resolved before.
    pub fresh: bool,
}

/// Exact packages with their hashes, in the syntax of `requirements.txt`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lock {
    /// The oldest Python it holds for.
    pub python_from: PythonVersion,
    pub text: String,
}

#[derive(Debug, thiserror::Error)]
pub enum LockError {
    #[error("{what} cannot be installed together:\n{complaint}")]
    Unsatisfiable { what: String, complaint: String },
    #[error("{what} could not be resolved, because a package index was not in reach:\n{complaint}")]
    Offline { what: String, complaint: String },
    #[error(
        "{what} could not be resolved, because no Python for that was found here:\n{complaint}"
    )]
    NoPython { what: String, complaint: String },
    #[error("the lock would contain credentials for `{0}`")]
    Credentials(String),
    #[error("could not write to `{}`", path.display())]
    Io { path: PathBuf, source: io::Error },
    #[error("could not run uv")]
    Uv(#[source] io::Error),
}

impl LockError {
    pub fn help(&self) -> &'static str {
        match self {
            Self::Unsatisfiable { .. } => {
                "change `requirements.txt`, or the versions in the Dockerfile"
            }
            Self::NoPython { .. } => {
                "install Python 3.10 or newer (on Debian: `apt-get install python3`), and have it on PATH"
            }
            Self::Offline { .. } => {
                "check the network, or name your package index in `UV_DEFAULT_INDEX` or `UV_INDEX`"
            }
            Self::Credentials(_) => {
                "write them as `${NAME}` in `requirements.txt`, or use uv's variables"
            }
            Self::Io { .. } => "check the folder's permissions and the space left on the disk",
            Self::Uv(_) => "check that uv is still installed, or name it in `UPDRAFT_UV`",
        }
    }
}

impl Lock {
    pub fn digest(&self) -> Digest {
        Digest::of(self.text.as_bytes())
    }

    /// The packages with their versions. One that is there twice, for two
    /// platforms, has the last one's.
    pub fn versions(&self) -> BTreeMap<&str, &str> {
        let named = self.text.lines().filter_map(|line| line.split_once("=="));
        named
            .filter(|(name, _)| name.starts_with(|c: char| c.is_ascii_alphanumeric()))
            .map(|(name, rest)| {
                let end = rest.find([' ', ';', '\\']).unwrap_or(rest.len());
                (name, &rest[..end])
            })
            .collect()
    }

    /// How many packages it names.
    pub fn packages(&self) -> usize {
        let starts = |line: &&str| line.starts_with(|c: char| c.is_ascii_alphanumeric());
        self.text.lines().filter(starts).count()
    }
}

/// Resolves, or answers from `cache` without any network when the same was
/// resolved before.
pub fn lock(
    uv: &Uv,
    ask: &LockRequest<'_>,
    cache: &Path,
    say: &dyn Fn(&str),
) -> Result<Lock, LockError> {
    let file = cache.join("locks").join(format!("{}.json", key(ask).hex()));
    if !ask.fresh
        && let Ok(text) = fs::read(&file)
        && let Ok(lock) = serde_json::from_slice(&text)
    {
        return Ok(lock);
    }
    say(&format!("resolving {}", what(ask)));
    let lock = resolve(uv, ask)?;
    let failed = |source| LockError::Io {
        path: file.clone(),
        source,
    };
    let folder = file.parent().unwrap_or(cache);
    fs::create_dir_all(folder).map_err(failed)?;
    let mut new = tempfile::NamedTempFile::new_in(folder).map_err(failed)?;
    let text = serde_json::to_vec(&lock)
        .map_err(io::Error::from)
        .map_err(failed)?;
    new.write_all(&text).map_err(failed)?;
    new.as_file().sync_all().map_err(failed)?;
    new.persist(&file).map_err(|error| failed(error.error))?;
    Ok(lock)
}

fn resolve(uv: &Uv, ask: &LockRequest<'_>) -> Result<Lock, LockError> {
    let oldest = ask
        .airflow
        .oldest_python()
        .unwrap_or(ask.python)
        .min(ask.python);
    // Found where an Environment looks for it, which is in more places than uv does.
    let interpreter = nearest_python(
        Some(uv),
        &PythonRequest {
            airflow: ask.airflow,
            wanted: ask.python,
            lock_from: oldest,
            run_as: None,
        },
    );
    let interpreter = interpreter.map_err(|error| LockError::NoPython {
        what: what(ask),
        complaint: error.to_string(),
    })?;
    let attempt = |python| attempt(uv, ask, python, &interpreter.path);
    let first = attempt(oldest)?;
    let (finished, text, python_from) =
        if first.0.success || oldest == ask.python || first.0.is_offline() {
            (first.0, first.1, oldest)
        } else {
            // Some package needs a newer Python than this Airflow does.
            let (finished, text) = attempt(ask.python)?;
            (finished, text, ask.python)
        };
    if !finished.success {
        let (what, complaint) = (what(ask), finished.complaint());
        return Err(if finished.is_offline() {
            LockError::Offline { what, complaint }
        } else if complaint.contains("No interpreter found") {
            LockError::NoPython { what, complaint }
        } else {
            LockError::Unsatisfiable { what, complaint }
        });
    }
    refuse_credentials(&text)?;
    Ok(Lock { python_from, text })
}

fn attempt(
    uv: &Uv,
    ask: &LockRequest<'_>,
    python: PythonVersion,
    interpreter: &Path,
) -> Result<(Finished, String), LockError> {
    let folder = tempfile::Builder::new()
        .prefix("updraft-lock-")
        .tempdir()
        .map_err(|source| LockError::Io {
            path: std::env::temp_dir(),
            source,
        })?;
    let failed = |source| LockError::Io {
        path: folder.path().to_owned(),
        source,
    };
    write_requirements(ask.requirements, folder.path()).map_err(failed)?;
    // A name that no project file has.
    let airflow = ".updraft-airflow.txt";
    fs::write(
        folder.path().join(airflow),
        // With the drivers for PostgreSQL, as the official image has them: the
        // database is the agent's to choose, after the lock was made.
        format!("apache-airflow[postgres]=={}\n", ask.airflow),
    )
    .map_err(failed)?;
    let bounds = ".updraft-bounds.txt";
    fs::write(folder.path().join(bounds), known_bounds(ask.airflow)).map_err(failed)?;

    let mut command = uv.pip(folder.path(), "compile");
    command
        .args(["--universal", "--generate-hashes"])
        .arg("--python")
        .arg(interpreter)
        .args([
            "--no-header",
            "--no-annotate",
            "--python-version",
            &python.to_string(),
        ])
        .args([
            "--output-file",
            ".updraft-lock.txt",
            "--constraints",
            bounds,
            airflow,
        ])
        .args(ask.requirements.root_file());
    // Set to `--emit-index-url` or the like, they would let addresses in.
    command
        .env_remove("UV_EMIT_INDEX_URL")
        .env_remove("UV_EMIT_FIND_LINKS");
    for text in ask.requirements.files().values() {
        command.envs(process::named_in(text));
    }
    let finished = uv.run(&mut command).map_err(LockError::Uv)?;
    let text = if finished.success {
        fs::read_to_string(folder.path().join(".updraft-lock.txt")).map_err(failed)?
    } else {
        String::new()
    };
    Ok((finished, text))
}

pub(crate) fn write_requirements(requirements: &Requirements, folder: &Path) -> io::Result<()> {
    for (path, text) in requirements.files() {
        let path = folder.join(path);
        if let Some(parent) = path.parent() {
            fs::create_dir_all(parent)?;
        }
        fs::write(path, text)?;
    }
    Ok(())
}

fn what(ask: &LockRequest<'_>) -> String {
    let also = if ask.requirements.is_empty() {
        ""
    } else {
        " and `requirements.txt`"
    };
    format!("Airflow {}{also} on Python {}", ask.airflow, ask.python)
}

/// Names everything that decides the result, except time. Addresses of
/// private indexes count, but only as part of this digest.
fn key(ask: &LockRequest<'_>) -> Digest {
    let settings = resolver_settings();
    let all = (FORMAT, ask.airflow, ask.python, ask.requirements, settings);
    Digest::of(&serde_json::to_vec(&all).expect("text and numbers always serialise"))
}

/// What of this process's variables decides a resolution.
pub(crate) fn resolver_settings() -> BTreeMap<String, String> {
    std::env::vars_os()
        .filter_map(|(name, value)| {
            Some((
                name.into_string().ok()?,
                value.to_string_lossy().into_owned(),
            ))
        })
        .filter(|(name, _)| is_resolver_setting(name))
        .collect()
}

fn is_resolver_setting(name: &str) -> bool {
    const EXACT: [&str; 12] = [
        "UV_DEFAULT_INDEX",
        "UV_EXTRA_INDEX_URL",
        "UV_FIND_LINKS",
        "UV_NO_INDEX",
        "UV_CONSTRAINT",
        "UV_OVERRIDE",
        "UV_EXCLUDE",
        "UV_EXCLUDE_NEWER",
        "UV_PRERELEASE",
        "UV_RESOLUTION",
        "UV_FORK_STRATEGY",
        "UV_CONFIG_FILE",
    ];
    EXACT.contains(&name) || name.starts_with("UV_INDEX") || name.starts_with("UV_NO_BINARY")
}

/// Looks for what should not be there, since the lock travels and is kept.
pub(crate) fn refuse_credentials(text: &str) -> Result<(), LockError> {
    for line in text.lines() {
        let cleaned = process::without_credentials(line);
        if cleaned != line && !line.contains("${") && !line.contains("ssh://") {
            return Err(LockError::Credentials(cleaned.trim().to_owned()));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refuses_a_lock_with_credentials_and_does_not_repeat_them() {
        let fine = "a==1 \\\n    --hash=sha256:00\nb @ git+ssh://git@example.com/b@00\nc @ https://${T}@example.com/c.whl\n";
        assert!(refuse_credentials(fine).is_ok());
        let error = refuse_credentials("a @ https://me:hunter2@example.com/a.whl\n").unwrap_err();
        assert!(!format!("{error:?}").contains("hunter2"));
        let lock = Lock {
            python_from: PythonVersion::new(3, 10),
            text: fine.into(),
        };
        assert_eq!(lock.packages(), 3);
    }

    #[test]
    fn the_key_follows_the_inputs() {
        let (airflow, other) = ("3.3.2".parse().unwrap(), "3.3.1".parse().unwrap());
        let requirements = Requirements::default();
        let ask = LockRequest {
            airflow: &airflow,
            python: PythonVersion::new(3, 12),
            requirements: &requirements,
            fresh: false,
        };
        assert_eq!(
            key(&ask),
            key(&LockRequest {
                fresh: true,
                ..ask.clone()
            })
        );
        assert_ne!(
            key(&ask),
            key(&LockRequest {
                airflow: &other,
                ..ask.clone()
            })
        );
        assert_ne!(
            key(&ask),
            key(&LockRequest {
                python: PythonVersion::new(3, 11),
                ..ask.clone()
            })
        );
    }
}
