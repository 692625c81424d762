//! What is known of contents, from one check to the next.

use std::collections::HashMap;
use std::fs;
use std::io::{self, BufWriter, Write};
use std::path::PathBuf;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use updraft_model::Digest;
use updraft_project::PythonVersion;

use crate::module::Facts;

/// Goes up when the same content gets other facts.
const FORMAT: u32 = 5;

#[derive(Debug)]
pub(crate) struct Cache {
    file: Option<PathBuf>,
    holds_for: String,
    /// The version of the ruff whose findings are in it.
    ruff: Option<String>,
    known: HashMap<Digest, Arc<Facts>>,
}

#[derive(Serialize, Deserialize)]
struct Stored<K> {
    holds_for: String,
    ruff: Option<String>,
    known: K,
}

impl Cache {
    /// What is there; nothing, when it is of another version or not whole.
    pub(crate) fn open(file: Option<PathBuf>, python: PythonVersion, ruff: Option<&str>) -> Self {
        let holds_for = format!("{FORMAT} {} {python}", env!("CARGO_PKG_VERSION"));
        let read = file.as_ref().and_then(|file| fs::read(file).ok());
        let stored = read
            .and_then(|text| serde_json::from_slice::<Stored<Vec<(Digest, Facts)>>>(&text).ok());
        let stored = stored.filter(|stored| stored.holds_for == holds_for);
        let (kept_ruff, known) =
            stored.map_or_else(Default::default, |stored| (stored.ruff, stored.known));
        let forgets_ruff = ruff.is_some() && ruff != kept_ruff.as_deref();
        let known = known.into_iter().map(|(digest, mut facts)| {
            if forgets_ruff {
                facts.airflow3 = None;
            }
            (digest, Arc::new(facts))
        });
        Self {
            file,
            holds_for,
            ruff: ruff.map(str::to_owned).or(kept_ruff),
            known: known.collect(),
        }
    }

    pub(crate) fn get(&self, content: Digest) -> Option<Arc<Facts>> {
        self.known.get(&content).cloned()
    }

    /// Keeps these, and nothing that was there before.
    pub(crate) fn keep(self, now: &HashMap<Digest, Arc<Facts>>) -> io::Result<()> {
        let is_same = now.len() == self.known.len()
            && now.iter().all(|(digest, facts)| {
                let known = self.known.get(digest);
                known.is_some_and(|known| Arc::ptr_eq(known, facts))
            });
        let Some(file) = self.file.filter(|_| !is_same) else {
            return Ok(());
        };
        let folder = file.parent().unwrap_or(&file);
        fs::create_dir_all(folder)?;
        let mut temporary = tempfile::NamedTempFile::new_in(folder)?;
        let mut writer = BufWriter::new(&mut temporary);
        let stored = Stored {
            holds_for: self.holds_for,
            ruff: self.ruff,
            known: now
                .iter()
                .map(|(digest, facts)| (digest, &**facts))
                .collect::<Vec<_>>(),
        };
        serde_json::to_writer(&mut writer, &stored)?;
        writer.flush()?;
        drop(writer);
        temporary.persist(&file).map_err(|error| error.error)?;
        Ok(())
    }
}
