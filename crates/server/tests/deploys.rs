//! What becomes of a deploy, whatever else happens meanwhile.
#![expect(clippy::unwrap_used, reason = "a test ends where something fails")]

use std::collections::HashSet;
use std::time::Duration;

use updraft_api::deploy::{
    ComparisonOutcome, CreateDeploy, DeployView, Parts, PlanRequest, RollbackRequest,
};
use updraft_api::deployment::DeploymentSettings;
use updraft_api::{Client, ErrorCode};
use updraft_model::{
    AfterFailure, BundleName, DeployId, DeployKind, DeployState, DeploymentName, Failure, ImageRef,
    ProofOutcome, Role,
};
use updraft_store::Store;
use updraft_testkit::{TestAgent, TestServer, Tree, environment, parts};

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
    async fn new(after_failure: AfterFailure) -> Self {
        // Time passes when a test says so, however long its steps take.
        let server = TestServer::start_with(|config| config.clock.stop()).await;
        Self::with(server, after_failure).await
    }

    async fn with(server: TestServer, after_failure: AfterFailure) -> Self {
        let settings = DeploymentSettings {
            after_failure: Some(after_failure),
            ..DeploymentSettings::default()
        };
        let shop = server.deployment_with("shop", settings).await.name;
        let mut agent = server.agent(&shop, "node-1").await;
        let first = server
            .deploy(&shop, Some(&tree("one")), Some(&environment("one")))
            .await
            .id;
        agent.converge().await;
        let world = Self {
            server,
            shop,
            agent,
            first,
        };
        assert_eq!(world.state(first).await, "live");
        world
    }

    fn admin(&self) -> Client {
        self.server.as_admin()
    }

    async fn show(&self, id: DeployId) -> DeployView {
        self.admin().deploy(id).await.unwrap()
    }

    async fn state(&self, id: DeployId) -> String {
        self.show(id).await.state.name().to_owned()
    }

    async fn dags(&self, content: &str) -> DeployView {
        self.server
            .deploy(&self.shop, Some(&tree(content)), None)
            .await
    }

    /// Deploys another bundle than the DAGs.
    async fn bundle(&self, name: &BundleName, content: &str) -> DeployView {
        let tree = tree(content);
        let bundles = [(name.clone(), tree.manifest.clone())].into();
        let parts = Parts {
            bundles,
            environment: None,
        };
        self.server.deploy_parts(&self.shop, parts, &[&tree]).await
    }

    async fn image(&self, content: &str) -> DeployView {
        self.server
            .deploy(&self.shop, None, Some(&environment(content)))
            .await
    }

    async fn proves_that_it_added(&mut self, dag: &str) {
        self.agent.poll(Duration::ZERO).await;
        self.agent.switch().await;
        let mut proof = self.agent.proof(ProofOutcome::Proven);
        proof.proof.dags.added = vec![dag.into()];
        self.agent.report.proof = Some(proof);
        self.agent.send().await;
    }

    async fn newest(&self) -> DeployView {
        self.admin()
            .history(&self.shop, 1, None)
            .await
            .unwrap()
            .deploys
            .remove(0)
    }

    async fn roll_back(
        &self,
        to: Option<DeployId>,
    ) -> Result<DeployView, updraft_api::ClientError> {
        let ask = RollbackRequest {
            to,
            allow_downgrade: false,
            key: DeployId::new().to_string(),
            description: String::new(),
        };
        self.admin().roll_back(&self.shop, &ask).await
    }
}

fn dags_of(deploy: &DeployView) -> updraft_model::Digest {
    deploy.release.as_ref().unwrap().bundles[&BundleName::dags()].digest
}

fn image_of(deploy: &DeployView) -> ImageRef {
    deploy.release.as_ref().unwrap().image.clone()
}

#[tokio::test]
async fn halves_never_touch_each_other() {
    let world = World::new(AfterFailure::Keep).await;
    let first = world.show(world.first).await;
    let dags = world.dags("two").await;
    assert_eq!(image_of(&dags), image_of(&first));
    let image = world.image("two").await;
    assert_eq!(dags_of(&image), dags_of(&dags));
    assert_ne!(image_of(&image), image_of(&first));
    assert!(image.files.is_empty());
    assert_eq!(world.state(dags.id).await, "superseded");
    assert_eq!(world.state(world.first).await, "live");
}

