//! Pipelines without a token of ours: whose identity is exchanged, and whose is not.
#![expect(clippy::unwrap_used, reason = "a test ends where something fails")]

use std::time::Duration;

use serde_json::{Value, json};
use updraft_api::deploy::{Comparison, CreateDeploy};
use updraft_api::deployment::DeploymentSettings;
use updraft_api::trust::{
    CreateTrust, ExchangeToken, ExchangedToken, ID_TOKEN, JWT, TOKEN_EXCHANGE, TrustView,
};
use updraft_api::{Client, ClientError, ErrorCode};
use updraft_model::{DeployId, DeploymentName, ExchangeOutcome, Role};
use updraft_testkit::{TestIssuer, TestServer, Tree, environment, parts};

/// A server with a Deployment that trusts a repository's main branch.
struct World {
    server: TestServer,
    issuer: TestIssuer,
    shop: DeploymentName,
    trust: TrustView,
}

impl World {
    async fn new() -> Self {
        // Time passes when a test says so.
        let server = TestServer::start_with(|config| config.clock.stop()).await;
        let issuer = TestIssuer::start();
        let shop = server.deployment("shop").await.name;
        let trust = server.as_admin().create_trust(&trusted(&issuer)).await;
        let trust = trust.unwrap();
        Self {
            server,
            issuer,
            shop,
            trust,
        }
    }

    /// What GitHub says of a job on main.
    fn claims(&self) -> Value {
        let now = self.server.config().clock.now().timestamp();
        json!({
            "iss": self.issuer.url(), "aud": self.server.url(),
            "sub": "repo:acme/sales:ref:refs/heads/main",
            "iat": now, "nbf": now, "exp": now + 300,
            "repository": "acme/sales", "repository_id": "42", "repository_owner_id": 7,
            "ref": "refs/heads/main", "event_name": "push", "run_id": "4711", "actor": "ada",
        })
    }

    /// The same with some claims changed, and those that are null left out.
    fn but(&self, changes: &Value) -> Value {
        let mut claims = self.claims();
        let map = claims.as_object_mut().unwrap();
        for (name, value) in changes.as_object().unwrap() {
            map.insert(name.clone(), value.clone());
        }
        map.retain(|_, value| !value.is_null());
        claims
    }

    async fn exchange(&self, identity: &str) -> Result<ExchangedToken, ClientError> {
        let anybody = self.server.with_token(None);
        anybody.exchange(&ask(identity, Some(&self.shop))).await
    }

    async fn exchanged(&self) -> Client {
        let new = self.exchange(&self.issuer.sign(&self.claims())).await;
        self.server.with_token(Some(new.unwrap().access_token))
    }

    async fn refused(&self, identity: &str) -> String {
        let refused = self.exchange(identity).await.err().unwrap();
        assert_eq!(
            refused.code(),
            Some(ErrorCode::IdentityRefused),
            "{refused}"
        );
        assert!(refused.help().is_some());
        refused.to_string()
    }

    async fn refused_but(&self, changes: &Value) -> String {
        self.refused(&self.issuer.sign(&self.but(changes))).await
    }
}

fn trusted(issuer: &TestIssuer) -> CreateTrust {
    let trust = json!({
        "provider": "github", "issuer": issuer.url(), "role": "deployer", "deployment": "shop",
        "claims": {
            "repository": { "is": "acme/sales" },
            "ref": { "is": "refs/heads/main" },
            "event_name": { "one_of": ["push", "workflow_dispatch"] },
        },
        "pin": ["repository_id", "repository_owner_id"],
    });
    serde_json::from_value(trust).unwrap()
}

fn ask(identity: &str, deployment: Option<&DeploymentName>) -> ExchangeToken {
    ExchangeToken {
        grant_type: TOKEN_EXCHANGE.into(),
        subject_token: identity.into(),
        subject_token_type: ID_TOKEN.into(),
        audience: deployment.map(ToString::to_string),
    }
}

