//! Commands of a person's in a container, which is gone when they end.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::path::Path;
use std::process::Command;

use crate::engine::{Engine, Mount, entry};

/// A command, and what it sees of this machine.
pub struct CommandRun<'a> {
    /// As the engine knows the image.
    pub image: &'a str,
    pub mounts: &'a [Mount<'a>],
    pub variables: &'a BTreeMap<String, String>,
    pub folder: &'a Path,
    /// Whether this process's terminal is that of the container.
    pub on_terminal: bool,
    /// A program of the image; an empty name is its Python.
    pub command: &'a [&'a OsStr],
}

/// All of the command's variables, as one.
const VARIABLES: &str = "UPDRAFT_COMMAND_VARIABLES";

/// Gives the command its variables, which stand on no command line and set nothing
/// for the engine's own program.
const BECOME: &str = "\
import json, os, sys
os.environ.update(json.loads(os.environ.pop('UPDRAFT_COMMAND_VARIABLES')))
command = sys.argv[1:]
command[0] = command[0] or sys.executable
try:
    os.execvp(command[0], command)
except OSError as error:
    sys.exit(f'the image cannot run {command[0]}: {error.strerror}')";

impl Engine {
    /// Runs beside what else runs on this machine, and reaches it by loopback.
    pub fn command_in(&self, run: &CommandRun<'_>) -> Command {
        let mut command = self.command(&["run", "--rm", "--interactive", "--pull=never"]);
        if run.on_terminal {
            command.arg("--tty");
        }
        command
            .args(["--user", &self.user()])
            .args(["--network", "host", "--security-opt", "label=disable"])
            .arg("--workdir")
            .arg(run.folder);
        for mount in run.mounts {
            command.arg("--mount").arg(mount.to_field());
        }
        let variables = serde_json::json!(run.variables).to_string();
        command.env(VARIABLES, variables).args(["--env", VARIABLES]);
        command.args(entry(run.image)).args(["-I", "-c", BECOME]);
        command.args(run.command);
        command
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::EngineName;

    #[test]
    fn no_value_of_a_variable_is_on_the_command_line() {
        assert!(BECOME.contains(VARIABLES));
        let run = CommandRun {
            image: "sha256:1",
            mounts: &[Mount::read_only(Path::new("/shop"))],
            variables: &[("PASSWORD".to_owned(), "open sesame".to_owned())].into(),
            folder: Path::new("/shop"),
            on_terminal: false,
            command: &["bash".as_ref()],
        };
        let command = Engine::known(EngineName::Podman, true).command_in(&run);
        let line: Vec<_> = command.get_args().map(|it| it.to_string_lossy()).collect();
        let line = line.join(" ");
        assert!(
            !line.contains("sesame") && !line.contains("PASSWORD"),
            "{line}"
        );
        assert!(
            line.contains("--user 0:0") && line.ends_with("bash"),
            "{line}"
        );
    }
}
