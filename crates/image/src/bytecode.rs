//! Compiled Python files, kept from one environment to the next.
//!
//! Compiling all of Airflow takes many seconds, and the next environment has
//! nearly the same files. So each compiled file is kept under the digest of its
//! source, and the next environment gets a link to it. The digest is of what is
//! read here: what a package says about its files may be another one's.

use std::collections::HashSet;
use std::fs::{self, File};
use std::io::{self, ErrorKind, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, SystemTime};

use updraft_model::Digest;
use updraft_project::PythonVersion;

use crate::flush::flush;
use crate::process;
use crate::uv::Uv;

/// What no environment has had for so long is removed; of copies it is not known
/// who has them.
const KEPT_FOR: Duration = Duration::from_secs(90 * 24 * 3600);

/// Where Python looks for compiled files.
const CACHE: &str = "__pycache__";

/// Begins the name of a folder of what is about to be kept.
const NEW: &str = ".new-";
/// Nobody takes this long to keep something; what is there was left by a crash.
const KEEPING: Duration = Duration::from_secs(3600);

/// The compiled files of one version of Python.
pub(crate) struct Bytecode {
    folder: PathBuf,
    /// In the names of compiled files, as in `dag.cpython-312.pyc`.
    tag: String,
}

/// A source, and where Python looks for it compiled.
pub(crate) struct Module {
    source: String,
    compiled: String,
    digest: Digest,
}

impl Bytecode {
    pub(crate) fn of(python: PythonVersion, cache: &Path) -> Self {
        let tag = format!("cpython-{}{}", python.major(), python.minor());
        Self {
            folder: cache.join("bytecode").join(&tag),
            tag,
        }
    }

    /// Compiles what a venv has installed, without running any of it, its own
    /// `python` included: that too may be of a package's making. Answers with
    /// what was compiled here.
    ///
    /// Compiled files that came along go: nobody says what they were made of.
    pub(crate) fn compile(
        &self,
        uv: &Uv,
        python: &Path,
        venv: &Path,
        stdin: Stdio,
    ) -> io::Result<Vec<Module>> {
        let mut modules = Vec::new();
        self.find(&venv.join("lib"), &mut modules)?;
        modules.retain(|module| self.link(module).is_err());
        if modules.is_empty() {
            return Ok(modules);
        }
        let mut listed = tempfile::NamedTempFile::new_in(venv)?;
        for module in &modules {
            listed.write_all(module.line().as_bytes())?;
        }
        let mut python = Command::new(python);
        process::for_probe(&mut python)
            .args(["-I", "-S", "-c", include_str!("bytecode/compile.py")])
            .arg(listed.path())
            .current_dir("/")
            .stdin(stdin);
        // Without them Airflow only starts more slowly.
        let finished = uv.run(&mut python)?;
        let written: HashSet<&str> = finished.stdout.lines().collect();
        modules.retain(|module| written.contains(module.compiled.as_str()));
        Ok(modules)
    }

    /// Keeps what was compiled, whole or not at all, for the next environment.
    /// What is kept already stays as it is.
    pub(crate) fn keep(&self, compiled: &[Module]) -> io::Result<()> {
        if compiled.is_empty() {
            return Ok(());
        }
        fs::create_dir_all(&self.folder)?;
        let new = tempfile::Builder::new()
            .prefix(NEW)
            .tempdir_in(&self.folder)?;
        let mut ready = Vec::new();
        for module in compiled {
            let name = new.path().join(module.digest.hex());
            match link_or_copy(Path::new(&module.compiled), &name) {
                Ok(()) => ready.push((name, self.kept(module.digest))),
                // Another module is the same.
                Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
                Err(error) => return Err(error),
            }
        }
        flush(&File::open(new.path())?)?;
        for (name, kept) in ready {
            fs::create_dir_all(kept.parent().unwrap_or(&self.folder))?;
            match fs::hard_link(name, kept) {
                Err(error) if error.kind() != ErrorKind::AlreadyExists => return Err(error),
                _ => {}
            }
        }
        self.remove_unused()
    }

