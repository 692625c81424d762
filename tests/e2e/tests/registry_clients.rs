//! The registry with the clients that people have, and with the specification's
//! own conformance suite.
#![expect(clippy::unwrap_used, reason = "a test that fails says where")]

use std::ffi::OsStr;
use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::{Value, json};
use updraft_e2e::{Engine, EngineName};
use updraft_model::{Digest, Role};
use updraft_testkit::{Postgres, Reaper, TestServer, skipped};

const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";

/// A control plane with a Deployment, and a folder for what its clients keep.
struct World {
    root: PathBuf,
    server: TestServer,
    token: String,
    _reaper: Reaper,
}

impl World {
    async fn new() -> Self {
        Self::on(None).await
    }

    /// Its rows in this database.
    async fn on(database: Option<String>) -> Self {
        let (root, reaper) = Reaper::folder("updraft-registry-").unwrap();
        let server = TestServer::start_with(|config| config.database_url = database).await;
        let shop = server.deployment("shop").await.name;
        let token = server.token(Role::Deployer, Some(&shop)).await;
        fs::create_dir(root.join("docker-config")).unwrap();
        Self {
            root,
            server,
            token,
            _reaper: reaper,
        }
    }

    fn registry(&self) -> String {
        self.server.url().trim_start_matches("http://").to_owned()
    }

    fn image(&self, name: &str) -> String {
        format!("{}/shop/{name}", self.registry())
    }

    fn command<S: AsRef<OsStr>>(&self, program: S) -> Command {
        let mut command = Command::new(program);
        command
            .current_dir(&self.root)
            .env("HOME", &self.root)
            .env("DOCKER_CONFIG", self.root.join("docker-config"))
            .env("REGISTRY_AUTH_FILE", self.root.join("auth.json"))
            .env("UPDRAFT_TEST_ROOT", &self.root)
            .env_remove("XDG_RUNTIME_DIR");
        command
    }

    /// A file system with something in it, as a tar file.
    fn file_system(&self) -> PathBuf {
        let folder = self.root.join("rootfs");
        fs::create_dir_all(&folder).unwrap();
        let mut seed = Digest::of(b"seed");
        let mut noise = Vec::new();
        while noise.len() < 3 << 20 {
            seed = Digest::of(seed.as_bytes());
            noise.extend(seed.as_bytes());
        }
        fs::write(folder.join("noise"), noise).unwrap();
        let tar = self.root.join("rootfs.tar");
        let mut make = self.command("tar");
        make.arg("-cf").arg(&tar).arg("-C").arg(&folder).arg(".");
        run(&mut make);
        tar
    }

    /// An image as a folder in OCI's layout, and its digest.
    fn layout(&self) -> (PathBuf, Digest) {
        let folder = self.root.join("layout");
        let blobs = folder.join("blobs/sha256");
        fs::create_dir_all(&blobs).unwrap();
        let put = |bytes: &[u8], media_type: &str| -> Value {
            let digest = Digest::of(bytes);
            fs::write(blobs.join(digest.hex()), bytes).unwrap();
            json!({"mediaType": media_type, "digest": digest.to_string(), "size": bytes.len()})
        };
        let layer = put(
            &fs::read(self.file_system()).unwrap(),
            "application/vnd.oci.image.layer.v1.tar",
        );
        let config = json!({
            "architecture": "amd64", "os": "linux",
            "rootfs": {"type": "layers", "diff_ids": [layer["digest"]]},
        });
        let config = put(
            config.to_string().as_bytes(),
            "application/vnd.oci.image.config.v1+json",
        );
        let manifest = json!({
            "schemaVersion": 2, "mediaType": MANIFEST, "config": config, "layers": [layer],
        })
        .to_string();
        let mut descriptor = put(manifest.as_bytes(), MANIFEST);
        descriptor["annotations"] = json!({"org.opencontainers.image.ref.name": "v1"});
        let index = json!({"schemaVersion": 2, "manifests": [descriptor]});
        fs::write(folder.join("index.json"), index.to_string()).unwrap();
        fs::write(
            folder.join("oci-layout"),
            json!({"imageLayoutVersion": "1.0.0"}).to_string(),
        )
        .unwrap();
        (folder, Digest::of(manifest.as_bytes()))
    }
}

