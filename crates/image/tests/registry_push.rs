//! Images on their way to a real registry, also over a line that breaks.
#![expect(clippy::unwrap_used, reason = "a test ends where something fails")]

use std::fs;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use serde_json::json;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use updraft_image::registry::{
    BlobContent, Credentials, ImageBlob, OciImage, PushError, Registry, RegistryAccess,
};
use updraft_model::{Digest, Role};
use updraft_testkit::{TestServer, skipped};

const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";

/// An image with a layer of each of these.
fn image(layers: &[Vec<u8>]) -> OciImage {
    let config = br#"{"architecture":"amd64","os":"linux"}"#.to_vec();
    let blobs: Vec<ImageBlob> = [config]
        .iter()
        .chain(layers)
        .cloned()
        .map(|bytes| bytes::Bytes::from(bytes).into())
        .collect();
    let descriptor = |blob: &ImageBlob| json!({"mediaType": "application/octet-stream", "digest": blob.digest.to_string(), "size": blob.size});
    let manifest = json!({
        "schemaVersion": 2, "mediaType": MANIFEST, "config": descriptor(&blobs[0]),
        "layers": blobs[1..].iter().map(descriptor).collect::<Vec<_>>(),
    });
    OciImage {
        manifest: manifest.to_string().into(),
        media_type: MANIFEST.into(),
        blobs,
    }
}

fn noise(seed: u8, size: usize) -> Vec<u8> {
    let mut noise = Vec::with_capacity(size + 32);
    let mut digest = Digest::of(&[seed]);
    while noise.len() < size {
        digest = Digest::of(digest.as_bytes());
        noise.extend(digest.as_bytes());
    }
    noise.truncate(size);
    noise
}

fn registry(address: &str, repository: &str, token: &str) -> Registry {
    let name = format!("{address}/{repository}").parse().unwrap();
    let access = RegistryAccess {
        credentials: Some(Credentials::Password {
            user: "anybody".into(),
            password: token.into(),
        }),
        ..RegistryAccess::default()
    };
    Registry::connect(name, access).unwrap()
}

async fn world() -> (TestServer, String, String) {
    let server = TestServer::start().await;
    let shop = server.deployment("shop").await.name;
    let token = server.token(Role::Deployer, Some(&shop)).await;
    let address = server.url().trim_start_matches("http://").to_owned();
    (server, address, token)
}

async fn pulled(server: &TestServer, path: &str) -> Vec<u8> {
    let answer = reqwest::Client::new()
        .get(format!("{}/v2/{path}", server.url()))
        .bearer_auth(server.admin_token())
        .send()
        .await
        .unwrap();
    assert_eq!(answer.status(), 200, "{path}");
    answer.bytes().await.unwrap().into()
}

#[tokio::test]
async fn what_is_there_is_not_sent_again() {
    let (server, address, token) = world().await;
    let layers = [noise(1, 3 << 20), noise(2, 100), noise(2, 100), Vec::new()];
    let first = image(&layers);
    let to = registry(&address, "shop/one", &token);
    let pushed = to.push(&first, Some("v1"), &[]).await.unwrap();
    assert_eq!((pushed.sent, pushed.skipped, pushed.mounted), (4, 0, 0));
    assert_eq!(
        pulled(&server, "shop/one/manifests/v1").await,
        first.manifest
    );
    for blob in &first.blobs {
        let bytes = pulled(&server, &format!("shop/one/blobs/{}", blob.digest)).await;
        assert_eq!(Digest::of(&bytes), blob.digest);
    }
    let again = to.push(&first, None, &[]).await.unwrap();
    assert_eq!((again.sent, again.skipped, again.bytes), (0, 4, 0));

    // In another repository they are mounted, but for what is new.
    let second = image(&[noise(1, 3 << 20), noise(3, 100)]);
    let to = registry(&address, "shop/two", &token);
    let from = ["office".to_owned(), "shop/one".to_owned()];
    let pushed = to.push(&second, Some("v1"), &from).await.unwrap();
    assert_eq!((pushed.sent, pushed.mounted, pushed.bytes), (1, 2, 100));
}

fn write_layout(folder: &Path, image: &OciImage) {
    let blobs = folder.join("blobs/sha256");
    fs::create_dir_all(&blobs).unwrap();
    fs::write(blobs.join(image.digest().hex()), &image.manifest).unwrap();
    for blob in &image.blobs {
        if let BlobContent::Bytes(bytes) = &blob.content {
            fs::write(blobs.join(blob.digest.hex()), bytes).unwrap();
        }
    }
    let index = json!({"schemaVersion": 2, "manifests": [{
        "mediaType": MANIFEST, "digest": image.digest().to_string(), "size": image.manifest.len(),
        "annotations": {"org.opencontainers.image.ref.name": "v1"},
    }]});
    fs::write(folder.join("index.json"), index.to_string()).unwrap();
}

