//! Bundles from folder to folder, through the crate's front door.

#![expect(clippy::unwrap_used, reason = "tests")]

mod disk;
mod hostile;
mod properties;
mod scan;

use std::fs;
use std::io::{Cursor, Read};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use tempfile::TempDir;
use updraft_bundle::{Scan, ScanOptions, scan};
use updraft_model::Digest;

/// A folder to bundle, with a cache beside it.
pub(crate) struct Project {
    place: TempDir,
}

impl Project {
    pub(crate) fn new() -> Self {
        let place = TempDir::new().unwrap();
        fs::create_dir(place.path().join("project")).unwrap();
        Self { place }
    }

    pub(crate) fn with_files(count: usize) -> Self {
        let project = Self::new();
        for n in 0..count {
            project.write(&format!("team_{}/dag_{n}.py", n % 7), &format!("N = {n}\n"));
        }
        project
    }

    pub(crate) fn root(&self) -> PathBuf {
        self.place.path().join("project")
    }

    pub(crate) fn path(&self, path: &str) -> PathBuf {
        self.root().join(path)
    }

    pub(crate) fn write(&self, path: &str, content: &str) {
        let path = self.path(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
    }

    pub(crate) fn link(&self, path: &str, target: &str) {
        let path = self.path(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        symlink(target, path).unwrap();
    }

    pub(crate) fn set_mode(&self, path: &str, mode: u32) {
        fs::set_permissions(self.path(path), fs::Permissions::from_mode(mode)).unwrap();
    }

    pub(crate) fn options(&self) -> ScanOptions {
        ScanOptions {
            cache: Some(self.place.path().join("scan.cache")),
            ..ScanOptions::default()
        }
    }

    pub(crate) fn scan(&self) -> Scan {
        scan(&self.root(), &self.options()).unwrap()
    }

    pub(crate) fn refusal(&self) -> String {
        let error = scan(&self.root(), &self.options()).unwrap_err();
        assert!(!error.help().is_empty());
        error.to_string()
    }
}

pub(crate) fn paths(scan: &Scan) -> Vec<&str> {
    scan.entries()
        .iter()
        .map(|entry| entry.path.as_str())
        .collect()
}

/// A scan as the source of layers.
pub(crate) fn source(scan: &Scan) -> impl Fn(&Digest) -> std::io::Result<Box<dyn Read>> + '_ {
    |digest| {
        let bytes = scan.layer_bytes(digest).map_err(std::io::Error::other)?;
        Ok(Box::new(Cursor::new(bytes)))
    }
}

/// Every file and link below a folder with its content, for comparisons.
pub(crate) fn tree(root: &Path) -> Vec<(String, String)> {
    let mut found = Vec::new();
    let mut open = vec![root.to_owned()];
    while let Some(folder) = open.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            let name = path
                .strip_prefix(root)
                .unwrap()
                .to_str()
                .unwrap()
                .to_owned();
            let kind = fs::symlink_metadata(&path).unwrap();
            if kind.is_dir() {
                open.push(path);
            } else if kind.is_symlink() {
                found.push((
                    name,
                    format!("-> {}", fs::read_link(path).unwrap().display()),
                ));
            } else {
                let x = if kind.permissions().mode() & 0o100 == 0 {
                    ""
                } else {
                    "x:"
                };
                let content = fs::read(path).unwrap();
                found.push((name, format!("{x}{}", String::from_utf8_lossy(&content))));
            }
        }
    }
    found.sort();
    found
}
