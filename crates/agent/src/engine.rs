//! A container engine on this machine, asked through its socket: Docker, or Podman,
//! which answers the same requests.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE;
use futures_util::TryStreamExt as _;
use reqwest::{Method, RequestBuilder, Response, StatusCode};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use updraft_image::registry::Credentials;

use crate::control::explain;

/// An engine that has answered, now or before.
#[derive(Debug, Clone)]
pub(crate) struct Engine {
    socket: PathBuf,
    http: reqwest::Client,
    name: String,
    /// Whether root in a container is the user who runs the engine.
    pub(crate) rootless: bool,
}

impl PartialEq for Engine {
    fn eq(&self, other: &Self) -> bool {
        self.socket == other.socket
    }
}

impl Eq for Engine {}

#[derive(Debug, thiserror::Error)]
pub(crate) enum EngineError {
    #[error("no container engine answers here ({tried})")]
    None { tried: String },
    #[error(
        "`{0}` is no address of a container engine's socket, such as `unix:///run/docker.sock`"
    )]
    Address(String),
    #[error("the container engine at `{}` does not answer", socket.display())]
    Unreachable {
        socket: PathBuf,
        source: reqwest::Error,
    },
    #[error("{engine} could not {what}: {said}")]
    Refused {
        engine: String,
        what: String,
        status: StatusCode,
        said: String,
    },
    #[error("{engine} could not {what}: its answer makes no sense")]
    Nonsense { engine: String, what: String },
    #[error("{engine} could not pull `{image}` as {who}: {said}")]
    Pull {
        engine: String,
        image: String,
        /// Whose credentials it was given.
        who: String,
        said: String,
    },
}

/// A container that is to be.
#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct NewContainer<'a> {
    pub(crate) image: &'a str,
    pub(crate) entrypoint: Vec<String>,
    pub(crate) cmd: Vec<String>,
    /// `NAME=VALUE`, besides the image's own.
    pub(crate) env: Vec<String>,
    pub(crate) user: String,
    pub(crate) working_dir: &'a Path,
    pub(crate) labels: BTreeMap<&'static str, String>,
    pub(crate) open_stdin: bool,
    /// Closes its input when whoever is attached goes away.
    pub(crate) stdin_once: bool,
    pub(crate) host_config: HostConfig<'a>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct HostConfig<'a> {
    pub(crate) network_mode: &'static str,
    pub(crate) pid_mode: &'static str,
    pub(crate) security_opt: [&'static str; 1],
    pub(crate) log_config: LogConfig,
    pub(crate) mounts: Vec<BindMount<'a>>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct LogConfig {
    #[serde(rename = "Type")]
    pub(crate) kind: &'static str,
}

/// A file or folder of this machine.
#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct BindMount<'a> {
    #[serde(rename = "Type")]
    pub(crate) kind: &'static str,
    pub(crate) source: &'a Path,
    pub(crate) target: &'a Path,
    pub(crate) read_only: bool,
}

