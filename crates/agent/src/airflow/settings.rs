//! The environment of Airflow's processes: what passes from ours by an
//! allow-list, what we set, and the Deployment's own variables.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use serde_json::json;
use updraft_model::{BundleName, Digest, PreviewValues, Release};

use super::preview;
use super::secrets::Secrets;
use crate::disk::Disk;
use crate::environment::{Environment, Packages};
use crate::runtime::logs::Hidden;

/// What passes from the agent's own environment. Everything else stays out:
/// tokens, our own settings, whatever a service manager put there.
const PASSED: &[&str] = &[
    "LANG",
    "LANGUAGE",
    "TZ",
    "SSL_CERT_FILE",
    "SSL_CERT_DIR",
    "REQUESTS_CA_BUNDLE",
    "CURL_CA_BUNDLE",
    "HTTP_PROXY",
    "HTTPS_PROXY",
    "NO_PROXY",
    "ALL_PROXY",
    "FTP_PROXY",
    "http_proxy",
    "https_proxy",
    "no_proxy",
    "all_proxy",
    "ftp_proxy",
];

/// What a Deployment's variables cannot change: Airflow would run something
/// else than what the agent says it runs.
const RESERVED: &[&str] = &[
    "AIRFLOW_HOME",
    "AIRFLOW_CONFIG",
    "AIRFLOW__API__BASE_URL",
    "AIRFLOW__API__HOST",
    "AIRFLOW__API__PORT",
    "AIRFLOW__API_AUTH__JWT_SECRET",
    "AIRFLOW__CORE__DAGS_FOLDER",
    "AIRFLOW__CORE__EXECUTION_API_SERVER_URL",
    "AIRFLOW__CORE__PLUGINS_FOLDER",
    "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_PASSWORDS_FILE",
    "AIRFLOW__DAG_PROCESSOR__DAG_BUNDLE_CONFIG_LIST",
    "AIRFLOW__WEBSERVER__WEB_SERVER_HOST",
    "AIRFLOW__WEBSERVER__WEB_SERVER_PORT",
    "HOME",
    "LOGNAME",
    "PYTHONDONTWRITEBYTECODE",
    "PYTHONPYCACHEPREFIX",
    "USER",
    MARK,
];

/// Names the agent's folder in every process of its Airflow, so that all of
/// them can be found when it has to stop.
pub(crate) const MARK: &str = "UPDRAFT_MANAGED_IN";

pub(crate) const SYSTEM_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// What the settings are made from.
pub(crate) struct SettingsFor<'a> {
    pub(crate) disk: &'a Disk,
    pub(crate) environment: &'a Environment,
    pub(crate) dags: Dags<'a>,
    pub(crate) executor: &'a str,
    /// The Deployment's variables, or those of a project's `.env`.
    pub(crate) own: &'a BTreeMap<String, String>,
    pub(crate) secrets: &'a Secrets,
    pub(crate) port: u16,
    pub(crate) metadata_db_url: Option<&'a str>,
    /// Whether Airflow runs as another user than the agent.
    pub(crate) apart: bool,
    /// Seconds until Airflow parses a file again that did not change.
    pub(crate) parse_again: u64,
    /// Further names that pass from the agent's environment.
    pub(crate) pass: &'a [String],
    /// The agent's own environment.
    pub(crate) ours: &'a [(String, String)],
    /// What a Preview has of the Deployment that it is made from; none: it is no Preview.
    pub(crate) preview: Option<PreviewValues>,
}

/// Where the DAGs are.
#[derive(Clone, Copy)]
pub(crate) enum Dags<'a> {
    /// In the versions of a Release, behind the link that is switched.
    Release {
        release: &'a Release,
        view_url: &'a str,
    },
    /// In a folder that people edit.
    Folder(&'a Path),
}

/// What was asked for, told apart from how this agent goes about it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct AskedFor {
    /// For those that load bundles.
    pub(crate) with_bundles: Digest,
    /// For the others, which need not restart when a bundle comes or goes.
    pub(crate) without_bundles: Digest,
}

