//! The checks of a deploy. They run beside its upload, and nothing is accepted
//! before they are done.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::PathBuf;
use std::time::Instant;

use updraft_api::deploy::DeployView;
use updraft_bundle::Scan;
use updraft_check::{Checked, Finding, Level};
use updraft_image::EnvironmentConfig;
use updraft_model::{BundleName, CheckFinding, CheckStage, Checks, Digest, StageResult};
use updraft_project::Project;

use super::report::Outcome;
use crate::commands::dev::check;
use crate::console::{Console, DIM, GREEN, RED};
use crate::dag_check::DagCheck;
use crate::exit::Exit;
use crate::failure::Result;
use crate::output::size::things;

/// Findings that are printed before the rest is only counted.
const MOST_PRINTED: usize = 10;

/// How the stages went that have run.
#[derive(Debug, Default)]
pub(super) struct Ran {
    pub(super) stages: BTreeMap<CheckStage, StageResult>,
    findings: Vec<Finding>,
}

impl Ran {
    pub(super) fn passed(&self) -> bool {
        self.stages.values().all(StageResult::passed)
    }

    fn add(&mut self, stage: CheckStage, checked: Checked, began: Instant) {
        let findings = &checked.findings;
        let errors = findings.iter().filter(|one| one.level == Level::Error);
        let others = findings.iter().filter(|one| one.level != Level::Error);
        let result = StageResult {
            checked: checked.files as u64,
            errors: checked.errors() as u64,
            warnings: (findings.len() - checked.errors()) as u64,
            seconds: (began.elapsed().as_secs_f64() * 1000.0).round() / 1000.0,
            findings: errors
                .chain(others)
                .take(StageResult::MOST_FINDINGS)
                .map(told)
                .collect(),
        };
        self.stages.insert(stage, result);
        self.findings.extend(checked.findings);
    }

    /// What the control plane is told.
    pub(super) fn claim(
        self,
        bundles: BTreeMap<BundleName, Digest>,
        environment: Digest,
    ) -> Checks {
        Checks {
            tool: format!("updraft {}", updraft_api::VERSION),
            bundles,
            environment: Some(environment),
            stages: self.stages,
        }
    }

    /// Says how it went: `✓ checked 12 DAG files`, and what was found.
    pub(super) fn say(&self, began: Instant, out: &mut Console) -> Result<()> {
        let errors: u64 = self.stages.values().map(|stage| stage.errors).sum();
        let warnings: u64 = self.stages.values().map(|stage| stage.warnings).sum();
        let files = self.stages.values().map(|stage| stage.checked).max();
        let files = things(files.unwrap_or(0), "DAG file");
        if errors == 0 {
            let found = match warnings {
                0 => String::new(),
                some => format!(": {}", things(some, "warning")),
            };
            out.mark(&format!("checked {files}{found}"), began.elapsed());
        }
        let mut sorted: Vec<&Finding> = self.findings.iter().collect();
        sorted.sort_by_key(|finding| finding.level != Level::Error);
        let mut text = Vec::new();
        for finding in sorted.iter().take(MOST_PRINTED) {
            check::write_finding(finding, false, &mut text)?;
        }
        if let Some(more) = sorted.len().checked_sub(MOST_PRINTED).filter(|it| *it > 0) {
            writeln!(
                text,
                "{DIM}… and {more} more; `updraft dev check` shows all{DIM:#}"
            )?;
        }
        match errors {
            0 => out.status().write_all(&text)?,
            _ => out.complaint().write_all(&text)?,
        }
        Ok(())
    }
}

fn told(finding: &Finding) -> CheckFinding {
    CheckFinding {
        code: finding.rule.code().to_owned(),
        is_error: finding.level == Level::Error,
        file: finding.file.clone(),
        line: finding.place.line,
        column: finding.place.column,
        message: finding.message.clone(),
    }
}

/// Checks the syntax trees, for what the Release will run in; where that is not
/// known, for what the Dockerfile says. Blocks.
pub(super) fn statically(
    project: &Project,
    config: Option<&EnvironmentConfig>,
    scan: &Scan,
    cache: Option<PathBuf>,
) -> Result<Ran> {
    let began = Instant::now();
    let mut dag_check = match config {
        Some(config) => DagCheck::in_environment(project, config)?,
        None => DagCheck::of(project)?,
    };
    dag_check.cache = cache;
    let ignored = dag_check.ignored(scan)?;
    let checked = dag_check.run(&DagCheck::files(scan, &ignored))?;
    let mut ran = Ran::default();
    ran.add(CheckStage::Static, checked, began);
    Ok(ran)
}

/// What a deploy comes to whose checks failed.
pub(super) fn refuse(deploy: DeployView, out: &mut Console) -> Result<Outcome> {
    let name = deploy.deployment_name.clone();
    let mut text = out.complaint();
    writeln!(
        text,
        "{RED}error{RED:#}: the checks failed, so nothing was deployed: `{name}` stays as it is"
    )?;
    writeln!(
        text,
        "{GREEN}help{GREEN:#}: mend what is named above; `updraft dev check` looks again without deploying"
    )?;
    drop(text);
    let mut outcome = Outcome::new("check_failed", Exit::CheckFailed, name);
    outcome.deploy = Some(deploy);
    Ok(outcome)
}
