use axum::extract::{Path, Query, State};
use axum::http::StatusCode;
use axum::{Extension, Json};
use serde::Deserialize;
use updraft_api::ErrorBody;
use updraft_api::agent::{TakePreview, TakenPreview};
use updraft_api::preview::{OpenPreview, OpenedPreview, PreviewView, Previews};
use updraft_model::{DeploymentId, DeploymentName};
use utoipa::IntoParams;

use super::PreviewError;
use crate::app::App;
use crate::auth::Caller;

/// Makes the Preview of a pull request, or has it live on
#[utoipa::path(post, path = "/api/v1/deployments/{deployment}/previews", operation_id = "open_preview", tag = "previews",
    params(("deployment" = DeploymentName, Path)), request_body = OpenPreview,
    responses((status = 200, body = OpenedPreview), (status = "default", body = ErrorBody)))]
pub(crate) async fn open(
    State(app): State<App>,
    Extension(caller): Extension<Caller>,
    Path(from): Path<DeploymentName>,
    Json(ask): Json<OpenPreview>,
) -> Result<Json<OpenedPreview>, PreviewError> {
    Ok(Json(
        Box::pin(super::open(&app, &caller, &from, ask)).await?,
    ))
}

#[derive(Debug, Default, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(crate) struct ListQuery {
    /// Only those that are made from this Deployment
    from: Option<DeploymentName>,
}

/// Lists the Previews that the caller may see
#[utoipa::path(get, path = "/api/v1/previews", operation_id = "list_previews", tag = "previews", params(ListQuery),
    responses((status = 200, body = Previews), (status = "default", body = ErrorBody)))]
pub(crate) async fn list(
    State(app): State<App>,
    Extension(caller): Extension<Caller>,
    Query(query): Query<ListQuery>,
) -> Result<Json<Previews>, PreviewError> {
    let previews = super::list(&app, &caller, query.from.as_ref()).await?;
    Ok(Json(Previews { previews }))
}

/// Shows a Preview
#[utoipa::path(get, path = "/api/v1/previews/{preview}", operation_id = "show_preview", tag = "previews",
    params(("preview" = DeploymentName, Path)),
    responses((status = 200, body = PreviewView), (status = "default", body = ErrorBody)))]
pub(crate) async fn show(
    State(app): State<App>,
    Extension(caller): Extension<Caller>,
    Path(name): Path<DeploymentName>,
) -> Result<Json<PreviewView>, PreviewError> {
    Ok(Json(super::show(&app, &caller, &name).await?))
}

/// Removes a Preview: its agent stops its Airflow and removes its files
#[utoipa::path(delete, path = "/api/v1/previews/{preview}", operation_id = "close_preview", tag = "previews",
    params(("preview" = DeploymentName, Path)),
    responses((status = 204), (status = "default", body = ErrorBody)))]
pub(crate) async fn close(
    State(app): State<App>,
    Extension(caller): Extension<Caller>,
    Path(name): Path<DeploymentName>,
) -> Result<StatusCode, PreviewError> {
    super::close(&app, &caller, &name).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Gives a Preview to an agent of the Deployment that it is made from
#[utoipa::path(post, path = "/api/v1/agent/previews/{preview}/take", operation_id = "take_preview", tag = "agents",
    params(("preview" = DeploymentId, Path)), request_body = TakePreview,
    responses((status = 200, body = TakenPreview), (status = "default", body = ErrorBody)))]
pub(crate) async fn take(
    State(app): State<App>,
    Extension(caller): Extension<Caller>,
    Path(id): Path<DeploymentId>,
    Json(ask): Json<TakePreview>,
) -> Result<Json<TakenPreview>, PreviewError> {
    Ok(Json(super::take(&app, &caller, id, ask).await?))
}
