//! A plan on a pull request, with a stand-in of each forge's API.

use std::process::Stdio;

use updraft_testkit::TestForge;

use crate::common::Printed;
use crate::common::world::World;

const TARGETS: &str = "
[project]
name = \"shop\"

[check]
parse = false

[[target]]
branch = \"main\"
deployment = \"shop\"
";

/// Names and values.
type Variables<'a> = &'a [(&'a str, &'a str)];

/// The pipeline of pull request 7, of a branch that adds a DAG file.
fn requested(variables: Variables<'_>, forge: &TestForge) -> World {
    let mut world = World::new();
    world.sandbox.write("here/updraft.toml", TARGETS);
    world.deploy(&["--no-wait"]).ended_with(0);
    world.sandbox.unset("UPDRAFT_DEPLOYMENT");
    for (name, value) in variables {
        world
            .sandbox
            .set(name, &value.replace("FORGE", forge.url()));
    }
    world.write_dag("refunds", "# new\n");
    world
}

fn on_github(forge: &TestForge) -> World {
    requested(
        &[
            ("GITHUB_ACTIONS", "true"),
            ("GITHUB_REPOSITORY", "acme/shop"),
            ("GITHUB_EVENT_NAME", "pull_request"),
            ("GITHUB_REF", "refs/pull/7/merge"),
            ("GITHUB_BASE_REF", "main"),
            ("GITHUB_API_URL", "FORGE"),
            ("GITHUB_TOKEN", TestForge::TOKEN),
        ],
        forge,
    )
}

fn plan(world: &World, arguments: &[&str]) -> Printed {
    world.run(&[&["deploy", "--dags", "--plan", "--comment"], arguments].concat())
}

#[test]
fn a_pull_request_has_one_comment_that_is_kept_up_to_date() {
    let forge = TestForge::start();
    let world = on_github(&forge);
    let printed = plan(&world, &[]).ended_with(0);
    assert!(
        printed.stderr.contains("the branch `main` goes to `shop`"),
        "{printed}"
    );
    assert!(
        printed
            .stderr
            .contains("commented on the pull request: https://forge.example/7#1"),
        "{printed}"
    );
    let body = forge.comments()[0].body.clone();
    assert!(
        body.starts_with("[//]: # (updraft: plan of shop for shop)\n"),
        "{body}"
    );
    assert!(body.contains("**1 file added**"), "{body}");
    assert!(body.contains("- added `refunds.py`"), "{body}");
    assert!(
        body.contains("- static check passed: 2 DAG files"),
        "{body}"
    );
    assert_eq!(forge.written(), ["POST /repos/acme/shop/issues/7/comments"]);

    // The same again is not written again; another plan is, in its place.
    let json = plan(&world, &["-o", "json"]).ended_with(0).json();
    assert_eq!(json["comment"]["outcome"], "unchanged");
    assert!(forge.written().is_empty());
    world.write_dag("refunds", "import datetime\nx = \n");
    let printed = plan(&world, &[]).ended_with(17);
    assert!(printed.stderr.contains("updated the comment"), "{printed}");
    let comments = forge.comments();
    assert!(
        comments[0].body.contains("static check **failed**"),
        "{}",
        comments[0].body
    );
    assert!(
        comments[0].body.contains("`dags/refunds.py:2"),
        "{}",
        comments[0].body
    );
    assert_eq!(comments.len(), 1);
    assert_eq!(
        forge.written(),
        ["PATCH /repos/acme/shop/issues/comments/1"]
    );

    // What changes nothing any more says so where there is a comment.
    std::fs::remove_file(world.sandbox.path("here/dags/refunds.py")).unwrap();
    plan(&world, &[]).ended_with(0);
    assert!(
        forge.comments()[0]
            .body
            .contains("is rolling out exactly this")
    );
}