/// What a component that runs is compared by: the Release's environment, the
/// Deployment's variables and executor, and what the operator tells the agent
/// about Airflow. Everything else that Airflow is started with (the agent's
/// defaults and its own package, `LANG` or `PATH` of a shell) changes with the
/// agent, and waits for the next start.
pub(crate) fn asked(ask: &SettingsFor<'_>) -> AskedFor {
    let named: BTreeMap<_, _> = ask
        .ours
        .iter()
        .filter(|(name, _)| ask.pass.contains(name))
        .map(|(name, value)| (name, value))
        .collect();
    let packages = match &ask.environment.packages {
        Packages::Venv { folder, .. } => json!(folder),
        Packages::Image(_) => json!({ "image": ask.environment.digest }),
    };
    let asked = json!({
        "venv": packages,
        "files": ask.environment.project,
        "image": ask.environment.variables,
        "deployment": ask.own,
        "executor": ask.executor,
        "port": ask.port,
        "database": ask.metadata_db_url,
        "passed": named,
    });
    let bundles = match ask.dags {
        Dags::Release { release, .. } => json!(release.bundles.keys().collect::<Vec<_>>()),
        Dags::Folder(folder) => json!(folder),
    };
    let digest = |asked: &serde_json::Value| Digest::of(asked.to_string().as_bytes());
    AskedFor {
        with_bundles: digest(&json!([asked, bundles])),
        without_bundles: digest(&asked),
    }
}

pub(crate) type Variables = BTreeMap<String, String>;

/// What output of Airflow may quote and nobody else may read.
pub(crate) fn hidden(ask: &SettingsFor<'_>) -> Hidden {
    let database = ask.metadata_db_url;
    // A complaint may name the password without the address around it.
    let password = database.and_then(|url| {
        let (_, rest) = url.split_once("://")?;
        let (login, _) = rest.rsplit_once('@')?;
        Some(login.split_once(':')?.1)
    });
    let passed = ask.ours.iter().filter(|(name, _)| ask.pass.contains(name));
    let own = [
        ("the metadata database", database),
        ("the metadata database's password", password),
        ("the Fernet key", Some(ask.secrets.fernet_key.as_str())),
        ("the JWT secret", Some(&ask.secrets.jwt_secret)),
        ("the secret key", Some(&ask.secrets.secret_key)),
        ("the admin password", Some(&ask.secrets.admin_password)),
    ];
    let deployment = ask.own.iter();
    Hidden::new(
        deployment
            .map(|(name, value)| (name.as_str(), value.as_str()))
            .chain(passed.map(|(name, value)| (name.as_str(), value.as_str())))
            .chain(
                own.into_iter()
                    .filter_map(|(name, value)| Some((name, value?))),
            ),
    )
}

/// The environment of all components.
pub(crate) fn variables(ask: &SettingsFor<'_>) -> Variables {
    let mut variables = match ask.environment.image() {
        None => passed(ask.ours.iter().cloned(), ask.apart, ask.pass),
        Some(_) => passed_to_image(ask.ours.iter().cloned(), ask.pass),
    };
    let left_out = |name: &String| {
        let values = ask.preview;
        values.is_some_and(|values| values.leaves_out(name))
    };
    variables.retain(|name, _| !left_out(name));
    // What the Deployment says may replace a default of ours …
    variables.extend(defaults(ask));
    if let Some(image) = ask.environment.image() {
        // Each image sets some of what is ours, and nobody meant anything by it.
        let theirs = image.variables.iter();
        let theirs = theirs.filter(|(name, _)| !is_reserved(name) && !left_out(name));
        variables.extend(theirs.map(|(name, value)| (name.clone(), value.clone())));
        for (name, value) in [("PATH", SYSTEM_PATH), ("LANG", "C.UTF-8")] {
            variables.entry(name.into()).or_insert_with(|| value.into());
        }
    }
    for (name, value) in ask.environment.variables.iter().chain(ask.own) {
        if is_reserved(name) {
            tracing::warn!(
                variable = name,
                "the agent sets this variable itself; the Deployment's is left out"
            );
        } else if !left_out(name) {
            variables.insert(name.clone(), value.clone());
        }
    }
    // … but not what the agent relies on.
    let project = shown(&ask.environment.project);
    let (path, python_path) = match &ask.environment.packages {
        Packages::Venv { bin, .. } => (Some(shown(bin)), project),
        // Ours after theirs: what it brings is of its own name.
        Packages::Image(image) => (None, format!("{project}:{}", shown(&image.wheel))),
    };
    for (name, first) in [("PATH", path), ("PYTHONPATH", Some(python_path))] {
        let rest = variables.get(name).filter(|rest| !rest.is_empty());
        let joined: Vec<&str> = first
            .as_deref()
            .into_iter()
            .chain(rest.map(String::as_str))
            .collect();
        let joined = joined.join(":");
        variables.insert(name.into(), joined);
    }
    variables.extend(fixed(ask));
    if ask.preview.is_some() {
        variables.extend(own(preview::FIXED.map(|(name, value)| (name, value.into()))));
    }
    if ask.environment.is_airflow_2() {
        // Airflow 2 lets one process at a time write to SQLite.
        let sqlite = uses_sqlite(&variables);
        variables.insert(
            STANDALONE.into(),
            if sqlite { "False" } else { "True" }.into(),
        );
        if sqlite {
            variables.insert(
                "AIRFLOW__CORE__EXECUTOR".into(),
                "SequentialExecutor".into(),
            );
        }
    }
    variables
}

