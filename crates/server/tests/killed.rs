//! Kills the server at every failpoint and looks at what is left.
//!
//! The server is this test binary once more, as a process of its own: an abort
//! ends it like a power cut ends everything but the disk.

#![cfg(debug_assertions)]
#![expect(clippy::unwrap_used, reason = "a test ends where something fails")]

mod process;

use std::path::Path;
use std::time::{Duration, Instant};

use updraft_api::client::Connect;
use updraft_api::deploy::{Comparison, CreateDeploy, RollbackRequest};
use updraft_api::deployment::{CreateDeployment, DeploymentSettings};
use updraft_api::token::CreateToken;
use updraft_api::{Client, ClientError};
use updraft_model::{AgentId, DeployId, DeploymentName, Digest, ProofOutcome, Role};
use updraft_server::{FAILPOINTS, Server, init_admin};
use updraft_testkit::{Reaper, TestAgent, Tree, environment, parts};

use crate::process::{Process, config};

impl Process {
    /// Whether it ended by itself.
    async fn is_dead(&mut self) -> bool {
        let deadline = Instant::now() + Duration::from_secs(5);
        while Instant::now() < deadline {
            if self.0.try_wait().unwrap().is_some() {
                return true;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        false
    }
}

/// The way of a deploy, each step of which can be repeated.
struct Story {
    admin_token: String,
    agent_token: String,
    agent: AgentId,
    shop: DeploymentName,
    dags: Tree,
}

impl Story {
    fn client(url: &str, token: &str) -> Client {
        let connect = Connect {
            server: url.into(),
            ..Connect::default()
        };
        Client::new(&connect, Some(token.into())).unwrap()
    }

    fn create(&self) -> CreateDeploy {
        CreateDeploy {
            parts: parts(Some(&self.dags), None),
            description: String::new(),
            git: None,
            ci: None,
            allow_downgrade: false,
            force: false,
            key: "the deploy".into(),
        }
    }

    /// As far as the server lives; what it acknowledged is in the answer.
    async fn tell(&self, url: &str) -> (Acknowledged, Result<(), ClientError>) {
        let mut seen = Acknowledged::default();
        let told = self.tell_into(url, &mut seen).await;
        (seen, told)
    }

    async fn tell_into(&self, url: &str, seen: &mut Acknowledged) -> Result<(), ClientError> {
        let admin = Self::client(url, &self.admin_token);
        let created: Comparison = admin.create_deploy(&self.shop, &self.create()).await?;
        let id = created.deploy.as_ref().unwrap().id;
        seen.deploy = Some(id);
        seen.until = Step::Created;
        admin
            .upload_blobs(id, &self.dags.pick(&created.missing))
            .await?;
        seen.until = Step::Uploaded;
        admin.accept_deploy(id, None).await?;
        seen.until = Step::Accepted;
        let mut agent = TestAgent::again(&Self::client(url, &self.agent_token), "one", self.agent);
        agent.poll(Duration::ZERO).await;
        agent.report.staged = Some(agent.target().id);
        agent.report.serving = Some(agent.target().id);
        agent.report.proof = Some(agent.proof(ProofOutcome::Proven));
        agent.client().report(&agent.report).await?;
        seen.until = Step::Live;
        let back = RollbackRequest {
            allow_downgrade: false,
            key: "the way back".into(),
            ..RollbackRequest::default()
        };
        admin.roll_back(&self.shop, &back).await?;
        seen.until = Step::RolledBack;
        Ok(())
    }
}

#[derive(Debug, Default)]
struct Acknowledged {
    deploy: Option<DeployId>,
    until: Step,
}

#[derive(Debug, Default, Clone, Copy, PartialEq, PartialOrd)]
enum Step {
    #[default]
    Nothing,
    Created,
    Uploaded,
    Accepted,
    Live,
    RolledBack,
}

#[tokio::test]
async fn what_was_acknowledged_is_there_whenever_the_server_is_killed() {
    // Together: each spends most of its time on finding that nobody answers.
    futures_util::future::join_all(FAILPOINTS.iter().copied().map(kill_at)).await;
}

async fn kill_at(failpoint: &str) {
    let folder = tempfile::tempdir().unwrap();
    // Ends the server also when this process is killed.
    let _reaper = Reaper::watch(folder.path()).unwrap();
    let story = prepare(folder.path()).await;
    let (mut process, url) = Process::start(folder.path(), Some(failpoint)).await;
    let (seen, told) = story.tell(&url).await;
    assert!(told.is_err(), "{failpoint} was not passed");
    assert!(process.is_dead().await, "{failpoint}: {told:?}");
    drop(process);

    let (_process, url) = Process::start(folder.path(), None).await;
    let admin = Story::client(&url, &story.admin_token);
    if let Some(id) = seen.deploy {
        let found = admin.deploy(id).await.unwrap();
        let state = found.state.name();
        let kept = found.accepted_at.is_some() && found.release.is_some();
        assert!(seen.until < Step::Accepted || kept, "{failpoint}: {state}");
        let was_live = ["live", "rolled_back"].contains(&state);
        assert!(seen.until < Step::Live || was_live, "{failpoint}: {state}");
        let ask = story.create();
        let again = admin.create_deploy(&story.shop, &ask).await.unwrap();
        assert!(
            seen.until < Step::Uploaded || again.missing.is_empty(),
            "{failpoint}"
        );
    }
    check_whole(&admin, &story.shop, failpoint).await;

    // The same once more ends as if nothing had been.
    let (again, told) = story.tell(&url).await;
    told.unwrap_or_else(|error| panic!("{failpoint}: {error}"));
    assert_eq!(again.until, Step::RolledBack);
    let history = admin.history(&story.shop, 10, None).await.unwrap();
    assert_eq!(
        history.deploys.len(),
        3,
        "{failpoint}: each is recorded once"
    );
    check_whole(&admin, &story.shop, failpoint).await;
}

/// A data folder with a Deployment on which something is live.
async fn prepare(folder: &Path) -> Story {
    let admin_token = init_admin(&config(folder), false).await.unwrap().secret;
    let server = Server::start(config(folder)).await.unwrap();
    let admin = Story::client(server.url(), &admin_token);
    let shop: DeploymentName = "shop".parse().unwrap();
    let ask = CreateDeployment {
        name: shop.clone(),
        settings: DeploymentSettings::default(),
    };
    admin.create_deployment(&ask).await.unwrap();
    let ask = CreateToken {
        name: "agent".into(),
        role: Role::Agent,
        deployment: Some(shop.clone()),
        workspace: None,
        expires_in_days: None,
    };
    let agent_token = admin.create_token(&ask).await.unwrap().secret;
    let (dags, image) = (Tree::of([("a.py", "one")]), environment("x"));
    let ask = CreateDeploy {
        parts: parts(Some(&dags), Some(&image)),
        description: String::new(),
        git: None,
        ci: None,
        allow_downgrade: false,
        force: false,
        key: "first".into(),
    };
    let created = admin.create_deploy(&shop, &ask).await.unwrap();
    let id = created.deploy.as_ref().unwrap().id;
    let mut blobs = dags.pick(&created.missing);
    blobs.extend(image.pick(&created.missing));
    admin.upload_blobs(id, &blobs).await.unwrap();
    admin.accept_deploy(id, None).await.unwrap();
    let mut agent = TestAgent::new(&Story::client(server.url(), &agent_token), "one");
    agent.converge().await;
    server.stop().await;
    Story {
        admin_token,
        agent_token,
        agent: agent.report.agent,
        shop,
        dags: Tree::of([("a.py", "two"), ("b.py", "new")]),
    }
}

/// Whatever is wanted is whole: every blob that it names is there and good.
async fn check_whole(admin: &Client, shop: &DeploymentName, failpoint: &str) {
    let wanted = admin.deployment(shop).await.unwrap().wanted.unwrap();
    let bundles = wanted.bundles.values().map(|bundle| bundle.digest);
    for manifest in bundles.chain([wanted.image.digest()]) {
        let bytes = admin.blob(shop, manifest).await.unwrap();
        let json: serde_json::Value = serde_json::from_slice(&bytes).unwrap();
        let layers = json["layers"].as_array().unwrap();
        for layer in layers {
            let digest: Digest = layer["digest"].as_str().unwrap().parse().unwrap();
            let found = admin.blob(shop, digest).await;
            assert!(found.is_ok(), "{failpoint}: {found:?}");
        }
    }
}
