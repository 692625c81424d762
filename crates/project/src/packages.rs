//! `packages.txt`: operating system packages, one a line.

use std::io;
use std::path::Path;

/// Reads the packages that `packages.txt` names; none when there is no file.
///
/// An Environment cannot have system packages, so whoever makes one has to
/// say which are left out.
pub fn read_packages(root: &Path) -> io::Result<Vec<String>> {
    match std::fs::read_to_string(root.join("packages.txt")) {
        Ok(text) => Ok(parse(&text)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(error),
    }
}

fn parse(text: &str) -> Vec<String> {
    let mut packages: Vec<String> = text
        .trim_start_matches('\u{feff}')
        .lines()
        .flat_map(|line| line.split('#').next().unwrap_or("").split_whitespace())
        .map(str::to_owned)
        .collect();
    packages.sort();
    packages.dedup();
    packages
}

#[cfg(test)]
mod tests {
    #[test]
    fn reads_names_without_comments_and_blank_lines() {
        let text = "# system\n\nlibpq-dev # for psycopg\n  gcc make\ngcc\n";
        assert_eq!(super::parse(text), ["gcc", "libpq-dev", "make"]);
    }
}
