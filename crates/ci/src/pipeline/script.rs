//! The shell steps, which are the same for every tool but for how it is told
//! that a deploy was superseded.
//!
//! They name no variable that a tool sets: what is pushed the binary reads for
//! itself, so nothing of it reaches a shell. Nor do they have `${…}`, which
//! Drone fills in before there is a shell, or a backslash, which Groovy reads.

use super::model::{Layout, Pipeline, Strategy, Tool};

/// Into a folder of its own: several jobs may share a machine, and what lies in
/// the checkout would be a file of the project.
const INSTALL: &str = r#"bin=$(mktemp -d)
curl -fsSL --retry 3 -o "$bin/updraft" "$UPDRAFT_SERVER/install"
echo "$UPDRAFT_SHA256  $bin/updraft" | sha256sum -c - || { echo "The control plane serves another updraft than is pinned here: run updraft ci init --force, and commit"; exit 1; }
chmod +x "$bin/updraft""#;

/// Where a machine outlives its jobs.
const CLEAN: &str = r#"trap 'rm -rf "$bin"' EXIT"#;

const CLOSE: &str = r#""$bin/updraft" preview close"#;

/// Superseded is no failure.
const PREVIEW: &str = r#"ended=0
"$bin/updraft" deploy --preview || ended=$?
if [ "$ended" -eq 12 ]; then
  echo "superseded: a later deploy took the place of this one before it was proven"
  ended=0
fi"#;

/// Where a branch is built before a pull request is open for it.
const NO_PULL_REQUEST: &str = r#"if [ "$ended" -eq 18 ]; then exit 0; fi"#;

/// Of what failed the deploy's exit code counts.
const COMMENT: &str = r#"commented=0
"$bin/updraft" deploy --plan --comment || commented=$?
if [ "$ended" -eq 0 ]; then ended=$commented; fi
exit "$ended""#;

/// Builds images as root of a container that may do no more than others.
const BUILDAH: &str = "apt-get update -qq
apt-get install -qq -y --no-install-recommends buildah >/dev/null
export BUILDAH_ISOLATION=chroot STORAGE_DRIVER=vfs";

/// What runs for a pull request. It needs no token.
pub(super) fn check(pipeline: &Pipeline) -> String {
    let mut lines = begin(pipeline);
    lines.push(match pipeline.layout {
        Layout::Whole | Layout::Dags => r#""$bin/updraft" dev check"#.to_owned(),
        Layout::Image => r#""$bin/updraft" config check --offline"#.to_owned(),
    });
    if pipeline.layout == Layout::Image && pipeline.strategy == Strategy::CustomImage {
        lines.push(r#""$bin/updraft" image build"#.to_owned());
    }
    lines.join("\n")
}

/// What runs for a push.
pub(super) fn deploy(pipeline: &Pipeline) -> String {
    let mut lines = begin(pipeline);
    lines.push(deploy_with(
        pipeline.tool,
        match pipeline.strategy {
            Strategy::OneBranch | Strategy::CustomImage => "",
            Strategy::MultiBranch => " --if-mapped",
        },
    ));
    lines.join("\n")
}

/// What runs for a pull request that gets a Preview: the comment says also how a deploy failed.
pub(super) fn preview(pipeline: &Pipeline) -> String {
    let mut lines = begin_preview(pipeline);
    lines.push(PREVIEW.to_owned());
    if pipeline.tool == Tool::Circleci {
        lines.push(NO_PULL_REQUEST.to_owned());
    }
    lines.push(COMMENT.to_owned());
    lines.join("\n")
}

/// What runs when a pull request is closed.
pub(super) fn close(pipeline: &Pipeline) -> String {
    let mut lines = begin_preview(pipeline);
    lines.push(CLOSE.to_owned());
    lines.join("\n")
}

fn begin_preview(pipeline: &Pipeline) -> Vec<String> {
    let mut lines = begin(pipeline);
    let has_all = [Tool::Gitlab, Tool::Bitbucket, Tool::Circleci].contains(&pipeline.tool);
    if has_all && !pipeline.oidc {
        // Every job has the project's variables, which win over its own.
        lines.push(r#"export UPDRAFT_TOKEN="$UPDRAFT_PREVIEW_TOKEN""#.to_owned());
    }
    lines
}

/// A step of a workflow that is not written by us, with these flags.
pub(crate) fn in_workflow(flags: &str) -> String {
    let deploy = deploy_with(Tool::Github, flags);
    ["set -eu", INSTALL, CLEAN, &deploy].join("\n")
}

/// A step of a workflow that is not written by us, for the end of a pull request.
pub(crate) fn close_in_workflow() -> String {
    ["set -eu", INSTALL, CLEAN, CLOSE].join("\n")
}

fn deploy_with(tool: Tool, flags: &str) -> String {
    let deploy = format!(r#""$bin/updraft" deploy{flags}"#);
    match superseded(tool) {
        Some(say) => {
            format!(r#"{deploy} || {{ code=$?; [ "$code" -eq 12 ] || exit "$code"; {say}; }}"#)
        }
        None => deploy,
    }
}

fn begin(pipeline: &Pipeline) -> Vec<String> {
    let mut lines = vec!["set -eu".to_owned()];
    if pipeline.tool == Tool::Bitbucket {
        let variables = pipeline.variables();
        lines.extend(
            variables
                .iter()
                .map(|(name, value)| format!("export {name}='{value}'")),
        );
    }
    lines.push(INSTALL.to_owned());
    if keeps_machines(pipeline.tool) {
        lines.push(CLEAN.to_owned());
    }
    if pipeline.strategy == Strategy::CustomImage && builds_inside(pipeline.tool) {
        lines.push(BUILDAH.to_owned());
    }
    lines
}

/// How a deploy is told that a later one overtook it, which is no failure; none:
/// the file itself says what becomes of exit code 12.
const fn superseded(tool: Tool) -> Option<&'static str> {
    match tool {
        Tool::Gitlab | Tool::Jenkins => None,
        Tool::Github => Some(
            r#"echo "::notice title=superseded::A later deploy took the place of this one before it was proven""#,
        ),
        Tool::Azure => {
            Some(r###"echo "##vso[task.complete result=SucceededWithIssues;]superseded""###)
        }
        Tool::Circleci | Tool::Bitbucket | Tool::Codebuild | Tool::Drone => Some(
            r#"echo "superseded: a later deploy took the place of this one before it was proven""#,
        ),
    }
}

const fn keeps_machines(tool: Tool) -> bool {
    matches!(
        tool,
        Tool::Github | Tool::Gitlab | Tool::Jenkins | Tool::Azure
    )
}

/// Whether jobs run in a container without an engine beside it.
const fn builds_inside(tool: Tool) -> bool {
    matches!(tool, Tool::Gitlab | Tool::Drone)
}
