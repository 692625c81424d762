//! What users rely on, each time with the real binary and a real Airflow.
//!
//! Starting Airflow takes most of a minute, so the scenarios of a group share
//! one installation and run one after the other, each with DAGs of its own.
//! Groups know nothing of each other: `scripts/test` runs them side by side by
//! giving each process one group's name as its filter.
#![allow(clippy::unwrap_used, reason = "a test that fails says where")]

mod checks;
mod deploys;
mod external;
mod halves;
mod kill;
mod previews;
mod processes;
mod releases;
mod runs;

use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Result, ensure};
use libtest_mimic::{Arguments, Failed, Trial};
use serde_json::Value;
use updraft_e2e::{Airflow, Installation};
use updraft_testkit::{Postgres, Redis};

type Scenario = fn(&mut Installation, &Airflow) -> Result<()>;

struct Group {
    name: &'static str,
    start: fn() -> Result<Installation>,
    scenarios: &'static [&'static [(&'static str, Scenario)]],
}

macro_rules! scenarios {
    ($($module:ident::$name:ident),* $(,)?) => {
        &[$((stringify!($name), $module::$name)),*]
    };
}

/// What every release of Airflow has to get right; in the newest they are
/// scenarios among others, of the group `runs`.
const ON_EACH_RELEASE: &[(&str, Scenario)] = scenarios![
    releases::the_project_of_dev_init_runs,
    releases::airflows_own_examples_pass_the_check,
    releases::an_added_task_is_there_when_live_is_printed,
    releases::a_changed_helper_changes_the_dags_that_import_it,
    releases::a_changed_function_body_runs_next,
    releases::a_run_ends_on_the_code_it_began_with,
    releases::an_import_error_fails_the_deploy_and_a_rollback_mends_it,
];

const GROUPS: &[Group] = &[
    Group {
        name: "deploys",
        start: || Installation::start("3.3.2"),
        scenarios: &[scenarios![
            deploys::also_when_the_old_version_was_being_parsed,
            deploys::two_deploys_within_five_seconds_are_both_recorded,
            deploys::a_removed_file_takes_its_dag_away,
            deploys::an_import_error_fails_the_deploy_and_stays_red,
            deploys::what_a_failed_deploy_broke_does_not_fail_another_change,
            deploys::an_old_import_error_does_not_fail_another_change,
            deploys::a_rollback_brings_the_old_release_back,
            deploys::what_another_deployment_has_is_promoted_to_it,
            deploys::the_policy_rollback_takes_a_failed_deploy_back,
            deploys::only_what_the_change_can_affect_is_parsed,
            deploys::a_changed_file_that_yields_nothing_is_named,
            deploys::time_that_runs_out_is_said_and_late_evidence_counts,
            deploys::airflows_own_examples_are_all_parsed,
            deploys::a_failing_deploy_is_taken_back_and_another_part_that_came_meanwhile_stays,
        ]],
    },
    Group {
        name: "runs",
        start: || Installation::start("3.3.2"),
        scenarios: &[
            ON_EACH_RELEASE,
            scenarios![
                runs::dag_code_reads_no_secret,
                runs::a_task_cannot_change_the_live_files,
                runs::variables_of_the_deployment_reach_tasks_and_no_log,
                runs::a_version_stays_as_long_as_a_run_needs_it,
                runs::a_cleared_run_gets_its_version_back,
                processes::another_database_of_airflows_is_taken_at_a_restart,
            ],
        ],
    },
    Group {
        name: "checks",
        start: || Installation::start("3.3.2"),
        scenarios: &[scenarios![
            checks::broken_files_are_each_told_by_their_rule,
            checks::a_deploy_that_does_not_parse_changes_nothing,
            checks::an_id_that_another_bundle_has_changes_nothing,
            checks::tests_run_in_the_deployments_environment,
            checks::what_is_required_runs_also_when_it_is_not_asked_for,
        ]],
    },
    Group {
        name: "halves",
        start: || Installation::start("3.3.2"),
        scenarios: &[scenarios![
            halves::a_plan_names_the_dags_that_change_and_the_runs_that_go_on,
            halves::a_task_runs_on_across_an_image_deploy,
            halves::a_rollback_brings_both_halves_back,
            halves::a_changed_file_of_the_image_reinstalls_nothing,
            halves::a_requirement_that_cannot_be_had_changes_nothing,
            halves::an_image_is_tried_before_anything_is_switched,
            halves::an_image_in_which_airflow_does_not_come_up_is_taken_back,
            halves::the_agent_may_end_at_any_step_of_an_image_deploy,
            halves::the_agent_may_end_while_it_takes_an_image_back,
        ]],
    },
    Group {
        name: "previews",
        start: || Installation::start("3.3.2"),
        scenarios: &[scenarios![
            previews::a_pull_request_has_an_airflow_of_its_own_until_it_is_closed,
        ]],
    },
    Group {
        name: "killed",
        start: start_on_postgres,
        scenarios: &[scenarios![
            processes::airflow_listens_on_loopback_and_asks_for_a_sign_in,
            processes::airflow_keeps_its_metadata_where_it_is_told,
            processes::a_second_agent_on_a_folder_is_refused,
            processes::a_task_outlives_its_agent,
            processes::a_component_that_crashes_comes_back_alone,
            kill::the_command_may_end_at_any_step,
            kill::the_command_may_be_killed_at_any_moment,
            kill::the_control_plane_may_end_at_any_step,
            kill::the_agent_may_end_at_any_step,
        ]],
    },
    Group {
        name: "celery",
        start: start_with_celery,
        scenarios: &[scenarios![
            halves::a_celery_worker_is_replaced_and_ends_with_its_tasks,
        ]],
    },
    Group {
        name: "airflow-3.2",
        start: || Installation::start("3.2.2"),
        scenarios: &[
            ON_EACH_RELEASE,
            scenarios![halves::another_version_of_airflow_takes_the_database_along],
        ],
    },
    Group {
        name: "airflow-3.1",
        start: || Installation::start("3.1.8"),
        scenarios: &[ON_EACH_RELEASE],
    },
    Group {
        name: "airflow-3.0",
        start: || Installation::start("3.0.6"),
        scenarios: &[ON_EACH_RELEASE],
    },
    Group {
        name: "airflow-2.11",
        start: || Installation::start("2.11.2"),
        scenarios: &[
            ON_EACH_RELEASE,
            scenarios![
                previews::a_pull_request_has_an_airflow_of_its_own_until_it_is_closed,
                releases::an_upgrade_is_tried_before_it_is_made,
                halves::a_task_runs_on_across_an_image_deploy,
            ],
        ],
    },
    Group {
        name: "external",
        start: || Installation::start_external("3.3.2"),
        scenarios: &[scenarios![
            external::what_is_delivered_is_proven,
            external::a_broken_helper_fails_the_deploy_until_it_is_mended,
            external::an_added_file_is_found_without_waiting_for_airflows_pace,
            external::a_removed_file_is_live_once_airflow_has_retired_its_dag,
            external::a_file_without_a_dag_is_silent_only_when_airflow_has_looked,
        ]],
    },
];

/// Metadata and store on PostgreSQL where there is one; CI fails where not.
fn start_on_postgres() -> Result<Installation> {
    match Postgres::start_or_skip("the whole product on PostgreSQL") {
        Some(postgres) => Installation::start_on_postgres("3.3.2", postgres),
        None => Installation::start("3.3.2"),
    }
}

/// A Celery worker where there is a broker for it; CI fails where not.
fn start_with_celery() -> Result<Installation> {
    let mut installation = start_on_postgres()?;
    if let Some(broker) = Redis::start_or_skip("tasks of a Celery worker") {
        installation.use_celery(broker)?;
    }
    Ok(installation)
}

fn main() {
    let mut arguments = Arguments::from_args();
    arguments.test_threads = Some(1);
    let conclusion = libtest_mimic::run(&arguments, GROUPS.iter().flat_map(trials).collect());
    conclusion.exit();
}

/// The group's scenarios; the first of them to run starts the installation, and
/// the last that is dropped ends it.
fn trials(group: &'static Group) -> Vec<Trial> {
    let shared: Arc<Mutex<Option<(Installation, Airflow)>>> = Arc::default();
    let trial = |(name, scenario): &'static (&str, Scenario)| {
        let shared = Arc::clone(&shared);
        Trial::test(format!("{}::{name}", group.name), move || {
            let mut shared = shared.lock().unwrap_or_else(PoisonError::into_inner);
            if shared.is_none() {
                *shared = Some(begin(group).map_err(Failed::from)?);
            }
            let (installation, airflow) = shared.as_mut().unwrap();
            let before = installation.project.copy().map_err(Failed::from)?;
            scenario(installation, airflow).map_err(|error| {
                // What it left half done is not what the next one is about.
                let kept = installation.project.put_back(&before);
                let kept = kept
                    .err()
                    .map_or_else(String::new, |error| format!("{error:?}\n"));
                Failed::from(format!("{error:?}\n{kept}{}", installation.logs()))
            })
        })
    };
    group
        .scenarios
        .iter()
        .copied()
        .flatten()
        .map(trial)
        .collect()
}

/// What Airflow's own examples need registered; Airflow does it itself when it
/// loads them.
const EXAMPLES_PLUGIN: &str = "\
from airflow.example_dags.plugins.decreasing_priority_weight_strategy import DecreasingPriorityStrategy
from airflow.example_dags.plugins.workday import AfterWorkdayTimetable
from airflow.plugins_manager import AirflowPlugin


class ExamplesPlugin(AirflowPlugin):
    name = \"examples\"
    timetables = [AfterWorkdayTimetable]
    priority_weight_strategies = [DecreasingPriorityStrategy]
";

/// A DAG that needs the rest of its project, as it would on a laptop.
const HALVES: &str = "\
from datetime import datetime
try:
    from airflow.sdk import dag, task
except ImportError:
    from airflow.decorators import dag, task
from include.shop import COUNT
from shop_plugin import PRICE

@dag(schedule=None, start_date=datetime(2024, 1, 1), catchup=False)
def halves():
    task(lambda: COUNT * PRICE, task_id='total')()

halves()
";

/// The project of `dev init` with little more, live.
fn begin(group: &Group) -> Result<(Installation, Airflow)> {
    let installation = (group.start)()?;
    if group.name != "external" {
        installation
            .project
            .write("include/shop.py", "COUNT = 4\n")?;
        installation
            .project
            .write("plugins/shop_plugin.py", "PRICE = 3\n")?;
        installation.project.write("dags/halves.py", HALVES)?;
    }
    if installation.uses_celery() {
        let own = installation.requirements();
        installation.project.write("requirements.txt", own)?;
    }
    if group.name == "deploys" {
        let plugin = "plugins/airflow_examples.py";
        installation.project.write(plugin, EXAMPLES_PLUGIN)?;
    }
    let deploy = installation.deploy(&[])?;
    ensure!(
        deploy.code == Some(0),
        "the first deploy: {deploy:?}\n{}",
        installation.logs()
    );
    let airflow = installation.airflow()?;
    Ok((installation, airflow))
}

/// Deploys, expects it live, and gives what was printed.
fn live(installation: &Installation) -> Result<Value> {
    let printed = installation.deploy(&[])?.expect_code(0)?.json()?;
    ensure!(printed["outcome"] == "live", "{printed:#}");
    Ok(printed)
}

/// The newest deploys, as `history` lists them.
fn history(installation: &Installation) -> Result<Value> {
    let printed = installation.updraft(&["history", "-o", "json"])?;
    Ok(printed.expect_code(0)?.json()?["deploys"].take())
}

fn status(installation: &Installation) -> Result<Value> {
    let printed = installation.updraft(&["status", "-o", "json"])?;
    printed.expect_code(0)?.json()
}

fn bundle_digest(printed: &Value) -> String {
    printed["deploy"]["release"]["bundles"]["dags"]["digest"]
        .as_str()
        .unwrap_or_default()
        .to_owned()
}

const BROKEN: &str = "\
from airflow.models.dag import DAG
import no_such_module

DAG(\"broken\")
";
