//! The jobs of a pull request's Preview: executed, with names that somebody else chose, and
//! with the binary that the control plane serves.

use std::process::Output;

use serde_json::json;
use updraft_ci::pipeline::Tool;
use updraft_model::Digest;
use updraft_testkit::TestForge;

use crate::common::stand_in::{Answer, PREVIEW_URL};
use crate::hostile::{Place, STAND_IN, every_pipeline, served, texts};
use crate::init::TARGETS;
use crate::real::Runners;
use crate::runner::{Event, HOSTILE, Job, preview_jobs};

#[test]
fn nothing_that_a_pull_request_brings_is_executed_for_its_preview() {
    let (url, checksum) = (served(), Digest::of(STAND_IN.as_bytes()).hex());
    let place = Place::new();
    let pipelines = every_pipeline(&url, &checksum);
    let mut seen = 0;
    for pipeline in pipelines.iter().filter(|it| it.previews) {
        let (preview, close) = preview_jobs(pipeline.tool, &texts(pipeline));
        let request = Event::PullRequest { from: HOSTILE };
        let run = |job: &Job, code: &str| {
            let besides = [
                ("PATH", place.path.as_str()),
                ("STAND_IN_ENDS_WITH", code),
                ("UPDRAFT_PREVIEW_TOKEN", "secret"),
            ];
            let output = job.run(
                &place.checkout(),
                pipeline.tool,
                &request,
                "secret",
                &besides,
            );
            assert!(!place.has_pwned(), "{pipeline:?} {job:?}");
            output
        };
        let output = run(&preview, "0");
        assert!(output.status.success(), "{pipeline:?} {output:?}");
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        let deploys = said.find("called: deploy --preview,");
        let comments = said.find("called: deploy --plan --comment,");
        assert!(deploys.is_some() && deploys < comments, "{said}");
        assert_eq!(
            said.contains("token: secret"),
            !pipeline.oidc,
            "{pipeline:?} {said}"
        );
        // The comment tells how a deploy failed, and the job fails with it.
        let failed = run(&preview, "17");
        assert_eq!(failed.status.code(), Some(17), "{pipeline:?} {failed:?}");
        let said = String::from_utf8_lossy(&failed.stdout).into_owned();
        assert!(said.contains("called: deploy --plan --comment,"), "{said}");
        // Where a branch is built before a pull request is open for it, that is no failure.
        let none = run(&preview, "18");
        let is_failure = pipeline.tool != Tool::Circleci;
        assert_eq!(!none.status.success(), is_failure, "{pipeline:?} {none:?}");
        if let Some(close) = close {
            let output = run(&close, "0");
            assert!(output.status.success(), "{pipeline:?} {output:?}");
            let said = String::from_utf8_lossy(&output.stdout).into_owned();
            assert!(said.contains("called: preview close,"), "{said}");
        }
        seen += 1;
    }
    assert!(seen > 0);
}

fn said(output: &Output) -> String {
    let text = [output.stdout.as_slice(), &output.stderr].concat();
    String::from_utf8_lossy(&text).into_owned()
}

#[test]
fn a_pull_request_gets_its_preview_and_closes_it() {
    let runners = Runners::new();
    let _agent = runners.world.agent(Answer::Proven);
    runners.commit();
    runners.world.run(&["deploy", "shop"]).ended_with(0);
    let settings = format!("{TARGETS}\n[preview]\nfrom = \"shop\"\n");
    runners.world.sandbox.write("here/updraft.toml", &settings);
    runners.world.write_dag("refunds", "# new\n");
    runners.commit();
    let event = json!({ "pull_request": {
        "number": 7, "head": { "repo": { "full_name": "acme/shop" } },
    }});
    runners
        .world
        .sandbox
        .write("event.json", &event.to_string());
    let event = runners.world.sandbox.path("event.json");
    let request = Event::PullRequest { from: HOSTILE };
    let with_previews = Tool::ALL.into_iter();
    for tool in with_previews.filter(|it| it.check_previews().is_ok()) {
        let forge = TestForge::start();
        let besides = [
            ("GITHUB_EVENT_PATH", event.to_str().unwrap()),
            ("CI_PROJECT_PATH", "acme/shop"),
            ("CI_MERGE_REQUEST_TARGET_BRANCH_NAME", "main"),
            ("CI_MERGE_REQUEST_PROJECT_ID", "1"),
            ("CI_MERGE_REQUEST_SOURCE_PROJECT_ID", "1"),
            ("CIRCLE_PROJECT_USERNAME", "acme"),
            ("CIRCLE_PROJECT_REPONAME", "shop"),
            ("CIRCLE_PULL_REQUEST", "https://github.com/acme/shop/pull/7"),
            ("BITBUCKET_REPO_FULL_NAME", "acme/shop"),
            ("SYSTEM_TEAMPROJECT", "Data Team"),
            ("BUILD_REPOSITORY_ID", "shop-id"),
            ("BUILD_REPOSITORY_PROVIDER", "TfsGit"),
            ("UPDRAFT_COMMENT_API", forge.url()),
            ("UPDRAFT_COMMENT_TOKEN", TestForge::TOKEN),
            ("UPDRAFT_PREVIEW_TOKEN", &runners.world.token),
        ];
        let (preview, close) = preview_jobs(tool, &runners.written(tool, &["--previews"]));
        let run = |job: &Job| {
            let output = runners.run_with(job, tool, &request, "main", &besides);
            assert!(output.status.success(), "{tool}: {}", said(&output));
            assert!(!said(&output).contains(&runners.world.token), "{tool}");
            said(&output)
        };
        let told = run(&preview);
        assert!(told.contains("Live on `shop-pr-7`"), "{tool}: {told}");
        assert!(told.contains("comment"), "{tool}: {told}");
        let body = forge.comments()[0].body.clone();
        let address = format!("[shop-pr-7]({PREVIEW_URL}) is live");
        assert!(body.contains(&address), "{tool}: {body}");
        assert_eq!(close.is_some(), tool.closes_previews(), "{tool}");
        let told = match close {
            Some(close) => run(&close),
            // Nothing runs there, so it would expire.
            None => {
                runners
                    .world
                    .run(&["preview", "close", "shop-pr-7"])
                    .ended_with(0)
                    .stderr
            }
        };
        assert!(
            told.contains("Closed the Preview `shop-pr-7`"),
            "{tool}: {told}"
        );
    }
}
