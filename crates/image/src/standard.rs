//! The standard build: what a Dockerfile that only names its base leaves out.
//!
//! ```text
//! FROM …                      the project's own lines
//! RUN apt-get install …       packages.txt
//! COPY requirements/ …        requirements.txt and what it includes
//! RUN pip install …
//! COPY files/ …               the project's other files, without its DAGs
//! ```
//!
//! In this order, so that editing a file never installs anything again.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::io;
use std::path::Path;

use updraft_bundle::{Entry, EntryKind};
use updraft_project::Requirements;

use crate::engine::Image;

/// Where the official image has it, and images without `AIRFLOW_HOME` get it.
pub(crate) const AIRFLOW_HOME: &str = "/opt/airflow";

/// Variables of pip and uv that name package indexes, with credentials in them
/// perhaps. They reach the step that installs as secrets, and stay out of the image.
pub const INDEX_VARIABLES: [&str; 8] = [
    "PIP_INDEX_URL",
    "PIP_EXTRA_INDEX_URL",
    "PIP_TRUSTED_HOST",
    "UV_DEFAULT_INDEX",
    "UV_INDEX",
    "UV_INDEX_URL",
    "UV_EXTRA_INDEX_URL",
    "UV_INSECURE_HOST",
];

/// What the standard build adds, and to what.
pub struct Standard<'a> {
    /// The text of the project's Dockerfile.
    pub dockerfile: &'a str,
    pub base: &'a Image,
    pub packages: &'a [String],
    pub requirements: &'a Requirements,
    /// The files that are no DAGs, by their path below `root`.
    pub files: &'a [Entry],
    pub root: &'a Path,
    /// The index variables that are given as secrets.
    pub secrets: &'a [String],
}

impl Standard<'_> {
    /// The Dockerfile with what is added.
    pub fn dockerfile(&self) -> String {
        let mut text = self.dockerfile.trim_end().to_owned();
        text.push_str("\n\n# The standard build\n");
        let home = self.home();
        let user = match self.base.user.as_str() {
            "" => "root",
            user => user,
        };
        if !self.packages.is_empty() {
            let names: Vec<String> = self.packages.iter().map(|it| format!("'{it}'")).collect();
            let _ = write!(
                text,
                "USER root\n\
                 RUN apt-get update \\\n \
                 && DEBIAN_FRONTEND=noninteractive apt-get install --yes --no-install-recommends {} \\\n \
                 && rm -rf /var/lib/apt/lists/*\n\
                 USER {user}\n",
                names.join(" ")
            );
        }
        if let Some(file) = self
            .requirements
            .root_file()
            .filter(|_| !self.requirements.is_empty())
        {
            let mounts: String = self
                .secrets
                .iter()
                .map(|name| format!("--mount=type=secret,id={name},mode=0444 "))
                .collect();
            let _ = write!(
                text,
                "COPY requirements/ /opt/updraft/requirements/\n\
                 RUN {mounts}{}\n",
                install(file)
            );
        }
        if !self.files.is_empty() {
            let _ = writeln!(text, "COPY files/ {home}/");
        }
        // As in an Environment, the project's folders can be imported.
        let python_path = python_path(home, &self.base.env);
        let _ = writeln!(text, "ENV PYTHONPATH={python_path}");
        text
    }

    /// Lays out all that the build sees.
    pub fn write_context(&self, folder: &Path) -> io::Result<()> {
        fs::write(folder.join("Dockerfile"), self.dockerfile())?;
        for (path, text) in self.requirements.files() {
            let to = folder.join("requirements").join(path);
            fs::create_dir_all(to.parent().unwrap_or(folder))?;
            fs::write(to, text)?;
        }
        for entry in self.files {
            let to = folder.join("files").join(&entry.path);
            fs::create_dir_all(to.parent().unwrap_or(folder))?;
            match &entry.kind {
                EntryKind::File { .. } => {
                    // With its mode.
                    fs::copy(self.root.join(&entry.path), &to)?;
                }
                EntryKind::Link { target } => std::os::unix::fs::symlink(target, &to)?,
            }
        }
        Ok(())
    }

    fn home(&self) -> &str {
        let set = self.base.env.get("AIRFLOW_HOME");
        set.map_or(AIRFLOW_HOME, String::as_str)
    }
}

