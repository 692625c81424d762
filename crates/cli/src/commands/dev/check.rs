use std::collections::BTreeSet;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use updraft_check::{Checked, DagFile, Finding, Level, report};
use updraft_project::Project;

use crate::cli::OutputArgs;
use crate::console::{Console, DIM, GREEN, RED, YELLOW};
use crate::context::Context;
use crate::dag_check::{DagCheck, installed};
use crate::exit::Exit;
use crate::failure::{Failure, Result};

use crate::output::size::things;
use crate::output::time::duration;
use crate::scan;

/// Check the DAG files, without starting Python
///
/// Finds syntax that the Deployment's Python does not know, ids that are there
/// twice, work that does not belong where a file is imported, and values that
/// change with each parse. docs/reference/checks.md explains each rule.
#[derive(Debug, clap::Args)]
pub(crate) struct CheckArgs {
    /// Files and folders to tell of (default: all of dags/)
    paths: Vec<PathBuf>,

    /// Read every file, also those that did not change since the last check
    #[arg(long)]
    no_cache: bool,

    /// Look imports up in this virtual environment, which is like the Deployment's
    #[arg(long, value_name = "DIR")]
    venv: Option<PathBuf>,

    /// Also write the findings for code scanning
    #[arg(long, value_name = "FILE", help_heading = "Reports")]
    sarif: Option<PathBuf>,

    /// Also write the findings for a GitLab merge request
    #[arg(long, value_name = "FILE", help_heading = "Reports")]
    gitlab: Option<PathBuf>,

    #[command(flatten)]
    pub(crate) output: OutputArgs,
}

pub(crate) fn run(args: &CheckArgs, cx: &Context, out: &mut Console) -> Result<Exit> {
    let started = Instant::now();
    let project = cx.project()?;
    let kept = Context::cache_dir().filter(|_| !args.no_cache);
    let mut dag_check = DagCheck::of(project)?;
    dag_check.cache = kept.clone();
    dag_check.installed = args.venv.as_deref().map(installed).transpose()?;
    let (files, mut notes) = match scan::dags(project, kept.as_deref())? {
        Some(scan) => {
            let ignored = dag_check.ignored(&scan)?;
            (DagCheck::files(&scan, &ignored), ignored.notes().to_vec())
        }
        None => (Vec::new(), Vec::new()),
    };
    let wanted = only(&args.paths, project, &files)?;
    let mut checked = dag_check.run(&files)?;
    notes.append(&mut checked.notes);
    checked.notes = notes;
    // What two files say together is known only when all were read.
    if let Some(wanted) = &wanted {
        checked
            .findings
            .retain(|finding| wanted.contains(finding.file.as_str()));
        checked.files = wanted.len();
    }
    write_reports(args, &checked.findings, project)?;
    let exit = match checked.errors() {
        0 => Exit::Success,
        _ => Exit::CheckFailed,
    };
    if out.is_json() {
        out.json(&json!({
            "airflow_version": dag_check.airflow.to_string(),
            "python_version": dag_check.python.to_string(),
            "files": checked.files,
            "errors": checked.errors(),
            "warnings": checked.findings.len() - checked.errors(),
            "findings": checked.findings,
            "notes": checked.notes,
        }))?;
    } else {
        let what = things(checked.files as u64, "DAG file");
        print(&checked, &what, started.elapsed(), out)?;
        annotate(&checked.findings, project, out)?;
    }
    Ok(exit)
}

fn write_reports(args: &CheckArgs, findings: &[Finding], project: &Project) -> Result<()> {
    let above = above(project);
    let sarif = || report::sarif(findings, &above);
    let gitlab = || report::code_quality(findings, &above);
    let wanted: [(_, &dyn Fn() -> Value); 2] = [(&args.sarif, &sarif), (&args.gitlab, &gitlab)];
    for (file, report) in wanted {
        let Some(file) = file else { continue };
        let text = format!("{:#}\n", report());
        std::fs::write(file, text).map_err(|error| Failure::file("write", file, &error))?;
    }
    Ok(())
}