/// Whether a variable is Updraft's to set.
pub(crate) fn is_reserved(name: &str) -> bool {
    RESERVED.contains(&name) || name.starts_with("UPDRAFT_")
}

/// What a Release's size has Airflow wait before it parses an unchanged file
/// again: doing so without a reason costs a whole processor in a large project,
/// and a deploy does not wait for it.
pub(crate) fn parse_again_after(files: u64) -> u64 {
    (files / 10).clamp(30, 600)
}

const STANDALONE: &str = "AIRFLOW__SCHEDULER__STANDALONE_DAG_PROCESSOR";

/// Whether Airflow's database is a file.
pub(crate) fn uses_sqlite(variables: &Variables) -> bool {
    variables
        .get("AIRFLOW__DATABASE__SQL_ALCHEMY_CONN")
        .is_none_or(|url| url.starts_with("sqlite"))
}

/// Whether tasks are for Celery workers, by one of the executors.
pub(crate) fn uses_celery(variables: &Variables) -> bool {
    // As in `LocalExecutor,team=CeleryExecutor` or `alias:module.CeleryExecutor`.
    const SEPARATORS: [char; 4] = [',', ';', ':', '='];
    let executors = variables.get("AIRFLOW__CORE__EXECUTOR");
    let mut names = executors.into_iter().flat_map(|it| it.split(SEPARATORS));
    names.any(|name| {
        let class = name.trim().rsplit('.').next();
        matches!(class, Some("CeleryExecutor" | "CeleryKubernetesExecutor"))
    })
}

fn passed(
    ours: impl IntoIterator<Item = (String, String)>,
    apart: bool,
    pass: &[String],
) -> Variables {
    let mut variables: Variables = ours
        .into_iter()
        .filter(|(name, _)| {
            PASSED.contains(&name.as_str())
                || name.starts_with("LC_")
                || pass.contains(name)
                // Another user's folders are of no use, and may be closed.
                || (!apart && (name == "PATH" || name == "TMPDIR"))
        })
        .filter(|(name, _)| !name.starts_with("UPDRAFT_"))
        .collect();
    variables
        .entry("PATH".into())
        .or_insert_with(|| SYSTEM_PATH.into());
    variables
        .entry("LANG".into())
        .or_insert_with(|| "C.UTF-8".into());
    variables
}

/// What of ours holds in a container too: files that a variable names are this
/// machine's, and PATH is.
fn passed_to_image(ours: impl IntoIterator<Item = (String, String)>, pass: &[String]) -> Variables {
    let mut variables = passed(ours, true, pass);
    variables.retain(|name, _| {
        name == "TZ" || name.to_ascii_uppercase().ends_with("_PROXY") || pass.contains(name)
    });
    variables
}

/// This process's own environment. A variable that is no text is none of those
/// that pass.
pub(crate) fn own_variables() -> Vec<(String, String)> {
    std::env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
        .collect()
}

