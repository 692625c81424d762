//! The command: what it finds out, what it asks, what it refuses.

use updraft_ci::pipeline::{Layout, Strategy, Tool};

use crate::common::world::World;

pub(crate) const TARGETS: &str = "
[project]
name = \"shop\"

[check]
parse = false

[[target]]
branch = \"main\"
deployment = \"shop\"
";

/// A project in a repository, as it is before there is a pipeline.
pub(crate) fn repository() -> World {
    let mut world = World::new();
    world.sandbox.unset("UPDRAFT_DEPLOYMENT");
    world.sandbox.write("here/updraft.toml", TARGETS);
    world.git(&["init", "-q", "-b", "main"]);
    world
}

fn init<'a>(arguments: &[&'a str]) -> Vec<&'a str> {
    [&["ci", "init"], arguments].concat()
}

#[test]
fn writes_once_and_never_over_what_differs() {
    let world = repository();
    let printed = world.run(&init(&["--tool", "gitlab"])).ended_with(0);
    assert!(printed.stderr.contains("+ .gitlab-ci.yml"), "{printed}");
    assert!(printed.stderr.contains("masked and protected"), "{printed}");
    assert!(printed.stderr.contains("is this machine"), "{printed}");
    let file = world.sandbox.path("here/.gitlab-ci.yml");
    let text = std::fs::read_to_string(&file).unwrap();
    assert!(!text.contains(&world.token), "a file has no secret");
    assert!(text.contains("$CI_COMMIT_BRANCH == \"main\""), "{text}");

    // The second time the tool is known by its file.
    let json = world.run(&init(&["-o", "json"])).ended_with(0).json();
    assert_eq!(json["tool"], "gitlab");
    assert_eq!(json["files"][0]["outcome"], "unchanged");

    let other = init(&["--strategy", "multi-branch"]);
    let printed = world.run(&other).ended_with(8);
    assert!(
        printed.stderr.contains("`.gitlab-ci.yml` is there"),
        "{printed}"
    );
    assert_eq!(std::fs::read_to_string(&file).unwrap(), text);
    let printed = world
        .run(&[&other[..], &["--print"]].concat())
        .ended_with(0);
    assert!(printed.stdout.contains("--if-mapped"), "{printed}");
    assert_eq!(std::fs::read_to_string(&file).unwrap(), text);
    world
        .run(&[&other[..], &["--force"]].concat())
        .ended_with(0);
    assert_ne!(std::fs::read_to_string(&file).unwrap(), text);
}

#[test]
fn finds_out_what_no_flag_says() {
    let world = repository();
    // No terminal, and nothing tells.
    let printed = world.run(&init(&[])).ended_with(2);
    assert!(
        printed.stderr.contains("--tool: github, gitlab"),
        "{printed}"
    );
    world.git(&["remote", "add", "origin", "git@github.com:acme/shop.git"]);
    let second = "[[target]]\nbranch = \"dev\"\ndeployment = \"shop\"\n";
    world
        .sandbox
        .write("here/updraft.toml", &format!("{TARGETS}\n{second}"));
    let json = world.run(&init(&["-o", "json"])).ended_with(0).json();
    assert_eq!(json["tool"], "github");
    assert_eq!(json["layout"], "one-repo");
    assert_eq!(json["strategy"], "multi-branch");
    assert_eq!(json["files"][0]["path"], ".github/workflows/updraft.yml");
}

#[test]
fn a_project_below_the_repositorys_root_has_a_workflow_of_its_own() {
    let world = repository();
    for name in ["sales", "office"] {
        let settings = format!("here/teams/{name}/updraft.toml");
        world.sandbox.write(&settings, TARGETS);
        let project = format!("teams/{name}");
        let arguments = init(&["--tool", "github", "--project", &project]);
        world.run(&arguments).ended_with(0);
        let path = format!("here/.github/workflows/updraft-teams-{name}.yml");
        let text = std::fs::read_to_string(world.sandbox.path(&path)).unwrap();
        assert!(
            text.contains(&format!("UPDRAFT_PROJECT: \"teams/{name}\"")),
            "{text}"
        );
    }
}

