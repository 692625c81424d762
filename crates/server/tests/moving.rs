//! Releases that move: holds after a rollback, promotions, and the order of pipelines.
#![expect(clippy::unwrap_used, reason = "a test ends where something fails")]

use updraft_api::deploy::{
    AcceptDeploy, Comparison, ComparisonOutcome, CreateDeploy, DeployView, Order, Parts,
    PlanRequest, PromoteRequest, PromotedHalves, Promotion, PromotionSource, RollbackRequest,
};
use updraft_api::deployment::{DeploymentSettings, DeploymentView};
use updraft_api::{Client, ClientError, ErrorCode};
use updraft_model::{
    AfterFailure, BundleName, CheckStage, Checks, CiProvider, CiRun, DeployId, DeployKind,
    DeploymentName, Digest, Hold, ProofOutcome, ReleasePart, Role, Runtime, StageResult,
};
use updraft_testkit::{TestAgent, TestServer, Tree, container_image, environment, parts};

fn tree(content: &str) -> Tree {
    Tree::of([("a.py", content), ("helper/b.py", "the same")])
}

/// A server with a Deployment on which `one` is live.
struct World {
    server: TestServer,
    shop: DeploymentName,
    agent: TestAgent,
    first: DeployId,
}

impl World {
    async fn new() -> Self {
        Self::with(DeploymentSettings::default()).await
    }

    async fn with(settings: DeploymentSettings) -> Self {
        let server = TestServer::start().await;
        let shop = server.deployment_with("shop", settings).await.name;
        let mut agent = server.agent(&shop, "node-1").await;
        let first = server
            .deploy(&shop, Some(&tree("one")), Some(&environment("one")))
            .await
            .id;
        agent.converge().await;
        Self {
            server,
            shop,
            agent,
            first,
        }
    }

    fn admin(&self) -> Client {
        self.server.as_admin()
    }

    async fn view(&self) -> DeploymentView {
        self.admin().deployment(&self.shop).await.unwrap()
    }

    async fn hold(&self) -> Option<Hold> {
        self.view().await.hold.map(|hold| *hold)
    }

    async fn dags(&self, content: &str) -> DeployView {
        self.server
            .deploy(&self.shop, Some(&tree(content)), None)
            .await
    }

    async fn live(&mut self, content: &str) -> DeployView {
        let deploy = self.dags(content).await;
        self.agent.converge().await;
        deploy
    }

    async fn create(&self, parts: Parts, force: bool) -> Result<Comparison, ClientError> {
        let ask = CreateDeploy {
            parts,
            description: String::new(),
            git: None,
            ci: None,
            allow_downgrade: false,
            force,
            key: DeployId::new().to_string(),
        };
        self.admin().create_deploy(&self.shop, &ask).await
    }

    async fn refused(&self, content: &str) -> ClientError {
        let dags = tree(content);
        self.create(parts(Some(&dags), None), false)
            .await
            .unwrap_err()
    }

    async fn roll_back(&self, to: Option<DeployId>) -> Result<DeployView, ClientError> {
        let ask = RollbackRequest {
            to,
            description: "it doubles orders".into(),
            allow_downgrade: false,
            key: DeployId::new().to_string(),
        };
        self.admin().roll_back(&self.shop, &ask).await
    }
}

fn held(hold: &Hold) -> Vec<DeployId> {
    hold.held.iter().map(|held| held.deploy).collect()
}

