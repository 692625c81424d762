//! What can be told of a project's DAG files without starting Python.
//!
//! ```text
//! files ──▶ source (text) ──▶ depth ──▶ module (facts of one file) ──▶ project (facts together) ──▶ findings
//!    └────▶ ruff (what Airflow 3 removed) ───┴── cached by content ──┘
//! ```
//!
//! That is the first stage; [`parse`] is the second, and does start Python.
//!
//! The parser is ruff's. Its names stay in this crate: its interface is not a
//! stable one.

mod airflow3;
mod cache;
mod check;
mod dag_files;
mod depth;
mod excused;
mod finding;
mod imports;
mod module;
mod names;
mod noqa;
pub mod parse;
mod project;
pub mod report;
mod rule;
mod source;
mod threads;

pub use airflow3::Ruff;
pub use check::{Checked, Elsewhere, Options, check};
pub use dag_files::{AirflowIgnore, DagFile, DagFilesError, IgnoreSyntax, dag_files};
pub use finding::{Finding, Place};
pub use imports::{Installed, own_modules};
pub use rule::{Levels, Rule, UnknownRule, reference};
pub use updraft_project::CheckLevel as Level;
