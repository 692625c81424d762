//! What survives: restarts, damage, time, and a move to another folder.
#![expect(clippy::unwrap_used, reason = "a test ends where something fails")]

use std::fs::File;
use std::io::Write as _;
use std::path::PathBuf;
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use updraft_api::ErrorCode;
use updraft_api::deploy::ComparisonOutcome;
use updraft_api::deployment::DeploymentSettings;
use updraft_model::{DeploymentId, DeploymentName, Digest, ProofOutcome, Role};
use updraft_server::{BackupError, Server, StartError, backup, init_admin, restore, rotate_keys};
use updraft_store::Store;
use updraft_testkit::{SmallDisk, TestAgent, TestServer, Tree, environment, parts};

struct World {
    server: TestServer,
    shop: DeploymentName,
    id: DeploymentId,
    agent: TestAgent,
}

impl World {
    async fn new() -> Self {
        // Time passes when a test says so, however long its steps take.
        let server = TestServer::start_with(|config| config.clock.stop()).await;
        let deployment = server.deployment("shop").await;
        let (shop, id) = (deployment.name, deployment.id);
        let mut agent = server.agent(&shop, "one").await;
        server
            .deploy(&shop, Some(&tree("one")), Some(&environment("x")))
            .await;
        agent.converge().await;
        Self {
            server,
            shop,
            id,
            agent,
        }
    }

    fn blob(&self, digest: &Digest) -> PathBuf {
        let hex = digest.hex();
        self.server
            .data_dir()
            .join("blobs/sha256")
            .join(&hex[..2])
            .join(hex)
    }
}

fn tree(content: &str) -> Tree {
    Tree::of([("a.py", content)])
}

fn layer(content: &str) -> Digest {
    *tree(content).blobs.keys().next().unwrap()
}

#[tokio::test]
async fn everything_is_there_after_a_restart() {
    let mut world = World::new().await;
    let second = world
        .server
        .deploy(&world.shop, Some(&tree("two")), None)
        .await;
    let before = world.server.as_admin().status(&world.shop).await.unwrap();
    world.server.restart().await;
    let after = world.server.as_admin().status(&world.shop).await.unwrap();
    assert_eq!(after.deployment, before.deployment);
    assert_eq!(after.wanted_deploy.unwrap().state.name(), "accepted");
    // The agent was there a moment ago, so it still counts.
    assert!(after.agents[0].connected);
    let token = world.server.token(Role::Agent, Some(&world.shop)).await;
    let mut agent = TestAgent::new(&world.server.with_token(Some(token)), "one");
    agent.report.agent = world.agent.report.agent;
    agent.converge().await;
    let live = world.server.as_admin().deploy(second.id).await.unwrap();
    assert_eq!(live.state.name(), "live");
}

#[tokio::test]
async fn a_long_poll_is_cut_at_once_when_the_server_stops() {
    let mut world = World::new().await;
    let client = world.agent.client().clone();
    let generation = world.agent.report.generation;
    let waiting =
        tokio::spawn(async move { client.wanted(generation, Duration::from_secs(60)).await });
    world.server.somebody_waits(world.id).await;
    world.server.stop().await;
    // Not after the minute that it asked for: the server is gone by now.
    assert!(waiting.await.unwrap().unwrap().is_none());
}

#[tokio::test]
async fn a_long_poll_wakes_at_once_and_otherwise_ends_in_time() {
    let mut world = World::new().await;
    let client = world.agent.client().clone();
    let generation = world.agent.report.generation;
    assert!(
        client
            .wanted(generation, Duration::from_millis(1000))
            .await
            .unwrap()
            .is_none()
    );
    let waiting =
        tokio::spawn(async move { client.wanted(generation, Duration::from_secs(60)).await });
    world.server.somebody_waits(world.id).await;
    let second = world
        .server
        .deploy(&world.shop, Some(&tree("two")), None)
        .await;
    let wanted = waiting.await.unwrap().unwrap().unwrap();
    assert_eq!(wanted.target.unwrap().deploy, second.id);
    // A generation from a future that a restored backup forgot is news as well.
    world.agent.report.generation = 1_000_000;
    assert!(world.agent.poll(Duration::from_secs(30)).await);
}

