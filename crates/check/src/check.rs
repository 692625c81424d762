//! The check of all files of a project.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread;
use std::time::SystemTime;

use updraft_model::Digest;
use updraft_project::{CheckLevel as Level, PythonVersion};

use crate::airflow3::{self, Looked, Ruff};
use crate::cache::Cache;
use crate::dag_files::DagFile;
use crate::finding::Finding;
use crate::imports::{self, Installed};
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
    /// Names of the project's own modules.
    pub own: BTreeSet<String>,
    /// None: not known, and then no import is looked up.
    pub installed: Option<Installed>,
    /// Gives the ids that other bundles of the Deployment have. Asked after the
    /// files were read; none: not known, and then none is looked for.
    pub elsewhere: Option<Elsewhere<'a>>,
    /// None: what Airflow 3 removed is not looked for.
    pub ruff: Option<Ruff<'a>>,
}

/// Where the ids of other bundles' DAGs come from.
#[derive(Clone, Copy)]
pub struct Elsewhere<'a> {
    /// Each with its bundle.
    pub ids: &'a (dyn Fn() -> BTreeMap<String, String> + Sync),
}

impl std::fmt::Debug for Elsewhere<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Elsewhere(…)")
    }
}

impl<'a> Options<'a> {
    /// What a file says by itself and with the others, and nothing besides.
    pub fn new(root: &'a Path, python: PythonVersion, levels: &'a Levels) -> Self {
        Self {
            root,
            python,
            levels,
            cache: None,
            own: BTreeSet::new(),
            installed: None,
            elsewhere: None,
            ruff: None,
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Checked {
    /// By file and place.
    pub findings: Vec<Finding>,
    pub files: usize,
    /// Files whose content was known.
    pub known: usize,
    /// What could not be checked, and why.
    pub notes: Vec<String>,
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
pub fn check(files: &[DagFile], options: Options<'_>) -> io::Result<Checked> {
    let is_off = |rule| options.levels.of(rule) == Level::Off;
    let ruff = options
        .ruff
        .filter(|_| !is_off(Rule::Removed) || !is_off(Rule::Moved));
    let version = ruff.map(|ruff| ruff.version);
    let cache = Cache::open(options.cache.clone(), options.python, version);
    let work = Work {
        files,
        options: &options,
        cache: &cache,
        listed: listed(files, options.root),
    };
    let for_ruff = ruff.map(|_| work.for_ruff()).unwrap_or_default();
    let begun = SystemTime::now();
    let (read, looked) = thread::scope(|scope| {
        let looked = ruff.filter(|_| !for_ruff.is_empty()).map(|ruff| {
            let files: Vec<&str> = for_ruff.iter().map(|(_, file)| *file).collect();
            scope.spawn(move || airflow3::look(ruff, options.root, options.python, &files))
        });
        let read = threads::map(&work.numbers(), |number| work.read(*number));
        (read, looked.and_then(|looked| looked.join().ok()))
    });
    let mut read = read?;
    let known = read.iter().filter(|read| read.is_known).count();
    let mut notes = Vec::new();
    if let Some(looked) = looked {
        work.merge(&mut read, &for_ruff, &looked, begun)?;
        notes = looked.notes;
    }
    let kept = read.iter().filter(|read| read.is_kept);
    let now: HashMap<Digest, Arc<Facts>> = kept
        .filter_map(|read| Some((read.digest?, Arc::clone(&read.facts))))
        .collect();
    let facts: Vec<(&str, &Facts)> = files
        .iter()
        .zip(&read)
        .map(|(file, read)| (file.name.as_str(), &*read.facts))
        .collect();
    let own = facts.iter().flat_map(|(file, facts)| {
        let removed = facts.airflow3.iter().flatten().filter(|_| ruff.is_some());
        let found = facts.found.iter().chain(removed).cloned();
        found.map(move |found| (*file, found))
    });
    let asked = options.elsewhere.filter(|_| !is_off(Rule::ElsewhereDag));
    let elsewhere = asked.map(|it| (it.ids)()).unwrap_or_default();
    let missing = options
        .installed
        .map(|installed| imports::missing(&facts, &installed, &options.own));
    let mut findings: Vec<Finding> = own
        .chain(project::duplicates(&facts))
        .chain(project::elsewhere(&facts, &elsewhere))
        .chain(missing.unwrap_or_default())
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
        notes,
    };
    // The next check takes longer without it, and is no other.
    let _ = cache.keep(&now);
    Ok(checked)
}

/// What is done to find out the facts of files.
struct Work<'a> {
    files: &'a [DagFile],
    options: &'a Options<'a>,
    cache: &'a Cache,
    /// What each file is said to hold; none: it cannot be read.
    listed: Vec<Option<Digest>>,
}

/// A file of which the facts are there.
struct Read {
    /// What it held when it was read; none: it could not be.
    digest: Option<Digest>,
    facts: Arc<Facts>,
    /// Whether they were there before.
    is_known: bool,
    /// Whether they go into the cache.
    is_kept: bool,
}

fn listed(files: &[DagFile], root: &Path) -> Vec<Option<Digest>> {
    let digests = files.iter().map(|file| {
        let read = || Some(Digest::of(&bytes(&root.join(&file.name)).ok()?));
        file.digest.or_else(read)
    });
    digests.collect()
}

impl Work<'_> {
    fn numbers(&self) -> Vec<usize> {
        (0..self.files.len()).collect()
    }

    fn path(&self, number: usize) -> PathBuf {
        self.options.root.join(&self.files[number].name)
    }

    fn read(&self, number: usize) -> Read {
        let is_there = |digest, facts, is_known| Read {
            digest: Some(digest),
            facts,
            is_known,
            is_kept: true,
        };
        let listed = self.listed[number];
        if let Some((digest, facts)) = listed.and_then(|it| Some((it, self.cache.get(it)?))) {
            return is_there(digest, facts, true);
        }
        let bytes = match bytes(&self.path(number)) {
            Ok(bytes) => bytes,
            Err(why) => {
                return Read {
                    digest: None,
                    facts: Arc::new(module::unreadable(1, why)),
                    is_known: false,
                    is_kept: false,
                };
            }
        };
        // Not the one that was given: the file may have changed since.
        let digest = Digest::of(&bytes);
        if let Some(facts) = self.cache.get(digest) {
            return is_there(digest, facts, true);
        }
        let facts = module::read(&bytes, self.options.python);
        is_there(digest, Arc::new(facts), false)
    }

    /// One file of each content that ruff has not read yet.
    fn for_ruff(&self) -> Vec<(Digest, &str)> {
        let mut seen = HashSet::new();
        let files = self.files.iter().zip(&self.listed);
        files
            .filter_map(|(file, digest)| Some((digest.as_ref()?, file.name.as_str())))
            .filter(|(digest, _)| {
                let facts = self.cache.get(**digest);
                facts.is_none_or(|facts| facts.airflow3.is_none())
            })
            .filter(|(digest, _)| seen.insert(**digest))
            .map(|(digest, name)| (*digest, name))
            .collect()
    }

    /// Adds what ruff found to the facts.
    fn merge(
        &self,
        read: &mut [Read],
        for_ruff: &[(Digest, &str)],
        looked: &Looked,
        begun: SystemTime,
    ) -> io::Result<()> {
        let found = threads::map(for_ruff, |(digest, file)| {
            let said = looked.by_file.get(*file)?;
            let path = self.options.root.join(file);
            let modified = fs::metadata(&path).and_then(|it| it.modified());
            let is_still_it = modified.is_ok_and(|modified| modified < begun);
            let found = match said.as_slice() {
                [] => Vec::new(),
                said => airflow3::found(said, &bytes(&path).ok()?),
            };
            Some((*digest, (found, is_still_it)))
        })?;
        let found: HashMap<Digest, _> = found.into_iter().flatten().collect();
        for (read, listed) in read.iter_mut().zip(&self.listed) {
            let Some((found, is_still_it)) = listed.and_then(|it| found.get(&it)) else {
                continue;
            };
            // What was read may not be what ruff has read.
            read.is_kept &= *is_still_it && read.digest == *listed;
            let mut facts = Facts::clone(&read.facts);
            facts.airflow3 = Some(found.clone());
            read.facts = Arc::new(facts);
        }
        Ok(())
    }
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
        matches!(
            self,
            Self::Unreadable
                | Self::Syntax
                | Self::Unimportable
                | Self::EndsProcess
                | Self::Cycle
                | Self::Schedule
                | Self::MissingName
        )
    }
}