#[test]
fn every_forge_is_asked_in_its_own_words() {
    let azure = "/Data%20Team/_apis/git/repositories/shop-id/pullRequests/7/threads";
    let forges: [(Variables<'_>, &str, &str); 4] = [
        (
            &[
                ("GITLAB_CI", "true"),
                ("CI_PROJECT_PATH", "acme/shop"),
                ("CI_MERGE_REQUEST_IID", "7"),
                ("CI_MERGE_REQUEST_TARGET_BRANCH_NAME", "main"),
                ("CI_API_V4_URL", "FORGE"),
                ("GITLAB_TOKEN", TestForge::TOKEN),
            ],
            "POST /projects/acme%2Fshop/merge_requests/7/notes",
            "PUT /projects/acme%2Fshop/merge_requests/7/notes/1",
        ),
        (
            &[
                ("BITBUCKET_BUILD_NUMBER", "1"),
                ("BITBUCKET_REPO_FULL_NAME", "acme/shop"),
                ("BITBUCKET_PR_ID", "7"),
                ("BITBUCKET_PR_DESTINATION_BRANCH", "main"),
                ("UPDRAFT_COMMENT_API", "FORGE"),
                ("BITBUCKET_TOKEN", TestForge::TOKEN),
            ],
            "POST /repositories/acme/shop/pullrequests/7/comments",
            "PUT /repositories/acme/shop/pullrequests/7/comments/1",
        ),
        (
            &[
                ("TF_BUILD", "True"),
                ("BUILD_REPOSITORY_PROVIDER", "TfsGit"),
                ("BUILD_REPOSITORY_ID", "shop-id"),
                ("SYSTEM_TEAMPROJECT", "Data Team"),
                ("SYSTEM_COLLECTIONURI", "FORGE/"),
                ("SYSTEM_PULLREQUEST_PULLREQUESTID", "7"),
                ("SYSTEM_PULLREQUEST_TARGETBRANCH", "refs/heads/main"),
                ("SYSTEM_ACCESSTOKEN", TestForge::TOKEN),
            ],
            &format!("POST {azure}"),
            &format!("PATCH {azure}/1/comments/1"),
        ),
        // A forge that is not the pipeline's own, by the repository's address.
        (
            &[
                ("JENKINS_URL", "http://ci/"),
                ("CHANGE_ID", "7"),
                ("CHANGE_TARGET", "main"),
                ("GITHUB_API_URL", "FORGE"),
                ("GH_TOKEN", TestForge::TOKEN),
            ],
            "POST /repos/acme/shop/issues/7/comments",
            "PATCH /repos/acme/shop/issues/comments/1",
        ),
    ];
    for (variables, create, update) in forges {
        let forge = TestForge::start();
        let world = requested(variables, &forge);
        world.git(&["init", "-q", "-b", "main"]);
        world.git(&["remote", "add", "origin", "git@github.com:acme/shop.git"]);
        plan(&world, &[]).ended_with(0);
        assert_eq!(forge.written(), [create]);
        world.write_dag("returns", "# new\n");
        plan(&world, &[]).ended_with(0);
        assert_eq!(forge.written(), [update]);
        assert_eq!(forge.comments().len(), 1, "{create}");
    }
}

/// Anybody can write our first line, and then change the rest.
#[test]
fn what_others_wrote_is_left_alone() {
    let forge = TestForge::start();
    let marker = "[//]: # (updraft: plan of shop for shop)\n\nall is well";
    forge.write(marker);
    for _ in 0..150 {
        forge.write("me too");
    }
    let world = on_github(&forge);
    plan(&world, &[]).ended_with(0);
    plan(&world, &[]).ended_with(0);
    // A job of GitHub's own is nobody, but a bot.
    forge.is_job();
    world.write_dag("refunds", "# another\n");
    plan(&world, &[]).ended_with(0);
    world.write_dag("refunds", "# one more\n");
    plan(&world, &[]).ended_with(0);
    let comments = forge.comments();
    assert_eq!(comments[0].body, marker);
    assert_eq!(comments.len(), 153, "one of ours as a user, one as a bot");
}

#[test]
fn a_forge_that_refuses_is_named() {
    let forge = TestForge::start();
    let mut world = on_github(&forge);
    // Once is nothing.
    forge.refuse(&[502, 429]);
    plan(&world, &[]).ended_with(0);
    forge.refuse(&[403]);
    let printed = plan(&world, &[]).ended_with(5);
    assert!(
        printed.stderr.contains(
            "GitHub refused to list the comments (403 Forbidden): Resource not accessible"
        ),
        "{printed}"
    );
    assert!(printed.stderr.contains("pull-requests: write"), "{printed}");
    assert!(!printed.stderr.contains(TestForge::TOKEN), "{printed}");
    world.sandbox.set("GITHUB_TOKEN", "wrong");
    plan(&world, &[]).ended_with(4);
    world.sandbox.unset("GITHUB_TOKEN");
    let printed = plan(&world, &[]).ended_with(4);
    assert!(
        printed
            .stderr
            .contains("there is no token to comment on GitHub with"),
        "{printed}"
    );
    world.sandbox.set("GITHUB_TOKEN", TestForge::TOKEN);
    world.sandbox.set("GITHUB_API_URL", "http://198.51.100.1");
    let printed = plan(&world, &[]).ended_with(3);
    assert!(printed.stderr.contains("in clear"), "{printed}");
    let gone = format!("http://127.0.0.1:{}", updraft_testkit::free_port());
    world.sandbox.set("GITHUB_API_URL", &gone);
    plan(&world, &[]).ended_with(7);

    // Not in a pipeline, or not of a pull request.
    world.sandbox.unset("GITHUB_ACTIONS");
    let printed = plan(&world, &["shop"]).ended_with(3);
    assert!(
        printed.stderr.contains("there is no pull request"),
        "{printed}"
    );
}

/// Two jobs that find no comment both write one, and one of them is left.
#[test]
fn two_at_once_leave_one_comment() {
    let forge = TestForge::start();
    let world = on_github(&forge);
    let both = [(); 2].map(|()| {
        let arguments = ["deploy", "--dags", "--plan", "--comment"];
        world
            .sandbox
            .command(&arguments)
            .stderr(Stdio::null())
            .spawn()
            .unwrap()
    });
    for mut child in both {
        assert!(child.wait().unwrap().success());
    }
    plan(&world, &[]).ended_with(0);
    assert_eq!(forge.comments().len(), 1);
}
