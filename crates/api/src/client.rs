//! The typed client: one method per operation.
//!
//! Every request is safe to repeat (creating ones carry a key), so lost
//! connections and overloaded servers are retried with back-off here, and
//! nowhere else.

use std::net::IpAddr;
use std::time::Duration;

use backon::{ExponentialBuilder, Retryable};
use bytes::Bytes;
use futures_util::StreamExt;
use reqwest::{Method, StatusCode, header};
use serde::Serialize;
use serde::de::DeserializeOwned;
use updraft_model::{AgentId, DeployId, DeploymentName, Digest, TokenId};
use url::Url;

use crate::agent::{FetchBlobs, Report, ReportAnswer, Wanted};
use crate::deploy::{
    Comparison, CreateDeploy, DeployView, Deploys, DiffView, PlanRequest, RollbackRequest,
};
use crate::deployment::{
    CreateDeployment, DeploymentSettings, DeploymentView, Deployments, StatusView,
};
use crate::frames::{self, FrameError, FrameReader};
use crate::token::{CreateToken, Enroll, NewEnrollmentCode, NewToken, Tokens, WhoAmI};
use crate::{ErrorBody, ErrorCode, VERSION, VERSION_HEADER};

/// A control plane and the token to use with it.
#[derive(Clone)]
pub struct Client {
    http: reqwest::Client,
    base: Url,
    token: Option<String>,
    agent: Option<AgentId>,
}

#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    #[error("`{given}` is not the address of a control plane: {why}")]
    Address { given: String, why: String },
    #[error("`{0}` is neither https nor on this machine: the token would travel in clear")]
    InsecureAddress(Url),
    #[error("could not set up a connection")]
    Setup(#[source] reqwest::Error),
    #[error("no control plane answers at {address}")]
    Unreachable {
        address: Url,
        #[source]
        source: reqwest::Error,
    },
    #[error("{}", .body.message)]
    Refused {
        status: StatusCode,
        body: Box<ErrorBody>,
    },
    #[error(
        "{address} answered {status} without being understood; is it an Updraft control plane?"
    )]
    NotUpdraft { address: Url, status: StatusCode },
    #[error("could not take apart what the control plane sent")]
    Frames(#[from] FrameError),
}

impl ClientError {
    pub fn code(&self) -> Option<ErrorCode> {
        match self {
            Self::Refused { body, .. } => Some(body.code),
            Self::Address { .. }
            | Self::InsecureAddress(_)
            | Self::Setup(_)
            | Self::Unreachable { .. }
            | Self::NotUpdraft { .. }
            | Self::Frames(_) => None,
        }
    }

    /// One sentence that says what to do next.
    pub fn help(&self) -> Option<String> {
        match self {
            Self::Refused { body, .. } => body.help.clone(),
            Self::Address { .. } => Some("give it as https://HOST[:PORT]".into()),
            Self::InsecureAddress(_) => {
                Some("use https, or --insecure-http if the network between is trusted".into())
            }
            Self::Unreachable { .. } => Some(
                "start one with `updraft quickstart` or `updraft server`, or name another with --server".into(),
            ),
            Self::NotUpdraft { .. } => Some("check the address with `updraft config`".into()),
            Self::Setup(_) | Self::Frames(_) => None,
        }
    }

    /// Whether the same request may succeed a little later.
    pub fn is_transient(&self) -> bool {
        match self {
            Self::Unreachable { .. } | Self::Frames(_) => true,
            Self::Refused { status, body } => {
                body.code == ErrorCode::Unavailable
                    || matches!(
                        *status,
                        StatusCode::BAD_GATEWAY
                            | StatusCode::SERVICE_UNAVAILABLE
                            | StatusCode::GATEWAY_TIMEOUT
                    )
            }
            Self::NotUpdraft { status, .. } => {
                matches!(
                    *status,
                    StatusCode::BAD_GATEWAY
                        | StatusCode::SERVICE_UNAVAILABLE
                        | StatusCode::GATEWAY_TIMEOUT
                )
            }
            Self::Address { .. } | Self::InsecureAddress(_) | Self::Setup(_) => false,
        }
    }
}

