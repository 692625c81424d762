//! Every route, asked by everybody who may not.
#![expect(clippy::unwrap_used, reason = "a test ends where something fails")]

use std::collections::BTreeSet;
use std::sync::Mutex;

use reqwest::StatusCode;
use updraft_api::preview::{OpenPreview, PreviewOf};
use updraft_api::token::{CreateToken, Enroll};
use updraft_api::{ErrorBody, ErrorCode};
use updraft_model::{DeployId, DeploymentId, DeploymentName, Role, Scope, TokenId, TrustId};
use updraft_server::{Needs, Route, rotate_keys};
use updraft_store::Store;
use updraft_testkit::{TestServer, Tree, environment};

/// Routes that need no token, and why that is fine.
const OPEN: &[&str] = &[
    "GET /healthz",
    "GET /readyz",
    "GET /metrics",
    "GET /install",
    "GET /install/sha256",
    "GET /api/v1/openapi.json",
    // What a browser needs to sign in, and to leave.
    "GET /sign-in",
    "POST /sign-in",
    "POST /sign-out",
    "GET /assets/style.css",
    // The identity is the secret: `tests/trust.rs`.
    "POST /api/v1/token",
    // The one-time code is the secret.
    "POST /api/v1/agent/enroll",
    // Guards itself, since clients sign in otherwise: `tests/registry.rs`.
    "ANY /v2/",
    "ANY /v2/{*rest}",
];

/// Routes that need a token and that nobody without one was refused at: there are none.
const UNTESTED: &[&str] = &[];

/// A server with two Deployments, so that there is something to be out of.
struct World {
    server: TestServer,
    http: reqwest::Client,
    deploy: DeployId,
    other_token: TokenId,
    trust: TrustId,
    /// One that is made from the first Deployment: its name and its id.
    preview: (DeploymentName, DeploymentId),
    /// Routes that refused somebody.
    tested: Mutex<BTreeSet<String>>,
}

impl World {
    async fn new() -> Self {
        let server = TestServer::start().await;
        let shop = server.deployment("shop").await;
        server.deployment("office").await;
        let tree = Tree::of([("a.py", "one")]);
        let deploy = server
            .deploy(&shop.name, Some(&tree), Some(&environment("x")))
            .await
            .id;
        let mut agent = server.agent(&shop.name, "node-1").await;
        agent.report.preview_places = 1;
        agent.send().await;
        let ask = preview();
        let opened = server.as_admin().open_preview(&shop.name, &ask).await;
        let preview = opened.unwrap().preview;
        let ask = CreateToken {
            name: "another".into(),
            role: Role::Viewer,
            deployment: None,
            workspace: None,
            expires_in_days: None,
        };
        let other_token = server.as_admin().create_token(&ask).await.unwrap().token.id;
        let trust = serde_json::from_value(trust()).unwrap();
        let trust = server.as_admin().create_trust(&trust).await.unwrap().id;
        Self {
            server,
            http: reqwest::Client::new(),
            deploy,
            other_token,
            trust,
            preview: (preview.name, preview.id),
            tested: Mutex::default(),
        }
    }

    fn path(&self, route: &Route) -> String {
        let (name, id) = &self.preview;
        let preview = if route.path.starts_with("/api/v1/agent/") {
            id.to_string()
        } else {
            name.to_string()
        };
        route
            .path
            .replace("{deployment}", "shop")
            .replace("{preview}", &preview)
            .replace("{deploy}", &self.deploy.to_string())
            .replace("{token}", &self.other_token.to_string())
            .replace("{trust}", &self.trust.to_string())
            .replace("{digest}", &updraft_model::Digest::of(b"x").to_string())
            .replace(
                "{version}",
                &Tree::of([("a.py", "one")]).digest().to_string(),
            )
    }

