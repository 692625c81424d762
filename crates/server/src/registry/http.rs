//! Requests to `/v2/`: taken apart, answered by one operation each.

use std::time::Duration;

use axum::Json;
use axum::body::{Body, BodyDataStream};
use axum::extract::{Request, State};
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header};
use axum::response::{IntoResponse, Response};
use bytes::{Bytes, BytesMut};
use futures_util::StreamExt as _;
use serde_json::json;
use updraft_model::{OciDigest, RepositoryName};

use super::asked::Reference;
use super::blob::Wanted;
use super::challenge::challenge;
use super::error::{MOST_MANIFEST, UploadAt};
use super::query::Query;
use super::upload::{Begin, Begun, Part};
use super::{Asked, RegistryError, Visitor, blob, manifest, referrers, tag, token, upload};
use crate::app::App;

const CONTENT_DIGEST: HeaderName = HeaderName::from_static("docker-content-digest");
const UPLOAD_ID: HeaderName = HeaderName::from_static("docker-upload-uuid");
const SUBJECT: HeaderName = HeaderName::from_static("oci-subject");
const TAG: HeaderName = HeaderName::from_static("oci-tag");
const FILTERS: HeaderName = HeaderName::from_static("oci-filters-applied");
const API_VERSION: HeaderName = HeaderName::from_static("docker-distribution-api-version");

/// A client that is refused while it sends hears of it only when somebody goes on
/// reading: for so long, and so much.
const LISTEN_ON: Duration = Duration::from_secs(10);
const LISTEN_TO: usize = 256 << 20;
const MOST_FORM: usize = 64 << 10;

/// Answers a request to the registry.
pub(crate) async fn serve(State(app): State<App>, request: Request) -> Response {
    let (parts, body) = request.into_parts();
    let mut body = body.into_data_stream();
    let answered = Box::pin(answer(&app, &parts, &mut body)).await;
    let mut response = answered.unwrap_or_else(|error| {
        tokio::spawn(listen_on(body));
        error.answer(&challenge(&app, &parts))
    });
    let headers = response.headers_mut();
    headers.insert(API_VERSION, HeaderValue::from_static("registry/2.0"));
    response
}

async fn listen_on(mut body: BodyDataStream) {
    let mut heard = 0;
    let listen = async {
        while let Some(Ok(chunk)) = body.next().await {
            heard += chunk.len();
            if heard > LISTEN_TO {
                break;
            }
        }
    };
    let _ = tokio::time::timeout(LISTEN_ON, listen).await;
}

async fn answer(
    app: &App,
    parts: &Parts,
    body: &mut BodyDataStream,
) -> Result<Response, RegistryError> {
    let path = parts.uri.path();
    let asked = Asked::parse(path.strip_prefix("/v2/").unwrap_or_default())?;
    let query = Query::of(parts.uri.query());
    if asked == Asked::Token {
        return token(app, parts, &query, body).await;
    }
    let visitor = Visitor::of(app, &parts.headers).await?;
    let request = Asking {
        app,
        parts,
        query,
        visitor,
        body,
    };
    match (asked, &parts.method) {
        (Asked::Base, &Method::GET | &Method::HEAD) => Ok(Json(json!({})).into_response()),
        (Asked::Tags(name), &Method::GET) => request.tags(name).await,
        (Asked::Manifest(name, reference), _) => request.manifest(name, reference).await,
        (Asked::Blob(name, digest), _) => request.blob(name, digest).await,
        (Asked::Uploads(name), &Method::POST) => request.begin(name).await,
        (Asked::Upload(repository, id), _) => request.upload(UploadAt { repository, id }).await,
        (Asked::Referrers(name, digest), &Method::GET) => request.referrers(name, digest).await,
        _ => Err(RegistryError::Method),
    }
}

/// A request by somebody who is known.
struct Asking<'a> {
    app: &'a App,
    parts: &'a Parts,
    query: Query<'a>,
    visitor: Visitor,
    body: &'a mut BodyDataStream,
}