/// Marks the lines where GitHub Actions shows the change.
pub(crate) fn annotate(findings: &[Finding], project: &Project, out: &mut Console) -> Result<()> {
    if std::env::var_os("GITHUB_ACTIONS").is_some_and(|value| value == "true") {
        let annotations = report::annotations(findings, &above(project));
        write!(out.data(), "{annotations}")?;
    }
    Ok(())
}

/// The folders from the repository's to the project's, such as `etl/`.
fn above(project: &Project) -> String {
    let root = project.root().canonicalize().unwrap_or_default();
    let repository = root.ancestors().find(|folder| folder.join(".git").exists());
    let inside = repository.and_then(|repository| root.strip_prefix(repository).ok());
    match inside.and_then(Path::to_str) {
        None | Some("") => String::new(),
        Some(inside) => format!("{inside}/"),
    }
}

/// Those of the files that the command line names; none when it names nothing.
pub(crate) fn only<'a>(
    paths: &[PathBuf],
    project: &Project,
    files: &'a [DagFile],
) -> Result<Option<BTreeSet<&'a str>>> {
    if paths.is_empty() {
        return Ok(None);
    }
    let mut wanted = BTreeSet::new();
    for path in paths {
        let refuse = |what: &str| {
            let message = format!("`{}` {what}", path.display());
            Failure::new(Exit::Refused, message).code("no_dag_file")
        };
        let full = path
            .canonicalize()
            .map_err(|error| refuse("cannot be found").cause(&error))?;
        let root = project.root();
        let root = root.canonicalize().unwrap_or_else(|_| root.to_owned());
        let below = full
            .strip_prefix(root)
            .map_err(|_| refuse("is not in the project"))?;
        let found = files
            .iter()
            .map(|file| file.name.as_str())
            .filter(|file| Path::new(file).starts_with(below));
        let before = wanted.len();
        wanted.extend(found);
        if wanted.len() == before {
            return Err(refuse("has no DAG files")
                .help("DAG files are the Python files in `dags/` that `.airflowignore` leaves"));
        }
    }
    Ok(Some(wanted))
}

/// Prints what was found, and a line that sums it up.
pub(crate) fn print(
    checked: &Checked,
    what: &str,
    took: Duration,
    out: &mut Console,
) -> Result<()> {
    let mut told = BTreeSet::new();
    let mut file = "";
    for finding in &checked.findings {
        if !file.is_empty() && file != finding.file {
            writeln!(out.data())?;
        }
        file = &finding.file;
        let explain = told.insert(finding.rule);
        write_finding(finding, explain, &mut out.data())?;
    }
    for note in &checked.notes {
        out.warn(note);
    }
    let took = duration(took);
    if checked.files == 0 {
        writeln!(
            out.data(),
            "{GREEN}✓{GREEN:#} no DAG files in `dags/` ({took})"
        )?;
        return Ok(());
    }
    let errors = checked.errors();
    let warnings = checked.findings.len() - errors;
    if checked.findings.is_empty() {
        writeln!(
            out.data(),
            "{GREEN}✓{GREEN:#} {what}, nothing found ({took})"
        )?;
        return Ok(());
    }
    let style = if errors > 0 { RED } else { YELLOW };
    writeln!(
        out.data(),
        "\n{style}{}, {}{style:#} in {what} ({took})",
        things(errors as u64, "error"),
        things(warnings as u64, "warning"),
    )?;
    Ok(())
}

/// `dags/a.py:3:5: error UPD101: …`, the line there, and what to do.
pub(crate) fn write_finding(
    finding: &Finding,
    explain: bool,
    data: &mut impl Write,
) -> std::io::Result<()> {
    let Finding {
        rule,
        level,
        file,
        place,
        text,
        message,
        help,
        details,
    } = finding;
    let style = match level {
        Level::Error => RED,
        Level::Warning | Level::Off => YELLOW,
    };
    writeln!(
        data,
        "{file}:{}:{}: {style}{level} {rule}{style:#}: {message}",
        place.line, place.column
    )?;
    let text = text.trim();
    if !text.is_empty() {
        writeln!(data, "  {DIM}|{DIM:#} {text}")?;
    }
    for line in details.iter().flat_map(|text| text.lines()) {
        writeln!(data, "  {DIM}|{DIM:#} {line}")?;
    }
    if explain {
        writeln!(data, "  {DIM}={DIM:#} {help}")?;
    }
    Ok(())
}
