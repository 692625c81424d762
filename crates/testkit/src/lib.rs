//! What tests share: real servers, and an end to everything they start.

mod reaper;

pub use reaper::Reaper;
