//! The OCI Distribution v1.1 registry at `/v2/`, over the same blobs.
//!
//! A repository belongs to the Deployment that its name begins with. `http` takes
//! requests apart ([`Asked`]), finds out who asks ([`Visitor`]) and calls one
//! operation each. Bytes are on the disk before the row that names them, and the
//! row before the answer; `collect` removes rows that nothing reaches, and then
//! the blobs go as all others do.

mod access;
mod asked;
mod blob;
mod challenge;
mod collect;
mod error;
pub(crate) mod http;
mod lend;
mod manifest;
mod query;
mod quota;
mod referrers;
mod tag;
mod token;
mod upload;

pub(crate) use access::{Action, Visitor};
pub(crate) use asked::Asked;
pub(crate) use collect::{collect, expire_uploads};
pub(crate) use error::{OciBody, RegistryError, is_registry, outer};
pub(crate) use lend::lend;
