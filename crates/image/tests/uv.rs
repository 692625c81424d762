//! With the real uv and the real package index.
#![expect(clippy::unwrap_used, reason = "tests")]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;

use updraft_image::{
    Environment, EnvironmentConfig, LockError, LockRequest, RealiseRequest, RunAs, Stop, Uv,
    airflow_updraft_version, airflow_updraft_wheel, airflow_updraft_wheel_name, lock, realise,
};
use updraft_project::{AirflowVersion, Project, PythonVersion, Requirements, Scaffold, scaffold};
use updraft_testkit::is_root_or_skip;

const AS_ROOT: &str = "only root has other users do something";

fn cache() -> PathBuf {
    PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("cache")
}

fn uv() -> Uv {
    Uv::find_or_install(&cache(), &Stop::default(), &|_| {}).expect("uv")
}

fn requirements(text: &str) -> Requirements {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("requirements.txt"), text).unwrap();
    Requirements::read(dir.path()).unwrap()
}

fn airflow() -> AirflowVersion {
    "3.3.2".parse().unwrap()
}

fn lock_of(
    text: &str,
    cache: &Path,
    said: &Mutex<Vec<String>>,
) -> Result<updraft_image::Lock, LockError> {
    let (airflow, requirements) = (airflow(), requirements(text));
    let python = PythonVersion::new(3, 12);
    let ask = LockRequest {
        airflow: &airflow,
        python,
        requirements: &requirements,
        fresh: false,
    };
    lock(&uv(), &ask, cache, &|line| {
        said.lock().unwrap().push(line.to_owned());
    })
}

/// The Environment of a new project.
fn config() -> EnvironmentConfig {
    let dir = tempfile::tempdir().unwrap();
    scaffold(dir.path(), &Scaffold::default()).unwrap();
    let half = Project::open(dir.path()).unwrap().image_half(None).unwrap();
    let lock = lock_of("", &cache(), &Mutex::default()).unwrap();
    Environment::new(&half, lock).config().clone()
}

fn version_of(python: &Path, package: &str) -> String {
    let script = format!("import importlib.metadata as m; print(m.version({package:?}), end='')");
    let output = Command::new(python)
        .args(["-I", "-c", &script])
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8(output.stdout).unwrap()
}

/// Python starts from a compiled file that does not look at its source again,
/// and knows where the source is. Answers with the compiled file.
fn assert_is_compiled(python: &Path) -> PathBuf {
    let script = "import packaging.version as v; print(v.__cached__, v.parse.__code__.co_filename)";
    let output = Command::new(python)
        .args(["-I", "-B", "-c", script])
        .output()
        .unwrap();
    let printed = String::from_utf8(output.stdout).unwrap();
    let (compiled, source) = printed.trim().split_once(' ').unwrap();
    let environment = python.ancestors().nth(2).unwrap();
    assert!(Path::new(source).starts_with(environment), "{source}");
    let unchecked = 1_u32.to_le_bytes();
    assert_eq!(fs::read(compiled).unwrap()[4..8], unchecked, "{compiled}");
    compiled.into()
}

#[test]
fn installs_uv_into_the_cache_also_when_two_ask_at_once() {
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let said = Mutex::new(0);
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                let say = |text: &str| {
                    *said.lock().unwrap() += u32::from(text.starts_with("installing"));
                };
                let uv = Uv::find_or_install_in(dir.path(), &Stop::default(), &say).unwrap();
                assert!(uv.program().starts_with(dir.path()));
            });
        }
    });
    assert_eq!(
        *said.lock().unwrap(),
        1,
        "the second one uses what the first installed"
    );
    let left: Vec<_> = fs::read_dir(dir.path().join("uv"))
        .unwrap()
        .map(|e| e.unwrap().file_name())
        .collect();
    assert_eq!(left.len(), 2, "{left:?}");
}

#[test]
fn fetches_uv_without_pip() {
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/src/uv/fetch_uv.py");
    let fetched = Command::new("python3")
        .arg(script)
        .arg(dir.path())
        .output()
        .unwrap();
    assert!(
        fetched.status.success(),
        "{}",
        String::from_utf8_lossy(&fetched.stderr)
    );
    assert!(fs::metadata(dir.path().join("uv")).unwrap().len() > 1 << 20);
}

#[test]
fn a_second_lock_comes_from_the_cache() {
    let dir = tempfile::tempdir().unwrap();
    let said = Mutex::default();
    let first = lock_of("# none\n", dir.path(), &said).unwrap();
    assert!(first.text.contains("apache-airflow==3.3.2"));
    assert!(first.text.contains("--hash=sha256:"));
    assert!(!first.text.contains("://"), "no address of an index");
    assert_eq!(first.python_from.to_string(), "3.10");
    assert_eq!(lock_of("", dir.path(), &said).unwrap(), first);
    assert_eq!(
        said.lock().unwrap().len(),
        1,
        "the second one resolved nothing"
    );
}