fn run(command: &mut Command) -> String {
    let (is_good, output) = attempt(command, "");
    assert!(is_good, "{command:?}: {output}");
    output
}

/// Whether a command ends well, with all that it prints. Who signs in gives the
/// token as input.
fn attempt(command: &mut Command, input: &str) -> (bool, String) {
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = child.stdin.take().unwrap();
    // One that does not read it is fine too.
    let _ = stdin.write_all(input.as_bytes());
    drop(stdin);
    let output = child.wait_with_output().unwrap();
    let text = [output.stdout, output.stderr].concat();
    (
        output.status.success(),
        String::from_utf8_lossy(&text).into_owned(),
    )
}

/// Where a program is not there, says on a line that CI looks for what is skipped.
fn is_there_or_skip(program: &str) -> bool {
    let is_there = Command::new(program).arg("--version").output().is_ok();
    if !is_there {
        skipped(&format!("the registry with {program}"), "not installed");
    }
    is_there
}

/// A program that `scripts/tools` has made.
fn made_or_skip(variable: &str, what: &str) -> Option<PathBuf> {
    let path = std::env::var_os(variable).map(PathBuf::from);
    if path.is_none() {
        skipped(what, &format!("{variable} names no program"));
    }
    path
}

/// The engines differ in how they are told that a registry speaks plain http.
async fn an_engine_pushes_and_pulls(name: EngineName, plain_http: &[&str]) {
    let world = World::new().await;
    let Some(engine) = Engine::start_or_skip(name, &world.root).unwrap() else {
        return;
    };
    let engine_with = |arguments: &[&str]| {
        let mut command = world.command(engine.program());
        command.args(arguments).envs(engine.variables());
        command
    };
    let with =
        |arguments: &[&str]| engine_with(&[&arguments[..1], plain_http, &arguments[1..]].concat());
    let registry = world.registry();
    let login = [
        "login",
        "--username",
        "anybody",
        "--password-stdin",
        &registry,
    ];
    let (is_good, refused) = attempt(&mut with(&login), "nonsense");
    assert!(!is_good, "{refused}");
    let (is_good, output) = attempt(&mut with(&login), &world.token);
    assert!(is_good, "{output}");

    let image = world.image("engine:v1");
    let tar = world.file_system();
    run(&mut engine_with(&["import", tar.to_str().unwrap(), &image]));
    let id = run(&mut engine_with(&[
        "images",
        "--quiet",
        "--no-trunc",
        &image,
    ]));
    run(&mut with(&["push", &image]));
    // What is there is not sent again; another tag is another name.
    let again = world.image("engine:v2");
    run(&mut engine_with(&["tag", &image, &again]));
    run(&mut with(&["push", &again]));
    run(&mut engine_with(&["rmi", &image, &again]));
    run(&mut with(&["pull", &again]));
    let pulled = run(&mut engine_with(&[
        "images",
        "--quiet",
        "--no-trunc",
        &again,
    ]));
    assert_eq!(pulled, id);

    // Where the token may not, the registry's own words are shown.
    let elsewhere = format!("{registry}/office:v1");
    run(&mut engine_with(&["tag", &again, &elsewhere]));
    let (is_good, refused) = attempt(&mut with(&["push", &elsewhere]), "");
    assert!(!is_good && refused.contains("Deployment"), "{refused}");
}

