//! A Deployment for each pull request, with pipelines' variables and a stand-in for its agent.

use serde_json::json;
use updraft_testkit::TestForge;

use crate::common::stand_in::{Agent, Answer, PREVIEW_URL};
use crate::common::world::World;

const SETTINGS: &str = "
[project]
name = \"shop\"

[check]
parse = false

[[target]]
branch = \"main\"
deployment = \"shop\"

[preview]
from = \"shop\"
expire = \"2d\"
";

/// The pipeline of pull request 7 of a project whose Deployment is live.
fn requested(forge: &TestForge, answer: Answer) -> (World, Agent) {
    let mut world = World::new();
    let agent = world.agent(answer);
    world.sandbox.write("here/updraft.toml", SETTINGS);
    world.deploy(&[]).ended_with(0);
    world.sandbox.unset("UPDRAFT_DEPLOYMENT");
    for (name, value) in [
        ("GITHUB_ACTIONS", "true"),
        ("GITHUB_REPOSITORY", "acme/shop"),
        ("GITHUB_EVENT_NAME", "pull_request"),
        ("GITHUB_REF", "refs/pull/7/merge"),
        ("GITHUB_BASE_REF", "main"),
        ("GITHUB_HEAD_REF", "feature/$(touch pwned)"),
        ("GITHUB_TOKEN", TestForge::TOKEN),
    ] {
        world.sandbox.set(name, value);
    }
    world.sandbox.set("GITHUB_API_URL", forge.url());
    comes_from(&mut world, "acme/shop");
    world.write_dag("refunds", "# new\n");
    (world, agent)
}

/// Whose branch the pull request brings.
fn comes_from(world: &mut World, repository: &str) {
    let event = json!({ "pull_request": {
        "number": 7, "head": { "repo": { "full_name": repository } },
    }});
    world.sandbox.write("event.json", &event.to_string());
    let event = world.sandbox.path("event.json");
    world
        .sandbox
        .set("GITHUB_EVENT_PATH", event.to_str().unwrap());
}

#[test]
fn a_pull_request_has_a_preview_until_it_is_closed() {
    let forge = TestForge::start();
    let (world, _agent) = requested(&forge, Answer::Proven);
    let printed = world.run(&["deploy"]).ended_with(0);
    for said in [
        "The pull request gets the Preview `shop-pr-7`, made from `shop`",
        "Live on `shop-pr-7`",
        &format!("Preview at {PREVIEW_URL}, until "),
    ] {
        assert!(printed.stderr.contains(said), "{said}: {printed}");
    }
    // The image half is that of the Deployment, and so is all that did not change.
    assert!(printed.stderr.contains("+ refunds.py"), "{printed}");
    assert!(!printed.stderr.contains("and the image"), "{printed}");

    let again = world.run(&["deploy", "-o", "json"]).ended_with(0).json();
    assert_eq!(again["outcome"], "nothing_to_do");
    assert_eq!(again["preview"]["name"], "shop-pr-7");
    assert_eq!(again["preview"]["url"], PREVIEW_URL);
    assert_eq!(again["preview"]["is_new"], false);

    // The Deployment itself has nothing of it, and the plan goes on being about it.
    let plan = ["deploy", "--plan", "--comment"];
    let printed = world.run(&plan).ended_with(0);
    assert!(
        printed.stderr.contains("the branch `main` goes to `shop`"),
        "{printed}"
    );
    let body = forge.comments()[0].body.clone();
    assert!(body.contains("- added `refunds.py`"), "{body}");
    let preview = format!("**Preview** [shop-pr-7]({PREVIEW_URL}) is live; it is kept until ");
    assert!(body.contains(&preview), "{body}");

    let checked = world.run(&["config", "check"]).ended_with(0);
    assert!(
        checked
            .stdout
            .contains("here: pull request 7 gets a Preview of `shop`"),
        "{checked}"
    );
    let listed = world.run(&["preview", "list"]).ended_with(0);
    assert!(listed.stdout.contains("acme/shop#7"), "{listed}");
    // What it has of the Deployment is for that one to say.
    let update = ["deployment", "update", "shop-pr-7", "--preview-values"];
    let printed = world.run(&[&update[..], &["copy"]].concat()).ended_with(3);
    assert!(printed.stderr.contains("set it there"), "{printed}");
    let shown = world.run(&["preview", "show", "shop-pr-7"]).ended_with(0);
    assert!(shown.stdout.contains("feature/$(touch pwned)"), "{shown}");
    let closed = world.run(&["preview", "close"]).ended_with(0);
    assert!(
        closed.stderr.contains("Closed the Preview `shop-pr-7`"),
        "{closed}"
    );
    let again = world.run(&["preview", "close"]).ended_with(0);
    assert!(
        again.stderr.contains("The pull request has no Preview"),
        "{again}"
    );
    world.run(&["preview", "show", "shop-pr-7"]).ended_with(6);
    world.run(&["preview", "close", "shop-pr-7"]).ended_with(6);
    let none = world.run(&["preview", "list"]).ended_with(0);
    assert!(none.stderr.contains("There is no Preview"), "{none}");
    assert!(!world.sandbox.path("here/pwned").exists());
}

