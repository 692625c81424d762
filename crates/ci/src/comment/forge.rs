//! Where pull requests live: what each forge's API is asked, and how it answers.
//!
//! - <https://docs.github.com/en/rest/issues/comments>
//! - <https://docs.gitlab.com/api/notes/#merge-requests>
//! - <https://developer.atlassian.com/cloud/bitbucket/rest/api-group-pullrequests/>
//! - <https://learn.microsoft.com/en-us/rest/api/azure/devops/git/pull-request-threads>

use std::fmt;
use std::time::Duration;

use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use updraft_api::client::{connection, is_loopback};
use updraft_model::{CiProvider, CiRun};
use url::Url;

use super::CommentError;
use crate::detect::{Environment, repository_of};

const TIME_LIMIT: Duration = Duration::from_secs(30);
/// More pages than any pull request has, so that a listing ends.
const MOST_PAGES: usize = 50;
const PAGE: usize = 100;
const ATTEMPTS: u32 = 4;
/// Before the second attempt, and longer before each that follows.
const PAUSE: Duration = Duration::from_millis(500);
/// The longest wait that a forge may ask for.
const PATIENCE: Duration = Duration::from_secs(20);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ForgeKind {
    Github,
    Gitlab,
    Bitbucket,
    Azure,
}

impl fmt::Display for ForgeKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Github => "GitHub",
            Self::Gitlab => "GitLab",
            Self::Bitbucket => "Bitbucket",
            Self::Azure => "Azure DevOps",
        })
    }
}

impl ForgeKind {
    /// Variables that hold its token, the first that is set.
    fn tokens(self) -> &'static [&'static str] {
        match self {
            Self::Github => &["UPDRAFT_COMMENT_TOKEN", "GITHUB_TOKEN", "GH_TOKEN"],
            Self::Gitlab => &["UPDRAFT_COMMENT_TOKEN", "GITLAB_TOKEN"],
            Self::Bitbucket => &["UPDRAFT_COMMENT_TOKEN", "BITBUCKET_TOKEN"],
            Self::Azure => &["UPDRAFT_COMMENT_TOKEN", "SYSTEM_ACCESSTOKEN"],
        }
    }

    pub(super) fn token_help(self) -> String {
        match self {
            Self::Github => {
                "give the job `permissions: pull-requests: write` and `GITHUB_TOKEN: ${{ github.token }}` in `env`"
            }
            Self::Gitlab => {
                "set GITLAB_TOKEN to a project access token with the role Reporter and the scope `api`; \
                 a job's own token may not comment"
            }
            Self::Bitbucket => {
                "set BITBUCKET_TOKEN to a repository access token with the scope `pullrequest:write`"
            }
            Self::Azure => {
                "set SYSTEM_ACCESSTOKEN: $(System.AccessToken) in `env`, and let the build service contribute to pull requests"
            }
        }
        .to_owned()
    }
}

/// One pull request, and how to reach it.
#[derive(Debug)]
pub struct Forge {
    kind: ForgeKind,
    http: reqwest::Client,
    token: String,
    /// Of its comments.
    comments: Url,
    /// Of whoever the token is.
    user: Url,
    /// For people.
    page: Option<String>,
}

/// A comment that is there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Known {
    /// As its address has it.
    pub(super) id: String,
    pub(super) body: String,
    pub(super) url: Option<String>,
    author: String,
    is_bot: bool,
}

/// Who a token is; nobody knows of those of GitHub's own jobs.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Me {
    User(String),
    SomeBot,
    /// One that may not ask for itself; its comments have no other mark.
    Anyone,
}

impl Me {
    pub(super) fn wrote(&self, comment: &Known) -> bool {
        match self {
            Self::User(id) => comment.author == *id,
            Self::SomeBot => comment.is_bot,
            Self::Anyone => true,
        }
    }
}

