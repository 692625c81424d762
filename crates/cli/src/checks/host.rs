//! The environment that a project's code is imported and tested in: that of
//! its Deployment, made on this machine, or an image in a container engine.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use updraft_api::Client;
use updraft_check::parse::{Host, Names, Start, Tree};
use updraft_image::{
    EngineName, EnvironmentConfig, Lock, RealiseError, RealiseRequest, Realised, Stop, Uv, realise,
    realised_folder, realised_key,
};
use updraft_model::{DeploymentName, Digest};
use updraft_project::{AirflowVersion, ImageHalf, Project, ProjectError, PythonVersion};

use super::container::Container;
use super::names::{names_in, of_deployment as names};
use super::reach::Reach;
use crate::context::Context;
use crate::environment::{config, make_blocking};
use crate::exit::Exit;
use crate::failure::{Failure, Result};
use crate::image_build::Builder;

/// How long the process stays that has imported Airflow. A CI job should end
/// when its command does.
const STAYS: Duration = Duration::from_secs(300);
const STAYS_IN_CI: Duration = Duration::from_secs(5);

/// What passes from our own environment; the rest is the laptop's, and the
/// Deployment has it not.
const PASSED: &[&str] = &[
    "LANG",
    "LANGUAGE",
    "LC_ALL",
    "LOGNAME",
    "PATH",
    "SSL_CERT_DIR",
    "SSL_CERT_FILE",
    "TMPDIR",
    "TZ",
    "USER",
];

/// Which environment is asked for.
#[derive(Debug, Clone, Default, clap::Args)]
pub(crate) struct EnvironmentArgs {
    /// The Deployment whose environment is used (default: the configured one)
    #[arg(long, value_name = "DEPLOYMENT")]
    deployment: Option<DeploymentName>,

    /// Use this image instead, in a container
    #[arg(long, value_name = "NAME")]
    image: Option<String>,

    /// The container engine, docker or podman (default: the first that works)
    #[arg(long, value_name = "ENGINE", value_parser = engine)]
    engine: Option<EngineName>,
}

impl EnvironmentArgs {
    pub(crate) fn of(deployment: Option<DeploymentName>) -> Self {
        Self {
            deployment,
            ..Self::default()
        }
    }
}

/// Reads the name of an engine that runs containers.
pub(crate) fn engine(text: &str) -> std::result::Result<EngineName, &'static str> {
    let found = EngineName::RUN.into_iter().find(|it| it.program() == text);
    found.ok_or("it is `docker` or `podman`")
}

/// What to make, found without making it.
pub(crate) struct Wanted {
    /// The Deployment that was asked; none: nobody was.
    pub(crate) deployment: Option<DeploymentName>,
    pub(crate) names: Names,
    /// What the user should know about the choice.
    pub(crate) note: Option<String>,
    project: Project,
    source: Source,
    engine: Option<EngineName>,
}

enum Source {
    /// What the Deployment has.
    Locked(Box<EnvironmentConfig>, Reach),
    /// What the project requires, which is to be locked.
    Required(Box<ImageHalf>),
    Image(String),
    /// What the project's Dockerfile makes, and why nothing less will do.
    Build(ProjectError),
}

/// The environment, made.
pub(crate) struct Ready {
    /// In what it differs from what will run.
    pub(crate) note: Option<String>,
    pub(crate) runs: Runs,
    pub(super) place: Place,
}

/// What decides how files are read.
#[derive(Debug, Clone)]
pub(crate) struct Runs {
    pub(crate) airflow: AirflowVersion,
    pub(crate) python: PythonVersion,
    /// What its processes have set.
    pub(crate) env: BTreeMap<String, String>,
}

pub(super) enum Place {
    Here { realised: Realised, lock: Lock },
    Container(Container),
}