#[tokio::test]
async fn a_damaged_blob_is_found_named_and_repaired_by_deploying_again() {
    let world = World::new().await;
    let digest = layer("one");
    std::fs::write(world.blob(&digest), "rotten").unwrap();
    let fetch = || {
        world
            .agent
            .client()
            .fetch_blobs(vec![digest], 1 << 20, |_, _| Ok(()))
    };
    // Found while it is sent, which cuts the connection; then it is known.
    fetch().await.unwrap_err();
    let known = fetch().await.unwrap_err();
    assert_eq!(known.code(), Some(ErrorCode::BlobCorrupt));
    assert!(known.to_string().contains(&digest.to_string()), "{known}");
    assert!(
        world
            .server
            .data_dir()
            .join("corrupt")
            .join(digest.hex())
            .exists()
    );

    let again = world
        .server
        .create(&world.shop, parts(Some(&tree("one")), None))
        .await;
    assert_eq!(again.outcome, ComparisonOutcome::NothingToDo);
    assert_eq!(again.missing, [digest]);
    let id = again.deploy.as_ref().unwrap().id;
    world
        .server
        .upload(id, &again, [Some(&tree("one")), None])
        .await;
    fetch().await.unwrap().unwrap();
}

#[tokio::test]
async fn a_blob_that_goes_bad_before_acceptance_is_never_activated() {
    let world = World::new().await;
    let created = world
        .server
        .create(&world.shop, parts(Some(&tree("two")), None))
        .await;
    let id = created.deploy.as_ref().unwrap().id;
    world
        .server
        .upload(id, &created, [Some(&tree("two")), None])
        .await;
    let path = world.blob(&layer("two"));
    let mut bytes = std::fs::read(&path).unwrap();
    bytes[3] ^= 1;
    std::fs::write(&path, bytes).unwrap();
    let admin = world.server.as_admin();
    let refused = admin.accept_deploy(id, None).await.unwrap_err();
    assert_eq!(refused.code(), Some(ErrorCode::BlobCorrupt));
    let missing = admin.accept_deploy(id, None).await.unwrap_err();
    assert_eq!(missing.code(), Some(ErrorCode::BlobsMissing));
    world
        .server
        .upload(id, &created, [Some(&tree("two")), None])
        .await;
    admin.accept_deploy(id, None).await.unwrap();
}

#[tokio::test]
async fn an_upload_that_nobody_finished_expires_and_its_blobs_go() {
    let world = World::new().await;
    let created = world
        .server
        .create(&world.shop, parts(Some(&tree("two")), None))
        .await;
    let id = created.deploy.as_ref().unwrap().id;
    world
        .server
        .upload(id, &created, [Some(&tree("two")), None])
        .await;
    world.server.running().collect_garbage().await.unwrap();
    assert!(
        world.blob(&layer("two")).exists(),
        "an upload under way keeps its blobs"
    );

    world.server.advance_clock(chrono::Duration::hours(2));
    world.server.running().expire_uploads().await.unwrap();
    let admin = world.server.as_admin();
    assert_eq!(admin.deploy(id).await.unwrap().state.name(), "expired");
    let refused = admin.accept_deploy(id, None).await.unwrap_err();
    assert_eq!(refused.code(), Some(ErrorCode::DeployState));
    let refused = admin
        .upload_blobs(id, &tree("two").pick(&created.missing))
        .await
        .unwrap_err();
    assert_eq!(refused.code(), Some(ErrorCode::DeployState));
    // Within the retention period its blobs stay; after it they go.
    world.server.advance_clock(chrono::Duration::days(100));
    world.server.running().collect_garbage().await.unwrap();
    assert!(!world.blob(&layer("two")).exists());
    assert!(world.blob(&layer("one")).exists(), "what is wanted stays");
}

