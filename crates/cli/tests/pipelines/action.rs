//! The GitHub Action and the GitLab component of this repository, run as their
//! tools run them.

use std::path::PathBuf;
use std::process::{Command, Output, Stdio};

use serde_json::{Value, json};
use updraft_testkit::{TestForge, repository as source};

use crate::common::stand_in::{Answer, PREVIEW_URL};
use crate::common::world::World;
use crate::init::{TARGETS, repository};
use crate::runner::{HOSTILE, yaml};

/// A workflow's step that uses the action, and what is left of it.
struct Step {
    world: World,
    home: PathBuf,
}

struct Ended {
    code: Option<i32>,
    said: String,
    outputs: String,
    summary: String,
}

impl Step {
    fn new() -> Self {
        let world = repository();
        world.git(&["add", "."]);
        world.git(&["commit", "-q", "-m", HOSTILE]);
        let home = world.sandbox.path("home");
        Self { world, home }
    }

    fn run(&self, with: &[(&str, &str)]) -> Ended {
        let push = [
            ("GITHUB_EVENT_NAME", "push"),
            ("GITHUB_REF_TYPE", "branch"),
            ("GITHUB_REF_NAME", "main"),
        ];
        self.run_on(&push, with)
    }

    /// Inputs have the values of `with`, else their defaults, as GitHub fills them in.
    fn run_on(&self, event: &[(&str, &str)], with: &[(&str, &str)]) -> Ended {
        let action = yaml(&std::fs::read_to_string(source().join("action.yml")).unwrap());
        let given = |name: &str| {
            with.iter()
                .find(|(given, _)| *given == name)
                .map(|it| it.1.to_owned())
        };
        let input = |name: &str| {
            let declared = &action["inputs"][name];
            assert!(declared.is_object(), "{name} is no input");
            match name {
                "server" => self.world.url.clone(),
                "token" => given(name).unwrap_or_else(|| self.world.token.clone()),
                _ => {
                    given(name).unwrap_or_else(|| declared["default"].as_str().unwrap().to_owned())
                }
            }
        };
        let step = &action["runs"]["steps"][1];
        let env = step["env"]
            .as_object()
            .unwrap()
            .iter()
            .map(|(name, value)| {
                let value = value.as_str().unwrap();
                let of = value
                    .strip_prefix("${{ inputs.")
                    .and_then(|it| it.strip_suffix(" }}"));
                (name.clone(), input(of.unwrap()))
            });
        for (name, _) in with {
            input(name);
        }
        let mut command = self.runner(step["run"].as_str().unwrap());
        command
            .envs(env)
            .env("GITHUB_ACTION_PATH", source())
            .env("GITHUB_ACTIONS", "true")
            .env("GITHUB_REPOSITORY", "acme/shop")
            .env("GITHUB_HEAD_REF", HOSTILE)
            .envs(event.iter().copied())
            .env("GITHUB_OUTPUT", self.home.join("outputs"))
            .env("GITHUB_STEP_SUMMARY", self.home.join("summary"));
        self.ended(command.output().unwrap())
    }

    fn runner(&self, script: &str) -> Command {
        let mut command = Command::new("bash");
        command
            .args(["--noprofile", "--norc", "-eo", "pipefail", "-c", script])
            .current_dir(self.world.sandbox.here())
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap())
            .env("HOME", &self.home)
            .env("TMPDIR", &self.home)
            .env("UPDRAFT_UV", self.world.sandbox.stand_in_uv())
            .env("UPDRAFT_RUFF", self.world.sandbox.path("ruff"))
            .stdin(Stdio::null());
        command
    }

    fn ended(&self, output: Output) -> Ended {
        let take = |name: &str| {
            let path = self.home.join(name);
            let text = std::fs::read_to_string(&path).unwrap_or_default();
            let _ = std::fs::remove_file(path);
            text
        };
        for dir in [&self.home, &self.world.sandbox.here()] {
            assert!(!dir.join("pwned").exists());
        }
        let said = [output.stdout, output.stderr].concat();
        Ended {
            code: output.status.code(),
            said: String::from_utf8_lossy(&said).into_owned(),
            outputs: take("outputs"),
            summary: take("summary"),
        }
    }

    fn newest(&self) -> Value {
        let history = ["history", "shop", "-o", "json"];
        self.world.run(&history).ended_with(0).json()["deploys"][0].clone()
    }
}

