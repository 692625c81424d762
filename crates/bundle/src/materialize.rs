//! Puts a bundle version on disk.
//!
//! In this order: find out what each layer holds (fetching those the previous
//! version does not have), check the whole, build the tree under a temporary
//! name from hard links and new files, sync it, write its record, give it its
//! name. A crash anywhere leaves temporary names only.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::io::{self, BufReader, Read, Seek};
use std::path::PathBuf;

use rustix::fs::AtFlags;
use tempfile::SpooledTempFile;
use updraft_model::Digest;

use crate::archive::Head;
use crate::bundle::validate_bundle;
use crate::error::{VersionError, while_doing};
use crate::failpoint::failpoint;
use crate::layer::{self, LayerError};
use crate::limits::Limits;
use crate::manifest::{Layer, Manifest};
use crate::path::folders_of;
use crate::record::{OnDisk, Record, looks_untouched};
use crate::spread::spread;
use crate::staging::Staging;
use crate::stat::FileStat;
use crate::table::{Entry, EntryKind, LayerTable};
use crate::tree;
use crate::verify::{self, Verify};
use crate::version::{BundleDir, sync_folder, temporary_name};

/// Compressed layers up to this size stay in memory while they are unpacked.
const SPOOL_BYTES: usize = 1 << 20;
/// Up to this many new files are synced one by one; more are left to one
/// sync of the file system, which also waits for everybody else's writes.
const FEW: usize = 64;

/// Opens a layer's compressed bytes. They need not be trusted.
pub type LayerSource<'a> = dyn Fn(&Digest) -> io::Result<Box<dyn Read>> + 'a;

/// What to put on disk, and from what.
pub struct Materialize<'a> {
    pub manifest: &'a Manifest,
    pub layers: &'a LayerSource<'a>,
    /// The version to share unchanged files with; `None` means the live one.
    pub previous: Option<Digest>,
    pub limits: Limits,
    /// How closely to look at a version that is already here.
    pub verify: Verify,
}

impl<'a> Materialize<'a> {
    /// The usual: from the live version, with default limits.
    pub fn new(manifest: &'a Manifest, layers: &'a LayerSource<'a>) -> Self {
        let (limits, verify) = (Limits::default(), Verify::Quick);
        Self {
            manifest,
            layers,
            previous: None,
            limits,
            verify,
        }
    }
}

/// A version that is on disk, and what it took.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Materialized {
    pub digest: Digest,
    pub path: PathBuf,
    pub how: How,
    /// Layers that were fetched.
    pub layers_fetched: usize,
    /// Files and links that were made new.
    pub files_written: usize,
    pub bytes_written: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum How {
    /// It was there and good.
    Reused,
    /// It was there and damaged, and was replaced.
    Repaired,
    /// Built from nothing, or by linking to the previous version.
    Built,
    /// Built from the spare.
    FromSpare,
}

impl BundleDir {
    /// Makes a version present, complete and verified. It is not live yet:
    /// see [`BundleDir::switch_current`].
    pub fn materialize(&self, ask: &Materialize<'_>) -> Result<Materialized, VersionError> {
        failpoint("bundle.materialize.start");
        let digest = ask.manifest.digest();
        let path = self.version_path(&digest);
        if self.is_good(&digest, ask.verify)? {
            let how = How::Reused;
            let (layers_fetched, files_written, bytes_written) = (0, 0, 0);
            return Ok(Materialized {
                digest,
                path,
                how,
                layers_fetched,
                files_written,
                bytes_written,
            });
        }

        let base = self.base(ask.previous, &digest)?;
        let mut fetched = Fetched {
            ask,
            dir: self,
            spools: HashMap::new(),
        };
        let tables = fetched.tables(base.as_ref())?;
        validate_bundle(ask.manifest, &tables, &ask.limits)?;
        failpoint("bundle.materialize.after_layers");

        let repaired = path.exists();
        let build = match self.take_spare(base.as_ref())? {
            Some(spare) => Build::on_spare(spare, base.as_ref(), &tables)?,
            None => Build::on_links(self, base.as_ref(), &tables)?,
        };
        let how = match (repaired, build.on_spare) {
            (true, _) => How::Repaired,
            (false, true) => How::FromSpare,
            (false, false) => How::Built,
        };
        failpoint("bundle.materialize.after_staging");

        let (layers_fetched, done) = build.write(&mut fetched, &tables)?;
        failpoint("bundle.materialize.after_files");
        done.sync()?;
        failpoint("bundle.materialize.after_sync");

        let record = Record::new(digest, tables, done.on_disk);
        let file = self.record_path(&digest);
        record
            .save(&self.versions_dir().join(temporary_name()), &file)
            .map_err(while_doing("write", &file))?;
        failpoint("bundle.materialize.after_record");
        if let Err(error) = done.staging.publish(&path) {
            if !repaired {
                let _ = std::fs::remove_file(&file);
            }
            return Err(error);
        }
        failpoint("bundle.materialize.after_rename");
        sync_folder(self.versions_dir())?;
        failpoint("bundle.materialize.end");
        let (files_written, bytes_written) = (done.files_written, done.bytes_written);
        Ok(Materialized {
            digest,
            path,
            how,
            layers_fetched,
            files_written,
            bytes_written,
        })
    }

