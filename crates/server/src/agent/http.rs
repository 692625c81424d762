use std::time::Duration;

use axum::extract::{Query, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::{Extension, Json};
use serde::Deserialize;
use updraft_api::agent::{DagIdsReport, FetchBlobs, Report, ReportAnswer, Wanted};
use updraft_api::{ErrorBody, frames};
use updraft_model::AgentId;
use utoipa::IntoParams;

use super::wanted::Ask;
use crate::app::App;
use crate::auth::Caller;
use crate::deploy::DeployError;
use crate::openapi::Binary;

#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(crate) struct WantedQuery {
    /// The generation that the agent has; 0 for none
    #[serde(default)]
    generation: i64,
    /// Seconds to wait for another one, at most 60
    #[serde(default)]
    wait_s: u64,
    /// Which agent asks: waiting renews its lease
    agent: Option<AgentId>,
}

/// Tells an agent what to make true, once it is something else
#[utoipa::path(get, path = "/api/v1/agent/wanted", operation_id = "wanted", tag = "agents", params(WantedQuery),
    responses((status = 200, body = Wanted), (status = 204, description = "No news"),
        (status = "default", body = ErrorBody)))]
pub(crate) async fn wanted(
    State(app): State<App>,
    Extension(caller): Extension<Caller>,
    Query(query): Query<WantedQuery>,
) -> Result<Response, DeployError> {
    let ask = Ask {
        generation: query.generation,
        wait: Duration::from_secs(query.wait_s),
        agent: query.agent,
    };
    Ok(match Box::pin(super::wanted(&app, &caller, ask)).await? {
        Some(wanted) => Json(wanted).into_response(),
        None => StatusCode::NO_CONTENT.into_response(),
    })
}

/// Takes what an agent sees
#[utoipa::path(post, path = "/api/v1/agent/report", operation_id = "report", tag = "agents", request_body = Report,
    responses((status = 200, body = ReportAnswer), (status = "default", body = ErrorBody)))]
pub(crate) async fn report(
    State(app): State<App>,
    Extension(caller): Extension<Caller>,
    Json(report): Json<Report>,
) -> Result<Json<ReportAnswer>, DeployError> {
    let answer = Box::pin(super::report(&app, &caller, report)).await?;
    Ok(Json(answer))
}

/// Takes the ids of the DAGs that an agent's Airflow has
#[utoipa::path(post, path = "/api/v1/agent/dag-ids", operation_id = "report_dag_ids", tag = "agents", request_body = DagIdsReport,
    responses((status = 204), (status = "default", body = ErrorBody)))]
pub(crate) async fn dag_ids(
    State(app): State<App>,
    Extension(caller): Extension<Caller>,
    Json(told): Json<DagIdsReport>,
) -> Result<StatusCode, DeployError> {
    super::keep_dag_ids(&app, &caller, told).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Sends an agent the blobs that it lacks
#[utoipa::path(post, path = "/api/v1/agent/blobs", operation_id = "fetch_blobs", tag = "agents", request_body = FetchBlobs,
    responses((status = 200, body = Binary, content_type = frames::CONTENT_TYPE),
        (status = "default", body = ErrorBody)))]
pub(crate) async fn blobs(
    State(app): State<App>,
    Extension(caller): Extension<Caller>,
    Json(ask): Json<FetchBlobs>,
) -> Result<Response, DeployError> {
    let body = super::fetch(&app, &caller, ask).await?;
    Ok(([(header::CONTENT_TYPE, frames::CONTENT_TYPE)], body).into_response())
}
