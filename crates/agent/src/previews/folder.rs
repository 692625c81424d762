//! The folder of a Preview in that of the agent that runs it.
//!
//! ```text
//! <root>/previews/<preview>/             the root of the Preview's own agent
//!   token                                what that agent signs in with
//!   preview.json                         its name, and where its Airflow listens
//!   borrowed.json                        environments of the other agent that it uses
//! ```

use std::collections::BTreeSet;
use std::io;
use std::net::{Ipv4Addr, TcpListener};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use updraft_model::{DeploymentId, DeploymentName};

use crate::files;
use crate::folder::listens;

const PREVIEWS: &str = "previews";
const PREVIEW: &str = "preview.json";

pub(crate) struct PreviewFolder {
    pub(crate) id: DeploymentId,
    pub(crate) root: PathBuf,
}

/// A Preview that an agent here runs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeptPreview {
    pub name: DeploymentName,
    /// Where its Airflow listens, on loopback.
    pub port: u16,
    /// Where people reach it.
    pub url: String,
}

impl PreviewFolder {
    pub(super) fn new(agent: &Path, id: DeploymentId) -> Self {
        Self {
            id,
            root: agent.join(PREVIEWS).join(id.to_string()),
        }
    }

    /// Those that are here, wanted or not.
    pub(crate) fn all(agent: &Path) -> Vec<Self> {
        let folders = std::fs::read_dir(agent.join(PREVIEWS));
        let folders = folders.into_iter().flatten().flatten();
        let id = |name: std::ffi::OsString| name.to_str()?.parse().ok();
        folders
            .filter_map(|folder| Some(Self::new(agent, id(folder.file_name())?)))
            .collect()
    }

    pub(super) fn token(&self) -> PathBuf {
        self.root.join("token")
    }

    pub(super) fn keep_token(&self, secret: &str) -> io::Result<()> {
        // Passable, because Airflow's user goes through it; not listable.
        files::make_folder(&self.root, 0o711)?;
        files::write(&self.token(), secret.as_bytes(), 0o600)
    }

    pub(crate) fn kept(&self) -> io::Result<Option<KeptPreview>> {
        files::read_json(&self.root.join(PREVIEW))
    }

    /// Where its Airflow listens: as before, unless somebody else does now.
    pub(super) fn port(&self, agent: &Path, above: u16) -> io::Result<u16> {
        let before = self.kept()?.map(|kept| kept.port);
        if let Some(port) = before
            && (is_free(port) || listens(&self.root, port))
        {
            return Ok(port);
        }
        // Those of others may not be up at the moment.
        let others = Self::all(agent);
        let others = others.iter().filter(|other| other.id != self.id);
        let taken: BTreeSet<u16> = others
            .filter_map(|other| Some(other.kept().ok()??.port))
            .collect();
        let mut ports = (above..=u16::MAX).skip(1).chain(1024..=above);
        let free = ports.find(|port| !taken.contains(port) && is_free(*port));
        free.ok_or_else(|| io::Error::other("no port of this machine is free"))
    }

    pub(super) fn keep(&self, preview: &KeptPreview) -> io::Result<()> {
        files::write_json(&self.root.join(PREVIEW), preview, 0o600)
    }
}

fn is_free(port: u16) -> bool {
    TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok()
}

/// The Previews that the agent of this folder runs, with the folder of each.
pub fn kept_previews(agent: &Path) -> io::Result<Vec<(PathBuf, KeptPreview)>> {
    let mut found = Vec::new();
    for folder in PreviewFolder::all(agent) {
        if let Some(kept) = folder.kept()? {
            found.push((folder.root, kept));
        }
    }
    found.sort_unstable_by(|(_, one), (_, other)| one.name.cmp(&other.name));
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_preview_keeps_its_port_and_no_other_takes_it() {
        let agent = tempfile::tempdir().unwrap();
        let folder = || {
            let folder = PreviewFolder::new(agent.path(), DeploymentId::new());
            folder.keep_token("secret").unwrap();
            folder
        };
        let keep = |folder: &PreviewFolder, name: &str| {
            let port = folder.port(agent.path(), 20_000).unwrap();
            let kept = KeptPreview {
                name: name.parse().unwrap(),
                port,
                url: format!("http://127.0.0.1:{port}"),
            };
            folder.keep(&kept).unwrap();
            port
        };
        let (one, other) = (folder(), folder());
        let port = keep(&one, "b");
        assert!(port > 20_000);
        assert_ne!(keep(&other, "a"), port);
        assert_eq!(keep(&one, "b"), port);
        let listed = kept_previews(agent.path()).unwrap();
        let names: Vec<_> = listed.iter().map(|(_, kept)| kept.name.as_str()).collect();
        assert_eq!(names, ["a", "b"]);

        // Somebody else listens there now.
        let _somebody = TcpListener::bind((Ipv4Addr::LOCALHOST, port)).unwrap();
        assert_ne!(keep(&one, "b"), port);
    }
}