    async fn ask(&self, route: &Route, token: Option<&str>) -> (StatusCode, Option<ErrorBody>) {
        let url = format!("{}{}", self.server.url(), self.path(route));
        let method = route.method.parse().unwrap();
        let mut request = self.http.request(method, url).json(&body(route));
        if let Some(token) = token {
            request = request.header("authorization", token);
        }
        let response = request.send().await.unwrap();
        let status = response.status();
        (status, response.json().await.ok())
    }

    async fn refused(&self, route: &Route, token: Option<&str>, code: ErrorCode) {
        let (status, body) = self.ask(route, token).await;
        let body = body.unwrap_or_else(|| panic!("{route:?} answered {status} without a body"));
        assert_eq!(body.code, code, "{route:?}: {}", body.message);
        assert!(!body.request_id.is_empty(), "{route:?}");
        assert!(body.help.is_some(), "{route:?}");
        self.tested.lock().unwrap().insert(name(route));
    }

    /// Opens a page as a browser with this token, and shows where that leads.
    async fn open(&self, route: &Route, token: Option<&str>) -> reqwest::Response {
        let browser = reqwest::Client::builder()
            .redirect(reqwest::redirect::Policy::none())
            .build()
            .unwrap();
        let mut request = browser
            .get(format!("{}{}", self.server.url(), self.path(route)))
            .header("accept", "text/html");
        if let Some(token) = token {
            request = request.header("cookie", format!("updraft_token={token}"));
        }
        request.send().await.unwrap()
    }

    async fn sent_to_sign_in(&self, route: &Route, token: Option<&str>) {
        let answer = self.open(route, token).await;
        assert_eq!(answer.status(), StatusCode::SEE_OTHER, "{route:?}");
        let to = answer.headers()["location"].to_str().unwrap();
        assert!(to.starts_with("/sign-in?next="), "{route:?}: {to}");
        self.tested.lock().unwrap().insert(name(route));
    }

    fn pages(&self) -> Vec<Route> {
        let mut routes = self.server.running().routes().to_vec();
        routes.retain(|route| route.needs != Needs::Nothing && route.is_page);
        routes
    }

    /// Routes that are not open and refused nobody.
    fn untested(&self) -> Vec<String> {
        let tested = self.tested.lock().unwrap();
        let routes = self.server.running().routes().iter().map(name);
        routes
            .filter(|route| !OPEN.contains(&route.as_str()) && !tested.contains(route))
            .collect()
    }

    fn guarded(&self) -> Vec<Route> {
        let mut routes = self.server.running().routes().to_vec();
        routes.retain(|route| route.needs != Needs::Nothing && !route.is_page);
        routes
    }
}

/// Something that has the right form, so that only the token can be wrong.
fn body(route: &Route) -> serde_json::Value {
    use serde_json::json;
    match (route.method, route.path.as_str()) {
        ("POST", "/api/v1/tokens") => {
            json!({ "name": "x", "role": "viewer", "deployment": "shop" })
        }
        ("POST", "/api/v1/trusts") => trust(),
        ("POST", "/api/v1/deployments") => json!({ "name": "new" }),
        ("POST", "/api/v1/deployments/{deployment}/plan") => json!({ "parts": parts() }),
        ("POST", "/api/v1/deployments/{deployment}/deploys") => {
            json!({ "parts": parts(), "key": "k" })
        }
        ("POST", "/api/v1/deployments/{deployment}/rollbacks") => json!({ "key": "k" }),
        ("POST", "/api/v1/deployments/{deployment}/promotions/plan") => json!({ "from": "office" }),
        ("POST", "/api/v1/deployments/{deployment}/promotions") => {
            json!({ "source": { "from": "office" }, "key": "k" })
        }
        ("POST", "/api/v1/deployments/{deployment}/previews") => json!(preview()),
        ("POST", "/api/v1/agent/previews/{preview}/take") => {
            json!({ "agent": updraft_model::AgentId::new() })
        }
        ("POST", "/api/v1/agent/blobs") => json!({ "digests": [] }),
        ("POST", "/api/v1/agent/report") => json!({
            "agent": updraft_model::AgentId::new(), "host": "h", "version": "0", "generation": 0, "isolation": ""
        }),
        ("POST", "/api/v1/agent/dag-ids") => json!({
            "agent": updraft_model::AgentId::new(), "digest": updraft_model::Digest::of(b"x"), "bundles": {}
        }),
        _ => json!({}),
    }
}

