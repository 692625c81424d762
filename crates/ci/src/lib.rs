//! Pipelines: which one a command runs in, who it is, and what it says on a pull request.
//!
//! [`detect`] reads the environment of every tool that is known; [`comment`]
//! has what each forge is asked; [`IdentityRequest`] gets the job's identity, and
//! [`trust`] knows which claims of it mean what.

pub mod comment;
mod detect;
mod identity;
pub mod trust;

pub use detect::{Environment, detect};
pub use identity::{IdentityError, IdentityRequest, Variables};
