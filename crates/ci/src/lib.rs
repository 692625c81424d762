//! Pipelines: which one a command runs in, who it is, what it says on a pull request, and the
//! files that make one.
//!
//! [`detect`] reads the environment of every tool that is known; [`comment`]
//! has what each forge is asked; [`IdentityRequest`] gets the job's identity, and
//! [`trust`] knows which claims of it mean what; [`pipeline`] writes the files,
//! [`lint`] reads those that are there and [`migrate`] rewrites one.

pub mod comment;
mod detect;
mod identity;
pub mod lint;
pub mod migrate;
pub mod pipeline;
pub mod trust;

pub use detect::{Environment, detect};
pub use identity::{IdentityError, IdentityRequest, Variables};
