//! The web page: read-only, made on the server from the same operations as the
//! API, signed in to with a token.
//!
//! The token travels in a cookie that scripts cannot read and other sites do not
//! send along, so that there is no session to keep and revoking the token ends it.

mod pages;

use askama::Template;
use axum::extract::{Path, Query, Request, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Redirect, Response};
use axum::{Extension, Form};
use serde::Deserialize;
use updraft_api::ErrorCode;
use updraft_model::{DeployId, DeploymentName, Digest, Role};

use crate::app::App;
use crate::auth::{AuthError, Caller, Needs, authenticate};
use crate::error::{ApiError, Problem};
use crate::request::REQUEST_ID;
use crate::{deploy, deployment};
use pages::{
    DeployPage, DeploymentPage, DeploymentRow, DeploymentsPage, ErrorPage, PAGE, SignInPage,
};

const COOKIE: &str = "updraft_token";

pub(crate) async fn deployments(
    State(app): State<App>,
    Extension(caller): Extension<Caller>,
) -> Result<Response, ApiError> {
    let visible = deployment::list(&app, &caller).await.map_err(refused)?;
    let mut rows = Vec::with_capacity(visible.len());
    for view in visible {
        let status = deployment::status(&app, &caller, &view.name)
            .await
            .map_err(refused)?;
        rows.push(DeploymentRow::new(status));
    }
    page(
        StatusCode::OK,
        &DeploymentsPage {
            who: caller.name().to_owned(),
            rows,
        },
    )
}

#[derive(Deserialize)]
pub(crate) struct HistoryQuery {
    before: Option<DeployId>,
}

pub(crate) async fn one_deployment(
    State(app): State<App>,
    Extension(caller): Extension<Caller>,
    Path(name): Path<DeploymentName>,
    Query(query): Query<HistoryQuery>,
) -> Result<Response, ApiError> {
    let status = deployment::status(&app, &caller, &name)
        .await
        .map_err(refused)?;
    let deploys = deploy::history(&app, &caller, &name, PAGE, query.before)
        .await
        .map_err(refused)?;
    page(
        StatusCode::OK,
        &DeploymentPage::new(caller.name().to_owned(), status, deploys),
    )
}

pub(crate) async fn one_deploy(
    State(app): State<App>,
    Extension(caller): Extension<Caller>,
    Path(id): Path<DeployId>,
) -> Result<Response, ApiError> {
    let view = deploy::show(&app, &caller, id).await.map_err(refused)?;
    page(
        StatusCode::OK,
        &DeployPage::new(caller.name().to_owned(), view),
    )
}

/// Where a DAG run's version link leads: the deploy that brought the version.
pub(crate) async fn version(
    State(app): State<App>,
    Extension(caller): Extension<Caller>,
    Path((name, version)): Path<(DeploymentName, Digest)>,
) -> Result<Redirect, ApiError> {
    let deploy = deploy::of_version(&app, &caller, &name, version)
        .await
        .map_err(refused)?;
    Ok(Redirect::to(&format!("/deploys/{deploy}")))
}

// Signing in

/// Stands before every page. A browser is sent to sign in where a program gets
/// an error.
pub(crate) async fn guard(
    State((app, needs)): State<(App, Needs)>,
    mut request: Request,
    next: Next,
) -> Response {
    if request.method() == Method::POST && is_from_elsewhere(request.headers()) {
        return ApiError {
            code: ErrorCode::Forbidden,
            message: "this form was sent by another site".into(),
            help: Some("open this control plane's own page, and sign in or out there".into()),
        }
        .into_response();
    }
    if needs != Needs::Nothing {
        let from = request.uri().path_and_query();
        let from = encode(from.map_or("/", |path| path.as_str()));
        let to_sign_in = || Redirect::to(&format!("/sign-in?next={from}")).into_response();
        let Some(secret) = cookie(request.headers()) else {
            return to_sign_in();
        };
        match check(&app, secret).await {
            Ok(caller) => request.extensions_mut().insert(caller),
            Err(AuthError::Store(error)) => return AuthError::Store(error).into_response(),
            Err(_) => return to_sign_in(),
        };
    }
    next.run(request).await
}

/// Whether another site has the browser ask; programs do not say. On plain http
/// browsers name only where the form was, and nothing rewrites `Host` on the way.
fn is_from_elsewhere(headers: &HeaderMap) -> bool {
    let text = |name| headers.get(name).and_then(|value| value.to_str().ok());
    if let Some(site) = text(HeaderName::from_static("sec-fetch-site")) {
        return site == "cross-site";
    }
    let origin = text(header::ORIGIN).map(|origin| origin.strip_prefix("http://"));
    origin.is_some_and(|origin| origin.is_none() || origin != text(header::HOST))
}

/// Pages only show; an agent's token shows nothing.
async fn check(app: &App, secret: &str) -> Result<Caller, AuthError> {
    let caller = authenticate(app, secret).await?;
    if caller.token.role.includes(Role::Viewer) {
        Ok(caller)
    } else {
        Err(AuthError::Role {
            name: caller.token.name,
            role: caller.token.role,
            needed: Role::Viewer,
        })
    }
}

#[derive(Deserialize)]
pub(crate) struct SignInQuery {
    #[serde(default)]
    next: String,
}

pub(crate) async fn sign_in_page(Query(query): Query<SignInQuery>) -> Result<Response, ApiError> {
    page(
        StatusCode::OK,
        &SignInPage {
            next: local(&query.next).to_owned(),
            problem: None,
        },
    )
}

#[derive(Deserialize)]
pub(crate) struct SignIn {
    token: String,
    #[serde(default)]
    next: String,
}

