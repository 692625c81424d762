//! `requirements.txt` and the files it includes.

use std::collections::BTreeMap;
use std::io;
use std::path::Path;

use serde::{Deserialize, Serialize};
use updraft_model::Digest;

const FILE: &str = "requirements.txt";

/// The text of `requirements.txt` and of the files of the project that it
/// names with `-r` and `-c`, by path. Empty when there is no such file.
///
/// It travels in the Environment, so that an agent whose Python differs can
/// resolve it again. Hence it holds nothing that exists on one machine only,
/// and no credentials.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Requirements {
    files: BTreeMap<String, String>,
}

#[derive(Debug, thiserror::Error)]
pub enum RequirementsError {
    #[error("could not read `{file}`{}", .from.as_deref().map(|from| format!(", which `{from}` includes")).unwrap_or_default())]
    Unreadable {
        file: String,
        from: Option<String>,
        source: io::Error,
    },
    #[error("line {line} of `{file}` installs from this machine: `{text}`")]
    Local {
        file: String,
        line: usize,
        text: String,
    },
    #[error("line {line} of `{file}` includes a file outside the project: `{text}`")]
    Outside {
        file: String,
        line: usize,
        text: String,
    },
    #[error("line {line} of `{file}` contains credentials")]
    Credentials { file: String, line: usize },
}

impl RequirementsError {
    pub fn help(&self) -> &'static str {
        match self {
            Self::Unreadable { .. } => {
                "check the path, which is relative to the file that names it"
            }
            Self::Local { .. } => {
                "put the code into `include/`, or publish it to a package index and name it there"
            }
            Self::Outside { .. } => "move the file into the project",
            Self::Credentials { .. } => {
                "write them as `${NAME}` and set that variable here and for the agent, or use uv's variables for indexes"
            }
        }
    }
}

impl Requirements {
    /// Reads a project's requirements.
    pub fn read(root: &Path) -> Result<Self, RequirementsError> {
        let mut files = BTreeMap::new();
        let mut open = vec![(FILE.to_owned(), None::<String>)];
        while let Some((file, from)) = open.pop() {
            if files.contains_key(&file) {
                continue;
            }
            let text = match std::fs::read_to_string(root.join(&file)) {
                Ok(text) => text.trim_start_matches('\u{feff}').to_owned(),
                Err(error) if error.kind() == io::ErrorKind::NotFound && from.is_none() => {
                    return Ok(Self::default());
                }
                Err(source) => return Err(RequirementsError::Unreadable { file, from, source }),
            };
            // Comments stay here: they may say what should not travel, and
            // editing one should not make another Environment.
            let mut kept = String::new();
            for (line, text) in logical_lines(&text) {
                if let Some(included) = check(&file, line, &text)? {
                    open.push((included, Some(file.clone())));
                }
                kept.push_str(&text);
                kept.push('\n');
            }
            files.insert(file, kept);
        }
        Ok(Self { files })
    }

    /// The files by path; the first to install is `requirements.txt`.
    pub fn files(&self) -> &BTreeMap<String, String> {
        &self.files
    }

    /// The path of the file that includes the others, when there is one.
    pub fn root_file(&self) -> Option<&'static str> {
        self.files.contains_key(FILE).then_some(FILE)
    }

    /// Whether nothing is required.
    pub fn is_empty(&self) -> bool {
        self.files
            .values()
            .all(|text| logical_lines(text).is_empty())
    }

    /// The lines that count, without comments.
    pub fn lines(&self) -> Vec<String> {
        self.files
            .values()
            .flat_map(|text| logical_lines(text))
            .map(|(_, line)| line)
            .collect()
    }

    /// The lines that say where packages come from, which the installing side
    /// needs as well.
    pub fn index_options(&self) -> Vec<String> {
        let is_index = |line: &String| option(line).is_some_and(|(name, _)| is_index_option(name));
        self.lines().into_iter().filter(is_index).collect()
    }

    /// Whether something comes straight out of a version control system; such
    /// packages have no hash.
    pub fn has_vcs(&self) -> bool {
        self.lines().iter().any(|line| {
            ["git+", "hg+", "svn+", "bzr+"]
                .iter()
                .any(|p| line.contains(p))
        })
    }

    /// Names what is required; comments and blank lines do not count.
    pub fn digest(&self) -> Option<Digest> {
        if self.is_empty() {
            return None;
        }
        let mut text = String::new();
        for (file, content) in &self.files {
            text.push_str(file);
            for (_, line) in logical_lines(content) {
                text.push('\n');
                text.push_str(&line);
            }
            text.push('\0');
        }
        Some(Digest::of(text.as_bytes()))
    }
}

