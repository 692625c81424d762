//! Which claims each provider's identity has for what is said about a pipeline.
//!
//! Every function is one provider's documentation; where it gives ids besides
//! names they are pinned, since a name can be given up and taken by somebody else.

use std::collections::BTreeMap;

use updraft_model::{EVENTS_OF_OTHERS, Expected, TrustProvider};

/// A pipeline as the control plane is to know it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Trusted {
    pub provider: TrustProvider,
    pub issuer: String,
    /// None: the control plane's address.
    pub audience: Option<String>,
    pub claims: BTreeMap<String, Expected>,
    pub pin: Vec<String>,
}

/// A ref in full, such as `refs/heads/main`; with a `*` it is a pattern.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reference(String);

impl std::str::FromStr for Reference {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let is_full = ["refs/heads/", "refs/tags/"]
            .iter()
            .any(|prefix| text.len() > prefix.len() && text.starts_with(prefix));
        if is_full {
            return Ok(Self(text.to_owned()));
        }
        Err(format!(
            "a ref is written in full: refs/heads/{text} for the branch, refs/tags/{text} for the tag"
        ))
    }
}

impl Reference {
    fn expected(&self) -> Expected {
        pattern(&self.0)
    }

    /// For providers that name branches and tags in claims of their own.
    fn short(&self, branch: &'static str, tag: &'static str) -> (&'static str, Expected) {
        if let Some(name) = self.0.strip_prefix("refs/tags/") {
            return (tag, pattern(name));
        }
        let name = self.0.strip_prefix("refs/heads/").unwrap_or(&self.0);
        (branch, pattern(name))
    }
}

/// Only what has a `*` is a pattern: other signs may stand in a name.
fn pattern(text: &str) -> Expected {
    if text.contains('*') {
        Expected::Like(text.to_owned())
    } else {
        Expected::Is(text.to_owned())
    }
}

#[derive(Default)]
struct Claims {
    claims: BTreeMap<String, Expected>,
    pin: Vec<String>,
}

impl Claims {
    fn is(&mut self, claim: &str, value: &str) {
        self.expect(claim, Expected::Is(value.to_owned()));
    }

    fn may_be(&mut self, claim: &str, value: Option<&str>) {
        if let Some(value) = value {
            self.is(claim, value);
        }
    }

    fn one_of(&mut self, claim: &str, values: &[&str]) {
        let values = values.iter().map(|it| (*it).to_owned()).collect();
        self.expect(claim, Expected::OneOf(values));
    }

    fn expect(&mut self, claim: &str, expected: Expected) {
        self.claims.insert(claim.to_owned(), expected);
    }

    /// The id that is given, or the one that comes first.
    fn id(&mut self, claim: &str, given: Option<&str>) {
        match given {
            Some(given) => self.is(claim, given),
            None => self.pin.push(claim.to_owned()),
        }
    }

    fn of(self, provider: TrustProvider, issuer: String, audience: Option<String>) -> Trusted {
        Trusted {
            provider,
            issuer,
            audience,
            claims: self.claims,
            pin: self.pin,
        }
    }
}

#[derive(Debug, Clone, Default)]
pub struct Github {
    pub repository: String,
    pub reference: Option<Reference>,
    pub environment: Option<String>,
    /// A file of `.github/workflows`.
    pub workflow: Option<String>,
    pub events: Vec<String>,
    /// Pull requests of the repository's own branches, and nothing else.
    pub pull_requests: bool,
    pub repository_id: Option<String>,
    pub owner_id: Option<String>,
    /// Of a GitHub Enterprise Server; none: github.com.
    pub issuer: Option<String>,
}

/// Events that run what somebody with the right to push has pushed. Those of
/// pull requests, comments and other workflows' ends run with the default branch's
/// name and for whoever caused them.
const GITHUB_EVENTS: &[&str] = &[
    "push",
    "workflow_dispatch",
    "schedule",
    "release",
    "repository_dispatch",
    "deployment",
];

