//! Runs a program to its end and keeps what it said.

use std::io::{self, BufRead as _, BufReader, Read};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::Sender;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use rustix::process::{Pid, Signal, WaitId, WaitIdOptions};

/// How a program ended, with its output as text.
#[derive(Debug)]
pub struct Finished {
    pub success: bool,
    /// What it ended with, unless it was killed.
    pub code: Option<i32>,
    /// Killed by somebody, which says nothing about the program.
    pub(crate) killed: bool,
    pub stdout: String,
    pub stderr: String,
}

/// Asks work that blocks to end: what it runs is killed, and no more is started.
/// Clones are the same request.
#[derive(Debug, Clone, Default)]
pub struct Stop(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    work: Mutex<Work>,
    requested: Condvar,
}

#[derive(Debug, Default)]
struct Work {
    stopped: bool,
    /// Process groups whose first process has not been waited for, so that
    /// their numbers are still their own.
    running: Vec<Pid>,
}

/// How often a program that is being written is tried again.
const BUSY_ATTEMPTS: u32 = 200;

impl Stop {
    /// Once this returns, nothing that was run is left, also when this process
    /// ends right after it.
    pub fn request(&self) {
        let mut work = self.work();
        work.stopped = true;
        self.0.requested.notify_all();
        for group in &work.running {
            let _ = rustix::process::kill_process_group(*group, Signal::KILL);
        }
    }

    pub fn is_requested(&self) -> bool {
        self.work().stopped
    }

    /// Waits before another attempt; false where there is to be none.
    pub(crate) fn pause(&self, length: Duration) -> bool {
        let asked = self
            .0
            .requested
            .wait_timeout_while(self.work(), length, |work| !work.stopped);
        let (work, _) = asked.unwrap_or_else(PoisonError::into_inner);
        !work.stopped
    }

    /// Starts a program in a process group of its own.
    fn start(&self, command: &mut Command) -> io::Result<Child> {
        for _ in 0..BUSY_ATTEMPTS {
            match self.start_once(command) {
                // Written a moment ago, it is open still in a child that another thread
                // has forked and that has not become its own program yet.
                Err(error) if error.kind() == io::ErrorKind::ExecutableFileBusy => {
                    std::thread::sleep(Duration::from_millis(10));
                }
                started => return started,
            }
        }
        self.start_once(command)
    }

    fn start_once(&self, command: &mut Command) -> io::Result<Child> {
        let mut work = self.work();
        if work.stopped {
            return Err(io::ErrorKind::Interrupted.into());
        }
        let child = command.process_group(0).spawn()?;
        work.running.extend(group(&child));
        Ok(child)
    }

    /// How it ended, once it has. What it left running ends with it: as long as
    /// nobody has waited for the first process, the group's number is its own.
    fn ended(&self, child: &mut Child) -> io::Result<Option<ExitStatus>> {
        let mut work = self.work();
        if let Some(group) = group(child) {
            let look = WaitIdOptions::EXITED | WaitIdOptions::NOWAIT | WaitIdOptions::NOHANG;
            if rustix::process::waitid(WaitId::Pid(group), look)?.is_none() {
                return Ok(None);
            }
            let _ = rustix::process::kill_process_group(group, Signal::KILL);
            work.running.retain(|running| *running != group);
        }
        child.wait().map(Some)
    }

