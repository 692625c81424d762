//! What is in a base image: which packages its Airflow has beside it, which Python
//! runs them, and what its folders are like.
//!
//! A layer is read once, as it comes, and nothing of it is kept but this. Another tag
//! of the same base mostly has the same layers.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, BufRead as _, BufReader, Read};

use flate2::bufread::MultiGzDecoder;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use updraft_model::Digest;
use updraft_project::{AirflowVersion, PythonVersion};

/// Counts up when more is read of a layer.
pub(super) const FORMAT: u32 = 1;

const WHITEOUT: &str = ".wh.";
const OPAQUE: &str = ".wh..wh..opq";
/// A list of files of the largest packages has some hundred kilobytes.
const MOST_OF_A_RECORD: u64 = 16 << 20;
/// What engines set where an image sets none.
const USUAL_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
/// Links to follow before it is a circle.
const MOST_LINKS: usize = 40;

/// Whose a folder is, and who may use it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Owner {
    pub(super) mode: u32,
    pub(super) uid: u64,
    pub(super) gid: u64,
}

impl Owner {
    pub(super) const ROOT: Self = Self {
        mode: 0o755,
        uid: 0,
        gid: 0,
    };
}

/// What matters here of one layer, or of all. Paths have no `/` before them.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Contents {
    pub(super) folders: BTreeMap<String, Owner>,
    links: BTreeMap<String, String>,
    /// Files that are named like a Python.
    pythons: BTreeSet<String>,
    /// The folders `NAME-VERSION.dist-info`, by the folder that they are in.
    packages: BTreeMap<String, BTreeSet<String>>,
    /// Its C library is musl.
    is_musl: bool,
    /// What it takes away of the layers below, and the folders of which it takes all.
    removed: BTreeSet<String>,
    emptied: BTreeSet<String>,
}

/// The files that packages say are theirs, by the folder `NAME-VERSION.dist-info`.
pub(super) type Records = BTreeMap<String, Vec<String>>;

/// Where the packages of an image's Airflow are, and what runs them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Site {
    pub(super) folder: String,
    /// What the `bin` beside it is in; where there is none, the folder itself.
    pub(super) prefix: String,
    /// With its `/`.
    pub(super) python: String,
    pub(super) python_version: PythonVersion,
    pub(super) airflow: AirflowVersion,
    pub(super) is_musl: bool,
    /// Versions by name, as resolvers write names.
    pub(super) packages: BTreeMap<String, String>,
    dist_infos: BTreeMap<String, String>,
}

impl Site {
    /// The path of a package's `dist-info`.
    pub(super) fn dist_info(&self, package: &str) -> Option<String> {
        let name = self.dist_infos.get(package)?;
        Some(format!("{}/{name}", self.folder))
    }
}

/// Reads a layer to its end, however it is compressed, and compares its digest.
pub(super) fn read_layer(layer: impl Read, expected: &Digest) -> io::Result<(Contents, Records)> {
    let mut source = BufReader::with_capacity(256 << 10, Hashed::new(layer));
    let (contents, records) = match source.fill_buf()? {
        [0x1f, 0x8b, ..] => read_tar(MultiGzDecoder::new(&mut source))?,
        [0x28, 0xb5, 0x2f, 0xfd, ..] => read_tar(zstd::Decoder::with_buffer(&mut source)?)?,
        _ => read_tar(&mut source)?,
    };
    io::copy(&mut source, &mut io::sink())?;
    let actual: [u8; 32] = source.into_inner().hasher.finalize().into();
    if Digest::from_bytes(actual) != *expected {
        return Err(io::Error::new(
            io::ErrorKind::InvalidData,
            "its digest is another",
        ));
    }
    Ok((contents, records))
}

struct Hashed<R> {
    inner: R,
    hasher: Sha256,
}

impl<R> Hashed<R> {
    fn new(inner: R) -> Self {
        Self {
            inner,
            hasher: Sha256::new(),
        }
    }
}

impl<R: Read> Read for Hashed<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.inner.read(buffer)?;
        self.hasher.update(&buffer[..count]);
        Ok(count)
    }
}

