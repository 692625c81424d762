//! The components' own output. They append to a file that they hold open for
//! days, so it is cut by copying and truncating: a line written between the two
//! is lost, which beats a full disk.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

const LARGEST: u64 = 16 << 20;
const KEPT: u32 = 3;

/// Opens a log for appending. Output may quote variables of the Deployment, so
/// only the agent's user reads it.
pub(crate) fn open(path: &Path) -> io::Result<File> {
    OpenOptions::new()
        .create(true)
        .append(true)
        .mode(0o600)
        .open(path)
}

/// Moves the content of a large log to `.1`, `.1` to `.2`, and so on.
pub(crate) fn rotate(path: &Path) -> io::Result<()> {
    if !fs::metadata(path).is_ok_and(|metadata| metadata.len() > LARGEST) {
        return Ok(());
    }
    for number in (1..KEPT).rev() {
        let _ = fs::rename(numbered(path, number), numbered(path, number + 1));
    }
    fs::copy(path, numbered(path, 1))?;
    OpenOptions::new().write(true).open(path)?.set_len(0)
}

fn numbered(path: &Path, number: u32) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(format!(".{number}"));
    name.into()
}

/// Values that stay on this machine, and the names that are said instead:
/// reports are kept in clear and shown to everybody who may look.
#[derive(Clone, Default, PartialEq, Eq)]
pub(crate) struct Hidden(Arc<Vec<(String, String)>>);

impl std::fmt::Debug for Hidden {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Hidden({})", self.0.len())
    }
}

impl Hidden {
    /// From names and values. What is shorter than any secret is left, since
    /// `1` or `yes` would leave nothing of a traceback.
    pub(crate) fn new<'a>(values: impl IntoIterator<Item = (&'a str, &'a str)>) -> Self {
        const SHORTEST: usize = 4;
        let mut hidden: Vec<(String, String)> = values
            .into_iter()
            // Line by line, as a text of several lines is cut anywhere.
            .flat_map(|(name, value)| value.lines().map(move |line| (name, line.trim())))
            .filter(|(_, value)| value.len() >= SHORTEST)
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .collect();
        // The longest first: one value may be a part of another.
        hidden.sort_by_key(|(_, value)| std::cmp::Reverse(value.len()));
        Self(Arc::new(hidden))
    }

    pub(crate) fn hide(&self, text: String) -> String {
        self.0.iter().fold(text, |text, (name, value)| {
            if text.contains(value) {
                text.replace(value, &format!("[{name}]"))
            } else {
                text
            }
        })
    }
}

/// The last lines that a component wrote since `offset`, for a report.
pub(crate) fn tail(path: &Path, offset: u64, lines: usize, hidden: &Hidden) -> String {
    const MOST: u64 = 16 * 1024;
    let read = || -> io::Result<String> {
        let mut file = File::open(path)?;
        let length = file.metadata()?.len();
        // After a rotation the offset lies behind the end.
        let begin = if offset > length { 0 } else { offset };
        let from = begin.max(length.saturating_sub(MOST));
        file.seek(SeekFrom::Start(from))?;
        let mut bytes = Vec::new();
        file.take(MOST).read_to_end(&mut bytes)?;
        let text = String::from_utf8_lossy(&bytes).into_owned();
        // Half a line may begin with half a secret.
        Ok(match text.split_once('\n') {
            Some((_, rest)) if from > begin => rest.to_owned(),
            _ => text,
        })
    };
    let text = hidden.hide(read().unwrap_or_default());
    let all: Vec<&str> = text
        .lines()
        .filter(|line| !line.trim().is_empty())
        .collect();
    all[all.len().saturating_sub(lines)..].join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shows_the_end_of_what_was_written_since_the_start() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.log");
        fs::write(&path, "old\n1\n2\n\n3\n").unwrap();
        assert_eq!(tail(&path, 4, 2, &Hidden::default()), "2\n3");
        assert_eq!(tail(&path, 4, 20, &Hidden::default()), "1\n2\n3");
        assert_eq!(tail(&path, 400, 1, &Hidden::default()), "3");
        assert_eq!(
            tail(&folder.path().join("none"), 0, 1, &Hidden::default()),
            ""
        );
    }

    #[test]
    fn a_large_log_is_cut_under_the_writer() {
        use std::io::Write;
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.log");
        let mut log = open(&path).unwrap();
        log.set_len(LARGEST + 1).unwrap();
        rotate(&path).unwrap();
        log.write_all(b"after").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"after");
        assert!(folder.path().join("x.log.1").exists());
    }
}