fn dags(content: &str) -> Tree {
    Tree::of([("a.py", content)])
}

/// Begins a deploy of these DAGs with a first Environment.
async fn begin(
    client: &Client,
    name: &DeploymentName,
    dags: &Tree,
) -> Result<Comparison, ClientError> {
    let ask = CreateDeploy {
        parts: parts(Some(dags), Some(&environment("first"))),
        description: String::new(),
        git: None,
        ci: None,
        allow_downgrade: false,
        force: false,
        key: DeployId::new().to_string(),
    };
    client.create_deploy(name, &ask).await
}

async fn send(client: &Client, begun: &Comparison, dags: &Tree) -> Result<(), ClientError> {
    let first = environment("first");
    let blobs = [dags, &first].map(|tree| tree.pick(&begun.missing));
    let id = begun.deploy.as_ref().unwrap().id;
    client.upload_blobs(id, &blobs.concat()).await
}

#[tokio::test]
async fn a_pipeline_deploys_for_a_quarter_of_an_hour_and_history_says_who() {
    let world = World::new().await;
    let identity = world.issuer.sign(&world.claims());
    let new = world.exchange(&identity).await.unwrap();
    assert_eq!(new.expires_in, 900);
    assert_eq!(
        (new.token_type.as_str(), new.issued_token_type.as_str()),
        ("Bearer", JWT)
    );
    let who = "acme/sales refs/heads/main, run 4711";
    assert_eq!(
        (new.token.role, new.token.name.as_str()),
        (Role::Deployer, who)
    );

    let client = world.server.with_token(Some(new.access_token));
    let tree = dags("one");
    let begun = begin(&client, &world.shop, &tree).await.unwrap();
    send(&client, &begun, &tree).await.unwrap();
    let deploy = client.accept_deploy(begun.deploy.unwrap().id, None).await;
    assert_eq!(deploy.unwrap().created_by, who);

    // It may do that, and nothing else.
    let other = world.server.deployment("office").await.name;
    for refused in [
        client.tokens().await.err().unwrap(),
        client.trusts().await.err().unwrap(),
        client.deployment(&other).await.err().unwrap(),
    ] {
        assert_eq!(refused.code(), Some(ErrorCode::Forbidden), "{refused}");
    }
    // The next step of the same job exchanges the same identity again.
    world.exchange(&identity).await.unwrap();
    let log = world
        .server
        .as_admin()
        .exchanges(Some(&world.shop), 10)
        .await;
    let log = log.unwrap().exchanges;
    assert_eq!(log.len(), 2);
    assert!(
        log.iter()
            .all(|it| it.outcome == ExchangeOutcome::Exchanged)
    );
    assert_eq!(log[1].token, Some(new.token.id));
    assert_eq!(log[0].identity.actor.as_deref(), Some("ada"));
    assert_eq!(log[0].identity.issuer, world.issuer.url());

    world.server.advance_clock(chrono::Duration::minutes(15));
    let refused = client.whoami().await.unwrap_err();
    assert_eq!(refused.code(), Some(ErrorCode::TokenExpired));
    let admin = world.server.as_admin();
    let listed = admin.tokens().await.unwrap().tokens;
    assert!(
        listed.iter().all(|token| token.name != who),
        "only those that hold"
    );
    // Nothing of the identity's signature is kept.
    let secret = identity.rsplit_once('.').unwrap().1;
    let stored = std::fs::read(world.server.data_dir().join("updraft.db-wal")).unwrap();
    assert!(
        !stored
            .windows(secret.len())
            .any(|part| part == secret.as_bytes())
    );
}

