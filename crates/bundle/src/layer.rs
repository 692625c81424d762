//! One layer's bytes: written from entries, and read back as a table.

use std::io::{self, BufRead, BufReader, Read, Write};

use updraft_model::Digest;

use crate::archive::{self, ArchiveError, Head};
use crate::hashing::{Hasher, HashingReader, HashingWriter};
use crate::limits::{LimitExceeded, Limits, Meter};
use crate::manifest::Layer;
use crate::path::{self, Tree};
use crate::table::{Entry, EntryKind, LayerTable};

/// Changing this, or the zstd release, changes the digest of every layer.
/// Levels above 4 pick their match finder by CPU, so they would also change
/// it between machines.
const LEVEL: i32 = 3;
/// Level 3 never asks for more than 2 MB; a hostile frame may.
const MAX_WINDOW_LOG: u32 = 23;
const CHUNK: usize = 128 * 1024;

/// Names what decides a layer's bytes besides its entries, so that digests
/// remembered from another build are not believed.
pub(crate) fn encoder_id() -> u32 {
    zstd::zstd_safe::version_number() * 100 + LEVEL.unsigned_abs()
}

/// Writes one layer, entry by entry.
pub(crate) struct LayerWriter<W: Write> {
    out: zstd::Encoder<'static, HashingWriter<W>>,
    /// The encoder is fed in equal pieces: how a stream is cut into calls may
    /// show in what it writes.
    chunk: Vec<u8>,
}

impl<W: Write> LayerWriter<W> {
    pub(crate) fn new<'a>(
        out: W,
        entries: impl Iterator<Item = (&'a str, Head)>,
    ) -> io::Result<Self> {
        let content: u64 = entries
            .map(|(path, head)| archive::length(path, &head))
            .sum();
        let mut out = zstd::Encoder::new(HashingWriter::new(out), LEVEL)?;
        out.include_checksum(false)?;
        out.include_contentsize(true)?;
        out.set_pledged_src_size(Some(content + archive::END))?;
        Ok(Self {
            out,
            chunk: Vec::with_capacity(CHUNK),
        })
    }

    /// Starts an entry. A file's content follows with [`Write`], then
    /// [`Self::end_file`].
    pub(crate) fn start(&mut self, path: &str, head: &Head) -> io::Result<()> {
        archive::write_header(self, path, head)
    }

    pub(crate) fn end_file(&mut self, size: u64) -> io::Result<()> {
        archive::write_padding(self, size)
    }

    /// Ends the layer. Fails when a file was not as long as announced.
    pub(crate) fn finish(mut self) -> io::Result<(W, Digest, u64)> {
        archive::write_end(&mut self)?;
        self.out.write_all(&self.chunk)?;
        let HashingWriter { inner, hasher } = self.out.finish()?;
        let size = hasher.bytes();
        Ok((inner, hasher.finish(), size))
    }
}

impl<W: Write> Write for LayerWriter<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let count = bytes.len().min(CHUNK - self.chunk.len());
        self.chunk.extend_from_slice(&bytes[..count]);
        if self.chunk.len() == CHUNK {
            self.out.write_all(&self.chunk)?;
            self.chunk.clear();
        }
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Why a layer is refused.
#[derive(Debug, thiserror::Error)]
pub enum LayerError {
    #[error("the bytes of layer {expected} have the digest {actual}")]
    WrongDigest { expected: Digest, actual: Digest },
    #[error("could not read layer {layer}")]
    Source { layer: Digest, source: io::Error },
    #[error("layer {layer} is not one Updraft unpacks")]
    Archive { layer: Digest, source: ArchiveError },
    #[error("layer {layer} has bytes behind its compressed content")]
    TrailingBytes { layer: Digest },
    #[error("layer {layer} is too large at `{}`", path::shown(.path))]
    Limit {
        layer: Digest,
        path: String,
        source: LimitExceeded,
    },
    #[error("layer {layer} has `{}` twice", path::shown(.path))]
    Duplicate { layer: Digest, path: String },
    #[error("layer {layer} has `{}` after `{}`, which is not their order", path::shown(.path), path::shown(.after))]
    Order {
        layer: Digest,
        path: String,
        after: String,
    },
    #[error("layer {layer} has `{}` as a file and as the folder of `{}`", path::shown(.path), path::shown(.below))]
    FileAndFolder {
        layer: Digest,
        path: String,
        below: String,
    },
    #[error("layer {layer} holds more than its manifest says, at `{}`", path::shown(.path))]
    Description { layer: Digest, path: String },
    #[error("layer {layer} is empty")]
    Empty { layer: Digest },
}

impl LayerError {
    pub fn help(&self) -> &'static str {
        match self {
            Self::WrongDigest { .. } | Self::Source { .. } => {
                "the bytes were damaged on the way or where they are stored; fetch or send the layer again"
            }
            Self::Limit { source, .. } => source.help(),
            Self::Archive { .. }
            | Self::TrailingBytes { .. }
            | Self::Duplicate { .. }
            | Self::Order { .. }
            | Self::FileAndFolder { .. }
            | Self::Description { .. }
            | Self::Empty { .. } => {
                "bundles are made by `updraft deploy` from a folder; other archives have to be unpacked and deployed as one"
            }
        }
    }
}

