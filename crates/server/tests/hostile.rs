//! What somebody with a deployer's token and bad intentions can send.
#![expect(clippy::unwrap_used, reason = "a test ends where something fails")]

use updraft_api::deploy::{Comparison, ComparisonOutcome, CreateDeploy, Parts, PlanRequest};
use updraft_api::{Client, ClientError, ErrorCode, frames};
use updraft_model::{BundleName, DeployId, DeploymentName, Digest, Role};
use updraft_server::Limits;
use updraft_testkit::{TestServer, Tree, environment, parts};

/// One entry of an archive that our own writer would not write.
struct Raw<'a> {
    path: &'a str,
    kind: u8,
    link: &'a str,
    content: &'a [u8],
}

const fn file<'a>(path: &'a str, content: &'a [u8]) -> Raw<'a> {
    Raw {
        path,
        kind: b'0',
        link: "",
        content,
    }
}

fn tar(entries: &[Raw<'_>]) -> Vec<u8> {
    let mut out = Vec::new();
    for entry in entries {
        let mut header = [0u8; 512];
        header[..entry.path.len()].copy_from_slice(entry.path.as_bytes());
        let mode: &[u8; 7] = if entry.kind == b'2' {
            b"0000777"
        } else {
            b"0000644"
        };
        header[100..107].copy_from_slice(mode);
        header[108..115].copy_from_slice(b"0000000");
        header[116..123].copy_from_slice(b"0000000");
        let size = format!("{:011o}", entry.content.len());
        header[124..135].copy_from_slice(size.as_bytes());
        header[136..147].copy_from_slice(b"00000000000");
        header[156] = entry.kind;
        header[157..157 + entry.link.len()].copy_from_slice(entry.link.as_bytes());
        header[257..263].copy_from_slice(b"ustar\0");
        header[263..265].copy_from_slice(b"00");
        header[329..336].copy_from_slice(b"0000000");
        header[337..344].copy_from_slice(b"0000000");
        header[148..156].copy_from_slice(b"        ");
        let sum: u32 = header.iter().map(|byte| u32::from(*byte)).sum();
        header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        out.extend_from_slice(&header);
        out.extend_from_slice(entry.content);
        out.resize(out.len().next_multiple_of(512), 0);
    }
    out.resize(out.len() + 1024, 0);
    out
}

/// A bundle of one layer with these bytes, described as having one file.
fn bundle_of(layer: Vec<u8>) -> Tree {
    let honest = Tree::of([("a.py", "x")]);
    let (old, bytes) = honest.blobs.iter().next().unwrap();
    let digest = Digest::of(&layer);
    let manifest = honest
        .manifest
        .replace(&old.to_string(), &digest.to_string())
        .replace(
            &format!("\"size\":{},\"annotations\"", bytes.len()),
            &format!("\"size\":{},\"annotations\"", layer.len()),
        );
    assert_ne!(manifest, honest.manifest);
    Tree {
        manifest,
        blobs: [(digest, layer.into())].into(),
    }
}

struct World {
    server: TestServer,
    shop: DeploymentName,
    admin: Client,
}

impl World {
    async fn new() -> Self {
        Self::with(|_| {}).await
    }

    async fn with(change: impl FnOnce(&mut Limits)) -> Self {
        let server = TestServer::start_with(|config| change(&mut config.limits)).await;
        let shop = server.deployment("shop").await.name;
        let admin = server.as_admin();
        Self {
            server,
            shop,
            admin,
        }
    }

    async fn create(&self, parts: Parts) -> Result<Comparison, ClientError> {
        let ask = CreateDeploy {
            parts,
            description: String::new(),
            git: None,
            ci: None,
            allow_downgrade: false,
            force: false,
            key: DeployId::new().to_string(),
        };
        self.admin.create_deploy(&self.shop, &ask).await
    }

    /// Sends a bundle as far as it gets.
    async fn send(&self, tree: &Tree) -> Result<DeployId, ClientError> {
        let environment = environment("x");
        let created = self.create(parts(Some(tree), Some(&environment))).await?;
        let id = created.deploy.as_ref().unwrap().id;
        let mut blobs = tree.pick(&created.missing);
        blobs.extend(environment.pick(&created.missing));
        self.admin.upload_blobs(id, &blobs).await?;
        self.admin.accept_deploy(id, None).await?;
        Ok(id)
    }

    async fn refused(&self, tree: &Tree, code: ErrorCode, says: &str) {
        let error = self.send(tree).await.unwrap_err();
        assert_eq!(error.code(), Some(code), "{error}");
        assert!(error.to_string().contains(says), "{error}");
        assert!(error.help().is_some(), "{error}");
        // Nothing became wanted, and nothing is half done.
        assert_eq!(
            self.admin.deployment(&self.shop).await.unwrap().wanted,
            None
        );
    }
}

#[tokio::test]
async fn archives_that_reach_outside_are_refused_by_name() {
    let world = World::new().await;
    let link = |path, link| Raw {
        path,
        kind: b'2',
        link,
        content: b"",
    };
    let cases: Vec<(&str, Vec<Raw<'_>>)> = vec![
        ("../evil.py", vec![file("../evil.py", b"x")]),
        ("/etc/evil.py", vec![file("/etc/evil.py", b"x")]),
        ("a/../../evil.py", vec![file("a/../../evil.py", b"x")]),
        ("out", vec![link("out", "../../etc/passwd")]),
        ("out", vec![link("out", "/etc/passwd")]),
        (
            "hard",
            vec![
                file("a", b"x"),
                Raw {
                    path: "hard",
                    kind: b'1',
                    link: "a",
                    content: b"",
                },
            ],
        ),
        (
            "device",
            vec![Raw {
                path: "device",
                kind: b'3',
                link: "",
                content: b"",
            }],
        ),
        (
            "pipe",
            vec![Raw {
                path: "pipe",
                kind: b'6',
                link: "",
                content: b"",
            }],
        ),
        (
            "twice.py",
            vec![file("twice.py", b"x"), file("twice.py", b"y")],
        ),
    ];
    for (name, entries) in cases {
        let layer = zstd::bulk::compress(&tar(&entries), 3).unwrap();
        let mut tree = bundle_of(layer);
        if name == "out" {
            // A link has no content: but for where it leads, all is well.
            tree.manifest = tree
                .manifest
                .replace("layer.size\":\"1\"", "layer.size\":\"0\"")
                .replace("layer.first\":\"a.py\"", "layer.first\":\"out\"");
        }
        world.refused(&tree, ErrorCode::BundleRefused, name).await;
    }
}

#[tokio::test]
async fn what_is_no_archive_at_all_is_refused() {
    let world = World::new().await;
    for layer in [&b"not an archive"[..], &[0; 4096], &[]] {
        world
            .refused(
                &bundle_of(layer.to_vec()),
                ErrorCode::BundleRefused,
                "layer",
            )
            .await;
    }
}

#[tokio::test]
async fn a_bomb_is_refused_before_it_goes_off() {
    let world = World::with(|limits| {
        limits.bundle.file_bytes = 1 << 20;
        limits.bundle.total_bytes = 2 << 20;
    })
    .await;
    let zeros = vec![0; 64 << 20];
    let layer = zstd::bulk::compress(&tar(&[file("bomb.bin", &zeros)]), 3).unwrap();
    assert!(layer.len() < 64 << 10);
    world
        .refused(&bundle_of(layer), ErrorCode::LimitExceeded, "bomb.bin")
        .await;
}

#[tokio::test]
async fn a_layer_that_holds_more_than_its_manifest_says_is_not_unpacked() {
    let world = World::new().await;
    let zeros = vec![0; 64 << 20];
    let layer = zstd::bulk::compress(&tar(&[file("bomb.bin", &zeros)]), 3).unwrap();
    world
        .refused(
            &bundle_of(layer),
            ErrorCode::BundleRefused,
            "holds more than its manifest says, at `bomb.bin`",
        )
        .await;
}

#[tokio::test]
async fn links_through_links_of_other_layers_are_accepted() {
    let folder = tempfile::tempdir().unwrap();
    let path = |path: &str| folder.path().join(path);
    std::fs::create_dir_all(path("releases/v1/dags")).unwrap();
    std::fs::write(path("releases/v1/dags/a.py"), "x").unwrap();
    std::fs::write(path("releases/shared.py"), "y").unwrap();
    std::os::unix::fs::symlink("releases/v1/dags", path("current")).unwrap();
    std::os::unix::fs::symlink("current/../../shared.py", path("x")).unwrap();
    let scan = updraft_bundle::scan(folder.path(), &updraft_bundle::ScanOptions::default());
    let tree = Tree::of_scan(&scan.unwrap());
    assert_eq!(tree.blobs.len(), 4, "each is a layer of its own");
    World::new().await.send(&tree).await.unwrap();
}

#[tokio::test]
async fn a_file_over_the_limit_is_refused_by_name_before_it_is_sent() {
    let small = updraft_bundle::Limits {
        file_bytes: 10,
        ..Default::default()
    };
    let world = World::with(|limits| *limits = Limits::of_bundles(small)).await;
    let tree = Tree::of([("fine.py", "x"), ("large.bin", "larger than ten bytes")]);
    let refused = world.create(parts(Some(&tree), Some(&environment("x"))));
    let refused = refused.await.unwrap_err();
    assert_eq!(refused.code(), Some(ErrorCode::LimitExceeded));
    assert!(refused.to_string().contains("`large.bin`"), "{refused}");
    let help = refused.help().unwrap();
    assert!(help.contains("--max-file-bytes"), "{help}");

    let large = updraft_bundle::Limits {
        file_bytes: 1 << 30,
        ..Default::default()
    };
    let limits = Limits::of_bundles(large);
    assert!(limits.blob_bytes > large.file_bytes, "it can be sent too");
}

#[tokio::test]
async fn manifests_are_checked_before_anything_is_sent() {
    let world = World::with(|limits| {
        limits.blob_bytes = 1 << 20;
        limits.bundle.files = 100;
    })
    .await;
    let environment = environment("x");
    let honest = Tree::of([("a.py", "x")]);
    let cases = [
        ("{}".to_owned(), ErrorCode::BundleRefused),
        (honest.manifest.replace(':', ": "), ErrorCode::BundleRefused),
        (
            honest.manifest.replace("tar+zstd", "tar+gzip"),
            ErrorCode::BundleRefused,
        ),
        (environment.manifest.clone(), ErrorCode::BundleRefused),
        (
            honest
                .manifest
                .replace("\"files\":\"1\"", "\"files\":\"101\"")
                .replace("layer.files\":\"1\"", "layer.files\":\"101\""),
            ErrorCode::LimitExceeded,
        ),
        ("x".repeat(5 << 20), ErrorCode::BundleRefused),
    ];
    for (manifest, code) in cases {
        let parts = Parts {
            bundles: [(BundleName::dags(), manifest.clone())].into(),
            environment: Some(environment.manifest.clone()),
        };
        let error = world.create(parts).await.unwrap_err();
        assert_eq!(
            error.code(),
            Some(code),
            "{}: {error}",
            &manifest[..manifest.len().min(200)]
        );
    }
    let nothing = world.create(Parts::default()).await.unwrap_err();
    assert_eq!(nothing.code(), Some(ErrorCode::InvalidRequest));
    assert!(
        world
            .admin
            .history(&world.shop, 10, None)
            .await
            .unwrap()
            .deploys
            .is_empty()
    );
}

#[tokio::test]
async fn a_manifest_that_lies_about_its_layer_is_refused() {
    let world = World::new().await;
    let honest = Tree::of([("a.py", "x"), ("b.py", "y")]);
    let manifest = honest
        .manifest
        .replacen("layer.size\":\"1\"", "layer.size\":\"2\"", 1);
    assert_ne!(manifest, honest.manifest);
    let lying = Tree { manifest, ..honest };
    world
        .refused(
            &lying,
            ErrorCode::BundleRefused,
            "not what the manifest says",
        )
        .await;
}

#[tokio::test]
async fn only_missing_blobs_that_the_deploy_names_are_taken() {
    let world = World::new().await;
    let (tree, environment) = (Tree::of([("a.py", "x")]), environment("x"));
    let created = world
        .create(parts(Some(&tree), Some(&environment)))
        .await
        .unwrap();
    assert_eq!(created.outcome, ComparisonOutcome::Changes);
    let id = created.deploy.as_ref().unwrap().id;
    let other: &[u8] = b"something else";
    let refused = world
        .admin
        .upload_blobs(id, &[(Digest::of(other), other.into())])
        .await
        .unwrap_err();
    assert_eq!(refused.code(), Some(ErrorCode::InvalidRequest));

    // Wrong bytes under a right name; a body cut short; a blob without end.
    let (digest, bytes) = tree.blobs.iter().next().unwrap();
    let head = frames::head(*digest, bytes.len() as u64);
    let mut flipped = bytes.to_vec();
    flipped[10] ^= 1;
    let cases = [
        ([&head[..], &flipped].concat(), ErrorCode::BlobCorrupt),
        ([&head[..], &bytes[..5]].concat(), ErrorCode::InvalidRequest),
        (
            frames::head(*digest, u64::MAX).to_vec(),
            ErrorCode::LimitExceeded,
        ),
    ];
    let http = reqwest::Client::new();
    for (body, code) in cases {
        let response = http
            .put(format!("{}/api/v1/deploys/{id}/blobs", world.server.url()))
            .bearer_auth(world.server.admin_token())
            .body(body)
            .send()
            .await
            .unwrap();
        let body: updraft_api::ErrorBody = response.json().await.unwrap();
        assert_eq!(body.code, code, "{}", body.message);
    }
    let refused = world.admin.accept_deploy(id, None).await.unwrap_err();
    assert_eq!(refused.code(), Some(ErrorCode::BlobsMissing));
    // The same deploy still can be finished.
    world
        .server
        .upload(id, &created, [Some(&tree), Some(&environment)])
        .await;
    world.admin.accept_deploy(id, None).await.unwrap();
}

#[tokio::test]
#[expect(clippy::too_many_lines, reason = "a list of requests")]
async fn requests_of_a_wrong_form_say_what_is_wrong() {
    let world = World::with(|limits| limits.request_bytes = 64 << 10).await;
    let http = reqwest::Client::new();
    let ask = async |method: &str, path: &str, body: &str| -> updraft_api::ErrorBody {
        let url = format!("{}{path}", world.server.url());
        let request = http
            .request(method.parse().unwrap(), url)
            .bearer_auth(world.server.admin_token());
        let response = request
            .header("content-type", "application/json")
            .body(body.to_owned())
            .send()
            .await
            .unwrap();
        response.json().await.unwrap()
    };
    let large = format!("{{\"name\":\"{}\"}}", "x".repeat(70 << 10));
    let cases = [
        (
            "POST",
            "/api/v1/deployments",
            "{",
            ErrorCode::InvalidRequest,
            "",
        ),
        (
            "POST",
            "/api/v1/deployments",
            "{\"name\":\"Not A Name\"}",
            ErrorCode::InvalidRequest,
            "Not A Name",
        ),
        (
            "POST",
            "/api/v1/deployments",
            "{\"name\":\"x\",\"settings\":{\"colour\":1}}",
            ErrorCode::InvalidRequest,
            "colour",
        ),
        (
            "POST",
            "/api/v1/deployments",
            &large,
            ErrorCode::LimitExceeded,
            "larger",
        ),
        (
            "GET",
            "/api/v1/deploys/rel_0",
            "",
            ErrorCode::InvalidRequest,
            "dpl_",
        ),
        (
            "GET",
            "/api/v1/deployments/UPPER",
            "",
            ErrorCode::InvalidRequest,
            "UPPER",
        ),
        ("GET", "/api/v1/nothing", "", ErrorCode::RouteNotFound, ""),
        (
            "PUT",
            "/api/v1/deployments",
            "",
            ErrorCode::RouteNotFound,
            "",
        ),
        (
            "PATCH",
            "/api/v1/deployments/shop",
            "{\"proof_timeout_s\":0}",
            ErrorCode::InvalidRequest,
            "proof_timeout_s",
        ),
        (
            "POST",
            "/api/v1/tokens",
            "{\"name\":\"\",\"role\":\"viewer\"}",
            ErrorCode::InvalidRequest,
            "name",
        ),
        (
            "POST",
            "/api/v1/tokens",
            "{\"name\":\"x\",\"role\":\"king\"}",
            ErrorCode::InvalidRequest,
            "king",
        ),
        (
            "POST",
            "/api/v1/tokens",
            "{\"name\":\"x\",\"role\":\"agent\"}",
            ErrorCode::InvalidRequest,
            "Deployment",
        ),
    ];
    for (method, path, body, code, says) in cases {
        let error = ask(method, path, body).await;
        assert_eq!(error.code, code, "{method} {path}: {}", error.message);
        assert!(
            error.message.contains(says),
            "{method} {path}: {}",
            error.message
        );
        assert_eq!(error.request_id.len(), 32);
    }
}

#[tokio::test]
async fn naming_a_blob_of_another_deployment_does_not_make_it_readable() {
    let server = TestServer::start().await;
    let shop = server.deployment("shop").await.name;
    let other = server.deployment("other").await.name;
    let secret = Tree::of([("secret.py", "of the shop")]);
    server
        .deploy(&shop, Some(&secret), Some(&environment("x")))
        .await;
    let token = server.token(Role::Deployer, Some(&other)).await;
    let mallory = server.with_token(Some(token));

    // An Environment whose configuration is the shop's manifest, by its digest.
    let mut naming = environment("y");
    let config = "{\"requirements\":\"y\",\"platform\":\"any\"}";
    naming.manifest = naming.manifest.replace(
        &format!(
            "\"digest\":\"{}\",\"size\":{}",
            Digest::of(config.as_bytes()),
            config.len()
        ),
        &format!(
            "\"digest\":\"{}\",\"size\":{}",
            secret.digest(),
            secret.manifest.len()
        ),
    );
    let ask = CreateDeploy {
        parts: parts(Some(&secret), Some(&naming)),
        description: String::new(),
        git: None,
        ci: None,
        allow_downgrade: false,
        force: false,
        key: "mine".into(),
    };
    let plan = PlanRequest {
        parts: ask.parts.clone(),
    };
    let layer = *secret.blobs.keys().next().unwrap();
    let planned = mallory.plan(&other, &plan).await.unwrap();
    let created = mallory.create_deploy(&other, &ask).await.unwrap();
    for missing in [planned.missing, created.missing.clone()] {
        assert!(missing.contains(&secret.digest()), "{missing:?}");
        assert!(missing.contains(&layer), "{missing:?}");
    }
    let id = created.deploy.unwrap().id;
    // Only what she has, which is not the shop's.
    let own: Vec<_> = naming.blobs.clone().into_iter().collect();
    let own: Vec<_> = own
        .into_iter()
        .filter(|(digest, _)| created.missing.contains(digest))
        .collect();
    mallory.upload_blobs(id, &own).await.unwrap();
    let refused = mallory.accept_deploy(id, None).await.unwrap_err();
    assert_eq!(refused.code(), Some(ErrorCode::BlobsMissing), "{refused}");
    for digest in [secret.digest(), layer] {
        let refused = mallory.blob(&other, digest).await.unwrap_err();
        assert_eq!(refused.code(), Some(ErrorCode::BlobNotFound), "{refused}");
    }

    // Whoever has the bytes sends them, and whoever could read them need not.
    let ask = CreateDeploy {
        parts: parts(Some(&secret), Some(&environment("z"))),
        allow_downgrade: false,
        force: false,
        key: "hers".into(),
        ..ask
    };
    let for_all = server.create(&other, ask.parts.clone()).await;
    assert!(!for_all.missing.contains(&layer), "{:?}", for_all.missing);
    let created = mallory.create_deploy(&other, &ask).await.unwrap();
    let id = created.deploy.as_ref().unwrap().id;
    let mut blobs = secret.pick(&created.missing);
    assert_eq!(blobs.len(), 1);
    blobs.extend(environment("z").pick(&created.missing));
    mallory.upload_blobs(id, &blobs).await.unwrap();
    let again = mallory.create_deploy(&other, &ask).await.unwrap();
    assert_eq!(again.missing, []);
    mallory.accept_deploy(id, None).await.unwrap();
    assert!(mallory.blob(&other, layer).await.is_ok());
}
