//! What `requirements.txt` adds to the packages of a base, resolved and installed
//! beside Airflow, where the standard build of an engine installs it.
//!
//! Nothing of the base runs here. Its packages are known, so the resolver keeps their
//! versions wherever it may, as an installer inside of the image would.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fmt::Write as _;
use std::fs;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::{Deserialize, Serialize};
use updraft_model::Digest;
use updraft_project::Requirements;

use super::DaemonlessError;
use super::contents::{Contents, Owner, Records, Site, is_below, join, record_path, split};
use super::layer::{Item, Layer, Layers, Tree};
use crate::lock::{self, LockError};
use crate::process;
use crate::python::{Interpreter, PythonRequest, nearest_python};
use crate::uv::Uv;

/// Counts up when the same is resolved or installed in another way.
const FORMAT: u32 = 1;
/// What an installer leaves that differs from time to time.
const LEFT_OUT: &str = "uv_cache.json";

/// What is to be installed on what.
pub(super) struct Ask<'a> {
    pub(super) uv: &'a Uv,
    pub(super) site: &'a Site,
    pub(super) base: &'a Contents,
    pub(super) requirements: &'a Requirements,
    /// `amd64` or `arm64`.
    pub(super) architecture: &'a str,
    /// Resolve and install anew.
    pub(super) fresh: bool,
    pub(super) cache: &'a Path,
    pub(super) layers: &'a Layers,
    pub(super) say: &'a dyn Fn(&str),
}

/// What the lock adds to the base.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Added {
    /// Exact packages with their hashes.
    text: String,
    /// With their versions; what comes from an address has none.
    pub(super) packages: BTreeMap<String, String>,
}

impl Added {
    /// Those that the base has in another version.
    pub(super) fn replaced(&self, site: &Site) -> Vec<String> {
        let names = self.packages.keys();
        names
            .filter(|name| site.packages.contains_key(*name))
            .cloned()
            .collect()
    }
}