/// Reads a layer from anyone, checks its digest and every rule that one layer
/// can be checked for, and lists what is in it. Holds no content in memory.
pub fn read_layer(
    reader: impl Read,
    expected: &Digest,
    limits: &Limits,
) -> Result<LayerTable, LayerError> {
    let layer = *expected;
    // No honest layer is longer, and an endless one has to end somewhere.
    let most = limits.total_bytes.saturating_add(64 << 20);
    let mut source = BufReader::with_capacity(CHUNK, HashingReader::new(reader.take(most)));
    let entries = read_entries(&mut source, layer, limits);

    // Damaged bytes fail to parse in some way; that they are damaged is what
    // the reader needs to know, so the digest is looked at first.
    io::copy(&mut source, &mut io::sink())
        .map_err(|source| LayerError::Source { layer, source })?;
    let actual = source.into_inner().hasher.finish();
    if actual != layer {
        return Err(LayerError::WrongDigest {
            expected: layer,
            actual,
        });
    }

    let table = LayerTable {
        digest: layer,
        entries: entries?,
    };
    check_names(&table)?;
    Ok(table)
}

impl Layer {
    /// Reads this layer as [`read_layer`] does, and unpacks no more than its
    /// manifest says that it holds.
    pub fn read(&self, reader: impl Read, limits: &Limits) -> Result<LayerTable, LayerError> {
        let described = Limits {
            total_bytes: limits.total_bytes.min(self.content_size),
            files: limits.files.min(self.files),
            ..*limits
        };
        let lies = |source: &LimitExceeded| match *source {
            LimitExceeded::Total { limit } => limit < limits.total_bytes,
            LimitExceeded::Files { limit } => limit < limits.files,
            LimitExceeded::File { .. } => false,
        };
        read_layer(reader, &self.digest, &described).map_err(|error| match error {
            LayerError::Limit {
                layer,
                path,
                source,
            } if lies(&source) => LayerError::Description { layer, path },
            other => other,
        })
    }
}

fn read_entries(
    source: &mut impl BufRead,
    layer: Digest,
    limits: &Limits,
) -> Result<Vec<Entry>, LayerError> {
    let mut meter = Meter::new(limits);
    let mut entries: Vec<Entry> = Vec::new();
    let mut buffer = vec![0; 64 * 1024];
    visit(source, layer, |path, head, content| {
        let size = match &head {
            Head::File { size, .. } => *size,
            Head::Link { .. } => 0,
        };
        let too_large = |source| LayerError::Limit {
            layer,
            path: path.clone(),
            source,
        };
        meter.add(size).map_err(too_large)?;
        match entries.last() {
            Some(last) if last.path == path => {
                return Err(LayerError::Duplicate { layer, path });
            }
            Some(last) if last.path > path => {
                return Err(LayerError::Order {
                    layer,
                    path,
                    after: last.path.clone(),
                });
            }
            _ => {}
        }
        let kind = match head {
            Head::Link { target } => EntryKind::Link { target },
            Head::File { size, executable } => {
                let mut hasher = Hasher::default();
                loop {
                    let count = content
                        .read(&mut buffer)
                        .map_err(|source| cut_short(layer, &path, source))?;
                    if count == 0 {
                        break;
                    }
                    hasher.update(&buffer[..count]);
                }
                EntryKind::File {
                    size,
                    digest: hasher.finish(),
                    executable,
                }
            }
        };
        entries.push(Entry { path, kind });
        Ok(())
    })?;
    if entries.is_empty() {
        return Err(LayerError::Empty { layer });
    }
    Ok(entries)
}

fn cut_short(layer: Digest, path: &str, source: io::Error) -> LayerError {
    let source = match source.kind() {
        io::ErrorKind::UnexpectedEof => ArchiveError::Truncated(path.to_owned()),
        _ => ArchiveError::Read {
            after: path.to_owned(),
            source,
        },
    };
    LayerError::Archive { layer, source }
}

/// Calls back for each entry of a layer, with its content to read.
pub(crate) fn visit<E: From<LayerError>>(
    source: &mut impl BufRead,
    layer: Digest,
    mut entry: impl FnMut(String, Head, &mut dyn Read) -> Result<(), E>,
) -> Result<(), E> {
    let refused = |source| LayerError::Archive { layer, source };
    let unreadable = |source| {
        refused(ArchiveError::Read {
            after: "the beginning".into(),
            source,
        })
    };
    let mut frame = zstd::Decoder::with_buffer(&mut *source)
        .map_err(unreadable)?
        .single_frame();
    frame.window_log_max(MAX_WINDOW_LOG).map_err(unreadable)?;
    let mut archive = archive::Reader::new(frame);
    while let Some((path, head)) = archive.next().map_err(refused)? {
        entry(path, head, &mut archive.content())?;
    }
    drop(archive);
    match source.fill_buf() {
        Ok([]) => Ok(()),
        Ok(_) => Err(LayerError::TrailingBytes { layer }.into()),
        Err(source) => Err(LayerError::Source { layer, source }.into()),
    }
}

/// Where links lead is looked at for the whole bundle: through a link of
/// another layer, a path may go elsewhere than its own layer shows.
fn check_names(table: &LayerTable) -> Result<(), LayerError> {
    Tree::new(table.entries.iter()).map_err(|conflict| LayerError::FileAndFolder {
        layer: table.digest,
        path: conflict.file,
        below: conflict.below,
    })?;
    Ok(())
}
