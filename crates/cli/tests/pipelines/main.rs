//! Pipelines: those that `updraft ci init` writes, each against its tool's own
//! schema and linters, and its shell steps run as the tool runs them, from a shallow
//! clone of a real repository against a real control plane. Beside them the GitHub
//! Action and the GitLab component, and what is said of other people's pipelines.
#![expect(clippy::unwrap_used, reason = "a test that fails says where")]

mod action;
#[path = "../cli/common/mod.rs"]
#[expect(dead_code, reason = "the tests of the command line use the rest")]
mod common;
mod hostile;
mod init;
mod linters;
mod previews;
mod real;
mod runner;
mod theirs;
