//! What tests share: real servers, and an end to everything they start.

mod agent;
mod postgres;
mod reaper;
mod server;
mod tree;

pub use agent::{TestAgent, proof};
pub use postgres::Postgres;
pub use reaper::Reaper;
pub use server::TestServer;
pub use tree::{Tree, environment, parts};
