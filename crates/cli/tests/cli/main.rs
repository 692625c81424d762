//! The command line through its front door: the real binary, a real control
//! plane, and an agent that is played.
#![expect(clippy::unwrap_used, reason = "a test that fails says where")]

mod checked;
mod comments;
mod common;
mod dev_start;
mod edges;
mod halves;
mod keyless;
mod local;
mod moving;
mod previews;
mod references;
mod served;
mod targets;
mod terminal;