#[test]
fn a_preview_may_be_insisted_on() {
    let forge = TestForge::start();
    let (mut world, _agent) = requested(&forge, Answer::Proven);
    world.sandbox.set("UPDRAFT_DEPLOYMENT", "shop");
    let printed = world.run(&["deploy", "--preview"]).ended_with(0);
    assert!(printed.stderr.contains("Live on `shop-pr-7`"), "{printed}");
    world.sandbox.set("GITHUB_EVENT_NAME", "push");
    let printed = world.run(&["deploy", "--preview"]).ended_with(18);
    assert!(printed.stderr.contains("for no pull request"), "{printed}");
    world.sandbox.write("here/updraft.toml", "");
    let printed = world.run(&["deploy", "--preview"]).ended_with(3);
    assert!(printed.stderr.contains("write `[preview]`"), "{printed}");
    world.sandbox.set("GITHUB_EVENT_NAME", "pull_request");
    world.run(&["preview", "close"]).ended_with(3);
    world.run(&["deploy", "--preview", "shop"]).ended_with(2);
}

#[test]
fn without_a_name_commands_are_about_the_preview() {
    let forge = TestForge::start();
    let (world, _agent) = requested(&forge, Answer::Proven);
    let printed = world.run(&["rollback"]).ended_with(6);
    assert!(
        printed
            .stderr
            .contains("pull request 7 has no Preview of `shop` yet"),
        "{printed}"
    );
    let source = || {
        let history = world.run(&["history", "shop", "-o", "json"]).ended_with(0);
        history.json()["deploys"].as_array().unwrap().len()
    };
    let before = source();
    let told = world.run(&["deploy", "-o", "json"]).ended_with(0).json();
    let id = told["deploy"]["id"].as_str().unwrap();
    let shown = world.run(&["show", &id[..20]]).ended_with(0);
    assert!(shown.stdout.contains("shop-pr-7"), "{shown}");
    world.run(&["diff", &id[..20]]).ended_with(0);
    let printed = world.run(&["rollback"]).ended_with(0);
    assert!(printed.stderr.contains("`shop-pr-7`"), "{printed}");
    for command in [["status"].as_slice(), &["hold", "show"], &["hold", "lift"]] {
        let printed = world.run(command).ended_with(0);
        let said = format!("{}{}", printed.stdout, printed.stderr);
        assert!(said.contains("shop-pr-7"), "{printed}");
    }
    let newest = world.run(&["history", "-o", "json"]).ended_with(0).json();
    assert_eq!(newest["deploys"][0]["deployment_name"], "shop-pr-7");
    assert_eq!(source(), before, "the Deployment itself was left alone");
}

