//! `packages.txt`: operating system packages, one a line.

use std::io;
use std::path::Path;

/// What a package's name, `=version` and `/release` are made of.
const MARKS: &str = "+-.:~_=/";

#[derive(Debug, thiserror::Error)]
pub enum PackagesError {
    #[error("could not read `packages.txt`")]
    Unreadable(#[source] io::Error),
    #[error("line {line} of `packages.txt` is not a package: `{text}`")]
    Name { line: usize, text: String },
}

impl PackagesError {
    pub fn help(&self) -> &'static str {
        match self {
            Self::Unreadable(_) => "make it readable, as UTF-8",
            Self::Name { .. } => {
                "name Debian packages, such as `libpq-dev` or `git=1:2.39.5-0`; commands belong into the Dockerfile"
            }
        }
    }
}

/// Reads the packages that `packages.txt` names, sorted; none when there is no file.
///
/// An Environment cannot have system packages, so whoever makes one has to
/// say which are left out.
pub fn read_packages(root: &Path) -> Result<Vec<String>, PackagesError> {
    match std::fs::read_to_string(root.join("packages.txt")) {
        Ok(text) => parse(&text),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(PackagesError::Unreadable(error)),
    }
}

fn parse(text: &str) -> Result<Vec<String>, PackagesError> {
    let mut packages = Vec::new();
    for (number, line) in text.trim_start_matches('\u{feff}').lines().enumerate() {
        let named = line.split('#').next().unwrap_or("");
        for name in named.split_whitespace() {
            // They come to stand in a command of a shell.
            if !is_package(name) {
                return Err(PackagesError::Name {
                    line: number + 1,
                    text: name.escape_debug().take(80).collect(),
                });
            }
            packages.push(name.to_owned());
        }
    }
    packages.sort();
    packages.dedup();
    Ok(packages)
}

fn is_package(name: &str) -> bool {
    name.starts_with(|c: char| c.is_ascii_alphanumeric())
        && name
            .chars()
            .all(|c| c.is_ascii_alphanumeric() || MARKS.contains(c))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_names_without_comments_and_blank_lines() {
        let text = "# system\n\nlibpq-dev # for psycopg\n  gcc make\ngcc\ngit=1:2.39.5-0+deb12u2\n";
        let read = parse(text).unwrap();
        assert_eq!(read, ["gcc", "git=1:2.39.5-0+deb12u2", "libpq-dev", "make"]);
    }

    #[test]
    fn a_command_is_no_package() {
        for wrong in [
            "gcc;reboot",
            "$(id)",
            "-o=APT::x",
            "a'b",
            "`id`",
            "a&&b",
            "ä",
        ] {
            let error = parse(&format!("git\n{wrong}\n")).unwrap_err();
            let said = error.to_string();
            assert!(said.starts_with("line 2 of `packages.txt`"), "{said}");
        }
    }
}
