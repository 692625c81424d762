//! A control plane of its own, a project, and an agent on request.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;
use tokio::runtime::Runtime;
use updraft_api::Client;
use updraft_api::client::Connect;
use updraft_api::deploy::{CreateDeploy, Parts};
use updraft_model::{BundleName, DeployId, DeploymentName, Digest};
use updraft_testkit::{Tree, free_port};

use super::stand_in::{Agent, Answer};
use super::{Printed, Sandbox};

pub(crate) const DEPLOYMENT: &str = "shop";

pub(crate) struct World {
    pub(crate) sandbox: Sandbox,
    pub(crate) url: String,
    pub(crate) token: String,
    server: Child,
    port: u16,
    /// Blobs that were damaged, and where they belong.
    blobs: RefCell<BTreeMap<String, PathBuf>>,
}

impl World {
    /// A running control plane without any Deployment.
    pub(crate) fn bare() -> Self {
        let mut sandbox = Sandbox::new();
        let data = sandbox.path("data");
        let data = data.to_str().unwrap();
        let printed = sandbox
            .run(&["server", "init", "--data-dir", data])
            .ended_with(0);
        let token = printed.stdout.trim().to_owned();
        let port = free_port();
        let server = serve(&sandbox, data, port);
        let url = format!("http://127.0.0.1:{port}");
        sandbox.set("UPDRAFT_SERVER", &url);
        sandbox.set("UPDRAFT_TOKEN", &token);
        sandbox.set("UPDRAFT_DEPLOYMENT", DEPLOYMENT);
        Self {
            sandbox,
            url,
            token,
            server,
            port,
            blobs: RefCell::default(),
        }
    }

    /// With one Deployment and a project for it; a stand-in for `uv` locks it,
    /// so that no package index is needed.
    pub(crate) fn new() -> Self {
        let mut world = Self::bare();
        let uv = world.sandbox.stand_in_uv();
        world.sandbox.set("UPDRAFT_UV", &uv);
        let ruff = world.sandbox.stand_in("ruff", "#!/bin/sh\necho '[]'\n");
        world.sandbox.set("UPDRAFT_RUFF", &ruff);
        world
            .run(&["deployment", "create", DEPLOYMENT])
            .ended_with(0);
        world.sandbox.write(
            "here/updraft.toml",
            "[project]\nname = \"shop\"\n\n[check]\nparse = false\n",
        );
        world
            .sandbox
            .write("here/Dockerfile", "FROM apache/airflow:3.3.2-python3.12\n");
        world.write_dag("orders", "# first\n");
        world
    }

    pub(crate) fn write_dag(&self, name: &str, text: &str) {
        self.sandbox.write(&format!("here/dags/{name}.py"), text);
    }

    pub(crate) fn run(&self, arguments: &[&str]) -> Printed {
        self.sandbox.run(arguments)
    }

    /// git in the project, as somebody whose settings are empty.
    pub(crate) fn git(&self, arguments: &[&str]) {
        let status = Command::new("git")
            .arg("-C")
            .arg(self.sandbox.here())
            .args(["-c", "user.name=Ada", "-c", "user.email=ada@example.com"])
            .args(["-c", "commit.gpgsign=false"])
            .args(arguments)
            .env("HOME", self.sandbox.path("home"))
            .status();
        assert!(status.unwrap().success(), "git {arguments:?}");
    }

    pub(crate) fn deploy(&self, arguments: &[&str]) -> Printed {
        self.run(&[&["deploy", "--dags"], arguments].concat())
    }

    pub(crate) fn deploy_json(&self, arguments: &[&str]) -> (Option<i32>, Value) {
        let printed = self.deploy(&[&["-o", "json"], arguments].concat());
        (printed.code, printed.json())
    }

    /// An agent that answers as told.
    pub(crate) fn agent(&self, answer: Answer) -> Agent {
        let code = self.run(&["agent", "invite"]).ended_with(0).stdout;
        Agent::start(&self.url, code.trim(), answer)
    }

    /// Deploys a bundle beside the project's DAGs, as another project would.
    pub(crate) fn deploy_bundle(&self, name: &str, files: &[(&str, &str)]) {
        let tree = Tree::of(files.iter().copied());
        let ask = CreateDeploy {
            parts: Parts {
                bundles: [(name.parse().unwrap(), tree.manifest.clone())].into(),
                environment: None,
            },
            description: String::new(),
            git: None,
            ci: None,
            allow_downgrade: false,
            force: false,
            key: DeployId::new().to_string(),
        };
        let (runtime, client) = self.client();
        runtime.block_on(async {
            let deployment = DEPLOYMENT.parse().unwrap();
            let begun = client.create_deploy(&deployment, &ask).await.unwrap();
            let id = begun.deploy.unwrap().id;
            let blobs = tree.pick(&begun.missing);
            client.upload_blobs(id, &blobs).await.unwrap();
            client.accept_deploy(id, None).await.unwrap();
        });
    }