fn own(pairs: impl IntoIterator<Item = (&'static str, String)>) -> Variables {
    pairs
        .into_iter()
        .map(|(name, value)| (name.to_owned(), value))
        .collect()
}

fn defaults(ask: &SettingsFor<'_>) -> Variables {
    let processors = std::thread::available_parallelism().map_or(2, usize::from);
    let at_once = (processors * 2).clamp(2, 32).to_string();
    let mut variables = own([
        ("AIRFLOW__CORE__EXECUTOR", ask.executor.to_owned()),
        ("AIRFLOW__CORE__LOAD_EXAMPLES", "False".into()),
        ("AIRFLOW__CORE__LAZY_LOAD_PLUGINS", "True".into()),
        ("AIRFLOW__CORE__PARALLELISM", at_once.clone()),
        ("AIRFLOW__CELERY__WORKER_CONCURRENCY", at_once),
        ("AIRFLOW__CORE__FERNET_KEY", ask.secrets.fernet_key.clone()),
        (
            "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_USERS",
            "admin:admin".into(),
        ),
        ("AIRFLOW__API__WORKERS", "1".into()),
        ("AIRFLOW__API__SECRET_KEY", ask.secrets.secret_key.clone()),
        ("AIRFLOW__USAGE_DATA_COLLECTION__ENABLED", "False".into()),
        (
            "AIRFLOW__DAG_PROCESSOR__MIN_FILE_PROCESS_INTERVAL",
            ask.parse_again.to_string(),
        ),
        (
            "AIRFLOW__DAG_PROCESSOR__PARSING_PROCESSES",
            processors.clamp(1, 8).to_string(),
        ),
        ("AIRFLOW__DAG_PROCESSOR__PRINT_STATS_INTERVAL", "0".into()),
        // After the default 5 s a task gives up on a busy API server, asks again
        // to begin, hears that it runs already, and fails.
        ("AIRFLOW__WORKERS__EXECUTION_API_TIMEOUT", "30".into()),
        // Tasks run on while the API server is another: on a slow machine, or while its
        // database is migrated, it is away for longer than Airflow's tasks wait by
        // default, which is about 15 s for a request and a minute for three heartbeats.
        ("AIRFLOW__WORKERS__EXECUTION_API_RETRIES", "60".into()),
        ("AIRFLOW__WORKERS__EXECUTION_API_RETRY_WAIT_MAX", "5".into()),
    ]);
    if let Some(url) = ask.metadata_db_url {
        variables.insert("AIRFLOW__DATABASE__SQL_ALCHEMY_CONN".into(), url.to_owned());
    }
    if let Dags::Folder(_) = ask.dags {
        // Its looks at the folder, three lines each second, would be all of the log.
        let quiet = "airflow.dag_processing.manager=WARNING";
        variables.insert("AIRFLOW__LOGGING__NAMESPACE_LEVELS".into(), quiet.into());
    }
    variables
}

fn fixed(ask: &SettingsFor<'_>) -> Variables {
    let home = ask.disk.airflow_home();
    let address = format!("http://127.0.0.1:{}", ask.port);
    let (user, user_home) = user(ask, &home);
    let mut variables = own([
        ("HOME", user_home),
        ("USER", user.clone()),
        ("LOGNAME", user),
        (MARK, shown(ask.disk.root())),
        ("AIRFLOW_HOME", shown(&home)),
        // No bytecode in versions or environments: it would outlive its source.
        ("PYTHONDONTWRITEBYTECODE", "1".into()),
        ("PYTHONUNBUFFERED", "1".into()),
        (
            "AIRFLOW__CORE__PLUGINS_FOLDER",
            shown(&ask.environment.project.join("plugins")),
        ),
        // A second deploy within the default 30 s would move the label only.
        (
            "AIRFLOW__CORE__MIN_SERIALIZED_DAG_UPDATE_INTERVAL",
            "0".into(),
        ),
        // And the API server of 3.0 would show the old one for 10 s.
        (
            "AIRFLOW__CORE__MIN_SERIALIZED_DAG_FETCH_INTERVAL",
            "0".into(),
        ),
    ]);
    if ask.environment.is_airflow_2() {
        variables.extend(own([
            (
                "AIRFLOW__CORE__DAGS_FOLDER",
                match ask.dags {
                    Dags::Release { .. } => shown(&ask.disk.airflow_link("dags")),
                    Dags::Folder(folder) => shown(folder),
                },
            ),
            (
                "AIRFLOW__DATABASE__LOAD_DEFAULT_CONNECTIONS",
                "False".into(),
            ),
            (
                "AIRFLOW__WEBSERVER__SECRET_KEY",
                ask.secrets.secret_key.clone(),
            ),
            ("AIRFLOW__WEBSERVER__WEB_SERVER_HOST", "127.0.0.1".into()),
            ("AIRFLOW__WEBSERVER__WEB_SERVER_PORT", ask.port.to_string()),
            ("AIRFLOW__WEBSERVER__BASE_URL", address),
            ("AIRFLOW__WEBSERVER__WORKERS", "1".into()),
            ("AIRFLOW__SCHEDULER__DAG_DIR_LIST_INTERVAL", "10".into()),
            ("AIRFLOW__SCHEDULER__MIN_FILE_PROCESS_INTERVAL", "30".into()),
            (
                "AIRFLOW__API__AUTH_BACKENDS",
                "airflow.api.auth.backend.basic_auth,airflow.api.auth.backend.session".into(),
            ),
        ]));
    } else {
        variables.extend(own([
            // 3.0 has none, which newer releases of its JWT library refuse.
            ("AIRFLOW__API_AUTH__JWT_ISSUER", "updraft".into()),
            ("AIRFLOW__API__HOST", "127.0.0.1".into()),
            ("AIRFLOW__API__PORT", ask.port.to_string()),
            ("AIRFLOW__API__BASE_URL", address.clone()),
            (
                "AIRFLOW__CORE__EXECUTION_API_SERVER_URL",
                format!("{address}/execution/"),
            ),
            (
                "AIRFLOW__API_AUTH__JWT_SECRET",
                ask.secrets.jwt_secret.clone(),
            ),
            (
                "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_PASSWORDS_FILE",
                shown(&ask.disk.passwords()),
            ),
            (
                "AIRFLOW__DAG_PROCESSOR__DAG_BUNDLE_CONFIG_LIST",
                match ask.dags {
                    Dags::Release { release, view_url } => bundles(ask.disk, release, view_url),
                    Dags::Folder(folder) => folder_as_bundle(folder),
                },
            ),
            // Not in the machine's temporary folder, where it would meet another Airflow's.
            (
                "AIRFLOW__DAG_PROCESSOR__DAG_BUNDLE_STORAGE_PATH",
                shown(&home.join("dag_bundles")),
            ),
            (
                "AIRFLOW__DAG_PROCESSOR__BUNDLE_REFRESH_CHECK_INTERVAL",
                "1".into(),
            ),
            ("AIRFLOW__DAG_PROCESSOR__REFRESH_INTERVAL", "1".into()),
        ]));
    }
    variables
}

/// The worker's variables: without how often Airflow parses by itself, which
/// follows the number of files and is no reason to load Airflow again.
pub(crate) fn for_worker(mut variables: Variables) -> Variables {
    variables.remove("AIRFLOW__DAG_PROCESSOR__MIN_FILE_PROCESS_INTERVAL");
    variables
}

/// The variables that only those components get that load bundles: the others
/// need not restart when a bundle comes or goes.
pub(crate) fn without_bundles(mut variables: Variables) -> Variables {
    variables.remove("AIRFLOW__DAG_PROCESSOR__DAG_BUNDLE_CONFIG_LIST");
    variables
}

/// The bundles as Airflow 3 is told of them: the Release's, and those that have
/// left it and have versions here, since runs that began on one end on it. Such
/// a bundle has no `current`, so Airflow finds no DAGs in it. Airflow's Config
/// API shows this, so nothing in it is secret.
fn bundles(disk: &Disk, release: &Release, view_url: &str) -> String {
    let list: Vec<_> = bundle_names(disk, release)
        .iter()
        .map(|name| {
            json!({
                "name": name,
                "classpath": "airflow_updraft.bundle.UpdraftDagBundle",
                "kwargs": {
                    "root": disk.airflow_bundle(name.as_str()),
                    "view_url": view_url,
                    "socket": disk.socket(),
                    "notes": disk.notes(),
                    "refresh_interval": 1,
                },
            })
        })
        .collect();
    serde_json::Value::from(list).to_string()
}

/// A folder as it is at the moment, without versions, looked at each second.
fn folder_as_bundle(folder: &Path) -> String {
    json!([{
        "name": BundleName::dags(),
        "classpath": "airflow.dag_processing.bundles.local.LocalDagBundle",
        "kwargs": { "path": folder, "refresh_interval": 1 },
    }])
    .to_string()
}

fn bundle_names(disk: &Disk, release: &Release) -> BTreeSet<BundleName> {
    let has_versions = |name: &BundleName| {
        let versions = disk.bundle(name).and_then(|dir| dir.versions());
        versions.is_ok_and(|versions| !versions.is_empty())
    };
    let left = disk.bundles().unwrap_or_default().into_iter();
    left.filter(has_versions)
        .chain(release.bundles.keys().cloned())
        .collect()
}

fn shown(path: &Path) -> String {
    path.display().to_string()
}

/// Whom Airflow runs as, and that user's home.
fn user(ask: &SettingsFor<'_>, home: &Path) -> (String, String) {
    // In an image our user has neither a name nor a home.
    if ask.apart || ask.environment.image().is_some() {
        return ("airflow".to_owned(), shown(home));
    }
    (own_name(), own_home().unwrap_or_else(|| shown(home)))
}

fn own_home() -> Option<String> {
    std::env::var("HOME").ok()
}

fn own_name() -> String {
    std::env::var("USER").unwrap_or_else(|_| "airflow".into())
}

#[cfg(test)]
mod tests {
    use updraft_model::{BundleRef, DeploymentId, ImageRef, ReleaseId};

    use super::*;

    fn passed_of(ours: &[(&str, &str)], apart: bool) -> Variables {
        let ours = ours
            .iter()
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        passed(
            ours,
            apart,
            &["EXTRA".to_owned(), "UPDRAFT_TOKEN".to_owned()],
        )
    }

    #[test]
    fn a_bundle_is_configured_until_its_last_version_is_gone() {
        let root = tempfile::tempdir().unwrap();
        let disk = Disk::open(root.path(), DeploymentId::new()).unwrap();
        let version = Digest::of(b"version");
        for name in ["gone", "left"] {
            disk.bundle(&name.parse().unwrap()).unwrap();
        }
        let left = disk.bundle(&"left".parse().unwrap()).unwrap();
        std::fs::create_dir(left.version_path(&version)).unwrap();
        let record = left
            .versions_dir()
            .join(format!("{}.json", version.folder()));
        std::fs::write(record, "").unwrap();
        let release = Release {
            id: ReleaseId::new(),
            image: ImageRef::Environment { digest: version },
            bundles: [(BundleName::dags(), BundleRef { digest: version })].into(),
        };
        let names = bundle_names(&disk, &release);
        let names: Vec<&str> = names.iter().map(BundleName::as_str).collect();
        assert_eq!(names, ["dags", "left"]);
        left.remove_version(&version).unwrap();
        assert_eq!(bundle_names(&disk, &release).len(), 1);
    }

    #[test]
    fn a_celery_worker_is_needed_where_one_executor_is_celerys() {
        let uses = |executor: &str| {
            uses_celery(&[("AIRFLOW__CORE__EXECUTOR".into(), executor.into())].into())
        };
        for executor in [
            "CeleryExecutor",
            "airflow.providers.celery.executors.celery_executor.CeleryExecutor",
            "LocalExecutor, CeleryExecutor",
            "far:airflow.providers.celery.executors.celery_executor.CeleryExecutor",
            "LocalExecutor;blue=CeleryExecutor",
            "CeleryKubernetesExecutor",
        ] {
            assert!(uses(executor), "{executor}");
        }
        for executor in [
            "LocalExecutor",
            "KubernetesExecutor",
            "mine.NoCeleryExecutor",
        ] {
            assert!(!uses(executor), "{executor}");
        }
    }

    #[test]
    fn passes_what_is_on_the_list_and_nothing_else() {
        let ours = [
            ("UPDRAFT_TOKEN", "secret"),
            ("UPDRAFT_SERVER", "x"),
            ("AWS_SECRET_ACCESS_KEY", "secret"),
            ("GITHUB_TOKEN", "secret"),
            ("LD_PRELOAD", "x"),
            ("HTTPS_PROXY", "http://proxy"),
            ("LC_ALL", "C.UTF-8"),
            ("EXTRA", "yes"),
            ("PATH", "/root/bin:/bin"),
            ("TMPDIR", "/root/tmp"),
        ];
        let apart = passed_of(&ours, true);
        let names: Vec<&str> = apart.keys().map(String::as_str).collect();
        assert_eq!(names, ["EXTRA", "HTTPS_PROXY", "LANG", "LC_ALL", "PATH"]);
        assert!(!apart["PATH"].contains("/root"));
        assert_eq!(passed_of(&ours, false)["PATH"], "/root/bin:/bin");

        let ours = ours.map(|(name, value)| (name.to_owned(), value.to_owned()));
        let to_image = passed_to_image(ours, &["EXTRA".to_owned()]);
        let names: Vec<&str> = to_image.keys().map(String::as_str).collect();
        assert_eq!(names, ["EXTRA", "HTTPS_PROXY"]);
    }
}