#[tokio::test(flavor = "multi_thread")]
async fn docker_pushes_and_pulls() {
    an_engine_pushes_and_pulls(EngineName::Docker, &[]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn podman_pushes_and_pulls() {
    an_engine_pushes_and_pulls(EngineName::Podman, &["--tls-verify=false"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn buildah_pushes_and_pulls() {
    if !is_there_or_skip("buildah") {
        return;
    }
    let world = World::new().await;
    let buildah = |arguments: &[&str]| {
        let mut command = world.command("buildah");
        command
            .args(["--storage-driver", "vfs", "--root"])
            .arg(world.root.join("buildah/data"))
            .arg("--runroot")
            .arg(world.root.join("buildah/run"))
            .args(arguments);
        command
    };
    let registry = world.registry();
    let login = [
        "login",
        "--tls-verify=false",
        "--username",
        "x",
        "--password-stdin",
        &registry,
    ];
    let (is_good, output) = attempt(&mut buildah(&login), &world.token);
    assert!(is_good, "{output}");
    let container = run(&mut buildah(&["from", "scratch"]));
    let tar = world.file_system();
    run(&mut buildah(&[
        "add",
        container.trim(),
        tar.to_str().unwrap(),
        "/",
    ]));
    let image = world.image("buildah:v1");
    run(&mut buildah(&[
        "commit",
        "--quiet",
        container.trim(),
        &image,
    ]));
    let reference = format!("docker://{image}");
    run(&mut buildah(&[
        "push",
        "--tls-verify=false",
        &image,
        &reference,
    ]));
    run(&mut buildah(&["rmi", "--force", &image]));
    let pulled = run(&mut buildah(&[
        "pull",
        "--quiet",
        "--tls-verify=false",
        &image,
    ]));
    assert!(pulled.trim().len() >= 64, "{pulled}");
}

#[tokio::test(flavor = "multi_thread")]
async fn skopeo_copies_there_within_and_back() {
    if !is_there_or_skip("skopeo") {
        return;
    }
    let world = World::new().await;
    let skopeo = |arguments: &[&str]| {
        let mut command = world.command("skopeo");
        command.args(arguments);
        command
    };
    let registry = world.registry();
    let login = [
        "login",
        "--tls-verify=false",
        "--username",
        "x",
        "--password-stdin",
        &registry,
    ];
    let (is_good, output) = attempt(&mut skopeo(&login), &world.token);
    assert!(is_good, "{output}");
    let (layout, digest) = world.layout();
    let from = format!("oci:{}:v1", layout.display());
    let first = format!("docker://{}", world.image("one:v1"));
    let second = format!("docker://{}", world.image("two:v1"));
    let to = ["copy", "--preserve-digests", "--dest-tls-verify=false"];
    let both = [
        "copy",
        "--preserve-digests",
        "--dest-tls-verify=false",
        "--src-tls-verify=false",
    ];
    run(&mut skopeo(&[&to[..], &[&from, &first]].concat()));
    run(&mut skopeo(&[&both[..], &[&first, &second]].concat()));
    let seen = run(&mut skopeo(&["inspect", "--tls-verify=false", &second]));
    let seen: Value = serde_json::from_str(&seen).unwrap();
    assert_eq!(seen["Digest"], digest.to_string(), "{seen:#}");
    assert_eq!(seen["RepoTags"], json!(["v1"]), "{seen:#}");
    let back = world.root.join("back");
    let target = format!("oci:{}:v1", back.display());
    let from = ["copy", "--preserve-digests", "--src-tls-verify=false"];
    run(&mut skopeo(&[&from[..], &[&second, &target]].concat()));
    for blob in fs::read_dir(layout.join("blobs/sha256")).unwrap() {
        let blob = blob.unwrap();
        let copy = back.join("blobs/sha256").join(blob.file_name());
        assert!(fs::read(copy).unwrap() == fs::read(blob.path()).unwrap());
    }
    // Deleting is an admin's.
    let (is_good, refused) = attempt(&mut skopeo(&["delete", "--tls-verify=false", &second]), "");
    assert!(!is_good, "{refused}");
    let (is_good, output) = attempt(&mut skopeo(&login), world.server.admin_token());
    assert!(is_good, "{output}");
    run(&mut skopeo(&["delete", "--tls-verify=false", &second]));
}

#[tokio::test(flavor = "multi_thread")]
async fn oras_pushes_attaches_and_pulls() {
    let Some(program) = made_or_skip("UPDRAFT_ORAS", "the registry with oras") else {
        return;
    };
    let world = World::new().await;
    let oras = |arguments: &[&str]| {
        let mut command = world.command(&program);
        command.args(arguments);
        command
    };
    let registry = world.registry();
    let login = [
        "login",
        "--plain-http",
        "--username",
        "x",
        "--password-stdin",
        &registry,
    ];
    let (is_good, output) = attempt(&mut oras(&login), &world.token);
    assert!(is_good, "{output}");
    fs::write(world.root.join("report.txt"), "all is well").unwrap();
    fs::write(world.root.join("note.txt"), "and signed").unwrap();
    let artifact = world.image("artifact:v1");
    let kind = [
        "--plain-http",
        "--artifact-type",
        "application/x.report",
        &artifact,
    ];
    run(&mut oras(
        &[&["push"], &kind[..], &["report.txt:text/plain"]].concat(),
    ));
    let kind = [
        "--plain-http",
        "--artifact-type",
        "application/x.note",
        &artifact,
    ];
    run(&mut oras(
        &[&["attach"], &kind[..], &["note.txt:text/plain"]].concat(),
    ));
    let found = ["discover", "--plain-http", "--format", "json", &artifact];
    let found = run(&mut oras(&found));
    assert!(found.contains("application/x.note"), "{found}");
    let to = world.root.join("pulled");
    run(&mut oras(&[
        "pull",
        "--plain-http",
        "--output",
        to.to_str().unwrap(),
        &artifact,
    ]));
    assert_eq!(
        fs::read_to_string(to.join("report.txt")).unwrap(),
        "all is well"
    );
    let tags = run(&mut oras(&[
        "repo",
        "tags",
        "--plain-http",
        &world.image("artifact"),
    ]));
    assert_eq!(tags.trim(), "v1");
    // To another repository, blob by blob or mounted.
    let copy = world.image("copied:v1");
    let copied = [
        "cp",
        "--recursive",
        "--from-plain-http",
        "--to-plain-http",
        &artifact,
        &copy,
    ];
    run(&mut oras(&copied));
    let (layout, _) = world.layout();
    let layout = format!("{}:v1", layout.display());
    let image = world.image("image:v1");
    let copied = [
        "cp",
        "--from-oci-layout",
        "--to-plain-http",
        &layout,
        &image,
    ];
    run(&mut oras(&copied));
}

/// How the suite ended, from the table that it prints.
fn count(report: &str, what: &str) -> usize {
    let line = report.lines().find(|line| line.trim().starts_with(what));
    let number = line.and_then(|line| line.rsplit(' ').next()?.parse().ok());
    number.unwrap_or_else(|| panic!("no {what} in {report}"))
}

#[tokio::test(flavor = "multi_thread")]
async fn the_specifications_conformance_suite_passes_in_full() {
    conformance_suite_passes(None).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_conformance_suite_passes_on_postgresql_too() {
    if let Some(postgres) = Postgres::start_or_skip("the registry on PostgreSQL") {
        conformance_suite_passes(Some(postgres.database())).await;
    }
}

async fn conformance_suite_passes(database: Option<String>) {
    let what = "the conformance suite of the OCI Distribution specification";
    let Some(suite) = made_or_skip("UPDRAFT_CONFORMANCE", what) else {
        return;
    };
    let world = World::on(database).await;
    let results = world.root.join("results");
    let mut command = world.command(suite);
    command
        .env("OCI_REGISTRY", world.registry())
        .env("OCI_TLS", "disabled")
        .env("OCI_REPO1", "shop/one")
        .env("OCI_REPO2", "shop/two")
        .env("OCI_USERNAME", "anybody")
        .env("OCI_PASSWORD", world.server.admin_token())
        .env("OCI_RESULTS_DIR", &results)
        .env("OCI_VERSION", "1.1")
        // All that it does not ask for by itself, but for manifests that name what is not
        // there: these are refused.
        .env("OCI_API_BLOBS_DIGEST_HEADER", "true")
        .env("OCI_API_BLOBS_UPLOAD_CANCEL", "true")
        .env("OCI_API_MANIFESTS_DIGEST_HEADER", "true")
        .env("OCI_API_MANIFESTS_TAG_PARAM", "true");
    let report = run(&mut command);
    for bad in ["FAIL", "Error", "Skip"] {
        assert_eq!(count(&report, bad), 0, "{report}");
    }
    assert!(count(&report, "Pass") > 900, "{report}");
    let is_bad = |line: &&str| {
        let outcome = line.rsplit(' ').next().unwrap_or_default();
        let is_sparse = line.contains("Sparse Manifests");
        matches!(outcome, "Fail" | "FAIL" | "Skip" | "Error") || outcome == "Disabled" && !is_sparse
    };
    let bad: Vec<_> = report.lines().filter(is_bad).collect();
    assert!(bad.is_empty(), "{report}");
    assert!(Path::new(&results).join("junit.xml").exists());
}
