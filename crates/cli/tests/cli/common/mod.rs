//! The real binary in a folder of its own, and what it printed.

use std::io::Write;
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};

use serde_json::Value;

pub(crate) mod stand_in;
pub(crate) mod world;

/// A folder with a home, a project and nothing else; commands see only it.
pub(crate) struct Sandbox {
    dir: tempfile::TempDir,
    variables: Vec<(String, String)>,
}

impl Sandbox {
    pub(crate) fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(dir.path().join("home")).unwrap();
        std::fs::create_dir_all(dir.path().join("here")).unwrap();
        Self {
            dir,
            variables: Vec::new(),
        }
    }

    pub(crate) fn path(&self, relative: &str) -> PathBuf {
        self.dir.path().canonicalize().unwrap().join(relative)
    }

    /// Where commands are run.
    pub(crate) fn here(&self) -> PathBuf {
        self.path("here")
    }

    pub(crate) fn set(&mut self, name: &str, value: &str) {
        self.variables.push((name.to_owned(), value.to_owned()));
    }

    pub(crate) fn unset(&mut self, name: &str) {
        self.variables.retain(|(set, _)| set != name);
    }

    pub(crate) fn write(&self, relative: &str, text: &str) {
        let path = self.path(relative);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }

    /// A `uv` that locks without a package index, or finds none when told so.
    pub(crate) fn stand_in_uv(&self) -> String {
        self.stand_in("uv", STAND_IN_UV)
    }

    /// A script in place of a program.
    pub(crate) fn stand_in(&self, name: &str, script: &str) -> String {
        self.write(name, script);
        let path = self.path(name);
        std::fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o755))
            .unwrap();
        path.to_str().unwrap().to_owned()
    }

    pub(crate) fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_updraft"));
        command
            .args(arguments)
            .current_dir(self.here())
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .env("HOME", self.path("home"))
            .envs(self.variables.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::null());
        command
    }

    pub(crate) fn run(&self, arguments: &[&str]) -> Printed {
        self.printed(self.command(arguments).output().unwrap())
    }

    pub(crate) fn run_with_input(&self, arguments: &[&str], input: &str) -> Printed {
        let mut child = self
            .command(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        // It may refuse before it reads.
        let _ = child.stdin.take().unwrap().write_all(input.as_bytes());
        self.printed(child.wait_with_output().unwrap())
    }

    pub(crate) fn printed(&self, output: Output) -> Printed {
        Printed {
            code: output.status.code(),
            stdout: String::from_utf8(output.stdout).unwrap(),
            stderr: String::from_utf8(output.stderr).unwrap(),
            sandbox: self
                .path("")
                .to_str()
                .unwrap()
                .trim_end_matches('/')
                .to_owned(),
        }
    }
}

const STAND_IN_UV: &str = r#"#!/bin/sh
if [ "$1" = --version ]; then echo "uv 0.9.1"; exit 0; fi
if [ -n "$UV_OFFLINE" ]; then echo "error: dns error: no such host" >&2; exit 2; fi
while [ $# -gt 0 ]; do
    if [ "$1" = --output-file ]; then echo "apache-airflow==3.3.2 --hash=sha256:00" >"$2"; fi
    shift
done
"#;

/// What a command printed, and how it ended.
#[derive(Debug)]
pub(crate) struct Printed {
    pub(crate) code: Option<i32>,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
    sandbox: String,
}

impl Printed {
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.stdout)
            .unwrap_or_else(|error| panic!("not one JSON document ({error}): {self:?}"))
    }

    #[track_caller]
    pub(crate) fn ended_with(self, code: i32) -> Self {
        assert_eq!(self.code, Some(code), "{self}");
        self
    }

    /// For snapshots: what changes from run to run is replaced.
    pub(crate) fn shown(&self) -> String {
        let mut text = format!("exit code {}\n", self.code.unwrap_or(-1));
        for (name, output) in [("stdout", &self.stdout), ("stderr", &self.stderr)] {
            if !output.is_empty() {
                text = format!("{text}--- {name}\n{output}");
            }
        }
        text.replace(&self.sandbox, "[SANDBOX]")
    }
}

impl std::fmt::Display for Printed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.shown())
    }
}

/// Replaces ids, times and versions in snapshots.
pub(crate) fn filters() -> insta::Settings {
    let mut settings = insta::Settings::clone_current();
    for (pattern, replacement) in [
        (
            r"\b(dpl|dep|rel|tok|tru|exc|agt|ws|enr)_[0-9a-f]{12,32}\b",
            "[$1]",
        ),
        (r"127\.0\.0\.1:\d+", "127.0.0.1:[PORT]"),
        (r"\b\d+ ms\b", "[TIME]"),
        (r"\b\d+\.\d s\b", "[TIME]"),
        (r"\b[0-9a-f]{12}\b", "[DIGEST]"),
        (r"\b\d{4}-\d{2}-\d{2}( \d{2}:\d{2} UTC)?\b", "[DATE]"),
        (r"\b0\.1\.0\b", "[VERSION]"),
        // What a step was busy with depends on who was quicker.
        (r"(?m)^  [a-z].* …\n", ""),
        (r"  +\n", "\n"),
        (r"just now|\d+ (?:s|min) ago", "[AGO]"),
        // Their column is as wide as the longest.
        (r"(\[AGO\]|WHEN)  +", "$1  "),
    ] {
        settings.add_filter(pattern, replacement);
    }
    settings
}
