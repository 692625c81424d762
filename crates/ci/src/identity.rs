//! The identity that a pipeline's tool gives to its jobs: a JWT that says which
//! repository, branch and run it is.
//!
//! Each tool has its own way to ask:
//!
//! - <https://docs.github.com/en/actions/reference/security/oidc>
//! - <https://docs.gitlab.com/ci/secrets/id_token_authentication/>
//! - <https://circleci.com/docs/guides/permissions-authentication/openid-connect-tokens/>
//! - <https://buildkite.com/docs/agent/cli/reference/oidc>
//! - <https://support.atlassian.com/bitbucket-cloud/docs/integrate-pipelines-with-resource-servers-using-oidc/>
//! - <https://learn.microsoft.com/en-us/rest/api/azure/devops/distributedtask/oidctoken/create>

use std::process::Stdio;
use std::time::Duration;

use reqwest::{Method, StatusCode};
use serde_json::Value;
use updraft_api::client::{connection, is_loopback};
use updraft_model::CiProvider;
use url::Url;

const TIME_LIMIT: Duration = Duration::from_secs(30);
/// More than any identity is long.
const MOST_BYTES: usize = 64 << 10;
const ATTEMPTS: u32 = 3;
const PAUSE: Duration = Duration::from_millis(500);
/// The variable in which any tool's identity can be given.
const GIVEN: &str = "UPDRAFT_ID_TOKEN";

/// Where variables come from: the process, or a test. Identities are longer than names.
pub type Variables<'a> = &'a (dyn Fn(&str) -> Option<String> + Sync);

#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    #[error("{} gives this job no identity", .0.title())]
    NotGiven(CiProvider),
    #[error("`{address}` is no address to ask {} for an identity at", .provider.title())]
    Address {
        provider: CiProvider,
        address: String,
    },
    #[error("{} does not answer when it is asked for the job's identity", .provider.title())]
    Unreachable {
        provider: CiProvider,
        #[source]
        source: reqwest::Error,
    },
    #[error("{} refused to give the job's identity ({status})", .provider.title())]
    Refused {
        provider: CiProvider,
        status: StatusCode,
    },
    #[error("`{program}` gave no identity: {said}")]
    Program { program: &'static str, said: String },
    #[error("{} answered something else than an identity", .0.title())]
    Answer(CiProvider),
}

impl IdentityError {
    fn provider(&self) -> CiProvider {
        match self {
            Self::NotGiven(provider)
            | Self::Address { provider, .. }
            | Self::Unreachable { provider, .. }
            | Self::Refused { provider, .. }
            | Self::Answer(provider) => *provider,
            Self::Program { .. } => CiProvider::Buildkite,
        }
    }

    /// What gives a job an identity.
    pub fn help(&self) -> String {
        let how = match self.provider() {
            CiProvider::Github => {
                "give the job `permissions: id-token: write` (and `contents: read`); pull requests of forks never get it"
            }
            CiProvider::Gitlab => {
                "give the job `id_tokens: UPDRAFT_ID_TOKEN: aud: ADDRESS`, with the control plane's address"
            }
            CiProvider::Circleci => {
                "CIRCLE_OIDC_TOKEN_V2 is not set: builds of forks have none, unless secrets are passed to them"
            }
            CiProvider::Buildkite => "run it where `buildkite-agent` is, of version 3.48 or later",
            CiProvider::Bitbucket => {
                "give the step `oidc: audiences:` with the control plane's address in the list"
            }
            CiProvider::Azure => {
                "give the step SYSTEM_ACCESSTOKEN: $(System.AccessToken) and AZURESUBSCRIPTION_SERVICE_CONNECTION_ID in `env`"
            }
            CiProvider::Jenkins | CiProvider::Codebuild | CiProvider::Drone | CiProvider::Other => {
                "have something give the job an identity, a JWT of an issuer that is trusted, in UPDRAFT_ID_TOKEN"
            }
        };
        format!("{how}; or set UPDRAFT_TOKEN")
    }
}

/// How the identity of the job that we are in is asked for.
#[derive(Debug)]
pub struct IdentityRequest {
    provider: CiProvider,
    way: Way,
}

