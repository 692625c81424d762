//! The registry at `/v2/`, asked as OCI clients do, and as those do that mean no good.
#![expect(clippy::unwrap_used, reason = "a test ends where something fails")]

mod process;

use std::fs;
use std::time::Duration;

use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use updraft_api::ErrorCode;
use updraft_api::deploy::PlanRequest;
use updraft_api::deployment::DeploymentSettings;
use updraft_model::{Digest, Role, Runtime};
use updraft_server::{Server, backup, init_admin, restore};
use updraft_testkit::{SmallDisk, TestServer};

use crate::process::{Process, config};

const IMAGE: &str = "application/vnd.oci.image.manifest.v1+json";
const INDEX: &str = "application/vnd.oci.image.index.v1+json";

/// Somebody who asks a registry.
#[derive(Clone)]
struct Guest {
    http: reqwest::Client,
    url: String,
    token: String,
}

/// What came back.
#[derive(Debug)]
struct Answer {
    status: StatusCode,
    headers: reqwest::header::HeaderMap,
    body: Vec<u8>,
}

impl Answer {
    #[track_caller]
    fn is(self, status: u16) -> Self {
        assert_eq!(self.status.as_u16(), status, "{}", self.text());
        self
    }

    /// The code of an error; its message has to be a sentence.
    #[track_caller]
    fn refused(self, status: u16, code: &str) -> String {
        let answer = self.is(status);
        let error = answer.json()["errors"][0].clone();
        assert_eq!(error["code"], code, "{error}");
        let message = error["message"].as_str().unwrap();
        assert!(message.len() > 20, "{message}");
        message.to_owned()
    }

    fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap()
    }

    #[track_caller]
    fn header(&self, name: &str) -> String {
        let value = self.headers.get(name);
        let value = value.unwrap_or_else(|| panic!("no {name} in {self:?}"));
        value.to_str().unwrap().to_owned()
    }
}

impl Guest {
    fn new(server: &TestServer, token: impl Into<String>) -> Self {
        Self::at(&server.url(), token)
    }

    fn at(url: &str, token: impl Into<String>) -> Self {
        Self {
            http: reqwest::Client::new(),
            url: url.to_owned(),
            token: token.into(),
        }
    }

    fn admin(server: &TestServer) -> Self {
        Self::new(server, server.admin_token())
    }

    async fn ask_with(
        &self,
        method: Method,
        path: &str,
        headers: &[(&str, &str)],
        body: impl Into<reqwest::Body>,
    ) -> Answer {
        let mut request = self
            .http
            .request(method, format!("{}{path}", self.url))
            .basic_auth("anybody", Some(&self.token))
            .body(body);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        Self::send(request).await
    }

    async fn send(request: reqwest::RequestBuilder) -> Answer {
        let response = request.send().await.unwrap();
        Answer {
            status: response.status(),
            headers: response.headers().clone(),
            body: response.bytes().await.unwrap().into(),
        }
    }

    async fn ask(&self, method: Method, path: &str) -> Answer {
        self.ask_with(method, path, &[], "").await
    }

    async fn get(&self, path: &str) -> Answer {
        self.ask(Method::GET, path).await
    }

    async fn push_blob(&self, repository: &str, content: &[u8]) -> Answer {
        let digest = Digest::of(content);
        let path = format!("/v2/{repository}/blobs/uploads/?digest={digest}");
        self.ask_with(Method::POST, &path, &[], content.to_vec())
            .await
    }

    async fn begin(&self, repository: &str) -> String {
        let path = format!("/v2/{repository}/blobs/uploads/");
        let begun = self.ask(Method::POST, &path).await.is(202);
        begun.header("location")
    }

    async fn put_manifest(&self, repository: &str, reference: &str, manifest: &Value) -> Answer {
        let path = format!("/v2/{repository}/manifests/{reference}");
        let media_type = manifest["mediaType"].as_str().unwrap();
        let headers = [("content-type", media_type)];
        self.ask_with(Method::PUT, &path, &headers, manifest.to_string())
            .await
    }

    /// Pushes an image of one layer, and says what its manifest is.
    async fn push_image(&self, repository: &str, reference: &str, layer: &str) -> Value {
        for content in ["{}", layer] {
            self.push_blob(repository, content.as_bytes()).await.is(201);
        }
        let manifest = image(layer);
        self.put_manifest(repository, reference, &manifest)
            .await
            .is(201);
        manifest
    }
}

fn descriptor(media_type: &str, content: &str) -> Value {
    json!({
        "mediaType": media_type,
        "digest": Digest::of(content.as_bytes()).to_string(),
        "size": content.len(),
    })
}

fn image(layer: &str) -> Value {
    json!({
        "schemaVersion": 2,
        "mediaType": IMAGE,
        "config": descriptor("application/vnd.oci.image.config.v1+json", "{}"),
        "layers": [descriptor("application/vnd.oci.image.layer.v1.tar", layer)],
    })
}

fn digest(manifest: &Value) -> Digest {
    Digest::of(manifest.to_string().as_bytes())
}

/// A body that does not say how long it is.
fn in_chunks(chunks: Vec<Vec<u8>>) -> reqwest::Body {
    let chunks = chunks.into_iter().map(Ok::<_, std::io::Error>);
    reqwest::Body::wrap_stream(futures_util::stream::iter(chunks))
}

async fn world() -> (TestServer, Guest) {
    let server = TestServer::start().await;
    server.deployment("shop").await;
    let admin = Guest::admin(&server);
    (server, admin)
}

