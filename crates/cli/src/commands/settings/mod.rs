//! The command line about itself.

pub(crate) mod completions;
pub(crate) mod config;
pub(crate) mod version;
