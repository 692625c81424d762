//! An Airflow that runs in containers, from images in the control plane's registry.

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};
use updraft_e2e::{Airflow, DEPLOYMENT, EngineName, Installation, PATIENCE, wait_for};

const AIRFLOW: &str = "docker.io/apache/airflow:3.3.2-python3.11";

/// The DAGs `waiting`, whose task ends when a file is there, and `quick`: both
/// return what only the image has.
const DAGS: &str = "\
import os
import time

from airflow.sdk import Variable, dag, task

try:
    from made_in_the_image import WORD
except ImportError:
    WORD = 'nothing'


def what():
    return WORD


@dag(schedule=None)
def waiting():
    @task
    def step():
        before = what()
        while Variable.get('go', default=None) is None:
            time.sleep(0.2)
        return before

    step()


@dag(schedule=None)
def quick():
    task(what, task_id='step')()


waiting()
quick()
";

const IN_IMAGE: &str = "/opt/packages/made_in_the_image.py";

/// Has Airflow start, and its web server end at once.
const NO_WEB_SERVER: &str = "RUN echo \"import os, sys; 'api-server' in sys.orig_argv and \
    (print('this image serves nobody', file=sys.stderr, flush=True), os._exit(3))\" > /opt/packages/sitecustomize.py\n";

struct World {
    installation: Installation,
}

impl World {
    fn start_or_skip(name: EngineName) -> Result<Option<Self>> {
        let started = Installation::start_in_containers("3.3.2", name)?;
        let Some(installation) = started else {
            return Ok(None);
        };
        installation.engine().build_airflow(AIRFLOW)?;
        for example in ["dags/example_basic.py", "dags/example_advanced.py"] {
            installation.project.remove(example)?;
        }
        installation.project.write("dags/both.py", DAGS)?;
        Ok(Some(Self { installation }))
    }

    /// Has the project's image say this word.
    fn write_image(&self, word: &str, steps: &str) -> Result<()> {
        let dockerfile = format!(
            "FROM {AIRFLOW}\nUSER root\nRUN echo \"WORD = '{word}'\" > {IN_IMAGE}\n{steps}USER airflow\n"
        );
        self.installation.project.write("Dockerfile", &dockerfile)
    }

    /// `updraft deploy`, which builds the image where that differs.
    fn deploy(&self, code: i32) -> Result<Value> {
        let engine = self.installation.engine().program();
        let arguments = ["deploy", "--engine", engine, "-o", "json"];
        self.installation
            .updraft(&arguments)?
            .expect_code(code)?
            .json()
    }

    /// Deploys an image that says this word.
    fn deploy_image(&self, word: &str) -> Result<Value> {
        self.write_image(word, "")?;
        self.deploy(0)
    }

    /// What a run of `quick` came to.
    fn quick(airflow: &Airflow) -> Result<Value> {
        let run = airflow.trigger("quick")?;
        airflow.wait_for_success("quick", &run)?;
        airflow.returned("quick", &run, "step")
    }

    /// The processes of Airflow's components, by name.
    fn components(&self) -> Result<Vec<(String, u64)>> {
        let status = self.installation.updraft(&["status", "-o", "json"])?;
        let status = status.json()?;
        let components = status["agents"][0]["airflow"]["components"].as_array();
        let components = components.with_context(|| format!("no components: {status:#}"))?;
        let named = components.iter().map(|it| {
            let name = it["name"].as_str().context("no name")?.to_owned();
            Ok((name, it["pid"].as_u64().context("it does not run")?))
        });
        named.collect()
    }

    /// Shows the logs where a step fails.
    fn passes(&mut self, steps: impl FnOnce(&mut Self) -> Result<()>) {
        if let Err(error) = steps(self) {
            panic!("{error:?}\n{}", self.installation.logs());
        }
    }
}

#[test]
fn an_airflow_runs_in_containers_of_docker() {
    let Some(mut world) = World::start_or_skip(EngineName::Docker).unwrap() else {
        return;
    };
    world.passes(|world| {
        let airflow = dags_run_in_the_image(world)?;
        another_image_while_a_task_runs(world, &airflow)?;
        what_does_not_come_up_is_taken_back(world, &airflow)?;
        an_engine_that_is_away_stops_nothing(world, &airflow)?;
        killed_at_each_step_there_is_one_of_each(world)?;
        let pulled = what_the_engine_lacks_is_pulled(world, &airflow)?;
        from_an_image_to_an_environment_and_back(world, &airflow)?;
        what_was_pulled_goes_with_its_releases(world, &pulled)?;
        all_of_it_is_stopped(world)
    });
}

