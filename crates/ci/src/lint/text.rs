//! What a line tells by itself.

use std::sync::LazyLock;

use regex::Regex;

use super::lines::{Line, lines};
use super::{Finding, Kind, Rule};

fn regex(pattern: &str) -> Regex {
    Regex::new(pattern).expect("it is tested")
}

macro_rules! patterns {
    ($($name:ident = $pattern:literal;)*) => {
        $(static $name: LazyLock<Regex> = LazyLock::new(|| regex($pattern));)*
    };
}

patterns! {
    USES = r#"^(?:- )?uses:\s*["']?([^\s"'@]+)@([^\s"'#]+)"#;
    COMMIT = r"^[0-9a-f]{40}$|^sha256:";
    PIPED = r"\b(?:curl|wget)\b[^|]*\|\s*(?:sudo\s+)?(?:-\S+\s+)*(?:ba|z|da)?sh\b";
    DIFF = r"\bgit\s+(?:-\S+\s+)*(?:diff|diff-tree|show|log)\b.*(?:--name-only|--name-status|HEAD[~^]|\.before|BEFORE_SHA|PREVIOUS)";
    SECRET_NAME = r#"(?i)\b[a-z0-9_]*(?:token|secret|password|api_key|key_secret)["']?\s*[:=]\s*["']?([A-Za-z0-9+/._=-]{20,})["']?\s*$"#;
    SECRET = r"\beyJ[A-Za-z0-9_-]{10,}\.[A-Za-z0-9_-]+\.|\bghp_[A-Za-z0-9]{30,}|\bglpat-[A-Za-z0-9_-]{15,}|\bAKIA[A-Z0-9]{16}\b";
    ID = r#"(?i)(?:deployment[-_]id["']?\s*[:=]\s*["']?|\bdeploy\s+)c[a-z0-9]{24}\b"#;
    EXPRESSION = r"\$\{\{(.*?)\}\}";
    AZURE = r"(?i)\$\((?:Build\.(?:SourceBranch|SourceBranchName|SourceVersionMessage|SourceVersionAuthor|RequestedFor\w*)|System\.PullRequest\.SourceBranch\w*)\)";
    DRONE = r"\$\{DRONE_\w*(?:BRANCH|MESSAGE|AUTHOR|TITLE|TAG|REF)\w*[^}]*\}";
    CIRCLECI = r"<<\s*pipeline\.(?:git\.(?:branch|tag)|parameters\.)";
    JENKINS = r#"\b(?:sh|bat)\b[^'"]*".*\$\{?(?:env\.|params\.)?(?:BRANCH_NAME|GIT_BRANCH|TAG_NAME|CHANGE_\w+|params\.)"#;
}

/// Contexts of GitHub that somebody else fills with text.
const CHOSEN: [&str; 7] = [
    "github.head_ref",
    "github.ref_name",
    "github.base_ref",
    "github.event.",
    "github.actor",
    "inputs.",
    "github.ref ",
];

/// Parts of events that are numbers and hashes.
const HARMLESS: [&str; 6] = [
    "github.event.number",
    "github.event.pull_request.number",
    "github.event.before",
    "github.event.after",
    "github.event.pull_request.head.sha",
    "github.event.pull_request.merged",
];

pub(super) fn findings(kind: Kind, text: &str) -> Vec<Finding> {
    let lines = lines(kind, text);
    lines
        .iter()
        .enumerate()
        .flat_map(|(at, line)| of_line(kind, line, &lines[at + 1..]))
        .collect()
}

fn of_line(kind: Kind, line: &Line<'_>, after: &[Line<'_>]) -> Vec<Finding> {
    let mut found = Vec::new();
    let mut add = |rule, message: String| found.push(Finding::new(rule, line.number, message));
    if let Some(uses) = USES.captures(line.text).filter(|_| !line.is_script) {
        let (action, reference) = (&uses[1], &uses[2]);
        if !COMMIT.is_match(reference) {
            add(
                Rule::UnpinnedAction,
                format!("`{action}@{reference}` is whatever that name means by then"),
            );
        }
        if action == "astronomer/deploy-action" && infers(after) {
            add(
                Rule::DiffsLastPush,
                "the action deploys what the last push changed, so a push after one that failed or was skipped loses changes".into(),
            );
        }
    }
    if PIPED.is_match(line.text) {
        add(
            Rule::PipedInstaller,
            "whatever that address answers is run, and nothing compares it".into(),
        );
    }
    if DIFF.is_match(line.text) {
        add(
            Rule::DiffsLastPush,
            "what to deploy is told from git's history: a push after one that failed loses changes, and a force push breaks it".into(),
        );
    }
    if is_secret(line.text) {
        // Not repeated here, where it would be in a log as well.
        add(
            Rule::TokenInText,
            "a token stands in the file, for everybody who reads it".into(),
        );
    }
    if ID.is_match(line.text) {
        add(
            Rule::PastedId,
            "a Deployment's id is pasted, which tells nobody where this goes".into(),
        );
    }
    if line.is_script && is_injected(kind, line.text) {
        add(
            Rule::ScriptInjection,
            "text that somebody else chooses becomes part of the script, and is run".into(),
        );
    }
    found
}

/// Whether a step of the deploy action leaves it to the action what is deployed.
fn infers(after: &[Line<'_>]) -> bool {
    let own = after.iter().take_while(|line| !line.text.starts_with("- "));
    let input = |name: &str| {
        let mut values = own.clone().filter_map(|line| line.text.strip_prefix(name));
        let value = values.next()?.strip_prefix(':')?;
        Some(value.trim().trim_matches(['"', '\'']))
    };
    let deploys = input("action").is_none_or(|it| it.starts_with("deploy"));
    deploys && input("deploy-type").is_none_or(|it| it == "infer")
}

fn is_secret(text: &str) -> bool {
    if SECRET.is_match(text) {
        return true;
    }
    let Some(value) = SECRET_NAME.captures(text).map(|found| found[1].to_owned()) else {
        return false;
    };
    // Words are the name of one, not a secret.
    value.bytes().any(|it| it.is_ascii_digit())
        && !value.contains("secrets.")
        && !value.starts_with('/')
}

fn is_injected(kind: Kind, text: &str) -> bool {
    match kind {
        Kind::Github => EXPRESSION.captures_iter(text).any(|found| {
            let inside = format!("{} ", found[1].trim());
            let is_chosen = CHOSEN.iter().any(|it| inside.contains(it));
            is_chosen && !HARMLESS.iter().any(|it| inside.trim() == *it)
        }),
        Kind::Azure => AZURE.is_match(text),
        Kind::Drone => DRONE.is_match(text),
        Kind::Circleci => CIRCLECI.is_match(text),
        Kind::Jenkins => JENKINS.is_match(text),
        // Their variables are the shell's own.
        Kind::Gitlab | Kind::Bitbucket | Kind::Codebuild => false,
    }
}
