//! Previews: Deployments that live as long as a pull request.
#![expect(clippy::unwrap_used, reason = "a test ends where something fails")]

use std::collections::BTreeMap;

use chrono::Duration;
use updraft_api::agent::TakePreview;
use updraft_api::deploy::{
    Comparison, CreateDeploy, PromoteRequest, PromotedHalves, PromotionSource, RollbackRequest,
};
use updraft_api::deployment::DeploymentSettings;
use updraft_api::preview::{OpenPreview, OpenedPreview, PreviewOf};
use updraft_api::{Client, ClientError, ErrorCode};
use updraft_model::{
    AgentId, DeployId, DeployKind, DeploymentName, PreviewValues, ProofOutcome, Role, Runtime,
};
use updraft_testkit::{TestAgent, TestServer, Tree, environment, parts};

/// A server with a live Deployment, whose agent has places for two Previews.
struct World {
    server: TestServer,
    shop: DeploymentName,
    agent: TestAgent,
}

fn ask(pull_request: u64) -> OpenPreview {
    OpenPreview {
        of: PreviewOf {
            repository: "acme/shop".into(),
            project: String::new(),
            pull_request,
        },
        branch: Some("feature/x".into()),
        expire_s: 3600,
    }
}

fn code(error: &ClientError) -> ErrorCode {
    error.code().unwrap()
}

impl World {
    async fn with(settings: DeploymentSettings) -> Self {
        Self::on(TestServer::start().await, settings).await
    }

    async fn on(server: TestServer, settings: DeploymentSettings) -> Self {
        let shop = server.deployment_with("shop", settings).await.name;
        let mut agent = server.agent(&shop, "node-1").await;
        agent.report.preview_places = 2;
        let tree = Tree::of([("a.py", "one")]);
        server
            .deploy(&shop, Some(&tree), Some(&environment("one")))
            .await;
        agent.converge().await;
        Self {
            server,
            shop,
            agent,
        }
    }

    async fn new() -> Self {
        Self::with(DeploymentSettings::default()).await
    }

    fn admin(&self) -> Client {
        self.server.as_admin()
    }

    async fn open(&self, ask: &OpenPreview) -> Result<OpenedPreview, ClientError> {
        self.admin().open_preview(&self.shop, ask).await
    }

    /// The agent of a Preview, run by the Deployment's.
    async fn take(&self, opened: &OpenedPreview) -> TestAgent {
        let ask = TakePreview {
            agent: self.agent.report.agent,
        };
        let taken = self.agent.client().take_preview(opened.preview.id, &ask);
        let client = self.server.with_token(Some(taken.await.unwrap().secret));
        TestAgent::new(&client, "node-1")
    }

    /// The Previews that the Deployment's agents are told to run.
    async fn wanted(&mut self) -> Vec<String> {
        self.agent.report.generation = -1;
        self.agent.poll(std::time::Duration::ZERO).await;
        let wanted = self.agent.wanted.as_ref().unwrap();
        wanted
            .previews
            .iter()
            .map(|it| it.name.to_string())
            .collect()
    }
}

#[tokio::test]
async fn a_preview_begins_with_what_its_deployment_runs() {
    let mut world = World::new().await;
    let opened = world.open(&ask(7)).await.unwrap();
    assert!(opened.is_new);
    assert_eq!(opened.preview.name.as_str(), "shop-pr-7");
    assert_eq!(opened.preview.from, world.shop);
    assert_eq!(opened.preview.url, None);
    let deploy = opened.preview.wanted_deploy.as_ref().unwrap();
    assert_eq!(deploy.kind, DeployKind::Promotion);
    assert_eq!(world.wanted().await, ["shop-pr-7"]);

    // The same again is the same, and a deploy of the same content has nothing to do.
    let again = world.open(&ask(7)).await.unwrap();
    assert!(!again.is_new);
    assert_eq!(again.preview.id, opened.preview.id);
    let mut agent = world.take(&opened).await;
    agent.poll(std::time::Duration::ZERO).await;
    let of_shop = world.agent.target();
    assert!(agent.target().same_content(&of_shop));
    agent.switch().await;
    agent.prove(ProofOutcome::Proven).await;

    // What the pull request brings goes to the Preview alone.
    let tree = Tree::of([("a.py", "two")]);
    let name = &opened.preview.name;
    world.server.deploy(name, Some(&tree), None).await;
    agent.converge().await;
    let shown = world.admin().preview(name).await.unwrap();
    assert_eq!(shown.proven_deploy, shown.wanted_deploy.map(|it| it.id));
    let shop = world.admin().deployment(&world.shop).await.unwrap();
    assert!(shop.wanted.unwrap().same_content(&of_shop));
}

