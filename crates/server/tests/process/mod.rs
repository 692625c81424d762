//! A server in a process of its own, which a test can kill: the test's own binary
//! once more.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use updraft_server::{Server, ServerConfig};

const SERVE: &str = "UPDRAFT_TEST_SERVE";

/// No test, but the server's process: ends only by being killed.
#[tokio::test]
async fn serves_when_asked_to() {
    let Some(folder) = std::env::var_os(SERVE).map(PathBuf::from) else {
        return;
    };
    let server = Server::start(config(&folder)).await.unwrap();
    let address = folder.join("address");
    fs::write(folder.join("address.new"), server.url()).unwrap();
    fs::rename(folder.join("address.new"), address).unwrap();
    std::future::pending::<()>().await;
}

pub(crate) fn config(folder: &Path) -> ServerConfig {
    let mut config = ServerConfig::new(folder.join("data"));
    config.listen = "127.0.0.1:0".parse().unwrap();
    config
}

/// A server process; killed when it goes.
pub(crate) struct Process(pub(crate) Child);

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Process {
    pub(crate) async fn start(folder: &Path, failpoint: Option<&str>) -> (Self, String) {
        let address = folder.join("address");
        let _ = fs::remove_file(&address);
        let mut command = Command::new(std::env::current_exe().unwrap());
        command
            .args(["--exact", "process::serves_when_asked_to", "--nocapture"])
            .env(SERVE, folder)
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        if let Some(failpoint) = failpoint {
            command.env("UPDRAFT_FAILPOINT", failpoint);
        }
        let process = Self(command.spawn().unwrap());
        let started = Instant::now();
        loop {
            if let Ok(url) = fs::read_to_string(&address) {
                return (process, url);
            }
            assert!(
                started.elapsed() < Duration::from_secs(20),
                "no server came up"
            );
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
}
