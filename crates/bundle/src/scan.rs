//! Finds out what a folder would be as a bundle.
//!
//! A scan lists the folder, reads what its cache does not know, cuts the files
//! into layers and builds the layers that are new. Nothing to do costs one
//! stat per file.

use std::collections::HashMap;
use std::ops::Range;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::time::Duration;
use std::{io, thread};

use bytes::Bytes;
use rustix::fs::FileType;
use updraft_model::Digest;

use crate::archive::Head;
use crate::cache::{Cache, KnownFile, KnownLayer};
use crate::cut::cut;
use crate::hashing::Hasher;
use crate::ignored::{IGNORE_FILE, Ignored};
use crate::layer::LayerWriter;
use crate::limits::{LimitExceeded, Limits, Meter};
use crate::manifest::{Layer, Manifest};
use crate::path::{self, LinkEnd, MAX_PATH_BYTES, Tree};
use crate::spread::spread;
use crate::stat::{self, FileStat};
use crate::table::{Entry, EntryKind, LayerTable};
use crate::tree::{self, ReadFailed};

/// A folder that is being edited settles within a few attempts.
const ATTEMPTS: u32 = 4;
const PAUSE: Duration = Duration::from_millis(40);
const BUFFER: usize = 128 * 1024;
/// Layers that were built stay at hand up to this much, since most are asked
/// for next; others are built a second time.
const KEPT_BYTES: usize = 128 << 20;
/// Content of a layer that is kept in memory between digesting and packing.
const KEPT_CONTENT: u64 = 32 << 20;

/// How to scan.
#[derive(Debug, Clone, Default)]
pub struct ScanOptions {
    pub limits: Limits,
    /// Where to keep what was learned, one file per folder; none: read all.
    pub cache: Option<PathBuf>,
    /// More lines in the syntax of `.updraftignore`, as if above the root.
    pub ignore: Vec<String>,
}

/// A folder as a bundle.
#[derive(Debug)]
pub struct Scan {
    root: OwnedFd,
    entries: Vec<Entry>,
    stats: Vec<FileStat>,
    runs: Vec<Range<usize>>,
    manifest: Manifest,
    kept: HashMap<Digest, Bytes>,
    links: OddLinks,
    work: ScanWork,
}

/// What a scan had to do.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ScanWork {
    /// Files that were read, because the cache did not know them.
    pub files_read: u64,
    pub bytes_read: u64,
    /// Layers that were built, because the cache did not know them.
    pub layers_built: u64,
}

/// Scans a folder. The same files give the same bundle, whatever their times,
/// owners, order on disk and permissions other than the owner's `x`.
///
/// `.git`, `__pycache__` and `*.pyc` are left out, and what `.updraftignore`
/// files name. Folders without files are not carried.
pub fn scan(root: &Path, options: &ScanOptions) -> Result<Scan, ScanError> {
    let fd = tree::open_root(root).map_err(|source| ScanError::Root {
        root: root.to_owned(),
        source,
    })?;
    let identity = root.canonicalize().unwrap_or_else(|_| root.to_owned());
    let mut cache = options
        .cache
        .as_deref()
        .map(|file| Cache::load(file, &identity))
        .unwrap_or_default();

    let mut attempt = 1;
    loop {
        let mut pass = Pass {
            root: &fd,
            options,
            cache: &mut cache,
        };
        match pass.run() {
            Ok((done, learned)) => {
                if let (Some(file), true) = (&options.cache, learned) {
                    // Without a cache the next scan is slower, not wrong.
                    let _ = cache.save(file, &identity);
                }
                return Ok(done.into_scan(fd));
            }
            Err(ScanError::Changed { .. }) if attempt < ATTEMPTS => {
                attempt += 1;
                thread::sleep(PAUSE);
            }
            Err(error) => return Err(error),
        }
    }
}

