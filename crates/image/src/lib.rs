//! The Environment: the image half of a Release without a container engine.
//!
//! ```text
//!  sending side    ImageHalf ──lock (uv)──▶ Environment ──▶ manifest, config, layers
//!  agent's side    EnvironmentConfig ──realise (uv)──▶ a venv with Airflow and airflow-updraft
//! ```
//!
//! Start with [`Uv`], then [`lock`] and [`Environment`] for the sending side,
//! [`realise`] for the agent's. Everything here blocks, but for [`registry`], which pushes
//! images.

mod build;
mod bytecode;
mod command;
mod daemonless;
mod engine;
mod environment;
mod exclusive;
mod flush;
mod lock;
mod process;
mod publish;
mod pytest;
mod python;
mod realise;
pub mod registry;
mod ruff;
mod standard;
mod uv;
mod wheel;

pub use build::{BuildOptions, BuildRequest, BuildSecret, SecretFrom};
pub use command::CommandRun;
pub use daemonless::{
    Access, DaemonlessBuild, DaemonlessError, DaemonlessImage, RegistryImage, Say,
    build_daemonless, digest_in_registry, look_at_image,
};
pub use engine::{
    Engine, EngineError, EngineName, Image, ImagePackages, Mount, PythonRun, wheel_file,
};
pub use environment::{
    ENVIRONMENT_ARTIFACT_TYPE, ENVIRONMENT_CONFIG_MEDIA_TYPE, Environment, EnvironmentConfig,
    EnvironmentError, EnvironmentManifest, MAX_CONFIG_BYTES, platform_of,
};
pub use lock::{Lock, LockError, LockRequest, lock};
pub use process::{Finished, Stop, StopOnDrop, run_until};
pub use publish::{Login, without_tag};
pub use pytest::pytest_beside;
pub use python::{Interpreter, PythonError, PythonRequest, RunAs, nearest_python};
pub use realise::{
    RealiseError, RealiseRequest, Realised, is_any_made, realise, realised_folder, realised_key,
    reopen,
};
pub use ruff::{RUFF_VERSION, RuffError, find_or_install_ruff};
pub use standard::{INDEX_VARIABLES, Standard};
pub use uv::{Uv, UvError};
pub use wheel::{airflow_updraft_version, airflow_updraft_wheel, airflow_updraft_wheel_name};