/// <https://docs.github.com/en/actions/reference/security/oidc>
pub fn github(ask: &Github, audience: Option<String>) -> Result<Trusted, String> {
    let parts: Vec<&str> = ask.repository.split('/').collect();
    if parts.len() != 2 || parts.iter().any(|part| part.is_empty()) {
        return Err(format!(
            "`{}` is no repository: write it as OWNER/NAME",
            ask.repository
        ));
    }
    check_branches(
        ask.pull_requests,
        ask.reference.as_ref(),
        ask.environment.as_ref(),
    )?;
    if ask.pull_requests && !ask.events.is_empty() {
        return Err("pull requests are an event: leave out `--event`".into());
    }
    let of_others = |event: &&String| EVENTS_OF_OTHERS.iter().any(|it| event.starts_with(it));
    if let Some(event) = ask.events.iter().find(of_others) {
        return Err(format!(
            "`{event}` cannot be trusted: its identity does not say whose code it runs{}",
            if event == "pull_request" {
                "; `--pull-requests` trusts those of the repository's own branches with Previews"
            } else {
                ""
            }
        ));
    }
    let mut claims = Claims::default();
    claims.is("repository", &ask.repository);
    claims.id("repository_id", ask.repository_id.as_deref());
    claims.id("repository_owner_id", ask.owner_id.as_deref());
    if let Some(reference) = &ask.reference {
        claims.expect("ref", reference.expected());
    }
    claims.may_be("environment", ask.environment.as_deref());
    if let Some(workflow) = &ask.workflow {
        let file = workflow
            .strip_prefix(".github/workflows/")
            .unwrap_or(workflow);
        if file.is_empty() || file.contains('/') {
            return Err(format!("`{workflow}` is no file of .github/workflows"));
        }
        let file = format!("{}/.github/workflows/{file}", ask.repository);
        claims.expect("workflow_ref", Expected::File(file));
    }
    if ask.pull_requests {
        claims.is("event_name", "pull_request");
    } else if ask.events.is_empty() {
        claims.one_of("event_name", GITHUB_EVENTS);
    } else {
        claims.expect("event_name", Expected::OneOf(ask.events.clone()));
    }
    let issuer = ask.issuer.clone();
    let issuer = issuer.unwrap_or("https://token.actions.githubusercontent.com".into());
    Ok(claims.of(TrustProvider::Github, issuer, audience))
}

/// Which branches are meant has to be said; those of pull requests are all of them.
fn check_branches(
    pull_requests: bool,
    reference: Option<&Reference>,
    environment: Option<&String>,
) -> Result<(), String> {
    match (pull_requests, reference) {
        (true, Some(_)) => Err("every branch may have a pull request: leave out `--ref`".into()),
        (false, None) if environment.is_none() => {
            Err("name a ref or an environment: otherwise every branch may deploy".into())
        }
        (true | false, _) => Ok(()),
    }
}

#[derive(Debug, Clone, Default)]
pub struct Gitlab {
    pub project: String,
    pub reference: Option<Reference>,
    pub environment: Option<String>,
    pub is_protected: bool,
    /// Merge requests of the project's own branches, and nothing else.
    pub pull_requests: bool,
    pub project_id: Option<String>,
    pub namespace_id: Option<String>,
    /// Its address; none: gitlab.com.
    pub issuer: Option<String>,
}

/// Pipelines that a push, a schedule or a member began; none of merge requests.
const GITLAB_SOURCES: &[&str] = &["push", "web", "schedule", "api", "trigger", "pipeline"];

/// <https://docs.gitlab.com/ci/secrets/id_token_authentication/#token-payload>
pub fn gitlab(ask: &Gitlab, audience: Option<String>) -> Result<Trusted, String> {
    if !ask.project.contains('/') || ask.project.starts_with('/') || ask.project.ends_with('/') {
        return Err(format!(
            "`{}` is no project: write it as GROUP/NAME",
            ask.project
        ));
    }
    check_branches(
        ask.pull_requests,
        ask.reference.as_ref(),
        ask.environment.as_ref(),
    )?;
    if ask.pull_requests && ask.is_protected {
        return Err(
            "a merge request's branch is hardly ever protected: leave out `--protected`".into(),
        );
    }
    let mut claims = Claims::default();
    claims.is("project_path", &ask.project);
    claims.id("project_id", ask.project_id.as_deref());
    claims.id("namespace_id", ask.namespace_id.as_deref());
    if let Some(reference) = &ask.reference {
        claims.expect("ref_path", reference.expected());
    }
    claims.may_be("environment", ask.environment.as_deref());
    if ask.reference.is_none() && !ask.pull_requests {
        // Anybody who may push names an environment in his own branch.
        claims.is("environment_protected", "true");
    }
    if ask.is_protected {
        claims.is("ref_protected", "true");
    }
    if ask.pull_requests {
        claims.is("pipeline_source", "merge_request_event");
    } else {
        claims.one_of("pipeline_source", GITLAB_SOURCES);
    }
    let issuer = ask.issuer.as_deref().unwrap_or("https://gitlab.com");
    let issuer = issuer.trim_end_matches('/').to_owned();
    Ok(claims.of(TrustProvider::Gitlab, issuer, audience))
}

