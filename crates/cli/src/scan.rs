//! Scans of a project, which every command remembers in the same place.

use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use updraft_bundle::{Scan, ScanError, ScanOptions};
use updraft_model::Digest;
use updraft_project::Project;

/// Where the scan of a part of a project is remembered.
pub(crate) fn cache_file(cache: &Path, project: &Project, part: &str) -> PathBuf {
    let key = Digest::of(project.root().as_os_str().as_bytes()).short();
    cache.join("scan").join(format!("{key}-{part}"))
}

/// What `dags/` would be as a bundle; none where there is no such folder.
pub(crate) fn dags(project: &Project, cache: Option<&Path>) -> Result<Option<Scan>, ScanError> {
    if !project.dags().is_dir() {
        return Ok(None);
    }
    let options = ScanOptions {
        limits: project.limits(),
        cache: cache.map(|cache| cache_file(cache, project, "dags")),
        ignore: Vec::new(),
    };
    updraft_bundle::scan(&project.dags(), &options).map(Some)
}
