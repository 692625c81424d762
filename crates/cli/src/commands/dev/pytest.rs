use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use quick_junit::{Report, TestCaseStatus};
use updraft_image::{Finished, Stop, pytest_beside, run_until};
use updraft_model::{CheckFinding, DeploymentName};
use updraft_project::Project;

use super::host::{self, Ready};
use crate::busy::busy;
use crate::console::Console;
use crate::context::Context;
use crate::exit::Exit;
use crate::failure::{Failure, Result};

/// What pytest ends with when it finds no test.
const NONE_COLLECTED: i32 = 5;

/// Run the project's tests in the Deployment's environment
///
/// pytest runs in the project's folder, with the Airflow, the Python and the
/// locked packages that the Deployment has; its output is passed through. What
/// follows `--` is pytest's.
#[derive(Debug, clap::Args)]
pub(crate) struct PytestArgs {
    /// Files and folders with tests (default: tests/)
    paths: Vec<PathBuf>,

    /// The Deployment whose environment is used (default: the configured one)
    #[arg(long, value_name = "DEPLOYMENT")]
    deployment: Option<DeploymentName>,

    /// Succeed also when there is no test
    #[arg(long)]
    allow_none: bool,

    /// For pytest, as in `-- -k orders --junitxml tests.xml`
    #[arg(last = true, value_name = "ARGS")]
    arguments: Vec<String>,
}

pub(crate) async fn run(args: &PytestArgs, cx: &Context, out: &mut Console) -> Result<Exit> {
    let project = cx.project()?;
    let mut step = out.step("finding the environment");
    let wanted = host::wanted(cx, args.deployment.as_ref(), project).await?;
    if let Some(note) = &wanted.note {
        out.warn(note);
    }
    let cache = host::cache(cx)?;
    let made = cache.clone();
    let owned = project.clone();
    let mut command = busy(&mut step, out, move |stop, say| {
        let ready = wanted.make(&made, stop, say)?;
        prepared(&owned, &ready, &made, stop, say)
    })
    .await?;
    out.abandon(step);
    // Paths are as they were typed; the tests run in the project's folder.
    for path in &args.paths {
        let path = path.canonicalize().map_err(|error| {
            let message = format!("`{}` cannot be found", path.display());
            Failure::new(Exit::Refused, message).cause(&error)
        })?;
        command.arg(path);
    }
    if args.paths.is_empty() && project.root().join("tests").is_dir() {
        command.arg("tests");
    }
    command.args(&args.arguments);
    let mut command = tokio::process::Command::from(command);
    let status = command
        .kill_on_drop(true)
        .status()
        .await
        .map_err(|error| failed(&error))?;
    match status.code() {
        Some(0) => Ok(Exit::Success),
        Some(NONE_COLLECTED) if args.allow_none => Ok(Exit::Success),
        Some(NONE_COLLECTED) => Err(Failure::new(Exit::CheckFailed, "there is no test")
            .code("no_tests")
            .help("add one to `tests/`, or give --allow-none")),
        Some(1) => Ok(Exit::CheckFailed),
        code => {
            let how = match code {
                Some(code) => format!("with exit code {code}"),
                None => "by a signal".to_owned(),
            };
            Err(Failure::new(
                Exit::CheckFailed,
                format!("pytest ended {how}"),
            ))
        }
    }
}

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
fn prepared(
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

fn failed(error: &std::io::Error) -> Failure {
    Failure::new(Exit::Internal, "could not run pytest").cause(error)
}
