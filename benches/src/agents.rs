//! What a control plane needs for agents that wait.

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use tokio::task::JoinSet;
use updraft_api::Client;
use updraft_api::client::Connect;
use updraft_api::deployment::{CreateDeployment, DeploymentSettings};
use updraft_api::token::Enroll;
use updraft_e2e::{peak_memory_mb, updraft_binary};
use updraft_model::AgentId;
use updraft_testkit::free_port;

const AGENTS: usize = 10_000;

/// Has 10,000 agents wait for news at one control plane, and says how much
/// memory it has held.
pub(crate) fn measure() -> Result<String> {
    let folder = tempfile::tempdir()?;
    let port = free_port();
    let (mut server, admin) = start(folder.path(), port)?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()?;
    let took = runtime.block_on(wait_together(server.id(), port, admin));
    let memory = peak_memory_mb(server.id());
    server.kill()?;
    server.wait()?;
    let (took, memory) = (took?, memory?);
    Ok(format!(
        "{AGENTS} agents waiting at one control plane: {memory} MB at most (bar: 300 MB); all were there after {:.1} s",
        took.as_secs_f64()
    ))
}

fn start(folder: &Path, port: u16) -> Result<(Child, String)> {
    let data = folder.join("server");
    let data = data.to_str().context("a temporary folder")?;
    let init = Command::new(updraft_binary())
        .args(["server", "init", "--data-dir", data])
        .output()?;
    ensure!(init.status.success(), "{init:?}");
    let listen = format!("127.0.0.1:{port}");
    let server = Command::new(updraft_binary())
        .args(["server", "--data-dir", data, "--listen", &listen])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()?;
    Ok((server, String::from_utf8(init.stdout)?.trim().to_owned()))
}

/// Opens the waits; how long until every one of them was taken up.
async fn wait_together(server: u32, port: u16, admin: String) -> Result<Duration> {
    let connect = Connect {
        server: format!("http://127.0.0.1:{port}"),
        ..Connect::default()
    };
    let admin = Client::new(&connect, Some(admin))?;
    while admin.whoami().await.is_err() {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let ask = CreateDeployment {
        name: "crowd".parse()?,
        settings: DeploymentSettings::default(),
    };
    let crowd = admin.create_deployment(&ask).await?.name;
    let code = admin.create_enrollment_code(&crowd).await?.code;
    let host = "bench".to_owned();
    let token = admin.enroll(&Enroll { code, host }).await?.secret;
    let agent = admin.with_token(token);
    let generation = agent.wanted(-1, Duration::ZERO).await?;
    let generation = generation.map_or(0, |wanted| wanted.generation);

    let begun = Instant::now();
    let mut waits = JoinSet::new();
    for _ in 0..AGENTS {
        let agent = agent.as_agent(AgentId::new());
        waits.spawn(async move { agent.wanted(generation, Duration::from_secs(60)).await });
        if waits.len() % 200 == 0 {
            // Not all in one instant: the backlog of a listening socket is short.
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
    let mut memory = 0;
    loop {
        ensure!(
            begun.elapsed() < Duration::from_secs(55),
            "they did not all come"
        );
        while let Some(ended) = waits.try_join_next() {
            ended??;
        }
        tokio::time::sleep(Duration::from_millis(500)).await;
        let before = std::mem::replace(&mut memory, peak_memory_mb(server)?);
        // All connected, and nothing is made for them any more.
        if connections(server)? >= AGENTS && memory == before {
            return Ok(begun.elapsed());
        }
    }
}

fn connections(server: u32) -> Result<usize> {
    Ok(std::fs::read_dir(format!("/proc/{server}/fd"))?.count())
}
