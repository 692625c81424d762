//! From nothing to a project that runs in a real Airflow.
//!
//! Reads top to bottom: [`prepare`] looks at everything that could be missing
//! before anything is started, [`bring_up`] starts and deploys, and whatever
//! happens there, [`Stage::stop`] ends all that was started.

mod checks;
mod stage;

use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use updraft_model::DeploymentName;
use updraft_project::{Project, ProjectError, Scaffold, scaffold};

use self::stage::Stage;
use crate::commands::deploy::checks::Stages;
use crate::commands::deploy::compare::Halves;
use crate::commands::deploy::create::{Deploy, Purpose};
use crate::commands::deploy::follow::Patience;
use crate::commands::deploy::image::ImageArgs;
use crate::config::{ConnectionArgs, LOCAL_FILE, LocalFile, Settings};
use crate::console::{BOLD, Console, DIM, GREEN, YELLOW};
use crate::context::Context;
use crate::exit::Exit;
use crate::failure::{Failure, Result};
use crate::interrupt::Interrupt;
use crate::{logging, port};

/// How long Airflow may take to come up, and its first run to end.
const AIRFLOW: Duration = Duration::from_secs(180);
/// The DAG of `dev init` that runs without anything else.
const EXAMPLE: &str = "example_basic";

/// Start everything here: control plane, agent, a real Airflow, and a project in it
///
/// Makes a project where there is none, installs the Airflow that its Dockerfile names, deploys, waits for
/// the proof and runs the example DAG. Needs no Docker and changes nothing outside its folders. Ctrl-C stops all of it; the
/// same command again comes back to the same state.
#[derive(Debug, clap::Args)]
pub(crate) struct QuickstartArgs {
    /// Folder of the project (default: that of --project, the project here or above, or `updraft-quickstart`)
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,

    /// Folder for the control plane, the agent and Airflow (default: `.updraft/quickstart` in the project)
    #[arg(long, value_name = "DIR")]
    data_dir: Option<PathBuf>,

    /// Port of the control plane, on this machine only
    #[arg(long, default_value_t = 8888)]
    port: u16,

    /// Port of Airflow, on this machine only
    #[arg(long, value_name = "PORT", default_value_t = 8080)]
    airflow_port: u16,

    /// Stop again when everything has been shown to work
    #[arg(long)]
    once: bool,
}

/// Everything that was found good before the start.
struct Prepared {
    project: Project,
    deployment: DeploymentName,
    folders: Folders,
    port: u16,
    airflow_port: u16,
    once: bool,
}

/// Where things lie below the data folder.
#[derive(Debug, Clone)]
struct Folders {
    root: PathBuf,
}

impl Folders {
    fn server(&self) -> PathBuf {
        self.root.join("server")
    }

    fn agent(&self) -> PathBuf {
        self.root.join("agent")
    }

    /// `uv`, locks and what scans learned.
    fn cache(&self) -> PathBuf {
        self.root.join("cache")
    }

    /// The token that the user's later commands find.
    fn credentials(&self) -> PathBuf {
        self.root.join("credentials.toml")
    }

    /// The same token to paste into the dashboard.
    fn token(&self) -> PathBuf {
        self.root.join("token")
    }

    fn log(&self) -> PathBuf {
        self.root.join("quickstart.log")
    }

    /// Says that the example has run once.
    fn example_ran(&self) -> PathBuf {
        self.root.join("example-ran")
    }
}

pub(crate) async fn run(args: &QuickstartArgs, cx: &Context, out: &mut Console) -> Result<Exit> {
    let started = Instant::now();
    let interrupt = Interrupt::listen_also_for_hangup()?;
    let prepared = tokio::select! {
        prepared = prepare(args, cx, out) => prepared?,
        () = interrupt.came() => return Err(Failure::interrupted()),
    };
    let mut stage = Stage::default();
    let shown = tokio::select! {
        shown = bring_up(&prepared, &mut stage, &interrupt, started, out) => shown,
        () = interrupt.came() => Err(Failure::interrupted()
            .help("nothing is left running; the same command goes on from here")),
    };
    if shown.is_ok() && !args.once {
        interrupt.came().await;
    }
    out.clear();
    if stage.is_anything() {
        let step = out.step("stopping Airflow, the agent and the control plane");
        out.announce(&step);
        stage.stop().await;
        out.done(step, "stopped everything that was started");
    }
    shown.map(|()| Exit::Success).map_err(|failure| {
        if failure.exit == Exit::Internal {
            let log = prepared.folders.log();
            return Failure {
                help: failure
                    .help
                    .or(Some(format!("the log is {}", log.display()))),
                ..failure
            };
        }
        failure
    })
}