    /// Whether a version is here and as it should be. A quick look that finds
    /// something is followed by a full one: a restored backup has other inodes
    /// and times and is good all the same.
    fn is_good(&self, digest: &Digest, how: Verify) -> Result<bool, VersionError> {
        let Some(record) = self.record(digest)? else {
            return Ok(false);
        };
        let path = self.version_path(digest);
        let is_good = |how| -> Result<bool, VersionError> {
            let damage = verify::compare(&path, &record, how);
            Ok(damage.map_err(while_doing("verify", &path))?.is_empty())
        };
        Ok((how == Verify::Quick && is_good(Verify::Quick)?) || is_good(Verify::Full)?)
    }

    /// The version to start from; without one, everything is new.
    fn base(&self, previous: Option<Digest>, next: &Digest) -> Result<Option<Base>, VersionError> {
        let previous = match previous {
            Some(previous) => Some(previous),
            None => self.live_version()?,
        };
        match previous.filter(|digest| digest != next) {
            Some(digest) => self.open_base(&digest),
            None => Ok(None),
        }
    }

    pub(crate) fn open_base(&self, digest: &Digest) -> Result<Option<Base>, VersionError> {
        let Some(record) = self.record(digest)? else {
            return Ok(None);
        };
        let path = self.version_path(digest);
        let fd = tree::open_root(&path).map_err(while_doing("open", &path))?;
        Ok(Some(Base {
            digest: *digest,
            record,
            fd,
        }))
    }
}

/// The version whose files can be shared.
pub(crate) struct Base {
    pub(crate) digest: Digest,
    pub(crate) record: Record,
    fd: std::os::fd::OwnedFd,
}

/// Layers that were fetched and are what their digests say.
struct Fetched<'a> {
    ask: &'a Materialize<'a>,
    dir: &'a BundleDir,
    spools: HashMap<Digest, SpooledTempFile>,
}

impl Fetched<'_> {
    /// What each layer holds: as recorded for layers that the base has too,
    /// else fetched, verified and read.
    fn tables(&mut self, base: Option<&Base>) -> Result<Vec<LayerTable>, VersionError> {
        let mut known: HashMap<Digest, LayerTable> = HashMap::new();
        if let Some(base) = base {
            known.extend(
                base.record
                    .layers
                    .iter()
                    .map(|table| (table.digest, table.clone())),
            );
        }
        let wanted = self.ask.manifest.layers();
        let mut spools = Vec::new();
        for layer in wanted
            .iter()
            .filter(|layer| !known.contains_key(&layer.digest))
        {
            spools.push((layer, self.fetch(layer)?));
        }
        let limits = &self.ask.limits;
        for (table, spool) in spread(spools, |(layer, mut spool)| {
            let table = layer.read(&mut spool, limits)?;
            Ok::<_, VersionError>((table, spool))
        })? {
            self.spools.insert(table.digest, spool);
            known.insert(table.digest, table);
        }
        let mut tables = Vec::with_capacity(wanted.len());
        for layer in wanted {
            match known.remove(&layer.digest) {
                Some(table) => tables.push(table),
                // Twice the same layer is twice the same paths.
                None => {
                    return Err(crate::BundleError::Description {
                        layer: layer.digest,
                    }
                    .into());
                }
            }
        }
        Ok(tables)
    }

    /// A verified layer, fetched now unless it was before.
    fn take(&mut self, digest: &Digest) -> Result<SpooledTempFile, VersionError> {
        if let Some(spool) = self.spools.remove(digest) {
            return Ok(spool);
        }
        let mut layers = self.ask.manifest.layers().iter();
        let layer = layers
            .find(|layer| layer.digest == *digest)
            .ok_or(crate::BundleError::Description { layer: *digest })?;
        let mut spool = self.fetch(layer)?;
        layer.read(&mut spool, &self.ask.limits)?;
        Ok(spool)
    }

    fn fetch(&self, layer: &Layer) -> Result<SpooledTempFile, VersionError> {
        let folder = self.dir.versions_dir();
        let failed = |source| VersionError::Fetch {
            layer: layer.digest,
            source,
        };
        // One byte more than announced is enough to be wrong.
        let mut source = (self.ask.layers)(&layer.digest)
            .map_err(failed)?
            .take(layer.size.saturating_add(1));
        let mut spool = tempfile::spooled_tempfile_in(SPOOL_BYTES, folder);
        let mut buffer = vec![0; 128 * 1024];
        loop {
            let count = source.read(&mut buffer).map_err(failed)?;
            if count == 0 {
                break;
            }
            io::Write::write_all(&mut spool, &buffer[..count])
                .map_err(while_doing("write a layer below", folder))?;
        }
        spool
            .rewind()
            .map_err(while_doing("read a layer below", folder))?;
        Ok(spool)
    }
}