#[tokio::test]
async fn two_deploys_at_once_are_both_recorded_in_one_order_and_neither_is_lost() {
    let world = World::new(AfterFailure::Keep).await;
    let (dags, image) = (tree("two"), environment("two"));
    // Both were compared with the same Release before either was accepted.
    let created_dags = world
        .server
        .create(&world.shop, parts(Some(&dags), None))
        .await;
    let created_image = world
        .server
        .create(&world.shop, parts(None, Some(&image)))
        .await;
    let (id_dags, id_image) = (
        created_dags.deploy.as_ref().unwrap().id,
        created_image.deploy.as_ref().unwrap().id,
    );
    world
        .server
        .upload(id_dags, &created_dags, [Some(&dags), None])
        .await;
    world
        .server
        .upload(id_image, &created_image, [None, Some(&image)])
        .await;
    let admin = world.admin();
    let (one, other) = tokio::join!(
        admin.accept_deploy(id_dags, None),
        admin.accept_deploy(id_image, None)
    );
    let (one, other) = (one.unwrap(), other.unwrap());
    let wanted = admin.deployment(&world.shop).await.unwrap().wanted.unwrap();
    assert_eq!(wanted.bundles[&BundleName::dags()].digest, dags.digest());
    assert_eq!(wanted.image.digest(), image.digest());
    let states = [world.state(one.id).await, world.state(other.id).await];
    assert!(
        states.contains(&"superseded".into()) && states.contains(&"accepted".into()),
        "{states:?}"
    );
}

#[tokio::test]
async fn many_deploys_of_one_part_at_once_end_with_the_last_accepted() {
    let world = World::new(AfterFailure::Keep).await;
    let mut waiting = Vec::new();
    for n in 0..6 {
        let (server, shop) = (&world.server, &world.shop);
        waiting.push(async move {
            let tree = tree(&format!("version {n}"));
            server.deploy(shop, Some(&tree), None).await
        });
    }
    let accepted = futures_util::future::join_all(waiting).await;
    let wanted = world
        .admin()
        .deployment(&world.shop)
        .await
        .unwrap()
        .wanted
        .unwrap();
    let mut unfinished = 0;
    for deploy in accepted {
        if world.state(deploy.id).await == "accepted" {
            unfinished += 1;
            assert_eq!(dags_of(&deploy), wanted.bundles[&BundleName::dags()].digest);
        }
    }
    assert_eq!(unfinished, 1);
}

#[tokio::test]
async fn asking_twice_with_one_key_makes_one_deploy() {
    let world = World::new(AfterFailure::Keep).await;
    let dags = tree("two");
    let ask = CreateDeploy {
        parts: parts(Some(&dags), None),
        description: "why".into(),
        git: None,
        ci: None,
        allow_downgrade: false,
        force: false,
        key: "the same".into(),
    };
    let admin = world.admin();
    let first = admin.create_deploy(&world.shop, &ask).await.unwrap();
    let repeated = admin.create_deploy(&world.shop, &ask).await.unwrap();
    assert_eq!(
        first.deploy.as_ref().unwrap().id,
        repeated.deploy.as_ref().unwrap().id
    );
    assert_eq!(first.missing, repeated.missing);
    assert_eq!(repeated.outcome, ComparisonOutcome::Changes);
    let id = first.deploy.as_ref().unwrap().id;
    world.server.upload(id, &first, [Some(&dags), None]).await;
    world.server.upload(id, &first, [Some(&dags), None]).await;
    let accepted = admin.accept_deploy(id, None).await.unwrap();
    let again = admin.accept_deploy(id, None).await.unwrap();
    assert_eq!(accepted, again);
    // Also after it was accepted the key finds it.
    let found = admin.create_deploy(&world.shop, &ask).await.unwrap();
    assert_eq!(found.deploy.unwrap().id, id);
    assert!(found.missing.is_empty());
    let other = CreateDeploy {
        parts: parts(Some(&Tree::of([("c.py", "")])), None),
        ..ask
    };
    let refused = admin.create_deploy(&world.shop, &other).await.unwrap_err();
    assert_eq!(refused.code(), Some(ErrorCode::InvalidRequest));
}

#[tokio::test]
async fn a_plan_records_nothing_and_names_the_tables_it_would_replace() {
    let world = World::new(AfterFailure::Keep).await;
    let ask = PlanRequest {
        parts: parts(Some(&tree("two")), None),
    };
    let plan = world.admin().plan(&world.shop, &ask).await.unwrap();
    assert_eq!(plan.outcome, ComparisonOutcome::Changes);
    assert_eq!(plan.deploy, None);
    assert_eq!(plan.missing.len(), 1);
    let replaced = &plan.replaced[&BundleName::dags()];
    assert!(
        replaced
            .iter()
            .flat_map(|table| &table.entries)
            .any(|entry| entry.path == "a.py")
    );
    assert_eq!(world.newest().await.id, world.first);
}

