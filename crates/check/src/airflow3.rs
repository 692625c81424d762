//! Names that Airflow 3 removed, as ruff knows them.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde::Deserialize;
use updraft_project::PythonVersion;

use crate::excused::Excused;
use crate::finding::{Found, Place};
use crate::module::MOST_SHOWN;
use crate::noqa;
use crate::rule::Rule;
use crate::source;

/// Of one command line; systems allow two million and more.
const MOST_ARGUMENT_BYTES: usize = 500_000;

/// The ruff that looks for what Airflow 3 removed.
#[derive(Clone, Copy)]
pub struct Ruff<'a> {
    /// What it found is kept under this.
    pub version: &'a str,
    /// Gives the program, or says why there is none. Asked once there is
    /// something that it has not read yet.
    pub program: &'a (dyn Fn() -> Result<PathBuf, String> + Sync),
}

impl std::fmt::Debug for Ruff<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Ruff({})", self.version)
    }
}

/// What ruff says of files.
#[derive(Debug, Default)]
pub(crate) struct Looked {
    /// By the file's name; those that are not here were not looked at.
    pub(crate) by_file: HashMap<String, Vec<Said>>,
    pub(crate) notes: Vec<String>,
}

/// One of ruff's findings.
#[derive(Debug, Deserialize)]
pub(crate) struct Said {
    filename: PathBuf,
    code: Option<String>,
    message: String,
    fix: Option<Fix>,
    location: Location,
    /// The line at whose end it would be excused.
    noqa_row: Option<u32>,
}

#[derive(Debug, Deserialize)]
struct Fix {
    message: Option<String>,
}

#[derive(Debug, Deserialize)]
struct Location {
    row: u32,
    column: u32,
}

/// Has ruff read these files, with as many processes as their names need.
pub(crate) fn look(ruff: Ruff<'_>, root: &Path, python: PythonVersion, files: &[&str]) -> Looked {
    let mut looked = Looked::default();
    if let Err(why) = look_into(&mut looked, ruff, root, python, files) {
        let why = why.lines().next().unwrap_or_default().trim_end_matches(':');
        let what = "names that Airflow 3 removed were not looked for";
        looked.notes.push(format!("{what}: {why}"));
    }
    looked
}

fn look_into(
    looked: &mut Looked,
    ruff: Ruff<'_>,
    root: &Path,
    python: PythonVersion,
    files: &[&str],
) -> Result<(), String> {
    let program = (ruff.program)()?;
    let root = root.canonicalize().map_err(|error| error.to_string())?;
    let run = Run {
        program: &program,
        root: &root,
        python,
    };
    for files in chunks(files) {
        run.look(files, looked)?;
    }
    Ok(())
}

fn chunks<'a, 'b>(mut files: &'b [&'a str]) -> Vec<&'b [&'a str]> {
    let mut chunks = Vec::new();
    while !files.is_empty() {
        let mut bytes = 0;
        let fits = files.iter().take_while(|file| {
            bytes += file.len() + 10;
            bytes <= MOST_ARGUMENT_BYTES
        });
        let (chunk, rest) = files.split_at(fits.count().max(1));
        chunks.push(chunk);
        files = rest;
    }
    chunks
}

struct Run<'a> {
    program: &'a Path,
    root: &'a Path,
    python: PythonVersion,
}