fn preview() -> OpenPreview {
    OpenPreview {
        of: PreviewOf {
            repository: "acme/shop".into(),
            project: String::new(),
            pull_request: 7,
        },
        branch: None,
        expire_s: 3600,
    }
}

fn trust() -> serde_json::Value {
    serde_json::json!({
        "provider": "oidc", "issuer": "https://issuer.example", "claims": { "sub": { "is": "job" } },
        "role": "deployer", "deployment": "shop",
    })
}

fn parts() -> serde_json::Value {
    let tree = Tree::of([("a.py", "two")]);
    serde_json::to_value(updraft_testkit::parts(Some(&tree), None)).unwrap()
}

fn name(route: &Route) -> String {
    format!("{} {}", route.method, route.path)
}

fn role(needs: Needs) -> Role {
    match needs {
        Needs::Role(role) => role,
        Needs::AnyToken | Needs::Nothing => Role::Viewer,
    }
}

fn bearer(token: &str) -> String {
    format!("Bearer {token}")
}

#[tokio::test]
async fn what_is_open_is_open_on_purpose() {
    let world = World::new().await;
    let open: Vec<String> = world
        .server
        .running()
        .routes()
        .iter()
        .filter(|route| route.needs == Needs::Nothing)
        .map(name)
        .collect();
    let mut expected = OPEN.to_vec();
    let mut found: Vec<&str> = open.iter().map(String::as_str).collect();
    expected.sort_unstable();
    found.sort_unstable();
    assert_eq!(found, expected);
}

#[tokio::test]
async fn every_page_is_for_those_who_signed_in_with_a_token_that_may_see_it() {
    let world = World::new().await;
    let (shop, office) = ("shop".parse().unwrap(), "office".parse().unwrap());
    let agent = world.server.token(Role::Agent, Some(&shop)).await;
    let viewer = world.server.token(Role::Viewer, Some(&shop)).await;
    let stranger = world.server.token(Role::Viewer, Some(&office)).await;
    for route in &world.pages() {
        for nobody in [None, Some("x"), Some(agent.as_str())] {
            world.sent_to_sign_in(route, nobody).await;
        }
        let seen = world.open(route, Some(&viewer)).await;
        assert!(!seen.status().is_client_error(), "{route:?}");

        let refused = world.open(route, Some(&stranger)).await;
        let (status, headers) = (refused.status(), refused.headers().clone());
        let html = refused.text().await.unwrap();
        if route.path == "/" {
            assert_eq!(status, StatusCode::OK);
            assert!(html.contains("office") && !html.contains("shop"), "{html}");
        } else {
            assert_eq!(status, StatusCode::FORBIDDEN, "{route:?}");
            // Who asks for help can say which request it was.
            let id = headers["x-request-id"].to_str().unwrap();
            assert!(html.contains(id), "{html}");
            assert!(headers.contains_key("content-security-policy"));
        }
    }
}

#[tokio::test]
async fn every_route_refuses_a_request_without_a_good_token() {
    let world = World::new().await;
    let admin = world.server.admin_token();
    let (head, signature) = admin.rsplit_once('.').unwrap();
    let forged = format!("{head}.{}", signature.chars().rev().collect::<String>());
    for route in &world.guarded() {
        world.refused(route, None, ErrorCode::TokenMissing).await;
        for malformed in ["Bearer x", "Bearer ", "Basic YTpi", &bearer(&forged)] {
            world
                .refused(route, Some(malformed), ErrorCode::TokenMalformed)
                .await;
        }
    }
    for page in &world.pages() {
        world.sent_to_sign_in(page, None).await;
    }
    assert_eq!(world.untested(), UNTESTED);
}

