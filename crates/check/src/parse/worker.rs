//! A worker process, and how to find or start the one that stays.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs;
use std::io::{self, BufRead, BufReader, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use updraft_model::Digest;

use super::protocol::{Answer, Event, Request};

/// How long a worker may take until it can be connected to; it imports
/// Airflow only afterwards.
const PATIENCE: Duration = Duration::from_secs(20);
const MOST_LOG: usize = 2000;
/// A file ends long before, and importing Airflow too.
const SILENCE: Duration = Duration::from_secs(180);

/// Where files are imported.
#[derive(Debug, Clone)]
pub struct Host {
    pub start: Start,
    /// What it loads once and keeps: a change of it needs another worker.
    pub loads: Digest,
    /// Where it says what goes wrong.
    pub log: PathBuf,
    /// Folders of this one project, which another has elsewhere.
    pub own: Vec<PathBuf>,
}

/// How a worker comes to be.
#[derive(Debug, Clone)]
pub enum Start {
    /// A Python of this machine. It stays for the next check.
    Here {
        python: PathBuf,
        /// All that it gets.
        variables: BTreeMap<String, String>,
        /// How long without a client.
        stays: Duration,
    },
    /// A Python in a container, which ends with the check.
    Container {
        /// Starts Python; the arguments that make it a worker are added.
        program: PathBuf,
        arguments: Vec<OsString>,
        /// What it will be like: the image and the variables.
        like: String,
    },
}

impl Host {
    /// Names the worker among others.
    pub(super) fn identity(&self) -> Digest {
        Digest::of(self.facts().as_bytes())
    }

    /// The same, wherever the project lies: nothing that a file comes to depends on that.
    pub(super) fn identity_anywhere(&self) -> Digest {
        let facts = self.own.iter().fold(self.facts(), |facts, folder| {
            let folder = serde_json::json!(folder).to_string();
            facts.replace(folder.trim_matches('"'), "")
        });
        Digest::of(facts.as_bytes())
    }

    fn facts(&self) -> String {
        let facts = match &self.start {
            Start::Here {
                python, variables, ..
            } => serde_json::json!([python, variables, self.loads]),
            Start::Container { like, .. } => serde_json::json!([like, self.loads]),
        };
        facts.to_string()
    }
}

#[derive(Debug, thiserror::Error)]
pub enum WorkerError {
    #[error("could not make the folder `{}` for this user alone", path.display())]
    Folder { path: PathBuf, source: io::Error },
    #[error("`{}` belongs to another user, or others can enter it", .0.display())]
    Open(PathBuf),
    #[error("could not start `{}`", program.display())]
    Start { program: PathBuf, source: io::Error },
    #[error("the process that parses ended before it began{}", said(.log))]
    Ended { log: PathBuf },
    #[error("the container that parses ended before it began{}", said(.log))]
    Container { log: PathBuf },
    #[error("Airflow cannot be imported: {reason}")]
    Broken { reason: String, log: PathBuf },
    #[error("the process that parses went away{}", said(.log))]
    Lost {
        log: PathBuf,
        #[source]
        source: Option<io::Error>,
    },
    #[error("the process that parses refused: {0}")]
    Refused(String),
    #[error("the process that parses has said nothing for {} s", SILENCE.as_secs())]
    Busy,
    #[error("the process that parses said nothing of `{file}`{}", said(.log))]
    Silent { file: String, log: PathBuf },
}

impl WorkerError {
    pub fn help(&self) -> &'static str {
        match self {
            Self::Folder { .. } | Self::Open(_) => {
                "remove it, or name a folder of your own in `XDG_RUNTIME_DIR`"
            }
            Self::Start { .. } | Self::Ended { .. } => {
                "the environment may be damaged: remove `venvs` in the cache folder, and it is made again"
            }
            Self::Container { .. } => "the engine says why; files are mounted from this machine",
            Self::Broken { .. } => {
                "a plugin or a required package may break it; its log has the traceback"
            }
            Self::Busy => {
                "another check of this project may be stopped half-way; end it, and try again"
            }
            Self::Lost { .. } | Self::Refused(_) | Self::Silent { .. } => {
                "try again; if it stays so, the log of the process says more"
            }
        }
    }
}

/// The end of its log, where there is anything in it.
fn said(log: &Path) -> String {
    let text = fs::read(log).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let text = text.trim();
    let from = text.len().saturating_sub(MOST_LOG);
    let from = (from..text.len()).find(|at| text.is_char_boundary(*at));
    match from {
        Some(from) => format!(":\n{}", &text[from..]),
        None => String::new(),
    }
}

/// A connection to a worker that has imported Airflow.
pub(super) struct Worker {
    stream: UnixStream,
    answers: BufReader<UnixStream>,
    airflow: String,
    log: PathBuf,
}

