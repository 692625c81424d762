//! The API's description of itself.

use axum::extract::State;
use axum::http::header;
use axum::response::IntoResponse;
use utoipa::openapi::schema::{KnownFormat, SchemaFormat, Type};
use utoipa::openapi::security::{HttpAuthScheme, HttpBuilder, SecurityRequirement, SecurityScheme};
use utoipa::openapi::{ObjectBuilder, RefOr, Schema};
use utoipa::{Modify, OpenApi};

use crate::app::App;

#[derive(OpenApi)]
#[openapi(
    info(
        title = "Updraft",
        description = "The control plane's API. Every error has the same body, with a code that never changes its meaning.",
        license(name = "Apache-2.0", identifier = "Apache-2.0")
    ),
    modifiers(&BearerToken),
    tags(
        (name = "deployments", description = "What is deployed to"),
        (name = "previews", description = "Deployments that live as long as a pull request"),
        (name = "deploys", description = "Comparing, creating, uploading, accepting, following, undoing"),
        (name = "tokens", description = "Who may do what"),
        (name = "trusts", description = "Pipelines that deploy without a token of ours"),
        (name = "agents", description = "What agents ask and tell"),
        (name = "server", description = "About the control plane itself")
    )
)]
pub(crate) struct Document;

struct BearerToken;

impl Modify for BearerToken {
    fn modify(&self, document: &mut utoipa::openapi::OpenApi) {
        let scheme = HttpBuilder::new()
            .scheme(HttpAuthScheme::Bearer)
            .bearer_format("JWT")
            .build();
        if let Some(components) = &mut document.components {
            components.add_security_scheme("token", SecurityScheme::Http(scheme));
        }
        document.security = Some(vec![SecurityRequirement::new("token", [""; 0])]);
    }
}

/// Bytes, whichever: a body that is not JSON.
pub(crate) struct Binary;

impl utoipa::PartialSchema for Binary {
    fn schema() -> RefOr<Schema> {
        ObjectBuilder::new()
            .schema_type(Type::String)
            .format(Some(SchemaFormat::KnownFormat(KnownFormat::Binary)))
            .build()
            .into()
    }
}

impl utoipa::ToSchema for Binary {}

/// The document as text, with a line break at its end.
pub(crate) fn text(document: &utoipa::openapi::OpenApi) -> String {
    let mut text = document
        .to_pretty_json()
        .expect("the document is plain data");
    text.push('\n');
    text
}

/// Describes this API
#[utoipa::path(get, path = "/api/v1/openapi.json", operation_id = "openapi_document", tag = "server", security(()),
    responses((status = 200, description = "An OpenAPI 3.1 document", content_type = "application/json")))]
pub(crate) async fn serve(State(app): State<App>) -> impl IntoResponse {
    (
        [(header::CONTENT_TYPE, "application/json")],
        app.openapi.get().cloned().unwrap_or_default(),
    )
}