#[test]
fn what_fails_in_a_preview_is_told_in_the_comment() {
    let forge = TestForge::start();
    let (world, agent) = requested(&forge, Answer::Proven);
    agent.answer(Answer::ImportError);
    world.run(&["deploy"]).ended_with(10);
    world.run(&["deploy", "--plan", "--comment"]).ended_with(0);
    let body = forge.comments()[0].body.clone();
    assert!(body.contains(" **failed**"), "{body}");
}

#[test]
fn a_fork_gets_none() {
    let forge = TestForge::start();
    let (mut world, _agent) = requested(&forge, Answer::Proven);
    comes_from(&mut world, "mallory/shop");
    let printed = world.run(&["deploy"]).ended_with(18);
    assert!(
        printed.stderr.contains("comes from another repository"),
        "{printed}"
    );
    world.run(&["deploy", "--if-mapped"]).ended_with(0);
    world.run(&["deploy", "--preview"]).ended_with(18);
    world.run(&["rollback"]).ended_with(18);
    // Nor does one whose repository is not told.
    world.sandbox.unset("GITHUB_EVENT_PATH");
    world.run(&["deploy"]).ended_with(18);
    let listed = world.run(&["preview", "list", "-o", "json"]).ended_with(0);
    assert_eq!(listed.json()["previews"], json!([]));
}

#[test]
fn an_explicit_deployment_wins_over_a_preview() {
    let forge = TestForge::start();
    let (mut world, _agent) = requested(&forge, Answer::Proven);
    let printed = world.run(&["deploy", "shop"]).ended_with(0);
    assert!(printed.stderr.contains("Live on `shop`"), "{printed}");
    world.sandbox.set("UPDRAFT_DEPLOYMENT", "shop");
    world.run(&["deploy"]).ended_with(0);
    world.sandbox.unset("UPDRAFT_DEPLOYMENT");
    // Outside a pipeline there is no pull request to close.
    for name in ["GITHUB_ACTIONS", "GITHUB_EVENT_PATH", "GITHUB_REF"] {
        world.sandbox.unset(name);
    }
    let printed = world.run(&["preview", "close"]).ended_with(2);
    assert!(
        printed.stderr.contains("no pipeline of a pull request"),
        "{printed}"
    );
}

#[test]
fn a_preview_that_nobody_would_run_is_8() {
    let forge = TestForge::start();
    let (mut world, _agent) = requested(&forge, Answer::Proven);
    world.run(&["deploy"]).ended_with(0);
    for (number, exit) in [(8, 0), (9, 8)] {
        let event = json!({ "pull_request": {
            "number": number, "head": { "repo": { "full_name": "acme/shop" } },
        }});
        world.sandbox.write("event.json", &event.to_string());
        let reference = format!("refs/pull/{number}/merge");
        world.sandbox.set("GITHUB_REF", &reference);
        let printed = world.run(&["deploy"]).ended_with(exit);
        let is_told = printed.stderr.contains("shop-pr-7, shop-pr-8");
        assert_eq!(is_told, exit == 8, "{printed}");
    }
}

#[test]
fn an_agent_that_runs_no_such_preview_says_which_it_runs() {
    let world = World::new();
    let root = world.sandbox.path("agent");
    let root = root.to_str().unwrap();
    let ask = ["agent", "airflow", "--root", root, "--preview", "shop-pr-7"];
    let none = world.run(&ask).ended_with(6);
    assert!(none.stderr.contains("it runs none"), "{none}");
    let kept = json!({ "name": "shop-pr-8", "port": 8081, "url": "http://127.0.0.1:8081" });
    let folder = "agent/previews/dep_019e8a2f6c7b7d3e9f10a1b2c3d4e5f6";
    world
        .sandbox
        .write(&format!("{folder}/preview.json"), &kept.to_string());
    let other = world.run(&ask).ended_with(6);
    assert!(other.stderr.contains("it runs `shop-pr-8`"), "{other}");
    let url = [
        "agent",
        "--root",
        root,
        "--preview-url",
        "https://a.example",
    ];
    let refused = world.run(&url).ended_with(2);
    assert!(refused.stderr.contains("it has no `{port}`"), "{refused}");
}
