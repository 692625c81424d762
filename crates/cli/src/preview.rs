//! The pull request that this pipeline is for, and its Preview.

use chrono::{DateTime, Utc};
use serde::Serialize;
use updraft_api::Client;
use updraft_api::preview::{OpenPreview, PreviewOf, PreviewView};
use updraft_model::{CiRun, DeploymentName, PullRequest};
use updraft_project::{PreviewSettings, Project, Pushed, folder_in_repository, git_state};

use crate::context::Context;
use crate::exit::Exit;
use crate::failure::{Failure, Result};

const MOST_BRANCH: usize = 300;

/// A pull request of a project that has previews.
#[derive(Debug, Clone)]
pub(crate) struct Request {
    pub(crate) from: DeploymentName,
    pub(crate) is_fork: bool,
    ask: OpenPreview,
}

/// What `deploy` tells of the Preview that it went to.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Opened {
    pub(crate) name: DeploymentName,
    pub(crate) from: DeploymentName,
    /// Where its Airflow answers, once it was started.
    pub(crate) url: Option<String>,
    pub(crate) expires_at: DateTime<Utc>,
    pub(crate) is_new: bool,
}

impl Request {
    /// None: this is no pipeline of a pull request, or the project has no previews.
    pub(crate) fn of(cx: &Context) -> Result<Option<Self>> {
        let (Some(run), Ok(project)) = (cx.ci(), cx.project()) else {
            return Ok(None);
        };
        let (Some(request), Some(settings)) = (&run.pull_request, &project.settings().preview)
        else {
            return Ok(None);
        };
        Self::new(run, request, project, settings).map(Some)
    }

    fn new(
        run: &CiRun,
        request: &PullRequest,
        project: &Project,
        settings: &PreviewSettings,
    ) -> Result<Self> {
        if request.number == 0 {
            return Err(Failure::new(
                Exit::Refused,
                "this pipeline does not say the number of its pull request, so it gets no Preview",
            )
            .code("pull_request_unknown"));
        }
        let remote = || git_state(project.root()).and_then(|git| git.remote);
        let repository = run.repository.clone().or_else(remote);
        Ok(Self {
            from: settings.from.clone(),
            is_fork: request.is_fork,
            ask: OpenPreview {
                of: PreviewOf {
                    repository: repository.unwrap_or_else(|| project.name()),
                    project: folder_in_repository(project.root()),
                    pull_request: request.number,
                },
                // It is only told; git itself would not have some of what a variable can.
                branch: request.from.as_deref().map(|branch| {
                    let plain = branch.chars().filter(|c| !c.is_control());
                    plain.take(MOST_BRANCH).collect()
                }),
                expire_s: settings.expire.0.as_secs(),
            },
        })
    }

    pub(crate) fn pushed(&self) -> Pushed {
        Pushed::PullRequest(self.ask.of.pull_request)
    }

    /// Its Preview, made if it has none.
    pub(crate) async fn open(&self, client: &Client) -> Result<Opened> {
        let opened = client.open_preview(&self.from, &self.ask).await?;
        Ok(Opened {
            is_new: opened.is_new,
            ..Opened::from(opened.preview)
        })
    }

    /// Its Preview, if it has one.
    pub(crate) async fn find(&self, client: &Client) -> Result<Option<PreviewView>> {
        let all = client.previews(Some(&self.from)).await?;
        Ok(all.into_iter().find(|preview| preview.of == self.ask.of))
    }
}

impl From<PreviewView> for Opened {
    fn from(preview: PreviewView) -> Self {
        Self {
            name: preview.name,
            from: preview.from,
            url: preview.url,
            expires_at: preview.expires_at,
            is_new: false,
        }
    }
}
