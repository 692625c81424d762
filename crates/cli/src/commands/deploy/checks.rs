//! The checks of a deploy. They run beside its upload, and nothing is accepted
//! before they are done.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use updraft_api::deploy::DeployView;
use updraft_bundle::Scan;
use updraft_check::parse::Names;
use updraft_check::{Checked, Finding, Installed, Level, Levels};
use updraft_image::{EnvironmentConfig, Stop};
use updraft_model::{
    BundleName, CheckFinding, CheckStage, Checks, DeploymentName, Digest, StageResult,
};
use updraft_project::Project;

use super::report::Outcome;
use crate::checks::dag_check::{DagCheck, installed};
use crate::checks::elsewhere::Asked;
use crate::checks::findings::write_finding;
use crate::checks::host::Runs;
use crate::checks::pytest::{self, Tests};
use crate::checks::reach::Reach;
use crate::checks::{host, parse};
use crate::console::{Aside, Console, DIM, GREEN, RED};
use crate::exit::Exit;
use crate::failure::{Failure, Result};
use crate::output::size::things;
use crate::output::tame::tame_line;
use crate::scan;

/// Findings that are printed before the rest is only counted.
const MOST_PRINTED: usize = 10;

/// How the stages went that have run.
#[derive(Debug, Default)]
pub(super) struct Ran {
    pub(super) stages: BTreeMap<CheckStage, StageResult>,
    findings: Vec<Finding>,
    /// What could not be checked, and why.
    notes: Vec<String>,
    /// What the tests printed, where any failed.
    tests_said: String,
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
            seconds: seconds_since(began),
            notes: checked.notes.clone(),
            findings: errors
                .chain(others)
                .take(StageResult::MOST_FINDINGS)
                .map(told)
                .collect(),
        };
        self.stages.insert(stage, result);
        self.findings.extend(checked.findings);
        self.notes.extend(checked.notes);
    }

    /// Adds to the record what whoever deploys knows already.
    fn record(&mut self, stage: CheckStage, note: Option<String>) {
        if let Some(result) = self.stages.get_mut(&stage) {
            result.notes.extend(note);
        }
    }

    fn add_tests(&mut self, tests: Tests, began: Instant) {
        let result = StageResult {
            checked: tests.run,
            errors: tests.failed.len() as u64,
            warnings: 0,
            seconds: seconds_since(began),
            findings: tests.failed,
            notes: Vec::new(),
        };
        self.tests_said = tests.said;
        self.stages.insert(CheckStage::Pytest, result);
    }

    /// What the control plane is told.
    pub(super) fn claim(
        self,
        bundles: BTreeMap<BundleName, Digest>,
        environment: Option<Digest>,
    ) -> Checks {
        Checks {
            tool: format!("updraft {}", updraft_api::VERSION),
            claimed_by: String::new(),
            bundles,
            environment,
            stages: self.stages,
        }
    }

    /// Says how it went: `✓ checked 12 DAG files`, and what was found.
    pub(super) fn say(&self, began: Instant, out: &mut Console) -> Result<()> {
        let errors: u64 = self.stages.values().map(|stage| stage.errors).sum();
        let warnings: u64 = self.stages.values().map(|stage| stage.warnings).sum();
        let many = |stage| self.stages.get(&stage).map(|result| result.checked);
        let mut what = things(many(CheckStage::Static).unwrap_or(0), "DAG file");
        if self.stages.contains_key(&CheckStage::Parse) {
            what.push_str(", each parsed");
        }
        if let Some(tests) = many(CheckStage::Pytest) {
            what = format!("{what}, {}", things(tests, "test"));
        }
        if errors == 0 {
            let found = match warnings {
                0 => String::new(),
                some => format!(": {}", things(some, "warning")),
            };
            out.mark(&format!("checked {what}{found}"), began.elapsed());
        }
        for note in &self.notes {
            out.warn(note);
        }
        let mut sorted: Vec<&Finding> = self.findings.iter().collect();
        sorted.sort_by_key(|finding| finding.level != Level::Error);
        let mut text = self.tests_said.clone().into_bytes();
        for finding in sorted.iter().take(MOST_PRINTED) {
            write_finding(finding, false, &mut text)?;
        }
        if let Some(more) = sorted.len().checked_sub(MOST_PRINTED).filter(|it| *it > 0) {
            writeln!(
                text,
                "{DIM}… and {more} more; `{}` shows all{DIM:#}",
                by_itself(last(&self.stages))
            )?;
        }
        match errors {
            0 => out.status().write_all(&text)?,
            _ => out.complaint().write_all(&text)?,
        }
        Ok(())
    }
}

