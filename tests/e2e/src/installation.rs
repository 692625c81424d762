//! A control plane and an agent with its Airflow, as separate processes.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::{Value, json};
use updraft_api::Client;
use updraft_api::client::Connect;
use updraft_api::deploy::{CreateDeploy, Parts};
use updraft_model::DeployId;
use updraft_testkit::{Postgres, Reaper, Redis, Tree, free_port, repository, state_folder};

use crate::{Airflow, Engine, EngineName, PATIENCE, Project, files_below, wait_for};

/// So that what is wrong reaches Airflow. Imports are only looked up where a
/// check has made the environment before.
const WITHOUT_CHECKS: &str = "
[check]
parse = false
";

/// The binary that `cargo test` built beside this one.
pub fn updraft_binary() -> PathBuf {
    if let Some(path) = std::env::var_os("UPDRAFT_BIN") {
        return path.into();
    }
    let test = std::env::current_exe().expect("a running test has a path");
    let profile = test
        .ancestors()
        .nth(2)
        .expect("tests lie in target/PROFILE/deps");
    profile.join("updraft")
}

/// What a command printed and how it ended.
#[derive(Debug)]
pub struct Output {
    pub code: Option<i32>,
    pub stdout: String,
    pub stderr: String,
}

impl Output {
    /// The one JSON document on stdout.
    pub fn json(&self) -> Result<Value> {
        serde_json::from_str(&self.stdout)
            .with_context(|| format!("not one JSON document: {self:?}"))
    }

    pub fn expect_code(self, code: i32) -> Result<Self> {
        if self.code != Some(code) {
            bail!(
                "expected exit code {code}, got {:?}\n{}\n{}",
                self.code,
                self.stdout,
                self.stderr
            );
        }
        Ok(self)
    }
}

pub struct Installation {
    root: PathBuf,
    port: u16,
    airflow_port: u16,
    server: Option<Child>,
    agent: Option<Child>,
    others: Option<OthersAirflow>,
    postgres: Option<Postgres>,
    databases: Option<Databases>,
    broker: Option<Redis>,
    engine: Option<Engine>,
    pub project: Project,
    _reaper: Reaper,
}

/// The Deployment that an installation has.
pub const DEPLOYMENT: &str = "shop";
/// Who Previews run as, where the agent can choose.
pub const PREVIEW_USER: &str = "50001";

/// PostgreSQL for everything that would be SQLite.
struct Databases {
    store: String,
    airflow: String,
}

/// An Airflow that the agent does not run.
struct OthersAirflow {
    child: Option<Child>,
    port: u16,
}

const OTHERS_PASSWORD: &str = "known-to-both";

impl Installation {
    /// A control plane with one Deployment, an enrolled agent that runs Airflow,
    /// and a project for it; nothing is deployed yet.
    pub fn start(airflow_version: &str) -> Result<Self> {
        let mut installation = Self::in_a_folder()?;
        installation.prepare(airflow_version)?;
        Ok(installation)
    }

    /// The same with PostgreSQL below the control plane and below Airflow.
    pub fn start_on_postgres(airflow_version: &str, postgres: Postgres) -> Result<Self> {
        let mut installation = Self::in_a_folder()?;
        installation.databases = Some(Databases {
            store: postgres.database(),
            // Airflow's drivers read other addresses than the store's.
            airflow: postgres
                .database()
                .replace("postgres://", "postgresql+psycopg2://")
                .replace("?sslmode=disable", ""),
        });
        installation.postgres = Some(postgres);
        installation.prepare(airflow_version)?;
        Ok(installation)
    }

    /// The same for an Airflow that runs already: the agent delivers to its DAG
    /// folder and asks its REST API.
    pub fn start_external(airflow_version: &str) -> Result<Self> {
        let mut installation = Self::in_a_folder()?;
        installation.others = Some(OthersAirflow {
            child: None,
            port: installation.airflow_port,
        });
        installation.prepare(airflow_version)?;
        installation.start_others_airflow(airflow_version)?;
        Ok(installation)
    }