/// Finds or makes the project, and looks for what else is needed. Nothing runs
/// yet, so a failure leaves nothing behind but files.
async fn prepare(args: &QuickstartArgs, cx: &Context, out: &mut Console) -> Result<Prepared> {
    port::must_be_free("the control plane", args.port, "--port")?;
    let project = project(
        args.dir.clone().or_else(|| cx.named_project()).as_deref(),
        out,
    )?;
    let deployment = match &project.settings().deployment {
        Some(deployment) => deployment.clone(),
        None => project
            .name()
            .parse()
            .map_err(|error: updraft_model::InvalidName| {
                Failure::from_error(Exit::Refused, &error).help("set `name` in updraft.toml")
            })?,
    };
    let folders = Folders {
        root: data_dir(args.data_dir.as_deref(), &project)?,
    };
    // A quickstart that was killed leaves its Airflow, and the next takes it over.
    if !updraft_agent::listens(&folders.agent(), args.airflow_port) {
        port::must_be_free("Airflow", args.airflow_port, "--airflow-port")?;
    }
    logging::to_file(&folders.log())
        .map_err(|error| Failure::file("write", &folders.log(), &error))?;
    // Then nothing has to be found or fetched.
    if !updraft_agent::is_installed(&folders.agent()) {
        checks::environment(&project, &folders.cache(), out).await?;
    }
    Ok(Prepared {
        project,
        deployment,
        folders,
        port: args.port,
        airflow_port: args.airflow_port,
        once: args.once,
    })
}

/// Starts what there is to start, deploys, and shows that it works.
async fn bring_up(
    prepared: &Prepared,
    stage: &mut Stage,
    interrupt: &Interrupt,
    started: Instant,
    out: &mut Console,
) -> Result<()> {
    let Prepared {
        project,
        deployment,
        folders,
        ..
    } = prepared;
    let client = stage.start_server(prepared, out).await?;
    stage::ensure_deployment(&client, deployment, out).await?;
    remember(prepared)?;
    stage.start_agent(prepared, &client, out).await?;

    // Airflow's own answer is seconds away, and its environment is not made yet.
    let stages = Stages::NONE;
    let deploy = Deploy {
        stages,
        client: &client,
        project,
        deployment,
        names_of: deployment,
        description: "quickstart",
        halves: Halves::Both,
        rebuild: false,
        ci: None,
        image: ImageArgs::default(),
        access: None,
        purpose: Purpose::Deploy,
        force: false,
        allow_downgrade: false,
        allow_empty: false,
        // The agent is in this process; the proof has a limit of its own.
        patience: Some(Patience {
            timeout: None,
            wait_for_agent: AIRFLOW,
        }),
        cache: Some(folders.cache()),
        started: Instant::now(),
    };
    let (outcome, ending) = Box::pin(deploy.run(interrupt, out)).await?;
    let exit = match ending {
        Some(ending) => outcome.say(&ending, out)?,
        None => outcome.exit,
    };
    match exit {
        Exit::Success => {}
        // Somebody is editing: what runs is still worth looking at.
        Exit::DeployFailed | Exit::RolledBack if !prepared.once => {
            out.warn("the project is not live; Airflow keeps running so that you can mend it");
        }
        exit => {
            return Err(Failure::new(exit, "the project could not be deployed")
                .help("mend what is named above and start the quickstart again"));
        }
    }
    stage.wait_for_airflow(AIRFLOW, out).await?;
    let is_live = exit == Exit::Success;
    if is_live {
        match run_example(prepared, stage, out).await {
            Err(failure) if !prepared.once => out.warn(&format!(
                "{}; Airflow keeps running, and its pages have the logs of the tasks",
                failure.message
            )),
            ran => ran?,
        }
    }
    summary(prepared, stage, is_live, started, out)
}