/// How a client connects.
#[derive(Debug, Clone, Default)]
pub struct Connect {
    pub server: String,
    /// Allows plain http to another machine.
    pub insecure_http: bool,
    /// A PEM file's content with further authorities to trust.
    pub ca_certificates: Option<Vec<u8>>,
}

impl Client {
    pub fn new(connect: &Connect, token: Option<String>) -> Result<Self, ClientError> {
        let base = parse_address(&connect.server)?;
        let mut http = reqwest::Client::builder()
            .user_agent(concat!("updraft/", env!("CARGO_PKG_VERSION")))
            .connect_timeout(Duration::from_secs(10))
            .tcp_nodelay(true)
            .tcp_keepalive(Duration::from_secs(30));
        if base.scheme() == "http" {
            if !connect.insecure_http && !is_loopback(&base) {
                return Err(ClientError::InsecureAddress(base));
            }
            // Loading the machine's authorities costs more than a whole plan.
            http = http.tls_certs_only([]);
        } else {
            // A machine without installed authorities still gets the public ones.
            let public = webpki_root_certs::TLS_SERVER_ROOT_CERTS
                .iter()
                .filter_map(|der| reqwest::Certificate::from_der(der).ok());
            http = http.tls_certs_merge(public);
            if let Some(pem) = &connect.ca_certificates {
                http = http.tls_certs_merge(
                    reqwest::Certificate::from_pem_bundle(pem).map_err(ClientError::Setup)?,
                );
            }
        }
        if is_loopback(&base) {
            http = http.no_proxy();
        }
        Ok(Self {
            http: http.build().map_err(ClientError::Setup)?,
            base,
            token,
            agent: None,
        })
    }

    pub fn address(&self) -> &Url {
        &self.base
    }

    /// The same control plane with another token.
    #[must_use]
    pub fn with_token(&self, token: String) -> Self {
        Self {
            token: Some(token),
            ..self.clone()
        }
    }

    /// The same control plane, asked by this agent: while it waits for news, its
    /// lease is renewed.
    #[must_use]
    pub fn as_agent(&self, agent: AgentId) -> Self {
        Self {
            agent: Some(agent),
            ..self.clone()
        }
    }

    pub async fn whoami(&self) -> Result<WhoAmI, ClientError> {
        self.get("/api/v1/whoami").await
    }

    // Deployments

    pub async fn create_deployment(
        &self,
        ask: &CreateDeployment,
    ) -> Result<DeploymentView, ClientError> {
        self.post("/api/v1/deployments", ask).await
    }

    pub async fn deployments(&self) -> Result<Deployments, ClientError> {
        self.get("/api/v1/deployments").await
    }

    pub async fn deployment(&self, name: &DeploymentName) -> Result<DeploymentView, ClientError> {
        self.get(&format!("/api/v1/deployments/{name}")).await
    }

    pub async fn update_deployment(
        &self,
        name: &DeploymentName,
        settings: &DeploymentSettings,
    ) -> Result<DeploymentView, ClientError> {
        self.json(
            Method::PATCH,
            &format!("/api/v1/deployments/{name}"),
            Some(settings),
            SHORT,
        )
        .await
    }

    pub async fn delete_deployment(&self, name: &DeploymentName) -> Result<(), ClientError> {
        self.send(
            Method::DELETE,
            &format!("/api/v1/deployments/{name}"),
            no_body(),
            SHORT,
        )
        .await
        .map(drop)
    }

    /// Deletes a Deployment also while agents are connected.
    pub async fn force_delete_deployment(&self, name: &DeploymentName) -> Result<(), ClientError> {
        let path = format!("/api/v1/deployments/{name}?force=true");
        self.send(Method::DELETE, &path, no_body(), SHORT)
            .await
            .map(drop)
    }

