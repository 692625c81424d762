//! The one tar dialect of our layers: POSIX ustar, pax records for what ustar
//! cannot say, nothing that differs between machines.
//!
//! The reader accepts exactly what the writer writes. A header is decoded,
//! encoded again and compared, so two programs cannot read the same layer
//! differently.

use std::io::{self, Read, Write};

use crate::path::{self, MAX_PATH_BYTES, PathProblem};

const BLOCK: usize = 512;
const ZEROS: [u8; BLOCK] = [0; BLOCK];
const PAX_NAME: &str = "././@PaxHeader";
/// Two records, each of a path and a few digits.
const MAX_PAX_BYTES: u64 = 2 * (MAX_PATH_BYTES as u64 + 64);

/// What a header says besides the path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Head {
    File { size: u64, executable: bool },
    Link { target: String },
}

impl Head {
    fn body(&self) -> u64 {
        match self {
            Self::File { size, .. } => *size,
            Self::Link { .. } => 0,
        }
    }
}

/// Why an archive is refused.
#[derive(Debug, thiserror::Error)]
pub enum ArchiveError {
    #[error("`{}` cannot be unpacked: {problem}", path::shown(.path))]
    Path { path: String, problem: PathProblem },
    #[error("the name `{}` is not UTF-8", path::shown(.0))]
    NotUtf8(String),
    #[error("the link `{}` has an impossible target", path::shown(.0))]
    Target(String),
    #[error("`{}` is a hard link", path::shown(.0))]
    HardLink(String),
    #[error("`{}` is a device or a named pipe", path::shown(.0))]
    Device(String),
    #[error("`{}` is a folder entry; folders are implied by what is in them", path::shown(.0))]
    Folder(String),
    #[error("`{}` has the unknown entry type {kind:?}", path::shown(.path))]
    UnknownKind { path: String, kind: char },
    #[error("`{}` has the unknown extended header `{}`", path::shown(.path), path::shown(.key))]
    ExtendedHeader { path: String, key: String },
    #[error("the header of `{}` is not written the way bundles are", path::shown(.0))]
    NotCanonical(String),
    #[error("the archive ends within or after `{}`", path::shown(.0))]
    Truncated(String),
    #[error("there are bytes behind the end of the archive, after `{}`", path::shown(.0))]
    TrailingBytes(String),
    #[error("could not decompress the layer after `{}`", path::shown(.after))]
    Read { after: String, source: io::Error },
}

/// The bytes an entry takes in the archive.
pub(crate) fn length(path: &str, head: &Head) -> u64 {
    encode(path, head).len() as u64 + head.body().next_multiple_of(BLOCK as u64)
}

/// The bytes of the end mark.
pub(crate) const END: u64 = 2 * BLOCK as u64;

fn encode(path: &str, head: &Head) -> Vec<u8> {
    let mut pax = Vec::new();
    let target = match head {
        Head::File { .. } => "",
        Head::Link { target } => target,
    };
    for (key, value) in [("path", path), ("linkpath", target)] {
        if value.len() > 100 || !value.is_ascii() {
            pax_record(&mut pax, key, value);
        }
    }

    let mut bytes = Vec::with_capacity(BLOCK);
    if !pax.is_empty() {
        block(&mut bytes, PAX_NAME, 0o644, pax.len() as u64, b'x', "");
        bytes.append(&mut pax);
        bytes.resize(bytes.len().next_multiple_of(BLOCK), 0);
    }
    match head {
        Head::File { size, executable } => {
            let mode = if *executable { 0o755 } else { 0o644 };
            block(&mut bytes, path, mode, *size, b'0', "");
        }
        Head::Link { target } => block(&mut bytes, path, 0o777, 0, b'2', target),
    }
    bytes
}

fn block(out: &mut Vec<u8>, name: &str, mode: u32, size: u64, kind: u8, target: &str) {
    let mut block = ZEROS;
    let mut put = |at: usize, text: &[u8]| block[at..at + text.len()].copy_from_slice(text);
    put(0, cut(name));
    put(100, format!("{mode:07o}").as_bytes());
    put(108, b"0000000");
    put(116, b"0000000");
    put(124, format!("{size:011o}").as_bytes());
    put(136, b"00000000000");
    put(148, b"        ");
    put(156, &[kind]);
    put(157, cut(target));
    put(257, b"ustar\x0000");
    put(329, b"0000000");
    put(337, b"0000000");
    let sum: u32 = block.iter().map(|&byte| u32::from(byte)).sum();
    block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    out.extend_from_slice(&block);
}

/// The part of a name that ustar has room for; pax carries the rest.
fn cut(name: &str) -> &[u8] {
    let mut end = name.len().min(100);
    while !name.is_char_boundary(end) {
        end -= 1;
    }
    &name.as_bytes()[..end]
}

