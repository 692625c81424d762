//! Removes trees whose folders are read-only.
//!
//! Each folder is opened from the one above: a path within a bundle may be as
//! long as the system allows by itself, so no path from the root is.

use std::ffi::{CStr, CString};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::fs::{AtFlags, CWD, Dir, FileType, Mode, OFlags};
use rustix::io::Errno;

const FOLDER: OFlags = OFlags::RDONLY
    .union(OFlags::DIRECTORY)
    .union(OFlags::NOFOLLOW)
    .union(OFlags::CLOEXEC);

/// Removes a file, link or tree; links are not followed. What is not there
/// counts as removed.
pub(crate) fn remove_tree(path: &Path) -> io::Result<()> {
    let name = CString::new(path.as_os_str().as_encoded_bytes())?;
    if !remove_leaf(CWD, &name)? {
        empty(open_writable(CWD, &name)?)?;
        rustix::fs::unlinkat(CWD, &name, AtFlags::REMOVEDIR)?;
    }
    Ok(())
}

/// Goes down into one folder after another and up again by `..`: a chain of two
/// thousand is more than a process may have open.
fn empty(root: OwnedFd) -> io::Result<()> {
    let mut here = root;
    // Folders that are left, in each folder from the root down to here.
    let mut left = vec![remove_leaves(&here)?];
    while let Some(folders) = left.last_mut() {
        if let Some(name) = folders.last() {
            here = open_writable(here.as_fd(), name)?;
            left.push(remove_leaves(&here)?);
            continue;
        }
        left.pop();
        if let Some(folders) = left.last_mut()
            && let Some(name) = folders.pop()
        {
            here = rustix::fs::openat(&here, c"..", FOLDER, Mode::empty())?;
            rustix::fs::unlinkat(&here, &name, AtFlags::REMOVEDIR)?;
        }
    }
    Ok(())
}

/// Removes all but folders, and names those.
fn remove_leaves(folder: &OwnedFd) -> io::Result<Vec<CString>> {
    let mut folders = Vec::new();
    for entry in Dir::read_from(folder)? {
        let entry = entry?;
        let name = entry.file_name();
        if name == c"." || name == c".." {
            continue;
        }
        if entry.file_type() == FileType::Directory || !remove_leaf(folder.as_fd(), name)? {
            folders.push(name.to_owned());
        }
    }
    Ok(folders)
}

/// False when it is a folder.
fn remove_leaf(folder: BorrowedFd<'_>, name: &CStr) -> io::Result<bool> {
    match rustix::fs::unlinkat(folder, name, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => Ok(true),
        // Some systems say one, some the other.
        Err(Errno::ISDIR | Errno::PERM) => {
            let found = rustix::fs::statat(folder, name, AtFlags::SYMLINK_NOFOLLOW)?;
            match FileType::from_raw_mode(found.st_mode) {
                FileType::Directory => Ok(false),
                _ => Err(Errno::PERM.into()),
            }
        }
        Err(error) => Err(error.into()),
    }
}

fn open_writable(folder: BorrowedFd<'_>, name: &CStr) -> io::Result<OwnedFd> {
    let fd = match rustix::fs::openat(folder, name, FOLDER, Mode::empty()) {
        Err(Errno::ACCESS) => {
            rustix::fs::chmodat(folder, name, Mode::RWXU, AtFlags::empty())?;
            rustix::fs::openat(folder, name, FOLDER, Mode::empty())?
        }
        opened => opened?,
    };
    rustix::fs::fchmod(&fd, Mode::RWXU)?;
    Ok(fd)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn removes_what_is_deeper_than_a_path_can_say() {
        let place = tempfile::tempdir().unwrap();
        let root = place.path().join("root");
        std::fs::create_dir(&root).unwrap();
        let name = CString::new("n".repeat(200)).unwrap();
        let mut fd = open_writable(CWD, &CString::new(root.to_str().unwrap()).unwrap()).unwrap();
        // Deeper, too, than a process may have files open.
        for _ in 0..1500 {
            rustix::fs::mkdirat(&fd, &name, Mode::RWXU).unwrap();
            let below = open_writable(fd.as_fd(), &name).unwrap();
            rustix::fs::symlinkat("elsewhere", &below, c"link").unwrap();
            rustix::fs::fchmod(&fd, Mode::RUSR | Mode::XUSR).unwrap();
            fd = below;
        }
        remove_tree(&root).unwrap();
        assert!(!root.exists());
        remove_tree(&root).unwrap();
    }
}