/// A tree that has all it shares with the base and lacks the rest.
pub(crate) struct Build<'a> {
    pub(crate) staging: Staging,
    on_spare: bool,
    /// By entry, in the order of the tables; none where content is missing.
    pub(crate) on_disk: Vec<Option<OnDisk>>,
    /// The times of the base's files, by path.
    before: HashMap<&'a str, i64>,
    /// All folders, or on a spare those that were touched.
    open_folders: BTreeSet<&'a str>,
}

impl<'a> Build<'a> {
    pub(crate) fn on_links(
        dir: &BundleDir,
        base: Option<&'a Base>,
        tables: &'a [LayerTable],
    ) -> Result<Self, VersionError> {
        let staging = Staging::create(dir.versions_dir().join(temporary_name()))?;
        let entries: Vec<&Entry> = tables.iter().flat_map(|table| &table.entries).collect();
        let mut folders = all_folders(entries.iter().copied());
        for folder in &folders {
            staging.make_folder(folder)?;
        }
        folders.insert("");

        let (shared, before) = base.map(rows_by_path).unwrap_or_default();
        let link = |entry: &&Entry| -> Result<Option<OnDisk>, VersionError> {
            if let EntryKind::Link { target } = &entry.kind {
                staging.make_link(&entry.path, target)?;
                return Ok(Some(OnDisk::default()));
            }
            let (Some(base), Some((same, on_disk))) = (base, shared.get(entry.path.as_str()))
            else {
                return Ok(None);
            };
            if same.kind != entry.kind {
                return Ok(None);
            }
            base.share(entry, *on_disk, &staging)
        };
        let parts = entries.chunks(256).collect();
        let linked = spread(parts, |part: &[&Entry]| {
            part.iter().map(link).collect::<Result<Vec<_>, _>>()
        })?;
        let on_disk = linked.into_iter().flatten().collect();
        Ok(Self {
            staging,
            on_spare: false,
            on_disk,
            before,
            open_folders: folders,
        })
    }

