//! A project on disk, for the tests to edit.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Result;
use tempfile::TempDir;

use crate::copy_tree;

pub struct Project {
    root: PathBuf,
}

impl Project {
    pub fn at(root: PathBuf) -> Self {
        Self { root }
    }

    pub fn root(&self) -> &Path {
        &self.root
    }

    /// The files as they are now.
    pub fn copy(&self) -> Result<TempDir> {
        let copy = tempfile::tempdir()?;
        copy_tree(&self.root, copy.path())?;
        Ok(copy)
    }

    /// Has the files of a copy again, and no others.
    pub fn put_back(&self, copy: &TempDir) -> Result<()> {
        fs::remove_dir_all(&self.root)?;
        copy_tree(copy.path(), &self.root)
    }

    /// Writes a file, its folders included.
    pub fn write(&self, path: &str, text: &str) -> Result<()> {
        let path = self.root.join(path);
        fs::create_dir_all(path.parent().expect("a file in a project has a folder"))?;
        fs::write(path, text)?;
        Ok(())
    }

    pub fn remove(&self, path: &str) -> Result<()> {
        Ok(fs::remove_file(self.root.join(path))?)
    }

    /// A DAG with the given tasks, each an empty step.
    pub fn write_dag(&self, id: &str, tasks: &[&str]) -> Result<()> {
        let steps: String = tasks
            .iter()
            .map(|task| format!("    EmptyOperator(task_id=\"{task}\")\n"))
            .collect();
        self.write(
            &format!("dags/{id}.py"),
            &format!(
                "from airflow.sdk import DAG\n\
                 from airflow.providers.standard.operators.empty import EmptyOperator\n\n\
                 with DAG(\"{id}\", schedule=None):\n{steps}"
            ),
        )
    }

    /// A DAG with one Python task, whose body is given.
    pub fn write_python_dag(&self, id: &str, head: &str, body: &str) -> Result<()> {
        let body = body.trim_end().replace('\n', "\n        ");
        self.write(
            &format!("dags/{id}.py"),
            &format!(
                "from airflow.sdk import dag, task\n{head}\n\n\
                 @dag(schedule=None)\ndef {id}():\n    @task\n    def step():\n        {body}\n\n    step()\n\n\n{id}()\n"
            ),
        )
    }
}