    fn find(&self, folder: &Path, modules: &mut Vec<Module>) -> io::Result<()> {
        for entry in fs::read_dir(folder)? {
            let entry = entry?;
            let (path, kind) = (entry.path(), entry.file_type()?);
            if entry.file_name() == CACHE {
                if kind.is_dir() {
                    fs::remove_dir_all(path)?;
                } else {
                    fs::remove_file(path)?;
                }
            } else if kind.is_dir() {
                self.find(&path, modules)?;
            } else if kind.is_file()
                && let Some(source) = path.to_str()
                && let Some(stem) = path.file_name().and_then(|name| name.to_str())
                && let Some(stem) = stem.strip_suffix(".py")
                // They separate what is listed.
                && !source.contains(['\n', '\r', '\t'])
            {
                let folder = &source[..source.len() - stem.len() - ".py".len()];
                modules.push(Module {
                    compiled: format!("{folder}{CACHE}/{stem}.{}.pyc", self.tag),
                    digest: Digest::of(&fs::read(&path)?),
                    source: source.to_owned(),
                });
            }
        }
        Ok(())
    }

    fn link(&self, module: &Module) -> io::Result<()> {
        let kept = self.kept(module.digest);
        let compiled = Path::new(&module.compiled);
        match link_or_copy(&kept, compiled) {
            // The first of its folder, or not kept.
            Err(error) if error.kind() == ErrorKind::NotFound => {
                fs::metadata(&kept)?;
                fs::create_dir_all(compiled.parent().unwrap_or(&kept))?;
                link_or_copy(&kept, compiled)
            }
            linked => linked,
        }
    }

    fn kept(&self, source: Digest) -> PathBuf {
        let hex = source.hex();
        self.folder.join(&hex[..2]).join(&hex[2..])
    }

    fn remove_unused(&self) -> io::Result<()> {
        for folder in fs::read_dir(&self.folder)? {
            let folder = folder?;
            if folder
                .file_name()
                .as_encoded_bytes()
                .starts_with(NEW.as_bytes())
            {
                if is_older(&folder.metadata()?, KEEPING) {
                    fs::remove_dir_all(folder.path())?;
                }
                continue;
            }
            for kept in fs::read_dir(folder.path())? {
                let kept = kept?;
                let metadata = kept.metadata()?;
                if metadata.nlink() == 1 && is_older(&metadata, KEPT_FOR) {
                    fs::remove_file(kept.path())?;
                }
            }
        }
        Ok(())
    }
}

impl Module {
    fn line(&self) -> String {
        format!("{}\t{}\n", self.source, self.compiled)
    }
}

/// Whether it was made, linked or unlinked longer ago.
fn is_older(file: &fs::Metadata, age: Duration) -> bool {
    let changed = u64::try_from(file.ctime()).unwrap_or_default();
    let now = SystemTime::UNIX_EPOCH.elapsed().unwrap_or_default();
    now.saturating_sub(Duration::from_secs(changed)) > age
}

/// A copy where no link can be: on another file system, or past the number of
/// links that one file may have.
fn link_or_copy(from: &Path, to: &Path) -> io::Result<()> {
    match fs::hard_link(from, to) {
        Err(error) if !is_no_matter(&error) => fs::copy(from, to).map(drop),
        linked => linked,
    }
}

fn is_no_matter(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::NotFound | ErrorKind::AlreadyExists)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// From Python 3.14 on worker processes are no copies of the one that asks.
    #[test]
    fn compiles_where_workers_know_nothing_of_the_program() {
        let folder = tempfile::tempdir().unwrap();
        let source = folder.path().join("a.py");
        let compiled = folder.path().join("a.pyc");
        fs::write(&source, "A = 1\n").unwrap();
        let listed = folder.path().join("listed");
        let line = format!("{}\t{}\n", source.display(), compiled.display());
        fs::write(&listed, line).unwrap();
        let program = format!(
            "import multiprocessing\nmultiprocessing.set_start_method('forkserver')\n{}",
            include_str!("bytecode/compile.py")
        );
        let mut python = Command::new(crate::python::any().unwrap());
        let python = python.args(["-I", "-S", "-c", &program]).arg(&listed);
        let finished = process::run(python).unwrap();
        assert!(finished.success, "{}", finished.complaint());
        assert_eq!(finished.stdout.trim(), compiled.to_str().unwrap());
        assert!(compiled.is_file());
    }
}
