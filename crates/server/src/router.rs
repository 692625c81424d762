//! Every route, with what it asks of who calls it.

use std::time::Duration;

use axum::Router;
use axum::extract::DefaultBodyLimit;
use axum::middleware::{from_fn, from_fn_with_state};
use axum::routing::{MethodRouter, any, get, post};
use tower_http::catch_panic::CatchPanicLayer;
use tower_http::timeout::TimeoutLayer;
use updraft_model::Role;
use utoipa::OpenApi as _;
use utoipa::openapi::OpenApi;
use utoipa::openapi::path::PathItem;
use utoipa_axum::router::{OpenApiRouter, UtoipaMethodRouter, UtoipaMethodRouterExt as _};
use utoipa_axum::routes;

use crate::app::App;
use crate::auth::{Guard, Needs, authorise};
use crate::{
    agent, auth, dashboard, deploy, deployment, install, openapi, preview, probes, registry,
    request,
};

/// A route, as the router knows it and as the test of its guard asks for it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Route {
    pub method: &'static str,
    pub path: String,
    pub needs: Needs,
    /// For people: signed in to with a cookie, and no part of the API.
    pub is_page: bool,
}

/// How long an answer may take.
#[derive(Debug, Clone, Copy)]
enum Takes {
    /// A moment.
    Short,
    /// As long as its own limits allow: it waits, or moves many bytes.
    Long,
}

const SHORT: Duration = Duration::from_secs(60);

struct Routes {
    app: App,
    router: OpenApiRouter<App>,
    pages: Router<App>,
    registry: Router<App>,
    table: Vec<Route>,
}

impl Routes {
    fn add(&mut self, needs: Needs, takes: Takes, route: UtoipaMethodRouter<App>) {
        self.guarded(needs, takes, false, route);
    }

    /// One that brings a deploy to its end, also when the pipeline's token that
    /// began it has expired meanwhile.
    fn add_of_deploy(&mut self, needs: Needs, takes: Takes, route: UtoipaMethodRouter<App>) {
        self.guarded(needs, takes, true, route);
    }

    fn guarded(
        &mut self,
        needs: Needs,
        takes: Takes,
        is_of_deploy: bool,
        route: UtoipaMethodRouter<App>,
    ) {
        for (path, item) in &route.1.paths {
            self.table.extend(methods(item).map(|method| Route {
                method,
                path: path.clone(),
                needs,
                is_page: false,
            }));
        }
        let guard = Guard {
            app: self.app.clone(),
            needs,
            is_of_deploy,
        };
        let guard = from_fn_with_state(guard, authorise);
        let route = match takes {
            Takes::Short => route.layer(in_a_moment()),
            Takes::Long => route,
        };
        let router = std::mem::take(&mut self.router);
        self.router = router.routes(route.layer(guard));
    }

    /// It has another way to sign in and its own errors, and repositories' names
    /// hold slashes: it guards itself.
    fn registry(&mut self) {
        for path in ["/v2/", "/v2/{*rest}"] {
            self.table.push(Route {
                method: "ANY",
                path: path.to_owned(),
                needs: Needs::Nothing,
                is_page: false,
            });
            let registry = std::mem::take(&mut self.registry);
            self.registry = registry.route(path, any(registry::http::serve));
        }
    }

    fn page(&mut self, needs: Needs, method: &'static str, path: &str, page: MethodRouter<App>) {
        self.table.push(Route {
            method,
            path: path.to_owned(),
            needs,
            is_page: true,
        });
        let guard = from_fn_with_state((self.app.clone(), needs), dashboard::guard);
        let page = page.layer(in_a_moment()).layer(guard);
        self.pages = std::mem::take(&mut self.pages).route(path, page);
    }
}

fn in_a_moment() -> TimeoutLayer {
    TimeoutLayer::with_status_code(axum::http::StatusCode::GATEWAY_TIMEOUT, SHORT)
}