/// Finds out which environment the project's code will run in: that of the
/// Deployment, unless the project or the caller asks for another.
pub(crate) async fn wanted(
    cx: &Context,
    args: &EnvironmentArgs,
    project: &Project,
) -> Result<Wanted> {
    let half = project.clone();
    let half = tokio::task::spawn_blocking(move || half.image_half(None)).await?;
    let asked = ask(cx, args.deployment.as_ref(), project).await?;
    let mut note = asked.note;
    let source = match (args.image.clone(), half, asked.runs) {
        (Some(image), _, _) => Source::Image(image),
        (None, Err(steps @ ProjectError::OwnSteps(_)), _) => Source::Build(steps),
        (None, Ok(half), Some(runs)) if asks_for_other(&half, &runs) => {
            if let Some(name) = &asked.deployment {
                note = Some(format!(
                    "the project asks for other packages than `{name}` has, so its own are used"
                ));
            }
            Source::Required(Box::new(half))
        }
        (None, _, Some(runs)) => {
            let runner = args.engine.map(Builder::Engine);
            Source::Locked(Box::new(runs), asked.reach.with_runner(runner))
        }
        (None, half, None) => Source::Required(Box::new(half?)),
    };
    Ok(Wanted {
        deployment: asked.deployment,
        names: asked.names,
        note,
        project: project.clone(),
        source,
        engine: args.engine,
    })
}

/// Whether a project asks for other packages than an Environment has.
fn asks_for_other(half: &ImageHalf, runs: &EnvironmentConfig) -> bool {
    let (made, runs) = (&half.fingerprint, &runs.fingerprint);
    made.requirements != runs.requirements
        || made.airflow_version != runs.airflow_version
        || made.python_version != runs.python_version
}

/// What a Deployment answers.
struct Asked {
    deployment: Option<DeploymentName>,
    /// What its wanted Release runs in; none before the first deploy.
    runs: Option<EnvironmentConfig>,
    names: Names,
    /// How its images are had.
    reach: Reach,
    note: Option<String>,
}

/// Asks the Deployment; without one, the project answers for its names.
async fn ask(cx: &Context, argument: Option<&DeploymentName>, project: &Project) -> Result<Asked> {
    let nobody = |note| -> Result<Asked> {
        Ok(Asked {
            deployment: None,
            runs: None,
            names: names_in(project)?,
            reach: Reach::default(),
            note,
        })
    };
    let Ok(name) = cx.deployment(argument) else {
        return nobody(None);
    };
    let asked = match cx.client().await {
        Ok(client) => of_deployment(&client, &name, cx.cache_dir().as_deref())
            .await
            .map(|(runs, names)| (runs, names, Reach::of(&client))),
        Err(failure) => Err(failure),
    };
    match asked {
        Ok((runs, names, reach)) => Ok(Asked {
            deployment: Some(name),
            runs,
            names,
            reach,
            note: None,
        }),
        // Somebody who names it wants to know.
        Err(failure) if argument.is_some() => Err(failure),
        Err(failure) => nobody(Some(format!(
            "`{name}` cannot be asked, so the project's own packages are used: {}",
            failure.message
        ))),
    }
}

async fn of_deployment(
    client: &Client,
    name: &DeploymentName,
    cache: Option<&Path>,
) -> Result<(Option<EnvironmentConfig>, Names)> {
    let (deployment, names) = tokio::try_join!(
        async { Ok(client.deployment(name).await?) },
        names(client, name)
    )?;
    let Some(wanted) = deployment.wanted else {
        return Ok((None, names));
    };
    let found = config(client, name, wanted.image.digest(), cache).await?;
    Ok((Some(found), names))
}

impl Wanted {
    /// Makes it, or answers at once when it is there. Blocks.
    pub(crate) fn make(self, cache: &Path, stop: &Stop, say: &dyn Fn(&str)) -> Result<Ready> {
        match self.source {
            Source::Locked(config, reach) => ready(*config, &reach, cache, stop, say),
            Source::Required(half) => {
                let locked = make_blocking(*half, cache, stop, say)?;
                ready(locked.config().clone(), &Reach::default(), cache, stop, say)
            }
            Source::Image(name) => {
                let container = Container::of_image(&name, self.engine, cache, stop, say)?;
                Ok(container.into_ready())
            }
            Source::Build(why) => {
                let project = &self.project;
                let container =
                    Container::of_project(project, &why, self.engine, cache, stop, say)?;
                Ok(container.into_ready())
            }
        }
    }
}

