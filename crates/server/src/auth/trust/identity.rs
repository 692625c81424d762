//! A pipeline's identity: a JWT, before and after its signature was checked.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use chrono::DateTime;
use jsonwebtoken::{Algorithm, DecodingKey, Validation};
use serde::Deserialize;
use serde_json::{Map, Value};
use updraft_model::Timestamp;

use super::TrustError;
use super::claims::Claims;

/// The longest that is looked at; the providers' are 1 to 4 kB.
const MOST_BYTES: usize = 16 << 10;
/// Of an issuer or a key.
const MOST_NAME_BYTES: usize = 1000;
/// How far clocks may be apart.
const LEEWAY_S: i64 = 60;

/// Nothing of it is to be believed.
#[derive(Debug)]
pub(super) struct Unverified<'a> {
    text: &'a str,
    pub(super) algorithm: Algorithm,
    pub(super) key: Option<String>,
    pub(super) issuer: String,
}

#[derive(Deserialize)]
struct Header {
    alg: String,
    #[serde(default)]
    kid: Option<String>,
    #[serde(default)]
    crit: Option<Value>,
}

#[derive(Deserialize)]
struct Issuer {
    iss: String,
}

/// Signatures that only the issuer can make. A secret that is shared, or none
/// at all, is not among them, whatever an identity says of itself.
fn asymmetric(name: &str) -> Option<Algorithm> {
    Some(match name {
        "RS256" => Algorithm::RS256,
        "RS384" => Algorithm::RS384,
        "RS512" => Algorithm::RS512,
        "PS256" => Algorithm::PS256,
        "PS384" => Algorithm::PS384,
        "PS512" => Algorithm::PS512,
        "ES256" => Algorithm::ES256,
        "ES384" => Algorithm::ES384,
        "EdDSA" => Algorithm::EdDSA,
        _ => return None,
    })
}

impl<'a> Unverified<'a> {
    pub(super) fn read(text: &'a str) -> Result<Self, TrustError> {
        let text = text.trim();
        if text.len() > MOST_BYTES {
            return Err(TrustError::TooLarge {
                bytes: text.len(),
                most: MOST_BYTES,
            });
        }
        let parts: Vec<&str> = text.split('.').collect();
        let [header, payload, _] = parts.as_slice() else {
            return Err(TrustError::NoJwt);
        };
        let header: Header = part(header)?;
        let Issuer { iss } = part(payload)?;
        let key = header.kid.as_deref().unwrap_or_default();
        for said in [&iss, &header.alg, key] {
            if said.len() > MOST_NAME_BYTES || said.chars().any(char::is_control) {
                return Err(TrustError::NoJwt);
            }
        }
        let algorithm = asymmetric(&header.alg)
            .filter(|_| header.crit.is_none())
            .ok_or_else(|| TrustError::Algorithm(header.alg.chars().take(20).collect()))?;
        Ok(Self {
            text,
            algorithm,
            key: header.kid,
            issuer: iss,
        })
    }

    /// Checks the signature with a key of the issuer.
    pub(super) fn verify(&self, key: &DecodingKey) -> Result<Claims, TrustError> {
        let mut validation = Validation::new(self.algorithm);
        // Looked at below and by each trust, on our own clock and with better words.
        validation.validate_exp = false;
        validation.validate_aud = false;
        validation.required_spec_claims.clear();
        validation.set_issuer(&[&self.issuer]);
        jsonwebtoken::decode::<Map<String, Value>>(self.text, key, &validation)
            .map(|token| Claims(token.claims))
            .map_err(|_| TrustError::Signature(self.issuer.clone()))
    }
}

fn part<T: serde::de::DeserializeOwned>(text: &str) -> Result<T, TrustError> {
    let bytes = URL_SAFE_NO_PAD.decode(text).ok();
    bytes
        .and_then(|bytes| serde_json::from_slice(&bytes).ok())
        .ok_or(TrustError::NoJwt)
}

/// What is wrong with the times of an identity, if something is.
pub(super) fn out_of_time(claims: &Claims, now: Timestamp) -> Option<String> {
    let now = now.timestamp();
    let written = |seconds: i64| {
        let at = DateTime::from_timestamp(seconds, 0).unwrap_or_default();
        at.format("%Y-%m-%d %H:%M:%S UTC").to_string()
    };
    let Some(expires) = claims.time("exp") else {
        return Some("`exp` is missing: it would hold for ever".into());
    };
    if expires.saturating_add(LEEWAY_S) <= now {
        return Some(format!(
            "it expired at {}; here it is {}",
            written(expires),
            written(now)
        ));
    }
    let begins = ["nbf", "iat"].map(|name| claims.time(name));
    let begins = begins.into_iter().flatten().max()?;
    (begins > now + LEEWAY_S).then(|| {
        format!(
            "it holds from {} on; here it is {}",
            written(begins),
            written(now)
        )
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn token(header: &Value, payload: &Value) -> String {
        let part = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
        format!("{}.{}.c2ln", part(header), part(payload))
    }

    #[test]
    fn what_anybody_could_sign_is_refused_before_a_key_is_looked_for() {
        let payload = json!({ "iss": "https://issuer.example" });
        for alg in ["none", "None", "NONE", "HS256", "HS512", "", "RS1"] {
            let text = token(&json!({ "alg": alg }), &payload);
            let refused = Unverified::read(&text).unwrap_err();
            assert!(matches!(refused, TrustError::Algorithm(_)), "{alg}");
        }
        let critical = token(&json!({ "alg": "RS256", "crit": ["b64"] }), &payload);
        assert!(Unverified::read(&critical).is_err());
        let good = token(&json!({ "alg": "RS256" }), &payload);
        assert_eq!(
            Unverified::read(&good).unwrap().issuer,
            "https://issuer.example"
        );
        for not_one in ["", "a.b", "a.b.c", "....", &format!("{good}.x")] {
            assert!(matches!(Unverified::read(not_one), Err(TrustError::NoJwt)));
        }
        let long = "x".repeat(MOST_BYTES + 1);
        assert!(matches!(
            Unverified::read(&long),
            Err(TrustError::TooLarge { .. })
        ));
    }

    #[test]
    fn times_are_looked_at_with_a_minute_between_clocks() {
        let now = DateTime::from_timestamp(1_000_000, 0).unwrap();
        let wrong = |value: Value| {
            let Value::Object(map) = value else {
                panic!("an object")
            };
            out_of_time(&Claims(map), now)
        };
        assert_eq!(wrong(json!({ "exp": 1_000_001 })), None);
        assert_eq!(wrong(json!({ "exp": 999_950, "nbf": 1_000_050.5 })), None);
        for bad in [
            json!({}),
            json!({ "exp": "soon" }),
            json!({ "exp": 999_940 }),
            json!({ "exp": -1 }),
            json!({ "exp": 2_000_000, "nbf": 1_000_100 }),
            json!({ "exp": 2_000_000, "iat": 1_000_100 }),
        ] {
            assert!(wrong(bad.clone()).is_some(), "{bad}");
        }
    }
}
