//! Pipelines: which one a command runs in.
//!
//! [`detect`] reads the environment of every tool that is known.

mod detect;

pub use detect::{Environment, detect};