impl Ended {
    #[track_caller]
    fn with(self, code: i32) -> Self {
        assert_eq!(self.code, Some(code), "{}", self.said);
        self
    }

    /// As GitHub reads it: NAME<<END, lines, END.
    fn output(&self, wanted: &str) -> String {
        let mut lines = self.outputs.lines();
        while let Some(line) = lines.next() {
            let (name, end) = line.split_once("<<").unwrap();
            let value: Vec<&str> = lines.by_ref().take_while(|line| *line != end).collect();
            if name == wanted {
                return value.join("\n");
            }
        }
        panic!("no {wanted}: {}", self.outputs);
    }
}

#[test]
fn the_action_deploys_and_says_what_came_of_it() {
    let step = Step::new();
    let agent = step.world.agent(Answer::Proven);
    let planned = step.run(&[("plan", "true")]).with(0);
    assert_eq!(planned.output("outcome"), "planned");
    assert!(
        planned.summary.contains("- `orders.py`"),
        "{}",
        planned.summary
    );

    let ended = step.run(&[("description", HOSTILE)]).with(0);
    assert!(
        ended
            .said
            .contains(&format!("::add-mask::{}", step.world.token)),
        "{}",
        ended.said
    );
    assert_eq!(ended.output("outcome"), "live");
    assert_eq!(ended.output("deployment"), "shop");
    let url = format!("{}/deployments/shop", step.world.url);
    assert_eq!(ended.output("deployment-url"), url);
    let newest = step.newest();
    assert_eq!(ended.output("deploy-id"), newest["id"]);
    assert_eq!(newest["description"], HOSTILE);
    assert_eq!(newest["ci"]["provider"], "github");
    let changed: Value = serde_json::from_str(&ended.output("changed")).unwrap();
    assert_eq!(changed["files"]["added"][0], "orders.py");
    assert_eq!(changed["image"], true);
    assert!(
        ended.summary.contains("Updraft: `shop` is live"),
        "{}",
        ended.summary
    );
    assert!(
        ended.summary.contains("Proven by Airflow"),
        "{}",
        ended.summary
    );

    let again = step
        .run(&[
            ("sha256", &sha256(&step.world.url)),
            ("deployment-name", "shop"),
        ])
        .with(0);
    assert_eq!(again.output("outcome"), "nothing_to_do");

    // Airflow refuses it, and what was there before comes back.
    step.world.write_dag("orders", "# second\n");
    agent.answer(Answer::ImportError);
    let failed = step.run(&[("parse", "false")]).with(10);
    assert_eq!(failed.output("outcome"), "failed");
    assert!(
        failed.summary.contains("`orders.py` cannot be imported"),
        "{}",
        failed.summary
    );
    step.world.write_dag("orders", "# third\n");
    step.run(&[("rollback-on-failure", "true")]).with(10);
    assert_eq!(step.newest()["kind"], "rollback");
}