#[test]
fn every_combination_is_written_or_refused_with_the_reason() {
    let world = repository();
    let (mut written, mut refused) = (0, 0);
    for layout in Layout::ALL {
        let parts = match layout {
            Layout::Whole => "",
            Layout::Dags => "parts = [\"dags\"]\n",
            Layout::Image => "parts = [\"image\"]\n",
        };
        let settings = TARGETS.replace("[check]", &format!("{parts}[check]"));
        world.sandbox.write("here/updraft.toml", &settings);
        for strategy in Strategy::ALL {
            for oidc in [false, true] {
                for tool in Tool::ALL {
                    let names = [tool.name(), layout.name(), strategy.name()];
                    let mut arguments =
                        init(&["--print", "--tool", names[0], "--layout", names[1]]);
                    arguments.extend(["--strategy", names[2]]);
                    arguments.extend(oidc.then_some("--oidc"));
                    let printed = world.run(&arguments);
                    if layout == Layout::Dags && strategy == Strategy::CustomImage {
                        let printed = printed.ended_with(3);
                        assert!(printed.stderr.contains("has no image"), "{printed}");
                        refused += 1;
                    } else if oidc && !tool.has_identity() {
                        let printed = printed.ended_with(3);
                        assert!(printed.stderr.contains("no identity token"), "{printed}");
                        refused += 1;
                    } else {
                        let printed = printed.ended_with(0);
                        let has_token = printed.stdout.contains("UPDRAFT_TOKEN");
                        assert!(!oidc || !has_token, "{printed}");
                        written += 1;
                    }
                }
            }
        }
    }
    assert_eq!((written, refused), (8 * 8 + 5 * 8, 16 + 3 * 8));
}

#[test]
fn pull_requests_get_previews_where_the_tool_can_tell_whose_they_are() {
    let world = repository();
    let settings = world.sandbox.path("here/updraft.toml");
    for tool in Tool::ALL {
        let printed = world.run(&init(&["--tool", tool.name(), "--previews", "--print"]));
        if tool.check_previews().is_err() {
            let printed = printed.ended_with(3);
            assert!(printed.stderr.contains("--previews"), "{printed}");
            continue;
        }
        let printed = printed.ended_with(0);
        assert!(printed.stderr.contains("from = \"shop\""), "{printed}");
        assert!(printed.stderr.contains("--role previewer"), "{printed}");
        let closes = printed.stdout.contains("preview close");
        assert_eq!(closes, tool.closes_previews(), "{printed}");
        assert_eq!(closes, !printed.stderr.contains("`expire`"), "{printed}");
        assert!(
            printed.stdout.contains("deploy --plan --comment"),
            "{printed}"
        );
        if !tool.has_identity() {
            continue;
        }
        let identity = ["--tool", tool.name(), "--previews", "--print", "--oidc"];
        let printed = world.run(&init(&identity)).ended_with(0);
        assert!(!printed.stdout.contains("UPDRAFT_TOKEN"), "{printed}");
        let trusts = printed.stderr.contains("--pull-requests")
            || printed.stderr.contains("--role previewer");
        assert!(trusts, "{printed}");
    }
    assert_eq!(std::fs::read_to_string(&settings).unwrap(), TARGETS);

    let arguments = init(&["--tool", "github", "--previews"]);
    let printed = world.run(&arguments).ended_with(0);
    assert!(printed.stderr.contains("+ updraft.toml"), "{printed}");
    let text = std::fs::read_to_string(&settings).unwrap();
    assert_eq!(text, format!("{TARGETS}\n[preview]\nfrom = \"shop\"\n"));
    let file = world.sandbox.path("here/.github/workflows/updraft.yml");
    let workflow = std::fs::read_to_string(file).unwrap();
    assert!(
        workflow.contains("head.repo.full_name == github.repository"),
        "{workflow}"
    );
    // The second time it is there.
    let json = world.run(&[&arguments[..], &["-o", "json"]].concat());
    let json = json.ended_with(0).json();
    assert_eq!(json["files"].as_array().unwrap().len(), 1, "{json:#}");
    assert_eq!(json["files"][0]["outcome"], "unchanged");
    assert_eq!(std::fs::read_to_string(&settings).unwrap(), text);
}

#[test]
fn what_is_no_plain_text_gets_into_no_file() {
    let world = repository();
    let bad = init(&["--tool", "github", "--branch", "x$(touch pwned)"]);
    let printed = world.run(&bad).ended_with(3);
    assert!(
        printed.stderr.contains("cannot be written into a pipeline"),
        "{printed}"
    );
    let bad = "here/a b/updraft.toml";
    world.sandbox.write(bad, TARGETS);
    world
        .run(&init(&["--tool", "github", "--project", "a b"]))
        .ended_with(3);
    assert!(!world.sandbox.path("here/.github").exists());

    // A layout that updraft.toml does not have.
    let printed = world
        .run(&init(&["--tool", "github", "--layout", "dags-repo"]))
        .ended_with(3);
    assert!(printed.stderr.contains("`parts = [\"dags\"]`"), "{printed}");
    // Nobody answers, and then there is nothing to pin.
    let nobody = init(&["--tool", "github", "--server", "http://127.0.0.1:1"]);
    let printed = world.run(&nobody).ended_with(7);
    assert!(printed.stderr.contains("pins the binary"), "{printed}");
}

#[test]
fn a_folder_that_may_not_be_written_to_is_named() {
    let world = repository();
    // As good as no permission, for root too.
    world.sandbox.write("here/.github", "a file");
    let printed = world.run(&init(&["--tool", "github"])).ended_with(1);
    assert!(
        printed.stderr.contains(".github/workflows/updraft.yml"),
        "{printed}"
    );
}