#[tokio::test]
async fn a_rollback_holds_its_content_back_until_other_content_comes() {
    let mut world = World::new().await;
    let second = world.live("two").await;
    let back = world.roll_back(None).await.unwrap();
    let hold = world.hold().await.unwrap();
    assert_eq!(hold.rollback, back.id);
    assert_eq!(held(&hold), [second.id]);
    let dags = ReleasePart::Bundle {
        name: BundleName::dags(),
    };
    assert_eq!(hold.held[0].parts, [dags]);

    let refused = world.refused("two").await;
    assert_eq!(refused.code(), Some(ErrorCode::OnHold));
    let text = refused.to_string();
    assert!(text.contains("`shop` is on hold"), "{text}");
    assert!(text.contains(&hold.by), "{text}");
    assert!(text.contains("it doubles orders"), "{text}");
    let help = refused.help().unwrap();
    assert!(help.contains("`updraft hold lift shop`"), "{help}");
    assert!(help.contains("--force"), "{help}");
    let ask = PlanRequest {
        parts: parts(Some(&tree("two")), None),
    };
    let plan = world.admin().plan(&world.shop, &ask).await.unwrap();
    assert_eq!(plan.outcome, ComparisonOutcome::Changes);
    assert_eq!(plan.hold.as_deref(), Some(&hold));
    // Nothing of it is in the history.
    let newest = world.admin().history(&world.shop, 1, None).await.unwrap();
    assert_eq!(newest.deploys[0].id, back.id);

    // The other half has nothing to do with it.
    let image = environment("two");
    world.server.deploy(&world.shop, None, Some(&image)).await;
    assert_eq!(world.hold().await, Some(hold));
    world.refused("two").await;

    let third = world.dags("three").await;
    assert_eq!(third.state.name(), "accepted");
    assert_eq!(world.hold().await, None);
    world.dags("two").await;
}

#[tokio::test]
async fn a_hold_is_lifted_once_and_lifting_again_changes_nothing() {
    let mut world = World::new().await;
    let second = world.live("two").await;
    world.roll_back(None).await.unwrap();
    let admin = world.admin();
    let lifted = admin.lift_hold(&world.shop).await.unwrap().hold.unwrap();
    assert_eq!(held(&lifted), [second.id]);
    assert_eq!(admin.lift_hold(&world.shop).await.unwrap().hold, None);
    assert_eq!(world.hold().await, None);
    world.live("two").await;
}

#[tokio::test]
async fn force_goes_past_a_hold_and_ends_it() {
    let mut world = World::new().await;
    world.live("two").await;
    world.roll_back(None).await.unwrap();
    let dags = tree("two");
    let created = world.create(parts(Some(&dags), None), true).await.unwrap();
    let id = created.deploy.as_ref().unwrap().id;
    world.server.upload(id, &created, [Some(&dags)]).await;
    let refused = world.admin().accept_deploy(id, None).await.unwrap_err();
    assert_eq!(refused.code(), Some(ErrorCode::OnHold));
    let ask = AcceptDeploy {
        force: true,
        ..AcceptDeploy::default()
    };
    let accepted = world.admin().accept_deploy_as(id, &ask).await.unwrap();
    assert_eq!(accepted.state.name(), "accepted");
    assert_eq!(world.hold().await, None);
}

#[tokio::test]
async fn what_was_on_its_way_when_somebody_rolled_back_is_refused_at_the_end() {
    let mut world = World::new().await;
    let dags = tree("two");
    let late = world.create(parts(Some(&dags), None), false).await.unwrap();
    let id = late.deploy.as_ref().unwrap().id;
    world.server.upload(id, &late, [Some(&dags)]).await;
    world.live("two").await;
    world.roll_back(None).await.unwrap();
    let refused = world.admin().accept_deploy(id, None).await.unwrap_err();
    assert_eq!(refused.code(), Some(ErrorCode::OnHold));
    // It is still there, for when the hold is lifted.
    world.admin().lift_hold(&world.shop).await.unwrap();
    world.admin().accept_deploy(id, None).await.unwrap();
}

#[tokio::test]
async fn going_back_by_itself_holds_nothing() {
    let mut world = World::with(DeploymentSettings {
        after_failure: Some(AfterFailure::Rollback),
        ..DeploymentSettings::default()
    })
    .await;
    world.dags("broken").await;
    world.agent.poll(std::time::Duration::ZERO).await;
    world.agent.prove(ProofOutcome::ImportErrors).await;
    let newest = world.admin().history(&world.shop, 1, None).await.unwrap();
    assert_eq!(newest.deploys[0].kind, DeployKind::AutomaticRollback);
    assert_eq!(world.hold().await, None);
    world.dags("broken").await;
}

