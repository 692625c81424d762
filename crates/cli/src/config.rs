//! Settings, and where each comes from.
//!
//! ```text
//! flags → UPDRAFT_* variables → updraft.toml → .updraft/local.toml → the user's config.toml → default
//! ```
//!
//! `updraft.toml` belongs to the repository and says only which Deployment is
//! meant and where. How to reach it (plain http, authorities) and with which
//! token is never a repository's to say. `.updraft/local.toml` is what
//! `updraft quickstart` leaves in a checkout: git does not see it.

use std::collections::BTreeMap;
use std::fmt;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use etcetera::BaseStrategy;
use serde::{Deserialize, Serialize};
use updraft_model::DeploymentName;
use updraft_project::{Project, ProjectError, SETTINGS_FILE};

use crate::exit::Exit;
use crate::failure::{Failure, Result};
use crate::files::{read_secret, write_private};

/// Where a control plane is looked for when nothing says otherwise: where
/// `updraft quickstart` and `updraft server` listen.
pub(crate) const DEFAULT_SERVER: &str = "http://127.0.0.1:8888";

/// The flags that every command takes.
#[derive(Debug, Clone, Default, clap::Args)]
#[command(next_help_heading = "Connection")]
pub(crate) struct ConnectionArgs {
    /// Address of the control plane [variable: `UPDRAFT_SERVER`]
    #[arg(long, global = true, value_name = "URL")]
    pub(crate) server: Option<String>,

    /// Read the token from this file, or from standard input with `-` [variables: `UPDRAFT_TOKEN`, `UPDRAFT_TOKEN_FILE`]
    #[arg(long, global = true, value_name = "FILE")]
    pub(crate) token_file: Option<PathBuf>,

    /// Send the token to another machine without encryption [variable: `UPDRAFT_INSECURE_HTTP`]
    #[arg(long, global = true)]
    pub(crate) insecure_http: bool,

    /// Trust the authorities in this PEM file too [variable: `UPDRAFT_CA_FILE`]
    #[arg(long, global = true, value_name = "FILE")]
    pub(crate) ca_file: Option<PathBuf>,

    /// Folder of the project, instead of looking here and above [variable: `UPDRAFT_PROJECT`]
    #[arg(long, global = true, value_name = "DIR")]
    pub(crate) project: Option<PathBuf>,
}