    fn work(&self) -> MutexGuard<'_, Work> {
        self.0.work.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Asks it of work whose future is dropped.
#[derive(Debug, Default)]
pub struct StopOnDrop(Stop);

impl StopOnDrop {
    pub fn stop(&self) -> Stop {
        self.0.clone()
    }
}

impl Drop for StopOnDrop {
    fn drop(&mut self) {
        self.0.request();
    }
}

fn group(child: &Child) -> Option<Pid> {
    i32::try_from(child.id()).ok().and_then(Pid::from_raw)
}

/// Runs a program that is soon done.
pub(crate) fn run(command: &mut Command) -> io::Result<Finished> {
    run_until(command.stdin(Stdio::null()), &Stop::default())
}

/// Runs a program, with all that it starts, until it ends or has to stop.
pub fn run_until(command: &mut Command, stop: &Stop) -> io::Result<Finished> {
    run_telling(command, stop, None)
}

/// The same, telling each line as it comes.
pub(crate) fn run_telling(
    command: &mut Command,
    stop: &Stop,
    tell: Option<&dyn Fn(&str)>,
) -> io::Result<Finished> {
    let mut child = stop.start(command.stdout(Stdio::piped()).stderr(Stdio::piped()))?;
    let (say, said) = std::sync::mpsc::channel();
    let say = tell.map(|_| say);
    let stdout = child.stdout.take().map(|from| read(from, say.clone()));
    let stderr = child.stderr.take().map(|from| read(from, say.clone()));
    drop(say);
    let tell_all = || {
        for line in said.try_iter() {
            if let Some(tell) = tell {
                tell(&line);
            }
        }
    };
    let status = loop {
        tell_all();
        if let Some(status) = stop.ended(&mut child)? {
            break status;
        }
        std::thread::sleep(Duration::from_millis(10));
    };
    if stop.is_requested() {
        return Err(io::ErrorKind::Interrupted.into());
    }
    let text = |reader: Option<JoinHandle<String>>| {
        reader
            .and_then(|reader| reader.join().ok())
            .unwrap_or_default()
    };
    let (stdout, stderr) = (text(stdout), text(stderr));
    tell_all();
    Ok(Finished {
        success: status.success(),
        code: status.code(),
        killed: status.signal().is_some(),
        stdout,
        stderr,
    })
}

/// Reads to the end, saying each line.
fn read(from: impl Read + Send + 'static, say: Option<Sender<String>>) -> JoinHandle<String> {
    std::thread::spawn(move || {
        let (mut from, mut all, mut line) = (BufReader::new(from), String::new(), Vec::new());
        while from.read_until(b'\n', &mut line).is_ok_and(|read| read > 0) {
            let text = String::from_utf8_lossy(&line);
            if let Some(say) = &say {
                // Nobody listens once the program has to stop.
                let _ = say.send(text.trim_end().to_owned());
            }
            all.push_str(&text);
            line.clear();
        }
        all
    })
}

/// What a program that fetches and builds packages gets of this process's
/// environment. It may run what deployers wrote, so the rest stays out: tokens,
/// addresses of databases, whatever a service manager put there.
const PASSED: &[&str] = &[
    "PATH",
    "HOME",
    "USER",
    "LOGNAME",
    "TMPDIR",
    "LANG",
    "LANGUAGE",
    "TZ",
    "NETRC",
    "SSH_AUTH_SOCK",
    "GIT_SSH",
    "GIT_SSH_COMMAND",
    "SSL_CERT_FILE",
    "SSL_CERT_DIR",
    "SSL_CLIENT_CERT",
    "REQUESTS_CA_BUNDLE",
    "CURL_CA_BUNDLE",
    "CC",
    "CXX",
    "CFLAGS",
    "CXXFLAGS",
    "LDFLAGS",
    "PKG_CONFIG_PATH",
    "PYENV_ROOT",
    "PYENV_VERSION",
];

/// The same for a program that needs no network.
const PASSED_TO_PROBES: &[&str] = &["PATH", "HOME", "LANG", "PYENV_ROOT", "PYENV_VERSION"];

fn passes(name: &str) -> bool {
    PASSED.contains(&name)
        || name.to_ascii_lowercase().ends_with("_proxy")
        || ["LC_", "XDG_", "UV_", "PIP_"]
            .iter()
            .any(|prefix| name.starts_with(prefix))
}

fn with_only(command: &mut Command, passes: impl Fn(&str) -> bool) -> &mut Command {
    let ours = std::env::vars_os().filter(|(name, _)| name.to_str().is_some_and(&passes));
    command.env_clear().envs(ours)
}

/// Gives a command the environment of a program that fetches packages.
pub(crate) fn for_packages(command: &mut Command) -> &mut Command {
    with_only(command, passes)
}

/// Gives a command the environment of a program that is only tried out.
pub(crate) fn for_probe(command: &mut Command) -> &mut Command {
    with_only(command, |name| PASSED_TO_PROBES.contains(&name))
}

/// The variables that a text names as `${NAME}`: credentials for package
/// indexes are written so. Never one of ours, whoever asks for it.
pub(crate) fn named_in(text: &str) -> Vec<(String, String)> {
    text.split("${")
        .skip(1)
        .filter_map(|rest| Some(rest.split_once('}')?.0))
        .filter(|name| !name.starts_with("UPDRAFT_"))
        .filter_map(|name| Some((name.to_owned(), std::env::var(name).ok()?)))
        .collect()
}

impl Finished {
    /// The last lines of what it complained about, addresses without
    /// credentials.
    pub(crate) fn complaint(&self) -> String {
        let text = if self.stderr.trim().is_empty() {
            &self.stdout
        } else {
            &self.stderr
        };
        let lines: Vec<&str> = text.trim().lines().map(str::trim_end).collect();
        let last = &lines[lines.len().saturating_sub(30)..];
        without_credentials(&last.join("\n"))
    }

