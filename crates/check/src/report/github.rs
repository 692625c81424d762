//! Annotations beside the lines of a pull request: workflow commands, as
//! <https://docs.github.com/actions/reference/workflow-commands-for-github-actions>
//! describes them.

use std::fmt::Write as _;

use updraft_project::CheckLevel as Level;

use crate::finding::Finding;

/// A line for each finding.
pub fn annotations(findings: &[Finding], before: &str) -> String {
    findings.iter().fold(String::new(), |mut text, finding| {
        let command = match finding.level {
            Level::Error => "error",
            Level::Warning | Level::Off => "warning",
        };
        let _ = writeln!(
            text,
            "::{command} file={},line={},col={},title={}::{}",
            property(&format!("{before}{}", finding.file)),
            finding.place.line,
            finding.place.column,
            finding.rule,
            data(&format!("{}: {}", finding.message, finding.help)),
        );
        text
    })
}

/// What stands in a message; a file's name could begin a command of its own.
fn data(text: &str) -> String {
    text.replace('%', "%25")
        .replace('\r', "%0D")
        .replace('\n', "%0A")
}

fn property(text: &str) -> String {
    data(text).replace(':', "%3A").replace(',', "%2C")
}
