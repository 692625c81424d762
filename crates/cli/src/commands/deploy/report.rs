//! What a deploy came to: as text, and as the JSON object of `-o json`.

use std::collections::BTreeMap;
use std::io::Write;
use std::time::Duration;

use serde::Serialize;
use updraft_api::deploy::{DeployView, FileChanges};
use updraft_check::parse::DagDiff;
use updraft_ci::comment::Posted;
use updraft_model::{
    CheckStage, DagChanges, DeployState, DeploymentName, Failure, ImportError, Proof, ReleasePart,
    StageResult, UnfinishedRuns,
};

use super::follow::Ending;
use crate::console::{BOLD, Console, DIM, GREEN, RED, YELLOW};
use crate::exit::Exit;
use crate::output::deploy_ref;
use crate::output::size::{bytes, count, things};
use crate::output::tame::tame_line;
use crate::output::time::duration;
use crate::preview::Opened;

/// Names that are listed before the rest is only counted.
pub(super) const MOST_NAMES: usize = 20;

/// The object that `deploy`, `rollback` and their plans print.
#[derive(Debug, Serialize)]
#[expect(clippy::struct_field_names, reason = "scripts ask for `outcome`")]
pub(crate) struct Outcome {
    /// `live`, `nothing_to_do`, `accepted`, `planned`, `failed`, `timed_out`, `superseded`,
    /// `rolled_back`, `expired`, `check_failed`, `no_agent`, `interrupted` or `lost`.
    pub(crate) outcome: &'static str,
    pub(crate) exit: Exit,
    pub(crate) exit_code: u8,
    pub(crate) deployment: DeploymentName,
    /// Files of DAG bundles that differ from what was wanted before.
    pub(crate) files: FileChanges,
    /// DAGs that would be added, changed and removed; only of a plan.
    pub(crate) planned_dags: Option<DagDiff>,
    /// DAG runs under way; only of a plan.
    pub(crate) runs: Option<UnfinishedRuns>,
    /// DAGs as Airflow counts them; only where there is a proof.
    pub(crate) dags: Option<DagChanges>,
    pub(crate) import_errors: Vec<ImportError>,
    /// `kept`, or `made` from this project.
    pub(crate) environment: &'static str,
    /// Why it was made; empty for a Deployment's first one.
    pub(crate) image_changes: Vec<String>,
    /// What differs in the image half, which a DAG deploy leaves as it is.
    pub(crate) image_differs: Vec<String>,
    pub(crate) sent: Option<Sent>,
    /// How each check went that was run.
    pub(crate) checks: BTreeMap<CheckStage, StageResult>,
    /// What became of the comment on the pull request; only of a plan.
    pub(crate) comment: Option<Posted>,
    /// The Preview that it went to.
    pub(crate) preview: Option<Opened>,
    pub(crate) timings_ms: Timings,
    pub(crate) deploy: Option<DeployView>,
}

/// How much went over the wire, of how much there is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub(crate) struct Sent {
    pub(crate) files: u64,
    pub(crate) of_files: u64,
    pub(crate) bytes: u64,
    pub(crate) of_bytes: u64,
    pub(crate) layers: u64,
    pub(crate) of_layers: u64,
}

/// Since the command began.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub(crate) struct Timings {
    pub(crate) scanned: Option<u64>,
    pub(crate) accepted: Option<u64>,
    pub(crate) on_disk: Option<u64>,
    pub(crate) parsed: Option<u64>,
    pub(crate) total: u64,
}

impl Timings {
    /// Reads the later times from the deploy. They are the control plane's, so
    /// they are put after our own time of acceptance.
    pub(crate) fn add_deploy(&mut self, deploy: &DeployView) {
        let Some((accepted, accepted_at)) = self.accepted.zip(deploy.accepted_at) else {
            return;
        };
        let after = |at: Option<updraft_model::Timestamp>| {
            let ms = (at? - accepted_at).num_milliseconds();
            Some(accepted + u64::try_from(ms).unwrap_or(0))
        };
        self.on_disk = after(deploy.on_disk_at);
        if matches!(deploy.state, DeployState::Live { .. }) {
            self.parsed = after(deploy.ended_at);
        }
    }
}