#[test]
fn a_requirement_that_needs_a_newer_python_narrows_the_lock() {
    let lock = lock_of("numpy>=2.3\n", &cache(), &Mutex::default()).unwrap();
    assert_eq!(lock.python_from.to_string(), "3.12");
    assert!(lock.text.contains("numpy=="));
}

#[test]
fn a_conflict_is_told_in_uvs_words() {
    let error = lock_of("pydantic<2\n", &cache(), &Mutex::default()).unwrap_err();
    let LockError::Unsatisfiable { what, complaint } = &error else {
        panic!("{error:?}")
    };
    assert_eq!(what, "Airflow 3.3.2 and `requirements.txt` on Python 3.12");
    assert!(complaint.contains("pydantic"), "{complaint}");
}

#[test]
fn the_wheel_installs() {
    let (uv, dir) = (uv(), tempfile::tempdir().unwrap());
    let wheel = dir.path().join(airflow_updraft_wheel_name());
    fs::write(&wheel, airflow_updraft_wheel()).unwrap();
    let run = |args: &[&str]| {
        let output = Command::new(uv.program())
            .args(args)
            .current_dir(dir.path())
            .output()
            .unwrap();
        assert!(
            output.status.success(),
            "{}",
            String::from_utf8_lossy(&output.stderr)
        );
    };
    run(&["venv", "venv"]);
    run(&[
        "pip",
        "install",
        "--python",
        "venv",
        "--no-deps",
        "--no-index",
        wheel.to_str().unwrap(),
    ]);
    let python = dir.path().join("venv/bin/python");
    assert_eq!(
        version_of(&python, "airflow-updraft"),
        airflow_updraft_version()
    );
}

#[test]
fn makes_an_environment_once_and_again_after_a_crash() {
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let (uv, config, cache) = (uv(), config(), cache());
    let as_root = rustix::process::geteuid().is_root();
    if as_root {
        // A folder that other users can enter, as an agent's is.
        fs::set_permissions(
            dir.path(),
            std::os::unix::fs::PermissionsExt::from_mode(0o755),
        )
        .unwrap();
    }
    let ask = RealiseRequest {
        config: &config,
        dir: dir.path(),
        cache: &cache,
        run_as: None,
        say: &|_| {},
    };
    let made = realise(&uv, &ask).unwrap();
    assert!(!made.reused);
    assert_eq!(version_of(&made.python, "apache-airflow"), "3.3.2");
    assert_eq!(
        version_of(&made.python, "airflow-updraft"),
        airflow_updraft_version()
    );
    assert!(made.bin.join("airflow").is_file());
    assert_is_compiled(&made.python);

    let again = realise(&uv, &ask).unwrap();
    assert!(again.reused);
    assert_eq!(again.folder, made.folder);

    // What a crash leaves has no marker.
    fs::remove_file(made.folder.join("complete")).unwrap();
    fs::remove_file(made.bin.join("airflow")).unwrap();
    let mended = realise(&uv, &ask).unwrap();
    assert!(!mended.reused && mended.bin.join("airflow").is_file());
    assert_is_compiled(&mended.python);

    // Another one has the same compiled files, under names of its own.
    let other = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let other = realise(
        &uv,
        &RealiseRequest {
            dir: other.path(),
            ..ask
        },
    )
    .unwrap();
    let (compiled, same) = (
        assert_is_compiled(&other.python),
        assert_is_compiled(&made.python),
    );
    assert_ne!(compiled, same);
    let inode = |path| std::os::unix::fs::MetadataExt::ino(&fs::metadata(path).unwrap());
    assert_eq!(inode(compiled), inode(same));

    let left: Vec<_> = fs::read_dir(dir.path())
        .unwrap()
        .map(|e| e.unwrap().file_name())
        .collect();
    assert_eq!(left.len(), 2, "the environment and its lock: {left:?}");
}

#[test]
fn an_environment_is_readable_and_not_writable_for_another_user() {
    if !is_root_or_skip("an environment of another user", AS_ROOT) {
        return;
    }
    let nobody = RunAs {
        uid: 65534,
        gid: 65534,
    };
    let dir = tempfile::tempdir().unwrap();
    fs::set_permissions(
        dir.path(),
        std::os::unix::fs::PermissionsExt::from_mode(0o755),
    )
    .unwrap();
    let (uv, config, cache) = (uv(), config(), cache());
    let ask = RealiseRequest {
        config: &config,
        dir: dir.path(),
        cache: &cache,
        run_as: Some(nobody),
        say: &|_| {},
    };
    let made = realise(&uv, &ask).unwrap();
    let script = "import airflow.version, pydantic, os, sys; p = airflow.version.__file__; sys.exit(os.access(p, os.W_OK))";
    let mut command = Command::new(&made.python);
    std::os::unix::process::CommandExt::uid(&mut command, nobody.uid);
    std::os::unix::process::CommandExt::gid(&mut command, nobody.gid);
    let home = tempfile::tempdir().unwrap();
    std::os::unix::fs::chown(home.path(), Some(nobody.uid), Some(nobody.gid)).unwrap();
    let output = command
        .args(["-c", script])
        .env("AIRFLOW_HOME", home.path())
        .current_dir("/")
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
}

