//! Lists and reads a folder on disk, as it is.

use std::ffi::{CStr, CString};
use std::io::{self, Read};
use std::os::fd::OwnedFd;
use std::path::Path;

use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags};
use rustix::io::Errno;

use crate::stat::FileStat;

/// Everything is opened relative to this, so a long path to the root does
/// not count against the limit on paths.
pub(crate) fn open_root(root: &Path) -> io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    Ok(rustix::fs::open(root, flags, Mode::empty())?)
}

pub(crate) struct Folder {
    fd: OwnedFd,
    pub(crate) names: Vec<(CString, FileType)>,
}

/// Lists one folder; `""` is the root.
pub(crate) fn list(root: &OwnedFd, folder: &str) -> io::Result<Folder> {
    let path = if folder.is_empty() { "." } else { folder };
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let fd = rustix::fs::openat(root, path, flags, Mode::empty())?;
    let mut names = Vec::new();
    for entry in Dir::read_from(&fd)? {
        let entry = entry?;
        let name = entry.file_name();
        if name != c"." && name != c".." {
            names.push((name.to_owned(), entry.file_type()));
        }
    }
    Ok(Folder { fd, names })
}

impl Folder {
    pub(crate) fn stat(&self, name: &CStr) -> io::Result<FileStat> {
        Ok(FileStat::new(&rustix::fs::statat(
            &self.fd,
            name,
            AtFlags::SYMLINK_NOFOLLOW,
        )?))
    }

    pub(crate) fn link_target(&self, name: &CStr) -> io::Result<CString> {
        Ok(rustix::fs::readlinkat(&self.fd, name, Vec::new())?)
    }
}

/// Why a file's content is not known.
#[derive(Debug)]
pub(crate) enum ReadFailed {
    /// It is not, or no longer, what its stat said.
    Changed,
    Io(io::Error),
}

impl From<io::Error> for ReadFailed {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

impl From<Errno> for ReadFailed {
    fn from(error: Errno) -> Self {
        match error {
            // Gone, or a link or a folder took its place.
            Errno::NOENT | Errno::LOOP | Errno::NOTDIR | Errno::ISDIR | Errno::NXIO => {
                Self::Changed
            }
            other => Self::Io(other.into()),
        }
    }
}

/// Passes a file's content on, piece by piece, and checks that it was the
/// file of this stat from the first byte to the last.
pub(crate) fn read_file(
    root: &OwnedFd,
    path: &str,
    stat: &FileStat,
    buffer: &mut [u8],
    mut piece: impl FnMut(&[u8]) -> io::Result<()>,
) -> Result<(), ReadFailed> {
    // Not blocking: a named pipe may have taken the file's place.
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let fd = rustix::fs::openat(root, path, flags, Mode::empty())?;
    let unchanged = |fd: &std::fs::File| -> Result<bool, Errno> {
        Ok(FileStat::new(&rustix::fs::fstat(fd)?) == *stat)
    };
    let mut file = std::fs::File::from(fd);
    if !unchanged(&file)? {
        return Err(ReadFailed::Changed);
    }
    let mut left = stat.size;
    loop {
        let count = file.read(buffer)?;
        if count == 0 {
            break;
        }
        left = left.checked_sub(count as u64).ok_or(ReadFailed::Changed)?;
        piece(&buffer[..count])?;
    }
    if left > 0 || !unchanged(&file)? {
        return Err(ReadFailed::Changed);
    }
    Ok(())
}
