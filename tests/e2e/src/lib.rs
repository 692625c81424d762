//! The whole product in a folder of its own: the real binary as control plane,
//! agent and command line, and a real Airflow.

mod airflow;
mod installation;
mod project;

pub use airflow::Airflow;
pub use installation::{Installation, Output, updraft_binary};
pub use project::Project;

use std::time::{Duration, Instant};

use anyhow::{Result, bail};

/// Waits until `look` finds something.
pub fn wait_for<T>(
    what: &str,
    at_most: Duration,
    mut look: impl FnMut() -> Result<Option<T>>,
) -> Result<T> {
    let start = Instant::now();
    loop {
        if let Some(found) = look()? {
            return Ok(found);
        }
        if start.elapsed() > at_most {
            bail!("waited {at_most:?} for {what}");
        }
        std::thread::sleep(Duration::from_millis(100));
    }
}

/// Copies a folder's Python files and what lies beside them.
pub fn copy_tree(from: &std::path::Path, to: &std::path::Path) -> Result<()> {
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