impl Known {
    /// Ids count up.
    pub(super) fn order(&self) -> Vec<u64> {
        let parts = self.id.split('/');
        parts.filter_map(|part| part.parse().ok()).collect()
    }
}

impl Forge {
    /// The pull request that a run is for; `remote` is the repository's address.
    pub fn of(
        run: Option<&CiRun>,
        remote: Option<&str>,
        env: &impl Environment,
        ca_certificates: Option<&[u8]>,
    ) -> Result<Self, CommentError> {
        let run = run.ok_or(CommentError::NoPullRequest)?;
        let request = run.pull_request.as_ref().filter(|it| it.number > 0);
        let number = request.ok_or(CommentError::NoPullRequest)?.number;
        let kind = kind_of(run, remote, env)
            .ok_or_else(|| CommentError::NoForge(remote.unwrap_or("this pipeline").to_owned()))?;
        let token = kind.tokens().iter().find_map(|name| env.get(name));
        let token = token.ok_or(CommentError::NoToken(kind))?;
        let unknown = || CommentError::NoForge(remote.unwrap_or("this pipeline").to_owned());
        let of_remote = remote.and_then(repository_of);
        let of_run = |provider| {
            let is_its_own = run.provider == provider;
            run.repository.clone().filter(|_| is_its_own)
        };
        let given = |name: &str| env.get("UPDRAFT_COMMENT_API").or_else(|| env.get(name));
        let number = number.to_string();
        let in_repository = |before: &str, after: [&str; 3], own| {
            let name = of_run(own).or(of_remote.clone()).ok_or_else(unknown)?;
            let parts = [before].into_iter().chain(name.split('/')).chain(after);
            Ok::<Vec<String>, CommentError>(parts.map(str::to_owned).collect())
        };
        let mut page = None;
        let (api, path, user) = match kind {
            ForgeKind::Github => {
                let path =
                    in_repository("repos", ["issues", &number, "comments"], CiProvider::Github)?;
                let api = given("GITHUB_API_URL").unwrap_or("https://api.github.com".into());
                (api, path, vec!["user"])
            }
            ForgeKind::Gitlab => {
                let name = of_run(CiProvider::Gitlab)
                    .or(of_remote)
                    .ok_or_else(unknown)?;
                let url = env.get("CI_PROJECT_URL");
                page = url.map(|url| format!("{url}/-/merge_requests/{number}"));
                let path = ["projects", &name, "merge_requests", &number, "notes"];
                let api = given("CI_API_V4_URL").unwrap_or("https://gitlab.com/api/v4".into());
                (api, path.map(str::to_owned).to_vec(), vec!["user"])
            }
            ForgeKind::Bitbucket => {
                let after = ["pullrequests", &number, "comments"];
                let path = in_repository("repositories", after, CiProvider::Bitbucket)?;
                let api = given("").unwrap_or("https://api.bitbucket.org/2.0".into());
                (api, path, vec!["user"])
            }
            ForgeKind::Azure => {
                let api = given("SYSTEM_COLLECTIONURI").ok_or_else(unknown)?;
                let project = env.get("SYSTEM_TEAMPROJECT").ok_or_else(unknown)?;
                let repository = env.get("BUILD_REPOSITORY_ID").ok_or_else(unknown)?;
                // Its own number; the other one is GitHub's.
                let id = env
                    .get("SYSTEM_PULLREQUEST_PULLREQUESTID")
                    .ok_or_else(unknown)?;
                let path = [
                    &project,
                    "_apis",
                    "git",
                    "repositories",
                    &repository,
                    "pullRequests",
                    &id,
                    "threads",
                ];
                (
                    api,
                    path.map(str::to_owned).to_vec(),
                    vec!["_apis", "connectionData"],
                )
            }
        };
        let base = base(kind, &api)?;
        let http = connection(&base, ca_certificates).and_then(|builder| {
            builder
                .timeout(TIME_LIMIT)
                .build()
                .map_err(updraft_api::ClientError::Setup)
        });
        Ok(Self {
            kind,
            http: http.map_err(|error| CommentError::Setup(kind, error))?,
            token,
            comments: below(&base, &path),
            user: below(&base, &user),
            page,
        })
    }

