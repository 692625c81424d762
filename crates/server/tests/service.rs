//! What every request gets, and how the server starts.
#![expect(clippy::unwrap_used, reason = "a test ends where something fails")]

use std::net::SocketAddr;

use reqwest::StatusCode;
use updraft_api::{ErrorBody, ErrorCode, VERSION};
use updraft_model::Digest;
use updraft_server::{InitError, Route, Server, ServerConfig, StartError, init_admin};
use updraft_testkit::TestServer;

async fn get(server: &TestServer, path: &str, headers: &[(&str, &str)]) -> reqwest::Response {
    let mut request = reqwest::Client::new().get(format!("{}{path}", server.url()));
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    request.send().await.unwrap()
}

#[tokio::test]
async fn every_answer_has_a_request_id_that_is_also_in_the_error() {
    let server = TestServer::start().await;
    let fine = get(&server, "/healthz", &[]).await;
    assert_eq!(fine.headers()["x-request-id"].len(), 32);
    assert_eq!(fine.headers()["updraft-version"], VERSION);
    let refused = get(&server, "/api/v1/whoami", &[]).await;
    assert_eq!(refused.status(), StatusCode::UNAUTHORIZED);
    let id = refused.headers()["x-request-id"]
        .to_str()
        .unwrap()
        .to_owned();
    let body: ErrorBody = refused.json().await.unwrap();
    assert_eq!(body.request_id, id);
}

#[tokio::test]
async fn clients_far_away_in_versions_are_told_where_to_get_another() {
    let server = TestServer::start().await;
    let admin = format!("Bearer {}", server.admin_token());
    for far in ["0.3.0", "1.0.0", "banana"] {
        let refused = get(
            &server,
            "/api/v1/whoami",
            &[("updraft-version", far), ("authorization", &admin)],
        )
        .await;
        assert_eq!(refused.status(), StatusCode::UPGRADE_REQUIRED);
        let body: ErrorBody = refused.json().await.unwrap();
        assert_eq!(body.code, ErrorCode::VersionSkew);
        assert!(body.help.unwrap().contains("/install"));
    }
    for near in ["0.1.7", "0.2.0", "0.0.9"] {
        let fine = get(
            &server,
            "/api/v1/whoami",
            &[("updraft-version", near), ("authorization", &admin)],
        )
        .await;
        assert_eq!(fine.status(), StatusCode::OK);
    }
}

#[tokio::test]
async fn probes_and_metrics_answer_without_a_token() {
    let server = TestServer::start().await;
    let shop = server.deployment("shop").await.name;
    server.deploy_tree(&shop, &[("a.py", "x")]).await;
    for path in ["/healthz", "/readyz"] {
        assert_eq!(get(&server, path, &[]).await.status(), StatusCode::OK);
    }
    let metrics = get(&server, "/metrics", &[]).await.text().await.unwrap();
    for line in [
        "updraft_requests_total{method=\"POST\",route=\"/api/v1/deployments\",status=\"201\"} 1",
        "updraft_deploy_duration_seconds_count{until=\"accepted\"} 1",
        "updraft_agents_connected 0",
        "# TYPE updraft_blob_bytes gauge",
        "# EOF",
    ] {
        assert!(metrics.contains(line), "{line}\n{metrics}");
    }
    // What people ask for is not in the labels.
    assert!(!metrics.contains("shop"), "{metrics}");
}

#[tokio::test]
async fn the_server_gives_its_own_executable_with_a_checksum() {
    let server = TestServer::start().await;
    let bytes = get(&server, "/install", &[]).await.bytes().await.unwrap();
    let sum = get(&server, "/install/sha256", &[])
        .await
        .text()
        .await
        .unwrap();
    assert_eq!(sum, format!("{}  updraft\n", Digest::of(&bytes).hex()));
    let own = std::fs::metadata(std::env::current_exe().unwrap())
        .unwrap()
        .len();
    assert_eq!(bytes.len() as u64, own);
}

