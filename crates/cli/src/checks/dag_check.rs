//! The check of a project's DAG files, for every command that makes it.

use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use updraft_bundle::{EntryKind, Scan};
use updraft_check::{
    AirflowIgnore, Checked, DagFile, DagFilesError, Elsewhere, IgnoreSyntax, Installed, Level,
    Levels, Options, Ruff, Rule, UnknownRule, check, dag_files, own_modules,
};
use updraft_image::{RUFF_VERSION, Stop, find_or_install_ruff};
use updraft_model::Digest;
use updraft_project::{
    AirflowVersion, Project, ProjectError, ProjectParts, PythonVersion, newest_airflow,
};

use super::elsewhere::{Asked, Asker, Ids};
use super::host::{Runs, made_last};
use crate::console::Aside;
use crate::exit::Exit;
use crate::failure::{Failure, Result};

/// What the files of a project are checked for and against.
pub(crate) struct DagCheck<'a> {
    project: &'a Project,
    levels: Levels,
    pub(crate) airflow: AirflowVersion,
    pub(crate) python: PythonVersion,
    ignore_syntax: IgnoreSyntax,
    /// Where what is known is kept; none: nowhere.
    pub(crate) cache: Option<PathBuf>,
    /// None: not known, and then no import is looked up.
    pub(crate) installed: Option<Installed>,
    /// The ids of the Deployment's other bundles; none: nobody was asked.
    pub(crate) elsewhere: Option<Asked>,
    /// Where ruff is kept; none: nowhere.
    pub(crate) tools: Option<PathBuf>,
    /// Ends what is fetched, when nobody waits for it any more.
    pub(crate) stop: Stop,
    /// Says what is fetched.
    aside: Aside,
    /// Whether the Dockerfile adds folders that imports are looked up in.
    has_own_path: bool,
}

impl<'a> DagCheck<'a> {
    /// For what the project's Dockerfile says.
    pub(crate) fn of(project: &'a Project, aside: Aside) -> Result<Self> {
        if project.parts() == ProjectParts::Dags {
            // The Dockerfile is another repository's.
            let (airflow, python) = newest_airflow();
            return Self::new(project, airflow, python, &BTreeMap::new(), aside);
        }
        let dockerfile = project.dockerfile()?.ok_or(ProjectError::NoDockerfile)?;
        let base = dockerfile.airflow().map_err(ProjectError::from)?;
        Self::new(project, base.version, base.python, dockerfile.env(), aside)
    }

    /// What was made for the project before has: no Python is started for this,
    /// and nothing is asked of anybody.
    pub(crate) fn installed_before(&self, cache: &Path) -> Result<Option<Installed>> {
        let requirements = self.project.requirements()?.digest();
        let made = made_last(&self.airflow, self.python, requirements, cache);
        made.as_deref().map(installed).transpose()
    }

    /// For what an environment has.
    pub(crate) fn in_environment(project: &'a Project, runs: &Runs, aside: Aside) -> Result<Self> {
        Self::new(project, runs.airflow.clone(), runs.python, &runs.env, aside)
    }

    fn new(
        project: &'a Project,
        airflow: AirflowVersion,
        python: PythonVersion,
        env: &BTreeMap<String, String>,
        aside: Aside,
    ) -> Result<Self> {
        let levels = &project.settings().check.levels;
        let levels = Levels::new(levels.iter().map(|(code, level)| (code.as_str(), *level)))?;
        let syntax = env.get("AIRFLOW__CORE__DAG_IGNORE_FILE_SYNTAX");
        Ok(Self {
            project,
            levels,
            ignore_syntax: IgnoreSyntax::of(&airflow, syntax.map(String::as_str)),
            airflow,
            python,
            cache: None,
            installed: None,
            elsewhere: None,
            tools: None,
            stop: Stop::default(),
            aside,
            has_own_path: env.contains_key("PYTHONPATH"),
        })
    }

    /// Asks for the ids of other bundles, unless the project does without.
    pub(crate) fn ask(&mut self, asker: Option<&Asker>) {
        let is_asked = self.levels.of(Rule::ElsewhereDag) != Level::Off;
        self.elsewhere = asker.filter(|_| is_asked).map(Asker::ask);
    }

    pub(crate) fn levels(&self) -> &Levels {
        &self.levels
    }

    /// What Airflow leaves out of a scan of `dags/`.
    pub(crate) fn ignored(&self, scan: &Scan) -> Result<AirflowIgnore> {
        let paths = scan.entries().iter().map(|entry| entry.path.as_str());
        let ignored = AirflowIgnore::read(&self.project.dags(), paths, self.ignore_syntax)?;
        Ok(ignored)
    }

    /// The DAG files of a scan. Links to folders are not followed: their files
    /// are checked where they are.
    pub(crate) fn files(scan: &Scan, ignored: &AirflowIgnore) -> Vec<DagFile> {
        let is_odd = |path: &String| {
            [scan.dangling(), scan.circular(), scan.to_folders()]
                .iter()
                .any(|links| links.contains(path))
        };
        let listed = scan.entries().iter().filter_map(|entry| {
            let digest = match &entry.kind {
                EntryKind::File { digest, .. } => Some(*digest),
                EntryKind::Link { .. } if is_odd(&entry.path) => return None,
                EntryKind::Link { .. } => None,
            };
            Some((entry.path.as_str(), digest))
        });
        dag_files(listed, ignored)
    }

