//! A workflow with Astronomer's deploy action, with our step in its place.
//!
//! Everything else of the file stays as it is, comments too: lines are
//! replaced, and what the new ones say comes from the YAML.

use serde_json::Value;

use crate::pipeline::{Plain, script};

const ACTION: &str = "astronomer/deploy-action@";
const CHECKOUT: &str = "actions/checkout@de0fac2e4500dabe0009e67214ff5f5447ce83dd # v6.0.2";

/// What the new steps are for.
#[derive(Debug, Clone)]
pub struct Target {
    pub server: Plain,
    pub checksum: Plain,
}

/// A workflow, rewritten.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Migrated {
    pub text: String,
    /// What could not be taken over, or has to be done beside it.
    pub notes: Vec<String>,
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum MigrateError {
    #[error("it is no YAML that can be read")]
    Unreadable,
    #[error("no step uses astronomer/deploy-action")]
    NothingToDo,
    #[error("line {line}: nothing is known of the action's `{action}`")]
    Action { line: usize, action: String },
    #[error("line {line}: the step is not written as one item of a list, a key a line")]
    Layout { line: usize },
}

const TOKEN: &str = "UPDRAFT_TOKEN";
const PREVIEW_TOKEN: &str = "UPDRAFT_PREVIEW_TOKEN";

/// Rewrites every step that uses the action.
pub fn migrate(text: &str, target: &Target) -> Result<Migrated, MigrateError> {
    let _: Value = serde_saphyr::from_str(text).map_err(|_| MigrateError::Unreadable)?;
    let lines: Vec<&str> = text.lines().collect();
    let mut notes = Vec::new();
    let mut out: Vec<String> = Vec::new();
    let (mut at, mut replaced) = (0, 0);
    while at < lines.len() {
        let Some(end) = step_at(&lines, at)? else {
            out.push(lines[at].to_owned());
            at += 1;
            continue;
        };
        let block = &lines[at..end];
        let indent = indent(block[0]);
        let step = serde_saphyr::from_str::<Vec<Value>>(&block.join("\n"));
        let step = step.ok().and_then(|mut steps| steps.pop());
        let step = step.ok_or(MigrateError::Layout { line: at + 1 })?;
        let new = rewrite(&step, at + 1, target, &mut notes)?;
        out.extend(
            new.lines()
                .map(|line| format!("{}{line}", " ".repeat(indent))),
        );
        let blank = block.iter().rev().take_while(|line| line.trim().is_empty());
        out.extend(blank.map(|_| String::new()));
        (at, replaced) = (end, replaced + 1);
    }
    if replaced == 0 {
        return Err(MigrateError::NothingToDo);
    }
    let text = without_astro_tokens(out).join("\n") + "\n";
    for (secret, role) in [(TOKEN, "deployer"), (PREVIEW_TOKEN, "previewer")] {
        if text.contains(secret) {
            notes.push(format!(
                "keep a token with the role {role} as the repository's secret `{secret}`"
            ));
        }
    }
    notes.dedup();
    Ok(Migrated { text, notes })
}

fn indent(line: &str) -> usize {
    line.len() - line.trim_start().len()
}

/// Where the step ends that begins here, if it uses the action.
fn step_at(lines: &[&str], at: usize) -> Result<Option<usize>, MigrateError> {
    let is_comment = |line: &&str| line.trim_start().starts_with('#');
    if !lines[at].trim_start().starts_with("- ") {
        let is_lost = lines[at].contains(ACTION) && !is_comment(&lines[at]);
        return if is_lost {
            Err(MigrateError::Layout { line: at + 1 })
        } else {
            Ok(None)
        };
    }
    let begin = indent(lines[at]);
    let is_inside = |line: &&str| line.trim().is_empty() || indent(line) > begin;
    let length = lines[at + 1..]
        .iter()
        .take_while(|line| is_inside(line))
        .count();
    let end = at + 1 + length;
    let uses = |line: &&str| {
        let key = line.trim_start().trim_start_matches("- ");
        let value = key.strip_prefix("uses:").unwrap_or_default();
        value.trim().trim_matches(['"', '\'']).starts_with(ACTION)
    };
    Ok(lines[at..end].iter().any(uses).then_some(end))
}

