//! The page: signing in with a token, and what it shows.
#![expect(clippy::unwrap_used, reason = "tests")]

use reqwest::{Client, StatusCode, header, redirect};
use updraft_model::{BundleName, ProofOutcome, Role};
use updraft_testkit::TestServer;

/// A browser that shows where it is sent instead of going there.
fn browser() -> Client {
    Client::builder()
        .no_proxy()
        .tls_certs_only([])
        .redirect(redirect::Policy::none())
        .build()
        .unwrap()
}

fn location(response: &reqwest::Response) -> &str {
    response.headers()[header::LOCATION].to_str().unwrap()
}

async fn sign_in(server: &TestServer, token: &str) -> reqwest::Response {
    browser()
        .post(format!("{}/sign-in", server.url()))
        .header(header::CONTENT_TYPE, "application/x-www-form-urlencoded")
        .body(format!("token={token}&next=%2F"))
        .send()
        .await
        .unwrap()
}

#[tokio::test]
async fn another_site_signs_nobody_in_or_out() {
    let server = TestServer::start().await;
    for path in ["/sign-in", "/sign-out"] {
        let form = browser()
            .post(format!("{}{path}", server.url()))
            .header(header::CONTENT_TYPE, "application/x-www-form-urlencoded")
            .header("sec-fetch-site", "cross-site")
            .body(format!("token={}&next=%2F", server.admin_token()));
        let refused = form.send().await.unwrap();
        assert_eq!(refused.status(), StatusCode::FORBIDDEN, "{path}");
        assert!(!refused.headers().contains_key(header::SET_COOKIE));
    }
}

#[tokio::test]
async fn where_nothing_is_a_browser_gets_a_page_and_a_program_an_error() {
    let server = TestServer::start().await;
    for path in ["/nothing", "/deployments/shop/nothing", "/api/v1/nothing"] {
        let ask = browser().get(format!("{}{path}", server.url()));
        let ask = ask.header(header::ACCEPT, "text/html,*/*");
        let answer = ask.send().await.unwrap();
        assert_eq!(answer.status(), StatusCode::NOT_FOUND, "{path}");
        let headers = answer.headers();
        let kind = headers[header::CONTENT_TYPE].to_str().unwrap();
        let is_page = kind.starts_with("text/html");
        assert_eq!(is_page, !path.starts_with("/api/"), "{path}: {kind}");
        assert_eq!(
            headers.contains_key(header::CONTENT_SECURITY_POLICY),
            is_page
        );
        let body = answer.text().await.unwrap();
        assert!(body.contains("there is nothing at this address"), "{body}");
    }
}