impl Asking<'_> {
    async fn tags(self, name: RepositoryName) -> Result<Response, RegistryError> {
        let most = self.query.one("n").and_then(|most| most.parse().ok());
        let last = self.query.one("last");
        let page = tag::list(self.app, &self.visitor, &name, most, last).await?;
        let mut response = Json(page.body).into_response();
        if let Some((most, last)) = page.continues_after {
            let next = format!("</v2/{name}/tags/list?n={most}&last={last}>; rel=\"next\"");
            set(&mut response, header::LINK, &next);
        }
        Ok(response)
    }

    async fn manifest(
        self,
        name: RepositoryName,
        reference: Reference,
    ) -> Result<Response, RegistryError> {
        let (app, visitor, headers) = (self.app, &self.visitor, &self.parts.headers);
        match self.parts.method {
            Method::GET | Method::HEAD => {
                let (found, bytes) = manifest::fetch(app, visitor, &name, &reference).await?;
                // To a HEAD, hyper sends the head alone.
                let mut response = bytes.into_response();
                set(&mut response, header::CONTENT_TYPE, &found.media_type);
                name_content(&mut response, &found.digest);
                Ok(response)
            }
            Method::PUT => {
                let push = manifest::Push {
                    reference,
                    tags: self.query.tags()?,
                    media_type: content_type(headers),
                    bytes: small(self.body, MOST_MANIFEST, length(headers)).await?,
                };
                let tags = push.tags.clone();
                let taken = manifest::push(app, visitor, &name, push).await?;
                let location = format!("/v2/{name}/manifests/{}", taken.digest);
                let mut response = created(&location, &taken.digest);
                if let Some(subject) = taken.subject {
                    set(&mut response, SUBJECT, &subject.to_string());
                }
                for tag in tags {
                    if let Ok(value) = HeaderValue::from_str(tag.as_str()) {
                        response.headers_mut().append(TAG, value);
                    }
                }
                Ok(response)
            }
            Method::DELETE => {
                manifest::delete(app, visitor, &name, &reference).await?;
                Ok(StatusCode::ACCEPTED.into_response())
            }
            _ => Err(RegistryError::Method),
        }
    }

    async fn blob(
        self,
        name: RepositoryName,
        digest: OciDigest,
    ) -> Result<Response, RegistryError> {
        match self.parts.method {
            Method::GET | Method::HEAD => {
                let download = blob::open(self.app, &self.visitor, &name, &digest).await?;
                send(download, &digest, self.parts)
            }
            Method::DELETE => {
                blob::delete(self.app, &self.visitor, &name, &digest).await?;
                Ok(StatusCode::ACCEPTED.into_response())
            }
            _ => Err(RegistryError::Method),
        }
    }

    async fn begin(self, repository: RepositoryName) -> Result<Response, RegistryError> {
        let from = self.query.one("from");
        let ask = Begin {
            // From a repository that cannot be is from none that the caller may pull.
            mount: match from.map(str::parse) {
                None => self.query.digest("mount")?.map(|digest| (digest, None)),
                Some(Ok(from)) => self
                    .query
                    .digest("mount")?
                    .map(|digest| (digest, Some(from))),
                Some(Err(_)) => None,
            },
            digest: self.query.digest("digest")?,
            length: length(&self.parts.headers),
        };
        match upload::begin(self.app, &self.visitor, &repository, ask, self.body).await? {
            Begun::Blob(digest) => Ok(blob_created(&repository, &digest)),
            Begun::Upload(id) => {
                let at = UploadAt { repository, id };
                Ok(under_way(StatusCode::ACCEPTED, &at, 0))
            }
        }
    }

    async fn upload(self, at: UploadAt) -> Result<Response, RegistryError> {
        let (app, visitor, headers) = (self.app, &self.visitor, &self.parts.headers);
        match self.parts.method {
            Method::GET | Method::HEAD => {
                let length = upload::status(app, visitor, &at).await?;
                Ok(under_way(StatusCode::NO_CONTENT, &at, length))
            }
            Method::PATCH => {
                let part = part(headers)?;
                let length = upload::append(app, visitor, &at, part, self.body).await?;
                Ok(under_way(StatusCode::ACCEPTED, &at, length))
            }
            Method::PUT => {
                let digest = self.query.digest("digest")?;
                let digest = digest.ok_or(RegistryError::NoDigest("digest"))?;
                let part = part(headers)?;
                upload::end(app, visitor, &at, &digest, part, self.body).await?;
                Ok(blob_created(&at.repository, &digest))
            }
            Method::DELETE => {
                upload::cancel(app, visitor, &at).await?;
                Ok(StatusCode::NO_CONTENT.into_response())
            }
            _ => Err(RegistryError::Method),
        }
    }

    async fn referrers(
        self,
        name: RepositoryName,
        digest: OciDigest,
    ) -> Result<Response, RegistryError> {
        let artifact_type = self.query.one("artifactType");
        let index = referrers::list(self.app, &self.visitor, &name, &digest, artifact_type).await?;
        let mut response = Json(index).into_response();
        set(&mut response, header::CONTENT_TYPE, manifest::INDEX);
        if artifact_type.is_some() {
            set(&mut response, FILTERS, "artifactType");
        }
        Ok(response)
    }
}

