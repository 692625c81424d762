//! Pipelines: which one a command runs in, and what it says on a pull request.
//!
//! [`detect`] reads the environment of every tool that is known; [`comment`]
//! has what each forge is asked.

pub mod comment;
mod detect;

pub use detect::{Environment, detect};