#[test]
fn an_airflow_runs_in_containers_of_podman() {
    let Some(mut world) = World::start_or_skip(EngineName::Podman).unwrap() else {
        return;
    };
    world.passes(|world| {
        let airflow = dags_run_in_the_image(world)?;
        the_next_agent_adopts(world)?;
        a_pull_request_has_one_of_its_own(world)?;
        world.deploy_image("two")?;
        ensure!(World::quick(&airflow)? == "two");
        all_of_it_is_stopped(world)
    });
}

fn dags_run_in_the_image(world: &World) -> Result<Airflow> {
    let deployed = world.deploy_image("one")?;
    ensure!(
        deployed["deploy"]["release"]["image"]["kind"] == "container",
        "{deployed:#}"
    );
    let airflow = world.installation.airflow()?;
    ensure!(World::quick(&airflow)? == "one");
    let status = world
        .installation
        .updraft(&["status", "-o", "json"])?
        .json()?;
    let isolation = status["agents"][0]["isolation"]
        .as_str()
        .unwrap_or_default();
    let told = format!(
        "in containers of {} as uid 50000",
        world.installation.engine().program()
    );
    ensure!(isolation.contains(&told), "{isolation}");
    Ok(airflow)
}

fn another_image_while_a_task_runs(world: &World, airflow: &Airflow) -> Result<()> {
    let run = airflow.trigger("waiting")?;
    airflow.wait_for_a_running_task("waiting", &run)?;
    world.deploy_image("two")?;
    ensure!(World::quick(airflow)? == "two");
    let status = world.installation.updraft(&["status"])?.expect_code(0)?;
    ensure!(
        status.stdout.contains("replaced, ends with its tasks"),
        "{}",
        status.stdout
    );
    airflow.post("/variables", &json!({"key": "go", "value": "yes"}))?;
    airflow.wait_for_success("waiting", &run)?;
    ensure!(airflow.returned("waiting", &run, "step")? == "one");
    let tasks = airflow.get(&format!("/dags/waiting/dagRuns/{run}/taskInstances"))?;
    ensure!(tasks["task_instances"][0]["try_number"] == 1, "{tasks:#}");
    wait_for("the old scheduler's container to go", PATIENCE, || {
        let containers = world.installation.engine().containers()?;
        let schedulers = containers.iter().filter(|it| it.contains("scheduler"));
        Ok((schedulers.count() == 1).then_some(()))
    })
}

fn what_does_not_come_up_is_taken_back(world: &World, airflow: &Airflow) -> Result<()> {
    world.write_image("three", NO_WEB_SERVER)?;
    let failed = world.deploy(10)?;
    ensure!(
        failed.to_string().contains("this image serves nobody"),
        "{failed:#}"
    );
    ensure!(World::quick(airflow)? == "two");
    // What is there already is built by nobody, and not switched to again.
    let before = world.components()?;
    world.deploy_image("two")?;
    ensure!(world.components()? == before);
    Ok(())
}

fn the_next_agent_adopts(world: &mut World) -> Result<()> {
    let before = world.components()?;
    world.installation.kill_agent()?;
    world.installation.start_agent()?;
    wait_for("the next agent to report", PATIENCE, || {
        Ok(world.components().ok().filter(|now| *now == before))
    })?;
    Ok(())
}

/// An agent whose engine does not answer says so, and Airflow goes on.
fn an_engine_that_is_away_stops_nothing(world: &mut World, airflow: &Airflow) -> Result<()> {
    let before = world.components()?;
    world.installation.kill_agent()?;
    world
        .installation
        .start_agent_on_engine("unix:///nowhere/docker.sock")?;
    wait_for("the agent to say what it lacks", PATIENCE, || {
        let status = world.installation.updraft(&["status"])?;
        Ok(status.stdout.contains("/nowhere/docker.sock").then_some(()))
    })?;
    ensure!(World::quick(airflow)? == "two");
    world.installation.kill_agent()?;
    world.installation.start_agent()?;
    wait_for("the next agent to adopt", PATIENCE, || {
        Ok(world.components().ok().filter(|now| *now == before))
    })?;
    Ok(())
}

