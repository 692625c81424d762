//! Places where a crash test can kill the process.

/// Aborts here when `UPDRAFT_FAILPOINT` has this name, or is `@FILE` with a file
/// that does, and the crate was built for debugging; a release build has no
/// failpoints.
#[cfg(debug_assertions)]
pub fn failpoint(name: &str) {
    let Ok(wanted) = std::env::var("UPDRAFT_FAILPOINT") else {
        return;
    };
    let is_wanted = match wanted.strip_prefix('@') {
        Some(file) => std::fs::read(file).is_ok_and(|wanted| wanted == name.as_bytes()),
        None => wanted == name,
    };
    if is_wanted {
        std::process::abort();
    }
}

#[cfg(not(debug_assertions))]
#[inline]
pub fn failpoint(_name: &str) {}

/// Every failpoint of this crate, in the order in which a deploy passes them.
pub const FAILPOINTS: &[&str] = &[
    "bundle.materialize.start",
    "bundle.materialize.after_layers",
    "bundle.materialize.after_staging",
    "bundle.materialize.half_written",
    "bundle.materialize.after_files",
    "bundle.materialize.after_sync",
    "bundle.materialize.after_record",
    "bundle.materialize.after_rename",
    "bundle.materialize.end",
    "bundle.switch.start",
    "bundle.switch.after_link",
    "bundle.switch.after_rename",
    "bundle.switch.end",
    "bundle.spare.half_linked",
    "bundle.spare.end",
    "bundle.remove.after_rename",
];
