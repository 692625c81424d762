//! What the quickstart has started, so that all of it can be stopped.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use updraft_agent::{
    Agent, AgentConfig, AirflowRest, AirflowRestError, Observed, RunningAgent, TokenSource,
};
use updraft_api::agent::{AirflowView, ComponentState, ComponentView};
use updraft_api::client::Connect;
use updraft_api::deployment::{CreateDeployment, DeploymentSettings};
use updraft_api::token::Enroll;
use updraft_api::{Client, ErrorCode};
use updraft_model::DeploymentName;
use updraft_server::{RunningServer, Server, ServerConfig, init_admin};

use super::{Folders, Prepared};
use crate::commands::agent::enroll::token_file;
use crate::config::Credentials;
use crate::console::Console;
use crate::exit::Exit;
use crate::failure::{Failure, Result};
use crate::files::write_private;

#[derive(Default)]
pub(super) struct Stage {
    server: Option<RunningServer>,
    agent: Option<RunningAgent>,
}

impl Stage {
    pub(super) fn is_anything(&self) -> bool {
        self.server.is_some() || self.agent.is_some()
    }

    /// Ends all of it, side by side: each takes up to 15 s, and so do both.
    pub(super) async fn stop(&mut self) {
        let (agent, server) = (self.agent.take(), self.server.take());
        let agent = async {
            if let Some(agent) = agent {
                agent.stop_with_airflow().await;
            }
        };
        let server = async {
            if let Some(server) = server {
                server.stop().await;
            }
        };
        tokio::join!(agent, server);
    }

    /// Starts the control plane and gives a client with its admin's token.
    pub(super) async fn start_server(
        &mut self,
        prepared: &Prepared,
        out: &mut Console,
    ) -> Result<Client> {
        let step = out.step("starting the control plane");
        let folders = &prepared.folders;
        let mut config = ServerConfig::new(folders.server());
        config.listen = SocketAddr::from((Ipv4Addr::LOCALHOST, prepared.port));
        self.server = Some(Server::start(config.clone()).await?);

        let url = prepared.url();
        let connect = Connect {
            server: url.clone(),
            ..Connect::default()
        };
        let client = Client::new(&connect, None)?;
        let token = match kept_token(&client, folders).await {
            Some(token) => token,
            // Also when one was made before: that one is lost or no longer good.
            None => init_admin(&config, true).await?.secret,
        };
        keep_token(&token, folders, &url)?;
        let client = client.with_token(token);
        out.done(step, &format!("the control plane listens at {url}"));
        Ok(client)
    }

    /// Starts the agent, enrolled if it was not yet.
    pub(super) async fn start_agent(
        &mut self,
        prepared: &Prepared,
        client: &Client,
        out: &mut Console,
    ) -> Result<()> {
        let step = out.step("starting the agent");
        let root = prepared.folders.agent();
        let connect = Connect {
            server: prepared.url(),
            ..Connect::default()
        };
        let token = token_file(&root);
        if !is_good(client, &token).await {
            let code = client.create_enrollment_code(&prepared.deployment).await?;
            let enroll = Enroll {
                code: code.code,
                host: "this machine".into(),
            };
            let enrolled = client.enroll(&enroll).await?;
            write_private(&token, &enrolled.secret)
                .map_err(|error| Failure::file("write", &token, &error))?;
        }
        let mut config = AgentConfig::new(root.clone(), connect, TokenSource::File(token))?;
        config.airflow_port = prepared.airflow_port;
        config.tools = Some(prepared.folders.cache());
        let agent = Agent::start(config)?;
        crate::commands::agent::airflow::keep_address(&root, &agent.airflow_url())?;
        self.agent = Some(agent);
        out.done(step, &format!("the agent works in {}", root.display()));
        Ok(())
    }

