//! When jobs run: whether what deploys does so for pull requests.

use std::sync::LazyLock;

use regex::Regex;
use serde_json::Value;

use super::{Finding, Kind, Rule};

static DEPLOY: LazyLock<Regex> = LazyLock::new(|| {
    Regex::new(r#"\b(?:astro|updraft)"?\s+(?:dbt\s+)?deploy\b"#).expect("it is tested")
});

pub(super) fn findings(kind: Kind, text: &str) -> Vec<Finding> {
    let mut found = Vec::new();
    for document in documents(text) {
        match serde_saphyr::from_str::<Value>(document.text) {
            Ok(file) => found.extend(of_file(kind, &file, &document)),
            Err(error) => {
                let line = error
                    .location()
                    .map_or(1, |it| usize::try_from(it.line()).unwrap_or(1));
                let message = "it is no YAML that can be read";
                found.push(Finding::new(
                    Rule::Unreadable,
                    document.first + line - 1,
                    message,
                ));
            }
        }
    }
    found
}

/// A part of a file that stands for itself.
struct Document<'a> {
    text: &'a str,
    /// Its first line's number.
    first: usize,
}

fn documents(text: &str) -> Vec<Document<'_>> {
    let mut all = Vec::new();
    let mut first = 1;
    let mut from = 0;
    let mut end = 0;
    for (number, line) in text.split_inclusive('\n').enumerate() {
        if line.trim_end() == "---" && number > 0 {
            let part = &text[from..end];
            all.push(Document { text: part, first });
            (from, first) = (end + line.len(), number + 2);
        }
        end += line.len();
    }
    let part = &text[from..];
    all.push(Document { text: part, first });
    all
}

impl Document<'_> {
    /// The first line that deploys, after the one with a key.
    fn deploys_at(&self, key: &str) -> usize {
        let lines = self.text.lines().enumerate();
        let below =
            lines.skip_while(|(_, line)| !line.trim_start_matches([' ', '-']).starts_with(key));
        let mut found = below
            .filter(|(_, line)| deploys_text(line))
            .map(|(at, _)| at);
        self.first + found.next().unwrap_or(0)
    }

    fn line_of(&self, key: &str) -> usize {
        let mut lines = self.text.lines();
        self.first + lines.position(|line| line.contains(key)).unwrap_or(0)
    }
}

fn of_file(kind: Kind, file: &Value, document: &Document<'_>) -> Vec<Finding> {
    match kind {
        Kind::Github => github(file, document),
        Kind::Gitlab => gitlab(file, document),
        Kind::Circleci => circleci(file, document),
        Kind::Bitbucket => bitbucket(file, document),
        Kind::Drone => drone(file, document),
        // Branch policies and webhooks say it, which no file has.
        Kind::Azure | Kind::Codebuild | Kind::Jenkins => Vec::new(),
    }
}

fn deploys(line: usize) -> Finding {
    Finding::new(
        Rule::DeploysPullRequests,
        line,
        "what nobody has merged is deployed, with the token of those that are",
    )
}

/// Whether a command deploys, and does not only plan or go to a Preview.
fn deploys_text(text: &str) -> bool {
    let commands = text.replace("\\\n", " ");
    let is_other = |line: &str| line.contains("--plan") || line.contains("--preview");
    let deploys = |line: &str| DEPLOY.is_match(line) && !is_other(line);
    commands.lines().any(deploys) || text.contains("astronomer/deploy-action@")
}

/// Whether any text in a value does.
fn deploys_in(value: &Value) -> bool {
    match value {
        Value::String(text) => deploys_text(text),
        Value::Array(items) => items.iter().any(deploys_in),
        Value::Object(map) => map.values().any(deploys_in),
        _ => false,
    }
}

fn has_text(value: &Value, wanted: &str) -> bool {
    match value {
        Value::String(text) => text.contains(wanted),
        Value::Array(items) => items.iter().any(|it| has_text(it, wanted)),
        Value::Object(map) => map
            .iter()
            .any(|(key, it)| key.contains(wanted) || has_text(it, wanted)),
        _ => false,
    }
}

