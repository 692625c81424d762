//! Lines of a pipeline's file, and which of them a shell runs.

use super::Kind;

pub(super) struct Line<'a> {
    pub(super) number: usize,
    pub(super) text: &'a str,
    /// A shell's, not the file's own.
    pub(super) is_script: bool,
}

/// Keys whose text is run.
const RUN: [&str; 9] = [
    "run",
    "script",
    "before_script",
    "after_script",
    "bash",
    "pwsh",
    "powershell",
    "command",
    "commands",
];

/// Comments are left out.
pub(super) fn lines(kind: Kind, text: &str) -> Vec<Line<'_>> {
    let is_comment = |line: &str| match kind {
        Kind::Jenkins => line.starts_with("//"),
        _ => line.starts_with('#'),
    };
    let mut block: Option<usize> = None;
    let mut all = Vec::new();
    for (at, line) in text.lines().enumerate() {
        let trimmed = line.trim_start();
        let indent = line.len() - trimmed.len();
        let is_item = trimmed.starts_with("- ");
        let stays =
            |begin: usize| trimmed.is_empty() || indent > begin || (indent == begin && is_item);
        let is_inside = block.is_some_and(stays);
        let mut is_script = is_inside || kind == Kind::Jenkins;
        if !is_inside {
            block = None;
            if let Some((key, rest)) = trimmed.trim_start_matches("- ").split_once(':')
                && RUN.contains(&key.trim())
            {
                is_script = true;
                // CircleCI's `run:` may be a map, whose `command` is what is run.
                let is_map = kind == Kind::Circleci && key == "run";
                let rest = rest.trim();
                if (rest.is_empty() && !is_map) || rest.starts_with(['|', '>']) {
                    let dashes = trimmed.len() - trimmed.trim_start_matches("- ").len();
                    block = Some(indent + dashes);
                }
            }
        }
        if !is_comment(trimmed) {
            all.push(Line {
                number: at + 1,
                text: trimmed,
                is_script,
            });
        }
    }
    all
}