    /// Has Airflow give its tasks to a Celery worker.
    pub fn use_celery(&mut self, broker: Redis) -> Result<()> {
        let file = self.root.join("broker.env");
        let text = format!("AIRFLOW__CELERY__BROKER_URL={}\n", broker.url());
        std::fs::write(&file, text)?;
        self.broker = Some(broker);
        self.updraft(&[
            "deployment",
            "update",
            DEPLOYMENT,
            "--executor",
            "CeleryExecutor",
            "--env-file",
            path(&file)?,
        ])?
        .expect_code(0)?;
        Ok(())
    }

    pub fn uses_celery(&self) -> bool {
        self.broker.is_some()
    }

    /// What Airflow itself needs of a project's requirements.
    pub fn requirements(&self) -> &'static str {
        if self.uses_celery() {
            // Up to 3.26 the provider allows Celery 5.7, and cannot be imported with it.
            "apache-airflow-providers-celery\ncelery[redis]<5.7\n"
        } else {
            ""
        }
    }

    /// The same with an Airflow that runs in containers of an engine of its own.
    pub fn start_in_containers(airflow_version: &str, name: EngineName) -> Result<Option<Self>> {
        let mut installation = Self::in_a_folder()?;
        installation.engine = Engine::start_or_skip(name, &installation.root)?;
        let registry = format!("127.0.0.1:{}", installation.port);
        let Some(engine) = &mut installation.engine else {
            return Ok(None);
        };
        engine.serve(&registry)?;
        installation.prepare(airflow_version)?;
        Ok(Some(installation))
    }

    fn in_a_folder() -> Result<Self> {
        let (root, reaper) = Reaper::folder("updraft-e2e-")?;
        Ok(Self {
            port: free_port(),
            airflow_port: free_port(),
            server: None,
            agent: None,
            others: None,
            postgres: None,
            databases: None,
            broker: None,
            engine: None,
            project: Project::at(root.join("project")),
            _reaper: reaper,
            root,
        })
    }

    /// `airflow standalone`, the way that its own documentation starts it.
    fn start_others_airflow(&mut self, version: &str) -> Result<()> {
        let tools = repository().join("scripts/tools");
        let venv = Command::new(tools).args(["airflow", version]).output()?;
        ensure!(venv.status.success(), "{venv:?}");
        let bin = PathBuf::from(String::from_utf8(venv.stdout)?.trim()).join("bin");
        let home = self.root.join("airflow");
        std::fs::create_dir_all(&home)?;
        let passwords = home.join("passwords.json");
        std::fs::write(&passwords, json!({"admin": OTHERS_PASSWORD}).to_string())?;
        let log = File::create(self.root.join("airflow.log"))?;
        let project = self.project.root().to_owned();
        let others = self.others.as_mut().context("Airflow is the agent's")?;
        let address = format!("http://127.0.0.1:{}", others.port);
        let path = std::env::var("PATH").unwrap_or_default();
        others.child = Some(
            Command::new(bin.join("airflow"))
                .arg("standalone")
                .env("PATH", format!("{}:{path}", bin.display()))
                .env("AIRFLOW_HOME", &home)
                .env("AIRFLOW__API__PORT", others.port.to_string())
                .env("AIRFLOW__API__HOST", "127.0.0.1")
                .env("AIRFLOW__API__BASE_URL", &address)
                .env(
                    "AIRFLOW__CORE__EXECUTION_API_SERVER_URL",
                    format!("{address}/execution/"),
                )
                .env("AIRFLOW__CORE__DAGS_FOLDER", self.root.join("offered/dags"))
                .env(
                    "AIRFLOW__DAG_PROCESSOR__DAG_BUNDLE_STORAGE_PATH",
                    home.join("dag_bundles"),
                )
                .env("AIRFLOW__CORE__LOAD_EXAMPLES", "False")
                .env("AIRFLOW__CORE__PARALLELISM", "2")
                .env("AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_USERS", "admin:admin")
                .env(
                    "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_PASSWORDS_FILE",
                    passwords,
                )
                // Files that nobody asks for are not found while the tests run.
                .env("AIRFLOW__DAG_PROCESSOR__REFRESH_INTERVAL", "300")
                .env("AIRFLOW__DAG_PROCESSOR__MIN_FILE_PROCESS_INTERVAL", "300")
                // Shorter than the default of 30 s, to have many deploys proven.
                .env("AIRFLOW__CORE__MIN_SERIALIZED_DAG_UPDATE_INTERVAL", "5")
                .env("AIRFLOW__API__EXPOSE_CONFIG", "True")
                // What its image has of the project: only DAGs are delivered.
                .env("AIRFLOW__CORE__PLUGINS_FOLDER", project.join("plugins"))
                .env("PYTHONPATH", &project)
                .env("PYTHONDONTWRITEBYTECODE", "1")
                // By this the reaper finds all that it starts.
                .current_dir(&home)
                .stdin(Stdio::null())
                .stdout(log.try_clone()?)
                .stderr(log)
                .spawn()?,
        );
        Ok(())
    }

    fn prepare(&mut self, airflow_version: &str) -> Result<()> {
        let data = self.root.join("server");
        let token = self
            .updraft(&["server", "init", "--data-dir", path(&data)?])?
            .expect_code(0)?;
        std::fs::write(self.root.join("token"), token.stdout.trim())?;
        self.start_server()?;
        let runtime = if self.others.is_some() {
            "external"
        } else if self.engine.is_some() {
            "container"
        } else {
            "process"
        };
        self.updraft(&[
            "deployment",
            "create",
            DEPLOYMENT,
            "--runtime",
            runtime,
            "--proof-timeout",
            "20m",
        ])?
        .expect_code(0)?;
        let code = self
            .updraft(&["agent", "invite", DEPLOYMENT])?
            .expect_code(0)?;
        std::fs::write(self.root.join("code"), code.stdout.trim())?;
        let (agent, code) = (self.agent_root(), self.root.join("code"));
        self.updraft(&[
            "agent",
            "enroll",
            "--root",
            path(&agent)?,
            "--code-file",
            path(&code)?,
        ])?
        .expect_code(0)?;
        let project = self.project.root().to_owned();
        self.updraft(&[
            "dev",
            "init",
            path(&project)?,
            "--airflow-version",
            airflow_version,
        ])?
        .expect_code(0)?;
        // What is tested here is Airflow's own answer.
        let settings = project.join("updraft.toml");
        let text = std::fs::read_to_string(&settings)?;
        std::fs::write(settings, format!("{text}{WITHOUT_CHECKS}"))?;
        self.start_agent()
    }

    /// The engine whose containers Airflow runs in.
    pub fn engine(&self) -> &Engine {
        self.engine.as_ref().expect("it was started with one")
    }

    pub fn agent_root(&self) -> PathBuf {
        self.root.join("agent")
    }

    pub fn airflow_port(&self) -> u16 {
        self.airflow_port
    }

    pub fn server_url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// A command of the binary, in the project, against this control plane.
    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(updraft_binary());
        command
            .args(arguments)
            .env("UPDRAFT_SERVER", self.server_url())
            .env("UPDRAFT_DEPLOYMENT", DEPLOYMENT)
            .env("UPDRAFT_CONFIG", self.root.join("config.toml"))
            .env("UPDRAFT_TEST_ROOT", &self.root)
            .envs(self.databases.iter().flat_map(|databases| {
                [
                    ("UPDRAFT_DATABASE_URL", &databases.store),
                    ("UPDRAFT_AIRFLOW_DATABASE_URL", &databases.airflow),
                ]
            }))
            .envs(self.engine.iter().flat_map(Engine::variables))
            .env("XDG_CONFIG_HOME", self.root.join("config"))
            .env("UPDRAFT_CACHE_DIR", self.root.join("cache"))
            .env("UPDRAFT_STATE_DIR", self.root.join("state"))
            .env_remove("GITHUB_ACTIONS")
            .stdin(Stdio::null());
        if let Ok(token) = std::fs::read_to_string(self.root.join("token")) {
            command.env("UPDRAFT_TOKEN", token);
        }
        if self.project.root().is_dir() {
            command.current_dir(self.project.root());
        }
        command
    }

    pub fn updraft(&self, arguments: &[&str]) -> Result<Output> {
        Self::outcome(&mut self.command(arguments))
    }

    fn outcome(command: &mut Command) -> Result<Output> {
        let output = command.output()?;
        Ok(Output {
            code: output.status.code(),
            stdout: String::from_utf8(output.stdout)?,
            stderr: String::from_utf8(output.stderr)?,
        })
    }

    /// The same in the pipeline of a pull request.
    pub fn in_pull_request(&self, number: u64, arguments: &[&str]) -> Result<Output> {
        let event = self.root.join("event.json");
        let text = json!({ "pull_request": {
            "number": number, "head": { "repo": { "full_name": "acme/shop" } },
        }});
        std::fs::write(&event, text.to_string())?;
        let mut command = self.command(arguments);
        command
            .env_remove("UPDRAFT_DEPLOYMENT")
            .envs([
                ("GITHUB_ACTIONS", "true"),
                ("GITHUB_REPOSITORY", "acme/shop"),
                ("GITHUB_EVENT_NAME", "pull_request"),
                ("GITHUB_BASE_REF", "main"),
                ("GITHUB_HEAD_REF", "feature"),
            ])
            .env("GITHUB_REF", format!("refs/pull/{number}/merge"))
            .env("GITHUB_EVENT_PATH", event);
        Self::outcome(&mut command)
    }

    /// The folders of the Previews that the agent runs.
    pub fn preview_folders(&self) -> Result<Vec<PathBuf>> {
        let previews = self.agent_root().join("previews");
        if !previews.is_dir() {
            return Ok(Vec::new());
        }
        let entries = std::fs::read_dir(previews)?.flatten();
        Ok(entries.map(|entry| entry.path()).collect())
    }

    /// `updraft deploy --dags`, with more arguments, its outcome as JSON.
    pub fn deploy(&self, arguments: &[&str]) -> Result<Output> {
        self.updraft(&[&["deploy", "--dags", "-o", "json"], arguments].concat())
    }

    /// Deploys another bundle than the project's DAGs, as another repository would.
    pub fn deploy_bundle(&self, name: &str, files: &[(&str, &str)]) -> Result<DeployId> {
        let tree = Tree::of(files.iter().copied());
        let connect = Connect {
            server: self.server_url(),
            ..Connect::default()
        };
        let token = std::fs::read_to_string(self.root.join("token"))?;
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        runtime.block_on(async {
            let client = Client::new(&connect, Some(token))?;
            let ask = CreateDeploy {
                parts: Parts {
                    bundles: [(name.parse()?, tree.manifest.clone())].into(),
                    environment: None,
                },
                description: format!("bundle {name}"),
                git: None,
                ci: None,
                allow_downgrade: false,
                force: false,
                key: DeployId::new().to_string(),
            };
            let created = client.create_deploy(&DEPLOYMENT.parse()?, &ask).await?;
            let deploy = created.deploy.context("nothing to do")?.id;
            let blobs = tree.pick(&created.missing);
            client.upload_blobs(deploy, &blobs).await?;
            client.accept_deploy(deploy, None).await?;
            Ok(deploy)
        })
    }

    pub fn start_server(&mut self) -> Result<()> {
        self.start_server_with(None)
    }

    /// A control plane that ends as if killed when it comes to a failpoint.
    pub fn start_server_failing_at(&mut self, point: &str) -> Result<()> {
        self.start_server_with(Some(point))
    }

    fn start_server_with(&mut self, failpoint: Option<&str>) -> Result<()> {
        let data = self.root.join("server");
        let listen = format!("127.0.0.1:{}", self.port);
        let arguments = ["server", "--data-dir", path(&data)?, "--listen", &listen];
        let variables: Vec<_> = failpoint
            .map(|point| ("UPDRAFT_FAILPOINT", point))
            .into_iter()
            .collect();
        self.server = Some(self.background(&arguments, "server.log", &variables)?);
        wait_for("the control plane to be ready", PATIENCE, || {
            // One that is to end may have, at the first report of an agent.
            let ended = failpoint.is_some() && self.server_ended()?;
            let connected = std::net::TcpStream::connect(("127.0.0.1", self.port)).is_ok();
            Ok((ended || connected).then_some(()))
        })?;
        Ok(())
    }

    pub fn start_agent(&mut self) -> Result<()> {
        self.end_agent_at("")?;
        self.start_agent_with(&[])
    }

    /// An agent that is started with another environment than the one before.
    pub fn start_agent_from_another_shell(&mut self) -> Result<()> {
        self.start_agent_with(&[
            ("LANG", "C"),
            ("TZ", "UTC"),
            ("no_proxy", "example.invalid"),
        ])
    }

    /// An agent that is told of another database for Airflow.
    pub fn start_agent_on(&mut self, database: &str) -> Result<()> {
        self.start_agent_with(&[("UPDRAFT_AIRFLOW_DATABASE_URL", database)])
    }

    /// An agent that ends as if killed when it comes to a failpoint.
    pub fn start_agent_ending_at(&mut self, point: &str) -> Result<()> {
        self.end_agent_at(point)?;
        self.start_agent_with(&[])
    }

    /// The same for the agent that runs.
    pub fn end_agent_at(&self, point: &str) -> Result<()> {
        Ok(std::fs::write(self.agent_failpoint(), point)?)
    }

    fn agent_failpoint(&self) -> PathBuf {
        self.root.join("agent-failpoint")
    }

    /// An agent that is told of another container engine.
    pub fn start_agent_on_engine(&mut self, address: &str) -> Result<()> {
        self.start_agent_with(&[("UPDRAFT_ENGINE_SOCKET", address)])
    }

    /// Ends the agent as its operator does, and its Airflow.
    pub fn stop_agent_with_airflow(&mut self) -> Result<()> {
        self.kill_agent()?;
        let log = self.agent_log();
        let begun = std::fs::metadata(&log)?.len();
        self.start_agent_given(&["--stop-airflow"], &[])?;
        wait_for("the agent's worker", PATIENCE, || {
            let text = std::fs::read(&log)?;
            let said = String::from_utf8_lossy(&text[usize::try_from(begun)?..]).into_owned();
            Ok(said.contains("the proof worker is up").then_some(()))
        })?;
        let mut agent = self.agent.take().context("it was started")?;
        let pid = rustix::process::Pid::from_child(&agent);
        rustix::process::kill_process(pid, rustix::process::Signal::TERM)?;
        agent.wait()?;
        Ok(())
    }

    fn start_agent_with(&mut self, variables: &[(&str, &str)]) -> Result<()> {
        self.start_agent_given(&[], variables)
    }

    fn start_agent_given(&mut self, flags: &[&str], variables: &[(&str, &str)]) -> Result<()> {
        let (root, port) = (self.agent_root(), self.airflow_port.to_string());
        let (link, password) = (self.root.join("offered/dags"), self.root.join("password"));
        let mut arguments = vec!["agent", "--root", path(&root)?, "--airflow-port", &port];
        arguments.extend(flags);
        if rustix::process::geteuid().is_root() && self.engine.is_none() {
            arguments.extend(["--preview-user", PREVIEW_USER]);
        }
        let url = format!("http://127.0.0.1:{port}");
        if self.others.is_some() {
            std::fs::write(&password, OTHERS_PASSWORD)?;
            arguments.extend(["--external-folder", path(&link)?]);
            arguments.extend(["--external-airflow", &url]);
            arguments.extend(["--external-password-file", path(&password)?]);
        }
        let failpoint = format!("@{}", path(&self.agent_failpoint())?);
        let socket = self.engine.as_ref().map(Engine::address);
        let socket = socket
            .as_ref()
            .map(|it| ("UPDRAFT_ENGINE_SOCKET", it.as_str()));
        let own = socket
            .into_iter()
            .chain([("UPDRAFT_FAILPOINT", failpoint.as_str())]);
        let variables: Vec<_> = own.chain(variables.iter().copied()).collect();
        self.agent = Some(self.background(&arguments, "agent.log", &variables)?);
        Ok(())
    }

    fn background(
        &self,
        arguments: &[&str],
        log: &str,
        variables: &[(&str, &str)],
    ) -> Result<Child> {
        let log = File::options()
            .create(true)
            .append(true)
            .open(self.root.join(log))?;
        let child = self
            .command(arguments)
            .env_remove("UPDRAFT_TOKEN")
            .env("UPDRAFT_AGENT_TOOLS", state_folder("cache/tools"))
            .envs(variables.iter().copied())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()?;
        Ok(child)
    }

    /// Ends the agent as a power cut would; Airflow goes on.
    pub fn kill_agent(&mut self) -> Result<()> {
        kill(self.agent.take())
    }

    pub fn kill_server(&mut self) -> Result<()> {
        kill(self.server.take())
    }

    /// Whether the agent has ended by itself, at a failpoint for instance.
    pub fn agent_ended(&mut self) -> Result<bool> {
        ended(&mut self.agent)
    }

    pub fn server_ended(&mut self) -> Result<bool> {
        ended(&mut self.server)
    }

    /// Signs in to the Airflow that the agent runs.
    pub fn airflow(&self) -> Result<Airflow> {
        if let Some(others) = &self.others {
            let url = format!("http://127.0.0.1:{}", others.port);
            return Airflow::sign_in(&url, "admin", OTHERS_PASSWORD);
        }
        self.sign_in(&[])
    }

    /// Signs in to the Airflow of a Preview that the agent runs.
    pub fn airflow_of_preview(&self, name: &str) -> Result<Airflow> {
        self.sign_in(&["--preview", name])
    }

    fn sign_in(&self, which: &[&str]) -> Result<Airflow> {
        let root = self.agent_root();
        let arguments = ["agent", "airflow", "-o", "json", "--root", path(&root)?];
        let output = self.updraft(&[&arguments, which].concat())?;
        let access = output.expect_code(0)?.json()?;
        let text = |key: &str| {
            access[key]
                .as_str()
                .map(str::to_owned)
                .with_context(|| format!("no {key}"))
        };
        Airflow::sign_in(&text("url")?, &text("user")?, &text("password")?)
    }

    /// The most memory that the server, the agent and the worker that proves have held.
    pub fn peak_memory(&self) -> Result<String> {
        let mut text = Vec::new();
        for (name, pid) in self.measured()? {
            text.push(format!("{name} {} MB", peak_memory_mb(pid)?));
        }
        Ok(text.join(", "))
    }

    /// Counts the most memory from here on.
    pub fn forget_peak_memory(&self) -> Result<()> {
        for (_, pid) in self.measured()? {
            // See proc_pid_clear_refs(5).
            std::fs::write(format!("/proc/{pid}/clear_refs"), "5")?;
        }
        Ok(())
    }

    fn measured(&self) -> Result<Vec<(&'static str, u32)>> {
        let of = |child: &Option<Child>| child.as_ref().context("it is not running").map(Child::id);
        let mut found = vec![("server", of(&self.server)?), ("agent", of(&self.agent)?)];
        for process in std::fs::read_dir("/proc")?.flatten() {
            let command = std::fs::read(process.path().join("cmdline")).unwrap_or_default();
            let folder = std::fs::read_link(process.path().join("cwd")).unwrap_or_default();
            let is_worker = String::from_utf8_lossy(&command).contains("airflow_updraft.worker");
            if let (true, true, Some(pid)) = (
                is_worker,
                folder.starts_with(&self.root),
                process.file_name().to_str(),
            ) {
                found.push(("proof worker", pid.parse()?));
            }
        }
        Ok(found)
    }

    /// A folder that DAG code can write to, also when Airflow has a user of its own.
    pub fn folder_for_airflow(&self, name: &str) -> Result<PathBuf> {
        let folder = self.root.join(name);
        std::fs::create_dir_all(&folder)?;
        std::fs::set_permissions(&folder, std::os::unix::fs::PermissionsExt::from_mode(0o777))?;
        Ok(folder)
    }

    /// The link that is replaced when the agent switches.
    pub fn live_link(&self) -> Result<PathBuf> {
        let bundle = self.live_bundle()?;
        let link = bundle.parent().context("it lies in the live Release")?;
        Ok(link.to_owned())
    }

    /// Where the agent keeps the bundle `dags`, as the live Release names it.
    pub fn live_bundle(&self) -> Result<PathBuf> {
        std::fs::read_dir(self.agent_root())?
            .flatten()
            .map(|entry| entry.path().join("live/dags"))
            .find(|path| path.exists())
            .context("nothing is live")
    }

    /// All logs, Airflow's among them, with their texts.
    pub fn every_log(&self) -> Result<Vec<(PathBuf, String)>> {
        let mut logs = files_below(&self.root)?;
        logs.retain(|path| path.extension().is_some_and(|end| end == "log"));
        logs.into_iter()
            .map(|path| {
                let text = String::from_utf8_lossy(&std::fs::read(&path)?).into_owned();
                Ok((path, text))
            })
            .collect()
    }

    /// The example DAGs that Airflow's own package carries.
    pub fn airflow_examples(&self) -> Result<PathBuf> {
        fn find(folder: &Path, depth: u8) -> Option<PathBuf> {
            let examples = folder.join("airflow/example_dags");
            if examples.is_dir() {
                return Some(examples);
            }
            let folders = std::fs::read_dir(folder)
                .ok()?
                .flatten()
                .map(|entry| entry.path());
            folders
                .filter(|path| depth > 0 && path.is_dir() && !path.is_symlink())
                .find_map(|path| find(&path, depth - 1))
        }
        find(&self.agent_root(), 7).context("no Airflow is installed below the agent's folder")
    }

    /// The Python that Airflow runs on.
    pub fn airflow_python(&self) -> Result<PathBuf> {
        let examples = self.airflow_examples()?;
        let environment = examples.ancestors().nth(5).context("a short path")?;
        Ok(environment.join("bin/python"))
    }

    /// The address of Airflow's database, where it is not a file.
    pub fn airflow_database(&self) -> Option<&str> {
        Some(&self.databases.as_ref()?.airflow)
    }

    /// Where the agent says what it does.
    pub fn agent_log(&self) -> PathBuf {
        self.root.join("agent.log")
    }

    /// The ends of the logs, for a failed test.
    pub fn logs(&self) -> String {
        const TOLD: [&str; 7] = [
            "server",
            "agent",
            "airflow",
            "api-server",
            "webserver",
            "scheduler",
            "celery-worker",
        ];
        let mut ends = Vec::new();
        for (path, text) in self.every_log().unwrap_or_default() {
            let name = path.file_stem().and_then(|name| name.to_str());
            if name.is_some_and(|name| TOLD.contains(&name)) {
                let lines: Vec<_> = text.lines().collect();
                let end = lines[lines.len().saturating_sub(40)..].join("\n");
                ends.push(format!("--- {}\n{end}", path.display()));
            }
        }
        ends.join("\n")
    }
}

/// The most memory that a process has held.
pub fn peak_memory_mb(pid: u32) -> Result<u64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmHWM:"))
        .context("no VmHWM")?;
    Ok(line.trim().trim_end_matches(" kB").parse::<u64>()? / 1024)
}

impl Drop for Installation {
    fn drop(&mut self) {
        // The reaper ends Airflow; these two are ours to wait for.
        let _ = kill(self.agent.take());
        let _ = kill(self.server.take());
        let _ = kill(self.others.take().and_then(|others| others.child));
    }
}

fn kill(child: Option<Child>) -> Result<()> {
    if let Some(mut child) = child {
        child.kill()?;
        child.wait()?;
    }
    Ok(())
}

fn ended(child: &mut Option<Child>) -> Result<bool> {
    Ok(match child {
        Some(child) => child.try_wait()?.is_some(),
        None => true,
    })
}

fn path(path: &Path) -> Result<&str> {
    path.to_str().context("temporary folders have UTF-8 names")
}
