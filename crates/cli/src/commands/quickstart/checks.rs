//! What can be missing, looked for before anything is started.

use std::path::Path;

use updraft_image::{LockRequest, PythonError, PythonRequest, Stop, Uv, lock, nearest_python};
use updraft_project::Project;

use crate::busy::busy;
use crate::console::Console;
use crate::exit::Exit;
use crate::failure::{Failure, Result};

/// Finds a Python and `uv`, and locks what the project needs, which asks the
/// package index the first time.
pub(super) async fn environment(project: &Project, cache: &Path, out: &mut Console) -> Result<()> {
    let mut step = out.step("looking for Python and uv");
    let (project, cache) = (project.clone(), cache.to_owned());
    let found = busy(&mut step, out, move |stop, say| {
        find(&project, &cache, stop, say)
    })
    .await?;
    out.done(step, &format!("found {}", found.text));
    for note in found.notes {
        out.warn(&note);
    }
    Ok(())
}

struct Found {
    text: String,
    notes: Vec<String>,
}

fn find(project: &Project, cache: &Path, stop: &Stop, say: &dyn Fn(&str)) -> Result<Found> {
    let half = project.image_half(None)?;
    let fingerprint = &half.fingerprint;
    let uv = Uv::find_or_install(cache, stop, say)?;
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
    let user = updraft_agent::airflow_user(None).unwrap_or_default();
    let python = match python_for(user) {
        Err(_) if user.is_some() => python_for(None)?,
        found => found?,
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