#[derive(Debug)]
enum Way {
    /// It is there already.
    Given(String),
    /// The tool's API gives it, in this field of its answer.
    Api {
        method: Method,
        url: Url,
        secret: String,
        field: &'static str,
    },
    /// The tool's program gives it.
    Buildkite { audience: String },
}

impl IdentityRequest {
    /// Reads from the variables of a job how it is asked for, for that audience.
    pub fn of(
        provider: CiProvider,
        audience: &str,
        env: Variables<'_>,
    ) -> Result<Self, IdentityError> {
        let get = |name: &str| env(name).filter(|value| !value.trim().is_empty());
        let variable = |name: &str| get(name).ok_or(IdentityError::NotGiven(provider));
        if let Some(given) = get(GIVEN) {
            let way = Way::Given(given);
            return Ok(Self { provider, way });
        }
        let way = match provider {
            CiProvider::Github => {
                let mut url = address(&variable("ACTIONS_ID_TOKEN_REQUEST_URL")?, provider)?;
                url.query_pairs_mut().append_pair("audience", audience);
                Way::Api {
                    method: Method::GET,
                    url,
                    secret: variable("ACTIONS_ID_TOKEN_REQUEST_TOKEN")?,
                    field: "value",
                }
            }
            CiProvider::Circleci => Way::Given(
                variable("CIRCLE_OIDC_TOKEN_V2").or_else(|_| variable("CIRCLE_OIDC_TOKEN"))?,
            ),
            CiProvider::Bitbucket => Way::Given(variable("BITBUCKET_STEP_OIDC_TOKEN")?),
            CiProvider::Buildkite => Way::Buildkite {
                audience: audience.to_owned(),
            },
            CiProvider::Azure => {
                let mut url = address(&variable("SYSTEM_OIDCREQUESTURI")?, provider)?;
                let connection = variable("AZURESUBSCRIPTION_SERVICE_CONNECTION_ID")?;
                url.query_pairs_mut()
                    .append_pair("api-version", "7.1")
                    .append_pair("serviceConnectionId", &connection);
                Way::Api {
                    method: Method::POST,
                    url,
                    secret: variable("SYSTEM_ACCESSTOKEN")?,
                    field: "oidcToken",
                }
            }
            CiProvider::Gitlab
            | CiProvider::Jenkins
            | CiProvider::Codebuild
            | CiProvider::Drone
            | CiProvider::Other => return Err(IdentityError::NotGiven(provider)),
        };
        Ok(Self { provider, way })
    }

    /// Asks for it.
    pub async fn send(self) -> Result<String, IdentityError> {
        let provider = self.provider;
        let given = match self.way {
            Way::Given(given) => given,
            Way::Api {
                method,
                url,
                secret,
                field,
            } => ask(method, url, secret, field, provider).await?,
            Way::Buildkite { audience } => of_buildkite(audience).await?,
        };
        clean(&given, provider)
    }
}

/// Only ever to where the tool said, and encrypted.
fn address(text: &str, provider: CiProvider) -> Result<Url, IdentityError> {
    let url = text.parse::<Url>().ok();
    let is_safe = |url: &Url| url.scheme() == "https" || is_loopback(url);
    url.filter(is_safe).ok_or_else(|| IdentityError::Address {
        provider,
        address: text.chars().take(200).collect(),
    })
}

async fn ask(
    method: Method,
    url: Url,
    secret: String,
    field: &'static str,
    provider: CiProvider,
) -> Result<String, IdentityError> {
    let unreachable = |source: reqwest::Error| IdentityError::Unreachable {
        provider,
        source: source.without_url(),
    };
    let answer = |_| IdentityError::Answer(provider);
    let builder = connection(&url, None).map_err(answer)?;
    let http = builder.timeout(TIME_LIMIT).build().map_err(unreachable)?;
    let mut attempt = 1;
    let response = loop {
        let request = http
            .request(method.clone(), url.clone())
            .bearer_auth(&secret);
        let again = attempt < ATTEMPTS;
        match request.send().await {
            Ok(response) if response.status().is_server_error() && again => {}
            Ok(response) => break response,
            Err(_) if again => {}
            Err(error) => return Err(unreachable(error)),
        }
        tokio::time::sleep(PAUSE * attempt).await;
        attempt += 1;
    };
    let status = response.status();
    if !status.is_success() {
        return Err(IdentityError::Refused { provider, status });
    }
    let body = response.bytes().await.map_err(unreachable)?;
    let body: Option<Value> = serde_json::from_slice(&body).ok();
    let identity = body.and_then(|body| body[field].as_str().map(str::to_owned));
    identity.ok_or(IdentityError::Answer(provider))
}