/// What an engine says of a container.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct Inspected {
    pub(crate) id: String,
    pub(crate) state: State,
    config: InspectedConfig,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct State {
    pub(crate) running: bool,
    pub(crate) pid: u32,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct InspectedConfig {
    labels: Option<BTreeMap<String, String>>,
}

impl Inspected {
    pub(crate) fn label(&self, name: &str) -> Option<&str> {
        Some(self.config.labels.as_ref()?.get(name)?.as_str())
    }
}

/// What an engine says of an image.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct Image {
    config: ImageConfig,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct ImageConfig {
    env: Option<Vec<String>>,
    working_dir: Option<String>,
}

impl Image {
    /// What its processes have set.
    pub(crate) fn variables(&self) -> BTreeMap<String, String> {
        let pairs = self.config.env.iter().flatten();
        pairs
            .filter_map(|pair| pair.split_once('='))
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .collect()
    }

    pub(crate) fn folder(&self) -> Option<&str> {
        let folder = self.config.working_dir.as_deref();
        folder.filter(|folder| !folder.is_empty() && *folder != "/")
    }
}

/// How long an engine may take for what is no work.
const ANSWERS: Duration = Duration::from_secs(30);
/// How long starting or removing a container may take on a busy disk.
const WORKS: Duration = Duration::from_secs(180);
/// A pull that says nothing for so long has stopped.
const SILENCE: Duration = Duration::from_secs(300);

impl Engine {
    /// The engine at this address, or the first that answers at the usual ones.
    pub(crate) async fn find(address: Option<&str>) -> Result<Self, EngineError> {
        if let Some(address) = address {
            return Self::at(socket_of(address)?).await;
        }
        let mut tried = Vec::new();
        for socket in usual() {
            match Self::at(&socket).await {
                Ok(engine) => return Ok(engine),
                Err(_) if !socket.exists() => {
                    tried.push(format!("there is no `{}`", socket.display()));
                }
                Err(error) => tried.push(explain(&error)),
            }
        }
        Err(EngineError::None {
            tried: tried.join(", "),
        })
    }

    /// The engine behind a socket, if it answers.
    pub(crate) async fn at(socket: &Path) -> Result<Self, EngineError> {
        #[derive(Deserialize)]
        #[serde(rename_all = "PascalCase")]
        struct Info {
            #[serde(default)]
            security_options: Option<Vec<String>>,
        }
        let mut engine = Self::known(socket, "the container engine", false);
        let version: Value = engine.json("say its version", "/version").await?;
        let components = version["Components"].as_array().into_iter().flatten();
        let is_podman = components
            .filter_map(|component| component["Name"].as_str())
            .any(|name| name.contains("Podman"));
        engine.name = if is_podman { "podman" } else { "docker" }.into();
        let info: Info = engine.json("describe itself", "/info").await?;
        engine.rootless = info
            .security_options
            .iter()
            .flatten()
            .any(|option| option.contains("rootless"));
        Ok(engine)
    }

    /// One that has answered before, and said this of itself.
    pub(crate) fn known(socket: &Path, name: &str, rootless: bool) -> Self {
        let http = reqwest::Client::builder()
            .unix_socket(socket)
            .http1_only()
            .tls_certs_only([])
            .no_proxy()
            // An engine may be restarted between two requests.
            .pool_max_idle_per_host(0)
            .connect_timeout(Duration::from_secs(5))
            .read_timeout(SILENCE)
            .build();
        Self {
            socket: socket.to_owned(),
            http: http.expect("a client that trusts nobody needs nothing of this machine"),
            name: name.to_owned(),
            rootless,
        }
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    pub(crate) fn socket(&self) -> &Path {
        &self.socket
    }

    /// The image of this name, where the engine has it.
    pub(crate) async fn image(&self, name: &str) -> Result<Option<Image>, EngineError> {
        let what = || format!("look for `{name}`");
        let request = self.request(Method::GET, &format!("/images/{name}/json"));
        let answer = self.send(what, request.timeout(ANSWERS)).await;
        if_there(answer)?.read(&self.name, what).await
    }

    /// Gets an image from its registry.
    pub(crate) async fn pull(
        &self,
        image: &str,
        credentials: Option<&Credentials>,
        who: &str,
    ) -> Result<(), EngineError> {
        #[derive(Deserialize)]
        struct Line {
            error: Option<String>,
        }
        let failed = |said: String| EngineError::Pull {
            engine: self.name.clone(),
            image: image.to_owned(),
            who: who.to_owned(),
            said: said.trim().to_owned(),
        };
        let request = self
            .request(Method::POST, "/images/create")
            .query(&[("fromImage", image)]);
        let request = match credentials {
            Some(credentials) => request.header("X-Registry-Auth", registry_auth(credentials)),
            None => request,
        };
        let answer = match self.send(|| "pull".into(), request).await {
            Ok(answer) => answer,
            Err(EngineError::Refused { said, .. }) => return Err(failed(said)),
            Err(error) => return Err(error),
        };
        let mut lines = answer.bytes_stream();
        let mut rest = Vec::new();
        while let Some(bytes) = lines
            .try_next()
            .await
            .map_err(|error| failed(explain(&error)))?
        {
            rest.extend_from_slice(&bytes);
            while let Some(end) = rest.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = rest.drain(..=end).collect();
                if let Ok(Line { error: Some(said) }) = serde_json::from_slice(&line) {
                    return Err(failed(said));
                }
            }
        }
        match serde_json::from_slice(&rest) {
            Ok(Line { error: Some(said) }) => Err(failed(said)),
            _ => Ok(()),
        }
    }

    /// Removes an image; false where the engine will not, as it is in use.
    pub(crate) async fn remove_image(&self, name: &str) -> Result<bool, EngineError> {
        let request = self.request(Method::DELETE, &format!("/images/{name}"));
        let what = || format!("remove the image `{name}`");
        match self.send(what, request.timeout(WORKS)).await {
            Ok(_) => Ok(true),
            Err(EngineError::Refused { status, .. }) if status == StatusCode::NOT_FOUND => Ok(true),
            Err(EngineError::Refused { status, said, .. }) if status == StatusCode::CONFLICT => {
                tracing::info!(name, said, "an image that nothing holds is in use yet");
                Ok(false)
            }
            Err(error) => Err(error),
        }
    }

    /// Makes a container of this name, which no other has; it does not run yet.
    pub(crate) async fn create(
        &self,
        name: &str,
        container: &NewContainer<'_>,
    ) -> Result<String, EngineError> {
        #[derive(Deserialize)]
        #[serde(rename_all = "PascalCase")]
        struct Created {
            id: String,
        }
        let what = || format!("make the container `{name}`");
        let request = self
            .request(Method::POST, "/containers/create")
            .query(&[("name", name)])
            .json(container)
            .timeout(WORKS);
        let created: Option<Created> = Some(self.send(what, request).await?)
            .read(&self.name, what)
            .await?;
        created
            .map(|created| created.id)
            .ok_or_else(|| self.nonsense(what()))
    }

    pub(crate) async fn start(&self, id: &str) -> Result<(), EngineError> {
        let request = self.request(Method::POST, &format!("/containers/{id}/start"));
        self.send(|| "start the container".into(), request.timeout(WORKS))
            .await?;
        Ok(())
    }

    /// The container of this name or id, where there is one.
    pub(crate) async fn inspect(&self, name: &str) -> Result<Option<Inspected>, EngineError> {
        let what = || format!("describe the container `{name}`");
        let request = self.request(Method::GET, &format!("/containers/{name}/json"));
        let answer = self.send(what, request.timeout(ANSWERS)).await;
        if_there(answer)?.read(&self.name, what).await
    }

    /// Waits until a container has ended; none where it is gone.
    pub(crate) async fn wait(&self, id: &str) -> Result<Option<i64>, EngineError> {
        #[derive(Deserialize)]
        #[serde(rename_all = "PascalCase")]
        struct Ended {
            status_code: i64,
        }
        let what = || format!("wait for the container `{id}`");
        let request = self.request(Method::POST, &format!("/containers/{id}/wait"));
        let answer = self.send(what, request.timeout(WORKS)).await;
        let ended: Option<Ended> = if_there(answer)?.read(&self.name, what).await?;
        Ok(ended.map(|ended| ended.status_code))
    }

    pub(crate) async fn rename(&self, id: &str, name: &str) -> Result<(), EngineError> {
        let what = || format!("rename the container to `{name}`");
        let request = self
            .request(Method::POST, &format!("/containers/{id}/rename"))
            .query(&[("name", name)]);
        self.send(what, request.timeout(ANSWERS)).await?;
        Ok(())
    }

    /// Removes a container, also one that runs; one that is not there is removed.
    pub(crate) async fn remove(&self, id: &str) -> Result<(), EngineError> {
        let request = self
            .request(Method::DELETE, &format!("/containers/{id}"))
            .query(&[("force", "true"), ("v", "true")]);
        let what = || format!("remove the container `{id}`");
        if_there(self.send(what, request.timeout(WORKS)).await)?;
        Ok(())
    }

    /// The containers with a label, in these states.
    pub(crate) async fn list(
        &self,
        label: &str,
        states: &[&str],
    ) -> Result<Vec<String>, EngineError> {
        #[derive(Deserialize)]
        #[serde(rename_all = "PascalCase")]
        struct Listed {
            id: String,
        }
        let what = || "list its containers".to_owned();
        let filters = json!({ "label": [label], "status": states }).to_string();
        let request = self
            .request(Method::GET, "/containers/json")
            .query(&[("all", "true"), ("filters", &filters)]);
        let answer = Some(self.send(what, request.timeout(ANSWERS)).await?);
        let listed: Option<Vec<Listed>> = answer.read(&self.name, what).await?;
        let listed = listed.unwrap_or_default().into_iter();
        Ok(listed.map(|listed| listed.id).collect())
    }

    /// Takes a container's standard input and output, before it starts.
    pub(crate) async fn attach(
        &self,
        id: &str,
    ) -> Result<(impl AsyncWrite + use<>, impl AsyncRead + use<>), EngineError> {
        let what = || format!("attach to the container `{id}`");
        let request = self
            .request(Method::POST, &format!("/containers/{id}/attach"))
            .query(&[("stream", "1"), ("stdin", "1"), ("stdout", "1")])
            .header("Connection", "Upgrade")
            .header("Upgrade", "tcp");
        let answer = self.send(what, request).await?;
        let stream = answer.upgrade().await.map_err(|_| self.nonsense(what()))?;
        let (output, input) = tokio::io::split(stream);
        let (sender, receiver) = tokio::io::duplex(1 << 16);
        tokio::spawn(async move {
            // Its end is that of the output, however it came.
            let _ = take_apart(output, sender).await;
        });
        Ok((input, receiver))
    }

    fn request(&self, method: Method, path: &str) -> RequestBuilder {
        // The host is the socket's; the name has to be one.
        self.http.request(method, format!("http://engine{path}"))
    }

    async fn json<T: for<'de> Deserialize<'de>>(
        &self,
        what: &str,
        path: &str,
    ) -> Result<T, EngineError> {
        let what = || what.to_owned();
        let request = self.request(Method::GET, path).timeout(ANSWERS);
        let answer = Some(self.send(what, request).await?);
        let read: Option<T> = answer.read(&self.name, what).await?;
        read.ok_or_else(|| self.nonsense(what()))
    }

    async fn send(
        &self,
        what: impl Fn() -> String,
        request: RequestBuilder,
    ) -> Result<Response, EngineError> {
        #[derive(Deserialize)]
        struct Message {
            message: String,
        }
        let answer = request
            .send()
            .await
            .map_err(|source| EngineError::Unreachable {
                socket: self.socket.clone(),
                source,
            })?;
        let status = answer.status();
        // 304: it is so already.
        if !(status.is_client_error() || status.is_server_error()) {
            return Ok(answer);
        }
        let said = answer.text().await.unwrap_or_default();
        let message = serde_json::from_str::<Message>(&said).map(|it| it.message);
        Err(EngineError::Refused {
            engine: self.name.clone(),
            what: what(),
            status,
            said: message.unwrap_or_else(|_| format!("{status} {}", said.trim())),
        })
    }

    fn nonsense(&self, what: String) -> EngineError {
        EngineError::Nonsense {
            engine: self.name.clone(),
            what,
        }
    }
}

impl EngineError {
    /// Whether trying again may go better.
    pub(crate) fn may_pass(&self) -> bool {
        const FOR_GOOD: [&str; 9] = [
            "unauthorized",
            "authentication required",
            "denied",
            "forbidden",
            "not found",
            "unknown",
            "no matching manifest",
            "http response to https client",
            "no basic auth",
        ];
        match self {
            Self::Unreachable { .. } | Self::Nonsense { .. } | Self::Refused { .. } => true,
            Self::None { .. } | Self::Address(_) => false,
            Self::Pull { said, .. } => {
                let said = said.to_lowercase();
                !FOR_GOOD.iter().any(|sign| said.contains(sign))
            }
        }
    }

    pub(crate) fn help(&self) -> &'static str {
        match self {
            Self::None { .. } => {
                "start docker or podman, or name its socket with `--engine-socket`"
            }
            Self::Address(_) => "see `--engine-socket`",
            Self::Unreachable { .. } => {
                "start its service, and let the agent's user use its socket"
            }
            Self::Refused { .. } | Self::Nonsense { .. } => "the engine's own log may say more",
            Self::Pull { said, .. } if said.contains("HTTP response to HTTPS client") => {
                "the registry speaks plain http: list it among the engine's insecure registries, or give it a certificate"
            }
            Self::Pull { .. } => {
                "the registry must let that user pull from the repository; `docker login` as the agent's user \
                 signs it in to registries that are not the control plane's"
            }
        }
    }
}

