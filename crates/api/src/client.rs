//! The typed client: one method per operation.
//!
//! Lost connections and overloaded servers are retried with back-off here, and
//! nowhere else. A request that makes something and carries no key is repeated
//! only as long as it cannot have reached the control plane.
//!
//! Times are limits of silence: a body that makes progress is never cut, and a
//! connection on which nothing moves is given up.

use std::net::IpAddr;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use backon::{BackoffBuilder, ExponentialBuilder};
use bytes::{Bytes, BytesMut};
use futures_util::StreamExt;
use reqwest::{Method, StatusCode, header};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::sync::watch;
use tokio::time::Instant;
use updraft_model::{
    AgentId, BundleName, Checks, DeployId, DeploymentId, DeploymentName, Digest, TokenId, TrustId,
};
use url::Url;

use crate::agent::{
    DagIdsReport, FetchBlobs, Report, ReportAnswer, TakePreview, TakenPreview, Wanted,
};
use crate::deploy::{
    AcceptDeploy, Comparison, CreateDeploy, DeployView, Deploys, DiffView, LiftedHold, PlanRequest,
    PromoteRequest, Promotion, PromotionSource, RollbackRequest, WithdrawDeploy,
};
use crate::deployment::{
    CreateDeployment, DeploymentDags, DeploymentSettings, DeploymentView, Deployments, StatusView,
};
use crate::frames::{self, FrameError, FrameReader};
use crate::preview::{OpenPreview, OpenedPreview, PreviewView, Previews};
use crate::token::{CreateToken, Enroll, NewEnrollmentCode, NewToken, Tokens, WhoAmI};
use crate::trust::{CreateTrust, ExchangeToken, ExchangedToken, Exchanges, TrustView, Trusts};
use crate::{ErrorBody, ErrorCode, VERSION, VERSION_HEADER};

/// A control plane and the token to use with it.
#[derive(Clone)]
pub struct Client {
    http: reqwest::Client,
    base: Url,
    /// Clones share it, so that one that is renewed is renewed for all.
    token: Option<Arc<RwLock<String>>>,
    renewer: Option<Renewer>,
    agent: Option<AgentId>,
    /// Whether anything ever answered there. Clones share it.
    answered: Arc<AtomicBool>,
    teller: Option<Teller>,
}

/// Gets another token for one that expired, where that can be done.
pub type Renewer =
    Arc<dyn Fn() -> Pin<Box<dyn Future<Output = Option<String>> + Send>> + Send + Sync>;

