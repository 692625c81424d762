//! What load balancers and Prometheus ask.

use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;

use updraft_api::ErrorCode;

use crate::app::App;
use crate::error::{ApiError, chain};

/// Says that the process is alive
#[utoipa::path(get, path = "/healthz", operation_id = "healthz", tag = "server", security(()), responses((status = 200)))]
pub(crate) async fn alive() -> &'static str {
    "ok\n"
}

/// Says whether requests can be answered: the database is there, and nobody is stopping
#[utoipa::path(get, path = "/readyz", operation_id = "readyz", tag = "server", security(()),
    responses((status = 200), (status = 503, body = updraft_api::ErrorBody)))]
pub(crate) async fn ready(State(app): State<App>) -> Result<&'static str, ApiError> {
    let unavailable = |message: String| ApiError {
        code: ErrorCode::Unavailable,
        message,
        help: None,
    };
    if app.stopping.is_cancelled() {
        return Err(unavailable("the control plane is stopping".into()));
    }
    let asked = async { app.store.read().await?.fact("installation").await };
    match asked.await {
        Ok(_) => Ok("ok\n"),
        Err(error) => {
            tracing::warn!(error = %chain(&error), "not ready");
            Err(unavailable("the database cannot be reached".into()))
        }
    }
}

/// Numbers for Prometheus
#[utoipa::path(get, path = "/metrics", operation_id = "metrics", tag = "server", security(()), responses((status = 200, body = String)))]
pub(crate) async fn metrics(State(app): State<App>) -> impl IntoResponse {
    (
        StatusCode::OK,
        [(
            header::CONTENT_TYPE,
            "application/openmetrics-text; version=1.0.0; charset=utf-8",
        )],
        app.metrics.text(),
    )
}
