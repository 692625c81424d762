//! `.dockerignore`, with Docker's meaning: every pattern starts at the root,
//! the last one that matches a path or a folder above it decides, and `!`
//! brings back even what lies in a folder that is left out.

use ignore::gitignore::{Gitignore, GitignoreBuilder};

#[derive(Debug, Default)]
pub(crate) struct Dockerignore {
    patterns: Vec<Pattern>,
}

#[derive(Debug)]
struct Pattern {
    matcher: Gitignore,
    brings_back: bool,
}

impl Dockerignore {
    /// Fails with the number and problem of the line that is no pattern.
    pub(crate) fn parse(text: &str) -> Result<Self, (usize, String)> {
        let mut patterns = Vec::new();
        for (number, line) in text.trim_start_matches('\u{feff}').lines().enumerate() {
            let line = line.trim();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let (brings_back, pattern) = match line.strip_prefix('!') {
                Some(rest) => (true, rest.trim()),
                None => (false, line),
            };
            let pattern = pattern.trim_start_matches("./").trim_matches('/');
            if pattern.is_empty() || pattern == "." {
                continue;
            }
            let bad = |error: ignore::Error| (number + 1, error.to_string());
            let mut builder = GitignoreBuilder::new("/");
            builder
                .add_line(None, &format!("/{pattern}"))
                .map_err(bad)?;
            patterns.push(Pattern {
                matcher: builder.build().map_err(bad)?,
                brings_back,
            });
        }
        Ok(Self { patterns })
    }

    /// Whether a path, relative to the root, is left out.
    pub(crate) fn skips(&self, path: &str, is_folder: bool) -> bool {
        let path = format!("/{path}");
        self.patterns
            .iter()
            .rev()
            .find(|p| {
                p.matcher
                    .matched_path_or_any_parents(&path, is_folder)
                    .is_ignore()
            })
            .is_some_and(|pattern| !pattern.brings_back)
    }

    /// Whether something below a folder that is left out may be brought back.
    pub(crate) fn brings_something_back(&self) -> bool {
        self.patterns.iter().any(|pattern| pattern.brings_back)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn follows_dockers_rules_where_they_differ_from_gits() {
        let rules = Dockerignore::parse(
            "# note\n*.md\n**/*.log\ndata/\n!data/seeds\ndata/seeds/private\n!keep.md\n./logs\n",
        )
        .expect("valid");
        for left_out in [
            "README.md",
            "a/b/x.log",
            "data/big.csv",
            "data",
            "data/seeds/private/x",
            "logs/1",
        ] {
            assert!(rules.skips(left_out, false), "{left_out}");
        }
        for carried in [
            "docs/README.md",
            "keep.md",
            "data/seeds/a.csv",
            "include/logs/x",
        ] {
            assert!(!rules.skips(carried, false), "{carried}");
        }
        assert!(rules.brings_something_back());
        assert_eq!(
            Dockerignore::parse("ok\n[z-a]\n").expect_err("bad range").0,
            2
        );
    }
}
