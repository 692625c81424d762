//! The part of GitHub, GitLab, Bitbucket and Azure DevOps that comments need,
//! with what it has been told in memory.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::{HeaderMap, Method, StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};
use tokio::runtime::Runtime;

/// Who the token is.
const ME: u64 = 42;
const PAGE: usize = 100;

/// A server that ends with the test.
pub struct TestForge {
    url: String,
    state: Arc<Mutex<Forge>>,
    _runtime: Runtime,
}

#[derive(Debug, Default)]
struct Forge {
    comments: Vec<ForgeComment>,
    last: u64,
    /// Answers that are not given but refused, the next first.
    refusals: Vec<u16>,
    /// What was written, each as its method and path.
    written: Vec<String>,
    /// Whether `GET /user` is refused, as GitHub does to its own jobs.
    is_job: bool,
}

#[derive(Debug, Clone)]
pub struct ForgeComment {
    pub id: u64,
    pub body: String,
    pub author: u64,
    pub is_bot: bool,
}

impl TestForge {
    pub const TOKEN: &'static str = "forge-token";

    pub fn start() -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .expect("a runtime");
        let state = Arc::new(Mutex::new(Forge::default()));
        let listening = tokio::net::TcpListener::bind(("127.0.0.1", 0));
        let listener = runtime.block_on(listening).expect("a port");
        let address = listener.local_addr().expect("it is bound");
        let router = Router::new()
            .fallback(answer)
            .with_state(Arc::clone(&state));
        runtime.spawn(async move { axum::serve(listener, router).await });
        Self {
            url: format!("http://{address}"),
            state,
            _runtime: runtime,
        }
    }

    pub fn url(&self) -> &str {
        &self.url
    }

    pub fn comments(&self) -> Vec<ForgeComment> {
        locked(&self.state).comments.clone()
    }

    /// A comment of somebody else.
    pub fn write(&self, body: &str) {
        let mut state = locked(&self.state);
        state.add(body, 7, false);
    }

    /// The next requests are refused with these.
    pub fn refuse(&self, statuses: &[u16]) {
        locked(&self.state).refusals = statuses.to_vec();
    }

    /// Says who the token is no more.
    pub fn is_job(&self) {
        locked(&self.state).is_job = true;
    }

    /// What was written since the last time that it was asked.
    pub fn written(&self) -> Vec<String> {
        std::mem::take(&mut locked(&self.state).written)
    }
}

fn locked(state: &Mutex<Forge>) -> MutexGuard<'_, Forge> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