#[tokio::test]
async fn an_image_is_pulled_as_it_was_pushed() {
    let (_server, admin) = world().await;
    let manifest = admin.push_image("shop/airflow", "v1", "layer").await;
    for reference in ["v1".to_owned(), digest(&manifest).to_string()] {
        let path = format!("/v2/shop/airflow/manifests/{reference}");
        let pulled = admin.get(&path).await.is(200);
        assert_eq!(pulled.text(), manifest.to_string());
        assert_eq!(pulled.header("content-type"), IMAGE);
        let looked = admin.ask(Method::HEAD, &path).await.is(200);
        assert_eq!(
            looked.header("docker-content-digest"),
            digest(&manifest).to_string()
        );
        assert_eq!(
            looked.header("content-length"),
            manifest.to_string().len().to_string()
        );
    }
    let path = format!("/v2/shop/airflow/blobs/{}", Digest::of(b"layer"));
    assert_eq!(admin.get(&path).await.is(200).text(), "layer");
    let part = admin
        .ask_with(Method::GET, &path, &[("range", "bytes=1-2")], "")
        .await
        .is(206);
    assert_eq!(
        (part.text().as_str(), part.header("content-range").as_str()),
        ("ay", "bytes 1-2/5")
    );
    admin
        .ask_with(Method::GET, &path, &[("range", "bytes=9-")], "")
        .await
        .refused(416, "SIZE_INVALID");

    for tag in ["v3", "V2", "v10"] {
        admin
            .put_manifest("shop/airflow", tag, &manifest)
            .await
            .is(201);
    }
    let tags = admin.get("/v2/shop/airflow/tags/list").await.is(200).json();
    assert_eq!(
        tags,
        json!({"name": "shop/airflow", "tags": ["V2", "v1", "v10", "v3"]})
    );
    let page = admin
        .get("/v2/shop/airflow/tags/list?n=2&last=V2")
        .await
        .is(200);
    assert_eq!(page.json()["tags"], json!(["v1", "v10"]));
    let link = page.header("link");
    assert_eq!(
        link,
        "</v2/shop/airflow/tags/list?n=2&last=v10>; rel=\"next\""
    );
}

#[tokio::test]
async fn referrers_are_listed_and_filtered() {
    let (_server, admin) = world().await;
    let subject = admin.push_image("shop", "v1", "layer").await;
    let mut signature = image("layer");
    signature["subject"] = json!({
        "mediaType": IMAGE, "digest": digest(&subject).to_string(), "size": subject.to_string().len(),
    });
    signature["artifactType"] = "application/x.signature".into();
    signature["annotations"] = json!({"by": "me"});
    let reference = digest(&signature).to_string();
    let put = admin
        .put_manifest("shop", &reference, &signature)
        .await
        .is(201);
    assert_eq!(put.header("oci-subject"), digest(&subject).to_string());

    let path = format!("/v2/shop/referrers/{}", digest(&subject));
    let all = admin.get(&path).await.is(200);
    assert_eq!(all.header("content-type"), INDEX);
    let found = &all.json()["manifests"][0];
    assert_eq!(found["digest"], reference);
    assert_eq!(found["artifactType"], "application/x.signature");
    assert_eq!(found["annotations"]["by"], "me");
    let other = admin
        .get(&format!("{path}?artifactType=application%2Fx.other"))
        .await
        .is(200);
    assert_eq!(other.header("oci-filters-applied"), "artifactType");
    assert_eq!(other.json()["manifests"], json!([]));
    let nobody = format!("/v2/shop/referrers/{}", Digest::of(b"nobody"));
    assert_eq!(
        admin.get(&nobody).await.is(200).json()["manifests"],
        json!([])
    );
}

#[tokio::test]
async fn an_upload_in_parts_goes_on_where_it_stopped() {
    let (_server, admin) = world().await;
    let at = admin.begin("shop").await;
    let part = |range: &'static str, text: &'static str| {
        let (admin, at) = (admin.clone(), at.clone());
        async move {
            let headers = [("content-range", range)];
            admin.ask_with(Method::PATCH, &at, &headers, text).await
        }
    };
    let taken = part("0-2", "lay").await.is(202);
    assert_eq!(taken.header("range"), "0-2");
    // One that was sent again, and one that leaves something out.
    for (range, text) in [("0-2", "lay"), ("4-4", "r")] {
        let refused = part(range, text).await;
        assert_eq!(refused.header("range"), "0-2");
        refused.refused(416, "BLOB_UPLOAD_INVALID");
    }
    part("3-9", "er").await.refused(400, "SIZE_INVALID");
    part("x", "er").await.refused(400, "BLOB_UPLOAD_INVALID");
    let status = admin.get(&at).await.is(204);
    assert_eq!(
        (status.header("range"), status.header("location")),
        ("0-2".into(), at.clone())
    );
    let digest = Digest::of(b"layer");
    let end = format!("{at}?digest={digest}");
    let made = admin.ask_with(Method::PUT, &end, &[], "er").await.is(201);
    let location = format!("/v2/shop/blobs/{digest}");
    assert_eq!(made.header("location"), location);
    assert_eq!(admin.get(&location).await.is(200).text(), "layer");
    // It has ended.
    for method in [Method::GET, Method::PATCH, Method::PUT, Method::DELETE] {
        let gone = admin.ask(method, &end).await;
        gone.refused(404, "BLOB_UPLOAD_UNKNOWN");
    }

    let cancelled = admin.begin("shop").await;
    admin
        .ask_with(Method::PATCH, &cancelled, &[], "layer")
        .await
        .is(202);
    admin.ask(Method::DELETE, &cancelled).await.is(204);
    admin
        .get(&cancelled)
        .await
        .refused(404, "BLOB_UPLOAD_UNKNOWN");
}

/// The files that uploads left.
fn uploads(server: &TestServer) -> usize {
    let folder = server.data_dir().join("blobs/uploads");
    fs::read_dir(folder).map_or(0, Iterator::count)
}

#[tokio::test]
async fn what_has_another_digest_leaves_nothing() {
    let (server, admin) = world().await;
    let digest = Digest::of(b"layer");
    let at_once = format!("/v2/shop/blobs/uploads/?digest={digest}");
    let wrong = admin.ask_with(Method::POST, &at_once, &[], "other").await;
    wrong.refused(400, "DIGEST_INVALID");
    let at = admin.begin("shop").await;
    admin.ask_with(Method::PATCH, &at, &[], "oth").await.is(202);
    let wrong = admin
        .ask_with(Method::PUT, &format!("{at}?digest={digest}"), &[], "er")
        .await;
    let message = wrong.refused(400, "DIGEST_INVALID");
    assert!(message.contains(&digest.to_string()), "{message}");
    admin.get(&at).await.refused(404, "BLOB_UPLOAD_UNKNOWN");
    admin
        .get(&format!("/v2/shop/blobs/{digest}"))
        .await
        .refused(404, "BLOB_UNKNOWN");
    let at = admin.begin("shop").await;
    for query in ["", "?digest=", "?digest=sha256:x", "?digest=md5:00"] {
        let refused = admin.ask(Method::PUT, &format!("{at}{query}")).await;
        refused.refused(400, "DIGEST_INVALID");
    }
    assert_eq!(uploads(&server), 0);
}

