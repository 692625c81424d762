//! Who signs in to a registry, as docker keeps it.

use std::collections::BTreeMap;
use std::env;
use std::fmt;
use std::fs;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;

use super::PushError;
use super::name::DOCKER_HUB;

/// A user with a password, or a token that docker got for one.
#[derive(Clone, PartialEq, Eq)]
pub enum Credentials {
    Password { user: String, password: String },
    IdentityToken(String),
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Credentials(…)")
    }
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct DockerConfig {
    #[serde(default)]
    auths: BTreeMap<String, Entry>,
    #[serde(default)]
    creds_store: Option<String>,
    #[serde(default)]
    cred_helpers: BTreeMap<String, String>,
}

#[derive(Debug, Default, Deserialize)]
struct Entry {
    #[serde(default)]
    auth: Option<String>,
    #[serde(default, rename = "identitytoken")]
    identity_token: Option<String>,
}

/// What a helper prints.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Helped {
    username: String,
    secret: String,
}

impl Credentials {
    /// Finds what `docker login` has left for a registry, if it has.
    pub fn of_docker(registry: &str) -> Result<Option<Self>, PushError> {
        let folder = env::var_os("DOCKER_CONFIG").map(PathBuf::from).or_else(|| {
            let home = env::var_os("HOME").map(PathBuf::from)?;
            Some(home.join(".docker"))
        });
        match folder {
            Some(folder) => Self::read(&folder.join("config.json"), registry),
            None => Ok(None),
        }
    }

    /// Finds what a file of docker's form has for a registry.
    pub fn read(path: &Path, registry: &str) -> Result<Option<Self>, PushError> {
        let unusable = |why: String| PushError::Credentials {
            registry: registry.to_owned(),
            path: path.to_owned(),
            why,
        };
        let text = match fs::read_to_string(path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(unusable(error.to_string())),
        };
        let config: DockerConfig =
            serde_json::from_str(&text).map_err(|error| unusable(error.to_string()))?;
        let helper = config.cred_helpers.get(registry);
        if let Some(helper) = helper.or(config.creds_store.as_ref()) {
            return ask_helper(helper, registry).map_err(unusable);
        }
        let mut names = vec![
            registry.to_owned(),
            format!("https://{registry}"),
            format!("http://{registry}"),
            format!("https://{registry}/v2/"),
        ];
        if registry == DOCKER_HUB {
            names.push("https://index.docker.io/v1/".to_owned());
        }
        let Some(entry) = names.iter().find_map(|name| config.auths.get(name)) else {
            return Ok(None);
        };
        if let Some(token) = entry
            .identity_token
            .as_ref()
            .filter(|token| !token.is_empty())
        {
            return Ok(Some(Self::IdentityToken(token.clone())));
        }
        let Some(auth) = entry.auth.as_ref().filter(|auth| !auth.is_empty()) else {
            return Ok(None);
        };
        let decoded = STANDARD.decode(auth).ok();
        let decoded = decoded.and_then(|bytes| String::from_utf8(bytes).ok());
        let (user, password) = decoded
            .as_deref()
            .and_then(|text| text.split_once(':'))
            .ok_or_else(|| unusable("its `auth` is not a user and a password".into()))?;
        Ok(Some(Self::Password {
            user: user.to_owned(),
            password: password.to_owned(),
        }))
    }
}

/// Asks one of docker's helpers; one that has nothing for the registry says so by failing.
fn ask_helper(helper: &str, registry: &str) -> Result<Option<Credentials>, String> {
    let program = format!("docker-credential-{helper}");
    let ask = || -> io::Result<std::process::Output> {
        let mut child = Command::new(&program)
            .arg("get")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()?;
        if let Some(mut stdin) = child.stdin.take() {
            stdin.write_all(registry.as_bytes())?;
        }
        child.wait_with_output()
    };
    let output = ask().map_err(|error| format!("{program}: {error}"))?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
        if said.contains("credentials not found") {
            return Ok(None);
        }
        return Err(format!("{program}: {}", said.trim()));
    }
    let answer: Helped = serde_json::from_slice(&output.stdout)
        .map_err(|_| format!("{program} printed something else than credentials"))?;
    Ok(Some(if answer.username == "<token>" {
        Credentials::IdentityToken(answer.secret)
    } else {
        Credentials::Password {
            user: answer.username,
            password: answer.secret,
        }
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_docker_left() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("config.json");
        assert_eq!(Credentials::read(&path, "a.io").unwrap(), None);
        let auth = STANDARD.encode("me:pass:word");
        let config = serde_json::json!({"auths": {
            "a.io": {"auth": auth}, "https://b.io": {"auth": auth},
            "c.io": {"auth": "%"}, "d.io": {"auth": auth, "identitytoken": "t"}, "e.io": {},
        }});
        fs::write(&path, config.to_string()).unwrap();
        let read = |registry| Credentials::read(&path, registry);
        let me = Credentials::Password {
            user: "me".into(),
            password: "pass:word".into(),
        };
        assert_eq!(read("a.io").unwrap(), Some(me.clone()));
        assert_eq!(read("b.io").unwrap(), Some(me));
        assert!(matches!(read("c.io"), Err(PushError::Credentials { .. })));
        assert_eq!(
            read("d.io").unwrap(),
            Some(Credentials::IdentityToken("t".into()))
        );
        assert_eq!(read("e.io").unwrap(), None);
        assert_eq!(read("f.io").unwrap(), None);
        let helped = r#"{"credHelpers": {"a.io": "no-such-helper"}}"#;
        fs::write(&path, helped).unwrap();
        let refused = read("a.io").unwrap_err().to_string();
        assert!(
            refused.contains("docker-credential-no-such-helper"),
            "{refused}"
        );
    }
}
