//! Answers of earlier parses that still hold.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use updraft_model::Digest;

use super::change::Change;
use super::protocol::{Answer, Ended, Seen};
use super::{ParseRequest, Tree};

/// Goes up when the same file gets another answer.
const FORMAT: u32 = 3;

pub(super) struct Known {
    file: Option<PathBuf>,
    stored: Stored,
}

#[derive(Default, Serialize, Deserialize)]
struct Stored {
    holds_for: String,
    tree: Tree,
    answers: BTreeMap<String, Answer>,
}

impl Known {
    /// What is there; nothing, when it is of another environment or not whole.
    pub(super) fn open(ask: &ParseRequest<'_>) -> Self {
        Self::read(ask.cache.as_ref(), ask)
    }

    /// The same of another tree.
    pub(super) fn of_another_tree(ask: &ParseRequest<'_>) -> Self {
        Self::read(ask.also_known.as_ref(), ask)
    }

    fn read(file: Option<&PathBuf>, ask: &ParseRequest<'_>) -> Self {
        let holds_for = holds_for(ask);
        let kept = file.filter(|_| !ask.fresh);
        let read = kept.and_then(|file| fs::read(file).ok());
        let stored = read.and_then(|text| serde_json::from_slice::<Stored>(&text).ok());
        let stored = stored.filter(|stored| stored.holds_for == holds_for);
        Self {
            file: file.cloned(),
            stored: stored.unwrap_or_else(|| Stored {
                holds_for,
                ..Stored::default()
            }),
        }
    }

    /// Those that hold in this tree.
    pub(super) fn answers(&self, tree: &Tree) -> BTreeMap<String, Answer> {
        let Stored {
            tree: before,
            answers,
            ..
        } = &self.stored;
        let change = Change::between(before, tree);
        if change.is_unexplained(answers.values().map(|answer| &answer.seen)) {
            return BTreeMap::new();
        }
        answers
            .values()
            .filter(|answer| tree.contains_key(&answer.file))
            .filter(|answer| !answer.seen.everything && !change.touches(&answer.seen))
            .map(|answer| (answer.file.clone(), answer.clone()))
            .collect()
    }

    pub(super) fn keep(
        self,
        answers: &BTreeMap<String, Answer>,
        ask: &ParseRequest<'_>,
    ) -> io::Result<()> {
        let Some(file) = self.file else {
            return Ok(());
        };
        // What somebody edited meanwhile was read by some and not by others.
        let meanwhile = Change::between(&ask.tree, &(ask.tree_now)());
        let repeatable = answers
            .values()
            .filter(|answer| is_repeatable(answer) && !meanwhile.touches(&answer.seen));
        let stored = Stored {
            holds_for: self.stored.holds_for,
            tree: ask.tree.clone(),
            answers: repeatable
                .map(|answer| {
                    let mut answer = answer.clone();
                    answer.seen.everything |= sees_untracked(&answer.seen, ask);
                    (answer.file.clone(), answer)
                })
                .collect(),
        };
        write(&file, &stored)
    }
}

/// Whether the same content gives the same again. Time and memory depend on
/// what else the machine does, and an error may come from a network.
fn is_repeatable(answer: &Answer) -> bool {
    if !answer.errors.is_empty() {
        return false;
    }
    [&answer.ended, &answer.again_ended]
        .into_iter()
        .all(|ended| match ended {
            None | Some(Ended::Exit { .. }) => true,
            Some(Ended::Signal { .. } | Ended::Time { .. } | Ended::Memory) => false,
        })
}

/// Whether it looked at a file that no deploy carries, so that nothing tells
/// when that changes.
fn sees_untracked(seen: &Seen, ask: &ParseRequest<'_>) -> bool {
    seen.files.iter().any(|path| {
        !ask.tree.contains_key(path)
            && !path.contains("__pycache__/")
            && ask.root.join(path).is_file()
    })
}

/// What answers depend on besides files.
fn holds_for(ask: &ParseRequest<'_>) -> String {
    let facts = serde_json::json!([
        FORMAT,
        env!("CARGO_PKG_VERSION"),
        ask.host.identity_anywhere(),
        ask.names,
        ask.limits.time.as_secs_f64(),
        ask.limits.memory_mb,
    ]);
    Digest::of(facts.to_string().as_bytes()).to_string()
}

fn write(file: &Path, stored: &Stored) -> io::Result<()> {
    let folder = file.parent().unwrap_or(file);
    fs::create_dir_all(folder)?;
    let mut temporary = tempfile::NamedTempFile::new_in(folder)?;
    let mut writer = BufWriter::new(&mut temporary);
    serde_json::to_writer(&mut writer, stored)?;
    writer.flush()?;
    drop(writer);
    temporary.persist(file).map_err(|error| error.error)?;
    Ok(())
}
