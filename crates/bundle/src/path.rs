//! What a path inside a bundle looks like, and where links may lead.

use std::collections::{HashMap, HashSet};

use crate::table::{Entry, EntryKind};

/// The kernel's limit on a path, without its terminating NUL.
pub const MAX_PATH_BYTES: usize = 4095;
const MAX_NAME_BYTES: usize = 255;
/// The kernel gives up here as well.
const MAX_HOPS: usize = 40;

/// Why a path cannot be part of a bundle.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PathProblem {
    #[error("it is empty")]
    Empty,
    #[error("it is longer than {MAX_PATH_BYTES} bytes")]
    TooLong,
    #[error("one of its names is longer than {MAX_NAME_BYTES} bytes")]
    NameTooLong,
    #[error("it is absolute")]
    Absolute,
    #[error("it contains `..`")]
    Parent,
    #[error("it has an empty part or a `.`")]
    NotNormal,
    #[error("it contains a NUL byte")]
    Nul,
    #[error("`.git`, `__pycache__` and `*.pyc` are never part of a bundle")]
    NeverSent,
}

/// Checks that a path is relative, normalised and something a bundle may carry.
pub(crate) fn check(path: &str) -> Result<(), PathProblem> {
    if path.is_empty() {
        return Err(PathProblem::Empty);
    }
    if path.starts_with('/') {
        return Err(PathProblem::Absolute);
    }
    if path.split('/').any(|name| name == "..") {
        return Err(PathProblem::Parent);
    }
    if path.len() > MAX_PATH_BYTES {
        return Err(PathProblem::TooLong);
    }
    for name in path.split('/') {
        if name.is_empty() || name == "." {
            return Err(PathProblem::NotNormal);
        }
        if name.len() > MAX_NAME_BYTES {
            return Err(PathProblem::NameTooLong);
        }
        if name.contains('\0') {
            return Err(PathProblem::Nul);
        }
        if is_never_sent(name) {
            return Err(PathProblem::NeverSent);
        }
    }
    Ok(())
}

pub(crate) fn is_never_sent(name: &str) -> bool {
    name == ".git" || name == "__pycache__" || name.as_bytes().ends_with(b".pyc")
}

/// Writes a name for people: control characters escaped, long names cut, so
/// that a hostile one cannot take over a terminal or a log.
pub(crate) fn shown(path: &str) -> String {
    const MOST: usize = 160;
    let mut shown = String::new();
    for (count, c) in path.chars().enumerate() {
        if count == MOST {
            shown.push('…');
            break;
        }
        if c.is_control() {
            shown.extend(c.escape_default());
        } else {
            shown.push(c);
        }
    }
    shown
}

/// The folders that hold a path, innermost first.
pub(crate) fn folders_of(path: &str) -> impl Iterator<Item = &str> {
    let mut rest = path;
    std::iter::from_fn(move || {
        rest = &rest[..rest.rfind('/')?];
        Some(rest)
    })
}

/// A file or link that has others below it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Conflict {
    pub(crate) file: String,
    pub(crate) below: String,
}

/// Where a link ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum LinkEnd {
    /// At a file of the tree.
    Inside,
    /// At a folder of the tree: whoever follows links comes to it twice.
    Folder,
    /// Nothing is there, or the links go in a circle.
    Dangling,
    /// At a folder that the link is in: whoever walks the tree never ends.
    Around,
    Outside,
}

/// The names of a whole bundle, for questions that one layer cannot answer.
pub(crate) struct Tree<'a> {
    folders: HashSet<&'a str>,
    leaves: HashMap<&'a str, &'a EntryKind>,
}

impl<'a> Tree<'a> {
    pub(crate) fn new(entries: impl Iterator<Item = &'a Entry>) -> Result<Self, Conflict> {
        let mut tree = Self {
            folders: HashSet::new(),
            leaves: HashMap::new(),
        };
        for entry in entries {
            tree.leaves.insert(&entry.path, &entry.kind);
            for folder in folders_of(&entry.path) {
                if !tree.folders.insert(folder) {
                    break;
                }
            }
        }
        let both = tree
            .folders
            .iter()
            .filter(|folder| tree.leaves.contains_key(*folder))
            .min();
        if let Some(file) = both {
            let inside = |path: &&&str| path.strip_prefix(file).is_some_and(|p| p.starts_with('/'));
            let below = tree.leaves.keys().filter(inside).min().unwrap_or(file);
            return Err(Conflict {
                file: (*file).to_owned(),
                below: (*below).to_owned(),
            });
        }
        Ok(tree)
    }

