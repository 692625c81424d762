use std::collections::BTreeMap;
use std::io::Write;
use std::time::Instant;

use serde::Serialize;
use serde_json::json;
use updraft_check::Checked;
use updraft_image::{Lock, Stop};
use updraft_model::DeploymentName;
use updraft_project::{AirflowVersion, ImageHalf, Project, PythonVersion};

use crate::busy::busy;
use crate::checks::dag_check::{DagCheck, installed};
use crate::checks::findings::{self, ReportArgs};
use crate::checks::host::{self, EnvironmentArgs, Ready};
use crate::checks::parse::Ask;
use crate::checks::reach::Reach;
use crate::cli::OutputArgs;
use crate::console::{Aside, Console, DIM, GREEN, RED, YELLOW};
use crate::context::Context;
use crate::environment::make_blocking;
use crate::exit::Exit;
use crate::failure::Result;
use crate::output::size::things;
use crate::scan;

/// Check the project against another Airflow or Python
///
/// Resolves the project's requirements for it and says which packages change,
/// then does what `dev check` and `dev parse` do, in an environment of that
/// version. Nothing of the project or the Deployment changes.
#[derive(Debug, clap::Args)]
pub(crate) struct UpgradeCheckArgs {
    /// The Airflow to try
    #[arg(long, value_name = "VERSION")]
    airflow_version: AirflowVersion,

    /// The Python to try (default: the project's, where that Airflow runs on it)
    #[arg(long, value_name = "VERSION")]
    python_version: Option<PythonVersion>,

    /// Whose variables and connections are asked for (default: the configured one)
    #[arg(long, value_name = "DEPLOYMENT")]
    deployment: Option<DeploymentName>,

    #[command(flatten)]
    reports: ReportArgs,

    #[command(flatten)]
    pub(crate) output: OutputArgs,
}

pub(crate) async fn run(args: &UpgradeCheckArgs, cx: &Context, out: &mut Console) -> Result<Exit> {
    let started = Instant::now();
    let project = cx.project()?;
    let mut step = out.step("reading the project");
    let of_deployment = EnvironmentArgs::of(args.deployment.clone());
    let wanted = host::wanted(cx, &of_deployment, project).await?;
    let cache = host::cache(cx)?;
    let work = Work {
        airflow: args.airflow_version.clone(),
        python: args.python_version,
        ask: Ask {
            project: project.clone(),
            paths: Vec::new(),
            deployment: wanted.deployment,
            names: wanted.names,
            cache,
            no_cache: true,
            also_known: None,
            aside: out.aside(),
        },
        aside: out.aside(),
    };
    let found = busy(&mut step, out, move |stop, say| work.run(stop, say)).await?;
    out.abandon(step);
    args.reports
        .write(&found.files, &found.checked.findings, project)?;
    let exit = match found.checked.errors() {
        0 => Exit::Success,
        _ => Exit::CheckFailed,
    };
    if out.is_json() {
        out.json(&json!({
            "airflow_version": found.airflow.to_string(),
            "python_version": found.python.to_string(),
            "packages": found.packages,
            "files": found.checked.files,
            "errors": found.checked.errors(),
            "warnings": found.checked.findings.len() - found.checked.errors(),
            "findings": found.checked.findings,
            "notes": found.checked.notes,
        }))?;
        return Ok(exit);
    }
    let mut text = Vec::new();
    found.packages.write(&mut text)?;
    out.data().write_all(&text)?;
    let what = format!(
        "{} on Airflow {} and Python {}",
        things(found.checked.files as u64, "DAG file"),
        found.airflow,
        found.python
    );
    findings::print(&found.checked, &what, started.elapsed(), out)?;
    findings::annotate(&found.checked.findings, project, out)?;
    Ok(exit)
}

struct Work {
    airflow: AirflowVersion,
    python: Option<PythonVersion>,
    ask: Ask,
    aside: Aside,
}

struct Found {
    airflow: AirflowVersion,
    python: PythonVersion,
    packages: Packages,
    files: Vec<String>,
    checked: Checked,
}

