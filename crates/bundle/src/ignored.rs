//! `.updraftignore`: which files stay at home.

use std::sync::Arc;

use ignore::Match;
use ignore::gitignore::{Gitignore, GitignoreBuilder};

pub(crate) const IGNORE_FILE: &str = ".updraftignore";

/// The rules that hold in a folder: its own, then those of the folders above.
#[derive(Debug, Clone, Default)]
pub(crate) struct Ignored {
    innermost: Option<Arc<Rules>>,
}

#[derive(Debug)]
struct Rules {
    matcher: Gitignore,
    outer: Option<Arc<Rules>>,
}

/// A line that is not a valid pattern.
#[derive(Debug)]
pub(crate) struct BadPattern {
    pub(crate) line: usize,
    pub(crate) problem: String,
}

impl Ignored {
    /// The rules below `folder`, which adds `text` to those above it.
    pub(crate) fn and(&self, folder: &str, text: &str) -> Result<Self, BadPattern> {
        let mut builder = GitignoreBuilder::new(format!("/{folder}"));
        let text = text.strip_prefix('\u{feff}').unwrap_or(text);
        for (number, line) in text.lines().enumerate() {
            let bad = |error: ignore::Error| BadPattern {
                line: number + 1,
                problem: error.to_string(),
            };
            builder.add_line(None, line).map_err(bad)?;
        }
        let bad = |error: ignore::Error| BadPattern {
            line: 0,
            problem: error.to_string(),
        };
        let matcher = builder.build().map_err(bad)?;
        let rules = Rules {
            matcher,
            outer: self.innermost.clone(),
        };
        Ok(Self {
            innermost: Some(Arc::new(rules)),
        })
    }

    pub(crate) fn skips(&self, path: &str, is_folder: bool) -> bool {
        let mut rules = self.innermost.as_deref();
        if rules.is_none() {
            return false;
        }
        let path = format!("/{path}");
        while let Some(Rules { matcher, outer }) = rules {
            match matcher.matched(&path, is_folder) {
                Match::Ignore(_) => return true,
                Match::Whitelist(_) => return false,
                Match::None => rules = outer.as_deref(),
            }
        }
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_innermost_rule_that_matches_decides() {
        let outer = Ignored::default()
            .and("", "*.log\n/build\n# note\ndata/\n")
            .expect("valid");
        let inner = outer
            .and("dags", "!keep.log\n/only_here.py\n")
            .expect("valid");
        assert!(outer.skips("a.log", false));
        assert!(outer.skips("deep/er/a.log", false));
        assert!(outer.skips("build", true));
        assert!(!outer.skips("dags/build", true));
        assert!(outer.skips("dags/data", true));
        assert!(!outer.skips("dags/data", false), "a file is not a folder");
        assert!(!inner.skips("dags/keep.log", false));
        assert!(inner.skips("dags/other.log", false));
        assert!(inner.skips("dags/only_here.py", false));
        assert!(!inner.skips("dags/sub/only_here.py", false));
        assert!(!Ignored::default().skips("anything", false));
    }

    #[test]
    fn a_bad_pattern_is_named_by_its_line() {
        let bad = Ignored::default()
            .and("", "fine\n[z-a]\n")
            .expect_err("bad range");
        assert_eq!(bad.line, 2);
    }
}