#[tokio::test]
async fn an_equal_deploy_waits_for_the_one_that_rolls_out() {
    let world = World::new(AfterFailure::Keep).await;
    let second = world.dags("two").await;
    let again = world
        .server
        .create(&world.shop, parts(Some(&tree("two")), None))
        .await;
    assert_eq!(again.outcome, ComparisonOutcome::RollingOut);
    assert_eq!(again.deploy.unwrap().id, second.id);
}

#[tokio::test]
async fn the_same_failed_tree_again_is_proven_again_and_not_green_by_itself() {
    let mut world = World::new(AfterFailure::Keep).await;
    let second = world.dags("broken").await;
    world.agent.poll(Duration::ZERO).await;
    world.agent.prove(ProofOutcome::ImportErrors).await;
    let failed = world.show(second.id).await;
    let DeployState::Failed {
        failure: Failure::ImportErrors { proof },
        ..
    } = &failed.state
    else {
        panic!("{:?}", failed.state);
    };
    assert!(
        proof.import_errors[0]
            .traceback
            .contains("ModuleNotFoundError")
    );
    assert_eq!(failed.failure.is_some(), failed.ended_at.is_some());

    // A proof that comes late does not turn it green.
    world.agent.prove(ProofOutcome::Proven).await;
    assert_eq!(world.state(second.id).await, "failed");

    let plan = PlanRequest {
        parts: parts(Some(&tree("broken")), None),
    };
    let plan = world.admin().plan(&world.shop, &plan).await.unwrap();
    assert_eq!(plan.outcome, ComparisonOutcome::ProvingAgain);
    assert_eq!(world.state(second.id).await, "failed");
    let again = world
        .server
        .create(&world.shop, parts(Some(&tree("broken")), None))
        .await;
    assert_eq!(again.outcome, ComparisonOutcome::ProvingAgain);
    assert_eq!(again.deploy.unwrap().id, second.id);
    assert_eq!(world.state(second.id).await, "rolling_out");
    // The old proof is of the attempt before.
    world.agent.send().await;
    assert_eq!(world.state(second.id).await, "rolling_out");
    assert!(world.agent.poll(Duration::ZERO).await);
    assert_eq!(
        world
            .agent
            .wanted
            .as_ref()
            .unwrap()
            .target
            .as_ref()
            .unwrap()
            .attempt,
        2
    );
    world.agent.prove(ProofOutcome::ImportErrors).await;
    assert_eq!(world.state(second.id).await, "failed");
    world
        .server
        .create(&world.shop, parts(Some(&tree("broken")), None))
        .await;
    world.agent.poll(Duration::ZERO).await;
    world.agent.prove(ProofOutcome::Proven).await;
    assert_eq!(world.state(second.id).await, "live");
}

#[tokio::test]
async fn repeated_and_late_reports_change_nothing() {
    let mut world = World::new(AfterFailure::Keep).await;
    let old = world.agent.report.clone();
    let second = world.dags("two").await;
    world.agent.converge().await;
    let live = world.show(second.id).await;
    assert_eq!(live.state.name(), "live");
    for _ in 0..3 {
        world.agent.send().await;
    }
    // A report of before, that was under way for long.
    world.agent.client().report(&old).await.unwrap();
    assert_eq!(world.show(second.id).await.revision, live.revision);
    assert_eq!(world.state(world.first).await, "superseded");
    assert_eq!(
        world.admin().deployment(&world.shop).await.unwrap().proven,
        live.release
    );
}

#[tokio::test]
async fn several_agents_switch_together_and_all_have_to_prove() {
    let mut world = World::new(AfterFailure::Keep).await;
    let mut other = world.server.agent(&world.shop, "node-2").await;
    other.converge().await;
    let second = world.dags("two").await;
    world.agent.poll(Duration::ZERO).await;
    other.poll(Duration::ZERO).await;
    let may_switch = |agent: &TestAgent| {
        agent
            .wanted
            .as_ref()
            .unwrap()
            .target
            .as_ref()
            .unwrap()
            .may_switch
    };
    assert!(!may_switch(&world.agent));
    world.agent.stage().await;
    assert!(!world.agent.poll(Duration::ZERO).await);
    other.stage().await;
    assert!(world.agent.poll(Duration::ZERO).await && other.poll(Duration::ZERO).await);
    assert!(may_switch(&world.agent) && may_switch(&other));

    world.agent.prove(ProofOutcome::Proven).await;
    let half = world.show(second.id).await;
    assert_eq!(
        (half.state.name(), half.on_disk_at, half.agents_connected),
        ("rolling_out", None, 2)
    );
    assert_eq!(world.state(world.first).await, "live");
    other.prove(ProofOutcome::Proven).await;
    assert_eq!(world.state(second.id).await, "live");
}