/// <https://circleci.com/docs/guides/permissions-authentication/openid-connect-tokens/>
///
/// Its identities are for the organization, unless a job asks for another audience.
pub fn circleci(
    organization_id: &str,
    project_id: &str,
    reference: &Reference,
    audience: Option<String>,
) -> Trusted {
    let mut claims = Claims::default();
    claims.is("oidc.circleci.com/project-id", project_id);
    claims.expect("oidc.circleci.com/vcs-ref", reference.expected());
    claims.pin.push("oidc.circleci.com/vcs-origin".into());
    let issuer = format!("https://oidc.circleci.com/org/{organization_id}");
    let audience = audience.unwrap_or_else(|| organization_id.to_owned());
    claims.of(TrustProvider::Circleci, issuer, Some(audience))
}

/// <https://buildkite.com/docs/agent/cli/reference/oidc>
pub fn buildkite(
    organization: &str,
    pipeline: &str,
    reference: &Reference,
    step: Option<&str>,
    audience: Option<String>,
) -> Trusted {
    let mut claims = Claims::default();
    claims.is("organization_slug", organization);
    claims.is("pipeline_slug", pipeline);
    let (claim, expected) = reference.short("build_branch", "build_tag");
    claims.expect(claim, expected);
    claims.may_be("step_key", step);
    claims.id("organization_id", None);
    claims.id("pipeline_id", None);
    let issuer = "https://agent.buildkite.com".to_owned();
    claims.of(TrustProvider::Buildkite, issuer, audience)
}

/// <https://support.atlassian.com/bitbucket-cloud/docs/integrate-pipelines-with-resource-servers-using-oidc/>
///
/// Its identities name everything by id.
pub fn bitbucket(
    workspace: &str,
    repository_id: &str,
    branch: &Reference,
    environment_id: Option<&str>,
    audience: Option<String>,
) -> Result<Trusted, String> {
    let braced = |id: &str| format!("{{{}}}", id.trim_matches(['{', '}']));
    let mut claims = Claims::default();
    claims.is("repositoryUuid", &braced(repository_id));
    let (claim, expected) = branch.short("branchName", "");
    if claim.is_empty() {
        return Err("Bitbucket's identities name branches, not tags".into());
    }
    claims.expect(claim, expected);
    if let Some(environment) = environment_id {
        claims.is("deploymentEnvironmentUuid", &braced(environment));
    }
    let issuer = format!(
        "https://api.bitbucket.org/2.0/workspaces/{workspace}/pipelines-config/identity/oidc"
    );
    Ok(claims.of(TrustProvider::Bitbucket, issuer, audience))
}

/// <https://learn.microsoft.com/en-us/azure/devops/pipelines/release/configure-workload-identity>
///
/// Its identities are those of service connections, and name no branch: which
/// pipelines and branches may use one is set there.
pub fn azure(
    organization_id: &str,
    service_connection: &str,
    audience: Option<String>,
) -> Result<Trusted, String> {
    if service_connection.split('/').count() != 3 {
        return Err(format!(
            "`{service_connection}` is no service connection: write it as ORGANIZATION/PROJECT/NAME"
        ));
    }
    let mut claims = Claims::default();
    claims.is("sub", &format!("sc://{service_connection}"));
    let issuer = format!("https://vstoken.dev.azure.com/{organization_id}");
    let audience = audience.unwrap_or("api://AzureADTokenExchange".into());
    Ok(claims.of(TrustProvider::Azure, issuer, Some(audience)))
}

