//! Finds the Python that an environment is made with.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fmt::Write as _;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use updraft_project::{AirflowVersion, PythonVersion};

use crate::process;
use crate::uv::Uv;

/// A user and its group, as numbers: the user need not be in `/etc/passwd`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RunAs {
    pub uid: u32,
    pub gid: u32,
}

impl RunAs {
    /// Reads `UID:GID`.
    pub fn parse(text: &str) -> Option<Self> {
        let (uid, gid) = text.split_once(':')?;
        Some(Self {
            uid: uid.parse().ok()?,
            gid: gid.parse().ok()?,
        })
    }
}

/// A Python that is installed and works.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Interpreter {
    pub path: PathBuf,
    pub version: PythonVersion,
    /// What to tell the user when it is not the wanted version.
    pub note: Option<String>,
}

/// Which Python is looked for.
#[derive(Debug, Clone)]
pub struct PythonRequest<'a> {
    pub airflow: &'a AirflowVersion,
    pub wanted: PythonVersion,
    /// The oldest one that the lock holds for.
    pub lock_from: PythonVersion,
    /// Who has to be able to run it; none: whoever asks.
    pub run_as: Option<RunAs>,
}

#[derive(Debug, Clone, thiserror::Error)]
pub enum PythonError {
    #[error("no Python that Airflow {airflow} runs on was found{}", besides(.found, *.run_as))]
    NotFound {
        airflow: AirflowVersion,
        found: Vec<PythonVersion>,
        run_as: Option<RunAs>,
    },
}

impl PythonError {
    pub fn help(&self) -> &'static str {
        match self {
            Self::NotFound { .. } => {
                "install one for all users (on Debian: `apt-get install python3`), not only in one user's home folder"
            }
        }
    }
}

fn besides(found: &[PythonVersion], run_as: Option<RunAs>) -> String {
    let mut text = String::new();
    if let Some(RunAs { uid, .. }) = run_as {
        let _ = write!(text, " that user {uid} can run");
    }
    if !found.is_empty() {
        let versions: Vec<String> = found.iter().map(ToString::to_string).collect();
        let _ = write!(text, "; there is only {}", versions.join(", "));
    }
    text
}

/// Finds the wanted Python or the nearest one that this Airflow runs on.
///
/// Nearest means: one that the lock holds for before one that it does not,
/// then the smallest distance, then the newer.
pub fn nearest_python(
    uv: Option<&Uv>,
    ask: &PythonRequest<'_>,
) -> Result<Interpreter, PythonError> {
    let mut usable = Vec::new();
    let mut others = BTreeSet::new();
    for candidate in candidates(uv) {
        let Some((path, version)) = probe(&candidate, ask.run_as) else {
            continue;
        };
        if version == ask.wanted {
            return Ok(Interpreter {
                path,
                version,
                note: None,
            });
        }
        if ask.airflow.runs_on(version) {
            usable.push((path, version));
        } else {
            others.insert(version);
        }
    }
    let nearest = usable
        .into_iter()
        .min_by_key(|(_, version)| rank(*version, ask));
    let Some((path, version)) = nearest else {
        return Err(PythonError::NotFound {
            airflow: ask.airflow.clone(),
            found: others.into_iter().collect(),
            run_as: ask.run_as,
        });
    };
    let note = format!(
        "Python {version} is used, because {} is not installed here",
        ask.wanted
    );
    Ok(Interpreter {
        path,
        version,
        note: Some(note),
    })
}

fn rank(version: PythonVersion, ask: &PythonRequest<'_>) -> (bool, u8, bool) {
    let distance = version.minor().abs_diff(ask.wanted.minor());
    (version < ask.lock_from, distance, version < ask.wanted)
}

/// Any Python 3.10 or newer, to install uv with.
pub(crate) fn any() -> Option<PathBuf> {
    candidates(None)
        .iter()
        .filter_map(|candidate| probe(candidate, None))
        .find(|(_, version)| *version >= PythonVersion::new(3, 10))
        .map(|(path, _)| path)
}

pub(crate) fn path_folders() -> Vec<PathBuf> {
    std::env::var_os("PATH")
        .map(|path| std::env::split_paths(&path).collect())
        .unwrap_or_default()
}

/// Programs that may be a Python, each once, likely ones first.
fn candidates(uv: Option<&Uv>) -> Vec<PathBuf> {
    let mut folders = path_folders();
    folders.extend(["/usr/local/bin", "/usr/bin"].map(PathBuf::from));
    let home = std::env::var_os("HOME").map(PathBuf::from);
    let pyenv = std::env::var_os("PYENV_ROOT")
        .map(PathBuf::from)
        .or_else(|| Some(home?.join(".pyenv")));
    for versions in pyenv.into_iter().map(|root| root.join("versions")) {
        let installed = std::fs::read_dir(versions).into_iter().flatten().flatten();
        folders.extend(installed.map(|version| version.path().join("bin")));
    }
    let names: Vec<OsString> = std::iter::once("python3".into())
        .chain(
            (10..=14)
                .rev()
                .map(|minor| format!("python3.{minor}").into()),
        )
        .collect();
    let mut found: Vec<PathBuf> = folders
        .iter()
        .flat_map(|folder| names.iter().map(move |name| folder.join(name)))
        .filter(|path| path.is_file())
        .collect();
    found.extend(uv.into_iter().flat_map(known_to_uv));

    // Many names lead to one program. Links are followed only to tell.
    let mut seen = BTreeSet::new();
    found.retain(|path| {
        path.canonicalize()
            .is_ok_and(|real| seen.insert((real, is_shim(path))))
    });
    found
}

