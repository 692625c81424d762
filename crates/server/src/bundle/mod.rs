//! Manifests and file tables: what bundles consist of, without their bytes.

mod blob;
mod described;
mod offer;
mod shelf;

pub(crate) use blob::blob;
pub(crate) use described::Described;
pub(crate) use offer::{Offer, OfferError, compose};
pub(crate) use shelf::{Shelf, ShelfError, pack};
