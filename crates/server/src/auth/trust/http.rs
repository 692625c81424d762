use axum::extract::{Path, Query, State};
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use axum::{Extension, Form, Json};
use serde::Deserialize;
use updraft_api::ErrorBody;
use updraft_api::trust::{
    CreateTrust, ExchangeToken, ExchangedToken, Exchanges, TrustView, Trusts,
};
use updraft_model::{DeploymentName, TrustId};
use utoipa::IntoParams;

use super::TrustError;
use crate::app::App;
use crate::auth::Caller;

/// The most bytes of a request to exchange an identity.
pub(crate) const MOST_BYTES: usize = 64 << 10;

/// Exchanges a pipeline's identity for a token of 15 minutes (RFC 8693)
#[utoipa::path(post, path = "/api/v1/token", operation_id = "exchange_token", tag = "trusts", security(()),
    request_body(content = ExchangeToken, content_type = "application/x-www-form-urlencoded"),
    responses((status = 200, body = ExchangedToken), (status = "default", body = ErrorBody)))]
pub(crate) async fn exchange(
    State(app): State<App>,
    Form(ask): Form<ExchangeToken>,
) -> Result<impl IntoResponse, TrustError> {
    let exchanged = Box::pin(super::exchange(&app, ask)).await?;
    Ok(([(header::CACHE_CONTROL, "no-store")], Json(exchanged)))
}

/// Trusts a pipeline's identity
#[utoipa::path(post, path = "/api/v1/trusts", operation_id = "create_trust", tag = "trusts", request_body = CreateTrust,
    responses((status = 201, body = TrustView), (status = "default", body = ErrorBody)))]
pub(crate) async fn add(
    State(app): State<App>,
    Extension(caller): Extension<Caller>,
    Json(ask): Json<CreateTrust>,
) -> Result<(StatusCode, Json<TrustView>), TrustError> {
    let trust = super::add(&app, &caller, ask).await?;
    Ok((StatusCode::CREATED, Json(trust)))
}

/// Lists the trusts that the caller may remove
#[utoipa::path(get, path = "/api/v1/trusts", operation_id = "list_trusts", tag = "trusts",
    responses((status = 200, body = Trusts), (status = "default", body = ErrorBody)))]
pub(crate) async fn list(
    State(app): State<App>,
    Extension(caller): Extension<Caller>,
) -> Result<Json<Trusts>, TrustError> {
    let trusts = super::list(&app, &caller).await?;
    Ok(Json(Trusts { trusts }))
}

/// Removes a trust, and ends the tokens that came of it
#[utoipa::path(delete, path = "/api/v1/trusts/{trust}", operation_id = "delete_trust", tag = "trusts", params(("trust" = TrustId, Path)),
    responses((status = 204), (status = "default", body = ErrorBody)))]
pub(crate) async fn remove(
    State(app): State<App>,
    Extension(caller): Extension<Caller>,
    Path(trust): Path<TrustId>,
) -> Result<StatusCode, TrustError> {
    super::remove(&app, &caller, trust).await?;
    Ok(StatusCode::NO_CONTENT)
}

#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(crate) struct LogQuery {
    /// Only those of this Deployment
    deployment: Option<DeploymentName>,
    /// At most this many, up to 1000
    #[serde(default = "usual_limit")]
    limit: u32,
}

const fn usual_limit() -> u32 {
    50
}

/// Lists exchanges of identities, the newest first
#[utoipa::path(get, path = "/api/v1/exchanges", operation_id = "list_exchanges", tag = "trusts", params(LogQuery),
    responses((status = 200, body = Exchanges), (status = "default", body = ErrorBody)))]
pub(crate) async fn log(
    State(app): State<App>,
    Extension(caller): Extension<Caller>,
    Query(query): Query<LogQuery>,
) -> Result<Json<Exchanges>, TrustError> {
    let of = query.deployment.as_ref();
    let exchanges = super::exchanges(&app, &caller, of, query.limit).await?;
    Ok(Json(Exchanges { exchanges }))
}