#[tokio::test]
async fn an_identity_that_its_issuer_did_not_sign_is_refused() {
    let world = World::new().await;
    let (issuer, claims) = (&world.issuer, world.claims());
    let said = world.refused(&issuer.unsigned(&claims)).await;
    assert!(said.contains("signed by `none`"), "{said}");
    let said = world.refused(&issuer.signed_with_public_key(&claims)).await;
    assert!(said.contains("signed by `HS256`"), "{said}");
    assert_eq!(issuer.asked(), 0, "no key is looked for");

    let good = issuer.sign(&claims);
    let (head, signature) = good.rsplit_once('.').unwrap();
    let (header, _) = head.split_once('.').unwrap();
    let other = issuer.sign(&world.but(&json!({ "ref": "refs/heads/other" })));
    let other = other.split('.').nth(1).unwrap();
    for forged in [
        format!("{head}."),
        format!("{head}.{}", signature.chars().rev().collect::<String>()),
        format!("{header}.{other}.{signature}"),
        // Somebody else's key under this one's name.
        TestIssuer::start().sign(&claims),
    ] {
        let said = world.refused(&forged).await;
        assert!(said.contains("not signed by its issuer"), "{said}");
    }
    for broken in [
        "x",
        "a.b.c",
        "",
        &format!("{good}.x"),
        world.server.admin_token(),
    ] {
        world.refused(broken).await;
    }
    let padded = issuer.sign(&world.but(&json!({ "padding": "x".repeat(20_000) })));
    let said = world.refused(&padded).await;
    assert!(said.contains("bytes long; 16384 is the most"), "{said}");
    let huge = "x".repeat(80_000);
    let refused = world.exchange(&huge).await.err().unwrap();
    assert_eq!(refused.code(), Some(ErrorCode::LimitExceeded), "{refused}");
    // None of these is in the log, which anybody could fill otherwise.
    let log = world.server.as_admin().exchanges(None, 10).await.unwrap();
    assert!(log.exchanges.is_empty());
    world.exchange(&good).await.unwrap();
}

#[tokio::test]
async fn every_claim_counts_and_a_refusal_says_which() {
    let world = World::new().await;
    world.exchanged().await;
    let us = world.server.url();
    for (changes, expected) in [
        (
            json!({ "aud": "https://other.example" }),
            format!("`aud` is `https://other.example` and should be `{us}`"),
        ),
        (
            json!({ "aud": null }),
            format!("`aud` is missing and should be `{us}`"),
        ),
        (
            json!({ "ref": "refs/heads/dev" }),
            "`ref` is `refs/heads/dev` and should be `refs/heads/main`".into(),
        ),
        (
            json!({ "repository": "acme/sales-2" }),
            "`repository` is `acme/sales-2` and should be `acme/sales`".into(),
        ),
        (
            // A fork's pull request; then one that runs with the base's name.
            json!({ "event_name": "pull_request", "ref": "refs/pull/7/merge" }),
            "`event_name` is `pull_request` and should be `push` or `workflow_dispatch`; \
             `ref` is `refs/pull/7/merge` and should be `refs/heads/main`"
                .into(),
        ),
        (
            json!({ "event_name": "pull_request_target" }),
            "`event_name` is `pull_request_target` and should be `push` or `workflow_dispatch`"
                .into(),
        ),
        (
            // Renamed or made again under the same name.
            json!({ "repository_id": "43" }),
            "`repository_id` is `43` and should be `42`, as at the first exchange".into(),
        ),
        (
            json!({ "repository_owner_id": null }),
            "`repository_owner_id` is missing and should be `7`, as at the first exchange".into(),
        ),
        // The same suffix, of a stranger: who is not told what would have been right.
        (
            json!({ "repository": "evil/acme/sales" }),
            "`repository` is `evil/acme/sales`, which is not what is trusted".into(),
        ),
    ] {
        let said = world.refused_but(&changes).await;
        assert_eq!(
            said.split_once(" is refused: ").unwrap().1,
            expected,
            "{changes}"
        );
    }
    let now = world.server.config().clock.now().timestamp();
    for (changes, expected) in [
        (json!({ "exp": now - 61 }), "it expired at"),
        (json!({ "exp": null }), "`exp` is missing"),
        (json!({ "nbf": now + 3600 }), "it holds from"),
    ] {
        let said = world.refused_but(&changes).await;
        assert!(said.contains(expected), "{said}");
    }
    // An admin sees all of it, with what was expected.
    let log = world
        .server
        .as_admin()
        .exchanges(Some(&world.shop), 100)
        .await;
    let log = log.unwrap().exchanges;
    let refused = log
        .iter()
        .filter(|it| it.outcome == ExchangeOutcome::Refused);
    assert_eq!(refused.count(), 12);
    let whys: Vec<_> = log.iter().filter_map(|it| it.why.as_deref()).collect();
    assert!(whys.contains(&"`repository` is `evil/acme/sales` and should be `acme/sales`"));
    assert!(log.iter().all(|it| it.trust == Some(world.trust.id)));
}

