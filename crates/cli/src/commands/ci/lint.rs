//! `updraft ci lint`: what is wrong with the pipelines that are there.

use std::io::Write;
use std::path::{Path, PathBuf};

use serde::Serialize;
use updraft_ci::lint::{Finding, Severity, lint};
use updraft_ci::pipeline::Tool;

use super::init::repository;
use crate::cli::OutputArgs;
use crate::console::{Console, GREEN, RED, YELLOW};
use crate::context::Context;
use crate::exit::Exit;
use crate::failure::{Failure, Result};
use crate::output::size::things;

/// Say what is wrong or unsafe in the pipelines of this repository
///
/// Deploys of pull requests, changes told from the last push, tokens in the file, text of somebody else in a script,
/// actions and installers that nothing pins; and what Updraft has instead. Ends with 17 when there is an error;
/// warnings alone are none. It reads files of GitHub Actions, GitLab CI, CircleCI, Jenkins, Bitbucket Pipelines,
/// Azure DevOps, AWS CodeBuild and Drone, whoever wrote them.
#[derive(Debug, clap::Args)]
pub(crate) struct LintArgs {
    /// Files to read (default: those of every tool that are in the repository)
    files: Vec<PathBuf>,

    #[command(flatten)]
    pub(crate) output: OutputArgs,
}

#[derive(Debug, Serialize)]
struct Report {
    files: usize,
    errors: usize,
    warnings: usize,
    findings: Vec<Found>,
}

#[derive(Debug, Serialize)]
struct Found {
    file: String,
    #[serde(flatten)]
    finding: Finding,
}

pub(crate) fn run(args: &LintArgs, cx: &Context, out: &mut Console) -> Result<Exit> {
    let files = if args.files.is_empty() {
        there(&root(cx)?)?
    } else {
        args.files.clone()
    };
    if files.is_empty() {
        let message = "there is no pipeline in this repository";
        return Err(Failure::new(Exit::NotFound, message)
            .code("no_pipeline")
            .help("name a file, or write one with `updraft ci init`"));
    }
    let mut findings = Vec::new();
    for file in &files {
        let text = std::fs::read_to_string(file);
        let text = text.map_err(|error| Failure {
            exit: Exit::Refused,
            ..Failure::file("read", file, &error)
        })?;
        let name = file.display().to_string();
        let found = lint(&name, &text).ok_or_else(|| no_pipeline(&name))?;
        findings.extend(found.into_iter().map(|finding| Found {
            file: name.clone(),
            finding,
        }));
    }
    let count = |level| {
        findings
            .iter()
            .filter(|it| it.finding.level == level)
            .count()
    };
    let report = Report {
        files: files.len(),
        errors: count(Severity::Error),
        warnings: count(Severity::Warning),
        findings,
    };
    if out.is_json() {
        out.json(&report)?;
    } else {
        report.write(out)?;
    }
    Ok(match report.errors {
        0 => Exit::Success,
        _ => Exit::CheckFailed,
    })
}

/// The repository here, with or without a project.
fn root(cx: &Context) -> Result<PathBuf> {
    match cx.project() {
        Ok(project) => Ok(repository(project.root())),
        Err(_) => Ok(repository(&std::env::current_dir()?)),
    }
}

/// Every tool's files in a repository.
fn there(root: &Path) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for mark in Tool::ALL.iter().flat_map(|tool| tool.marks()) {
        let path = root.join(mark);
        if !path.is_dir() {
            found.extend(path.exists().then_some(path));
            continue;
        }
        let entries = std::fs::read_dir(&path);
        let entries = entries.map_err(|error| Failure::file("read", &path, &error))?;
        let files = entries.flatten().map(|entry| entry.path());
        let is_yaml = |file: &PathBuf| {
            file.extension()
                .is_some_and(|it| it == "yml" || it == "yaml")
        };
        let mut files: Vec<_> = files.filter(is_yaml).collect();
        files.sort();
        found.append(&mut files);
    }
    // As people name them, from where they are.
    let here = std::env::current_dir().and_then(|dir| dir.canonicalize());
    let short = |path: PathBuf| match &here {
        Ok(here) => path.strip_prefix(here).map(Path::to_owned).unwrap_or(path),
        Err(_) => path,
    };
    Ok(found.into_iter().map(short).collect())
}

impl Report {
    fn write(&self, out: &mut Console) -> Result<()> {
        for Found { file, finding } in &self.findings {
            let (colour, level) = match finding.level {
                Severity::Error => (RED, "error"),
                Severity::Warning => (YELLOW, "warning"),
            };
            writeln!(
                out.data(),
                "{colour}{level}{colour:#}[{}]: {file}:{}: {}",
                finding.rule,
                finding.line,
                finding.message
            )?;
            writeln!(out.data(), "  {GREEN}instead{GREEN:#}: {}", finding.instead)?;
        }
        let files = things(self.files as u64, "pipeline");
        let errors = things(self.errors as u64, "error");
        let warnings = things(self.warnings as u64, "warning");
        writeln!(out.status(), "{files}: {errors}, {warnings}")?;
        Ok(())
    }
}

fn no_pipeline(name: &str) -> Failure {
    Failure::new(Exit::Refused, format!("`{name}` is not the file of a tool that is known"))
        .code("no_pipeline")
        .help("its name tells the tool: .github/workflows/NAME.yml, .gitlab-ci.yml, .circleci/config.yml, Jenkinsfile, …")
}