#[tokio::test]
async fn a_manifest_is_taken_only_with_all_that_it_names() {
    let (_server, admin) = world().await;
    let manifest = image("layer");
    let lacking = admin.put_manifest("shop", "v1", &manifest).await;
    assert!(lacking.text().contains(&Digest::of(b"{}").to_string()));
    lacking.refused(404, "MANIFEST_BLOB_UNKNOWN");
    admin.push_image("shop", "v1", "layer").await;

    let mut other_size = manifest.clone();
    other_size["layers"][0]["size"] = 6.into();
    let refused = admin.put_manifest("shop", "v2", &other_size).await;
    refused.refused(400, "MANIFEST_INVALID");
    let wrong = Digest::of(b"x").to_string();
    let refused = admin.put_manifest("shop", &wrong, &manifest).await;
    refused.refused(400, "DIGEST_INVALID");
    let refused = admin.put_manifest("shop", "v%2F1", &manifest).await;
    refused.refused(400, "TAG_INVALID");
    let path = "/v2/shop/manifests/v2";
    for (media_type, body) in [
        ("application/json", manifest.to_string()),
        ("", manifest.to_string()),
        (INDEX, manifest.to_string()),
        (IMAGE, "{".into()),
        (IMAGE, "[".repeat(100_000)),
        (IMAGE, String::new()),
    ] {
        let headers = [("content-type", media_type)];
        let refused = admin.ask_with(Method::PUT, path, &headers, body).await;
        refused.refused(400, "MANIFEST_INVALID");
    }
    let mut huge = manifest.clone();
    huge["annotations"] = json!({ "a": "x".repeat(5 << 20) });
    let refused = admin.put_manifest("shop", "v2", &huge).await;
    refused.refused(413, "SIZE_INVALID");
    // Also one that does not say how large it is.
    let body = in_chunks(vec![vec![b' '; 1 << 20]; 5]);
    let headers = [("content-type", IMAGE)];
    let refused = admin.ask_with(Method::PUT, path, &headers, body).await;
    refused.refused(413, "SIZE_INVALID");
    huge["annotations"] = json!({ "a": "x".repeat(3 << 20) });
    admin.put_manifest("shop", "v2", &huge).await.is(201);
}

#[tokio::test]
async fn a_role_does_what_it_may_and_others_are_not_told_that_there_is_something() {
    let (server, admin) = world().await;
    server.deployment("office").await;
    let manifest = admin.push_image("shop/airflow", "v1", "layer").await;
    let (shop, office) = ("shop".parse().unwrap(), "office".parse().unwrap());
    let manifest_path = format!("/v2/shop/airflow/manifests/{}", digest(&manifest));
    let blob_path = format!("/v2/shop/airflow/blobs/{}", Digest::of(b"layer"));

    for (role, may_push) in [
        (Role::Viewer, false),
        (Role::Agent, false),
        (Role::Deployer, true),
    ] {
        let guest = Guest::new(&server, server.token(role, Some(&shop)).await);
        guest.get(&manifest_path).await.is(200);
        guest.get(&blob_path).await.is(200);
        let pushed = guest.push_blob("shop/airflow", b"more").await;
        if may_push {
            pushed.is(201);
        } else {
            let message = pushed.refused(403, "DENIED");
            assert!(message.contains(role.name()), "{message}");
        }
        for path in [&manifest_path, &blob_path] {
            guest.ask(Method::DELETE, path).await.refused(403, "DENIED");
        }
    }

    // Another Deployment's token sees what somebody sees who asks for nothing that is there.
    let other = Guest::new(&server, server.token(Role::Admin, Some(&office)).await);
    let at = admin.begin("shop/airflow").await;
    for (method, path) in [
        (Method::GET, "/v2/shop/airflow/tags/list".to_owned()),
        (Method::GET, manifest_path.clone()),
        (Method::HEAD, blob_path.clone()),
        (Method::GET, blob_path.clone()),
        (Method::DELETE, blob_path.clone()),
        (Method::POST, "/v2/shop/airflow/blobs/uploads/".to_owned()),
        (Method::PATCH, at.clone()),
        (Method::GET, at.clone()),
        (Method::DELETE, at.clone()),
        (
            Method::GET,
            format!("/v2/shop/airflow/referrers/{}", digest(&manifest)),
        ),
    ] {
        let hidden = other.ask(method.clone(), &path).await;
        let nothing = other
            .ask(method.clone(), &path.replace("shop", "shed"))
            .await;
        assert_eq!(hidden.status, StatusCode::NOT_FOUND, "{path}");
        assert_eq!(hidden.text(), nothing.text().replace("shed", "shop"));
        if method != Method::HEAD {
            hidden.refused(404, "NAME_UNKNOWN");
        }
    }
    // An upload belongs to its repository.
    let elsewhere = at.replace("shop/airflow", "office");
    other
        .ask(Method::PATCH, &elsewhere)
        .await
        .refused(404, "BLOB_UPLOAD_UNKNOWN");

    // Without a token, and with what is none.
    for token in ["", "nonsense"] {
        let nobody = Guest::new(&server, token);
        let refused = nobody.get("/v2/shop/airflow/tags/list").await;
        assert_eq!(
            refused.header("www-authenticate"),
            format!(
                "Bearer realm=\"{0}/v2/token\",service=\"{1}\",scope=\"repository:shop/airflow:pull\"",
                server.url(),
                server.url().trim_start_matches("http://")
            )
        );
        refused.refused(401, "UNAUTHORIZED");
        nobody.get("/v2/").await.refused(401, "UNAUTHORIZED");
        nobody.get("/v2/token").await.refused(401, "UNAUTHORIZED");
    }
}

