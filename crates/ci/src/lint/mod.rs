//! What is wrong with a pipeline that is there, and how it is said to us.
//!
//! [`lint`] reads one file. Most rules look at lines, since what they are about
//! (a shell command, a token) may stand in any tool's file; those that ask when
//! a job runs read the YAML, in `triggers`.

mod lines;
mod text;
mod triggers;

use std::fmt;

use serde::Serialize;

/// Something that is wrong.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    pub rule: Rule,
    pub level: Severity,
    /// Counted from one.
    pub line: usize,
    pub message: String,
    /// What Updraft has instead.
    pub instead: &'static str,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    Warning,
    Error,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Rule {
    /// The file cannot be read as its tool would.
    Unreadable,
    DeploysPullRequests,
    DiffsLastPush,
    TokenInText,
    ScriptInjection,
    UnpinnedAction,
    PipedInstaller,
    OpenPermissions,
    PastedId,
}

impl Rule {
    pub const fn name(self) -> &'static str {
        match self {
            Self::Unreadable => "unreadable",
            Self::DeploysPullRequests => "deploys-pull-requests",
            Self::DiffsLastPush => "diffs-last-push",
            Self::TokenInText => "token-in-text",
            Self::ScriptInjection => "script-injection",
            Self::UnpinnedAction => "unpinned-action",
            Self::PipedInstaller => "piped-installer",
            Self::OpenPermissions => "open-permissions",
            Self::PastedId => "pasted-id",
        }
    }

    const fn level(self) -> Severity {
        match self {
            Self::Unreadable
            | Self::DeploysPullRequests
            | Self::DiffsLastPush
            | Self::TokenInText
            | Self::ScriptInjection => Severity::Error,
            Self::UnpinnedAction
            | Self::PipedInstaller
            | Self::OpenPermissions
            | Self::PastedId => Severity::Warning,
        }
    }

    const fn instead(self) -> &'static str {
        match self {
            Self::Unreadable => "correct it; `updraft ci init` writes one",
            Self::DeploysPullRequests => {
                "check pull requests with `updraft dev check`, which needs no token, and deploy what is pushed"
            }
            Self::DiffsLastPush => {
                "`updraft deploy` compares content with what the Deployment runs, and needs no history"
            }
            Self::TokenInText => {
                "revoke it, and keep UPDRAFT_TOKEN as a secret of the tool, or none: `updraft ci init --oidc`"
            }
            Self::ScriptInjection => {
                "`updraft deploy` reads branch and commit for itself; other steps take them from a variable, in quotes"
            }
            Self::UnpinnedAction => {
                "name the commit, as in `uses: OWNER/NAME@40-HEX-DIGITS # v1.2.3`"
            }
            Self::PipedInstaller => {
                "fetch the binary from the control plane's /install and compare its checksum, as `updraft ci init` writes it"
            }
            Self::OpenPermissions => {
                "`permissions: {}` at the top, and `contents: read` for the job"
            }
            Self::PastedId => {
                "`[[target]]` in updraft.toml says by name which branch goes where, and `[preview]` what those of pull requests are made from"
            }
        }
    }
}

