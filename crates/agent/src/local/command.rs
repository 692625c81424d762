//! Commands of a person's in Airflow's environment. They belong to whoever starts
//! them, and do not end with Airflow.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::process::Command;

use updraft_image::{CommandRun, Mount};

use super::run::LocalPackages;
use super::{LocalAirflow, LocalRun};
use crate::airflow::settings::MARK;

/// What is run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LocalCommand {
    /// Airflow's own command line.
    Airflow,
    Bash,
}

impl LocalAirflow {
    /// The command with its arguments, to be run in the project's folder.
    pub fn command(
        &self,
        run: &LocalRun,
        what: LocalCommand,
        arguments: &[OsString],
        on_terminal: bool,
    ) -> Command {
        let variables = self.variables(run);
        let (engine, image) = match run.packages() {
            LocalPackages::Venv { python, .. } => {
                let mut command = match what {
                    LocalCommand::Airflow => Command::new(python),
                    LocalCommand::Bash => Command::new("bash"),
                };
                command.args(what.leading()).args(arguments);
                command.envs(variables);
                return command;
            }
            LocalPackages::Image { engine, id, .. } => (engine, id),
        };
        let setup = self.setup(run);
        let common = setup.common(&self.disk);
        let within = setup.environment.image().map(|image| common.within(image));
        let mounts = within.iter().flat_map(|within| &within.mounts);
        let mounts: Vec<Mount<'_>> = mounts
            .map(|it| Mount {
                path: &it.path,
                target: &it.target,
                writable: it.writable,
            })
            .collect();
        let program = match what {
            // The image's Python.
            LocalCommand::Airflow => "",
            LocalCommand::Bash => "bash",
        };
        let command: Vec<&OsStr> = std::iter::once(OsStr::new(program))
            .chain(what.leading().iter().map(OsStr::new))
            .chain(arguments.iter().map(OsString::as_os_str))
            .collect();
        engine.program().command_in(&CommandRun {
            image,
            mounts: &mounts,
            variables: &variables,
            folder: &run.project,
            on_terminal,
            command: &command,
        })
    }

    pub(super) fn variables(&self, run: &LocalRun) -> BTreeMap<String, String> {
        let mut variables = self.setup(run).variables;
        variables.remove(MARK);
        if let Some(venv) = run.venv() {
            variables.insert("VIRTUAL_ENV".into(), venv.display().to_string());
        }
        variables
    }
}

impl LocalCommand {
    const fn leading(self) -> &'static [&'static str] {
        match self {
            Self::Airflow => &["-m", "airflow"],
            Self::Bash => &[],
        }
    }
}