/// Gives a short-lived token, to a `GET` with a password or a form as OAuth 2 has it.
async fn token(
    app: &App,
    parts: &Parts,
    query: &Query<'_>,
    body: &mut BodyDataStream,
) -> Result<Response, RegistryError> {
    match parts.method {
        Method::GET => {
            let visitor = Visitor::of(app, &parts.headers).await?;
            token::issue(app, &visitor, &query.all("scope")).await
        }
        Method::POST => {
            let form = small(body, MOST_FORM, length(&parts.headers)).await?;
            let form = String::from_utf8_lossy(&form).into_owned();
            let form = Query::of(Some(&form));
            let secret = form.one("password").or(form.one("refresh_token"));
            let mut headers = HeaderMap::new();
            if let Some(secret) = secret
                && let Ok(value) = HeaderValue::from_str(&format!("Bearer {secret}"))
            {
                headers.insert(header::AUTHORIZATION, value);
            }
            let visitor = Visitor::of(app, &headers).await?;
            token::issue(app, &visitor, &form.all("scope")).await
        }
        _ => Err(RegistryError::Method),
    }
}

/// Reads a body that is small or refused.
async fn small(
    body: &mut BodyDataStream,
    most: usize,
    length: Option<u64>,
) -> Result<Bytes, RegistryError> {
    if length.is_some_and(|length| length > most as u64) {
        return Err(RegistryError::ManifestTooLarge);
    }
    let mut bytes = BytesMut::new();
    loop {
        let chunk = tokio::time::timeout(Duration::from_secs(60), body.next()).await;
        let chunk = chunk.map_err(|_| RegistryError::UploadStopped)?;
        let Some(chunk) = chunk else {
            return Ok(bytes.freeze());
        };
        let chunk = chunk.map_err(|_| RegistryError::UploadBroke)?;
        if bytes.len() + chunk.len() > most {
            return Err(RegistryError::ManifestTooLarge);
        }
        bytes.extend_from_slice(&chunk);
    }
}

fn send(
    download: updraft_blob::Download,
    digest: &OciDigest,
    parts: &Parts,
) -> Result<Response, RegistryError> {
    let is_head = parts.method == Method::HEAD;
    let size = download.size();
    let range = text(&parts.headers, &header::RANGE);
    let wanted = blob::wanted(range.filter(|_| !is_head), size)?;
    let (status, range) = match wanted {
        Wanted::Whole => (StatusCode::OK, 0..size),
        Wanted::Part(range) => (StatusCode::PARTIAL_CONTENT, range),
    };
    let length = range.end - range.start;
    let part = (status == StatusCode::PARTIAL_CONTENT)
        .then(|| format!("bytes {}-{}/{size}", range.start, range.end - 1));
    let body = if is_head {
        Body::empty()
    } else {
        Body::from_stream(download.stream(range))
    };
    let mut response = (status, body).into_response();
    set(&mut response, header::CONTENT_LENGTH, &length.to_string());
    set(
        &mut response,
        header::CONTENT_TYPE,
        "application/octet-stream",
    );
    set(&mut response, header::ACCEPT_RANGES, "bytes");
    if let Some(part) = part {
        set(&mut response, header::CONTENT_RANGE, &part);
    }
    name_content(&mut response, digest);
    Ok(response)
}