impl Scan {
    /// The bundle's files and links, sorted by path.
    pub fn entries(&self) -> &[Entry] {
        &self.entries
    }

    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// Links that lead nowhere inside the bundle, perhaps because their target
    /// is left out. They are carried as they are.
    pub fn dangling(&self) -> &[String] {
        &self.links.dangling
    }

    /// Links to a folder that they are in: a tree with no end, for whoever
    /// follows links. They are carried as they are.
    pub fn circular(&self) -> &[String] {
        &self.links.circular
    }

    /// Links to another folder of the bundle. They are carried as they are.
    pub fn to_folders(&self) -> &[String] {
        &self.links.to_folders
    }

    pub fn work(&self) -> ScanWork {
        self.work
    }

    /// What each layer holds, to compare with another bundle's.
    pub fn tables(&self) -> Vec<LayerTable> {
        let table = |(layer, run): (&Layer, &Range<usize>)| LayerTable {
            digest: layer.digest,
            entries: self.entries[run.clone()].to_vec(),
        };
        self.manifest
            .layers()
            .iter()
            .zip(&self.runs)
            .map(table)
            .collect()
    }

    /// A layer's bytes. They are exactly those of the digest, or it fails.
    pub fn layer_bytes(&self, digest: &Digest) -> Result<Bytes, ScanError> {
        if let Some(bytes) = self.kept.get(digest) {
            return Ok(bytes.clone());
        }
        let mut bytes = Vec::new();
        self.write_layer(digest, &mut bytes)?;
        Ok(bytes.into())
    }

    /// Writes a layer without holding it in memory. What was written is only
    /// good when this returns `Ok`.
    pub fn write_layer(&self, digest: &Digest, out: &mut impl io::Write) -> Result<(), ScanError> {
        let at = self
            .manifest
            .layers()
            .iter()
            .position(|layer| layer.digest == *digest)
            .ok_or(ScanError::UnknownLayer(*digest))?;
        if let Some(bytes) = self.kept.get(digest) {
            return out.write_all(bytes).map_err(ScanError::Write);
        }
        let run = self.runs[at].clone();
        let contents = vec![None; run.len()];
        let (entries, stats) = (&self.entries[run.clone()], &self.stats[run]);
        let (actual, _) = build(&self.root, entries, stats, &contents, out)?;
        if actual == *digest {
            Ok(())
        } else {
            Err(ScanError::Changed {
                path: self.manifest.layers()[at].first.clone(),
            })
        }
    }
}

/// One attempt at a consistent picture.
struct Pass<'a> {
    root: &'a OwnedFd,
    options: &'a ScanOptions,
    cache: &'a mut Cache,
}

struct Done {
    entries: Vec<Entry>,
    stats: Vec<FileStat>,
    runs: Vec<Range<usize>>,
    layers: Vec<Layer>,
    kept: HashMap<Digest, Bytes>,
    links: OddLinks,
    work: ScanWork,
}

impl Done {
    fn into_scan(self, root: OwnedFd) -> Scan {
        Scan {
            root,
            entries: self.entries,
            stats: self.stats,
            runs: self.runs,
            manifest: Manifest::new(self.layers).expect("cut into few enough runs"),
            kept: self.kept,
            links: self.links,
            work: self.work,
        }
    }
}

/// A file or link that was seen, and what is known of it.
struct Seen {
    path: String,
    stat: FileStat,
    kind: SeenKind,
}

enum SeenKind {
    Unread,
    Known(EntryKind),
}