#[tokio::test]
async fn an_agent_whose_lease_ran_out_is_named_and_not_waited_for() {
    let mut world = World::new(AfterFailure::Keep).await;
    let mut other = world.server.agent(&world.shop, "node-2").await;
    other.converge().await;
    world.server.advance_clock(chrono::Duration::seconds(20));
    world.agent.send().await;
    let second = world.dags("two").await;
    assert_eq!(
        (second.agents_connected, second.agents_lost.as_slice()),
        (1, &["node-2".to_owned()][..])
    );
    world.agent.converge().await;
    assert_eq!(world.state(second.id).await, "live");
    // It comes back, converges, and changes nothing.
    other.converge().await;
    assert_eq!(world.state(second.id).await, "live");
    assert_eq!(world.show(second.id).await.agents_connected, 2);
}

#[tokio::test]
async fn an_agent_that_goes_in_the_middle_is_waited_for_only_as_long_as_its_lease() {
    let mut world = World::new(AfterFailure::Keep).await;
    let mut other = world.server.agent(&world.shop, "node-2").await;
    other.converge().await;
    let second = world.dags("two").await;
    world.agent.poll(Duration::ZERO).await;
    world.agent.prove(ProofOutcome::Proven).await;
    assert_eq!(world.state(second.id).await, "rolling_out");
    world.server.advance_clock(chrono::Duration::seconds(10));
    world.agent.send().await;
    world.server.advance_clock(chrono::Duration::seconds(10));
    // Nobody reports anything new: the control plane looks again by itself.
    let seen = world.show(second.id).await.revision;
    world
        .admin()
        .follow_deploy(second.id, seen, Duration::from_secs(60))
        .await
        .unwrap();
    assert_eq!(world.state(second.id).await, "live");
}

#[tokio::test]
async fn a_deploy_that_timed_out_is_live_once_the_agent_that_held_it_up_is_gone() {
    let mut world = World::new(AfterFailure::Keep).await;
    let mut other = world.server.agent(&world.shop, "node-2").await;
    other.converge().await;
    let second = world.dags("two").await;
    for agent in [&mut world.agent, &mut other] {
        agent.poll(Duration::ZERO).await;
        agent.stage().await;
    }
    other.switch().await;
    world.agent.prove(ProofOutcome::Proven).await;
    // Both are heard of all the time, and one of them never proves anything.
    for _ in 0..32 {
        world.server.advance_clock(chrono::Duration::seconds(10));
        world.agent.send().await;
        other.send().await;
    }
    let admin = world.admin();
    let follow = async |seen| {
        let wait = Duration::from_secs(60);
        admin.follow_deploy(second.id, seen, wait).await.unwrap()
    };
    let mut late = world.show(second.id).await;
    if late.state.name() != "timed_out" {
        late = follow(late.revision).await;
    }
    assert_eq!(late.state.name(), "timed_out");
    // Now that one falls silent, and nobody has anything new to say.
    for _ in 0..2 {
        world.server.advance_clock(chrono::Duration::seconds(10));
        world.agent.send().await;
    }
    follow(late.revision).await;
    assert_eq!(world.state(second.id).await, "live");
}

#[tokio::test]
async fn a_failure_is_recorded_also_when_there_is_no_way_back() {
    let mut world = World::new(AfterFailure::Rollback).await;
    let second = world.dags("two").await;
    world.agent.poll(Duration::ZERO).await;
    // What manifests and layers hold is lost, in the database and in memory.
    let store = Store::sqlite(&world.server.data_dir().join("updraft.db"))
        .await
        .unwrap();
    let mut tx = store.begin().await.unwrap();
    let later = chrono::Utc::now() + chrono::Duration::days(1);
    tx.forget_unused(&HashSet::new(), later).await.unwrap();
    tx.commit().await.unwrap();
    store.close().await;
    world.server.restart().await;
    let token = world.server.token(Role::Agent, Some(&world.shop)).await;
    let mut agent = TestAgent::new(&world.server.with_token(Some(token)), "node-1");
    agent.report.agent = world.agent.report.agent;
    agent.poll(Duration::ZERO).await;
    agent.prove(ProofOutcome::ImportErrors).await;
    let DeployState::Failed {
        failure: Failure::ImportErrors { proof },
        ..
    } = world.show(second.id).await.state
    else {
        panic!("the traceback is on the deploy");
    };
    assert_eq!(proof.import_errors.len(), 1);
}