pub(crate) fn milliseconds(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

impl Outcome {
    pub(crate) fn new(outcome: &'static str, exit: Exit, deployment: DeploymentName) -> Self {
        Self {
            outcome,
            exit,
            exit_code: exit.code(),
            deployment,
            files: FileChanges::default(),
            planned_dags: None,
            runs: None,
            dags: None,
            import_errors: Vec::new(),
            environment: "kept",
            image_changes: Vec::new(),
            image_differs: Vec::new(),
            sent: None,
            checks: BTreeMap::new(),
            comment: None,
            preview: None,
            timings_ms: Timings::default(),
            deploy: None,
        }
    }

    /// Says what becomes of the image half.
    pub(super) fn image(&mut self, is_made: bool, differs: Vec<String>) {
        if is_made {
            self.environment = "made";
            self.image_changes = differs;
        } else {
            self.image_differs = differs;
        }
    }

    /// For a deploy that was followed to its end.
    pub(crate) fn of(deploy: DeployView, ending: &Ending) -> Self {
        let mut outcome = Self::new(
            ending.outcome(),
            ending.exit(),
            deploy.deployment_name.clone(),
        );
        if let Some(proof) = proof(&deploy) {
            outcome.dags = Some(proof.dags.clone());
            outcome.import_errors.clone_from(&proof.import_errors);
        }
        outcome.files = merged(deploy.files.values());
        outcome.deploy = Some(deploy);
        outcome
    }

    /// Says what happened to people, and gives the exit code.
    pub(crate) fn say(&self, ending: &Ending, out: &mut Console) -> crate::failure::Result<Exit> {
        if let Some(deploy) = &self.deploy {
            let mut text = Vec::new();
            write(self, deploy, ending, &mut text)?;
            match self.exit {
                Exit::Success => out.status().write_all(&text)?,
                _ => out.complaint().write_all(&text)?,
            }
        }
        Ok(self.exit)
    }

    /// Says what happened, where it was followed to an end, and prints the result.
    pub(crate) fn print(
        &self,
        ending: Option<&Ending>,
        out: &mut Console,
    ) -> crate::failure::Result<Exit> {
        if let Some(ending) = ending {
            self.say(ending, out)?;
        }
        self.print_result(out)
    }

    /// Prints the result alone: the deploy's id, which a terminal has shown in
    /// short, or all of it as JSON.
    pub(crate) fn print_result(&self, out: &mut Console) -> crate::failure::Result<Exit> {
        if out.is_json() {
            out.json(self)?;
        } else if let Some(deploy) = &self.deploy
            && !out.is_read_by_people()
        {
            writeln!(out.data(), "{}", deploy.id)?;
        }
        Ok(self.exit)
    }
}

/// For what is live already.
pub(crate) fn nothing_to_do(
    deploy: DeployView,
    out: &mut Console,
) -> crate::failure::Result<Outcome> {
    let name = &deploy.deployment_name;
    writeln!(
        out.status(),
        "Nothing to do: `{name}` runs exactly this since {}",
        deploy_ref::short(deploy.id)
    )?;
    let mut outcome = Outcome::new("nothing_to_do", Exit::Success, name.clone());
    outcome.dags = proof(&deploy).map(|proof| DagChanges {
        total: proof.dags.total,
        ..DagChanges::default()
    });
    outcome.deploy = Some(deploy);
    Ok(outcome)
}

pub(crate) fn has_changed_image(deploy: &DeployView) -> bool {
    deploy.changed.contains(&ReleasePart::Image)
}

pub(crate) fn is_empty(files: &FileChanges) -> bool {
    files.added.is_empty() && files.changed.is_empty() && files.removed.is_empty()
}

/// Changes of several bundles in one list.
pub(crate) fn merged<'a>(changes: impl IntoIterator<Item = &'a FileChanges>) -> FileChanges {
    let mut all = FileChanges::default();
    for change in changes {
        all.added.extend_from_slice(&change.added);
        all.changed.extend_from_slice(&change.changed);
        all.removed.extend_from_slice(&change.removed);
    }
    all
}

fn failure(deploy: &DeployView) -> Option<&Failure> {
    match &deploy.state {
        DeployState::Failed { failure, .. } => Some(failure),
        _ => deploy.failure.as_ref(),
    }
}

/// What Airflow answered, whether good or bad.
pub(crate) fn proof(deploy: &DeployView) -> Option<&Proof> {
    match &deploy.state {
        DeployState::Live { proof, .. } => Some(proof),
        _ => match failure(deploy)? {
            Failure::ImportErrors { proof } => Some(proof),
            Failure::Agent { .. } => None,
        },
    }
}

fn write(
    outcome: &Outcome,
    deploy: &DeployView,
    ending: &Ending,
    to: &mut impl Write,
) -> std::io::Result<()> {
    if let Some(proof) = proof(deploy) {
        write_proof(outcome, proof, ending, to)?;
    }
    for host in &deploy.agents_lost {
        writeln!(
            to,
            "{YELLOW}warning{YELLOW:#}: the agent on {host} is not connected; it follows when it is"
        )?;
    }
    write_ending(outcome, deploy, ending, to)
}

