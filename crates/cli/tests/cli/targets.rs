//! Branch to Deployment, with real repositories and pipelines' variables.

use serde_json::Value;

use crate::common::Printed;
use crate::common::world::World;

const TARGETS: &str = "
[check]
parse = false

[[target]]
branch = \"main\"
deployment = \"shop\"

[[target]]
branch = \"release/*\"
deployment = \"staging\"

[[target]]
tag = \"v*\"
deployment = \"shop\"
";

/// A project in a repository, whose Deployment no variable names.
fn mapped() -> World {
    let mut world = World::new();
    world.sandbox.unset("UPDRAFT_DEPLOYMENT");
    world.sandbox.write("here/updraft.toml", TARGETS);
    world.git(&["init", "-q", "-b", "main"]);
    world.git(&["add", "."]);
    world.git(&["commit", "-q", "-m", "first"]);
    world
}

fn deploy(world: &World, arguments: &[&str]) -> Printed {
    world.run(&[&["deploy", "--no-wait"], arguments].concat())
}

/// Where the newest deploy went, by the control plane's word.
fn newest(world: &World, deployment: &str) -> Value {
    let history = ["history", deployment, "-o", "json"];
    world.run(&history).ended_with(0).json()["deploys"][0].clone()
}

#[test]
fn a_branch_goes_where_its_target_says() {
    let mut world = mapped();
    let printed = deploy(&world, &[]).ended_with(0);
    assert!(
        printed.stderr.contains("the branch `main` goes to `shop`"),
        "{printed}"
    );
    assert_eq!(newest(&world, "shop")["git"]["branch"], "main");

    // A pattern; and a Deployment that is not there.
    world.git(&["checkout", "-q", "-b", "release/1"]);
    let printed = deploy(&world, &[]).ended_with(6);
    assert!(
        printed.stderr.contains("there is no Deployment `staging`"),
        "{printed}"
    );
    world
        .run(&["deployment", "create", "staging"])
        .ended_with(0);
    deploy(&world, &[]).ended_with(0);
    assert_eq!(newest(&world, "staging")["git"]["branch"], "release/1");

    // The argument wins, and so does the variable.
    let printed = deploy(&world, &["shop"]).ended_with(0);
    assert!(!printed.stderr.contains("goes to"), "{printed}");
    world.sandbox.set("UPDRAFT_DEPLOYMENT", "shop");
    deploy(&world, &["-o", "json"]).ended_with(0);
    world.sandbox.unset("UPDRAFT_DEPLOYMENT");

    // Looking goes the same way.
    let status = world.run(&["status"]).ended_with(0);
    assert!(status.stdout.contains("staging"), "{status}");

    // A tag on a checkout without a branch, as pipelines of tags have it.
    world.git(&["tag", "v1"]);
    world.git(&["checkout", "-q", "--detach"]);
    let printed = deploy(&world, &[]).ended_with(0);
    assert!(
        printed.stderr.contains("the tag `v1` goes to `shop`"),
        "{printed}"
    );
}

#[test]
fn what_no_target_is_for_is_not_deployed() {
    let mut world = mapped();
    world.git(&["checkout", "-q", "-b", "feature"]);
    let printed = deploy(&world, &[]).ended_with(18);
    assert!(
        printed
            .stderr
            .contains("for the branch `feature`, so nothing was deployed"),
        "{printed}"
    );
    let printed = deploy(&world, &["--if-mapped"]).ended_with(0);
    assert_eq!(
        printed.stdout,
        "No target is for the branch `feature`: nothing to deploy\n"
    );
    let json = deploy(&world, &["--if-mapped", "-o", "json"])
        .ended_with(0)
        .json();
    assert_eq!(json["outcome"], "not_mapped");
    let json = deploy(&world, &["-o", "json"]).ended_with(18).json();
    assert_eq!(json["error"]["code"], "not_mapped");

    // Neither a branch nor a tag, and then said by whoever knows.
    world.git(&["checkout", "-q", "--detach"]);
    let printed = deploy(&world, &[]).ended_with(18);
    assert!(printed.stderr.contains("UPDRAFT_BRANCH"), "{printed}");
    world.sandbox.set("UPDRAFT_BRANCH", "main");
    deploy(&world, &[]).ended_with(0);
    world.sandbox.unset("UPDRAFT_BRANCH");

    // No repository at all.
    std::fs::remove_dir_all(world.sandbox.path("here/.git")).unwrap();
    deploy(&world, &[]).ended_with(18);
    let history = world
        .run(&["history", "shop", "-o", "json"])
        .ended_with(0)
        .json();
    assert_eq!(history["deploys"].as_array().unwrap().len(), 1);
}