impl From<EngineError> for io::Error {
    fn from(error: EngineError) -> Self {
        Self::other(explain(&error))
    }
}

/// The socket that an address names.
pub(crate) fn socket_of(address: &str) -> Result<&Path, EngineError> {
    address
        .strip_prefix("unix://")
        .or(Some(address).filter(|address| address.starts_with('/')))
        .map(Path::new)
        .ok_or_else(|| EngineError::Address(address.to_owned()))
}

/// Where engines listen by default.
fn usual() -> Vec<PathBuf> {
    let named = std::env::var("DOCKER_HOST").ok();
    let named = named.and_then(|host| host.strip_prefix("unix://").map(PathBuf::from));
    if let Some(named) = named {
        return vec![named];
    }
    let own = std::env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from);
    let own = own.iter();
    [PathBuf::from("/var/run/docker.sock")]
        .into_iter()
        .chain(own.clone().map(|folder| folder.join("docker.sock")))
        .chain([PathBuf::from("/run/podman/podman.sock")])
        .chain(own.map(|folder| folder.join("podman/podman.sock")))
        .collect()
}

fn registry_auth(credentials: &Credentials) -> String {
    let auth = match credentials {
        Credentials::Password { user, password } => {
            json!({ "username": user, "password": password })
        }
        Credentials::IdentityToken(token) => json!({ "identitytoken": token }),
    };
    URL_SAFE.encode(auth.to_string())
}