/// Hears of each request that is tried again, and why.
pub type Teller = Arc<dyn Fn(&ClientError) + Send + Sync>;

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
    #[error("{address} sent nothing for {} s", .silence.as_secs())]
    Silent { address: Url, silence: Duration },
    #[error("the connection to {address} broke before it answered: this may be done, or not")]
    Unanswered {
        address: Url,
        /// Where to look whether it is done.
        look: &'static str,
        #[source]
        source: Box<ClientError>,
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
            | Self::Silent { .. }
            | Self::Unanswered { .. }
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
            Self::Silent { .. } => Some("look at the network between, and try again".into()),
            Self::Unanswered { look, .. } => Some((*look).into()),
            Self::NotUpdraft { status, .. } if status.is_redirection() => {
                Some("redirects are not followed; name the address that it leads to".into())
            }
            Self::NotUpdraft { .. } => Some("check the address with `updraft config`, and what stands between".into()),
            Self::Setup(_) | Self::Frames(_) => None,
        }
    }

    /// Whether the same request may succeed a little later.
    pub fn is_transient(&self) -> bool {
        match self {
            Self::Unreachable { .. } | Self::Silent { .. } | Self::Frames(_) => true,
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
            Self::Address { .. }
            | Self::InsecureAddress(_)
            | Self::Setup(_)
            | Self::Unanswered { .. } => false,
        }
    }

    /// Whether the request cannot have got there: nobody listens, or there is
    /// no such name.
    pub fn never_arrived(&self) -> bool {
        matches!(self, Self::Unreachable { source, .. } if source.is_connect())
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
        if base.scheme() == "http" && !connect.insecure_http && !is_loopback(&base) {
            return Err(ClientError::InsecureAddress(base));
        }
        let http = connection(&base, connect.ca_certificates.as_deref())?;
        Ok(Self {
            http: http.build().map_err(ClientError::Setup)?,
            base,
            token: token.map(|token| Arc::new(RwLock::new(token))),
            renewer: None,
            agent: None,
            answered: Arc::default(),
            teller: None,
        })
    }

    /// The token that it signs in with.
    pub fn token(&self) -> Option<String> {
        let token = self.token.as_ref()?;
        Some(token.read().unwrap_or_else(PoisonError::into_inner).clone())
    }

    /// The same, after it was renewed where it has expired and can be.
    pub async fn token_that_holds(&self) -> Option<String> {
        if self.renewer.is_some() {
            // Any request renews it.
            let _ = self.whoami().await;
        }
        self.token()
    }

    /// The same control plane; `teller` hears of requests that are tried again.
    #[must_use]
    pub fn telling(&self, teller: Teller) -> Self {
        Self {
            teller: Some(teller),
            ..self.clone()
        }
    }

    pub fn address(&self) -> &Url {
        &self.base
    }

    /// The same control plane with another token.
    #[must_use]
    pub fn with_token(&self, token: String) -> Self {
        Self {
            token: Some(Arc::new(RwLock::new(token))),
            renewer: None,
            ..self.clone()
        }
    }

    /// The same; a token that expires on the way is renewed.
    #[must_use]
    pub fn renewed_by(&self, renewer: Renewer) -> Self {
        Self {
            renewer: Some(renewer),
            ..self.clone()
        }
    }

    /// Whether there is another token than the one that was found to be expired.
    async fn renew(&self, expired: &str) -> bool {
        let (Some(token), Some(renewer)) = (&self.token, &self.renewer) else {
            return false;
        };
        // A clone may have been quicker.
        if self.token().is_some_and(|now| now != expired) {
            return true;
        }
        let Some(new) = renewer().await else {
            return false;
        };
        *token.write().unwrap_or_else(PoisonError::into_inner) = new;
        true
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

    /// SHA-256 of the executable that it serves at `/install`; none where what
    /// answers is no control plane.
    pub async fn install_checksum(&self) -> Result<Option<String>, ClientError> {
        let response = self.send(Method::GET, "/install/sha256", no_body(), LONG);
        let line = self.body(response.await?).await?;
        let hex = line.get(..64).and_then(|hex| std::str::from_utf8(hex).ok());
        let hex = hex.filter(|hex| hex.bytes().all(|it| it.is_ascii_hexdigit()));
        Ok(hex.map(str::to_owned))
    }

    // Deployments

    pub async fn create_deployment(
        &self,
        ask: &CreateDeployment,
    ) -> Result<DeploymentView, ClientError> {
        let look = "`updraft deployment list` shows whether it is there";
        self.post_once("/api/v1/deployments", ask, look).await
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

    /// Deletes a Deployment; while agents are connected only with `force`.
    pub async fn delete_deployment(
        &self,
        name: &DeploymentName,
        force: bool,
    ) -> Result<(), ClientError> {
        let query = if force { "?force=true" } else { "" };
        let path = format!("/api/v1/deployments/{name}{query}");
        let look = "`updraft deployment list` shows whether it is gone";
        let deleted = self.send_once(Method::DELETE, &path, no_body(), SHORT, look);
        deleted.await.map(drop)
    }

    pub async fn status(&self, name: &DeploymentName) -> Result<StatusView, ClientError> {
        self.get(&format!("/api/v1/deployments/{name}/status"))
            .await
    }

    /// The ids of a Deployment's DAGs in all bundles but one.
    pub async fn dag_ids_besides(
        &self,
        name: &DeploymentName,
        besides: &BundleName,
    ) -> Result<DeploymentDags, ClientError> {
        let path = format!("/api/v1/deployments/{name}/dag-ids?besides={besides}");
        self.get(&path).await
    }

    pub async fn create_enrollment_code(
        &self,
        name: &DeploymentName,
    ) -> Result<NewEnrollmentCode, ClientError> {
        let path = format!("/api/v1/deployments/{name}/enrollment-codes");
        let look = "ask for another code; one that nobody saw ends on its own";
        self.post_once(&path, &serde_json::json!({}), look).await
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
        let frames = blobs
            .iter()
            .flat_map(|(digest, bytes)| [frames::head(*digest, bytes.len() as u64), bytes.clone()]);
        let pieces: Vec<Bytes> = frames.flat_map(in_pieces).collect();
        let length: usize = pieces.iter().map(Bytes::len).sum();
        let send = async || {
            let (moving, moved) = watch::channel(());
            let pieces = futures_util::stream::iter(pieces.clone());
            let body = pieces.map(move |piece| {
                moving.send_replace(());
                Ok::<_, std::io::Error>(piece)
            });
            let request = self
                .request(Method::PUT, &path)
                .header(header::CONTENT_TYPE, frames::CONTENT_TYPE)
                .header(header::CONTENT_LENGTH, length)
                .body(reqwest::Body::wrap_stream(body));
            // Not less: a slow line takes pieces in bursts, as large as the buffers between.
            self.answer_while(request, moved, LONG).await
        };
        self.retried(send, None).await.map(drop)
    }

    pub async fn accept_deploy(
        &self,
        deploy: DeployId,
        checks: Option<Checks>,
    ) -> Result<DeployView, ClientError> {
        let ask = AcceptDeploy {
            checks,
            ..AcceptDeploy::default()
        };
        self.accept_deploy_as(deploy, &ask).await
    }

    /// The same, in order or by force.
    pub async fn accept_deploy_as(
        &self,
        deploy: DeployId,
        ask: &AcceptDeploy,
    ) -> Result<DeployView, ClientError> {
        self.post(&format!("/api/v1/deploys/{deploy}/accept"), ask)
            .await
    }

    /// Gives up a deploy that was not accepted yet.
    pub async fn withdraw_deploy(
        &self,
        deploy: DeployId,
        checks: Option<Checks>,
    ) -> Result<DeployView, ClientError> {
        let path = format!("/api/v1/deploys/{deploy}/withdraw");
        self.post(&path, &WithdrawDeploy { checks }).await
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

    /// Says what a promotion would change. Records nothing.
    pub async fn plan_promotion(
        &self,
        name: &DeploymentName,
        source: &PromotionSource,
    ) -> Result<Promotion, ClientError> {
        let path = format!("/api/v1/deployments/{name}/promotions/plan");
        self.post(&path, source).await
    }

    pub async fn promote(
        &self,
        name: &DeploymentName,
        ask: &PromoteRequest,
    ) -> Result<Promotion, ClientError> {
        self.post(&format!("/api/v1/deployments/{name}/promotions"), ask)
            .await
    }

    /// Makes the Preview of a pull request, or has the one that is there live on.
    pub async fn open_preview(
        &self,
        from: &DeploymentName,
        ask: &OpenPreview,
    ) -> Result<OpenedPreview, ClientError> {
        self.post(&format!("/api/v1/deployments/{from}/previews"), ask)
            .await
    }

    /// The Previews that the caller may see, or those of one Deployment.
    pub async fn previews(
        &self,
        from: Option<&DeploymentName>,
    ) -> Result<Vec<PreviewView>, ClientError> {
        let from = from.map(|from| format!("?from={from}")).unwrap_or_default();
        let listed: Previews = self.get(&format!("/api/v1/previews{from}")).await?;
        Ok(listed.previews)
    }

    pub async fn preview(&self, name: &DeploymentName) -> Result<PreviewView, ClientError> {
        self.get(&format!("/api/v1/previews/{name}")).await
    }

    pub async fn close_preview(&self, name: &DeploymentName) -> Result<(), ClientError> {
        let path = format!("/api/v1/previews/{name}");
        self.send(Method::DELETE, &path, no_body(), SHORT)
            .await
            .map(drop)
    }

    /// Takes a Preview for an agent of the Deployment that it is made from.
    pub async fn take_preview(
        &self,
        preview: DeploymentId,
        ask: &TakePreview,
    ) -> Result<TakenPreview, ClientError> {
        let path = format!("/api/v1/agent/previews/{preview}/take");
        // No retry here: the agent's loop is the retry.
        let request = self.request(Method::POST, &path).json(ask);
        let response = self.answer(request, LONG).await?;
        self.parse(response).await
    }

    /// Lets what was rolled back come back; lifting twice is as good as once.
    pub async fn lift_hold(&self, name: &DeploymentName) -> Result<LiftedHold, ClientError> {
        let path = format!("/api/v1/deployments/{name}/hold");
        self.json(Method::DELETE, &path, no_body(), SHORT).await
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
        let bytes = self.body(response).await?;
        if Digest::of(&bytes) != digest {
            return Err(FrameError::Corrupt { digest }.into());
        }
        Ok(bytes)
    }

    // Tokens

    pub async fn create_token(&self, ask: &CreateToken) -> Result<NewToken, ClientError> {
        let look = "`updraft token list` shows whether it was made; revoke it then, since nobody has its secret";
        self.post_once("/api/v1/tokens", ask, look).await
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

    // Trusts

    pub async fn create_trust(&self, ask: &CreateTrust) -> Result<TrustView, ClientError> {
        let look = "`updraft trust list` shows whether it is there";
        self.post_once("/api/v1/trusts", ask, look).await
    }

    pub async fn trusts(&self) -> Result<Trusts, ClientError> {
        self.get("/api/v1/trusts").await
    }

    /// Removes a trust and ends what came of it; a second time there is none.
    pub async fn delete_trust(&self, trust: TrustId) -> Result<(), ClientError> {
        let path = format!("/api/v1/trusts/{trust}");
        let look = "`updraft trust list` shows whether it is gone";
        let deleted = self.send_once(Method::DELETE, &path, no_body(), SHORT, look);
        deleted.await.map(drop)
    }

    pub async fn exchanges(
        &self,
        deployment: Option<&DeploymentName>,
        limit: u32,
    ) -> Result<Exchanges, ClientError> {
        let of = deployment.map(|name| format!("&deployment={name}"));
        let of = of.unwrap_or_default();
        self.get(&format!("/api/v1/exchanges?limit={limit}{of}"))
            .await
    }

    /// Exchanges a pipeline's identity for a token. Doing it twice makes two.
    pub async fn exchange(&self, ask: &ExchangeToken) -> Result<ExchangedToken, ClientError> {
        let fields = [
            ("grant_type", Some(&ask.grant_type)),
            ("subject_token", Some(&ask.subject_token)),
            ("subject_token_type", Some(&ask.subject_token_type)),
            ("audience", ask.audience.as_ref()),
        ];
        let given = fields
            .into_iter()
            .filter_map(|(name, value)| Some((name, value?)));
        let form = url::form_urlencoded::Serializer::new(String::new())
            .extend_pairs(given)
            .finish();
        let send = async || {
            let request = self
                .request(Method::POST, "/api/v1/token")
                .header(header::CONTENT_TYPE, "application/x-www-form-urlencoded")
                .body(form.clone());
            self.answer(request, SHORT).await
        };
        let response = self.retried(send, None).await?;
        self.parse(response).await
    }

    // Agents

    pub async fn enroll(&self, ask: &Enroll) -> Result<NewToken, ClientError> {
        let look = "use a new code of `updraft agent invite`: this one may be spent";
        self.post_once("/api/v1/agent/enroll", ask, look).await
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
            .answer(self.request(Method::GET, &path), wait + SHORT)
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
                    .json(report),
                LONG,
            )
            .await?;
        self.parse(response).await
    }

    /// Tells the DAG ids that the answer to a report said to lack.
    pub async fn report_dag_ids(&self, told: &DagIdsReport) -> Result<(), ClientError> {
        let request = self.request(Method::POST, "/api/v1/agent/dag-ids");
        self.answer(request.json(told), LONG).await.map(drop)
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
        let mut response = self.answer(request, SILENCE).await?;
        let mut reader = FrameReader::new(limit);
        while let Some(chunk) = self.chunk(&mut response).await? {
            reader.push(&chunk);
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

    /// For what must not be done twice; `look` says where to see whether it is done.
    async fn post_once<T: DeserializeOwned>(
        &self,
        path: &str,
        body: &impl Serialize,
        look: &'static str,
    ) -> Result<T, ClientError> {
        let response = self.send_once(Method::POST, path, Some(body), LONG, look);
        let response = response.await?;
        let unanswered = |source| self.unanswered(source, look);
        self.parse(response).await.map_err(unanswered)
    }

    async fn send(
        &self,
        method: Method,
        path: &str,
        body: Option<&impl Serialize>,
        patience: Duration,
    ) -> Result<reqwest::Response, ClientError> {
        let send = async || {
            let mut request = self.request(method.clone(), path);
            if let Some(body) = body {
                request = request.json(body);
            }
            self.answer(request, patience).await
        };
        self.retried(send, None).await
    }

    async fn send_once(
        &self,
        method: Method,
        path: &str,
        body: Option<&impl Serialize>,
        patience: Duration,
        look: &'static str,
    ) -> Result<reqwest::Response, ClientError> {
        let send = async || {
            let mut request = self.request(method.clone(), path);
            if let Some(body) = body {
                request = request.json(body);
            }
            self.answer(request, patience).await
        };
        self.retried(send, Some(look)).await
    }

    /// Repeats what may succeed a little later. With `once`, only as long as
    /// nothing can have arrived.
    ///
    /// Where nothing ever answered, the address is more likely wrong than the
    /// control plane just away, so that is found out in about a second.
    async fn retried<T>(
        &self,
        mut send: impl AsyncFnMut() -> Result<T, ClientError>,
        once: Option<&'static str>,
    ) -> Result<T, ClientError> {
        let since = Instant::now();
        let mut pauses = backoff().build();
        let mut told = false;
        let mut renewed = false;
        loop {
            let token = self.token();
            let error = match send().await {
                Ok(answer) => return Ok(answer),
                Err(error) => error,
            };
            if error.code() == Some(ErrorCode::TokenExpired)
                && !renewed
                && let Some(token) = &token
                && self.renew(token).await
            {
                renewed = true;
                continue;
            }
            if !error.is_transient() {
                return Err(error);
            }
            if let Some(look) = once
                && !error.never_arrived()
            {
                return Err(self.unanswered(error, look));
            }
            let is_silent = matches!(error, ClientError::Silent { .. });
            let Some(pause) = pauses
                .next()
                .filter(|_| !is_silent || since.elapsed() < LONG)
            else {
                return Err(error);
            };
            let answered = self.answered.load(Ordering::Relaxed);
            if error.never_arrived() && !answered && since.elapsed() + pause > FIRST_CONTACT {
                return Err(error);
            }
            if let Some(teller) = self.teller.as_ref().filter(|_| !told) {
                told = true;
                teller(&error);
            }
            tokio::time::sleep(pause).await;
        }
    }

    fn unanswered(&self, source: ClientError, look: &'static str) -> ClientError {
        match source {
            ClientError::Unreachable { .. } | ClientError::Silent { .. } => {}
            // It was understood and refused, or something else answered.
            other => return other,
        }
        ClientError::Unanswered {
            address: self.base.clone(),
            look,
            source: Box::new(source),
        }
    }

    fn request(&self, method: Method, path: &str) -> reqwest::RequestBuilder {
        let address = format!("{}{path}", self.base.as_str().trim_end_matches('/'));
        let request = self
            .http
            .request(method, address)
            .header(VERSION_HEADER, VERSION);
        match self.token() {
            Some(token) => request.bearer_auth(token),
            None => request,
        }
    }

    /// Sends a request and waits that long for the head of its answer.
    async fn answer(
        &self,
        request: reqwest::RequestBuilder,
        patience: Duration,
    ) -> Result<reqwest::Response, ClientError> {
        let nothing = watch::channel(()).1;
        self.answer_while(request, nothing, patience).await
    }

    /// The same, with a patience that begins anew whenever something moved.
    async fn answer_while(
        &self,
        request: reqwest::RequestBuilder,
        mut moved: watch::Receiver<()>,
        patience: Duration,
    ) -> Result<reqwest::Response, ClientError> {
        let mut response = std::pin::pin!(request.send());
        let response = loop {
            let silence = tokio::time::sleep(patience);
            tokio::select! {
                biased;
                response = &mut response => break response.map_err(|source| self.unreachable(source))?,
                Ok(()) = moved.changed() => {}
                () = silence => return Err(self.silent(patience)),
            }
        };
        self.answered.store(true, Ordering::Relaxed);
        let status = response.status();
        if status.is_success() {
            return Ok(response);
        }
        let bytes = self.body(response).await?;
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

    async fn body(&self, mut response: reqwest::Response) -> Result<Bytes, ClientError> {
        let mut body = BytesMut::new();
        while let Some(chunk) = self.chunk(&mut response).await? {
            body.extend_from_slice(&chunk);
        }
        Ok(body.freeze())
    }

    async fn chunk(&self, response: &mut reqwest::Response) -> Result<Option<Bytes>, ClientError> {
        match tokio::time::timeout(SILENCE, response.chunk()).await {
            Ok(chunk) => chunk.map_err(|source| self.unreachable(source)),
            Err(_) => Err(self.silent(SILENCE)),
        }
    }

    async fn parse<T: DeserializeOwned>(
        &self,
        response: reqwest::Response,
    ) -> Result<T, ClientError> {
        let status = response.status();
        let bytes = self.body(response).await?;
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

    fn silent(&self, silence: Duration) -> ClientError {
        ClientError::Silent {
            address: self.base.clone(),
            silence,
        }
    }
}

/// How long the head of an answer may take, for what is looked up and for what
/// is worked on.
const SHORT: Duration = Duration::from_secs(30);
const LONG: Duration = Duration::from_mins(5);
/// How long nothing may move in the middle of a body.
const SILENCE: Duration = Duration::from_mins(1);
/// How long a control plane is looked for that has never answered.
const FIRST_CONTACT: Duration = Duration::from_secs(1);
/// Bodies are sent in pieces of this size, so that progress shows on a slow line.
const PIECE: usize = 64 << 10;

fn in_pieces(mut bytes: Bytes) -> impl Iterator<Item = Bytes> {
    std::iter::from_fn(move || {
        let piece = bytes.split_to(bytes.len().min(PIECE));
        (!piece.is_empty()).then_some(piece)
    })
}

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

/// A connection to a server to which something secret is sent.
pub fn connection(
    base: &Url,
    ca_certificates: Option<&[u8]>,
) -> Result<reqwest::ClientBuilder, ClientError> {
    let mut http = reqwest::Client::builder()
        .user_agent(concat!("updraft/", env!("CARGO_PKG_VERSION")))
        .connect_timeout(Duration::from_secs(10))
        .tcp_nodelay(true)
        // It is for this server alone.
        .redirect(reqwest::redirect::Policy::none())
        .tcp_keepalive(Duration::from_secs(30));
    if base.scheme() == "http" {
        // Loading the machine's authorities costs more than a whole plan.
        http = http.tls_certs_only([]);
    } else {
        // A machine without installed authorities still gets the public ones.
        let public = webpki_root_certs::TLS_SERVER_ROOT_CERTS
            .iter()
            .filter_map(|der| reqwest::Certificate::from_der(der).ok());
        http = http.tls_certs_merge(public);
        if let Some(pem) = ca_certificates {
            http = http.tls_certs_merge(
                reqwest::Certificate::from_pem_bundle(pem).map_err(ClientError::Setup)?,
            );
        }
    }
    if is_loopback(base) {
        http = http.no_proxy();
    }
    Ok(http)
}

pub fn is_loopback(url: &Url) -> bool {
    match url.host() {
        Some(url::Host::Ipv4(ip)) => IpAddr::V4(ip).is_loopback(),
        Some(url::Host::Ipv6(ip)) => IpAddr::V6(ip).is_loopback(),
        Some(url::Host::Domain(name)) => name == "localhost" || name.ends_with(".localhost"),
        None => false,
    }
}