#[test]
fn a_pipeline_says_what_was_pushed() {
    let mut world = mapped();
    // As `actions/checkout` leaves it.
    world.git(&["checkout", "-q", "--detach"]);
    world.sandbox.set("GITHUB_ACTIONS", "true");
    world.sandbox.set("GITHUB_REPOSITORY", "acme/shop");
    world.sandbox.set("GITHUB_REF_TYPE", "branch");
    world.sandbox.set("GITHUB_REF_NAME", "main");
    world.sandbox.set("GITHUB_SERVER_URL", "https://github.com");
    world.sandbox.set("GITHUB_RUN_ID", "17");
    world.sandbox.set("GITHUB_RUN_NUMBER", "5");
    world.sandbox.set("GITHUB_ACTOR", "ada");
    deploy(&world, &[]).ended_with(0);
    let deploy_view = newest(&world, "shop");
    assert_eq!(deploy_view["git"]["branch"], "main");
    assert_eq!(deploy_view["ci"]["provider"], "github");
    assert_eq!(deploy_view["ci"]["run_number"], 5);
    let shown = world.run(&["show"]).ended_with(0);
    assert!(shown.stdout.contains("GitHub Actions by ada"), "{shown}");
    assert!(
        shown
            .stdout
            .contains("https://github.com/acme/shop/actions/runs/17"),
        "{shown}"
    );

    // A pull request is of no branch, whatever its own is called.
    world.sandbox.set("GITHUB_EVENT_NAME", "pull_request");
    world.sandbox.set("GITHUB_REF", "refs/pull/7/merge");
    world.sandbox.set("GITHUB_HEAD_REF", "main");
    let printed = deploy(&world, &[]).ended_with(18);
    assert!(printed.stderr.contains("for pull request 7"), "{printed}");
}

/// Nobody runs it, and a terminal shows it as text.
#[test]
fn a_branch_may_be_called_anything() {
    let mut world = mapped();
    world.sandbox.set("GITLAB_CI", "true");
    for name in [
        "$(touch pwned)",
        "`touch pwned`",
        "a\nb; touch pwned",
        "'\"\u{1b}[31m",
    ] {
        world.sandbox.set("CI_COMMIT_BRANCH", name);
        let printed = deploy(&world, &[]).ended_with(18);
        assert!(!printed.stderr.contains("\u{1b}[31m"), "{printed}");
        world
            .sandbox
            .write("here/updraft.toml", &TARGETS.replace("release/*", "**"));
        world.run(&["deployment", "create", "staging"]);
        deploy(&world, &[]).ended_with(0);
        let newest = newest(&world, "staging");
        assert_eq!(newest["ci"]["branch"], name);
        let shown = world.run(&["show", newest["id"].as_str().unwrap()]);
        shown.ended_with(0);
        world.sandbox.write("here/updraft.toml", TARGETS);
        world.write_dag("orders", &format!("# {name:?}\n"));
    }
    assert!(!world.sandbox.path("here/pwned").exists());
}

#[test]
fn the_quickstarts_deployment_wins_where_no_pipeline_runs() {
    let mut world = mapped();
    world.sandbox.unset("UPDRAFT_SERVER");
    let local = format!("server = \"{}\"\ndeployment = \"shop\"\n", world.url);
    world.sandbox.write("here/.updraft/local.toml", &local);
    world.git(&["checkout", "-q", "-b", "feature"]);
    deploy(&world, &[]).ended_with(0);
    for (name, value) in [
        ("GITHUB_ACTIONS", "true"),
        ("GITHUB_EVENT_NAME", "push"),
        ("GITHUB_REF_TYPE", "branch"),
        ("GITHUB_REF_NAME", "feature"),
    ] {
        world.sandbox.set(name, value);
    }
    let printed = deploy(&world, &[]).ended_with(18);
    assert!(printed.stderr.contains("the branch `feature`"), "{printed}");
}