#[tokio::test]
async fn keys_are_kept_and_fetched_again_when_an_issuer_has_new_ones() {
    let world = World::new().await;
    world.exchanged().await;
    world.exchanged().await;
    assert_eq!(world.issuer.asked(), 1);

    // A key that nobody knows is looked for, but not with every request.
    let unknown = world.issuer.sign_as("another", &world.claims());
    for _ in 0..3 {
        let said = world.refused(&unknown).await;
        assert!(said.contains("has no key another"), "{said}");
    }
    assert_eq!(world.issuer.asked(), 1);
    let old = world.issuer.sign(&world.claims());
    world.issuer.rotate();
    world.server.advance_clock(chrono::Duration::seconds(6));
    world.exchanged().await;
    assert_eq!(world.issuer.asked(), 2);
    let said = world.refused(&old).await;
    assert!(said.contains("has no key key-1"), "{said}");
}

#[tokio::test]
async fn an_issuer_that_is_down_lets_nobody_in() {
    let world = World::new().await;
    world.exchanged().await;
    world.issuer.go_down(true);
    // Its keys are good for an hour.
    world.exchanged().await;
    world.server.advance_clock(chrono::Duration::minutes(61));
    let refused = world.exchange(&world.issuer.sign(&world.claims())).await;
    let refused = refused.err().unwrap();
    assert_eq!(refused.code(), Some(ErrorCode::Unavailable), "{refused}");
    assert!(refused.to_string().contains("cannot be had"), "{refused}");
    // Why is for the log: it may be about somebody's inner network.
    assert!(!refused.to_string().contains("503"), "{refused}");
    world.issuer.go_down(false);
    world.server.advance_clock(chrono::Duration::seconds(6));
    world.exchanged().await;
}

#[tokio::test]
async fn nobody_is_asked_for_keys_whom_nobody_trusts() {
    let world = World::new().await;
    let stranger = TestIssuer::start();
    let claims = world.but(&json!({ "iss": stranger.url() }));
    let said = world.refused(&stranger.sign(&claims)).await;
    assert!(said.contains("nothing here trusts the issuer"), "{said}");
    assert_eq!(stranger.asked(), 0);
    // A Deployment without a trust and one that is not there look the same.
    world.server.deployment("office").await;
    let anybody = world.server.with_token(None);
    let said = async |identity: &str, name: &str| {
        let name: DeploymentName = name.parse().unwrap();
        let refused = anybody.exchange(&ask(identity, Some(&name))).await;
        let refused = refused.err().unwrap();
        assert_eq!(refused.code(), Some(ErrorCode::IdentityRefused));
        refused.to_string().replace(name.as_str(), "NAME")
    };
    let identity = world.issuer.sign(&world.claims());
    assert_eq!(
        said(&identity, "office").await,
        said(&identity, "missing").await
    );
    // Whoever signs as another does not even learn whom a Deployment trusts.
    let forged = stranger.sign(&world.claims());
    assert_eq!(
        said(&forged, world.shop.as_str()).await,
        said(&forged, "missing").await
    );
}