#[tokio::test]
async fn blobs_are_mounted_only_from_where_the_caller_may_pull() {
    let (server, admin) = world().await;
    server.deployment("office").await;
    let secret = Digest::of(b"secret");
    admin.push_blob("shop/airflow", b"secret").await.is(201);
    let mount = |to: &str, from: &str| format!("/v2/{to}/blobs/uploads/?mount={secret}{from}");
    let office = "office".parse().unwrap();
    let other = Guest::new(&server, server.token(Role::Deployer, Some(&office)).await);
    for from in [
        "&from=shop/airflow",
        "&from=shop%2Fairflow",
        "",
        "&from=shed",
        "&from=../shop",
    ] {
        other
            .ask(Method::POST, &mount("office", from))
            .await
            .is(202);
    }
    other
        .get(&format!("/v2/office/blobs/{secret}"))
        .await
        .refused(404, "BLOB_UNKNOWN");

    for (to, from) in [("office", "&from=shop/airflow"), ("shop/other", "")] {
        admin.ask(Method::POST, &mount(to, from)).await.is(201);
        let path = format!("/v2/{to}/blobs/{secret}");
        assert_eq!(admin.get(&path).await.is(200).text(), "secret");
    }
    // What another has under this digest comes by itself when it is not there to mount.
    let none = format!(
        "/v2/shop/blobs/uploads/?mount={}&from=shop/airflow",
        Digest::of(b"none")
    );
    admin.ask(Method::POST, &none).await.is(202);
}

#[tokio::test]
async fn a_short_lived_token_is_for_what_was_asked_and_for_nothing_else() {
    let (server, admin) = world().await;
    admin.push_blob("shop", b"layer").await.is(201);
    let shop = "shop".parse().unwrap();
    let viewer = Guest::new(&server, server.token(Role::Viewer, Some(&shop)).await);
    let pass = async |guest: &Guest, scope: &str| {
        let path = format!("/v2/token?service=x&scope={scope}");
        guest.get(&path).await.is(200).json()["token"]
            .as_str()
            .unwrap()
            .to_owned()
    };
    let ask = async |token: &str, method: Method, path: &str| {
        let url = format!("{}{path}", server.url());
        Guest::send(admin.http.request(method, url).bearer_auth(token)).await
    };
    let blob = format!("/v2/shop/blobs/{}", Digest::of(b"layer"));
    let uploads = "/v2/shop/blobs/uploads/";

    let pull = pass(&admin, "repository:shop:pull").await;
    ask(&pull, Method::GET, &blob).await.is(200);
    // Its owner may: so another token is worth asking for.
    let refused = ask(&pull, Method::POST, uploads).await;
    assert!(
        refused
            .header("www-authenticate")
            .ends_with("scope=\"repository:shop:pull,push\"")
    );
    refused.refused(401, "UNAUTHORIZED");
    let exchange = "/v2/token?scope=repository:shop:push";
    let more = ask(&pull, Method::GET, exchange).await.is(200).json();
    let more = more["token"].as_str().unwrap().to_owned();
    ask(&more, Method::POST, uploads)
        .await
        .refused(401, "UNAUTHORIZED");
    let all = pass(&viewer, "repository:shop:*").await;
    ask(&all, Method::GET, &blob).await.is(200);
    ask(&all, Method::POST, uploads)
        .await
        .refused(403, "DENIED");
    let push = pass(&admin, "repository:shop:pull,push repository:office:pull").await;
    ask(&push, Method::POST, uploads).await.is(202);
    // A mount needs two repositories, and says so.
    server.deployment("office").await;
    admin.push_blob("office", b"elsewhere").await.is(201);
    let one = pass(&admin, "repository:shop:pull,push").await;
    let mount = format!("{uploads}?mount={}&from=office", Digest::of(b"elsewhere"));
    let refused = ask(&one, Method::POST, &mount).await.is(401);
    let both = "repository:shop:pull,push repository:office:pull";
    assert!(refused.header("www-authenticate").contains(both));
    let both = pass(&admin, &both.replace(' ', "%20")).await;
    ask(&both, Method::POST, &mount).await.is(201);

    // It opens nothing else of the control plane.
    let api = ask(&push, Method::GET, "/api/v1/whoami").await;
    assert_eq!(api.is(401).json()["code"], "token_malformed");
    // It ends with its own time, and with the token that it was made of.
    server.advance_clock(chrono::Duration::hours(2));
    ask(&push, Method::GET, &blob)
        .await
        .refused(401, "UNAUTHORIZED");
    let again = pass(&viewer, "repository:shop:pull").await;
    ask(&again, Method::GET, &blob).await.is(200);
    let tokens = server.as_admin().tokens().await.unwrap();
    let owner = tokens
        .tokens
        .iter()
        .find(|token| token.role == Role::Viewer)
        .unwrap();
    server.as_admin().revoke_token(owner.id).await.unwrap();
    let revoked = ask(&again, Method::GET, &blob)
        .await
        .refused(401, "UNAUTHORIZED");
    assert!(revoked.contains("revoked"), "{revoked}");

    // As OAuth 2 has it.
    let form = format!(
        "grant_type=password&username=x&password={}&scope=repository%3Ashop%3Apull",
        server.admin_token()
    );
    let headers = [("content-type", "application/x-www-form-urlencoded")];
    let nobody = Guest::new(&server, "");
    let given = nobody
        .ask_with(Method::POST, "/v2/token", &headers, form)
        .await
        .is(200);
    let token = given.json()["access_token"].as_str().unwrap().to_owned();
    ask(&token, Method::GET, &blob).await.is(200);
}

#[tokio::test]
async fn names_that_lead_elsewhere_lead_nowhere() {
    let (server, admin) = world().await;
    let address = server.url().trim_start_matches("http://").to_owned();
    for path in [
        "/v2/../etc/blobs/uploads/",
        "/v2/shop/../../etc/tags/list",
        "/v2/shop/%2e%2e/office/tags/list",
        "/v2/shop%2f..%2foffice/tags/list",
        "/v2/Shop/tags/list",
        "/v2/shop//x/tags/list",
        "/v2/shop/blobs/../../x",
        "/v2/shop/blobs/uploads/..%2f..%2fkeys",
        "/v2/shop/manifests/..",
        "/v2/_catalog",
        "/v2",
        "/v2/shop",
        "/v2/shop/blobs/uploads/upl_0000/../x",
    ] {
        // As it stands: clients tidy their addresses.
        let mut stream = TcpStream::connect(&address).await.unwrap();
        let request = format!(
            "GET {path} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {}\r\nconnection: close\r\n\r\n",
            admin.token
        );
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        let status: u16 = answer[9..12].parse().unwrap();
        assert!((400..500).contains(&status), "{path}: {answer}");
        assert!(answer.contains("\"errors\":[{\"code\""), "{path}: {answer}");
    }
    let wrong = admin.ask(Method::PUT, "/v2/shop/tags/list").await;
    wrong.refused(405, "UNSUPPORTED");
}