#[tokio::test]
async fn every_route_refuses_a_token_that_was_revoked_or_whose_deployment_is_gone() {
    let world = World::new().await;
    let admin = world.server.as_admin();
    let office = "office".parse().unwrap();
    for route in &world.guarded() {
        let ask = CreateToken {
            name: "soon gone".into(),
            role: role(route.needs),
            deployment: Some("shop".parse().unwrap()),
            workspace: None,
            expires_in_days: Some(1),
        };
        let token = admin.create_token(&ask).await.unwrap();
        admin.revoke_token(token.token.id).await.unwrap();
        let token = bearer(&token.secret);
        world
            .refused(route, Some(&token), ErrorCode::TokenRevoked)
            .await;
    }
    let agent = world.server.token(Role::Agent, Some(&office)).await;
    admin.delete_deployment(&office, false).await.unwrap();
    let route = world
        .guarded()
        .into_iter()
        .find(|r| r.path.ends_with("/wanted"))
        .unwrap();
    world
        .refused(&route, Some(&bearer(&agent)), ErrorCode::TokenRevoked)
        .await;
}

#[tokio::test]
async fn every_route_refuses_a_token_that_expired() {
    let world = World::new().await;
    let mut expired = Vec::new();
    for route in world.guarded() {
        let deployment = "shop".parse().unwrap();
        let token = world
            .server
            .token(role(route.needs), Some(&deployment))
            .await;
        expired.push((route, bearer(&token)));
    }
    world.server.advance_clock(chrono::Duration::days(91));
    for (route, token) in &expired {
        world
            .refused(route, Some(token), ErrorCode::TokenExpired)
            .await;
    }
}

#[tokio::test]
async fn every_route_refuses_a_role_that_is_too_little() {
    let world = World::new().await;
    for route in &world.guarded() {
        let Needs::Role(needed) = route.needs else {
            continue;
        };
        for role in [
            Role::Viewer,
            Role::Previewer,
            Role::Deployer,
            Role::Admin,
            Role::Agent,
        ] {
            if role.includes(needed) {
                continue;
            }
            let shop = "shop".parse().unwrap();
            let token = world.server.token(role, Some(&shop)).await;
            world
                .refused(route, Some(&bearer(&token)), ErrorCode::Forbidden)
                .await;
        }
    }
}

#[tokio::test]
async fn every_route_refuses_a_token_for_another_deployment() {
    let world = World::new().await;
    let office = "office".parse().unwrap();
    // These answer about the token's own Deployment, whichever that is.
    let own = [
        "GET /api/v1/whoami",
        "GET /api/v1/tokens",
        "GET /api/v1/trusts",
        "GET /api/v1/exchanges",
        "GET /api/v1/deployments",
        "GET /api/v1/previews",
        "GET /api/v1/agent/wanted",
        "POST /api/v1/agent/report",
        "POST /api/v1/agent/blobs",
    ];
    for route in &world.guarded() {
        let token = bearer(&world.server.token(role(route.needs), Some(&office)).await);
        if own.contains(&format!("{} {}", route.method, route.path).as_str()) {
            let (status, body) = world.ask(route, Some(&token)).await;
            assert!(status.is_success(), "{route:?}: {body:?}");
        } else {
            world
                .refused(route, Some(&token), ErrorCode::Forbidden)
                .await;
        }
    }
}