#[tokio::test]
async fn a_deploy_goes_on_when_the_token_that_began_it_has_expired() {
    let world = World::new().await;
    let client = world.exchanged().await;
    let tree = dags("one");
    let begun = begin(&client, &world.shop, &tree).await.unwrap();
    let id = begun.deploy.as_ref().unwrap().id;
    let other = world.exchanged().await;
    world.server.advance_clock(chrono::Duration::minutes(20));
    // Not with another token of the same pipeline.
    let refused = other.deploy(id).await.unwrap_err();
    assert_eq!(refused.code(), Some(ErrorCode::TokenExpired));

    send(&client, &begun, &tree).await.unwrap();
    client.accept_deploy(id, None).await.unwrap();
    let mut agent = world.server.agent(&world.shop, "node-1").await;
    agent.converge().await;
    let seen = client.follow_deploy(id, 0, Duration::ZERO).await.unwrap();
    assert_eq!(seen.state.name(), "live");
    // Nothing else, and not for ever.
    for refused in [
        begin(&client, &world.shop, &dags("two"))
            .await
            .err()
            .unwrap(),
        client.deployment(&world.shop).await.err().unwrap(),
        client.status(&world.shop).await.err().unwrap(),
    ] {
        assert_eq!(refused.code(), Some(ErrorCode::TokenExpired), "{refused}");
    }
    world.server.advance_clock(chrono::Duration::hours(2));
    let refused = client.deploy(id).await.unwrap_err();
    assert_eq!(refused.code(), Some(ErrorCode::TokenExpired));
}

/// As an engine does, which has the token as a password and asks for one that is for its push.
#[tokio::test]
async fn a_push_goes_on_when_the_token_that_began_it_has_expired() {
    let world = World::new().await;
    let secret = world.exchanged().await.token().unwrap();
    let http = reqwest::Client::new();
    let address = |path: &str| format!("{}/v2/{path}", world.server.url());
    let scope = format!("token?scope=repository:{}:pull,push", world.shop);
    let ask = http
        .get(address(&scope))
        .basic_auth("updraft", Some(&secret));
    let given: Value = ask.send().await.unwrap().json().await.unwrap();
    let pass = given["token"].as_str().unwrap();
    let begin = async |pass: &str| {
        let uploads = address(&format!("{}/blobs/uploads/", world.shop));
        let ask = http.post(uploads).bearer_auth(pass).send().await;
        ask.unwrap().status().as_u16()
    };
    world.server.advance_clock(chrono::Duration::minutes(50));
    assert_eq!(begin(pass).await, 202);
    assert_eq!(begin(&secret).await, 401);
    // One that is made of it holds on for a while, and not for ever.
    let given = http.get(address(&scope)).bearer_auth(pass).send().await;
    let given: Value = given.unwrap().json().await.unwrap();
    let next = given["token"].as_str().unwrap();
    world.server.advance_clock(chrono::Duration::minutes(15));
    assert_eq!(begin(pass).await, 401);
    assert_eq!(begin(next).await, 202);
    world.server.advance_clock(chrono::Duration::minutes(11));
    assert_eq!(begin(next).await, 401);
}

#[tokio::test]
async fn a_trust_that_goes_takes_its_tokens_along() {
    let world = World::new().await;
    let client = world.exchanged().await;
    let tree = dags("one");
    let begun = begin(&client, &world.shop, &tree).await.unwrap();
    let admin = world.server.as_admin();
    admin.delete_trust(world.trust.id).await.unwrap();
    let refused = client.whoami().await.unwrap_err();
    assert_eq!(refused.code(), Some(ErrorCode::TokenRevoked));
    let refused = send(&client, &begun, &tree).await.unwrap_err();
    assert_eq!(refused.code(), Some(ErrorCode::TokenRevoked));
    let said = world.refused(&world.issuer.sign(&world.claims())).await;
    assert!(said.contains("nothing here trusts"), "{said}");
    let again = admin.delete_trust(world.trust.id).await.unwrap_err();
    assert_eq!(again.code(), Some(ErrorCode::TrustNotFound));
    // What happened stays known.
    let log = admin.exchanges(Some(&world.shop), 10).await.unwrap();
    assert_eq!(log.exchanges.len(), 1);
}

