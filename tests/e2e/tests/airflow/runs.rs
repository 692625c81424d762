//! DAG runs: the code they run on, and what that code can get at.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};
use serde_json::json;
use updraft_e2e::{Airflow, Installation, PATIENCE, wait_for};

use crate::{bundle_digest, live};

/// Looks for secrets by value, and tries to read what is private by its path:
/// a folder that cannot be listed may still have files that can be read.
const CURIOUS: &str = r#"
import os, pathlib
holds = lambda text: any(secret in text for secret in SECRETS)
found = [name for name, value in os.environ.items() if holds(value)]
for process in pathlib.Path("/proc").glob("[0-9]*/environ"):
    try:
        if holds(process.read_text(errors="replace")):
            found.append(str(process))
    except OSError:
        pass
for path in PRIVATE:
    try:
        open(path, "rb").close()
        found.append(path)
    except OSError:
        pass
seen = 0
for folder, folders, files in os.walk(ROOT):
    for path in (os.path.join(folder, file) for file in files):
        try:
            text = pathlib.Path(path).read_text(errors="replace")
        except OSError:
            continue
        seen += 1
        if holds(text):
            found.append(path)
assert seen, "it looked nowhere"
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
    let agent = installation.agent_root();
    let root = agent.parent().context("the agent's folder lies in one")?;
    let token = root.join("token");
    std::fs::set_permissions(&token, std::os::unix::fs::PermissionsExt::from_mode(0o600))?;
    let mut private = vec![token.clone(), agent.join("token")];
    private.extend(updraft_e2e::files_below(&root.join("server"))?);
    for deployment in std::fs::read_dir(&agent)?
        .flatten()
        .map(|entry| entry.path())
    {
        if deployment.is_dir() {
            private.extend(["wanted.json", "secrets.json"].map(|name| deployment.join(name)));
            private.extend(updraft_e2e::files_below(&deployment.join("blobs"))?);
        }
    }
    ensure!(private.len() > 10, "{private:?}");
    for path in &private {
        ensure!(path.is_file(), "there is no {}", path.display());
    }
    // In halves, so that the DAG does not find itself.
    let mut secrets = Vec::new();
    for file in [token, agent.join("token")] {
        let secret = std::fs::read_to_string(file)?;
        let (one, other) = secret.trim().split_at(secret.trim().len() / 2);
        secrets.push([one.to_owned(), other.to_owned()]);
    }
    let head = format!(
        "ROOT = {}\nPRIVATE = {}\nSECRETS = [a + b for a, b in {}]",
        json!(root),
        json!(private),
        json!(secrets)
    );
    installation
        .project
        .write_python_dag("curious", &head, CURIOUS.trim())?;
    live(installation)?;
    let run = airflow.trigger("curious")?;
    airflow.wait_for_success("curious", &run)?;
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
        // Airflow logs what a task returns: not the value as it is.
        "return os.environ.get('GREETING', '')[::-1]",
    )?;
    live(installation)?;
    let greeted = || -> Result<bool> {
        let run = airflow.trigger("greeting")?;
        airflow.wait_for_run("greeting", &run)?;
        let seen = airflow.returned("greeting", &run, "step")?.to_string();
        Ok(seen.contains("lla-ot-gninrom-doog"))
    };
    // Airflow starts again with the variable, and does not answer meanwhile.
    wait_for("a task to see it", PATIENCE, || {
        Ok(greeted().unwrap_or(false).then_some(()))
    })?;
    let logs = installation.every_log()?;
    ensure!(logs.len() > 3, "{logs:?}");
    for (log, text) in logs {
        ensure!(!text.contains("good-morning-to-all"), "{}", log.display());
    }
    Ok(())
}

/// How many Releases agents keep that nothing else holds.
fn keep_releases(installation: &Installation, number: &str) -> Result<()> {
    let update = ["deployment", "update", "shop", "--keep-releases", number];
    installation.updraft(&update)?.expect_code(0).map(drop)
}

/// Where a version of the DAGs lies, while it does.
fn version_folder(installation: &Installation, digest: &str) -> Result<PathBuf> {
    let versions = installation.live_bundle()?.join("versions");
    ensure!(versions.is_dir(), "{}", versions.display());
    Ok(versions.join(digest.replace(':', "-")))
}

fn wait_until_removed(folder: &Path) -> Result<()> {
    let what = format!("{} to be removed", folder.display());
    wait_for(&what, PATIENCE, || Ok((!folder.exists()).then_some(())))
}

pub(crate) fn a_version_stays_as_long_as_a_run_needs_it(
    installation: &mut Installation,
    airflow: &Airflow,
) -> Result<()> {
    keep_releases(installation, "0")?;
    let gate = installation.agent_root().join("../gate");
    let write = |version: &str| {
        let body = format!(
            "while not os.path.exists('{}'):\n    time.sleep(0.5)\nreturn '{version}'",
            gate.display()
        );
        installation
            .project
            .write_python_dag("holding", "import os, time", &body)
    };
    write("first")?;
    let held = bundle_digest(&live(installation)?);
    let held = version_folder(installation, &held)?;
    let run = airflow.trigger("holding")?;
    airflow.wait_for_a_running_task("holding", &run)?;
    write("second")?;
    let loose = bundle_digest(&live(installation)?);
    let loose = version_folder(installation, &loose)?;
    for version in ["third", "fourth", "fifth"] {
        write(version)?;
        live(installation)?;
    }
    // What nothing holds goes; what the run is on stays until it has ended.
    wait_until_removed(&loose)?;
    ensure!(held.is_dir(), "{} went", held.display());
    std::fs::write(&gate, "")?;
    airflow.wait_for_success("holding", &run)?;
    let returned = airflow.returned("holding", &run, "step")?.to_string();
    ensure!(returned.contains("first"), "{returned}");
    wait_until_removed(&held)?;
    installation.project.remove("dags/holding.py")?;
    keep_releases(installation, "10")
}

pub(crate) fn a_cleared_run_gets_its_version_back(
    installation: &mut Installation,
    airflow: &Airflow,
) -> Result<()> {
    let write = |answer: &str| {
        let body = format!("return \"{answer}\"");
        installation.project.write_python_dag("history", "", &body)
    };
    keep_releases(installation, "0")?;
    write("as it was")?;
    let digest = bundle_digest(&live(installation)?);
    let run = airflow.trigger("history")?;
    airflow.wait_for_run("history", &run)?;
    for answer in ["later", "even later", "at last"] {
        write(answer)?;
        live(installation)?;
    }
    let folder = version_folder(installation, &digest)?;
    wait_until_removed(&folder)?;
    airflow.clear_run("history", &run)?;
    wait_for("the run to begin again", PATIENCE, || {
        Ok((airflow.run("history", &run)?["state"] != "success").then_some(()))
    })?;
    let ended = airflow.wait_for_success("history", &run)?;
    ensure!(ended["bundle_version"] == digest.as_str(), "{ended:#}");
    let returned = airflow.returned("history", &run, "step")?.to_string();
    ensure!(returned.contains("as it was"), "{returned}");
    ensure!(folder.exists(), "it ran without {}", folder.display());
    keep_releases(installation, "10")
}
