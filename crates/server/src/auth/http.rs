use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::{Extension, Json};
use updraft_api::token::{CreateToken, Enroll, NewEnrollmentCode, NewToken, Tokens, WhoAmI};
use updraft_api::{ErrorBody, VERSION};
use updraft_model::{DeploymentName, TokenId};

use super::{
    Caller, TokenError, create_enrollment_code, create_token, enroll, list_tokens, revoke_token,
    token_view,
};
use crate::app::App;

/// Says whose token this is
#[utoipa::path(get, path = "/api/v1/whoami", operation_id = "whoami", tag = "tokens",
    responses((status = 200, body = WhoAmI), (status = "default", body = ErrorBody)))]
pub(crate) async fn whoami(Extension(caller): Extension<Caller>) -> Json<WhoAmI> {
    Json(WhoAmI {
        token: token_view(caller.token),
        server_version: VERSION.into(),
    })
}

/// Makes a token; its secret is shown once
#[utoipa::path(post, path = "/api/v1/tokens", operation_id = "create_token", tag = "tokens", request_body = CreateToken,
    responses((status = 201, body = NewToken), (status = "default", body = ErrorBody)))]
pub(crate) async fn create(
    State(app): State<App>,
    Extension(caller): Extension<Caller>,
    Json(ask): Json<CreateToken>,
) -> Result<(StatusCode, Json<NewToken>), TokenError> {
    let new = create_token(&app, &caller, ask).await?;
    Ok((StatusCode::CREATED, Json(new)))
}

/// Lists the tokens that the caller may revoke
#[utoipa::path(get, path = "/api/v1/tokens", operation_id = "list_tokens", tag = "tokens",
    responses((status = 200, body = Tokens), (status = "default", body = ErrorBody)))]
pub(crate) async fn list(
    State(app): State<App>,
    Extension(caller): Extension<Caller>,
) -> Result<Json<Tokens>, TokenError> {
    let tokens = list_tokens(&app, &caller).await?;
    Ok(Json(Tokens { tokens }))
}

/// Revokes a token
#[utoipa::path(delete, path = "/api/v1/tokens/{token}", operation_id = "revoke_token", tag = "tokens", params(("token" = TokenId, Path)),
    responses((status = 204), (status = "default", body = ErrorBody)))]
pub(crate) async fn revoke(
    State(app): State<App>,
    Extension(caller): Extension<Caller>,
    Path(token): Path<TokenId>,
) -> Result<StatusCode, TokenError> {
    revoke_token(&app, &caller, token).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Makes a one-time code for an agent
#[utoipa::path(post, path = "/api/v1/deployments/{deployment}/enrollment-codes", operation_id = "create_enrollment_code", tag = "agents",
    params(("deployment" = DeploymentName, Path)),
    responses((status = 201, body = NewEnrollmentCode), (status = "default", body = ErrorBody)))]
pub(crate) async fn create_code(
    State(app): State<App>,
    Extension(caller): Extension<Caller>,
    Path(name): Path<DeploymentName>,
) -> Result<(StatusCode, Json<NewEnrollmentCode>), TokenError> {
    let code = create_enrollment_code(&app, &caller, &name).await?;
    Ok((StatusCode::CREATED, Json(code)))
}

/// Trades a one-time code for an agent's token
#[utoipa::path(post, path = "/api/v1/agent/enroll", operation_id = "enroll_agent", tag = "agents", request_body = Enroll,
    responses((status = 201, body = NewToken), (status = "default", body = ErrorBody)))]
pub(crate) async fn enroll_agent(
    State(app): State<App>,
    Json(ask): Json<Enroll>,
) -> Result<(StatusCode, Json<NewToken>), TokenError> {
    let new = enroll(&app, ask).await?;
    Ok((StatusCode::CREATED, Json(new)))
}