#[tokio::test]
async fn where_only_pipelines_deploy_people_do_not_but_go_back() {
    let world = World::new().await;
    let mut agent = world.server.agent(&world.shop, "node-1").await;
    let admin = world.server.as_admin();
    let tree = dags("one");
    // Begun by somebody before.
    let early = begin(&admin, &world.shop, &tree).await.unwrap();
    send(&admin, &early, &tree).await.unwrap();
    let only = DeploymentSettings {
        ci_only: Some(true),
        ..DeploymentSettings::default()
    };
    let shown = admin.update_deployment(&world.shop, &only).await.unwrap();
    assert!(shown.ci_only);
    let id = early.deploy.unwrap().id;
    for refused in [
        admin.accept_deploy(id, None).await.err().unwrap(),
        begin(&admin, &world.shop, &dags("two"))
            .await
            .err()
            .unwrap(),
    ] {
        assert_eq!(refused.code(), Some(ErrorCode::Forbidden), "{refused}");
        assert!(
            refused.to_string().contains("trusted pipelines alone"),
            "{refused}"
        );
    }
    let client = world.exchanged().await;
    for content in ["two", "three"] {
        let tree = dags(content);
        let begun = begin(&client, &world.shop, &tree).await.unwrap();
        send(&client, &begun, &tree).await.unwrap();
        let id = begun.deploy.unwrap().id;
        client.accept_deploy(id, None).await.unwrap();
        agent.converge().await;
    }
    let back = updraft_api::deploy::RollbackRequest {
        to: None,
        allow_downgrade: false,
        key: DeployId::new().to_string(),
        description: String::new(),
    };
    admin.roll_back(&world.shop, &back).await.unwrap();
}

#[tokio::test]
async fn one_pipeline_may_be_trusted_by_several_deployments_and_names_one() {
    let world = World::new().await;
    let admin = world.server.as_admin();
    world.server.deployment("office").await;
    let second = CreateTrust {
        deployment: Some("office".parse().unwrap()),
        role: Role::Viewer,
        ..trusted(&world.issuer)
    };
    admin.create_trust(&second).await.unwrap();
    // The same once more is the same one.
    let again = admin.create_trust(&trusted(&world.issuer)).await.unwrap();
    assert_eq!(again.id, world.trust.id);
    assert_eq!(admin.trusts().await.unwrap().trusts.len(), 2);

    let identity = world.issuer.sign(&world.claims());
    let anybody = world.server.with_token(None);
    let refused = anybody.exchange(&ask(&identity, None)).await.err().unwrap();
    assert_eq!(refused.code(), Some(ErrorCode::InvalidRequest));
    assert!(
        refused.to_string().ends_with("`office`, `shop`"),
        "{refused}"
    );
    let office = "office".parse().unwrap();
    let new = anybody.exchange(&ask(&identity, Some(&office))).await;
    assert_eq!(new.unwrap().token.role, Role::Viewer);
    // Where one alone fits, it need not be named.
    let only = world
        .issuer
        .sign(&world.but(&json!({ "ref": "refs/heads/dev" })));
    let refused = anybody.exchange(&ask(&only, None)).await.err().unwrap();
    assert_eq!(refused.code(), Some(ErrorCode::IdentityRefused));

    // A Workspace's trust gives a token for the one that is named.
    let wide = CreateTrust {
        deployment: None,
        workspace: Some("default".into()),
        ..trusted(&world.issuer)
    };
    admin.create_trust(&wide).await.unwrap();
    let new = anybody
        .exchange(&ask(&identity, Some(&office)))
        .await
        .unwrap();
    assert_eq!(new.token.role, Role::Deployer, "the one that gives more");
    let client = world.server.with_token(Some(new.access_token));
    let seen = client.deployments().await.unwrap().deployments;
    assert_eq!(seen.len(), 1);
    assert_eq!(seen[0].name, office);

    // Each sees what is its own.
    let narrow = world.server.token(Role::Admin, Some(&office)).await;
    let narrow = world.server.with_token(Some(narrow));
    assert_eq!(narrow.trusts().await.unwrap().trusts.len(), 1);
    assert_eq!(narrow.exchanges(None, 10).await.unwrap().exchanges.len(), 2);
    let refused = narrow.delete_trust(world.trust.id).await.unwrap_err();
    assert_eq!(refused.code(), Some(ErrorCode::Forbidden));
}

