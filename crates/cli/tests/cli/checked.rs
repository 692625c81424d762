//! The checks of a deploy.

use std::net::TcpListener;

use insta::assert_snapshot;
use serde_json::json;
use updraft_api::ErrorCode;
use updraft_api::deploy::CreateDeploy;
use updraft_model::{BundleName, CheckStage, Checks, Digest, StageResult};
use updraft_testkit::{Tree, parts};

use crate::common::filters;
use crate::common::stand_in::Answer;
use crate::common::world::{DEPLOYMENT, World};

const BROKEN: &str = "from airflow.sdk import DAG\n\nDAG(\"orders\"\n";

#[test]
fn a_failed_check_is_17_and_changes_nothing() {
    let world = World::new();
    let _agent = world.agent(Answer::Proven);
    world.deploy(&[]).ended_with(0);
    let before = world.run(&["status", "-o", "json"]).json();
    world.write_dag("orders", BROKEN);
    filters().bind(|| {
        assert_snapshot!(world.deploy(&[]).ended_with(17), @r#"
        exit code 17
        --- stdout
        [dpl]
        --- stderr
        ✓ compared 1 file with `shop` ([TIME])
        dags/orders.py:4:1: error UPD002: unexpected EOF while parsing
        error: the checks failed, so nothing was deployed: `shop` stays as it is
        help: mend what is named above; `updraft dev check` looks again without deploying
        "#);
        assert_snapshot!(world.run(&["history"]).ended_with(0), @"
        exit code 0
        --- stdout
        DEPLOY                STATE  WHEN  BY     CHANGES   CHECKS   COMMIT  DESCRIPTION
        [dpl]  unfit  [AGO]  admin            1 error
        [dpl]  live   [AGO]  admin  image +1  passed
        ");
        assert_snapshot!(world.run(&["show"]).ended_with(0), @r#"
        exit code 0
        --- stdout
        deploy       [dpl]
        deployment   shop
        kind         deploy
        state        unfit
        begun        [DATE] by admin
        checks       static: 1 checked, 1 error in [TIME] (updraft [VERSION], told by admin)
                     dags/orders.py:4:1: error UPD002: unexpected EOF while parsing
        "#);
    });
    let after = world.run(&["status", "-o", "json"]).json();
    assert_eq!(
        after["deployment"]["wanted"],
        before["deployment"]["wanted"]
    );

    let (code, printed) = world.deploy_json(&[]);
    assert_eq!(code, Some(17));
    assert_eq!(printed["outcome"], "check_failed");
    assert_eq!(printed["checks"]["static"]["errors"], 1);
    assert_eq!(printed["checks"]["static"]["findings"][0]["code"], "UPD002");

    // Mended, it goes on as if nothing had been.
    world.write_dag("orders", "# mended\n");
    world.deploy(&[]).ended_with(0);
}

#[test]
fn warnings_are_told_and_kept_with_the_deploy() {
    let world = World::new();
    let _agent = world.agent(Answer::Proven);
    let text =
        "from airflow.sdk import DAG, Variable\n\nPATH = Variable.get(\"path\")\nDAG(\"orders\")\n";
    world.write_dag("orders", text);
    let printed = world.deploy(&[]).ended_with(0);
    assert!(
        printed
            .stderr
            .contains("dags/orders.py:3:8: warning UPD302"),
        "{printed}"
    );
    let shown = world.run(&["show", "-o", "json"]).ended_with(0).json();
    let checked = &shown["checks"]["stages"]["static"];
    assert_eq!(checked["warnings"], 1);
    assert_eq!(checked["findings"][0]["file"], "dags/orders.py");
    // Lists have the counts alone.
    let history = world.run(&["history", "-o", "json"]).ended_with(0).json();
    let checked = &history["deploys"][0]["checks"]["stages"]["static"];
    assert_eq!(
        (&checked["warnings"], &checked["findings"]),
        (&json!(1), &json!([]))
    );

    // What the project asks not to be told of is on the record, and not said again.
    let settings = "[project]\nname = \"shop\"\n\n[check]\nparse = false\n\n\
        [check.levels]\nUPD101 = \"warning\"\nUPD302 = \"off\"\n";
    world.sandbox.write("here/updraft.toml", settings);
    world.write_dag("orders", &format!("{text}# again\n"));
    let quiet = world.deploy(&[]).ended_with(0);
    assert!(!quiet.stderr.contains("UPD"), "{quiet}");
    let shown = world.run(&["show", "-o", "json"]).ended_with(0).json();
    assert_eq!(
        shown["checks"]["stages"]["static"]["notes"],
        json!(["by `updraft.toml`, UPD101 is a warning, UPD302 is off"])
    );
}

#[test]
fn an_id_that_another_bundle_has_is_refused() {
    let mut world = World::new();
    let agent = world.agent(Answer::Proven);
    world.deploy(&[]).ended_with(0);
    world.deploy_bundle("finance", &[("sales.py", "# a DAG\n")]);
    agent.has_dags("finance", &["sales", "bills"]);
    world.wait_for_dag_ids(&["sales", "bills"]);
    let wanted = || world.run(&["status", "-o", "json"]).json()["deployment"]["wanted"].clone();
    let before = wanted();

    world.write_dag("orders", "from airflow.sdk import DAG\n\nDAG(\"sales\")\n");
    filters().bind(|| {
        assert_snapshot!(world.run(&["dev", "check"]).ended_with(17), @r#"
        exit code 17
        --- stdout
        dags/orders.py:3:5: error UPD102: `sales` is also the id of a DAG in the bundle `finance` of this Deployment
          | DAG("sales")
          = give one of them another id, such as with the team's name before it

        1 error, 0 warnings in 1 DAG file ([TIME])
        --- stderr
        warning: imports are not looked up, because no environment with the project's packages was made here: `updraft dev parse` makes it, `--venv` names one
        "#);
        assert_snapshot!(world.deploy(&[]).ended_with(17), @r#"
        exit code 17
        --- stdout
        [dpl]
        --- stderr
        ✓ compared 1 file with `shop` ([TIME])
        dags/orders.py:3:5: error UPD102: `sales` is also the id of a DAG in the bundle `finance` of this Deployment
          | DAG("sales")
        error: the checks failed, so nothing was deployed: `shop` stays as it is
        help: mend what is named above; `updraft dev check` looks again without deploying
        "#);
    });
    assert_eq!(wanted(), before);
    // What is known of the file is kept; whose ids it is held against is not.
    let checked = world.run(&["dev", "check", "-o", "json"]).ended_with(17);
    assert_eq!(checked.json()["findings"][0]["rule"], "UPD102");
    agent.has_dags("finance", &["bills"]);
    world.wait_for_dag_ids(&["bills"]);
    world.run(&["dev", "check"]).ended_with(0);
    world.deploy(&[]).ended_with(0);

    // Its own ids are none of another bundle.
    agent.has_dags("dags", &["sales"]);
    world.wait_for_dag_ids(&[]);
    world.write_dag(
        "orders",
        "from airflow.sdk import DAG\n\nDAG(\"sales\")\n# second\n",
    );
    world.deploy(&[]).ended_with(0);

    // Another Deployment, one that is not there, and none at all.
    agent.has_dags("finance", &["sales"]);
    world.wait_for_dag_ids(&["sales"]);
    world.run(&["deployment", "create", "office"]).ended_with(0);
    let named = |name: &str| world.run(&["dev", "check", "--deployment", name]);
    named("office").ended_with(0);
    named("shop").ended_with(17);
    let refused = named("nowhere");
    assert!(
        refused.stderr.contains("no Deployment `nowhere`"),
        "{refused}"
    );
    assert_ne!(refused.code, Some(0));
    world.sandbox.unset("UPDRAFT_DEPLOYMENT");
    world.run(&["dev", "check"]).ended_with(0);
}

#[test]
fn a_check_goes_without_a_control_plane_that_is_away() {
    let mut world = World::new();
    world.stop_server();
    world.write_dag("orders", "from airflow.sdk import DAG\n\nDAG(\"sales\")\n");
    let checked = world.run(&["dev", "check"]).ended_with(0);
    assert!(!checked.stderr.contains("trying again"), "{checked}");
    // Whoever names a Deployment wants to know.
    let named = ["dev", "check", "--deployment", DEPLOYMENT];
    let printed = world.run(&named);
    assert_eq!(printed.code, Some(7), "{printed}");
    // One that takes the question and never answers.
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = format!("http://{}", silent.local_addr().unwrap());
    world.sandbox.set("UPDRAFT_SERVER", &address);
    world.run(&["dev", "check"]).ended_with(0);
    // Nor is anybody asked as nobody.
    world.sandbox.unset("UPDRAFT_TOKEN");
    world.run(&["dev", "check"]).ended_with(0);
}

#[test]
fn what_a_deployment_requires_has_to_be_checked() {
    let world = World::new();
    let _agent = world.agent(Answer::Proven);
    let require = |checks: &str| {
        world
            .run(&["deployment", "update", "shop", "--require", checks])
            .ended_with(0)
    };
    require("static");
    world.deploy(&[]).ended_with(0);
    // Whoever does not check, or claims it of something else, is refused.
    let (runtime, client) = world.client();
    let tree = Tree::of([("a.py", "other")]);
    let ask = CreateDeploy {
        parts: parts(Some(&tree), None),
        description: String::new(),
        git: None,
        ci: None,
        allow_downgrade: false,
        force: false,
        key: "by hand".into(),
    };
    let deployment = DEPLOYMENT.parse().unwrap();
    let begun = runtime
        .block_on(client.create_deploy(&deployment, &ask))
        .unwrap();
    assert_eq!(begun.require, [CheckStage::Static]);
    let deploy = begun.deploy.unwrap().id;
    let blobs = tree.pick(&begun.missing);
    runtime
        .block_on(client.upload_blobs(deploy, &blobs))
        .unwrap();
    let accept = |checks| runtime.block_on(client.accept_deploy(deploy, checks));
    let refused = accept(None).unwrap_err();
    assert_eq!(refused.code(), Some(ErrorCode::ChecksRequired));
    let claim = |bundle: Digest| Checks {
        tool: "updraft 0.1.0".into(),
        claimed_by: String::new(),
        bundles: [(BundleName::dags(), bundle)].into(),
        environment: None,
        stages: [(CheckStage::Static, StageResult::default())].into(),
    };
    let refused = accept(Some(claim(Digest::of(b"another")))).unwrap_err();
    assert_eq!(refused.code(), Some(ErrorCode::ChecksRefused));
    accept(Some(claim(tree.digest()))).unwrap();
}
