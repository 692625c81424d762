//! A made-up runner: the steps of a pipeline's file, run as its tool does.

use std::path::Path;
use std::process::{Command, Output, Stdio};

use serde_json::Value;
use updraft_ci::pipeline::Tool;

/// A job, read from the file that has it.
#[derive(Debug)]
pub(crate) struct Job {
    pub(crate) script: String,
    /// What the file sets; a secret has the value [`SECRET`].
    pub(crate) variables: Vec<(String, String)>,
    shell: &'static [&'static str],
}

/// Stands for whatever a tool keeps secret.
const SECRET: &str = "the secret";

/// What made a run.
#[derive(Debug, Clone)]
pub(crate) enum Event<'a> {
    Push { branch: &'a str },
    PullRequest { from: &'a str },
}

/// The jobs of a pipeline: that of pull requests, and that of pushes.
pub(crate) fn jobs(tool: Tool, files: &[(String, String)]) -> (Job, Job) {
    let text = &files[0].1;
    match tool {
        Tool::Github => both(|job| github(&yaml(text), job)),
        Tool::Gitlab => both(|job| gitlab(&yaml(text), job)),
        Tool::Circleci => both(|job| circleci(&yaml(text), job)),
        Tool::Jenkins => both(|job| jenkins(text, job)),
        Tool::Bitbucket => both(|job| bitbucket(&yaml(text), job)),
        Tool::Azure => both(|job| azure(&yaml(text), job)),
        Tool::Codebuild => (codebuild(&yaml(&files[1].1)), codebuild(&yaml(text))),
        Tool::Drone => {
            let (check, deploy) = text.split_once("\n---\n").unwrap();
            (drone(&yaml(check)), drone(&yaml(deploy)))
        }
    }
}

/// The jobs of a pull request's Preview: that of each push, and that of its end where
/// the tool has one.
pub(crate) fn preview_jobs(tool: Tool, files: &[(String, String)]) -> (Job, Option<Job>) {
    let text = &files[0].1;
    let with_close = |read: &dyn Fn(&str) -> Job| (read("preview"), Some(read("close")));
    match tool {
        Tool::Github => with_close(&|job| github(&yaml(text), job)),
        Tool::Gitlab => with_close(&|job| gitlab(&yaml(text), job)),
        Tool::Circleci => (circleci(&yaml(text), "preview"), None),
        Tool::Jenkins => (jenkins(text, "preview"), None),
        Tool::Bitbucket => (bitbucket(&yaml(text), "preview"), None),
        Tool::Azure => (azure(&yaml(text), "preview"), None),
        other => panic!("{other} has no Previews"),
    }
}

fn both(read: impl Fn(&str) -> Job) -> (Job, Job) {
    (read("check"), read("deploy"))
}

pub(crate) fn yaml(text: &str) -> Value {
    serde_saphyr::from_str(text).unwrap_or_else(|error| panic!("{error}\n{text}"))
}

fn text(value: &Value) -> String {
    value
        .as_str()
        .unwrap_or_else(|| panic!("no text: {value}"))
        .to_owned()
}

/// Variables of a map, secrets among them.
fn variables(map: &Value) -> Vec<(String, String)> {
    let map = map.as_object().into_iter().flatten();
    let is_secret = |value: &str| {
        [
            "${{ secrets.UPDRAFT_TOKEN }}",
            "${{ secrets.UPDRAFT_PREVIEW_TOKEN }}",
            "$(UPDRAFT_TOKEN)",
            "$(UPDRAFT_PREVIEW_TOKEN)",
        ]
        .contains(&value)
    };
    map.map(|(name, value)| {
        let value = match value.as_str() {
            Some(value) if !is_secret(value) => value.to_owned(),
            _ => SECRET.to_owned(),
        };
        (name.clone(), value)
    })
    .collect()
}

fn github(file: &Value, job: &str) -> Job {
    let step = &file["jobs"][job]["steps"][1];
    Job {
        script: text(&step["run"]),
        variables: [variables(&file["env"]), variables(&step["env"])].concat(),
        shell: &["bash", "-e"],
    }
}

fn gitlab(file: &Value, job: &str) -> Job {
    Job {
        script: text(&file[format!("updraft-{job}")]["script"][0]),
        variables: variables(&file["variables"]),
        shell: &["bash", "-eo", "pipefail"],
    }
}

fn circleci(file: &Value, job: &str) -> Job {
    let job = &file["jobs"][job];
    Job {
        script: text(&job["steps"][1]["run"]["command"]),
        variables: variables(&job["environment"]),
        shell: &["bash", "-eo", "pipefail"],
    }
}

/// Not YAML: what stands between three quotes in a stage, and between one where a name is set.
fn jenkins(text: &str, job: &str) -> Job {
    let (before, stages) = text.split_once("stages {").unwrap();
    let stage = stages
        .split("stage('")
        .find(|it| it.to_lowercase().starts_with(&format!("{job}'")))
        .unwrap();
    let set = |line: &str| {
        let (name, value) = line.trim().split_once(" = ")?;
        let name = name.to_owned();
        if value.starts_with("credentials('updraft-") {
            return Some((name, SECRET.to_owned()));
        }
        let value = value.strip_prefix('\'')?.strip_suffix('\'')?;
        Some((name, value.to_owned()))
    };
    Job {
        script: stage.split("'''").nth(1).unwrap().to_owned(),
        variables: before
            .lines()
            .chain(stage.lines())
            .filter_map(set)
            .collect(),
        shell: &["sh", "-xe"],
    }
}

fn bitbucket(file: &Value, job: &str) -> Job {
    let steps = file["definitions"]["steps"].as_array().unwrap();
    let mut steps = steps.iter().map(|it| &it["step"]);
    let step = steps.find(|it| text(&it["name"]).to_lowercase() == job);
    Job {
        script: text(&step.unwrap()["script"][0]),
        variables: Vec::new(),
        shell: &["bash", "-e"],
    }
}

fn azure(file: &Value, job: &str) -> Job {
    let jobs = file["jobs"].as_array().unwrap();
    let job = jobs.iter().find(|it| it["job"] == job).unwrap();
    let step = &job["steps"][1];
    Job {
        script: text(&step["bash"]),
        variables: [variables(&file["variables"]), variables(&step["env"])].concat(),
        shell: &["bash", "--noprofile", "--norc"],
    }
}

fn codebuild(file: &Value) -> Job {
    let env = &file["env"];
    let secrets = env["parameter-store"].as_object().into_iter().flatten();
    let secrets = secrets.map(|(name, _)| (name.clone(), SECRET.to_owned()));
    Job {
        script: text(&file["phases"]["build"]["commands"][0]),
        variables: variables(&env["variables"])
            .into_iter()
            .chain(secrets)
            .collect(),
        shell: &["bash"],
    }
}

fn drone(file: &Value) -> Job {
    let step = &file["steps"][0];
    Job {
        script: text(&step["commands"][0]),
        variables: variables(&step["environment"]),
        shell: &["sh", "-e"],
    }
}

impl Job {
    /// Runs it in a checkout, with what the tool sets and what is named besides,
    /// and nothing else.
    pub(crate) fn run(
        &self,
        checkout: &Path,
        tool: Tool,
        event: &Event<'_>,
        secret: &str,
        besides: &[(&str, &str)],
    ) -> Output {
        // Tools write the script into a file.
        let script = checkout.parent().unwrap().join("script");
        std::fs::write(&script, &self.script).unwrap();
        let has_project_secrets = matches!(tool, Tool::Gitlab | Tool::Circleci | Tool::Bitbucket)
            && matches!(event, Event::Push { .. });
        let own = self.variables.iter().map(|(name, value)| {
            let value = if value == SECRET { secret } else { value };
            (name.as_str(), value)
        });
        Command::new(self.shell[0])
            .args(&self.shell[1..])
            .arg(&script)
            .current_dir(checkout)
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap())
            .env("HOME", checkout.parent().unwrap())
            .env("TMPDIR", checkout.parent().unwrap())
            .envs(tells(tool, event))
            .envs(own)
            .envs(has_project_secrets.then_some(("UPDRAFT_TOKEN", secret)))
            .envs(besides.iter().copied())
            .stdin(Stdio::null())
            .output()
            .unwrap()
    }
}

