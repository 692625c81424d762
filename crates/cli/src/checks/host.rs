//! The environment that a project's code is imported and tested in: that of
//! its Deployment, made on this machine.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use updraft_api::Client;
use updraft_check::parse::{Host, Names, Tree};
use updraft_image::{
    EnvironmentConfig, RealiseError, RealiseRequest, Realised, Stop, Uv, realise, realised_key,
    reopen,
};
use updraft_model::{DeploymentName, Digest};
use updraft_project::{ImageHalf, Project, ProjectError};

use super::names::{names_in, of_deployment as names};
use crate::context::Context;
use crate::environment::{config, make_blocking};
use crate::exit::Exit;
use crate::failure::{Failure, Result};

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

/// What to make, found without making it.
pub(crate) struct Wanted {
    /// The Deployment that was asked; none: nobody was.
    pub(crate) deployment: Option<DeploymentName>,
    /// None: to be locked.
    config: Option<EnvironmentConfig>,
    half: Result<ImageHalf, ProjectError>,
    pub(crate) names: Names,
    /// What the user should know about the choice.
    pub(crate) note: Option<String>,
}

/// The environment, made.
pub(crate) struct Ready {
    pub(crate) realised: Realised,
    pub(crate) config: EnvironmentConfig,
}

/// Finds out which environment the project's code will run in: that of the
/// Deployment, unless the project asks for another since.
pub(crate) async fn wanted(
    cx: &Context,
    argument: Option<&DeploymentName>,
    project: &Project,
) -> Result<Wanted> {
    let half = project.clone();
    let half = tokio::task::spawn_blocking(move || half.image_half(None)).await?;
    let mut own = Wanted {
        deployment: None,
        config: None,
        half,
        names: names_in(project)?,
        note: None,
    };
    let Ok(name) = cx.deployment(argument) else {
        return Ok(own);
    };
    let asked = match cx.client().await {
        Ok(client) => of_deployment(&client, &name, cx.cache_dir().as_deref()).await,
        Err(failure) => Err(failure),
    };
    match asked {
        Ok((None, names)) => Ok(Wanted {
            deployment: Some(name),
            names,
            ..own
        }),
        Ok((Some(config), names)) => {
            let differs = own.half.as_ref().is_ok_and(|half| {
                let made = &half.fingerprint;
                let runs = &config.fingerprint;
                made.requirements != runs.requirements
                    || made.airflow_version != runs.airflow_version
                    || made.python_version != runs.python_version
            });
            if differs {
                own.note = Some(format!(
                    "the project asks for other packages than `{name}` has, so its own are used"
                ));
                return Ok(Wanted {
                    deployment: Some(name),
                    names,
                    ..own
                });
            }
            Ok(Wanted {
                deployment: Some(name),
                config: Some(config),
                names,
                ..own
            })
        }
        // Somebody who names it wants to know.
        Err(failure) if argument.is_some() => Err(failure),
        Err(failure) => {
            own.note = Some(format!(
                "`{name}` cannot be asked, so the project's own packages are used: {}",
                failure.message
            ));
            Ok(own)
        }
    }
}

/// What the Deployment's wanted Release runs in, none before the first deploy,
/// and the names that its Airflow has.
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
        let config = match self.config {
            Some(config) => config,
            None => make_blocking(self.half?, cache, stop, say)?
                .config()
                .clone(),
        };
        ready(config, cache, stop, say)
    }
}

/// Makes an environment from what describes it. Blocks.
pub(crate) fn ready(
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
    Ok(Ready { realised, config })
}

/// The environment that was made of this before, where it was.
pub(crate) fn made(config: &EnvironmentConfig, cache: &Path) -> Option<Realised> {
    reopen(&cache.join("venvs"), realised_key(config), None)
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
    /// The variables of a process that imports the project's code, as the
    /// Deployment's processes have them: the Dockerfile's and Airflow's own.
    pub(crate) fn variables(&self, project: &Project, home: &Path) -> BTreeMap<String, String> {
        let root = project.root();
        let ours = PASSED
            .iter()
            .filter_map(|name| Some(((*name).to_owned(), std::env::var(name).ok()?)));
        let mut variables: BTreeMap<String, String> = ours.collect();
        variables.extend(self.config.env.clone());
        let before = |first: String, rest: Option<&String>| match rest {
            Some(rest) if !rest.is_empty() => format!("{first}:{rest}"),
            _ => first,
        };
        let shown = |path: &Path| path.display().to_string();
        let path = before(shown(&self.realised.bin), variables.get("PATH"));
        let python_path = before(shown(root), variables.get("PYTHONPATH"));
        let set = [
            ("PATH", path),
            ("PYTHONPATH", python_path),
            ("PYTHONDONTWRITEBYTECODE", "1".into()),
            // Credentials in ours are not the Deployment's.
            ("HOME", shown(home)),
            ("AIRFLOW_HOME", shown(home)),
            ("AIRFLOW__CORE__DAGS_FOLDER", shown(&project.dags())),
            (
                "AIRFLOW__CORE__PLUGINS_FOLDER",
                shown(&root.join("plugins")),
            ),
            ("AIRFLOW__CORE__LOAD_EXAMPLES", "False".into()),
        ];
        variables.extend(set.map(|(name, value)| (name.to_owned(), value)));
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
        let in_ci = std::env::var_os("CI").is_some_and(|value| !value.is_empty());
        Host {
            python: self.realised.python.clone(),
            variables: self.variables(project, &folder.join("home")),
            loads: Digest::of(&loads),
            log: folder.join("parse.log"),
            stays: if in_ci { STAYS_IN_CI } else { STAYS },
        }
    }
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
