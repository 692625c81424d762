//! The keys of issuers that somebody here trusts, fetched and kept for a while.
//!
//! Nobody is asked but an issuer that a trust names, and where its own discovery
//! points to. One that does not answer once its keys are old lets nobody in.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Duration;

use jsonwebtoken::jwk::{AlgorithmParameters, Jwk, PublicKeyUse};
use jsonwebtoken::{Algorithm, AlgorithmFamily, DecodingKey};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use updraft_api::client::{connection, is_loopback};
use updraft_model::Timestamp;
use url::Url;

use super::TrustError;

/// How long keys are good for. A key that an issuer withdraws is refused after that.
const FRESH: chrono::Duration = chrono::Duration::hours(1);
/// How soon an issuer is asked again: for a key that nobody knows, or after it did not answer.
const PAUSE: chrono::Duration = chrono::Duration::seconds(5);
const TIME_LIMIT: Duration = Duration::from_secs(10);
const MOST_BYTES: usize = 512 << 10;
const MOST_KEYS: usize = 100;
const MOST_ISSUERS: usize = 200;

/// Issuers by their address.
#[derive(Debug, Default)]
pub(crate) struct Issuers {
    known: Mutex<HashMap<String, Arc<Known>>>,
}

#[derive(Debug, Default)]
struct Known {
    kept: RwLock<Kept>,
    /// Held while the issuer is asked: whoever's key is kept does not wait for that.
    asked: tokio::sync::Mutex<Asked>,
}

#[derive(Debug, Default)]
struct Kept {
    keys: Vec<Jwk>,
    fetched: Option<Timestamp>,
}

#[derive(Debug, Default)]
struct Asked {
    at: Option<Timestamp>,
    /// Whether the last answer was none.
    is_down: bool,
}

/// The part of an issuer's description that is needed.
#[derive(Deserialize)]
struct Discovery {
    issuer: String,
    jwks_uri: String,
}

#[derive(Deserialize)]
struct KeySet {
    keys: Vec<Value>,
}

impl Issuers {
    /// The key that a trusted issuer signs with. Of several that ask at once one
    /// fetches, and the others wait for it.
    pub(super) async fn key(
        &self,
        issuer: &str,
        id: Option<&str>,
        algorithm: Algorithm,
        now: Timestamp,
    ) -> Result<DecodingKey, TrustError> {
        let known = self.known(issuer);
        let unknown = || TrustError::UnknownKey {
            issuer: issuer.to_owned(),
            key: id.map(|it| it.chars().take(100).collect()),
        };
        let down = || TrustError::IssuerDown(issuer.to_owned());
        if let Some(key) = known.find(id, algorithm, now) {
            return Ok(key);
        }
        let mut asked = known.asked.lock().await;
        // Somebody else may have asked meanwhile.
        if let Some(key) = known.find(id, algorithm, now) {
            return Ok(key);
        }
        if asked.at.is_some_and(|at| now - at < PAUSE) {
            return Err(if asked.is_down { down() } else { unknown() });
        }
        asked.at = Some(now);
        let fetched = fetch(issuer).await;
        asked.is_down = fetched.is_err();
        match fetched {
            Ok(keys) => {
                known.keep(keys, now);
                known.find(id, algorithm, now).ok_or_else(unknown)
            }
            Err(why) => {
                tracing::warn!(issuer, why, "an issuer's keys could not be fetched");
                Err(down())
            }
        }
    }

    fn known(&self, issuer: &str) -> Arc<Known> {
        let mut all = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        // Trusts come and go; what is still used is fetched again.
        if all.len() >= MOST_ISSUERS && !all.contains_key(issuer) {
            all.clear();
        }
        Arc::clone(all.entry(issuer.to_owned()).or_default())
    }
}

impl Known {
    fn keep(&self, keys: Vec<Jwk>, now: Timestamp) {
        let mut kept = self.kept.write().unwrap_or_else(PoisonError::into_inner);
        kept.keys = keys;
        kept.fetched = Some(now);
    }

    /// The key of that id, or the only one where the identity names none, as long as keys
    /// are good for.
    fn find(&self, id: Option<&str>, algorithm: Algorithm, now: Timestamp) -> Option<DecodingKey> {
        let kept = self.kept.read().unwrap_or_else(PoisonError::into_inner);
        if kept.fetched.is_none_or(|at| now - at >= FRESH) {
            return None;
        }
        let mut suitable = kept.keys.iter().filter(|key| signs(key, algorithm));
        let key = match id {
            Some(id) => suitable.find(|key| key.common.key_id.as_deref() == Some(id))?,
            None => suitable.next().filter(|_| suitable.next().is_none())?,
        };
        let key = DecodingKey::from_jwk(key).ok()?;
        (key.family() == algorithm.family()).then_some(key)
    }
}