#[tokio::test]
async fn names_never_collide() {
    let world = World::new().await;
    // Somebody has that name already.
    world.server.deployment("shop-pr-7").await;
    let one = world.open(&ask(7)).await.unwrap();
    let mut other = ask(7);
    other.of.repository = "acme/other".into();
    let two = world.open(&other).await.unwrap();
    let names = [one.preview.name.clone(), two.preview.name.clone()];
    assert!(
        names
            .iter()
            .all(|name| name.as_str().starts_with("shop-pr-7-")),
        "{names:?}"
    );
    assert_ne!(names[0], names[1]);
    assert_eq!(
        world.open(&ask(7)).await.unwrap().preview.id,
        one.preview.id
    );
    let listed = world.admin().previews(Some(&world.shop)).await.unwrap();
    assert_eq!(listed.len(), 2);
    assert_eq!(listed, world.admin().previews(None).await.unwrap());
}

#[tokio::test]
async fn two_that_open_the_same_at_once_get_the_same() {
    let world = World::new().await;
    let asked = ask(7);
    let (one, two) = tokio::join!(world.open(&asked), world.open(&asked));
    assert_eq!(one.unwrap().preview.id, two.unwrap().preview.id);
}

#[tokio::test]
async fn a_preview_that_nobody_would_run_is_refused() {
    let mut world = World::new().await;
    world.open(&ask(1)).await.unwrap();
    world.open(&ask(2)).await.unwrap();
    let error = world.open(&ask(3)).await.unwrap_err();
    assert_eq!(code(&error), ErrorCode::NoPreviewPlace);
    assert!(
        error.to_string().contains("shop-pr-1, shop-pr-2"),
        "{error}"
    );
    // Those that are there live on.
    world.open(&ask(2)).await.unwrap();

    world.agent.report.preview_places = 0;
    world.agent.send().await;
    let error = world.open(&ask(3)).await.unwrap_err();
    assert!(
        error
            .to_string()
            .contains("no agent of the Deployment `shop` runs Previews"),
        "{error}"
    );
    world.server.advance_clock(Duration::minutes(5));
    let error = world.open(&ask(3)).await.unwrap_err();
    assert!(error.to_string().contains("no agent connected"), "{error}");

    let external = DeploymentSettings {
        runtime: Some(Runtime::External),
        ..DeploymentSettings::default()
    };
    let theirs = world.server.deployment_with("theirs", external).await.name;
    let error = world
        .admin()
        .open_preview(&theirs, &ask(1))
        .await
        .unwrap_err();
    assert_eq!(code(&error), ErrorCode::InvalidRequest);

    // Nor is one made from another one.
    let of_preview = "shop-pr-1".parse().unwrap();
    let error = world
        .admin()
        .open_preview(&of_preview, &ask(1))
        .await
        .unwrap_err();
    assert_eq!(code(&error), ErrorCode::InvalidRequest);
    let mut nothing = ask(0);
    nothing.of.repository = "a\nb".into();
    assert_eq!(
        code(&world.open(&nothing).await.unwrap_err()),
        ErrorCode::InvalidRequest
    );
    assert_eq!(
        code(&world.open(&ask(0)).await.unwrap_err()),
        ErrorCode::InvalidRequest
    );
}

