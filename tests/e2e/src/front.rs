//! What stands before a server and is at times out of order, as a load balancer is.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::Result;
use axum::Router;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::{Method, StatusCode};
use axum::response::{IntoResponse as _, Response};

/// Hands all on to a server until it is dropped, but for the uploads that it refuses.
pub struct Front {
    url: String,
    uploads: Arc<Uploads>,
    _runtime: tokio::runtime::Runtime,
}

struct Uploads {
    server: String,
    http: reqwest::Client,
    /// How many more are refused.
    refusals: AtomicU32,
}

impl Front {
    pub fn start(server: String) -> Result<Self> {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()?;
        let uploads = Arc::new(Uploads {
            server,
            http: reqwest::Client::builder().no_proxy().build()?,
            refusals: AtomicU32::default(),
        });
        let listening = tokio::net::TcpListener::bind(("127.0.0.1", 0));
        let listener = runtime.block_on(listening)?;
        let url = format!("http://{}", listener.local_addr()?);
        let router = Router::new()
            .fallback(hand_on)
            .with_state(Arc::clone(&uploads));
        runtime.spawn(async move { axum::serve(listener, router).await });
        Ok(Self {
            url,
            uploads,
            _runtime: runtime,
        })
    }

    pub fn url(&self) -> &str {
        &self.url
    }

    /// Answers so many of the uploads to come with 503.
    pub fn refuse_uploads(&self, count: u32) {
        self.uploads.refusals.store(count, Ordering::SeqCst);
    }

    /// How many of these have not come yet.
    pub fn refusals_left(&self) -> u32 {
        self.uploads.refusals.load(Ordering::SeqCst)
    }
}

impl Uploads {
    fn refuses(&self) -> bool {
        let one_less = |left: u32| left.checked_sub(1);
        self.refusals
            .fetch_update(Ordering::SeqCst, Ordering::SeqCst, one_less)
            .is_ok()
    }
}

async fn hand_on(State(uploads): State<Arc<Uploads>>, asked: Request) -> Response {
    let begins = asked.method() == Method::POST && asked.uri().path().ends_with("/blobs/uploads/");
    if begins && uploads.refuses() {
        return StatusCode::SERVICE_UNAVAILABLE.into_response();
    }
    let (parts, body) = asked.into_parts();
    let path = parts.uri.path_and_query().map_or("/", |path| path.as_str());
    let sent = uploads
        .http
        .request(parts.method, format!("{}{path}", uploads.server))
        .headers(parts.headers)
        .body(reqwest::Body::wrap_stream(body.into_data_stream()))
        .send();
    let Ok(answer) = sent.await else {
        return StatusCode::BAD_GATEWAY.into_response();
    };
    let mut response = Response::new(Body::empty());
    *response.status_mut() = answer.status();
    *response.headers_mut() = answer.headers().clone();
    *response.body_mut() = Body::from_stream(answer.bytes_stream());
    response
}