#[tokio::test]
async fn a_quota_is_said_before_bytes_come_and_frees_what_came() {
    let server = TestServer::start_with(|config| config.registry_quota = Some(3 << 20)).await;
    server.deployment("shop").await;
    server.deployment("office").await;
    let admin = Guest::admin(&server);
    let two = vec![1; 2 << 20];
    admin.push_blob("shop/a", &two).await.is(201);
    // The same bytes in another repository take up no more.
    admin.push_blob("shop/b", &two).await.refused(403, "DENIED");
    let mount = format!("/v2/shop/b/blobs/uploads/?mount={}", Digest::of(&two));
    admin.ask(Method::POST, &mount).await.is(201);

    let more = vec![2; 2 << 20];
    let message = admin
        .push_blob("shop/a", &more)
        .await
        .refused(403, "DENIED");
    let numbers = [(2 << 20).to_string(), (3 << 20).to_string()];
    assert!(
        numbers.iter().all(|n| message.contains(n.as_str())),
        "{message}"
    );
    let at = admin.begin("shop/a").await;
    let half = vec![3; 1 << 19];
    admin
        .ask_with(Method::PATCH, &at, &[], half.clone())
        .await
        .is(202);
    // Also where nobody says how much will come.
    let body = in_chunks(vec![half.clone(); 4]);
    let refused = admin.ask_with(Method::PATCH, &at, &[], body).await;
    refused.refused(403, "DENIED");
    admin.get(&at).await.refused(404, "BLOB_UPLOAD_UNKNOWN");
    assert_eq!(uploads(&server), 0);

    // Uploads count as what came of them; another Deployment's do not.
    let at = admin.begin("shop/a").await;
    admin
        .ask_with(Method::PATCH, &at, &[], half.clone())
        .await
        .is(202);
    let refused = admin.push_blob("shop/a", &vec![4; 1 << 20]).await;
    refused.refused(403, "DENIED");
    admin.push_blob("office", &more).await.is(201);
    admin.ask(Method::DELETE, &at).await.is(204);
    admin.push_blob("shop/a", &vec![4; 1 << 20]).await.is(201);
    // A manifest is something too.
    let empty = json!({"schemaVersion": 2, "mediaType": INDEX, "manifests": []});
    admin
        .put_manifest("shop/a", "v1", &empty)
        .await
        .refused(403, "DENIED");
}

#[tokio::test]
async fn there_are_only_so_many_uploads_and_they_expire() {
    let (server, admin) = world().await;
    let at = admin.begin("shop").await;
    admin
        .ask_with(Method::PATCH, &at, &[], "layer")
        .await
        .is(202);
    for _ in 1..100 {
        admin.begin("shop").await;
    }
    let more = admin.ask(Method::POST, "/v2/shop/blobs/uploads/").await;
    more.refused(429, "TOOMANYREQUESTS");
    server.advance_clock(chrono::Duration::minutes(50));
    admin
        .ask_with(Method::PATCH, &at, &[], "more")
        .await
        .is(202);
    server.advance_clock(chrono::Duration::minutes(50));
    server.running().expire_uploads().await.unwrap();
    admin.begin("shop").await;
    assert_eq!(admin.get(&at).await.is(204).header("range"), "0-8");
    server.advance_clock(chrono::Duration::minutes(50));
    server.running().expire_uploads().await.unwrap();
    let gone = admin.ask_with(Method::PATCH, &at, &[], "x").await;
    gone.refused(404, "BLOB_UPLOAD_UNKNOWN");
    assert_eq!(uploads(&server), 0);
}

async fn collect(server: &TestServer) {
    server.running().collect_garbage().await.unwrap();
}

#[tokio::test]
async fn garbage_goes_and_nothing_that_somebody_needs() {
    let (server, admin) = world().await;
    let is_there = async |repository: &str, content: &str| {
        let path = format!("/v2/{repository}/blobs/{}", Digest::of(content.as_bytes()));
        admin.get(&path).await.status == StatusCode::OK
    };
    // An index that is tagged, its image, and a signature of that.
    let image = admin.push_image("shop/a", "temporary", "layer").await;
    let index = json!({
        "schemaVersion": 2, "mediaType": INDEX,
        "manifests": [descriptor(IMAGE, &image.to_string())],
    });
    admin.put_manifest("shop/a", "all", &index).await.is(201);
    admin
        .ask(Method::DELETE, "/v2/shop/a/manifests/temporary")
        .await
        .is(202);
    admin.push_blob("shop/a", b"signature").await.is(201);
    let mut signature = self::image("signature");
    signature["subject"] = descriptor(IMAGE, &image.to_string());
    let reference = digest(&signature).to_string();
    admin
        .put_manifest("shop/a", &reference, &signature)
        .await
        .is(201);
    // Nobody reaches these.
    let old = admin.push_image("shop/a", "moved", "old").await;
    admin.push_image("shop/a", "moved", "new").await;
    admin.push_blob("shop/a", b"forgotten").await.is(201);
    // Here somebody is just pushing.
    admin.push_blob("shop/b", b"first of two").await.is(201);
    let at = admin.begin("shop/b").await;
    admin
        .ask_with(Method::PATCH, &at, &[], "second")
        .await
        .is(202);

    collect(&server).await;
    for content in ["layer", "signature", "new", "{}"] {
        assert!(is_there("shop/a", content).await, "{content}");
    }
    admin
        .get(&format!("/v2/shop/a/manifests/{reference}"))
        .await
        .is(200);
    for content in ["old", "forgotten"] {
        assert!(!is_there("shop/a", content).await, "{content}");
    }
    let old = format!("/v2/shop/a/manifests/{}", digest(&old));
    admin.get(&old).await.refused(404, "MANIFEST_UNKNOWN");
    assert!(is_there("shop/b", "first of two").await);
    let end = format!("{at}?digest={}", Digest::of(b"second"));
    admin.ask(Method::PUT, &end).await.is(201);

    // What is needed is not deleted either.
    let needed = format!("/v2/shop/a/manifests/{}", digest(&image));
    admin
        .ask(Method::DELETE, &needed)
        .await
        .refused(409, "DENIED");
    let layer = format!("/v2/shop/a/blobs/{}", Digest::of(b"layer"));
    admin
        .ask(Method::DELETE, &layer)
        .await
        .refused(409, "DENIED");
    // With its subject a referrer goes too, and with the last row the bytes.
    let index = format!("/v2/shop/a/manifests/{}", digest(&index));
    admin.ask(Method::DELETE, &index).await.is(202);
    collect(&server).await;
    for content in ["layer", "signature"] {
        assert!(!is_there("shop/a", content).await, "{content}");
        let hex = Digest::of(content.as_bytes()).hex();
        let bytes = server
            .data_dir()
            .join("blobs/sha256")
            .join(&hex[..2])
            .join(&hex);
        assert!(!bytes.exists(), "{content}");
    }
    assert!(!is_there("shop/b", "second").await);

    // And all of a Deployment's with the Deployment.
    let shop = "shop".parse().unwrap();
    server
        .as_admin()
        .delete_deployment(&shop, true)
        .await
        .unwrap();
    collect(&server).await;
    server.deployment("shop").await;
    admin
        .get("/v2/shop/a/tags/list")
        .await
        .refused(404, "NAME_UNKNOWN");
    assert!(!is_there("shop/a", "new").await);
}

