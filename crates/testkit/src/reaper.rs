//! Ends what a test started, whatever happens to the test.
//!
//! Airflow outlives its agent, and an agent the shell that started it. So a
//! small process of its own waits until the test process is gone, however it
//! went, and then kills every process whose environment names the test's folder,
//! or that works in it: those that give themselves a title overwrite the first.
//! What is mounted below it, as container engines do, goes too.

use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

/// Kills the processes of one test folder when dropped, and also when the test
/// process is killed: the other end of the pipe closes either way.
#[derive(Debug)]
pub struct Reaper(Child);

const SCRIPT: &str = r#"
read -r _
for _ in 1 2 3; do
    for process in /proc/[0-9]*; do
        [ "${process#/proc/}" != "$$" ] || continue
        case "$(readlink "$process/cwd")" in
        "$1" | "$1"/*) ;;
        *) grep -qsF "$1" "$process/environ" || continue ;;
        esac
        kill -9 "${process#/proc/}" 2>/dev/null
    done
done
while read -r _ at _; do
    case "$at" in "$1"/*) umount -l "$at" ;; esac
done </proc/self/mounts
rm -rf "$1"
"#;

impl Reaper {
    /// Makes a folder to watch over, which every user may enter: Airflow runs as
    /// another one when the tests run as root.
    pub fn folder(prefix: &str) -> io::Result<(PathBuf, Self)> {
        let folder = tempfile::Builder::new().prefix(prefix).tempdir()?.keep();
        std::fs::set_permissions(&folder, std::fs::Permissions::from_mode(0o755))?;
        let reaper = Self::watch(&folder)?;
        Ok((folder, reaper))
    }

    /// Watches over a folder whose path is unique, as temporary ones are, and
    /// removes it at the end.
    pub fn watch(folder: &Path) -> io::Result<Self> {
        Command::new("sh")
            .args(["-c", SCRIPT, "sh"])
            .arg(folder)
            .env_clear()
            .env("PATH", "/usr/bin:/bin")
            .process_group(0)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .map(Self)
    }
}

impl Drop for Reaper {
    fn drop(&mut self) {
        drop(self.0.stdin.take());
        let _ = self.0.wait();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ends_what_names_the_folder_and_removes_it() {
        let folder = tempfile::tempdir().unwrap().keep();
        let reaper = Reaper::watch(&folder).unwrap();
        let mut orphan = Command::new("sleep")
            .arg("600")
            .env("HOME", &folder)
            .process_group(0)
            .spawn()
            .unwrap();
        let mut titled = Command::new("sleep")
            .arg("600")
            .env_clear()
            .current_dir(&folder)
            .process_group(0)
            .spawn()
            .unwrap();
        drop(reaper);
        assert!(!orphan.wait().unwrap().success());
        assert!(!titled.wait().unwrap().success());
        assert!(!folder.exists());
    }
}
