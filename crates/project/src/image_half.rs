//! The half of a project that is not DAGs: what the Environment carries.
//!
//! It carries `include/`, `plugins/` and every other file of the project, as
//! a container build with `COPY . .` would, but for what `.dockerignore` or
//! `.updraftignore` names and for what belongs to another part (`dags/`, a
//! bundle), to development (`tests/`, hidden files at the top, virtual
//! environments), to the build (the Dockerfile and its lists, which have
//! digests of their own), and for files that hold secrets or local state.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use updraft_bundle::{Entry, EntryKind, Limits, Scan, ScanError, ScanOptions};
use updraft_model::Digest;

use crate::airflow::{AirflowVersion, PythonVersion};
use crate::dockerignore::Dockerignore;

/// Never carried, when they stand at the top.
const NOT_AT_TOP: [&str; 14] = [
    "dags",
    "tests",
    "logs",
    "Dockerfile",
    "requirements.txt",
    "packages.txt",
    "updraft.toml",
    "airflow_settings.yaml",
    "airflow_settings.yml",
    "airflow.cfg",
    "airflow.db",
    "webserver_config.py",
    "simple_auth_manager_passwords.json.generated",
    "standalone_admin_password.txt",
];

/// Never carried from anywhere: they exist to hold secrets.
const SECRETS: [&str; 5] = [".env", ".netrc", ".pypirc", ".git-credentials", "pip.conf"];

/// What identifies the image half, so that two can be compared file by file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImageFingerprint {
    pub airflow_version: AirflowVersion,
    pub python_version: PythonVersion,
    /// Of the Dockerfile's instructions.
    pub dockerfile: Digest,
    /// Of what `requirements.txt` requires; none: nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub requirements: Option<Digest>,
    /// What `packages.txt` names, sorted.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub packages: Vec<String>,
    /// The files carried, sorted by path.
    pub files: Vec<Entry>,
    #[serde(default, skip_serializing_if = "Making::is_locked")]
    pub making: Making,
}

/// How what Airflow runs in is made.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Making {
    /// What the lock names is installed.
    #[default]
    Locked,
    /// An image is built.
    Built {
        /// What never changes its meaning and stands for the base; none: it was not
        /// to be found out.
        base: Option<String>,
        /// The names of build arguments, with digests of their values.
        args: BTreeMap<String, Digest>,
        platform: String,
    },
    /// An image is taken as it is.
    Prebuilt { image: String },
}

/// A project as an image is built from it: the image half, but for the versions,
/// which are known when there is an image.
#[derive(Debug, Clone)]
pub struct BuildHalf {
    /// Of the Dockerfile's instructions.
    pub dockerfile: Digest,
    pub requirements: Option<Digest>,
    pub packages: Vec<String>,
    pub files: Vec<Entry>,
}

impl Default for BuildHalf {
    /// Of an image that is made from no project.
    fn default() -> Self {
        Self {
            dockerfile: Digest::of(b""),
            requirements: None,
            packages: Vec::new(),
            files: Vec::new(),
        }
    }
}

impl BuildHalf {
    pub fn fingerprint(
        self,
        airflow_version: AirflowVersion,
        python_version: PythonVersion,
        making: Making,
    ) -> ImageFingerprint {
        ImageFingerprint {
            airflow_version,
            python_version,
            dockerfile: self.dockerfile,
            requirements: self.requirements,
            packages: self.packages,
            files: self.files,
            making,
        }
    }
}

impl Making {
    pub const fn is_locked(&self) -> bool {
        matches!(self, Self::Locked)
    }

