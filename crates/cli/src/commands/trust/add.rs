use std::io::Write;

use updraft_api::trust::CreateTrust;
use updraft_ci::trust::{self, Github, Gitlab, Reference, Trusted};
use updraft_model::{DeploymentName, Role};

use super::{asks, scope};
use crate::cli::OutputArgs;
use crate::console::{Console, Format};
use crate::context::Context;
use crate::exit::Exit;
use crate::failure::{Failure, Result};

/// Trust a pipeline's identity
///
/// Everything that is given has to be so, exactly; refs may have a `*`. Ids that the provider gives beside names are
/// pinned at the first exchange, so that a repository that is renamed or made again under the same name is refused.
#[derive(Debug, clap::Args)]
pub(crate) struct AddArgs {
    #[command(subcommand)]
    provider: Provider,
}

#[derive(Debug, clap::Subcommand)]
enum Provider {
    Github(GithubArgs),
    Gitlab(GitlabArgs),
    Circleci(CircleciArgs),
    Buildkite(BuildkiteArgs),
    Bitbucket(BitbucketArgs),
    Azure(AzureArgs),
    Oidc(OidcArgs),
}

/// What a trust gives.
#[derive(Debug, clap::Args)]
struct GivesArgs {
    /// The Deployment that it is for (default: the configured one)
    #[arg(long, value_name = "DEPLOYMENT")]
    deployment: Option<DeploymentName>,

    /// The Workspace that it is for, with every Deployment in it
    #[arg(long, value_name = "NAME", num_args = 0..=1, default_missing_value = "default", conflicts_with = "deployment")]
    workspace: Option<String>,

    /// What it may do: viewer, previewer or deployer (default: deployer; of pull requests: previewer)
    #[arg(long)]
    role: Option<Role>,

    /// Whom the identity has to be for (default: the control plane's address, where the provider lets a job ask for that)
    #[arg(long, value_name = "TEXT")]
    audience: Option<String>,

    #[command(flatten)]
    output: OutputArgs,
}

/// GitHub Actions
///
/// The job needs `permissions: id-token: write`. Pull requests are trusted with Previews alone, by `--pull-requests`;
/// GitHub gives jobs of forks no identity, unless the repository's settings send them write tokens: leave that off.
#[derive(Debug, clap::Args)]
struct GithubArgs {
    /// The repository, as OWNER/NAME
    #[arg(long, value_name = "REPOSITORY")]
    repo: String,

    /// The ref that runs, as in refs/heads/main or refs/tags/v*
    #[arg(long = "ref", value_name = "REF")]
    reference: Option<Reference>,

    /// The environment that the job names
    #[arg(long, value_name = "NAME")]
    environment: Option<String>,

    /// The workflow's file, as in deploy.yml
    #[arg(long, value_name = "FILE")]
    workflow: Option<String>,

    /// Events that may start it (default: push, `workflow_dispatch`, schedule, release, `repository_dispatch`, deployment)
    #[arg(long, value_name = "NAMES", value_delimiter = ',')]
    event: Vec<String>,

    /// Trust the pull requests of the repository's own branches, with the role previewer
    #[arg(long)]
    pull_requests: bool,

    /// The repository's numeric id, instead of the one that comes first
    #[arg(long, value_name = "ID")]
    repo_id: Option<String>,

    /// Its owner's numeric id, instead of the one that comes first
    #[arg(long, value_name = "ID")]
    owner_id: Option<String>,

    /// The issuer of a GitHub Enterprise Server: its address, then /_services/token
    #[arg(long, value_name = "URL")]
    issuer: Option<String>,

    #[command(flatten)]
    gives: GivesArgs,
}

/// GitLab CI
///
/// The job needs `id_tokens: UPDRAFT_ID_TOKEN: aud: ADDRESS`. Merge requests are trusted with Previews alone, by
/// `--pull-requests`, where the identity says that the branch is the project's own.
#[derive(Debug, clap::Args)]
struct GitlabArgs {
    /// The project, as GROUP/NAME
    #[arg(long, value_name = "PROJECT")]
    repo: String,

    /// The ref that runs, as in refs/heads/main or refs/tags/v*
    #[arg(long = "ref", value_name = "REF")]
    reference: Option<Reference>,

