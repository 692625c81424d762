//! The client against connections that go silent, break, or are slow.
//!
//! Time stands still and jumps to the next timer whenever nothing else can
//! happen, so that minutes of silence cost nothing here.

#![allow(
    clippy::unwrap_used,
    reason = "a test says what went wrong by panicking"
)]

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::Instant;
use updraft_api::client::Connect;
use updraft_api::deployment::CreateDeployment;
use updraft_api::token::Enroll;
use updraft_api::{Client, ClientError, frames};
use updraft_model::{DeployId, DeploymentName, Digest};

const MINUTE: Duration = Duration::from_secs(60);

/// A server that does with each connection what the test says; and how many came.
async fn server<F>(each: impl Fn(TcpStream) -> F + Send + 'static) -> (Client, Arc<AtomicUsize>)
where
    F: Future<Output = ()> + Send + 'static,
{
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = format!("http://{}", listener.local_addr().unwrap());
    let came = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&came);
    tokio::spawn(async move {
        loop {
            let (connection, _) = listener.accept().await.unwrap();
            count.fetch_add(1, Ordering::SeqCst);
            tokio::spawn(each(connection));
        }
    });
    (client(&address), came)
}

fn client(address: &str) -> Client {
    let connect = Connect {
        server: address.to_owned(),
        ..Connect::default()
    };
    Client::new(&connect, Some("t".into())).unwrap()
}

/// Reads a request's head, and what came of its body with it.
async fn read_head(connection: &mut TcpStream) -> Vec<u8> {
    let mut read = Vec::new();
    loop {
        let mut some = [0; 4096];
        let many = connection.read(&mut some).await.unwrap();
        read.extend_from_slice(&some[..many]);
        if many == 0 || read.windows(4).any(|end| end == b"\r\n\r\n") {
            return read;
        }
    }
}

async fn say_nothing(mut connection: TcpStream) {
    read_head(&mut connection).await;
    std::future::pending::<()>().await;
}

fn name() -> DeploymentName {
    "shop".parse().unwrap()
}

#[tokio::test(start_paused = true)]
async fn blobs_that_stop_coming_are_an_error_and_not_a_wait() {
    for said in [
        "",
        "HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\nhalf of it",
    ] {
        let (client, _) = server(move |mut connection| async move {
            read_head(&mut connection).await;
            connection.write_all(said.as_bytes()).await.unwrap();
            std::future::pending::<()>().await;
        })
        .await;
        let since = Instant::now();
        let fetched = client.fetch_blobs(vec![], 1 << 20, |_, _| Ok(())).await;
        assert!(
            matches!(fetched, Err(ClientError::Silent { .. })),
            "{fetched:?}"
        );
        assert!(since.elapsed() <= 2 * MINUTE, "{:?}", since.elapsed());
    }
}

#[tokio::test(start_paused = true)]
async fn no_request_waits_for_ever() {
    let (client, _) = server(say_nothing).await;
    let since = Instant::now();
    client.whoami().await.unwrap_err();
    client.wanted(0, MINUTE / 2).await.err().unwrap();
    let blobs = [(Digest::of(b"x"), Bytes::from_static(b"x"))];
    client
        .upload_blobs(DeployId::new(), &blobs)
        .await
        .unwrap_err();
    assert!(since.elapsed() < 20 * MINUTE, "{:?}", since.elapsed());
}

#[tokio::test(start_paused = true)]
async fn an_answer_that_makes_progress_is_never_cut() {
    let blob = vec![7_u8; 40];
    let digest = Digest::of(&blob);
    let mut sent = frames::head(digest, blob.len() as u64).to_vec();
    sent.extend_from_slice(&blob);
    let (client, _) = server(move |mut connection| {
        let sent = sent.clone();
        async move {
            read_head(&mut connection).await;
            let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", sent.len());
            connection.write_all(head.as_bytes()).await.unwrap();
            for byte in sent {
                tokio::time::sleep(MINUTE / 2).await;
                connection.write_all(&[byte]).await.unwrap();
            }
        }
    })
    .await;
    let since = Instant::now();
    let mut got = Vec::new();
    let each = |digest, bytes| {
        got.push((digest, bytes));
        Ok(())
    };
    client
        .fetch_blobs(vec![digest], 1 << 20, each)
        .await
        .unwrap()
        .unwrap();
    assert_eq!(got, [(digest, Bytes::from(blob))]);
    assert!(since.elapsed() > 20 * MINUTE);
}

