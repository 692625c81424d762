//! The ids of DAGs, from agents to whoever checks.
#![expect(clippy::unwrap_used, reason = "a test ends where something fails")]

use std::time::Duration;

use reqwest::StatusCode;
use serde_json::{Value, json};
use updraft_api::ErrorCode;
use updraft_api::deploy::Parts;
use updraft_model::{BundleName, DagIds, DeploymentName, ProofOutcome, Role};
use updraft_testkit::{TestAgent, TestServer, Tree, environment};

/// A Deployment whose Airflow has a bundle of a second project.
struct World {
    server: TestServer,
    shop: DeploymentName,
    agent: TestAgent,
}

impl World {
    async fn new() -> Self {
        let server = TestServer::start().await;
        let shop = server.deployment("shop").await.name;
        let mut agent = server.agent(&shop, "one").await;
        let (dags, runs_in) = (Tree::of([("a.py", "one")]), environment("x"));
        server.deploy(&shop, Some(&dags), Some(&runs_in)).await;
        agent.converge().await;
        let mut world = Self {
            server,
            shop,
            agent,
        };
        world.deploy_finance("one").await;
        world
    }

    async fn deploy_finance(&mut self, content: &str) {
        let tree = Tree::of([("f.py", content)]);
        let parts = Parts {
            bundles: [(finance(), tree.manifest.clone())].into(),
            environment: None,
        };
        let trees = [&tree];
        self.server.deploy_parts(&self.shop, parts, &trees).await;
        self.agent.poll(Duration::ZERO).await;
    }

    async fn tell(&mut self, ids: &[(&str, &[&str])]) -> bool {
        let told = self.agent.dag_ids(ids);
        self.agent.tell_dag_ids(told).await
    }

    /// The ids that a project in `dags/` is told.
    async fn known(&self) -> Value {
        let viewer = self.server.token(Role::Viewer, Some(&self.shop)).await;
        let viewer = self.server.with_token(Some(viewer));
        let own = BundleName::dags();
        let known = viewer.dag_ids_besides(&self.shop, &own).await.unwrap();
        serde_json::to_value(known.bundles).unwrap()
    }
}

fn finance() -> BundleName {
    "finance".parse().unwrap()
}

#[tokio::test]
async fn the_ids_of_other_bundles_are_those_of_the_wanted_version() {
    let mut world = World::new().await;
    assert_eq!(world.known().await, json!({}));

    let all: &[(&str, &[&str])] = &[("dags", &["orders"]), ("finance", &["sales", "bills"])];
    assert!(world.tell(all).await);
    assert_eq!(world.known().await, json!({"finance": ["sales", "bills"]}));
    // Told once, they are not asked for again.
    assert!(!world.tell(all).await);

    // What another version has is not known before Airflow has taken it in.
    world.deploy_finance("two").await;
    assert_eq!(world.known().await, json!({}));
    world.agent.prove(ProofOutcome::Proven).await;
    assert_eq!(world.known().await, json!({}));
    assert!(world.tell(&[("finance", &["bills"])]).await);
    assert_eq!(world.known().await, json!({"finance": ["bills"]}));

    // A new version of one's own bundle changes nothing of that.
    let shop = world.shop.clone();
    world.server.deploy_tree(&shop, &[("a.py", "two")]).await;
    assert_eq!(world.known().await, json!({"finance": ["bills"]}));
}

#[tokio::test]
async fn ids_that_nobody_stands_for_any_more_are_not_known() {
    let mut world = World::new().await;
    world.tell(&[("finance", &["sales"])]).await;
    // An agent that has just begun has not asked its Airflow yet.
    let known = world.agent.report.dag_ids.take();
    world.agent.send().await;
    assert_eq!(world.known().await, json!({}));
    world.agent.report.dag_ids = known;
    assert!(!world.agent.send().await.lacks_dag_ids);
    assert_eq!(world.known().await, json!({"finance": ["sales"]}));

    world.server.restart().await;
    assert_eq!(world.known().await, json!({"finance": ["sales"]}));
    world.server.advance_clock(chrono::Duration::hours(1));
    assert_eq!(world.known().await, json!({}));
}

#[tokio::test]
async fn ten_thousand_ids_are_taken_and_what_is_absurd_is_refused() {
    let mut world = World::new().await;
    let ids: Vec<String> = (0..10_000).map(|id| format!("dag_{id}")).collect();
    let ids: Vec<&str> = ids.iter().map(String::as_str).collect();
    assert!(world.tell(&[("finance", &ids)]).await);
    assert_eq!(world.known().await, json!({ "finance": ids }));

    let many: Vec<String> = (0..=DagIds::MOST).map(|id| format!("dag_{id}")).collect();
    let many: Vec<&str> = many.iter().map(String::as_str).collect();
    let many = world.agent.dag_ids(&[("finance", &many)]);
    let refused = world.agent.client().report_dag_ids(&many).await;
    assert_eq!(refused.unwrap_err().code(), Some(ErrorCode::InvalidRequest));

    let token = world.server.token(Role::Agent, Some(&world.shop)).await;
    let http = reqwest::Client::new();
    for wrong in ["", "a b", "\u{1b}[31m", "../x", &"x".repeat(251)] {
        let mut told = serde_json::to_value(world.agent.dag_ids(&[("finance", &["x"])])).unwrap();
        told["bundles"]["finance"]["ids"][0] = json!(wrong);
        let url = format!("{}/api/v1/agent/dag-ids", world.server.url());
        let asked = http.post(url).bearer_auth(&token).json(&told).send().await;
        let status = asked.unwrap().status();
        assert_eq!(status, StatusCode::BAD_REQUEST, "{wrong}");
    }
    assert_eq!(world.known().await, json!({ "finance": ids }));
}

#[tokio::test]
async fn an_agent_tells_of_its_own_deployment_alone() {
    let mut world = World::new().await;
    let office = world.server.deployment("office").await.name;
    let stranger = world.server.agent(&office, "two").await;
    let told = world.agent.dag_ids(&[("finance", &["sales"])]);
    let refused = stranger.client().report_dag_ids(&told).await.unwrap_err();
    assert_eq!(refused.code(), Some(ErrorCode::Forbidden));
    assert!(world.tell(&[("finance", &["sales"])]).await);
}
