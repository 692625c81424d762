//! What a local Airflow is given beside the project's code: `.env` and
//! `airflow_settings.yaml`. Both hold secrets, so no message quotes them.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

use updraft_model::Digest;
use updraft_project::{AirflowObjects, AirflowSettingsError, DotenvError, Project, parse_dotenv};

use crate::exit::Exit;
use crate::failure::{Failure, Result};

/// The project's file of that name, or the one that is named.
pub(crate) fn file(named: Option<&Path>, project: &Project, usual: &str) -> Result<PathBuf> {
    match named {
        Some(path) => Ok(std::path::absolute(path)?),
        None => Ok(project.root().join(usual)),
    }
}

/// The variables in a file; none where there is no file that nobody named.
pub(crate) fn variables(path: &Path, named: bool) -> Result<BTreeMap<String, String>> {
    let text = text(path, named)?;
    parse_dotenv(&text).map_err(|error: DotenvError| {
        Failure::new(
            Exit::Refused,
            format!("`{}` cannot be read: {error}", shown(path)),
        )
        .help("write a `NAME=value` on each line; quotes go around the whole value")
    })
}

/// The objects in a file; none where there is no file that nobody named.
pub(crate) fn objects(path: &Path, named: bool) -> Result<AirflowObjects> {
    let text = text(path, named)?;
    AirflowObjects::parse(&text).map_err(|error: AirflowSettingsError| {
        let message = error
            .to_string()
            .replace("airflow_settings.yaml", &shown(path));
        Failure::new(Exit::Refused, message)
            .code("settings_file")
            .help("correct that line; the format is that of the Astro CLI")
    })
}

fn text(path: &Path, named: bool) -> Result<String> {
    match std::fs::read_to_string(path) {
        Ok(text) => Ok(text),
        Err(error) if error.kind() == io::ErrorKind::NotFound && !named => Ok(String::new()),
        Err(error) => Err(Failure {
            exit: Exit::Refused,
            ..Failure::file("read", path, &error)
        }),
    }
}

pub(super) fn digest(variables: &BTreeMap<String, String>) -> Digest {
    Digest::of(&serde_json::to_vec(variables).unwrap_or_default())
}

/// A file's name, as people know it.
pub(super) fn shown(path: &Path) -> String {
    let name = path.file_name().unwrap_or(path.as_os_str());
    name.to_string_lossy().into_owned()
}
