//! What tests share: real servers, and an end to everything they start.

mod agent;
mod forge;
mod issuer;
mod port;
mod postgres;
mod reaper;
mod redis;
mod server;
mod skip;
mod small_disk;
mod state;
mod tree;

pub use agent::{TestAgent, dag_ids, proof};
pub use forge::{ForgeComment, TestForge};
pub use issuer::TestIssuer;
pub use port::free_port;
pub use postgres::Postgres;
pub use reaper::Reaper;
pub use redis::Redis;
pub use server::TestServer;
pub use skip::{is_root_or_skip, skipped};
pub use small_disk::SmallDisk;
pub use state::{repository, state_folder};
pub use tree::{Tree, container_image, environment, parts};