#[tokio::test]
async fn each_rollback_goes_further_back_and_holds_one_more() {
    let mut world = World::new().await;
    let second = world.live("two").await;
    let third = world.live("three").await;
    let back = world.roll_back(None).await.unwrap();
    assert_eq!(back.returns_to, Some(second.id));
    world.agent.converge().await;
    let further = world.roll_back(None).await.unwrap();
    assert_eq!(further.returns_to, Some(world.first));
    assert_eq!(held(&world.hold().await.unwrap()), [back.id, third.id]);
    for content in ["two", "three"] {
        let refused = world.refused(content).await;
        assert_eq!(refused.code(), Some(ErrorCode::OnHold), "{content}");
    }
    world.agent.converge().await;
    let nothing = world.roll_back(None).await.unwrap_err();
    assert_eq!(nothing.code(), Some(ErrorCode::NotARollbackTarget));
    // Whoever names it means it.
    world.roll_back(Some(third.id)).await.unwrap();
    let hold = world.hold().await.unwrap();
    assert_eq!(held(&hold), [further.id, back.id]);
}

/// Two Deployments with an agent each; `staging` has `two` live.
struct Stages {
    world: World,
    prod: DeploymentName,
    prod_agent: TestAgent,
}

impl Stages {
    async fn new(settings: DeploymentSettings) -> Self {
        let mut world = World::new().await;
        world.live("two").await;
        let prod = world.server.deployment_with("prod", settings).await.name;
        let prod_agent = world.server.agent(&prod, "node-2").await;
        Self {
            world,
            prod,
            prod_agent,
        }
    }

    async fn promote_as(
        &self,
        client: &Client,
        change: impl FnOnce(&mut PromoteRequest),
    ) -> Result<Promotion, ClientError> {
        let mut ask = PromoteRequest {
            source: PromotionSource {
                from: self.world.shop.clone(),
                halves: PromotedHalves::Both,
                allow_unproven: false,
            },
            description: "the week is over".into(),
            allow_downgrade: false,
            force: false,
            key: DeployId::new().to_string(),
        };
        change(&mut ask);
        client.promote(&self.prod, &ask).await
    }

    async fn promote(
        &self,
        change: impl FnOnce(&mut PromoteRequest),
    ) -> Result<Promotion, ClientError> {
        self.promote_as(&self.world.admin(), change).await
    }

    async fn wanted(&self) -> updraft_model::Release {
        let view = self.world.admin().deployment(&self.prod).await.unwrap();
        view.wanted.unwrap()
    }
}

fn dags_of(release: &updraft_model::Release) -> Digest {
    release.bundles[&BundleName::dags()].digest
}

#[tokio::test]
async fn what_is_live_there_is_deployed_here_with_the_same_digests() {
    let mut stages = Stages::new(DeploymentSettings::default()).await;
    let admin = stages.world.admin();
    let release = stages.world.view().await.wanted.unwrap();
    let source = PromotionSource {
        from: stages.world.shop.clone(),
        halves: PromotedHalves::Both,
        allow_unproven: false,
    };
    let plan = admin.plan_promotion(&stages.prod, &source).await.unwrap();
    assert_eq!(plan.outcome, ComparisonOutcome::Changes);
    assert_eq!(plan.deploy, None);
    assert_eq!(plan.files[&BundleName::dags()].added.len(), 2);

    let promoted = stages.promote(|_| {}).await.unwrap();
    let deploy = promoted.deploy.unwrap();
    assert_eq!(deploy.kind, DeployKind::Promotion);
    assert_eq!(deploy.promotes, Some(promoted.taken));
    assert_eq!(deploy.description, "the week is over");
    assert!(deploy.release.unwrap().same_content(&release));
    // Its agents may fetch it, and no blob was sent.
    stages.prod_agent.converge().await;
    let live = admin.deploy(deploy.id).await.unwrap();
    assert_eq!(live.state.name(), "live");
    for digest in [dags_of(&release), release.image.digest()] {
        admin.blob(&stages.prod, digest).await.unwrap();
    }

    let again = stages.promote(|_| {}).await.unwrap();
    assert_eq!(again.outcome, ComparisonOutcome::NothingToDo);
    assert_eq!(again.deploy.unwrap().id, deploy.id);
    // What is deployed there later comes here when it is promoted.
    stages.world.live("three").await;
    assert!(stages.wanted().await.same_content(&release));
    let next = stages.promote(|_| {}).await.unwrap();
    assert_eq!(next.files[&BundleName::dags()].changed, ["a.py"]);
}