impl Run<'_> {
    fn look(&self, files: &[&str], looked: &mut Looked) -> Result<(), String> {
        let mut command = Command::new(self.program);
        let target = format!("py{}{}", self.python.major(), self.python.minor());
        // The project's own settings for ruff are about other things.
        let asked = command
            .args(["check", "--isolated", "--no-cache", "--quiet"])
            .args(["--select", "AIR3", "--output-format", "json"])
            .args(["--target-version", &target, "--"])
            .args(files)
            .current_dir(self.root)
            .env_clear()
            .stdin(Stdio::null());
        let program = self.program.display();
        let output = asked
            .output()
            .map_err(|error| format!("`{program}` could not be run: {error}"))?;
        let complaint = String::from_utf8_lossy(&output.stderr);
        match output.status.code() {
            Some(0 | 1) => {}
            Some(2) => return Err(last_line(&complaint)),
            // One file may be too much for it, and is not to take the others along.
            Some(_) | None if files.len() > 1 => {
                let (one, other) = files.split_at(files.len() / 2);
                self.look(one, looked)?;
                return self.look(other, looked);
            }
            Some(_) | None => {
                let file = files.first().copied().unwrap_or_default();
                let what = "names that Airflow 3 removed were not looked for in";
                looked
                    .notes
                    .push(format!("{what} {file}: ruff gave up on it"));
                looked.by_file.insert(file.to_owned(), Vec::new());
                return Ok(());
            }
        }
        let all: Vec<Said> = serde_json::from_slice(&output.stdout)
            .map_err(|error| format!("what ruff says cannot be read: {error}"))?;
        let files = files.iter().map(|file| ((*file).to_owned(), Vec::new()));
        looked.by_file.extend(files);
        for said in all {
            let name = said.filename.strip_prefix(self.root).ok();
            let name = name.and_then(Path::to_str);
            if let Some(of_file) = name.and_then(|name| looked.by_file.get_mut(name)) {
                of_file.push(said);
            }
        }
        Ok(())
    }
}

fn last_line(text: &str) -> String {
    let lines = text.trim().lines();
    lines.last().unwrap_or("ruff failed").to_owned()
}

/// What of it is a finding, in a file with this content.
pub(crate) fn found(said: &[Said], content: &[u8]) -> Vec<Found> {
    let Ok(text) = source::decode(content) else {
        return Vec::new();
    };
    let lines: Vec<&str> = text.lines().collect();
    let line = |row: u32| {
        let at = usize::try_from(row).unwrap_or_default().checked_sub(1);
        at.and_then(|at| lines.get(at)).copied().unwrap_or_default()
    };
    // Parsed once more only for those: most findings are of what has moved.
    let is_removed = |said: &Said| said.code.as_deref().and_then(rule) == Some(Rule::Removed);
    let excused = said.iter().any(is_removed).then(|| Excused::of(&text));
    let found = said.iter().filter_map(|said| {
        let code = said.code.as_deref()?;
        let rule = rule(code)?;
        let Location { row, column } = said.location;
        if noqa::excuses(line(row), rule) || noqa::excuses(line(said.noqa_row?), rule) {
            return None;
        }
        let place = Place { line: row, column };
        let covers = |excused: &Excused| excused.covers(place, &said.message);
        if rule == Rule::Removed && excused.as_ref().is_some_and(covers) {
            return None;
        }
        let mut message = said.message.trim_end_matches('.').to_owned();
        if let Some(instead) = said.fix.as_ref().and_then(|fix| fix.message.as_deref()) {
            let instead = instead.trim_end_matches('.');
            let instead = match instead.strip_prefix("Use ") {
                Some(rest) => format!("use {rest}"),
                None => instead.to_owned(),
            };
            message = format!("{message}; {instead}");
        }
        Some(Found {
            rule,
            place,
            text: line(row).chars().take(MOST_SHOWN).collect(),
            message: format!("{message} (ruff's {code})"),
        })
    });
    found.collect()
}

/// Ours for one of ruff's. Those after AIR310 are about what still works.
fn rule(code: &str) -> Option<Rule> {
    let number: u32 = code.strip_prefix("AIR3")?.parse().ok()?;
    Some(if number < 10 {
        Rule::Removed
    } else {
        Rule::Moved
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn command_lines_stay_short_enough() {
        assert!(chunks(&[]).is_empty());
        let long = "x".repeat(MOST_ARGUMENT_BYTES / 2);
        let files = ["a", &long, &long, "b"];
        let lengths = chunks(&files).into_iter().map(<[_]>::len);
        assert_eq!(lengths.collect::<Vec<_>>(), [2, 2]);
        let longer = "x".repeat(MOST_ARGUMENT_BYTES * 2);
        assert_eq!(chunks(&["a", &longer, "b"]).len(), 3);
    }

    #[test]
    fn codes_say_whether_it_still_works() {
        for (code, is) in [
            ("AIR301", Some(Rule::Removed)),
            ("AIR302", Some(Rule::Removed)),
            ("AIR311", Some(Rule::Moved)),
            ("AIR312", Some(Rule::Moved)),
            ("AIR321", Some(Rule::Moved)),
            ("AIR001", None),
            ("invalid-syntax", None),
        ] {
            assert_eq!(rule(code), is, "{code}");
        }
    }
}
