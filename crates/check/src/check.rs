//! The check of all files of a project.

use std::collections::HashMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use updraft_model::Digest;
use updraft_project::{CheckLevel as Level, PythonVersion};

use crate::cache::Cache;
use crate::finding::Finding;
use crate::module::{self, Facts};
use crate::rule::{Levels, Rule};
use crate::source::MOST_BYTES;
use crate::{project, threads};

#[derive(Debug, Clone)]
pub struct Options<'a> {
    /// What files are named below.
    pub root: &'a Path,
    /// The Python that imports them.
    pub python: PythonVersion,
    pub levels: &'a Levels,
    /// Where what is known is kept; none: nowhere.
    pub cache: Option<PathBuf>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Checked {
    /// By file and place.
    pub findings: Vec<Finding>,
    pub files: usize,
    /// Files whose content was known.
    pub known: usize,
}

impl Checked {
    pub fn errors(&self) -> usize {
        let errors = self.findings.iter();
        errors
            .filter(|finding| finding.level == Level::Error)
            .count()
    }
}

/// Checks these files. Every one of them is answered for: one that cannot be
/// read is a finding.
pub fn check(files: &[String], options: Options<'_>) -> io::Result<Checked> {
    let cache = Cache::open(options.cache, options.python);
    let read = |file: &String| {
        let bytes = match bytes(&options.root.join(file)) {
            Ok(bytes) => bytes,
            Err(why) => return (None, Arc::new(module::unreadable(1, why)), false),
        };
        let digest = Digest::of(&bytes);
        match cache.get(digest) {
            Some(facts) => (Some(digest), facts, true),
            None => (
                Some(digest),
                Arc::new(module::read(&bytes, options.python)),
                false,
            ),
        }
    };
    let read = threads::map(files, read)?;
    let known = read.iter().filter(|(_, _, known)| *known).count();
    let digests = read.iter();
    let now: HashMap<Digest, Arc<Facts>> = digests
        .filter_map(|(digest, facts, _)| Some(((*digest)?, Arc::clone(facts))))
        .collect();
    let facts: Vec<(&str, &Facts)> = files
        .iter()
        .zip(&read)
        .map(|(file, (_, facts, _))| (file.as_str(), &**facts))
        .collect();
    let own = facts.iter().flat_map(|(file, facts)| {
        let found = facts.found.iter().cloned();
        found.map(move |found| (*file, found))
    });
    let mut findings: Vec<Finding> = own
        .chain(project::duplicates(&facts))
        .map(|(file, found)| {
            let level = options.levels.of(found.rule);
            found.at(file, level)
        })
        .filter(|finding| finding.level != Level::Off)
        .collect();
    findings.sort_by(|one, other| {
        let key = |finding: &Finding| (finding.place, finding.rule);
        one.file
            .cmp(&other.file)
            .then_with(|| key(one).cmp(&key(other)))
    });
    let checked = Checked {
        findings,
        files: files.len(),
        known,
    };
    // The next check takes longer without it, and is no other.
    let _ = cache.keep(&now);
    Ok(checked)
}

fn bytes(path: &Path) -> Result<Vec<u8>, String> {
    let failed = |error: io::Error| format!("it cannot be read: {error}");
    let size = fs::metadata(path).map_err(failed)?.len();
    if size > MOST_BYTES {
        return Err(format!(
            "it has {size} bytes, and {MOST_BYTES} are read of a file"
        ));
    }
    fs::read(path).map_err(failed)
}

impl Rule {
    /// Whether a file with this cannot be imported at all.
    pub const fn stops_the_import(self) -> bool {
        matches!(self, Self::Unreadable | Self::Syntax)
    }
}