#[tokio::test]
async fn promoting_twice_with_one_key_makes_one_deploy() {
    let stages = Stages::new(DeploymentSettings::default()).await;
    let key = |ask: &mut PromoteRequest| ask.key = "the same".into();
    let first = stages.promote(key).await.unwrap().deploy.unwrap();
    let second = stages.promote(key).await.unwrap().deploy.unwrap();
    assert_eq!(first.id, second.id);
    // Another one waits for the one that rolls out.
    let third = stages.promote(|_| {}).await.unwrap();
    assert_eq!(third.outcome, ComparisonOutcome::RollingOut);
    assert_eq!(third.deploy.unwrap().id, first.id);
}

#[tokio::test]
async fn what_never_was_live_is_promoted_only_when_that_is_allowed() {
    let stages = Stages::new(DeploymentSettings::default()).await;
    let server = &stages.world.server;
    let fresh = server.deployment("fresh").await.name;
    let from_fresh = |ask: &mut PromoteRequest| ask.source.from = fresh.clone();
    let nothing = stages.promote(from_fresh).await.unwrap_err();
    assert_eq!(nothing.code(), Some(ErrorCode::NotProven));
    let unproven = server.deploy_tree(&fresh, &[("x.py", "")]).await;
    let refused = stages.promote(from_fresh).await.unwrap_err();
    assert_eq!(refused.code(), Some(ErrorCode::NotProven));
    assert!(refused.help().unwrap().contains("--allow-unproven"));
    let allowed = stages
        .promote(|ask| {
            from_fresh(ask);
            ask.source.allow_unproven = true;
        })
        .await
        .unwrap();
    assert_eq!(allowed.taken, unproven.id);

    // Where something newer is on its way, the last that was live is taken.
    let two = stages.world.view().await.proven.unwrap();
    let newer = stages.world.dags("three").await;
    let taken = stages.promote(|_| {}).await.unwrap();
    assert_eq!(taken.newer, Some(newer.id));
    assert_eq!(dags_of(&taken.release), dags_of(&two));
}

#[tokio::test]
async fn what_was_just_rolled_back_there_is_not_promoted() {
    let stages = Stages::new(DeploymentSettings::default()).await;
    stages.world.roll_back(None).await.unwrap();
    let refused = stages.promote(|_| {}).await.unwrap_err();
    assert_eq!(refused.code(), Some(ErrorCode::NotProven));
    assert!(
        refused.to_string().contains("was just rolled back"),
        "{refused}"
    );
    let allowed = stages.promote(|ask| ask.source.allow_unproven = true);
    let one = dags_of(&allowed.await.unwrap().release);
    assert_eq!(one, tree("one").digest());
}

#[tokio::test]
async fn a_half_is_promoted_alone_and_other_bundles_stay() {
    let stages = Stages::new(DeploymentSettings::default()).await;
    let server = &stages.world.server;
    let (own, image) = (tree("own"), environment("own"));
    server.deploy(&stages.prod, Some(&own), Some(&image)).await;
    let dbt = tree("dbt");
    let bundles = [("dbt".parse().unwrap(), dbt.manifest.clone())].into();
    let only_dbt = Parts {
        bundles,
        environment: None,
    };
    server.deploy_parts(&stages.prod, only_dbt, &[&dbt]).await;

    let halves = |halves| move |ask: &mut PromoteRequest| ask.source.halves = halves;
    stages.promote(halves(PromotedHalves::Dags)).await.unwrap();
    let release = stages.wanted().await;
    assert_eq!(dags_of(&release), tree("two").digest());
    assert_eq!(release.image.digest(), image.digest());
    let dbt_name: BundleName = "dbt".parse().unwrap();
    assert_eq!(release.bundles[&dbt_name].digest, dbt.digest());
    stages.promote(halves(PromotedHalves::Image)).await.unwrap();
    let release = stages.wanted().await;
    assert_eq!(release.image.digest(), environment("one").digest());
    assert_eq!(release.bundles.len(), 2);
}

