//! A pipeline that has no token, only what GitHub gives its jobs.

use serde_json::json;
use updraft_testkit::TestIssuer;

use crate::common::world::World;

/// A job on main of a repository that nothing is known of yet.
fn on_github(issuer: &TestIssuer) -> World {
    let mut world = World::new();
    let now = chrono::Utc::now().timestamp();
    issuer.set_job(json!({
        "iss": issuer.url(), "sub": "repo:acme/sales:ref:refs/heads/main",
        "iat": now, "exp": now + 3600, "repository": "acme/sales", "repository_id": "42",
        "repository_owner_id": "7", "ref": "refs/heads/main", "event_name": "push", "run_id": "4711",
    }));
    for (name, value) in [
        ("GITHUB_ACTIONS", "true"),
        ("GITHUB_REPOSITORY", "acme/sales"),
        ("GITHUB_EVENT_NAME", "push"),
        ("GITHUB_REF_TYPE", "branch"),
        ("GITHUB_REF_NAME", "main"),
        ("ACTIONS_ID_TOKEN_REQUEST_URL", &issuer.request_url()),
        ("ACTIONS_ID_TOKEN_REQUEST_TOKEN", TestIssuer::REQUEST_TOKEN),
    ] {
        world.sandbox.set(name, value);
    }
    world
}

/// As the job, which has no token.
fn forget_token(world: &mut World) {
    world.sandbox.unset("UPDRAFT_TOKEN");
}

fn trust(world: &World, issuer: &TestIssuer, arguments: &[&str]) -> String {
    let github = [
        "trust",
        "add",
        "github",
        "--repo",
        "acme/sales",
        "--issuer",
        issuer.url(),
    ];
    let printed = world.run(&[&github, arguments].concat()).ended_with(0);
    assert!(
        printed.stderr.contains("Trusted as deployer of shop: "),
        "{printed}"
    );
    printed.stdout.trim().to_owned()
}

#[test]
fn a_job_deploys_without_a_token_and_is_known_by_its_run() {
    let issuer = TestIssuer::start();
    let mut world = on_github(&issuer);
    let id = trust(&world, &issuer, &["--ref", "refs/heads/main"]);
    world
        .run(&["deployment", "update", "shop", "--ci-only"])
        .ended_with(0);
    // With the admin's token it is a person.
    let printed = world.deploy(&["--no-wait"]).ended_with(5);
    assert!(
        printed.stderr.contains("trusted pipelines alone"),
        "{printed}"
    );

    let token = world.token.clone();
    forget_token(&mut world);
    world.deploy(&["--no-wait"]).ended_with(0);
    let printed = world.run(&["history"]).ended_with(0);
    assert!(
        printed
            .stdout
            .contains("acme/sales refs/heads/main, run 4711"),
        "{printed}"
    );
    let who = world.run(&["whoami", "-o", "json"]).ended_with(0).json();
    assert_eq!(who["token"]["role"], "deployer");

    world.sandbox.set("UPDRAFT_TOKEN", &token);
    let list = world.run(&["trust", "list"]).ended_with(0);
    assert!(list.stdout.contains(&id), "{list}");
    assert!(list.stdout.contains("repository_id=42 (pinned)"), "{list}");
    let log = world
        .run(&["trust", "log", "shop", "-o", "json"])
        .ended_with(0)
        .json();
    assert_eq!(log["exchanges"][0]["outcome"], "exchanged");
    assert_eq!(log["exchanges"][0]["identity"]["run"], "4711");
    world.run(&["trust", "remove", &id]).ended_with(0);
    world.run(&["trust", "remove", &id]).ended_with(6);
    forget_token(&mut world);
    let printed = world.deploy(&[]).ended_with(4);
    assert!(
        printed.stderr.contains("nothing here trusts the issuer"),
        "{printed}"
    );
}

#[test]
fn a_job_that_is_not_what_is_trusted_is_told_why() {
    let issuer = TestIssuer::start();
    let mut world = on_github(&issuer);
    trust(
        &world,
        &issuer,
        &["--ref", "refs/heads/release/*", "--environment", "prod"],
    );
    let token = world.token.clone();
    forget_token(&mut world);
    let printed = world.deploy(&[]).ended_with(4);
    for said in [
        "`environment` is missing and should be `prod`",
        "`ref` is `refs/heads/main` and should be like `refs/heads/release/*`",
    ] {
        assert!(printed.stderr.contains(said), "{printed}");
    }
    world.sandbox.set("UPDRAFT_TOKEN", &token);
    let log = world.run(&["trust", "log"]).ended_with(0);
    assert!(log.stdout.contains("refused"), "{log}");
}

#[test]
fn a_job_that_may_not_say_who_it_is_is_told_what_it_lacks() {
    let issuer = TestIssuer::start();
    let mut world = on_github(&issuer);
    forget_token(&mut world);
    world.sandbox.set("ACTIONS_ID_TOKEN_REQUEST_TOKEN", "wrong");
    let printed = world.deploy(&[]).ended_with(4);
    assert!(
        printed
            .stderr
            .contains("refused to give the job's identity (401"),
        "{printed}"
    );
    for variable in [
        "ACTIONS_ID_TOKEN_REQUEST_URL",
        "ACTIONS_ID_TOKEN_REQUEST_TOKEN",
    ] {
        world.sandbox.unset(variable);
    }
    let printed = world.deploy(&[]).ended_with(4);
    assert!(
        printed.stderr.contains("permissions: id-token: write"),
        "{printed}"
    );
    assert!(
        printed.stderr.contains("there is no token for"),
        "{printed}"
    );
    // On a person's machine nothing is said of pipelines.
    world.sandbox.unset("GITHUB_ACTIONS");
    let printed = world.deploy(&[]).ended_with(4);
    assert!(printed.stderr.contains("updraft login"), "{printed}");
    assert!(!printed.stderr.contains("identity"), "{printed}");
}

#[test]
fn what_would_trust_too_many_is_a_wrong_command_line() {
    let world = World::new();
    let github = ["trust", "add", "github", "--repo", "acme/sales"];
    let with = |arguments: &[&str]| world.run(&[&github, arguments].concat());
    let printed = with(&[]).ended_with(2);
    assert!(
        printed.stderr.contains("name a ref or an environment"),
        "{printed}"
    );
    let printed = with(&["--ref", "main"]).ended_with(2);
    assert!(printed.stderr.contains("refs/heads/main"), "{printed}");
    let request = ["--ref", "refs/heads/main", "--event", "pull_request"];
    with(&request).ended_with(2);
    let admin = ["--ref", "refs/heads/main", "--role", "admin"];
    with(&admin).ended_with(3);
    let gitlab = [
        "trust",
        "add",
        "gitlab",
        "--repo",
        "acme/sales",
        "--ref",
        "refs/tags/v*",
    ];
    let made = world
        .run(&[&gitlab[..], &["-o", "json"]].concat())
        .ended_with(0)
        .json();
    assert_eq!(made["issuer"], "https://gitlab.com");
    assert_eq!(made["claims"]["ref_path"]["like"], "refs/tags/v*");
    let any = [
        "trust",
        "add",
        "oidc",
        "--issuer",
        "https://ci.example",
        "--claim",
        "sub=job",
    ];
    world.run(&any).ended_with(0);
}