impl Pass<'_> {
    /// Also says whether the cache learned something worth saving.
    fn run(&mut self) -> Result<(Done, bool), ScanError> {
        let mut seen = self.walk()?;
        let recalled = recall(&mut seen, self.cache);
        let links = check_links(&seen)?;
        // Before the first read: whatever has a later time may change again
        // without its stat showing it.
        let read_at = stat::now();
        let runs = cut(seen.iter().map(|seen| seen.path.as_str()));
        let settled = settle_all(self.root, &mut seen, &runs, self.cache)?;

        let mut work = ScanWork::default();
        let mut layers = Vec::with_capacity(settled.len());
        let mut kept = HashMap::new();
        let mut kept_bytes = 0;
        for (settled, run) in settled.into_iter().zip(&runs) {
            work.files_read += settled.files_read;
            work.bytes_read += settled.bytes_read;
            work.layers_built += u64::from(settled.built);
            let known = settled.layer;
            self.cache.layers.insert(settled.key, known);
            if let Some(bytes) = settled.bytes.filter(|b| kept_bytes + b.len() <= KEPT_BYTES) {
                kept_bytes += bytes.len();
                kept.insert(known.digest, bytes);
            }
            layers.push(Layer {
                digest: known.digest,
                size: known.size,
                files: run.len() as u64,
                content_size: seen[run.clone()].iter().map(Seen::content_size).sum(),
                first: seen[run.start].path.clone(),
            });
        }

        let learned = work != ScanWork::default() || !recalled;
        let (entries, stats): (Vec<Entry>, Vec<FileStat>) =
            seen.into_iter().map(Seen::into_entry).unzip();
        if learned {
            self.remember(&entries, &stats, read_at);
        }
        Ok((
            Done {
                entries,
                stats,
                runs,
                layers,
                kept,
                links,
                work,
            },
            learned,
        ))
    }

    fn walk(&self) -> Result<Vec<Seen>, ScanError> {
        let mut meter = Meter::new(&self.options.limits);
        let outermost = Ignored::default()
            .and("", &self.options.ignore.join("\n"))
            .map_err(|bad| ScanError::bad_pattern("the given patterns", bad))?;
        let ignored = if self.options.ignore.is_empty() {
            Ignored::default()
        } else {
            outermost
        };

        let mut seen = Vec::new();
        let mut folders = vec![(String::new(), ignored)];
        while let Some((folder, mut ignored)) = folders.pop() {
            let listed = match tree::list(self.root, &folder) {
                Ok(listed) => listed,
                Err(error) => return Err(ScanError::reading(&folder, error.into())),
            };
            if listed
                .names
                .iter()
                .any(|(name, _)| name.to_bytes() == IGNORE_FILE.as_bytes())
            {
                ignored = self.read_rules(&folder, &ignored)?;
            }
            for (name, listed_as) in &listed.names {
                let Ok(text) = name.to_str() else {
                    let lossy = name.to_string_lossy();
                    return Err(ScanError::NotUtf8 {
                        path: join(&folder, &lossy),
                    });
                };
                if path::is_never_sent(text) {
                    continue;
                }
                let path = join(&folder, text);
                let failed = |error: io::Error| ScanError::reading(&path, error.into());
                // Some file systems list names without kinds.
                let stat = match listed_as {
                    FileType::Directory => None,
                    _ => Some(listed.stat(name).map_err(failed)?),
                };
                let kind = stat.map_or(FileType::Directory, |s| FileType::from_raw_mode(s.mode));
                if ignored.skips(&path, kind == FileType::Directory) {
                    continue;
                }
                if path.len() > MAX_PATH_BYTES {
                    return Err(ScanError::PathTooLong { path });
                }
                let Some(stat) = stat.filter(|_| kind != FileType::Directory) else {
                    folders.push((path, ignored.clone()));
                    continue;
                };
                let kind = match kind {
                    FileType::RegularFile => SeenKind::Unread,
                    FileType::Symlink => {
                        let target = listed.link_target(name).map_err(failed)?;
                        let target = target.into_string().map_err(|error| ScanError::NotUtf8 {
                            path: format!("{path} -> {}", error.into_cstring().to_string_lossy()),
                        })?;
                        SeenKind::Known(EntryKind::Link { target })
                    }
                    special => {
                        return Err(ScanError::Special {
                            path,
                            kind: name_of(special),
                        });
                    }
                };
                let size = if matches!(kind, SeenKind::Unread) {
                    stat.size
                } else {
                    0
                };
                let too_large = |source| ScanError::Limit {
                    path: path.clone(),
                    source,
                };
                meter.add(size).map_err(too_large)?;
                seen.push(Seen { path, stat, kind });
            }
        }
        seen.sort_unstable_by(|a, b| a.path.cmp(&b.path));
        Ok(seen)
    }

    fn read_rules(&self, folder: &str, outer: &Ignored) -> Result<Ignored, ScanError> {
        let path = join(folder, IGNORE_FILE);
        let read = || -> io::Result<String> {
            let flags = rustix::fs::OFlags::RDONLY | rustix::fs::OFlags::CLOEXEC;
            let fd = rustix::fs::openat(self.root, &path, flags, rustix::fs::Mode::empty())?;
            io::read_to_string(std::fs::File::from(fd))
        };
        let text = read().map_err(|error| ScanError::reading(&path, error.into()))?;
        outer
            .and(folder, &text)
            .map_err(|bad| ScanError::bad_pattern(&path, bad))
    }

    fn remember(&mut self, entries: &[Entry], stats: &[FileStat], read_at: i64) {
        let known = |(entry, stat): (&Entry, &FileStat)| match &entry.kind {
            EntryKind::File { digest, .. } if !stat.is_racy(read_at) => Some(KnownFile {
                path: entry.path.clone(),
                stat: *stat,
                digest: *digest,
            }),
            EntryKind::File { .. } | EntryKind::Link { .. } => None,
        };
        self.cache.files = entries.iter().zip(stats).filter_map(known).collect();
        let used: Vec<Digest> = cut(entries.iter().map(|entry| entry.path.as_str()))
            .into_iter()
            .map(|run| key(&entries[run]))
            .collect();
        self.cache.forget_surplus_layers(&used);
    }
}