    /// Whether it failed because a package index cannot be reached.
    pub(crate) fn is_offline(&self) -> bool {
        const SIGNS: [&str; 10] = [
            "dns error",
            "error sending request",
            "client error (Connect)",
            "Failed to fetch",
            "Network is unreachable",
            "Temporary failure in name resolution",
            "Connection refused",
            "NewConnectionError",
            "network was disabled",
            "urlopen error",
        ];
        SIGNS.iter().any(|sign| self.stderr.contains(sign))
    }
}

/// Removes `user:password@` from every address in a text.
pub(crate) fn without_credentials(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find("://") {
        let (before, after) = rest.split_at(at + 3);
        out.push_str(before);
        let end = after.find(|c: char| c.is_whitespace() || "/?#\"'`<>)".contains(c));
        let authority = &after[..end.unwrap_or(after.len())];
        let skip = authority.rfind('@').map_or(0, |at| at + 1);
        rest = &after[skip..];
    }
    out.push_str(rest);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_deployers_wrote_gets_no_token() {
        for name in [
            "UPDRAFT_AGENT_TOKEN",
            "UPDRAFT_AIRFLOW_DATABASE_URL",
            "LD_PRELOAD",
        ] {
            assert!(!passes(name), "{name}");
        }
        for name in [
            "HTTPS_PROXY",
            "no_proxy",
            "UV_INDEX_PRIVATE_PASSWORD",
            "LC_ALL",
        ] {
            assert!(passes(name), "{name}");
        }
        let named = named_in("--index-url https://${CARGO_PKG_NAME}@x ${UPDRAFT_TOKEN} ${");
        assert_eq!(
            named,
            [("CARGO_PKG_NAME".to_owned(), "updraft-image".to_owned())]
        );
    }

    #[test]
    fn a_program_that_is_open_for_writing_is_tried_again() {
        let folder = tempfile::tempdir().unwrap();
        let program = folder.path().join("program");
        std::fs::copy("/bin/true", &program).unwrap();
        let open = std::fs::OpenOptions::new()
            .append(true)
            .open(&program)
            .unwrap();
        let written = std::thread::spawn(move || {
            std::thread::sleep(Duration::from_millis(100));
            drop(open);
        });
        let ran = run(&mut Command::new(&program)).unwrap();
        written.join().unwrap();
        assert!(ran.success);
    }

    #[test]
    fn what_has_to_stop_ends_with_all_that_it_started() {
        let folder = tempfile::tempdir().unwrap();
        let stop = Stop::default();
        let asked = stop.clone();
        let path = folder.path().to_owned();
        let work = std::thread::spawn(move || {
            let mut command = Command::new("sh");
            command.args(["-c", "sleep 300 & echo $! >child; mv child there; wait"]);
            run_until(command.current_dir(path).stdin(Stdio::null()), &asked)
        });
        let child = loop {
            if let Ok(child) = std::fs::read_to_string(folder.path().join("there")) {
                break child;
            }
        };
        stop.request();
        let error = work.join().unwrap().unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::Interrupted);
        let stat = format!("/proc/{}/stat", child.trim());
        while std::fs::read_to_string(&stat).is_ok_and(|stat| !stat.contains(") Z ")) {}
    }

    #[test]
    fn what_a_program_leaves_behind_ends_with_it_and_is_not_waited_for() {
        let mut command = Command::new("sh");
        command.args(["-c", "sleep 300 & echo $!"]);
        let finished = run(&mut command).unwrap();
        assert!(finished.success);
        let stat = format!("/proc/{}/stat", finished.stdout.trim());
        while std::fs::read_to_string(&stat).is_ok_and(|stat| !stat.contains(") Z ")) {}
    }

    #[test]
    fn removes_credentials_from_text() {
        let text = "failed at https://me:pw@example.com/simple and `https://t@h:1`, not a@b";
        assert_eq!(
            super::without_credentials(text),
            "failed at https://example.com/simple and `https://h:1`, not a@b"
        );
    }
}