#[test]
fn a_projects_settings_are_checked() {
    let mut world = mapped();
    let printed = world.run(&["config", "check"]).ended_with(3);
    assert!(
        printed
            .stderr
            .contains("updraft.toml:9: there is no Deployment `staging`"),
        "{printed}"
    );
    world
        .run(&["deployment", "create", "staging"])
        .ended_with(0);
    let printed = world.run(&["config", "check"]).ended_with(0);
    assert!(
        printed
            .stdout
            .contains("here: the branch `main` goes to `shop`"),
        "{printed}"
    );

    // A token that may only look.
    let create = ["token", "create", "look", "--role", "viewer"];
    let token = world.run(&create).ended_with(0).stdout;
    let ours = world.token.clone();
    world.sandbox.set("UPDRAFT_TOKEN", token.trim());
    let printed = world.run(&["config", "check"]).ended_with(3);
    assert!(
        printed
            .stderr
            .contains("may look at `shop` and not deploy to it"),
        "{printed}"
    );
    // To make Previews takes less than to deploy.
    let previews = "[project]\nname = \"shop\"\n\n[preview]\nfrom = \"shop\"\n";
    world.sandbox.write("here/updraft.toml", previews);
    let printed = world.run(&["config", "check"]).ended_with(3);
    assert!(
        printed.stderr.contains("one with the role previewer"),
        "{printed}"
    );
    world.sandbox.set("UPDRAFT_TOKEN", &ours);
    let create = ["token", "create", "pull-requests", "--role", "previewer"];
    let token = world.run(&create).ended_with(0).stdout;
    world.sandbox.set("UPDRAFT_TOKEN", token.trim());
    world.run(&["config", "check"]).ended_with(0);
    world.sandbox.set("UPDRAFT_TOKEN", &ours);

    // One that another hides.
    let hidden = TARGETS.replace("\"main\"", "\"**\"")
        + "[[target]]\nbranch = \"main\"\ndeployment = \"shop\"\n";
    world.sandbox.write("here/updraft.toml", &hidden);
    let printed = world.run(&["config", "check", "--offline"]).ended_with(3);
    assert!(printed.stderr.contains("never gets here"), "{printed}");
    let json = world
        .run(&["config", "check", "--offline", "-o", "json"])
        .ended_with(3)
        .json();
    assert_eq!(json["problems"][0]["line"], 16);

    let twice = TARGETS.replace("release/*", "main");
    world.sandbox.write("here/updraft.toml", &twice);
    let printed = world.run(&["config", "check", "--offline"]).ended_with(3);
    assert!(
        printed
            .stderr
            .contains("line 9, column 1 of `updraft.toml`"),
        "{printed}"
    );
    let schema = world.run(&["config", "schema"]).ended_with(0).json();
    assert_eq!(schema["title"], "updraft.toml");
}

/// Two projects of one repository, each with its own map: what did not change is not deployed again.
#[test]
fn each_project_of_a_repository_goes_its_own_way() {
    let mut world = World::new();
    world.sandbox.unset("UPDRAFT_DEPLOYMENT");
    std::fs::remove_file(world.sandbox.path("here/updraft.toml")).unwrap();
    for name in ["one", "two"] {
        let toml = format!(
            "[check]\nparse = false\n\n[[target]]\nbranch = \"main\"\ndeployment = \"{name}\"\n"
        );
        let write = |path: &str, text: &str| {
            world.sandbox.write(&format!("here/{name}/{path}"), text);
        };
        write("updraft.toml", &toml);
        write("Dockerfile", "FROM apache/airflow:3.3.2-python3.12\n");
        write("dags/same.py", "# first\n");
        world.run(&["deployment", "create", name]).ended_with(0);
    }
    world.git(&["init", "-q", "-b", "main"]);
    world.git(&["add", "."]);
    world.git(&["commit", "-q", "-m", "first"]);
    let push = || {
        for name in ["one", "two"] {
            let arguments = ["--project", name, "deploy", "--no-wait"];
            world.run(&arguments).ended_with(0);
        }
    };
    push();
    world.sandbox.write("here/two/dags/same.py", "# second\n");
    world.git(&["commit", "-q", "-a", "-m", "second"]);
    push();
    let deploys = |name| {
        let told = world.run(&["history", name, "-o", "json"]).ended_with(0);
        told.json()["deploys"].as_array().unwrap().len()
    };
    assert_eq!((deploys("one"), deploys("two")), (1, 2));
}

/// A project in a submodule is of the submodule's repository, and one with submodules brings their files.
#[test]
fn a_submodule_is_a_repository_of_its_own() {
    let world = mapped();
    let dags = world.sandbox.path("lib");
    std::fs::create_dir(&dags).unwrap();
    let git = |arguments: &[&str]| {
        let here = ["-C", dags.to_str().unwrap()];
        world.git(&[&here[..], arguments].concat());
    };
    std::fs::write(dags.join("of_lib.py"), "# lib\n").unwrap();
    git(&["init", "-q", "-b", "trunk"]);
    git(&["add", "."]);
    git(&["commit", "-q", "-m", "lib"]);
    let from = dags.to_str().unwrap();
    let add = ["submodule", "add", "-q", from, "dags/lib"];
    world.git(&[&["-c", "protocol.file.allow=always"], &add[..]].concat());
    world.git(&["commit", "-q", "-m", "with lib"]);
    let printed = deploy(&world, &[]).ended_with(0);
    let newest = newest(&world, "shop");
    assert_eq!(newest["git"]["branch"], "main", "{printed}");
    let id = newest["id"].as_str().unwrap();
    let shown = world.run(&["show", id, "-o", "json"]).ended_with(0).json();
    let files = shown["files"].to_string();
    assert!(files.contains("lib/of_lib.py"), "{shown:#}");
    assert!(!files.contains("lib/.git"), "{shown:#}");
}