#[tokio::test]
async fn lists_show_only_what_the_token_is_for() {
    let world = World::new().await;
    let office = "office".parse().unwrap();
    let token = world.server.token(Role::Admin, Some(&office)).await;
    let narrow = world.server.with_token(Some(token));
    let names: Vec<_> = narrow
        .deployments()
        .await
        .unwrap()
        .deployments
        .into_iter()
        .map(|d| d.name)
        .collect();
    assert_eq!(names, std::slice::from_ref(&office));
    let tokens = narrow.tokens().await.unwrap().tokens;
    assert_eq!(tokens.len(), 1);
    assert!(world.server.as_admin().tokens().await.unwrap().tokens.len() > 2);

    // A token makes no token that can do more than itself.
    let ask = CreateToken {
        name: "mine".into(),
        role: Role::Admin,
        deployment: None,
        workspace: None,
        expires_in_days: None,
    };
    let new = narrow.create_token(&ask).await.unwrap().token;
    assert_eq!(new.scope, tokens[0].scope);
    let ask = CreateToken {
        deployment: Some("shop".parse().unwrap()),
        ..ask
    };
    let refused = narrow.create_token(&ask).await.err().unwrap();
    assert_eq!(refused.code(), Some(ErrorCode::Forbidden));
    // And the nearest name is one that it may see.
    let near_shop = "shpo".parse().unwrap();
    let refused = narrow.deployment(&near_shop).await.unwrap_err();
    assert_eq!(refused.code(), Some(ErrorCode::DeploymentNotFound));
    assert!(!refused.to_string().contains("shop"), "{refused}");
    let refused = world
        .server
        .as_admin()
        .deployment(&near_shop)
        .await
        .unwrap_err();
    assert_eq!(
        refused.to_string(),
        "there is no Deployment `shpo`; did you mean `shop`?"
    );
}

#[tokio::test]
async fn a_workspace_s_token_sees_every_deployment_in_it_and_no_other() {
    let mut world = World::new().await;
    // There is no request that makes another Workspace yet.
    world.server.stop().await;
    let file = world.server.data_dir().join("updraft.db");
    let store = Store::sqlite(&file).await.unwrap();
    let mut tx = store.begin().await.unwrap();
    let now = world.server.config().clock.now();
    let other = tx.ensure_workspace("other", now).await.unwrap();
    let office = tx.deployment_named(&"office".parse().unwrap()).await;
    let mut elsewhere = office.unwrap().unwrap();
    elsewhere.id = DeploymentId::new();
    elsewhere.name = "elsewhere".parse().unwrap();
    elsewhere.workspace = other;
    assert!(tx.insert_deployment(&elsewhere).await.unwrap());
    tx.commit().await.unwrap();
    store.close().await;
    world.server.restart().await;

    let ask = |role, workspace: &str| CreateToken {
        name: format!("{role} of {workspace}"),
        role,
        deployment: None,
        workspace: Some(workspace.into()),
        expires_in_days: None,
    };
    let organization = world.server.as_admin();
    let new = organization
        .create_token(&ask(Role::Admin, "default"))
        .await;
    let new = new.unwrap();
    assert!(matches!(new.token.scope, Scope::Workspace { .. }));
    let admin = world.server.with_token(Some(new.secret));
    let seen = admin.deployments().await.unwrap().deployments;
    let names: Vec<_> = seen.iter().map(|seen| seen.name.as_str()).collect();
    assert_eq!(names, ["office", "shop", "shop-pr-7"]);
    let refused = admin.deployment(&elsewhere.name).await.unwrap_err();
    assert_eq!(refused.code(), Some(ErrorCode::Forbidden));

    // It makes tokens for its own, and for no other.
    let own = admin.create_token(&ask(Role::Viewer, "default")).await;
    assert_eq!(own.unwrap().token.scope, new.token.scope);
    for not_its_own in ["other", "nothing"] {
        let refused = admin.create_token(&ask(Role::Viewer, not_its_own)).await;
        let code = refused.err().unwrap().code();
        assert_eq!(code, Some(ErrorCode::Forbidden), "{not_its_own}");
    }
    let shop = "shop".parse().unwrap();
    let narrow = world.server.token(Role::Admin, Some(&shop)).await;
    let narrow = world.server.with_token(Some(narrow));
    let refused = narrow.create_token(&ask(Role::Viewer, "default")).await;
    assert_eq!(refused.err().unwrap().code(), Some(ErrorCode::Forbidden));
    // An agent is for one Deployment, and a name has to be right.
    for wrong in [ask(Role::Agent, "default"), ask(Role::Viewer, "nothing")] {
        let refused = organization.create_token(&wrong).await.err().unwrap();
        assert_eq!(refused.code(), Some(ErrorCode::InvalidRequest));
    }
}

