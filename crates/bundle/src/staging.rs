//! A tree under construction, which vanishes unless it is published.

use std::fs;
use std::io::{self, Read};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, Mode, OFlags, Timespec, Timestamps};

use crate::error::{VersionError, while_doing};
use crate::record::{OnDisk, mode_of};
use crate::remove::remove_tree;
use crate::stat::{self, FileStat};
use crate::tree;

const SECOND: i64 = 1_000_000_000;

pub(crate) struct Staging {
    path: PathBuf,
    fd: OwnedFd,
}

impl Drop for Staging {
    fn drop(&mut self) {
        // What cannot be removed now is removed by `clean_leftovers`.
        let _ = remove_tree(&self.path);
    }
}

impl Staging {
    pub(crate) fn create(path: PathBuf) -> Result<Self, VersionError> {
        fs::create_dir(&path).map_err(while_doing("create", &path))?;
        Self::open(path)
    }

    /// Takes over a tree that has the rest of its life here.
    pub(crate) fn adopt(existing: &Path, path: PathBuf) -> Result<Self, VersionError> {
        fs::rename(existing, &path).map_err(while_doing("rename", existing))?;
        Self::open(path)
    }

    fn open(path: PathBuf) -> Result<Self, VersionError> {
        match tree::open_root(&path) {
            Ok(fd) => Ok(Self { path, fd }),
            Err(error) => {
                let _ = remove_tree(&path);
                Err(while_doing("open", &path)(error))
            }
        }
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    pub(crate) fn make_folder(&self, folder: &str) -> Result<(), VersionError> {
        rustix::fs::mkdirat(&self.fd, folder, Mode::from_raw_mode(0o755))
            .map_err(self.doing("create", folder))
    }

    pub(crate) fn remove_folder(&self, folder: &str) -> Result<(), VersionError> {
        rustix::fs::unlinkat(&self.fd, folder, AtFlags::REMOVEDIR)
            .map_err(self.doing("remove", folder))
    }

    /// `""` is the tree itself.
    pub(crate) fn set_folder_mode(&self, folder: &str, mode: u32) -> Result<(), VersionError> {
        let path = if folder.is_empty() { "." } else { folder };
        rustix::fs::chmodat(&self.fd, path, Mode::from_raw_mode(mode), AtFlags::empty())
            .map_err(self.doing("change the mode of", folder))
    }

    pub(crate) fn remove_file(&self, path: &str) -> Result<(), VersionError> {
        rustix::fs::unlinkat(&self.fd, path, AtFlags::empty()).map_err(self.doing("remove", path))
    }

    pub(crate) fn make_link(&self, path: &str, target: &str) -> Result<(), VersionError> {
        rustix::fs::symlinkat(target, &self.fd, path).map_err(self.doing("create", path))
    }

    /// Shares a file with another tree. False when that cannot be: another
    /// file system, too many links, a file system without them.
    pub(crate) fn hard_link(&self, from: &OwnedFd, path: &str) -> Result<bool, VersionError> {
        use rustix::io::Errno;
        match rustix::fs::linkat(from, path, &self.fd, path, AtFlags::empty()) {
            Ok(()) => Ok(true),
            Err(
                Errno::XDEV
                | Errno::MLINK
                | Errno::PERM
                | Errno::OPNOTSUPP
                | Errno::NOSYS
                | Errno::NOENT,
            ) => Ok(false),
            Err(error) => Err(self.doing("link", path)(error)),
        }
    }

    /// Writes a file that was not there. Its time is now, or later when the
    /// file before it at this path (`newer_than`) has the same second: Python
    /// tells versions of a file apart by size and whole seconds.
    pub(crate) fn write_file(
        &self,
        path: &str,
        executable: bool,
        content: &mut dyn Read,
        newer_than: Option<i64>,
        sync: bool,
    ) -> Result<OnDisk, VersionError> {
        let mut write = || -> io::Result<OnDisk> {
            let flags =
                OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let fd = rustix::fs::openat(&self.fd, path, flags, Mode::from_raw_mode(0o600))?;
            let mut file = fs::File::from(fd);
            io::copy(content, &mut file)?;
            rustix::fs::fchmod(&file, Mode::from_raw_mode(mode_of(executable)))?;
            if let Some(before) = newer_than.map(|mtime| mtime.div_euclid(SECOND))
                && stat::now().div_euclid(SECOND) <= before
            {
                let time = Timespec {
                    tv_sec: before + 1,
                    tv_nsec: 0,
                };
                rustix::fs::futimens(
                    &file,
                    &Timestamps {
                        last_access: time,
                        last_modification: time,
                    },
                )?;
            }
            if sync {
                file.sync_all()?;
            }
            Ok(OnDisk::new(&FileStat::new(&rustix::fs::fstat(&file)?)))
        };
        write().map_err(self.doing("write", path))
    }

    pub(crate) fn sync_folder(&self, folder: &str) -> Result<(), VersionError> {
        let path = if folder.is_empty() { "." } else { folder };
        let sync = || -> rustix::io::Result<()> {
            let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
            rustix::fs::fsync(rustix::fs::openat(&self.fd, path, flags, Mode::empty())?)
        };
        sync().map_err(self.doing("sync", folder))
    }

    /// Brings everything to disk in one go, which for many files is far
    /// quicker than one by one.
    pub(crate) fn sync_all(&self) -> Result<(), VersionError> {
        #[cfg(target_os = "linux")]
        let synced = rustix::fs::syncfs(&self.fd);
        #[cfg(not(target_os = "linux"))]
        let synced = {
            rustix::fs::sync();
            rustix::io::Result::Ok(())
        };
        synced.map_err(self.doing("sync", ""))
    }

    /// Gives the tree its name. A tree that had the name before is exchanged
    /// in the same moment, and removed.
    pub(crate) fn publish(self, name: &Path) -> Result<(), VersionError> {
        if name.exists() {
            return exchange(&self.path, name).map_err(while_doing("replace", name));
        }
        fs::rename(&self.path, name).map_err(while_doing("rename", name))
    }

    fn doing<E: Into<io::Error>>(
        &self,
        doing: &'static str,
        path: &str,
    ) -> impl FnOnce(E) -> VersionError {
        move |error| VersionError::of_system(doing, self.path.join(path), error.into())
    }
}

#[cfg(target_os = "linux")]
fn exchange(a: &Path, b: &Path) -> io::Result<()> {
    use rustix::fs::{CWD, RenameFlags, renameat_with};
    Ok(renameat_with(CWD, a, CWD, b, RenameFlags::EXCHANGE)?)
}

#[cfg(not(target_os = "linux"))]
fn exchange(a: &Path, b: &Path) -> io::Result<()> {
    let aside = a.with_extension("old");
    fs::rename(b, &aside)?;
    fs::rename(a, b)?;
    fs::rename(&aside, a)
}