impl Seen {
    fn content_size(&self) -> u64 {
        match self.kind {
            SeenKind::Unread | SeenKind::Known(EntryKind::File { .. }) => self.stat.size,
            SeenKind::Known(EntryKind::Link { .. }) => 0,
        }
    }

    fn into_entry(self) -> (Entry, FileStat) {
        let SeenKind::Known(kind) = self.kind else {
            unreachable!("every file is read before the layers are described")
        };
        (
            Entry {
                path: self.path,
                kind,
            },
            self.stat,
        )
    }

    fn now_known(&mut self, digest: Digest) {
        let (size, executable) = (self.stat.size, self.stat.is_executable());
        self.kind = SeenKind::Known(EntryKind::File {
            size,
            digest,
            executable,
        });
    }
}

/// Fills in what the cache knows. Says whether the cache has nothing else.
fn recall(seen: &mut [Seen], cache: &Cache) -> bool {
    let mut known = cache.files.iter().peekable();
    let mut used = 0;
    for seen in seen {
        while known.next_if(|known| known.path < seen.path).is_some() {}
        if let Some(known) = known.next_if(|known| known.path == seen.path)
            && known.stat == seen.stat
        {
            seen.now_known(known.digest);
            used += 1;
        }
    }
    used == cache.files.len()
}

/// Links that are carried, and worth a word.
#[derive(Debug, Default)]
struct OddLinks {
    dangling: Vec<String>,
    circular: Vec<String>,
    to_folders: Vec<String>,
}