#[tokio::test]
async fn no_agent_is_its_own_outcome_and_time_runs_out() {
    let server = TestServer::start().await;
    let shop = server.deployment("shop").await.name;
    let deploy = server.deploy_tree(&shop, &[("a.py", "one")]).await;
    assert_eq!(
        (deploy.state.name(), deploy.agents_connected),
        ("accepted", 0)
    );
    server.advance_clock(chrono::Duration::seconds(316));
    let admin = server.as_admin();
    let late = admin
        .follow_deploy(deploy.id, deploy.revision, Duration::from_secs(60))
        .await
        .unwrap();
    let DeployState::TimedOut { seen, .. } = &late.state else {
        panic!("{:?}", late.state);
    };
    assert_eq!(seen, "no agent was connected");
    // It is still wanted, and evidence that comes late counts.
    let mut agent = server.agent(&shop, "late").await;
    agent.poll(Duration::ZERO).await;
    assert_eq!(
        agent
            .wanted
            .as_ref()
            .unwrap()
            .target
            .as_ref()
            .unwrap()
            .proof_timeout_s,
        300
    );
    agent.prove(ProofOutcome::Proven).await;
    assert_eq!(admin.deploy(deploy.id).await.unwrap().state.name(), "live");
}

#[tokio::test]
async fn a_proof_that_timed_out_says_what_was_not_seen_and_may_still_fail() {
    let mut world = World::new(AfterFailure::Keep).await;
    let second = world.dags("slow").await;
    world.agent.poll(Duration::ZERO).await;
    world.agent.prove(ProofOutcome::TimedOut).await;
    let DeployState::TimedOut { not_seen, .. } = world.show(second.id).await.state else {
        panic!("not timed out");
    };
    assert_eq!(not_seen, "broken.py");
    world.agent.prove(ProofOutcome::ImportErrors).await;
    assert_eq!(world.state(second.id).await, "failed");
}

#[tokio::test]
async fn an_agent_that_stalls_fails_the_deploy_with_its_own_words() {
    let mut world = World::new(AfterFailure::Keep).await;
    let second = world.dags("two").await;
    // Of before this deploy: not about it.
    world.agent.stall("an old problem").await;
    assert_eq!(world.state(second.id).await, "accepted");
    world.agent.poll(Duration::ZERO).await;
    world.agent.stall("the disk is full").await;
    let failed = world.show(second.id).await;
    let DeployState::Failed {
        failure: Failure::Agent { message },
        ..
    } = &failed.state
    else {
        panic!("{:?}", failed.state);
    };
    assert_eq!(message, "node-1: the disk is full");
    assert_eq!(world.state(world.first).await, "live");
}

#[tokio::test]
async fn with_the_policy_a_failed_deploy_goes_back_by_itself_once() {
    let mut world = World::new(AfterFailure::Rollback).await;
    let first = world.show(world.first).await;
    let second = world.dags("broken").await;
    world.agent.poll(Duration::ZERO).await;
    world.agent.prove(ProofOutcome::ImportErrors).await;
    let failed = world.show(second.id).await;
    assert_eq!(failed.state.name(), "rolled_back");
    assert!(matches!(failed.failure, Some(Failure::ImportErrors { .. })));
    let back = world.newest().await;
    assert_eq!(back.kind, DeployKind::AutomaticRollback);
    assert_eq!(back.returns_to, Some(world.first));
    assert!(
        back.release
            .as_ref()
            .unwrap()
            .same_content(first.release.as_ref().unwrap())
    );
    assert_eq!(back.files[&BundleName::dags()].changed, ["a.py"]);
    // An automatic rollback that fails is not rolled back.
    world.agent.poll(Duration::ZERO).await;
    world.agent.prove(ProofOutcome::ImportErrors).await;
    assert_eq!(world.state(back.id).await, "failed");
    assert_eq!(world.newest().await.id, back.id);
}

#[tokio::test]
async fn a_first_deploy_that_fails_has_nothing_to_go_back_to() {
    let server = TestServer::start().await;
    let settings = DeploymentSettings {
        after_failure: Some(AfterFailure::Rollback),
        ..DeploymentSettings::default()
    };
    let shop = server.deployment_with("shop", settings).await.name;
    let mut agent = server.agent(&shop, "one").await;
    let deploy = server.deploy_tree(&shop, &[("a.py", "broken")]).await;
    agent.poll(Duration::ZERO).await;
    agent.prove(ProofOutcome::ImportErrors).await;
    assert_eq!(
        server
            .as_admin()
            .deploy(deploy.id)
            .await
            .unwrap()
            .state
            .name(),
        "failed"
    );
}