    /// The environment that the job names
    #[arg(long, value_name = "NAME")]
    environment: Option<String>,

    /// Only where the ref is protected
    #[arg(long)]
    protected: bool,

    /// Trust the merge requests of the project's own branches, with the role previewer
    #[arg(long)]
    pull_requests: bool,

    /// The project's numeric id, instead of the one that comes first
    #[arg(long, value_name = "ID")]
    project_id: Option<String>,

    /// Its group's numeric id, instead of the one that comes first
    #[arg(long, value_name = "ID")]
    namespace_id: Option<String>,

    /// The address of a GitLab of one's own
    #[arg(long, value_name = "URL")]
    issuer: Option<String>,

    #[command(flatten)]
    gives: GivesArgs,
}

/// CircleCI
///
/// Its identities are for the organization; do not pass secrets to builds of forks
#[derive(Debug, clap::Args)]
struct CircleciArgs {
    /// The organization's id
    #[arg(long, value_name = "ID")]
    org_id: String,

    /// The project's id
    #[arg(long, value_name = "ID")]
    project_id: String,

    /// The ref that runs, as in refs/heads/main
    #[arg(long = "ref", value_name = "REF")]
    reference: Reference,

    #[command(flatten)]
    gives: GivesArgs,
}

/// Buildkite
#[derive(Debug, clap::Args)]
struct BuildkiteArgs {
    /// The organization, as its address has it
    #[arg(long, value_name = "NAME")]
    org: String,

    /// The pipeline, as its address has it
    #[arg(long, value_name = "NAME")]
    pipeline: String,

    /// The ref that runs, as in refs/heads/main
    #[arg(long = "ref", value_name = "REF")]
    reference: Reference,

    /// The key of the step
    #[arg(long, value_name = "KEY")]
    step: Option<String>,

    #[command(flatten)]
    gives: GivesArgs,
}

/// Bitbucket Pipelines
///
/// The step needs `oidc: audiences: [ADDRESS]`. The ids are in the repository's settings, under OpenID Connect.
#[derive(Debug, clap::Args)]
struct BitbucketArgs {
    /// The workspace, as its address has it
    #[arg(long, value_name = "NAME")]
    bitbucket_workspace: String,

    /// The repository's id
    #[arg(long, value_name = "UUID")]
    repo_id: String,

    /// The branch that runs, as in refs/heads/main
    #[arg(long = "ref", value_name = "REF")]
    reference: Reference,

    /// The id of the deployment environment that the step names
    #[arg(long, value_name = "UUID")]
    environment_id: Option<String>,

    #[command(flatten)]
    gives: GivesArgs,
}

/// Azure DevOps
///
/// An identity is a service connection's: make one for this alone, and let only the right pipeline use it.
#[derive(Debug, clap::Args)]
struct AzureArgs {
    /// The organization's id
    #[arg(long, value_name = "ID")]
    org_id: String,

    /// The service connection, as ORGANIZATION/PROJECT/NAME
    #[arg(long, value_name = "PATH")]
    service_connection: String,

    #[command(flatten)]
    gives: GivesArgs,
}

/// Any issuer that can be discovered
#[derive(Debug, clap::Args)]
struct OidcArgs {
    /// Its address, exactly as the identity's `iss`
    #[arg(long, value_name = "URL")]
    issuer: String,

    /// A claim and what it has to be; may be given several times
    #[arg(long, value_name = "NAME=VALUE", value_parser = claim, required = true)]
    claim: Vec<(String, String)>,

    /// A claim that stays what it is at the first exchange
    #[arg(long, value_name = "NAME")]
    pin: Vec<String>,

    #[command(flatten)]
    gives: GivesArgs,
}

fn claim(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((name, value)) if !name.is_empty() && !value.is_empty() => {
            Ok((name.to_owned(), value.to_owned()))
        }
        _ => Err("write it as NAME=VALUE".into()),
    }
}

