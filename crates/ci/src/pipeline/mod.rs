//! Pipelines written from one model: what a repository holds, where its
//! branches go, and the tool that runs it.
//!
//! [`Pipeline::files`] fills one template per file; `script` has the shell
//! steps, which are the same for every tool. Whatever comes from a project is
//! [`Plain`] text, which means itself in YAML, Groovy and every shell. What
//! somebody else may choose (a branch, a commit's message) is in no step at all.

mod files;
mod model;
mod plain;
pub(crate) mod script;

pub use files::PipelineFile;
pub use model::{Layout, Pipeline, Refused, Strategy, Tool};
pub use plain::{NotPlain, Plain};