#[tokio::test]
async fn a_viewer_sees_a_failed_deploy_and_a_version_link_leads_to_it() {
    let server = TestServer::start().await;
    let deployment = server.deployment("shop").await;
    let mut agent = server.agent(&deployment.name, "one").await;
    agent.send().await;
    let deploy = server
        .deploy_tree(&deployment.name, &[("<b>.py", "one")])
        .await;
    agent.poll(std::time::Duration::from_secs(5)).await;
    agent.switch().await;
    agent.prove(ProofOutcome::ImportErrors).await;

    let viewer = server.token(Role::Viewer, Some(&deployment.name)).await;
    let signed_in = sign_in(&server, &viewer).await;
    assert_eq!(signed_in.status(), StatusCode::SEE_OTHER);
    let cookie = signed_in.headers()[header::SET_COOKIE].to_str().unwrap();
    assert!(cookie.contains("HttpOnly") && cookie.contains("SameSite=Lax"));
    let cookie = cookie.split(';').next().unwrap().to_owned();
    let get = async |path: &str| {
        let url = format!("{}{path}", server.url());
        browser()
            .get(url)
            .header(header::COOKIE, &cookie)
            .send()
            .await
            .unwrap()
    };

    let page = get(&format!("/deploys/{}", deploy.id)).await;
    assert_eq!(page.status(), StatusCode::OK);
    assert!(page.headers().contains_key(header::CONTENT_SECURITY_POLICY));
    let html = page.text().await.unwrap();
    assert!(html.contains("failed"), "{html}");
    // Names come from users and are shown as text.
    assert!(!html.contains("<b>.py"), "{html}");
    assert!(html.contains("No module named"), "{html}");
    // What Airflow answered is still there when another deploy took its place.
    let mended = [("mended.py", "two")];
    let mended = server.deploy_tree(&deployment.name, &mended).await;
    agent.converge().await;
    let next = [("mended.py", "three")];
    server.deploy_tree(&deployment.name, &next).await;
    agent.converge().await;
    let page = get(&format!("/deploys/{}", mended.id)).await;
    let html = page.text().await.unwrap();
    assert!(html.contains("Superseded by"), "{html}");
    assert!(html.contains("Airflow parsed 1 of 1"), "{html}");
    for (path, shows) in [("/", "shop"), ("/deployments/shop", "failed")] {
        let page = get(path).await;
        assert_eq!(page.status(), StatusCode::OK, "{path}");
        assert!(page.text().await.unwrap().contains(shows), "{path}");
    }
    assert_eq!(
        get("/deployments/nowhere").await.status(),
        StatusCode::NOT_FOUND
    );

    // The link that Airflow shows beside a DAG run.
    let version = deploy.release.as_ref().unwrap().bundles[&BundleName::dags()].digest;
    let link = agent
        .wanted
        .as_ref()
        .unwrap()
        .view_url
        .replace("{version}", &version.to_string());
    let path = link.strip_prefix(&server.url()).unwrap();
    assert_eq!(
        location(&get(path).await),
        format!("/deploys/{}", deploy.id)
    );

    // It leads to what brought the version, also when another part came since,
    // and when it was brought back.
    let other = updraft_testkit::environment("other");
    let image = server.deploy(&deployment.name, None, Some(&other)).await;
    let dags = image.release.unwrap().bundles[&BundleName::dags()].digest;
    let link = get(&format!("/deployments/shop/versions/{dags}")).await;
    let brought = server.as_admin().history(&deployment.name, 2, None).await;
    let brought = brought.unwrap().deploys[1].id;
    assert_eq!(location(&link), format!("/deploys/{brought}"));
    let ask = updraft_api::deploy::RollbackRequest {
        to: Some(mended.id),
        allow_downgrade: false,
        key: "back".into(),
        description: String::new(),
    };
    let back = server.as_admin().roll_back(&deployment.name, &ask).await;
    let back = back.unwrap();
    let page = get("/deployments/shop").await.text().await.unwrap();
    assert!(page.contains("On hold"), "{page}");
    assert!(page.contains("updraft hold lift shop"), "{page}");
    let dags = back.release.unwrap().bundles[&BundleName::dags()].digest;
    let link = get(&format!("/deployments/shop/versions/{dags}")).await;
    assert_eq!(location(&link), format!("/deploys/{}", back.id));
}

#[tokio::test]
async fn nobody_sees_anything_without_a_token_that_holds() {
    let server = TestServer::start().await;
    let deployment = server.deployment("shop").await;
    let page = browser()
        .get(format!("{}/deployments/shop?x=1", server.url()))
        .send()
        .await
        .unwrap();
    assert_eq!(page.status(), StatusCode::SEE_OTHER);
    assert_eq!(location(&page), "/sign-in?next=/deployments/shop%3Fx%3D1");

    let agent = server.token(Role::Agent, Some(&deployment.name)).await;
    for token in ["nonsense", agent.as_str()] {
        let refused = sign_in(&server, token).await;
        assert_eq!(refused.status(), StatusCode::UNAUTHORIZED);
        assert!(!refused.headers().contains_key(header::SET_COOKIE));
    }
}
