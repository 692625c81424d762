//! What can be missing, looked for before anything is started.

use std::net::{Ipv4Addr, TcpListener};
use std::path::Path;

use serde::Deserialize;
use updraft_image::{LockRequest, PythonError, PythonRequest, RunAs, Uv, lock, nearest_python};
use updraft_project::Project;

use crate::commands::deploy::create::stopped;
use crate::console::Console;
use crate::exit::Exit;
use crate::failure::{Failure, Result};

/// Whether something else listens there.
pub(super) fn port(what: &str, port: u16, flag: &str) -> Result<()> {
    match TcpListener::bind((Ipv4Addr::LOCALHOST, port)) {
        Ok(_) => Ok(()),
        Err(error) => Err(Failure::new(
            Exit::Prerequisite,
            format!("port {port}, which {what} needs, cannot be used"),
        )
        .code("port_in_use")
        .cause(&error)
        .help(format!("stop what listens there (perhaps another quickstart), or choose another port with {flag}"))),
    }
}

/// The agent's record of Airflow's web server, as far as it matters here.
#[derive(Deserialize)]
struct Record {
    pid: u32,
    start_time: u64,
}

/// Whether an Airflow of this agent's folder still runs: a quickstart that was
/// killed leaves one, and the next takes it over.
pub(super) fn is_airflow_of(agent: &Path) -> bool {
    let Ok(folders) = std::fs::read_dir(agent) else {
        return false;
    };
    folders.flatten().any(|folder| {
        ["api-server", "webserver"].iter().any(|name| {
            let path = folder.path().join("run").join(format!("{name}.json"));
            let record = std::fs::read(path).ok();
            let record = record.and_then(|text| serde_json::from_slice::<Record>(&text).ok());
            record.is_some_and(|record| start_time(record.pid) == Some(record.start_time))
        })
    })
}

/// The 22nd field of `/proc/<pid>/stat`; the second one may have spaces in it.
fn start_time(pid: u32) -> Option<u64> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    stat.rsplit_once(')')?
        .1
        .split_whitespace()
        .nth(19)?
        .parse()
        .ok()
}

/// Whether an Airflow was installed for this agent before. Then nothing has to
/// be found or fetched.
pub(super) fn is_installed(agent: &Path) -> bool {
    let Ok(folders) = std::fs::read_dir(agent) else {
        return false;
    };
    folders.flatten().any(|folder| {
        let environments = std::fs::read_dir(folder.path().join("environments"));
        environments.is_ok_and(|mut environments| environments.next().is_some())
    })
}

/// Finds a Python and `uv`, and locks what the project needs, which asks the
/// package index the first time.
pub(super) async fn environment(project: &Project, cache: &Path, out: &mut Console) -> Result<()> {
    let mut step = out.step("looking for Python and uv");
    let (project, cache) = (project.clone(), cache.to_owned());
    let (say, mut said) = tokio::sync::mpsc::unbounded_channel::<String>();
    let mut work = tokio::task::spawn_blocking(move || {
        find(&project, &cache, &|text| drop(say.send(text.to_owned())))
    });
    let found = loop {
        tokio::select! {
            Some(text) = said.recv() => out.update(&mut step, &text),
            found = &mut work => break found.map_err(stopped)??,
        }
    };
    out.done(step, &format!("found {}", found.text));
    for note in found.notes {
        out.warn(&note);
    }
    Ok(())
}

/// A user without rights of its own, as Airflow's is.
const NOBODY_SPECIAL: RunAs = RunAs {
    uid: 50_000,
    gid: 50_000,
};

struct Found {
    text: String,
    notes: Vec<String>,
}

fn find(project: &Project, cache: &Path, say: &dyn Fn(&str)) -> Result<Found> {
    let half = project.image_half(None)?;
    let fingerprint = &half.fingerprint;
    let uv = Uv::find_or_install(cache, say)?;
    let wanted = fingerprint.python_version;
    let python_for = |run_as| {
        let ask = PythonRequest {
            airflow: &fingerprint.airflow_version,
            wanted,
            lock_from: wanted,
            run_as,
        };
        nearest_python(Some(&uv), &ask)
    };
    // Started as root, the agent runs Airflow as somebody else where it can.
    let python = if rustix::process::geteuid().is_root() {
        python_for(Some(NOBODY_SPECIAL)).or_else(|_| python_for(None))?
    } else {
        python_for(None)?
    };
    let ask = LockRequest {
        airflow: &fingerprint.airflow_version,
        python: wanted,
        requirements: &half.requirements,
        fresh: false,
    };
    let lock = lock(&uv, &ask, cache, say)?;
    let text = format!(
        "Python {}, uv {}, and locked Airflow {} with {} packages",
        python.version,
        uv.version(),
        fingerprint.airflow_version,
        lock.packages(),
    );
    Ok(Found {
        text,
        notes: python.note.into_iter().chain(half.notes).collect(),
    })
}

impl From<PythonError> for Failure {
    fn from(error: PythonError) -> Self {
        Self::from_error(Exit::Prerequisite, &error)
            .code("python_missing")
            .help(error.help())
    }
}
