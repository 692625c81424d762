//! The third stage: the project's tests, in an environment that is ready.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use quick_junit::{Report, TestCaseStatus};
use updraft_image::{Engine, Finished, Lock, Mount, Realised, Stop, pytest_beside, run_until};
use updraft_model::CheckFinding;
use updraft_project::Project;

use super::container::{self, Container};
use super::host::{self, Place, Ready};
use crate::exit::Exit;
use crate::failure::{Failure, Result};

/// What pytest ends with when it finds no test.
pub(crate) const NONE_COLLECTED: i32 = 5;

/// How the tests of a deploy went.
#[derive(Debug, Default)]
pub(crate) struct Tests {
    pub(crate) run: u64,
    pub(crate) failed: Vec<CheckFinding>,
    /// What pytest printed, where any failed.
    pub(crate) said: String,
}

/// Runs the tests and keeps what they print. Blocks.
pub(crate) fn captured(
    project: &Project,
    ready: &Ready,
    cache: &Path,
    stop: &Stop,
) -> Result<Tests> {
    let folder = tempfile::tempdir()?;
    let report = folder.path().join("tests.xml");
    let run = PytestRun {
        project,
        ready,
        cache,
        reports: Some(folder.path()),
        on_terminal: false,
    };
    let Prepared {
        mut command,
        container: _container,
    } = run.prepare(stop, &|_| ())?;
    if project.root().join("tests").is_dir() {
        command.arg("tests");
    }
    command
        .args(["-q", "--color=no", "--junitxml"])
        .arg(&report);
    let ended = run_until(command.stdin(Stdio::null()), stop).map_err(|error| failed(&error))?;
    if ended.code == Some(NONE_COLLECTED) {
        return Err(Failure::new(Exit::CheckFailed, "there is no test to run")
            .code("no_tests")
            .help("add one to `tests/`, or deploy without --pytest"));
    }
    let text = std::fs::read_to_string(&report).unwrap_or_default();
    let report =
        Report::deserialize_from_str(&text).map_err(|error| did_not_pass(&ended).cause(&error))?;
    let mut tests = Tests::default();
    for case in report
        .test_suites
        .iter()
        .flat_map(|suite| &suite.test_cases)
    {
        match &case.status {
            TestCaseStatus::Success { .. } => tests.run += 1,
            TestCaseStatus::Skipped { .. } => {}
            TestCaseStatus::NonSuccess { message, .. } => {
                tests.run += 1;
                let class = case.classname.as_ref().map_or("", |name| name.as_str());
                let message = message.as_ref().map_or("", |message| message.as_str());
                tests.failed.push(CheckFinding {
                    code: "pytest".into(),
                    is_error: true,
                    file: file_of(class, project),
                    line: 1,
                    column: 1,
                    message: format!("{}: {message}", case.name.as_str()),
                });
            }
        }
    }
    if !ended.success && tests.failed.is_empty() {
        // Something besides the tests decided: a plugin, or a limit on coverage.
        return Err(did_not_pass(&ended));
    }
    if !tests.failed.is_empty() {
        tests.said = ended.stdout;
    }
    Ok(tests)
}

/// The file of a class such as `tests.test_orders.TestOrders`.
fn file_of(class: &str, project: &Project) -> String {
    let mut path = class.replace('.', "/");
    loop {
        let file = format!("{path}.py");
        if project.root().join(&file).is_file() {
            return file;
        }
        match path.rsplit_once('/') {
            Some((above, _)) => path = above.to_owned(),
            None => return class.to_owned(),
        }
    }
}

/// For a pytest that does not say which test failed.
fn did_not_pass(ended: &Finished) -> Failure {
    let said = format!("{}\n{}", ended.stdout.trim_end(), ended.stderr.trim_end());
    let lines: Vec<&str> = said.trim_end().lines().collect();
    let end = lines[lines.len().saturating_sub(10)..].join("\n");
    Failure::new(Exit::CheckFailed, format!("pytest did not pass:\n{end}")).code("check_failed")
}

/// pytest, ready to be started.
pub(crate) struct Prepared {
    pub(crate) command: Command,
    /// Ends the container, when nobody waits for it any more.
    pub(crate) container: Option<Running>,
}

pub(crate) struct Running {
    engine: Engine,
    name: String,
}

impl Drop for Running {
    fn drop(&mut self) {
        self.engine.remove(&self.name);
    }
}

/// How pytest is run.
pub(crate) struct PytestRun<'a> {
    pub(crate) project: &'a Project,
    pub(crate) ready: &'a Ready,
    pub(crate) cache: &'a Path,
    /// A folder besides the project that it writes to.
    pub(crate) reports: Option<&'a Path>,
    /// Whether somebody sees it on a terminal and can answer.
    pub(crate) on_terminal: bool,
}

impl PytestRun<'_> {
    /// In the environment, in the project's folder.
    pub(crate) fn prepare(&self, stop: &Stop, say: &dyn Fn(&str)) -> Result<Prepared> {
        let mut prepared = match &self.ready.place {
            Place::Here { realised, lock } => {
                let command = self.here(realised, lock, stop, say)?;
                Prepared {
                    command,
                    container: None,
                }
            }
            Place::Container(container) => self.in_container(container, stop, say)?,
        };
        let arguments = ["-m", "pytest", "-p", "no:cacheprovider"];
        prepared.command.args(arguments);
        Ok(prepared)
    }

    fn here(
        &self,
        realised: &Realised,
        lock: &Lock,
        stop: &Stop,
        say: &dyn Fn(&str),
    ) -> Result<Command> {
        let project = self.project;
        let home = host::folder(self.cache, project).join("home");
        std::fs::create_dir_all(&home).map_err(|error| Failure::file("make", &home, &error))?;
        let mut variables = self.ready.variables(realised, project, &home);
        if !realised.bin.join("pytest").is_file() {
            let beside = pytest_beside(
                lock.versions().into_iter(),
                self.ready.runs.python,
                self.cache,
                stop,
                say,
            )?;
            let path = variables.entry("PYTHONPATH".into()).or_default();
            path.push(':');
            path.push_str(&beside.display().to_string());
        }
        let mut command = Command::new(&realised.python);
        command
            .env_clear()
            .envs(variables)
            .current_dir(project.root());
        Ok(command)
    }

    fn in_container(
        &self,
        container: &Container,
        stop: &Stop,
        say: &dyn Fn(&str),
    ) -> Result<Prepared> {
        let packages = container.packages.packages.iter();
        let packages = packages.map(|(name, version)| (name.as_str(), version.as_str()));
        let beside = if packages.clone().any(|(name, _)| name == "pytest") {
            None
        } else {
            Some(pytest_beside(
                packages,
                self.ready.runs.python,
                self.cache,
                stop,
                say,
            )?)
        };
        let mut mounts = vec![Mount::writable(self.project.root())];
        mounts.extend(self.reports.map(Mount::writable));
        let name = container::name();
        let beside: Vec<&Path> = beside.iter().map(PathBuf::as_path).collect();
        let command = container.python(self.project, &name, &beside, &mounts, self.on_terminal);
        Ok(Prepared {
            command,
            container: Some(Running {
                engine: container.engine.clone(),
                name,
            }),
        })
    }
}

pub(crate) fn failed(error: &std::io::Error) -> Failure {
    Failure::new(Exit::Internal, "could not run pytest").cause(error)
}