/// Where a setting came from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Source {
    Flag(&'static str),
    Variable(&'static str),
    File(PathBuf),
    Default,
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Flag(name) | Self::Variable(name) => f.write_str(name),
            Self::File(path) => write!(f, "{}", path.display()),
            Self::Default => f.write_str("default"),
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Setting<T> {
    pub(crate) value: T,
    pub(crate) source: Source,
}

/// A token as it was given. It is never printed.
pub(crate) enum KeptToken {
    Text(String),
    /// In a file, or on standard input.
    In(PathBuf),
}

#[derive(Debug, Clone)]
pub(crate) struct Settings {
    pub(crate) server: Setting<String>,
    pub(crate) deployment: Option<Setting<DeploymentName>>,
    pub(crate) insecure_http: Setting<bool>,
    pub(crate) ca_file: Option<Setting<PathBuf>>,
    /// The project here or above, when there is one.
    pub(crate) project: Option<Setting<Project>>,
    pub(crate) user_file: Option<PathBuf>,
    /// Where the quickstart here keeps what can be made again.
    pub(crate) cache: Option<PathBuf>,
    pub(crate) token_file: Option<Setting<PathBuf>>,
    /// Files with tokens by server, the nearest first.
    credentials: Vec<PathBuf>,
}

/// What a file may set. Not every file may set all of it.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
struct UserFile {
    server: Option<String>,
    deployment: Option<DeploymentName>,
    insecure_http: Option<bool>,
    ca_file: Option<PathBuf>,
}

/// What `updraft quickstart` leaves in a project.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct LocalFile {
    pub(crate) server: Option<String>,
    pub(crate) deployment: Option<DeploymentName>,
    /// A file of [`Credentials`]: a token in it counts only for the server that it names.
    pub(crate) credentials: Option<PathBuf>,
    /// Packages and tools, which commands here would otherwise fetch again.
    pub(crate) cache: Option<PathBuf>,
}

pub(crate) const LOCAL_FILE: &str = ".updraft/local.toml";

impl ConnectionArgs {
    pub(crate) fn named_project(&self) -> Option<(PathBuf, Source)> {
        let flag = self.project.clone();
        flag.map(|path| (path, Source::Flag("--project")))
            .or_else(|| path_variable("UPDRAFT_PROJECT"))
    }

    /// Whether the flag or the variable allows plain http.
    pub(crate) fn allows_insecure_http(&self) -> Result<bool> {
        let variable = switch("UPDRAFT_INSECURE_HTTP")?;
        Ok(self.insecure_http || variable.is_some_and(|(allowed, _)| allowed))
    }
}

impl Settings {
    pub(crate) fn load(flags: &ConnectionArgs) -> Result<Self> {
        let user_file = user_file();
        let user: UserFile = match &user_file {
            Some(path) => read_toml(path)?.unwrap_or_default(),
            None => UserFile::default(),
        };
        let project = find_project(flags)?;
        let root = project.as_ref().map(|project| project.value.root());
        let project_path = root
            .map(|root| root.join(SETTINGS_FILE))
            .unwrap_or_default();
        let local_path = root.map(|root| root.join(LOCAL_FILE)).unwrap_or_default();
        let in_project = project
            .as_ref()
            .map(|project| project.value.settings().clone())
            .unwrap_or_default();
        let local: LocalFile = match &project {
            Some(_) => read_toml(&local_path)?.unwrap_or_default(),
            None => LocalFile::default(),
        };
        let from_user = || Source::File(user_file.clone().unwrap_or_default());
        let from_project = || Source::File(project_path.clone());
        let from_local = || Source::File(local_path.clone());

        let server = first([
            flags
                .server
                .clone()
                .map(|value| (value, Source::Flag("--server"))),
            variable("UPDRAFT_SERVER")?,
            in_project.server.map(|value| (value, from_project())),
            local.server.map(|value| (value, from_local())),
            user.server.map(|value| (value, from_user())),
        ])
        .unwrap_or(Setting {
            value: DEFAULT_SERVER.to_owned(),
            source: Source::Default,
        });
        let deployment = first([
            parsed("UPDRAFT_DEPLOYMENT")?,
            in_project.deployment.map(|value| (value, from_project())),
            local.deployment.map(|value| (value, from_local())),
            user.deployment.map(|value| (value, from_user())),
        ]);
        let insecure_http = first([
            flags
                .insecure_http
                .then_some((true, Source::Flag("--insecure-http"))),
            switch("UPDRAFT_INSECURE_HTTP")?,
            user.insecure_http.map(|value| (value, from_user())),
        ])
        .unwrap_or(Setting {
            value: false,
            source: Source::Default,
        });
        let ca_file = first([
            flags
                .ca_file
                .clone()
                .map(|value| (value, Source::Flag("--ca-file"))),
            path_variable("UPDRAFT_CA_FILE"),
            user.ca_file.map(|value| (value, from_user())),
        ]);
        let token_file = flags.token_file.clone().map(|value| Setting {
            value,
            source: Source::Flag("--token-file"),
        });
        let credentials = local
            .credentials
            .into_iter()
            .chain(credentials_file(user_file.as_deref()));
        let credentials = credentials.collect();
        Ok(Self {
            server,
            deployment,
            insecure_http,
            ca_file,
            project,
            user_file,
            cache: local.cache,
            token_file,
            credentials,
        })
    }

    /// Whether something comes from what the quickstart left in the checkout.
    pub(crate) fn is_local(&self, source: &Source) -> bool {
        let Some(project) = &self.project else {
            return false;
        };
        *source == Source::File(project.value.root().join(LOCAL_FILE))
    }

    /// The token for the server with this (normalised) address.
    pub(crate) fn token(&self, server: &str) -> Result<Option<String>> {
        let Some(Setting { value, source }) = self.kept_token(server)? else {
            return Ok(None);
        };
        let given = match value {
            KeptToken::Text(text) => text,
            KeptToken::In(file) => read_secret(&file).map_err(|failure| {
                failure.help(format!("{source} says that the token is there"))
            })?,
        };
        clean_token(&given, &source).map(Some)
    }

    /// Where the token for a server is, before it is looked at.
    pub(crate) fn kept_token(&self, server: &str) -> Result<Option<Setting<KeptToken>>> {
        let kept = |value, source| Ok(Some(Setting { value, source }));
        if let Some(Setting { value, source }) = &self.token_file {
            return kept(KeptToken::In(value.clone()), source.clone());
        }
        if let Some((secret, source)) = variable("UPDRAFT_TOKEN")? {
            return kept(KeptToken::Text(secret), source);
        }
        if let Some((path, source)) = path_variable("UPDRAFT_TOKEN_FILE") {
            return kept(KeptToken::In(path), source);
        }
        for path in &self.credentials {
            if let Some(secret) = Credentials::load(path)?.token(server) {
                let secret = KeptToken::Text(secret.to_owned());
                return kept(secret, Source::File(path.clone()));
            }
        }
        Ok(None)
    }

    /// The file that `updraft login` writes to.
    pub(crate) fn credentials_file(&self) -> Result<PathBuf> {
        credentials_file(self.user_file.as_deref()).ok_or_else(|| {
            Failure::new(
                Exit::Refused,
                "there is no home folder to keep the token in",
            )
            .help("set UPDRAFT_CONFIG to a file in a folder of yours, or use UPDRAFT_TOKEN")
        })
    }
}

/// Tokens by the address of their server, as `updraft login` keeps them.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(crate) struct Credentials {
    #[serde(default)]
    servers: BTreeMap<String, Login>,
}