    pub async fn status(&self, name: &DeploymentName) -> Result<StatusView, ClientError> {
        self.get(&format!("/api/v1/deployments/{name}/status"))
            .await
    }

    pub async fn create_enrollment_code(
        &self,
        name: &DeploymentName,
    ) -> Result<NewEnrollmentCode, ClientError> {
        self.post(
            &format!("/api/v1/deployments/{name}/enrollment-codes"),
            &serde_json::json!({}),
        )
        .await
    }

    // Deploys

    pub async fn plan(
        &self,
        name: &DeploymentName,
        ask: &PlanRequest,
    ) -> Result<Comparison, ClientError> {
        self.post(&format!("/api/v1/deployments/{name}/plan"), ask)
            .await
    }

    pub async fn create_deploy(
        &self,
        name: &DeploymentName,
        ask: &CreateDeploy,
    ) -> Result<Comparison, ClientError> {
        self.post(&format!("/api/v1/deployments/{name}/deploys"), ask)
            .await
    }

    /// Sends blobs that a deploy lacks. Those that arrived whole stay, also when
    /// the connection breaks; sending one twice is harmless.
    pub async fn upload_blobs(
        &self,
        deploy: DeployId,
        blobs: &[(Digest, Bytes)],
    ) -> Result<(), ClientError> {
        let path = format!("/api/v1/deploys/{deploy}/blobs");
        let parts: Vec<Bytes> = blobs
            .iter()
            .flat_map(|(digest, bytes)| [frames::head(*digest, bytes.len() as u64), bytes.clone()])
            .collect();
        let length: usize = parts.iter().map(Bytes::len).sum();
        let body = move || {
            let parts = parts.clone();
            (
                reqwest::Body::wrap_stream(futures_util::stream::iter(
                    parts.into_iter().map(Ok::<_, std::io::Error>),
                )),
                length,
            )
        };
        let send = || async {
            let (body, length) = body();
            let request = self
                .request(Method::PUT, &path)
                .timeout(Duration::from_secs(60 + length as u64 / 50_000))
                .header(header::CONTENT_TYPE, frames::CONTENT_TYPE)
                .header(header::CONTENT_LENGTH, length)
                .body(body);
            self.answer(request).await
        };
        send.retry(backoff())
            .when(ClientError::is_transient)
            .await
            .map(drop)
    }

    pub async fn accept_deploy(&self, deploy: DeployId) -> Result<DeployView, ClientError> {
        self.post(
            &format!("/api/v1/deploys/{deploy}/accept"),
            &serde_json::json!({}),
        )
        .await
    }

    pub async fn deploy(&self, deploy: DeployId) -> Result<DeployView, ClientError> {
        self.get(&format!("/api/v1/deploys/{deploy}")).await
    }

    /// Waits until the deploy's revision is larger than `seen`, or `wait` is over.
    pub async fn follow_deploy(
        &self,
        deploy: DeployId,
        seen: i64,
        wait: Duration,
    ) -> Result<DeployView, ClientError> {
        let path = format!(
            "/api/v1/deploys/{deploy}?seen={seen}&wait_s={}",
            wait.as_secs()
        );
        self.json(Method::GET, &path, no_body(), wait + SHORT).await
    }

    pub async fn history(
        &self,
        name: &DeploymentName,
        limit: u32,
        before: Option<DeployId>,
    ) -> Result<Deploys, ClientError> {
        let before = before.map(|id| format!("&before={id}")).unwrap_or_default();
        self.get(&format!(
            "/api/v1/deployments/{name}/deploys?limit={limit}{before}"
        ))
        .await
    }

    pub async fn roll_back(
        &self,
        name: &DeploymentName,
        ask: &RollbackRequest,
    ) -> Result<DeployView, ClientError> {
        self.post(&format!("/api/v1/deployments/{name}/rollbacks"), ask)
            .await
    }

