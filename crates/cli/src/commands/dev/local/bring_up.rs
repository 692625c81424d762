//! Starts a project's Airflow, or what of it does not run.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use updraft_agent::{LocalAirflow, LocalError, LocalRun};

use super::image::ImageAsk;
use super::place::{Kept, Place};
use super::runtime::{Made, Runtime, RuntimeArgs};
use super::{inputs, runtime, tell_address};
use crate::busy::busy;
use crate::checks::host;
use crate::commands::deploy::create::seconds;
use crate::console::Console;
use crate::context::Context;
use crate::failure::{Failure, Result};
use crate::interrupt::Interrupt;
use crate::output::time::duration;
use crate::port;

/// What a start takes.
#[derive(Debug, clap::Args)]
pub(crate) struct UpArgs {
    /// Port of Airflow, on this machine only (default: that of the last start, or the first free one from 8080 on)
    #[arg(short, long)]
    port: Option<u16>,

    /// File with variables for Airflow (default: that of the last start, or .env)
    #[arg(short, long = "env", value_name = "FILE")]
    env_file: Option<PathBuf>,

    /// File with connections, variables and pools (default: that of the last start, or `airflow_settings.yaml`)
    #[arg(short, long, value_name = "FILE")]
    settings_file: Option<PathBuf>,

    /// How long Airflow may take to come up, such as 90s or 5m
    #[arg(long, value_name = "TIME", value_parser = seconds, default_value = "3m")]
    wait: Duration,

    #[command(flatten)]
    runtime: RuntimeArgs,
}

impl UpArgs {
    /// Whether it names anything that an Airflow which runs may not have.
    pub(crate) fn says_something(&self) -> bool {
        self.port.is_some()
            || self.env_file.is_some()
            || self.settings_file.is_some()
            || self.runtime != RuntimeArgs::default()
    }
}

/// What happens to what runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Running {
    Stays,
    Stops,
}

/// Has the project's Airflow run as the project says now. Everything that can be
/// refused is found before anything is stopped.
pub(crate) async fn bring_up(
    cx: &Context,
    place: &Place,
    args: &UpArgs,
    running: Running,
    out: &mut Console,
) -> Result<()> {
    let started = Instant::now();
    let interrupt = Interrupt::listen()?;
    let project = &place.project;
    let before = place.kept()?;
    let before = before.as_ref();
    let of_before = |file: fn(&Kept) -> &PathBuf| before.map(|kept| file(kept).as_path());
    let env_file = args.env_file.as_deref();
    let env_file = env_file.or(of_before(|kept| &kept.env_file));
    let env_file = inputs::file(env_file, project, ".env")?;
    let own = inputs::variables(&env_file, env_file != project.root().join(".env"))?;
    let settings = args.settings_file.as_deref();
    let settings = settings.or(of_before(|kept| &kept.settings_file));
    let settings = inputs::file(settings, project, SETTINGS)?;
    let objects = inputs::objects(&settings, settings != project.root().join(SETTINGS))?;
    let how = args.runtime.or(before.map(|kept| &kept.runtime))?;
    let runtime = runtime::of_project(project, &how)?;
    if let (Runtime::Process(_), Some(flag)) = (&runtime, args.runtime.needs_container()) {
        out.warn(&format!(
            "`{flag}` is for containers, and the project runs as processes; `--runtime container` has it run in containers"
        ));
    }
    let made = interrupt.ends(make(cx, place, runtime, &how, out)).await?;

    let airflow = LocalAirflow::open(place.root())?;
    let before = before.map(|kept| kept.run.port);
    let own_port = before.filter(|_| airflow.runs());
    if let Some(port) = args.port.filter(|port| own_port != Some(*port)) {
        port::must_be_free("Airflow", port, "--port")?;
    }
    let versions = (made.airflow.to_string(), made.python.to_string());
    let mut run = LocalRun::new(
        made.packages,
        versions,
        made.variables,
        project.root().to_owned(),
        before.unwrap_or(USUAL),
    );
    let env = inputs::digest(&own);
    run.own = own;
    airflow.check(&run)?;
    if running == Running::Stops {
        stop(&airflow, out).await;
    }
    let runs_on = own_port.filter(|_| running == Running::Stays);
    run.port = choose_port(place, args.port, before, runs_on, out)?;
    for name in run.reserved() {
        out.warn(&format!(
            "Updraft sets {name} itself; the project's value is left out"
        ));
    }
    let kept = Kept {
        run,
        image: made.image,
        env_file,
        settings_file: settings,
        env,
        runtime: how,
    };
    place.keep(&kept)?;

    let mut step = out.step("starting Airflow");
    let mut say = |text: &str| out.update(&mut step, text);
    let up = tokio::select! {
        up = airflow.start(&kept.run, &objects, args.wait, &mut say) => up.map_err(Some),
        () = interrupt.came() => Err(None),
    };
    let imported = match up {
        Ok(imported) => imported,
        // What is slow may come up yet.
        Err(Some(error @ LocalError::TimedOut { .. })) => {
            out.abandon(step);
            return Err(error.into());
        }
        Err(cause) => {
            out.update(&mut step, "stopping what was started");
            let stopped = airflow.stop().await;
            out.abandon(step);
            tell_left(stopped, out);
            let interrupted = || Failure::interrupted().help("nothing is left running");
            return Err(cause.map_or_else(interrupted, Failure::from));
        }
    };
    out.done(step, "Airflow is up");
    if let Some(imported) = imported {
        super::super::object::tell_imported(&imported, &kept.settings_file, out)?;
    }
    tell_address(&airflow, &kept, out)?;
    let took = duration(started.elapsed());
    tell_next(&took, out)
}

