//! What checks found: as text, as annotations, and in the files that other
//! tools read.

use std::collections::BTreeSet;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Duration;

use updraft_check::{Checked, Finding, Level, report};
use updraft_project::Project;

use crate::console::{Console, DIM, GREEN, RED, YELLOW};
use crate::exit::Exit;
use crate::failure::{Failure, Result};
use crate::output::size::things;
use crate::output::time::duration;

/// Files to write besides.
#[derive(Debug, Clone, Default, clap::Args)]
#[command(next_help_heading = "Reports")]
pub(crate) struct ReportArgs {
    /// Also write the findings for code scanning
    #[arg(long, value_name = "FILE")]
    sarif: Option<PathBuf>,

    /// Also write the findings for a GitLab merge request
    #[arg(long, value_name = "FILE")]
    gitlab: Option<PathBuf>,

    /// Also write a test case for each file, for test reports
    #[arg(long, value_name = "FILE")]
    junit: Option<PathBuf>,
}

impl ReportArgs {
    pub(crate) fn files(&self) -> impl Iterator<Item = &Path> {
        let files = [&self.sarif, &self.gitlab, &self.junit];
        files.into_iter().flatten().map(PathBuf::as_path)
    }

    /// Writes them; `files` are those that were checked.
    pub(crate) fn write(
        &self,
        files: &[String],
        findings: &[Finding],
        project: &Project,
    ) -> Result<()> {
        let above = above(project);
        let write = |file: &Option<PathBuf>, text: &dyn Fn() -> Result<String>| match file {
            Some(file) => {
                std::fs::write(file, text()?).map_err(|error| Failure::file("write", file, &error))
            }
            None => Ok(()),
        };
        write(&self.sarif, &|| {
            Ok(format!("{:#}\n", report::sarif(findings, &above)))
        })?;
        write(&self.gitlab, &|| {
            Ok(format!("{:#}\n", report::code_quality(findings, &above)))
        })?;
        write(&self.junit, &|| {
            report::junit(files, findings, &above).map_err(|error| {
                Failure::new(Exit::Internal, "could not write the test cases").cause(&error)
            })
        })
    }
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

/// Prints what was found, by file, and a line that sums it up.
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
    to: &mut impl Write,
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
        to,
        "{file}:{}:{}: {style}{level} {rule}{style:#}: {message}",
        place.line, place.column
    )?;
    let text = text.trim();
    // A traceback has the line too.
    let shown = details.as_deref().unwrap_or(text);
    for line in shown.lines() {
        writeln!(to, "  {DIM}|{DIM:#} {line}")?;
    }
    if explain {
        writeln!(to, "  {DIM}={DIM:#} {help}")?;
    }
    Ok(())
}