    pub async fn diff(
        &self,
        from: DeployId,
        to: Option<DeployId>,
    ) -> Result<DiffView, ClientError> {
        let to = to.map(|id| format!("?to={id}")).unwrap_or_default();
        self.get(&format!("/api/v1/deploys/{from}/diff{to}")).await
    }

    /// Reads one blob that a Release of the Deployment names.
    pub async fn blob(&self, name: &DeploymentName, digest: Digest) -> Result<Bytes, ClientError> {
        let response = self
            .send(
                Method::GET,
                &format!("/api/v1/deployments/{name}/blobs/{digest}"),
                no_body(),
                LONG,
            )
            .await?;
        let bytes = response
            .bytes()
            .await
            .map_err(|source| self.unreachable(source))?;
        if Digest::of(&bytes) != digest {
            return Err(FrameError::Corrupt { digest }.into());
        }
        Ok(bytes)
    }

    // Tokens

    pub async fn create_token(&self, ask: &CreateToken) -> Result<NewToken, ClientError> {
        self.post("/api/v1/tokens", ask).await
    }

    pub async fn tokens(&self) -> Result<Tokens, ClientError> {
        self.get("/api/v1/tokens").await
    }

    pub async fn revoke_token(&self, token: TokenId) -> Result<(), ClientError> {
        self.send(
            Method::DELETE,
            &format!("/api/v1/tokens/{token}"),
            no_body(),
            SHORT,
        )
        .await
        .map(drop)
    }

    // Agents

    pub async fn enroll(&self, ask: &Enroll) -> Result<NewToken, ClientError> {
        self.post("/api/v1/agent/enroll", ask).await
    }

    /// Waits until what is wanted is newer than `generation`, or `wait` is over:
    /// then there is no news.
    pub async fn wanted(
        &self,
        generation: i64,
        wait: Duration,
    ) -> Result<Option<Wanted>, ClientError> {
        let agent = self
            .agent
            .map(|agent| format!("&agent={agent}"))
            .unwrap_or_default();
        let path = format!(
            "/api/v1/agent/wanted?generation={generation}&wait_s={}{agent}",
            wait.as_secs()
        );
        // No retry here: the agent's loop is the retry.
        let response = self
            .answer(self.request(Method::GET, &path).timeout(wait + SHORT))
            .await?;
        if response.status() == StatusCode::NO_CONTENT {
            return Ok(None);
        }
        self.parse(response).await.map(Some)
    }

    pub async fn report(&self, report: &Report) -> Result<ReportAnswer, ClientError> {
        let response = self
            .answer(
                self.request(Method::POST, "/api/v1/agent/report")
                    .timeout(SHORT)
                    .json(report),
            )
            .await?;
        self.parse(response).await
    }

    /// Fetches blobs in one request and hands each over as soon as it is whole
    /// and verified.
    pub async fn fetch_blobs(
        &self,
        digests: Vec<Digest>,
        limit: u64,
        mut each: impl FnMut(Digest, Bytes) -> std::io::Result<()>,
    ) -> Result<std::io::Result<()>, ClientError> {
        let request = self
            .request(Method::POST, "/api/v1/agent/blobs")
            .json(&FetchBlobs { digests });
        let response = self.answer(request).await?;
        let mut reader = FrameReader::new(limit);
        let mut chunks = response.bytes_stream();
        while let Some(chunk) = chunks.next().await {
            reader.push(&chunk.map_err(|source| self.unreachable(source))?);
            while let Some((digest, bytes)) = reader.next_blob()? {
                if let Err(error) = each(digest, bytes) {
                    return Ok(Err(error));
                }
            }
        }
        reader.finish()?;
        Ok(Ok(()))
    }

    // How a request is made

    async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, ClientError> {
        self.json(Method::GET, path, no_body(), SHORT).await
    }

    async fn post<T: DeserializeOwned>(
        &self,
        path: &str,
        body: &impl Serialize,
    ) -> Result<T, ClientError> {
        self.json(Method::POST, path, Some(body), LONG).await
    }