/// Any issuer, and the claims that say who it is.
pub fn oidc(
    issuer: &str,
    given: &[(String, String)],
    pin: &[String],
    audience: Option<String>,
) -> Trusted {
    let mut claims = Claims::default();
    for (name, value) in given {
        claims.is(name, value);
    }
    claims.pin = pin.to_vec();
    claims.of(TrustProvider::Oidc, issuer.to_owned(), audience)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sales() -> Github {
        Github {
            repository: "acme/sales".into(),
            reference: Some("refs/heads/main".parse().unwrap()),
            ..Github::default()
        }
    }

    #[test]
    fn a_repository_on_github_is_known_by_its_ids_too() {
        let trusted = github(&sales(), None).unwrap();
        assert_eq!(trusted.pin, ["repository_id", "repository_owner_id"]);
        assert_eq!(
            trusted.claims["ref"],
            Expected::Is("refs/heads/main".into())
        );
        let Expected::OneOf(events) = &trusted.claims["event_name"] else {
            panic!("events are listed")
        };
        assert!(!events.iter().any(|it| it.starts_with("pull_request")));

        let given = Github {
            repository_id: Some("7".into()),
            owner_id: Some("8".into()),
            workflow: Some("deploy.yml".into()),
            ..sales()
        };
        let trusted = github(&given, None).unwrap();
        assert!(trusted.pin.is_empty());
        assert_eq!(trusted.claims["repository_id"], Expected::Is("7".into()));
        let file = "acme/sales/.github/workflows/deploy.yml";
        assert_eq!(trusted.claims["workflow_ref"], Expected::File(file.into()));
    }

    #[test]
    fn what_would_trust_too_many_is_refused() {
        let every_branch = Github {
            reference: None,
            ..sales()
        };
        let of_requests = Github {
            events: vec!["pull_request_target".into()],
            ..sales()
        };
        let no_name = Github {
            repository: "acme".into(),
            ..sales()
        };
        for wrong in [every_branch, of_requests, no_name] {
            assert!(github(&wrong, None).is_err(), "{wrong:?}");
        }
        for wrong in ["main", "refs/heads/", "heads/main", ""] {
            assert!(wrong.parse::<Reference>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn pull_requests_are_trusted_alone() {
        let requests = Github {
            reference: None,
            pull_requests: true,
            ..sales()
        };
        let trusted = github(&requests, None).unwrap();
        assert_eq!(
            trusted.claims["event_name"],
            Expected::Is("pull_request".into())
        );
        assert_eq!(trusted.pin, ["repository_id", "repository_owner_id"]);
        let of_a_branch = Github {
            pull_requests: true,
            ..sales()
        };
        let of_pushes = Github {
            events: vec!["push".into()],
            ..requests
        };
        for wrong in [of_a_branch, of_pushes] {
            assert!(github(&wrong, None).is_err(), "{wrong:?}");
        }

        let requests = Gitlab {
            project: "acme/sales".into(),
            pull_requests: true,
            ..Gitlab::default()
        };
        let trusted = gitlab(&requests, None).unwrap();
        assert_eq!(
            trusted.claims["pipeline_source"],
            Expected::Is("merge_request_event".into())
        );
        assert!(!trusted.claims.contains_key("environment_protected"));
        let of_protected = Gitlab {
            is_protected: true,
            ..requests
        };
        assert!(gitlab(&of_protected, None).is_err());
    }

    #[test]
    fn only_a_star_makes_a_pattern() {
        let expected = |text: &str| text.parse::<Reference>().unwrap().expected();
        assert_eq!(
            expected("refs/heads/release/*"),
            Expected::Like("refs/heads/release/*".into())
        );
        assert_eq!(
            expected("refs/heads/a{b,c}"),
            Expected::Is("refs/heads/a{b,c}".into())
        );
        let tag: Reference = "refs/tags/v*".parse().unwrap();
        assert_eq!(
            tag.short("build_branch", "build_tag"),
            ("build_tag", Expected::Like("v*".into()))
        );
    }
}