impl Finding {
    fn new(rule: Rule, line: usize, message: impl Into<String>) -> Self {
        Self {
            rule,
            level: rule.level(),
            line,
            message: message.into(),
            instead: rule.instead(),
        }
    }
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// What kind of file a path is; none: no pipeline that is known.
pub(crate) fn kind(path: &str) -> Option<Kind> {
    let name = path.rsplit('/').next().unwrap_or(path);
    let is_yaml = [".yml", ".yaml"]
        .iter()
        .any(|ending| name.ends_with(ending));
    if name.starts_with("Jenkinsfile") {
        Some(Kind::Jenkins)
    } else if !is_yaml {
        None
    } else if name.starts_with(".gitlab-ci") {
        Some(Kind::Gitlab)
    } else if path.contains(".circleci/") {
        Some(Kind::Circleci)
    } else if name.starts_with("bitbucket-pipelines") {
        Some(Kind::Bitbucket)
    } else if name.starts_with("azure-pipelines") {
        Some(Kind::Azure)
    } else if name.starts_with("buildspec") {
        Some(Kind::Codebuild)
    } else if name.starts_with(".drone") {
        Some(Kind::Drone)
    } else {
        Some(Kind::Github)
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Github,
    Gitlab,
    Circleci,
    Jenkins,
    Bitbucket,
    Azure,
    Codebuild,
    Drone,
}

/// Reads a pipeline's file; its path tells which tool's it is. None where it is
/// none that is known. Findings are in the order of lines.
pub fn lint(path: &str, text: &str) -> Option<Vec<Finding>> {
    let kind = kind(path)?;
    let mut findings = text::findings(kind, text);
    if kind != Kind::Jenkins {
        findings.extend(triggers::findings(kind, text));
    }
    findings.sort_by_key(|it| (it.line, it.rule));
    findings.dedup_by_key(|it| (it.line, it.rule));
    Some(findings)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rules(path: &str, text: &str) -> Vec<(usize, Rule)> {
        let findings = lint(path, text).unwrap();
        findings.into_iter().map(|it| (it.line, it.rule)).collect()
    }

    #[test]
    fn a_workflow_as_people_copy_it() {
        let text = "name: deploy
on:
  push:
    branches: [main]
  pull_request:
env:
  ASTRO_API_TOKEN: eyJhbGciOiJSUzI1NiIsInR5cCI6IkpXVCJ9.e30.abc
jobs:
  deploy:
    runs-on: ubuntu-latest
    steps:
      - uses: actions/checkout@v4
        with:
          fetch-depth: 0
      - run: |
          echo \"deploying ${{ github.head_ref }}\"
          files=$(git diff --name-only HEAD~1)
          curl -sSL install.astronomer.io | sudo bash -s
          astro deploy clabcdefghijklmnopqrstuvw
";
        assert_eq!(
            rules(".github/workflows/deploy.yml", text),
            [
                (1, Rule::OpenPermissions),
                (7, Rule::TokenInText),
                (12, Rule::UnpinnedAction),
                (16, Rule::ScriptInjection),
                (17, Rule::DiffsLastPush),
                (18, Rule::PipedInstaller),
                (19, Rule::DeploysPullRequests),
                (19, Rule::PastedId),
            ]
        );
        let findings = lint(".github/workflows/deploy.yml", text).unwrap();
        assert!(
            findings.iter().all(|it| !it.message.contains("eyJ")),
            "{findings:?}"
        );
    }

    #[test]
    fn the_deploy_action_tells_changes_by_the_last_push() {
        let workflow = |with: &str| {
            format!(
                "on: {{push: {{branches: [main]}}}}\npermissions: {{}}\njobs:\n  deploy:\n    steps:\n      \
                 - uses: astronomer/deploy-action@0123456789012345678901234567890123456789\n        with:\n          {with}\n"
            )
        };
        let path = ".github/workflows/a.yml";
        assert_eq!(
            rules(path, &workflow("deployment-name: prod")),
            [(6, Rule::DiffsLastPush)]
        );
        assert_eq!(rules(path, &workflow("deploy-type: image-and-dags")), []);
        assert_eq!(
            rules(path, &workflow("action: delete-deployment-preview")),
            []
        );
        assert_eq!(
            rules(path, &workflow("deployment-id: clabcdefghijklmnopqrstuvw")),
            [(6, Rule::DiffsLastPush), (8, Rule::PastedId)]
        );
    }

    #[test]
    fn a_preview_is_no_deploy_of_a_pull_request() {
        let workflow = |run: &str| {
            format!(
                "on: pull_request\npermissions: {{}}\njobs:\n  a:\n    steps:\n      - run: |\n          updraft deploy --plan\n          {run}\n"
            )
        };
        let path = ".github/workflows/a.yml";
        assert_eq!(
            rules(path, &workflow("updraft deploy --preview -o json")),
            []
        );
        assert_eq!(
            rules(path, &workflow("updraft deploy \\\n            --preview")),
            []
        );
        let found = rules(path, &workflow("updraft deploy"));
        assert_eq!(found, [(8, Rule::DeploysPullRequests)]);
    }

    #[test]
    fn each_tools_way_to_deploy_a_pull_request_is_known() {
        let found = |path: &str, text: &str| {
            let rules = rules(path, text);
            rules
                .iter()
                .any(|(_, rule)| *rule == Rule::DeploysPullRequests)
        };
        let bitbucket = |key: &str| {
            format!(
                "pipelines:\n  {key}:\n    '**':\n      - step:\n          script: [astro deploy x]\n"
            )
        };
        assert!(found(
            "bitbucket-pipelines.yml",
            &bitbucket("pull-requests")
        ));
        assert!(!found("bitbucket-pipelines.yml", &bitbucket("branches")));
        let drone = |trigger: &str| {
            format!(
                "kind: pipeline\n{trigger}steps:\n  - name: a\n    commands: [updraft deploy]\n"
            )
        };
        assert!(found(".drone.yml", &drone("")));
        assert!(found(
            ".drone.yml",
            &drone("trigger: {event: [push, pull_request]}\n")
        ));
        assert!(!found(".drone.yml", &drone("trigger: {event: [push]}\n")));
        let gitlab = |rule: &str| {
            format!("deploy:\n  rules:\n    - if: {rule}\n  script: [updraft deploy]\n")
        };
        assert!(found(
            ".gitlab-ci.yml",
            &gitlab("$CI_PIPELINE_SOURCE == 'merge_request_event'")
        ));
        assert!(!found(".gitlab-ci.yml", &gitlab("$CI_COMMIT_BRANCH")));
        let circleci = |job: &str| {
            format!(
                "jobs:\n  deploy:\n    steps:\n      - run: updraft deploy\nworkflows:\n  all:\n    jobs:\n      {job}\n"
            )
        };
        assert!(found(".circleci/config.yml", &circleci("- deploy")));
        let filtered = "- deploy: {filters: {branches: {only: main}}}";
        assert!(!found(".circleci/config.yml", &circleci(filtered)));
        let github = |job: &str, run: &str| {
            format!(
                "on: [push, pull_request]\npermissions: {{}}\njobs:\n  a:\n    {job}\n    steps:\n      - run: {run}\n"
            )
        };
        let path = ".github/workflows/a.yaml";
        assert!(found(path, &github("runs-on: x", "updraft deploy")));
        assert!(!found(path, &github("runs-on: x", "updraft deploy --plan")));
        assert!(!found(
            path,
            &github("if: github.event_name == 'push'", "updraft deploy")
        ));
        let target =
            "on: pull_request_target\npermissions: {}\njobs: {a: {steps: [{uses: ./x}]}}\n";
        assert!(found(path, target));
    }

    #[test]
    fn what_somebody_else_writes_is_no_part_of_a_script() {
        let found = |path: &str, text: &str| {
            let rules = rules(path, text);
            rules.iter().any(|(_, rule)| *rule == Rule::ScriptInjection)
        };
        let azure = "steps:\n  - bash: |\n      echo $(Build.SourceVersionMessage)\n";
        assert!(found("azure-pipelines.yml", azure));
        let drone = "steps:\n  - commands:\n      - echo ${DRONE_COMMIT_MESSAGE}\n";
        assert!(found(".drone.yml", drone));
        assert!(found("Jenkinsfile", "sh \"echo ${env.BRANCH_NAME}\"\n"));
        assert!(!found("Jenkinsfile", "sh 'echo \"$BRANCH_NAME\"'\n"));
        let circleci = "jobs:\n  a:\n    steps:\n      - run:\n          command: echo << pipeline.git.branch >>\n";
        assert!(found(".circleci/config.yml", circleci));
        let as_variable = "on: push\npermissions: {}\njobs:\n  a:\n    steps:\n      - run: echo \"$REF\"\n        env:\n          REF: ${{ github.head_ref }}\n";
        assert!(!found(".github/workflows/a.yml", as_variable));
    }

    #[test]
    fn a_file_that_is_no_yaml_or_no_pipeline() {
        assert_eq!(
            rules(".gitlab-ci.yml", "a: [1\nb: 2\n")[0].1,
            Rule::Unreadable
        );
        assert_eq!(lint("README.md", "updraft deploy"), None);
    }
}