/// Makes an environment from what describes it. Blocks.
pub(crate) fn ready(
    config: EnvironmentConfig,
    reach: &Reach,
    cache: &Path,
    stop: &Stop,
    say: &dyn Fn(&str),
) -> Result<Ready> {
    let Some(image) = &config.container else {
        return realised(config, cache, stop, say);
    };
    if let Some(container) = Container::of_release(image, reach, cache, stop, say)? {
        return Ok(container.into_ready());
    }
    let name = image.to_string();
    let stand_in = realised(config, cache, stop, say).map_err(|failure| {
        let message = format!(
            "the Release runs in the container image `{name}`, no engine runs it here, and its packages cannot be had without"
        );
        Failure {
            causes: [vec![failure.message], failure.causes].concat(),
            ..Failure::new(failure.exit, message).help("install docker or podman")
        }
    })?;
    let note = "no container engine works here: the files are imported with the image's packages, and without what else is in it";
    Ok(Ready {
        note: Some(note.to_owned()),
        ..stand_in
    })
}

/// Makes a virtual environment of what was locked. Blocks.
fn realised(
    config: EnvironmentConfig,
    cache: &Path,
    stop: &Stop,
    say: &dyn Fn(&str),
) -> Result<Ready> {
    let uv = Uv::find_or_install(cache, stop, say)?;
    let realised = realise(
        &uv,
        &RealiseRequest {
            config: &config,
            dir: &cache.join("venvs"),
            cache,
            run_as: None,
            say,
        },
    )?;
    let runs = Runs::of(&config);
    let last = last(
        &runs.airflow,
        runs.python,
        config.fingerprint.requirements,
        cache,
    );
    // Without it, the static check looks no imports up.
    let _ = crate::files::write_private(&last, &realised_key(&config).to_string());
    Ok(Ready {
        note: None,
        runs,
        place: Place::Here {
            realised,
            lock: config.lock,
        },
    })
}

impl Runs {
    pub(crate) fn of(config: &EnvironmentConfig) -> Self {
        Self {
            airflow: config.fingerprint.airflow_version.clone(),
            python: config.fingerprint.python_version,
            env: config.env.clone(),
        }
    }
}

/// The folder of the environment that was made of this before, where it was.
pub(crate) fn made(config: &EnvironmentConfig, cache: &Path) -> Option<PathBuf> {
    realised_folder(&cache.join("venvs"), realised_key(config))
}

/// The folder of the one that was made last for what a project requires.
pub(super) fn made_last(
    airflow: &AirflowVersion,
    python: PythonVersion,
    requirements: Option<Digest>,
    cache: &Path,
) -> Option<PathBuf> {
    let key = std::fs::read_to_string(last(airflow, python, requirements, cache)).ok()?;
    realised_folder(&cache.join("venvs"), key.parse().ok()?)
}

/// Names the one that was made last. Locks differ, as what they were made from
/// does: a Deployment may have an older one.
fn last(
    airflow: &AirflowVersion,
    python: PythonVersion,
    requirements: Option<Digest>,
    cache: &Path,
) -> PathBuf {
    let facts = serde_json::json!([airflow, python, requirements]);
    let name = Digest::of(facts.to_string().as_bytes()).short();
    cache.join("check").join(format!("venv-{name}"))
}

/// Where tools and environments are kept.
pub(crate) fn cache(cx: &Context) -> Result<PathBuf> {
    needed(cx.cache_dir())
}

/// Refuses to do without one.
pub(crate) fn needed(cache: Option<PathBuf>) -> Result<PathBuf> {
    cache.ok_or_else(|| {
        Failure::new(Exit::Prerequisite, "there is no folder to keep tools in")
            .help("set UPDRAFT_CACHE_DIR")
    })
}

