//! Which files of a bundle Airflow looks at.
//!
//! Airflow's own reading: `find_path_from_directory` in `airflow/utils/file.py`
//! and its successor, the same since 2.0 but for the default syntax.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use ignore::Match;
use ignore::gitignore::{Gitignore, GitignoreBuilder};
use regex::Regex;
use updraft_model::Digest;
use updraft_project::AirflowVersion;

const IGNORE_FILE: &str = ".airflowignore";

/// A file to check.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DagFile {
    /// From the project's folder, such as `dags/sales.py`.
    pub name: String,
    /// Its content's, where it is known: content that was checked before is not read again.
    pub digest: Option<Digest>,
}

#[derive(Debug, thiserror::Error)]
pub enum DagFilesError {
    #[error("could not read `{}`", path.display())]
    Read {
        path: PathBuf,
        source: std::io::Error,
    },
}

/// How `.airflowignore` is written: `[core] dag_ignore_file_syntax`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum IgnoreSyntax {
    /// Like `.gitignore`.
    Glob,
    Regexp,
}

impl IgnoreSyntax {
    /// What an Airflow goes by; `set` is `AIRFLOW__CORE__DAG_IGNORE_FILE_SYNTAX`.
    pub fn of(airflow: &AirflowVersion, set: Option<&str>) -> Self {
        match set {
            Some("glob") => Self::Glob,
            Some("regexp") => Self::Regexp,
            _ if airflow.major() >= 3 => Self::Glob,
            _ => Self::Regexp,
        }
    }
}

/// What the `.airflowignore` files of a bundle say. They hold in their folder
/// and below it.
#[derive(Debug, Clone, Default)]
pub struct AirflowIgnore {
    by_folder: BTreeMap<String, Rules>,
    notes: Vec<String>,
}

#[derive(Debug, Clone)]
enum Rules {
    Glob(Gitignore),
    Regexp(Vec<Regex>),
}

impl AirflowIgnore {
    /// Reads those of the paths below `dags` that are such files.
    pub fn read<'a>(
        dags: &Path,
        paths: impl IntoIterator<Item = &'a str>,
        syntax: IgnoreSyntax,
    ) -> Result<Self, DagFilesError> {
        let mut all = Self::default();
        for path in paths {
            let (folder, name) = path.rsplit_once('/').unwrap_or(("", path));
            if name != IGNORE_FILE {
                continue;
            }
            let full = dags.join(path);
            let text = match fs::read(&full) {
                Ok(bytes) => String::from_utf8_lossy(&bytes).into_owned(),
                // A link that leads nowhere; to Airflow there is no file.
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => continue,
                Err(source) => return Err(DagFilesError::Read { path: full, source }),
            };
            all.add(folder, &text, syntax);
        }
        Ok(all)
    }

    fn add(&mut self, folder: &str, text: &str, syntax: IgnoreSyntax) {
        // Airflow takes all from the first `#` away, and the space before it.
        let patterns = text.lines().map(|line| match line.split_once('#') {
            Some((before, _)) => before.trim_end(),
            None => line,
        });
        let patterns = patterns.filter(|line| !line.is_empty());
        let mut bad = Vec::new();
        let rules = match syntax {
            IgnoreSyntax::Regexp => {
                let patterns = patterns.filter_map(|pattern| {
                    let regex = Regex::new(pattern);
                    regex.map_err(|_| bad.push(pattern.to_owned())).ok()
                });
                Rules::Regexp(patterns.collect())
            }
            IgnoreSyntax::Glob => {
                let mut builder = GitignoreBuilder::new(format!("/{folder}"));
                for pattern in patterns {
                    if builder.add_line(None, pattern).is_err() {
                        bad.push(pattern.to_owned());
                    }
                }
                Rules::Glob(builder.build().unwrap_or_else(|_| Gitignore::empty()))
            }
        };
        let at = if folder.is_empty() {
            String::new()
        } else {
            format!("{folder}/")
        };
        self.notes.extend(bad.into_iter().map(|pattern| {
            format!(
                "`{pattern}` in `dags/{at}{IGNORE_FILE}` is no valid pattern, and ignores nothing"
            )
        }));
        self.by_folder.insert(folder.to_owned(), rules);
    }

    /// Patterns that say nothing because they cannot be read.
    pub fn notes(&self) -> &[String] {
        &self.notes
    }

    /// Whether Airflow leaves out this path below `dags/`, by itself or with a
    /// folder that it is in.
    pub fn leaves_out(&self, path: &str, is_folder: bool) -> bool {
        if self.by_folder.is_empty() {
            return false;
        }
        let folders = path.match_indices('/').map(|(at, _)| &path[..at]);
        folders
            .map(|folder| (folder, true))
            .chain([(path, is_folder)])
            .any(|(path, is_folder)| self.names(path, is_folder))
    }

    /// Whether the rules of the folders above a path name it; the innermost
    /// that says something decides.
    fn names(&self, path: &str, is_folder: bool) -> bool {
        let above = path.rmatch_indices('/').map(|(at, _)| &path[..at]);
        for folder in above.chain([""]) {
            match self.by_folder.get(folder) {
                // Wherever the file lies, they are matched from `dags/` on.
                Some(Rules::Regexp(patterns))
                    if patterns.iter().any(|pattern| pattern.is_match(path)) =>
                {
                    return true;
                }
                Some(Rules::Regexp(_)) | None => {}
                Some(Rules::Glob(rules)) => match rules.matched(format!("/{path}"), is_folder) {
                    Match::Ignore(_) => return true,
                    Match::Whitelist(_) => return false,
                    Match::None => {}
                },
            }
        }
        false
    }
}

