//! Working on a project.

pub(crate) mod init;

/// Begin and work on a project
#[derive(Debug, clap::Subcommand)]
pub(crate) enum DevCommand {
    Init(init::InitArgs),
}
