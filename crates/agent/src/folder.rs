//! What can be told from an agent's folder while no agent is asked.

use std::io;
use std::path::Path;

use updraft_image::is_any_made;

use crate::airflow::components::{API_SERVER, WEBSERVER};
use crate::airflow::secrets::Secrets;
use crate::disk::{Disk, deployment_of};
use crate::files;
use crate::runtime::identity::{Sign, family};
use crate::runtime::record::Record;

/// Whether anything of an Airflow that an agent here started still runs: its web
/// server, or what that left behind, may hold the port.
pub fn is_running(root: &Path) -> bool {
    // The sign of a process has the full path.
    let Ok(root) = std::path::absolute(root) else {
        return false;
    };
    disks(&root).any(|disk| {
        let web_server = [API_SERVER, WEBSERVER].iter().any(|component| {
            let record = disk.run().join(format!("{component}.json"));
            Record::read_alive(&record).is_some()
        });
        web_server || !family(&[], Some(&Sign::of(&disk))).is_empty()
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
    let folders = disks(root).flat_map(|disk| [disk.root().to_owned(), disk.notes()]);
    for folder in std::iter::once(root.to_owned()).chain(folders) {
        let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
        for entry in entries {
            if entry
                .file_name()
                .as_encoded_bytes()
                .starts_with(files::UNFINISHED.as_bytes())
            {
                // It is in nobody's way.
                let _ = std::fs::remove_file(entry.path());
            }
        }
    }
}

/// The folders of Deployments in it.
fn disks(root: &Path) -> impl Iterator<Item = Disk> {
    let folders = std::fs::read_dir(root).into_iter().flatten().flatten();
    folders
        .filter(|folder| folder.path().is_dir())
        .map(|folder| Disk::at(folder.path()))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::airflow::settings::MARK;

    #[test]
    fn what_an_airflow_left_behind_still_runs() {
        let root = tempfile::tempdir().unwrap();
        let disk = Disk::at(root.path().join("dep_1"));
        fs::create_dir_all(disk.root()).unwrap();
        assert!(!is_running(root.path()));
        // Without a record of it, as a web server's child has none.
        let mut left = std::process::Command::new("sleep")
            .arg("300")
            .env(MARK, disk.root())
            .spawn()
            .unwrap();
        let running = is_running(root.path());
        left.kill().unwrap();
        left.wait().unwrap();
        assert!(running);
        assert!(!is_running(root.path()));
    }

    #[test]
    fn what_a_killed_agent_began_to_write_is_removed() {
        let root = tempfile::tempdir().unwrap();
        let disk = Disk::at(root.path().join("dep_1"));
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
        let environment = root.path().join("dep_1/environments/sha256-1");
        fs::create_dir_all(&environment).unwrap();
        fs::write(environment.with_file_name(".sha256-1.lock"), "").unwrap();
        assert!(!is_installed(root.path()));
        fs::write(environment.join("complete"), "{}").unwrap();
        assert!(is_installed(root.path()));
    }
}