fn check_links(seen: &[Seen]) -> Result<OddLinks, ScanError> {
    let is_link = |seen: &&Seen| matches!(seen.kind, SeenKind::Known(EntryKind::Link { .. }));
    if !seen.iter().any(|seen| is_link(&seen)) {
        return Ok(OddLinks::default());
    }
    // Only names and links matter here, so files that are not read yet are
    // stood in for.
    let entries: Vec<Entry> = seen
        .iter()
        .map(|seen| {
            let kind = match &seen.kind {
                SeenKind::Known(kind) => kind.clone(),
                SeenKind::Unread => EntryKind::File {
                    size: 0,
                    digest: Digest::from_bytes([0; 32]),
                    executable: false,
                },
            };
            Entry {
                path: seen.path.clone(),
                kind,
            }
        })
        .collect();
    // A name that is both shows that the folder was changed as it was listed.
    let tree = Tree::new(entries.iter()).map_err(|c| ScanError::Changed { path: c.file })?;
    let mut links = OddLinks::default();
    for entry in &entries {
        let EntryKind::Link { target } = &entry.kind else {
            continue;
        };
        match tree.follow(&entry.path, target) {
            LinkEnd::Inside => {}
            LinkEnd::Folder => links.to_folders.push(entry.path.clone()),
            LinkEnd::Dangling => links.dangling.push(entry.path.clone()),
            LinkEnd::Around => links.circular.push(entry.path.clone()),
            LinkEnd::Outside => {
                let (path, target) = (entry.path.clone(), target.clone());
                return Err(ScanError::LinkLeaves { path, target });
            }
        }
    }
    Ok(links)
}

/// A layer whose digest is certain.
struct Settled {
    key: Digest,
    layer: KnownLayer,
    bytes: Option<Bytes>,
    built: bool,
    files_read: u64,
    bytes_read: u64,
}

fn settle_all(
    root: &OwnedFd,
    seen: &mut [Seen],
    runs: &[Range<usize>],
    cache: &Cache,
) -> Result<Vec<Settled>, ScanError> {
    let mut settled: Vec<Option<Settled>> = Vec::with_capacity(runs.len());
    let mut open = Vec::new();
    let mut rest = seen;
    for (at, run) in runs.iter().enumerate() {
        let (entries, after) = rest.split_at_mut(run.len());
        rest = after;
        let known = recall_layer(entries, cache);
        if known.is_none() {
            open.push((at, entries));
        }
        settled.push(known);
    }

    for (at, layer) in spread(open, |(at, entries)| {
        Ok((at, settle(root, entries, cache)?))
    })? {
        settled[at] = Some(layer);
    }
    Ok(settled
        .into_iter()
        .map(|layer| layer.expect("recalled or settled"))
        .collect())
}

fn recall_layer(entries: &[Seen], cache: &Cache) -> Option<Settled> {
    let key = key_of(entries)?;
    let layer = *cache.layers.get(&key)?;
    Some(Settled {
        key,
        layer,
        bytes: None,
        built: false,
        files_read: 0,
        bytes_read: 0,
    })
}

/// Reads the layer's unknown files, and builds it unless it turns out known.
fn settle(root: &OwnedFd, entries: &mut [Seen], cache: &Cache) -> Result<Settled, ScanError> {
    let content: u64 = entries.iter().map(Seen::content_size).sum();
    let keep = content <= KEPT_CONTENT;
    let mut buffer = vec![0; BUFFER];
    let mut contents: Vec<Option<Vec<u8>>> = vec![None; entries.len()];
    let (mut files_read, mut bytes_read) = (0, 0);
    for (seen, content) in entries.iter_mut().zip(&mut contents) {
        if matches!(seen.kind, SeenKind::Known(_)) {
            continue;
        }
        let mut hasher = Hasher::default();
        let mut kept = Vec::new();
        tree::read_file(root, &seen.path, &seen.stat, &mut buffer, |piece| {
            hasher.update(piece);
            if keep {
                kept.extend_from_slice(piece);
            }
            Ok(())
        })
        .map_err(|failed| ScanError::reading(&seen.path, failed))?;
        files_read += 1;
        bytes_read += seen.stat.size;
        seen.now_known(hasher.finish());
        *content = keep.then_some(kept);
    }
    if let Some(recalled) = recall_layer(entries, cache) {
        return Ok(Settled {
            files_read,
            bytes_read,
            ..recalled
        });
    }

    let key = key_of(entries).expect("all files of the layer were just read");
    let (listed, stats): (Vec<Entry>, Vec<FileStat>) = entries
        .iter()
        .map(|seen| {
            let SeenKind::Known(kind) = &seen.kind else {
                unreachable!("read above")
            };
            (
                Entry {
                    path: seen.path.clone(),
                    kind: kind.clone(),
                },
                seen.stat,
            )
        })
        .unzip();
    let mut bytes = Vec::new();
    let (digest, size) = if keep {
        build(root, &listed, &stats, &contents, &mut bytes)?
    } else {
        build(root, &listed, &stats, &contents, &mut io::sink())?
    };
    Ok(Settled {
        key,
        layer: KnownLayer { digest, size },
        bytes: keep.then(|| bytes.into()),
        built: true,
        files_read,
        bytes_read,
    })
}