/// Everything that a push can bring along and somebody else chooses.
pub(crate) const HOSTILE: &str =
    "x\"; touch pwned; $(touch pwned) `touch pwned` ${IFS} ' && touch pwned\ntouch pwned";

/// The variables by which a tool tells what it runs for.
#[expect(clippy::too_many_lines, reason = "a table")]
fn tells(tool: Tool, event: &Event<'_>) -> Vec<(&'static str, String)> {
    let (branch, is_push) = match event {
        Event::Push { branch } => (*branch, true),
        Event::PullRequest { from } => (*from, false),
    };
    let owned = |pairs: &[(&'static str, &str)]| -> Vec<_> {
        pairs
            .iter()
            .map(|(name, value)| (*name, (*value).to_owned()))
            .collect()
    };
    let mut set = match (tool, is_push) {
        (Tool::Github, true) => owned(&[
            ("GITHUB_ACTIONS", "true"),
            ("GITHUB_EVENT_NAME", "push"),
            ("GITHUB_REF_TYPE", "branch"),
            ("GITHUB_REF_NAME", branch),
            ("GITHUB_REPOSITORY", "acme/shop"),
        ]),
        (Tool::Github, false) => owned(&[
            ("GITHUB_ACTIONS", "true"),
            ("GITHUB_EVENT_NAME", "pull_request"),
            ("GITHUB_REF", "refs/pull/7/merge"),
            ("GITHUB_HEAD_REF", branch),
            ("GITHUB_BASE_REF", "main"),
            ("GITHUB_REPOSITORY", "acme/shop"),
        ]),
        (Tool::Gitlab, true) => owned(&[("GITLAB_CI", "true"), ("CI_COMMIT_BRANCH", branch)]),
        (Tool::Gitlab, false) => owned(&[
            ("GITLAB_CI", "true"),
            ("CI_MERGE_REQUEST_IID", "7"),
            ("CI_MERGE_REQUEST_SOURCE_BRANCH_NAME", branch),
        ]),
        (Tool::Circleci, _) => owned(&[("CIRCLECI", "true"), ("CIRCLE_BRANCH", branch)]),
        (Tool::Jenkins, true) => owned(&[
            ("JENKINS_URL", "https://ci.example.com"),
            ("BRANCH_NAME", branch),
        ]),
        (Tool::Jenkins, false) => owned(&[
            ("JENKINS_URL", "https://ci.example.com"),
            ("CHANGE_ID", "7"),
            ("CHANGE_BRANCH", branch),
            ("CHANGE_TITLE", HOSTILE),
        ]),
        (Tool::Bitbucket, true) => owned(&[
            ("BITBUCKET_BUILD_NUMBER", "5"),
            ("BITBUCKET_BRANCH", branch),
        ]),
        (Tool::Bitbucket, false) => owned(&[
            ("BITBUCKET_BUILD_NUMBER", "5"),
            ("BITBUCKET_BRANCH", branch),
            ("BITBUCKET_PR_ID", "7"),
        ]),
        (Tool::Azure, true) => {
            let mut set = owned(&[("TF_BUILD", "True")]);
            set.push(("BUILD_SOURCEBRANCH", format!("refs/heads/{branch}")));
            set
        }
        (Tool::Azure, false) => owned(&[
            ("TF_BUILD", "True"),
            ("SYSTEM_PULLREQUEST_PULLREQUESTID", "7"),
            ("SYSTEM_PULLREQUEST_SOURCEBRANCH", branch),
        ]),
        (Tool::Codebuild, true) => {
            let mut set = owned(&[("CODEBUILD_BUILD_ID", "updraft:1")]);
            set.push(("CODEBUILD_WEBHOOK_TRIGGER", format!("branch/{branch}")));
            set
        }
        (Tool::Codebuild, false) => owned(&[
            ("CODEBUILD_BUILD_ID", "updraft:1"),
            ("CODEBUILD_WEBHOOK_TRIGGER", "pr/7"),
            ("CODEBUILD_WEBHOOK_HEAD_REF", branch),
        ]),
        (Tool::Drone, true) => owned(&[
            ("DRONE", "true"),
            ("DRONE_BUILD_EVENT", "push"),
            ("DRONE_BRANCH", branch),
            ("DRONE_COMMIT_BRANCH", branch),
        ]),
        (Tool::Drone, false) => owned(&[
            ("DRONE", "true"),
            ("DRONE_BUILD_EVENT", "pull_request"),
            ("DRONE_PULL_REQUEST", "7"),
            ("DRONE_SOURCE_BRANCH", branch),
        ]),
    };
    // Of each tool, what somebody else writes.
    set.extend(
        [
            "CI_COMMIT_MESSAGE",
            "CI_COMMIT_TITLE",
            "CI_COMMIT_AUTHOR",
            "CI_MERGE_REQUEST_TITLE",
            "GITHUB_ACTOR",
            "CIRCLE_USERNAME",
            "BUILD_SOURCEVERSIONMESSAGE",
            "BUILD_REQUESTEDFOR",
            "GIT_COMMITTER_NAME",
            "DRONE_COMMIT_MESSAGE",
            "DRONE_COMMIT_AUTHOR",
            "CODEBUILD_WEBHOOK_ACTOR_ACCOUNT_ID",
        ]
        .map(|name| (name, HOSTILE.to_owned())),
    );
    set
}
