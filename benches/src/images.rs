//! A file of the image half edited, until the new image is in the registry: without an
//! engine, next to `docker build` and `buildah build`, each with its push. The same
//! project, base and registry for all, and every cache warm.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use updraft_e2e::{Engine, EngineName, Installation};

use crate::IMAGE_PUSHED;
use crate::peers::shell;
use crate::table::{Row, Table};

const ROUNDS: usize = 3;

pub(crate) fn measure(installation: &Installation, table: &mut Table) -> Result<()> {
    let scratch = tempfile::tempdir()?;
    let Some(docker) = Engine::start_or_skip(EngineName::Docker, scratch.path())? else {
        // Its base comes from there.
        table.add_absent("docker");
        return Ok(());
    };
    let Some(podman) = Engine::start_or_skip(EngineName::Podman, scratch.path())? else {
        table.add_absent("buildah");
        return Ok(());
    };
    let bench = Bench::prepare(installation, scratch.path(), &docker)?;
    let tools = [
        ("updraft", bench.without_an_engine()),
        ("docker", bench.with_docker(&docker)),
        ("buildah", bench.with_buildah(&podman)),
    ];
    for (tool, script) in tools {
        table.add(Row {
            tool,
            what: IMAGE_PUSHED,
            times: bench.rounds(&script)?,
        });
    }
    Ok(())
}

struct Bench {
    /// The project, and what it is built from by hand.
    project: PathBuf,
    /// Signed in to the registry.
    config: PathBuf,
    repository: String,
}

impl Bench {
    fn prepare(installation: &Installation, scratch: &Path, docker: &Engine) -> Result<Self> {
        let registry = installation.server_url();
        let registry = registry.trim_start_matches("http://");
        let bench = Self {
            project: scratch.join("project"),
            config: scratch.join("config"),
            repository: format!("{registry}/shop"),
        };
        let base = format!("{}/base:1", bench.repository);
        docker.build_airflow(&base)?;
        let asked = ["token", "create", "images", "--deployment", "shop"];
        let token = installation.updraft(&asked)?.expect_code(0)?.stdout;
        fs::create_dir(&bench.config)?;
        fs::write(scratch.join("token"), token.trim())?;
        run(&format!(
            "{} docker login --username bench --password-stdin {registry} <{}/token && {} docker push --quiet {base}",
            bench.variables(docker),
            scratch.display(),
            bench.variables(docker),
        ))?;
        for (name, text) in [
            ("dags/one.py", "# airflow DAG\n"),
            ("updraft.toml", ""),
            ("requirements.txt", "tinydb==4.8.1\n"),
            ("include/words.py", "WORD = 0\n"),
            ("Dockerfile", &format!("FROM {base}\n")),
            (
                "by-hand/Dockerfile",
                &format!(
                    "FROM {base}\nCOPY requirements.txt /opt/requirements.txt\nUSER root\n\
                     RUN PIP_BREAK_SYSTEM_PACKAGES=1 python3 -m pip install --no-cache-dir --target /opt/packages -r /opt/requirements.txt\n\
                     USER airflow\nCOPY include/ /opt/airflow/include/\n"
                ),
            ),
            (".dockerignore", "by-hand\n"),
        ] {
            let path = bench.project.join(name);
            fs::create_dir_all(path.parent().context("it is in the project")?)?;
            fs::write(path, text)?;
        }
        Ok(bench)
    }

    fn without_an_engine(&self) -> String {
        format!(
            "cd {} && DOCKER_CONFIG={} {} image build --engine none --push {}/updraft --quiet",
            self.project.display(),
            self.config.display(),
            updraft_e2e::updraft_binary().display(),
            self.repository
        )
    }

    fn with_docker(&self, engine: &Engine) -> String {
        let image = format!("{}/docker:latest", self.repository);
        let variables = self.variables(engine);
        format!(
            "cd {} && {variables} docker build --quiet --network host --file by-hand/Dockerfile --tag {image} . \
             && {variables} docker push --quiet {image}",
            self.project.display()
        )
    }

    fn with_buildah(&self, engine: &Engine) -> String {
        let image = format!("{}/buildah:latest", self.repository);
        let variables = self.variables(engine);
        let tls = "--tls-verify=false";
        format!(
            "cd {} && {variables} buildah build --quiet --layers --isolation chroot --network host {tls} \
             --file by-hand/Dockerfile --tag {image} . && {variables} buildah push --quiet {tls} {image}",
            self.project.display()
        )
    }

    /// What an engine's commands need in their environment.
    fn variables(&self, engine: &Engine) -> String {
        let mut variables = String::new();
        for (name, value) in engine.variables() {
            let _ = write!(variables, "{name}={} ", value.display());
        }
        let config = self.config.display();
        // The last one counts, and an engine has a folder of its own.
        let _ = write!(
            variables,
            "DOCKER_CONFIG={config} REGISTRY_AUTH_FILE={config}/config.json"
        );
        variables
    }

    /// The first is for the caches.
    fn rounds(&self, script: &str) -> Result<Vec<Duration>> {
        run(script)?;
        let round = |round| {
            let text = format!("WORD = '{round} of {}'\n", script.len());
            fs::write(self.project.join("include/words.py"), text)?;
            run(script)
        };
        (0..ROUNDS).map(round).collect()
    }
}

fn run(script: &str) -> Result<Duration> {
    let (success, time) = shell(script)?;
    ensure!(success, "failed: {script}");
    Ok(time)
}