    /// Follows a link as the kernel would, through other links as well.
    pub(crate) fn follow(&self, path: &'a str, target: &'a str) -> LinkEnd {
        let mut at: Vec<&str> = path.split('/').collect();
        at.pop();
        let mut left: Vec<&str> = Vec::new();
        let mut target = target;
        for _ in 0..MAX_HOPS {
            if target.starts_with('/') {
                return LinkEnd::Outside;
            }
            left.extend(target.rsplit('/'));
            let next = loop {
                match left.pop() {
                    None => break None,
                    Some("" | ".") => {}
                    Some("..") => {
                        if at.pop().is_none() {
                            return LinkEnd::Outside;
                        }
                    }
                    Some(name) => {
                        at.push(name);
                        if let Some(EntryKind::Link { target }) =
                            self.leaves.get(at.join("/").as_str())
                        {
                            at.pop();
                            break Some(target);
                        }
                    }
                }
            };
            match next {
                Some(through) => target = through,
                None => return self.end_at(path, &at.join("/")),
            }
        }
        LinkEnd::Dangling
    }

    fn end_at(&self, link: &str, path: &str) -> LinkEnd {
        if path.is_empty() || folders_of(link).any(|folder| folder == path) {
            LinkEnd::Around
        } else if self.folders.contains(path) {
            LinkEnd::Folder
        } else if self.leaves.contains_key(path) {
            LinkEnd::Inside
        } else {
            LinkEnd::Dangling
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn link(path: &str, target: &str) -> Entry {
        Entry {
            path: path.into(),
            kind: EntryKind::Link {
                target: target.into(),
            },
        }
    }

    #[test]
    fn refuses_names_that_are_not_plain() {
        for (path, problem) in [
            ("", PathProblem::Empty),
            ("/etc/passwd", PathProblem::Absolute),
            ("a/../b", PathProblem::Parent),
            ("..", PathProblem::Parent),
            ("a//b", PathProblem::NotNormal),
            ("a/", PathProblem::NotNormal),
            ("./a", PathProblem::NotNormal),
            ("a\0b", PathProblem::Nul),
            ("a/.git/config", PathProblem::NeverSent),
            ("a/__pycache__/b.txt", PathProblem::NeverSent),
            ("a.pyc", PathProblem::NeverSent),
        ] {
            assert_eq!(check(path), Err(problem), "{path:?}");
        }
        assert_eq!(check(&"a/".repeat(2100)), Err(PathProblem::TooLong));
        assert_eq!(check(&"a".repeat(256)), Err(PathProblem::NameTooLong));
        for path in [
            "a",
            "a/b.py",
            "..a/b..",
            ".hidden",
            "dàgs/ünï code.py",
            "a\\b",
            ".gitignore",
        ] {
            assert_eq!(check(path), Ok(()), "{path:?}");
        }
    }

    #[test]
    fn follows_links_as_the_kernel_would() {
        let entries = [
            link("a/up", ".."),
            link("a/b/deep", "../../c"),
            link("c", "a/b"),
            link("loop1", "loop2"),
            link("loop2", "loop1"),
            link("sneaky", "a/up/.."),
            link("a/twice", "up/a/up/../x"),
            link("dot", "."),
            link("gone", "a/nothing"),
            link("abs", "/etc"),
            link("via", "abs/passwd"),
        ];
        let tree = Tree::new(entries.iter()).expect("no conflict");
        let end = |path: &str| {
            let entry = entries.iter().find(|e| e.path == path).expect("listed");
            let EntryKind::Link { target } = &entry.kind else {
                unreachable!()
            };
            tree.follow(&entry.path, target)
        };
        assert_eq!(end("a/up"), LinkEnd::Around);
        assert_eq!(end("a/b/deep"), LinkEnd::Around);
        assert_eq!(end("c"), LinkEnd::Folder);
        assert_eq!(end("loop1"), LinkEnd::Dangling);
        assert_eq!(end("sneaky"), LinkEnd::Outside);
        assert_eq!(end("a/twice"), LinkEnd::Outside);
        assert_eq!(end("dot"), LinkEnd::Around);
        assert_eq!(end("gone"), LinkEnd::Dangling);
        assert_eq!(end("abs"), LinkEnd::Outside);
        assert_eq!(end("via"), LinkEnd::Outside);
    }

    #[test]
    fn a_file_cannot_be_a_folder_too() {
        let entries = [link("a", "x"), link("a-b", "x"), link("a/c", "x")];
        let conflict = Tree::new(entries.iter()).err().expect("conflict");
        assert_eq!(
            conflict,
            Conflict {
                file: "a".into(),
                below: "a/c".into()
            }
        );
    }

    #[test]
    fn a_hostile_name_is_shown_escaped() {
        assert_eq!(shown("a\u{1b}[31m\n"), "a\\u{1b}[31m\\n");
        assert!(shown(&"x".repeat(5000)).len() < 200);
    }
}
