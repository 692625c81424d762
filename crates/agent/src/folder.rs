//! What can be told from an agent's folder while no agent is asked.

use std::ffi::OsStr;
use std::io;
use std::path::Path;

use updraft_image::is_any_made;
use updraft_model::DeploymentId;

use crate::airflow::components::{API_SERVER, WEBSERVER};
use crate::airflow::secrets::Secrets;
use crate::disk::{Disk, deployment_of};
use crate::files;
use crate::runtime::identity::{Sign, family};
use crate::runtime::record::Record;

/// Whether an Airflow that an agent here started listens on a port of loopback:
/// its web server, or what that left behind.
pub fn listens(root: &Path, port: u16) -> bool {
    // The sign of a process has the full path.
    let Ok(root) = std::path::absolute(root) else {
        return false;
    };
    let sockets = listening(port);
    disks(&root).any(|disk| {
        let web_server = [API_SERVER, WEBSERVER].iter().any(|component| {
            let record = disk.run().join(format!("{component}.json"));
            Record::read_alive(&record).is_some()
        });
        // Files of another user's processes cannot be looked at everywhere.
        if web_server && !sockets.is_empty() {
            return true;
        }
        let processes = family(&[], Some(&Sign::of(&disk)));
        processes
            .iter()
            .any(|process| has_one(process.pid, &sockets))
    })
}

/// The sockets that listen on a port, as an open file of a process names them.
fn listening(port: u16) -> Vec<String> {
    const LISTENS: &str = "0A";
    let port = format!(":{port:04X}");
    let tables = ["/proc/net/tcp", "/proc/net/tcp6"];
    let tables = tables.map(|table| std::fs::read_to_string(table).unwrap_or_default());
    let lines = tables.iter().flat_map(|table| table.lines());
    let socket = |line: &str| {
        let columns: Vec<&str> = line.split_whitespace().collect();
        let listens = columns.get(1)?.ends_with(&port) && *columns.get(3)? == LISTENS;
        listens.then_some(format!("socket:[{}]", columns.get(9)?))
    };
    lines.filter_map(socket).collect()
}

fn has_one(pid: u32, sockets: &[String]) -> bool {
    let files = std::fs::read_dir(format!("/proc/{pid}/fd"));
    let mut files = files.into_iter().flatten().flatten();
    files.any(|file| {
        std::fs::read_link(file.path())
            .is_ok_and(|target| sockets.iter().any(|socket| target == Path::new(socket)))
    })
}

/// Whether an Airflow was installed here, completely.
pub fn is_installed(root: &Path) -> bool {
    disks(root).any(|disk| is_any_made(&disk.environments()))
}

/// The password of Airflow's user `admin`; none where no Airflow was run yet.
pub fn admin_password(root: &Path) -> io::Result<Option<String>> {
    let Some(deployment) = deployment_of(root)? else {
        return Ok(None);
    };
    let disk = Disk::at(root.join(deployment.to_string()));
    let secrets = files::read_json::<Secrets>(&disk.secrets())?;
    Ok(secrets.map(|secrets| secrets.admin_password))
}

/// Removes what an agent that was killed had begun to write. Only before this
/// one writes anything.
pub(crate) fn sweep(root: &Path) {
    let folders = disks(root).flat_map(|disk| {
        let releases = disk.root().join("releases");
        [disk.root().to_owned(), disk.notes(), disk.run(), releases]
    });
    for folder in std::iter::once(root.to_owned()).chain(folders) {
        let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
        for entry in entries {
            if entry
                .file_name()
                .as_encoded_bytes()
                .starts_with(files::UNFINISHED.as_bytes())
            {
                // It is in nobody's way.
                let _ = match entry.file_type() {
                    Ok(kind) if kind.is_dir() => std::fs::remove_dir_all(entry.path()),
                    _ => std::fs::remove_file(entry.path()),
                };
            }
        }
    }
}

/// The folders of Deployments in it.
fn disks(root: &Path) -> impl Iterator<Item = Disk> {
    let folders = std::fs::read_dir(root).into_iter().flatten().flatten();
    folders
        .filter(|folder| is_deployments(&folder.file_name()) && folder.path().is_dir())
        .map(|folder| Disk::at(folder.path()))
}

fn is_deployments(folder: &OsStr) -> bool {
    let name = folder.to_str();
    name.is_some_and(|name| name.parse::<DeploymentId>().is_ok())
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::net::TcpListener;

    use super::*;
    use crate::airflow::settings::MARK;

    fn disk_in(root: &Path) -> Disk {
        let disk = Disk::at(root.join(DeploymentId::new().to_string()));
        fs::create_dir_all(disk.root()).unwrap();
        disk
    }

    #[test]
    fn what_an_airflow_left_behind_still_listens() {
        let root = tempfile::tempdir().unwrap();
        let disk = disk_in(root.path());
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        // Without a record of it, as a web server's child has none.
        let start = |stdin: std::process::Stdio| {
            let mut left = std::process::Command::new("sleep");
            left.arg("300").env(MARK, disk.root()).stdin(stdin);
            left.spawn().unwrap()
        };
        let mut other = start(std::process::Stdio::null());
        let somebody_else = listens(root.path(), port);
        let mut left = start(std::os::fd::OwnedFd::from(listener).into());
        let ours = listens(root.path(), port);
        for process in [&mut other, &mut left] {
            process.kill().unwrap();
            process.wait().unwrap();
        }
        assert!(!somebody_else);
        assert!(ours);
        assert!(!listens(root.path(), port));
    }

    #[test]
    fn what_a_killed_agent_began_to_write_is_removed() {
        let root = tempfile::tempdir().unwrap();
        let disk = disk_in(root.path());
        fs::create_dir_all(disk.notes()).unwrap();
        for folder in [root.path(), disk.root(), &disk.notes()] {
            fs::write(folder.join(".tmp-a"), "half").unwrap();
            fs::write(folder.join("whole"), "whole").unwrap();
        }
        sweep(root.path());
        for folder in [root.path(), disk.root(), &disk.notes()] {
            assert!(!folder.join(".tmp-a").exists());
            assert!(folder.join("whole").exists());
        }
    }

    #[test]
    fn an_airflow_is_installed_once_it_is_whole() {
        let root = tempfile::tempdir().unwrap();
        assert!(!is_installed(&root.path().join("nowhere")));
        let environment = disk_in(root.path()).environments().join("sha256-1");
        fs::create_dir_all(&environment).unwrap();
        fs::write(environment.with_file_name(".sha256-1.lock"), "").unwrap();
        assert!(!is_installed(root.path()));
        fs::write(environment.join("complete"), "{}").unwrap();
        assert!(is_installed(root.path()));
    }
}