fn read_tar(tar: impl Read) -> io::Result<(Contents, Records)> {
    let mut contents = Contents::default();
    let mut records = Records::new();
    let mut archive = tar::Archive::new(tar);
    for entry in archive.entries()? {
        let mut entry = entry?;
        // A name that is not UTF-8 is none that matters here.
        let Some(path) = entry.path()?.to_str().map(plain) else {
            continue;
        };
        let kind = entry.header().entry_type();
        let (above, name) = split(&path);
        if name == OPAQUE {
            contents.emptied.insert(above.to_owned());
        } else if let Some(name) = name.strip_prefix(WHITEOUT) {
            contents.removed.insert(join(above, name));
        } else if kind.is_dir() {
            let owner = Owner {
                mode: entry.header().mode()? & 0o7777,
                uid: entry.header().uid()?,
                gid: entry.header().gid()?,
            };
            contents.folders.insert(path, owner);
        } else if kind.is_symlink() {
            let target = entry.link_name()?;
            let target = target.and_then(|target| target.to_str().map(str::to_owned));
            // Deeper ones lead to nothing that is looked for.
            if let Some(target) = target
                && (path.matches('/').count() < 3 || is_python(name))
            {
                if is_python(name) {
                    contents.pythons.insert(path.clone());
                }
                contents.links.insert(path, target);
            }
        } else if is_python(name) && above.ends_with("bin") {
            contents.pythons.insert(path);
        } else if name == "METADATA" && above.ends_with(".dist-info") {
            let (folder, package) = split(above);
            let found = contents.packages.entry(folder.to_owned()).or_default();
            found.insert(package.to_owned());
        } else if name == "RECORD" && above.ends_with(".dist-info") {
            let mut text = String::new();
            (&mut entry)
                .take(MOST_OF_A_RECORD)
                .read_to_string(&mut text)?;
            records.insert(above.to_owned(), text.lines().map(record_path).collect());
        } else if above == "lib" && name.starts_with("ld-musl-") {
            contents.is_musl = true;
        }
    }
    // Folders of packages are many, and nothing is put into them one by one.
    let sites: Vec<String> = contents.packages.keys().cloned().collect();
    let in_site = |path: &String| sites.iter().any(|site| is_below(path, site));
    contents.folders.retain(|path, _| !in_site(path));
    Ok((contents, records))
}

/// The first field of a line, which is in quotes when it has a comma.
pub(super) fn record_path(line: &str) -> String {
    match line.strip_prefix('"') {
        Some(quoted) => quoted.split('"').next().unwrap_or(quoted).to_owned(),
        None => line.split(',').next().unwrap_or(line).to_owned(),
    }
}

fn plain(path: &str) -> String {
    let path = path.trim_start_matches("./").trim_matches('/');
    if path == "." {
        String::new()
    } else {
        path.to_owned()
    }
}

pub(super) fn split(path: &str) -> (&str, &str) {
    path.rsplit_once('/').unwrap_or(("", path))
}

pub(super) fn join(folder: &str, name: &str) -> String {
    if folder.is_empty() {
        name.to_owned()
    } else {
        format!("{folder}/{name}")
    }
}

pub(super) fn is_below(path: &str, folder: &str) -> bool {
    let rest = path.strip_prefix(folder);
    folder.is_empty() && !path.is_empty() || rest.is_some_and(|rest| rest.starts_with('/'))
}

fn is_python(name: &str) -> bool {
    match name.strip_prefix("python") {
        Some("" | "3") => true,
        Some(version) => version
            .strip_prefix("3.")
            .is_some_and(|minor| minor.parse::<u8>().is_ok()),
        None => false,
    }
}

impl Contents {
    /// Puts the next layer on top.
    pub(super) fn add(&mut self, upper: Self) {
        let gone = |path: &String| {
            let is_removed = |removed: &String| path == removed || is_below(path, removed);
            upper.removed.iter().any(is_removed)
                || upper.emptied.iter().any(|folder| is_below(path, folder))
        };
        if !upper.removed.is_empty() || !upper.emptied.is_empty() {
            self.folders.retain(|path, _| !gone(path));
            self.links.retain(|path, _| !gone(path));
            self.pythons.retain(|path| !gone(path));
            for (folder, packages) in &mut self.packages {
                packages.retain(|package| {
                    let path = join(folder, package);
                    // Whoever removes packages file by file leaves their folders.
                    !gone(&path) && !gone(&join(&path, "METADATA"))
                });
            }
        }
        self.folders.extend(upper.folders);
        self.links.extend(upper.links);
        self.pythons.extend(upper.pythons);
        for (folder, packages) in upper.packages {
            self.packages.entry(folder).or_default().extend(packages);
        }
        self.is_musl |= upper.is_musl;
    }