/// Lines with their numbers, continuations joined, comments gone.
fn logical_lines(text: &str) -> Vec<(usize, String)> {
    let mut found = Vec::new();
    let mut joined: Option<(usize, String)> = None;
    for (number, line) in text.lines().enumerate() {
        let line = match line.find('#') {
            Some(0) => "",
            Some(at) if line[..at].ends_with(char::is_whitespace) => &line[..at],
            _ => line,
        };
        let (_, whole) = joined.get_or_insert((number + 1, String::new()));
        if let Some(head) = line.strip_suffix('\\') {
            whole.push_str(head.trim());
            whole.push(' ');
            continue;
        }
        whole.push_str(line.trim());
        found.extend(joined.take());
    }
    found.extend(joined);
    for (_, line) in &mut found {
        *line = line.split_whitespace().collect::<Vec<_>>().join(" ");
    }
    found.retain(|(_, line)| !line.is_empty());
    found
}

/// Refuses what cannot travel; says which file of the project is included.
fn check(file: &str, line: usize, text: &str) -> Result<Option<String>, RequirementsError> {
    let here = || file.to_owned();
    // Not to be repeated in a message, so before all messages that quote.
    if text.split_whitespace().any(has_credentials) {
        return Err(RequirementsError::Credentials { file: here(), line });
    }
    let local = || RequirementsError::Local {
        file: here(),
        line,
        text: text.to_owned(),
    };
    let Some((name, value)) = option(text) else {
        return if is_local(text) {
            Err(local())
        } else {
            Ok(None)
        };
    };
    match name {
        "-r" | "--requirement" | "-c" | "--constraint" if !value.contains("://") => {
            inside(file, value)
                .map(Some)
                .ok_or_else(|| RequirementsError::Outside {
                    file: here(),
                    line,
                    text: text.to_owned(),
                })
        }
        "-e" | "--editable" => Err(local()),
        _ if is_index_option(name) && (value.starts_with("file:") || !value.contains("://")) => {
            Err(local())
        }
        _ => Ok(None),
    }
}

/// Splits `--name value`, `--name=value` and `-nvalue`.
fn option(line: &str) -> Option<(&str, &str)> {
    if line.starts_with("--") {
        let end = line.find(['=', ' ']).unwrap_or(line.len());
        Some((&line[..end], line[end..].trim_start_matches(['=', ' '])))
    } else if line.starts_with('-') && line.len() > 1 && line.is_char_boundary(2) {
        Some((&line[..2], line[2..].trim_start_matches(['=', ' '])))
    } else {
        None
    }
}

fn is_index_option(name: &str) -> bool {
    matches!(
        name,
        "-i" | "--index-url" | "--extra-index-url" | "-f" | "--find-links"
    )
}

fn is_local(requirement: &str) -> bool {
    let target = requirement
        .split_once(" @ ")
        .map_or(requirement, |(_, target)| target);
    let target = target.split(" ;").next().unwrap_or(target).trim();
    if target.starts_with("file:") || target.starts_with(['.', '/', '~']) {
        return true;
    }
    let archive = [".whl", ".tar.gz", ".zip", ".tar.bz2"];
    !target.contains("://") && archive.iter().any(|suffix| target.ends_with(suffix))
}