/// A build that says who it was and what it knew, and puts itself in the place
/// of the environment's Python and of its compiled files.
const SETUP: &str = r#"
import glob, os
from setuptools import setup

with open("telling.py", "w") as telling:
    telling.write(f"WHO = {os.getuid()}\nKNEW = {sorted(os.environ)}\n")
for python in glob.glob("FOLDER/environments/*/bin/python"):
    os.remove(python)
    with open(python, "w") as script:
        script.write('#!/bin/sh\nid -u >>FOLDER/told\nexec python3 "$@"\n')
    os.chmod(python, 0o755)
for library in glob.glob("FOLDER/environments/*/lib/*/site-packages"):
    if not os.path.lexists(library + "/__pycache__"):
        os.symlink("FOLDER/elsewhere", library + "/__pycache__")
setup(name="telling", version="1.0", py_modules=["telling"])
"#;

/// A package without a wheel.
fn telling_sdist(folder: &Path) -> PathBuf {
    let source = folder.join("telling-1.0");
    fs::create_dir(&source).unwrap();
    let setup = SETUP.replace("FOLDER", folder.to_str().unwrap());
    fs::write(source.join("setup.py"), setup).unwrap();
    let metadata = "Metadata-Version: 1.0\nName: telling\nVersion: 1.0\n";
    fs::write(source.join("PKG-INFO"), metadata).unwrap();
    let archive = folder.join("telling-1.0.tar.gz");
    let packed = Command::new("tar")
        .args(["-czf"])
        .arg(&archive)
        .args(["-C", folder.to_str().unwrap(), "telling-1.0"])
        .status();
    assert!(packed.unwrap().success());
    archive
}

#[test]
fn what_has_no_wheel_is_built_as_airflows_user_and_is_not_theirs_afterwards() {
    if !is_root_or_skip("building as Airflow's user", AS_ROOT) {
        return;
    }
    let nobody = RunAs {
        uid: 65534,
        gid: 65534,
    };
    let dir = tempfile::tempdir().unwrap();
    let everybody = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    fs::set_permissions(dir.path(), everybody).unwrap();
    let archive = telling_sdist(dir.path());
    let sum = updraft_model::Digest::of(&fs::read(&archive).unwrap()).hex();
    let mut config = config();
    // Nothing else, so that this takes no minutes.
    config.lock.text = format!(
        "telling @ file://{} --hash=sha256:{sum}\n",
        archive.display()
    );
    let envs = dir.path().join("environments");
    fs::create_dir(&envs).unwrap();
    let (told, elsewhere) = (dir.path().join("told"), dir.path().join("elsewhere"));
    fs::write(&told, "").unwrap();
    let anybody = std::os::unix::fs::PermissionsExt::from_mode(0o666);
    fs::set_permissions(&told, anybody).unwrap();
    fs::create_dir(&elsewhere).unwrap();
    let ask = RealiseRequest {
        config: &config,
        dir: &envs,
        cache: &cache(),
        run_as: Some(nobody),
        say: &|_| {},
    };
    // Airflow itself is not there, which is found out last.
    let error = realise(&uv(), &ask).unwrap_err();
    assert!(error.to_string().contains("apache-airflow"), "{error:?}");
    let folder = fs::read_dir(&envs)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .find(|path| path.is_dir())
        .unwrap();
    let library = fs::read_dir(folder.join("lib"))
        .unwrap()
        .next()
        .unwrap()
        .unwrap();
    let installed = library.path().join("site-packages/telling.py");
    let text = fs::read_to_string(&installed).unwrap();
    assert!(text.contains("WHO = 65534"), "{text}");
    assert!(!text.contains("CARGO"), "{text}");
    let metadata = fs::metadata(&installed).unwrap();
    assert_eq!(std::os::unix::fs::MetadataExt::uid(&metadata), 0);
    // What it left is run by nobody else, and nothing was written through its link.
    let told = fs::read_to_string(told).unwrap();
    assert!(told.lines().next().is_some(), "its `python` was not tried");
    assert!(told.lines().all(|user| user == "65534"), "{told}");
    assert_eq!(fs::read_dir(elsewhere).unwrap().count(), 0);
    let compiled = library.path().join("site-packages/__pycache__");
    assert!(compiled.symlink_metadata().unwrap().is_dir());
    assert_eq!(
        std::os::unix::fs::PermissionsExt::mode(&metadata.permissions()) & 0o022,
        0
    );
}
