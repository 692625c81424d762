use axum::extract::{Path, Query, State};
use axum::http::StatusCode;
use axum::{Extension, Json};
use serde::Deserialize;
use updraft_api::ErrorBody;
use updraft_api::deployment::{
    CreateDeployment, DeploymentDags, DeploymentSettings, DeploymentView, Deployments, StatusView,
};
use updraft_model::{BundleName, DeploymentName};
use utoipa::IntoParams;

use super::DeploymentError;
use crate::app::App;
use crate::auth::Caller;

/// Makes a Deployment
#[utoipa::path(post, path = "/api/v1/deployments", operation_id = "create_deployment", tag = "deployments", request_body = CreateDeployment,
    responses((status = 201, body = DeploymentView), (status = "default", body = ErrorBody)))]
pub(crate) async fn create(
    State(app): State<App>,
    Extension(caller): Extension<Caller>,
    Json(ask): Json<CreateDeployment>,
) -> Result<(StatusCode, Json<DeploymentView>), DeploymentError> {
    let view = super::create(&app, &caller, ask).await?;
    Ok((StatusCode::CREATED, Json(view)))
}

/// Lists the Deployments that the caller may see
#[utoipa::path(get, path = "/api/v1/deployments", operation_id = "list_deployments", tag = "deployments",
    responses((status = 200, body = Deployments), (status = "default", body = ErrorBody)))]
pub(crate) async fn list(
    State(app): State<App>,
    Extension(caller): Extension<Caller>,
) -> Result<Json<Deployments>, DeploymentError> {
    let deployments = super::list(&app, &caller).await?;
    Ok(Json(Deployments { deployments }))
}

/// Shows a Deployment
#[utoipa::path(get, path = "/api/v1/deployments/{deployment}", operation_id = "show_deployment", tag = "deployments",
    params(("deployment" = DeploymentName, Path)),
    responses((status = 200, body = DeploymentView), (status = "default", body = ErrorBody)))]
pub(crate) async fn show(
    State(app): State<App>,
    Extension(caller): Extension<Caller>,
    Path(name): Path<DeploymentName>,
) -> Result<Json<DeploymentView>, DeploymentError> {
    Ok(Json(super::show(&app, &caller, &name).await?))
}

/// Changes a Deployment's settings; what is absent stays
#[utoipa::path(patch, path = "/api/v1/deployments/{deployment}", operation_id = "update_deployment", tag = "deployments",
    params(("deployment" = DeploymentName, Path)), request_body = DeploymentSettings,
    responses((status = 200, body = DeploymentView), (status = "default", body = ErrorBody)))]
pub(crate) async fn update(
    State(app): State<App>,
    Extension(caller): Extension<Caller>,
    Path(name): Path<DeploymentName>,
    Json(settings): Json<DeploymentSettings>,
) -> Result<Json<DeploymentView>, DeploymentError> {
    Ok(Json(super::update(&app, &caller, &name, settings).await?))
}

#[derive(Debug, Default, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(crate) struct DeleteQuery {
    /// Also while agents are connected
    #[serde(default)]
    force: bool,
}

/// Removes a Deployment with its history, agents and tokens
#[utoipa::path(delete, path = "/api/v1/deployments/{deployment}", operation_id = "delete_deployment", tag = "deployments",
    params(("deployment" = DeploymentName, Path), DeleteQuery),
    responses((status = 204), (status = "default", body = ErrorBody)))]
pub(crate) async fn delete(
    State(app): State<App>,
    Extension(caller): Extension<Caller>,
    Path(name): Path<DeploymentName>,
    Query(query): Query<DeleteQuery>,
) -> Result<StatusCode, DeploymentError> {
    super::delete(&app, &caller, &name, query.force).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Tells what runs where
#[utoipa::path(get, path = "/api/v1/deployments/{deployment}/status", operation_id = "deployment_status", tag = "deployments",
    params(("deployment" = DeploymentName, Path)),
    responses((status = 200, body = StatusView), (status = "default", body = ErrorBody)))]
pub(crate) async fn status(
    State(app): State<App>,
    Extension(caller): Extension<Caller>,
    Path(name): Path<DeploymentName>,
) -> Result<Json<StatusView>, DeploymentError> {
    Ok(Json(super::status(&app, &caller, &name).await?))
}

#[derive(Debug, Default, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(crate) struct DagIdsQuery {
    /// A bundle whose ids are not asked for
    besides: Option<BundleName>,
}

/// Tells the ids of the DAGs that its Airflow has, as far as they are known
#[utoipa::path(get, path = "/api/v1/deployments/{deployment}/dag-ids", operation_id = "deployment_dag_ids", tag = "deployments",
    params(("deployment" = DeploymentName, Path), DagIdsQuery),
    responses((status = 200, body = DeploymentDags), (status = "default", body = ErrorBody)))]
pub(crate) async fn dag_ids(
    State(app): State<App>,
    Extension(caller): Extension<Caller>,
    Path(name): Path<DeploymentName>,
    Query(query): Query<DagIdsQuery>,
) -> Result<Json<DeploymentDags>, DeploymentError> {
    let besides = query.besides.as_ref();
    let bundles = super::dag_ids(&app, &caller, &name, besides).await?;
    Ok(Json(DeploymentDags { bundles }))
}