/// A pax record counts its own length, digits included.
fn pax_record(out: &mut Vec<u8>, key: &str, value: &str) {
    let rest = key.len() + value.len() + 3;
    let mut length = rest;
    while rest + length.to_string().len() != length {
        length = rest + length.to_string().len();
    }
    out.extend_from_slice(format!("{length} {key}={value}\n").as_bytes());
}

pub(crate) fn write_header(out: &mut impl Write, path: &str, head: &Head) -> io::Result<()> {
    out.write_all(&encode(path, head))
}

/// Fills the last block of a file's content.
pub(crate) fn write_padding(out: &mut impl Write, size: u64) -> io::Result<()> {
    out.write_all(&ZEROS[..padding(size)])
}

pub(crate) fn write_end(out: &mut impl Write) -> io::Result<()> {
    out.write_all(&ZEROS)?;
    out.write_all(&ZEROS)
}

fn padding(size: u64) -> usize {
    usize::try_from(size.next_multiple_of(BLOCK as u64) - size).expect("less than a block")
}

/// Reads entries one after the other.
pub(crate) struct Reader<R> {
    inner: R,
    /// The entry read last, to say where something went wrong.
    last: String,
    /// Content and padding of it that is still unread.
    content: u64,
    padding: usize,
}

impl<R: Read> Reader<R> {
    pub(crate) fn new(inner: R) -> Self {
        Self {
            inner,
            last: "the beginning".to_owned(),
            content: 0,
            padding: 0,
        }
    }

    /// Moves to the next entry, or to the end of the archive.
    pub(crate) fn next(&mut self) -> Result<Option<(String, Head)>, ArchiveError> {
        self.skip_rest()?;
        let mut raw = vec![0; BLOCK];
        self.read_exact(&mut raw)?;
        if raw == ZEROS {
            self.expect_end()?;
            return Ok(None);
        }

        let mut pax = Pax::default();
        if raw[156] == b'x' {
            let about = text(&raw[..100]).unwrap_or_else(|lossy| lossy);
            let size = octal(&raw[124..136])
                .filter(|size| *size <= MAX_PAX_BYTES)
                .ok_or(ArchiveError::NotCanonical(about))?;
            let start = raw.len();
            let end = start + usize::try_from(size).expect("a few kilobytes");
            raw.resize(end.next_multiple_of(BLOCK), 0);
            self.read_exact(&mut raw[start..])?;
            pax = Pax::parse(&raw[start..end], &self.last)?;
            let header = raw.len();
            raw.resize(header + BLOCK, 0);
            self.read_exact(&mut raw[header..])?;
        }

        let block = &raw[raw.len() - BLOCK..];
        let path = match pax.path {
            Some(path) => path,
            None => full_name(block)?,
        };
        let head = head(&path, block, pax.target)?;
        path::check(&path).map_err(|problem| ArchiveError::Path {
            path: path.clone(),
            problem,
        })?;
        if encode(&path, &head) != raw {
            return Err(ArchiveError::NotCanonical(path));
        }
        self.content = head.body();
        self.padding = padding(self.content);
        self.last.clone_from(&path);
        Ok(Some((path, head)))
    }

    /// The content of the entry that [`Self::next`] returned last.
    pub(crate) fn content(&mut self) -> Content<'_, R> {
        Content { reader: self }
    }

    fn skip_rest(&mut self) -> Result<(), ArchiveError> {
        let mut sink = [0; 8 * 1024];
        while self.content > 0 {
            let most = usize::try_from(self.content)
                .unwrap_or(usize::MAX)
                .min(sink.len());
            self.read_exact(&mut sink[..most])?;
            self.content -= most as u64;
        }
        let mut padding = [0; BLOCK];
        let padding = &mut padding[..std::mem::take(&mut self.padding)];
        self.read_exact(padding)?;
        if padding.iter().any(|byte| *byte != 0) {
            return Err(ArchiveError::NotCanonical(self.last.clone()));
        }
        Ok(())
    }

    fn expect_end(&mut self) -> Result<(), ArchiveError> {
        let mut second = [0; BLOCK];
        self.read_exact(&mut second)?;
        let more = self
            .inner
            .read(&mut [0])
            .map_err(|source| self.unreadable(source))?;
        if second != ZEROS || more != 0 {
            return Err(ArchiveError::TrailingBytes(self.last.clone()));
        }
        Ok(())
    }

    fn read_exact(&mut self, buffer: &mut [u8]) -> Result<(), ArchiveError> {
        self.inner
            .read_exact(buffer)
            .map_err(|source| self.unreadable(source))
    }

    fn unreadable(&self, source: io::Error) -> ArchiveError {
        let after = self.last.clone();
        match source.kind() {
            io::ErrorKind::UnexpectedEof => ArchiveError::Truncated(after),
            _ => ArchiveError::Read { after, source },
        }
    }
}

