use std::time::Duration;

use axum::body::Body;
use axum::extract::{Path, Query, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::{Extension, Json};
use serde::Deserialize;
use updraft_api::ErrorBody;
use updraft_api::deploy::{
    AcceptDeploy, Comparison, ComparisonOutcome, CreateDeploy, DeployView, Deploys, DiffView,
    LiftedHold, PlanRequest, PromoteRequest, Promotion, PromotionSource, RollbackRequest,
    WithdrawDeploy,
};
use updraft_model::{DeployId, DeploymentName, Digest};
use utoipa::IntoParams;

use super::DeployError;
use crate::app::App;
use crate::auth::Caller;
use crate::bundle;
use crate::openapi::Binary;

/// Says what a deploy would change; records nothing
#[utoipa::path(post, path = "/api/v1/deployments/{deployment}/plan", operation_id = "plan_deploy", tag = "deploys",
    params(("deployment" = DeploymentName, Path)), request_body = PlanRequest,
    responses((status = 200, body = Comparison), (status = "default", body = ErrorBody)))]
pub(crate) async fn plan(
    State(app): State<App>,
    Extension(caller): Extension<Caller>,
    Path(name): Path<DeploymentName>,
    Json(ask): Json<PlanRequest>,
) -> Result<Json<Comparison>, DeployError> {
    Ok(Json(super::plan(&app, &caller, &name, ask).await?))
}

/// Records a deploy when there is something to do
#[utoipa::path(post, path = "/api/v1/deployments/{deployment}/deploys", operation_id = "create_deploy", tag = "deploys",
    params(("deployment" = DeploymentName, Path)), request_body = CreateDeploy,
    responses((status = 200, body = Comparison, description = "Equal to what is wanted"),
        (status = 201, body = Comparison, description = "Recorded"), (status = "default", body = ErrorBody)))]
pub(crate) async fn create(
    State(app): State<App>,
    Extension(caller): Extension<Caller>,
    Path(name): Path<DeploymentName>,
    Json(ask): Json<CreateDeploy>,
) -> Result<(StatusCode, Json<Comparison>), DeployError> {
    let comparison = super::create(&app, &caller, &name, ask).await?;
    let status = match comparison.outcome {
        ComparisonOutcome::Changes => StatusCode::CREATED,
        ComparisonOutcome::NothingToDo
        | ComparisonOutcome::RollingOut
        | ComparisonOutcome::ProvingAgain => StatusCode::OK,
    };
    Ok((status, Json(comparison)))
}

/// Takes blobs that a deploy names and the control plane lacks
#[utoipa::path(put, path = "/api/v1/deploys/{deploy}/blobs", operation_id = "upload_blobs", tag = "deploys", params(("deploy" = DeployId, Path)),
    request_body(content = Binary, content_type = updraft_api::frames::CONTENT_TYPE),
    responses((status = 204), (status = "default", body = ErrorBody)))]
pub(crate) async fn upload(
    State(app): State<App>,
    Extension(caller): Extension<Caller>,
    Path(id): Path<DeployId>,
    body: Body,
) -> Result<StatusCode, DeployError> {
    super::upload(&app, &caller, id, body).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Makes a deploy's Release the wanted one
#[utoipa::path(post, path = "/api/v1/deploys/{deploy}/accept", operation_id = "accept_deploy", tag = "deploys", params(("deploy" = DeployId, Path)),
    request_body = AcceptDeploy, responses((status = 200, body = DeployView), (status = "default", body = ErrorBody)))]
pub(crate) async fn accept(
    State(app): State<App>,
    Extension(caller): Extension<Caller>,
    Path(id): Path<DeployId>,
    Json(ask): Json<AcceptDeploy>,
) -> Result<Json<DeployView>, DeployError> {
    Ok(Json(super::accept(&app, &caller, id, ask).await?))
}

/// Gives up a deploy that was not accepted, because its checks failed
#[utoipa::path(post, path = "/api/v1/deploys/{deploy}/withdraw", operation_id = "withdraw_deploy", tag = "deploys", params(("deploy" = DeployId, Path)),
    request_body = WithdrawDeploy, responses((status = 200, body = DeployView), (status = "default", body = ErrorBody)))]
pub(crate) async fn withdraw(
    State(app): State<App>,
    Extension(caller): Extension<Caller>,
    Path(id): Path<DeployId>,
    Json(ask): Json<WithdrawDeploy>,
) -> Result<Json<DeployView>, DeployError> {
    Ok(Json(super::withdraw(&app, &caller, id, ask).await?))
}

#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(crate) struct FollowQuery {
    /// Answer once the deploy's revision is larger than this
    seen: Option<i64>,
    /// Seconds to wait for that, at most 60
    #[serde(default)]
    wait_s: u64,
}

/// Shows a deploy, now or once it changed
#[utoipa::path(get, path = "/api/v1/deploys/{deploy}", operation_id = "show_deploy", tag = "deploys",
    params(("deploy" = DeployId, Path), FollowQuery),
    responses((status = 200, body = DeployView), (status = "default", body = ErrorBody)))]
pub(crate) async fn show(
    State(app): State<App>,
    Extension(caller): Extension<Caller>,
    Path(id): Path<DeployId>,
    Query(query): Query<FollowQuery>,
) -> Result<Json<DeployView>, DeployError> {
    let view = match query.seen {
        Some(seen) => {
            super::follow(&app, &caller, id, seen, Duration::from_secs(query.wait_s)).await?
        }
        None => super::show(&app, &caller, id).await?,
    };
    Ok(Json(view))
}

