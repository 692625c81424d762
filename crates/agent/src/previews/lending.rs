//! Environments of another agent of this machine, for the agent of a Preview: what is
//! installed there is not installed once more.

use std::collections::BTreeSet;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use updraft_image::{Realised, RunAs, realised_folder, reopen};
use updraft_model::Digest;

use super::folder::PreviewFolder;
use crate::disk::Disk;
use crate::files;

#[derive(Clone)]
pub(crate) struct Lender {
    environments: PathBuf,
    /// Where the borrower notes what it uses.
    borrowed: PathBuf,
}

/// Held by whoever borrows, and by whoever removes what nobody does: both are in
/// this process, as one agent runs the other.
static LENDING: Mutex<()> = Mutex::new(());
const BORROWED: &str = "borrowed.json";

impl Lender {
    /// The one with this disk, for the agent of this root.
    pub(crate) fn new(lender: &Disk, borrower: &Path) -> Self {
        Self {
            environments: lender.environments(),
            borrowed: borrower.join(BORROWED),
        }
    }

    /// An environment that is there, and stays as long as it is noted.
    pub(crate) fn lend(&self, key: Digest, run_as: Option<RunAs>) -> Option<Realised> {
        let is_noted = self.note(key).unwrap_or_else(|error| {
            tracing::warn!(%error, "could not note which environment is used, so another is made");
            false
        });
        is_noted.then(|| reopen(&self.environments, key, run_as))?
    }

    /// Notes an environment, if it is there.
    fn note(&self, key: Digest) -> io::Result<bool> {
        let _lending = LENDING.lock().unwrap_or_else(PoisonError::into_inner);
        if realised_folder(&self.environments, key).is_none() {
            return Ok(false);
        }
        let mut borrowed = borrowed(&self.borrowed);
        if borrowed.insert(key) {
            files::write_json(&self.borrowed, &borrowed, 0o600)?;
        }
        Ok(true)
    }
}

fn borrowed(file: &Path) -> BTreeSet<Digest> {
    files::read_json(file).ok().flatten().unwrap_or_default()
}

/// Runs what takes environments away, told those that Previews' agents use; nobody
/// begins to use another meanwhile.
pub(crate) fn with_lent<T>(disk: &Disk, remove: impl FnOnce(&BTreeSet<Digest>) -> T) -> T {
    let _lending = LENDING.lock().unwrap_or_else(PoisonError::into_inner);
    let agent = disk.root().parent();
    let previews = agent.map(PreviewFolder::all).unwrap_or_default();
    let lent = previews
        .iter()
        .flat_map(|it| borrowed(&it.root.join(BORROWED)));
    remove(&lent.collect())
}

/// Gives back what a Preview's agent used and does not hold any more.
pub(crate) fn give_back(disk: &Disk, held: &BTreeSet<Digest>) -> io::Result<()> {
    let Some(root) = disk.root().parent() else {
        return Ok(());
    };
    let file = root.join(BORROWED);
    let mut borrowed = borrowed(&file);
    let before = borrowed.len();
    borrowed.retain(|key| held.contains(key));
    if borrowed.len() == before {
        return Ok(());
    }
    files::write_json(&file, &borrowed, 0o600)
}

#[cfg(test)]
mod tests {
    use updraft_model::DeploymentId;

    use super::*;

    #[test]
    fn what_is_lent_stays_until_it_is_given_back() {
        let root = tempfile::tempdir().unwrap();
        let disk = Disk::open(root.path(), DeploymentId::new()).unwrap();
        let (there, not_there) = (Digest::of(b"there"), Digest::of(b"not there"));
        let folder = disk.environments().join(there.folder());
        std::fs::create_dir(&folder).unwrap();
        std::fs::write(folder.join("complete"), "").unwrap();
        let preview = PreviewFolder::new(root.path(), DeploymentId::new());
        let borrower = Disk::open(&preview.root, preview.id).unwrap();
        let lent = || with_lent(&disk, Clone::clone);

        let lender = Lender::new(&disk, &preview.root);
        assert!(!lender.note(not_there).unwrap());
        assert!(lent().is_empty());
        assert!(lender.note(there).unwrap());
        assert_eq!(lent(), BTreeSet::from([there]));

        give_back(&borrower, &BTreeSet::from([there, not_there])).unwrap();
        assert_eq!(lent(), BTreeSet::from([there]));
        give_back(&borrower, &BTreeSet::new()).unwrap();
        assert!(lent().is_empty());
    }
}
