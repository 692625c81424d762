//! The control plane.

pub(crate) mod backup;
mod failure;
pub(crate) mod init;
pub(crate) mod restore;
pub(crate) mod rotate_keys;
pub(crate) mod run;

use std::path::PathBuf;

use updraft_server::ServerConfig;

use crate::config::variable;
use crate::console::{Console, Format};
use crate::context::Context;
use crate::exit::Exit;
use crate::failure::Result;

/// Run the control plane
///
/// Listens on this machine only; any other address needs a certificate or an explicit --insecure-http.
#[derive(Debug, clap::Args)]
#[command(args_conflicts_with_subcommands = true)]
pub(crate) struct ServerArgs {
    #[command(subcommand)]
    command: Option<ServerCommand>,

    #[command(flatten)]
    run: run::RunArgs,
}

#[derive(Debug, clap::Subcommand)]
enum ServerCommand {
    Run(run::RunArgs),
    Init(init::InitArgs),
    RotateKeys(rotate_keys::RotateKeysArgs),
}

/// Where the control plane keeps everything.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct DataArgs {
    /// Folder of the database, the blobs and the keys
    #[arg(
        long,
        env = "UPDRAFT_DATA_DIR",
        value_name = "DIR",
        default_value = "updraft-data"
    )]
    pub(crate) data_dir: PathBuf,
}

impl DataArgs {
    /// The database's address may hold a password, so it is no argument.
    pub(crate) fn config(&self) -> Result<ServerConfig> {
        let mut config = ServerConfig::new(&self.data_dir);
        config.database_url = variable("UPDRAFT_DATABASE_URL")?.map(|(url, _)| url);
        Ok(config)
    }
}

impl ServerArgs {
    pub(crate) fn format(&self) -> Format {
        match &self.command {
            Some(ServerCommand::Init(args)) => args.output.output,
            Some(ServerCommand::RotateKeys(args)) => args.output.output,
            Some(ServerCommand::Run(_)) | None => Format::Text,
        }
    }

    pub(crate) fn serves(&self) -> bool {
        matches!(self.command, Some(ServerCommand::Run(_)) | None)
    }

    pub(crate) async fn run(&self, cx: &Context, out: &mut Console) -> Result<Exit> {
        match &self.command {
            Some(ServerCommand::Init(args)) => init::run(args, out).await,
            Some(ServerCommand::RotateKeys(args)) => rotate_keys::run(args, out),
            Some(ServerCommand::Run(args)) => run::run(args, cx, out).await,
            None => run::run(&self.run, cx, out).await,
        }
    }
}
