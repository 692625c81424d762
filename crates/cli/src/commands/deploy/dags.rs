//! Which DAGs a deploy would add, change and remove: both trees are parsed,
//! each in the environment that it is for.

use std::io::Write;

use updraft_api::deploy::ComparisonOutcome;
use updraft_check::parse::{ChangedDag, DagDiff, DagOf, Names};
use updraft_image::EnvironmentConfig;

use super::compare::Planned;
use super::create::Deploy;
use super::report::MOST_NAMES;
use crate::busy::busy;
use crate::checks::parse::Ask;
use crate::checks::wanted_tree::{self, Fetched};
use crate::checks::{host, names};
use crate::console::{Console, DIM, GREEN, RED, Step, YELLOW};
use crate::exit::Exit;
use crate::failure::{Failure, Result};
use crate::output::size::{count, things};
use crate::output::tame::tame_line;

/// The wanted Release, ready to be parsed.
struct Before {
    tree: Fetched,
    config: EnvironmentConfig,
}

impl Deploy<'_> {
    /// None where nothing changes, or the DAG files are not to be imported. What
    /// keeps them from it is said, and is no reason to have no plan.
    pub(super) async fn dags(
        &self,
        planned: &Planned,
        step: &mut Step,
        out: &mut Console,
    ) -> Result<Option<DagDiff>> {
        let changes = planned.comparison.outcome == ComparisonOutcome::Changes;
        // What an image changes is known when there is one.
        let only_planned = planned.changes_image && planned.runs_in.image.is_none();
        let are_known =
            planned.bundles.is_empty() || only_planned && planned.parts.bundles.is_empty();
        if !changes || !self.stages.parse || are_known {
            return Ok(None);
        }
        out.update(step, "finding which DAGs change");
        match Box::pin(self.parse_both(planned, step, out)).await {
            Ok(found) => Ok(Some(found)),
            Err(failure) if failure.exit == Exit::Interrupted => Err(failure),
            Err(failure) => {
                out.warn(&format!("its DAGs are not named: {}", failure.message));
                Ok(None)
            }
        }
    }

    async fn parse_both(
        &self,
        planned: &Planned,
        step: &mut Step,
        out: &mut Console,
    ) -> Result<DagDiff> {
        let cache = host::needed(self.cache.clone())?;
        let names = names::of_deployment(self.client, self.names_of).await?;
        let before = match &planned.comparison.wanted {
            Some(wanted) => Some(Before {
                tree: wanted_tree::fetch(
                    self.client,
                    self.deployment,
                    wanted,
                    self.project,
                    &cache,
                )
                .await?,
                config: self.runs(wanted).await?,
            }),
            None => None,
        };
        let config = planned.runs_in.config.clone().ok_or_else(|| {
            let why = if planned.changes_image {
                "they are imported in the image, and a plan builds none"
            } else {
                "the control plane has lost what the Release runs in"
            };
            Failure::new(Exit::Refused, why)
        })?;
        let now = self.ask(names, cache, out);
        let reach = planned.runs_in.reach.clone();
        busy(step, out, move |stop, say| {
            let before = match before {
                Some(before) => {
                    let laid_out = before.tree.lay_out(&now.project)?;
                    let ready = host::ready(before.config, &reach, &now.cache, stop, say)?;
                    let kept = host::folder(&now.cache, &now.project).join(Ask::KEPT);
                    let ask = Ask {
                        project: laid_out.project.clone(),
                        also_known: Some(kept),
                        ..now.clone()
                    };
                    Some(ask.parse(&ready, say)?)
                }
                None => None,
            };
            let ready = host::ready(config, &reach, &now.cache, stop, say)?;
            Ok(now.parse(&ready, say)?.dags_since(before.as_ref()))
        })
        .await
    }

    fn ask(&self, names: Names, cache: std::path::PathBuf, out: &Console) -> Ask {
        Ask {
            project: self.project.clone(),
            paths: Vec::new(),
            deployment: Some(self.deployment.clone()),
            names,
            cache,
            no_cache: false,
            also_known: None,
            aside: out.aside(),
        }
    }
}