    /// All of the pull request.
    pub(super) async fn comments(&self) -> Result<Vec<Known>, CommentError> {
        let what = "list the comments";
        let mut all = Vec::new();
        for number in 1..=MOST_PAGES {
            let mut url = self.comments.clone();
            match self.kind {
                ForgeKind::Github | ForgeKind::Gitlab => {
                    let query = format!("per_page={PAGE}&page={number}");
                    url.set_query(Some(&query));
                }
                ForgeKind::Bitbucket => {
                    url.set_query(Some(&format!("pagelen={PAGE}&page={number}")));
                }
                ForgeKind::Azure => url.set_query(Some(API_VERSION)),
            }
            let answer = self.ask(Method::GET, url, None, what).await?;
            let (items, is_last) = self.page_of(&answer)?;
            all.extend(items.iter().filter_map(|item| self.known(item)));
            if is_last {
                break;
            }
        }
        Ok(all)
    }

    fn page_of<'a>(&self, answer: &'a Value) -> Result<(&'a [Value], bool), CommentError> {
        let (list, is_last) = match self.kind {
            ForgeKind::Github | ForgeKind::Gitlab => (answer, None),
            ForgeKind::Bitbucket => (&answer["values"], Some(answer["next"].is_null())),
            ForgeKind::Azure => (&answer["value"], Some(true)),
        };
        let items = list.as_array().ok_or(CommentError::Answer(self.kind))?;
        Ok((items, is_last.unwrap_or(items.len() < PAGE)))
    }

    /// Reads one; none for what was removed.
    fn known(&self, item: &Value) -> Option<Known> {
        let number = |value: &Value| value.as_u64().map(|id| id.to_string());
        let text = |value: &Value| value.as_str().map(str::to_owned);
        match self.kind {
            ForgeKind::Github => Some(Known {
                id: number(&item["id"])?,
                body: text(&item["body"])?,
                url: text(&item["html_url"]),
                author: number(&item["user"]["id"]).unwrap_or_default(),
                is_bot: item["user"]["type"] == "Bot",
            }),
            ForgeKind::Gitlab => {
                let id = number(&item["id"])?;
                let url = self.page.as_ref().map(|page| format!("{page}#note_{id}"));
                Some(Known {
                    body: text(&item["body"])?,
                    author: number(&item["author"]["id"]).unwrap_or_default(),
                    is_bot: item["author"]["bot"] == true,
                    url,
                    id,
                })
            }
            ForgeKind::Bitbucket => (item["deleted"] != true).then(|| {
                Some(Known {
                    id: number(&item["id"])?,
                    body: text(&item["content"]["raw"])?,
                    url: text(&item["links"]["html"]["href"]),
                    author: text(&item["user"]["uuid"]).unwrap_or_default(),
                    is_bot: false,
                })
            })?,
            ForgeKind::Azure => {
                let first = &item["comments"][0];
                let is_there = item["isDeleted"] != true && first["isDeleted"] != true;
                let id = number(&item["id"])?;
                is_there.then(|| {
                    Some(Known {
                        id: format!("{id}/comments/{}", number(&first["id"])?),
                        body: text(&first["content"])?,
                        url: None,
                        author: text(&first["author"]["id"]).unwrap_or_default(),
                        is_bot: false,
                    })
                })?
            }
        }
    }

    pub(super) async fn me(&self) -> Result<Me, CommentError> {
        let asked = self
            .ask(
                Method::GET,
                self.user.clone(),
                None,
                "say whose token it is",
            )
            .await;
        let answer = match asked {
            Ok(answer) => answer,
            Err(CommentError::Refused { status, .. }) if is_not_allowed(status) => {
                return Ok(match self.kind {
                    ForgeKind::Github => Me::SomeBot,
                    ForgeKind::Gitlab | ForgeKind::Bitbucket | ForgeKind::Azure => Me::Anyone,
                });
            }
            Err(error) => return Err(error),
        };
        let id = match self.kind {
            ForgeKind::Github | ForgeKind::Gitlab => answer["id"].as_u64().map(|id| id.to_string()),
            ForgeKind::Bitbucket => answer["uuid"].as_str().map(str::to_owned),
            ForgeKind::Azure => answer["authenticatedUser"]["id"]
                .as_str()
                .map(str::to_owned),
        };
        id.map(Me::User).ok_or(CommentError::Answer(self.kind))
    }

    pub(super) async fn create(&self, body: &str) -> Result<Known, CommentError> {
        let mut url = self.comments.clone();
        let content = match self.kind {
            ForgeKind::Github | ForgeKind::Gitlab => json!({ "body": body }),
            ForgeKind::Bitbucket => json!({ "content": { "raw": body } }),
            ForgeKind::Azure => {
                url.set_query(Some(API_VERSION));
                // Open threads can keep a pull request from being merged.
                json!({
                    "comments": [{ "parentCommentId": 0, "content": body, "commentType": "text" }],
                    "status": "closed",
                })
            }
        };
        let answer = self
            .ask(Method::POST, url, Some(&content), "comment")
            .await?;
        self.known(&answer).ok_or(CommentError::Answer(self.kind))
    }

    pub(super) async fn update(&self, comment: &Known, body: &str) -> Result<(), CommentError> {
        let (method, content) = match self.kind {
            ForgeKind::Github => (Method::PATCH, json!({ "body": body })),
            ForgeKind::Gitlab => (Method::PUT, json!({ "body": body })),
            ForgeKind::Bitbucket => (Method::PUT, json!({ "content": { "raw": body } })),
            ForgeKind::Azure => (Method::PATCH, json!({ "content": body })),
        };
        let url = self.address_of(comment);
        let what = "update its comment";
        self.ask(method, url, Some(&content), what).await.map(drop)
    }

    pub(super) async fn delete(&self, comment: &Known) -> Result<(), CommentError> {
        let what = "remove a second comment";
        self.ask(Method::DELETE, self.address_of(comment), None, what)
            .await
            .map(drop)
    }

    /// The address of one comment; GitHub has them beside the pull request.
    fn address_of(&self, comment: &Known) -> Url {
        let mut url = self.comments.clone();
        let path = url.path().to_owned();
        let path = match self.kind {
            ForgeKind::Github => {
                let mut parts: Vec<&str> = path.split('/').collect();
                // `…/issues/7/comments`
                parts.remove(parts.len() - 2);
                format!("{}/{}", parts.join("/"), comment.id)
            }
            _ => format!("{path}/{}", comment.id),
        };
        url.set_path(&path);
        if self.kind == ForgeKind::Azure {
            url.set_query(Some(API_VERSION));
        }
        url
    }

    async fn ask(
        &self,
        method: Method,
        url: Url,
        body: Option<&Value>,
        what: &'static str,
    ) -> Result<Value, CommentError> {
        let mut attempt = 1;
        let answer = loop {
            let mut request = self.http.request(method.clone(), url.clone());
            request = match self.kind {
                ForgeKind::Gitlab => request.header("PRIVATE-TOKEN", &self.token),
                _ => request.bearer_auth(&self.token),
            };
            if let Some(body) = body {
                request = request.json(body);
            }
            let sent = request.send().await;
            // A comment that may have been written is not written again.
            let is_safe = method != Method::POST;
            let wait = match &sent {
                Ok(answer) => wait_for(answer).filter(|_| is_safe || answer.status() == 429),
                Err(error) => (is_safe || error.is_connect()).then_some(PAUSE),
            };
            match wait {
                Some(wait) if attempt < ATTEMPTS => {
                    tokio::time::sleep(wait.max(PAUSE * attempt)).await;
                    attempt += 1;
                }
                _ => break sent,
            }
        };
        let unreachable = |source| CommentError::Unreachable {
            forge: self.kind,
            source,
        };
        let answer = answer.map_err(unreachable)?;
        let status = answer.status();
        let bytes = answer.bytes().await.map_err(unreachable)?;
        let value: Option<Value> = serde_json::from_slice(&bytes).ok();
        if status.is_success() {
            // Removing answers nothing.
            return Ok(value.unwrap_or(Value::Null));
        }
        let said = value.as_ref().and_then(|value| {
            let places = [
                &value["message"],
                &value["error"]["message"],
                &value["error"],
            ];
            places.into_iter().find_map(Value::as_str)
        });
        Err(CommentError::Refused {
            forge: self.kind,
            what,
            status,
            said: said.unwrap_or_default().chars().take(300).collect(),
        })
    }
}