pub(crate) struct Content<'a, R> {
    reader: &'a mut Reader<R>,
}

impl<R: Read> Read for Content<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let left = usize::try_from(self.reader.content).unwrap_or(usize::MAX);
        let most = left.min(buffer.len());
        if most == 0 {
            return Ok(0);
        }
        let count = self.reader.inner.read(&mut buffer[..most])?;
        if count == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.reader.content -= count as u64;
        Ok(count)
    }
}

fn head(path: &str, block: &[u8], pax_target: Option<String>) -> Result<Head, ArchiveError> {
    let path = || path.to_owned();
    match block[156] {
        b'0' | 0 | b'7' => {
            let canonical = || ArchiveError::NotCanonical(path());
            let size = octal(&block[124..136]).ok_or_else(canonical)?;
            let mode = octal(&block[100..108]).ok_or_else(canonical)?;
            Ok(Head::File {
                size,
                executable: mode & 0o100 != 0,
            })
        }
        b'2' => {
            let target = match pax_target {
                Some(target) => target,
                None => text(&block[157..257]).map_err(ArchiveError::NotUtf8)?,
            };
            if target.is_empty() || target.len() > MAX_PATH_BYTES || target.contains('\0') {
                return Err(ArchiveError::Target(path()));
            }
            Ok(Head::Link { target })
        }
        b'1' => Err(ArchiveError::HardLink(path())),
        b'3' | b'4' | b'6' => Err(ArchiveError::Device(path())),
        b'5' => Err(ArchiveError::Folder(path())),
        kind => Err(ArchiveError::UnknownKind {
            path: path(),
            kind: char::from(kind),
        }),
    }
}

/// Our writer leaves the prefix empty; it is read so that errors have the name.
fn full_name(block: &[u8]) -> Result<String, ArchiveError> {
    let name = text(&block[..100]).map_err(ArchiveError::NotUtf8)?;
    if &block[257..263] != b"ustar\0" || block[345] == 0 {
        return Ok(name);
    }
    let prefix = text(&block[345..500]).map_err(ArchiveError::NotUtf8)?;
    Ok(format!("{prefix}/{name}"))
}

/// Text up to the first NUL; an error holds it with the odd bytes replaced.
fn text(field: &[u8]) -> Result<String, String> {
    let end = field
        .iter()
        .position(|byte| *byte == 0)
        .unwrap_or(field.len());
    String::from_utf8(field[..end].to_vec())
        .map_err(|error| String::from_utf8_lossy(error.as_bytes()).into_owned())
}

fn octal(field: &[u8]) -> Option<u64> {
    let end = field
        .iter()
        .position(|byte| *byte == 0 || *byte == b' ')
        .unwrap_or(field.len());
    u64::from_str_radix(std::str::from_utf8(&field[..end]).ok()?, 8).ok()
}

#[derive(Default)]
struct Pax {
    path: Option<String>,
    target: Option<String>,
}

impl Pax {
    fn parse(mut bytes: &[u8], after: &str) -> Result<Self, ArchiveError> {
        let mut pax = Self::default();
        while !bytes.is_empty() {
            let (key, value, rest) =
                Self::record(bytes).ok_or_else(|| ArchiveError::NotCanonical(after.to_owned()))?;
            bytes = rest;
            let value = text_of(value)?;
            match key {
                b"path" => pax.path = Some(value),
                b"linkpath" => pax.target = Some(value),
                other => {
                    return Err(ArchiveError::ExtendedHeader {
                        path: pax.path.unwrap_or_else(|| after.to_owned()),
                        key: String::from_utf8_lossy(other).into_owned(),
                    });
                }
            }
        }
        Ok(pax)
    }

    fn record(bytes: &[u8]) -> Option<(&[u8], &[u8], &[u8])> {
        let space = bytes.iter().position(|byte| *byte == b' ')?;
        let length: usize = std::str::from_utf8(&bytes[..space]).ok()?.parse().ok()?;
        let (record, rest) = bytes.split_at_checked(length)?;
        let record = record.get(space + 1..)?.strip_suffix(b"\n")?;
        let equals = record.iter().position(|byte| *byte == b'=')?;
        Some((&record[..equals], &record[equals + 1..], rest))
    }
}

fn text_of(bytes: &[u8]) -> Result<String, ArchiveError> {
    String::from_utf8(bytes.to_vec()).map_err(|error| {
        ArchiveError::NotUtf8(String::from_utf8_lossy(error.as_bytes()).into_owned())
    })
}
