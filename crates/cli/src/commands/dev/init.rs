use std::io::Write;
use std::path::{Path, PathBuf};

use serde_json::json;
use updraft_project::{Scaffold, ScaffoldError, Scaffolded, scaffold};

use crate::cli::OutputArgs;
use crate::console::{Console, DIM, GREEN};
use crate::context::Context;
use crate::exit::Exit;
use crate::failure::{Failure, Result, exit_of_chain};

/// Write a project to start from: DAGs, tests, Dockerfile, updraft.toml
///
/// Never overwrites a file, so it can also complete a project that is there.
#[derive(Debug, clap::Args)]
pub(crate) struct InitArgs {
    /// Folder of the project; made when it does not exist
    ///
    /// Without it the folder of --project, or the one here.
    dir: Option<PathBuf>,

    /// The project's name (default: made of the folder's)
    #[arg(long)]
    name: Option<String>,

    /// The Airflow to run on (default: the Dockerfile's, or the newest known)
    #[arg(long, value_name = "VERSION")]
    airflow_version: Option<String>,

    /// The Python to run on (default: that of the official image)
    #[arg(long, value_name = "VERSION")]
    python_version: Option<String>,

    #[command(flatten)]
    pub(crate) output: OutputArgs,
}

pub(crate) fn run(args: &InitArgs, cx: &Context, out: &mut Console) -> Result<Exit> {
    let plan = Scaffold {
        name: args.name.clone(),
        airflow_version: args.airflow_version.clone(),
        python_version: args.python_version.clone(),
    };
    let dir = args.dir.clone().or_else(|| cx.named_project());
    let done = scaffold(dir.as_deref().unwrap_or(Path::new(".")), &plan)?;
    if out.is_json() {
        out.json(&json!({
            "root": done.root,
            "name": done.name,
            "airflow_version": done.airflow_version.to_string(),
            "python_version": done.python_version.to_string(),
            "written": done.written,
            "kept": done.kept,
            "left_out": done.left_out,
        }))?;
        return Ok(Exit::Success);
    }
    print(&done, out)?;
    writeln!(
        out.status(),
        "Next: `updraft quickstart` runs it here; `updraft login URL` and `updraft deploy DEPLOYMENT` send it to a control plane"
    )?;
    Ok(Exit::Success)
}

pub(crate) fn print(done: &Scaffolded, out: &mut Console) -> Result<()> {
    let mut status = out.status();
    let (airflow, python) = (&done.airflow_version, &done.python_version);
    writeln!(
        status,
        "Project `{}` in {} for Airflow {airflow}, Python {python}",
        done.name,
        done.root.display()
    )?;
    for path in &done.written {
        writeln!(status, "  {GREEN}+{GREEN:#} {path}")?;
    }
    for path in &done.kept {
        writeln!(status, "  {DIM}= {path} (was there; left alone){DIM:#}")?;
    }
    if !done.left_out.is_empty() {
        writeln!(
            status,
            "  {DIM}examples were left out, since there are DAGs already{DIM:#}"
        )?;
    }
    Ok(())
}

impl From<ScaffoldError> for Failure {
    fn from(error: ScaffoldError) -> Self {
        let exit = exit_of_chain(&error, Exit::Refused);
        let help = error.help();
        Self::from_error(exit, &error).help(help)
    }
}
