//! A copy of everything, made while the control plane runs, and back.
//!
//! Blobs are linked or copied before the database and again after it. Every blob
//! that the copied database names is older than the row that names it; one that
//! is removed meanwhile is in the first copy, one that is new in the second.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use updraft_api::VERSION;
use updraft_store::{Store, StoreError};

use crate::config::ServerConfig;

const NOTE: &str = "backup.json";
const DATABASE: &str = "updraft.db";
const KEYS: &str = "keys";
const BLOBS: &str = "blobs";
/// What a file system keeps in the folder that it is mounted at.
const NOT_OURS: &str = "lost+found";
/// A data folder that has this was not restored completely.
pub(crate) const RESTORING: &str = "restoring";

/// What a backup says about itself.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Backup {
    pub made_at: updraft_model::Timestamp,
    pub version: String,
    /// Whether the database is in it. PostgreSQL's is not: it has its own tools.
    pub database: bool,
    pub blobs: u64,
}

#[derive(Debug, thiserror::Error)]
pub enum BackupError {
    #[error("`{}` is there already", .0.display())]
    There(PathBuf),
    #[error("`{}` is no backup of a control plane", .0.display())]
    NotABackup(PathBuf),
    #[error("`{}` is no data folder of a control plane", .0.display())]
    NoDataDir(PathBuf),
    #[error("there is no database in the data folder `{}`", .0.display())]
    NoDatabase(PathBuf),
    #[error("could not read or write `{}`", path.display())]
    Io { path: PathBuf, source: io::Error },
    #[error("could not copy the database")]
    Store(#[from] StoreError),
}

impl BackupError {
    pub fn help(&self) -> Option<&'static str> {
        match self {
            Self::There(_) => Some("choose a folder that does not exist yet"),
            Self::NotABackup(_) => Some("name a folder that `updraft backup` made"),
            Self::NoDataDir(_) => Some("name the folder that the server was started with"),
            Self::NoDatabase(_) => {
                Some("set UPDRAFT_DATABASE_URL as for the server, if its database is PostgreSQL")
            }
            Self::Io { .. } => Some("see whether the folder is writable and has space"),
            Self::Store(error) => error.help(),
        }
    }
}

/// Copies database, keys and blobs to a new folder, also while a server runs on
/// them. Blobs on the same disk are hard links: they never change.
pub async fn backup(config: &ServerConfig, to: &Path) -> Result<Backup, BackupError> {
    if to.exists() {
        return Err(BackupError::There(to.to_owned()));
    }
    if !config.keys_dir().is_dir() {
        return Err(BackupError::NoDataDir(config.data_dir.clone()));
    }
    let to = &plain(to);
    let unfinished = to.with_file_name(format!(
        ".{}.unfinished",
        to.file_name().unwrap_or_default().to_string_lossy()
    ));
    let _ = fs::remove_dir_all(&unfinished);
    create_private(&unfinished)?;
    let made = fill(config, &unfinished).await.inspect_err(|_| {
        let _ = fs::remove_dir_all(&unfinished);
    })?;
    sync(&unfinished)?;
    fs::rename(&unfinished, to).map_err(at(to))?;
    sync(parent(to))?;
    Ok(made)
}

async fn fill(config: &ServerConfig, to: &Path) -> Result<Backup, BackupError> {
    let (keys, blobs) = (config.keys_dir(), config.data_dir.join(BLOBS));
    copy_in_a_thread(&keys, &to.join(KEYS), Copy::Bytes).await?;
    let before = copy_in_a_thread(&blobs, &to.join(BLOBS), Copy::Link).await?;
    let database = config.database_url.is_none();
    if database {
        let file = config.database_file();
        if !file.exists() {
            return Err(BackupError::NoDatabase(config.data_dir.clone()));
        }
        // As it is: a server of another version may be running on it.
        Store::copy_sqlite(&file, &to.join(DATABASE)).await?;
    }
    let since = copy_in_a_thread(&blobs, &to.join(BLOBS), Copy::Link).await?;
    let made = Backup {
        made_at: config.clock.now(),
        version: VERSION.into(),
        database,
        blobs: before + since,
    };
    let path = to.join(NOTE);
    let json = serde_json::to_vec_pretty(&made).map_err(|error| at(&path)(error.into()))?;
    fs::write(&path, json).map_err(at(&path))?;
    Ok(made)
}

async fn copy_in_a_thread(from: &Path, to: &Path, how: Copy) -> Result<u64, BackupError> {
    let (source, target) = (from.to_owned(), to.to_owned());
    tokio::task::spawn_blocking(move || copy_folder(&source, &target, how))
        .await
        .map_err(|error| at(to)(io::Error::other(error)))?
}