fn github(file: &Value, document: &Document<'_>) -> Vec<Finding> {
    let Some(jobs) = file["jobs"].as_object() else {
        return Vec::new();
    };
    let mut found = Vec::new();
    let has_own = |job: &Value| job.get("permissions").is_some();
    if file.get("permissions").is_none() && !jobs.values().all(has_own) {
        let message = "jobs get whatever the repository allows by default";
        found.push(Finding::new(Rule::OpenPermissions, document.first, message));
    }
    let on = &file["on"];
    if has_text(on, "pull_request_target") {
        let message = "`pull_request_target` runs with secrets for what a fork sends";
        found.push(Finding {
            message: message.to_owned(),
            ..deploys(document.line_of("pull_request_target"))
        });
        return found;
    }
    if !has_text(on, "pull_request") {
        return found;
    }
    // A condition is taken for one that knows what it does.
    let is_guarded = |it: &Value| {
        let condition = it["if"].as_str().unwrap_or_default();
        ["event_name", "merged", "ref"]
            .iter()
            .any(|word| condition.contains(word))
    };
    for (name, job) in jobs.iter().filter(|(_, job)| !is_guarded(job)) {
        let steps = job["steps"].as_array().into_iter().flatten();
        let mut bad =
            steps.filter(|step| deploys_in(step) && !is_guarded(step) && !is_preview(step));
        if bad.next().is_some() {
            found.push(deploys(document.deploys_at(name)));
        }
    }
    found
}

/// A preview is for pull requests.
fn is_preview(step: &Value) -> bool {
    let action = step["with"]["action"].as_str();
    action.is_some_and(|it| it.ends_with("-deployment-preview"))
}

fn gitlab(file: &Value, document: &Document<'_>) -> Vec<Finding> {
    let jobs = file.as_object().into_iter().flatten();
    // Who tells forks apart means a Preview.
    let is_preview = |job: &Value| has_text(&job["rules"], "CI_MERGE_REQUEST_SOURCE_PROJECT_ID");
    let is_bad = |job: &Value| {
        deploys_in(&job["script"])
            && !is_preview(job)
            && (has_text(&job["rules"], "merge_request")
                || has_text(&job["only"], "merge_requests"))
    };
    let bad = jobs.filter(|(_, job)| is_bad(job));
    bad.map(|(name, _)| deploys(document.deploys_at(name)))
        .collect()
}

/// It runs on every branch of every pull request that no filter leaves out.
fn circleci(file: &Value, document: &Document<'_>) -> Vec<Finding> {
    let deploying = |name: &str| deploys_in(&file["jobs"][name]);
    let workflows = file["workflows"].as_object().into_iter().flatten();
    let jobs = workflows.flat_map(|(_, flow)| flow["jobs"].as_array().into_iter().flatten());
    let mut found = Vec::new();
    for job in jobs {
        let (name, settings) = match job {
            Value::String(name) => (name.as_str(), &Value::Null),
            Value::Object(map) => match map.iter().next() {
                Some((name, settings)) => (name.as_str(), settings),
                None => continue,
            },
            _ => continue,
        };
        let is_filtered = settings["filters"]["branches"].is_object();
        if deploying(name) && !is_filtered {
            found.push(deploys(document.deploys_at(name)));
        }
    }
    found
}

fn bitbucket(file: &Value, document: &Document<'_>) -> Vec<Finding> {
    let is_bad = deploys_in(&file["pipelines"]["pull-requests"]);
    is_bad
        .then(|| deploys(document.deploys_at("pull-requests")))
        .into_iter()
        .collect()
}

/// Without a trigger it runs on everything.
fn drone(file: &Value, document: &Document<'_>) -> Vec<Finding> {
    let event = file["trigger"].get("event");
    let is_for_requests = event.is_none_or(|event| has_text(event, "pull_request"));
    (is_for_requests && deploys_in(&file["steps"]))
        .then(|| deploys(document.deploys_at("steps")))
        .into_iter()
        .collect()
}