/// What is not there is no error.
fn if_there(answer: Result<Response, EngineError>) -> Result<Option<Response>, EngineError> {
    match answer {
        Err(EngineError::Refused {
            status: StatusCode::NOT_FOUND,
            ..
        }) => Ok(None),
        other => other.map(Some),
    }
}

trait Read {
    async fn read<T: for<'de> Deserialize<'de>>(
        self,
        engine: &str,
        what: impl Fn() -> String,
    ) -> Result<Option<T>, EngineError>;
}

impl Read for Option<Response> {
    async fn read<T: for<'de> Deserialize<'de>>(
        self,
        engine: &str,
        what: impl Fn() -> String,
    ) -> Result<Option<T>, EngineError> {
        let Some(answer) = self else { return Ok(None) };
        let read = answer.json().await;
        read.map(Some).map_err(|_| EngineError::Nonsense {
            engine: engine.to_owned(),
            what: what(),
        })
    }
}

/// Takes the frames of an output apart: which stream, three zeros, how long, and
/// then its bytes.
async fn take_apart(
    mut frames: impl AsyncRead + Unpin,
    mut output: impl AsyncWrite + Unpin,
) -> io::Result<()> {
    const STDOUT: u8 = 1;
    loop {
        let mut head = [0; 8];
        frames.read_exact(&mut head).await?;
        let length = u32::from_be_bytes([head[4], head[5], head[6], head[7]]);
        let mut frame = (&mut frames).take(u64::from(length));
        if head[0] == STDOUT {
            tokio::io::copy(&mut frame, &mut output).await?;
            output.flush().await?;
        } else {
            tokio::io::copy(&mut frame, &mut tokio::io::sink()).await?;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn takes_the_output_out_of_its_frames() {
        let frames = [
            &[1, 0, 0, 0, 0, 0, 0, 3][..],
            b"one",
            &[2, 0, 0, 0, 0, 0, 0, 2],
            b"no",
            &[1, 0, 0, 0, 0, 0, 0, 4],
            b" two",
        ]
        .concat();
        let mut output = Vec::new();
        let ended = take_apart(&frames[..], &mut output).await;
        assert_eq!(ended.unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
        assert_eq!(output, b"one two");
    }

    #[test]
    fn a_pull_that_is_refused_is_not_tried_for_ever() {
        let pull = |said: &str| EngineError::Pull {
            engine: "docker".into(),
            image: "ghcr.io/acme/airflow".into(),
            who: "nobody".into(),
            said: said.into(),
        };
        assert!(!pull("pull access denied for acme/airflow").may_pass());
        assert!(!pull("manifest unknown: manifest unknown").may_pass());
        assert!(pull("received unexpected HTTP status: 503 Service Unavailable").may_pass());
    }
}
