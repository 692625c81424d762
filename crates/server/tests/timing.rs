//! How long the way from a change to its acceptance takes. Prints; asserts nothing.

use std::time::{Duration, Instant};

use updraft_api::deploy::CreateDeploy;
use updraft_model::DeployId;
use updraft_testkit::{TestServer, Tree, environment, parts};

#[expect(clippy::print_stderr, reason = "it is for reading")]
#[tokio::test(flavor = "multi_thread")]
#[ignore = "prints timings"]
async fn of_one_changed_file_of_5000() {
    let server = TestServer::start().await;
    let shop = server.deployment("shop").await.name;
    let files = |changed: u32| -> Tree {
        let files: Vec<(String, String)> = (0..5000)
            .map(|n| {
                let salt = if n == 2500 { changed } else { 0 };
                (
                    format!("team_{}/dag_{n}.py", n % 50),
                    format!("# {n} {salt}\n").repeat(300),
                )
            })
            .collect();
        Tree::of(
            files
                .iter()
                .map(|(path, content)| (path.as_str(), content.as_str())),
        )
    };
    let first = files(0);
    let started = Instant::now();
    server
        .deploy(&shop, Some(&first), Some(&environment("x")))
        .await;
    eprintln!(
        "first deploy, {} blobs: {:?}",
        first.blobs.len(),
        started.elapsed()
    );
    let mut agent = server.agent(&shop, "one").await;
    agent.converge().await;

    let admin = server.as_admin();
    for round in 1..8 {
        let tree = files(round);
        let started = Instant::now();
        let ask = CreateDeploy {
            parts: parts(Some(&tree), None),
            description: String::new(),
            git: None,
            key: DeployId::new().to_string(),
        };
        let created = admin.create_deploy(&shop, &ask).await.unwrap();
        let create = started.elapsed();
        let id = created.deploy.as_ref().unwrap().id;
        admin
            .upload_blobs(id, &tree.pick(&created.missing))
            .await
            .unwrap();
        let upload = started.elapsed() - create;
        admin.accept_deploy(id).await.unwrap();
        let accept = started.elapsed() - upload - create;
        agent.poll(Duration::ZERO).await;
        let woken = started.elapsed();
        agent.converge().await;
        eprintln!(
            "{} missing: create {create:?} upload {upload:?} accept {accept:?}, at the agent {woken:?}",
            created.missing.len()
        );
    }
}
