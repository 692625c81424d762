//! The Airflow that runs a project's folder on this machine, for every command
//! that has to do with it.
//!
//! [`place`] is where it is kept and how it is found again, [`runtime`] what it
//! runs in, [`image`] where that is an image, [`bring_up`] how it is started.

pub(super) mod bring_up;
mod image;
pub(super) mod inputs;
pub(super) mod place;
pub(super) mod runtime;

use std::io::Write;

use updraft_agent::{LocalAirflow, LocalError};

use self::place::{Kept, Place};
use crate::commands::agent::airflow::USER;
use crate::console::{BOLD, Console, GREEN};
use crate::exit::Exit;
use crate::failure::{Failure, Result, exit_of_io};

/// Says where to sign in.
pub(super) fn tell_address(airflow: &LocalAirflow, kept: &Kept, out: &mut Console) -> Result<()> {
    let mut data = out.data();
    writeln!(
        data,
        "\n{GREEN}{BOLD}Airflow {}{BOLD:#}{GREEN:#}  {}",
        kept.run.airflow_version,
        kept.run.url()
    )?;
    let password = airflow.admin_password();
    writeln!(data, "sign in as `{USER}` with the password {password}")?;
    Ok(())
}

/// Says what has changed in the project and takes a restart.
pub(super) fn tell_outdated(place: &Place, kept: &Kept, out: &mut Console) {
    let changed = place.changed_since(kept);
    if !changed.is_empty() {
        out.warn(&format!(
            "it runs what the project was at its start ({}); `updraft dev restart` takes what it is now",
            changed.join(", ")
        ));
    }
}

impl From<LocalError> for Failure {
    fn from(error: LocalError) -> Self {
        let lines = |failure: Self, said: &str| match said {
            "" => failure,
            said => Self {
                causes: vec![format!("it wrote:\n{said}")],
                ..failure
            },
        };
        let message = error.to_string();
        match &error {
            LocalError::Folder { source, .. } => {
                Self::from_error(exit_of_io(source, Exit::Internal), &error)
            }
            LocalError::TooOld { newer, .. } => Self::new(Exit::Conflict, message)
                .code("database_is_newer")
                .help(format!(
                    "name Airflow {newer} in the Dockerfile again, or begin with an empty database: `updraft dev stop --clean`"
                )),
            LocalError::Step { said, .. } => lines(Self::new(Exit::Internal, message), said),
            LocalError::Crashes { component, said } => {
                lines(Self::new(Exit::Internal, message), said)
                    .code("component_crashes")
                    .help(format!("all that it wrote: `updraft dev logs --{component}`"))
            }
            LocalError::TimedOut { waiting, .. } => {
                let failure = Self::new(Exit::TimedOut, message).help(
                    "it may come up yet: `updraft dev ps`; --wait waits longer, `updraft dev stop` ends it",
                );
                match waiting {
                    Some((component, said)) => {
                        let failure = lines(failure, said);
                        let message = format!("{}: {component} is not up", failure.message);
                        Self { message, ..failure }
                    }
                    None => failure,
                }
            }
            LocalError::Engine { help, .. } => Self::new(Exit::Prerequisite, message)
                .code("no_engine")
                .help(*help),
            LocalError::Objects(_) => Self::new(Exit::Refused, message)
                .help("nothing was changed; mend what it names and give the same command again"),
            LocalError::Rest(error) => Self::from_error(Exit::Internal, error),
        }
    }
}