#[derive(Serialize, Deserialize)]
struct Login {
    token: String,
}

impl fmt::Debug for Login {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Login(…)")
    }
}

impl Credentials {
    pub(crate) fn load(path: &Path) -> Result<Self> {
        Ok(read_toml(path)?.unwrap_or_default())
    }

    pub(crate) fn token(&self, server: &str) -> Option<&str> {
        self.servers.get(server).map(|login| login.token.as_str())
    }

    pub(crate) fn insert(&mut self, server: String, token: String) {
        self.servers.insert(server, Login { token });
    }

    pub(crate) fn remove(&mut self, server: &str) -> bool {
        self.servers.remove(server).is_some()
    }

    /// Writes the file whole or not at all, readable by its owner only.
    pub(crate) fn save(&self, path: &Path) -> Result<()> {
        let text = toml::to_string(self).map_err(|error| {
            Failure::new(Exit::Internal, "could not write tokens").cause(&error)
        })?;
        write_private(path, &text).map_err(|error| Failure::file("write", path, &error))
    }
}

/// Refuses what could not be a token before it goes anywhere.
pub(crate) fn clean_token(given: &str, source: &Source) -> Result<String> {
    let token = given.trim();
    let refuse = |why: &str| {
        Err(
            Failure::new(Exit::NotSignedIn, format!("the token from {source} {why}"))
                .code("token_malformed")
                .help("a token is one line, as `updraft token create` printed it"),
        )
    };
    if token.is_empty() {
        return refuse("is empty");
    }
    if !token.bytes().all(|byte| byte.is_ascii_graphic()) {
        return refuse("has characters that no token has");
    }
    Ok(token.to_owned())
}

fn first<T, const N: usize>(layers: [Option<(T, Source)>; N]) -> Option<Setting<T>> {
    layers
        .into_iter()
        .flatten()
        .next()
        .map(|(value, source)| Setting { value, source })
}

/// A variable that is set; an empty one counts as not set, as CI systems give
/// a missing secret.
pub(crate) fn variable(name: &'static str) -> Result<Option<(String, Source)>> {
    match std::env::var(name) {
        Ok(value) if value.is_empty() => Ok(None),
        Ok(value) => Ok(Some((value, Source::Variable(name)))),
        Err(std::env::VarError::NotPresent) => Ok(None),
        Err(std::env::VarError::NotUnicode(_)) => Err(Failure::new(
            Exit::Refused,
            format!("{name} is not valid UTF-8"),
        )),
    }
}

