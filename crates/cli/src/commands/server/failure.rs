//! The control plane's own errors as outcomes of commands.

use updraft_server::{BackupError, InitError, KeyError, StartError};

use crate::exit::Exit;
use crate::failure::{Failure, exit_of_chain, exit_of_io};

impl From<StartError> for Failure {
    fn from(error: StartError) -> Self {
        let exit = match &error {
            StartError::Insecure { .. }
            | StartError::Certificate { .. }
            | StartError::HalfRestored(_) => Exit::Refused,
            StartError::DataDirInUse(_) => Exit::Conflict,
            StartError::PortInUse { .. } | StartError::Listen { .. } => Exit::Prerequisite,
            StartError::DataDir { source, .. } => exit_of_io(source, Exit::Refused),
            StartError::Keys(_) | StartError::Blobs(_) | StartError::Store(_) => {
                exit_of_chain(&error, Exit::Internal)
            }
        };
        let help = error.help().map(str::to_owned);
        Self {
            help,
            ..Self::from_error(exit, &error)
        }
    }
}

impl From<InitError> for Failure {
    fn from(error: InitError) -> Self {
        let exit = match &error {
            InitError::Done(_) => Exit::Conflict,
            InitError::Folder(source) => exit_of_io(source, Exit::Refused),
            InitError::Key(_) | InitError::Store(_) => exit_of_chain(&error, Exit::Internal),
        };
        let help = error.help().map(str::to_owned);
        Self {
            help,
            ..Self::from_error(exit, &error)
        }
    }
}

impl From<KeyError> for Failure {
    fn from(error: KeyError) -> Self {
        let exit = match &error {
            KeyError::Io { source, .. } => exit_of_io(source, Exit::Refused),
            KeyError::Damaged(_) | KeyError::Gone(_) => Exit::Refused,
            KeyError::Random => Exit::Internal,
        };
        Self::from_error(exit, &error)
            .help("name the folder that the control plane was started with")
    }
}

impl From<BackupError> for Failure {
    fn from(error: BackupError) -> Self {
        let exit = match &error {
            BackupError::There(_) => Exit::Conflict,
            BackupError::NotABackup(_) | BackupError::NoDataDir(_) | BackupError::NoDatabase(_) => {
                Exit::Refused
            }
            BackupError::Io { source, .. } => exit_of_io(source, Exit::Refused),
            BackupError::Store(_) => exit_of_chain(&error, Exit::Internal),
        };
        let help = error.help().map(str::to_owned);
        Self {
            help,
            ..Self::from_error(exit, &error)
        }
    }
}