#[tokio::test]
async fn the_image_of_a_kept_release_stays() {
    let (server, admin) = world().await;
    let shop = "shop".parse().unwrap();
    let containers = DeploymentSettings {
        runtime: Some(Runtime::Container),
        ..DeploymentSettings::default()
    };
    let client = server.as_admin();
    let updated = client.update_deployment(&shop, &containers);
    updated.await.unwrap();
    // The tags of deploys are for the way: they keep nothing.
    let kept = admin.push_image("shop", "updraft-1", "kept").await;
    let other = admin.push_image("shop", "updraft-2", "other").await;
    let image = updraft_testkit::container_image(&format!("shop@{}", digest(&kept)), "linux/amd64");
    let dags = updraft_testkit::Tree::of([("a.py", "one")]);
    let deploy = server.deploy(&shop, Some(&dags), Some(&image)).await;
    let runs_in = deploy.release.unwrap().image;
    assert_eq!(
        runs_in.container().unwrap().to_string(),
        format!("shop@{}", digest(&kept))
    );
    let path = |image: &Value| format!("/v2/shop/manifests/{}", digest(image));
    admin
        .ask(Method::DELETE, &path(&kept))
        .await
        .refused(409, "DENIED");
    collect(&server).await;
    admin.get(&path(&kept)).await.is(200);
    for content in ["{}", "kept"] {
        let blob = Digest::of(content.as_bytes());
        admin.get(&format!("/v2/shop/blobs/{blob}")).await.is(200);
    }
    admin
        .get(&path(&other))
        .await
        .refused(404, "MANIFEST_UNKNOWN");
    // And what is known of it, without which no Release can be compared.
    for digest in image.blobs.keys() {
        server.as_admin().blob(&shop, *digest).await.unwrap();
    }
}

/// Whoever is for the second Deployment alone never sees the first one's repositories.
#[tokio::test]
async fn an_image_that_was_promoted_is_pulled_by_who_is_for_that_deployment_alone() {
    let (server, admin) = world().await;
    let containers = || DeploymentSettings {
        runtime: Some(Runtime::Container),
        ..DeploymentSettings::default()
    };
    let prod = server.deployment_with("prod", containers()).await.name;
    let shop = "shop".parse().unwrap();
    let client = server.as_admin();
    client
        .update_deployment(&shop, &containers())
        .await
        .unwrap();
    let pushed = admin
        .push_image("shop/airflow", "updraft-1", "promoted")
        .await;
    let secret = admin
        .push_image("shop/airflow", "updraft-2", "not yet")
        .await;
    let image = updraft_testkit::container_image(
        &format!("shop/airflow@{}", digest(&pushed)),
        "linux/amd64",
    );
    let dags = updraft_testkit::Tree::of([("a.py", "one")]);
    server.deploy(&shop, Some(&dags), Some(&image)).await;

    let token = server.token(Role::Agent, Some(&prod)).await;
    let agent = Guest::new(&server, token);
    let path = |image: &Value| format!("/v2/shop/airflow/manifests/{}", digest(image));
    let granted = async |guest: &Guest| {
        let scope = "/v2/token?service=x&scope=repository:shop/airflow:pull";
        guest.get(scope).await
    };
    agent.get(&path(&pushed)).await.refused(404, "NAME_UNKNOWN");
    let ask = updraft_api::deploy::PromoteRequest {
        source: updraft_api::deploy::PromotionSource {
            from: shop.clone(),
            halves: updraft_api::deploy::PromotedHalves::Both,
            allow_unproven: true,
        },
        description: String::new(),
        allow_downgrade: false,
        force: false,
        key: "promote".into(),
    };
    client.promote(&prod, &ask).await.unwrap();
    let manifest = agent.get(&path(&pushed)).await.is(200);
    assert_eq!(manifest.text(), pushed.to_string());
    let pull = async || {
        agent.get(&path(&pushed)).await.is(200);
        for content in ["{}", "promoted"] {
            let blob = Digest::of(content.as_bytes());
            let path = format!("/v2/shop/airflow/blobs/{blob}");
            agent.get(&path).await.is(200);
        }
    };
    pull().await;
    // Nothing else of it, neither by name nor by digest.
    agent
        .get(&path(&secret))
        .await
        .refused(404, "MANIFEST_UNKNOWN");
    let blob = Digest::of(b"not yet");
    agent
        .get(&format!("/v2/shop/airflow/blobs/{blob}"))
        .await
        .refused(404, "BLOB_UNKNOWN");
    for name in ["manifests/updraft-1", "tags/list"] {
        let path = format!("/v2/shop/airflow/{name}");
        agent.get(&path).await.refused(404, "NAME_UNKNOWN");
    }
    // As engines ask: with a token for the repository that the image is called by.
    let pass = granted(&agent).await.is(200).json();
    let pass = pass["token"].as_str().unwrap();
    let request = agent
        .http
        .get(format!("{}{}", agent.url, path(&pushed)))
        .bearer_auth(pass);
    Guest::send(request).await.is(200);

    // It outlives what it came from.
    collect(&server).await;
    pull().await;
    client.delete_deployment(&shop, true).await.unwrap();
    collect(&server).await;
    pull().await;
}