fn key_of(entries: &[Seen]) -> Option<Digest> {
    let mut key = LayerKey::default();
    for seen in entries {
        let SeenKind::Known(kind) = &seen.kind else {
            return None;
        };
        key.add(&seen.path, kind);
    }
    Some(key.0.finish())
}

fn key(entries: &[Entry]) -> Digest {
    let mut key = LayerKey::default();
    for entry in entries {
        key.add(&entry.path, &entry.kind);
    }
    key.0.finish()
}

/// Names a layer by what is in it, before its bytes exist.
#[derive(Default)]
struct LayerKey(Hasher);

impl LayerKey {
    fn add(&mut self, path: &str, kind: &EntryKind) {
        self.0.update(path.as_bytes());
        match kind {
            EntryKind::File {
                digest, executable, ..
            } => {
                self.0.update(if *executable { b"\0x" } else { b"\0f" });
                self.0.update(digest.as_bytes());
            }
            EntryKind::Link { target } => {
                self.0.update(b"\0l");
                self.0.update(target.as_bytes());
                self.0.update(b"\0");
            }
        }
    }
}

/// Builds a layer from contents at hand and, for the others, from disk.
fn build(
    root: &OwnedFd,
    entries: &[Entry],
    stats: &[FileStat],
    contents: &[Option<Vec<u8>>],
    out: &mut impl io::Write,
) -> Result<(Digest, u64), ScanError> {
    let heads = entries
        .iter()
        .map(|entry| (entry.path.as_str(), head(&entry.kind)));
    let mut writer = LayerWriter::new(out, heads).map_err(ScanError::Write)?;
    let mut buffer = vec![0; BUFFER];
    for ((entry, stat), content) in entries.iter().zip(stats).zip(contents) {
        writer
            .start(&entry.path, &head(&entry.kind))
            .map_err(ScanError::Write)?;
        let EntryKind::File { size, digest, .. } = &entry.kind else {
            continue;
        };
        if let Some(content) = content {
            io::Write::write_all(&mut writer, content).map_err(ScanError::Write)?;
        } else {
            let mut hasher = Hasher::default();
            let mut unwritable = None;
            let read = tree::read_file(root, &entry.path, stat, &mut buffer, |piece| {
                hasher.update(piece);
                io::Write::write_all(&mut writer, piece).map_err(|error| {
                    unwritable = Some(error);
                    io::ErrorKind::Other.into()
                })
            });
            if let Some(error) = unwritable {
                return Err(ScanError::Write(error));
            }
            read.map_err(|failed| ScanError::reading(&entry.path, failed))?;
            if hasher.finish() != *digest {
                return Err(ScanError::Changed {
                    path: entry.path.clone(),
                });
            }
        }
        writer.end_file(*size).map_err(ScanError::Write)?;
    }
    let (_, digest, size) = writer.finish().map_err(ScanError::Write)?;
    Ok((digest, size))
}

