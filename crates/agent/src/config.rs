//! What an agent is started with.

use std::ffi::OsString;
use std::fmt;
use std::io;
use std::path::PathBuf;
use std::time::Duration;

use updraft_api::client::Connect;

#[derive(Debug, Clone)]
pub struct AgentConfig {
    /// The agent's folder; one agent for each.
    pub root: PathBuf,
    pub connect: Connect,
    pub token: TokenSource,
    /// The name under which this machine appears in `status`.
    pub host: String,
    /// Where Airflow's API server listens, on loopback.
    pub airflow_port: u16,
    /// The address under which people reach that; `None` is the one on loopback.
    pub airflow_url: Option<String>,
    /// Who Airflow runs as, when the agent is root: a name, `UID` or `UID:GID`.
    pub airflow_user: Option<String>,
    /// Airflow's metadata database; `None` is SQLite in Airflow's home.
    pub metadata_db_url: Option<String>,
    /// Further variables of the agent's environment that Airflow gets.
    pub pass_environment: Vec<String>,
    /// The command that becomes a component: normally this binary's
    /// `agent exec`, see [`crate::exec_component`].
    pub wrapper: Vec<OsString>,
    /// Where the tools and caches that the agent gets for itself lie; `None`
    /// is a folder in the root.
    pub tools: Option<PathBuf>,
    /// The container engine's socket, as in `unix:///run/docker.sock`; `None` is the
    /// first that answers at the usual places.
    pub engine_socket: Option<String>,
    /// How long tasks may take to end when what they run in is replaced.
    pub drain_timeout: Duration,
    pub external: Option<ExternalConfig>,
    /// How many Previews the agent runs beside its own Airflow.
    pub previews: u32,
    /// Who their Airflows run as; `None` is who its own does.
    pub preview_user: Option<String>,
    /// The address of a Preview's Airflow, with `{port}` in it; `None` is loopback.
    pub preview_url: Option<String>,
}

impl AgentConfig {
    pub const DRAIN_TIMEOUT: Duration = Duration::from_secs(24 * 60 * 60);
    pub const PREVIEWS: u32 = 2;

    /// The usual: this very binary is the wrapper.
    pub fn new(root: PathBuf, connect: Connect, token: TokenSource) -> io::Result<Self> {
        let wrapper = wrapper()?;
        let host = std::fs::read_to_string("/proc/sys/kernel/hostname")?
            .trim()
            .to_owned();
        Ok(Self {
            root,
            connect,
            token,
            host,
            airflow_port: 8080,
            airflow_url: None,
            airflow_user: None,
            metadata_db_url: None,
            pass_environment: Vec::new(),
            wrapper,
            tools: None,
            engine_socket: None,
            drain_timeout: Self::DRAIN_TIMEOUT,
            external: None,
            previews: Self::PREVIEWS,
            preview_user: None,
            preview_url: None,
        })
    }

    /// The folder of tools and caches.
    pub(crate) fn tools(&self) -> PathBuf {
        let own = || self.root.join("tools");
        self.tools.clone().unwrap_or_else(own)
    }

    /// Where people reach its Airflow.
    pub(crate) fn shown_url(&self) -> String {
        let local = || format!("http://127.0.0.1:{}", self.airflow_port);
        self.airflow_url.clone().unwrap_or_else(local)
    }

    /// The same with full paths: processes of Airflow start in a folder of their
    /// own, and links are read from where they lie.
    pub(crate) fn absolute(mut self) -> io::Result<Self> {
        let full = |path: &mut PathBuf| -> io::Result<()> {
            *path = std::path::absolute(&*path)?;
            Ok(())
        };
        full(&mut self.root)?;
        if let TokenSource::File(path) = &mut self.token {
            full(path)?;
        }
        if let Some(tools) = &mut self.tools {
            full(tools)?;
        }
        if let Some(external) = &mut self.external {
            full(&mut external.folder)?;
            if let Some(airflow) = &mut external.airflow {
                full(&mut airflow.password_file)?;
            }
        }
        Ok(self)
    }
}

/// This very binary, as what becomes a component.
pub(crate) fn wrapper() -> io::Result<Vec<OsString>> {
    let binary = std::env::current_exe()?;
    Ok(vec![binary.into(), "agent".into(), "exec".into()])
}

/// An Airflow that somebody else runs.
#[derive(Debug, Clone)]
pub struct ExternalConfig {
    /// Where the bundle `dags` is delivered: this becomes a link to the live
    /// version. Further bundles get a link beside it, named after them.
    pub folder: PathBuf,
    /// Airflow's address; without it nothing can be proven.
    pub airflow: Option<ExternalAirflow>,
}

#[derive(Debug, Clone)]
pub struct ExternalAirflow {
    pub url: String,
    pub user: String,
    /// A file that holds the password.
    pub password_file: PathBuf,
}

/// Where the agent's token comes from.
#[derive(Clone)]
pub enum TokenSource {
    Value(String),
    /// Read again when the control plane refuses the one that was read.
    File(PathBuf),
}

impl TokenSource {
    pub(crate) fn read(&self) -> io::Result<String> {
        match self {
            Self::Value(token) => Ok(token.clone()),
            Self::File(path) => Ok(std::fs::read_to_string(path)?.trim().to_owned()),
        }
    }
}

impl fmt::Debug for TokenSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Value(_) => f.write_str("Value(…)"),
            Self::File(path) => write!(f, "File({})", path.display()),
        }
    }
}
