//! Places where a crash test can kill the process.

/// Aborts here when `UPDRAFT_FAILPOINT` has this name and the crate was built
/// for debugging; a release build has no failpoints.
#[cfg(debug_assertions)]
pub fn failpoint(name: &str) {
    if std::env::var("UPDRAFT_FAILPOINT").is_ok_and(|wanted| wanted == name) {
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
