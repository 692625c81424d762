//! What happens to every request, whatever it asks for.
//!
//! Outermost first: an id, a line in the log and a number in the metrics, a
//! body for every error (also for those that no handler made), a limit on how
//! far versions may be apart.

use std::any::Any;
use std::time::Instant;

use axum::Json;
use axum::body::{Body, to_bytes};
use axum::extract::{MatchedPath, Request, State};
use axum::http::{HeaderName, HeaderValue, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use updraft_api::{ErrorBody, ErrorCode, VERSION, VERSION_HEADER};
use uuid::Uuid;

use crate::app::App;
use crate::dashboard;
use crate::error::{ApiError, status_of};
use crate::registry::{self, OciBody};

pub(crate) const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// Gives the request its id, and every answer that is an error its body.
pub(crate) async fn observe(State(app): State<App>, mut request: Request, next: Next) -> Response {
    let started = Instant::now();
    let id = Uuid::now_v7().simple().to_string();
    let method = request.method().clone();
    let path = request.uri().path().to_owned();
    // The pattern, not the path: metrics must not grow with what people ask for.
    let route = request
        .extensions()
        .get::<MatchedPath>()
        .map_or_else(|| "unknown".to_owned(), |path| path.as_str().to_owned());
    let value = HeaderValue::from_str(&id).ok();
    if let Some(value) = &value {
        request.headers_mut().insert(REQUEST_ID, value.clone());
    }
    let is_page = wants_page(&request);

    let span = tracing::info_span!("request", id = %id);
    let response = {
        use tracing::Instrument as _;
        next.run(request).instrument(span.clone()).await
    };
    let reader = Reader::of(&path, is_page);
    let mut response = with_error_body(response, &id, reader).await;

    let status = response.status();
    let milliseconds = u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX);
    span.in_scope(|| {
        if status.is_server_error() && status != StatusCode::SERVICE_UNAVAILABLE {
            tracing::warn!(%method, path, status = status.as_u16(), ms = milliseconds, "answered");
        } else {
            tracing::debug!(%method, path, status = status.as_u16(), ms = milliseconds, "answered");
        }
    });
    app.metrics
        .request(method.as_str(), &route, status.as_u16(), started.elapsed());

    let headers = response.headers_mut();
    if let Some(value) = value {
        headers.insert(REQUEST_ID, value);
    }
    headers.insert(
        HeaderName::from_static(VERSION_HEADER),
        HeaderValue::from_static(VERSION),
    );
    headers.insert(
        header::X_CONTENT_TYPE_OPTIONS,
        HeaderValue::from_static("nosniff"),
    );
    response
}

/// Pages are for people: their errors are made where the page is.
fn wants_page(request: &Request) -> bool {
    let path = request.uri().path();
    !path.starts_with("/api/")
        && request
            .headers()
            .get(header::ACCEPT)
            .and_then(|accept| accept.to_str().ok())
            .is_some_and(|accept| accept.contains("text/html"))
}

/// Who reads an error.
#[derive(Clone, Copy)]
enum Reader {
    Client,
    Person,
    /// A client of the registry, which knows another shape.
    Oci,
}

impl Reader {
    fn of(path: &str, is_page: bool) -> Self {
        if registry::is_registry(path) {
            Self::Oci
        } else if is_page {
            Self::Person
        } else {
            Self::Client
        }
    }
}

async fn with_error_body(mut response: Response, id: &str, reader: Reader) -> Response {
    let status = response.status();
    if let Some(error) = response.extensions_mut().remove::<ApiError>() {
        return match reader {
            Reader::Oci => registry::outer(&error),
            Reader::Client | Reader::Person => render(error, id),
        };
    }
    if response.extensions_mut().remove::<OciBody>().is_some() {
        return response;
    }
    let is_html = response
        .headers()
        .get(header::CONTENT_TYPE)
        .is_some_and(|value| value.as_bytes().starts_with(b"text/html"));
    if !(status.is_client_error() || status.is_server_error()) || is_html {
        return response;
    }
    // Made by the framework: a text, or nothing.
    let text = to_bytes(response.into_body(), 4096)
        .await
        .ok()
        .and_then(|bytes| String::from_utf8(bytes.into()).ok())
        .unwrap_or_default();
    let error = from_framework(status, &text);
    match reader {
        Reader::Person => dashboard::nowhere(error, id),
        Reader::Client => render(error, id),
        Reader::Oci => registry::outer(&error),
    }
}