fn tell_next(took: &str, out: &mut Console) -> Result<()> {
    use std::io::Write;

    let mut status = out.status();
    writeln!(
        status,
        "\nUp after {took}. Edits in dags/ and include/ are live."
    )?;
    for (command, does) in [
        ("logs -f", "follows what it writes"),
        ("restart", "takes new requirements, plugins and .env"),
        ("stop", "ends it"),
    ] {
        writeln!(status, "  updraft dev {command:<9} {does}")?;
    }
    Ok(())
}

/// Makes what it runs in, and says so.
async fn make(
    cx: &Context,
    place: &Place,
    runtime: Runtime,
    how: &RuntimeArgs,
    out: &mut Console,
) -> Result<Made> {
    let cache = host::cache(cx)?;
    let (step, what, made) = match runtime {
        Runtime::Process(recipe) => {
            for note in &recipe.notes {
                out.warn(note);
            }
            let mut step = out.step("making the environment");
            let made = busy(&mut step, out, move |stop, say| {
                runtime::make_environment(*recipe, &cache, stop, say)
            });
            let made = made.await?;
            (
                step,
                ["the environment is there", "made the environment"],
                made,
            )
        }
        Runtime::Container { why } => {
            let ask = ImageAsk {
                project: place.project.clone(),
                args: how.clone(),
                why,
            };
            let (root, aside) = (place.root().to_owned(), out.aside());
            let mut step = out.step("building the image");
            let made = busy(&mut step, out, move |stop, say| {
                ask.make(&root, &cache, stop, say, &|line| aside.say(line))
            });
            let made = made.await?;
            (step, ["the image is there", "built the image"], made)
        }
    };
    let text = what[usize::from(!made.reused)];
    let (airflow, python) = (&made.airflow, made.python);
    out.done(
        step,
        &format!("{text}: Airflow {airflow} on Python {python}"),
    );
    if let Some(note) = &made.note {
        out.warn(note);
    }
    Ok(made)
}

/// Stops all of it, and says so where anything runs.
pub(crate) async fn stop(airflow: &LocalAirflow, out: &mut Console) {
    let step = airflow.runs().then(|| out.step("stopping Airflow"));
    if let Some(step) = &step {
        out.announce(step);
    }
    // What has ended by itself has records and containers, too.
    let stopped = airflow.stop().await;
    if let Some(step) = step {
        out.done(step, "stopped Airflow");
    }
    tell_left(stopped, out);
}

fn tell_left(stopped: std::result::Result<(), LocalError>, out: &mut Console) {
    if let Err(error) = stopped {
        out.warn(&format!("it runs no more, and is not tidied up: {error}"));
    }
}

const SETTINGS: &str = "airflow_settings.yaml";
const USUAL: u16 = 8080;
/// How many ports are looked at.
const PORTS: u16 = 100;

/// The port that is asked for, that of before, or the first free one.
fn choose_port(
    place: &Place,
    asked: Option<u16>,
    before: Option<u16>,
    runs_on: Option<u16>,
    out: &mut Console,
) -> Result<u16> {
    // Another project's may be coming up, and not listen yet.
    let others = place.ports_of_others();
    let is_free = |port: u16| !others.contains(&port) && port::is_free(port);
    let is_good = |port: &u16| runs_on == Some(*port) || is_free(*port);
    if let Some(port) = asked {
        if runs_on != Some(port) {
            port::must_be_free("Airflow", port, "--port")?;
        }
        return Ok(port);
    }
    let wanted = before.unwrap_or(USUAL);
    let candidates = std::iter::once(wanted).chain(USUAL..USUAL + PORTS);
    let Some(port) = candidates.into_iter().find(is_good) else {
        port::must_be_free("Airflow", wanted, "--port")?;
        return Ok(wanted);
    };
    if port != wanted {
        out.warn(&format!(
            "something else listens on port {wanted}, so Airflow gets {port}"
        ));
    }
    Ok(port)
}
