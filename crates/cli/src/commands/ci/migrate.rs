//! `updraft ci migrate`: a workflow with Astronomer's deploy action becomes one of ours.

use std::io::Write;
use std::path::PathBuf;

use serde_json::json;
use updraft_ci::lint::lint;
use updraft_ci::migrate::{MigrateError, Target, migrate};
use updraft_ci::pipeline::Plain;

use super::init::{checksum, put};
use crate::cli::OutputArgs;
use crate::console::{Console, GREEN};
use crate::context::{Context, address};
use crate::exit::Exit;
use crate::failure::{Failure, Result};

/// Rewrite a workflow that uses Astronomer's deploy action
///
/// Its step becomes one that fetches the binary from the control plane and deploys; the rest of the file stays,
/// comments too. What could not be taken over is told, and so is what `updraft ci lint` says of the result.
#[derive(Debug, clap::Args)]
pub(crate) struct MigrateArgs {
    /// The workflow, such as .github/workflows/deploy.yml
    file: PathBuf,

    /// Print it instead of writing over the file
    #[arg(long)]
    print: bool,

    #[command(flatten)]
    pub(crate) output: OutputArgs,
}

pub(crate) async fn run(args: &MigrateArgs, cx: &Context, out: &mut Console) -> Result<Exit> {
    let text = std::fs::read_to_string(&args.file).map_err(|error| Failure {
        exit: Exit::Refused,
        ..Failure::file("read", &args.file, &error)
    })?;
    let client = cx.anonymous(None)?;
    let server = address(&client);
    let target = Target {
        server: Plain::new("address", &server)?,
        checksum: Plain::new("checksum", &checksum(&client, &server).await?)?,
    };
    let name = args.file.display().to_string();
    let migrated = migrate(&text, &target).map_err(|error| refused(&name, &error))?;
    if !args.print {
        put(&args.file, &migrated.text)
            .map_err(|error| Failure::file("write", &args.file, &error))?;
    }
    let left = lint(&name, &migrated.text).unwrap_or_default();
    if out.is_json() {
        out.json(&json!({
            "file": name, "text": migrated.text, "written": !args.print, "notes": migrated.notes, "findings": left,
        }))?;
        return Ok(Exit::Success);
    }
    if args.print {
        write!(out.data(), "{}", migrated.text)?;
    } else {
        writeln!(out.status(), "{GREEN}✓{GREEN:#} rewrote {name}")?;
    }
    for note in &migrated.notes {
        writeln!(out.status(), "  - {note}")?;
    }
    for finding in left {
        out.warn(&format!(
            "{name}:{}: {}; {}",
            finding.line, finding.message, finding.instead
        ));
    }
    Ok(Exit::Success)
}

fn refused(name: &str, error: &MigrateError) -> Failure {
    let help = match error {
        MigrateError::Unreadable => "correct it first",
        MigrateError::NothingToDo => {
            "`updraft ci init` writes a pipeline, `updraft ci lint` reads one"
        }
        MigrateError::Action { .. } => "take the step out, or write it by hand",
        MigrateError::Layout { .. } => "write `- uses: …` and its keys on lines of their own",
    };
    Failure::new(
        Exit::Refused,
        format!("`{name}` was left as it is: {error}"),
    )
    .code("not_migrated")
    .help(help)
}
