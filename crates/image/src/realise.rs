//! Makes the Python environment that an Environment describes.
//!
//! A realised environment is a venv with Airflow, the required packages and
//! `airflow-updraft`. It is built in its final place, because scripts in a
//! venv name their interpreter by its full path; a file `complete`, written
//! and flushed last, tells a whole one from what a crash left, and a lock
//! beside it keeps two builders apart. Its folder is named by what goes into
//! it, so that Environments which differ only in files share one.

use std::fs::{self, File, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde::{Deserialize, Serialize};
use updraft_model::Digest;
use updraft_project::PythonVersion;

use crate::bytecode::Bytecode;
use crate::environment::EnvironmentConfig;
use crate::exclusive;
use crate::flush::flush;
use crate::lock::{Lock, LockError, LockRequest, lock};
use crate::process::{self, Finished};
use crate::python::{self, Interpreter, PythonError, PythonRequest, RunAs, nearest_python};
use crate::uv::Uv;
use crate::wheel;

const FORMAT: u32 = 1;
const COMPLETE: &str = "complete";

/// What to make, and where.
pub struct RealiseRequest<'a> {
    pub config: &'a EnvironmentConfig,
    /// The folder that holds all environments.
    pub dir: &'a Path,
    /// Where locks and compiled files are kept.
    pub cache: &'a Path,
    /// The user that Airflow runs as, when it is not this one.
    pub run_as: Option<RunAs>,
    /// Told what is happening, a line at a time.
    pub say: &'a dyn Fn(&str),
}

/// An environment that is ready to run Airflow.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Realised {
    /// Names what was installed; see [`realised_key`].
    pub key: Digest,
    pub folder: PathBuf,
    /// Holds `airflow` and `python`.
    pub bin: PathBuf,
    pub python: PathBuf,
    pub python_version: PythonVersion,
    /// What to tell the user: another Python, another lock.
    pub note: Option<String>,
    /// It was there already.
    pub reused: bool,
}

