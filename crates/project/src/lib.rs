//! A project on disk: its layout, `updraft.toml`, Dockerfile, requirements,
//! git state, and the files that `dev init` writes. No network.
//!
//! Start with [`Project`]; [`ImageHalf`] is what of it the Environment carries
//! and [`ImageFingerprint`] how two of them are compared.

mod airflow;
mod airflow_settings;
mod dockerfile;
mod dockerignore;
mod dotenv;
mod git;
mod image_half;
mod packages;
mod project;
mod requirements;
mod scaffold;
mod settings;
mod target;

pub use airflow::{AirflowVersion, InvalidVersion, PythonVersion};
pub use airflow_settings::{
    AirflowConnection, AirflowNames, AirflowObjects, AirflowPool, AirflowSettingsError,
    AirflowVariable,
};
pub use dockerfile::{BaseAirflow, Dockerfile, DockerfileError, OwnStep};
pub use dotenv::{DotenvError, parse_dotenv};
pub use git::{folder_in_repository, git_head, git_is_behind, git_state};
pub use image_half::{BuildHalf, ImageFingerprint, ImageHalf, ImageHalfError, ImageRecipe, Making};
pub use packages::{PackagesError, read_packages};
pub use project::{Project, ProjectError, SETTINGS_FILE};
pub use requirements::{Requirements, RequirementsError};
pub use scaffold::{
    Scaffold, ScaffoldError, Scaffolded, newest_airflow, project_name_for, scaffold,
};
pub use settings::{
    ByteSize, CheckLevel, CheckSettings, DeploySettings, Lifetime, Place, PreviewSettings,
    ProjectParts, Settings, SettingsError, settings_schema,
};
pub use target::{Pushed, RefKind, RefPattern, Target, target};
