//! A bundle's folder on an agent: its versions and the link to the live one.
//!
//! ```text
//! <bundle>/current -> versions/sha256-ab…
//! <bundle>/versions/sha256-ab…/          read-only tree
//! <bundle>/versions/sha256-ab….json      what it should be
//! <bundle>/versions/.spare-ab…/          hard-linked copy, for the next version to start from
//! <bundle>/versions/.tmp-…               work of a process that may be dead
//! ```
//!
//! A version is there when both its tree and its record are. Trees get their
//! name last, so a crash leaves only names that start with a dot, or a record
//! without a tree.

use std::ffi::OsString;
use std::fs;
use std::io;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use updraft_model::Digest;

use crate::error::{VersionError, while_doing};
use crate::failpoint::failpoint;
use crate::record::Record;
use crate::remove::remove_tree;
use crate::table::LayerTable;
use crate::verify::{self, Damage, Verify};

const TEMPORARY: &str = ".tmp-";
pub(crate) const SPARE: &str = ".spare-";
const CURRENT: &str = "current";
const VERSIONS: &str = "versions";

/// The folder of one bundle of one Deployment. One process at a time writes
/// to it; the agent's lock on its root sees to that.
#[derive(Debug, Clone)]
pub struct BundleDir {
    root: PathBuf,
    versions: PathBuf,
}

impl BundleDir {
    /// Opens the folder, and makes it if need be.
    pub fn open(root: impl Into<PathBuf>) -> Result<Self, VersionError> {
        let root = root.into();
        let versions = root.join(VERSIONS);
        fs::create_dir_all(&versions).map_err(while_doing("create", &versions))?;
        Ok(Self { root, versions })
    }

    pub fn root(&self) -> &Path {
        &self.root
    }

    pub fn versions_dir(&self) -> &Path {
        &self.versions
    }

    /// The link that Airflow 2 reads through.
    pub fn current_link(&self) -> PathBuf {
        self.root.join(CURRENT)
    }

    /// Where a version is, or would be.
    pub fn version_path(&self, digest: &Digest) -> PathBuf {
        self.versions.join(digest.folder())
    }

    pub(crate) fn record_path(&self, digest: &Digest) -> PathBuf {
        self.versions.join(format!("{}.json", digest.folder()))
    }

    pub(crate) fn spare_path(&self, digest: &Digest) -> PathBuf {
        self.versions.join(format!("{SPARE}{}", digest.hex()))
    }

    /// The versions that are completely here.
    pub fn versions(&self) -> Result<Vec<Digest>, VersionError> {
        let names = self.names()?;
        let mut versions: Vec<Digest> = names
            .iter()
            .filter_map(|name| Digest::from_folder(name.to_str()?))
            .filter(|digest| self.is_here(digest))
            .collect();
        versions.sort_unstable();
        Ok(versions)
    }

    /// Whether a version is completely here; says nothing about damage.
    pub fn is_here(&self, digest: &Digest) -> bool {
        self.version_path(digest).is_dir() && self.record_path(digest).is_file()
    }

    /// What a version holds, by layer; none when it is not (completely) here.
    pub fn tables(&self, digest: &Digest) -> Result<Option<Vec<LayerTable>>, VersionError> {
        Ok(self.record(digest)?.map(|record| record.layers))
    }

    pub(crate) fn record(&self, digest: &Digest) -> Result<Option<Record>, VersionError> {
        if !self.version_path(digest).is_dir() {
            return Ok(None);
        }
        let file = self.record_path(digest);
        Record::load(&file, digest).map_err(while_doing("read", &file))
    }

    /// Lists what in a version is not as it was written: changed, extra and
    /// missing files. Nothing means that it is good.
    pub fn verify_version(
        &self,
        digest: &Digest,
        how: Verify,
    ) -> Result<Vec<Damage>, VersionError> {
        let record = self.record(digest)?.ok_or(VersionError::Missing(*digest))?;
        let path = self.version_path(digest);
        verify::compare(&path, &record, how).map_err(while_doing("verify", &path))
    }

    /// The version that `current` points to.
    pub fn live_version(&self) -> Result<Option<Digest>, VersionError> {
        let link = self.current_link();
        let foreign = || VersionError::ForeignCurrent(link.clone());
        match fs::read_link(&link) {
            Ok(target) => {
                let name = target.strip_prefix(VERSIONS).ok().and_then(Path::to_str);
                name.and_then(Digest::from_folder)
                    .map(Some)
                    .ok_or_else(foreign)
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) if error.kind() == io::ErrorKind::InvalidInput => Err(foreign()),
            Err(error) => Err(while_doing("read", &link)(error)),
        }
    }