fn seconds_since(began: Instant) -> f64 {
    (began.elapsed().as_secs_f64() * 1000.0).round() / 1000.0
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

/// The flags of a deploy.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Checks")]
pub(crate) struct ChecksArgs {
    /// Import every DAG file before, in the Deployment's environment (the default)
    #[arg(long, overrides_with = "no_parse")]
    parse: bool,

    /// Do not import the DAG files before; what the Deployment requires is done still
    #[arg(long)]
    no_parse: bool,

    /// Run the project's tests before
    #[arg(long)]
    pytest: bool,
}

impl ChecksArgs {
    /// What they say, and `updraft.toml` where they say nothing.
    pub(super) fn stages(&self, project: &Project) -> Stages {
        let settings = &project.settings().check;
        Stages {
            parse: self.parse || (!self.no_parse && settings.parse.unwrap_or(true)),
            pytest: self.pytest || settings.pytest.unwrap_or(false),
        }
    }
}

/// Which stages run besides the static check, which always does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Stages {
    pub(crate) parse: bool,
    pub(crate) pytest: bool,
}

/// What is checked, and in what.
pub(super) struct Job {
    pub(super) project: Project,
    pub(super) deployment: DeploymentName,
    pub(super) scan: Arc<Scan>,
    /// What the Release will run in; none: not known, since the control plane
    /// has lost it.
    pub(super) config: Option<EnvironmentConfig>,
    /// How its image is had, where it is one.
    pub(super) reach: Reach,
    pub(super) stages: Stages,
    pub(super) names: Names,
    /// The ids of bundles that stay; none: none stays.
    pub(super) elsewhere: Option<Asked>,
    pub(super) cache: Option<PathBuf>,
    pub(super) aside: Aside,
}

impl Job {
    /// Runs the stages one after another, until one finds an error. Blocks.
    pub(super) fn run(mut self, stop: &Stop, say: &dyn Fn(&str)) -> Result<Ran> {
        let mut ran = Ran::default();
        let began = Instant::now();
        let (checked, lowered) = self.statically(stop)?;
        ran.add(CheckStage::Static, checked, began);
        ran.record(CheckStage::Static, lowered);
        if !ran.passed() || self.stages == Stages::NONE {
            self.refuse_what_changed()?;
            return Ok(ran);
        }
        let cache = host::needed(self.cache.clone())
            .map_err(|failure| failure.or_help("or deploy with --no-parse"))?;
        let config = self.config.clone().ok_or_else(|| {
            Failure::new(
                Exit::Refused,
                "the control plane has lost what the Release runs in",
            )
            .help("deploy with --no-parse, so that only Airflow itself checks the files")
        })?;
        let ready = host::ready(config, &self.reach, &cache, stop, say)
            .map_err(|failure| failure.or_help("or deploy with --no-parse"))?;
        if self.stages.parse {
            let began = Instant::now();
            let ask = parse::Ask {
                project: self.project.clone(),
                paths: Vec::new(),
                deployment: Some(self.deployment.clone()),
                names: self.names.clone(),
                cache: cache.clone(),
                no_cache: false,
                also_known: None,
                aside: self.aside.clone(),
            };
            ran.add(CheckStage::Parse, ask.parse(&ready, say)?.checked, began);
        }
        if self.stages.pytest && ran.passed() {
            say("running the project's tests");
            let began = Instant::now();
            let tests = pytest::captured(&self.project, &ready, &cache, stop)?;
            ran.add_tests(tests, began);
            ran.record(CheckStage::Pytest, ready.note.clone());
        }
        self.refuse_what_changed()?;
        Ok(ran)
    }