/// The project that is meant; made where there is none.
fn project(dir: Option<&Path>, out: &mut Console) -> Result<Project> {
    let found = match dir {
        Some(dir) if dir.exists() => Project::open(dir),
        Some(dir) => Err(ProjectError::NotHere(dir.to_owned())),
        None => Project::find(&std::env::current_dir()?),
    };
    match found {
        Ok(project) => {
            writeln!(
                out.status(),
                "Project `{}` in {}",
                project.name(),
                project.root().display()
            )?;
            Ok(project)
        }
        Err(ProjectError::NotHere(_)) => {
            let dir = dir.unwrap_or(Path::new("updraft-quickstart"));
            let done = scaffold(dir, &Scaffold::default())?;
            crate::commands::dev::init::print(&done, out)?;
            Ok(Project::open(&done.root)?)
        }
        Err(error) => Err(error.into()),
    }
}

/// Makes the data folder. Airflow's user passes through it; only its owner
/// sees what is in it.
fn data_dir(named: Option<&Path>, project: &Project) -> Result<PathBuf> {
    let hidden = project.root().join(".updraft");
    let dir = named.map_or_else(|| hidden.join("quickstart"), Path::to_owned);
    let make = || -> std::io::Result<PathBuf> {
        std::fs::create_dir_all(&dir)?;
        std::fs::set_permissions(&dir, std::os::unix::fs::PermissionsExt::from_mode(0o711))?;
        dir.canonicalize()
    };
    make().map_err(|error| Failure::file("use the data folder", &dir, &error))
}

/// Leaves in the project where its control plane is, so that `updraft deploy`
/// there just works. Git does not see it.
fn remember(prepared: &Prepared) -> Result<()> {
    let path = prepared.project.root().join(LOCAL_FILE);
    let local = LocalFile {
        server: Some(prepared.url()),
        deployment: Some(prepared.deployment.clone()),
        credentials: Some(prepared.folders.credentials()),
        cache: Some(prepared.folders.cache()),
    };
    let text = toml::to_string(&local)
        .map_err(|error| Failure::new(Exit::Internal, "could not write settings").cause(&error))?;
    let write = || -> std::io::Result<()> {
        crate::files::write_private(&path, &text)?;
        let ignore = path.with_file_name(".gitignore");
        if !ignore.exists() {
            std::fs::write(ignore, "*\n")?;
        }
        // Packages are where uv was told; later commands are told by this folder.
        let packages = prepared.folders.cache().join("uv-cache");
        let named = std::env::var_os("UV_CACHE_DIR").map(PathBuf::from);
        if let Some(named) = named.filter(|it| it.is_absolute())
            && packages.symlink_metadata().is_err()
        {
            std::fs::create_dir_all(prepared.folders.cache())?;
            std::os::unix::fs::symlink(named, packages)?;
        }
        Ok(())
    };
    write().map_err(|error| Failure::file("write", &path, &error))
}

impl Prepared {
    fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }
}

/// Runs the example once in the life of the data folder.
async fn run_example(prepared: &Prepared, stage: &Stage, out: &mut Console) -> Result<()> {
    let marker = prepared.folders.example_ran();
    if marker.exists()
        || !prepared
            .project
            .dags()
            .join(format!("{EXAMPLE}.py"))
            .exists()
    {
        return Ok(());
    }
    let step = out.step(format!("running the DAG `{EXAMPLE}`"));
    out.announce(&step);
    let run = stage.airflow()?.trigger_and_wait(EXAMPLE, AIRFLOW).await?;
    if run.state != "success" {
        return Err(Failure::new(
            Exit::Internal,
            format!("the run `{}` of `{EXAMPLE}` ended as {}", run.id, run.state),
        )
        .help("without --once Airflow keeps running, and its pages have the logs of the tasks"));
    }
    out.done(
        step,
        &format!("the DAG `{EXAMPLE}` ran in Airflow and succeeded"),
    );
    // Without it the example runs once more next time.
    let _ = std::fs::write(marker, run.id);
    Ok(())
}