    /// Makes a version the live one. Readers see the old or the new, and the
    /// switch survives a power cut once this returns.
    pub fn switch_current(&self, digest: &Digest) -> Result<(), VersionError> {
        failpoint("bundle.switch.start");
        if !self.is_here(digest) {
            return Err(VersionError::Missing(*digest));
        }
        if self.live_version()? == Some(*digest) {
            return Ok(());
        }
        let link = self.current_link();
        let temporary = self.root.join(temporary_name());
        symlink(Path::new(VERSIONS).join(digest.folder()), &temporary)
            .map_err(while_doing("create", &temporary))?;
        failpoint("bundle.switch.after_link");
        fs::rename(&temporary, &link).map_err(|error| {
            let _ = fs::remove_file(&temporary);
            while_doing("switch", &link)(error)
        })?;
        failpoint("bundle.switch.after_rename");
        sync_folder(&self.root)?;
        failpoint("bundle.switch.end");
        Ok(())
    }

    /// Removes a version that is not live. One that is not here counts as
    /// removed.
    pub fn remove_version(&self, digest: &Digest) -> Result<(), VersionError> {
        if self.live_version()? == Some(*digest) {
            return Err(VersionError::Live(*digest));
        }
        let path = self.version_path(digest);
        let doomed = self.versions.join(temporary_name());
        // Renamed first: half a version must not have a version's name.
        match fs::rename(&path, &doomed) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(while_doing("remove", &path)(error)),
        }
        failpoint("bundle.remove.after_rename");
        for path in [self.record_path(digest), self.spare_path(digest), doomed] {
            remove_tree(&path).map_err(while_doing("remove", &path))?;
        }
        Ok(())
    }

    /// Removes what dead processes left, and spares of versions that are not
    /// live. Returns how many things that were. Call it when nothing else
    /// works in the folder: at the start of an agent.
    pub fn clean_leftovers(&self) -> Result<usize, VersionError> {
        let live = self.live_version()?;
        let spare = live.map(|digest| self.spare_path(&digest));
        let mut leftovers = Vec::new();
        for name in self.names()? {
            let path = self.versions.join(&name);
            let Some(name) = name.to_str() else { continue };
            let version = |name: &str| Digest::from_folder(name);
            let stale = if name.starts_with(TEMPORARY) {
                true
            } else if name.starts_with(SPARE) {
                Some(&path) != spare.as_ref()
            } else if let Some(digest) = name.strip_suffix(".json").and_then(version) {
                !self.version_path(&digest).is_dir()
            } else {
                version(name).is_some_and(|digest| !self.record_path(&digest).exists())
                    && version(name) != live
            };
            if stale {
                leftovers.push(path);
            }
        }
        let listed = fs::read_dir(&self.root).map_err(while_doing("list", &self.root))?;
        for entry in listed {
            let entry = entry.map_err(while_doing("list", &self.root))?;
            if entry
                .file_name()
                .as_encoded_bytes()
                .starts_with(TEMPORARY.as_bytes())
            {
                leftovers.push(entry.path());
            }
        }
        for path in &leftovers {
            remove_tree(path).map_err(while_doing("remove", path))?;
        }
        Ok(leftovers.len())
    }

    fn names(&self) -> Result<Vec<OsString>, VersionError> {
        let list = || -> io::Result<Vec<OsString>> {
            fs::read_dir(&self.versions)?
                .map(|entry| Ok(entry?.file_name()))
                .collect()
        };
        list().map_err(while_doing("list", &self.versions))
    }
}

/// A name that no other thread or process uses at the moment.
pub(crate) fn temporary_name() -> String {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let count = COUNT.fetch_add(1, Ordering::Relaxed);
    format!(
        "{TEMPORARY}{:x}-{:x}-{count:x}",
        std::process::id(),
        crate::stat::now()
    )
}

pub(crate) fn sync_folder(folder: &Path) -> Result<(), VersionError> {
    let sync = || fs::File::open(folder)?.sync_all();
    sync().map_err(while_doing::<io::Error>("sync", folder))
}
