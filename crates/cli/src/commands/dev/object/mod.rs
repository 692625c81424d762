//! Connections, variables and pools of the project's local Airflow.

pub(crate) mod export;
pub(crate) mod import;

use std::io::Write;
use std::path::Path;

use updraft_agent::{Imported, ObjectKind};
use updraft_project::AirflowObjects;

use crate::console::Console;
use crate::context::Context;
use crate::exit::Exit;
use crate::failure::Result;
use crate::output::size::things;

/// Import and export connections, variables and pools
#[derive(Debug, clap::Subcommand)]
pub(crate) enum ObjectCommand {
    Import(import::ImportArgs),
    Export(export::ExportArgs),
}

impl ObjectCommand {
    pub(crate) async fn run(&self, cx: &Context, out: &mut Console) -> Result<Exit> {
        match self {
            Self::Import(args) => import::run(args, cx, out).await,
            Self::Export(args) => export::run(args, cx, out).await,
        }
    }
}

/// Which of them; without a flag all.
#[derive(Debug, clap::Args)]
pub(crate) struct KindArgs {
    /// Connections
    #[arg(short, long)]
    connections: bool,

    /// Variables
    #[arg(short, long)]
    variables: bool,

    /// Pools
    #[arg(short, long)]
    pools: bool,
}

impl KindArgs {
    fn kinds(&self) -> Vec<ObjectKind> {
        let asked = |kind: &ObjectKind| match kind {
            ObjectKind::Connections => self.connections,
            ObjectKind::Variables => self.variables,
            ObjectKind::Pools => self.pools,
        };
        let kinds: Vec<ObjectKind> = ObjectKind::ALL.into_iter().filter(asked).collect();
        if kinds.is_empty() {
            ObjectKind::ALL.to_vec()
        } else {
            kinds
        }
    }

    fn only(&self, mut objects: AirflowObjects) -> AirflowObjects {
        let kinds = self.kinds();
        if !kinds.contains(&ObjectKind::Connections) {
            objects.connections.clear();
        }
        if !kinds.contains(&ObjectKind::Variables) {
            objects.variables.clear();
        }
        if !kinds.contains(&ObjectKind::Pools) {
            objects.pools.clear();
        }
        objects
    }
}

/// How many there are of each kind.
fn counted([connections, variables, pools]: [usize; 3]) -> String {
    let counts = [
        (connections, "connection"),
        (variables, "variable"),
        (pools, "pool"),
    ];
    let some = counts.into_iter().filter(|(count, _)| *count > 0);
    let texts: Vec<String> = some
        .map(|(count, what)| things(count as u64, what))
        .collect();
    match texts.as_slice() {
        [] => "nothing".to_owned(),
        [all @ .., last] if !all.is_empty() => format!("{} and {last}", all.join(", ")),
        [one, ..] => one.clone(),
    }
}

pub(super) fn tell_imported(imported: &Imported, from: &Path, out: &mut Console) -> Result<()> {
    let counts = [imported.connections, imported.variables, imported.pools];
    let changed = match imported.changed {
        0 => "Airflow had them as they are".to_owned(),
        changed => format!("{changed} new or changed"),
    };
    writeln!(
        out.status(),
        "Imported {} from {} ({changed})",
        counted(counts),
        from.file_name().unwrap_or_default().to_string_lossy()
    )?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn says_how_many_there_are() {
        assert_eq!(counted([0, 0, 0]), "nothing");
        assert_eq!(counted([1, 0, 0]), "1 connection");
        assert_eq!(counted([1, 2, 0]), "1 connection and 2 variables");
        assert_eq!(counted([2, 1, 3]), "2 connections, 1 variable and 3 pools");
    }
}
