//! A real control plane with a data folder of its own.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::os::unix::fs::symlink;
use std::path::Path;
use std::time::Duration;

use tempfile::TempDir;
use updraft_api::Client;
use updraft_api::client::Connect;
use updraft_api::deploy::{Comparison, ComparisonOutcome, CreateDeploy, DeployView, Parts};
use updraft_api::deployment::{CreateDeployment, DeploymentSettings, DeploymentView};
use updraft_api::token::CreateToken;
use updraft_model::{DeployId, DeploymentId, DeploymentName, Role};
use updraft_server::{RunningServer, Server, ServerConfig, init_admin};

use crate::agent::TestAgent;
use crate::tree::{Tree, environment, parts};

/// A control plane on loopback. Its folder goes when it does.
#[derive(Debug)]
pub struct TestServer {
    folder: TempDir,
    config: ServerConfig,
    running: Option<RunningServer>,
    admin: String,
}

impl TestServer {
    pub async fn start() -> Self {
        Self::start_with(|_| {}).await
    }

    /// Starts one that is told something else than the defaults.
    pub async fn start_with(change: impl FnOnce(&mut ServerConfig)) -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let mut config = ServerConfig::new(folder.path().join("data"));
        config.listen = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        config.sweep_ms = 50;
        change(&mut config);
        let admin = init_admin(&config, false).await.expect("a first token");
        let running = Server::start(config.clone()).await.expect("a server");
        Self {
            folder,
            config,
            running: Some(running),
            admin: admin.secret,
        }
    }

    /// Starts a second one that shares keys and blobs with another, as several
    /// behind one database do.
    pub async fn start_beside(other: &Self, change: impl FnOnce(&mut ServerConfig)) -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let mut config = other.config.clone();
        config.data_dir = folder.path().join("data");
        fs::create_dir_all(&config.data_dir).expect("a folder");
        for shared in ["keys", "blobs"] {
            symlink(other.data_dir().join(shared), config.data_dir.join(shared)).expect("a link");
        }
        change(&mut config);
        let running = Server::start(config.clone()).await.expect("a server");
        Self {
            folder,
            config,
            running: Some(running),
            admin: other.admin.clone(),
        }
    }

    pub fn config(&self) -> &ServerConfig {
        &self.config
    }

    /// Where this test may put files.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    pub fn data_dir(&self) -> &Path {
        &self.config.data_dir
    }

    pub fn running(&self) -> &RunningServer {
        self.running.as_ref().expect("it runs")
    }

    pub fn url(&self) -> String {
        format!("http://{}", self.running().addr())
    }

    pub async fn stop(&mut self) {
        if let Some(running) = self.running.take() {
            running.stop().await;
        }
    }

    /// Starts it again on the same folder, at another port.
    pub async fn restart(&mut self) {
        self.stop().await;
        let running = Server::start(self.config.clone()).await;
        self.running = Some(running.expect("a server"));
    }

    /// Returns once a request waits for news of a Deployment.
    pub async fn somebody_waits(&self, deployment: DeploymentId) {
        while self.running().waiting(deployment) == 0 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// Lets time pass for the control plane, but not for its timers.
    pub fn advance_clock(&self, by: chrono::Duration) {
        self.config.clock.advance(by);
    }

    pub fn admin_token(&self) -> &str {
        &self.admin
    }

    pub fn as_admin(&self) -> Client {
        self.with_token(Some(self.admin.clone()))
    }

    pub fn with_token(&self, token: Option<String>) -> Client {
        let connect = Connect {
            server: self.url(),
            ..Connect::default()
        };
        Client::new(&connect, token).expect("a client")
    }

    /// Makes a token; without a Deployment, for the whole installation.
    pub async fn token(&self, role: Role, deployment: Option<&DeploymentName>) -> String {
        let ask = CreateToken {
            name: format!("a {role}"),
            role,
            deployment: deployment.cloned(),
            workspace: None,
            expires_in_days: None,
        };
        let new = self.as_admin().create_token(&ask).await;
        new.expect("a token").secret
    }

    pub async fn deployment(&self, name: &str) -> DeploymentView {
        self.deployment_with(name, DeploymentSettings::default())
            .await
    }

    pub async fn deployment_with(
        &self,
        name: &str,
        settings: DeploymentSettings,
    ) -> DeploymentView {
        let ask = CreateDeployment {
            name: name.parse().expect("a name"),
            settings,
        };
        let made = self.as_admin().create_deployment(&ask).await;
        made.expect("a Deployment")
    }

    /// An agent of a Deployment, with a token of its own.
    pub async fn agent(&self, deployment: &DeploymentName, host: &str) -> TestAgent {
        let token = self.token(Role::Agent, Some(deployment)).await;
        TestAgent::new(&self.with_token(Some(token)), host)
    }

    /// Deploys files as the `dags` bundle, with an Environment when the
    /// Deployment has none, until they are accepted.
    pub async fn deploy_tree(
        &self,
        deployment: &DeploymentName,
        files: &[(&str, &str)],
    ) -> DeployView {
        let dags = Tree::of(files.iter().copied());
        let shown = self.as_admin().deployment(deployment).await;
        let has_image = shown.expect("a Deployment").wanted.is_some();
        let environment = (!has_image).then(|| environment("first"));
        self.deploy(deployment, Some(&dags), environment.as_ref())
            .await
    }

    /// Deploys these parts until they are accepted.
    pub async fn deploy(
        &self,
        deployment: &DeploymentName,
        dags: Option<&Tree>,
        environment: Option<&Tree>,
    ) -> DeployView {
        let trees: Vec<&Tree> = [dags, environment].into_iter().flatten().collect();
        self.deploy_parts(deployment, parts(dags, environment), &trees)
            .await
    }

    /// Deploys parts that were made of these trees, until they are accepted.
    pub async fn deploy_parts(
        &self,
        deployment: &DeploymentName,
        parts: Parts,
        trees: &[&Tree],
    ) -> DeployView {
        let created = self.create(deployment, parts).await;
        assert_eq!(created.outcome, ComparisonOutcome::Changes);
        let id = created.deploy.as_ref().expect("a deploy").id;
        self.upload(id, &created, trees.iter().copied().map(Some))
            .await;
        let accepted = self.as_admin().accept_deploy(id, None).await;
        accepted.expect("it is accepted")
    }

    pub async fn create(&self, deployment: &DeploymentName, parts: Parts) -> Comparison {
        let ask = CreateDeploy {
            parts,
            description: String::new(),
            git: None,
            ci: None,
            allow_downgrade: false,
            force: false,
            key: DeployId::new().to_string(),
        };
        let created = self.as_admin().create_deploy(deployment, &ask).await;
        created.expect("a comparison")
    }

    /// Sends what a deploy lacks of these trees.
    pub async fn upload<'a>(
        &self,
        deploy: DeployId,
        created: &Comparison,
        trees: impl IntoIterator<Item = Option<&'a Tree>>,
    ) {
        let blobs: Vec<_> = trees
            .into_iter()
            .flatten()
            .flat_map(|tree| tree.pick(&created.missing))
            .collect();
        let sent = self.as_admin().upload_blobs(deploy, &blobs).await;
        sent.expect("they are taken");
    }
}
