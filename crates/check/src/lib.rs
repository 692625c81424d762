//! What can be told of a project's DAG files without starting Python.
//!
//! ```text
//! files ──▶ source (text) ──▶ depth ──▶ module (facts of one file) ──▶ project (facts together) ──▶ findings
//!                                        └── cached by content ──┘
//! ```
//!
//! The parser is ruff's. Its names stay in this crate: its interface is not a
//! stable one.

mod cache;
mod check;
mod dag_files;
mod depth;
mod finding;
mod module;
mod names;
mod noqa;
mod project;
pub mod report;
mod rule;
mod source;
mod threads;

pub use check::{Checked, Options, check};
pub use dag_files::{DagFilesError, dag_files};
pub use finding::{Finding, Place};
pub use rule::{Levels, Rule, UnknownRule, reference};
pub use updraft_project::CheckLevel as Level;