/// Whether an address has a user or password that is written out.
fn has_credentials(word: &str) -> bool {
    let Some((scheme, rest)) = word.split_once("://") else {
        return false;
    };
    let authority = rest.split(['/', '?', '#']).next().unwrap_or(rest);
    let Some((user_info, _)) = authority.rsplit_once('@') else {
        return false;
    };
    let written_out = |part: &str| {
        let is_variable = part.starts_with("${") && part.ends_with('}');
        !part.is_empty() && !is_variable
    };
    match user_info.split_once(':') {
        Some((_, password)) => written_out(password),
        // `ssh://git@host` names the account that everyone uses.
        None => !scheme.ends_with("ssh") && written_out(user_info),
    }
}

/// Resolves an included path; `None` when it leads out of the project.
fn inside(from: &str, path: &str) -> Option<String> {
    if path.starts_with(['/', '~']) || path.is_empty() {
        return None;
    }
    let mut parts: Vec<&str> = from.split('/').collect();
    parts.pop();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." => {
                parts.pop()?;
            }
            name => parts.push(name),
        }
    }
    Some(parts.join("/"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(files: &[(&str, &str)]) -> Result<Requirements, RequirementsError> {
        let dir = tempfile::tempdir().expect("a folder");
        for (path, text) in files {
            let path = dir.path().join(path);
            std::fs::create_dir_all(path.parent().expect("in the folder")).expect("created");
            std::fs::write(path, text).expect("written");
        }
        Requirements::read(dir.path())
    }

    #[test]
    fn reads_included_files_of_the_project() {
        let read = read(&[
            (
                "requirements.txt",
                "# ours\npandas>=2 # tables\n-r more/a.txt\n-c constraints.txt\n\n",
            ),
            ("more/a.txt", "--requirement=b.txt\nrequests \\\n  >=2\n"),
            ("more/b.txt", "-r ../requirements.txt\n"),
            ("constraints.txt", "numpy<3\n"),
        ])
        .expect("fine");
        assert_eq!(read.files().len(), 4);
        assert!(read.lines().contains(&"requests >=2".to_owned()));
        assert!(read.lines().contains(&"pandas>=2".to_owned()));
        assert!(!read.is_empty());
    }

    #[test]
    fn comments_do_not_change_the_digest() {
        let digest = |text: &str| read(&[("requirements.txt", text)]).expect("fine").digest();
        assert_eq!(digest("a\nb\n"), digest("# x\na # y\n\nb"));
        assert_ne!(digest("a\n"), digest("b\n"));
        assert_eq!(digest("# nothing\n"), None);
        assert_eq!(read(&[]).expect("none is fine").digest(), None);
    }

    #[test]
    fn refuses_what_exists_on_one_machine_only() {
        for local in [
            "-e .",
            "--editable=./lib",
            "./lib",
            "/opt/x.whl",
            "x @ file:///opt/x.whl",
            "wheels/x-1.0-py3-none-any.whl",
            "--find-links ./wheels",
        ] {
            let error = read(&[("requirements.txt", &format!("a\n{local}\n"))]).expect_err(local);
            assert!(
                matches!(error, RequirementsError::Local { line: 2, .. }),
                "{local}: {error}"
            );
        }
        let error = read(&[("requirements.txt", "-r ../x.txt")]).expect_err("outside");
        assert!(matches!(error, RequirementsError::Outside { .. }));
        let error = read(&[("requirements.txt", "-r x.txt")]).expect_err("missing");
        assert_eq!(
            error.to_string(),
            "could not read `x.txt`, which `requirements.txt` includes"
        );
    }

    #[test]
    fn refuses_written_out_credentials_and_does_not_repeat_them() {
        for secret in [
            "--extra-index-url https://me:hunter2@example.com/simple",
            "x @ git+https://hunter2@example.com/x.git",
            "-e git+https://me:hunter2@example.com/x.git",
        ] {
            let error = read(&[("requirements.txt", secret)]).expect_err(secret);
            assert!(!format!("{error} {error:?}").contains("hunter2"));
        }
        let fine = "--extra-index-url https://${USER}:${PASSWORD}@example.com/simple\n\
                    x @ git+ssh://git@example.com/x.git\n-i https://example.com/simple\n";
        let read = read(&[("requirements.txt", fine)]).expect("fine");
        assert_eq!(read.index_options().len(), 2);
        assert!(read.has_vcs());
    }
}