/// Whether a key is for signatures of this kind.
fn signs(key: &Jwk, algorithm: Algorithm) -> bool {
    let family = match key.algorithm {
        AlgorithmParameters::RSA(_) => AlgorithmFamily::Rsa,
        AlgorithmParameters::EllipticCurve(_) => AlgorithmFamily::Ec,
        AlgorithmParameters::OctetKeyPair(_) => AlgorithmFamily::Ed,
        // A secret that is published signs nothing, nor does what is not known.
        _ => return false,
    };
    let declared = key.common.key_algorithm.map(|it| it.to_string());
    let is_other = declared.is_some_and(|declared| declared != format!("{algorithm:?}"));
    let encrypts = matches!(
        key.common.public_key_use,
        Some(PublicKeyUse::Encryption | PublicKeyUse::Other(_))
    );
    family == algorithm.family() && !is_other && !encrypts
}

async fn fetch(issuer: &str) -> Result<Vec<Jwk>, String> {
    let own = address(issuer)?;
    let path = ".well-known/openid-configuration";
    let at = format!("{}/{path}", issuer.trim_end_matches('/'));
    let found: Discovery = read(&address(&at)?).await?;
    if found.issuer != issuer {
        return Err(format!(
            "its discovery is of the issuer `{}`",
            found.issuer.chars().take(200).collect::<String>()
        ));
    }
    let keys = address(&found.jwks_uri)?;
    if is_loopback(&keys) && !is_loopback(&own) {
        return Err("its keys are said to be on this machine".into());
    }
    let set: KeySet = read(&keys).await?;
    if set.keys.len() > MOST_KEYS {
        return Err(format!("it has more than {MOST_KEYS} keys"));
    }
    // Kinds that are not known are for others.
    let keys = set.keys.into_iter();
    Ok(keys
        .filter_map(|key| serde_json::from_value(key).ok())
        .collect())
}

/// An address to which a request may go: encrypted, unless it is on this machine.
pub(super) fn address(text: &str) -> Result<Url, String> {
    let shown = || text.chars().take(200).collect::<String>();
    let url: Url = text
        .parse()
        .map_err(|error| format!("`{}` is no address: {error}", shown()))?;
    let is_safe = match url.scheme() {
        "https" => true,
        "http" => is_loopback(&url),
        _ => false,
    };
    if !is_safe {
        return Err(format!("`{}` is not https", shown()));
    }
    if url.host().is_none() || !url.username().is_empty() || url.password().is_some() {
        return Err(format!("`{}` names no host, or credentials", shown()));
    }
    Ok(url)
}

async fn read<T: DeserializeOwned>(url: &Url) -> Result<T, String> {
    let failed = |error: reqwest::Error| {
        let error = error.without_url();
        format!("{url}: {}", crate::error::chain(&error))
    };
    let builder = connection(url, None).map_err(|error| error.to_string())?;
    let http = builder.timeout(TIME_LIMIT).build().map_err(failed)?;
    let mut response = http.get(url.clone()).send().await.map_err(failed)?;
    if !response.status().is_success() {
        return Err(format!("{url} answered {}", response.status()));
    }
    let mut body = Vec::new();
    while let Some(chunk) = response.chunk().await.map_err(failed)? {
        body.extend_from_slice(&chunk);
        if body.len() > MOST_BYTES {
            return Err(format!("{url} answered more than {MOST_BYTES} bytes"));
        }
    }
    serde_json::from_slice(&body).map_err(|_| format!("{url} answered something else than JSON"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_encrypted_addresses_are_asked() {
        for good in [
            "https://issuer.example/path",
            "http://127.0.0.1:8080",
            "http://localhost/x",
        ] {
            assert!(address(good).is_ok(), "{good}");
        }
        for bad in [
            "http://issuer.example",
            "http://169.254.169.254/latest",
            "file:///etc/passwd",
            "https://user:secret@issuer.example",
            "issuer.example",
        ] {
            assert!(address(bad).is_err(), "{bad}");
        }
    }
}
