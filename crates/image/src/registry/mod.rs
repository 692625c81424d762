//! Pushes images to a registry, whichever it is: the control plane's or another.
//!
//! ```text
//! ImageRepository   what is named: `ghcr.io/acme/airflow`
//! Credentials       who pushes: as docker's `config.json` has it, or given
//! Registry          the connection: signs in when it is asked to, tries again
//! push              blobs that lack, several at a time, and then the manifest
//! ```

mod connection;
mod credentials;
mod error;
mod image;
mod name;
mod pull;
mod push;

pub use connection::{Registry, RegistryAccess};
pub use credentials::Credentials;
pub use error::PushError;
pub use image::{BlobContent, ImageBlob, OciImage};
pub use name::{ImageReference, ImageRepository};
pub use pull::PulledManifest;
pub use push::Pushed;