    pub(crate) fn on_spare(
        staging: Staging,
        base: Option<&'a Base>,
        tables: &'a [LayerTable],
    ) -> Result<Self, VersionError> {
        let (old, before) = base.map(rows_by_path).unwrap_or_default();
        let new: Vec<&Entry> = tables.iter().flat_map(|table| &table.entries).collect();
        let mut on_disk = Vec::with_capacity(new.len());
        let mut kept = HashSet::with_capacity(new.len());
        let mut touched = BTreeSet::new();
        for entry in &new {
            match old.get(entry.path.as_str()) {
                Some((same, stat)) if same.kind == entry.kind => {
                    kept.insert(entry.path.as_str());
                    on_disk.push(Some(*stat));
                }
                _ => {
                    touched.insert(folder_of(&entry.path));
                    on_disk.push(None);
                }
            }
        }
        let gone: Vec<&str> = old
            .keys()
            .copied()
            .filter(|path| !kept.contains(path))
            .collect();
        touched.extend(gone.iter().map(|path| folder_of(path)));

        let old_folders = all_folders(old.values().map(|(entry, _)| *entry));
        let new_folders = all_folders(new.iter().copied());
        let lost: Vec<&str> = old_folders.difference(&new_folders).copied().collect();
        let made: Vec<&str> = new_folders.difference(&old_folders).copied().collect();
        touched.extend(lost.iter().chain(&made).map(|folder| folder_of(folder)));

        for folder in touched
            .iter()
            .filter(|f| f.is_empty() || old_folders.contains(*f))
        {
            staging.set_folder_mode(folder, 0o755)?;
        }
        // Never written through: a changed file is unlinked and made anew, or
        // the base would change with it.
        for path in gone {
            staging.remove_file(path)?;
        }
        for folder in lost.iter().rev() {
            staging.remove_folder(folder)?;
        }
        for folder in &made {
            staging.make_folder(folder)?;
        }
        for (entry, on_disk) in new.iter().zip(&mut on_disk) {
            if let (EntryKind::Link { target }, None) = (&entry.kind, &on_disk) {
                staging.make_link(&entry.path, target)?;
                *on_disk = Some(OnDisk::default());
            }
        }
        touched.extend(made);
        touched.retain(|folder| folder.is_empty() || new_folders.contains(folder));
        Ok(Self {
            staging,
            on_spare: true,
            on_disk,
            before,
            open_folders: touched,
        })
    }

    /// Writes what is missing. Also returns how many layers were fetched.
    fn write(
        self,
        fetched: &mut Fetched<'_>,
        tables: &[LayerTable],
    ) -> Result<(usize, Built), VersionError> {
        let files_written = self.on_disk.iter().filter(|known| known.is_none()).count();
        let sync_each = self.on_spare && files_written <= FEW;
        let layers_read = fetched.spools.len();
        let mut fetched_late = 0;
        let mut work = Vec::new();
        let mut start = 0;
        for table in tables {
            let range = start..start + table.entries.len();
            start = range.end;
            if self.on_disk[range.clone()].iter().any(Option::is_none) {
                fetched_late += usize::from(!fetched.spools.contains_key(&table.digest));
                work.push((table, range, fetched.take(&table.digest)?));
            }
        }
        failpoint("bundle.materialize.half_written");
        let written = spread(work, |(table, range, spool)| {
            let wanted = &self.on_disk[range.clone()];
            let written = self.write_layer(table, wanted, spool, sync_each)?;
            Ok::<_, VersionError>((range, written))
        })?;

        let Self {
            staging,
            mut on_disk,
            open_folders,
            ..
        } = self;
        let mut bytes_written = 0;
        for (range, written) in written {
            bytes_written += written.bytes;
            for (at, stat) in written.files {
                on_disk[range.start + at] = Some(stat);
            }
        }
        let open_folders: Vec<String> = open_folders.into_iter().map(str::to_owned).collect();
        for folder in open_folders.iter().rev() {
            staging.set_folder_mode(folder, 0o555)?;
        }
        let on_disk = on_disk.into_iter().map(Option::unwrap_or_default).collect();
        let touched = sync_each.then_some(open_folders);
        let built = Built {
            staging,
            on_disk,
            touched,
            files_written,
            bytes_written,
        };
        Ok((layers_read + fetched_late, built))
    }

    fn write_layer(
        &self,
        table: &LayerTable,
        on_disk: &[Option<OnDisk>],
        mut spool: SpooledTempFile,
        sync: bool,
    ) -> Result<Written, VersionError> {
        let unreadable = |source| VersionError::Fetch {
            layer: table.digest,
            source,
        };
        spool.rewind().map_err(unreadable)?;
        let mut written = Written {
            files: Vec::new(),
            bytes: 0,
        };
        let mut at = 0;
        visit_layer(spool, table, |path, head, content| {
            let index = at;
            at += 1;
            if let (Head::File { size, executable }, None) = (head, on_disk[index]) {
                let newer_than = self.before.get(path).copied();
                let stat = self
                    .staging
                    .write_file(path, executable, content, newer_than, sync)?;
                written.files.push((index, stat));
                written.bytes += size;
            }
            Ok(())
        })?;
        Ok(written)
    }

