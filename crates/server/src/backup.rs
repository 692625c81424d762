//! A copy of everything, made while the control plane runs, and back.
//!
//! The database is copied first: every blob that it names was there before the
//! row that names it, and is linked or copied after.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use updraft_api::VERSION;
use updraft_store::{Store, StoreError};

use crate::config::ServerConfig;
use crate::server::open_store;

const NOTE: &str = "backup.json";
const DATABASE: &str = "updraft.db";
const KEYS: &str = "keys";
const BLOBS: &str = "blobs";

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
    let unfinished = beside(to, "unfinished");
    let _ = fs::remove_dir_all(&unfinished);
    create_private(&unfinished)?;
    let store = open_store(config).await?;
    let made = fill(config, &store, &unfinished).await;
    store.close().await;
    let made = made.inspect_err(|_| {
        let _ = fs::remove_dir_all(&unfinished);
    })?;
    sync(&unfinished)?;
    fs::rename(&unfinished, to).map_err(at(to))?;
    sync_parent(to)?;
    Ok(made)
}

async fn fill(config: &ServerConfig, store: &Store, to: &Path) -> Result<Backup, BackupError> {
    let database = store.copy_to(&to.join(DATABASE)).await?;
    let (from, target) = (config.data_dir.clone(), to.to_owned());
    let copied = tokio::task::spawn_blocking(move || -> Result<u64, BackupError> {
        copy_folder(&from.join(KEYS), &target.join(KEYS), Copy::Bytes)?;
        copy_folder(&from.join(BLOBS), &target.join(BLOBS), Copy::Link)
    });
    let blobs = copied
        .await
        .map_err(|error| at(to)(io::Error::other(error)))??;
    let made = Backup {
        made_at: config.clock.now(),
        version: VERSION.into(),
        database,
        blobs,
    };
    let path = to.join(NOTE);
    let json = serde_json::to_vec_pretty(&made).map_err(|error| at(&path)(error.into()))?;
    fs::write(&path, json).map_err(at(&path))?;
    Ok(made)
}

/// Makes a data folder from a backup. The data folder must not exist, or be
/// empty: nothing is ever overwritten.
pub fn restore(from: &Path, data_dir: &Path) -> Result<Backup, BackupError> {
    let note = from.join(NOTE);
    let made: Backup = fs::read(&note)
        .ok()
        .and_then(|json| serde_json::from_slice(&json).ok())
        .ok_or_else(|| BackupError::NotABackup(from.to_owned()))?;
    match fs::read_dir(data_dir) {
        Ok(mut entries) => {
            if entries.next().is_some() {
                return Err(BackupError::There(data_dir.to_owned()));
            }
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(at(data_dir)(error)),
    }
    let unfinished = beside(data_dir, "restoring");
    let _ = fs::remove_dir_all(&unfinished);
    create_private(&unfinished)?;
    let fill = || -> Result<(), BackupError> {
        if made.database {
            let target = unfinished.join(DATABASE);
            fs::copy(from.join(DATABASE), &target).map_err(at(&target))?;
        }
        copy_folder(&from.join(KEYS), &unfinished.join(KEYS), Copy::Bytes)?;
        // Not linked: the backup must survive whatever happens to the data folder.
        copy_folder(&from.join(BLOBS), &unfinished.join(BLOBS), Copy::Bytes)?;
        sync(&unfinished)?;
        fs::rename(&unfinished, data_dir).map_err(at(data_dir))?;
        sync_parent(data_dir)
    };
    fill().inspect_err(|_| {
        let _ = fs::remove_dir_all(&unfinished);
    })?;
    Ok(made)
}

#[derive(Clone, Copy)]
enum Copy {
    Bytes,
    Link,
}

/// Copies a folder's files; a blob that goes meanwhile was named by nothing.
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

fn sync_parent(path: &Path) -> Result<(), BackupError> {
    match path
        .parent()
        .filter(|parent| !parent.as_os_str().is_empty())
    {
        Some(parent) => sync(parent),
        None => Ok(()),
    }
}

fn beside(path: &Path, what: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(format!(".{what}"));
    name.into()
}

fn at(path: &Path) -> impl FnOnce(io::Error) -> BackupError {
    let path = path.to_owned();
    move |source| BackupError::Io { path, source }
}
