use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Duration;

use updraft_agent::{Agent, AgentConfig, ExternalAirflow, ExternalConfig, StartError, TokenSource};
use updraft_api::client::Connect;
use url::Url;

use super::airflow;
use super::enroll::{Enrolled, RootArgs, enrolled_file, token_file};
use crate::commands::deploy::create::seconds;
use crate::config::{Source, variable};
use crate::console::Console;
use crate::context::{Context, read_ca};
use crate::exit::Exit;
use crate::failure::{Failure, Result, exit_of_chain};
use crate::interrupt::Interrupt;
use crate::logging::{self, LogArgs};
use crate::port;

/// Run the agent (what `updraft agent` does by itself)
#[derive(Debug, clap::Args)]
pub(crate) struct RunArgs {
    #[command(flatten)]
    root: RootArgs,

    /// Where uv, packages and compiled files are kept, also for other agents (default: in the agent's folder)
    #[arg(long, env = "UPDRAFT_AGENT_TOOLS", value_name = "DIR")]
    tools: Option<PathBuf>,

    /// Where Airflow's web server listens, on this machine only (default: where it did before, or 8080)
    #[arg(long, env = "UPDRAFT_AIRFLOW_PORT", value_name = "PORT")]
    airflow_port: Option<u16>,

    /// Who Airflow runs as when the agent is root (default: `airflow` where there is one, or 50000)
    #[arg(long, env = "UPDRAFT_AIRFLOW_USER", value_name = "USER")]
    airflow_user: Option<String>,

    /// The container engine's socket, such as `unix:///run/docker.sock` (default: `DOCKER_HOST`, or the first of Docker and Podman that answers)
    #[arg(long, env = "UPDRAFT_ENGINE_SOCKET", value_name = "ADDRESS")]
    engine_socket: Option<String>,

    /// A further variable of this environment that Airflow gets
    #[arg(long, value_name = "NAME")]
    pass_environment: Vec<String>,

    /// How long tasks may take to end when what they run in is replaced, such as 90s, 10m or 2h
    #[arg(long, env = "UPDRAFT_DRAIN_TIMEOUT", value_name = "TIME", value_parser = seconds, default_value = "24h")]
    drain_timeout: Duration,

    /// Stop Airflow too when the agent is stopped
    #[arg(long)]
    stop_airflow: bool,

    /// How many Previews of pull requests this agent runs beside its own Airflow; each needs the memory of an Airflow
    #[arg(
        long,
        env = "UPDRAFT_AGENT_PREVIEWS",
        value_name = "N",
        default_value_t = AgentConfig::PREVIEWS,
        help_heading = "Previews"
    )]
    previews: u32,

    /// Who their Airflows run as when the agent is root (default: who its own Airflow runs as, whose files they can then read)
    #[arg(
        long,
        env = "UPDRAFT_AGENT_PREVIEW_USER",
        value_name = "USER",
        help_heading = "Previews"
    )]
    preview_user: Option<String>,

    /// The address under which people reach a Preview's Airflow, with `{port}` in it (default: `http://127.0.0.1:{port}`)
    #[arg(long, env = "UPDRAFT_AGENT_PREVIEW_URL", value_name = "TEMPLATE", value_parser = url_template, help_heading = "Previews")]
    preview_url: Option<String>,

    /// Deliver to this link for an Airflow that somebody else runs
    #[arg(long, value_name = "LINK", help_heading = "External Airflow")]
    external_folder: Option<PathBuf>,

    /// Address of that Airflow; without it nothing can be proven
    #[arg(
        long,
        value_name = "URL",
        requires = "external_folder",
        help_heading = "External Airflow"
    )]
    external_airflow: Option<String>,

    /// Who signs in to it
    #[arg(
        long,
        value_name = "NAME",
        default_value = "admin",
        help_heading = "External Airflow"
    )]
    external_user: String,

    /// File with the password
    #[arg(long, value_name = "FILE", help_heading = "External Airflow")]
    external_password_file: Option<PathBuf>,

    #[command(flatten)]
    log: LogArgs,
}

