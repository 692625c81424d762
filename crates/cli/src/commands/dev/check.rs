use std::path::PathBuf;
use std::time::{Duration, Instant};

use serde_json::json;
use updraft_check::Checked;
use updraft_image::Stop;
use updraft_model::DeploymentName;
use updraft_project::{AirflowVersion, Project, PythonVersion};

use crate::checks::dag_check::{DagCheck, installed, only};
use crate::checks::elsewhere::Asker;
use crate::checks::findings::{self, ReportArgs};
use crate::cli::OutputArgs;
use crate::console::{Aside, Console};
use crate::context::Context;
use crate::exit::Exit;
use crate::failure::Result;
use crate::output::size::things;
use crate::scan;

/// Check the DAG files, without starting Python
///
/// Finds syntax that the Deployment's Python does not know, ids that are there
/// twice, work that does not belong where a file is imported, and values that
/// change with each parse. docs/reference/checks.md explains each rule.
/// Nothing is asked of anybody but which ids other bundles of the Deployment have,
/// where one is configured; without an answer within a second it does without.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct CheckArgs {
    /// Files and folders to tell of (default: all of dags/)
    paths: Vec<PathBuf>,

    /// Read every file, also those that did not change since the last check
    #[arg(long)]
    no_cache: bool,

    /// Look imports up in this virtual environment, which is like the Deployment's
    /// (default: the one that `dev parse` or a deploy made here, if any)
    #[arg(long, value_name = "DIR")]
    venv: Option<PathBuf>,

    /// The Deployment whose other bundles may have an id already (default: the configured one)
    #[arg(long, value_name = "DEPLOYMENT")]
    deployment: Option<DeploymentName>,

    #[command(flatten)]
    pub(super) reports: ReportArgs,

    /// Check again whenever a file of the project changes, until Ctrl-C
    #[arg(long)]
    pub(super) watch: bool,

    #[command(flatten)]
    pub(crate) output: OutputArgs,
}

pub(crate) fn run(args: &CheckArgs, cx: &Context, out: &mut Console) -> Result<Exit> {
    let look = Look {
        project: cx.project()?.clone(),
        cache: cx.cache_dir(),
        asker: args.asker(cx)?,
        stop: Stop::default(),
        aside: out.aside(),
    };
    look.at(args)?.tell(args, out)
}

/// What a check came to.
pub(super) struct Report {
    project: Project,
    airflow: AirflowVersion,
    python: PythonVersion,
    /// Those that it tells of.
    files: Vec<String>,
    checked: Checked,
    took: Duration,
}

/// One look at a project.
pub(super) struct Look {
    pub(super) project: Project,
    pub(super) cache: Option<PathBuf>,
    pub(super) asker: Option<Asker>,
    pub(super) stop: Stop,
    pub(super) aside: Aside,
}

impl CheckArgs {
    /// Who knows the ids of other bundles.
    pub(super) fn asker(&self, cx: &Context) -> Result<Option<Asker>> {
        Asker::new(cx, self.deployment.as_ref())
    }
}

impl Look {
    /// Checks the project as it is now.
    pub(super) fn at(self, args: &CheckArgs) -> Result<Report> {
        let Self {
            project,
            cache,
            asker,
            stop,
            aside,
        } = self;
        let started = Instant::now();
        let kept = cache.clone().filter(|_| !args.no_cache);
        let mut dag_check = DagCheck::of(&project, aside)?;
        dag_check.ask(asker.as_ref());
        dag_check.stop = stop;
        dag_check.installed = match (&args.venv, &cache) {
            (Some(venv), _) => Some(installed(venv)?),
            (None, Some(cache)) => dag_check.installed_before(cache)?,
            (None, None) => None,
        };
        dag_check.tools = cache;
        dag_check.cache = kept.clone();
        let (files, mut notes) = match scan::dags(&project, kept.as_deref())? {
            Some(scan) => {
                let ignored = dag_check.ignored(&scan)?;
                (DagCheck::files(&scan, &ignored), ignored.notes().to_vec())
            }
            None => (Vec::new(), Vec::new()),
        };
        let wanted = only(&args.paths, &project, &files)?;
        let mut checked = dag_check.run(&files)?;
        notes.append(&mut checked.notes);
        checked.notes = notes;
        let mut names: Vec<String> = files.iter().map(|file| file.name.clone()).collect();
        // What two files say together is known only when all were read.
        if let Some(wanted) = &wanted {
            names.retain(|name| wanted.contains(name.as_str()));
            checked
                .findings
                .retain(|finding| wanted.contains(finding.file.as_str()));
            checked.files = wanted.len();
        }
        let (airflow, python) = (dag_check.airflow.clone(), dag_check.python);
        Ok(Report {
            project: project.clone(),
            airflow,
            python,
            files: names,
            checked,
            took: started.elapsed(),
        })
    }
}

impl Report {
    /// Writes the files that were asked for, and prints the rest.
    pub(super) fn tell(&self, args: &CheckArgs, out: &mut Console) -> Result<Exit> {
        let Self {
            project, checked, ..
        } = self;
        args.reports
            .write(&self.files, &checked.findings, project)?;
        if out.is_json() {
            out.json(&json!({
                "airflow_version": self.airflow.to_string(),
                "python_version": self.python.to_string(),
                "files": checked.files,
                "errors": checked.errors(),
                "warnings": checked.findings.len() - checked.errors(),
                "findings": checked.findings,
                "notes": checked.notes,
            }))?;
        } else {
            let what = things(checked.files as u64, "DAG file");
            findings::print(checked, &what, self.took, out)?;
            findings::annotate(&checked.findings, project, out)?;
        }
        Ok(match checked.errors() {
            0 => Exit::Success,
            _ => Exit::CheckFailed,
        })
    }
}
