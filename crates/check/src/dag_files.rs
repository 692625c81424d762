//! Which files Airflow looks at.

use std::fs;
use std::path::{Path, PathBuf};

use ignore::WalkBuilder;
use regex::Regex;
use updraft_project::AirflowVersion;

const IGNORE_FILE: &str = ".airflowignore";

#[derive(Debug, thiserror::Error)]
pub enum DagFilesError {
    #[error("could not look through `{}`", path.display())]
    Walk {
        path: PathBuf,
        source: ignore::Error,
    },
    #[error("could not read `{}`", path.display())]
    Read {
        path: PathBuf,
        source: std::io::Error,
    },
    #[error("`{}` has a pattern that is no regular expression: `{pattern}`", path.display())]
    Pattern {
        path: PathBuf,
        pattern: String,
        source: regex::Error,
    },
    #[error("the name of `{}` is not UTF-8", path.display())]
    Name { path: PathBuf },
}

/// The Python files below a project's `dags/` that `.airflowignore` leaves,
/// sorted, named from the project's folder.
pub fn dag_files(root: &Path, airflow: &AirflowVersion) -> Result<Vec<String>, DagFilesError> {
    let dags = root.join("dags");
    let mut walk = WalkBuilder::new(&dags);
    walk.standard_filters(false).follow_links(true);
    walk.add_custom_ignore_filename(".updraftignore");
    // Until Airflow 3 its patterns are regular expressions by default.
    let mut patterns = Vec::new();
    if airflow.major() >= 3 {
        walk.add_custom_ignore_filename(IGNORE_FILE);
    } else {
        patterns = patterns_in(&dags.join(IGNORE_FILE))?;
    }
    let mut files = Vec::new();
    for entry in walk.build() {
        let entry = entry.map_err(|source| DagFilesError::Walk {
            path: dags.clone(),
            source,
        })?;
        let path = entry.path();
        let is_python = path.extension().is_some_and(|extension| extension == "py");
        if !is_python || !path.is_file() {
            continue;
        }
        let (below, inside) = (path.strip_prefix(root), path.strip_prefix(&dags));
        let (Ok(below), Ok(inside)) = (below, inside) else {
            continue;
        };
        let name = |path: &Path| {
            path.to_str().map(str::to_owned).ok_or(DagFilesError::Name {
                path: path.to_owned(),
            })
        };
        let inside = name(inside)?;
        if !patterns
            .iter()
            .any(|pattern: &Regex| pattern.is_match(&inside))
        {
            files.push(name(below)?);
        }
    }
    files.sort_unstable();
    Ok(files)
}

fn patterns_in(file: &Path) -> Result<Vec<Regex>, DagFilesError> {
    let text = match fs::read_to_string(file) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(source) => {
            return Err(DagFilesError::Read {
                path: file.to_owned(),
                source,
            });
        }
    };
    let lines = text
        .lines()
        .map(|line| line.split('#').next().unwrap_or_default());
    let patterns = lines.map(str::trim).filter(|line| !line.is_empty());
    let patterns = patterns.map(|pattern| {
        Regex::new(pattern).map_err(|source| DagFilesError::Pattern {
            path: file.to_owned(),
            pattern: pattern.to_owned(),
            source,
        })
    });
    patterns.collect()
}