#[tokio::test]
async fn a_closed_preview_is_gone_with_its_tokens() {
    let mut world = World::new().await;
    let opened = world.open(&ask(7)).await.unwrap();
    let mut agent = world.take(&opened).await;
    agent.poll(std::time::Duration::ZERO).await;
    agent.send().await;
    let name = &opened.preview.name;
    world.admin().close_preview(name).await.unwrap();
    assert_eq!(world.wanted().await, Vec::<String>::new());
    let error = agent.client().report(&agent.report).await.unwrap_err();
    assert_eq!(code(&error), ErrorCode::TokenRevoked);
    let error = world.admin().close_preview(name).await.unwrap_err();
    assert_eq!(code(&error), ErrorCode::PreviewNotFound);
    // No Deployment is closed as if it were one.
    let error = world.admin().close_preview(&world.shop).await.unwrap_err();
    assert_eq!(code(&error), ErrorCode::PreviewNotFound);
    // The same pull request may get another one.
    let again = world.open(&ask(7)).await.unwrap();
    assert!(again.is_new && again.preview.id != opened.preview.id);
    // Those of a Deployment go with it.
    world
        .admin()
        .delete_deployment(&world.shop, true)
        .await
        .unwrap();
    assert!(world.admin().previews(None).await.unwrap().is_empty());
}

