//! The second stage: DAG files imported, in an environment that is ready.

use std::cell::Cell;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use updraft_bundle::{EntryKind, Scan};
use updraft_check::parse::{Names, ParseLimits, ParseRequest, Parsed, Tree, WorkerError, parse};
use updraft_model::{DeploymentName, Digest};
use updraft_project::Project;

use super::dag_check::{DagCheck, only};
use super::host::{self, Ready};
use crate::console::Aside;
use crate::exit::Exit;
use crate::failure::{Failure, Result};
use crate::output::size::things;
use crate::scan;

/// How often it is said how far it is, where no bar shows it.
const EVERY: Duration = Duration::from_secs(5);

/// What is parsed, once there is an environment for it.
#[derive(Clone)]
pub(crate) struct Ask {
    pub(crate) project: Project,
    pub(crate) paths: Vec<PathBuf>,
    pub(crate) deployment: Option<DeploymentName>,
    pub(crate) names: Names,
    pub(crate) cache: PathBuf,
    pub(crate) no_cache: bool,
    /// Answers kept of a tree that is much the same.
    pub(crate) also_known: Option<PathBuf>,
    pub(crate) aside: Aside,
}

impl Ask {
    /// The file of a project's folder in which answers are kept.
    pub(crate) const KEPT: &str = "parsed.json";

    /// Parses in a ready environment. Blocks.
    pub(crate) fn parse(&self, ready: &Ready, say: &dyn Fn(&str)) -> Result<Parsed> {
        let project = &self.project;
        let dag_check = DagCheck::in_environment(project, &ready.runs, self.aside.clone())?;
        let scan = scan::dags(project, Some(&self.cache))?;
        let all = match &scan {
            Some(scan) => DagCheck::files(scan, &dag_check.ignored(scan)?),
            None => Vec::new(),
        };
        let wanted = only(&self.paths, project, &all)?;
        let files: Vec<String> = match wanted {
            Some(wanted) => wanted.into_iter().map(str::to_owned).collect(),
            None => all.iter().map(|file| file.name.clone()).collect(),
        };
        let tree = read_tree(project, scan.as_ref(), &self.cache);
        let host = ready.host(project, &self.cache, &tree);
        let folder = host::folder(&self.cache, project);
        let home = folder.join("home");
        std::fs::create_dir_all(&home).map_err(|error| Failure::file("make", &home, &error))?;
        let name = self.deployment.as_ref().map(DeploymentName::to_string);
        let told = Cell::new(Instant::now());
        let mut parsed = parse(&ParseRequest {
            root: project.root(),
            files: &files,
            tree,
            host: &host,
            names: self.names.clone(),
            deployment: name.as_deref(),
            limits: ParseLimits::default(),
            levels: dag_check.levels(),
            tree_now: &|| {
                let scan = scan::dags(project, Some(&self.cache)).ok().flatten();
                read_tree(project, scan.as_ref(), &self.cache)
            },
            cache: Some(folder.join(Self::KEPT)),
            also_known: self.also_known.clone(),
            fresh: self.no_cache,
            progress: &|done, of| {
                let what = things(of as u64, "DAG file");
                if done == 0 {
                    say(&format!("parsing {what}"));
                } else if !self.aside.progress(done, of) && told.get().elapsed() > EVERY {
                    // On a pipe each is a line.
                    told.set(Instant::now());
                    say(&format!("parsing {what}: {done} done"));
                }
            },
        })?;
        parsed.checked.notes.extend(ready.note.clone());
        Ok(parsed)
    }
}

/// Every file of the project that its code could see.
fn read_tree(project: &Project, scan: Option<&Scan>, cache: &Path) -> Tree {
    let mut tree = Tree::new();
    if let Ok(files) = project.files(Some(scan::cache_file(cache, project, "image"))) {
        let files = files.entries().iter();
        tree.extend(files.map(|entry| (entry.path.clone(), digest(&entry.kind))));
    }
    for entry in scan.map(Scan::entries).unwrap_or_default() {
        tree.insert(format!("dags/{}", entry.path), digest(&entry.kind));
    }
    tree
}

fn digest(kind: &EntryKind) -> Digest {
    match kind {
        EntryKind::File { digest, .. } => *digest,
        EntryKind::Link { target } => Digest::of(target.as_bytes()),
    }
}

impl From<WorkerError> for Failure {
    fn from(error: WorkerError) -> Self {
        let exit = match &error {
            WorkerError::Folder { .. } | WorkerError::Open(_) | WorkerError::Container { .. } => {
                Exit::Prerequisite
            }
            WorkerError::Broken { .. } => Exit::CheckFailed,
            WorkerError::Start { .. }
            | WorkerError::Ended { .. }
            | WorkerError::Lost { .. }
            | WorkerError::Refused(_)
            | WorkerError::Busy
            | WorkerError::Silent { .. } => Exit::Internal,
        };
        Self::from_error(exit, &error).help(error.help())
    }
}