#[tokio::test]
async fn an_upload_that_moves_does_not_expire() {
    let world = World::new().await;
    let two = tree("two");
    let created = world.server.create(&world.shop, parts(Some(&two), None));
    let created = created.await;
    let id = created.deploy.as_ref().unwrap().id;
    let mut body = Vec::new();
    for (digest, bytes) in two.pick(&created.missing) {
        body.extend_from_slice(&updraft_api::frames::head(digest, bytes.len() as u64));
        body.extend_from_slice(&bytes);
    }
    let head = format!(
        "PUT /api/v1/deploys/{id}/blobs HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {}\r\n\
         content-length: {}\r\nexpect: 100-continue\r\nconnection: close\r\n\r\n",
        world.server.admin_token(),
        body.len()
    );
    let address = world.server.running().addr();
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(head.as_bytes()).await.unwrap();
    // Said when the body is asked for: from here on the upload is under way.
    let mut answer = [0; 25];
    stream.read_exact(&mut answer).await.unwrap();
    assert_eq!(&answer, b"HTTP/1.1 100 Continue\r\n\r\n");

    world.server.advance_clock(chrono::Duration::minutes(50));
    let since = world.server.config().clock.now();
    stream.write_all(&body[..10]).await.unwrap();
    let file = world.server.data_dir().join("updraft.db");
    let store = Store::sqlite(&file).await.unwrap();
    let touched = async || {
        let deploy = store.look().await.unwrap().deploy(id).await.unwrap();
        deploy.unwrap().touched_at
    };
    while touched().await < since {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    store.close().await;
    world.server.advance_clock(chrono::Duration::minutes(50));
    world.server.running().expire_uploads().await.unwrap();
    stream.write_all(&body[10..]).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 204"), "{answer}");
    world
        .server
        .as_admin()
        .accept_deploy(id, None)
        .await
        .unwrap();
}

#[tokio::test]
async fn garbage_is_what_no_deploy_in_the_retention_period_names() {
    let mut world = World::new().await;
    let settings = updraft_api::deployment::DeploymentSettings {
        keep_releases: Some(0),
        ..Default::default()
    };
    let admin = world.server.as_admin();
    admin
        .update_deployment(&world.shop, &settings)
        .await
        .unwrap();
    for content in ["two", "three", "four"] {
        world
            .server
            .deploy(&world.shop, Some(&tree(content)), None)
            .await;
        world.agent.converge().await;
    }
    let history = admin.history(&world.shop, 10, None).await.unwrap().deploys;
    assert_eq!(world.server.running().collect_garbage().await.unwrap(), 0);
    world.server.advance_clock(chrono::Duration::days(100));
    assert!(world.server.running().collect_garbage().await.unwrap() > 0);
    for (content, stays) in [
        ("four", true),
        ("three", true),
        ("two", false),
        ("one", false),
    ] {
        assert_eq!(world.blob(&layer(content)).exists(), stays, "{content}");
    }
    // History stays; what is gone cannot be returned to, and says so.
    let token = world.server.config().clone();
    assert_eq!(token.retention_days, 90);
    let ask = updraft_api::deploy::RollbackRequest {
        to: Some(history.last().unwrap().id),
        allow_downgrade: false,
        key: "back".into(),
        description: String::new(),
    };
    let refused = world
        .server
        .as_admin()
        .roll_back(&world.shop, &ask)
        .await
        .unwrap_err();
    assert_eq!(
        refused.code(),
        Some(ErrorCode::NotARollbackTarget),
        "{refused}"
    );
    // Also by a control plane that remembers nothing; nor is it offered.
    world.server.restart().await;
    let admin = world.server.as_admin();
    let refused = admin.roll_back(&world.shop, &ask).await.unwrap_err();
    assert_eq!(
        refused.code(),
        Some(ErrorCode::NotARollbackTarget),
        "{refused}"
    );
    let help = refused.help().unwrap();
    assert!(help.contains(&history[0].id.to_string()), "{help}");
    assert!(!help.contains(&history[3].id.to_string()), "{help}");
    let gone = history.last().unwrap().id;
    let refused = admin.diff(gone, Some(history[0].id)).await.unwrap_err();
    assert_eq!(
        refused.code(),
        Some(ErrorCode::NotARollbackTarget),
        "{refused}"
    );
    // More is to be kept from now on, of which some is gone already.
    let settings = updraft_api::deployment::DeploymentSettings {
        keep_releases: Some(10),
        ..Default::default()
    };
    admin
        .update_deployment(&world.shop, &settings)
        .await
        .unwrap();
    world.server.running().collect_garbage().await.unwrap();
    // Deployed again, it is there again.
    world
        .server
        .deploy(&world.shop, Some(&tree("one")), None)
        .await;
}

#[tokio::test]
async fn what_is_in_layers_is_stored_again_after_it_was_collected() {
    let mut world = World::new().await;
    let admin = world.server.as_admin();
    admin.delete_deployment(&world.shop, true).await.unwrap();
    assert!(world.server.running().collect_garbage().await.unwrap() > 0);
    world.shop = world.server.deployment("shop").await.name;
    world
        .server
        .deploy(&world.shop, Some(&tree("one")), Some(&environment("x")))
        .await;
    // From here on only the database knows.
    world.server.restart().await;
    world
        .server
        .deploy(&world.shop, Some(&tree("two")), None)
        .await;
}

#[tokio::test]
async fn what_is_in_layers_is_stored_after_a_deploy_that_was_refused() {
    let mut world = World::new().await;
    let (good, mut liar) = (tree("two"), environment("y"));
    liar.manifest = liar.manifest.replace(
        "\"vnd.updraft.layer.files\":\"1\"",
        "\"vnd.updraft.layer.files\":\"2\"",
    );
    assert_ne!(liar.manifest, environment("y").manifest);
    let created = world
        .server
        .create(&world.shop, parts(Some(&good), Some(&liar)))
        .await;
    let id = created.deploy.as_ref().unwrap().id;
    world
        .server
        .upload(id, &created, [Some(&good), Some(&liar)])
        .await;
    let refused = world
        .server
        .as_admin()
        .accept_deploy(id, None)
        .await
        .unwrap_err();
    assert_eq!(refused.code(), Some(ErrorCode::BundleRefused), "{refused}");
    world.server.deploy(&world.shop, Some(&good), None).await;
    world.server.restart().await;
    world
        .server
        .deploy(&world.shop, Some(&tree("three")), None)
        .await;
}

#[tokio::test]
async fn one_data_folder_has_one_server() {
    let world = World::new().await;
    let refused = Server::start(world.server.config().clone())
        .await
        .unwrap_err();
    assert!(matches!(refused, StartError::DataDirInUse(_)), "{refused}");
    assert!(refused.help().is_some());
}

#[tokio::test]
async fn a_backup_of_a_running_server_starts_in_another_folder() {
    let mut world = World::new().await;
    let second = world
        .server
        .deploy(&world.shop, Some(&tree("two")), None)
        .await;
    let copy = world.server.folder().join("backup");
    let made = backup(world.server.config(), &copy).await.unwrap();
    assert!(made.database && made.blobs >= 5, "{made:?}");
    assert!(matches!(
        backup(world.server.config(), &copy).await,
        Err(BackupError::There(_))
    ));
    // What happens later is not in it.
    world
        .server
        .deploy(&world.shop, Some(&tree("three")), None)
        .await;
    world.server.stop().await;

    let data = world.server.folder().join("restored");
    restore(&copy, &data).unwrap();
    assert!(matches!(restore(&copy, &data), Err(BackupError::There(_))));
    assert!(matches!(
        restore(world.server.folder(), &data),
        Err(BackupError::NotABackup(_))
    ));
    let mut config = world.server.config().clone();
    config.data_dir = data;
    let restored = Server::start(config).await.unwrap();
    let connect = updraft_api::client::Connect {
        server: restored.url().to_owned(),
        ..Default::default()
    };
    let admin =
        updraft_api::Client::new(&connect, Some(world.server.admin_token().to_owned())).unwrap();
    let status = admin.status(&world.shop).await.unwrap();
    assert_eq!(status.wanted_deploy.unwrap().id, second.id);
    let bytes = admin.blob(&world.shop, layer("two")).await.unwrap();
    assert_eq!(Digest::of(&bytes), layer("two"));
    restored.stop().await;
}

#[tokio::test]
async fn a_backup_changes_nothing_and_a_mounted_folder_is_restored_into() {
    let mut world = World::new().await;
    let here = world.server.folder().to_owned();
    // A slash behind a name is no other name.
    let copy = here.join("copy/");
    backup(world.server.config(), &copy).await.unwrap();
    world.server.stop().await;

    // Where PostgreSQL has the database, and nobody said so.
    let mut elsewhere = world.server.config().clone();
    elsewhere.data_dir = here.join("elsewhere");
    std::fs::create_dir_all(elsewhere.data_dir.join("keys")).unwrap();
    std::fs::create_dir_all(elsewhere.data_dir.join("blobs")).unwrap();
    let refused = backup(&elsewhere, &here.join("nothing")).await.unwrap_err();
    assert!(matches!(refused, BackupError::NoDatabase(_)), "{refused}");
    assert!(refused.help().unwrap().contains("UPDRAFT_DATABASE_URL"));
    assert!(!elsewhere.data_dir.join("updraft.db").exists());
    assert!(!here.join("nothing").exists());

    let data = here.join("mounted");
    std::fs::create_dir_all(data.join("lost+found")).unwrap();
    restore(&copy, &data.join("")).unwrap();
    let mut config = world.server.config().clone();
    config.data_dir.clone_from(&data);
    Server::start(config.clone()).await.unwrap().stop().await;

    // Cut off in the middle, it is begun again, and nobody starts on the half.
    let half = here.join("half");
    std::fs::create_dir_all(half.join("restoring")).unwrap();
    std::fs::create_dir_all(half.join("blobs/left")).unwrap();
    config.data_dir.clone_from(&half);
    let refused = Server::start(config.clone()).await.unwrap_err();
    assert!(matches!(refused, StartError::HalfRestored(_)), "{refused}");
    restore(&copy, &half).unwrap();
    assert!(!half.join("blobs/left").exists());
    Server::start(config).await.unwrap().stop().await;
}

#[tokio::test]
async fn a_backup_is_whole_while_deploys_come_and_garbage_goes() {
    let world = World::new().await;
    let config = world.server.config();
    let settings = updraft_api::deployment::DeploymentSettings {
        keep_releases: Some(0),
        ..Default::default()
    };
    let admin = world.server.as_admin();
    admin
        .update_deployment(&world.shop, &settings)
        .await
        .unwrap();
    let deploys = async {
        for round in 0..12 {
            let files = tree(&format!("round {round}"));
            world.server.deploy(&world.shop, Some(&files), None).await;
            // Nothing but what is wanted is kept.
            world.server.advance_clock(chrono::Duration::days(100));
            world.server.running().collect_garbage().await.unwrap();
        }
    };
    let backups = async {
        for round in 0..4 {
            let copy = world.server.folder().join(format!("copy-{round}"));
            backup(config, &copy).await.unwrap();
        }
    };
    tokio::join!(deploys, backups);

    for round in 0..4 {
        let copy = world.server.folder().join(format!("copy-{round}"));
        let mut restored = config.clone();
        restored.data_dir = world.server.folder().join(format!("data-{round}"));
        restore(&copy, &restored.data_dir).unwrap();
        let running = Server::start(restored).await.unwrap();
        let connect = updraft_api::client::Connect {
            server: running.url().to_owned(),
            ..Default::default()
        };
        let token = world.server.admin_token().to_owned();
        let admin = updraft_api::Client::new(&connect, Some(token)).unwrap();
        let wanted = admin.deployment(&world.shop).await.unwrap().wanted.unwrap();
        let manifest = wanted.bundles[&updraft_model::BundleName::dags()].digest;
        let text = admin.blob(&world.shop, manifest).await.unwrap();
        for (digest, _) in updraft_bundle::Manifest::parse(&text).unwrap().blobs() {
            admin.blob(&world.shop, digest).await.unwrap();
        }
        running.stop().await;
    }
}

#[tokio::test]
async fn variables_survive_a_rotation_and_can_be_set_again_when_the_keys_are_lost() {
    let mut world = World::new().await;
    let set = |pairs: &[(&str, &str)]| updraft_api::deployment::DeploymentSettings {
        environment: pairs
            .iter()
            .map(|(name, value)| ((*name).to_owned(), Some((*value).to_owned())))
            .collect(),
        ..Default::default()
    };
    let both = set(&[("ONE", "1"), ("TWO", "2")]);
    let admin = world.server.as_admin();
    admin.update_deployment(&world.shop, &both).await.unwrap();
    rotate_keys(world.server.data_dir(), false).unwrap();
    world.server.restart().await;
    let token = world.server.token(Role::Agent, Some(&world.shop)).await;
    let wanted = async |server: &TestServer, token: String| {
        let agent = server.with_token(Some(token));
        agent.wanted(0, Duration::ZERO).await
    };
    let told = wanted(&world.server, token).await.unwrap().unwrap();
    assert_eq!(told.environment["ONE"], "1");
    // What is set now is sealed with the new key, beside the old.
    let admin = world.server.as_admin();
    let one = set(&[("ONE", "changed")]);
    admin.update_deployment(&world.shop, &one).await.unwrap();

    // Without keys nothing starts, and no new ones are made in silence.
    world.server.stop().await;
    std::fs::remove_dir_all(world.server.data_dir().join("keys")).unwrap();
    let config = world.server.config().clone();
    let refused = Server::start(config.clone()).await.unwrap_err();
    assert!(matches!(refused, StartError::Keys(_)), "{refused}");
    assert!(refused.help().unwrap().contains("--forget-old"));
    rotate_keys(world.server.data_dir(), true).unwrap();
    let admin = init_admin(&config, true).await.unwrap().secret;
    world.server.restart().await;
    let admin = world.server.with_token(Some(admin));
    let ask = updraft_api::token::CreateToken {
        name: "agent".into(),
        role: Role::Agent,
        deployment: Some(world.shop.clone()),
        workspace: None,
        expires_in_days: None,
    };
    let token = admin.create_token(&ask).await.unwrap().secret;
    let refused = wanted(&world.server, token.clone()).await.err().unwrap();
    assert_eq!(refused.code(), Some(ErrorCode::Internal));
    assert!(refused.help().unwrap().contains("ONE, TWO"), "{refused}");
    // One of them would lose the other.
    let refused = admin
        .update_deployment(&world.shop, &one)
        .await
        .unwrap_err();
    assert!(refused.help().unwrap().contains("ONE, TWO"), "{refused}");
    admin.update_deployment(&world.shop, &both).await.unwrap();
    let told = wanted(&world.server, token).await.unwrap().unwrap();
    assert_eq!(told.environment["TWO"], "2");
}

#[tokio::test]
async fn a_full_disk_is_said_and_loses_nothing() {
    let place = tempfile::tempdir().unwrap();
    let what = "a full disk of the control plane";
    let Some(_small) = SmallDisk::mount_or_skip(place.path(), "6m", what) else {
        return;
    };
    let data = place.path().join("data");
    let mut server = TestServer::start_with(|config| config.data_dir = data).await;
    let shop = server.deployment("shop").await.name;
    let first = server
        .deploy(&shop, Some(&tree("one")), Some(&environment("x")))
        .await;

    // Nothing that compresses.
    let mut seed = Digest::of(b"seed");
    let mut noise = String::new();
    while noise.len() < 16 << 20 {
        seed = Digest::of(seed.as_bytes());
        noise.push_str(seed.hex().as_str());
    }
    let large = tree(&noise);
    let created = server.create(&shop, parts(Some(&large), None)).await;
    let id = created.deploy.as_ref().unwrap().id;
    let admin = server.as_admin();
    let full = admin.upload_blobs(id, &large.pick(&created.missing)).await;
    let status = admin.status(&shop).await;

    // Also the database can grow no more, says so each time, and goes on when
    // there is room.
    let filler = place.path().join("filler");
    let mut room = File::create(&filler).unwrap();
    while room.write_all(&[1; 4096]).is_ok() {}
    let describe = |text: String| {
        let settings = DeploymentSettings {
            description: Some(text),
            ..DeploymentSettings::default()
        };
        let (admin, shop) = (admin.clone(), shop.clone());
        async move { admin.update_deployment(&shop, &settings).await }
    };
    let mut refused = 0;
    for number in 0..200 {
        match describe(format!("{number} {}", "long ".repeat(180))).await {
            Ok(_) => {}
            Err(error) => {
                assert_eq!(error.code(), Some(ErrorCode::StorageFull), "{error}");
                refused += 1;
            }
        }
        if refused == 3 {
            break;
        }
    }
    assert_eq!(refused, 3, "the disk is not full");
    drop(room);
    std::fs::remove_file(&filler).unwrap();
    let described = describe("short".into()).await;
    server.stop().await;
    assert_eq!(described.unwrap().description, "short");
    let full = full.unwrap_err();
    assert_eq!(full.code(), Some(ErrorCode::StorageFull), "{full}");
    assert!(full.help().is_some());
    assert_eq!(status.unwrap().wanted_deploy.unwrap().id, first.id);
}

#[tokio::test]
async fn the_same_happens_on_postgresql() {
    let Some(postgres) = updraft_testkit::Postgres::start_or_skip("the server on PostgreSQL")
    else {
        return;
    };
    let url = postgres.database();
    let server = TestServer::start_with(|config| config.database_url = Some(url.clone())).await;
    let deployment = server.deployment("shop").await;
    let shop = deployment.name;
    let mut agent = server.agent(&shop, "one").await;
    let first = server
        .deploy(&shop, Some(&tree("one")), Some(&environment("x")))
        .await;
    agent.converge().await;
    let admin = server.as_admin();
    assert_eq!(admin.deploy(first.id).await.unwrap().state.name(), "live");

    // A second server on the same database hears what the first one does.
    let data = server.data_dir().to_owned();
    let other =
        TestServer::start_beside(&server, |config| config.database_url = Some(url.clone())).await;
    let elsewhere = other.with_token(Some(server.admin_token().to_owned()));
    let generation = agent.report.generation;
    let waiting = {
        let client = other.with_token(Some(server.token(Role::Agent, Some(&shop)).await));
        tokio::spawn(async move { client.wanted(generation, Duration::from_secs(30)).await })
    };
    other.somebody_waits(deployment.id).await;
    let second = server.deploy(&shop, Some(&tree("two")), None).await;
    let wanted = tokio::time::timeout(Duration::from_secs(10), waiting)
        .await
        .unwrap();
    assert_eq!(
        wanted.unwrap().unwrap().unwrap().target.unwrap().deploy,
        second.id
    );
    assert_eq!(elsewhere.deploy(second.id).await.unwrap().id, second.id);
    agent.poll(Duration::ZERO).await;
    agent.prove(ProofOutcome::Proven).await;
    assert_eq!(
        elsewhere.deploy(second.id).await.unwrap().state.name(),
        "live"
    );
    assert!(data.join("keys").exists());

    // Without its database it is alive, and not ready.
    drop(postgres);
    let status = async |probe: &str| {
        let url = format!("{}{probe}", server.url());
        reqwest::get(url).await.unwrap().status().as_u16()
    };
    assert_eq!(status("/readyz").await, 503);
    assert_eq!(status("/healthz").await, 200);
}
