//! The whole product in a folder of its own: the real binary as control plane,
//! agent and command line, and a real Airflow.

mod airflow;
mod engines;
mod front;
mod installation;
mod project;

pub use airflow::Airflow;
pub use engines::{Engine, EngineName};
pub use front::Front;
pub use installation::{
    DEPLOYMENT, Installation, Output, PREVIEW_USER, peak_memory_mb, updraft_binary,
};
pub use project::Project;

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Result, bail};

/// How long a wait may take on a machine that has much else to do: only what does
/// not work takes so long.
pub const PATIENCE: Duration = Duration::from_secs(600);

/// Waits until `look` finds something. It looks less and less often: each look
/// at an Airflow keeps it from what it is about.
pub fn wait_for<T>(
    what: &str,
    at_most: Duration,
    mut look: impl FnMut() -> Result<Option<T>>,
) -> Result<T> {
    let start = Instant::now();
    let mut pause = Duration::from_millis(50);
    loop {
        if let Some(found) = look()? {
            return Ok(found);
        }
        if start.elapsed() > at_most {
            bail!("waited {at_most:?} for {what}");
        }
        std::thread::sleep(pause);
        pause = Duration::from_millis(500).min(pause * 3 / 2);
    }
}

/// Every file below a folder.
pub fn files_below(root: &Path) -> Result<Vec<PathBuf>> {
    let (mut files, mut folders) = (Vec::new(), vec![root.to_owned()]);
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder)? {
            let entry = entry?;
            if entry.file_type()?.is_dir() {
                folders.push(entry.path());
            } else {
                files.push(entry.path());
            }
        }
    }
    Ok(files)
}

/// What folders of this name hold, wherever they lie.
pub fn folders_below(root: &Path, name: &str) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    let mut folders = vec![root.to_owned()];
    while let Some(folder) = folders.pop() {
        let is_it = folder.file_name().is_some_and(|it| it == name);
        for entry in std::fs::read_dir(folder)? {
            let entry = entry?;
            if is_it {
                found.push(entry.path());
            } else if entry.file_type()?.is_dir() {
                folders.push(entry.path());
            }
        }
    }
    found.sort();
    Ok(found)
}

/// Copies a folder's Python files and what lies beside them.
pub fn copy_tree(from: &Path, to: &Path) -> Result<()> {
    std::fs::create_dir_all(to)?;
    for entry in std::fs::read_dir(from)? {
        let entry = entry?;
        let target = to.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            if entry.file_name() != "__pycache__" {
                copy_tree(&entry.path(), &target)?;
            }
        } else {
            std::fs::copy(entry.path(), target)?;
        }
    }
    Ok(())
}