    /// Files are imported from where people edit them, and what was checked has
    /// to be what is sent.
    fn refuse_what_changed(&self) -> Result<()> {
        let now = scan::dags(&self.project, self.cache.as_deref())?;
        let is_same = match &now {
            Some(now) => now.manifest() == self.scan.manifest(),
            None => self.scan.entries().is_empty(),
        };
        if is_same {
            return Ok(());
        }
        Err(Failure::new(
            Exit::Refused,
            "files in `dags/` changed while they were checked",
        )
        .code("changed")
        .help("deploy again when nothing writes there"))
    }

    /// Checks the syntax trees, for what the Release will run in; where that is
    /// not known, for what the Dockerfile says. Also says which rules weigh less
    /// than by default.
    fn statically(&mut self, stop: &Stop) -> Result<(Checked, Option<String>)> {
        let aside = self.aside.clone();
        let elsewhere = self.elsewhere.take();
        let mut dag_check = match &self.config {
            Some(config) => DagCheck::in_environment(&self.project, &Runs::of(config), aside)?,
            None => DagCheck::of(&self.project, aside)?,
        };
        dag_check.elsewhere = elsewhere;
        dag_check.stop = stop.clone();
        dag_check.cache.clone_from(&self.cache);
        dag_check.tools.clone_from(&self.cache);
        if let Some(config) = &self.config {
            // What was made before knows all modules, its lock those of providers. It
            // is not made for this alone: whoever parses imports everything anyway.
            let made = self
                .cache
                .as_ref()
                .and_then(|cache| host::made(config, cache));
            dag_check.installed = Some(match made {
                Some(made) => installed(&made)?,
                None => Installed::providers_among(config.lock.versions().into_keys()),
            });
        }
        let ignored = dag_check.ignored(&self.scan)?;
        let mut checked = dag_check.run(&DagCheck::files(&self.scan, &ignored))?;
        checked.notes.extend(ignored.notes().iter().cloned());
        let mut links = self.scan.to_folders().iter();
        if let Some(link) = links.find(|link| !ignored.leaves_out(link, true)) {
            checked.notes.push(format!(
                "the link `{}` leads to a folder that Airflow also finds by itself, and then its DAG processor \
                 ends: name one of them in `.airflowignore`",
                tame_line(link)
            ));
        }
        Ok((checked, lowered(dag_check.levels())))
    }
}

impl Stages {
    pub(crate) const NONE: Self = Self {
        parse: false,
        pytest: false,
    };

    /// With what the Deployment insists on.
    pub(super) fn and(self, require: &[CheckStage]) -> Self {
        Self {
            parse: self.parse || require.contains(&CheckStage::Parse),
            pytest: self.pytest || require.contains(&CheckStage::Pytest),
        }
    }
}

fn lowered(levels: &Levels) -> Option<String> {
    let rules: Vec<_> = levels
        .lowered()
        .map(|(rule, level)| match level {
            Level::Off => format!("{rule} is off"),
            Level::Warning | Level::Error => format!("{rule} is a {level}"),
        })
        .collect();
    (!rules.is_empty()).then(|| format!("by `updraft.toml`, {}", rules.join(", ")))
}

/// The stage that was reached: none follows one that failed.
fn last(stages: &BTreeMap<CheckStage, StageResult>) -> CheckStage {
    stages
        .keys()
        .next_back()
        .copied()
        .unwrap_or(CheckStage::Static)
}

/// The command that runs a stage without deploying.
const fn by_itself(stage: CheckStage) -> &'static str {
    match stage {
        CheckStage::Static => "updraft dev check",
        CheckStage::Parse => "updraft dev parse",
        CheckStage::Pytest => "updraft dev pytest",
    }
}

/// What a deploy comes to whose checks failed.
pub(super) fn refuse(
    deploy: DeployView,
    stages: &BTreeMap<CheckStage, StageResult>,
    out: &mut Console,
) -> Result<Outcome> {
    let name = deploy.deployment_name.clone();
    let again = by_itself(last(stages));
    let mut text = out.complaint();
    writeln!(
        text,
        "{RED}error{RED:#}: the checks failed, so nothing was deployed: `{name}` stays as it is"
    )?;
    writeln!(
        text,
        "{GREEN}help{GREEN:#}: mend what is named above; `{again}` looks again without deploying"
    )?;
    drop(text);
    let mut outcome = Outcome::new("check_failed", Exit::CheckFailed, name);
    outcome.deploy = Some(deploy);
    Ok(outcome)
}