    pub(crate) fn run(&self, files: &[DagFile]) -> Result<Checked> {
        let root = self.project.root();
        let mut options = Options::new(root, self.python, &self.levels);
        let cache = self.cache.as_ref();
        options.cache = cache.map(|cache| cache_file(cache, self.project));
        // Airflow looks into all three.
        let folders = [root.to_owned(), self.project.dags(), root.join("plugins")];
        options.own = folders.iter().flat_map(|it| own_modules(it)).collect();
        let told = OnceLock::new();
        let ids = || {
            let wait = || self.elsewhere.as_ref().map_or(Ok(Ids::new()), Asked::wait);
            told.get_or_init(wait).clone().unwrap_or_default()
        };
        options.elsewhere = Some(Elsewhere { ids: &ids });
        let tools = self
            .tools
            .as_deref()
            .ok_or("there is no folder to keep ruff in");
        let program = || {
            let found = find_or_install_ruff(tools?, &self.stop, &|text| self.aside.say(text));
            found.map_err(|error| error.to_string())
        };
        options.ruff = (self.airflow.major() >= 3).then_some(Ruff {
            version: RUFF_VERSION,
            program: &program,
        });
        let mut notes = Vec::new();
        let is_asked = self.levels.of(Rule::Import) != Level::Off;
        if is_asked && self.has_own_path {
            notes.push("imports are not looked up, because the Dockerfile sets PYTHONPATH".into());
        } else if is_asked && self.installed.is_none() {
            let why = "imports are not looked up, because no environment with the project's packages was made here: \
                       `updraft dev parse` makes it, `--venv` names one";
            notes.push(why.into());
        } else {
            options.installed.clone_from(&self.installed);
        }
        let checked = check(files, options);
        let mut checked = checked.map_err(|error| {
            Failure::new(Exit::Internal, "could not check the files").cause(&error)
        })?;
        if let Some(Err(failure)) = told.get() {
            return Err(failure.clone());
        }
        checked.notes.extend(notes);
        Ok(checked)
    }
}

/// Those of the files that the command line names; none when it names nothing.
pub(crate) fn only<'a>(
    paths: &[PathBuf],
    project: &Project,
    files: &'a [DagFile],
) -> Result<Option<BTreeSet<&'a str>>> {
    if paths.is_empty() {
        return Ok(None);
    }
    let mut wanted = BTreeSet::new();
    for path in paths {
        let refuse = |what: &str| {
            let message = format!("`{}` {what}", path.display());
            Failure::new(Exit::Refused, message).code("no_dag_file")
        };
        let full = path
            .canonicalize()
            .map_err(|error| refuse("cannot be found").cause(&error))?;
        let root = project.root();
        let root = root.canonicalize().unwrap_or_else(|_| root.to_owned());
        let below = full
            .strip_prefix(root)
            .map_err(|_| refuse("is not in the project"))?;
        let found = files
            .iter()
            .map(|file| file.name.as_str())
            .filter(|file| Path::new(file).starts_with(below));
        let before = wanted.len();
        wanted.extend(found);
        if wanted.len() == before {
            return Err(refuse("has no DAG files")
                .help("DAG files are the Python files in `dags/` that `.airflowignore` leaves"));
        }
    }
    Ok(Some(wanted))
}

/// What a virtual environment has.
pub(crate) fn installed(venv: &Path) -> Result<Installed> {
    let refuse = || {
        let message = format!("`{}` is no virtual environment", venv.display());
        Failure::new(Exit::Refused, message)
            .code("no_venv")
            .help("name the folder that has `lib/python3.*/site-packages`")
    };
    let pythons = std::fs::read_dir(venv.join("lib")).map_err(|error| refuse().cause(&error))?;
    let mut packages = pythons
        .filter_map(Result::ok)
        .map(|python| python.path().join("site-packages"))
        .filter(|folder| folder.is_dir());
    let folder = packages.next().ok_or_else(refuse)?;
    Installed::read(&folder).map_err(|error| Failure::file("read", &folder, &error))
}

fn cache_file(cache: &Path, project: &Project) -> PathBuf {
    let key = Digest::of(project.root().as_os_str().as_bytes()).short();
    cache.join("check").join(format!("{key}.json"))
}

impl From<UnknownRule> for Failure {
    fn from(error: UnknownRule) -> Self {
        let message = format!("in `[check.levels]` of `updraft.toml`: {error}");
        Self::new(Exit::Refused, message)
            .code("unknown_rule")
            .help("docs/reference/checks.md lists the rules")
    }
}

impl From<DagFilesError> for Failure {
    fn from(error: DagFilesError) -> Self {
        Self::from_error(Exit::Refused, &error).help("make it readable")
    }
}