impl Ask<'_> {
    /// Resolves the requirements, or answers from the cache.
    pub(super) fn resolve(&self) -> Result<Added, DaemonlessError> {
        let settings = lock::resolver_settings();
        let site = self.site;
        let facts = (
            FORMAT,
            &site.airflow,
            site.python_version,
            &site.packages,
            self.platform(),
            self.requirements,
            settings,
        );
        let facts = serde_json::to_vec(&facts).expect("text and numbers always serialise");
        let name = format!("{}.json", Digest::of(&facts).hex());
        let kept = self.cache.join("added").join(name);
        if !self.fresh
            && let Ok(text) = fs::read(&kept)
            && let Ok(added) = serde_json::from_slice(&text)
        {
            return Ok(added);
        }
        (self.say)(&format!("resolving `requirements.txt` for {}", self.what()));
        let added = self.compile()?;
        write_whole(&kept, &serde_json::to_vec(&added).unwrap_or_default())
            .map_err(|source| DaemonlessError::Io { path: kept, source })?;
        Ok(added)
    }

    fn compile(&self) -> Result<Added, DaemonlessError> {
        let scratch = scratch()?;
        let folder = scratch.path();
        let failed = |source| DaemonlessError::Io {
            path: folder.to_owned(),
            source,
        };
        lock::write_requirements(self.requirements, folder).map_err(failed)?;
        // Names that no file of a project has.
        let (airflow, bounds, locked) = (
            ".updraft-airflow.txt",
            ".updraft-bounds.txt",
            ".updraft-lock.txt",
        );
        let version = &self.site.airflow;
        fs::write(folder.join(airflow), format!("apache-airflow=={version}\n")).map_err(failed)?;
        fs::write(folder.join(bounds), lock::known_bounds(version)).map_err(failed)?;
        // What is there already is what the resolver prefers.
        let mut there = String::new();
        for (name, version) in &self.site.packages {
            let _ = writeln!(there, "{name}=={version}");
        }
        fs::write(folder.join(locked), there).map_err(failed)?;

        let mut command = self.uv.pip(folder, "compile");
        command
            .args([
                "--generate-hashes",
                "--no-header",
                "--no-annotate",
                "--no-emit-index-url",
            ])
            .args(["--output-file", locked, "--constraints", bounds])
            .arg(airflow)
            .args(self.requirements.root_file());
        self.aim(&mut command)?;
        command
            .env_remove("UV_EMIT_INDEX_URL")
            .env_remove("UV_EMIT_FIND_LINKS");
        for text in self.requirements.files().values() {
            command.envs(process::named_in(text));
        }
        let finished = self.uv.run(&mut command).map_err(LockError::Uv)?;
        if !finished.success {
            let what = format!("{} and `requirements.txt`", self.what());
            let complaint = finished.complaint();
            return Err(DaemonlessError::Lock(if finished.is_offline() {
                LockError::Offline { what, complaint }
            } else {
                LockError::Unsatisfiable { what, complaint }
            }));
        }
        let text = fs::read_to_string(folder.join(locked)).map_err(failed)?;
        lock::refuse_credentials(&text)?;
        Ok(self.difference(&text))
    }

    /// What of a lock the base does not have.
    fn difference(&self, lock: &str) -> Added {
        let mut added = Added::default();
        let mut is_new = false;
        for line in lock.lines() {
            if line.starts_with(|c: char| c.is_ascii_alphanumeric()) {
                let name = line.split(['=', ' ', '@', '[', ';']).next().unwrap_or(line);
                let version = line.split_once("==").map(|(_, rest)| {
                    let end = rest.find([' ', ';', '\\']).unwrap_or(rest.len());
                    &rest[..end]
                });
                is_new = self.site.packages.get(name).map(String::as_str) != version
                    || version.is_none();
                if is_new {
                    let version = version.unwrap_or_default().to_owned();
                    added.packages.insert(name.to_owned(), version);
                }
            }
            if is_new {
                added.text.push_str(line);
                added.text.push('\n');
            }
        }
        added
    }

    /// The layer with what is added, made or found.
    pub(super) fn layer(
        &self,
        added: &Added,
        records: impl FnOnce() -> Result<Records, DaemonlessError>,
    ) -> Result<(Layer, PathBuf, bool), DaemonlessError> {
        let site = self.site;
        let owner = self.base.folders.get(&site.folder);
        let owner = owner.copied().unwrap_or(Owner::ROOT);
        let mut above: Vec<Option<&Owner>> = Vec::new();
        for folder in [&site.folder, &join(&site.prefix, "bin")] {
            let mut folder = folder.as_str();
            while !folder.is_empty() {
                above.push(self.base.folders.get(folder));
                folder = split(folder).0;
            }
        }
        let replaced: Vec<_> = added
            .replaced(site)
            .into_iter()
            .map(|name| (site.dist_info(&name), name))
            .collect();
        let place = (
            &site.folder,
            &site.prefix,
            &site.python,
            site.python_version,
        );
        let key = Layers::key(&(FORMAT, added, place, self.platform(), above, &replaced));
        if let Some(layer) = self.layers.find(key).filter(|_| !self.fresh) {
            return Ok((layer, self.layers.file(key), true));
        }

        (self.say)(&format!(
            "installing {} beside Airflow {}",
            packages(added.packages.len()),
            site.airflow
        ));
        let scratch = scratch()?;
        let prefix = scratch.path().join("prefix");
        self.install(added, scratch.path(), &prefix)?;
        (self.say)("writing the layer with the packages");
        let failed = |source| DaemonlessError::Io {
            path: prefix.clone(),
            source,
        };
        let mut tree = Tree::on(self.base, owner);
        self.lay_out(&prefix, &prefix, &mut tree)?;
        if !replaced.is_empty() {
            self.take_away(&replaced, &records()?, &mut tree);
        }
        let layer = self.layers.write(key, &tree).map_err(failed)?;
        Ok((layer, self.layers.file(key), false))
    }

    fn install(&self, added: &Added, folder: &Path, prefix: &Path) -> Result<(), DaemonlessError> {
        let text = [
            &self.requirements.index_options().join("\n"),
            &added.text[..],
        ]
        .join("\n");
        let file = folder.join("added.txt");
        fs::write(&file, &text).map_err(|source| DaemonlessError::Io {
            path: file.clone(),
            source,
        })?;
        let uv = if self.is_foreign() {
            &self.uv.only_wheels()
        } else {
            self.uv
        };
        let mut command = uv.pip(folder, "install");
        command
            .args(["--no-deps", "--prefix"])
            .arg(prefix)
            .args(["--requirements", "added.txt"]);
        // A commit of a repository has no hash of files, but its id is one.
        if !self.requirements.has_vcs() {
            command.arg("--require-hashes");
        }
        self.aim(&mut command)?;
        command.envs(process::named_in(&text));
        let finished = uv.run(&mut command).map_err(LockError::Uv)?;
        if finished.success {
            Ok(())
        } else if finished.is_offline() {
            Err(DaemonlessError::Offline(finished.complaint()))
        } else {
            Err(DaemonlessError::Install(finished.complaint()))
        }
    }

    /// Puts what was installed where the image has it.
    fn lay_out(
        &self,
        folder: &Path,
        prefix: &Path,
        tree: &mut Tree<'_>,
    ) -> Result<(), DaemonlessError> {
        let failed = |path: &Path, source| DaemonlessError::Io {
            path: path.to_owned(),
            source,
        };
        for entry in fs::read_dir(folder).map_err(|error| failed(folder, error))? {
            let entry = entry.map_err(|error| failed(folder, error))?;
            let path = entry.path();
            let metadata = path
                .symlink_metadata()
                .map_err(|error| failed(&path, error))?;
            let name = entry.file_name();
            let own = path.strip_prefix(prefix).unwrap_or(&path);
            let is_lock = own == OsStr::new(".lock");
            if is_lock || name == OsStr::new(LEFT_OUT) || name == OsStr::new("__pycache__") {
                continue;
            }
            if metadata.is_dir() {
                self.lay_out(&path, prefix, tree)?;
                continue;
            }
            let own = own.to_str().ok_or_else(|| {
                DaemonlessError::Install(format!("`{}` is not UTF-8", own.display()))
            })?;
            let to = self.place(own);
            if metadata.is_symlink() {
                let target = fs::read_link(&path).map_err(|error| failed(&path, error))?;
                let target = target.to_string_lossy().into_owned();
                tree.add(&to, Item::Link { target });
                continue;
            }
            let is_executable =
                std::os::unix::fs::PermissionsExt::mode(&metadata.permissions()) & 0o100 != 0;
            let read = || fs::read(&path).map_err(|error| failed(&path, error));
            let item = if own.starts_with("bin/") {
                Item::Text {
                    text: self.with_python_of_the_image(read()?, prefix),
                    executable: is_executable,
                }
            } else if own.ends_with(".dist-info/RECORD") {
                Item::Text {
                    text: self.record(&read()?, &path, prefix),
                    executable: false,
                }
            } else {
                if own.ends_with(".dist-info/WHEEL") {
                    expect_portable(&read()?, own)?;
                }
                Item::File {
                    size: metadata.len(),
                    from: path,
                    executable: is_executable,
                }
            };
            tree.add(&to, item);
        }
        Ok(())
    }

    /// The path in the image of one below the installer's prefix.
    fn place(&self, own: &str) -> String {
        match in_site(own) {
            Some(rest) => join(&self.site.folder, rest),
            None => join(&self.site.prefix, own),
        }
    }

    /// A script as it would be there: the installer names the Python that is here.
    fn with_python_of_the_image(&self, script: Vec<u8>, prefix: &Path) -> Vec<u8> {
        let Some(first) = script.split_inclusive(|b| *b == b'\n').next() else {
            return script;
        };
        let line = String::from_utf8_lossy(first);
        let named = line.strip_prefix("#!").map(str::trim);
        let rest = match named {
            // Where the path is long, a shell comes between, in three lines.
            Some("/bin/sh") => {
                let lines: Vec<&[u8]> = script.splitn(4, |b| *b == b'\n').collect();
                match lines[..] {
                    [_, second, _, rest] if second.starts_with(b"'''exec'") => rest.to_vec(),
                    _ => return script,
                }
            }
            Some(named)
                if named.contains("python") || named.starts_with(&*prefix.to_string_lossy()) =>
            {
                script[first.len()..].to_vec()
            }
            _ => return script,
        };
        let mut text = format!("#!{}\n", self.site.python).into_bytes();
        text.extend(rest);
        text
    }

    /// A list of files that says of scripts what they have become.
    fn record(&self, record: &[u8], path: &Path, prefix: &Path) -> Vec<u8> {
        let site = path.parent().and_then(Path::parent).unwrap_or(prefix);
        let depth = site
            .strip_prefix(prefix)
            .map_or(0, |it| it.components().count());
        let up = "../".repeat(depth);
        let is_target = self.site.prefix == self.site.folder;
        let mut lines: Vec<String> = Vec::new();
        for line in String::from_utf8_lossy(record).lines() {
            let named = record_path(line);
            if named.ends_with(LEFT_OUT) || named.contains("__pycache__/") {
                continue;
            }
            let Some(own) = named.strip_prefix(&up).filter(|_| !up.is_empty()) else {
                lines.push(line.to_owned());
                continue;
            };
            let named = if is_target { own } else { &named };
            let script = fs::read(prefix.join(own)).unwrap_or_default();
            let script = if own.starts_with("bin/") {
                self.with_python_of_the_image(script, prefix)
            } else {
                script
            };
            let digest = URL_SAFE_NO_PAD.encode(Digest::of(&script).as_bytes());
            lines.push(format!("{named},sha256={digest},{}", script.len()));
        }
        lines.sort_unstable();
        let mut text = lines.join("\n");
        text.push('\n');
        text.into_bytes()
    }

    /// Removes what the base has of the packages that are replaced, as an installer would.
    fn take_away(
        &self,
        replaced: &[(Option<String>, String)],
        records: &Records,
        tree: &mut Tree<'_>,
    ) {
        for (dist_info, _) in replaced {
            let Some(dist_info) = dist_info else { continue };
            let same = tree.has(&format!("{dist_info}/METADATA"));
            for file in records.get(dist_info).into_iter().flatten() {
                let path = plain_join(&self.site.folder, file);
                let is_info = is_below(&path, dist_info);
                if !tree.has(&path) && (same || !is_info) && !path.contains("__pycache__/") {
                    tree.add(&path, Item::Gone);
                }
            }
            if !same {
                tree.add(dist_info, Item::Gone);
            }
        }
    }

    /// Says what is installed for, and with which Python it is done.
    fn aim(&self, command: &mut std::process::Command) -> Result<(), DaemonlessError> {
        let interpreter = self.interpreter()?;
        command
            .arg("--python")
            .arg(&interpreter.path)
            .args(["--python-version", &self.site.python_version.to_string()])
            .args(["--python-platform", &self.platform()]);
        Ok(())
    }

    /// A Python of this machine. What it builds fits only if it is of the image's version.
    fn interpreter(&self) -> Result<Interpreter, DaemonlessError> {
        let python = self.site.python_version;
        let request = PythonRequest {
            airflow: &self.site.airflow,
            wanted: python,
            lock_from: self.site.airflow.oldest_python().unwrap_or(python),
            run_as: None,
        };
        nearest_python(Some(self.uv), &request).map_err(|error| {
            DaemonlessError::Lock(LockError::NoPython {
                what: self.what(),
                complaint: error.to_string(),
            })
        })
    }

    fn platform(&self) -> String {
        let machine = match self.architecture {
            "arm64" => "aarch64",
            _ => "x86_64",
        };
        // A C library that every base of the last years has.
        if self.site.is_musl {
            format!("{machine}-unknown-linux-musl")
        } else {
            format!("{machine}-manylinux_2_28")
        }
    }

    /// Whether this machine cannot build what the image could use.
    fn is_foreign(&self) -> bool {
        self.architecture != super::this_architecture()
            || self
                .interpreter()
                .is_ok_and(|it| it.version != self.site.python_version)
    }

    fn what(&self) -> String {
        let Site {
            airflow,
            python_version,
            ..
        } = self.site;
        format!("Airflow {airflow} on Python {python_version}")
    }
}