    /// Names what differs from how it was made before, a line each.
    fn differences(&self, earlier: &Self) -> Vec<String> {
        let mut found = Vec::new();
        match (self, earlier) {
            (
                Self::Built {
                    base,
                    args,
                    platform,
                },
                Self::Built {
                    base: old_base,
                    args: old_args,
                    platform: old_platform,
                },
            ) => {
                if let (Some(base), Some(old)) = (base, old_base)
                    && base != old
                {
                    found.push("base image: changed".to_owned());
                }
                let names: BTreeSet<_> = args.keys().chain(old_args.keys()).collect();
                let differ = names
                    .into_iter()
                    .filter(|name| args.get(*name) != old_args.get(*name));
                found.extend(differ.map(|name| format!("build argument {name}: changed")));
                if platform != old_platform {
                    found.push(format!("platform: {platform} instead of {old_platform}"));
                }
            }
            (Self::Prebuilt { image }, Self::Prebuilt { image: old }) if image != old => {
                found.push(format!("image: {image} instead of {old}"));
            }
            (Self::Locked, Self::Locked) | (Self::Prebuilt { .. }, Self::Prebuilt { .. }) => {}
            (_, _) => found.push(format!("image: {self} instead of {earlier}")),
        }
        found
    }
}

impl fmt::Display for Making {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Locked => f.write_str("locked packages"),
            Self::Built { .. } => f.write_str("one that is built"),
            Self::Prebuilt { image } => f.write_str(image),
        }
    }
}

/// The image half of a project, ready to become an Environment.
#[derive(Debug)]
pub struct ImageHalf {
    pub fingerprint: ImageFingerprint,
    /// The files as layers.
    pub scan: Scan,
    pub requirements: crate::Requirements,
    /// What the Dockerfile's `ENV` sets.
    pub env: BTreeMap<String, String>,
    /// What the user should know: a default that was assumed, something that
    /// an Environment cannot have.
    pub notes: Vec<String>,
}

/// What Airflow is installed from: the image half but for the project's files.
#[derive(Debug)]
pub struct ImageRecipe {
    /// Without files.
    pub fingerprint: ImageFingerprint,
    pub requirements: crate::Requirements,
    /// What the Dockerfile's `ENV` sets.
    pub env: BTreeMap<String, String>,
    /// As in [`ImageHalf::notes`].
    pub notes: Vec<String>,
}

#[derive(Debug, thiserror::Error)]
pub enum ImageHalfError {
    #[error("could not read the folder `{}`", path.display())]
    Folder { path: PathBuf, source: io::Error },
    #[error("could not read `.dockerignore`")]
    Unreadable(#[source] io::Error),
    #[error("line {line} of `.dockerignore` is not a pattern: {problem}")]
    Pattern { line: usize, problem: String },
    #[error(transparent)]
    Scan(#[from] ScanError),
}

impl ImageHalfError {
    pub fn help(&self) -> &'static str {
        match self {
            Self::Folder { .. } | Self::Unreadable(_) => "make it readable",
            Self::Pattern { .. } => "correct the line; the syntax is Docker's",
            Self::Scan(error) => error.help(),
        }
    }
}

impl ImageFingerprint {
    /// Names what differs from an earlier fingerprint, one line each; empty
    /// when nothing does.
    pub fn differences(&self, earlier: &Self) -> Vec<String> {
        let mut found = self.making.differences(&earlier.making);
        if self.airflow_version != earlier.airflow_version {
            found.push(format!(
                "Airflow version: {} instead of {}",
                self.airflow_version, earlier.airflow_version
            ));
        }
        if self.python_version != earlier.python_version {
            found.push(format!(
                "Python version: {} instead of {}",
                self.python_version, earlier.python_version
            ));
        }
        let is_prebuilt = |it: &Self| matches!(it.making, Making::Prebuilt { .. });
        if is_prebuilt(self) || is_prebuilt(earlier) {
            // It was made from files that nobody here knows.
            return found;
        }
        let mut changed = |differs: bool, file: &str| {
            if differs {
                found.push(format!("{file}: changed"));
            }
        };
        changed(self.dockerfile != earlier.dockerfile, "Dockerfile");
        changed(
            self.requirements != earlier.requirements,
            "requirements.txt",
        );
        changed(self.packages != earlier.packages, "packages.txt");
        found.extend(differing_files(&self.files, &earlier.files));
        found
    }
}

fn differing_files(new: &[Entry], old: &[Entry]) -> Vec<String> {
    let in_old = |entry: &Entry| old.binary_search_by(|other| other.path.cmp(&entry.path));
    let mut found: Vec<(&str, &str)> = Vec::new();
    for entry in new {
        match in_old(entry) {
            Ok(at) if old[at].kind == entry.kind => {}
            Ok(at) => found.push((&entry.path, how(&entry.kind, &old[at].kind))),
            Err(_) => found.push((&entry.path, "added")),
        }
    }
    let in_new = |entry: &&Entry| {
        new.binary_search_by(|other| other.path.cmp(&entry.path))
            .is_err()
    };
    found.extend(
        old.iter()
            .filter(in_new)
            .map(|entry| (entry.path.as_str(), "removed")),
    );
    found.sort_unstable();
    found
        .into_iter()
        .map(|(path, how)| format!("{path}: {how}"))
        .collect()
}

fn how(new: &EntryKind, old: &EntryKind) -> &'static str {
    match (new, old) {
        (
            EntryKind::File {
                digest: new,
                executable,
                ..
            },
            EntryKind::File { digest: old, .. },
        ) if new == old => {
            if *executable {
                "made executable"
            } else {
                "made not executable"
            }
        }
        _ => "changed",
    }
}