const API_VERSION: &str = "api-version=7.1";

/// How long to wait before asking again; none: the answer stands.
fn wait_for(answer: &reqwest::Response) -> Option<Duration> {
    let status = answer.status();
    if status != StatusCode::TOO_MANY_REQUESTS && !status.is_server_error() {
        return None;
    }
    let asked = answer.headers().get("retry-after");
    let asked = asked.and_then(|value| value.to_str().ok()?.parse().ok());
    let asked = asked.map(Duration::from_secs);
    Some(asked.unwrap_or(PAUSE).min(PATIENCE))
}

fn is_not_allowed(status: StatusCode) -> bool {
    matches!(status.as_u16(), 401 | 403 | 404)
}

/// An address that a token may go to, ready to be joined to.
fn base(forge: ForgeKind, api: &str) -> Result<Url, CommentError> {
    let wrong = |why| CommentError::Address {
        forge,
        address: api.to_owned(),
        why,
    };
    let text = format!("{}/", api.trim_end_matches('/'));
    let url: Url = text.parse().map_err(|_| wrong("it is no URL"))?;
    match url.scheme() {
        "https" => Ok(url),
        "http" if is_loopback(&url) => Ok(url),
        _ => Err(wrong("the token would travel in clear")),
    }
}

/// Names may hold anything, so each is one part of the path.
fn below(base: &Url, parts: &[impl AsRef<str>]) -> Url {
    let mut url = base.clone();
    if let Ok(mut path) = url.path_segments_mut() {
        path.pop_if_empty().extend(parts);
    }
    url
}