impl Worker {
    /// Finds the one that stays, or starts it, and waits until it is ready.
    pub(super) fn reach(host: &Host) -> Result<Self, WorkerError> {
        let stream = match &host.start {
            Start::Here {
                python,
                variables,
                stays,
            } => {
                let socket = socket(host)?;
                match UnixStream::connect(&socket) {
                    Ok(stream) => stream,
                    Err(_) => start(python, variables, *stays, &socket, &host.log)?,
                }
            }
            Start::Container {
                program, arguments, ..
            } => attach(program, arguments, &host.log)?,
        };
        let log = host.log.clone();
        let lost = |source| WorkerError::Lost {
            log: log.clone(),
            source: Some(source),
        };
        stream.set_read_timeout(Some(SILENCE)).map_err(lost)?;
        let answers = BufReader::new(stream.try_clone().map_err(lost)?);
        let mut worker = Self {
            stream,
            answers,
            airflow: String::new(),
            log: host.log.clone(),
        };
        let first = worker.next().map_err(|error| match (error, &host.start) {
            (WorkerError::Lost { log, .. }, Start::Container { .. }) => {
                WorkerError::Container { log }
            }
            (error, _) => error,
        })?;
        match first {
            Event::Ready { airflow } => worker.airflow = airflow,
            Event::Broken { reason } => {
                let log = host.log.clone();
                return Err(WorkerError::Broken { reason, log });
            }
            Event::File(_) | Event::Done => return Err(worker.lost(None)),
            Event::Error { reason } => return Err(WorkerError::Refused(reason)),
        }
        Ok(worker)
    }

    pub(super) fn airflow(&self) -> &str {
        &self.airflow
    }

    /// Has files parsed; each answer is handed on as it comes.
    pub(super) fn parse(
        &mut self,
        request: &Request<'_>,
        mut each: impl FnMut(Answer),
    ) -> Result<(), WorkerError> {
        let mut line = serde_json::to_vec(request).unwrap_or_default();
        line.push(b'\n');
        let sent = self.stream.write_all(&line);
        sent.map_err(|source| self.lost(Some(source)))?;
        loop {
            match self.next()? {
                Event::File(answer) => each(*answer),
                Event::Done => return Ok(()),
                Event::Error { reason } => return Err(WorkerError::Refused(reason)),
                Event::Ready { .. } | Event::Broken { .. } => return Err(self.lost(None)),
            }
        }
    }

    fn next(&mut self) -> Result<Event, WorkerError> {
        let mut line = String::new();
        match self.answers.read_line(&mut line) {
            Ok(0) => Err(self.lost(None)),
            Ok(_) => serde_json::from_str(&line).map_err(|error| self.lost(Some(error.into()))),
            Err(source) if source.kind() == io::ErrorKind::WouldBlock => Err(WorkerError::Busy),
            Err(source) => Err(self.lost(Some(source))),
        }
    }

    fn lost(&self, source: Option<io::Error>) -> WorkerError {
        let log = self.log.clone();
        WorkerError::Lost { log, source }
    }
}

/// In a folder that nobody else can enter; a path in the cache could be longer
/// than a socket's may be.
fn socket(host: &Host) -> Result<PathBuf, WorkerError> {
    let user = rustix::process::getuid().as_raw();
    let runtime = std::env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from);
    // `TMPDIR` may be longer than the name of a socket.
    let above = runtime.filter(|folder| folder.is_absolute() && folder.is_dir());
    let above = above.unwrap_or_else(|| PathBuf::from("/tmp"));
    let folder = above.join(format!("updraft-{user}"));
    let failed = |source| WorkerError::Folder {
        path: folder.clone(),
        source,
    };
    match fs::DirBuilder::new().mode(0o700).create(&folder) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(failed(error)),
        Ok(()) | Err(_) => {}
    }
    let found = fs::symlink_metadata(&folder).map_err(failed)?;
    let for_others = found.permissions().mode() & 0o077;
    let is_ours = found.is_dir() && found.uid() == user && for_others == 0;
    if !is_ours {
        return Err(WorkerError::Open(folder));
    }
    let name = host.identity();
    Ok(folder.join(format!("parse-{}.sock", name.short())))
}

/// Starts the one that stays.
fn start(
    python: &Path,
    variables: &BTreeMap<String, String>,
    stays: Duration,
    socket: &Path,
    log: &Path,
) -> Result<UnixStream, WorkerError> {
    let failed = |source| WorkerError::Start {
        program: python.to_owned(),
        source,
    };
    let mut child = Command::new(python)
        .args(["-m", "airflow_updraft.check", "--socket"])
        .arg(socket)
        .arg("--idle")
        .arg(stays.as_secs().to_string())
        .env_clear()
        .envs(variables)
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(log_file(log).map_err(failed)?)
        // Ctrl-C ends the command that asks, and not the one that stays.
        .process_group(0)
        .spawn()
        .map_err(failed)?;
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Ok(stream) = UnixStream::connect(socket) {
            return Ok(stream);
        }
        if has_failed(&mut child) || Instant::now() > deadline {
            let log = log.to_owned();
            return Err(WorkerError::Ended { log });
        }
        thread::sleep(Duration::from_millis(5));
    }
}

/// One that finds another at work ends well, and the other is waited for.
fn has_failed(child: &mut Child) -> bool {
    match child.try_wait() {
        Ok(Some(status)) => !status.success(),
        Ok(None) => false,
        Err(_) => true,
    }
}

/// A worker on the standard streams of a command. It ends when they do.
fn attach(program: &Path, arguments: &[OsString], log: &Path) -> Result<UnixStream, WorkerError> {
    let failed = |source| WorkerError::Start {
        program: program.to_owned(),
        source,
    };
    let (ours, theirs) = UnixStream::pair().map_err(failed)?;
    let theirs = OwnedFd::from(theirs);
    Command::new(program)
        .args(arguments)
        .args(["-m", "airflow_updraft.check", "--attended"])
        .stdin(theirs.try_clone().map_err(failed)?)
        .stdout(theirs)
        .stderr(log_file(log).map_err(failed)?)
        .process_group(0)
        .spawn()
        .map_err(failed)?;
    Ok(ours)
}

fn log_file(path: &Path) -> io::Result<fs::File> {
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder)?;
    }
    fs::File::create(path)
}