#[tokio::test]
async fn a_failing_deploy_takes_back_only_its_parts_though_another_part_came_in_between() {
    let mut world = World::new(AfterFailure::Rollback).await;
    let first = world.show(world.first).await;
    let broken = world.dags("broken").await;
    world.agent.poll(Duration::ZERO).await;
    // Accepted while Airflow looks at the broken one.
    let image = world.image("two").await;
    world.agent.prove(ProofOutcome::ImportErrors).await;

    let taken_back = world.show(broken.id).await;
    assert_eq!(taken_back.state.name(), "rolled_back");
    assert!(taken_back.failure.is_some());
    let back = world.newest().await;
    assert_eq!(back.kind, DeployKind::AutomaticRollback);
    assert_eq!(dags_of(&back), dags_of(&first));
    assert_eq!(image_of(&back), image_of(&image));
    // The same report again does nothing more.
    world.agent.send().await;
    assert_eq!(world.newest().await.id, back.id);
    world.agent.converge().await;
    assert_eq!(world.state(back.id).await, "live");
}

#[tokio::test]
async fn what_failed_unseen_is_taken_back_with_the_deploy_that_took_its_place() {
    let mut world = World::new(AfterFailure::Rollback).await;
    let first = world.show(world.first).await;
    world.dags("broken").await;
    let image = world.image("two").await;
    // The agent saw only both together.
    world.agent.poll(Duration::ZERO).await;
    world.agent.prove(ProofOutcome::ImportErrors).await;
    assert_eq!(world.state(image.id).await, "rolled_back");
    let back = world.newest().await;
    assert!(back.release.unwrap().same_content(&first.release.unwrap()));
}

#[tokio::test]
async fn a_bundle_in_which_nothing_is_wrong_stays_when_another_is_taken_back() {
    let mut world = World::new(AfterFailure::Rollback).await;
    let first = world.show(world.first).await;
    let extra: BundleName = "extra".parse().unwrap();
    world.bundle(&extra, "one").await;
    world.agent.converge().await;
    world.dags("broken").await;
    let good = world.bundle(&extra, "two").await;
    // The agent saw only both together.
    world.agent.poll(Duration::ZERO).await;
    let mut report = world.agent.proof(ProofOutcome::ImportErrors);
    report.proof.import_errors[0].file = "dags/broken.py".into();
    world.agent.prove_as(report).await;
    let back = world.newest().await;
    assert_eq!(back.kind, DeployKind::AutomaticRollback);
    assert_eq!(dags_of(&back), dags_of(&first));
    let bundles = |deploy: &DeployView| deploy.release.as_ref().unwrap().bundles.clone();
    assert_eq!(bundles(&back)[&extra], bundles(&good)[&extra]);
}

#[tokio::test]
async fn a_part_that_a_later_deploy_changed_is_not_taken_back() {
    let mut world = World::new(AfterFailure::Rollback).await;
    let broken = world.dags("broken").await;
    world.agent.poll(Duration::ZERO).await;
    let fixed = world.dags("fixed").await;
    world.agent.prove(ProofOutcome::ImportErrors).await;
    assert_eq!(world.state(broken.id).await, "superseded");
    assert_eq!(world.newest().await.id, fixed.id);
    world.agent.converge().await;
    assert_eq!(world.state(fixed.id).await, "live");
}

#[tokio::test]
async fn a_rollback_returns_to_the_last_proven_release_that_differs() {
    let mut world = World::new(AfterFailure::Keep).await;
    let second = world.dags("two").await;
    world.agent.converge().await;
    let broken = world.dags("broken").await;
    world.agent.poll(Duration::ZERO).await;
    world.agent.prove(ProofOutcome::ImportErrors).await;
    let back = world.roll_back(None).await.unwrap();
    assert_eq!(
        (back.kind, back.returns_to),
        (DeployKind::Rollback, Some(second.id))
    );
    assert_eq!(world.state(broken.id).await, "rolled_back");
    // The proof of the earlier time does not count.
    assert_eq!(world.state(back.id).await, "accepted");
    world.agent.converge().await;
    assert_eq!(world.state(back.id).await, "live");

    let further = world.roll_back(None).await.unwrap();
    assert_eq!(further.returns_to, Some(world.first));
    let same = world.roll_back(Some(world.first)).await.unwrap();
    assert_eq!(same.id, further.id);
}

