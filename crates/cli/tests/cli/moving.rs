//! Releases that move: holds, promotions, and which of two pipelines wins.

use insta::assert_snapshot;
use serde_json::Value;

use crate::common::stand_in::{Agent, Answer};
use crate::common::world::World;
use crate::common::{Printed, filters};

/// A Deployment beside the first, with an agent of its own.
fn prod(world: &World) -> Agent {
    world.run(&["deployment", "create", "prod"]).ended_with(0);
    let code = world.run(&["agent", "invite", "prod"]).ended_with(0).stdout;
    Agent::start(&world.url, code.trim(), Answer::Proven)
}

fn rolled_back() -> (World, Agent) {
    let world = World::new();
    let agent = world.agent(Answer::Proven);
    world.deploy(&[]).ended_with(0);
    world.write_dag("orders", "# second\n");
    world.deploy(&[]).ended_with(0);
    world
        .run(&["rollback", "--reason", "it doubles orders"])
        .ended_with(0);
    (world, agent)
}

#[test]
fn what_was_rolled_back_is_8_until_somebody_lifts_the_hold() {
    let (world, _agent) = rolled_back();
    filters().bind(|| {
        assert_snapshot!(world.deploy(&[]).ended_with(8), @r#"
        exit code 8
        --- stderr
        ✓ compared 1 file with `shop` ([TIME])
        error: `shop` is on hold since admin rolled this very content back at [DATE] (it doubles orders)
        help: deploy other content, which ends the hold; or `updraft hold lift shop`, or --force
        "#);
        assert_snapshot!(world.run(&["hold", "show"]).ended_with(0), @r#"
        exit code 0
        --- stdout
        `shop` is on hold since admin rolled [dpl] back (it doubles orders), [AGO]
          [dpl]  dags [DIGEST], environment [DIGEST]
        --- stderr
        Deploying that again is refused until other content comes; `updraft hold lift shop` allows it
        "#);
    });
    let (_, json) = world.deploy_json(&[]);
    assert_eq!(json["error"]["code"], "on_hold");
    let status = world.run(&["status"]).ended_with(0);
    assert!(status.stdout.contains("on hold"), "{status}");
    let status = world.run(&["status", "-o", "json"]).ended_with(0).json();
    let reason = &status["deployment"]["hold"]["reason"];
    assert_eq!(*reason, "it doubles orders");
    let plan = world.deploy(&["--plan"]).ended_with(0);
    assert!(
        plan.stderr
            .contains("a deploy would be refused: `shop` is on hold"),
        "{plan}"
    );

    let lifted = world.run(&["hold", "lift"]).ended_with(0);
    assert!(lifted.stderr.contains("Lifted: what dpl_"), "{lifted}");
    let again = world.run(&["hold", "lift", "-o", "json"]).ended_with(0);
    assert_eq!(again.json()["hold"], Value::Null);
    let none = world.run(&["hold", "show"]).ended_with(0);
    assert!(none.stderr.contains("is not on hold"), "{none}");
    world.deploy(&[]).ended_with(0);
}

#[test]
fn other_content_ends_a_hold_and_so_does_force() {
    let (world, _agent) = rolled_back();
    world.write_dag("orders", "# third\n");
    world.deploy(&[]).ended_with(0);
    let none = world.run(&["hold", "show", "-o", "json"]).ended_with(0);
    assert_eq!(none.json()["hold"], Value::Null);

    world.run(&["rollback"]).ended_with(0);
    world.deploy(&[]).ended_with(8);
    world.deploy(&["--force"]).ended_with(0);
    let none = world.run(&["hold", "show", "-o", "json"]).ended_with(0);
    assert_eq!(none.json()["hold"], Value::Null);
}

#[test]
fn what_is_live_is_promoted_and_proven_again() {
    let world = World::new();
    let _agent = world.agent(Answer::Proven);
    world.deploy(&[]).ended_with(0);
    let _prod = prod(&world);
    let promote = ["promote", "shop", "prod"];
    filters().bind(|| {
        assert_snapshot!(world.run(&[&promote[..], &["--plan"]].concat()).ended_with(0), @r#"
        exit code 0
        --- stdout
        [dpl] of `shop` would change `prod`: 1 file added, and the image
          + orders.py
        "#);
        assert_snapshot!(world.run(&promote).ended_with(0), @r#"
        exit code 0
        --- stdout
        [dpl]
        --- stderr
        Promoting [dpl] of `shop` to `prod`
        ✓ accepted as [dpl]: 1 file added, and the image ([TIME])
            + orders.py
        ✓ on disk, switched ([TIME])
        ✓ parsed by Airflow: 1 of 1 DAG file ([TIME])
          DAGs: 0 added, 1 changed, 0 removed; 1 in all
            ~ orders
        Live on `prod` after [TIME]
        "#);
        assert_snapshot!(world.run(&promote).ended_with(0), @r#"
        exit code 0
        --- stdout
        [dpl]
        --- stderr
        Nothing to do: `prod` runs exactly this since [dpl]
        "#);
    });
    let plan = world.run(&[&promote[..], &["--plan", "-o", "json"]].concat());
    assert_eq!(plan.ended_with(0).json()["outcome"], "nothing_to_do");
    let history = world.run(&["history", "prod"]).ended_with(0);
    assert!(history.stdout.contains("promotion of dpl_"), "{history}");
}

#[test]
fn what_never_was_live_is_not_promoted_by_accident() {
    let world = World::new();
    world.deploy(&["--no-wait"]).ended_with(0);
    world.run(&["deployment", "create", "prod"]).ended_with(0);
    let promote = ["promote", "shop", "prod"];
    let refused = world.run(&promote).ended_with(8);
    assert!(refused.stderr.contains("--allow-unproven"), "{refused}");
    let json = world.run(&[&promote[..], &["-o", "json"]].concat());
    assert_eq!(json.ended_with(8).json()["error"]["code"], "not_proven");
    let given = ["--allow-unproven", "--wait-for-agent", "0s"];
    world.run(&[&promote[..], &given].concat()).ended_with(13);
    world
        .run(&[&promote[..], &["--allow-unproven", "--no-wait"]].concat())
        .ended_with(0);
    world.run(&["promote", "shop", "nowhere"]).ended_with(6);
    world.run(&["promote", "shop", "shop"]).ended_with(3);
    world.run(&["promote", "shop"]).ended_with(2);
}

/// In a pipeline of `main` whose checkout is the repository.
fn pipeline() -> World {
    let mut world = World::new();
    world.git(&["init", "-q", "-b", "main"]);
    for (name, value) in [
        ("GITHUB_ACTIONS", "true"),
        ("GITHUB_REPOSITORY", "acme/shop"),
        ("GITHUB_REF_TYPE", "branch"),
        ("GITHUB_REF_NAME", "main"),
        ("GITHUB_WORKFLOW", "deploy"),
    ] {
        world.sandbox.set(name, value);
    }
    world
}

fn commit(world: &World, text: &str) -> String {
    world.write_dag("orders", text);
    world.git(&["add", "."]);
    world.git(&["commit", "-q", "-m", "a change"]);
    let head = world.sandbox.path("here/.git/refs/heads/main");
    std::fs::read_to_string(head).unwrap().trim().to_owned()
}

/// The run of a number deploys a commit, or one that the clone does not have.
fn run(world: &mut World, number: u32, commit: &str, arguments: &[&str]) -> Printed {
    world.sandbox.unset("GITHUB_RUN_NUMBER");
    world.sandbox.unset("GITHUB_SHA");
    world.sandbox.set("GITHUB_RUN_NUMBER", &number.to_string());
    world.sandbox.set("GITHUB_SHA", commit);
    world.deploy(&[&["--no-wait"], arguments].concat())
}

#[test]
fn a_slow_pipeline_of_an_older_commit_overwrites_nothing() {
    let mut world = pipeline();
    let first = commit(&world, "# first\n");
    let second = commit(&world, "# second\n");
    run(&mut world, 2, &second, &[]).ended_with(0);
    world.git(&["checkout", "-q", &first]);
    let refused = run(&mut world, 1, &first, &[]).ended_with(12);
    let text = format!(
        "a newer commit of the branch `main` already: {}",
        &second[..8]
    );
    assert!(refused.stderr.contains(&text), "{refused}");
    assert!(
        refused.stderr.contains("updraft rollback shop"),
        "{refused}"
    );
    let json = run(&mut world, 1, &first, &["-o", "json"]).ended_with(12);
    assert_eq!(json.json()["error"]["code"], "outdated");
    let plan = world.deploy(&["--plan"]).ended_with(0);
    assert!(plan.stderr.contains("a deploy would be refused"), "{plan}");
    // Also as a later run, since the history says which is newer.
    run(&mut world, 3, &first, &[]).ended_with(12);
    let history = world.run(&["history", "-o", "json"]).ended_with(0).json();
    assert_eq!(history["deploys"].as_array().unwrap().len(), 1);

    run(&mut world, 1, &first, &["--force"]).ended_with(0);
    // That is the newest now, and the second comes after it.
    world.git(&["checkout", "-q", &second]);
    run(&mut world, 2, &second, &[]).ended_with(0);
}

#[test]
fn where_the_history_does_not_tell_the_number_of_the_run_does() {
    let mut world = pipeline();
    commit(&world, "# first\n");
    let elsewhere = "0123456789".repeat(4);
    run(&mut world, 5, &elsewhere, &[]).ended_with(0);
    let own = commit(&world, "# second\n");
    run(&mut world, 4, &own, &[]).ended_with(12);
    // Another pipeline counts for itself, and another branch has its own order.
    world.sandbox.set("GITHUB_WORKFLOW", "nightly");
    run(&mut world, 4, &own, &[]).ended_with(0);
    world.sandbox.unset("GITHUB_WORKFLOW");
    world.sandbox.set("GITHUB_WORKFLOW", "deploy");
    // After a push by force the old commit is gone, and the run is a later one.
    let forced = commit(&world, "# third\n");
    run(&mut world, 6, &forced, &[]).ended_with(0);
}

#[test]
fn on_somebodys_own_machine_an_older_commit_is_deployed_as_asked() {
    let mut world = pipeline();
    let first = commit(&world, "# first\n");
    let second = commit(&world, "# second\n");
    run(&mut world, 2, &second, &[]).ended_with(0);
    world.git(&["checkout", "-q", &first]);
    world.sandbox.unset("GITHUB_ACTIONS");
    world.deploy(&["--no-wait"]).ended_with(0);
}
