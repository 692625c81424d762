//! DAG runs: the code they run on, and what that code can get at.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use serde_json::json;
use updraft_e2e::{Airflow, Installation, wait_for};

use crate::{bundle_digest, live};

/// Looks for every secret that this installation has, by name and by value.
const CURIOUS: &str = r#"
import os, pathlib
found = []
for name, value in os.environ.items():
    if name.startswith("UPDRAFT_TOKEN") or any(secret in value for secret in SECRETS):
        found.append(name)
for process in pathlib.Path("/proc").glob("[0-9]*/environ"):
    try:
        environ = process.read_text(errors="replace")
    except OSError:
        continue
    if any(secret in environ for secret in SECRETS):
        found.append(str(process))
seen = 0
for folder, folders, files in os.walk(ROOT):
    for file in files:
        try:
            text = pathlib.Path(folder, file).read_bytes()
        except OSError:
            continue
        seen += 1
        if any(secret.encode() in text for secret in SECRETS) and file != "curious.py":
            found.append(os.path.join(folder, file))
for folder in ["server", "agent/blobs"]:
    try:
        os.listdir(os.path.join(ROOT, folder))
        found.append(folder)
    except (PermissionError, FileNotFoundError):
        pass
assert seen > 100, "it looked nowhere"
return found
"#;

pub(crate) fn a_task_cannot_change_the_live_files(
    installation: &mut Installation,
    airflow: &Airflow,
) -> Result<()> {
    let body = "with open(__file__, 'a') as file:\n    file.write('# changed')";
    installation
        .project
        .write_python_dag("meddling", "", body)?;
    live(installation)?;
    let run = airflow.trigger("meddling")?;
    let ended = airflow.wait_for_run("meddling", &run)?;
    ensure!(ended["state"] == "failed", "{ended:#}");
    Ok(())
}

pub(crate) fn dag_code_reads_no_secret(
    installation: &mut Installation,
    airflow: &Airflow,
) -> Result<()> {
    let root = installation.agent_root();
    let root = root.parent().context("the agent's folder lies in one")?;
    let token = std::fs::read_to_string(root.join("token"))?;
    let agents = std::fs::read_to_string(root.join("agent/token"))?;
    // Halves, so that the DAG does not find itself.
    let halves = [&token, &agents].map(|secret| secret.trim().split_at(secret.len() / 2));
    let head = format!(
        "ROOT = {root:?}\nSECRETS = [a + b for a, b in {}]",
        json!(halves)
    );
    installation
        .project
        .write_python_dag("curious", &head, CURIOUS.trim())?;
    let only_root = std::os::unix::fs::PermissionsExt::from_mode(0o600);
    std::fs::set_permissions(root.join("token"), only_root)?;
    live(installation)?;
    let run = airflow.trigger("curious")?;
    let ended = airflow.wait_for_run("curious", &run)?;
    ensure!(ended["state"] == "success", "{ended:#}");
    let found = airflow.returned("curious", &run, "step")?;
    let none = found == json!([]) || found == "[]";
    let said = installation.updraft(&["status"])?.expect_code(0)?;
    // Without a user of its own for Airflow, the status has to say so.
    ensure!(
        none || said.stdout.contains("DAG code can read"),
        "{found}\n{}",
        said.stdout
    );
    ensure!(none || !rustix::process::geteuid().is_root(), "{found}");
    Ok(())
}

pub(crate) fn variables_of_the_deployment_reach_tasks_and_no_log(
    installation: &mut Installation,
    airflow: &Airflow,
) -> Result<()> {
    let file = installation.agent_root().join("../variables.env");
    std::fs::write(&file, "GREETING=good-morning-to-all\n")?;
    let file = file.to_str().context("a temporary folder")?;
    installation
        .updraft(&["deployment", "update", "shop", "--env-file", file])?
        .expect_code(0)?;
    installation.project.write_python_dag(
        "greeting",
        "import os",
        "return os.environ.get('GREETING')",
    )?;
    live(installation)?;
    wait_for("a task to see it", Duration::from_secs(120), || {
        let run = airflow.trigger("greeting")?;
        airflow.wait_for_run("greeting", &run)?;
        let seen = airflow.returned("greeting", &run, "step")?.to_string();
        Ok(seen.contains("good-morning-to-all").then_some(()))
    })?;
    let logs = installation.every_log()?;
    ensure!(logs.len() > 3, "{logs:?}");
    for (log, text) in logs {
        // What a task returns is its own to tell.
        let told = log
            .components()
            .any(|part| part.as_os_str() == "dag_id=greeting");
        ensure!(
            told || !text.contains("good-morning-to-all"),
            "{}",
            log.display()
        );
    }
    Ok(())
}

pub(crate) fn a_cleared_run_gets_its_version_back(
    installation: &mut Installation,
    airflow: &Airflow,
) -> Result<()> {
    let write = |answer: &str| {
        let body = format!("return \"{answer}\"");
        installation.project.write_python_dag("history", "", &body)
    };
    let keep = |releases: &str| {
        let update = ["deployment", "update", "shop", "--keep-releases", releases];
        installation.updraft(&update)?.expect_code(0)
    };
    keep("0")?;
    write("as it was")?;
    let digest = bundle_digest(&live(installation)?);
    let run = airflow.trigger("history")?;
    airflow.wait_for_run("history", &run)?;
    for answer in ["later", "even later", "at last"] {
        write(answer)?;
        live(installation)?;
    }
    let versions = installation.live_bundle()?.join("versions");
    let folder = versions.join(digest.replace(':', "-"));
    ensure!(versions.is_dir(), "{}", versions.display());
    wait_for("nothing to hold it", Duration::from_secs(180), || {
        Ok((!folder.exists()).then_some(()))
    })?;
    airflow.clear_run("history", &run)?;
    wait_for("the run to begin again", Duration::from_secs(60), || {
        Ok((airflow.run("history", &run)?["state"] != "success").then_some(()))
    })?;
    let ended = airflow.wait_for_run("history", &run)?;
    ensure!(
        ended["state"] == "success" && ended["bundle_version"] == digest.as_str(),
        "{ended:#}"
    );
    let returned = airflow.returned("history", &run, "step")?.to_string();
    ensure!(returned.contains("as it was"), "{returned}");
    ensure!(folder.exists(), "it ran without {}", folder.display());
    keep("10").map(drop)
}
