//! The wrapper that becomes a component: `updraft agent exec … -- COMMAND`.
//!
//! Why no component is ever started twice, wherever an agent is killed:
//!
//! 1. Only the wrapper starts components, and it decides under an exclusive
//!    lock on a file of that component. The kernel lets go of it when the
//!    wrapper ends or becomes the component; nobody has to clean up.
//! 2. Under the lock it reads the record. If that names a process that lives
//!    (number, start time and boot all match), it gives way.
//! 3. Otherwise it writes *its own* number and start time, fsynced and renamed
//!    into place, and then `exec`s: the component is the same process with the
//!    same number and start time. There is no moment in which a component
//!    lives and the record does not name it.
//! 4. Killed before the rename, the record names a dead process, or none: the
//!    next wrapper goes ahead and this one has started nothing. Killed after
//!    it, the record names a dead process: likewise.
//!
//! The agent is not part of the argument: it may be killed at any line, also
//! between asking for a start and hearing of it, and two agents that ask at
//! once get one component.
//!
//! The wrapper runs as the agent's user and drops to Airflow's as it becomes
//! the component, so records and locks are out of Airflow's reach. The
//! component's variables come by standard input and are set in the last step:
//! in the wrapper's own environment they could be code that runs as root.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::ffi::OsString;
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use updraft_image::RunAs;
use updraft_model::Digest;

use super::identity::ProcessIdentity;
use super::logs;
use super::record::{ComponentFiles, Record};
use crate::failpoint::failpoint;

/// Exit code of a wrapper that found its component running.
pub(crate) const ALREADY_RUNNING: i32 = 75;

/// Why the wrapper did not become the component.
#[derive(Debug, thiserror::Error)]
pub enum ExecError {
    #[error(
        "usage: agent exec --component NAME --run DIR --logs DIR --folder DIR --fingerprint TEXT [--environment DIGEST] [--user UID:GID] [--stdio] -- COMMAND…"
    )]
    Usage,
    #[error("the component `{component}` is already running as process {pid}")]
    AlreadyRunning { component: String, pid: u32 },
    #[error("could not {what}")]
    Io {
        what: &'static str,
        source: io::Error,
    },
}

impl ExecError {
    pub fn exit_code(&self) -> i32 {
        match self {
            Self::Usage => 64,
            Self::AlreadyRunning { .. } => ALREADY_RUNNING,
            Self::Io { .. } => 71,
        }
    }
}

/// What the wrapper is asked to become.
#[derive(Debug, Clone)]
pub(crate) struct Exec {
    pub(crate) component: String,
    pub(crate) run: PathBuf,
    pub(crate) logs: PathBuf,
    /// Where the component works.
    pub(crate) folder: PathBuf,
    pub(crate) fingerprint: String,
    pub(crate) environment: Option<Digest>,
    pub(crate) user: Option<RunAs>,
    /// Leaves standard input and output as they are: the worker talks there.
    pub(crate) stdio: bool,
    pub(crate) command: Vec<OsString>,
}

impl Exec {
    pub(crate) fn to_args(&self) -> Vec<OsString> {
        let mut args: Vec<OsString> = vec![
            "--component".into(),
            self.component.clone().into(),
            "--run".into(),
            self.run.clone().into(),
            "--logs".into(),
            self.logs.clone().into(),
            "--folder".into(),
            self.folder.clone().into(),
            "--fingerprint".into(),
            self.fingerprint.clone().into(),
        ];
        if let Some(environment) = self.environment {
            args.extend(["--environment".into(), environment.to_string().into()]);
        }
        if let Some(user) = self.user {
            args.extend(["--user".into(), format!("{}:{}", user.uid, user.gid).into()]);
        }
        if self.stdio {
            args.push("--stdio".into());
        }
        args.push("--".into());
        args.extend(self.command.iter().cloned());
        args
    }

    fn parse(args: impl IntoIterator<Item = OsString>) -> Option<Self> {
        let mut args = args.into_iter();
        let (mut component, mut run, mut logs, mut fingerprint) = (None, None, None, None);
        let mut folder = None;
        let (mut environment, mut user, mut stdio) = (None, None, false);
        loop {
            let flag = args.next()?;
            match flag.to_str()? {
                "--component" => component = Some(args.next()?.into_string().ok()?),
                "--run" => run = Some(PathBuf::from(args.next()?)),
                "--logs" => logs = Some(PathBuf::from(args.next()?)),
                "--folder" => folder = Some(PathBuf::from(args.next()?)),
                "--fingerprint" => fingerprint = Some(args.next()?.into_string().ok()?),
                "--environment" => environment = Some(args.next()?.to_str()?.parse().ok()?),
                "--user" => user = Some(RunAs::parse(args.next()?.to_str()?)?),
                "--stdio" => stdio = true,
                "--" => break,
                _ => return None,
            }
        }
        let command: Vec<OsString> = args.collect();
        if command.is_empty() {
            return None;
        }
        Some(Self {
            component: component?,
            run: run?,
            logs: logs?,
            folder: folder?,
            fingerprint: fingerprint?,
            environment,
            user,
            stdio,
            command,
        })
    }
}