/// The keys of a step, and the action's inputs, that are taken over or told of by themselves.
const STEP: [&str; 8] = [
    "continue-on-error",
    "env",
    "id",
    "if",
    "name",
    "timeout-minutes",
    "uses",
    "with",
];
const INPUTS: [&str; 11] = [
    "action",
    "checkout",
    "deploy-type",
    "deployment-id",
    "deployment-name",
    "description",
    "image-name",
    "parse",
    "pytest",
    "root-folder",
    "wait-time",
];

fn rewrite(
    step: &Value,
    line: usize,
    target: &Target,
    notes: &mut Vec<String>,
) -> Result<String, MigrateError> {
    let with = &step["with"];
    let input = |name: &str| text_of(&with[name]);
    let does = Does::of(&input("action"), line)?;
    notes.extend(does.note(line));
    let mut variables = vec![
        ("UPDRAFT_SERVER", target.server.to_string()),
        ("UPDRAFT_SHA256", target.checksum.to_string()),
        (
            "UPDRAFT_TOKEN",
            format!("${{{{ secrets.{} }}}}", does.token()),
        ),
    ];
    let own = step["env"].as_object().into_iter().flatten();
    let own = own.filter(|(name, _)| !is_astros(name));
    variables.extend(own.map(|(name, value)| (name.as_str(), text_of(value))));
    let mut flags = String::new();
    let mut pass = |name: &'static str, value: String, flag: &str| {
        if !value.is_empty() {
            variables.push((name, value));
            flags.push_str(flag);
        }
    };
    // A Preview is found by its pull request.
    let named = Some(input("deployment-name")).filter(|_| does == Does::Deploy);
    pass("UPDRAFT_DEPLOYMENT", named.unwrap_or_default(), "");
    pass("UPDRAFT_PROJECT", input("root-folder"), "");
    pass(
        "DESCRIPTION",
        input("description"),
        r#" --description "$DESCRIPTION""#,
    );
    pass(
        "WAIT_TIME",
        input("wait-time"),
        r#" --timeout "$WAIT_TIME""#,
    );
    let image = Some(input("image-name")).filter(|it| it != "no-custom-image");
    pass(
        "IMAGE_NAME",
        image.unwrap_or_default(),
        r#" --image-name "$IMAGE_NAME""#,
    );
    match input("deploy-type").as_str() {
        "" | "infer" | "image-and-dags" => {}
        "dags-only" => flags.push_str(" --dags"),
        "image-only" => flags.push_str(" --image"),
        other => notes.push(format!(
            "line {line}: `deploy-type: {other}` is left out; whatever differs is deployed"
        )),
    }
    if input("pytest") == "true" {
        flags.push_str(" --pytest");
    }
    match input("parse").as_str() {
        "true" => flags.push_str(" --parse"),
        "false" => flags.push_str(" --no-parse"),
        _ => {}
    }
    if !input("deployment-id").is_empty() {
        notes.push(format!(
            "line {line}: an id means nothing here: `[[target]]` in updraft.toml, or UPDRAFT_DEPLOYMENT, names the Deployment"
        ));
    }
    notes.extend(left_out(step, line));

    let mut lines = Vec::new();
    if input("checkout") != "false" {
        lines.push(format!("- uses: {CHECKOUT}"));
        lines.push("  with:".to_owned());
        lines.push("    persist-credentials: false".to_owned());
    }
    let name = step["name"].as_str().unwrap_or(does.name());
    lines.push(format!("- name: {}", quoted(name)));
    for key in ["id", "if"] {
        let value = text_of(&step[key]);
        if !value.is_empty() {
            lines.push(format!("  {key}: {}", quoted(&value)));
        }
    }
    for key in ["continue-on-error", "timeout-minutes"] {
        // Numbers and truth are such to GitHub only without quotes.
        match &step[key] {
            Value::Null => {}
            Value::String(text) => lines.push(format!("  {key}: {}", quoted(text))),
            other => lines.push(format!("  {key}: {other}")),
        }
    }
    lines.push("  env:".to_owned());
    for (name, value) in variables {
        lines.push(format!("    {name}: {}", quoted(&value)));
    }
    lines.push("  run: |".to_owned());
    let script = match does {
        Does::Deploy => script::in_workflow(&flags),
        Does::Preview => script::in_workflow(&format!(" --preview{flags}")),
        Does::Close => script::close_in_workflow(),
    };
    lines.extend(script.lines().map(|line| format!("    {line}")));
    Ok(lines.join("\n"))
}