#[test]
fn the_action_gives_a_pull_request_its_preview() {
    let step = Step::new();
    let agent = step.world.agent(Answer::Proven);
    step.run(&[]).with(0);
    step.world
        .sandbox
        .write("here/updraft.toml", &previews_of_shop());
    step.world.write_dag("refunds", "# new\n");
    let forge = TestForge::start();
    let event = json!({ "pull_request": {
        "number": 7, "head": { "repo": { "full_name": "acme/shop" } },
    }});
    step.world.sandbox.write("event.json", &event.to_string());
    let event = step.world.sandbox.path("event.json");
    let request = [
        ("GITHUB_EVENT_NAME", "pull_request"),
        ("GITHUB_REF", "refs/pull/7/merge"),
        ("GITHUB_BASE_REF", "main"),
        ("GITHUB_EVENT_PATH", event.to_str().unwrap()),
        ("GITHUB_API_URL", forge.url()),
    ];
    let comments = ("comment-token", TestForge::TOKEN);
    let ended = step.run_on(&request, &[comments]).with(0);
    assert_eq!(ended.output("outcome"), "live");
    assert_eq!(ended.output("deployment"), "shop-pr-7");
    assert_eq!(ended.output("preview"), "shop-pr-7");
    assert_eq!(ended.output("preview-url"), PREVIEW_URL);
    let body = forge.comments()[0].body.clone();
    assert!(body.contains(PREVIEW_URL), "{body}");

    // What goes back is the Preview, and not what it was made from.
    step.world.write_dag("refunds", "# second\n");
    agent.answer(Answer::ImportError);
    let source = step.newest();
    step.run_on(&request, &[comments, ("rollback-on-failure", "true")])
        .with(10);
    let of_preview = ["history", "shop-pr-7", "-o", "json"];
    let of_preview = step.world.run(&of_preview).ended_with(0).json();
    assert_eq!(of_preview["deploys"][0]["kind"], "rollback");
    assert_eq!(step.newest(), source);

    let closed = step.run_on(&request, &[("close-preview", "true")]).with(0);
    assert!(
        closed.said.contains("Closed the Preview `shop-pr-7`"),
        "{}",
        closed.said
    );
}

fn previews_of_shop() -> String {
    format!("{TARGETS}\n[preview]\nfrom = \"shop\"\n")
}

#[test]
fn no_input_of_the_action_is_executed() {
    let step = Step::new();
    let hostile = [
        "deployment-name",
        "root-folder",
        "deploy-type",
        "image-name",
        "parse",
        "pytest",
        "wait-time",
        "plan",
        "promote-from",
        "close-preview",
        "rollback-on-failure",
        "sha256",
        "insecure-http",
    ];
    for input in hostile {
        for value in [HOSTILE, "--help"] {
            let ended = step.run(&[(input, value)]);
            assert_ne!(ended.code, Some(0), "{input} {value}: {}", ended.said);
            assert!(!ended.said.contains("\ntouch pwned\n::"), "{}", ended.said);
        }
    }
    let refused = step.run(&[("deploy-type", "all")]).with(2);
    assert!(
        refused.said.contains("::error::deploy-type is"),
        "{}",
        refused.said
    );
    // No secret, as a fork's pull request has none.
    let refused = step.run(&[("token", "")]).with(4);
    assert_eq!(refused.output("outcome"), "not_signed_in");
    assert!(
        refused.summary.contains("there is no token"),
        "{}",
        refused.summary
    );
}

fn sha256(url: &str) -> String {
    let output = Command::new("curl")
        .args(["-fsS", &format!("{url}/install/sha256")])
        .output();
    String::from_utf8(output.unwrap().stdout).unwrap()[..64].to_owned()
}

/// The component of GitLab, with its inputs filled in.
struct Component {
    step: Step,
    inputs: Value,
    jobs: Value,
    given: Vec<(&'static str, String)>,
}

impl Component {
    fn new() -> Self {
        let step = Step::new();
        let text = std::fs::read_to_string(source().join("templates/deploy.yml")).unwrap();
        let (spec, jobs) = text.split_once("\n---\n").unwrap();
        let given = vec![
            ("server", step.world.url.clone()),
            ("sha256", sha256(&step.world.url)),
            ("description", HOSTILE.to_owned()),
        ];
        Self {
            inputs: yaml(spec)["spec"]["inputs"].clone(),
            jobs: yaml(jobs),
            given,
            step,
        }
    }

    fn fill(&self, text: &str) -> String {
        let Some(rest) = text.strip_prefix("$[[ inputs.") else {
            return text.to_owned();
        };
        let name = rest.strip_suffix(" ]]").unwrap();
        let given = self.given.iter().find(|(given, _)| *given == name);
        let default = &self.inputs[name]["default"];
        given.map_or_else(
            || {
                let text = default.as_str().map(str::to_owned);
                text.unwrap_or_else(|| default.to_string())
            },
            |(_, value)| value.clone(),
        )
    }

