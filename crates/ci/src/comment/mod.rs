//! One comment on a pull request, which is written again instead of a second.

mod forge;

use std::fmt;

use reqwest::StatusCode;
use serde::Serialize;
use updraft_api::ClientError;

use forge::Known;
pub use forge::{Forge, ForgeKind};

/// What is to be said.
#[derive(Debug, Clone)]
pub struct Comment {
    /// What this is about: there is one comment of each on a pull request.
    pub about: String,
    /// In Markdown.
    pub text: String,
    /// Whether it is worth a comment that is not there yet.
    pub is_news: bool,
}

/// What became of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Posted {
    pub outcome: PostedOutcome,
    pub url: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum PostedOutcome {
    Created,
    Updated,
    /// It says that already.
    Unchanged,
    /// There is none, and nothing to say.
    Left,
}

#[derive(Debug, thiserror::Error)]
pub enum CommentError {
    #[error("there is no pull request to comment on")]
    NoPullRequest,
    #[error("it is not known where the pull requests of `{0}` are")]
    NoForge(String),
    #[error("there is no token to comment on {0} with")]
    NoToken(ForgeKind),
    #[error("`{address}` is no address of {forge}: {why}")]
    Address {
        forge: ForgeKind,
        address: String,
        why: &'static str,
    },
    #[error("could not set up a connection to {0}")]
    Setup(ForgeKind, #[source] ClientError),
    #[error("{forge} does not answer")]
    Unreachable {
        forge: ForgeKind,
        source: reqwest::Error,
    },
    #[error("{forge} refused to {what} ({status}){}", and_said(.said))]
    Refused {
        forge: ForgeKind,
        what: &'static str,
        status: StatusCode,
        said: String,
    },
    #[error("{0} answered something else than its documentation says")]
    Answer(ForgeKind),
}

fn and_said(text: &str) -> String {
    if text.is_empty() {
        return String::new();
    }
    format!(": {text}")
}

impl CommentError {
    pub fn help(&self) -> String {
        match self {
            Self::NoPullRequest => "run it in the pipeline of a pull request".into(),
            Self::NoForge(_) => {
                "comments go to GitHub, GitLab, Bitbucket Cloud and Azure Repos".into()
            }
            Self::NoToken(forge) => forge.token_help(),
            Self::Refused { forge, status, .. } if matches!(status.as_u16(), 401 | 403 | 404) => {
                forge.token_help()
            }
            Self::Address { .. } => "see UPDRAFT_COMMENT_API".into(),
            Self::Setup(..) | Self::Unreachable { .. } | Self::Refused { .. } | Self::Answer(_) => {
                "run the job again; without `--comment` the plan is only printed".into()
            }
        }
    }
}

impl fmt::Display for PostedOutcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Created => "commented on the pull request",
            Self::Updated => "updated the comment on the pull request",
            Self::Unchanged => "the comment on the pull request says so already",
            Self::Left => "nothing to comment",
        })
    }
}

impl Comment {
    /// The first line, which none of the forges shows.
    fn marker(&self) -> String {
        let about = self.about.replace(['(', ')', '\n', '\r'], " ");
        format!("[//]: # (updraft: {about})")
    }

    fn body(&self) -> String {
        format!("{}\n\n{}", self.marker(), self.text.trim_end())
    }
}

/// Writes it, over what was written before.
pub async fn post(forge: &Forge, comment: &Comment) -> Result<Posted, CommentError> {
    let body = comment.body();
    let posted = |outcome, url| Posted { outcome, url };
    if let Some(ours) = find(forge, comment).await? {
        if is_same(&ours.body, &body) {
            return Ok(posted(PostedOutcome::Unchanged, ours.url));
        }
        forge.update(&ours, &body).await?;
        return Ok(posted(PostedOutcome::Updated, ours.url));
    }
    if !comment.is_news {
        return Ok(posted(PostedOutcome::Left, None));
    }
    let made = forge.create(&body).await?;
    // Two runs at once have both found none: the first that was written stays.
    match find(forge, comment).await? {
        Some(first) if first.id != made.id => {
            forge.update(&first, &body).await?;
            forge.delete(&made).await?;
            Ok(posted(PostedOutcome::Updated, first.url))
        }
        _ => Ok(posted(PostedOutcome::Created, made.url)),
    }
}

/// The oldest of ours. Anybody can write our first line, so it has to be by
/// whoever we are.
async fn find(forge: &Forge, comment: &Comment) -> Result<Option<Known>, CommentError> {
    let first_line = comment.marker();
    let mut found = forge.comments().await?;
    found.retain(|one| one.body.trim_start().starts_with(&first_line));
    if found.is_empty() {
        return Ok(None);
    }
    let me = forge.me().await?;
    found.retain(|one| me.wrote(one));
    Ok(found.into_iter().min_by_key(Known::order))
}

/// Forges change line ends and spaces at the end.
fn is_same(there: &str, ours: &str) -> bool {
    let lines = |text: &str| -> Vec<String> {
        let lines = text.trim_end().lines();
        lines.map(|line| line.trim_end().to_owned()).collect()
    };
    lines(there) == lines(ours)
}