/// Scans the files that the Environment carries.
pub(crate) fn scan_files(
    root: &Path,
    limits: &Limits,
    cache: Option<PathBuf>,
) -> Result<Scan, ImageHalfError> {
    let options = ScanOptions {
        limits: *limits,
        cache,
        ignore: left_out(root)?,
    };
    Ok(updraft_bundle::scan(root, &options)?)
}

/// Lists what is not carried, as one exact pattern for each file or folder.
/// The scan knows one syntax only, and Docker's is another.
fn left_out(root: &Path) -> Result<Vec<String>, ImageHalfError> {
    let rules = match std::fs::read_to_string(root.join(".dockerignore")) {
        Ok(text) => Dockerignore::parse(&text)
            .map_err(|(line, problem)| ImageHalfError::Pattern { line, problem })?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => Dockerignore::default(),
        Err(error) => return Err(ImageHalfError::Unreadable(error)),
    };
    let mut patterns = Vec::new();
    let mut folders = vec![String::new()];
    while let Some(folder) = folders.pop() {
        let path = root.join(&folder);
        let failed = |source| ImageHalfError::Folder {
            path: path.clone(),
            source,
        };
        for entry in std::fs::read_dir(&path).map_err(failed)? {
            let entry = entry.map_err(failed)?;
            // Other names are refused by the scan, by name.
            let Some(name) = entry.file_name().to_str().map(str::to_owned) else {
                continue;
            };
            let path = if folder.is_empty() {
                name.clone()
            } else {
                format!("{folder}/{name}")
            };
            let is_folder = entry.file_type().map_err(failed)?.is_dir();
            if is_never_carried(&folder, &name) || is_virtual_env(&entry, is_folder) {
                patterns.push(exactly(&path));
            } else if is_folder {
                if !rules.skips(&path, true) || rules.brings_something_back() {
                    folders.push(path);
                } else {
                    patterns.push(exactly(&path));
                }
            } else if rules.skips(&path, false) {
                patterns.push(exactly(&path));
            }
        }
    }
    patterns.sort_unstable();
    Ok(patterns)
}

fn is_never_carried(folder: &str, name: &str) -> bool {
    (folder.is_empty() && (name.starts_with('.') || NOT_AT_TOP.contains(&name)))
        || SECRETS.contains(&name)
        || name.starts_with(".env.")
        || name == "__pycache__"
        || name == ".git"
        || name == "node_modules"
        || name == ".ipynb_checkpoints"
}

fn is_virtual_env(entry: &std::fs::DirEntry, is_folder: bool) -> bool {
    is_folder && entry.path().join("pyvenv.cfg").exists()
}

/// A pattern in gitignore's syntax that matches one path only.
fn exactly(path: &str) -> String {
    let mut pattern = String::from("/");
    for c in path.chars() {
        match c {
            // A pattern is a line; `?` is any one character.
            '\n' | '\r' => pattern.push('?'),
            '*' | '?' | '[' | ']' | '{' | '}' | '\\' | '!' | '#' | ' ' => pattern.extend(['\\', c]),
            _ => pattern.push(c),
        }
    }
    pattern
}