#[tokio::test]
async fn reference_openapi_is_up_to_date() {
    let server = TestServer::start().await;
    let document_text = get(&server, "/api/v1/openapi.json", &[])
        .await
        .text()
        .await
        .unwrap();
    assert_eq!(document_text, server.running().openapi());
    let document: serde_json::Value = serde_json::from_str(&document_text).unwrap();
    let mut names = std::collections::BTreeSet::new();
    let routes = server.running().routes().iter();
    // The registry's addresses are described by its specification.
    let is_ours = |route: &&Route| !route.is_page && !route.path.starts_with("/v2/");
    for route in routes.filter(is_ours) {
        let operation = &document["paths"][&route.path][route.method.to_lowercase()];
        assert!(
            operation.is_object(),
            "{} {} is not described",
            route.method,
            route.path
        );
        assert!(
            names.insert(operation["operationId"].as_str().unwrap()),
            "{operation} has another's name"
        );
    }
    let file = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../../docs/reference/openapi.json"
    );
    if std::env::var_os("UPDATE_REFERENCES").is_some() {
        std::fs::create_dir_all(concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/reference"))
            .unwrap();
        std::fs::write(file, &document_text).unwrap();
    }
    let kept = std::fs::read_to_string(file).unwrap_or_default();
    assert!(
        kept == document_text,
        "docs/reference/openapi.json is stale: run `make docs`"
    );
}

#[tokio::test]
async fn other_machines_are_served_only_with_tls_or_on_request() {
    let folder = tempfile::tempdir().unwrap();
    let mut config = ServerConfig::new(folder.path().join("data"));
    config.listen = "0.0.0.0:0".parse().unwrap();
    let refused = Server::start(config.clone()).await.unwrap_err();
    assert!(matches!(refused, StartError::Insecure { .. }), "{refused}");
    assert!(refused.help().unwrap().contains("--tls-cert"));
    assert!(!config.data_dir.exists(), "nothing is left behind");
    config.insecure_http = true;
    Server::start(config).await.unwrap().stop().await;
}

#[tokio::test]
async fn a_port_in_use_is_its_own_error() {
    let server = TestServer::start().await;
    let folder = tempfile::tempdir().unwrap();
    let mut config = ServerConfig::new(folder.path());
    config.listen = SocketAddr::from(([127, 0, 0, 1], server.running().addr().port()));
    let refused = Server::start(config).await.unwrap_err();
    assert!(matches!(refused, StartError::PortInUse { .. }), "{refused}");
}

#[tokio::test]
async fn serves_tls_with_a_certificate() {
    let folder = tempfile::tempdir().unwrap();
    let (certificate, key) = (
        folder.path().join("cert.pem"),
        folder.path().join("key.pem"),
    );
    let made = std::process::Command::new("openssl")
        .args([
            "req",
            "-x509",
            "-newkey",
            "ec",
            "-pkeyopt",
            "ec_paramgen_curve:P-256",
            "-nodes",
            "-days",
            "2",
        ])
        .args([
            "-subj",
            "/CN=localhost",
            "-addext",
            "subjectAltName=DNS:localhost,IP:127.0.0.1",
        ])
        .args(["-addext", "basicConstraints=critical,CA:FALSE"])
        .arg("-keyout")
        .arg(&key)
        .arg("-out")
        .arg(&certificate)
        .output()
        .unwrap();
    assert!(made.status.success(), "{made:?}");
    let mut config = ServerConfig::new(folder.path().join("data"));
    config.listen = "127.0.0.1:0".parse().unwrap();
    config.tls = Some(updraft_server::TlsFiles {
        certificate: certificate.clone(),
        key,
    });
    let token = init_admin(&config, false).await.unwrap();
    let running = Server::start(config.clone()).await.unwrap();
    assert!(running.url().starts_with("https://"));
    let connect = updraft_api::client::Connect {
        server: running.url().to_owned(),
        ca_certificates: Some(std::fs::read(certificate).unwrap()),
        ..Default::default()
    };
    let client = updraft_api::Client::new(&connect, Some(token.secret)).unwrap();
    assert_eq!(client.whoami().await.unwrap().server_version, VERSION);
    running.stop().await;

    std::fs::write(folder.path().join("key.pem"), "no key").unwrap();
    let refused = Server::start(config).await.unwrap_err();
    assert!(
        matches!(refused, StartError::Certificate { .. }),
        "{refused}"
    );
}

#[tokio::test]
async fn the_first_admin_token_is_made_once() {
    let folder = tempfile::tempdir().unwrap();
    let config = ServerConfig::new(folder.path().join("data"));
    init_admin(&config, false).await.unwrap();
    let refused = init_admin(&config, false).await.err().unwrap();
    assert!(matches!(refused, InitError::Done(_)), "{refused}");
    assert!(refused.help().is_some());
    init_admin(&config, true).await.unwrap();
}