/// What a step of the action is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Does {
    Deploy,
    /// Makes the Preview of a pull request, or deploys to it: here that is one.
    Preview,
    Close,
}

impl Does {
    fn of(action: &str, line: usize) -> Result<Self, MigrateError> {
        match action {
            "" | "deploy" => Ok(Self::Deploy),
            "create-deployment-preview" | "deploy-deployment-preview" => Ok(Self::Preview),
            "delete-deployment-preview" => Ok(Self::Close),
            action => Err(MigrateError::Action {
                line,
                action: action.to_owned(),
            }),
        }
    }

    const fn token(self) -> &'static str {
        match self {
            Self::Deploy => TOKEN,
            Self::Preview | Self::Close => PREVIEW_TOKEN,
        }
    }

    const fn name(self) -> &'static str {
        match self {
            Self::Deploy | Self::Preview => "Deploy",
            Self::Close => "Close the Preview",
        }
    }

    /// What the workflow around the step has to be like.
    fn note(self, line: usize) -> Option<String> {
        let note = match self {
            Self::Deploy => return None,
            Self::Preview => {
                "a Preview is of a pull request: run this `on: pull_request`, not when a branch is made, and name the Deployment in `[preview]` of updraft.toml"
            }
            Self::Close => {
                "a Preview is of a pull request: run this `on: pull_request: types: [closed]`, not when a branch is deleted"
            }
        };
        Some(format!("line {line}: {note}"))
    }
}

/// What nothing here stands for.
fn left_out(step: &Value, line: usize) -> Vec<String> {
    let keys = |value: &Value| -> Vec<String> {
        let keys = value.as_object().into_iter().flatten();
        keys.map(|(name, _)| name.clone()).collect()
    };
    let others = [
        (keys(step), STEP.as_slice()),
        (keys(&step["with"]), INPUTS.as_slice()),
    ];
    let unknown = others.into_iter().flat_map(|(keys, known)| {
        keys.into_iter()
            .filter(|name| !known.contains(&name.as_str()))
    });
    unknown
        .map(|name| format!("line {line}: `{name}` is left out"))
        .collect()
}

fn text_of(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Null => String::new(),
        other => other.to_string(),
    }
}

/// Whether only the Astro CLI reads a variable.
fn is_astros(name: &str) -> bool {
    [
        "ASTRO_API_TOKEN",
        "ASTRONOMER_KEY_ID",
        "ASTRONOMER_KEY_SECRET",
    ]
    .contains(&name)
}

/// JSON's strings are YAML's.
fn quoted(text: &str) -> String {
    Value::from(text).to_string()
}

