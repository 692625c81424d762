//! The wire: what the control plane's `/api/v1` takes and gives, its error
//! codes, and the client that the command line and the agent share.
//!
//! Types by noun; [`Client`] has one method per operation. The OpenAPI document
//! is made from these same types by the server.

pub mod agent;
pub mod client;
pub mod deploy;
pub mod deployment;
pub mod error;
pub mod frames;
pub mod preview;
pub mod token;
pub mod trust;

pub use client::{Client, ClientError};
pub use error::{ErrorBody, ErrorCode};

/// The header in which both sides say their version.
pub const VERSION_HEADER: &str = "updraft-version";

/// The version of this build.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");