/// Makes a data folder from a backup. The data folder must not exist, or be
/// empty: nothing is ever overwritten. It may be where a disk is mounted, so
/// everything is made within it, and no server starts on it before all is there.
pub fn restore(from: &Path, data_dir: &Path) -> Result<Backup, BackupError> {
    let note = from.join(NOTE);
    let made: Backup = fs::read(&note)
        .ok()
        .and_then(|json| serde_json::from_slice(&json).ok())
        .ok_or_else(|| BackupError::NotABackup(from.to_owned()))?;
    let data_dir = &plain(data_dir);
    create_private(data_dir)?;
    let unfinished = data_dir.join(RESTORING);
    let is_half_done = unfinished.exists();
    for entry in fs::read_dir(data_dir).map_err(at(data_dir))? {
        let name = entry.map_err(at(data_dir))?.file_name();
        let ours = [RESTORING, KEYS, BLOBS, DATABASE]
            .iter()
            .any(|our| name == **our);
        if name != NOT_OURS && !(is_half_done && ours) {
            return Err(BackupError::There(data_dir.to_owned()));
        }
    }
    create_private(&unfinished)?;
    sync(&unfinished)?;
    let fill = || -> Result<(), BackupError> {
        copy_folder(&from.join(KEYS), &data_dir.join(KEYS), Copy::Bytes)?;
        // Not linked: the backup must survive whatever happens to the data folder.
        copy_folder(&from.join(BLOBS), &data_dir.join(BLOBS), Copy::Bytes)?;
        if made.database {
            let target = data_dir.join(DATABASE);
            fs::copy(from.join(DATABASE), &target).map_err(at(&target))?;
        }
        sync(data_dir)
    };
    clear(data_dir)?;
    fill().inspect_err(|_| {
        let _ = clear(data_dir);
        let _ = fs::remove_dir(&unfinished);
    })?;
    fs::remove_dir(&unfinished).map_err(at(&unfinished))?;
    sync(data_dir)?;
    sync(parent(data_dir))?;
    Ok(made)
}

/// Removes what an attempt to restore left; the mark stays.
fn clear(data_dir: &Path) -> Result<(), BackupError> {
    for name in [KEYS, BLOBS, DATABASE] {
        let path = data_dir.join(name);
        let removed = if path.is_dir() {
            fs::remove_dir_all(&path)
        } else {
            fs::remove_file(&path)
        };
        match removed {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(at(&path)(error)),
            _ => {}
        }
    }
    Ok(())
}

#[derive(Clone, Copy)]
enum Copy {
    Bytes,
    Link,
}

/// Copies a folder's files that are not there yet, and says how many those were.
/// A blob that goes meanwhile was named by nothing.
fn copy_folder(from: &Path, to: &Path, how: Copy) -> Result<u64, BackupError> {
    create_private(to)?;
    let mut copied = 0;
    for entry in fs::read_dir(from).map_err(at(from))? {
        let entry = entry.map_err(at(from))?;
        let (source, target) = (entry.path(), to.join(entry.file_name()));
        let kind = entry.file_type().map_err(at(&source))?;
        if kind.is_dir() {
            copied += copy_folder(&source, &target, how)?;
            continue;
        }
        // A blob that is just being written has no name of its own yet.
        if entry.file_name().as_encoded_bytes().contains(&b'#') {
            continue;
        }
        if target.exists() {
            continue;
        }
        let linked = matches!(how, Copy::Link) && fs::hard_link(&source, &target).is_ok();
        if !linked {
            match fs::copy(&source, &target) {
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                Err(error) => return Err(at(&target)(error)),
            }
        }
        copied += 1;
    }
    Ok(copied)
}

fn create_private(folder: &Path) -> Result<(), BackupError> {
    use std::os::unix::fs::DirBuilderExt as _;
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(folder)
        .map_err(at(folder))
}

fn sync(folder: &Path) -> Result<(), BackupError> {
    let sync = || -> io::Result<()> { Ok(rustix::fs::syncfs(fs::File::open(folder)?)?) };
    sync().map_err(at(folder))
}

/// A path without slashes at its end.
fn plain(path: &Path) -> PathBuf {
    path.components().collect()
}

fn parent(path: &Path) -> &Path {
    path.parent()
        .filter(|parent| !parent.as_os_str().is_empty())
        .unwrap_or(Path::new("."))
}

fn at(path: &Path) -> impl FnOnce(io::Error) -> BackupError {
    let path = path.to_owned();
    move |source| BackupError::Io { path, source }
}