#[tokio::test]
async fn an_image_half_is_of_the_kind_that_the_runtime_runs() {
    let (server, _admin) = world().await;
    let shop = "shop".parse().unwrap();
    let client = server.as_admin();
    let container =
        updraft_testkit::container_image(&format!("shop@{}", Digest::of(b"image")), "linux/amd64");
    let environment = updraft_testkit::environment("first");
    let refused = async |image: &updraft_testkit::Tree| {
        let ask = PlanRequest {
            parts: updraft_testkit::parts(None, Some(image)),
        };
        let error = server.as_admin().plan(&shop, &ask).await.unwrap_err();
        assert_eq!(error.code(), Some(ErrorCode::ImageUnsuitable), "{error}");
        error.help().unwrap()
    };
    assert!(refused(&container).await.contains("--runtime container"));
    let containers = DeploymentSettings {
        runtime: Some(Runtime::Container),
        registry: Some("ghcr.io/acme/airflow".into()),
        ..DeploymentSettings::default()
    };
    let updated = client.update_deployment(&shop, &containers);
    let registry = updated.await.unwrap().registry;
    assert_eq!(registry.as_deref(), Some("ghcr.io/acme/airflow"));
    assert!(refused(&environment).await.contains("--runtime process"));
    for wrong in [
        "acme",
        "ghcr.io/Acme",
        "https://ghcr.io/acme",
        "ghcr.io/a:1",
    ] {
        let settings = DeploymentSettings {
            registry: Some(wrong.into()),
            ..DeploymentSettings::default()
        };
        let updated = client.update_deployment(&shop, &settings);
        let error = updated.await.unwrap_err();
        assert_eq!(error.code(), Some(ErrorCode::InvalidRequest), "{wrong}");
    }
}

#[tokio::test]
async fn an_image_for_another_platform_than_the_agents_is_not_accepted() {
    let (server, admin) = world().await;
    let shop = "shop".parse().unwrap();
    let containers = DeploymentSettings {
        runtime: Some(Runtime::Container),
        ..DeploymentSettings::default()
    };
    let client = server.as_admin();
    let updated = client.update_deployment(&shop, &containers);
    updated.await.unwrap();
    let pushed = admin.push_image("shop", "updraft-1", "made").await;
    let name = format!("shop@{}", digest(&pushed));
    let [arm, amd] = ["linux/arm64", "linux/amd64"]
        .map(|platform| updraft_testkit::container_image(&name, platform));
    let dags = updraft_testkit::Tree::of([("a.py", "one")]);

    // Whoever has heard of no agent takes any.
    server.deploy(&shop, Some(&dags), Some(&arm)).await;

    let mut agent = server.agent(&shop, "one").await;
    agent.report.platform = Some("linux/amd64".into());
    agent.send().await;
    server.deploy(&shop, None, Some(&amd)).await;
    let before = client.deployment(&shop).await.unwrap().wanted;
    let created = server
        .create(&shop, updraft_testkit::parts(None, Some(&arm)))
        .await;
    assert_eq!(created.platforms, ["linux/amd64".to_owned()].into());
    let id = created.deploy.as_ref().unwrap().id;
    server.upload(id, &created, [Some(&arm)]).await;
    let error = client.accept_deploy(id, None).await.unwrap_err();
    assert_eq!(error.code(), Some(ErrorCode::ImageUnsuitable), "{error}");
    assert!(error.to_string().contains("linux/arm64"), "{error}");
    assert!(error.help().unwrap().contains("--platform linux/amd64"));
    assert_eq!(client.deployment(&shop).await.unwrap().wanted, before);
}

#[tokio::test]
async fn a_damaged_blob_is_never_pulled_whole_and_comes_again() {
    let (server, admin) = world().await;
    let content = vec![7; 3 << 20];
    admin.push_blob("shop", &content).await.is(201);
    let digest = Digest::of(&content);
    let hex = digest.hex();
    let bytes = server
        .data_dir()
        .join("blobs/sha256")
        .join(&hex[..2])
        .join(&hex);
    let mut damaged = content.clone();
    damaged[1 << 20] = 8;
    fs::write(&bytes, &damaged).unwrap();
    let url = format!("{}/v2/shop/blobs/{digest}", server.url());
    let pulled = admin
        .http
        .get(&url)
        .bearer_auth(&admin.token)
        .send()
        .await
        .unwrap();
    assert!(pulled.bytes().await.is_err());
    let path = format!("/v2/shop/blobs/{digest}");
    admin.get(&path).await.refused(404, "BLOB_UNKNOWN");
    admin.push_blob("shop", &content).await.is(201);
    assert!(admin.get(&path).await.is(200).body == content);
}

#[tokio::test]
async fn a_full_disk_is_said_and_leaves_nothing_behind() {
    let place = tempfile::tempdir().unwrap();
    let what = "a full disk under the registry";
    let Some(_small) = SmallDisk::mount_or_skip(place.path(), "12m", what) else {
        return;
    };
    let data = place.path().join("data");
    let server = TestServer::start_with(|config| config.data_dir = data).await;
    server.deployment("shop").await;
    let admin = Guest::admin(&server);
    admin.push_image("shop", "v1", "layer").await;
    let at = admin.begin("shop").await;
    let large = vec![5; 20 << 20];
    let full = admin.ask_with(Method::PATCH, &at, &[], large.clone()).await;
    let message = full.refused(507, "BLOB_UPLOAD_INVALID");
    assert!(message.contains("full"), "{message}");
    admin
        .push_blob("shop", &large)
        .await
        .refused(507, "BLOB_UPLOAD_INVALID");
    assert_eq!(uploads(&server), 0);
    admin.get(&at).await.refused(404, "BLOB_UPLOAD_UNKNOWN");
    // What was there is, and what fits still goes.
    admin.get("/v2/shop/manifests/v1").await.is(200);
    admin.push_blob("shop", &large[..1 << 20]).await.is(201);
}

