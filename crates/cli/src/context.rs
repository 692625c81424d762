//! What a command works with: settings, and a client made from them.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};

use etcetera::BaseStrategy;
use updraft_api::client::{Connect, Teller};
use updraft_api::{Client, ClientError};
use updraft_ci::detect;
use updraft_model::{CiProvider, CiRun, DeploymentName};
use updraft_project::{Project, ProjectError};

use crate::config::{ConnectionArgs, Settings};
use crate::console::Aside;
use crate::exit::Exit;
use crate::failure::{Failure, Result};
use crate::keyless::Keyless;

pub(crate) struct Context {
    flags: ConnectionArgs,
    settings: OnceLock<Settings>,
    ci: OnceLock<Option<CiRun>>,
    /// Signed in with a pipeline's identity.
    keyless: OnceLock<Client>,
    teller: Teller,
}

impl Context {
    /// `aside` says when a control plane does not answer at once.
    pub(crate) fn new(flags: ConnectionArgs, aside: Aside) -> Self {
        let told = AtomicBool::new(false);
        let teller = move |error: &ClientError| {
            if !told.swap(true, Ordering::Relaxed) {
                aside.say(&format!("{error}; trying again …"));
            }
        };
        Self {
            flags,
            teller: Arc::new(teller),
            settings: OnceLock::new(),
            ci: OnceLock::new(),
            keyless: OnceLock::new(),
        }
    }

    /// The folder that `--project` or its variable names; it may not be there yet.
    pub(crate) fn named_project(&self) -> Option<PathBuf> {
        self.flags.named_project().map(|(path, _)| path)
    }

    /// Whether plain http is allowed, for a server that reads no settings files.
    pub(crate) fn allows_insecure_http(&self) -> Result<bool> {
        self.flags.allows_insecure_http()
    }

    /// The settings; files are read once, by the first that asks.
    pub(crate) fn settings(&self) -> Result<&Settings> {
        if let Some(settings) = self.settings.get() {
            return Ok(settings);
        }
        let settings = Settings::load(&self.flags)?;
        Ok(self.settings.get_or_init(|| settings))
    }

    /// How to reach the control plane with the given address, or the configured one.
    pub(crate) fn connect(&self, server: Option<&str>) -> Result<Connect> {
        let ca_file = self.settings()?.ca_file.as_ref();
        let ca_certificates = ca_file.map(|it| read_ca(&it.value)).transpose()?;
        Ok(Connect {
            ca_certificates,
            ..self.connect_without_ca(server)?
        })
    }

    /// The same without further authorities.
    pub(crate) fn connect_without_ca(&self, server: Option<&str>) -> Result<Connect> {
        let settings = self.settings()?;
        let server = server.unwrap_or(&settings.server.value).to_owned();
        let insecure_http = settings.insecure_http.value;
        Ok(Connect {
            server,
            insecure_http,
            ca_certificates: None,
        })
    }

    /// A client without a token, for the given address or the configured one.
    pub(crate) fn anonymous(&self, server: Option<&str>) -> Result<Client> {
        let client = Client::new(&self.connect(server)?, None)?;
        Ok(client.telling(Arc::clone(&self.teller)))
    }

    /// A client that is signed in, as far as a token can be found.
    pub(crate) async fn client(&self) -> Result<Client> {
        self.sign_in(self.deployment(None).ok()).await
    }

    /// The same, for what is done to several Deployments.
    pub(crate) async fn client_to_all(&self) -> Result<Client> {
        self.sign_in(None).await
    }

    /// The same, for what is done to one Deployment: a pipeline may be trusted
    /// by several.
    pub(crate) async fn client_to(&self, deployment: &DeploymentName) -> Result<Client> {
        self.sign_in(Some(deployment.clone())).await
    }

    /// With a token, or in a pipeline with the job's identity.
    async fn sign_in(&self, deployment: Option<DeploymentName>) -> Result<Client> {
        if let Some(client) = self.keyless() {
            return Ok(client.clone());
        }
        let client = self.anonymous(None)?;
        let settings = self.settings()?.clone();
        // Its token may be on standard input, and Ctrl-C is to be heard meanwhile.
        let with = client.clone();
        let signed_in = tokio::task::spawn_blocking(move || signed_in(&with, &settings)).await?;
        let lacking = match signed_in {
            Err(failure) if failure.code == "token_missing" => failure,
            other => return other,
        };
        let keyless = Keyless {
            client,
            provider: self.ci().map_or(CiProvider::Other, |run| run.provider),
            deployment,
        };
        let client = Box::pin(keyless.sign_in()).await?.ok_or(lacking)?;
        Ok(self.keyless.get_or_init(|| client).clone())
    }

    /// The client that a pipeline's identity was exchanged for, if it was.
    pub(crate) fn keyless(&self) -> Option<&Client> {
        self.keyless.get()
    }

    /// The pipeline run that this is part of; none on somebody's own machine.
    pub(crate) fn ci(&self) -> Option<&CiRun> {
        let variable = |name: &str| std::env::var(name).ok();
        self.ci.get_or_init(|| detect(&variable)).as_ref()
    }

    /// The project that is meant.
    pub(crate) fn project(&self) -> Result<&Project> {
        if let Some(setting) = &self.settings()?.project {
            Ok(&setting.value)
        } else {
            let here = std::env::current_dir().unwrap_or_default();
            Err(ProjectError::NotHere(here).into())
        }
    }

    /// Where things are kept that can be made again.
    pub(crate) fn cache_dir(&self) -> Option<PathBuf> {
        if let Some(dir) = std::env::var_os("UPDRAFT_CACHE_DIR").filter(|dir| !dir.is_empty()) {
            return Some(dir.into());
        }
        let local = self.settings().ok().and_then(|it| it.cache.clone());
        if local.is_some() {
            return local;
        }
        Some(
            etcetera::choose_base_strategy()
                .ok()?
                .cache_dir()
                .join("updraft"),
        )
    }
}

/// Where things are kept that cannot be made again, such as databases.
pub(crate) fn state_dir() -> Result<PathBuf> {
    if let Some(dir) = std::env::var_os("UPDRAFT_STATE_DIR").filter(|dir| !dir.is_empty()) {
        return Ok(std::path::absolute(PathBuf::from(dir))?);
    }
    let strategy = etcetera::choose_base_strategy().ok();
    let usual = strategy.map(|it| it.state_dir().unwrap_or_else(|| it.data_dir()));
    usual.map(|dir| dir.join("updraft")).ok_or_else(|| {
        Failure::new(
            Exit::Prerequisite,
            "there is no folder to keep databases in",
        )
        .help("set UPDRAFT_STATE_DIR")
    })
}

/// The same client with the token for where it goes. Blocks where that is on
/// standard input.
pub(crate) fn signed_in(client: &Client, settings: &Settings) -> Result<Client> {
    let address = address(client);
    if let Some(token) = settings.token(&address)? {
        return Ok(client.with_token(token));
    }
    let message = format!("there is no token for {address}");
    let help = format!("sign in with `updraft login {address}`, or set UPDRAFT_TOKEN");
    Err(Failure::new(Exit::NotSignedIn, message)
        .code("token_missing")
        .help(help))
}

/// Reads a PEM file with authorities.
pub(crate) fn read_ca(file: &Path) -> Result<Vec<u8>> {
    std::fs::read(file).map_err(|error| Failure {
        exit: Exit::Refused,
        ..Failure::file("read", file, &error)
    })
}

/// A control plane's address as people write it. Stored tokens are found by it.
pub(crate) fn address(client: &Client) -> String {
    client.address().as_str().trim_end_matches('/').to_owned()
}