/// The folders that Python looks in: the project's before those that are set.
pub(crate) fn python_path(home: &str, env: &BTreeMap<String, String>) -> String {
    match env.get("PYTHONPATH").filter(|it| !it.is_empty()) {
        Some(theirs) => format!("{home}:{theirs}"),
        None => home.to_owned(),
    }
}

/// Installs as the image's own tool does, uv before pip. Airflow itself stays as it is: a requirement
/// that asks for another is a conflict, told by the resolver.
fn install(file: &str) -> String {
    format!(
        "set -e; \\\n    \
         for name in {names}; do \\\n      \
         if [ -f \"/run/secrets/$name\" ]; then export \"$name=$(cat \"/run/secrets/$name\")\"; fi; \\\n    \
         done; \\\n    \
         python=$(command -v python || command -v python3); \\\n    \
         airflow=\"apache-airflow==$(\"$python\" -c 'from importlib.metadata import version; print(version(\"apache-airflow\"))')\"; \\\n    \
         if command -v uv >/dev/null; then \\\n      \
         uv pip install --no-cache --python \"$python\" -r /opt/updraft/requirements/{file} \"$airflow\"; \\\n    \
         else \\\n      \
         PIP_BREAK_SYSTEM_PACKAGES=1 \"$python\" -m pip install --no-cache-dir --disable-pip-version-check \
         -r /opt/updraft/requirements/{file} \"$airflow\"; \\\n    \
         fi",
        names = INDEX_VARIABLES.join(" ")
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_come_in_the_order_in_which_things_change() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("requirements.txt"), "pandas\n").unwrap();
        let requirements = Requirements::read(folder.path()).unwrap();
        let base = Image {
            id: "sha256:1".into(),
            env: BTreeMap::from([("AIRFLOW_HOME".into(), "/usr/local/airflow".into())]),
            inputs: None,
            user: "astro".into(),
            on_build: Vec::new(),
            digests: Vec::new(),
            platform: "linux/amd64".into(),
        };
        let file = Entry {
            path: "include/a.py".into(),
            kind: EntryKind::File {
                size: 1,
                digest: updraft_model::Digest::of(b"1"),
                executable: false,
            },
        };
        let standard = Standard {
            dockerfile: "FROM apache/airflow:3.3.2\nENV A=1",
            base: &base,
            packages: &["gcc".to_owned()],
            requirements: &requirements,
            files: &[file],
            root: folder.path(),
            secrets: &["PIP_INDEX_URL".to_owned()],
        };
        let text = standard.dockerfile();
        let steps = [
            "FROM apache/airflow:3.3.2\nENV A=1\n",
            "USER root\nRUN apt-get update",
            "--no-install-recommends 'gcc'",
            "USER astro\n",
            "COPY requirements/ ",
            "RUN --mount=type=secret,id=PIP_INDEX_URL,mode=0444 set -e",
            "COPY files/ /usr/local/airflow/\n",
            "ENV PYTHONPATH=/usr/local/airflow\n",
        ];
        let found: Vec<_> = steps.iter().map(|step| text.find(step)).collect();
        assert!(
            found.iter().all(Option::is_some) && found.is_sorted(),
            "{found:?}\n{text}"
        );
        // A project of DAGs alone is its base.
        let alone = Standard {
            packages: &[],
            requirements: &Requirements::default(),
            files: &[],
            ..standard
        };
        let text = alone.dockerfile();
        assert!(!text.contains("RUN") && !text.contains("COPY"), "{text}");
    }
}