async fn answer(
    State(state): State<Arc<Mutex<Forge>>>,
    method: Method,
    uri: Uri,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    let mut state = locked(&state);
    let header = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
    let bearer = format!("Bearer {}", TestForge::TOKEN);
    let is_known = header("authorization") == Some(bearer.as_str())
        || header("private-token") == Some(TestForge::TOKEN);
    if !is_known {
        return refused(401, "Bad credentials");
    }
    if !state.refusals.is_empty() {
        let status = state.refusals.remove(0);
        return refused(status, "Resource not accessible by integration");
    }
    match uri.path() {
        "/user" if state.is_job => return refused(403, "Resource not accessible by integration"),
        "/user" => return json_of(&json!({ "id": ME, "uuid": ME.to_string() })),
        "/_apis/connectionData" => {
            return json_of(&json!({ "authenticatedUser": { "id": ME.to_string() } }));
        }
        _ => {}
    }
    let content: Value = serde_json::from_slice(&body).unwrap_or(Value::Null);
    if method != Method::GET {
        state.written.push(format!("{method} {}", uri.path()));
    }
    let Some((form, id)) = form_of(uri.path()) else {
        return refused(404, "Not Found");
    };
    let text = match form {
        Form::Github | Form::Gitlab => &content["body"],
        Form::Bitbucket => &content["content"]["raw"],
        Form::Azure if id.is_some() => &content["content"],
        Form::Azure => &content["comments"][0]["content"],
    };
    let text = text.as_str().unwrap_or_default();
    match (method.as_str(), id) {
        ("GET", None) => json_of(&state.page(form, uri.query().unwrap_or_default())),
        ("POST", None) if !text.is_empty() => {
            let is_bot = state.is_job;
            let made = state.add(text, ME, is_bot);
            json_of(&form.show(&made))
        }
        ("PATCH" | "PUT", Some(id)) if !text.is_empty() => {
            match state.comments.iter_mut().find(|it| it.id == id) {
                Some(comment) => {
                    text.clone_into(&mut comment.body);
                    json_of(&form.show(comment))
                }
                None => refused(404, "Not Found"),
            }
        }
        ("DELETE", Some(id)) => {
            state.comments.retain(|it| it.id != id);
            StatusCode::NO_CONTENT.into_response()
        }
        _ => refused(422, "Validation Failed"),
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Form {
    Github,
    Gitlab,
    Bitbucket,
    Azure,
}

/// Which forge's address it is, and of which comment.
fn form_of(path: &str) -> Option<(Form, Option<u64>)> {
    let known = [
        (Form::Github, "/repos/acme/shop/issues/7/comments"),
        (Form::Github, "/repos/acme/shop/issues/comments"),
        (Form::Gitlab, "/projects/acme%2Fshop/merge_requests/7/notes"),
        (
            Form::Bitbucket,
            "/repositories/acme/shop/pullrequests/7/comments",
        ),
        (
            Form::Azure,
            "/Data%20Team/_apis/git/repositories/shop-id/pullRequests/7/threads",
        ),
    ];
    known.into_iter().find_map(|(form, begin)| {
        let rest = path.strip_prefix(begin)?;
        let id = rest.trim_start_matches('/').split('/').next()?;
        match id {
            "" => Some((form, None)),
            id => Some((form, Some(id.parse().ok()?))),
        }
    })
}

impl Form {
    fn show(self, comment: &ForgeComment) -> Value {
        let ForgeComment {
            id, body, author, ..
        } = comment;
        let kind = if comment.is_bot { "Bot" } else { "User" };
        match self {
            Self::Github => json!({
                "id": id, "body": body, "user": { "id": author, "type": kind },
                "html_url": format!("https://forge.example/7#{id}"),
            }),
            Self::Gitlab => json!({ "id": id, "body": body, "author": { "id": author } }),
            Self::Bitbucket => json!({
                "id": id, "content": { "raw": body }, "user": { "uuid": author.to_string() },
                "links": { "html": { "href": format!("https://forge.example/7#{id}") } },
            }),
            Self::Azure => json!({
                "id": id,
                "comments": [{ "id": 1, "content": body, "author": { "id": author.to_string() } }],
            }),
        }
    }
}

impl Forge {
    fn add(&mut self, body: &str, author: u64, is_bot: bool) -> ForgeComment {
        self.last += 1;
        let comment = ForgeComment {
            id: self.last,
            body: body.to_owned(),
            author,
            is_bot,
        };
        self.comments.push(comment.clone());
        comment
    }

    fn page(&self, form: Form, query: &str) -> Value {
        let number = query.split('&').find_map(|it| it.strip_prefix("page="));
        let number: usize = number.and_then(|it| it.parse().ok()).unwrap_or(1);
        let all = self.comments.iter().map(|one| form.show(one));
        let page: Vec<Value> = match form {
            Form::Azure => all.collect(),
            _ => all.skip((number - 1) * PAGE).take(PAGE).collect(),
        };
        match form {
            Form::Github | Form::Gitlab => json!(page),
            Form::Bitbucket => {
                let more = self.comments.len() > number * PAGE;
                json!({ "values": page, "next": more.then_some("https://forge.example/next") })
            }
            Form::Azure => json!({ "value": page }),
        }
    }
}

fn json_of(value: &Value) -> Response {
    axum::Json(value.clone()).into_response()
}

fn refused(status: u16, message: &str) -> Response {
    let status = StatusCode::from_u16(status).unwrap_or(StatusCode::FORBIDDEN);
    (status, axum::Json(json!({ "message": message }))).into_response()
}
