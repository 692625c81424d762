//! A connection to a registry: it signs in when it is asked to, and tries again
//! what failed for a reason that passes.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use backon::{BackoffBuilder, ExponentialBuilder};
use reqwest::header::{self, HeaderMap};
use reqwest::{RequestBuilder, Response, StatusCode};
use serde::Deserialize;
use url::Url;

use super::{Credentials, ImageRepository, PushError};

/// How a registry may be reached.
#[derive(Debug, Clone, Default)]
pub struct RegistryAccess {
    pub credentials: Option<Credentials>,
    /// Plain http, also to another machine.
    pub plain_http: bool,
    /// Authorities besides the public ones, PEM.
    pub ca_certificates: Option<Vec<u8>>,
}

/// A repository of a registry, and a connection to it.
#[derive(Debug)]
pub struct Registry {
    pub(super) name: ImageRepository,
    http: reqwest::Client,
    base: Url,
    credentials: Option<Credentials>,
    /// What the registry took last, by what it is for.
    authorisations: Mutex<HashMap<String, String>>,
    signing_in: tokio::sync::Mutex<()>,
}

/// What a registry asks of who has no right yet.
struct Challenge {
    is_bearer: bool,
    realm: Option<String>,
    service: Option<String>,
    scope: Option<String>,
}

/// Some say it by one name, some by the other, and some by both.
#[derive(Deserialize)]
struct Token {
    token: Option<String>,
    access_token: Option<String>,
}

/// An error as the specification has it.
#[derive(Deserialize)]
struct Refusal {
    errors: Vec<RefusalError>,
}

#[derive(Deserialize)]
struct RefusalError {
    code: String,
    #[serde(default)]
    message: String,
}

const MOST_SAID: usize = 300;
/// Connections that nobody takes.
const MOST_REFUSALS: u32 = 3;
/// A connection that says nothing for so long is gone.
const SILENCE: Duration = Duration::from_secs(120);

impl Registry {
    pub fn connect(name: ImageRepository, access: RegistryAccess) -> Result<Self, PushError> {
        let is_plain = access.plain_http || name.is_loopback();
        let scheme = if is_plain { "http" } else { "https" };
        let base = Url::parse(&format!("{scheme}://{}/v2/", name.host()));
        let base = base.map_err(|_| PushError::InvalidName {
            given: name.to_string(),
            why: "its first part is no host name",
        })?;
        let public = webpki_root_certs::TLS_SERVER_ROOT_CERTS
            .iter()
            .filter_map(|der| reqwest::Certificate::from_der(der).ok());
        let mut http = reqwest::Client::builder()
            .user_agent(concat!("updraft/", env!("CARGO_PKG_VERSION")))
            .connect_timeout(Duration::from_secs(10))
            .read_timeout(SILENCE)
            .redirect(reqwest::redirect::Policy::none())
            .tcp_nodelay(true)
            .tls_certs_merge(public);
        if let Some(pem) = &access.ca_certificates {
            let own = reqwest::Certificate::from_pem_bundle(pem).map_err(PushError::Setup)?;
            http = http.tls_certs_merge(own);
        }
        if name.is_loopback() {
            http = http.no_proxy();
        }
        Ok(Self {
            http: http.build().map_err(PushError::Setup)?,
            base,
            name,
            credentials: access.credentials,
            authorisations: Mutex::default(),
            signing_in: tokio::sync::Mutex::default(),
        })
    }

    pub(super) fn http(&self) -> &reqwest::Client {
        &self.http
    }

    /// An address of the repository.
    pub(super) fn url(&self, path: &str) -> Result<Url, PushError> {
        let path = format!("{}/{path}", self.name.repository);
        self.base
            .join(&path)
            .map_err(|_| self.odd(format!("`{path}` is no address")))
    }

    /// An address that the registry gave.
    pub(super) fn location(&self, asked: &Url, headers: &HeaderMap) -> Result<Url, PushError> {
        let location = headers.get(header::LOCATION);
        let location = location.and_then(|location| location.to_str().ok());
        let location = location.ok_or_else(|| self.odd("it names no `Location`".into()))?;
        asked
            .join(location)
            .map_err(|_| self.odd(format!("`{location}` is no address")))
    }

