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
    #[error("no Python that Airflow {airflow} runs on was found{}", besides(.found, *.run_as, .closed))]
    NotFound {
        airflow: AirflowVersion,
        found: Vec<PythonVersion>,
        run_as: Option<RunAs>,
        closed: Vec<Closed>,
    },
}

/// A Python that works, and not for the user who has to run it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Closed {
    path: PathBuf,
    version: PythonVersion,
    why: String,
}

impl Closed {
    fn named(&self) -> String {
        format!("{} at `{}`", self.version, self.path.display())
    }
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

fn besides(found: &[PythonVersion], run_as: Option<RunAs>, closed: &[Closed]) -> String {
    let mut text = String::new();
    if let Some(RunAs { uid, .. }) = run_as {
        let _ = write!(text, " that user {uid} can run");
    }
    if !found.is_empty() {
        let versions: Vec<String> = found.iter().map(ToString::to_string).collect();
        let _ = write!(text, "; there is only {}", versions.join(", "));
    }
    for closed in closed {
        let _ = write!(text, "; it cannot run {} ({})", closed.named(), closed.why);
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
    let mut closed = Vec::new();
    for candidate in candidates(uv, Some(ask.wanted)) {
        let (path, version) = match probe(&candidate, ask.run_as) {
            Ok(found) => found,
            Err(error) => {
                if ask.run_as.is_some()
                    && let Ok((path, version)) = probe(&candidate, None)
                {
                    closed.push(Closed {
                        path,
                        version,
                        why: error.to_string(),
                    });
                }
                continue;
            }
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
            closed,
        });
    };
    let wanted = closed.iter().find(|closed| closed.version == ask.wanted);
    let note = match (wanted, ask.run_as) {
        (Some(closed), Some(user)) => format!(
            "Python {version} is used, because {} cannot be run by Airflow's user {} ({})",
            closed.named(),
            user.uid,
            closed.why
        ),
        _ => format!(
            "Python {version} is used, because {} is not installed here",
            ask.wanted
        ),
    };
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
    candidates(None, None)
        .filter_map(|candidate| probe(&candidate, None).ok())
        .find(|(_, version)| *version >= PythonVersion::new(3, 10))
        .map(|(path, _)| path)
}

pub(crate) fn path_folders() -> Vec<PathBuf> {
    std::env::var_os("PATH")
        .map(|path| std::env::split_paths(&path).collect())
        .unwrap_or_default()
}

/// Programs that may be a Python, each once, likely ones first. What `uv` knows
/// comes last, and it is not asked before: it tries all that it finds.
fn candidates(
    uv: Option<&Uv>,
    wanted: Option<PythonVersion>,
) -> impl Iterator<Item = PathBuf> + '_ {
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
    let wanted = wanted.map(|it| OsString::from(format!("python{it}")));
    let is_named = |path: &Path| path.file_name() == wanted.as_deref();
    // A shim may name what is there only for another folder.
    found.sort_by_key(|path| (is_shim(path).is_some(), !is_named(path)));

    // Many names lead to one program. Links are followed only to tell.
    let mut seen = BTreeSet::new();
    let mut is_new = move |path: &PathBuf| {
        path.canonicalize()
            .is_ok_and(|real| seen.insert((real, is_shim(path))))
    };
    let known = std::iter::once_with(move || uv.into_iter().flat_map(known_to_uv));
    found
        .into_iter()
        .chain(known.flatten())
        .filter(move |path| is_new(path))
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
    let listed = uv
        .run(&mut command)
        .ok()
        .filter(|finished| finished.success);
    let known: Vec<Known> = listed
        .and_then(|finished| serde_json::from_str(&finished.stdout).ok())
        .unwrap_or_default();
    known.into_iter().filter_map(|known| known.path).collect()
}

/// Why a program is not a Python that can be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ProbeError {
    #[error("{0}")]
    Unusable(String),
    /// Says nothing about the program: there was no memory, or somebody killed it.
    #[error("it could not be tried")]
    NotTried(#[source] std::io::Error),
}

/// Runs a candidate to see whether it is a complete `CPython` for that user;
/// answers with its real path. Packages that are installed beside it have no
/// say: their code must not run as whoever asks.
fn probe(program: &Path, run_as: Option<RunAs>) -> Result<(PathBuf, PythonVersion), ProbeError> {
    use std::io::ErrorKind;
    // Without these modules Airflow starts and then fails.
    const SCRIPT: &str = "import sys, ssl, sqlite3, ctypes, zlib\n\
        print(sys.implementation.name)\n\
        print('%d.%d' % sys.version_info[:2])\n\
        print(getattr(sys, '_base_executable', None) or sys.executable)\n";
    let unusable = |why: &str| ProbeError::Unusable(why.to_owned());
    let mut command = Command::new(program);
    process::for_probe(&mut command)
        .args(["-I", "-S", "-c", SCRIPT])
        .current_dir("/");
    if let Some(RunAs { uid, gid }) = run_as {
        command.uid(uid).gid(gid);
    }
    let finished = process::run(&mut command).map_err(|error| match error.kind() {
        ErrorKind::NotFound | ErrorKind::PermissionDenied => {
            ProbeError::Unusable(error.to_string())
        }
        _ if error.raw_os_error() == Some(rustix::io::Errno::NOEXEC.raw_os_error()) => {
            ProbeError::Unusable(error.to_string())
        }
        _ => ProbeError::NotTried(error),
    })?;
    if finished.killed {
        let error = std::io::Error::other("it was killed");
        return Err(ProbeError::NotTried(error));
    }
    if !finished.success {
        let complaint = finished.complaint();
        return Err(unusable(complaint.lines().last().unwrap_or("it fails")));
    }
    let mut lines = finished.stdout.lines();
    let is_cpython = lines.next() == Some("cpython");
    let version = lines.next().and_then(|version| version.parse().ok());
    let path = lines.next().map(PathBuf::from);
    match (version, path) {
        (Some(version), Some(path)) if is_cpython && path.is_absolute() => Ok((path, version)),
        _ => Err(unusable("it is not CPython")),
    }
}

/// Whether a Python starts for that user.
pub(crate) fn runs(program: &Path, run_as: Option<RunAs>) -> std::io::Result<bool> {
    match probe(program, run_as) {
        Ok(_) => Ok(true),
        Err(ProbeError::Unusable(_)) => Ok(false),
        Err(ProbeError::NotTried(error)) => Err(error),
    }
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
            closed: vec![Closed {
                path: "/root/python".into(),
                version: PythonVersion::new(3, 12),
                why: "Permission denied".into(),
            }],
        };
        assert_eq!(
            none.to_string(),
            "no Python that Airflow 3.3.2 runs on was found that user 7 can run; there is only 3.9; \
             it cannot run 3.12 at `/root/python` (Permission denied)"
        );
    }
}
