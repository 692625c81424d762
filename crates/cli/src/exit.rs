//! How a command ended, as a number that scripts can rely on.
//!
//! A number never changes its meaning. `docs/reference/exit-codes.md` is made
//! from this list, and a test reaches each of them.

use std::fmt;

use serde::{Serialize, Serializer};

macro_rules! exits {
    ($($name:ident = $code:literal, $text:literal, $meaning:literal, $next:literal;)*) => {
        /// The outcome of a command.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum Exit {
            $(#[doc = $meaning] $name,)*
        }

        impl Exit {
            pub const ALL: &'static [Self] = &[$(Self::$name,)*];

            /// The number that the process ends with.
            pub const fn code(self) -> u8 {
                match self { $(Self::$name => $code,)* }
            }

            /// The name that JSON output carries.
            pub const fn name(self) -> &'static str {
                match self { $(Self::$name => $text,)* }
            }

            /// What it says about what happened.
            pub const fn meaning(self) -> &'static str {
                match self { $(Self::$name => $meaning,)* }
            }

            /// What a script or a person does next.
            pub const fn next(self) -> &'static str {
                match self { $(Self::$name => $next,)* }
            }
        }
    };
}

exits! {
    Success = 0, "success",
        "What was asked for is so: the deploy is live, or already was. With `--no-wait` it is accepted; with `--plan` it is compared.",
        "Nothing.";
    Internal = 1, "internal",
        "Something that should not happen: a file that cannot be written, an answer that makes no sense, a bug.",
        "Read the causes; if they name nothing of yours, report them.";
    Usage = 2, "usage",
        "The command line is wrong.",
        "Read `updraft COMMAND --help`.";
    Refused = 3, "refused",
        "What was given was refused: no project here, a setting or file that is not valid, a bundle over a limit. Nothing was changed.",
        "Mend what the message names.";
    NotSignedIn = 4, "not_signed_in",
        "There is no token, or the control plane does not take it: malformed, expired, revoked. Or a pipeline's identity is not one that is trusted.",
        "`updraft login URL`, or set `UPDRAFT_TOKEN`; in a pipeline, what the message says.";
    NotAllowed = 5, "not_allowed",
        "The token is good, but its role or scope does not allow this.",
        "Use another token, or ask an admin for one.";
    NotFound = 6, "not_found",
        "No such Deployment, deploy, token or trust; no pipeline here.",
        "Check the name; the message has the nearest one.";
    Unreachable = 7, "unreachable",
        "No control plane or registry answers there, or it is not ready.",
        "Check the address with `updraft config`, or the name of the image; try again later.";
    Conflict = 8, "conflict",
        "The state of things refuses it: the name is taken, the deploy cannot be returned to, a rollback holds this content back, what is to be promoted never was live, a data folder is in use.",
        "Read the message; look at `updraft status`.";
    VersionMismatch = 9, "version_mismatch",
        "Client and control plane are more than one minor version apart.",
        "Install the version that the message names.";
    DeployFailed = 10, "deploy_failed",
        "The deploy is switched to, and Airflow cannot import a file that it affects, or an agent cannot make it so. It is still what the Deployment should run.",
        "Mend the file and deploy again, or `updraft rollback`.";
    TimedOut = 11, "timed_out",
        "Time ran out before there was proof. The deploy is still wanted, and becomes live or failed when there is evidence.",
        "`updraft status`; the same command again waits again.";
    Superseded = 12, "superseded",
        "A later deploy took the place of this one before it was proven; or a newer commit of the branch was there first, and this one was not deployed.",
        "`updraft history` shows which; nothing, when an older pipeline was just slow.";
    NoAgent = 13, "no_agent",
        "The deploy is accepted, and no agent is connected that could make it so. It goes live when one connects.",
        "Start the agent: `updraft agent`.";
    RolledBack = 14, "rolled_back",
        "The deploy was taken back, by the Deployment's policy because it failed, or by somebody: an earlier Release is wanted again.",
        "Mend the file that the message names and deploy again.";
    StorageFull = 15, "storage_full",
        "A disk is full: the control plane's, or the one here.",
        "Make room; then the same command again goes on.";
    Prerequisite = 16, "prerequisite",
        "This machine lacks what the command needs: a Python, a free port, `uv`, the package index.",
        "Do what the message says.";
    CheckFailed = 17, "check_failed",
        "The check found errors in the project. Nothing was deployed.",
        "Mend what it names, or change the rule's level in `updraft.toml`.";
    NotMapped = 18, "not_mapped",
        "No `[[target]]` of `updraft.toml` is for what was pushed. Nothing was deployed. With `--if-mapped` it is 0.",
        "Nothing, or add a target for it.";
    Interrupted = 130, "interrupted",
        "Ctrl-C. What the control plane had accepted goes on without this command.",
        "`updraft status`.";
}

impl fmt::Display for Exit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl Serialize for Exit {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.name())
    }
}

impl From<Exit> for std::process::ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit.code())
    }
}

/// The page `docs/reference/exit-codes.md`.
pub fn reference() -> String {
    use std::fmt::Write;

    let mut page = String::from(
        "# Exit codes\n\n\
         Made from `crates/cli/src/exit.rs` by `make docs`. A code never changes its meaning; the name is what\n\
         `-o json` carries. Zero means that what was asked for is so, and nothing else does.\n\n\
         | code | name | what it means | what to do |\n|---|---|---|---|\n",
    );
    for exit in Exit::ALL {
        let (code, name) = (exit.code(), exit.name());
        let _ = writeln!(
            page,
            "| {code} | `{name}` | {} | {} |",
            exit.meaning(),
            exit.next()
        );
    }
    page.push_str(
        "\nWith `-o json` a command that gets no result prints one object on standard output, and its message on\n\
         standard error as always:\n\n\
         ```json\n\
         {\"error\": {\"code\": \"deployment_not_found\", \"message\": \"…\", \"causes\": [], \"help\": \"…\", \"exit\": \"not_found\", \"exit_code\": 6}}\n\
         ```\n\n\
         A deploy that was accepted and ended badly is a result: its object has `outcome` and `exit_code` beside the\n\
         deploy. A wrong command line (2) prints text only.\n",
    );
    page
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_outcome_has_a_number_and_a_name_of_its_own() {
        for (at, exit) in Exit::ALL.iter().enumerate() {
            for other in &Exit::ALL[at + 1..] {
                assert_ne!(exit.code(), other.code());
                assert_ne!(exit.name(), other.name());
            }
        }
    }
}
