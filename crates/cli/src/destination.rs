//! Which Deployment a command means.
//!
//! ```text
//! argument → UPDRAFT_DEPLOYMENT → [[target]] for what was pushed → [preview] for a pull request → `deployment` of a file
//! ```

use updraft_api::Client;
use updraft_model::{CiRun, DeploymentName};
use updraft_project::{Project, Pushed, SETTINGS_FILE, git_head, target};

use crate::config::{Settings, Source};
use crate::context::Context;
use crate::exit::Exit;
use crate::failure::{Failure, Result};
use crate::preview::Request;

/// Where a command goes.
#[derive(Debug)]
pub(crate) enum Destination {
    Named(DeploymentName),
    /// By a target of `updraft.toml`.
    Mapped(DeploymentName, Pushed),
    /// By `[preview]` of `updraft.toml`.
    Preview(Request),
    /// The project has targets, and none of them is for this.
    Nowhere(Pushed),
}

impl Context {
    /// The argument's, or the one that what was pushed belongs to.
    pub(crate) fn destination(&self, argument: Option<&DeploymentName>) -> Result<Destination> {
        if let Some(name) = argument {
            return Ok(Destination::Named(name.clone()));
        }
        let settings = self.settings()?;
        let targets = settings.project.as_ref().map(|it| &it.value);
        let project = targets.filter(|it| !it.settings().targets.is_empty());
        if let Some(named) = &settings.deployment
            && self.wins_over_targets(settings, &named.source)
        {
            return Ok(Destination::Named(named.value.clone()));
        }
        match (&settings.deployment, project) {
            (_, Some(project)) => {
                let found = mapped(project, pushed(self.ci(), project)?);
                self.or_preview(found)
            }
            (named, None) => match (Request::of(self)?, named) {
                (Some(request), _) => Ok(Destination::Preview(request)),
                (None, Some(named)) => Ok(Destination::Named(named.value.clone())),
                (None, None) => Err(missing()),
            },
        }
    }

    /// Said for this one command; or by the quickstart of this checkout, for its
    /// own control plane, outside of pipelines.
    fn wins_over_targets(&self, settings: &Settings, source: &Source) -> bool {
        match source {
            Source::Flag(_) | Source::Variable(_) => true,
            Source::File(_) => {
                settings.is_local(source)
                    && settings.server.source == *source
                    && self.ci().is_none()
            }
            Source::Default => false,
        }
    }

    /// A pull request that no target is for has a Preview, where the project has such.
    fn or_preview(&self, found: Destination) -> Result<Destination> {
        let Destination::Nowhere(_) = &found else {
            return Ok(found);
        };
        Ok(Request::of(self)?.map_or(found, Destination::Preview))
    }

    /// The Preview of the pull request that this pipeline is for, and nothing else.
    pub(crate) fn preview_destination(&self) -> Result<Destination> {
        if self.project()?.settings().preview.is_none() {
            return Err(no_previews());
        }
        let request = Request::of(self)?;
        Ok(Destination::Preview(request.ok_or_else(no_pull_request)?))
    }

    /// Where merging would go, for a plan in the pipeline of a pull request.
    pub(crate) fn planned_destination(
        &self,
        argument: Option<&DeploymentName>,
    ) -> Result<Destination> {
        let destination = self.destination(argument)?;
        let otherwise = match destination {
            Destination::Preview(request) => Destination::Named(request.from),
            Destination::Nowhere(Pushed::PullRequest(_)) => destination,
            Destination::Named(_) | Destination::Mapped(..) | Destination::Nowhere(_) => {
                return Ok(destination);
            }
        };
        let into = self
            .ci()
            .and_then(|run| run.pull_request.as_ref()?.into.clone());
        Ok(match (into, self.project()) {
            (Some(into), Ok(project)) => match mapped(project, Pushed::Branch(into)) {
                Destination::Nowhere(_) => otherwise,
                mapped => mapped,
            },
            _ => otherwise,
        })
    }

    /// A Deployment, and who is signed in for it; without a name, in the pipeline of a
    /// pull request, its Preview.
    pub(crate) async fn client_and_deployment(
        &self,
        argument: Option<&DeploymentName>,
    ) -> Result<(Client, DeploymentName)> {
        let client = self.client_to(&self.deployment(argument)?).await?;
        let name = self.deployment_of(&client, argument).await?;
        Ok((client, name))
    }