    /// Where a path leads to, through links to folders.
    pub(super) fn real(&self, path: &str) -> String {
        let mut left: Vec<String> = parts(path).rev().map(str::to_owned).collect();
        let mut real = String::new();
        let mut followed = 0;
        while let Some(part) = left.pop() {
            if part == ".." {
                real = split(&real).0.to_owned();
                continue;
            }
            let next = join(&real, &part);
            match self.links.get(&next).filter(|_| followed < MOST_LINKS) {
                Some(target) => {
                    followed += 1;
                    if target.starts_with('/') {
                        real.clear();
                    }
                    left.extend(parts(target).rev().map(str::to_owned));
                }
                None => real = next,
            }
        }
        real
    }

    /// The packages that Airflow's Python sees first; otherwise what is missing.
    pub(super) fn site(&self, env: &BTreeMap<String, String>) -> Result<Site, &'static str> {
        let listed = |name: &str| -> Vec<String> {
            let usual = if name == "PATH" { USUAL_PATH } else { "" };
            let value = env.get(name).map_or(usual, String::as_str);
            value.split(':').map(|path| self.real(path)).collect()
        };
        let (python_path, path) = (listed("PYTHONPATH"), listed("PATH"));
        let (folder, version) = self
            .packages
            .iter()
            .filter_map(|(folder, packages)| {
                let mut named = packages.iter().filter_map(|it| dist_info(it));
                let (_, version) = named.find(|(name, _)| name == "apache-airflow")?;
                Some((folder, version))
            })
            .min_by_key(|(folder, _)| {
                let bin = prefix_of(folder).map(|prefix| join(prefix, "bin"));
                let at = |list: &[String], it: &String| list.iter().position(|path| path == it);
                (
                    at(&python_path, folder).unwrap_or(usize::MAX),
                    bin.and_then(|bin| at(&path, &bin)).unwrap_or(usize::MAX),
                )
            })
            .ok_or("no `apache_airflow-*.dist-info` is in its layers")?;
        let airflow = version
            .parse()
            .map_err(|_| "its Airflow has a version that is not supported")?;
        let prefix = prefix_of(folder).unwrap_or(folder).to_owned();
        let own = join(&prefix, "bin");
        let python = [&own]
            .into_iter()
            .chain(&path)
            .flat_map(|bin| ["python3", "python"].map(|name| join(bin, name)))
            .find(|python| self.pythons.contains(python))
            .ok_or("no `python3` is on its `PATH`")?;
        let python_version = version_of(folder)
            .or_else(|| {
                split(&self.real(&python))
                    .1
                    .strip_prefix("python")?
                    .parse()
                    .ok()
            })
            .or_else(|| {
                let full = env.get("PYTHON_VERSION")?;
                full.rsplit_once('.')?.0.parse().ok()
            })
            .ok_or("nothing says which version its Python has")?;
        let mut site = Site {
            folder: folder.clone(),
            prefix,
            python: format!("/{python}"),
            python_version,
            airflow,
            is_musl: self.is_musl,
            packages: BTreeMap::new(),
            dist_infos: BTreeMap::new(),
        };
        for package in self.packages.get(folder).into_iter().flatten() {
            if let Some((name, version)) = dist_info(package) {
                site.dist_infos.insert(name.clone(), package.clone());
                site.packages.insert(name, version);
            }
        }
        Ok(site)
    }
}

fn parts(path: &str) -> impl DoubleEndedIterator<Item = &str> {
    path.split('/').filter(|part| !matches!(*part, "" | "."))
}

/// What `lib/python3.12/site-packages` is in, if it is such a folder.
fn prefix_of(folder: &str) -> Option<&str> {
    let (above, name) = split(folder);
    let (above, python) = split(above);
    let (prefix, lib) = split(above);
    let is_site = matches!(name, "site-packages" | "dist-packages")
        && python.starts_with("python3")
        && matches!(lib, "lib" | "lib64");
    is_site.then_some(prefix)
}

fn version_of(folder: &str) -> Option<PythonVersion> {
    let (_, python) = split(split(folder).0);
    python.strip_prefix("python")?.parse().ok()
}