#[tokio::test]
async fn a_backup_has_the_registry_and_no_upload() {
    let (mut server, admin) = world().await;
    let manifest = admin.push_image("shop", "v1", "layer").await;
    let at = admin.begin("shop").await;
    admin
        .ask_with(Method::PATCH, &at, &[], "half")
        .await
        .is(202);
    let copy = server.folder().join("copy");
    backup(server.config(), &copy).await.unwrap();
    server.stop().await;
    let data = server.folder().join("restored");
    restore(&copy, &data).unwrap();
    let mut config = server.config().clone();
    config.data_dir = data;
    let running = Server::start(config).await.unwrap();
    let admin = Guest::at(running.url(), admin.token);
    let pulled = admin.get("/v2/shop/manifests/v1").await.is(200);
    assert_eq!(pulled.text(), manifest.to_string());
    let layer = format!("/v2/shop/blobs/{}", Digest::of(b"layer"));
    assert_eq!(admin.get(&layer).await.is(200).text(), "layer");
    // Its client is told that it begins anew.
    let rest = [("content-range", "4-4")];
    let refused = admin.ask_with(Method::PATCH, &at, &rest, "x").await;
    refused.refused(416, "BLOB_UPLOAD_INVALID");
    running.stop().await;
}

#[tokio::test]
async fn several_pushes_of_the_same_at_once_all_end_well() {
    let (_server, admin) = world().await;
    let content = vec![9; 2 << 20];
    let pushes = (0..8).map(|number| {
        let (admin, content) = (admin.clone(), content.clone());
        tokio::spawn(async move {
            let repository = format!("shop/r{}", number % 3);
            admin.push_blob(&repository, &content).await.is(201);
            let at = admin.begin(&repository).await;
            let end = format!("{at}?digest={}", Digest::of(&content));
            admin
                .ask_with(Method::PUT, &end, &[], content)
                .await
                .is(201);
        })
    });
    for push in pushes.collect::<Vec<_>>() {
        push.await.unwrap();
    }
    let path = format!("/v2/shop/r1/blobs/{}", Digest::of(&content));
    assert!(admin.get(&path).await.is(200).body == content);
}

async fn make_shop(url: &str, token: &str) {
    let made = reqwest::Client::new()
        .post(format!("{url}/api/v1/deployments"))
        .bearer_auth(token)
        .json(&json!({ "name": "shop" }))
        .send()
        .await
        .unwrap();
    assert!(made.status().is_success());
}

#[tokio::test]
async fn a_killed_server_goes_on_with_an_upload() {
    let folder = tempfile::tempdir().unwrap();
    let token = init_admin(&config(folder.path()), false)
        .await
        .unwrap()
        .secret;
    let (process, url) = Process::start(folder.path(), None).await;
    make_shop(&url, &token).await;
    let admin = Guest::at(&url, &token);
    let content: Vec<u8> = (0..8 << 20).map(|at: u32| at.to_le_bytes()[1]).collect();
    let at = admin.begin("shop").await;
    let first = content[..3 << 20].to_vec();
    admin.ask_with(Method::PATCH, &at, &[], first).await.is(202);

    // In the middle of the next part.
    let address = url.trim_start_matches("http://").to_owned();
    let mut stream = TcpStream::connect(&address).await.unwrap();
    let head = format!(
        "PATCH {at} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {token}\r\ncontent-length: {}\r\n\r\n",
        content.len() - (3 << 20)
    );
    stream.write_all(head.as_bytes()).await.unwrap();
    stream.write_all(&content[3 << 20..6 << 20]).await.unwrap();
    stream.flush().await.unwrap();
    let length = |admin: Guest, at: String| async move {
        let range = admin.get(&at).await.is(204).header("range");
        range.trim_start_matches("0-").parse::<usize>().unwrap() + 1
    };
    while length(admin.clone(), at.clone()).await <= 3 << 20 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    drop(process);

    let (_process, url) = Process::start(folder.path(), None).await;
    let admin = Guest::at(&url, &token);
    let there = length(admin.clone(), at.clone()).await;
    assert!((3 << 20..=6 << 20).contains(&there), "{there}");
    let range = format!("{there}-{}", content.len() - 1);
    let rest = content[there..].to_vec();
    let headers = [("content-range", range.as_str())];
    admin
        .ask_with(Method::PATCH, &at, &headers, rest)
        .await
        .is(202);
    let digest = Digest::of(&content);
    admin
        .ask(Method::PUT, &format!("{at}?digest={digest}"))
        .await
        .is(201);
    let path = format!("/v2/shop/blobs/{digest}");
    assert!(admin.get(&path).await.is(200).body == content);
}

#[cfg(debug_assertions)]
#[tokio::test]
async fn a_push_that_was_cut_anywhere_is_repeated_and_ends_well() {
    for failpoint in updraft_server::REGISTRY_FAILPOINTS {
        let folder = tempfile::tempdir().unwrap();
        let token = init_admin(&config(folder.path()), false)
            .await
            .unwrap()
            .secret;
        let (process, url) = Process::start(folder.path(), Some(failpoint)).await;
        make_shop(&url, &token).await;
        let push = async |url: &str| -> Result<(), reqwest::Error> {
            let http = reqwest::Client::new();
            let ask = |method: Method, path: &str| {
                http.request(method, format!("{url}{path}"))
                    .bearer_auth(&token)
            };
            for content in ["{}", "layer"] {
                let digest = Digest::of(content.as_bytes());
                let begun = ask(Method::POST, "/v2/shop/blobs/uploads/").send().await?;
                let at = begun.headers()["location"].to_str().unwrap().to_owned();
                let gone_on = ask(Method::PATCH, &at).body(content).send().await?;
                assert_eq!(gone_on.status(), 202, "{failpoint}");
                let end = format!("{at}?digest={digest}");
                let made = ask(Method::PUT, &end).send().await?;
                assert_eq!(made.status(), 201, "{failpoint}");
            }
            let manifest = ask(Method::PUT, "/v2/shop/manifests/v1")
                .header("content-type", IMAGE)
                .body(image("layer").to_string());
            assert_eq!(manifest.send().await?.status(), 201, "{failpoint}");
            Ok(())
        };
        assert!(push(&url).await.is_err(), "{failpoint} was not passed");
        drop(process);
        let (_process, url) = Process::start(folder.path(), None).await;
        push(&url).await.unwrap();
        let admin = Guest::at(&url, &token);
        assert_eq!(
            admin.get("/v2/shop/manifests/v1").await.is(200).text(),
            image("layer").to_string()
        );
        let layer = format!("/v2/shop/blobs/{}", Digest::of(b"layer"));
        assert_eq!(admin.get(&layer).await.is(200).text(), "layer");
    }
}