/// The pipeline's own forge, or the one that the repository's address names.
fn kind_of(run: &CiRun, remote: Option<&str>, env: &impl Environment) -> Option<ForgeKind> {
    match run.provider {
        CiProvider::Github => return Some(ForgeKind::Github),
        CiProvider::Gitlab => return Some(ForgeKind::Gitlab),
        CiProvider::Bitbucket => return Some(ForgeKind::Bitbucket),
        CiProvider::Azure if env.get("BUILD_REPOSITORY_PROVIDER").as_deref() == Some("TfsGit") => {
            return Some(ForgeKind::Azure);
        }
        _ => {}
    }
    let host = host_of(remote?)?;
    let known = [
        ("github", ForgeKind::Github),
        ("gitlab", ForgeKind::Gitlab),
        ("bitbucket.org", ForgeKind::Bitbucket),
    ];
    let found = known.into_iter().find(|(name, _)| host.contains(name));
    found.map(|(_, kind)| kind)
}

/// `github.com` of an address that git takes.
fn host_of(remote: &str) -> Option<String> {
    let rest = remote.split_once("://").map_or(remote, |(_, rest)| rest);
    let rest = rest.split('/').next()?;
    let rest = rest.rsplit_once('@').map_or(rest, |(_, host)| host);
    let host = rest.split(':').next()?;
    Some(host.to_ascii_lowercase()).filter(|host| host.contains('.'))
}
