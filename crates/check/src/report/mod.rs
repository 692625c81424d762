//! Findings for other programs: code scanning, merge requests, annotations, tests.
//!
//! They name files from the repository's folder, which may lie above the
//! project's: each form takes what to put before a file's name.

mod github;
mod gitlab;
mod junit;
mod sarif;

pub use github::annotations;
pub use gitlab::code_quality;
pub use junit::junit;
pub use sarif::sarif;