    async fn json<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        body: Option<&impl Serialize>,
        timeout: Duration,
    ) -> Result<T, ClientError> {
        let response = self.send(method, path, body, timeout).await?;
        self.parse(response).await
    }

    async fn send(
        &self,
        method: Method,
        path: &str,
        body: Option<&impl Serialize>,
        timeout: Duration,
    ) -> Result<reqwest::Response, ClientError> {
        let send = || async {
            let mut request = self.request(method.clone(), path).timeout(timeout);
            if let Some(body) = body {
                request = request.json(body);
            }
            self.answer(request).await
        };
        send.retry(backoff()).when(ClientError::is_transient).await
    }

    fn request(&self, method: Method, path: &str) -> reqwest::RequestBuilder {
        let address = format!("{}{path}", self.base.as_str().trim_end_matches('/'));
        let request = self
            .http
            .request(method, address)
            .header(VERSION_HEADER, VERSION);
        match &self.token {
            Some(token) => request.bearer_auth(token),
            None => request,
        }
    }

    async fn answer(
        &self,
        request: reqwest::RequestBuilder,
    ) -> Result<reqwest::Response, ClientError> {
        let response = request
            .send()
            .await
            .map_err(|source| self.unreachable(source))?;
        let status = response.status();
        if status.is_success() {
            return Ok(response);
        }
        let bytes = response
            .bytes()
            .await
            .map_err(|source| self.unreachable(source))?;
        match serde_json::from_slice::<ErrorBody>(&bytes) {
            Ok(body) => Err(ClientError::Refused {
                status,
                body: Box::new(body),
            }),
            Err(_) => Err(ClientError::NotUpdraft {
                address: self.base.clone(),
                status,
            }),
        }
    }

    async fn parse<T: DeserializeOwned>(
        &self,
        response: reqwest::Response,
    ) -> Result<T, ClientError> {
        let status = response.status();
        let bytes = response
            .bytes()
            .await
            .map_err(|source| self.unreachable(source))?;
        serde_json::from_slice(&bytes).map_err(|error| {
            tracing::debug!(%error, "unexpected answer");
            ClientError::NotUpdraft {
                address: self.base.clone(),
                status,
            }
        })
    }

    fn unreachable(&self, source: reqwest::Error) -> ClientError {
        ClientError::Unreachable {
            address: self.base.clone(),
            source: source.without_url(),
        }
    }
}

const SHORT: Duration = Duration::from_secs(30);
const LONG: Duration = Duration::from_mins(5);

fn no_body() -> Option<&'static ()> {
    None
}

fn backoff() -> ExponentialBuilder {
    ExponentialBuilder::default()
        .with_min_delay(Duration::from_millis(100))
        .with_max_delay(Duration::from_secs(2))
        .with_max_times(5)
        .with_jitter()
}

fn parse_address(given: &str) -> Result<Url, ClientError> {
    let refuse = |why: &str| ClientError::Address {
        given: given.to_owned(),
        why: why.to_owned(),
    };
    let url: Url = given
        .parse()
        .map_err(|error: url::ParseError| refuse(&error.to_string()))?;
    if !matches!(url.scheme(), "http" | "https") {
        return Err(refuse("it is neither http nor https"));
    }
    if url.host().is_none() {
        return Err(refuse("it names no host"));
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err(ClientError::Address {
            given: "…".into(),
            why: "it carries credentials".into(),
        });
    }
    Ok(url)
}

fn is_loopback(url: &Url) -> bool {
    match url.host() {
        Some(url::Host::Ipv4(ip)) => IpAddr::V4(ip).is_loopback(),
        Some(url::Host::Ipv6(ip)) => IpAddr::V6(ip).is_loopback(),
        Some(url::Host::Domain(name)) => name == "localhost" || name.ends_with(".localhost"),
        None => false,
    }
}