fn name_content(response: &mut Response, digest: &OciDigest) {
    set(response, CONTENT_DIGEST, &digest.to_string());
    set(response, header::ETAG, &format!("\"{digest}\""));
}

fn created(location: &str, digest: &OciDigest) -> Response {
    let mut response = StatusCode::CREATED.into_response();
    set(&mut response, header::LOCATION, location);
    set(&mut response, CONTENT_DIGEST, &digest.to_string());
    response
}

fn blob_created(repository: &RepositoryName, digest: &OciDigest) -> Response {
    created(&format!("/v2/{repository}/blobs/{digest}"), digest)
}

fn under_way(status: StatusCode, at: &UploadAt, length: u64) -> Response {
    let mut response = status.into_response();
    set(&mut response, header::LOCATION, &at.location());
    let last = length.saturating_sub(1);
    set(&mut response, header::RANGE, &format!("0-{last}"));
    set(&mut response, UPLOAD_ID, &at.id.to_string());
    response
}

fn set(response: &mut Response, name: HeaderName, value: &str) {
    if let Ok(value) = HeaderValue::from_str(value) {
        response.headers_mut().insert(name, value);
    }
}

fn text<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Option<&'a str> {
    headers.get(name)?.to_str().ok()
}

fn length(headers: &HeaderMap) -> Option<u64> {
    text(headers, &header::CONTENT_LENGTH)?.parse().ok()
}

/// The media type without what may follow it.
fn content_type(headers: &HeaderMap) -> Option<String> {
    let value = text(headers, &header::CONTENT_TYPE)?;
    let media_type = value.split(';').next().unwrap_or_default().trim();
    Some(media_type.to_owned())
}

/// What a request says of the bytes that it brings: `0-99`, also as HTTP writes it.
fn part(headers: &HeaderMap) -> Result<Part, RegistryError> {
    let length = length(headers);
    let Some(given) = text(headers, &header::CONTENT_RANGE) else {
        return Ok(Part {
            range: None,
            length,
        });
    };
    let invalid = || RegistryError::InvalidRange(given.chars().take(80).collect());
    let range = given.trim();
    let range = range.strip_prefix("bytes").unwrap_or(range);
    let range = range.trim_start_matches(['=', ' ']);
    let range = range.split('/').next().unwrap_or_default();
    let (first, last) = range.split_once('-').ok_or_else(invalid)?;
    let number = |text: &str| text.trim().parse::<u64>().map_err(|_| invalid());
    let (first, last) = (number(first)?, number(last)?);
    // Of nothing there is no last byte: some clients write 0-0 or 5-4 then.
    if length == Some(0) {
        return Ok(Part {
            range: None,
            length,
        });
    }
    if last < first || last == u64::MAX {
        return Err(invalid());
    }
    Ok(Part {
        range: Some((first, last)),
        length,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_part_comes() {
        let read = |range: &str, length: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(header::CONTENT_RANGE, range.parse().unwrap());
            headers.insert(header::CONTENT_LENGTH, length.parse().unwrap());
            part(&headers).ok().map(|part| part.range)
        };
        for good in ["5-9", "bytes 5-9/*", "bytes=5-9", " 5-9 "] {
            assert_eq!(read(good, "5"), Some(Some((5, 9))), "{good}");
        }
        assert_eq!(read("0-0", "0"), Some(None));
        for wrong in ["", "5", "9-5", "-5", "a-b", "0-18446744073709551615"] {
            assert_eq!(read(wrong, "5"), None, "{wrong}");
        }
    }
}