#[tokio::test]
async fn a_promotion_needs_both_deployments_and_says_what_it_cannot_do() {
    let stages = Stages::new(DeploymentSettings::default()).await;
    let server = &stages.world.server;
    for only in [&stages.prod, &stages.world.shop] {
        let token = server.token(Role::Deployer, Some(only)).await;
        let narrow = server.with_token(Some(token));
        let refused = stages.promote_as(&narrow, |_| {}).await.unwrap_err();
        assert_eq!(refused.code(), Some(ErrorCode::Forbidden), "{only}");
    }
    let itself = |ask: &mut PromoteRequest| ask.source.from = "prod".parse().unwrap();
    let refused = stages.promote(itself).await.unwrap_err();
    assert_eq!(refused.code(), Some(ErrorCode::InvalidRequest));
    // Its first deploy has to bring an image.
    let dags = |ask: &mut PromoteRequest| ask.source.halves = PromotedHalves::Dags;
    let refused = stages.promote(dags).await.unwrap_err();
    assert_eq!(refused.code(), Some(ErrorCode::ImageMissing));
    for (runtime, expected) in [
        (Runtime::Container, ErrorCode::ImageUnsuitable),
        (Runtime::External, ErrorCode::InvalidRequest),
    ] {
        let settings = DeploymentSettings {
            runtime: Some(runtime),
            ..DeploymentSettings::default()
        };
        let admin = stages.world.admin();
        admin
            .update_deployment(&stages.prod, &settings)
            .await
            .unwrap();
        if runtime == Runtime::External {
            // The first one forms a Release.
            stages.promote(|_| {}).await.unwrap();
        }
        let image = |ask: &mut PromoteRequest| ask.source.halves = PromotedHalves::Image;
        let refused = stages.promote(image).await.unwrap_err();
        assert_eq!(refused.code(), Some(expected), "{runtime:?}");
    }
}

#[tokio::test]
async fn a_hold_keeps_back_what_is_promoted_too() {
    let mut stages = Stages::new(DeploymentSettings::default()).await;
    stages.promote(|_| {}).await.unwrap();
    stages.prod_agent.converge().await;
    stages.world.live("three").await;
    stages.promote(|_| {}).await.unwrap();
    stages.prod_agent.converge().await;
    let ask = RollbackRequest {
        key: "back".into(),
        ..RollbackRequest::default()
    };
    let admin = stages.world.admin();
    admin.roll_back(&stages.prod, &ask).await.unwrap();
    let refused = stages.promote(|_| {}).await.unwrap_err();
    assert_eq!(refused.code(), Some(ErrorCode::OnHold));
    stages.promote(|ask| ask.force = true).await.unwrap();
    let view = admin.deployment(&stages.prod).await.unwrap();
    assert_eq!(view.hold, None);
}

#[tokio::test]
async fn what_is_required_has_to_be_checked_where_it_comes_from() {
    let mut stages = Stages::new(DeploymentSettings {
        require: Some(vec![CheckStage::Static]),
        ..DeploymentSettings::default()
    })
    .await;
    let refused = stages.promote(|_| {}).await.unwrap_err();
    assert_eq!(refused.code(), Some(ErrorCode::ChecksRequired));

    let dags = tree("three");
    let created = stages.world.create(parts(Some(&dags), None), false).await;
    let created = created.unwrap();
    let id = created.deploy.as_ref().unwrap().id;
    let server = &stages.world.server;
    server.upload(id, &created, [Some(&dags)]).await;
    let checks = Checks {
        tool: "updraft 0.1.0".into(),
        claimed_by: String::new(),
        bundles: [(BundleName::dags(), dags.digest())].into(),
        environment: None,
        stages: [(CheckStage::Static, StageResult::default())].into(),
    };
    let admin = stages.world.admin();
    admin.accept_deploy(id, Some(checks)).await.unwrap();
    stages.world.agent.converge().await;
    // The first one brings an image, and the static check needs none.
    let promoted = stages.promote(|_| {}).await.unwrap().deploy.unwrap();
    assert!(promoted.checks.is_some());
}

#[tokio::test]
async fn a_promoted_release_that_fails_is_taken_back_by_the_policy() {
    let mut stages = Stages::new(DeploymentSettings {
        after_failure: Some(AfterFailure::Rollback),
        ..DeploymentSettings::default()
    })
    .await;
    stages.promote(|_| {}).await.unwrap();
    stages.prod_agent.converge().await;
    stages.world.live("three").await;
    stages.promote(|_| {}).await.unwrap();
    stages.prod_agent.poll(std::time::Duration::ZERO).await;
    stages.prod_agent.prove(ProofOutcome::ImportErrors).await;
    let admin = stages.world.admin();
    let newest = admin.history(&stages.prod, 1, None).await.unwrap();
    assert_eq!(newest.deploys[0].kind, DeployKind::AutomaticRollback);
    assert_eq!(dags_of(&stages.wanted().await), tree("two").digest());
}