/// Lists the DAGs, and the runs that go on meanwhile.
pub(super) fn write(
    dags: Option<&DagDiff>,
    planned: &Planned,
    to: &mut impl Write,
) -> std::io::Result<()> {
    if let Some(dags) = dags.filter(|dags| !dags.is_empty()) {
        writeln!(to, "DAGs:")?;
        write_list('+', &dags.added, to, described)?;
        write_list('~', &dags.changed, to, changes)?;
        write_list('-', &dags.removed, to, |dag| dag.dag.dag_id.clone())?;
        for file in dags.unknown.iter().take(MOST_NAMES) {
            writeln!(
                to,
                "  {YELLOW}?{YELLOW:#} `{}` cannot be imported here, so its DAGs are not known: \
                 `updraft dev parse` says why",
                tame_line(file)
            )?;
        }
    }
    if let Some(runs) = planned
        .comparison
        .runs
        .as_ref()
        .filter(|runs| runs.total > 0)
    {
        let named = runs
            .dags
            .iter()
            .take(MOST_NAMES)
            .map(|(dag, runs)| match runs {
                1 => format!("{dag}"),
                _ => format!("{dag} ({runs})"),
            });
        writeln!(
            to,
            "{} under way: {}",
            things(runs.total, "DAG run"),
            named.collect::<Vec<_>>().join(", ")
        )?;
        writeln!(to, "  {DIM}{}{DIM:#}", what_runs_keep(planned))?;
    }
    Ok(())
}

/// What a deploy means for the runs that are under way.
pub(super) fn what_runs_keep(planned: &Planned) -> String {
    let changes_dags = !planned.parts.bundles.is_empty();
    let is_airflow_2 = planned
        .runs_in
        .config
        .as_ref()
        .is_some_and(|config| config.fingerprint.airflow_version.major() < 3);
    let code = match (changes_dags, is_airflow_2) {
        (false, _) => "they keep their code",
        (true, false) => "they keep the code that they began with",
        (true, true) => "their next tasks run the new code, as always with Airflow 2",
    };
    let image = if planned.changes_image {
        "; what runs now ends in the old image, later tasks start in the new one"
    } else {
        ""
    };
    format!("{code}{image}")
}

fn write_list<T>(
    mark: char,
    dags: &[T],
    to: &mut impl Write,
    text: impl Fn(&T) -> String,
) -> std::io::Result<()> {
    let colour = match mark {
        '+' => GREEN,
        '~' => YELLOW,
        _ => RED,
    };
    for dag in dags.iter().take(MOST_NAMES) {
        writeln!(to, "  {colour}{mark}{colour:#} {}", tame_line(&text(dag)))?;
    }
    if let Some(more) = dags.len().checked_sub(MOST_NAMES).filter(|more| *more > 0) {
        let more = count(more as u64);
        writeln!(
            to,
            "  {colour}{mark}{colour:#} {DIM}… and {more} more{DIM:#}"
        )?;
    }
    Ok(())
}

/// `sales: @daily, 3 tasks`
pub(super) fn described(dag: &DagOf) -> String {
    let dag = &dag.dag;
    format!(
        "{}: {}, {}",
        dag.dag_id,
        dag.schedule.as_deref().unwrap_or("no schedule"),
        things(dag.tasks.len() as u64, "task")
    )
}

/// `sales: schedule @daily → @hourly; task +load; task -extract`
pub(super) fn changes(dag: &ChangedDag) -> String {
    let mut parts = Vec::new();
    if let Some(from) = &dag.moved_from {
        parts.push(format!("moved from {from} to {}", dag.file));
    }
    if let Some(change) = &dag.schedule {
        let named = |schedule: &Option<String>| schedule.clone().unwrap_or("none".into());
        let (from, to) = (named(&change.from), named(&change.to));
        parts.push(format!("schedule {from} → {to}"));
    }
    for (mark, tasks) in [('+', &dag.tasks_added), ('-', &dag.tasks_removed)] {
        let some = tasks.iter().take(MOST_TASKS);
        let some: Vec<String> = some.map(|task| format!("{mark}{task}")).collect();
        if let Some(more) = tasks.len().checked_sub(MOST_TASKS).filter(|more| *more > 0) {
            parts.push(format!("tasks {} and {more} more", some.join(" ")));
        } else if !some.is_empty() {
            let what = if some.len() == 1 { "task" } else { "tasks" };
            parts.push(format!("{what} {}", some.join(" ")));
        }
    }
    if parts.is_empty() {
        parts.push("its code".into());
    }
    format!("{}: {}", dag.dag_id, parts.join("; "))
}

/// Tasks of one DAG that are named.
const MOST_TASKS: usize = 8;
