//! The command line itself: what there is, and which runtime each command needs.

use std::ffi::OsString;
use std::process::ExitCode;

use clap::builder::Resettable;
use clap::{CommandFactory, FromArgMatches, Parser};
use tokio::signal::unix::{SignalKind, signal};

use crate::commands::Command;
use crate::config::ConnectionArgs;
use crate::console::{Console, Format};
use crate::context::Context;
use crate::exit::Exit;
use crate::failure::{Failure, Result};

/// Deploy to Apache Airflow: send what changed, switch as one, prove it, undo it
///
/// Begin with `updraft quickstart`: from an empty folder to a project that runs in a real Airflow.
#[derive(Debug, Parser)]
#[command(
    name = "updraft",
    version,
    max_term_width = 100,
    arg_required_else_help = true,
    after_help = "Exit codes are documented in docs/reference/exit-codes.md; 0 means that what was asked for is so."
)]
pub(crate) struct Cli {
    #[command(flatten)]
    connection: ConnectionArgs,

    /// Say nothing but results and errors
    #[arg(short, long, global = true, help_heading = "Output")]
    quiet: bool,

    #[command(subcommand)]
    command: Command,
}

/// The flag of commands that have a result.
#[derive(Debug, Clone, Copy, Default, clap::Args)]
#[command(next_help_heading = "Output")]
pub(crate) struct OutputArgs {
    /// How to print the result
    #[arg(
        short,
        long = "output",
        value_enum,
        default_value_t,
        value_name = "FORMAT"
    )]
    pub(crate) output: Format,
}

/// Runs the command that the process was started with.
pub fn main() -> ExitCode {
    let arguments: Vec<_> = std::env::args_os().collect();
    // The agent starts Airflow's components through this. It is no part of the
    // interface, and becomes the component before there is a second thread.
    if arguments.get(1).is_some_and(|it| it == "agent")
        && arguments.get(2).is_some_and(|it| it == "exec")
    {
        return become_component(arguments.into_iter().skip(3));
    }
    run(arguments).into()
}

fn become_component(arguments: impl IntoIterator<Item = OsString>) -> ExitCode {
    let Err(error) = updraft_agent::exec_component(arguments);
    let failure = Failure::from_error(Exit::Internal, &error);
    Console::new(Format::Text, false).error(&failure);
    u8::try_from(error.exit_code()).map_or(ExitCode::FAILURE, ExitCode::from)
}

fn run(arguments: impl IntoIterator<Item = OsString>) -> Exit {
    let parsed = without_empty_variables(Cli::command())
        .try_get_matches_from(arguments)
        .and_then(|matches| Cli::from_arg_matches(&matches));
    let cli = match parsed {
        Ok(cli) => cli,
        Err(error) => {
            // Help and version are results, asked for by a flag.
            let exit = if error.use_stderr() {
                Exit::Usage
            } else {
                Exit::Success
            };
            return match error.print() {
                Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => Exit::Internal,
                Ok(()) | Err(_) => exit,
            };
        }
    };
    let mut out = Console::new(cli.command.format(), cli.quiet);
    let cx = Context::new(cli.connection, out.aside());
    let ended = execute(&cli.command, &cx, &mut out);
    let ended = out.finish().and(ended);
    match ended {
        Ok(exit) => exit,
        Err(failure) => {
            out.error(&failure);
            failure.exit
        }
    }
}

/// An empty variable counts as not set, as CI systems give a missing secret.
fn without_empty_variables(command: clap::Command) -> clap::Command {
    command
        .mut_args(|argument| {
            let value = argument.get_env().and_then(std::env::var_os);
            if value.is_some_and(|value| value.is_empty()) {
                argument.env(Resettable::Reset)
            } else {
                argument
            }
        })
        .mut_subcommands(without_empty_variables)
}

fn execute(command: &Command, cx: &Context, out: &mut Console) -> Result<Exit> {
    if let Some(result) = command.run_plain(cx, out) {
        return result;
    }
    // A client waits for one answer at a time; servers have work for all cores.
    let mut builder = if command.serves() {
        tokio::runtime::Builder::new_multi_thread()
    } else {
        tokio::runtime::Builder::new_current_thread()
    };
    let runtime = builder.enable_all().build()?;
    let ended = runtime.block_on(async {
        if command.handles_interrupts() {
            return Box::pin(command.run(cx, out)).await;
        }
        // Before there is something to interrupt.
        let mut interrupt = signal(SignalKind::interrupt())?;
        tokio::select! {
            ended = command.run(cx, out) => ended,
            _ = interrupt.recv() => Err(Failure::interrupted()),
        }
    });
    // A thread that still waits for standard input must not hold the process.
    runtime.shutdown_background();
    ended
}

/// The page `docs/reference/cli.md`.
pub fn reference() -> String {
    let mut page = String::from(
        "# Commands\n\n\
         Made from `updraft … --help` by `make docs`. The flags under *Connection* and `--quiet` go with every command and\n\
         are shown once.\n",
    );
    let mut root = Cli::command().term_width(100);
    root.build();
    describe(&root, "updraft", true, &mut page);
    page
}

fn describe(command: &clap::Command, path: &str, root: bool, page: &mut String) {
    use std::fmt::Write;

    let mut shown = command.clone().disable_help_flag(true);
    if !root {
        let common: Vec<_> = shown
            .get_arguments()
            .filter(|argument| argument.is_global_set())
            .map(|argument| argument.get_id().clone())
            .collect();
        for id in common {
            shown = shown.mut_arg(id, |argument| argument.hide(true));
        }
    }
    let help = shown.term_width(100).render_long_help().to_string();
    let help: Vec<&str> = help.lines().map(str::trim_end).collect();
    let _ = write!(
        page,
        "\n## `{path}`\n\n```text\n{}\n```\n",
        help.join("\n").trim_end()
    );
    for child in command.get_subcommands() {
        if child.is_hide_set() || child.get_name() == "help" {
            continue;
        }
        describe(child, &format!("{path} {}", child.get_name()), false, page);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_well_formed() {
        Cli::command().debug_assert();
    }
}
