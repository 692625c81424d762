//! `dev init`: a project to start from.
//!
//! Nothing runs by itself after the first deploy: one example has no schedule,
//! the other waits for the first one's asset.

use std::fs::Permissions;
use std::io::{self, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use crate::airflow::{AirflowVersion, InvalidVersion, PythonVersion};
use crate::dockerfile::Dockerfile;
use crate::project::SETTINGS_FILE;
use crate::settings::{Settings, SettingsError};

const DEFAULT_AIRFLOW: &str = "3.3.2";

/// What to write; everything has a default.
#[derive(Debug, Clone, Default)]
pub struct Scaffold {
    /// Default: made of the folder's name.
    pub name: Option<String>,
    /// Default: that of a Dockerfile which is there already, or 3.3.2.
    pub airflow_version: Option<String>,
    /// Default: that of the official image.
    pub python_version: Option<String>,
}

/// What was done; paths are relative to the project.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Scaffolded {
    pub root: PathBuf,
    pub name: String,
    pub airflow_version: AirflowVersion,
    pub python_version: PythonVersion,
    pub written: Vec<String>,
    /// Files that were there already and were left alone.
    pub kept: Vec<String>,
    /// Examples that were left out, because the project has DAGs of its own.
    pub left_out: Vec<String>,
}