    /// The control plane without the command line, and what runs its requests.
    pub(crate) fn client(&self) -> (Runtime, Client) {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        let connect = Connect {
            server: self.url.clone(),
            ..Connect::default()
        };
        let client = Client::new(&connect, Some(self.token.clone())).unwrap();
        (runtime, client)
    }

    /// Changes a byte of every blob in the store, and reads each once, so that
    /// the control plane has noticed.
    pub(crate) fn damage_blobs(&self) {
        let (runtime, client) = self.client();
        let name: DeploymentName = DEPLOYMENT.parse().unwrap();
        for path in self.blob_files() {
            let mut bytes = std::fs::read(&path).unwrap();
            bytes[0] ^= 1;
            let mut permissions = std::fs::metadata(&path).unwrap().permissions();
            std::os::unix::fs::PermissionsExt::set_mode(&mut permissions, 0o600);
            std::fs::set_permissions(&path, permissions).unwrap();
            std::fs::write(&path, bytes).unwrap();
            let hex = path.file_name().unwrap().to_str().unwrap().to_owned();
            let digest: Digest = format!("sha256:{hex}").parse().unwrap();
            runtime.block_on(client.blob(&name, digest)).unwrap_err();
            self.blobs.borrow_mut().insert(hex, path);
        }
    }

    /// Those blobs that were damaged and are not good again.
    pub(crate) fn bad_blobs(&self) -> Vec<String> {
        let damaged = self.blobs.borrow();
        let is_good = |hex: &str, path: &Path| {
            std::fs::read(path).is_ok_and(|bytes| Digest::of(&bytes).hex() == hex)
        };
        damaged
            .iter()
            .filter(|(hex, path)| !is_good(hex, path))
            .map(|(hex, _)| hex.clone())
            .collect()
    }

    fn blob_files(&self) -> Vec<PathBuf> {
        let mut files = Vec::new();
        let mut folders = vec![self.sandbox.path("data/blobs")];
        while let Some(folder) = folders.pop() {
            for entry in std::fs::read_dir(folder).unwrap().map(Result::unwrap) {
                let name = entry.file_name().into_string().unwrap();
                if entry.file_type().unwrap().is_dir() && name != "corrupt" {
                    folders.push(entry.path());
                } else if name.len() == 64 {
                    files.push(entry.path());
                }
            }
        }
        files
    }

    /// Waits until `status` shows what an agent said of its Airflow.
    pub(crate) fn wait_for_agent(&self) {
        let since = Instant::now();
        while !self
            .run(&["status"])
            .ended_with(0)
            .stdout
            .contains("Airflow ")
        {
            assert!(since.elapsed() < Duration::from_secs(30), "no agent came");
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// Waits until another bundle is known to have these ids.
    pub(crate) fn wait_for_dag_ids(&self, ids: &[&str]) {
        let (runtime, client) = self.client();
        let (deployment, own) = (DEPLOYMENT.parse().unwrap(), BundleName::dags());
        let since = Instant::now();
        loop {
            let known = runtime.block_on(client.dag_ids_besides(&deployment, &own));
            let known = known.unwrap().bundles.into_values().flatten();
            let known: Vec<String> = known.map(|id| id.to_string()).collect();
            if known == ids {
                return;
            }
            assert!(since.elapsed() < Duration::from_secs(30), "{known:?}");
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    pub(crate) fn stop_server(&mut self) {
        self.server.kill().unwrap();
        self.server.wait().unwrap();
    }

    pub(crate) fn start_server(&mut self) {
        let data = self.sandbox.path("data");
        self.server = serve(&self.sandbox, data.to_str().unwrap(), self.port);
    }
}

impl Drop for World {
    fn drop(&mut self) {
        let _ = self.server.kill();
        let _ = self.server.wait();
    }
}

fn serve(sandbox: &Sandbox, data: &str, port: u16) -> Child {
    let log = std::fs::File::options()
        .create(true)
        .append(true)
        .open(sandbox.path("server.log"))
        .unwrap();
    let listen = format!("127.0.0.1:{port}");
    let server = sandbox
        .command(&["server", "--data-dir", data, "--listen", &listen])
        .stdout(Stdio::null())
        .stderr(log)
        .spawn()
        .unwrap();
    let since = Instant::now();
    while TcpStream::connect(("127.0.0.1", port)).is_err() {
        let log = || std::fs::read_to_string(sandbox.path("server.log")).unwrap();
        assert!(
            since.elapsed() < Duration::from_secs(30),
            "no control plane came up: {}",
            log()
        );
        std::thread::sleep(Duration::from_millis(10));
    }
    server
}