fn path_variable(name: &'static str) -> Option<(PathBuf, Source)> {
    let value = std::env::var_os(name).filter(|value| !value.is_empty())?;
    Some((value.into(), Source::Variable(name)))
}

fn parsed<T: std::str::FromStr<Err: fmt::Display>>(
    name: &'static str,
) -> Result<Option<(T, Source)>> {
    let Some((text, source)) = variable(name)? else {
        return Ok(None);
    };
    let value = text
        .parse()
        .map_err(|error| Failure::new(Exit::Refused, format!("{name} is not valid: {error}")))?;
    Ok(Some((value, source)))
}

fn switch(name: &'static str) -> Result<Option<(bool, Source)>> {
    let Some((text, source)) = variable(name)? else {
        return Ok(None);
    };
    match text.as_str() {
        "1" | "true" | "yes" => Ok(Some((true, source))),
        "0" | "false" | "no" => Ok(Some((false, source))),
        _ => Err(Failure::new(
            Exit::Refused,
            format!("{name} is `{text}`, neither true nor false"),
        )),
    }
}

/// The project that was named, or the one here or above. Where there is none,
/// only those commands mind that need one.
fn find_project(flags: &ConnectionArgs) -> Result<Option<Setting<Project>>> {
    if let Some((path, source)) = flags.named_project() {
        return Ok(Some(Setting {
            value: Project::open(&path)?,
            source,
        }));
    }
    let Ok(here) = std::env::current_dir() else {
        return Ok(None);
    };
    match Project::find(&here) {
        Ok(value) => Ok(Some(Setting {
            value,
            source: Source::Default,
        })),
        Err(ProjectError::NotHere(_)) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

fn user_file() -> Option<PathBuf> {
    if let Some((path, _)) = path_variable("UPDRAFT_CONFIG") {
        return Some(path);
    }
    let base = etcetera::choose_base_strategy().ok()?;
    Some(base.config_dir().join("updraft/config.toml"))
}

/// Tokens lie beside the user's settings, in a file of their own.
fn credentials_file(user_file: Option<&Path>) -> Option<PathBuf> {
    user_file.map(|path| path.with_file_name("credentials.toml"))
}

/// Reads a TOML file; none is none.
fn read_toml<T: for<'de> Deserialize<'de>>(path: &Path) -> Result<Option<T>> {
    let text = match fs::read_to_string(path) {
        Ok(text) => text,
        Err(error)
            if matches!(
                error.kind(),
                io::ErrorKind::NotFound | io::ErrorKind::NotADirectory
            ) =>
        {
            return Ok(None);
        }
        Err(error) => {
            return Err(Failure {
                exit: Exit::Refused,
                ..Failure::file("read", path, &error)
            });
        }
    };
    toml::from_str(&text).map(Some).map_err(|error| {
        // The parser quotes the line; in a file of secrets that line may be one.
        let at = error
            .span()
            .map_or(1, |span| text[..span.start].lines().count().max(1));
        Failure::new(
            Exit::Refused,
            format!("`{}` is not valid, line {at}", path.display()),
        )
        .cause(&Message(error.message().to_owned()))
        .help("settings are listed in docs/reference/configuration.md")
    })
}

#[derive(Debug)]
struct Message(String);

impl fmt::Display for Message {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Message {}

/// Name, flag, variable, files that may set it, meaning.
const SETTINGS: &[[&str; 5]] = &[
    [
        "server",
        "`--server`",
        "`UPDRAFT_SERVER`",
        "both",
        "Address of the control plane; `http://127.0.0.1:8888` by default",
    ],
    [
        "deployment",
        "argument",
        "`UPDRAFT_DEPLOYMENT`",
        "both",
        "The Deployment that commands mean; a `[[target]]` of `updraft.toml` for what was pushed wins over a file",
    ],
    [
        "insecure-http",
        "`--insecure-http`",
        "`UPDRAFT_INSECURE_HTTP`",
        "user's",
        "Allows plain http to another machine",
    ],
    [
        "ca-file",
        "`--ca-file`",
        "`UPDRAFT_CA_FILE`",
        "user's",
        "PEM file with further authorities to trust",
    ],
    [
        "token",
        "`--token-file`",
        "`UPDRAFT_TOKEN`, `UPDRAFT_TOKEN_FILE`",
        "no",
        "Who you are; otherwise what `updraft login` stored for that server",
    ],
    [
        "project",
        "`--project`",
        "`UPDRAFT_PROJECT`",
        "no",
        "The project's folder; otherwise the nearest with `updraft.toml`, here or above",
    ],
    [
        "",
        "",
        "`UPDRAFT_BRANCH`",
        "no",
        "The branch that was pushed, where neither the pipeline nor git says it",
    ],
    [
        "",
        "",
        "`UPDRAFT_COMMENT_TOKEN`, `UPDRAFT_COMMENT_API`",
        "no",
        "With which token and where `updraft deploy --plan --comment` writes, instead of the forge's own variables",
    ],
    [
        "",
        "",
        "`UPDRAFT_ID_TOKEN`, `UPDRAFT_AUDIENCE`",
        "no",
        "A pipeline's identity, which is exchanged for a token where there is none, and whom it is for when that is not the address in `server`",
    ],
    [
        "",
        "",
        "`UPDRAFT_CONFIG`",
        "no",
        "The user's settings file, instead of `~/.config/updraft/config.toml`; tokens lie beside it",
    ],
    [
        "",
        "",
        "`UPDRAFT_CACHE_DIR`",
        "no",
        "Where scans are remembered, instead of `~/.cache/updraft`",
    ],
    [
        "",
        "",
        "`UPDRAFT_STATE_DIR`",
        "no",
        "Where `updraft dev start` keeps databases and logs, instead of `~/.local/state/updraft`",
    ],
    [
        "",
        "",
        "`NO_COLOR`, `COLUMNS`",
        "no",
        "No colours; the width of output",
    ],
];

/// The page `docs/reference/configuration.md`.
pub fn reference() -> String {
    use std::fmt::Write;

    let mut page = String::from(
        "# Settings\n\n\
         Made from `crates/cli/src/config.rs` by `make docs`. `updraft config` shows each value and where it comes from.\n\n\
         Each layer wins over those below it:\n\n\
         1. flags and arguments\n\
         2. `UPDRAFT_*` variables (an empty one counts as not set)\n\
         3. `updraft.toml` of the project: `server` and `deployment` only\n\
         4. `.updraft/local.toml` of the project, which `updraft quickstart` writes and git does not see\n\
         5. the user's `~/.config/updraft/config.toml`\n\
         6. defaults\n\n\
         | setting | flag | variable | files | meaning |\n|---|---|---|---|---|\n",
    );
    for [name, flag, variable, files, meaning] in SETTINGS {
        let name = if name.is_empty() {
            String::new()
        } else {
            format!("`{name}`")
        };
        let _ = writeln!(
            page,
            "| {name} | {flag} | {variable} | {files} | {meaning} |"
        );
    }
    page.push_str(
        "\n## Tokens\n\n\
         A token is never an argument. It is taken from the first of: `--token-file FILE` (`-` is standard input),\n\
         `UPDRAFT_TOKEN`, `UPDRAFT_TOKEN_FILE`, the quickstart's file that `.updraft/local.toml` names, and\n\
         `credentials.toml` beside the user's settings (mode 0600), which `updraft login URL` writes after the control\n\
         plane has said whose token it is. Stored tokens count only for the server that they are stored for. In a pipeline\n\
         without any, the job's identity is exchanged for one ([keyless.md](../keyless.md)).\n\n\
         ## The control plane and the agent\n\n\
         `updraft server` and `updraft agent` take flags and variables, listed by `--help` and in [cli.md](cli.md).\n\
         Addresses of databases may hold a password, so they are taken from variables only: `UPDRAFT_DATABASE_URL` for the\n\
         control plane, `UPDRAFT_AIRFLOW_DATABASE_URL` for the Airflow that an agent runs. `UPDRAFT_AGENT_TOKEN` replaces\n\
         the token that `updraft agent enroll` stored.\n",
    );
    page
}