fn write_proof(
    outcome: &Outcome,
    proof: &Proof,
    ending: &Ending,
    to: &mut impl Write,
) -> std::io::Result<()> {
    if *ending == Ending::Live && proof.affected == 0 {
        writeln!(
            to,
            "{GREEN}✓{GREEN:#} no DAG file is affected, so there was nothing to parse"
        )?;
    } else if *ending == Ending::Live {
        writeln!(
            to,
            "{GREEN}✓{GREEN:#} parsed by Airflow: {} of {} {DIM}({}){DIM:#}",
            count(proof.parsed),
            things(proof.files, "DAG file"),
            duration(Duration::from_millis(proof_time(outcome))),
        )?;
    }
    if *ending == Ending::Live || !is_same(&proof.dags) {
        write_dags(&proof.dags, to)?;
    }
    for file in &proof.silent {
        writeln!(
            to,
            "{YELLOW}warning{YELLOW:#}: `{file}` gave neither a DAG nor an error"
        )?;
    }
    let old = proof
        .import_errors
        .iter()
        .filter(|error| !error.new)
        .count();
    if old > 0 {
        let errors = things(old as u64, "import error");
        writeln!(
            to,
            "{YELLOW}warning{YELLOW:#}: {errors} that this deploy did not bring; see `updraft status`"
        )?;
    }
    Ok(())
}

fn write_ending(
    outcome: &Outcome,
    deploy: &DeployView,
    ending: &Ending,
    to: &mut impl Write,
) -> std::io::Result<()> {
    let id = deploy_ref::short(deploy.id);
    let name = &deploy.deployment_name;
    let total = duration(Duration::from_millis(outcome.timings_ms.total));
    match ending {
        Ending::Live => writeln!(
            to,
            "{GREEN}{BOLD}Live{BOLD:#}{GREEN:#} on `{name}` after {total}"
        ),
        Ending::Failed => {
            write_failure(deploy, to)?;
            writeln!(
                to,
                "{GREEN}help{GREEN:#}: mend it and deploy again, or `updraft rollback {name}`; the new Release stays until then"
            )
        }
        Ending::RolledBack => {
            // Somebody may have been quicker than the proof.
            match failure(deploy) {
                Some(_) => write_failure(deploy, to)?,
                None => writeln!(to, "{RED}error{RED:#}: {id} did not get proven")?,
            }
            let by = match &deploy.state {
                DeployState::RolledBack { by, .. } => format!(" by {}", deploy_ref::short(*by)),
                _ => String::new(),
            };
            writeln!(
                to,
                "It was taken back{by}: `{name}` goes back to the Release before"
            )
        }
        Ending::TimedOut => {
            writeln!(to, "{RED}error{RED:#}: time ran out before {id} was proven")?;
            if let DeployState::TimedOut { seen, not_seen, .. } = &deploy.state {
                for (what, text) in [("seen", seen), ("not seen", not_seen)] {
                    if !text.is_empty() {
                        writeln!(to, "  {what}: {text}")?;
                    }
                }
            }
            writeln!(
                to,
                "{GREEN}help{GREEN:#}: it is still wanted and becomes live or failed when there is evidence: `updraft status {name}`"
            )
        }
        Ending::OutOfPatience => {
            writeln!(
                to,
                "{RED}error{RED:#}: {id} is not proven after {total}, the time that was given"
            )?;
            writeln!(
                to,
                "{GREEN}help{GREEN:#}: it goes on without this command: `updraft status {name}`"
            )
        }
        Ending::Superseded => {
            let by = match &deploy.state {
                DeployState::Superseded { by, .. } => deploy_ref::short(*by),
                _ => "a later one".to_owned(),
            };
            writeln!(
                to,
                "{RED}error{RED:#}: {by} took the place of {id} before it was proven"
            )?;
            writeln!(
                to,
                "{GREEN}help{GREEN:#}: `updraft history {name}` shows both"
            )
        }
        Ending::Expired => {
            writeln!(
                to,
                "{RED}error{RED:#}: {id} was never sent whole and has expired"
            )?;
            writeln!(to, "{GREEN}help{GREEN:#}: deploy again")
        }
        Ending::NoAgent => {
            writeln!(
                to,
                "{RED}error{RED:#}: {id} is accepted, but no agent of `{name}` is connected"
            )?;
            writeln!(
                to,
                "{GREEN}help{GREEN:#}: it goes live when one connects: `updraft agent` on Airflow's host, after `updraft agent invite {name}`"
            )
        }
        Ending::Lost(cause) => write_lost(deploy, cause, to),
        Ending::Interrupted => {
            writeln!(
                to,
                "{YELLOW}interrupted{YELLOW:#}: {id} is accepted and goes on without this command"
            )?;
            writeln!(
                to,
                "{GREEN}help{GREEN:#}: `updraft status {name}` shows how; the same command again waits for it"
            )
        }
    }
}