/// Becomes the component. Returns only when that did not come about.
pub fn exec_component(args: impl IntoIterator<Item = OsString>) -> Result<Infallible, ExecError> {
    let exec = Exec::parse(args).ok_or(ExecError::Usage)?;
    let files = ComponentFiles::new(&exec.run, &exec.logs, &exec.component);

    // A session of its own: no terminal's Ctrl-C and no agent's end reaches it,
    // and what it forks can be found by it. Fails only for a group leader,
    // which already has what matters.
    let _ = rustix::process::setsid();
    rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o027));

    let variables = read_variables().map_err(failed("read the component's variables"))?;

    let lock = open_private(&files.lock).map_err(failed("open the component's lock"))?;
    lock.lock().map_err(failed("take the component's lock"))?;
    if let Some(record) = Record::read_alive(&files.record) {
        let pid = record.process.pid;
        return Err(ExecError::AlreadyRunning {
            component: exec.component,
            pid,
        });
    }
    failpoint("agent.exec.before_record");

    let mut log = logs::open(&files.log).map_err(failed("open the component's log"))?;
    let log_offset = log
        .metadata()
        .map_err(failed("look at the component's log"))?
        .len();
    let record = Record {
        component: exec.component.clone(),
        process: ProcessIdentity::of_self().map_err(failed("read this process's start time"))?,
        environment: exec.environment,
        fingerprint: exec.fingerprint.clone(),
        started_at: chrono::Utc::now(),
        log_offset,
        draining_since: None,
    };
    record
        .write(&files.record)
        .map_err(failed("write the component's record"))?;
    failpoint("agent.exec.after_record");

    let error =
        command(&exec, &variables, &log).map_or_else(|error| error, |mut command| command.exec());
    // The record now names a process that is about to end: as good as none.
    let _ = writeln!(
        log,
        "updraft: could not start `{}`: {error}",
        Path::new(&exec.command[0]).display()
    );
    Err(ExecError::Io {
        what: "start the component",
        source: error,
    })
}

/// What the wrapper reads from its standard input before anything else: how long
/// the component's variables are, and those.
pub(crate) fn variables_message(variables: &BTreeMap<String, String>) -> Vec<u8> {
    let text = serde_json::json!(variables).to_string();
    [&(text.len() as u64).to_be_bytes(), text.as_bytes()].concat()
}

/// Not a byte more: the rest is for the component.
fn read_variables() -> io::Result<BTreeMap<String, String>> {
    let mut input = File::from(io::stdin().as_fd().try_clone_to_owned()?);
    let mut length = [0; 8];
    input.read_exact(&mut length)?;
    let length = u64::from_be_bytes(length);
    let mut text = Vec::new();
    input.take(length).read_to_end(&mut text)?;
    Ok(serde_json::from_slice(&text)?)
}

fn command(exec: &Exec, variables: &BTreeMap<String, String>, log: &File) -> io::Result<Command> {
    let mut command = Command::new(&exec.command[0]);
    command
        .args(&exec.command[1..])
        .env_clear()
        .envs(variables)
        .current_dir(&exec.folder);
    command.stderr(log.try_clone()?);
    if !exec.stdio {
        command.stdin(Stdio::null()).stdout(log.try_clone()?);
    }
    if let Some(user) = exec.user {
        // Also drops the supplementary groups, as the agent is root here.
        command.uid(user.uid).gid(user.gid);
    }
    Ok(command)
}

fn open_private(path: &Path) -> io::Result<File> {
    OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .mode(0o600)
        .open(path)
}

fn failed(what: &'static str) -> impl FnOnce(io::Error) -> ExecError {
    move |source| ExecError::Io { what, source }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_the_arguments_that_the_agent_writes() {
        let exec = Exec {
            component: "scheduler".into(),
            run: "/r".into(),
            logs: "/l".into(),
            folder: "/f".into(),
            fingerprint: "f".into(),
            environment: Some(Digest::of(b"e")),
            user: Some(RunAs {
                uid: 50_000,
                gid: 50_000,
            }),
            stdio: true,
            command: vec!["airflow".into(), "scheduler".into(), "--".into()],
        };
        let read = Exec::parse(exec.to_args()).unwrap();
        assert_eq!(format!("{read:?}"), format!("{exec:?}"));
        assert!(Exec::parse(["--component".into(), "x".into()]).is_none());
        assert!(Exec::parse(["--".into(), "x".into()]).is_none());
    }
}