pub(crate) async fn sign_in(
    State(app): State<App>,
    Form(form): Form<SignIn>,
) -> Result<Response, ApiError> {
    let secret = form.token.trim();
    let next = local(&form.next);
    match check(&app, secret).await {
        Ok(_) => {
            let cookie = set_cookie(&app, secret, 30 * 24 * 3600);
            Ok(([(header::SET_COOKIE, cookie)], Redirect::to(next)).into_response())
        }
        Err(error) => {
            let problem = Some(format!("Not signed in: {error}."));
            page(
                StatusCode::UNAUTHORIZED,
                &SignInPage {
                    next: next.to_owned(),
                    problem,
                },
            )
        }
    }
}

pub(crate) async fn sign_out(State(app): State<App>) -> Response {
    (
        [(header::SET_COOKIE, set_cookie(&app, "", 0))],
        Redirect::to("/sign-in"),
    )
        .into_response()
}

fn set_cookie(app: &App, value: &str, seconds: u32) -> String {
    let secure = if app.public_url.starts_with("https://") {
        "; Secure"
    } else {
        ""
    };
    format!("{COOKIE}={value}; Path=/; Max-Age={seconds}; HttpOnly; SameSite=Lax{secure}")
}

fn cookie(headers: &HeaderMap) -> Option<&str> {
    headers
        .get_all(header::COOKIE)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(';'))
        .find_map(|pair| pair.trim().strip_prefix(COOKIE)?.strip_prefix('='))
        .filter(|value| !value.is_empty())
}

/// A path of this site, so that a crafted link cannot send somebody elsewhere
/// after signing in.
fn local(next: &str) -> &str {
    let stays = next.starts_with('/')
        && !next.starts_with("//")
        && !next.contains('\\')
        && !next.contains(char::is_control);
    if stays { next } else { "/" }
}

fn encode(text: &str) -> String {
    use std::fmt::Write as _;

    text.bytes().fold(String::new(), |mut encoded, byte| {
        if byte.is_ascii_alphanumeric() || b"-._~/".contains(&byte) {
            encoded.push(char::from(byte));
        } else {
            let _ = write!(encoded, "%{byte:02X}");
        }
        encoded
    })
}

// Answers

#[expect(clippy::needless_pass_by_value, reason = "goes into map_err")]
fn refused(error: impl Problem) -> ApiError {
    ApiError::from(&error)
}

fn error_page(error: ApiError, request_id: &str) -> Response {
    let status = crate::error::status_of(error.code);
    let title = match status {
        StatusCode::NOT_FOUND => "Not found",
        StatusCode::FORBIDDEN => "Not allowed",
        _ => "That did not work",
    };
    let shown = page(
        status,
        &ErrorPage {
            title: title.into(),
            message: error.message,
            help: error.help,
            request_id: request_id.to_owned(),
        },
    );
    shown.unwrap_or_else(|_| status.into_response())
}

fn page(status: StatusCode, template: &impl Template) -> Result<Response, ApiError> {
    let html = template.render().map_err(|error| {
        tracing::error!(%error, "a page could not be made");
        ApiError {
            code: ErrorCode::Internal,
            message: "the page could not be made".into(),
            help: None,
        }
    })?;
    Ok((
        status,
        [(header::CONTENT_TYPE, "text/html; charset=utf-8")],
        html,
    )
        .into_response())
}

pub(crate) async fn style() -> impl IntoResponse {
    let headers = [
        (header::CONTENT_TYPE, "text/css"),
        (header::CACHE_CONTROL, "public, max-age=300"),
    ];
    (headers, include_str!("../../templates/style.css"))
}

/// Makes errors pages, and closes them.
pub(crate) async fn finish(request: Request, next: Next) -> Response {
    let id = request.headers().get(&REQUEST_ID).cloned();
    let mut response = next.run(request).await;
    if let Some(error) = response.extensions_mut().remove::<ApiError>() {
        let id = id.as_ref().and_then(|id| id.to_str().ok());
        response = error_page(error, id.unwrap_or_default());
    }
    closed(response)
}

/// An error of an address where no page is.
pub(crate) fn nowhere(error: ApiError, request_id: &str) -> Response {
    closed(error_page(error, request_id))
}

/// Nothing from elsewhere is loaded, framed or told where somebody came from.
fn closed(mut response: Response) -> Response {
    let headers = response.headers_mut();
    let fixed = [
        (
            header::CONTENT_SECURITY_POLICY,
            "default-src 'none'; style-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
        ),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::REFERRER_POLICY, "same-origin"),
        (
            HeaderName::from_static("cross-origin-opener-policy"),
            "same-origin",
        ),
    ];
    for (name, value) in fixed {
        headers.insert(name, HeaderValue::from_static(value));
    }
    if !headers.contains_key(header::CACHE_CONTROL) {
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    }
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn after_signing_in_one_stays_here() {
        assert_eq!(local("/deploys/x?y=1"), "/deploys/x?y=1");
        for elsewhere in [
            "https://example.org",
            "//example.org",
            "/\\example.org",
            "/\t/example.org",
            "/\u{1}x",
            "",
            "x",
        ] {
            assert_eq!(local(elsewhere), "/", "{elsewhere}");
        }
    }

    #[test]
    fn finds_its_cookie_among_others() {
        let mut headers = HeaderMap::new();
        headers.insert(
            header::COOKIE,
            HeaderValue::from_static("a=b; updraft_token=x.y.z; updraft_token_old=q"),
        );
        assert_eq!(cookie(&headers), Some("x.y.z"));
    }
}
