//! Embeds the Python package `airflow-updraft`, so that an agent needs no
//! package index for it.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::{env, fs};

#[derive(serde::Deserialize)]
struct PyProject {
    project: Project,
}

#[derive(serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
struct Project {
    name: String,
    version: String,
    description: String,
    requires_python: String,
    #[serde(default)]
    dependencies: Vec<String>,
    #[serde(default)]
    entry_points: BTreeMap<String, BTreeMap<String, String>>,
}

fn main() {
    let here = PathBuf::from(env::var_os("CARGO_MANIFEST_DIR").expect("set by cargo"));
    let root = here.join("../../python/airflow-updraft");
    let (pyproject, source) = (root.join("pyproject.toml"), root.join("src"));
    // Cargo looks into folders, so that a new file counts as well.
    println!("cargo:rerun-if-changed={}", pyproject.display());
    println!("cargo:rerun-if-changed={}", source.display());

    let text = fs::read_to_string(&pyproject).expect("python/airflow-updraft has a pyproject.toml");
    let PyProject { project } = toml::from_str(&text).expect("pyproject.toml has the usual fields");
    let mut files = Vec::new();
    collect(&source, &source, &mut files);
    files.sort();

    let mut metadata = format!(
        "Metadata-Version: 2.1\nName: {}\nVersion: {}\nSummary: {}\nLicense: Apache-2.0\nRequires-Python: {}\n",
        project.name, project.version, project.description, project.requires_python
    );
    for dependency in &project.dependencies {
        let _ = writeln!(metadata, "Requires-Dist: {dependency}");
    }
    let mut entry_points = String::new();
    for (group, entries) in &project.entry_points {
        let _ = writeln!(entry_points, "[{group}]");
        for (name, target) in entries {
            let _ = writeln!(entry_points, "{name} = {target}");
        }
    }

    let mut code = String::new();
    let _ = writeln!(code, "const VERSION: &str = {:?};", project.version);
    let _ = writeln!(code, "const METADATA: &str = {metadata:?};");
    let _ = writeln!(code, "const ENTRY_POINTS: &str = {entry_points:?};");
    let _ = writeln!(code, "const FILES: &[(&str, &[u8])] = &[");
    for (name, path) in &files {
        let _ = writeln!(
            code,
            "    ({name:?}, include_bytes!({:?})),",
            path.to_string_lossy()
        );
    }
    let _ = writeln!(code, "];");
    let out = PathBuf::from(env::var_os("OUT_DIR").expect("set by cargo"));
    fs::write(out.join("wheel_files.rs"), code).expect("OUT_DIR is writable");
}

/// Lists a folder's files by their name in the wheel.
fn collect(root: &Path, folder: &Path, files: &mut Vec<(String, PathBuf)>) {
    for entry in fs::read_dir(folder).expect("a readable folder") {
        let path = entry.expect("a readable entry").path();
        let name = path
            .file_name()
            .and_then(|n| n.to_str())
            .unwrap_or_default();
        let generated = name == "__pycache__"
            || name.ends_with(".egg-info")
            || name.starts_with('.')
            || Path::new(name).extension().is_some_and(|e| e == "pyc");
        if generated {
            continue;
        }
        if path.is_dir() {
            collect(root, &path, files);
        } else {
            let relative = path.strip_prefix(root).expect("below the root");
            files.push((relative.to_string_lossy().replace('\\', "/"), path.clone()));
        }
    }
}