impl Ready {
    /// The virtual environment, where it is one.
    pub(crate) fn realised(&self) -> Option<&Realised> {
        match &self.place {
            Place::Here { realised, .. } => Some(realised),
            Place::Container(_) => None,
        }
    }

    /// The folder of the virtual environment, where it is one.
    pub(crate) fn venv(&self) -> Option<&Path> {
        self.realised().map(|realised| realised.folder.as_path())
    }

    /// The variables of a process of this machine that imports the project's
    /// code, as the Deployment's processes have them: the Dockerfile's and
    /// Airflow's own.
    pub(super) fn variables(
        &self,
        realised: &Realised,
        project: &Project,
        home: &Path,
    ) -> BTreeMap<String, String> {
        let root = project.root();
        let ours = PASSED
            .iter()
            .filter_map(|name| Some(((*name).to_owned(), std::env::var(name).ok()?)));
        let mut variables: BTreeMap<String, String> = ours.collect();
        variables.extend(self.runs.env.clone());
        let before = |first: String, rest: Option<&String>| match rest {
            Some(rest) if !rest.is_empty() => format!("{first}:{rest}"),
            _ => first,
        };
        let shown = |path: &Path| path.display().to_string();
        let path = before(shown(&realised.bin), variables.get("PATH"));
        let python_path = before(shown(root), variables.get("PYTHONPATH"));
        let set = [
            ("PATH", path),
            ("PYTHONPATH", python_path),
            // Credentials in ours are not the Deployment's.
            ("HOME", shown(home)),
            ("AIRFLOW_HOME", shown(home)),
        ];
        variables.extend(set.map(|(name, value)| (name.to_owned(), value)));
        variables.extend(about_project(project));
        variables
    }

    /// The process that parses.
    pub(crate) fn host(&self, project: &Project, cache: &Path, tree: &Tree) -> Host {
        let folder = folder(cache, project);
        // Airflow imports its local settings, and Python what customises a site.
        let is_loaded = |path: &str| {
            path.starts_with("plugins/")
                || (!path.contains('/') && Path::new(path).extension().is_some_and(|it| it == "py"))
        };
        let loads: Vec<_> = tree.iter().filter(|(path, _)| is_loaded(path)).collect();
        let loads = serde_json::to_vec(&loads).unwrap_or_default();
        let start = match &self.place {
            Place::Here { realised, .. } => {
                let in_ci = std::env::var_os("CI").is_some_and(|value| !value.is_empty());
                Start::Here {
                    python: realised.python.clone(),
                    variables: self.variables(realised, project, &folder.join("home")),
                    stays: if in_ci { STAYS_IN_CI } else { STAYS },
                }
            }
            Place::Container(container) => container.worker(project),
        };
        Host {
            start,
            loads: Digest::of(&loads),
            log: folder.join("parse.log"),
            own: vec![folder, project.root().to_owned()],
        }
    }
}

/// What Airflow is told of the project, wherever it runs.
pub(super) fn about_project(project: &Project) -> [(String, String); 4] {
    let shown = |path: &Path| path.display().to_string();
    [
        ("AIRFLOW__CORE__DAGS_FOLDER", shown(&project.dags())),
        (
            "AIRFLOW__CORE__PLUGINS_FOLDER",
            shown(&project.root().join("plugins")),
        ),
        ("AIRFLOW__CORE__LOAD_EXAMPLES", "False".into()),
        ("PYTHONDONTWRITEBYTECODE", "1".into()),
    ]
    .map(|(name, value)| (name.to_owned(), value))
}

/// What belongs to one project in the cache.
pub(crate) fn folder(cache: &Path, project: &Project) -> PathBuf {
    use std::os::unix::ffi::OsStrExt;

    let key = Digest::of(project.root().as_os_str().as_bytes()).short();
    cache.join("check").join(key)
}

impl From<RealiseError> for Failure {
    fn from(error: RealiseError) -> Self {
        let exit = crate::failure::exit_of_chain(&error, Exit::Prerequisite);
        Self::from_error(exit, &error).help(error.help())
    }
}
