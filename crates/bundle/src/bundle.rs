//! Rules that hold between the layers of one bundle.

use updraft_model::Digest;

use crate::limits::{LimitExceeded, Limits, Meter};
use crate::manifest::Manifest;
use crate::path::{self, LinkEnd, Tree};
use crate::table::{EntryKind, LayerTable};

/// Why layers that are fine one by one are no bundle.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BundleError {
    #[error("the manifest names {expected} layers and {actual} were read")]
    LayerCount { expected: usize, actual: usize },
    #[error("layer {layer} is not what the manifest says it is")]
    Description { layer: Digest },
    #[error("`{}` comes after `{}`, which is not their order, or is there twice", path::shown(.path), path::shown(.after))]
    Order { path: String, after: String },
    #[error("`{}` is a file and also the folder of `{}`", path::shown(.path), path::shown(.below))]
    FileAndFolder { path: String, below: String },
    #[error("the link `{}` leads out of the bundle to `{}`", path::shown(.path), path::shown(.target))]
    LinkLeaves { path: String, target: String },
    #[error("the bundle is too large at `{}`", path::shown(.path))]
    Limit { path: String, source: LimitExceeded },
}

impl BundleError {
    pub fn help(&self) -> &'static str {
        match self {
            Self::Limit { source, .. } => source.help(),
            Self::LayerCount { .. }
            | Self::Description { .. }
            | Self::Order { .. }
            | Self::FileAndFolder { .. }
            | Self::LinkLeaves { .. } => {
                "bundles are made by `updraft deploy`; send its manifest and layers unchanged"
            }
        }
    }
}

/// Checks what no layer shows alone: order and names across layers, links
/// that leave through other links, the limits on the whole, and that the
/// manifest describes its layers truly.
pub fn validate_bundle(
    manifest: &Manifest,
    tables: &[LayerTable],
    limits: &Limits,
) -> Result<(), BundleError> {
    if manifest.layers().len() != tables.len() {
        let expected = manifest.layers().len();
        return Err(BundleError::LayerCount {
            expected,
            actual: tables.len(),
        });
    }
    for (layer, table) in manifest.layers().iter().zip(tables) {
        let content: u64 = table.entries.iter().map(crate::table::Entry::size).sum();
        let described = layer.digest == table.digest
            && layer.files == table.entries.len() as u64
            && layer.content_size == content
            && table
                .entries
                .first()
                .is_some_and(|first| first.path == layer.first);
        if !described {
            return Err(BundleError::Description {
                layer: layer.digest,
            });
        }
    }

    let entries = || tables.iter().flat_map(|table| &table.entries);
    let mut meter = Meter::new(limits);
    let mut last: Option<&str> = None;
    for entry in entries() {
        let path = || entry.path.clone();
        if let Some(after) = last.filter(|last| *last >= entry.path.as_str()) {
            return Err(BundleError::Order {
                path: path(),
                after: after.to_owned(),
            });
        }
        last = Some(&entry.path);
        meter
            .add(entry.size())
            .map_err(|source| BundleError::Limit {
                path: path(),
                source,
            })?;
    }

    let tree = Tree::new(entries()).map_err(|conflict| BundleError::FileAndFolder {
        path: conflict.file,
        below: conflict.below,
    })?;
    for entry in entries() {
        if let EntryKind::Link { target } = &entry.kind
            && tree.follow(&entry.path, target) == LinkEnd::Outside
        {
            let (path, target) = (entry.path.clone(), target.clone());
            return Err(BundleError::LinkLeaves { path, target });
        }
    }
    Ok(())
}