/// pyenv's shims are all one script, which looks at its own name.
fn is_shim(path: &Path) -> Option<OsString> {
    let in_shims = path
        .parent()
        .is_some_and(|folder| folder.ends_with("shims"));
    in_shims
        .then(|| path.file_name().map(OsString::from))
        .flatten()
}

fn known_to_uv(uv: &Uv) -> Vec<PathBuf> {
    #[derive(serde::Deserialize)]
    struct Known {
        path: Option<PathBuf>,
    }
    let mut command = uv.command(Path::new("/"));
    command.args([
        "python",
        "list",
        "--only-installed",
        "--output-format",
        "json",
    ]);
    let listed = process::run(&mut command)
        .ok()
        .filter(|finished| finished.success);
    let known: Vec<Known> = listed
        .and_then(|finished| serde_json::from_str(&finished.stdout).ok())
        .unwrap_or_default();
    known.into_iter().filter_map(|known| known.path).collect()
}

/// Runs a candidate to see whether it is a complete `CPython` for that user;
/// answers with its real path.
fn probe(program: &Path, run_as: Option<RunAs>) -> Option<(PathBuf, PythonVersion)> {
    // Without these modules Airflow starts and then fails.
    const SCRIPT: &str = "import sys, ssl, sqlite3, ctypes, zlib\n\
        print(sys.implementation.name)\n\
        print('%d.%d' % sys.version_info[:2])\n\
        print(getattr(sys, '_base_executable', None) or sys.executable)\n";
    let mut command = Command::new(program);
    command
        .args(["-I", "-c", SCRIPT])
        .current_dir("/")
        .env_remove("PYTHONHOME");
    if let Some(RunAs { uid, gid }) = run_as {
        command.uid(uid).gid(gid);
    }
    let finished = process::run(&mut command)
        .ok()
        .filter(|finished| finished.success)?;
    let mut lines = finished.stdout.lines();
    let is_cpython = lines.next()? == "cpython";
    let version = lines.next()?.parse().ok()?;
    let path = PathBuf::from(lines.next()?);
    (is_cpython && path.is_absolute()).then_some((path, version))
}

/// Whether a Python starts for that user.
pub(crate) fn runs(program: &Path, run_as: Option<RunAs>) -> bool {
    probe(program, run_as).is_some()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prefers_what_the_lock_holds_for_then_what_is_near() {
        let airflow: AirflowVersion = "3.3.2".parse().unwrap();
        let python = |text: &str| text.parse::<PythonVersion>().unwrap();
        let ask = PythonRequest {
            airflow: &airflow,
            wanted: python("3.12"),
            lock_from: python("3.12"),
            run_as: None,
        };
        let best = |ask: &PythonRequest<'_>, there: &[&str]| {
            there
                .iter()
                .map(|text| python(text))
                .min_by_key(|v| rank(*v, ask))
                .unwrap()
                .to_string()
        };
        assert_eq!(best(&ask, &["3.11", "3.14"]), "3.14");
        assert_eq!(best(&ask, &["3.10", "3.11"]), "3.11");
        let ask = PythonRequest {
            lock_from: python("3.10"),
            ..ask
        };
        assert_eq!(best(&ask, &["3.11", "3.14"]), "3.11");
        assert_eq!(best(&ask, &["3.11", "3.13"]), "3.13");
    }

    #[test]
    fn finds_a_python_here_and_says_when_none_fits() {
        let airflow: AirflowVersion = "3.3.2".parse().unwrap();
        let ask = PythonRequest {
            airflow: &airflow,
            wanted: PythonVersion::new(3, 99),
            lock_from: PythonVersion::new(3, 10),
            run_as: None,
        };
        let found = nearest_python(None, &ask).expect("tests need a Python");
        assert!(
            found
                .note
                .unwrap()
                .contains("because 3.99 is not installed")
        );
        let exact = PythonRequest {
            wanted: found.version,
            ..ask.clone()
        };
        assert_eq!(nearest_python(None, &exact).unwrap().note, None);

        let none = PythonError::NotFound {
            airflow: airflow.clone(),
            found: vec![PythonVersion::new(3, 9)],
            run_as: Some(RunAs { uid: 7, gid: 7 }),
        };
        assert_eq!(
            none.to_string(),
            "no Python that Airflow 3.3.2 runs on was found that user 7 can run; there is only 3.9"
        );
    }
}