fn write_lost(
    deploy: &DeployView,
    cause: &crate::failure::Failure,
    to: &mut impl Write,
) -> std::io::Result<()> {
    writeln!(to, "{RED}error{RED:#}: {}", cause.message)?;
    for cause in &cause.causes {
        writeln!(to, "  {DIM}because{DIM:#}: {cause}")?;
    }
    writeln!(
        to,
        "{GREEN}help{GREEN:#}: {} is accepted and goes on without this command: `updraft status {}`",
        deploy_ref::short(deploy.id),
        deploy.deployment_name
    )
}

/// How long the parsing took: from the switch to the end.
fn proof_time(outcome: &Outcome) -> u64 {
    let timings = &outcome.timings_ms;
    match (timings.on_disk, timings.parsed) {
        (Some(on_disk), Some(parsed)) => parsed.saturating_sub(on_disk),
        _ => timings.total,
    }
}

pub(crate) fn write_failure(deploy: &DeployView, to: &mut impl Write) -> std::io::Result<()> {
    let id = deploy_ref::short(deploy.id);
    match failure(deploy) {
        Some(Failure::ImportErrors { proof }) => {
            let new: Vec<_> = proof.new_import_errors().collect();
            for error in &new {
                writeln!(to, "{RED}{BOLD}{}{BOLD:#}{RED:#}", error.file)?;
                for line in error.traceback.trim_end().lines() {
                    writeln!(to, "  {line}")?;
                }
            }
            let files = things(new.len() as u64, "file");
            writeln!(
                to,
                "{RED}error{RED:#}: {id} failed: Airflow cannot import {files}"
            )
        }
        Some(Failure::Agent { message }) => {
            writeln!(to, "{RED}error{RED:#}: {id} failed: {message}")
        }
        None => writeln!(to, "{RED}error{RED:#}: {id} failed"),
    }
}

fn is_same(dags: &DagChanges) -> bool {
    dags.added.is_empty() && dags.changed.is_empty() && dags.removed.is_empty()
}

pub(crate) fn write_dags(dags: &DagChanges, to: &mut impl Write) -> std::io::Result<()> {
    writeln!(
        to,
        "  DAGs: {} added, {} changed, {} removed; {} in all",
        dags.added.len(),
        dags.changed.len(),
        dags.removed.len(),
        count(dags.total),
    )?;
    write_names(&dags.added, &dags.changed, &dags.removed, "    ", to)
}

/// `+ added`, `~ changed`, `- removed`, up to a number of each.
pub(crate) fn write_names(
    added: &[String],
    changed: &[String],
    removed: &[String],
    indent: &str,
    to: &mut impl Write,
) -> std::io::Result<()> {
    for (mark, colour, names) in [
        ("+", GREEN, added),
        ("~", YELLOW, changed),
        ("-", RED, removed),
    ] {
        for name in names.iter().take(MOST_NAMES) {
            let name = tame_line(name);
            writeln!(to, "{indent}{colour}{mark}{colour:#} {name}")?;
        }
        if names.len() > MOST_NAMES {
            let more = count((names.len() - MOST_NAMES) as u64);
            writeln!(to, "{indent}{colour}{mark}{colour:#} … and {more} more")?;
        }
    }
    Ok(())
}

/// `- include/a.py: changed`, up to a number of them.
pub(crate) fn write_some(differences: &[String], to: &mut impl Write) -> std::io::Result<()> {
    for difference in differences.iter().take(MOST_NAMES) {
        writeln!(to, "  {DIM}-{DIM:#} {}", tame_line(difference))?;
    }
    if differences.len() > MOST_NAMES {
        let more = count((differences.len() - MOST_NAMES) as u64);
        writeln!(to, "  {DIM}-{DIM:#} … and {more} more")?;
    }
    Ok(())
}

/// `1 file added, 2 changed, 3 removed`.
pub(crate) fn summary(files: &FileChanges) -> String {
    let lists = [
        (&files.added, "added"),
        (&files.changed, "changed"),
        (&files.removed, "removed"),
    ];
    let mut parts: Vec<String> = Vec::new();
    for (list, what) in lists {
        if !list.is_empty() {
            let number = if parts.is_empty() {
                things(list.len() as u64, "file")
            } else {
                count(list.len() as u64)
            };
            parts.push(format!("{number} {what}"));
        }
    }
    if parts.is_empty() {
        "no file differs".to_owned()
    } else {
        parts.join(", ")
    }
}

pub(crate) fn sent_text(sent: &Sent) -> String {
    if sent.of_files == 0 && sent.layers == 0 {
        return "nothing to send".into();
    }
    if sent.layers == 0 {
        return format!(
            "nothing to send; the control plane has all {}",
            things(sent.of_files, "file")
        );
    }
    format!(
        "sent {} of {} in {} of {} ({} of {})",
        bytes(sent.bytes),
        bytes(sent.of_bytes),
        sent.layers,
        things(sent.of_layers, "layer"),
        count(sent.files),
        things(sent.of_files, "file"),
    )
}