impl Work {
    /// Resolves for both, and checks in the other. Blocks.
    fn run(self, stop: &Stop, say: &dyn Fn(&str)) -> Result<Found> {
        let cache = &self.ask.cache;
        let now = make_blocking(half(&self.ask.project)?, cache, stop, say)?;
        let mut other = half(&self.ask.project)?;
        other.fingerprint.airflow_version = self.airflow.clone();
        other.fingerprint.python_version = self.python(other.fingerprint.python_version);
        let other = make_blocking(other, cache, stop, say)?;
        let packages = Packages::between(&now.config().lock, &other.config().lock);
        let ready = host::ready(other.config().clone(), &Reach::default(), cache, stop, say)?;
        let mut checked = self.statically(&ready, stop)?;
        let parsed = self.ask.parse(&ready, say)?;
        // What does not parse in that Python is found by both.
        for finding in parsed.checked.findings {
            let is_told = checked.findings.iter().any(|told| {
                (told.rule, &told.file, told.place.line)
                    == (finding.rule, &finding.file, finding.place.line)
            });
            if !is_told {
                checked.findings.push(finding);
            }
        }
        checked
            .findings
            .sort_by(|one, other| (&one.file, one.place).cmp(&(&other.file, other.place)));
        Ok(Found {
            airflow: ready.runs.airflow,
            python: ready.runs.python,
            packages,
            files: parsed.dags.into_keys().collect(),
            checked,
        })
    }

    /// The asked one; otherwise the project's, or the oldest that this Airflow runs on.
    fn python(&self, project: PythonVersion) -> PythonVersion {
        let oldest = || self.airflow.oldest_python().unwrap_or(project);
        match self.python {
            Some(asked) => asked,
            None if self.airflow.runs_on(project) => project,
            None => oldest(),
        }
    }

    fn statically(&self, ready: &Ready, stop: &Stop) -> Result<Checked> {
        let project = &self.ask.project;
        let mut dag_check = DagCheck::in_environment(project, &ready.runs, self.aside.clone())?;
        dag_check.stop = stop.clone();
        dag_check.tools = Some(self.ask.cache.clone());
        dag_check.installed = ready.venv().map(installed).transpose()?;
        let files = match scan::dags(project, Some(&self.ask.cache))? {
            Some(scan) => DagCheck::files(&scan, &dag_check.ignored(&scan)?),
            None => Vec::new(),
        };
        dag_check.run(&files)
    }
}

fn half(project: &Project) -> Result<ImageHalf> {
    Ok(project.image_half(None)?)
}

/// How two locks differ.
#[derive(Debug, Default, PartialEq, Eq, Serialize)]
struct Packages {
    added: BTreeMap<String, String>,
    removed: BTreeMap<String, String>,
    /// From which version to which.
    changed: BTreeMap<String, (String, String)>,
}

impl Packages {
    fn between(old: &Lock, new: &Lock) -> Self {
        let (old, new) = (old.versions(), new.versions());
        let mut packages = Self::default();
        for (name, version) in &new {
            match old.get(name) {
                None => {
                    let (name, version) = ((*name).to_owned(), (*version).to_owned());
                    packages.added.insert(name, version);
                }
                Some(before) if before != version => {
                    let both = ((*before).to_owned(), (*version).to_owned());
                    packages.changed.insert((*name).to_owned(), both);
                }
                Some(_) => {}
            }
        }
        let gone = old.into_iter().filter(|(name, _)| !new.contains_key(name));
        packages.removed = gone
            .map(|(name, version)| (name.to_owned(), version.to_owned()))
            .collect();
        packages
    }

    fn write(&self, to: &mut impl Write) -> std::io::Result<()> {
        if *self == Self::default() {
            return writeln!(to, "packages: no version changes\n");
        }
        writeln!(
            to,
            "packages: {} changed, {} added, {} removed",
            self.changed.len(),
            self.added.len(),
            self.removed.len()
        )?;
        for (name, (before, after)) in &self.changed {
            writeln!(
                to,
                "  {YELLOW}~{YELLOW:#} {name} {before} {DIM}→{DIM:#} {after}"
            )?;
        }
        for (name, version) in &self.added {
            writeln!(to, "  {GREEN}+{GREEN:#} {name} {version}")?;
        }
        for (name, version) in &self.removed {
            writeln!(to, "  {RED}-{RED:#} {name} {version}")?;
        }
        writeln!(to)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn locks_differ_by_name_and_version() {
        let old = "a==1 \\\n    --hash=sha256:00\nb==2.0 ; python_version < '3.12' \\\n    --hash=x\nc==3\n";
        let new = "a==1 \\\n    --hash=sha256:11\nb==2.1\nd==4\n";
        let lock = |text: &str| Lock {
            python_from: PythonVersion::new(3, 10),
            text: text.to_owned(),
        };
        let packages = Packages::between(&lock(old), &lock(new));
        let named = |map: &BTreeMap<String, String>| map.keys().cloned().collect::<Vec<_>>();
        assert_eq!(named(&packages.added), ["d"]);
        assert_eq!(named(&packages.removed), ["c"]);
        assert_eq!(
            packages.changed,
            [("b".to_owned(), ("2.0".to_owned(), "2.1".to_owned()))].into()
        );
    }
}
