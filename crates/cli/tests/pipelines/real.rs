//! Pipelines with the binary that the control plane serves.

use std::path::PathBuf;
use std::process::{Command, Output};

use serde_json::Value;
use updraft_ci::pipeline::Tool;

use crate::common::stand_in::Answer;
use crate::common::world::World;
use crate::init::{TARGETS, repository};
use crate::runner::{Event, HOSTILE, Job, jobs};

/// A world whose repository is cloned by runners.
pub(crate) struct Runners {
    pub(crate) world: World,
    uv: String,
    ruff: String,
}

impl Runners {
    pub(crate) fn new() -> Self {
        let world = repository();
        let uv = world.sandbox.stand_in_uv();
        let ruff = world.sandbox.path("ruff").to_str().unwrap().to_owned();
        Self { world, uv, ruff }
    }

    /// The jobs that `ci init` writes.
    fn jobs(&self, tool: Tool, arguments: &[&str]) -> (Job, Job) {
        jobs(tool, &self.written(tool, arguments))
    }

    /// The files that `ci init` writes.
    pub(crate) fn written(&self, tool: Tool, arguments: &[&str]) -> Vec<(String, String)> {
        let init = ["ci", "init", "--print", "-o", "json", "--tool", tool.name()];
        let written = self
            .world
            .run(&[&init, arguments].concat())
            .ended_with(0)
            .json();
        let files = written["files"].as_array().unwrap().iter().map(|file| {
            let text = |key: &str| file[key].as_str().unwrap().to_owned();
            (text("path"), text("text"))
        });
        files.collect()
    }

    pub(crate) fn commit(&self) {
        self.world.git(&["add", "."]);
        // Who writes it may want something of the pipeline.
        self.world.git(&["commit", "-q", "-m", HOSTILE]);
    }

    /// What a runner gets: the last commit alone, on no branch.
    fn clone(&self, branch: &str) -> PathBuf {
        let folder = self.world.sandbox.path("runner");
        let _ = std::fs::remove_dir_all(&folder);
        let origin = format!("file://{}", self.world.sandbox.here().display());
        let clone = folder.join("checkout");
        let cloned = Command::new("git")
            .args(["clone", "-q", "--depth", "1", "--branch", branch, &origin])
            .arg(&clone)
            .status();
        assert!(cloned.unwrap().success());
        let there = [
            ["checkout", "-q", "--detach"].as_slice(),
            // Where it would be if this were no test.
            &[
                "remote",
                "set-url",
                "origin",
                "https://github.com/acme/shop.git",
            ],
        ];
        for arguments in there {
            let git = Command::new("git")
                .arg("-C")
                .arg(&clone)
                .args(arguments)
                .status();
            assert!(git.unwrap().success());
        }
        clone
    }

    fn run(&self, job: &Job, tool: Tool, event: &Event<'_>, branch: &str) -> Output {
        self.run_with(job, tool, event, branch, &[])
    }

    pub(crate) fn run_with(
        &self,
        job: &Job,
        tool: Tool,
        event: &Event<'_>,
        branch: &str,
        besides: &[(&str, &str)],
    ) -> Output {
        let checkout = self.clone(branch);
        let ours = [
            ("UPDRAFT_UV", self.uv.as_str()),
            ("UPDRAFT_RUFF", self.ruff.as_str()),
        ];
        let besides = [&ours[..], besides].concat();
        let output = job.run(&checkout, tool, event, &self.world.token, &besides);
        for dir in [&checkout, checkout.parent().unwrap()] {
            assert!(!dir.join("pwned").exists(), "{job:?}");
        }
        output
    }

    fn newest(&self) -> Value {
        let history = ["history", "shop", "-o", "json"];
        self.world.run(&history).ended_with(0).json()["deploys"][0].clone()
    }
}

fn said(output: &Output) -> String {
    let text = [output.stdout.as_slice(), &output.stderr].concat();
    String::from_utf8_lossy(&text).into_owned()
}

#[test]
fn each_tool_checks_pull_requests_and_deploys_what_is_pushed() {
    let runners = Runners::new();
    let _agent = runners.world.agent(Answer::Proven);
    for tool in Tool::ALL {
        let (check, deploy) = runners.jobs(tool, &[]);
        runners.world.write_dag("orders", &format!("# {tool}\n"));
        runners.commit();
        // Without a token: a fork's would have none.
        let output = runners.run(&check, tool, &Event::PullRequest { from: "main" }, "main");
        assert!(output.status.success(), "{tool}: {}", said(&output));
        assert!(
            said(&output).contains("1 DAG file"),
            "{tool}: {}",
            said(&output)
        );

        let output = runners.run(&deploy, tool, &Event::Push { branch: "main" }, "main");
        assert!(output.status.success(), "{tool}: {}", said(&output));
        assert!(!said(&output).contains(&runners.world.token), "{tool}");
        let newest = runners.newest();
        assert_eq!(newest["ci"]["provider"], tool.name(), "{newest:#}");
        assert_eq!(newest["git"]["branch"], "main", "{newest:#}");
        assert_eq!(newest["state"]["name"], "live", "{newest:#}");
        let subject = newest["git"]["subject"].as_str().unwrap();
        assert!(subject.contains("$(touch pwned)"), "{newest:#}");
    }
    let history = runners.world.run(&["history", "shop", "-o", "json"]).json();
    assert_eq!(
        history["deploys"].as_array().unwrap().len(),
        Tool::ALL.len()
    );

    // What does not pass is not deployed, and the pipeline fails with it.
    runners.world.write_dag("orders", "def f(:\n");
    runners.commit();
    let (check, deploy) = runners.jobs(Tool::Drone, &[]);
    let output = runners.run(
        &check,
        Tool::Drone,
        &Event::PullRequest { from: "main" },
        "main",
    );
    assert_eq!(output.status.code(), Some(17), "{}", said(&output));
    let output = runners.run(
        &deploy,
        Tool::Drone,
        &Event::Push { branch: "main" },
        "main",
    );
    assert_eq!(output.status.code(), Some(17), "{}", said(&output));
}

