//! The third stage: the project's tests, in an environment that is ready.

use std::path::Path;
use std::process::{Command, Stdio};

use quick_junit::{Report, TestCaseStatus};
use updraft_image::{Finished, Stop, pytest_beside, run_until};
use updraft_model::CheckFinding;
use updraft_project::Project;

use super::host::{self, Ready};
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
    let mut command = prepared(project, ready, cache, stop, &|_| ())?;
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

/// pytest in the environment, in the project's folder.
pub(crate) fn prepared(
    project: &Project,
    ready: &Ready,
    cache: &Path,
    stop: &Stop,
    say: &dyn Fn(&str),
) -> Result<Command> {
    let home = host::folder(cache, project).join("home");
    std::fs::create_dir_all(&home).map_err(|error| Failure::file("make", &home, &error))?;
    let beside = pytest_beside(&ready.realised, &ready.config.lock, cache, stop, say)?;
    let mut variables = ready.variables(project, &home);
    if let Some(beside) = beside {
        let path = variables.entry("PYTHONPATH".into()).or_default();
        path.push(':');
        path.push_str(&beside.display().to_string());
    }
    let mut command = Command::new(&ready.realised.python);
    command
        .args(["-m", "pytest", "-p", "no:cacheprovider"])
        .env_clear()
        .envs(variables)
        .current_dir(project.root());
    Ok(command)
}

pub(crate) fn failed(error: &std::io::Error) -> Failure {
    Failure::new(Exit::Internal, "could not run pytest").cause(error)
}