impl AddArgs {
    fn gives(&self) -> &GivesArgs {
        match &self.provider {
            Provider::Github(args) => &args.gives,
            Provider::Gitlab(args) => &args.gives,
            Provider::Circleci(args) => &args.gives,
            Provider::Buildkite(args) => &args.gives,
            Provider::Bitbucket(args) => &args.gives,
            Provider::Azure(args) => &args.gives,
            Provider::Oidc(args) => &args.gives,
        }
    }

    pub(super) fn format(&self) -> Format {
        self.gives().output.output
    }

    fn role(&self) -> Result<Role, String> {
        let of_requests = match &self.provider {
            Provider::Github(args) => args.pull_requests,
            Provider::Gitlab(args) => args.pull_requests,
            Provider::Circleci(_)
            | Provider::Buildkite(_)
            | Provider::Bitbucket(_)
            | Provider::Azure(_)
            | Provider::Oidc(_) => false,
        };
        match (of_requests, self.gives().role) {
            (true, None | Some(Role::Previewer)) => Ok(Role::Previewer),
            (true, Some(role)) => Err(format!(
                "what a pull request brings nobody has merged, so its pipeline's role is previewer, not {role}"
            )),
            (false, role) => Ok(role.unwrap_or(Role::Deployer)),
        }
    }

    fn trusted(&self) -> Result<Trusted, String> {
        let audience = self.gives().audience.clone();
        match &self.provider {
            Provider::Github(args) => {
                let github = Github {
                    repository: args.repo.clone(),
                    reference: args.reference.clone(),
                    environment: args.environment.clone(),
                    workflow: args.workflow.clone(),
                    events: args.event.clone(),
                    pull_requests: args.pull_requests,
                    repository_id: args.repo_id.clone(),
                    owner_id: args.owner_id.clone(),
                    issuer: args.issuer.clone(),
                };
                trust::github(&github, audience)
            }
            Provider::Gitlab(args) => {
                let gitlab = Gitlab {
                    project: args.repo.clone(),
                    reference: args.reference.clone(),
                    environment: args.environment.clone(),
                    is_protected: args.protected,
                    pull_requests: args.pull_requests,
                    project_id: args.project_id.clone(),
                    namespace_id: args.namespace_id.clone(),
                    issuer: args.issuer.clone(),
                };
                trust::gitlab(&gitlab, audience)
            }
            Provider::Circleci(args) => Ok(trust::circleci(
                &args.org_id,
                &args.project_id,
                &args.reference,
                audience,
            )),
            Provider::Buildkite(args) => Ok(trust::buildkite(
                &args.org,
                &args.pipeline,
                &args.reference,
                args.step.as_deref(),
                audience,
            )),
            Provider::Bitbucket(args) => trust::bitbucket(
                &args.bitbucket_workspace,
                &args.repo_id,
                &args.reference,
                args.environment_id.as_deref(),
                audience,
            ),
            Provider::Azure(args) => trust::azure(&args.org_id, &args.service_connection, audience),
            Provider::Oidc(args) => Ok(trust::oidc(&args.issuer, &args.claim, &args.pin, audience)),
        }
    }
}

pub(crate) async fn run(args: &AddArgs, cx: &Context, out: &mut Console) -> Result<Exit> {
    let wrong = |why| Failure::new(Exit::Usage, why).help("see `updraft trust add --help`");
    let trusted = args.trusted().map_err(wrong)?;
    let role = args.role().map_err(wrong)?;
    let gives = args.gives();
    let deployment = match &gives.workspace {
        Some(_) => None,
        None => Some(cx.deployment(gives.deployment.as_ref())?),
    };
    let ask = CreateTrust {
        provider: trusted.provider,
        issuer: trusted.issuer,
        audience: trusted.audience,
        claims: trusted.claims,
        pin: trusted.pin,
        role,
        deployment,
        workspace: gives.workspace.clone(),
    };
    let trust = cx.client().await?.create_trust(&ask).await?;
    if out.is_json() {
        out.json(&trust)?;
        return Ok(Exit::Success);
    }
    writeln!(
        out.status(),
        "Trusted as {} of {}: {}; identities have to be for `{}`",
        trust.role,
        scope(&trust),
        asks(&trust),
        trust.audience
    )?;
    writeln!(out.data(), "{}", trust.id)?;
    Ok(Exit::Success)
}
