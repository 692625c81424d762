//! The `updraft` binary: commands, settings, output, exit codes.
//!
//! Start with [`Exit`] for how commands end, `commands` for what they do
//! (one file per verb, by noun), `console` for how they speak.

mod busy;
mod checks;
mod cli;
mod commands;
mod config;
mod console;
mod context;
mod daemonless_build;
mod destination;
mod environment;
mod exit;
mod failpoint;
mod failure;
mod files;
mod image_build;
mod interrupt;
mod keyless;
mod logging;
mod output;
mod port;
mod preview;
mod prompt;
mod scan;

pub use cli::{main, reference as cli_reference};
pub use config::reference as configuration_reference;
pub use exit::{Exit, reference as exit_code_reference};
pub use failpoint::FAILPOINTS;
pub use updraft_check::reference as check_reference;