/// A trust of pull requests for the Deployment, in place of the one of a branch.
async fn of_pull_requests(world: &World, claims: Value) -> TrustView {
    let admin = world.server.as_admin();
    let pin = match claims.get("project_path") {
        Some(_) => ["project_id", "namespace_id"],
        None => ["repository_id", "repository_owner_id"],
    };
    let trust = CreateTrust {
        role: Role::Previewer,
        claims: serde_json::from_value(claims).unwrap(),
        pin: pin.map(str::to_owned).to_vec(),
        ..trusted(&world.issuer)
    };
    let trust = admin.create_trust(&trust).await.unwrap();
    admin.delete_trust(world.trust.id).await.unwrap();
    trust
}

#[tokio::test]
async fn a_pull_requests_job_is_trusted_with_previews_and_others_are_not() {
    let world = World::new().await;
    // What GitHub says of one; of a branch is what is trusted yet.
    let request = json!({
        "sub": "repo:acme/sales:pull_request", "ref": "refs/pull/7/merge",
        "event_name": "pull_request", "head_ref": "feature", "base_ref": "main",
    });
    let said = world.refused_but(&request).await;
    assert!(said.contains("`event_name` is `pull_request`"), "{said}");

    of_pull_requests(
        &world,
        json!({ "repository": { "is": "acme/sales" }, "event_name": { "is": "pull_request" } }),
    )
    .await;
    let new = world
        .exchange(&world.issuer.sign(&world.but(&request)))
        .await;
    let new = new.unwrap();
    assert_eq!(new.token.role, Role::Previewer);
    let client = world.server.with_token(Some(new.access_token));
    let refused = begin(&client, &world.shop, &dags("one"))
        .await
        .err()
        .unwrap();
    assert_eq!(refused.code(), Some(ErrorCode::Forbidden));
    client.deployment(&world.shop).await.unwrap();
    // After it was merged, to close the Preview.
    let merged = json!({ "event_name": "pull_request", "ref": "refs/heads/main" });
    world
        .exchange(&world.issuer.sign(&world.but(&merged)))
        .await
        .unwrap();

    for (changes, claim) in [
        (json!({}), "event_name"),
        (json!({ "event_name": "pull_request_target" }), "event_name"),
        (json!({ "event_name": "pull_request_review" }), "event_name"),
        (json!({ "event_name": "workflow_run" }), "event_name"),
        (json!({ "event_name": "issue_comment" }), "event_name"),
        (json!({ "event_name": null }), "event_name"),
        (json!({ "event_name": ["pull_request"] }), "event_name"),
        (
            json!({ "event_name": "pull_request", "repository": "eve/sales" }),
            "repository",
        ),
        (
            json!({ "event_name": "pull_request", "repository_id": "43" }),
            "repository_id",
        ),
    ] {
        let said = world.refused_but(&changes).await;
        assert!(said.contains(&format!("`{claim}` is")), "{changes}: {said}");
    }
}