/// Passes bytes on to a server, and breaks connections that send much: each after
/// as many bytes, so often.
async fn breaking_line(to: String, after: u64, breaks: usize) -> (String, Arc<AtomicU64>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let passed = Arc::new(AtomicU64::new(0));
    let counted = passed.clone();
    let left = Arc::new(AtomicUsize::new(breaks));
    tokio::spawn(async move {
        while let Ok((client, _)) = listener.accept().await {
            let (to, counted, left) = (to.clone(), counted.clone(), left.clone());
            tokio::spawn(async move {
                let Ok(server) = TcpStream::connect(to).await else {
                    return;
                };
                let (mut from_client, mut to_client) = client.into_split();
                let (mut from_server, mut to_server) = server.into_split();
                let answers = tokio::spawn(async move {
                    let _ = tokio::io::copy(&mut from_server, &mut to_client).await;
                });
                let mut buffer = vec![0; 64 << 10];
                let mut here = 0;
                while let Ok(read @ 1..) = from_client.read(&mut buffer).await {
                    here += read as u64;
                    counted.fetch_add(read as u64, Ordering::Relaxed);
                    if to_server.write_all(&buffer[..read]).await.is_err() {
                        break;
                    }
                    let may_break = |left: usize| left.checked_sub(1);
                    if here > after
                        && left
                            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, may_break)
                            .is_ok()
                    {
                        answers.abort();
                        return;
                    }
                }
                drop(to_server);
                let _ = answers.await;
            });
        }
    });
    (address, passed)
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upload_goes_on_after_a_line_broke() {
    let (server, address, token) = world().await;
    let (line, passed) = breaking_line(address, 5 << 20, 4).await;
    let size = 24 << 20;
    let original = image(&[noise(7, size)]);
    let folder = tempfile::tempdir().unwrap();
    write_layout(folder.path(), &original);
    let image = OciImage::from_layout(folder.path(), Some("v1")).unwrap();
    let to = registry(&line, "shop", &token);
    let push = to.push(&image, Some("v1"), &[]);
    let pushed = tokio::time::timeout(Duration::from_secs(120), push)
        .await
        .unwrap()
        .unwrap();
    assert_eq!(pushed.digest, original.digest());
    let bytes = pulled(&server, &format!("shop/blobs/{}", image.blobs[1].digest)).await;
    assert!(bytes == noise(7, size));
    // Not from the beginning each time: that would have been 20 MB more.
    let passed = passed.load(Ordering::Relaxed);
    assert!(passed < (size as u64) + (12 << 20), "{passed}");
}

#[tokio::test]
async fn a_refusal_says_what_was_refused_where_and_which_scope_lacks() {
    let (server, address, token) = world().await;
    let image = image(&[noise(1, 10)]);
    let shop = "shop".parse().unwrap();
    let viewer = server.token(Role::Viewer, Some(&shop)).await;
    let refused = registry(&address, "shop", &viewer)
        .push(&image, None, &[])
        .await;
    let refused = refused.unwrap_err();
    let text = refused.to_string();
    let repository = format!("{address}/shop");
    for said in [
        &repository,
        "403",
        "DENIED",
        "viewer",
        "repository:shop:pull,push",
    ] {
        assert!(text.contains(said), "{said}: {text}");
    }
    assert!(refused.help().unwrap().contains("sign in"));
    let stranger = registry(&address, "shop", "nonsense")
        .push(&image, None, &[])
        .await;
    assert!(
        matches!(stranger, Err(PushError::Refused { status: 401, .. })),
        "{stranger:?}"
    );
    let elsewhere = registry(&address, "office", &token)
        .push(&image, None, &[])
        .await;
    assert!(elsewhere.is_err());

    // Nobody there, and somebody who is no registry.
    let port = updraft_testkit::free_port();
    let nowhere = registry(&format!("127.0.0.1:{port}"), "shop", &token);
    let unreachable =
        tokio::time::timeout(Duration::from_secs(90), nowhere.push(&image, None, &[]));
    assert!(matches!(
        unreachable.await.unwrap(),
        Err(PushError::Unreachable { .. })
    ));
}

/// Debian's, which is of another family.
struct OtherRegistry {
    process: Child,
    _folder: TempDir,
}

impl Drop for OtherRegistry {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn another_registry_takes_them_as_well() {
    if Command::new("docker-registry")
        .arg("--version")
        .output()
        .is_err()
    {
        return skipped(
            "a push to another registry",
            "docker-registry is not installed",
        );
    }
    let folder = tempfile::tempdir().unwrap();
    let address = format!("127.0.0.1:{}", updraft_testkit::free_port());
    let config = folder.path().join("config.yml");
    let data = folder.path().join("data");
    let text = format!(
        "version: 0.1\nstorage: {{filesystem: {{rootdirectory: {}}}}}\nhttp: {{addr: '{address}'}}\n",
        data.display()
    );
    fs::write(&config, text).unwrap();
    let child = Command::new("docker-registry")
        .arg("serve")
        .arg(&config)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let _other = OtherRegistry {
        process: child,
        _folder: folder,
    };
    while TcpStream::connect(&address).await.is_err() {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let (line, _) = breaking_line(address.clone(), 5 << 20, 2).await;
    let pushed = image(&[noise(1, 12 << 20), noise(2, 100), Vec::new()]);
    let to = registry(&line, "acme/airflow", "");
    let first = to.push(&pushed, Some("v1"), &[]).await.unwrap();
    assert_eq!((first.sent, first.skipped), (4, 0));
    let again = registry(&address, "acme/airflow", "");
    assert_eq!(again.push(&pushed, Some("v2"), &[]).await.unwrap().sent, 0);
    let from = ["acme/airflow".to_owned()];
    let other = registry(&address, "acme/other", "");
    assert_eq!(
        other
            .push(&pushed, Some("v1"), &from)
            .await
            .unwrap()
            .mounted,
        4
    );
}

#[test]
fn a_layout_that_is_none_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let read = |name| {
        OciImage::from_layout(folder.path(), name)
            .unwrap_err()
            .to_string()
    };
    assert!(read(None).contains("index.json"));
    let image = image(&[noise(1, 10)]);
    write_layout(folder.path(), &image);
    assert!(read(Some("v2")).contains("no such image"));
    let manifest = folder
        .path()
        .join("blobs/sha256")
        .join(image.digest().hex());
    fs::write(manifest, "{}").unwrap();
    assert!(read(None).contains(&image.digest().to_string()));
}
