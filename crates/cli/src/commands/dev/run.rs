//! Commands of the user's in the environment of the project's Airflow. They
//! take this process's place, so terminals and signals are theirs.

use std::ffi::OsString;
use std::io::{IsTerminal, Write};
use std::os::unix::process::CommandExt;
use std::process::Command;

use updraft_agent::LocalCommand;

use super::local::place::Place;
use crate::console::Console;
use crate::context::Context;
use crate::exit::Exit;
use crate::failure::{Failure, Result};

/// Run a command of Airflow's in the project's Airflow
///
/// As in `updraft dev run dags list`. Its exit code is that of Airflow's command. Needs an Airflow that was started once;
/// what asks the database works also while it is stopped.
#[derive(Debug, clap::Args)]
pub(crate) struct RunArgs {
    /// Airflow's command, without `airflow`
    #[arg(
        required = true,
        trailing_var_arg = true,
        allow_hyphen_values = true,
        value_name = "COMMAND"
    )]
    command: Vec<OsString>,
}

/// Open a shell in the environment of the project's Airflow
///
/// Has its `python`, `airflow`, variables and database, and begins in the project's folder. What follows is bash's, as in
/// `updraft dev bash -c 'pip list'`.
#[derive(Debug, clap::Args)]
pub(crate) struct BashArgs {
    #[arg(
        trailing_var_arg = true,
        allow_hyphen_values = true,
        value_name = "ARGS"
    )]
    arguments: Vec<OsString>,
}

pub(crate) fn airflow(args: &RunArgs, cx: &Context) -> Result<Exit> {
    let place = Place::of(cx)?;
    let (kept, airflow) = place.installed()?;
    let what = LocalCommand::Airflow;
    let command = airflow.command(&kept.run, what, &args.command, on_terminal());
    become_it(command, &place)
}

pub(crate) fn bash(args: &BashArgs, cx: &Context, out: &mut Console) -> Result<Exit> {
    let place = Place::of(cx)?;
    let (kept, airflow) = place.installed()?;
    if args.arguments.is_empty() {
        writeln!(
            out.status(),
            "Airflow {} of `{}`; `exit` leaves",
            kept.run.airflow_version,
            place.project.name()
        )?;
    }
    let what = LocalCommand::Bash;
    let command = airflow.command(&kept.run, what, &args.arguments, on_terminal());
    become_it(command, &place)
}

fn on_terminal() -> bool {
    std::io::stdin().is_terminal() && std::io::stdout().is_terminal()
}

fn become_it(mut command: Command, place: &Place) -> Result<Exit> {
    // An Airflow of the shell's is another one.
    let foreign = std::env::vars_os().filter_map(|(name, _)| {
        let text = name.to_str()?;
        let is_foreign = text.starts_with("AIRFLOW") || text == "PYTHONHOME";
        let is_ours = command.get_envs().any(|(ours, _)| ours == name);
        (is_foreign && !is_ours).then_some(name)
    });
    for name in foreign.collect::<Vec<_>>() {
        command.env_remove(name);
    }
    let error = command.current_dir(place.project.root()).exec();
    let program = command.get_program().to_string_lossy().into_owned();
    let message = format!("could not run `{program}`");
    Err(Failure::new(Exit::Prerequisite, message).cause(&error))
}