    /// Shares with a version what this tree lacks of it, or has otherwise.
    pub(crate) fn link_from(&mut self, version: &'a Base) -> Result<(), VersionError> {
        for (index, (entry, on_disk)) in version.record.rows().enumerate() {
            let here = self.on_disk[index];
            let is_link = matches!(entry.kind, EntryKind::Link { .. });
            if here == Some(on_disk) || (is_link && here.is_some()) {
                continue;
            }
            let folder = folder_of(&entry.path);
            if self.open_folders.insert(folder) {
                self.staging.set_folder_mode(folder, 0o755)?;
            }
            if here.is_some() {
                self.staging.remove_file(&entry.path)?;
            }
            self.on_disk[index] = version.share(entry, on_disk, &self.staging)?;
        }
        Ok(())
    }

    /// Makes the folders read-only and the tree durable; its files are, being
    /// those of other versions.
    pub(crate) fn finish(&self) -> Result<(), VersionError> {
        for folder in self.open_folders.iter().rev() {
            self.staging.set_folder_mode(folder, 0o555)?;
        }
        if self.on_spare && self.open_folders.len() <= FEW {
            for folder in &self.open_folders {
                self.staging.sync_folder(folder)?;
            }
            return Ok(());
        }
        self.staging.sync_all()
    }
}

impl Base {
    /// Links a file of this version into another tree. None where that cannot
    /// be, or where it was tampered with since it was written.
    fn share(
        &self,
        entry: &Entry,
        on_disk: OnDisk,
        with: &Staging,
    ) -> Result<Option<OnDisk>, VersionError> {
        let path = entry.path.as_str();
        let stat = match rustix::fs::statat(&self.fd, path, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => FileStat::new(&stat),
            Err(_) => return Ok(None),
        };
        let shared = looks_untouched(entry, on_disk, &stat) && with.hard_link(&self.fd, path)?;
        Ok(shared.then_some(on_disk))
    }
}

struct Written {
    files: Vec<(usize, OnDisk)>,
    bytes: u64,
}

/// A complete tree that is not on stable storage yet.
struct Built {
    staging: Staging,
    on_disk: Vec<OnDisk>,
    /// With files that are synced already: the folders that are not.
    touched: Option<Vec<String>>,
    files_written: usize,
    bytes_written: u64,
}

impl Built {
    fn sync(&self) -> Result<(), VersionError> {
        let Some(touched) = &self.touched else {
            return self.staging.sync_all();
        };
        for folder in touched {
            self.staging.sync_folder(folder)?;
        }
        Ok(())
    }
}

/// Reads a verified layer again, for its content.
fn visit_layer(
    spool: SpooledTempFile,
    table: &LayerTable,
    mut entry: impl FnMut(&str, Head, &mut dyn Read) -> Result<(), VersionError>,
) -> Result<(), VersionError> {
    let mut source = BufReader::with_capacity(128 * 1024, spool);
    let mut expected = table.entries.iter();
    layer::visit(&mut source, table.digest, |path, head, content| {
        // The table may come from a record, and records can be edited.
        if expected.next().is_none_or(|expected| expected.path != path) {
            let source = io::Error::other("the layer is not the one that was recorded");
            return Err(LayerError::Source {
                layer: table.digest,
                source,
            }
            .into());
        }
        entry(&path, head, content)
    })
}

type Rows<'a> = HashMap<&'a str, (&'a Entry, OnDisk)>;

fn rows_by_path(base: &Base) -> (Rows<'_>, HashMap<&str, i64>) {
    let mut rows = HashMap::new();
    let mut times = HashMap::new();
    for (entry, on_disk) in base.record.rows() {
        rows.insert(entry.path.as_str(), (entry, on_disk));
        if matches!(entry.kind, EntryKind::File { .. }) {
            times.insert(entry.path.as_str(), on_disk.1);
        }
    }
    (rows, times)
}

fn folder_of(path: &str) -> &str {
    folders_of(path).next().unwrap_or("")
}

/// Every folder below the root, parents before children.
fn all_folders<'a>(entries: impl Iterator<Item = &'a Entry>) -> BTreeSet<&'a str> {
    let mut folders = BTreeSet::new();
    for entry in entries {
        for folder in folders_of(&entry.path) {
            if !folders.insert(folder) {
                break;
            }
        }
    }
    folders
}