/// The Python files among the paths below `dags/` that `.airflowignore` leaves,
/// sorted.
pub fn dag_files<'a>(
    listed: impl IntoIterator<Item = (&'a str, Option<Digest>)>,
    ignored: &AirflowIgnore,
) -> Vec<DagFile> {
    let python = listed.into_iter().filter(|(path, _)| {
        let extension = Path::new(path).extension();
        extension.is_some_and(|extension| extension == "py")
    });
    let mut files: Vec<DagFile> = python
        .filter(|(path, _)| !ignored.leaves_out(path, false))
        .map(|(path, digest)| DagFile {
            name: format!("dags/{path}"),
            digest,
        })
        .collect();
    files.sort_unstable_by(|one, other| one.name.cmp(&other.name));
    files
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ignore(files: &[(&str, &str)], syntax: IgnoreSyntax) -> AirflowIgnore {
        let mut ignore = AirflowIgnore::default();
        for (folder, text) in files {
            ignore.add(folder, text, syntax);
        }
        ignore
    }

    #[test]
    fn globs_work_as_in_git() {
        let files = [
            (
                "",
                "# not these\nlegacy/\n*_draft.py   # nor these\n/only_here.py\na/b.py\n",
            ),
            ("team", "!keep_draft.py\nown.py\n"),
            ("team/deep", "*\n!x.py\n"),
        ];
        let ignore = ignore(&files, IgnoreSyntax::Glob);
        for path in [
            "legacy/x.py",
            "deep/legacy/sub/x.py",
            "x_draft.py",
            "team/x_draft.py",
            "only_here.py",
            "a/b.py",
            "team/own.py",
            "team/sub/own.py",
            "team/deep/y.py",
            "team/deep/sub/x.py",
        ] {
            assert!(ignore.leaves_out(path, false), "{path}");
        }
        for path in [
            "legacy",
            "sub/only_here.py",
            "sub/a/b.py",
            "own.py",
            "team/keep_draft.py",
            "team/sub/keep_draft.py",
            "team/deep/x.py",
        ] {
            assert!(!ignore.leaves_out(path, false), "{path}");
        }
        assert!(ignore.leaves_out("legacy", true));
    }

    #[test]
    fn regular_expressions_are_searched_for_from_the_dags_folder_on() {
        let files = [
            ("", "leg.cy\n_draft\\.py$ # why\n"),
            ("team", "^own\nteam/x\n"),
        ];
        let ignore = ignore(&files, IgnoreSyntax::Regexp);
        for path in ["a/legXcy/b.py", "x_draft.py", "team/x.py"] {
            assert!(ignore.leaves_out(path, false), "{path}");
        }
        for path in ["own.py", "team/own.py", "x_draft.pyi", "other/team/a.py"] {
            assert!(!ignore.leaves_out(path, false), "{path}");
        }
    }

    #[test]
    fn a_pattern_that_cannot_be_read_is_told() {
        let regexp = ignore(&[("a", "fine\n(\n")], IgnoreSyntax::Regexp);
        assert_eq!(
            regexp.notes(),
            ["`(` in `dags/a/.airflowignore` is no valid pattern, and ignores nothing"]
        );
        assert!(regexp.leaves_out("a/fine.py", false));
        let glob = ignore(&[("", "[z-a]\nx.py\n")], IgnoreSyntax::Glob);
        assert_eq!(glob.notes().len(), 1);
        assert!(glob.leaves_out("x.py", false));
    }

    #[test]
    fn airflow_and_its_setting_decide_the_syntax() {
        let of = |airflow: &str, set| IgnoreSyntax::of(&airflow.parse().unwrap(), set);
        assert_eq!(of("3.3.2", None), IgnoreSyntax::Glob);
        assert_eq!(of("2.11.2", None), IgnoreSyntax::Regexp);
        assert_eq!(of("2.11.2", Some("glob")), IgnoreSyntax::Glob);
        assert_eq!(of("3.3.2", Some("regexp")), IgnoreSyntax::Regexp);
    }
}