#[tokio::test]
async fn an_image_of_another_kind_is_refused() {
    let stages = Stages::new(DeploymentSettings::default()).await;
    let server = &stages.world.server;
    let containers = DeploymentSettings {
        runtime: Some(Runtime::Container),
        ..DeploymentSettings::default()
    };
    let other = server.deployment_with("containers", containers).await.name;
    let image = container_image(
        &format!("containers/airflow@{}", Digest::of(b"image")),
        "linux/amd64",
    );
    server
        .deploy(&other, Some(&tree("in it")), Some(&image))
        .await;
    let from = |ask: &mut PromoteRequest| {
        ask.source.from = other.clone();
        ask.source.allow_unproven = true;
    };
    let refused = stages.promote(from).await.unwrap_err();
    assert_eq!(refused.code(), Some(ErrorCode::ImageUnsuitable));
}

fn run(branch: &str, number: u64) -> CiRun {
    CiRun {
        provider: CiProvider::Github,
        repository: Some("acme/shop".into()),
        branch: Some(branch.into()),
        run_number: Some(number),
        ..CiRun::default()
    }
}

impl World {
    /// A pipeline's deploy, up to its acceptance.
    async fn on_its_way(&self, content: &str, run: CiRun) -> (DeployId, Comparison) {
        let dags = tree(content);
        let ask = CreateDeploy {
            parts: parts(Some(&dags), None),
            description: String::new(),
            git: None,
            ci: Some(Box::new(run)),
            allow_downgrade: false,
            force: false,
            key: DeployId::new().to_string(),
        };
        let created = self.admin().create_deploy(&self.shop, &ask).await.unwrap();
        let id = created.deploy.as_ref().unwrap().id;
        self.server.upload(id, &created, [Some(&dags)]).await;
        (id, created)
    }

    async fn accept(&self, id: DeployId, after: Option<DeployId>) -> Result<(), ClientError> {
        let ask = AcceptDeploy {
            order: Some(Order { after }),
            ..AcceptDeploy::default()
        };
        self.admin().accept_deploy_as(id, &ask).await.map(drop)
    }
}

#[tokio::test]
async fn a_pipeline_is_told_when_another_one_of_its_branch_was_quicker() {
    let world = World::new().await;
    let (slow, compared) = world.on_its_way("slow", run("main", 1)).await;
    assert_eq!(compared.landed, []);
    let (quick, _) = world.on_its_way("quick", run("main", 2)).await;
    world.accept(quick, None).await.unwrap();
    let refused = world.accept(slow, None).await.unwrap_err();
    assert_eq!(refused.code(), Some(ErrorCode::MovedOn));
    assert!(
        refused.to_string().contains(&quick.to_string()),
        "{refused}"
    );
    // Compared again, it knows.
    let ask = PlanRequest {
        parts: parts(Some(&tree("slow")), None),
    };
    let plan = world.admin().plan(&world.shop, &ask).await.unwrap();
    assert_eq!(plan.landed.len(), 1);
    assert_eq!(
        (plan.landed[0].deploy, plan.landed[0].ci.run_number),
        (quick, Some(2))
    );
    world.accept(slow, Some(quick)).await.unwrap();
}

#[tokio::test]
async fn what_is_of_another_branch_or_was_taken_back_is_nothing_to_come_after() {
    let mut world = World::new().await;
    let (main, _) = world.on_its_way("main", run("main", 1)).await;
    world.accept(main, None).await.unwrap();
    world.agent.converge().await;
    let (aside, compared) = world.on_its_way("aside", run("aside", 7)).await;
    assert_eq!(compared.landed.len(), 1);
    world.accept(aside, None).await.unwrap();
    world.agent.converge().await;

    let (next, compared) = world.on_its_way("next", run("main", 2)).await;
    let landed: Vec<_> = compared.landed.iter().map(|it| it.deploy).collect();
    assert_eq!(landed, [aside, main]);
    world.roll_back(None).await.unwrap();
    world.accept(next, Some(main)).await.unwrap();
    let (last, compared) = world.on_its_way("last", run("aside", 8)).await;
    let landed: Vec<_> = compared.landed.iter().map(|it| it.deploy).collect();
    assert_eq!(landed, [next], "what was rolled back counts no more");
    // Whoever does not ask for an order gets none.
    world.admin().accept_deploy(last, None).await.unwrap();
}
