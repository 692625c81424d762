//! The agent: makes one Airflow equal to the Release that is wanted, proves it,
//! and says what it sees.
//!
//! Start with `converge` (the loop), then `disk` (the one switch),
//! `runtime::exec` (why nothing starts twice), `prove` and `control`.
//! [`Agent::start`] is the way in, and [`LocalAirflow`] that of whoever runs a project's
//! folder with the same components and without an agent; the binary's hidden `agent exec` calls
//! [`exec_component`].

mod agent;
mod airflow;
mod collect;
mod config;
mod control;
mod converge;
mod deliver;
mod disk;
mod engine;
mod environment;
mod external;
mod failpoint;
mod fetch;
mod files;
mod folder;
mod local;
mod migrate;
mod observed;
mod previews;
mod prove;
mod rest_proof;
mod runtime;
mod socket;
mod worker;

pub use agent::{Agent, RunningAgent, StartError};
pub use airflow::rest::{AirflowRest, AirflowRestError, DagRun};
pub use config::{AgentConfig, ExternalAirflow, ExternalConfig, TokenSource};
pub use disk::RootError;
pub use failpoint::{CONTAINER_FAILPOINTS, FAILPOINTS, IMAGE_FAILPOINTS};
pub use folder::{admin_password, is_installed, listens};
pub use local::{
    Imported, LIVE_FOLDERS, LocalAirflow, LocalCommand, LocalComponent, LocalEngine, LocalError,
    LocalPackages, LocalRun, LocalState, ObjectKind,
};
pub use observed::Observed;
pub use previews::folder::{KeptPreview, kept_previews};
pub use runtime::exec::{ExecError, exec_component};
pub use runtime::user::{UserError, airflow_user};