fn from_framework(status: StatusCode, text: &str) -> ApiError {
    let (code, message) = match status {
        StatusCode::NOT_FOUND => (
            ErrorCode::RouteNotFound,
            "there is nothing at this address".into(),
        ),
        StatusCode::METHOD_NOT_ALLOWED => (
            ErrorCode::RouteNotFound,
            "this address does not answer to this method".into(),
        ),
        StatusCode::PAYLOAD_TOO_LARGE => (
            ErrorCode::LimitExceeded,
            "the request is larger than this control plane allows".into(),
        ),
        StatusCode::REQUEST_TIMEOUT
        | StatusCode::SERVICE_UNAVAILABLE
        | StatusCode::GATEWAY_TIMEOUT => (
            ErrorCode::Unavailable,
            "the control plane took too long".into(),
        ),
        status if status.is_client_error() => {
            let text = text
                .strip_prefix("Invalid URL: ")
                .or_else(|| {
                    text.strip_prefix("Failed to deserialize the JSON body into the target type: ")
                })
                .unwrap_or(text);
            (
                ErrorCode::InvalidRequest,
                if text.is_empty() {
                    "the request could not be understood".into()
                } else {
                    text.to_owned()
                },
            )
        }
        _ => (ErrorCode::Internal, "something went wrong here".into()),
    };
    ApiError {
        code,
        message,
        help: None,
    }
}

fn render(error: ApiError, id: &str) -> Response {
    let help = error.help.or_else(|| {
        (error.code == ErrorCode::Internal)
            .then(|| format!("look for the request id {id} in the control plane's log"))
    });
    let mut response = (
        status_of(error.code),
        Json(ErrorBody {
            code: error.code,
            message: error.message,
            help,
            request_id: id.to_owned(),
        }),
    )
        .into_response();
    if response.status() == StatusCode::UNAUTHORIZED {
        response
            .headers_mut()
            .insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
    }
    response
}

/// Refuses clients that are more than one minor version away. Browsers and
/// curl say no version and are welcome.
pub(crate) async fn check_version(request: Request, next: Next) -> Response {
    let theirs = request
        .headers()
        .get(VERSION_HEADER)
        .and_then(|value| value.to_str().ok());
    if let Some(theirs) = theirs
        && !near(theirs, VERSION)
    {
        let theirs: String = theirs.chars().take(32).collect();
        return ApiError {
            code: ErrorCode::VersionSkew,
            message: format!(
                "this client is version {theirs} and the control plane is {VERSION}: they are more than one minor version apart"
            ),
            help: Some("install the control plane's version: it serves it at /install".into()),
        }
        .into_response();
    }
    next.run(request).await
}

fn near(theirs: &str, ours: &str) -> bool {
    let parse = |version: &str| -> Option<(u64, u64)> {
        let mut numbers = version.split('.');
        Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
    };
    match (parse(theirs), parse(ours)) {
        (Some(theirs), Some(ours)) => theirs.0 == ours.0 && theirs.1.abs_diff(ours.1) <= 1,
        _ => false,
    }
}

/// A handler panicked: that is one request's trouble, and goes to the log.
#[expect(clippy::needless_pass_by_value, reason = "the layer's signature")]
pub(crate) fn after_panic(panic: Box<dyn Any + Send>) -> Response<Body> {
    let what = panic
        .downcast_ref::<String>()
        .map(String::as_str)
        .or_else(|| panic.downcast_ref::<&str>().copied())
        .unwrap_or("something else than text");
    tracing::error!(panic = what, "a request panicked");
    ApiError {
        code: ErrorCode::Internal,
        message: "something went wrong here".into(),
        help: None,
    }
    .into_response()
}

#[cfg(test)]
mod tests {
    use super::near;

    #[test]
    fn one_minor_version_apart_is_near() {
        assert!(near("0.3.9", "0.4.0"));
        assert!(near("0.5.0-rc1", "0.4.7"));
        for far in ["0.2.0", "0.6.1", "1.4.0", "", "x", "0"] {
            assert!(!near(far, "0.4.0"), "{far}");
        }
    }
}
