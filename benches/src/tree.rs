//! A large project: 5,000 files of 4.5 KB, 200 of them DAG files.

use std::fmt::{self, Write as _};
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Result;

const FILES: usize = 5_000;
const DAG_FILES: usize = 200;
const SIZE: usize = 4_500;

pub(crate) struct Tree {
    root: PathBuf,
    edits: usize,
}

impl Tree {
    pub(crate) fn write(root: &Path) -> Result<Self> {
        let tree = Self {
            root: root.to_owned(),
            edits: 0,
        };
        for number in 0..FILES {
            let path = tree.path(number);
            fs::create_dir_all(path.parent().expect("every file lies in a folder"))?;
            fs::write(path, content(number, 0))?;
        }
        Ok(tree)
    }

    fn path(&self, number: usize) -> PathBuf {
        let ending = if number < DAG_FILES { "py" } else { "sql" };
        self.root
            .join(format!("team_{:02}/part_{number:04}.{ending}", number % 50))
    }

    /// Changes one DAG file, each time another.
    pub(crate) fn edit(&mut self) -> Result<()> {
        let number = self.edits % DAG_FILES;
        fs::write(self.path(number), content(number, 1))?;
        self.edits += 1;
        Ok(())
    }
}

fn content(number: usize, version: usize) -> String {
    let mut text = if number < DAG_FILES {
        let tasks: String = (0..=version)
            .map(|task| format!("    EmptyOperator(task_id='step_{task}')\n"))
            .collect();
        format!(
            "from airflow.sdk import DAG\nfrom airflow.providers.standard.operators.empty import EmptyOperator\n\n\
             with DAG('bench_{number:04}', schedule=None):\n{tasks}\n"
        )
    } else {
        format!("-- version {version}\n")
    };
    let comment = if number < DAG_FILES { "#" } else { "--" };
    let mut state = number as u64 + 1;
    while text.len() < SIZE {
        // Text that neither repeats nor is noise: it compresses as code does.
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        let _ = writeln!(
            text,
            "{comment} select column_{} from table_{} where value > {}",
            state >> 58,
            state >> 52 & 63,
            state >> 40
        );
    }
    text.truncate(SIZE - 1);
    text.push('\n');
    text
}

impl fmt::Display for Tree {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{FILES} files of {SIZE} bytes, {DAG_FILES} of them DAG files"
        )
    }
}