    /// Waits until Airflow's components are up, saying what the agent does.
    pub(super) async fn wait_for_airflow(&self, limit: Duration, out: &mut Console) -> Result<()> {
        let mut seen = self.running()?.subscribe();
        let mut step = out.step("waiting for Airflow");
        let until = tokio::time::Instant::now() + limit;
        loop {
            let (running, activity, problem) = {
                let now = seen.borrow_and_update();
                (is_running(&now), now.activity.clone(), now.problem.clone())
            };
            if running && self.airflow()?.is_up().await {
                break;
            }
            if let Some(activity) = activity {
                out.update(&mut step, &activity);
            }
            if let Some(problem) = problem.filter(|problem| problem.stalled) {
                return Err(Failure::new(Exit::Internal, problem.message));
            }
            if tokio::time::Instant::now() >= until {
                let seconds = limit.as_secs();
                let text = format!("Airflow has not come up within {seconds} s");
                return Err(Failure::new(Exit::TimedOut, text).help(
                    "the logs of its components are in the data folder, below `agent/*/logs`",
                ));
            }
            // The agent itself looks less often than somebody who waits.
            let _ = tokio::time::timeout(Duration::from_millis(300), seen.changed()).await;
        }
        out.done(
            step,
            &format!("Airflow answers at {}", self.running()?.airflow_url()),
        );
        Ok(())
    }

    pub(super) fn airflow(&self) -> Result<AirflowRest> {
        match self.running()?.airflow_rest() {
            Some(rest) => Ok(rest?),
            None => Err(Failure::new(Exit::Internal, "the agent has no Airflow yet")),
        }
    }

    /// Airflow's address and password.
    pub(super) fn sign_in(&self) -> Result<(String, String)> {
        let agent = self.running()?;
        Ok((
            agent.airflow_url(),
            agent.admin_password().unwrap_or_default(),
        ))
    }

    fn running(&self) -> Result<&RunningAgent> {
        self.agent
            .as_ref()
            .ok_or_else(|| Failure::new(Exit::Internal, "the agent does not run"))
    }
}

/// Whether the agent serves something and every component of Airflow runs.
fn is_running(now: &Observed) -> bool {
    let running = |airflow: &AirflowView| {
        let settled = |component: &ComponentView| {
            !matches!(
                component.state,
                ComponentState::Starting | ComponentState::Waiting
            )
        };
        !airflow.components.is_empty() && airflow.components.iter().all(settled)
    };
    now.serving.is_some() && now.airflow.as_ref().is_some_and(running)
}

/// The admin token of an earlier start, at whatever port, if it is still good.
async fn kept_token(client: &Client, folders: &Folders) -> Option<String> {
    let token = std::fs::read_to_string(folders.token()).ok()?;
    let token = token.trim().to_owned();
    let known = client.with_token(token.clone()).whoami().await;
    known.is_ok().then_some(token)
}

/// Keeps the admin token where the user's commands find it.
fn keep_token(token: &str, folders: &Folders, url: &str) -> Result<()> {
    let mut credentials = Credentials::default();
    credentials.insert(url.to_owned(), token.to_owned());
    credentials.save(&folders.credentials())?;
    let path = folders.token();
    write_private(&path, &format!("{token}\n"))
        .map_err(|error| Failure::file("write", &path, &error))
}

/// Whether the agent's token is one that this control plane takes.
async fn is_good(client: &Client, token: &std::path::Path) -> bool {
    let Ok(token) = std::fs::read_to_string(token) else {
        return false;
    };
    client
        .with_token(token.trim().to_owned())
        .wanted(-1, Duration::ZERO)
        .await
        .is_ok()
}

pub(super) async fn ensure_deployment(
    client: &Client,
    name: &DeploymentName,
    out: &mut Console,
) -> Result<()> {
    let ask = CreateDeployment {
        name: name.clone(),
        settings: DeploymentSettings {
            // The first deploy installs Airflow, which may come over a slow line.
            proof_timeout_s: Some(3600),
            ..DeploymentSettings::default()
        },
    };
    match client.deployment(name).await {
        Ok(_) => return Ok(()),
        Err(error) if error.code() == Some(ErrorCode::DeploymentNotFound) => {}
        Err(error) => return Err(error.into()),
    }
    let step = out.step(format!("making the Deployment `{name}`"));
    client.create_deployment(&ask).await?;
    out.done(step, &format!("made the Deployment `{name}`"));
    Ok(())
}

impl From<AirflowRestError> for Failure {
    fn from(error: AirflowRestError) -> Self {
        let exit = match &error {
            AirflowRestError::TimedOut(_) => Exit::TimedOut,
            AirflowRestError::Unreachable { .. }
            | AirflowRestError::Refused { .. }
            | AirflowRestError::Nonsense { .. } => Exit::Internal,
        };
        Self::from_error(exit, &error)
    }
}