    /// The same for who is signed in already.
    pub(crate) async fn deployment_of(
        &self,
        client: &Client,
        argument: Option<&DeploymentName>,
    ) -> Result<DeploymentName> {
        let Destination::Preview(request) = self.destination(argument)? else {
            return self.deployment(argument);
        };
        if request.is_fork {
            return Err(fork());
        }
        let preview = request.find(client).await?;
        Ok(preview.ok_or_else(|| no_preview(&request))?.name)
    }

    /// The Deployment that this belongs to, with its checks and its trusts: an unmapped
    /// branch leaves the one that a file names, a pull request that of its Preview.
    pub(crate) fn deployment(&self, argument: Option<&DeploymentName>) -> Result<DeploymentName> {
        match self.destination(argument)? {
            Destination::Named(name) | Destination::Mapped(name, _) => Ok(name),
            Destination::Preview(request) => Ok(request.from),
            Destination::Nowhere(pushed) => match &self.settings()?.deployment {
                Some(named) => Ok(named.value.clone()),
                None => Err(nowhere(&pushed)),
            },
        }
    }
}

fn mapped(project: &Project, pushed: Pushed) -> Destination {
    match target(&project.settings().targets, &pushed) {
        Some(target) => Destination::Mapped(target.deployment.clone(), pushed),
        None => Destination::Nowhere(pushed),
    }
}

/// What this checkout or this pipeline is of.
pub(crate) fn pushed(run: Option<&CiRun>, project: &Project) -> Result<Pushed> {
    if let Some((branch, _)) = crate::config::variable("UPDRAFT_BRANCH")? {
        return Ok(Pushed::Branch(branch));
    }
    let by_run = Pushed::of(run, None);
    if by_run != Pushed::Unknown {
        return Ok(by_run);
    }
    Ok(Pushed::of(run, git_head(project.root()).as_ref()))
}

/// A push that no target is for.
pub(crate) fn nowhere(pushed: &Pushed) -> Failure {
    let why = match pushed {
        Pushed::PullRequest(_) => {
            "pull requests are not deployed: `updraft deploy --plan` shows what merging would change"
        }
        Pushed::Unknown => "name the branch in UPDRAFT_BRANCH, or the Deployment as the argument",
        Pushed::Branch(_) | Pushed::Tag(_) => {
            "add a `[[target]]` for it, or name the Deployment as the argument; with `--if-mapped` this is no error"
        }
    };
    Failure::new(
        Exit::NotMapped,
        format!("no `[[target]]` of updraft.toml is for {pushed}, so nothing was deployed"),
    )
    .code("not_mapped")
    .help(why)
}

/// A pull request that brings somebody else's branch: its code runs nowhere of ours.
pub(crate) fn fork() -> Failure {
    Failure::new(
        Exit::NotMapped,
        "this pull request comes from another repository, which gets no Preview, so nothing was deployed",
    )
    .code("not_mapped")
    .help("push the branch to the repository itself once somebody has read it; with `--if-mapped` this is no error")
}

pub(crate) fn no_previews() -> Failure {
    Failure::new(
        Exit::Refused,
        format!("{SETTINGS_FILE} does not say what Previews are made from"),
    )
    .help("write `[preview]` with `from = \"NAME\"` into it")
}

fn no_pull_request() -> Failure {
    Failure::new(
        Exit::NotMapped,
        "this pipeline is for no pull request, so there is no Preview and nothing was deployed",
    )
    .code("not_mapped")
    .help("some tools build a branch before a pull request is open for it: the next push makes the Preview")
}

fn no_preview(request: &Request) -> Failure {
    Failure::new(
        Exit::NotFound,
        format!(
            "{} has no Preview of `{}` yet",
            request.pushed(),
            request.from
        ),
    )
    .code("preview_not_found")
    .help("`updraft deploy` makes it; to mean another Deployment, name it as the argument")
}

fn missing() -> Failure {
    Failure::new(Exit::Usage, "no Deployment is named")
        .code("deployment_missing")
        .help(
            "name one as the argument, in UPDRAFT_DEPLOYMENT, or as `deployment` or `[[target]]` in updraft.toml; \
             `updraft deployment list` shows them",
        )
}