pub(super) fn packages(count: usize) -> String {
    match count {
        1 => "1 package".to_owned(),
        count => format!("{count} packages"),
    }
}

/// The rest of a path in `lib/python3.12/site-packages`.
fn in_site(own: &str) -> Option<&str> {
    let (lib, rest) = own.split_once('/')?;
    let (python, rest) = rest.split_once('/')?;
    let (site, rest) = rest.split_once('/')?;
    let is_site = matches!(lib, "lib" | "lib64")
        && python.starts_with("python3")
        && matches!(site, "site-packages" | "dist-packages");
    is_site.then_some(rest)
}

/// A path of a list of files, which may lead out of its folder and come back.
fn plain_join(folder: &str, file: &str) -> String {
    let mut path = if file.starts_with('/') {
        String::new()
    } else {
        folder.to_owned()
    };
    for part in file.split('/') {
        match part {
            "" | "." => {}
            ".." => path = split(&path).0.to_owned(),
            part => path = join(&path, part),
        }
    }
    path
}

/// What was compiled here may need what only this machine has.
fn expect_portable(wheel: &[u8], own: &str) -> Result<(), DaemonlessError> {
    let text = String::from_utf8_lossy(wheel);
    let mut tags = text.lines().filter_map(|line| line.strip_prefix("Tag: "));
    if tags.any(|tag| tag.contains("-linux_")) {
        let named = own.split('/').find(|part| part.ends_with(".dist-info"));
        let package = named.unwrap_or(own).trim_end_matches(".dist-info");
        return Err(DaemonlessError::Compiled(package.to_owned()));
    }
    Ok(())
}

fn scratch() -> Result<tempfile::TempDir, DaemonlessError> {
    tempfile::Builder::new()
        .prefix("updraft-image-")
        .tempdir()
        .map_err(|source| DaemonlessError::Io {
            path: std::env::temp_dir(),
            source,
        })
}

/// Writes a file of the cache, whole or not at all.
pub(super) fn write_whole(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let folder = path.parent().unwrap_or(path);
    fs::create_dir_all(folder)?;
    let mut new = tempfile::NamedTempFile::new_in(folder)?;
    new.write_all(bytes)?;
    new.as_file().sync_all()?;
    new.persist(path).map_err(|error| error.error)?;
    Ok(())
}
