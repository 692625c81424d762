//! The control plane.
//!
//! [`Server::start`] runs one, also inside another process. `router` shows every
//! route; each noun's folder has its operations, one function each, and `http`,
//! which converts and calls them. The dashboard calls the same operations.

mod agent;
mod app;
mod auth;
mod backup;
mod bundle;
mod clock;
mod config;
mod dashboard;
mod deploy;
mod deployment;
mod error;
mod failpoints;
mod install;
mod jobs;
mod metrics;
mod news;
mod openapi;
mod preview;
mod probes;
mod registry;
mod request;
mod room;
mod router;
mod server;

pub use app::App;
pub use auth::{
    AccessError, AuthError, Caller, InitError, KeyError, Needs, init_admin, rotate_keys,
};
pub use backup::{Backup, BackupError, backup, restore};
pub use clock::Clock;
pub use config::{Limits, ServerConfig, TlsFiles};
pub use failpoints::{FAILPOINTS, REGISTRY_FAILPOINTS};
pub use router::Route;
pub use server::{RunningServer, Server, StartError};