    pub(super) fn odd(&self, why: String) -> PushError {
        PushError::Odd {
            registry: self.name.registry.clone(),
            why,
        }
    }

    /// Sends a request for something that may be tried again, until the registry
    /// answers for good.
    pub(super) async fn send(
        &self,
        scope: &str,
        request: impl Fn() -> RequestBuilder,
    ) -> Result<Response, PushError> {
        let mut pauses = pauses();
        let mut nobody = 0;
        loop {
            let used = self.authorisation(scope);
            let sent = self.send_once(scope, request()).await;
            match (&sent, pauses.next()) {
                (Ok(answer), Some(pause)) if is_passing(answer.status()) => wait(pause).await,
                (Err(PushError::Unreachable { source, .. }), Some(pause))
                    if may_come(source, &mut nobody) =>
                {
                    wait(pause).await;
                }
                (Ok(answer), _) if answer.status() == StatusCode::UNAUTHORIZED => {
                    if !self.sign_in(scope, used, answer.headers()).await? {
                        return sent;
                    }
                    return self.send_once(scope, request()).await;
                }
                _ => return sent,
            }
        }
    }

    /// Sends a request once, with what the registry took last for such.
    pub(super) async fn send_once(
        &self,
        scope: &str,
        request: RequestBuilder,
    ) -> Result<Response, PushError> {
        let mut request = request.build().map_err(PushError::Setup)?;
        // Whoever else it sends us to is not told who we are.
        if request.url().origin() == self.base.origin()
            && let Some(value) = self.authorisation(scope)
            && let Ok(mut value) = header::HeaderValue::from_str(&value)
        {
            value.set_sensitive(true);
            request.headers_mut().insert(header::AUTHORIZATION, value);
        }
        let sent = self.http.execute(request).await;
        sent.map_err(|source| PushError::Unreachable {
            registry: self.name.registry.clone(),
            source,
        })
    }

    fn authorisation(&self, scope: &str) -> Option<String> {
        let known = self.authorisations.lock();
        let known = known.unwrap_or_else(PoisonError::into_inner);
        known.get(scope).cloned()
    }

    /// Does what a refusal asks for; false when there is nothing to do it with, or it
    /// was done already. Of several that are refused at once, one does it for all.
    async fn sign_in(
        &self,
        scope: &str,
        used: Option<String>,
        headers: &HeaderMap,
    ) -> Result<bool, PushError> {
        let _signing_in = self.signing_in.lock().await;
        if self.authorisation(scope) != used {
            return Ok(true);
        }
        let Some(challenge) = Challenge::read(headers) else {
            return Ok(false);
        };
        let authorisation = if challenge.is_bearer {
            self.token(scope, &challenge)
                .await?
                .map(|token| format!("Bearer {token}"))
        } else {
            match &self.credentials {
                Some(Credentials::Password { user, password }) => {
                    use base64::Engine as _;
                    let pair = format!("{user}:{password}");
                    let pair = base64::engine::general_purpose::STANDARD.encode(pair);
                    Some(format!("Basic {pair}"))
                }
                Some(Credentials::IdentityToken(_)) | None => None,
            }
        };
        let Some(authorisation) = authorisation else {
            return Ok(false);
        };
        let mut known = self
            .authorisations
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let is_new = used.as_ref() != Some(&authorisation);
        known.insert(scope.to_owned(), authorisation);
        Ok(is_new)
    }