fn head(kind: &EntryKind) -> Head {
    match kind {
        EntryKind::File {
            size, executable, ..
        } => Head::File {
            size: *size,
            executable: *executable,
        },
        EntryKind::Link { target } => Head::Link {
            target: target.clone(),
        },
    }
}

fn join(folder: &str, name: &str) -> String {
    if folder.is_empty() {
        name.to_owned()
    } else {
        format!("{folder}/{name}")
    }
}

fn name_of(kind: FileType) -> &'static str {
    match kind {
        FileType::Fifo => "named pipe",
        FileType::Socket => "socket",
        FileType::CharacterDevice | FileType::BlockDevice => "device",
        FileType::RegularFile | FileType::Directory | FileType::Symlink | FileType::Unknown => {
            "special file"
        }
    }
}

/// Why a folder cannot be a bundle.
#[derive(Debug, thiserror::Error)]
pub enum ScanError {
    #[error("could not open the folder `{}`", root.display())]
    Root { root: PathBuf, source: io::Error },
    #[error("the name `{}` is not UTF-8", path::shown(.path))]
    NotUtf8 { path: String },
    #[error("the path `{}` has {} bytes, more than the {MAX_PATH_BYTES} a path may have", path::shown(.path), .path.len())]
    PathTooLong { path: String },
    #[error("`{}` is too much: {source}", path::shown(.path))]
    Limit { path: String, source: LimitExceeded },
    #[error("the link `{}` leads out of the bundle to `{}`", path::shown(.path), path::shown(.target))]
    LinkLeaves { path: String, target: String },
    #[error("`{}` is a {kind}, not a file", path::shown(.path))]
    Special { path: String, kind: &'static str },
    #[error("`{}` changed while it was read", path::shown(.path))]
    Changed { path: String },
    #[error("could not read `{}`", path::shown(.path))]
    Unreadable { path: String, source: io::Error },
    #[error("line {line} of `{}` is not a pattern: {problem}", path::shown(.path))]
    IgnoreFile {
        path: String,
        line: usize,
        problem: String,
    },
    #[error("the bundle has no layer {0}")]
    UnknownLayer(Digest),
    #[error("could not write a layer")]
    Write(#[source] io::Error),
}

impl ScanError {
    /// One sentence on what to do next.
    pub fn help(&self) -> &'static str {
        match self {
            Self::Root { .. } => "check that the folder exists and that you may read it",
            Self::NotUtf8 { .. } => "rename it, or name its folder in `.updraftignore`",
            Self::PathTooLong { .. } => {
                "shorten the names, or name one of its folders in `.updraftignore`"
            }
            Self::Limit { source, .. } => source.help(),
            Self::LinkLeaves { .. } => {
                "copy what it points to into the folder, or name the link in `.updraftignore`"
            }
            Self::Special { .. } => "remove it, or name it in `.updraftignore`",
            Self::Changed { .. } => "wait until nothing writes to the folder, then try again",
            Self::Unreadable { .. } => "make it readable, or name it in `.updraftignore`",
            Self::IgnoreFile { .. } => "patterns are written as in `.gitignore`",
            Self::UnknownLayer(_) => "scan the folder again",
            Self::Write(_) => "check the space that is left on the disk",
        }
    }

    fn reading(path: &str, failed: ReadFailed) -> Self {
        let path = if path.is_empty() { "." } else { path }.to_owned();
        match failed {
            ReadFailed::Changed => Self::Changed { path },
            // What was listed a moment ago is gone.
            ReadFailed::Io(source) if source.kind() == io::ErrorKind::NotFound => {
                Self::Changed { path }
            }
            ReadFailed::Io(source) => Self::Unreadable { path, source },
        }
    }

    fn bad_pattern(path: &str, bad: crate::ignored::BadPattern) -> Self {
        Self::IgnoreFile {
            path: path.to_owned(),
            line: bad.line,
            problem: bad.problem,
        }
    }
}