/// Its agent asks for it. Nothing here goes through a shell.
async fn of_buildkite(audience: String) -> Result<String, IdentityError> {
    const PROGRAM: &str = "buildkite-agent";
    let failed = |said: &str| IdentityError::Program {
        program: PROGRAM,
        said: said.trim().chars().take(300).collect(),
    };
    let ran = tokio::process::Command::new(PROGRAM)
        .args(["oidc", "request-token", "--audience", &audience])
        .args(["--claim", "organization_id", "--claim", "pipeline_id"])
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output();
    let ran = tokio::time::timeout(TIME_LIMIT, ran).await;
    let ran = ran.map_err(|_| failed("it takes too long"))?;
    let ran = ran.map_err(|error| failed(&error.to_string()))?;
    if !ran.status.success() {
        return Err(failed(&String::from_utf8_lossy(&ran.stderr)));
    }
    Ok(String::from_utf8_lossy(&ran.stdout).into_owned())
}

fn clean(given: &str, provider: CiProvider) -> Result<String, IdentityError> {
    let given = given.trim();
    let is_one = given.bytes().all(|byte| byte.is_ascii_graphic());
    if given.is_empty() || !is_one || given.len() > MOST_BYTES {
        return Err(IdentityError::Answer(provider));
    }
    Ok(given.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_tool_lacks_is_said() {
        let nothing = |_: &str| None;
        for (provider, word) in [
            (CiProvider::Github, "id-token: write"),
            (CiProvider::Gitlab, "id_tokens"),
            (CiProvider::Bitbucket, "oidc: audiences"),
            (CiProvider::Circleci, "forks"),
            (CiProvider::Azure, "SYSTEM_ACCESSTOKEN"),
            (CiProvider::Jenkins, "UPDRAFT_ID_TOKEN"),
        ] {
            let error = IdentityRequest::of(provider, "https://here", &nothing).unwrap_err();
            assert!(matches!(error, IdentityError::NotGiven(_)), "{error}");
            assert!(error.help().contains(word), "{}", error.help());
        }
    }

    #[test]
    fn a_job_asks_where_its_tool_says_and_for_that_audience() {
        let env = |name: &str| {
            Some(match name {
                "UPDRAFT_ID_TOKEN" => return None,
                "ACTIONS_ID_TOKEN_REQUEST_URL" => "https://ask.example/x?api-version=2".to_owned(),
                "SYSTEM_OIDCREQUESTURI" => "https://azure.example/oidctoken".to_owned(),
                _ => "a&b".to_owned(),
            })
        };
        let url = |provider| match IdentityRequest::of(provider, "https://us/?a", &env) {
            Ok(IdentityRequest {
                way: Way::Api { url, .. },
                ..
            }) => url.to_string(),
            other => panic!("{other:?}"),
        };
        assert_eq!(
            url(CiProvider::Github),
            "https://ask.example/x?api-version=2&audience=https%3A%2F%2Fus%2F%3Fa"
        );
        assert_eq!(
            url(CiProvider::Azure),
            "https://azure.example/oidctoken?api-version=7.1&serviceConnectionId=a%26b"
        );
        let in_clear = |name: &str| {
            let url = env(name)?.replace("https://", "http://");
            Some(url)
        };
        let refused = IdentityRequest::of(CiProvider::Github, "x", &in_clear);
        assert!(matches!(refused, Err(IdentityError::Address { .. })));
    }

    #[tokio::test]
    async fn a_given_identity_is_taken_and_a_broken_one_is_not() {
        let sent = async |value: &'static str| {
            let env = |name: &str| (name == "UPDRAFT_ID_TOKEN").then(|| value.to_owned());
            let request = IdentityRequest::of(CiProvider::Gitlab, "x", &env);
            request.unwrap().send().await
        };
        assert_eq!(sent(" a.b.c\n").await.unwrap(), "a.b.c");
        let broken = sent("a.b.c\nd").await;
        assert!(matches!(broken, Err(IdentityError::Answer(_))));
    }
}
