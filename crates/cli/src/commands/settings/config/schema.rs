use std::io::Write;

use updraft_project::settings_schema;

use crate::console::Console;
use crate::exit::Exit;
use crate::failure::{Failure, Result};

/// Print the JSON schema of updraft.toml, for editors
///
/// An editor with a TOML language server reads it from a comment on the first line of updraft.toml:
/// `#:schema ./updraft.schema.json`.
#[derive(Debug, clap::Args)]
pub(crate) struct SchemaArgs {}

pub(crate) fn run(out: &mut Console) -> Result<Exit> {
    let schema = serde_json::to_string_pretty(&settings_schema()).map_err(|error| {
        Failure::new(Exit::Internal, "could not write the schema").cause(&error)
    })?;
    writeln!(out.data(), "{schema}")?;
    Ok(Exit::Success)
}
