//! An issuer of identities as GitHub, GitLab and others are one: discovery,
//! keys that change, and the request that a GitHub job makes.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;

use aws_lc_rs::hmac;
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa::{KeyPair, KeySize};
use aws_lc_rs::signature::{KeyPair as _, RSA_PKCS1_SHA256};
use axum::extract::{Query, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::jwk::Jwk;
use jsonwebtoken::{Algorithm, DecodingKey};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::sync::oneshot;

/// A real issuer on loopback, on a thread of its own.
pub struct TestIssuer {
    url: String,
    state: Arc<Mutex<Issuer>>,
    stop: Option<oneshot::Sender<()>>,
}

struct Issuer {
    url: String,
    key: KeyPair,
    /// Counts the keys.
    number: u32,
    is_down: bool,
    asked: u32,
    /// What it says of the job that asks.
    job: Value,
}

impl TestIssuer {
    /// What a job shows when it asks for its identity.
    pub const REQUEST_TOKEN: &'static str = "request-token";

    pub fn start() -> Self {
        let listener = std::net::TcpListener::bind(("127.0.0.1", 0)).expect("a port");
        listener.set_nonblocking(true).expect("a socket");
        let url = format!("http://{}", listener.local_addr().expect("it is bound"));
        let state = Arc::new(Mutex::new(Issuer {
            url: url.clone(),
            key: new_key(),
            number: 1,
            is_down: false,
            asked: 0,
            job: json!({}),
        }));
        let (stop, stopped) = oneshot::channel::<()>();
        let router = Router::new()
            .route("/.well-known/openid-configuration", get(discovery))
            .route("/keys", get(keys))
            .route("/identity", get(identity))
            .with_state(Arc::clone(&state));
        thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .expect("a runtime");
            runtime.block_on(async move {
                let listener = tokio::net::TcpListener::from_std(listener).expect("a socket");
                tokio::select! {
                    _ = axum::serve(listener, router) => {}
                    _ = stopped => {}
                }
            });
        });
        Self {
            url,
            state,
            stop: Some(stop),
        }
    }

    pub fn url(&self) -> &str {
        &self.url
    }

    /// Where a job asks for its identity, as `ACTIONS_ID_TOKEN_REQUEST_URL` says.
    pub fn request_url(&self) -> String {
        format!("{}/identity?api-version=2", self.url)
    }

    /// Signs with another key from now on; the one before is withdrawn.
    pub fn rotate(&self) {
        let key = new_key();
        let mut state = locked(&self.state);
        state.key = key;
        state.number += 1;
    }

    pub fn go_down(&self, is_down: bool) {
        locked(&self.state).is_down = is_down;
    }

    /// How often its keys were asked for.
    pub fn asked(&self) -> u32 {
        locked(&self.state).asked
    }

    /// What it says of jobs that ask.
    pub fn set_job(&self, claims: Value) {
        locked(&self.state).job = claims;
    }

    /// An identity with these claims, signed as it should be.
    pub fn sign(&self, claims: &Value) -> String {
        locked(&self.state).sign(claims)
    }

    /// The same with another key's id.
    pub fn sign_as(&self, key: &str, claims: &Value) -> String {
        let header = json!({ "alg": "RS256", "typ": "JWT", "kid": key });
        let state = locked(&self.state);
        state.signed(&header, claims)
    }

    /// Without a signature.
    pub fn unsigned(&self, claims: &Value) -> String {
        let kid = locked(&self.state).id();
        let header = json!({ "alg": "none", "typ": "JWT", "kid": kid });
        format!("{}.{}.", part(&header), part(claims))
    }

    /// Signed with what everybody knows, as if it were a secret.
    pub fn signed_with_public_key(&self, claims: &Value) -> String {
        let state = locked(&self.state);
        let header = json!({ "alg": "HS256", "typ": "JWT", "kid": state.id() });
        let message = format!("{}.{}", part(&header), part(claims));
        let key = hmac::Key::new(hmac::HMAC_SHA256, state.key.public_key().as_ref());
        let tag = hmac::sign(&key, message.as_bytes());
        format!("{message}.{}", URL_SAFE_NO_PAD.encode(tag))
    }
}

impl Drop for TestIssuer {
    fn drop(&mut self) {
        if let Some(stop) = self.stop.take() {
            let _ = stop.send(());
        }
    }
}

impl Issuer {
    fn id(&self) -> String {
        format!("key-{}", self.number)
    }

    fn sign(&self, claims: &Value) -> String {
        let header = json!({ "alg": "RS256", "typ": "JWT", "kid": self.id() });
        self.signed(&header, claims)
    }

    fn signed(&self, header: &Value, claims: &Value) -> String {
        let message = format!("{}.{}", part(header), part(claims));
        let mut signature = vec![0; self.key.public_modulus_len()];
        self.key
            .sign(
                &RSA_PKCS1_SHA256,
                &SystemRandom::new(),
                message.as_bytes(),
                &mut signature,
            )
            .expect("our key signs");
        format!("{message}.{}", URL_SAFE_NO_PAD.encode(signature))
    }
}

fn new_key() -> KeyPair {
    KeyPair::generate(KeySize::Rsa2048).expect("a key")
}

fn part(value: &Value) -> String {
    URL_SAFE_NO_PAD.encode(value.to_string())
}

fn locked(state: &Mutex<Issuer>) -> MutexGuard<'_, Issuer> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

async fn discovery(State(state): State<Arc<Mutex<Issuer>>>) -> Response {
    let state = locked(&state);
    if state.is_down {
        return StatusCode::SERVICE_UNAVAILABLE.into_response();
    }
    let url = &state.url;
    Json(json!({ "issuer": url, "jwks_uri": format!("{url}/keys") })).into_response()
}

async fn keys(State(state): State<Arc<Mutex<Issuer>>>) -> Response {
    let mut state = locked(&state);
    if state.is_down {
        return StatusCode::SERVICE_UNAVAILABLE.into_response();
    }
    state.asked += 1;
    let key = DecodingKey::from_rsa_der(state.key.public_key().as_ref());
    let mut key = Jwk::from_decoding_key(&key, Some(Algorithm::RS256)).expect("a public key");
    key.common.key_id = Some(state.id());
    // As issuers have them: one for something else, and a kind that nobody knows.
    let other = json!({ "kty": "RSA", "use": "enc", "kid": "other", "n": "AQAB", "e": "AQAB" });
    let strange = json!({ "kty": "strange", "kid": state.id() });
    Json(json!({ "keys": [other, key, strange] })).into_response()
}

#[derive(Deserialize)]
struct Asked {
    audience: String,
}

/// As GitHub answers `ACTIONS_ID_TOKEN_REQUEST_URL`.
async fn identity(
    State(state): State<Arc<Mutex<Issuer>>>,
    Query(asked): Query<Asked>,
    headers: HeaderMap,
) -> Response {
    let state = locked(&state);
    let given = headers.get("authorization").and_then(|it| it.to_str().ok());
    let expected = format!("bearer {}", TestIssuer::REQUEST_TOKEN);
    if !given.is_some_and(|given| given.eq_ignore_ascii_case(&expected)) {
        return StatusCode::UNAUTHORIZED.into_response();
    }
    let mut claims = state.job.clone();
    claims["aud"] = json!(asked.audience);
    Json(json!({ "value": state.sign(&claims) })).into_response()
}