#[derive(Debug, thiserror::Error)]
pub enum RealiseError {
    #[error(transparent)]
    Python(#[from] PythonError),
    #[error(transparent)]
    Lock(#[from] LockError),
    #[error("could not make a venv with `{}`:\n{complaint}", python.display())]
    Venv { python: PathBuf, complaint: String },
    #[error("could not install the packages, because a package index was not in reach:\n{0}")]
    Offline(String),
    #[error("could not install the packages:\n{0}")]
    Install(String),
    #[error("Airflow in `{}` does not start:\n{complaint}", folder.display())]
    Broken { folder: PathBuf, complaint: String },
    #[error("could not try whether `{}` runs", python.display())]
    NotTried { python: PathBuf, source: io::Error },
    #[error("could not compile what was installed in `{}`", folder.display())]
    Compile { folder: PathBuf, source: io::Error },
    #[error("could not write to `{}`", path.display())]
    Io { path: PathBuf, source: io::Error },
    #[error("could not run uv")]
    Uv(#[source] io::Error),
}

impl RealiseError {
    pub fn help(&self) -> &'static str {
        match self {
            Self::Python(error) => error.help(),
            Self::Lock(error) => error.help(),
            Self::Venv { .. } => "check that this Python is complete, or install another",
            Self::Offline(_) => {
                "check the network, or name your package index in `UV_DEFAULT_INDEX` or `UV_INDEX` for the agent"
            }
            Self::Install(_) => {
                "a package may have no wheel for this machine and need a compiler, or may have gone from the index"
            }
            Self::Broken { .. } => {
                "its Python may have been removed; remove the folder, and it is made again"
            }
            Self::NotTried { .. } => "see whether this machine is out of memory or of processes",
            Self::Compile { .. } | Self::Io { .. } => {
                "check the folder's permissions and the space left on the disk"
            }
            Self::Uv(_) => "check that uv is still installed, or name it in `UPDRAFT_UV`",
        }
    }
}

/// Names what is installed: the lock, the wanted Python and `airflow-updraft`.
pub fn realised_key(config: &EnvironmentConfig) -> Digest {
    let wheel = Digest::of(&wheel::airflow_updraft_wheel());
    let python = config.fingerprint.python_version;
    let text = format!("{FORMAT}\n{}\n{python}\n{wheel}\n", config.lock.digest());
    Digest::of(text.as_bytes())
}

/// Makes the environment, or answers at once when it is there. Safe to
/// interrupt at any point, and to run twice at once.
pub fn realise(uv: &Uv, ask: &RealiseRequest<'_>) -> Result<Realised, RealiseError> {
    let key = realised_key(ask.config);
    let folder = ask.dir.join(key.folder());
    let failed = |source| RealiseError::Io {
        path: folder.clone(),
        source,
    };
    if let Some(done) = already_made(key, &folder, ask)? {
        return Ok(done);
    }
    fs::create_dir_all(ask.dir).map_err(failed)?;
    let guard = ask.dir.join(format!(".{}.lock", key.folder()));
    let guard = exclusive::take(&guard, uv.stop(), ask.say).map_err(failed)?;
    if let Some(done) = already_made(key, &folder, ask)? {
        return Ok(done);
    }
    if folder.symlink_metadata().is_ok() {
        fs::remove_dir_all(&folder).map_err(failed)?;
    }

    let config = ask.config;
    let airflow = &config.fingerprint.airflow_version;
    let interpreter = nearest_python(
        Some(uv),
        &PythonRequest {
            airflow,
            wanted: config.fingerprint.python_version,
            lock_from: config.lock.python_from,
            run_as: ask.run_as,
        },
    )?;
    let (exact, note) = lock_for(uv, ask, &interpreter)?;
    let record = Record {
        python_version: interpreter.version,
        note,
    };

    (ask.say)(&format!(
        "making a venv with Python {}",
        interpreter.version
    ));
    let mut venv = uv.command(ask.dir);
    venv.args(["venv", "--quiet", "--no-project", "--python"])
        .arg(&interpreter.path)
        .arg(&folder);
    let made = uv
        .run(venv.stdin(held(&guard).map_err(failed)?))
        .map_err(RealiseError::Uv)?;
    if !made.success {
        let complaint = made.complaint();
        return Err(RealiseError::Venv {
            python: interpreter.path,
            complaint,
        });
    }
    (ask.say)(&format!(
        "installing Airflow {airflow} and its packages ({} in the lock)",
        exact.packages()
    ));
    let built = install(uv, ask, &folder, &exact, &guard)?;
    (ask.say)("checking what was installed");
    let bytecode = Bytecode::of(interpreter.version, ask.cache);
    let compiled = bytecode
        .compile(
            uv,
            &interpreter.path,
            &folder,
            held(&guard).map_err(failed)?,
        )
        .map_err(|source| RealiseError::Compile {
            folder: folder.clone(),
            source,
        })?;
    if ask.run_as.is_some() {
        make_readable(&folder).map_err(failed)?;
    }
    check(&folder, ask)?;
    finish(&folder, &record).map_err(failed)?;
    // Whoever built it may hold a file open still, and change what was read. And
    // what is not kept is compiled again, so that is no reason to fail.
    if built == Built::ByUs {
        let _ = bytecode.keep(&compiled);
    }
    Ok(realised(key, &folder, record, false))
}

/// An environment that is there, by its name alone: one that an earlier release
/// of ours made has another than this one would give it. Its Python is tried as
/// the user that Airflow runs as: it may be of a package's making.
pub fn reopen(dir: &Path, key: Digest, run_as: Option<RunAs>) -> Option<Realised> {
    let folder = dir.join(key.folder());
    let record = fs::read(folder.join(COMPLETE)).ok()?;
    let record = serde_json::from_slice(&record).ok()?;
    python::runs(&folder.join("bin/python"), run_as)
        .is_ok_and(|runs| runs)
        .then(|| realised(key, &folder, record, true))
}

/// The folder of an environment that is there, which is not tried out.
pub fn realised_folder(dir: &Path, key: Digest) -> Option<PathBuf> {
    let folder = dir.join(key.folder());
    folder.join(COMPLETE).is_file().then_some(folder)
}

/// The lock as a program's standard input: the program holds it until it ends.
fn held(guard: &File) -> io::Result<Stdio> {
    Ok(guard.try_clone()?.into())
}

/// Whether any environment is completely there.
pub fn is_any_made(dir: &Path) -> bool {
    let environments = fs::read_dir(dir).into_iter().flatten().flatten();
    environments
        .into_iter()
        .any(|environment| environment.path().join(COMPLETE).is_file())
}

/// What `complete` says.
#[derive(Debug, Serialize, Deserialize)]
struct Record {
    python_version: PythonVersion,
    note: Option<String>,
}

fn realised(key: Digest, folder: &Path, record: Record, reused: bool) -> Realised {
    let bin = folder.join("bin");
    Realised {
        key,
        folder: folder.to_owned(),
        python: bin.join("python"),
        bin,
        python_version: record.python_version,
        note: record.note,
        reused,
    }
}

fn already_made(
    key: Digest,
    folder: &Path,
    ask: &RealiseRequest<'_>,
) -> Result<Option<Realised>, RealiseError> {
    let record = fs::read(folder.join(COMPLETE))
        .ok()
        .and_then(|text| serde_json::from_slice(&text).ok());
    let Some(record) = record else {
        return Ok(None);
    };
    // Never rebuilt here: a running Airflow may be using it.
    let python = folder.join("bin/python");
    let runs = python::runs(&python, ask.run_as);
    if !runs.map_err(|source| RealiseError::NotTried { python, source })? {
        let complaint = "its Python does not run".to_owned();
        return Err(RealiseError::Broken {
            folder: folder.to_owned(),
            complaint,
        });
    }
    Ok(Some(realised(key, folder, record, true)))
}

/// The lock for this interpreter. An older Python than the Release's lock
/// holds for needs one of its own, which is said.
fn lock_for(
    uv: &Uv,
    ask: &RealiseRequest<'_>,
    interpreter: &Interpreter,
) -> Result<(Lock, Option<String>), RealiseError> {
    let config = ask.config;
    if interpreter.version >= config.lock.python_from {
        return Ok((config.lock.clone(), interpreter.note.clone()));
    }
    let request = LockRequest {
        airflow: &config.fingerprint.airflow_version,
        python: interpreter.version,
        requirements: &config.requirements_text,
        fresh: false,
    };
    let own = if ask.run_as.is_some() {
        lock(&uv.only_wheels(), &request, ask.cache, ask.say)?
    } else {
        lock(uv, &request, ask.cache, ask.say)?
    };
    let note = format!(
        "{}; the Release's lock holds from {} on, so packages were resolved again",
        interpreter.note.as_deref().unwrap_or_default(),
        config.lock.python_from
    );
    Ok((own, Some(note)))
}

/// Whose code has written what is installed.
#[derive(PartialEq, Eq)]
enum Built {
    ByUs,
    ByAirflowsUser,
}

/// Installs what the lock names, and `airflow-updraft`.
///
/// Where Airflow runs as another user, deployers' code must not run as this
/// one. Wheels are only unpacked; what has none is built by code of its own, so
/// that is done as Airflow's user, whose work is then taken over.
fn install(
    uv: &Uv,
    ask: &RealiseRequest<'_>,
    folder: &Path,
    exact: &Lock,
    guard: &File,
) -> Result<Built, RealiseError> {
    // The folder that stays is what somebody can look at.
    let failed = |source| RealiseError::Io {
        path: ask.dir.to_owned(),
        source,
    };
    let scratch = tempfile::Builder::new()
        .prefix(".installing-")
        .tempdir_in(ask.dir)
        .map_err(failed)?;
    let scratch = scratch.path();
    let requirements = &ask.config.requirements_text;
    let (name, wheel) = (
        wheel::airflow_updraft_wheel_name(),
        wheel::airflow_updraft_wheel(),
    );
    let mut text = requirements.index_options().join("\n");
    text.push('\n');
    text.push_str(&exact.text);
    let ours = Digest::of(&wheel).hex();
    text = format!("{text}\n./{name} --hash=sha256:{ours}\n");
    fs::write(scratch.join("lock.txt"), &text).map_err(failed)?;
    fs::write(scratch.join(&name), &wheel).map_err(failed)?;

    let sync = |uv: &Uv| {
        let mut sync = uv.pip(scratch, "sync");
        sync.arg("--python").arg(folder.join("bin/python"));
        // A commit of a repository has no hash of files, but its id is one. What an image has is
        // known by names and versions alone.
        if !requirements.has_vcs() && ask.config.container.is_none() {
            sync.arg("--require-hashes");
        }
        sync.arg("lock.txt").envs(process::named_in(&text));
        uv.run(sync.stdin(held(guard).map_err(failed)?))
            .map_err(RealiseError::Uv)
    };
    let Some(user) = ask.run_as else {
        return expect(&sync(uv)?).map(|()| Built::ByUs);
    };
    let finished = sync(&uv.only_wheels())?;
    if finished.success || finished.is_offline() {
        return expect(&finished).map(|()| Built::ByUs);
    }
    (ask.say)("building packages that have no wheel");
    let theirs = uv.as_user(user, scratch).map_err(failed)?;
    for path in [scratch, folder] {
        give(path, user).map_err(failed)?;
    }
    let built = sync(&theirs);
    let own = RunAs {
        uid: rustix::process::geteuid().as_raw(),
        gid: rustix::process::getegid().as_raw(),
    };
    give(folder, own).map_err(failed)?;
    expect(&built?).map(|()| Built::ByAirflowsUser)
}

/// Makes a tree somebody's, never through a link.
fn give(path: &Path, user: RunAs) -> io::Result<()> {
    std::os::unix::fs::lchown(path, Some(user.uid), Some(user.gid))?;
    if path.symlink_metadata()?.is_dir() {
        for entry in fs::read_dir(path)? {
            give(&entry?.path(), user)?;
        }
    }
    Ok(())
}

fn expect(finished: &Finished) -> Result<(), RealiseError> {
    if finished.success {
        Ok(())
    } else if finished.is_offline() {
        Err(RealiseError::Offline(finished.complaint()))
    } else {
        Err(RealiseError::Install(finished.complaint()))
    }
}

/// Lets every user read it and nobody else write. uv links files from its cache,
/// where they have the mode that the umask of that time left.
fn make_readable(path: &Path) -> io::Result<()> {
    let metadata = path.symlink_metadata()?;
    if metadata.is_symlink() {
        return Ok(());
    }
    let mode = metadata.permissions().mode() & 0o7777;
    let executable = metadata.is_dir() || mode & 0o100 != 0;
    let wanted = (mode | if executable { 0o055 } else { 0o044 }) & !0o6022;
    if wanted != mode {
        fs::set_permissions(path, Permissions::from_mode(wanted))?;
    }
    if metadata.is_dir() {
        for entry in fs::read_dir(path)? {
            make_readable(&entry?.path())?;
        }
    }
    Ok(())
}

/// Finds out now, and not when Airflow is started, what does not fit.
fn check(folder: &Path, ask: &RealiseRequest<'_>) -> Result<(), RealiseError> {
    let mut command = Command::new(folder.join("bin/python"));
    command
        .args(["-I", "-c", "import importlib.metadata as m; m.version('apache-airflow'); m.version('airflow-updraft')"])
        .current_dir("/")
        .env_clear();
    if let Some(RunAs { uid, gid }) = ask.run_as {
        std::os::unix::process::CommandExt::uid(&mut command, uid);
        std::os::unix::process::CommandExt::gid(&mut command, gid);
    }
    let broken = |complaint| RealiseError::Broken {
        folder: folder.to_owned(),
        complaint,
    };
    let finished = process::run(&mut command).map_err(|error| broken(error.to_string()))?;
    if finished.success {
        Ok(())
    } else {
        Err(broken(finished.complaint()))
    }
}

/// Writes the marker, after everything it vouches for is on the disk.
fn finish(folder: &Path, record: &Record) -> io::Result<()> {
    let dir = File::open(folder)?;
    flush(&dir)?;
    let mut marker = tempfile::Builder::new()
        .permissions(Permissions::from_mode(0o644))
        .tempfile_in(folder)?;
    marker.write_all(&serde_json::to_vec(record)?)?;
    marker.as_file().sync_all()?;
    marker
        .persist(folder.join(COMPLETE))
        .map_err(|error| error.error)?;
    dir.sync_all()?;
    File::open(folder.parent().unwrap_or(folder))?.sync_all()
}