#[cfg(test)]
mod tests {
    use super::*;

    fn project(files: &[(&str, &str)]) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        for (path, text) in files {
            let path = dir.path().join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        }
        dir
    }

    fn carried(dir: &Path) -> Vec<String> {
        let scan = scan_files(dir, &Limits::default(), None).unwrap();
        scan.entries()
            .iter()
            .map(|entry| entry.path.clone())
            .collect()
    }

    #[test]
    fn carries_what_a_build_would_but_no_secrets_and_no_dags() {
        let dir = project(&[
            ("dags/a.py", ""),
            ("tests/test_a.py", ""),
            ("include/a.py", ""),
            ("include/.env", "S=1"),
            ("include/dags/kept.sql", ""),
            ("plugins/p.py", ""),
            ("sql/[x] #1.sql", ""),
            ("sql/skip me!.sql", ""),
            ("data/big.csv", ""),
            ("data/seeds/s.csv", ""),
            ("env/pyvenv.cfg", ""),
            ("env/lib/x.py", ""),
            (".env", "S=1"),
            (".env.local", "S=1"),
            (".github/workflows/ci.yml", ""),
            ("airflow_settings.yaml", ""),
            ("Dockerfile", ""),
            ("requirements.txt", ""),
            ("packages.txt", ""),
            ("updraft.toml", ""),
            ("README.md", ""),
            ("setup.cfg", ""),
            (
                ".dockerignore",
                "*.md\ndata\n!data/seeds\nsql/skip me!.sql\n",
            ),
        ]);
        assert_eq!(
            carried(dir.path()),
            [
                "data/seeds/s.csv",
                "include/a.py",
                "include/dags/kept.sql",
                "plugins/p.py",
                "setup.cfg",
                "sql/[x] #1.sql"
            ]
        );
        std::fs::write(dir.path().join(".updraftignore"), "plugins/\n").unwrap();
        assert!(!carried(dir.path()).contains(&"plugins/p.py".to_owned()));
    }

    #[test]
    fn names_each_difference() {
        let fingerprint = |files: &[(&str, &str)]| ImageFingerprint {
            airflow_version: "3.3.2".parse().unwrap(),
            python_version: "3.12".parse().unwrap(),
            dockerfile: Digest::of(b""),
            requirements: None,
            packages: Vec::new(),
            files: scan_files(project(files).path(), &Limits::default(), None)
                .unwrap()
                .entries()
                .to_vec(),
            making: Making::Locked,
        };
        let old = fingerprint(&[("include/a", "1"), ("include/b", "1")]);
        let mut new = fingerprint(&[("include/a", "2"), ("include/c", "1")]);
        assert!(old.differences(&old).is_empty());
        new.requirements = Some(Digest::of(b"x"));
        new.python_version = "3.11".parse().unwrap();
        assert_eq!(
            new.differences(&old),
            [
                "Python version: 3.11 instead of 3.12",
                "requirements.txt: changed",
                "include/a: changed",
                "include/b: removed",
                "include/c: added",
            ]
        );
        let built = |base: &str, arg: &str| ImageFingerprint {
            making: Making::Built {
                base: Some(base.to_owned()),
                args: [("REGION".to_owned(), Digest::of(arg.as_bytes()))].into(),
                platform: "linux/amd64".into(),
            },
            ..old.clone()
        };
        assert_eq!(
            built("b", "us").differences(&built("a", "eu")),
            ["base image: changed", "build argument REGION: changed"]
        );
        assert_eq!(
            built("a", "eu").differences(&old),
            ["image: one that is built instead of locked packages"]
        );
        let prebuilt = ImageFingerprint {
            making: Making::Prebuilt {
                image: "ghcr.io/acme/airflow@sha256:1".into(),
            },
            files: Vec::new(),
            ..old.clone()
        };
        assert_eq!(
            prebuilt.differences(&old),
            ["image: ghcr.io/acme/airflow@sha256:1 instead of locked packages"]
        );
        let json = serde_json::to_string(&new).unwrap();
        assert_eq!(
            serde_json::from_str::<ImageFingerprint>(&json).unwrap(),
            new
        );
    }
}