#[tokio::test]
async fn an_agent_that_waits_with_a_token_gets_nothing_once_it_is_revoked() {
    let world = World::new().await;
    let admin = world.server.as_admin();
    let shop = admin.deployment(&"shop".parse().unwrap()).await.unwrap();
    let ask = CreateToken {
        name: "agent".into(),
        role: Role::Agent,
        deployment: Some(shop.name.clone()),
        workspace: None,
        expires_in_days: None,
    };
    let new = admin.create_token(&ask).await.unwrap();
    let agent = world.server.with_token(Some(new.secret));
    let wait = std::time::Duration::from_secs(60);
    let now = agent.wanted(0, wait).await.unwrap().unwrap();
    let waiting = tokio::spawn(async move { agent.wanted(now.generation, wait).await });
    world.server.somebody_waits(shop.id).await;

    admin.revoke_token(new.token.id).await.unwrap();
    // Nothing else happens that would wake it.
    let refused = waiting.await.unwrap().err().unwrap();
    assert_eq!(refused.code(), Some(ErrorCode::TokenRevoked), "{refused}");
}

#[tokio::test]
async fn an_agent_enrols_once_with_a_code() {
    let world = World::new().await;
    let shop = "shop".parse().unwrap();
    let code = world
        .server
        .as_admin()
        .create_enrollment_code(&shop)
        .await
        .unwrap();
    let anybody = world.server.with_token(None);
    let enroll = |code: &str| Enroll {
        code: code.into(),
        host: "node-1".into(),
    };
    let wrong = anybody
        .enroll(&enroll("AAAAA-AAAAA-AAAAA-AAAAA"))
        .await
        .err()
        .unwrap();
    assert_eq!(wrong.code(), Some(ErrorCode::EnrollmentCodeRefused));
    // As people type it.
    let typed = code.code.to_lowercase().replace('-', " ");
    let token = anybody.enroll(&enroll(&typed)).await.unwrap();
    assert_eq!(
        (token.token.role, token.token.name.as_str()),
        (Role::Agent, "agent on node-1")
    );
    let again = anybody.enroll(&enroll(&code.code)).await.err().unwrap();
    assert_eq!(again.code(), Some(ErrorCode::EnrollmentCodeRefused));
    let agent = world.server.with_token(Some(token.secret));
    assert!(
        agent
            .wanted(0, std::time::Duration::ZERO)
            .await
            .unwrap()
            .is_some()
    );
    let stored = std::fs::read(world.server.data_dir().join("updraft.db")).unwrap();
    assert!(!stored.windows(23).any(|part| part == code.code.as_bytes()));
}

#[tokio::test]
async fn tokens_stay_good_when_the_keys_are_rotated() {
    let mut world = World::new().await;
    rotate_keys(world.server.data_dir(), false).unwrap();
    world.server.restart().await;
    let who = world.server.as_admin().whoami().await.unwrap();
    assert_eq!(who.token.role, Role::Admin);
    rotate_keys(world.server.data_dir(), true).unwrap();
    world.server.restart().await;
    let refused = world.server.as_admin().whoami().await.unwrap_err();
    assert_eq!(refused.code(), Some(ErrorCode::TokenMalformed));
}

#[tokio::test]
async fn no_secret_is_stored_or_shown_again() {
    let world = World::new().await;
    let admin = world.server.admin_token().to_owned();
    let signature = admin.rsplit_once('.').unwrap().1;
    let listed = serde_json::to_string(&world.server.as_admin().tokens().await.unwrap()).unwrap();
    assert!(!listed.contains(signature));
    for file in ["updraft.db", "updraft.db-wal"] {
        let bytes = std::fs::read(world.server.data_dir().join(file)).unwrap();
        assert!(
            !bytes
                .windows(signature.len())
                .any(|part| part == signature.as_bytes()),
            "{file}"
        );
    }
}
