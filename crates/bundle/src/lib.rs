//! Tree ⇄ layers: deterministic, incremental, verified, written atomically.
//!
//! ```text
//!  folder ──scan──▶ Manifest + layers ──read_layer──▶ tables ──validate──▶ accepted
//!                                     ──BundleDir::materialize──▶ versions/<digest>/ ──switch──▶ current
//! ```
//!
//! Start with [`scan`] for the sending side, [`read_layer`] and
//! [`validate_bundle`] for the receiving side, [`BundleDir`] for an agent's
//! disk. Everything here blocks; async callers use a blocking thread.
//!
//! What a bundle carries: files, whether they are executable, and symbolic
//! links that stay inside. As in git, folders exist only for what is in them,
//! and times and owners are nobody's business. A layer is a zstd frame around
//! a tar of one fixed spelling, so equal trees have equal digests as long as
//! the zstd release is the same; a new one means new digests, and nothing else.

mod archive;
mod bundle;
mod cache;
mod cut;
mod error;
mod failpoint;
mod hashing;
mod ignored;
mod layer;
mod limits;
mod manifest;
mod materialize;
mod path;
mod record;
mod remove;
mod scan;
mod spare;
mod spread;
mod staging;
mod stat;
mod table;
mod tree;
mod verify;
mod version;

pub use archive::ArchiveError;
pub use bundle::{BundleError, validate_bundle};
pub use error::VersionError;
pub use failpoint::{FAILPOINTS, failpoint};
pub use layer::{LayerError, read_layer};
pub use limits::{LimitExceeded, Limits, MAX_LAYERS};
pub use manifest::{
    ARTIFACT_TYPE, EMPTY_BLOB, EMPTY_MEDIA_TYPE, LAYER_MEDIA_TYPE, Layer, MANIFEST_MEDIA_TYPE,
    MAX_MANIFEST_BYTES, Manifest, ManifestError,
};
pub use materialize::{How, LayerSource, Materialize, Materialized};
pub use path::{MAX_PATH_BYTES, PathProblem};
pub use scan::{Scan, ScanError, ScanOptions, ScanWork, scan};
pub use table::{Entry, EntryKind, LayerTable, TreeDiff, diff};
pub use verify::{Damage, DamageKind, Verify};
pub use version::BundleDir;