/// Without what only the Astro CLI reads, and `env:` that had nothing else.
fn without_astro_tokens(lines: Vec<String>) -> Vec<String> {
    let is_token = |line: &String| {
        let key = line.trim_start().split_once(':');
        key.is_some_and(|(name, _)| is_astros(name))
    };
    let had = lines.iter().any(is_token);
    let lines: Vec<String> = lines.into_iter().filter(|line| !is_token(line)).collect();
    if !had {
        return lines;
    }
    let is_empty_env = |at: usize, line: &String| {
        let next = lines[at + 1..].iter().find(|next| !next.trim().is_empty());
        line.trim() == "env:" && next.is_none_or(|next| indent(next) <= indent(line))
    };
    let kept = lines
        .iter()
        .enumerate()
        .filter(|(at, line)| !is_empty_env(*at, line));
    kept.map(|(_, line)| line.clone()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lint::lint;

    fn target() -> Target {
        Target {
            server: Plain::new("address", "https://updraft.example.com").unwrap(),
            checksum: Plain::new("checksum", &"0".repeat(64)).unwrap(),
        }
    }

    const WORKFLOW: &str = "# ours
name: deploy
on:
  push:
    branches: [main]
permissions: {}
env:
  ASTRO_API_TOKEN: ${{ secrets.ASTRO_API_TOKEN }}
jobs:
  deploy:
    runs-on: ubuntu-24.04
    steps:
      - name: To \"prod\"
        uses: astronomer/deploy-action@v0.12.0
        with:
          deployment-id: clabcdefghijklmnopqrstuvw
          description: ${{ github.event.head_commit.message }}
          pytest: true
          workspace: cl1

      # the end
      - run: echo done
";

    #[test]
    fn the_step_is_replaced_and_the_rest_stays() {
        let migrated = migrate(WORKFLOW, &target()).unwrap();
        let text = &migrated.text;
        assert!(text.starts_with("# ours\nname: deploy\n"), "{text}");
        assert!(
            text.ends_with("\n      # the end\n      - run: echo done\n"),
            "{text}"
        );
        assert!(!text.contains("ASTRO"), "{text}");
        assert!(!text.contains("\nenv:"), "{text}");
        let file: Value = serde_saphyr::from_str(text).unwrap();
        let step = &file["jobs"]["deploy"]["steps"][1];
        assert_eq!(step["name"], "To \"prod\"");
        assert_eq!(
            step["env"]["DESCRIPTION"],
            "${{ github.event.head_commit.message }}"
        );
        let run = step["run"].as_str().unwrap();
        let deploy = r#""$bin/updraft" deploy --description "$DESCRIPTION" --pytest || "#;
        assert!(run.contains(deploy), "{run}");
        assert!(
            migrated.notes.iter().any(|it| it.contains("`[[target]]`")),
            "{:?}",
            migrated.notes
        );
        assert!(
            migrated.notes.iter().any(|it| it.contains("`workspace`")),
            "{:?}",
            migrated.notes
        );
        assert_eq!(lint(".github/workflows/a.yml", text).unwrap(), []);
        // A second time there is nothing left.
        assert_eq!(migrate(text, &target()), Err(MigrateError::NothingToDo));
    }

    #[test]
    fn previews_are_those_of_pull_requests() {
        let action = |action: &str| {
            let workflow = WORKFLOW.replace("pytest: true", &format!("action: {action}"));
            migrate(&workflow, &target()).unwrap()
        };
        for name in ["create-deployment-preview", "deploy-deployment-preview"] {
            let migrated = action(name);
            assert!(
                migrated.text.contains("/updraft\" deploy --preview"),
                "{}",
                migrated.text
            );
            let notes = migrated.notes.join("\n");
            assert!(notes.contains("`[preview]` of updraft.toml"), "{notes}");
            assert!(notes.contains("secret `UPDRAFT_PREVIEW_TOKEN`"), "{notes}");
            let secret = "UPDRAFT_TOKEN: \"${{ secrets.UPDRAFT_PREVIEW_TOKEN }}\"";
            assert!(migrated.text.contains(secret), "{}", migrated.text);
        }
        let closed = action("delete-deployment-preview");
        assert!(
            closed.text.contains("/updraft\" preview close"),
            "{}",
            closed.text
        );
        assert!(
            !closed.text.contains("/updraft\" deploy"),
            "{}",
            closed.text
        );
        let notes = closed.notes.join("\n");
        assert!(notes.contains("types: [closed]"), "{notes}");
    }

    #[test]
    fn what_cannot_be_taken_over_is_refused() {
        let other = WORKFLOW.replace("pytest: true", "action: wake-up");
        let error = migrate(&other, &target()).unwrap_err();
        let action = "wake-up".to_owned();
        assert_eq!(error, MigrateError::Action { line: 13, action });
        let flow = "jobs: {a: {steps: [{uses: astronomer/deploy-action@v1}]}}\n";
        let error = migrate(flow, &target()).unwrap_err();
        assert_eq!(error, MigrateError::Layout { line: 1 });
        assert_eq!(migrate("a: [", &target()), Err(MigrateError::Unreadable));
    }
}