/// Name and version of `NAME-VERSION.dist-info`.
fn dist_info(folder: &str) -> Option<(String, String)> {
    let (name, version) = folder.strip_suffix(".dist-info")?.rsplit_once('-')?;
    let mut normal = String::with_capacity(name.len());
    for c in name.chars() {
        match c {
            '-' | '_' | '.' if normal.ends_with('-') => {}
            '-' | '_' | '.' => normal.push('-'),
            c => normal.push(c.to_ascii_lowercase()),
        }
    }
    Some((normal, version.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn layer(entries: &[(&str, &str)]) -> Vec<u8> {
        let mut tar = tar::Builder::new(Vec::new());
        for (path, what) in entries {
            let mut header = tar::Header::new_gnu();
            header.set_size(0);
            header.set_uid(50_000);
            header.set_gid(0);
            match what.strip_prefix("-> ") {
                Some(target) => {
                    header.set_entry_type(tar::EntryType::Symlink);
                    tar.append_link(&mut header, path, target).unwrap();
                }
                None if path.ends_with('/') => {
                    header.set_entry_type(tar::EntryType::Directory);
                    header.set_mode(0o775);
                    tar.append_data(&mut header, path, io::empty()).unwrap();
                }
                None => {
                    header.set_size(what.len() as u64);
                    tar.append_data(&mut header, path, what.as_bytes()).unwrap();
                }
            }
        }
        tar.into_inner().unwrap()
    }

    fn read(entries: &[(&str, &str)]) -> (Contents, Records) {
        let bytes = layer(entries);
        read_layer(&bytes[..], &Digest::of(&bytes)).unwrap()
    }

    const SITE: &str = "home/airflow/.local/lib/python3.12/site-packages";

    fn official() -> Contents {
        let mut all = Contents::default();
        all.add(
            read(&[
                ("./bin", "-> usr/bin"),
                ("usr/bin/python3", "-> python3.11"),
                ("usr/bin/python3.11", "elf"),
                ("usr/python/bin/python3", "elf"),
                ("opt/airflow/", ""),
                (
                    "usr/lib/python3/dist-packages/old-1.0.dist-info/METADATA",
                    "",
                ),
            ])
            .0,
        );
        let file = |name: &str| format!("{SITE}/{name}");
        all.add(
            read(&[
                (&file("apache_airflow-3.3.2.dist-info/METADATA"), ""),
                (&file("Foo.Bar_baz-1.2.dist-info/METADATA"), ""),
                (&file("foo/"), ""),
            ])
            .0,
        );
        all
    }

    fn env(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        let pairs = pairs.iter();
        pairs
            .map(|(a, b)| ((*a).to_owned(), (*b).to_owned()))
            .collect()
    }

    #[test]
    fn finds_airflow_and_its_python() {
        let contents = official();
        let path = "/home/airflow/.local/bin:/usr/python/bin:/bin";
        let site = contents.site(&env(&[("PATH", path)])).unwrap();
        assert_eq!(site.folder, SITE);
        assert_eq!(site.prefix, "home/airflow/.local");
        assert_eq!(site.python, "/usr/python/bin/python3");
        assert_eq!(site.python_version, PythonVersion::new(3, 12));
        assert_eq!(site.packages["foo-bar-baz"], "1.2");
        assert_eq!(
            site.dist_info("foo-bar-baz").unwrap(),
            format!("{SITE}/Foo.Bar_baz-1.2.dist-info")
        );
        assert_eq!(contents.folders["opt/airflow"].uid, 50_000);
        assert!(!contents.folders.contains_key(&format!("{SITE}/foo")));
        assert!(contents.site(&env(&[("PATH", "/nowhere")])).is_err());
    }

    #[test]
    fn a_folder_on_the_pythons_path_comes_first() {
        let mut contents = official();
        contents.add(read(&[("opt/packages/apache_airflow-3.3.1.dist-info/METADATA", "")]).0);
        let pairs = env(&[("PATH", "/bin"), ("PYTHONPATH", "/opt/packages")]);
        let site = contents.site(&pairs).unwrap();
        assert_eq!(
            (&site.folder[..], &site.prefix[..]),
            ("opt/packages", "opt/packages")
        );
        assert_eq!(site.airflow.to_string(), "3.3.1");
        assert_eq!(site.python, "/usr/bin/python3");
        assert_eq!(site.python_version, PythonVersion::new(3, 11));
    }

    #[test]
    fn what_a_layer_takes_away_is_gone() {
        let mut contents = official();
        let gone = format!("{SITE}/.wh.apache_airflow-3.3.2.dist-info");
        contents.add(read(&[(&gone, ""), ("usr/python/.wh..wh..opq", "")]).0);
        let path = env(&[("PATH", "/usr/python/bin")]);
        assert!(contents.site(&path).unwrap_err().contains("apache_airflow"));
        assert_eq!(contents.pythons.len(), 2);
    }

    #[test]
    fn another_digest_is_refused() {
        let bytes = layer(&[("a", "b")]);
        assert!(read_layer(&bytes[..], &Digest::of(b"")).is_err());
    }
}