#[tokio::test(start_paused = true)]
async fn an_upload_that_makes_progress_is_never_cut() {
    let (client, came) = server(|mut connection| async move {
        let mut some = vec![0; 256 << 10];
        let mut read = 0;
        // Much more than all buffers between hold, at 50 KB a second.
        while read < 48 << 20 {
            tokio::time::sleep(MINUTE / 12).await;
            read += connection.read(&mut some).await.unwrap();
        }
        let answer = b"HTTP/1.1 204 No Content\r\n\r\n";
        connection.write_all(answer).await.unwrap();
        std::future::pending::<()>().await;
    })
    .await;
    let blob = Bytes::from(vec![7_u8; 48 << 20]);
    let since = Instant::now();
    let blobs = [(Digest::of(&blob), blob)];
    client.upload_blobs(DeployId::new(), &blobs).await.unwrap();
    assert!(since.elapsed() > 10 * MINUTE, "{:?}", since.elapsed());
    assert_eq!(came.load(Ordering::SeqCst), 1);
}

#[tokio::test(start_paused = true)]
async fn what_must_not_be_done_twice_is_not_sent_again_when_it_may_have_arrived() {
    let (client, came) = server(|mut connection| async move {
        // The request arrives, and its answer is lost.
        read_head(&mut connection).await;
    })
    .await;
    let enroll = Enroll {
        code: "c".into(),
        host: "h".into(),
    };
    let error = client.enroll(&enroll).await.err().unwrap();
    assert!(matches!(error, ClientError::Unanswered { .. }), "{error:?}");
    assert!(error.help().unwrap().contains("agent invite"));
    let ask: CreateDeployment = serde_json::from_str(r#"{"name":"shop"}"#).unwrap();
    client.create_deployment(&ask).await.unwrap_err();
    client.delete_deployment(&name(), false).await.unwrap_err();
    client.create_enrollment_code(&name()).await.err().unwrap();
    assert_eq!(came.load(Ordering::SeqCst), 4);
    // What is safe to repeat is repeated.
    client.whoami().await.unwrap_err();
    assert!(came.load(Ordering::SeqCst) > 6);
}

#[tokio::test]
async fn where_nobody_listens_a_first_request_fails_in_about_a_second_and_says_that_it_waits() {
    let free = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = format!("http://{}", free.local_addr().unwrap());
    drop(free);
    let told = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&told);
    let teller = move |_: &ClientError| {
        count.fetch_add(1, Ordering::SeqCst);
    };
    let client = client(&address).telling(Arc::new(teller));
    tokio::time::pause();
    let since = Instant::now();
    client.whoami().await.unwrap_err();
    assert!(
        since.elapsed() <= Duration::from_millis(1200),
        "{:?}",
        since.elapsed()
    );
    assert_eq!(told.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn what_is_sent_goes_nowhere_else() {
    let (elsewhere, came) = server(async |_| {}).await;
    let to = elsewhere.address().to_string();
    let (client, _) = server(move |mut connection| {
        let answer = format!(
            "HTTP/1.1 307 Temporary Redirect\r\nlocation: {to}\r\ncontent-length: 0\r\n\r\n"
        );
        async move {
            let mut request = [0; 4096];
            let _ = connection.read(&mut request).await;
            let _ = connection.write_all(answer.as_bytes()).await;
        }
    })
    .await;
    let enroll = Enroll {
        code: "secret".into(),
        host: "here".into(),
    };
    let error = client.enroll(&enroll).await.err().unwrap();
    assert!(error.to_string().contains("307"), "{error}");
    assert!(error.help().unwrap().contains("redirects"), "{error:?}");
    assert_eq!(came.load(Ordering::SeqCst), 0);
}
