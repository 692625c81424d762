//! From nothing to live, and back.

use std::time::Duration;

use updraft_api::ErrorCode;
use updraft_api::deploy::{ComparisonOutcome, CreateDeploy, PlanRequest, RollbackRequest};
use updraft_model::{BundleName, DeployKind, ProofOutcome};
use updraft_testkit::{TestServer, Tree, environment, parts};

#[tokio::test]
async fn a_deploy_goes_live_when_its_agent_has_proven_it() {
    let server = TestServer::start().await;
    let deployment = server.deployment("shop").await;
    let admin = server.as_admin();
    let mut agent = server.agent(&deployment.name, "one").await;
    agent.poll(Duration::ZERO).await;
    agent.send().await;

    let deploy = server
        .deploy_tree(&deployment.name, &[("a.py", "one"), ("b.py", "two")])
        .await;
    assert_eq!(deploy.state.name(), "accepted");
    assert_eq!(deploy.agents_connected, 1);
    assert_eq!(deploy.files[&BundleName::dags()].added, ["a.py", "b.py"]);

    assert!(agent.poll(Duration::from_secs(5)).await);
    let wanted = agent.wanted.clone().unwrap();
    assert!(wanted.target.as_ref().unwrap().may_switch);
    assert_eq!(wanted.proven, None);
    agent.send().await;
    let rolling = admin.deploy(deploy.id).await.unwrap();
    assert_eq!(rolling.state.name(), "rolling_out");

    agent.switch().await;
    assert!(admin.deploy(deploy.id).await.unwrap().on_disk_at.is_some());
    agent.prove(ProofOutcome::Proven).await;
    let live = admin.deploy(deploy.id).await.unwrap();
    assert_eq!(live.state.name(), "live");

    // The same again is nothing to do.
    let dags = Tree::of([("a.py", "one"), ("b.py", "two")]);
    let again = server
        .create(&deployment.name, parts(Some(&dags), None))
        .await;
    assert_eq!(again.outcome, ComparisonOutcome::NothingToDo);
    assert_eq!(again.deploy.unwrap().id, deploy.id);

    let second = server
        .deploy_tree(&deployment.name, &[("a.py", "changed"), ("c.py", "three")])
        .await;
    let files = &second.files[&BundleName::dags()];
    assert_eq!(files.added, ["c.py"]);
    assert_eq!(files.changed, ["a.py"]);
    assert_eq!(files.removed, ["b.py"]);
    assert_eq!(admin.deploy(deploy.id).await.unwrap().state.name(), "live");
    agent.converge().await;
    assert_eq!(
        admin.deploy(deploy.id).await.unwrap().state.name(),
        "superseded"
    );
    assert_eq!(admin.deploy(second.id).await.unwrap().state.name(), "live");

    let back = admin
        .roll_back(
            &deployment.name,
            &RollbackRequest {
                allow_downgrade: false,
                key: "back".into(),
                ..RollbackRequest::default()
            },
        )
        .await
        .unwrap();
    assert_eq!(back.kind, DeployKind::Rollback);
    assert_eq!(back.returns_to, Some(deploy.id));
    assert!(
        back.release
            .as_ref()
            .unwrap()
            .same_content(deploy.release.as_ref().unwrap())
    );
    assert_eq!(
        admin.deploy(second.id).await.unwrap().state.name(),
        "rolled_back"
    );
    agent.converge().await;
    assert_eq!(admin.deploy(back.id).await.unwrap().state.name(), "live");

    let history = admin
        .history(&deployment.name, 10, None)
        .await
        .unwrap()
        .deploys;
    assert_eq!(
        history.iter().map(|d| d.id).collect::<Vec<_>>(),
        [back.id, second.id, deploy.id]
    );
    let status = admin.status(&deployment.name).await.unwrap();
    assert_eq!(status.proven_deploy, Some(back.id));
    assert!(status.agents[0].connected);
    assert_eq!(status.agents[0].serving, back.release);
}

#[tokio::test]
async fn a_first_deploy_without_an_environment_can_be_planned_and_is_refused() {
    let server = TestServer::start().await;
    let deployment = server.deployment("shop").await;
    let dags = Tree::of([("a.py", "one")]);
    let ask = PlanRequest {
        parts: parts(Some(&dags), None),
    };
    let admin = server.as_admin();
    let plan = admin.plan(&deployment.name, &ask).await.unwrap();
    assert_eq!(plan.outcome, ComparisonOutcome::Changes);
    let ask = CreateDeploy {
        parts: ask.parts,
        description: String::new(),
        git: None,
        ci: None,
        allow_downgrade: false,
        force: false,
        key: "first".into(),
    };
    let refused = admin
        .create_deploy(&deployment.name, &ask)
        .await
        .unwrap_err();
    assert_eq!(refused.code(), Some(ErrorCode::ImageMissing));
    let environment = environment("x");
    let created = server
        .create(&deployment.name, parts(Some(&dags), Some(&environment)))
        .await;
    assert_eq!(created.outcome, ComparisonOutcome::Changes);
}