fn routes(app: &App) -> Routes {
    use Needs::{AnyToken, Nothing};
    use Takes::{Long, Short};
    const VIEWER: Needs = Needs::Role(Role::Viewer);
    // Of a deploy: the operation lets a previewer pass for a Preview alone.
    const PREVIEWER: Needs = Needs::Role(Role::Previewer);
    const ADMIN: Needs = Needs::Role(Role::Admin);
    const AGENT: Needs = Needs::Role(Role::Agent);

    let mut all = Routes {
        app: app.clone(),
        router: OpenApiRouter::with_openapi(openapi::Document::openapi()),
        pages: Router::new(),
        registry: Router::new(),
        table: Vec::new(),
    };
    all.add(Nothing, Short, routes!(probes::alive));
    all.add(Nothing, Short, routes!(probes::ready));
    all.add(Nothing, Short, routes!(probes::metrics));
    all.add(Nothing, Short, routes!(openapi::serve));
    all.add(Nothing, Long, routes!(install::executable));
    all.add(Nothing, Long, routes!(install::checksum));

    all.add(AnyToken, Short, routes!(auth::http::whoami));
    all.add(ADMIN, Short, routes!(auth::http::create));
    all.add(ADMIN, Short, routes!(auth::http::list));
    all.add(ADMIN, Short, routes!(auth::http::revoke));

    let small = DefaultBodyLimit::max(auth::trust::http::MOST_BYTES);
    let exchange = routes!(auth::trust::http::exchange).layer(small);
    all.add(Nothing, Short, exchange);
    all.add(ADMIN, Short, routes!(auth::trust::http::add));
    all.add(ADMIN, Short, routes!(auth::trust::http::list));
    all.add(ADMIN, Short, routes!(auth::trust::http::remove));
    all.add(ADMIN, Short, routes!(auth::trust::http::log));

    all.add(ADMIN, Short, routes!(deployment::http::create));
    all.add(VIEWER, Short, routes!(deployment::http::list));
    all.add(VIEWER, Short, routes!(deployment::http::show));
    all.add(ADMIN, Short, routes!(deployment::http::update));
    all.add(ADMIN, Short, routes!(deployment::http::delete));
    all.add(VIEWER, Short, routes!(deployment::http::status));
    all.add(VIEWER, Short, routes!(deployment::http::dag_ids));
    all.add(ADMIN, Short, routes!(auth::http::create_code));

    all.add(PREVIEWER, Short, routes!(preview::http::open));
    all.add(VIEWER, Short, routes!(preview::http::list));
    all.add(VIEWER, Short, routes!(preview::http::show));
    all.add(PREVIEWER, Short, routes!(preview::http::close));

    all.add(VIEWER, Short, routes!(deploy::http::plan));
    all.add(PREVIEWER, Short, routes!(deploy::http::create));
    all.add(VIEWER, Short, routes!(deploy::http::history));
    all.add(PREVIEWER, Short, routes!(deploy::http::rollback));
    all.add(VIEWER, Short, routes!(deploy::http::plan_promotion));
    all.add(PREVIEWER, Short, routes!(deploy::http::promote));
    all.add(PREVIEWER, Short, routes!(deploy::http::lift_hold));
    all.add_of_deploy(PREVIEWER, Long, routes!(deploy::http::upload));
    all.add_of_deploy(PREVIEWER, Long, routes!(deploy::http::accept));
    all.add_of_deploy(PREVIEWER, Short, routes!(deploy::http::withdraw));
    all.add_of_deploy(VIEWER, Long, routes!(deploy::http::show));
    all.add(VIEWER, Short, routes!(deploy::http::diff));
    all.add(VIEWER, Long, routes!(deploy::http::blob));

    all.add(Nothing, Short, routes!(auth::http::enroll_agent));
    all.add(AGENT, Long, routes!(agent::http::wanted));
    all.add(AGENT, Short, routes!(agent::http::report));
    all.add(AGENT, Short, routes!(agent::http::dag_ids));
    all.add(AGENT, Long, routes!(agent::http::blobs));
    all.add(AGENT, Short, routes!(preview::http::take));

    all.registry();

    all.page(VIEWER, "GET", "/", get(dashboard::deployments));
    let path = "/deployments/{deployment}";
    all.page(VIEWER, "GET", path, get(dashboard::one_deployment));
    let path = "/deployments/{deployment}/versions/{version}";
    all.page(VIEWER, "GET", path, get(dashboard::version));
    let path = "/deploys/{deploy}";
    all.page(VIEWER, "GET", path, get(dashboard::one_deploy));
    all.page(Nothing, "GET", "/sign-in", get(dashboard::sign_in_page));
    all.page(Nothing, "POST", "/sign-in", post(dashboard::sign_in));
    all.page(Nothing, "POST", "/sign-out", post(dashboard::sign_out));
    all.page(Nothing, "GET", "/assets/style.css", get(dashboard::style));
    all
}

/// The whole service: routes, and around them what happens to every request.
pub(crate) fn router(app: &App) -> (Router, OpenApi, Vec<Route>) {
    let all = routes(app);
    let (router, document) = all.router.split_for_parts();
    let router = router
        .merge(all.pages.layer(from_fn(dashboard::finish)))
        .merge(all.registry)
        .layer(DefaultBodyLimit::max(app.config.limits.request_bytes))
        .layer(from_fn(request::check_version))
        .layer(CatchPanicLayer::custom(request::after_panic))
        .layer(from_fn_with_state(app.clone(), request::observe))
        .with_state(app.clone());
    (router, document, all.table)
}

fn methods(item: &PathItem) -> impl Iterator<Item = &'static str> {
    [
        ("GET", item.get.is_some()),
        ("PUT", item.put.is_some()),
        ("POST", item.post.is_some()),
        ("PATCH", item.patch.is_some()),
        ("DELETE", item.delete.is_some()),
    ]
    .into_iter()
    .filter(|(_, there)| *there)
    .map(|(method, _)| method)
}