#[test]
fn a_branch_may_be_called_anything_with_every_tool() {
    let runners = Runners::new();
    let _agent = runners.world.agent(Answer::Proven);
    let branch = "x$(touch${IFS}pwned)`touch${IFS}pwned`;touch${IFS}pwned&&'\"|";
    let targets = TARGETS.replace("\"main\"", "\"x**\"");
    runners.world.sandbox.write("here/updraft.toml", &targets);
    runners.commit();
    runners.world.git(&["checkout", "-q", "-b", branch]);
    for tool in Tool::ALL {
        let (_, deploy) = runners.jobs(tool, &["--strategy", "multi-branch"]);
        runners.world.write_dag("orders", &format!("# {tool}\n"));
        runners.commit();
        let output = runners.run(&deploy, tool, &Event::Push { branch }, branch);
        assert!(output.status.success(), "{tool}: {}", said(&output));
        assert_eq!(runners.newest()["ci"]["branch"], branch, "{tool}");
        // One that no target is for is no failure.
        let output = runners.run(&deploy, tool, &Event::Push { branch: "feature" }, branch);
        assert!(output.status.success(), "{tool}: {}", said(&output));
        assert!(
            said(&output).contains("nothing to deploy"),
            "{tool}: {}",
            said(&output)
        );
    }
    let history = runners.world.run(&["history", "shop", "-o", "json"]).json();
    assert_eq!(
        history["deploys"].as_array().unwrap().len(),
        Tool::ALL.len()
    );
}

#[test]
fn a_repository_of_dags_and_one_of_the_image_make_one_deployment() {
    let runners = Runners::new();
    let _agent = runners.world.agent(Answer::Proven);
    let sandbox = &runners.world.sandbox;
    let settings =
        |parts: &str| TARGETS.replace("[check]", &format!("parts = [\"{parts}\"]\n[check]"));
    sandbox.write("here/of-dags/updraft.toml", &settings("dags"));
    sandbox.write("here/of-dags/dags/orders.py", "# of the DAGs\n");
    // Neither needed nor read.
    sandbox.write("here/of-dags/Dockerfile", "no Dockerfile\n");
    sandbox.write("here/of-image/updraft.toml", &settings("image"));
    sandbox.write(
        "here/of-image/Dockerfile",
        "FROM apache/airflow:3.3.2-python3.12\n",
    );
    sandbox.write("here/of-image/include/sql.py", "# of the image\n");
    sandbox.write("here/of-image/dags/stray.py", "def f(:\n");
    runners.commit();

    let tool = Tool::Github;
    let dags = runners.jobs(tool, &["--project", "of-dags", "--layout", "dags-repo"]);
    let image = runners.jobs(tool, &["--project", "of-image", "--layout", "image-repo"]);
    let push = Event::Push { branch: "main" };
    let pull_request = Event::PullRequest { from: "main" };
    for (check, _) in [&dags, &image] {
        let output = runners.run(check, tool, &pull_request, "main");
        assert!(output.status.success(), "{}", said(&output));
    }

    // DAGs need something to run in.
    let output = runners.run(&dags.1, tool, &push, "main");
    assert_eq!(output.status.code(), Some(3), "{}", said(&output));
    assert!(
        said(&output).contains("deploy the repository with the image first"),
        "{}",
        said(&output)
    );
    for (job, changed) in [(&image.1, "the image"), (&dags.1, "1 file added")] {
        let output = runners.run(job, tool, &push, "main");
        assert!(output.status.success(), "{}", said(&output));
        assert!(said(&output).contains(changed), "{}", said(&output));
    }
    // Each is there now, and the other half is not touched.
    for (job, _) in [(&image.1, ""), (&dags.1, "")] {
        let output = runners.run(job, tool, &push, "main");
        assert!(said(&output).contains("Nothing to do"), "{}", said(&output));
    }
    sandbox.write("here/of-image/include/sql.py", "# changed\n");
    runners.commit();
    let output = runners.run(&image.1, tool, &push, "main");
    assert!(output.status.success(), "{}", said(&output));
    let files = &runners.newest()["files"];
    assert!(!files.to_string().contains("orders.py"), "{files}");
    let output = runners.run(&dags.1, tool, &push, "main");
    assert!(said(&output).contains("Nothing to do"), "{}", said(&output));

    // What is not here is not deployed from here.
    let printed = runners
        .world
        .run(&["deploy", "--project", "of-dags", "--image"])
        .ended_with(3);
    assert!(printed.stderr.contains("has only DAGs"), "{printed}");
    let printed = runners
        .world
        .run(&["deploy", "--project", "of-image", "--dags"])
        .ended_with(3);
    assert!(printed.stderr.contains("has only an image"), "{printed}");
}
