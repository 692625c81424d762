use std::io::IsTerminal;
use std::path::PathBuf;
use std::process::{Command, ExitStatus};

use rustix::process::{Pid, Signal, kill_process};
use tokio::signal::unix::{SignalKind, signal};

use crate::busy::busy;
use crate::checks::host::{self, EnvironmentArgs};
use crate::checks::pytest::{NONE_COLLECTED, Prepared, PytestRun, failed};
use crate::console::Console;
use crate::context::Context;
use crate::exit::Exit;
use crate::failure::{Failure, Result};
use crate::interrupt::Interrupt;

/// Run the project's tests in the Deployment's environment
///
/// pytest runs in the project's folder, with the Airflow, the Python and the
/// locked packages that the Deployment has; its output is passed through. What
/// follows `--` is pytest's.
#[derive(Debug, clap::Args)]
pub(crate) struct PytestArgs {
    /// Files and folders with tests (default: tests/)
    paths: Vec<PathBuf>,

    #[command(flatten)]
    environment: EnvironmentArgs,

    /// Succeed also when there is no test
    #[arg(long)]
    allow_none: bool,

    /// For pytest, as in `-- -k orders --junitxml tests.xml`
    #[arg(last = true, value_name = "ARGS")]
    arguments: Vec<String>,
}

pub(crate) async fn run(args: &PytestArgs, cx: &Context, out: &mut Console) -> Result<Exit> {
    let interrupt = Interrupt::listen()?;
    let Prepared {
        mut command,
        container: _container,
    } = interrupt.ends(prepare(args, cx, out)).await?;
    command.args(&args.arguments);
    let status = passed_through(command).await?;
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

/// Makes the environment, and names what is tested.
async fn prepare(args: &PytestArgs, cx: &Context, out: &mut Console) -> Result<Prepared> {
    let project = cx.project()?;
    let mut step = out.step("finding the environment");
    let wanted = host::wanted(cx, &args.environment, project).await?;
    if let Some(note) = &wanted.note {
        out.warn(note);
    }
    let cache = host::cache(cx)?;
    let owned = project.clone();
    let (mut prepared, note) = busy(&mut step, out, move |stop, say| {
        let ready = wanted.make(&cache, stop, say)?;
        let run = PytestRun {
            project: &owned,
            ready: &ready,
            cache: &cache,
            reports: None,
            on_terminal: std::io::stdin().is_terminal() && std::io::stdout().is_terminal(),
        };
        Ok((run.prepare(stop, say)?, ready.note.clone()))
    })
    .await?;
    out.abandon(step);
    if let Some(note) = note {
        out.warn(&note);
    }
    // Paths are as they were typed; the tests run in the project's folder.
    for path in &args.paths {
        let path = path.canonicalize().map_err(|error| {
            let message = format!("`{}` cannot be found", path.display());
            Failure::new(Exit::Refused, message).cause(&error)
        })?;
        prepared.command.arg(path);
    }
    if args.paths.is_empty() && project.root().join("tests").is_dir() {
        prepared.command.arg("tests");
    }
    Ok(prepared)
}

/// Runs it to its end, also when somebody wants it to end: tests put back what
/// they changed, and pytest says how far it came.
async fn passed_through(command: Command) -> Result<ExitStatus> {
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let mut child = tokio::process::Command::from(command)
        .kill_on_drop(true)
        .spawn()
        .map_err(|error| failed(&error))?;
    let pid = child.id().and_then(|id| Pid::from_raw(id.cast_signed()));
    let tell = || pid.map(|pid| kill_process(pid, Signal::INT));
    let mut interrupted = false;
    let status = loop {
        tokio::select! {
            ended = child.wait() => break ended.map_err(|error| failed(&error))?,
            // A terminal tells both.
            _ = interrupt.recv() => if !std::io::stdin().is_terminal() { tell(); },
            _ = terminate.recv() => { tell(); }
        }
        interrupted = true;
    };
    if interrupted {
        return Err(Failure::interrupted());
    }
    Ok(status)
}