    #[track_caller]
    fn run(&self, job: &str, besides: &[(&str, &str)]) -> Ended {
        let common = &self.jobs[".updraft"];
        let before = common["before_script"][0].as_str().unwrap();
        let script = self.jobs[job]["script"][0].as_str().unwrap();
        assert!(
            !format!("{before}{script}").contains("$[["),
            "no input is part of a script"
        );
        let variables = common["variables"].as_object().unwrap().iter();
        let variables = variables.map(|(name, value)| {
            assert_eq!(value["expand"], false, "{name}");
            (name.clone(), self.fill(value["value"].as_str().unwrap()))
        });
        let mut command = self.step.runner(&format!("{before}\n{script}"));
        command
            .envs(variables)
            .env("GITLAB_CI", "true")
            .env("CI_PROJECT_PATH", "acme/shop")
            .env("CI_COMMIT_MESSAGE", HOSTILE)
            .envs(besides.iter().copied());
        self.step.ended(command.output().unwrap()).with(0)
    }

    /// What later jobs have as variables.
    fn told(&self) -> String {
        let path = self.step.world.sandbox.path("here/updraft.env");
        std::fs::read_to_string(path).unwrap()
    }
}

#[test]
fn the_component_checks_and_deploys() {
    let component = Component::new();
    let step = &component.step;
    let _agent = step.world.agent(Answer::Proven);
    component.run("updraft-check", &[]);
    let token = ("UPDRAFT_TOKEN", step.world.token.as_str());
    component.run("updraft-deploy", &[("CI_COMMIT_BRANCH", "main"), token]);
    assert_eq!(step.newest()["description"], HOSTILE);
    assert_eq!(step.newest()["ci"]["provider"], "gitlab");
    let told = component.told();
    assert!(told.contains("UPDRAFT_OUTCOME=live\n"), "{told}");
    let id = step.newest()["id"].as_str().unwrap().to_owned();
    assert!(
        told.contains(&format!("UPDRAFT_DEPLOY_ID={id}\n")),
        "{told}"
    );
    // Of a branch that no target is for, and of one that was never merged.
    component.run("updraft-deploy", &[("CI_COMMIT_BRANCH", HOSTILE), token]);
}

#[test]
fn the_component_gives_a_merge_request_its_preview() {
    let component = Component::new();
    let world = &component.step.world;
    let _agent = world.agent(Answer::Proven);
    world.run(&["deploy", "shop"]).ended_with(0);
    world
        .sandbox
        .write("here/updraft.toml", &previews_of_shop());
    world.write_dag("refunds", "# new\n");
    let forge = TestForge::start();
    let request = [
        ("CI_MERGE_REQUEST_IID", "7"),
        ("CI_MERGE_REQUEST_PROJECT_ID", "1"),
        ("CI_MERGE_REQUEST_SOURCE_PROJECT_ID", "1"),
        ("CI_MERGE_REQUEST_SOURCE_BRANCH_NAME", HOSTILE),
        ("CI_MERGE_REQUEST_TARGET_BRANCH_NAME", "main"),
        ("CI_API_V4_URL", forge.url()),
        // Where the default branch goes.
        ("UPDRAFT_DEPLOYMENT", "shop"),
        ("UPDRAFT_COMMENT_TOKEN", TestForge::TOKEN),
        ("UPDRAFT_PREVIEW_TOKEN", &world.token),
    ];
    for job in ["updraft-preview", "updraft-close"] {
        let rule = component.jobs[job]["rules"][0]["if"].as_str().unwrap();
        assert!(rule.starts_with("\"$[[ inputs.previews ]]\" == \"true\" && "));
    }
    component.run("updraft-preview", &request);
    let told = component.told();
    assert!(told.contains("UPDRAFT_PREVIEW=shop-pr-7\n"), "{told}");
    let body = forge.comments()[0].body.clone();
    assert!(body.contains(PREVIEW_URL), "{body}");
    let closed = component.run("updraft-close", &request);
    assert!(
        closed.said.contains("Closed the Preview `shop-pr-7`"),
        "{}",
        closed.said
    );
}