#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(crate) struct HistoryQuery {
    /// Deploys to list, at most 200 (default 20)
    limit: Option<u32>,
    /// Only deploys older than this one
    before: Option<DeployId>,
}

/// Lists a Deployment's deploys, newest first
#[utoipa::path(get, path = "/api/v1/deployments/{deployment}/deploys", operation_id = "list_deploys", tag = "deploys",
    params(("deployment" = DeploymentName, Path), HistoryQuery),
    responses((status = 200, body = Deploys), (status = "default", body = ErrorBody)))]
pub(crate) async fn history(
    State(app): State<App>,
    Extension(caller): Extension<Caller>,
    Path(name): Path<DeploymentName>,
    Query(query): Query<HistoryQuery>,
) -> Result<Json<Deploys>, DeployError> {
    let limit = query.limit.unwrap_or(20);
    let deploys = super::history(&app, &caller, &name, limit, query.before).await?;
    Ok(Json(Deploys { deploys }))
}

/// Makes an earlier Release the wanted one again
#[utoipa::path(post, path = "/api/v1/deployments/{deployment}/rollbacks", operation_id = "roll_back", tag = "deploys",
    params(("deployment" = DeploymentName, Path)), request_body = RollbackRequest,
    responses((status = 200, body = DeployView), (status = "default", body = ErrorBody)))]
pub(crate) async fn rollback(
    State(app): State<App>,
    Extension(caller): Extension<Caller>,
    Path(name): Path<DeploymentName>,
    Json(ask): Json<RollbackRequest>,
) -> Result<Json<DeployView>, DeployError> {
    Ok(Json(super::rollback(&app, &caller, &name, ask).await?))
}

/// Says what a promotion would change; records nothing
#[utoipa::path(post, path = "/api/v1/deployments/{deployment}/promotions/plan", operation_id = "plan_promotion", tag = "deploys",
    params(("deployment" = DeploymentName, Path)), request_body = PromotionSource,
    responses((status = 200, body = Promotion), (status = "default", body = ErrorBody)))]
pub(crate) async fn plan_promotion(
    State(app): State<App>,
    Extension(caller): Extension<Caller>,
    Path(name): Path<DeploymentName>,
    Json(source): Json<PromotionSource>,
) -> Result<Json<Promotion>, DeployError> {
    let planned = super::plan_promotion(&app, &caller, &name, &source);
    Ok(Json(Box::pin(planned).await?))
}

/// Deploys what another Deployment has
#[utoipa::path(post, path = "/api/v1/deployments/{deployment}/promotions", operation_id = "promote", tag = "deploys",
    params(("deployment" = DeploymentName, Path)), request_body = PromoteRequest,
    responses((status = 200, body = Promotion), (status = "default", body = ErrorBody)))]
pub(crate) async fn promote(
    State(app): State<App>,
    Extension(caller): Extension<Caller>,
    Path(name): Path<DeploymentName>,
    Json(ask): Json<PromoteRequest>,
) -> Result<Json<Promotion>, DeployError> {
    let promoted = super::promote(&app, &caller, &name, ask);
    Ok(Json(Box::pin(promoted).await?))
}

/// Lets what was rolled back come back
#[utoipa::path(delete, path = "/api/v1/deployments/{deployment}/hold", operation_id = "lift_hold", tag = "deploys",
    params(("deployment" = DeploymentName, Path)),
    responses((status = 200, body = LiftedHold), (status = "default", body = ErrorBody)))]
pub(crate) async fn lift_hold(
    State(app): State<App>,
    Extension(caller): Extension<Caller>,
    Path(name): Path<DeploymentName>,
) -> Result<Json<LiftedHold>, DeployError> {
    Ok(Json(super::lift_hold(&app, &caller, &name).await?))
}

#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(crate) struct DiffQuery {
    /// The deploy to compare with; by default the given one with what was wanted before it
    to: Option<DeployId>,
}

/// Compares two deploys' Releases
#[utoipa::path(get, path = "/api/v1/deploys/{deploy}/diff", operation_id = "diff_deploys", tag = "deploys",
    params(("deploy" = DeployId, Path), DiffQuery),
    responses((status = 200, body = DiffView), (status = "default", body = ErrorBody)))]
pub(crate) async fn diff(
    State(app): State<App>,
    Extension(caller): Extension<Caller>,
    Path(id): Path<DeployId>,
    Query(query): Query<DiffQuery>,
) -> Result<Json<DiffView>, DeployError> {
    Ok(Json(super::diff(&app, &caller, id, query.to).await?))
}

/// Reads a blob that a Release of the Deployment names
#[utoipa::path(get, path = "/api/v1/deployments/{deployment}/blobs/{digest}", operation_id = "read_blob", tag = "deploys",
    params(("deployment" = DeploymentName, Path), ("digest" = Digest, Path)),
    responses((status = 200, body = Binary, content_type = "application/octet-stream"),
        (status = "default", body = ErrorBody)))]
pub(crate) async fn blob(
    State(app): State<App>,
    Extension(caller): Extension<Caller>,
    Path((name, digest)): Path<(DeploymentName, Digest)>,
) -> Result<Response, DeployError> {
    let bytes = bundle::blob(&app, &caller, &name, digest).await?;
    Ok(([(header::CONTENT_TYPE, "application/octet-stream")], bytes).into_response())
}