pub(crate) async fn run(args: &RunArgs, cx: &Context, out: &mut Console) -> Result<Exit> {
    logging::start(&args.log, out);
    let interrupt = Interrupt::listen()?;
    let root = &args.root.root;
    let mut config = AgentConfig::new(root.clone(), connect(root, cx)?, token(root)?)?;
    config.tools.clone_from(&args.tools);
    let before = airflow::kept_port(root)?;
    config.airflow_port = args.airflow_port.or(before).unwrap_or(8080);
    config.airflow_user.clone_from(&args.airflow_user);
    config.metadata_db_url = variable("UPDRAFT_AIRFLOW_DATABASE_URL")?.map(|(url, _)| url);
    config.pass_environment.clone_from(&args.pass_environment);
    config.engine_socket.clone_from(&args.engine_socket);
    config.drain_timeout = args.drain_timeout;
    config.external = external(args)?;
    config.previews = args.previews;
    config.preview_user.clone_from(&args.preview_user);
    config.preview_url.clone_from(&args.preview_url);

    // What listens there may be the Airflow of the agent before this one.
    let is_ours = updraft_agent::listens(root, config.airflow_port);
    if config.external.is_none() && !is_ours {
        port::must_be_free("Airflow", config.airflow_port, "--airflow-port")?;
    }

    let agent = Agent::start(config)?;
    airflow::keep_address(root, &agent.airflow_url())?;
    writeln!(
        out.status(),
        "Agent {} works in {}",
        agent.id(),
        root.display()
    )?;
    interrupt.came().await;
    if args.stop_airflow {
        writeln!(out.status(), "Stopping the agent and Airflow")?;
        agent.stop_with_airflow().await;
    } else {
        writeln!(out.status(), "Stopping the agent; Airflow goes on")?;
        agent.stop_agent_only().await;
    }
    Ok(Exit::Success)
}

/// An address that a port can be put into.
fn url_template(text: &str) -> std::result::Result<String, String> {
    const PORT: &str = "{port}";
    if !text.contains(PORT) {
        return Err(format!(
            "it has no `{PORT}`, and several Previews cannot share one address"
        ));
    }
    let url = Url::parse(&text.replace(PORT, "8081")).map_err(|error| error.to_string())?;
    if !matches!(url.scheme(), "http" | "https") {
        return Err("it begins with neither `https://` nor `http://`".into());
    }
    Ok(text.trim_end_matches('/').to_owned())
}

/// The control plane that was enrolled with, reached as it was then, unless
/// something else is said.
fn connect(root: &Path, cx: &Context) -> Result<Connect> {
    let settings = cx.settings()?;
    let mut connect = cx.connect(None)?;
    let named = matches!(
        settings.server.source,
        Source::Flag(_) | Source::Variable(_)
    );
    if !named
        && let Ok(text) = std::fs::read(enrolled_file(root))
        && let Ok(enrolled) = serde_json::from_slice::<Enrolled>(&text)
    {
        connect.server = enrolled.server;
        connect.insecure_http |= enrolled.insecure_http;
        if let Some(file) = enrolled.ca_file.filter(|_| settings.ca_file.is_none()) {
            connect.ca_certificates = Some(read_ca(&file)?);
        }
    }
    Ok(connect)
}

fn token(root: &Path) -> Result<TokenSource> {
    // The agent's folder may become another process's working directory.
    let file = std::path::absolute(token_file(root))?;
    if let Some((token, _)) = variable("UPDRAFT_AGENT_TOKEN")? {
        return Ok(TokenSource::Value(token));
    }
    if file.exists() {
        return Ok(TokenSource::File(file));
    }
    Err(Failure::new(
        Exit::NotSignedIn,
        format!("the agent in `{}` is not enrolled", root.display()),
    )
    .code("token_missing")
    .help("`updraft agent invite DEPLOYMENT` makes a code, `updraft agent enroll` trades it"))
}

fn external(args: &RunArgs) -> Result<Option<ExternalConfig>> {
    let Some(folder) = args.external_folder.clone() else {
        return Ok(None);
    };
    let airflow = match (&args.external_airflow, &args.external_password_file) {
        (None, _) => None,
        (Some(url), Some(password_file)) => Some(ExternalAirflow {
            url: url.clone(),
            user: args.external_user.clone(),
            password_file: password_file.clone(),
        }),
        (Some(_), None) => {
            return Err(Failure::new(
                Exit::Usage,
                "--external-airflow needs --external-password-file",
            ));
        }
    };
    Ok(Some(ExternalConfig { folder, airflow }))
}

impl From<StartError> for Failure {
    fn from(error: StartError) -> Self {
        if let StartError::Client(error) = error {
            return error.into();
        }
        let help = error.help();
        let exit = match &error {
            StartError::Root(updraft_agent::RootError::Locked(_))
            | StartError::OtherDeployment { .. } => Exit::Conflict,
            StartError::User(_) => Exit::Refused,
            StartError::Token(_) => Exit::NotSignedIn,
            StartError::Root(_) | StartError::Kept(_) | StartError::Client(_) => {
                exit_of_chain(&error, Exit::Internal)
            }
        };
        Self {
            help,
            ..Self::from_error(exit, &error)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_address_of_a_preview_has_a_place_for_its_port() {
        for good in [
            "http://127.0.0.1:{port}",
            "https://preview-{port}.example.org/",
        ] {
            let taken = url_template(good).unwrap();
            assert_eq!(taken, good.trim_end_matches('/'));
        }
        for (bad, why) in [
            ("https://preview.example.org", "{port}"),
            ("ftp://example.org:{port}", "https://"),
            ("example.org:{port}", "https://"),
            ("http://{port}:x", "port"),
        ] {
            let refused = url_template(bad).unwrap_err();
            assert!(refused.contains(why), "{bad}: {refused}");
        }
    }
}