    async fn token(&self, scope: &str, challenge: &Challenge) -> Result<Option<String>, PushError> {
        let realm = challenge.realm.as_deref().unwrap_or_default();
        let realm: Url = realm
            .parse()
            .map_err(|_| self.odd(format!("`{realm}` is no address to get a token at")))?;
        if realm.scheme() != "https" && self.base.scheme() == "https" {
            return Err(PushError::InsecureRealm {
                registry: self.name.registry.clone(),
                realm: realm.to_string(),
            });
        }
        let service = challenge.service.as_deref().unwrap_or_default();
        let answer = loop_sending(&self.name.registry, || match &self.credentials {
            Some(Credentials::IdentityToken(token)) => self.http.post(realm.clone()).form(&[
                ("grant_type", "refresh_token"),
                ("client_id", "updraft"),
                ("service", service),
                ("scope", scope),
                ("refresh_token", token),
            ]),
            known => {
                let query = [("service", service), ("scope", scope)];
                let get = self.http.get(realm.clone()).query(&query);
                match known {
                    Some(Credentials::Password { user, password }) => {
                        get.basic_auth(user, Some(password))
                    }
                    _ => get,
                }
            }
        })
        .await?;
        if !answer.status().is_success() {
            return Err(self
                .refused("sign in to", answer, Some(scope.to_owned()))
                .await);
        }
        let token: Option<Token> = answer.json().await.ok();
        let token = token.and_then(|token| token.token.or(token.access_token));
        token
            .map(Some)
            .ok_or_else(|| self.odd("its token cannot be read".into()))
    }

    /// An answer that is none of those that were expected.
    pub(super) async fn refused(
        &self,
        what: &'static str,
        answer: Response,
        scope: Option<String>,
    ) -> PushError {
        let status = answer.status();
        let asked = Challenge::read(answer.headers()).and_then(|challenge| challenge.scope);
        let denied = matches!(status, StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN);
        let text = answer.text().await.unwrap_or_default();
        let message = match serde_json::from_str::<Refusal>(&text) {
            Ok(refusal) if !refusal.errors.is_empty() => refusal
                .errors
                .iter()
                .map(|error| format!("{}: {}", error.code, error.message))
                .collect::<Vec<_>>()
                .join("; "),
            _ if text.trim().is_empty() => status.to_string(),
            _ => text.trim().to_owned(),
        };
        PushError::Refused {
            what,
            repository: self.name.to_string(),
            status: status.as_u16(),
            message: message.chars().take(MOST_SAID).collect(),
            scope: asked.or(scope).filter(|_| denied),
        }
    }
}

async fn loop_sending(
    registry: &str,
    request: impl Fn() -> RequestBuilder,
) -> Result<Response, PushError> {
    let mut pauses = pauses();
    let mut nobody = 0;
    loop {
        match (request().send().await, pauses.next()) {
            (Ok(answer), Some(pause)) if is_passing(answer.status()) => wait(pause).await,
            (Err(error), Some(pause)) if may_come(&error, &mut nobody) => wait(pause).await,
            (Ok(answer), _) => return Ok(answer),
            (Err(source), _) => {
                return Err(PushError::Unreachable {
                    registry: registry.to_owned(),
                    source,
                });
            }
        }
    }
}

/// Whether a registry may still answer: where nobody listens, nobody does for longer
/// than a restart takes.
fn may_come(error: &reqwest::Error, nobody: &mut u32) -> bool {
    *nobody += u32::from(error.is_connect());
    *nobody <= MOST_REFUSALS
}

/// How long to wait before each further attempt: about 25 seconds in all.
pub(super) fn pauses() -> impl Iterator<Item = Duration> + Send {
    ExponentialBuilder::default()
        .with_min_delay(Duration::from_millis(200))
        .with_max_delay(Duration::from_secs(10))
        .with_max_times(7)
        .with_jitter()
        .build()
}

pub(super) async fn wait(pause: Duration) {
    tokio::time::sleep(pause).await;
}

/// Whether this may be another answer in a moment. A full disk is not.
pub(super) fn is_passing(status: StatusCode) -> bool {
    status == StatusCode::TOO_MANY_REQUESTS
        || status.is_server_error() && status != StatusCode::INSUFFICIENT_STORAGE
}

impl Challenge {
    fn read(headers: &HeaderMap) -> Option<Self> {
        let header = headers.get(header::WWW_AUTHENTICATE)?.to_str().ok()?;
        let (scheme, rest) = header.split_once(' ').unwrap_or((header, ""));
        let value = |name: &str| {
            let start = rest.find(&format!("{name}=\""))? + name.len() + 2;
            let end = rest[start..].find('"')?;
            Some(rest[start..start + end].to_owned())
        };
        Some(Self {
            is_bearer: scheme.eq_ignore_ascii_case("bearer"),
            realm: value("realm"),
            service: value("service"),
            scope: value("scope"),
        })
    }
}
