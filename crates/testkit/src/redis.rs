//! A throwaway Redis server: a broker for Celery.

use std::net::TcpStream;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::{Reaper, free_port, skipped};

/// A Redis server on loopback, stopped and removed whatever happens to the test
/// that started it.
#[derive(Debug)]
pub struct Redis {
    port: u16,
    process: Child,
    _reaper: Reaper,
}

impl Redis {
    /// Starts one; where there is none to start, says so on a line that CI looks
    /// for and gives nothing.
    pub fn start_or_skip(suite: &str) -> Option<Self> {
        let Some(program) = find_program() else {
            skipped(suite, "Redis is not installed (redis-server)");
            return None;
        };
        let (folder, reaper) = Reaper::folder("updraft-redis-").expect("a folder");
        let port = free_port();
        let process = Command::new(program)
            .args(["--port", &port.to_string(), "--bind", "127.0.0.1"])
            .args(["--save", "", "--appendonly", "no"])
            .current_dir(&folder)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .spawn()
            .expect("redis-server starts");
        let begun = Instant::now();
        while TcpStream::connect(("127.0.0.1", port)).is_err() {
            assert!(begun.elapsed() < Duration::from_secs(30), "no redis-server");
            std::thread::sleep(Duration::from_millis(20));
        }
        Some(Self {
            port,
            process,
            _reaper: reaper,
        })
    }

    pub fn url(&self) -> String {
        format!("redis://127.0.0.1:{}/0", self.port)
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn find_program() -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    let mut found = std::env::split_paths(&path).map(|folder| folder.join("redis-server"));
    found.find(|program| program.exists())
}