fn killed_at_each_step_there_is_one_of_each(world: &mut World) -> Result<()> {
    let steps = updraft_agent::CONTAINER_FAILPOINTS.iter();
    for point in steps.filter(|point| point.contains("container")) {
        world.installation.end_agent_at(point)?;
        let components = world.components()?;
        let triggerer = components.iter().find(|(name, _)| name == "triggerer");
        let killed = triggerer.context("there is no triggerer")?.1;
        let pid = rustix::process::Pid::from_raw(i32::try_from(killed)?).context("no pid")?;
        rustix::process::kill_process(pid, rustix::process::Signal::KILL)?;
        wait_for(&format!("the agent to end at {point}"), PATIENCE, || {
            Ok(world.installation.agent_ended()?.then_some(()))
        })?;
        world.installation.start_agent()?;
        wait_for("all of Airflow to run", PATIENCE, || {
            let Ok(components) = world.components() else {
                return Ok(None);
            };
            let is_new = |(name, now): &(String, u64)| name == "triggerer" && *now != killed;
            Ok((components.iter().any(is_new) && components.len() == 4).then_some(()))
        })?;
        let running = world.installation.engine().running()?;
        let triggerers = running.iter().filter(|name| name.contains("triggerer"));
        ensure!(triggerers.count() == 1, "after {point}: {running:?}");
    }
    Ok(())
}

/// From the control plane's registry, with the agent's own token. Says which.
fn what_the_engine_lacks_is_pulled(world: &World, airflow: &Airflow) -> Result<String> {
    let engine = world.installation.engine();
    engine.remove_images_but(AIRFLOW)?;
    world.installation.updraft(&["rollback"])?.expect_code(0)?;
    ensure!(World::quick(airflow)? == "one");
    let status = world
        .installation
        .updraft(&["status", "-o", "json"])?
        .json()?;
    let image = status["deployment"]["wanted"]["image"]["image"].as_str();
    let (_, digest) = image
        .and_then(|it| it.split_once('@'))
        .context("no image")?;
    ensure!(engine.has(digest)?, "{digest}");
    Ok(digest.to_owned())
}

fn what_was_pulled_goes_with_its_releases(world: &World, digest: &str) -> Result<()> {
    let keep_none = ["deployment", "update", DEPLOYMENT, "--keep-releases", "0"];
    world.installation.updraft(&keep_none)?.expect_code(0)?;
    wait_for("the image to go", PATIENCE, || {
        Ok((!world.installation.engine().has(digest)?).then_some(()))
    })
}

fn from_an_image_to_an_environment_and_back(world: &World, airflow: &Airflow) -> Result<()> {
    let updraft = |arguments: &[&str]| world.installation.updraft(arguments)?.expect_code(0);
    let before = world.components()?;
    updraft(&["deployment", "update", DEPLOYMENT, "--runtime", "process"])?;
    let dockerfile = format!("FROM {AIRFLOW}\n");
    world
        .installation
        .project
        .write("Dockerfile", &dockerfile)?;
    updraft(&["deploy", "--image"])?;
    ensure!(World::quick(airflow)? == "nothing");
    ensure!(world.components()? != before);
    updraft(&["deployment", "update", DEPLOYMENT, "--runtime", "container"])?;
    world.deploy_image("four")?;
    ensure!(World::quick(airflow)? == "four");
    Ok(())
}

#[expect(
    clippy::print_stderr,
    reason = "how long it takes is looked at, not judged"
)]
fn a_pull_request_has_one_of_its_own(world: &World) -> Result<()> {
    let (installation, project) = (&world.installation, &world.installation.project);
    let settings = std::fs::read_to_string(project.root().join("updraft.toml"))?;
    let with_previews = format!("{settings}\n[preview]\nfrom = \"{DEPLOYMENT}\"\n");
    project.write("updraft.toml", &with_previews)?;
    let before = installation.engine().containers()?.len();
    let begun = std::time::Instant::now();
    let printed = installation
        .in_pull_request(7, &["deploy", "--dags", "-o", "json"])?
        .expect_code(0)?
        .json()?;
    let name = printed["preview"]["name"].as_str();
    let name = name.with_context(|| format!("no Preview: {printed:#}"))?;
    eprintln!(
        "a Preview was live {:.1} s after `updraft deploy`",
        begun.elapsed().as_secs_f64()
    );
    let airflow = installation.airflow_of_preview(name)?;
    ensure!(World::quick(&airflow)? == "one");
    installation
        .in_pull_request(7, &["preview", "close"])?
        .expect_code(0)?;
    wait_for("the Preview to be gone", PATIENCE, || {
        Ok(installation.preview_folders()?.is_empty().then_some(()))
    })?;
    // What read the Deployment's connections has ended, and goes when the agent cleans up.
    wait_for("its containers to be gone", PATIENCE, || {
        let left = installation.engine().containers()?;
        Ok((left.len() <= before).then_some(()))
    })?;
    project.write("updraft.toml", &settings)
}

fn all_of_it_is_stopped(world: &mut World) -> Result<()> {
    world.installation.stop_agent_with_airflow()?;
    let left = world.installation.engine().containers()?;
    ensure!(left.is_empty(), "{left:?}");
    Ok(())
}
