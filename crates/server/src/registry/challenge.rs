//! Where a client that may not yet is sent.

use axum::http::request::Parts;
use axum::http::{HeaderMap, Method, header};
use updraft_model::RepositoryName;

use super::Asked;
use super::query::Query;
use crate::app::App;

/// Tells a client where a token for what it asked can be had.
pub(super) fn challenge(app: &App, parts: &Parts) -> String {
    let base = base_url(app, &parts.headers);
    let service = base.split("://").nth(1).unwrap_or_default();
    let scope = scope(parts).map_or_else(String::new, |scope| format!(",scope=\"{scope}\""));
    format!("Bearer realm=\"{base}/v2/token\",service=\"{service}\"{scope}")
}

fn scope(parts: &Parts) -> Option<String> {
    let path = parts.uri.path().strip_prefix("/v2/")?;
    let asked = Asked::parse(path).ok()?;
    let repository = asked.repository()?;
    let is_upload = matches!(asked, Asked::Upload(..));
    let actions = match parts.method {
        Method::GET | Method::HEAD if !is_upload => "pull",
        Method::DELETE if !is_upload => "pull,delete",
        _ => "pull,push",
    };
    let to = format!("repository:{repository}:{actions}");
    // A mount is from somewhere, too.
    let query = Query::of(parts.uri.query());
    let from = query.one("from");
    Some(
        match from.and_then(|from| from.parse::<RepositoryName>().ok()) {
            Some(from) => format!("{to} repository:{from}:pull"),
            None => to,
        },
    )
}

/// How this client reaches the control plane: as its operator says, else as the
/// client itself has come.
fn base_url(app: &App, headers: &HeaderMap) -> String {
    let is_host = |host: &&str| {
        let is_part = |b: u8| b.is_ascii_alphanumeric() || b".-_:[]".contains(&b);
        !host.is_empty() && host.bytes().all(is_part)
    };
    let host = headers.get(header::HOST);
    let host = host.and_then(|host| host.to_str().ok()).filter(is_host);
    match (host, &app.config.public_url) {
        (Some(host), None) => {
            let scheme = app.public_url.split("://").next().unwrap_or("http");
            format!("{scheme}://{host}")
        }
        _ => app.public_url.clone(),
    }
}