#[tokio::test]
async fn a_merge_request_is_trusted_where_its_branch_is_the_projects_own() {
    let world = World::new().await;
    // What GitLab says of one.
    let request = json!({
        "sub": "project_path:acme/sales:ref_type:branch:ref:feature", "repository": null,
        "repository_id": null, "repository_owner_id": null, "event_name": null,
        "project_path": "acme/sales", "project_id": "42", "namespace_id": "7",
        "job_project_path": "acme/sales", "job_project_id": "42", "ref": "feature",
        "ref_type": "branch", "ref_path": "refs/heads/feature",
        "pipeline_source": "merge_request_event", "pipeline_id": "9", "user_login": "ada",
    });
    let but = |changes: &Value| {
        let mut all = request.clone();
        for (name, value) in changes.as_object().unwrap() {
            all[name] = value.clone();
        }
        all
    };
    of_pull_requests(
        &world,
        json!({
            "project_path": { "is": "acme/sales" },
            "pipeline_source": { "is": "merge_request_event" },
        }),
    )
    .await;
    let newest = json!({ "source_project_id": "42", "source_project_path": "acme/sales" });
    for good in [&request, &but(&newest)] {
        let new = world.exchange(&world.issuer.sign(&world.but(good))).await;
        assert_eq!(new.unwrap().token.role, Role::Previewer);
    }
    for (changes, claim) in [
        (json!({ "pipeline_source": "push" }), "pipeline_source"),
        (json!({ "pipeline_source": null }), "pipeline_source"),
        // A fork's: of its own pipelines, and of those that a member has run in the project.
        (
            json!({ "project_path": "eve/sales", "project_id": "66", "job_project_id": "66" }),
            "project_path",
        ),
        (
            json!({ "project_path": "eve/sales", "project_id": "66" }),
            "project_path",
        ),
        (json!({ "source_project_id": "66" }), "source_project_id"),
        (json!({ "job_project_id": "66" }), "job_project_id"),
        // An older GitLab, which says the same of a fork's.
        (json!({ "job_project_id": null }), "job_project_id"),
        (json!({ "project_id": null }), "project_id"),
        (
            json!({ "project_id": null, "job_project_id": null }),
            "job_project_id",
        ),
    ] {
        let said = world.refused_but(&but(&changes)).await;
        assert!(said.contains(&format!("`{claim}` is")), "{changes}: {said}");
    }
}

#[tokio::test]
async fn what_would_trust_anybody_is_not_trusted() {
    let world = World::new().await;
    let good = trusted(&world.issuer);
    let with = |changes: Value| {
        let mut trust = serde_json::to_value(&good).unwrap();
        for (name, value) in changes.as_object().unwrap() {
            trust[name] = value.clone();
        }
        serde_json::from_value::<CreateTrust>(trust).unwrap()
    };
    for wrong in [
        json!({ "role": "admin" }),
        json!({ "role": "agent" }),
        json!({ "issuer": "http://issuer.example" }),
        json!({ "issuer": "nothing" }),
        json!({ "claims": {} }),
        json!({ "claims": { "ref": { "like": "refs/heads/*" } } }),
        json!({ "claims": { "sub": { "is": " " } } }),
        json!({ "claims": { "sub": { "is": "x" }, "aud": { "is": "x" } } }),
        json!({ "claims": { "sub": { "is": "x" }, "ref": { "like": "[" } } }),
        json!({ "claims": { "repository": { "is": "acme/sales" }, "event_name": { "is": "pull_request" } } }),
        json!({ "claims": { "project_path": { "is": "acme/sales" }, "pipeline_source": { "is": "merge_request_event" } } }),
        json!({ "pin": ["repository"] }),
        json!({ "deployment": null }),
        json!({ "workspace": "default" }),
    ] {
        let refused = world
            .server
            .as_admin()
            .create_trust(&with(wrong.clone()))
            .await;
        let refused = refused.err().unwrap_or_else(|| panic!("{wrong}"));
        assert_eq!(refused.code(), Some(ErrorCode::InvalidRequest), "{wrong}");
    }
    let anybody = world.server.with_token(None);
    let identity = world.issuer.sign(&world.claims());
    let other = ExchangeToken {
        grant_type: "password".into(),
        ..ask(&identity, None)
    };
    let refused = anybody.exchange(&other).await.err().unwrap();
    assert_eq!(refused.code(), Some(ErrorCode::InvalidRequest));
}