#[tokio::test]
async fn a_rollback_says_what_can_be_returned_to() {
    let world = World::new(AfterFailure::Keep).await;
    let nothing = world.roll_back(None).await.unwrap_err();
    assert_eq!(nothing.code(), Some(ErrorCode::NotARollbackTarget));
    let unfinished = world
        .server
        .create(&world.shop, parts(Some(&tree("two")), None))
        .await
        .deploy
        .unwrap();
    let refused = world.roll_back(Some(unfinished.id)).await.unwrap_err();
    assert_eq!(refused.code(), Some(ErrorCode::NotARollbackTarget));
    assert_eq!(
        refused.help().unwrap(),
        format!("these can: {}", world.first)
    );
    let unknown = world.roll_back(Some(DeployId::new())).await.unwrap_err();
    assert_eq!(unknown.code(), Some(ErrorCode::DeployNotFound));
    let office = world.server.deployment("office").await.name;
    let theirs = world.server.deploy_tree(&office, &[("x.py", "")]).await;
    let refused = world.roll_back(Some(theirs.id)).await.unwrap_err();
    assert_eq!(refused.code(), Some(ErrorCode::NotARollbackTarget));
}

#[tokio::test]
async fn a_diff_names_files_and_dags() {
    let mut world = World::new(AfterFailure::Keep).await;
    let second = world.dags("two").await;
    world.agent.poll(Duration::ZERO).await;
    world.agent.report.proof = None;
    world.agent.prove(ProofOutcome::Proven).await;
    let admin = world.admin();
    let alone = admin.diff(second.id, None).await.unwrap();
    assert_eq!(
        (alone.from, alone.to, alone.image_changed),
        (Some(world.first), second.id, false)
    );
    assert_eq!(alone.bundles[&BundleName::dags()].changed, ["a.py"]);
    assert_eq!(alone.dags.added, ["a_dag"]);
    let back = admin.diff(second.id, Some(world.first)).await.unwrap();
    assert_eq!(back.dags.removed, ["a_dag"]);
    let first = admin.diff(world.first, None).await.unwrap();
    assert_eq!(
        first.bundles[&BundleName::dags()].added,
        ["a.py", "helper/b.py"]
    );
    assert!(first.image_changed);
    assert_eq!(first.from, None);
}

#[tokio::test]
async fn a_diff_goes_by_acceptance_and_forgets_what_changed_back() {
    let mut world = World::new(AfterFailure::Keep).await;
    let late = tree("late");
    let recorded = world.server.create(&world.shop, parts(Some(&late), None));
    let recorded = recorded.await;
    let late_id = recorded.deploy.as_ref().unwrap().id;
    world
        .server
        .upload(late_id, &recorded, [Some(&late), None])
        .await;
    let early = world.dags("early").await;
    world.proves_that_it_added("early_dag").await;
    let admin = world.admin();
    admin.accept_deploy(late_id, None).await.unwrap();
    world.proves_that_it_added("late_dag").await;
    let forwards = admin.diff(early.id, Some(late_id)).await.unwrap();
    assert_eq!(forwards.dags.added, ["late_dag"]);
    assert!(forwards.dags.removed.is_empty(), "{:?}", forwards.dags);

    world.roll_back(Some(early.id)).await.unwrap();
    world.proves_that_it_added("early_dag").await;
    admin.lift_hold(&world.shop).await.unwrap();
    let again = world.dags("late").await;
    world.proves_that_it_added("late_dag").await;
    let same = admin.diff(late_id, Some(again.id)).await.unwrap();
    assert!(same.bundles.is_empty() && !same.image_changed);
    assert!(same.dags.added.is_empty(), "{:?}", same.dags);
}

#[tokio::test]
async fn following_waits_for_the_next_revision() {
    let mut world = World::new(AfterFailure::Keep).await;
    let second = world.dags("two").await;
    let admin = world.admin();
    let started = std::time::Instant::now();
    let following = admin.follow_deploy(second.id, second.revision, Duration::from_secs(30));
    let working = async {
        tokio::time::sleep(Duration::from_millis(100)).await;
        world.agent.poll(Duration::ZERO).await;
        world.agent.send().await;
    };
    let (followed, ()) = tokio::join!(following, working);
    let followed = followed.unwrap();
    assert!(followed.revision > second.revision && started.elapsed() < Duration::from_secs(5));
    assert_eq!(followed.state.name(), "rolling_out");
    let nothing = admin
        .follow_deploy(second.id, followed.revision, Duration::from_secs(1))
        .await
        .unwrap();
    assert_eq!(nothing.revision, followed.revision);
}

