//! What cannot be tried on this machine.

use std::io::Write as _;

/// Says on a line that CI looks for that a test cannot be run here.
pub fn skipped(what: &str, why: &str) {
    // Not by a macro, whose output a passing test keeps to itself.
    let line = format!("SKIPPED: {what}: {why}\n");
    let _ = std::io::stderr().write_all(line.as_bytes());
}

/// Whether this is root; where not, says that the test is skipped, and why it
/// has to be.
pub fn is_root_or_skip(what: &str, why: &str) -> bool {
    let root = is_root();
    if !root {
        skipped(what, why);
    }
    root
}

pub(crate) fn is_root() -> bool {
    std::fs::metadata("/proc/self").is_ok_and(|process| {
        use std::os::unix::fs::MetadataExt as _;
        process.uid() == 0
    })
}
