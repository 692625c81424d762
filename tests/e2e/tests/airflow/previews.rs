//! A second Airflow for a pull request, beside the one that it is made from.

use std::time::Instant;

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};
use updraft_e2e::{Airflow, DEPLOYMENT, Installation, PATIENCE, PREVIEW_USER, wait_for};

const PREVIEW: &str = "shop-pr-7";
/// What the Deployment alone has: of a connection, and of a variable. Airflow shows no
/// value that is also a password.
const SECRETS: [&str; 2] = ["s3cret-of-the-deployment", "value-of-the-deployment"];

/// A DAG that starts unpaused by its own word, and asks for a variable when it is imported.
fn dag(id: &str) -> String {
    format!(
        "\
from datetime import datetime
try:
    from airflow.sdk import Variable, dag, task
except ImportError:
    from airflow.decorators import dag, task
    from airflow.models import Variable

REGION = Variable.get(\"region\")

@dag(schedule=\"@daily\", start_date=datetime(2024, 1, 1), catchup=False, is_paused_upon_creation=False)
def {id}():
    task(lambda: REGION, task_id=\"region\")()

{id}()
"
    )
}

fn pushed(installation: &Installation) -> Result<Value> {
    let printed = installation
        .in_pull_request(7, &["deploy", "--dags", "-o", "json"])?
        .expect_code(0)
        .with_context(|| installation.logs())?
        .json()?;
    ensure!(printed["outcome"] == "live", "{printed:#}");
    Ok(printed)
}

fn is_paused(airflow: &Airflow, dag: &str) -> Result<bool> {
    let answer = airflow.get(&format!("/dags/{dag}"))?;
    answer["is_paused"].as_bool().context("no `is_paused`")
}

#[expect(
    clippy::print_stderr,
    reason = "how long it takes is looked at, not judged"
)]
pub(crate) fn a_pull_request_has_an_airflow_of_its_own_until_it_is_closed(
    installation: &mut Installation,
    airflow: &Airflow,
) -> Result<()> {
    let [secret, value] = SECRETS;
    airflow.post(
        "/connections",
        &json!({
            "connection_id": "warehouse", "conn_type": "postgres", "host": "db.example",
            "login": "me", "password": secret, "port": 5432, "extra": format!("{{\"key\": \"{secret}\"}}"),
        }),
    )?;
    airflow.post("/variables", &json!({ "key": "region", "value": value }))?;
    airflow.post("/pools", &json!({ "name": "small", "slots": 3 }))?;
    let settings = installation.project.root().join("updraft.toml");
    let settings = std::fs::read_to_string(settings)?;
    let settings = format!("{settings}\n[preview]\nfrom = \"{DEPLOYMENT}\"\n");
    installation.project.write("updraft.toml", &settings)?;
    installation
        .project
        .write("dags/refunds.py", &dag("refunds"))?;

    let begun = Instant::now();
    let printed = pushed(installation)?;
    let took = begun.elapsed().as_secs_f64();
    eprintln!("a Preview was live {took:.1} s after `updraft deploy`");
    ensure!(printed["preview"]["name"] == PREVIEW, "{printed:#}");
    ensure!(printed["preview"]["url"].is_string(), "{printed:#}");

    let preview = installation.airflow_of_preview(PREVIEW)?;
    ensure!(preview.dags()?.contains(&"refunds".to_owned()));
    ensure!(!airflow.dags()?.contains(&"refunds".to_owned()));
    ensure!(is_paused(&preview, "refunds")?);
    // Names and where they lead came along, and nothing that is secret.
    let connection = preview.get("/connections/warehouse")?;
    ensure!(connection["host"] == "db.example", "{connection:#}");
    ensure!(connection["login"].is_null(), "{connection:#}");
    ensure!(preview.get("/variables/region")?["value"] == "***");
    ensure!(preview.get("/pools/small")?["slots"] == 3);
    ensure!(airflow.get("/variables/region")?["value"] == value);
    let folder = installation
        .preview_folders()?
        .pop()
        .context("its folder")?;
    let files = updraft_e2e::files_below(&folder)?.into_iter();
    for file in files.filter(|file| file.is_file()) {
        let content = std::fs::read(&file)?;
        let has = |secret: &str| {
            content
                .windows(secret.len())
                .any(|it| it == secret.as_bytes())
        };
        ensure!(
            !SECRETS.into_iter().any(has),
            "{} has what is secret",
            file.display()
        );
    }
    // Nobody has reviewed its code, so that runs as somebody else than the Deployment's own.
    if rustix::process::geteuid().is_root() {
        let said = installation.updraft(&["status", PREVIEW])?.expect_code(0)?;
        let user = format!("Airflow runs as uid {PREVIEW_USER}; DAG code cannot read");
        ensure!(said.stdout.contains(&user), "{}", said.stdout);
        ensure!(!said.stdout.contains("as the same user"), "{}", said.stdout);
    }
    // What the Deployment's Airflow runs in was not installed once more.
    for environments in updraft_e2e::folders_below(&folder, "environments")? {
        let name = environments.file_name().unwrap_or_default();
        ensure!(
            !name.as_encoded_bytes().starts_with(b"sha256"),
            "{}",
            environments.display()
        );
    }

    // What somebody does there stays, also over a deploy and another agent.
    let run = preview.trigger("refunds")?;
    preview.wait_for_success("refunds", &run)?;
    preview.patch(
        "/variables/region",
        &json!({ "key": "region", "value": "mine" }),
    )?;
    installation.kill_agent()?;
    installation.start_agent()?;
    installation.project.write("dags/later.py", &dag("later"))?;
    pushed(installation)?;
    ensure!(!is_paused(&preview, "refunds")?);
    ensure!(is_paused(&preview, "later")?);
    ensure!(preview.get("/variables/region")?["value"] == "mine");

    installation
        .in_pull_request(7, &["preview", "close"])?
        .expect_code(0)?;
    wait_for("the Preview's folder to be gone", PATIENCE, || {
        Ok(installation.preview_folders()?.is_empty().then_some(()))
    })?;
    ensure!(
        preview.anonymously("/").is_err(),
        "its Airflow still answers"
    );
    ensure!(airflow.dags()?.contains(&"halves".to_owned()));
    for file in ["dags/refunds.py", "dags/later.py"] {
        installation.project.remove(file)?;
    }
    Ok(())
}
