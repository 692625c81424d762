//! What differs between two trees, and whose parse that can touch.
//!
//! It errs on one side, as the proof does: a file that is parsed needlessly
//! costs time, one that is not parsed would be a wrong answer.

use std::collections::HashSet;
use std::path::Path;

use super::Tree;
use super::protocol::Seen;

#[derive(Debug, Default)]
pub(super) struct Change {
    files: HashSet<String>,
    /// Under which an import could be answered otherwise now.
    names: HashSet<String>,
    /// Whose listing differs.
    folders: HashSet<String>,
}

impl Change {
    pub(super) fn between(old: &Tree, new: &Tree) -> Self {
        let mut change = Self::default();
        let came_or_went = |path: &String| old.contains_key(path) != new.contains_key(path);
        for path in old.keys().chain(new.keys()) {
            if old.get(path) == new.get(path) || !change.files.insert(path.clone()) {
                continue;
            }
            if came_or_went(path) {
                change.names.insert(module_name(path));
                for folder in folders_above(path) {
                    change.names.insert(folder.to_owned());
                    change.folders.insert(folder.to_owned());
                }
                change.folders.insert(String::new());
            }
        }
        change
    }

    pub(super) fn touches(&self, seen: &Seen) -> bool {
        if self.files.is_empty() {
            return false;
        }
        let any = |of: &HashSet<String>, paths: &[String]| paths.iter().any(|it| of.contains(it));
        any(&self.files, &seen.files)
            || any(&self.names, &seen.names)
            || any(&self.folders, &seen.folders)
    }

    /// Whether a data file changed that no parse is known to look at: compiled
    /// code may have read it, which leaves no trace.
    pub(super) fn is_unexplained<'a>(&self, seen: impl Iterator<Item = &'a Seen>) -> bool {
        let is_data = |path: &&String| {
            let extension = Path::new(path).extension();
            let is_read = extension.is_none_or(|it| it != "py" && it != "md");
            is_read && !path.starts_with("tests/")
        };
        let mut rest: HashSet<&String> = self.files.iter().filter(is_data).collect();
        for seen in seen {
            if rest.is_empty() {
                break;
            }
            for path in &seen.files {
                rest.remove(path);
            }
        }
        !rest.is_empty()
    }
}

/// `dags/lib/foo` for `dags/lib/foo.cpython-312.so`.
fn module_name(path: &str) -> String {
    let (folder, name) = path.rsplit_once('/').unwrap_or(("", path));
    let stem = name.split('.').next().unwrap_or(name);
    match folder {
        "" => stem.to_owned(),
        folder => format!("{folder}/{stem}"),
    }
}

fn folders_above(path: &str) -> impl Iterator<Item = &str> {
    path.match_indices('/').map(|(at, _)| &path[..at])
}

#[cfg(test)]
mod tests {
    use updraft_model::Digest;

    use super::*;

    fn tree(files: &[(&str, &str)]) -> Tree {
        files
            .iter()
            .map(|(path, text)| ((*path).to_owned(), Digest::of(text.as_bytes())))
            .collect()
    }

    fn seen(files: &[&str], names: &[&str], folders: &[&str]) -> Seen {
        let owned = |list: &[&str]| list.iter().map(|it| (*it).to_owned()).collect();
        Seen {
            files: owned(files),
            names: owned(names),
            folders: owned(folders),
            everything: false,
        }
    }

    #[test]
    fn a_change_touches_whoever_looked_there() {
        let old = tree(&[("dags/a.py", "1"), ("dags/lib/util.py", "1")]);
        let importer = seen(&["dags/a.py", "dags/lib/util.py"], &["dags/lib"], &[]);
        let change = |files: &[(&str, &str)]| Change::between(&old, &tree(files));
        assert!(!change(&[("dags/a.py", "1"), ("dags/lib/util.py", "1")]).touches(&importer));
        assert!(change(&[("dags/a.py", "1"), ("dags/lib/util.py", "2")]).touches(&importer));
        assert!(
            !change(&[
                ("dags/a.py", "1"),
                ("dags/lib/util.py", "1"),
                ("dags/b.py", "1")
            ])
            .touches(&importer)
        );
        // A package that shadows what was imported from elsewhere.
        let elsewhere = seen(&["dags/b.py"], &["dags/requests"], &[]);
        let more = [
            ("dags/a.py", "1"),
            ("dags/lib/util.py", "1"),
            ("dags/requests/__init__.py", ""),
        ];
        assert!(change(&more).touches(&elsewhere));
        let lister = seen(&["dags/c.py"], &[], &["dags/lib"]);
        assert!(change(&[("dags/a.py", "1")]).touches(&lister));
        assert!(!change(&[("dags/a.py", "2"), ("dags/lib/util.py", "2")]).touches(&lister));
    }

    #[test]
    fn a_data_file_that_nobody_is_known_to_read_may_be_read_by_anybody() {
        let old = tree(&[
            ("dags/a.py", "1"),
            ("include/x.parquet", "1"),
            ("include/y.json", "1"),
        ]);
        let reader = seen(&["dags/a.py", "include/y.json"], &[], &[]);
        let unexplained = |files: &[(&str, &str)]| {
            Change::between(&old, &tree(files)).is_unexplained([&reader].into_iter())
        };
        assert!(unexplained(&[
            ("dags/a.py", "1"),
            ("include/x.parquet", "2"),
            ("include/y.json", "1")
        ]));
        assert!(!unexplained(&[
            ("dags/a.py", "1"),
            ("include/x.parquet", "1"),
            ("include/y.json", "2")
        ]));
        assert!(!unexplained(&[
            ("dags/a.py", "2"),
            ("include/x.parquet", "1"),
            ("include/y.json", "1")
        ]));
    }
}