#[derive(Debug, thiserror::Error)]
pub enum ScaffoldError {
    #[error("`{0}` is not a project name")]
    Name(String),
    #[error(transparent)]
    Version(#[from] InvalidVersion),
    /// A file is never overwritten, so what it says cannot be had otherwise.
    #[error("`{file}` is there already and says {there}, not {asked}")]
    Contradicts {
        file: &'static str,
        there: String,
        asked: String,
    },
    #[error(transparent)]
    Settings(#[from] SettingsError),
    #[error("`{}` is not a folder", .0.display())]
    NotAFolder(PathBuf),
    #[error("could not write `{}`", path.display())]
    Write { path: PathBuf, source: io::Error },
}

impl ScaffoldError {
    pub fn help(&self) -> &'static str {
        match self {
            Self::Name(_) => {
                "use up to 63 lower-case letters, digits and `-`, with a letter or digit at both ends"
            }
            Self::Version(error) => error.help(),
            Self::Contradicts { .. } => "change it there, or leave the flag out",
            Self::Settings(error) => error.help(),
            Self::NotAFolder(_) => "name a folder; it is made when it does not exist",
            Self::Write { .. } => "check the folder's permissions and the space left on the disk",
        }
    }
}

struct Template {
    path: &'static str,
    airflow3: &'static str,
    airflow2: &'static str,
    example: bool,
}

const fn file(path: &'static str, text: &'static str) -> Template {
    Template {
        path,
        airflow3: text,
        airflow2: text,
        example: false,
    }
}

const fn example(path: &'static str, airflow3: &'static str, airflow2: &'static str) -> Template {
    Template {
        path,
        airflow3,
        airflow2,
        example: true,
    }
}

const ORDERS: &str = include_str!("scaffold/common/orders.py");
const PLUGIN: &str = include_str!("scaffold/common/example_plugin.py");
const TEST_EXAMPLES: &str = include_str!("scaffold/common/test_example_dags.py");

const TEMPLATES: [Template; 17] = [
    example(
        "dags/example_basic.py",
        include_str!("scaffold/airflow3/example_basic.py"),
        include_str!("scaffold/airflow2/example_basic.py"),
    ),
    example(
        "dags/example_advanced.py",
        include_str!("scaffold/airflow3/example_advanced.py"),
        include_str!("scaffold/airflow2/example_advanced.py"),
    ),
    file(
        "dags/.airflowignore",
        include_str!("scaffold/common/airflowignore"),
    ),
    example("include/orders.py", ORDERS, ORDERS),
    example("plugins/example_plugin.py", PLUGIN, PLUGIN),
    file(
        "tests/conftest.py",
        include_str!("scaffold/common/conftest.py"),
    ),
    file(
        "tests/test_dag_integrity.py",
        include_str!("scaffold/common/test_dag_integrity.py"),
    ),
    example("tests/test_example_dags.py", TEST_EXAMPLES, TEST_EXAMPLES),
    file("Dockerfile", include_str!("scaffold/common/Dockerfile")),
    file(
        "requirements.txt",
        include_str!("scaffold/common/requirements.txt"),
    ),
    file("packages.txt", include_str!("scaffold/common/packages.txt")),
    file(
        "airflow_settings.yaml",
        include_str!("scaffold/common/airflow_settings.yaml"),
    ),
    file(
        ".dockerignore",
        include_str!("scaffold/common/dockerignore"),
    ),
    file(".gitignore", include_str!("scaffold/common/gitignore")),
    file("README.md", include_str!("scaffold/common/README.md")),
    file("include/__init__.py", ""),
    // Last, since it makes the folder a project.
    file("updraft.toml", include_str!("scaffold/common/updraft.toml")),
];

/// Writes a new project into a folder, and never over a file that is there.
/// Running it again completes what an interrupted run began.
pub fn scaffold(dir: &Path, ask: &Scaffold) -> Result<Scaffolded, ScaffoldError> {
    if dir.exists() && !dir.is_dir() {
        return Err(ScaffoldError::NotAFolder(dir.to_owned()));
    }
    let name = name(dir, ask)?;
    let (airflow, python) = versions(dir, ask)?;
    let own_dags = has_own_dags(dir);

    let failed = |path: &Path| {
        let path = path.to_owned();
        |source| ScaffoldError::Write { path, source }
    };
    std::fs::create_dir_all(dir).map_err(failed(dir))?;
    let root = dir.canonicalize().map_err(failed(dir))?;
    let (mut written, mut kept, mut left_out) = (Vec::new(), Vec::new(), Vec::new());
    for template in &TEMPLATES {
        let path = root.join(template.path);
        if path.symlink_metadata().is_ok() {
            kept.push(template.path.to_owned());
            continue;
        }
        if template.example && own_dags {
            left_out.push(template.path.to_owned());
            continue;
        }
        let text = if airflow.major() == 2 {
            template.airflow2
        } else {
            template.airflow3
        };
        let text = match template.path {
            "Dockerfile" | "updraft.toml" | "README.md" => text
                .replace("{name}", &name)
                .replace("{airflow}", &airflow.to_string())
                .replace("{python}", &python.to_string()),
            _ => text.to_owned(),
        };
        if write_new(&path, &text).map_err(failed(&path))? {
            written.push(template.path.to_owned());
        } else {
            kept.push(template.path.to_owned());
        }
    }
    Ok(Scaffolded {
        root,
        name,
        airflow_version: airflow,
        python_version: python,
        written,
        kept,
        left_out,
    })
}

/// A project name made of a folder's.
pub fn project_name_for(dir: &Path) -> String {
    let absolute = std::path::absolute(dir).unwrap_or_else(|_| dir.to_owned());
    let folder = absolute
        .file_name()
        .unwrap_or_default()
        .to_string_lossy()
        .to_lowercase();
    let mut name = String::new();
    for c in folder.chars() {
        if c.is_ascii_alphanumeric() {
            name.push(c);
        } else if !name.ends_with('-') {
            name.push('-');
        }
    }
    name.truncate(63);
    let name = name.trim_matches('-');
    if name.is_empty() {
        "airflow".to_owned()
    } else {
        name.to_owned()
    }
}

/// The name that is asked for; otherwise that in an `updraft.toml` which is
/// there, or one made of the folder's.
fn name(dir: &Path, ask: &Scaffold) -> Result<String, ScaffoldError> {
    let there = match std::fs::read_to_string(dir.join(SETTINGS_FILE)) {
        Ok(text) => Some(
            Settings::parse(&text)?
                .name
                .unwrap_or_else(|| project_name_for(dir)),
        ),
        Err(_) => None,
    };
    let Some(asked) = &ask.name else {
        return Ok(there.unwrap_or_else(|| project_name_for(dir)));
    };
    if !is_name(asked) {
        return Err(ScaffoldError::Name(asked.chars().take(80).collect()));
    }
    agree(SETTINGS_FILE, there, asked.clone())
}

/// What is asked for, unless a file that is there says something else.
fn agree<T: PartialEq + ToString>(
    file: &'static str,
    there: Option<T>,
    asked: T,
) -> Result<T, ScaffoldError> {
    match there {
        Some(there) if there != asked => Err(ScaffoldError::Contradicts {
            file,
            there: there.to_string(),
            asked: asked.to_string(),
        }),
        _ => Ok(asked),
    }
}

/// What a project runs on that says nothing else.
pub fn newest_airflow() -> (AirflowVersion, PythonVersion) {
    let airflow = DEFAULT_AIRFLOW.parse().expect("it is a version");
    (airflow, AirflowVersion::default_python())
}

fn is_name(name: &str) -> bool {
    name.parse::<updraft_model::DeploymentName>().is_ok()
}

fn versions(dir: &Path, ask: &Scaffold) -> Result<(AirflowVersion, PythonVersion), ScaffoldError> {
    let there = std::fs::read_to_string(dir.join("Dockerfile"))
        .ok()
        .and_then(|text| Dockerfile::parse(&text).ok()?.airflow().ok());
    let (there_airflow, there_python) = match there {
        Some(there) => (Some(there.version), Some(there.python)),
        None => (None, None),
    };
    let airflow: AirflowVersion = match &ask.airflow_version {
        Some(version) => agree("Dockerfile", there_airflow, version.parse()?)?,
        None => there_airflow.map_or_else(|| DEFAULT_AIRFLOW.parse(), Ok)?,
    };
    let python = match &ask.python_version {
        Some(version) => agree("Dockerfile", there_python, version.parse()?)?,
        None => there_python.unwrap_or_else(AirflowVersion::default_python),
    };
    airflow.check(python)?;
    Ok((airflow, python))
}

/// Whether `dags/` has Python files besides the examples.
fn has_own_dags(dir: &Path) -> bool {
    let Ok(entries) = std::fs::read_dir(dir.join("dags")) else {
        return false;
    };
    entries.flatten().any(|entry| {
        let name = entry.file_name();
        let python = Path::new(&name)
            .extension()
            .is_some_and(|extension| extension == "py");
        python && name != "example_basic.py" && name != "example_advanced.py"
    })
}

/// Writes a file whole or not at all. Says whether it did; it does not when
/// there is one by now.
fn write_new(path: &Path, text: &str) -> io::Result<bool> {
    let folder = path.parent().unwrap_or(Path::new("."));
    std::fs::create_dir_all(folder)?;
    let mut file = tempfile::Builder::new()
        .prefix(".updraft-init-")
        .permissions(Permissions::from_mode(0o666))
        .tempfile_in(folder)?;
    file.write_all(text.as_bytes())?;
    file.as_file().sync_all()?;
    match file.persist_noclobber(path) {
        Ok(_) => Ok(true),
        Err(error) if error.error.kind() == io::ErrorKind::AlreadyExists => Ok(false),
        Err(error) => Err(error.error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Project;

    #[test]
    fn writes_a_project_that_deploys_without_a_container_build() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("My Sales_2");
        let done = scaffold(&root, &Scaffold::default()).unwrap();
        assert_eq!(done.name, "my-sales-2");
        assert_eq!(done.written.len(), TEMPLATES.len());
        assert!(done.kept.is_empty() && done.left_out.is_empty());

        let half = Project::open(&root).unwrap().image_half(None).unwrap();
        assert_eq!(half.fingerprint.airflow_version.to_string(), "3.3.2");
        assert_eq!(half.fingerprint.requirements, None);
        assert!(half.notes.is_empty(), "{:?}", half.notes);
        let carried: Vec<_> = half
            .fingerprint
            .files
            .iter()
            .map(|f| f.path.as_str())
            .collect();
        assert_eq!(
            carried,
            [
                "include/__init__.py",
                "include/orders.py",
                "plugins/example_plugin.py"
            ]
        );
    }

    #[test]
    fn never_overwrites_and_completes_what_is_missing() {
        let dir = tempfile::tempdir().unwrap();
        let (docker, basic) = (
            dir.path().join("Dockerfile"),
            dir.path().join("dags/example_basic.py"),
        );
        std::fs::write(&docker, "FROM apache/airflow:2.11.2-python3.11\n").unwrap();
        let first = scaffold(dir.path(), &Scaffold::default()).unwrap();
        assert_eq!(first.kept, ["Dockerfile"]);
        assert_eq!(first.airflow_version.to_string(), "2.11.2");
        assert_eq!(first.python_version.to_string(), "3.11");
        assert!(
            std::fs::read_to_string(&basic)
                .unwrap()
                .contains("airflow.operators.bash")
        );

        let ask = Scaffold {
            airflow_version: Some("3.3.2".into()),
            ..Scaffold::default()
        };
        assert_eq!(
            scaffold(dir.path(), &ask).unwrap_err().to_string(),
            "`Dockerfile` is there already and says 2.11.2, not 3.3.2"
        );
        let ask = Scaffold {
            name: Some("another".into()),
            python_version: Some("3.11".into()),
            ..Scaffold::default()
        };
        let error = scaffold(dir.path(), &ask).unwrap_err();
        assert!(matches!(
            error,
            ScaffoldError::Contradicts {
                file: SETTINGS_FILE,
                ..
            }
        ));

        std::fs::remove_file(&basic).unwrap();
        let second = scaffold(dir.path(), &Scaffold::default()).unwrap();
        assert_eq!(second.written, ["dags/example_basic.py"]);
        assert_eq!(second.kept.len(), TEMPLATES.len() - 1);
        std::fs::write(
            dir.path().join(SETTINGS_FILE),
            "[project]\nname = \"sales\"\n",
        )
        .unwrap();
        assert_eq!(
            scaffold(dir.path(), &Scaffold::default()).unwrap().name,
            "sales"
        );
    }

    #[test]
    fn leaves_the_examples_out_of_a_project_with_dags_of_its_own() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("dags")).unwrap();
        std::fs::write(dir.path().join("dags/mine.py"), "").unwrap();
        let done = scaffold(dir.path(), &Scaffold::default()).unwrap();
        assert!(done.left_out.contains(&"dags/example_basic.py".to_owned()));
        assert!(done.written.contains(&"updraft.toml".to_owned()));
    }

    #[test]
    fn refuses_names_and_versions_that_do_not_work() {
        let dir = tempfile::tempdir().unwrap();
        let refused = |ask: &Scaffold| {
            scaffold(&dir.path().join("new"), ask)
                .unwrap_err()
                .to_string()
        };
        let ask = Scaffold {
            name: Some("Not Valid".into()),
            ..Scaffold::default()
        };
        assert_eq!(refused(&ask), "`Not Valid` is not a project name");
        let ask = Scaffold {
            airflow_version: Some("three".into()),
            ..Scaffold::default()
        };
        assert_eq!(
            refused(&ask),
            "`three` is not an Airflow version: expected one like `3.3.2`"
        );
        let ask = Scaffold {
            airflow_version: Some("3.0.6".into()),
            python_version: Some("3.14".into()),
            ..Scaffold::default()
        };
        assert_eq!(refused(&ask), "Airflow 3.0.6 does not run on Python 3.14");
        assert!(!dir.path().join("new").exists(), "nothing is left behind");
        let file = dir.path().join("file");
        std::fs::write(&file, "").unwrap();
        assert!(matches!(
            scaffold(&file, &Scaffold::default()),
            Err(ScaffoldError::NotAFolder(_))
        ));
    }
}
