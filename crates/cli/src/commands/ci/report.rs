//! `updraft ci report`: what a deploy came to, for the steps after it and for
//! whoever looks at the run.

use std::fmt::Write as _;
use std::fs::File;
use std::io::Write as _;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use uuid::Uuid;

use crate::commands::deploy::comment::code;
use crate::context::{Context, address};
use crate::exit::Exit;
use crate::failure::{Failure, Result};

/// Names that are listed before the rest is only counted.
const MOST_NAMES: usize = 20;

/// More than this is no output of a step, and only counted.
const MOST_OUTPUT: usize = 4000;

/// Hand what `deploy -o json` printed to the steps that follow
///
/// Writes outputs to the file that GITHUB_OUTPUT names, or that --dotenv does, and a page to that of
/// GITHUB_STEP_SUMMARY. Our GitHub Action and GitLab component call it.
#[derive(Debug, clap::Args)]
pub(crate) struct ReportArgs {
    /// The file with what was printed
    file: PathBuf,

    /// Write the outputs to this file, as NAME=VALUE
    #[arg(long, value_name = "FILE")]
    dotenv: Option<PathBuf>,
}

pub(crate) fn run(args: &ReportArgs, cx: &Context) -> Result<Exit> {
    let text = std::fs::read_to_string(&args.file);
    let text = text.map_err(|error| Failure::file("read", &args.file, &error))?;
    // A command line that was refused prints nothing.
    let told: Value = match text.trim() {
        "" => json!({}),
        text => serde_json::from_str(text).map_err(|error| {
            let message = format!("`{}` is not what `-o json` prints", args.file.display());
            Failure::new(Exit::Refused, message).cause(&error)
        })?,
    };
    let server = cx.anonymous(None).ok().map(|client| address(&client));
    let outputs = outputs(&told, server.as_deref());
    if let Some(path) = named("GITHUB_OUTPUT") {
        let lines = outputs.iter().map(|(name, value)| {
            // The mark that ends a value is nothing that it can contain.
            let end = format!("end-{}", Uuid::now_v7());
            format!("{name}<<{end}\n{value}\n{end}\n")
        });
        append(&path, &lines.collect::<String>())?;
    }
    if let Some(path) = &args.dotenv {
        let lines = outputs.iter().map(|(name, value)| {
            let name = match *name {
                // In later jobs that variable would say where to deploy.
                "deployment" => "DEPLOYED_TO".to_owned(),
                name => name.to_uppercase().replace('-', "_"),
            };
            format!("UPDRAFT_{name}={}\n", value.replace('\n', " "))
        });
        std::fs::write(path, lines.collect::<String>())
            .map_err(|error| Failure::file("write", path, &error))?;
    }
    if let Some(path) = named("GITHUB_STEP_SUMMARY") {
        append(&path, &summary(&told))?;
    }
    Ok(Exit::Success)
}

fn named(variable: &str) -> Option<PathBuf> {
    let path = std::env::var_os(variable).filter(|it| !it.is_empty());
    path.map(PathBuf::from)
}

fn append(path: &Path, text: &str) -> Result<()> {
    let file = File::options().create(true).append(true).open(path);
    file.and_then(|mut file| file.write_all(text.as_bytes()))
        .map_err(|error| Failure::file("write", path, &error))
}

/// What later steps may ask for.
fn outputs(told: &Value, server: Option<&str>) -> Vec<(&'static str, String)> {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let deployment = text(&told["deployment"]);
    let url = server.filter(|_| !deployment.is_empty());
    let url = url.map(|server| format!("{server}/deployments/{deployment}"));
    vec![
        ("outcome", outcome(told).to_owned()),
        ("deploy-id", text(&told["deploy"]["id"])),
        ("release", text(&told["deploy"]["release"]["id"])),
        ("deployment", deployment),
        ("deployment-url", url.unwrap_or_default()),
        ("preview", text(&told["preview"]["name"])),
        ("preview-url", text(&told["preview"]["url"])),
        ("changed", changed(told)),
    ]
}

fn outcome(told: &Value) -> &str {
    let of_error = told["error"]["exit"].as_str();
    told["outcome"].as_str().or(of_error).unwrap_or("usage")
}