fn summary(
    prepared: &Prepared,
    stage: &Stage,
    is_live: bool,
    started: Instant,
    out: &mut Console,
) -> Result<()> {
    let Prepared {
        project,
        deployment,
        folders,
        ..
    } = prepared;
    let (airflow, password) = stage.sign_in()?;
    let url = prepared.url();
    let program = program();
    let target = target(prepared);
    let token = folders.token();
    let command = |verb: &str, flags: &str| format!("{program} {verb}{target}{flags}");
    let took = crate::output::time::duration(started.elapsed());
    let log = folders.log();
    let mut data = out.data();
    writeln!(data)?;
    let (colour, what) = if is_live {
        (GREEN, "is live")
    } else {
        (
            YELLOW,
            "is not live; mend what is named above and deploy again",
        )
    };
    writeln!(
        data,
        "{colour}{BOLD}`{deployment}` {what}{BOLD:#}{colour:#} {DIM}(after {took}; log: {}){DIM:#}",
        log.display()
    )?;
    writeln!(data)?;
    writeln!(data, "  Airflow   {airflow}")?;
    writeln!(
        data,
        "            sign in as `{}` with the password {password}",
        super::agent::airflow::USER
    )?;
    writeln!(data, "  Updraft   {url}")?;
    writeln!(
        data,
        "            sign in with the token in {}",
        token.display()
    )?;
    writeln!(data)?;
    if prepared.once {
        writeln!(data, "Try next, once the same command without --once runs:")?;
    } else {
        writeln!(data, "Try next, in another terminal:")?;
    }
    writeln!(data)?;
    writeln!(data, "  {BOLD}cd {}{BOLD:#}", quoted(project.root()))?;
    writeln!(data)?;
    let edit = if project.dags().join(format!("{EXAMPLE}.py")).exists() {
        format!("edit dags/{EXAMPLE}.py, then send it")
    } else {
        "edit a DAG, then send it".to_owned()
    };
    for (command, why) in [
        (command("deploy", ""), edit.as_str()),
        (
            command("history", ""),
            "what was deployed, by whom, how it ended",
        ),
        (
            command("rollback", ""),
            "back to the Release before, without building or sending",
        ),
    ] {
        writeln!(data, "  {DIM}# {why}{DIM:#}")?;
        writeln!(data, "  {BOLD}{command}{BOLD:#}")?;
    }
    writeln!(data)?;
    drop(data);
    if !prepared.once {
        writeln!(
            out.status(),
            "Ctrl-C stops all of it; the same command again brings it back."
        )?;
    }
    Ok(())
}

/// How this program is called: by name where that finds it.
fn program() -> String {
    let Ok(this) = std::env::current_exe() else {
        return "updraft".to_owned();
    };
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&path)
        .map(|folder| folder.join("updraft"))
        .find(|candidate| candidate.is_file());
    let same = found.and_then(|found| found.canonicalize().ok()) == this.canonicalize().ok();
    if same {
        "updraft".to_owned()
    } else {
        quoted(&this)
    }
}

/// What has to be said besides, where the project's settings mean another
/// control plane or Deployment.
fn target(prepared: &Prepared) -> String {
    let flags = ConnectionArgs {
        project: Some(prepared.project.root().to_owned()),
        ..ConnectionArgs::default()
    };
    let Ok(settings) = Settings::load(&flags) else {
        return String::new();
    };
    let deployment = settings
        .deployment
        .is_none_or(|it| it.value != prepared.deployment);
    let server = settings.server.value.trim_end_matches('/') != prepared.url();
    let name = deployment.then(|| format!(" {}", prepared.deployment));
    let address = server.then(|| format!(" --server {}", prepared.url()));
    name.unwrap_or_default() + &address.unwrap_or_default()
}

/// A path as a shell takes it.
fn quoted(path: &Path) -> String {
    let text = path.display().to_string();
    let plain = |c: char| c.is_ascii_alphanumeric() || "/._-+".contains(c);
    if text.chars().all(plain) {
        text
    } else {
        format!("'{}'", text.replace('\'', "'\\''"))
    }
}
