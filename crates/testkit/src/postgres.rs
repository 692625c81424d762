//! A throwaway PostgreSQL server.

use std::fs;
use std::os::unix::fs::{PermissionsExt as _, chown};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

use tempfile::TempDir;

use crate::skip::is_root;
use crate::{Reaper, free_port, skipped};

/// A PostgreSQL server on loopback, stopped and removed whatever happens to the
/// test that started it.
#[derive(Debug)]
pub struct Postgres {
    folder: TempDir,
    programs: PathBuf,
    port: u16,
    databases: AtomicU32,
    _reaper: Reaper,
}

impl Postgres {
    /// Starts one, or says why that cannot be.
    pub fn start() -> Result<Self, String> {
        let programs = find_programs().ok_or("PostgreSQL is not installed (initdb, pg_ctl)")?;
        let folder = tempfile::Builder::new()
            .prefix("updraft-postgres-")
            .tempdir()
            .map_err(|error| error.to_string())?;
        let reaper = Reaper::watch(folder.path()).map_err(|error| error.to_string())?;
        let server = Self {
            port: free_port(),
            folder,
            programs,
            databases: AtomicU32::new(0),
            _reaper: reaper,
        };
        server.initialise()?;
        Ok(server)
    }

    /// Starts one; where there is none to start, says so on a line that CI looks
    /// for and gives nothing.
    pub fn start_or_skip(suite: &str) -> Option<Self> {
        match Self::start() {
            Ok(server) => Some(server),
            Err(reason) => {
                skipped(suite, &reason);
                None
            }
        }
    }

    /// The address of a new, empty database.
    pub fn database(&self) -> String {
        let name = format!("test_{}", self.databases.fetch_add(1, Ordering::Relaxed));
        let port = self.port.to_string();
        let made = self.run(
            "createdb",
            &["-h", "127.0.0.1", "-p", &port, "-U", "postgres", &name],
        );
        made.expect("a database");
        format!("postgres://postgres@127.0.0.1:{port}/{name}?sslmode=disable")
    }

    fn initialise(&self) -> Result<(), String> {
        let data = self.data();
        if is_root() {
            let nobody = 65534;
            chown(self.folder.path(), Some(nobody), Some(nobody)).map_err(|e| e.to_string())?;
        }
        let everyone = fs::Permissions::from_mode(0o755);
        fs::set_permissions(self.folder.path(), everyone).map_err(|e| e.to_string())?;
        let data = data.to_str().ok_or("a path that is not UTF-8")?;
        self.run(
            "initdb",
            &[
                "-D",
                data,
                "-U",
                "postgres",
                "-A",
                "trust",
                "--no-sync",
                "-E",
                "UTF8",
            ],
        )?;
        let options = format!(
            "-c listen_addresses=127.0.0.1 -c port={} -c unix_socket_directories='' -c fsync=off",
            self.port
        );
        let log = self.folder.path().join("log");
        let log = log.to_str().ok_or("a path that is not UTF-8")?;
        self.run(
            "pg_ctl",
            &[
                "-D", data, "-l", log, "-o", &options, "-w", "-t", "30", "start",
            ],
        )?;
        Ok(())
    }

    fn data(&self) -> PathBuf {
        self.folder.path().join("data")
    }

    /// Runs one of PostgreSQL's programs, not as root: it refuses that. The
    /// folder's name in the environment is what the reaper looks for.
    fn run(&self, program: &str, args: &[&str]) -> Result<Output, String> {
        let path = self.programs.join(program);
        let mut command = if is_root() {
            let mut command = Command::new("setpriv");
            command
                .args(["--reuid=65534", "--regid=65534", "--clear-groups"])
                .arg(path);
            command
        } else {
            Command::new(path)
        };
        let output = command
            .args(args)
            .env("HOME", self.folder.path())
            .env("UPDRAFT_TEST_FOLDER", self.folder.path())
            .current_dir(self.folder.path())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .output()
            .map_err(|error| format!("{program}: {error}"))?;
        if output.status.success() {
            Ok(output)
        } else {
            let said = String::from_utf8_lossy(&output.stderr);
            Err(format!("{program} failed: {said}"))
        }
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        let data = self.data();
        if let Some(data) = data.to_str() {
            let _ = self.run("pg_ctl", &["-D", data, "-m", "immediate", "-w", "stop"]);
        }
    }
}

fn find_programs() -> Option<PathBuf> {
    let has = |folder: &Path| folder.join("initdb").exists() && folder.join("pg_ctl").exists();
    let installed = fs::read_dir("/usr/lib/postgresql")
        .into_iter()
        .flatten()
        .filter_map(|version| Some(version.ok()?.path().join("bin")));
    let path = std::env::var_os("PATH").unwrap_or_default();
    let mut found: Vec<PathBuf> = installed.filter(|folder| has(folder)).collect();
    found.sort();
    found
        .pop()
        .or_else(|| std::env::split_paths(&path).find(|folder| has(folder)))
}