#[tokio::test]
async fn a_preview_goes_when_its_time_is_over() {
    let mut world = World::new().await;
    world.open(&ask(1)).await.unwrap();
    world.server.advance_clock(Duration::minutes(40));
    world.agent.send().await;
    world.open(&ask(2)).await.unwrap();
    world.open(&ask(1)).await.unwrap();
    world.server.advance_clock(Duration::minutes(59));
    world.server.restart().await;
    let left = world.admin().previews(None).await.unwrap();
    assert_eq!(left.len(), 2);
    world.server.advance_clock(Duration::minutes(2));
    // The job looks at once when a server starts.
    world.server.restart().await;
    let admin = world.admin();
    for _ in 0..600 {
        if admin.previews(None).await.unwrap().is_empty() {
            return;
        }
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
    panic!("{:?}", admin.previews(None).await);
}

#[tokio::test]
async fn one_agent_runs_it_for_as_long_as_it_is_connected() {
    let world = World::new().await;
    let opened = world.open(&ask(7)).await.unwrap();
    let first = world.take(&opened).await;
    let id = opened.preview.id;
    let second = world.server.agent(&world.shop, "node-2").await;
    second.send().await;
    let ask = TakePreview {
        agent: second.report.agent,
    };
    let error = second.client().take_preview(id, &ask).await.err().unwrap();
    assert_eq!(code(&error), ErrorCode::PreviewTaken);
    world.server.advance_clock(Duration::minutes(5));
    second.send().await;
    second.client().take_preview(id, &ask).await.unwrap();
    // What the first was given does not hold any more.
    let error = first.client().report(&first.report).await.unwrap_err();
    assert_eq!(code(&error), ErrorCode::TokenRevoked);

    // Another Deployment's agent gets none, nor one that nobody heard of.
    let other = world.server.deployment("other").await.name;
    let stranger = world.server.agent(&other, "node-3").await;
    stranger.send().await;
    let ask = TakePreview {
        agent: stranger.report.agent,
    };
    let error = stranger
        .client()
        .take_preview(id, &ask)
        .await
        .err()
        .unwrap();
    assert_eq!(code(&error), ErrorCode::Forbidden);
    let ask = TakePreview {
        agent: AgentId::new(),
    };
    let error = second.client().take_preview(id, &ask).await.err().unwrap();
    assert_eq!(code(&error), ErrorCode::Forbidden);
}

#[tokio::test]
async fn what_a_lost_agent_ran_is_for_others_to_take() {
    // The job looks each second.
    let server = TestServer::start_with(|config| config.upload_expiry_s = 1).await;
    let mut world = World::on(server, DeploymentSettings::default()).await;
    let opened = world.open(&ask(7)).await.unwrap();
    world.take(&opened).await;
    world.server.advance_clock(Duration::minutes(30));
    let second = world.server.agent(&world.shop, "node-2").await;
    world.agent = second;
    for _ in 0..600 {
        world.wanted().await;
        let wanted = world.agent.wanted.as_ref().unwrap();
        if wanted.previews[0].agent.is_none() {
            return;
        }
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
    panic!("{:?}", world.agent.wanted.as_ref().map(|it| &it.previews));
}

#[tokio::test]
async fn a_token_for_a_deployment_is_for_its_previews_too() {
    let world = World::new().await;
    let opened = world.open(&ask(1)).await.unwrap();
    let name = &opened.preview.name;
    let own = world.server.token(Role::Deployer, Some(&world.shop)).await;
    let own = world.server.with_token(Some(own));
    own.open_preview(&world.shop, &ask(1)).await.unwrap();
    assert_eq!(own.previews(None).await.unwrap().len(), 1);
    own.status(name).await.unwrap();

    let other = world.server.deployment("other").await.name;
    let stranger = world.server.token(Role::Deployer, Some(&other)).await;
    let stranger = world.server.with_token(Some(stranger));
    let error = stranger
        .open_preview(&world.shop, &ask(1))
        .await
        .unwrap_err();
    assert_eq!(code(&error), ErrorCode::Forbidden);
    assert_eq!(
        code(&stranger.preview(name).await.unwrap_err()),
        ErrorCode::Forbidden
    );
    assert_eq!(
        code(&stranger.close_preview(name).await.unwrap_err()),
        ErrorCode::Forbidden
    );
    assert!(stranger.previews(None).await.unwrap().is_empty());
    let viewer = world.server.token(Role::Viewer, Some(&world.shop)).await;
    let viewer = world.server.with_token(Some(viewer));
    viewer.preview(name).await.unwrap();
    assert_eq!(
        code(&viewer.close_preview(name).await.unwrap_err()),
        ErrorCode::Forbidden
    );
    own.close_preview(name).await.unwrap();
}

/// A deploy of these DAGs, begun.
async fn begin(
    client: &Client,
    name: &DeploymentName,
    dags: &Tree,
) -> Result<Comparison, ClientError> {
    let ask = CreateDeploy {
        parts: parts(Some(dags), None),
        description: String::new(),
        git: None,
        ci: None,
        allow_downgrade: false,
        force: false,
        key: DeployId::new().to_string(),
    };
    client.create_deploy(name, &ask).await
}

fn rollback() -> RollbackRequest {
    RollbackRequest {
        to: None,
        description: String::new(),
        allow_downgrade: false,
        key: DeployId::new().to_string(),
    }
}

fn promotion(from: &DeploymentName) -> PromoteRequest {
    PromoteRequest {
        source: PromotionSource {
            from: from.clone(),
            halves: PromotedHalves::Both,
            allow_unproven: true,
        },
        description: String::new(),
        allow_downgrade: false,
        force: false,
        key: DeployId::new().to_string(),
    }
}

/// What the registry answers to the beginning of a push.
async fn push(world: &World, token: &str, deployment: &DeploymentName) -> u16 {
    let url = format!(
        "{}/v2/{deployment}/airflow/blobs/uploads/",
        world.server.url()
    );
    let request = reqwest::Client::new().post(url).bearer_auth(token);
    request.send().await.unwrap().status().as_u16()
}

#[tokio::test]
async fn a_previewer_deploys_to_previews_and_to_nothing_else() {
    let world = World::new().await;
    let token = world.server.token(Role::Previewer, Some(&world.shop)).await;
    let previewer = world.server.with_token(Some(token.clone()));
    let mine = previewer.open_preview(&world.shop, &ask(1)).await.unwrap();
    let name = mine.preview.name.clone();
    let mut agent = world.take(&mine).await;
    agent.converge().await;

    // All that a deploy of the Preview takes.
    let tree = Tree::of([("a.py", "two")]);
    let begun = begin(&previewer, &name, &tree).await.unwrap();
    let id = begun.deploy.unwrap().id;
    let blobs = tree.pick(&begun.missing);
    previewer.upload_blobs(id, &blobs).await.unwrap();
    previewer.accept_deploy(id, None).await.unwrap();
    agent.converge().await;
    let seen = previewer.deploy(id).await.unwrap();
    assert_eq!(seen.state.name(), "live");
    previewer.roll_back(&name, &rollback()).await.unwrap();
    previewer.lift_hold(&name).await.unwrap();
    previewer
        .promote(&name, &promotion(&world.shop))
        .await
        .unwrap();
    let other = begin(&previewer, &name, &Tree::of([("a.py", "three")])).await;
    let other = other.unwrap().deploy.unwrap().id;
    previewer.withdraw_deploy(other, None).await.unwrap();
    assert_eq!(push(&world, &token, &name).await, 202);

    // None of it for the Deployment itself, whoever began it: but it may look.
    previewer.status(&world.shop).await.unwrap();
    let tree = Tree::of([("a.py", "four")]);
    let begun = begin(&world.admin(), &world.shop, &tree).await.unwrap();
    let theirs = begun.deploy.unwrap().id;
    let blobs = tree.pick(&begun.missing);
    for refused in [
        begin(&previewer, &world.shop, &tree).await.err().unwrap(),
        previewer.upload_blobs(theirs, &blobs).await.unwrap_err(),
        previewer.accept_deploy(theirs, None).await.err().unwrap(),
        previewer.withdraw_deploy(theirs, None).await.err().unwrap(),
        previewer
            .roll_back(&world.shop, &rollback())
            .await
            .err()
            .unwrap(),
        previewer.lift_hold(&world.shop).await.err().unwrap(),
        previewer
            .promote(&world.shop, &promotion(&name))
            .await
            .err()
            .unwrap(),
    ] {
        assert_eq!(code(&refused), ErrorCode::Forbidden, "{refused}");
        assert!(refused.to_string().contains("Previews alone"), "{refused}");
        assert!(refused.help().is_some());
    }
    assert_eq!(push(&world, &token, &world.shop).await, 403);
    for refused in [
        previewer.close_preview(&world.shop).await.unwrap_err(),
        previewer.tokens().await.err().unwrap(),
        previewer.delete_deployment(&name, false).await.unwrap_err(),
    ] {
        let code = code(&refused);
        assert!(
            [ErrorCode::Forbidden, ErrorCode::PreviewNotFound].contains(&code),
            "{refused}"
        );
    }
    let shop = world.admin().status(&world.shop).await.unwrap();
    assert_eq!(shop.wanted_deploy.unwrap().kind, DeployKind::Deploy);
    assert_eq!(
        world.admin().deploy(theirs).await.unwrap().state.name(),
        "uploading"
    );

    // One of another Deployment is somebody else's.
    let office = world.server.deployment("office").await.name;
    let stranger = world.server.token(Role::Previewer, Some(&office)).await;
    let stranger = world.server.with_token(Some(stranger));
    for refused in [
        stranger
            .open_preview(&world.shop, &ask(1))
            .await
            .err()
            .unwrap(),
        begin(&stranger, &name, &tree).await.err().unwrap(),
        stranger.close_preview(&name).await.unwrap_err(),
    ] {
        assert_eq!(code(&refused), ErrorCode::Forbidden, "{refused}");
    }
    previewer.close_preview(&name).await.unwrap();
}

#[tokio::test]
async fn secrets_of_the_deployment_come_only_when_its_settings_say_so() {
    let variables = [
        (
            "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN",
            "postgresql://u:p@db/airflow",
        ),
        ("AIRFLOW__CORE__PARALLELISM", "4"),
        ("STRIPE_KEY", "sk"),
    ];
    let environment: BTreeMap<String, Option<String>> = variables
        .into_iter()
        .map(|(name, value)| (name.to_owned(), Some(value.to_owned())))
        .collect();
    let mut world = World::with(DeploymentSettings {
        environment,
        executor: Some("CeleryExecutor".into()),
        ..DeploymentSettings::default()
    })
    .await;
    let opened = world.open(&ask(7)).await.unwrap();
    assert_eq!(opened.preview.values, PreviewValues::Mask);
    let mut agent = world.take(&opened).await;
    agent.poll(std::time::Duration::ZERO).await;
    let wanted = agent.wanted.clone().unwrap();
    assert_eq!(wanted.executor, "LocalExecutor");
    let had: Vec<_> = wanted.environment.into_iter().collect();
    let expected = [("AIRFLOW__CORE__PARALLELISM", "4"), ("STRIPE_KEY", "***")];
    assert_eq!(
        had,
        expected.map(|(name, value)| (name.to_owned(), value.to_owned()))
    );

    let copy = DeploymentSettings {
        preview_values: Some(PreviewValues::Copy),
        ..DeploymentSettings::default()
    };
    world
        .admin()
        .update_deployment(&world.shop, &copy)
        .await
        .unwrap();
    world.open(&ask(7)).await.unwrap();
    agent.poll(std::time::Duration::ZERO).await;
    let wanted = agent.wanted.clone().unwrap();
    assert_eq!(wanted.environment["STRIPE_KEY"], "sk");
    world.wanted().await;
    let told = world.agent.wanted.as_ref().unwrap().previews[0].values;
    assert_eq!(told, PreviewValues::Copy);
}