#[tokio::test]
async fn an_agent_gets_only_blobs_that_its_deployment_names() {
    let world = World::new(AfterFailure::Keep).await;
    let office = world.server.deployment("office").await.name;
    let secret = Tree::of([("secret.py", "theirs")]);
    world
        .server
        .deploy(&office, Some(&secret), Some(&environment("theirs")))
        .await;
    let layer = *secret.blobs.keys().next().unwrap();
    let refused = world
        .agent
        .client()
        .fetch_blobs(vec![layer], 1 << 20, |_, _| Ok(()))
        .await
        .unwrap_err();
    assert_eq!(refused.code(), Some(ErrorCode::BlobNotFound));
    let refused = world.admin().blob(&world.shop, layer).await.unwrap_err();
    assert_eq!(refused.code(), Some(ErrorCode::BlobNotFound));

    let mine = tree("one");
    let mut all: Vec<_> = mine.blobs.keys().copied().collect();
    all.push(mine.digest());
    let mut got = Vec::new();
    let fetched = world
        .agent
        .client()
        .fetch_blobs(all.clone(), 1 << 20, |digest, _| {
            got.push(digest);
            Ok(())
        });
    fetched.await.unwrap().unwrap();
    assert_eq!(got, all);
    assert_eq!(
        world
            .admin()
            .blob(&world.shop, mine.digest())
            .await
            .unwrap(),
        mine.manifest
    );
}

#[tokio::test]
async fn what_agents_keep_follows_the_setting() {
    let mut world = World::new(AfterFailure::Keep).await;
    let settings = DeploymentSettings {
        keep_releases: Some(1),
        ..DeploymentSettings::default()
    };
    world
        .admin()
        .update_deployment(&world.shop, &settings)
        .await
        .unwrap();
    for content in ["2", "3", "4", "5"] {
        world.dags(content).await;
        world.agent.converge().await;
    }
    world.agent.poll(Duration::ZERO).await;
    let keep = &world.agent.wanted.as_ref().unwrap().keep;
    for (content, kept) in [("5", true), ("4", true), ("2", false), ("one", false)] {
        assert_eq!(keep.contains(&tree(content).digest()), kept, "{content}");
    }
    assert!(keep.contains(&environment("one").digest()));
}

#[tokio::test]
async fn variables_reach_the_agent_and_nobody_else() {
    let mut world = World::new(AfterFailure::Keep).await;
    let set = |name: &str, value: Option<&str>| DeploymentSettings {
        environment: [(name.to_owned(), value.map(Into::into))].into(),
        ..DeploymentSettings::default()
    };
    let admin = world.admin();
    let shown = admin
        .update_deployment(&world.shop, &set("API_KEY", Some("s3cr3t-value")))
        .await
        .unwrap();
    assert_eq!(shown.environment, ["API_KEY"]);
    world.agent.poll(Duration::ZERO).await;
    assert_eq!(
        world.agent.wanted.as_ref().unwrap().environment["API_KEY"],
        "s3cr3t-value"
    );
    let status = serde_json::to_string(&admin.status(&world.shop).await.unwrap()).unwrap();
    assert!(!status.contains("s3cr3t-value"));
    for file in ["updraft.db", "updraft.db-wal"] {
        let bytes = std::fs::read(world.server.data_dir().join(file)).unwrap();
        assert!(
            !bytes.windows(12).any(|part| part == b"s3cr3t-value"),
            "{file}"
        );
    }
    let shown = admin
        .update_deployment(&world.shop, &set("API_KEY", None))
        .await
        .unwrap();
    assert!(shown.environment.is_empty());
    for wrong in ["", "1A", "A-B", "UPDRAFT_TOKEN"] {
        let refused = admin
            .update_deployment(&world.shop, &set(wrong, Some("x")))
            .await
            .unwrap_err();
        assert_eq!(refused.code(), Some(ErrorCode::InvalidRequest), "{wrong}");
    }
}

#[tokio::test]
async fn a_deployment_with_agents_goes_only_by_force() {
    let world = World::new(AfterFailure::Keep).await;
    let admin = world.admin();
    let refused = admin
        .delete_deployment(&world.shop, false)
        .await
        .unwrap_err();
    assert!(refused.to_string().contains("node-1"), "{refused}");
    admin.delete_deployment(&world.shop, true).await.unwrap();
    assert_eq!(
        admin.deployment(&world.shop).await.unwrap_err().code(),
        Some(ErrorCode::DeploymentNotFound)
    );
    let refused = admin.deploy(world.first).await.unwrap_err();
    assert_eq!(refused.code(), Some(ErrorCode::DeployNotFound));
    // The name is free again.
    world.server.deployment("shop").await;
    let taken = admin
        .create_deployment(&updraft_api::deployment::CreateDeployment {
            name: "shop".parse().unwrap(),
            settings: DeploymentSettings::default(),
        })
        .await
        .unwrap_err();
    assert_eq!(taken.code(), Some(ErrorCode::NameTaken));
}