/// The files that differ and whether the image does; where they are many, how many.
fn changed(told: &Value) -> String {
    let image = told["environment"] == "made";
    let all = json!({"files": told["files"], "image": image}).to_string();
    if all.len() <= MOST_OUTPUT {
        return all;
    }
    let count = |kind: &str| told["files"][kind].as_array().map_or(0, Vec::len);
    let counts =
        json!({"added": count("added"), "changed": count("changed"), "removed": count("removed")});
    json!({"counts": counts, "image": image}).to_string()
}

/// The page of the run: the plan, and the proof.
fn summary(told: &Value) -> String {
    let mut page = String::new();
    let name = told["deployment"].as_str().unwrap_or_default();
    let came_to = outcome(told).replace('_', " ");
    let title = match name {
        "" => came_to,
        name => format!("{} is {came_to}", code(name)),
    };
    let _ = writeln!(page, "### Updraft: {title}\n");
    if let Some(message) = told["error"]["message"].as_str() {
        let _ = writeln!(page, "{}\n", code(message));
    }
    if let Some(help) = told["error"]["help"].as_str() {
        let _ = writeln!(page, "{}\n", code(help));
    }
    preview(&told["preview"], &mut page);
    for kind in ["added", "changed", "removed"] {
        list(&format!("Files {kind}"), &told["files"][kind], &mut page);
    }
    list(
        "The image changes, because of",
        &told["image_changes"],
        &mut page,
    );
    list(
        "The image stays, although this differs",
        &told["image_differs"],
        &mut page,
    );
    for (stage, result) in told["checks"].as_object().into_iter().flatten() {
        let number = |key: &str| result[key].as_u64().unwrap_or(0);
        let (checked, errors, warnings) = (number("checked"), number("errors"), number("warnings"));
        let _ = writeln!(
            page,
            "- check {}: {checked} checked, {errors} errors, {warnings} warnings",
            code(stage)
        );
        for finding in result["findings"]
            .as_array()
            .into_iter()
            .flatten()
            .take(MOST_NAMES)
        {
            let place = format!(
                "{}:{}",
                finding["file"].as_str().unwrap_or_default(),
                finding["line"]
            );
            let message = finding["message"].as_str().unwrap_or_default();
            let _ = writeln!(page, "  - {}: {}", code(&place), code(message));
        }
    }
    proof(told, &mut page);
    if let Some(id) = told["deploy"]["id"].as_str() {
        let _ = writeln!(page, "\n{}", code(id));
    }
    page
}

fn preview(preview: &Value, page: &mut String) {
    let text = |key: &str| preview[key].as_str().unwrap_or_default();
    if text("name").is_empty() {
        return;
    }
    // Where its Airflow answers, once it was started.
    let at = match text("url") {
        "" => String::new(),
        url => format!(" at {}", code(url)),
    };
    let _ = writeln!(
        page,
        "Preview {}{at}, kept until {}\n",
        code(text("name")),
        code(text("expires_at"))
    );
}

fn proof(told: &Value, page: &mut String) {
    let dags = &told["dags"];
    if dags.is_object() {
        let count = |kind: &str| dags[kind].as_array().map_or(0, Vec::len);
        let _ = writeln!(
            page,
            "\nProven by Airflow: {} DAGs added, {} changed, {} removed; {} in all.\n",
            count("added"),
            count("changed"),
            count("removed"),
            dags["total"]
        );
    }
    for error in told["import_errors"]
        .as_array()
        .into_iter()
        .flatten()
        .take(MOST_NAMES)
    {
        let last = error["traceback"]
            .as_str()
            .unwrap_or_default()
            .trim_end()
            .lines()
            .last();
        let file = error["file"].as_str().unwrap_or_default();
        let _ = writeln!(
            page,
            "- {} cannot be imported: {}",
            code(file),
            code(last.unwrap_or_default())
        );
    }
}

fn list(title: &str, names: &Value, page: &mut String) {
    let names: Vec<&str> = names
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(Value::as_str)
        .collect();
    if names.is_empty() {
        return;
    }
    let _ = writeln!(page, "\n**{title}**\n");
    for name in names.iter().take(MOST_NAMES) {
        let _ = writeln!(page, "- {}", code(name));
    }
    if names.len() > MOST_NAMES {
        let _ = writeln!(page, "- … and {} more", names.len() - MOST_NAMES);
    }
}
