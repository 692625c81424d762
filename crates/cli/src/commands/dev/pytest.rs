use std::path::PathBuf;

use updraft_model::DeploymentName;

use crate::busy::busy;
use crate::checks::host;
use crate::checks::pytest::{NONE_COLLECTED, failed, prepared};
use crate::console::Console;
use crate::context::Context;
use crate::exit::Exit;
use crate::failure::{Failure, Result};

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
