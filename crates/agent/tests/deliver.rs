//! Delivery: fetching, the switch, and what is left when something breaks.
//! Airflow plays no part here.
#![allow(clippy::unwrap_used)]

mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

use support::{ControlPlane, Place, read_tree};
use updraft_image::{Environment, EnvironmentConfig, Lock};
use updraft_model::{ContainerImage, Digest, ProofOutcome, Release};
use updraft_project::{BuildHalf, Making, PythonVersion, Requirements};
use updraft_testkit::SmallDisk;

#[test]
fn agent_process() {
    support::be_the_agent();
}

const SOON: Duration = Duration::from_secs(20);

type Tree = BTreeMap<String, String>;

fn tree(files: &[(&str, &str)]) -> Tree {
    files
        .iter()
        .map(|(path, content)| ((*path).to_owned(), (*content).to_owned()))
        .collect()
}

/// Deploys the folders of this name as the bundles `dags` and `dbt`.
fn deploy(place: &Place, control: &ControlPlane, version: &str, files: &[(&str, &str)]) -> Release {
    let dags = place.files(&format!("{version}/dags"), files);
    let dbt = place.files(&format!("{version}/dbt"), &[("model.sql", version)]);
    control.deploy(
        Digest::of(b"image"),
        &[
            ("dags", control.upload(&dags)),
            ("dbt", control.upload(&dbt)),
        ],
    )
}

const FIRST: &[(&str, &str)] = &[("a.py", "1"), ("b.py", "1"), ("sub/c.py", "1")];
const SECOND: &[(&str, &str)] = &[("a.py", "2"), ("b.py", "1"), ("d.py", "2")];

#[tokio::test]
async fn what_is_wanted_becomes_what_is_there() {
    let (place, control) = (Place::new(), ControlPlane::start().await);
    let agent = place.start_external(&control);
    let first = deploy(&place, &control, "first", FIRST);
    control.serving(&first, SOON).await;
    assert_eq!(read_tree(&place.offered()), tree(FIRST));
    assert_eq!(
        read_tree(&place.offered().with_file_name("dbt")),
        tree(&[("model.sql", "first")])
    );

    control.asked();
    let second = deploy(&place, &control, "second", SECOND);
    control.serving(&second, SOON).await;
    assert_eq!(read_tree(&place.offered()), tree(SECOND));

    // Only what differs: the manifest and the layers that hold an edited file.
    let asked: BTreeSet<_> = control.asked().into_iter().collect();
    let layers = |version: &str| -> BTreeSet<_> {
        let folder = place.path().join(version).join("dags");
        let scanned = updraft_bundle::scan(&folder, &updraft_bundle::ScanOptions::default());
        let layers = scanned.unwrap().manifest().layers().to_vec();
        layers.into_iter().map(|layer| layer.digest).collect()
    };
    let (before, after) = (layers("first"), layers("second"));
    assert!(asked.is_disjoint(&before), "{asked:?}");
    assert!(asked.is_superset(&after.difference(&before).copied().collect()));

    // Back to what is still here: nothing is fetched.
    control.want(&first, 1);
    control.serving(&first, SOON).await;
    assert_eq!(read_tree(&place.offered()), tree(FIRST));
    assert_eq!(control.asked(), []);
    agent.stop_agent_only().await;
}

#[tokio::test]
async fn nothing_switches_before_all_agents_have_it() {
    let (place, control) = (Place::new(), ControlPlane::start().await);
    let _agent = place.start_external(&control);
    let first = deploy(&place, &control, "first", FIRST);
    control.serving(&first, SOON).await;

    control.set_may_switch(false);
    let second = deploy(&place, &control, "second", SECOND);
    let report = control
        .reported(SOON, |report| report.staged == Some(second.id))
        .await;
    assert_eq!(report.serving, Some(first.id));
    assert_eq!(read_tree(&place.offered()), tree(FIRST));
    control.set_may_switch(true);
    control.serving(&second, SOON).await;
    assert_eq!(read_tree(&place.offered()), tree(SECOND));
}

#[tokio::test]
async fn a_corrupt_layer_is_never_live_and_is_fetched_again() {
    let (place, control) = (Place::new(), ControlPlane::start().await);
    let _agent = place.start_external(&control);
    let first = deploy(&place, &control, "first", FIRST);
    control.serving(&first, SOON).await;

    let folder = place.files("second/dags", SECOND);
    let scanned = updraft_bundle::scan(&folder, &updraft_bundle::ScanOptions::default()).unwrap();
    let manifest = control.upload(&folder);
    let layer = scanned.manifest().layers()[0].digest;
    control.corrupt(layer);
    let second = control.deploy(Digest::of(b"image"), &[("dags", manifest)]);
    let report = control.reported(SOON, |report| {
        report
            .problem
            .as_ref()
            .is_some_and(|problem| problem.message.contains("digest"))
    });
    assert_eq!(report.await.serving, Some(first.id));
    assert_eq!(read_tree(&place.offered()), tree(FIRST));

    control.put(scanned.layer_bytes(&layer).unwrap());
    let report = control.serving(&second, SOON).await;
    assert_eq!(report.serving, Some(second.id));
    assert_eq!(read_tree(&place.offered()), tree(SECOND));
}

#[tokio::test]
async fn a_live_tree_that_was_written_to_is_mended_at_the_start() {
    let (place, control) = (Place::new(), ControlPlane::start().await);
    let agent = place.start_external(&control);
    let first = deploy(&place, &control, "first", FIRST);
    control.serving(&first, SOON).await;
    agent.stop_agent_only().await;

    let file = fs::canonicalize(place.offered().join("a.py")).unwrap();
    fs::set_permissions(&file, fs::Permissions::from_mode(0o644)).unwrap();
    fs::write(&file, "?").unwrap();
    let folder = file.parent().unwrap();
    fs::set_permissions(folder, fs::Permissions::from_mode(0o755)).unwrap();
    fs::write(folder.join("extra.py"), "?").unwrap();

    let _agent = place.start_external(&control);
    control
        .reported(SOON, |report| {
            let said = report
                .problem
                .as_ref()
                .map(|problem| problem.message.as_str());
            said.is_some_and(|said| said.contains("was not as it was written"))
        })
        .await;
    assert_eq!(read_tree(&place.offered()), tree(FIRST));
}

#[tokio::test]
async fn without_a_control_plane_it_keeps_what_it_has() {
    let (place, control) = (Place::new(), ControlPlane::start().await);
    let agent = place.start_external(&control);
    let first = deploy(&place, &control, "first", FIRST);
    control.serving(&first, SOON).await;

    control.set_down(true);
    agent.stop_agent_only().await;
    let agent = place.start_external(&control);
    let mut observed = agent.subscribe();
    let serves = observed.wait_for(|observed| {
        observed
            .serving
            .as_ref()
            .is_some_and(|serving| serving.id == first.id)
    });
    tokio::time::timeout(SOON, serves).await.unwrap().unwrap();
    assert_eq!(read_tree(&place.offered()), tree(FIRST));

    let second = deploy(&place, &control, "second", SECOND);
    control.set_down(false);
    control.serving(&second, SOON).await;
    assert_eq!(read_tree(&place.offered()), tree(SECOND));
}

#[tokio::test]
async fn killed_anywhere_the_live_tree_is_one_release_and_the_next_agent_gets_on() {
    let deliver = updraft_agent::FAILPOINTS
        .iter()
        // Those need an Airflow: see the tests of `runtime::supervisor`.
        .filter(|name| !name.starts_with("agent.exec."))
        .filter(|name| **name != "agent.environment.end")
        .chain(updraft_bundle::FAILPOINTS)
        // Nothing is collected here.
        .filter(|name| **name != "bundle.remove.after_rename");
    for failpoint in deliver {
        let (place, control) = (Place::new(), ControlPlane::start().await);
        let first = deploy(&place, &control, "first", FIRST);
        let agent = place.start_external(&control);
        control.serving(&first, SOON).await;
        agent.stop_agent_only().await;

        let second = deploy(&place, &control, "second", SECOND);
        let mut killed = place.start_process(&control, failpoint);
        assert!(killed.ended(SOON).await, "never reached: {failpoint}");
        drop(killed);
        let live = (place.live(&control, "dags"), place.live(&control, "dbt"));
        let of = |files, version| (tree(files), tree(&[("model.sql", version)]));
        assert!(
            live == of(FIRST, "first") || live == of(SECOND, "second"),
            "{failpoint}: {live:?}"
        );

        let agent = place.start_external(&control);
        control.serving(&second, SOON).await;
        assert_eq!(place.live(&control, "dags"), tree(SECOND), "{failpoint}");
        agent.stop_agent_only().await;
    }
}

#[tokio::test]
async fn what_was_said_of_one_deploy_is_not_said_of_the_next() {
    let (place, control) = (Place::new(), ControlPlane::start().await);
    // Somebody's folder is where the link should be, so the agent is stuck.
    fs::create_dir_all(place.offered()).unwrap();
    let _agent = place.start_external(&control);
    let first = deploy(&place, &control, "first", FIRST);
    let stalled = |report: &updraft_api::agent::Report| {
        report
            .problem
            .as_ref()
            .is_some_and(|problem| problem.stalled)
    };
    let said = control
        .reported(SOON, |report| {
            report.serving == Some(first.id) && stalled(report)
        })
        .await;
    control.forget_reports();
    fs::remove_dir(place.offered()).unwrap();
    let second = deploy(&place, &control, "second", SECOND);
    let reports = control
        .all_reports(SOON, |report| report.serving == Some(second.id))
        .await;
    for report in reports {
        assert!(
            report.generation <= said.generation
                || report.serving == Some(second.id)
                || !stalled(&report),
            "{report:#?}"
        );
    }
}

#[tokio::test]
async fn what_is_delivered_without_an_airflow_to_ask_is_neither_live_nor_failed() {
    let (place, control) = (Place::new(), ControlPlane::start().await);
    let _agent = place.start_external(&control);
    let first = deploy(&place, &control, "first", FIRST);
    let report = control
        .reported(SOON, |report| {
            report
                .proof
                .as_ref()
                .is_some_and(|proof| proof.release == first.id)
        })
        .await;
    let proof = report.proof.unwrap().proof;
    assert_eq!(proof.outcome, ProofOutcome::TimedOut);
    assert!(proof.seen.contains(&place.offered().display().to_string()));
    assert!(proof.not_seen.contains("--external-airflow"));
    let quiet = control.reported(SOON, |report| report.problem.is_none());
    assert_eq!(quiet.await.serving, Some(first.id));
}

#[tokio::test]
async fn an_external_agent_keeps_the_versions_that_are_named_and_no_more() {
    let (place, control) = (Place::new(), ControlPlane::start().await);
    let _agent = place.start_external(&control);
    let first = deploy(&place, &control, "first", FIRST);
    control.serving(&first, SOON).await;
    let second = deploy(&place, &control, "second", SECOND);
    control.change(|wanted| {
        wanted.keep = second
            .bundles
            .values()
            .map(|bundle| bundle.digest)
            .collect();
    });
    control.serving(&second, SOON).await;
    let third = deploy(&place, &control, "third", &[("a.py", "3")]);
    control.serving(&third, SOON).await;
    let versions = place.root().join(control.deployment().to_string());
    let folder = |release: &Release| {
        let digest = release.bundles[&"dags".parse().unwrap()].digest;
        versions.join("bundles/dags/versions").join(digest.folder())
    };
    let end = std::time::Instant::now() + SOON;
    while folder(&first).exists() && std::time::Instant::now() < end {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert!(!folder(&first).exists());
    assert!(folder(&second).exists() && folder(&third).exists());
}

#[tokio::test]
async fn a_version_that_was_written_to_is_mended_before_it_is_live_again() {
    let (place, control) = (Place::new(), ControlPlane::start().await);
    let _agent = place.start_external(&control);
    let first = deploy(&place, &control, "first", FIRST);
    control.serving(&first, SOON).await;
    let file = fs::canonicalize(place.offered().join("a.py")).unwrap();
    control.change(|wanted| {
        wanted.keep = first.bundles.values().map(|bundle| bundle.digest).collect();
    });
    let second = deploy(&place, &control, "second", SECOND);
    control.serving(&second, SOON).await;

    fs::set_permissions(&file, fs::Permissions::from_mode(0o644)).unwrap();
    fs::write(&file, "somebody's").unwrap();
    control.want(&first, 1);
    control.serving(&first, SOON).await;
    assert_eq!(read_tree(&place.offered()), tree(FIRST));
}

#[tokio::test]
async fn a_fetch_that_hangs_does_not_keep_the_next_deploy_away() {
    let (place, control) = (Place::new(), ControlPlane::start().await);
    let _agent = place.start_external(&control);
    let first = deploy(&place, &control, "first", FIRST);
    control.serving(&first, SOON).await;

    control.asked();
    control.set_silent(true);
    deploy(&place, &control, "second", SECOND);
    control.until_asked(SOON).await;
    control.set_silent(false);
    let third = deploy(&place, &control, "third", &[("a.py", "3")]);
    control.serving(&third, SOON).await;
    assert_eq!(read_tree(&place.offered()), tree(&[("a.py", "3")]));
}

#[tokio::test]
async fn folders_may_be_named_from_where_one_is() {
    let (place, control) = (Place::new(), ControlPlane::start().await);
    let up: std::path::PathBuf = std::env::current_dir()
        .unwrap()
        .ancestors()
        .skip(1)
        .map(|_| "..")
        .collect();
    let from_here = |path: &std::path::Path| up.join(path.strip_prefix("/").unwrap());
    let mut config = place.config(&control);
    config.root = from_here(&place.root());
    config.external = Some(updraft_agent::ExternalConfig {
        folder: from_here(&place.offered()),
        airflow: None,
    });
    let _agent = updraft_agent::Agent::start(config).unwrap();
    let first = deploy(&place, &control, "first", FIRST);
    control.serving(&first, SOON).await;
    let end = std::time::Instant::now() + SOON;
    while read_tree(&place.offered()) != tree(FIRST) {
        assert!(std::time::Instant::now() < end, "the link leads nowhere");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// A token that says which Deployment it is for, as the real ones do.
fn token_for(deployment: updraft_model::DeploymentId) -> String {
    use base64::Engine;
    let scope = updraft_model::Scope::Deployment { deployment };
    let claims = serde_json::json!({ "scope": scope }).to_string();
    let claims = base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(claims);
    format!("e30.{claims}.c2ln")
}

#[tokio::test]
async fn a_folder_stays_with_its_deployment() {
    let (place, control) = (Place::new(), ControlPlane::start().await);
    let agent = place.start_external(&control);
    let first = deploy(&place, &control, "first", FIRST);
    control.serving(&first, SOON).await;
    agent.stop_agent_only().await;

    let other = ControlPlane::start().await;
    let mut config = place.config(&other);
    config.token = updraft_agent::TokenSource::Value(token_for(other.deployment()));
    let refused = updraft_agent::Agent::start(config).err().unwrap();
    let text = refused.to_string();
    assert!(text.contains(&other.deployment().to_string()), "{text}");
    assert!(refused.help().unwrap().contains("folder of its own"));

    // A token that does not say so; twice, as the first must not change it.
    for _ in 0..2 {
        let agent = place.start_external(&other);
        let said = other.reported(SOON, |report| {
            let problem = report.problem.as_ref();
            problem.is_some_and(|problem| problem.message.contains("another Deployment"))
        });
        assert_eq!(said.await.serving, Some(first.id));
        agent.stop_agent_only().await;
        other.forget_reports();
    }
    assert!(!place.root().join(other.deployment().to_string()).exists());

    let _agent = place.start_external(&control);
    let second = deploy(&place, &control, "second", SECOND);
    control.serving(&second, SOON).await;
}

#[tokio::test]
async fn a_version_that_is_written_to_before_the_switch_is_mended_first() {
    let (place, control) = (Place::new(), ControlPlane::start().await);
    let _agent = place.start_external(&control);
    let first = deploy(&place, &control, "first", FIRST);
    control.serving(&first, SOON).await;

    control.set_may_switch(false);
    let second = deploy(&place, &control, "second", SECOND);
    control
        .reported(SOON, |report| report.staged == Some(second.id))
        .await;
    let file = version(&place, &control, "dags", &second).join("a.py");
    fs::set_permissions(&file, fs::Permissions::from_mode(0o644)).unwrap();
    fs::write(&file, "somebody's").unwrap();
    control.set_may_switch(true);
    control.serving(&second, SOON).await;
    assert_eq!(read_tree(&place.offered()), tree(SECOND));
}

/// Where a Release's version of a bundle lies.
fn version(
    place: &Place,
    control: &ControlPlane,
    bundle: &str,
    release: &Release,
) -> std::path::PathBuf {
    let digest = release.bundles[&bundle.parse().unwrap()].digest;
    let versions = format!("{}/bundles/{bundle}/versions", control.deployment());
    place.root().join(versions).join(digest.folder())
}

#[tokio::test]
async fn a_live_tree_that_cannot_be_mended_keeps_the_cure_away_from_nobody() {
    let (place, control) = (Place::new(), ControlPlane::start().await);
    let agent = place.start_external(&control);
    let first = deploy(&place, &control, "first", FIRST);
    control.serving(&first, SOON).await;
    agent.stop_agent_only().await;

    let file = fs::canonicalize(place.offered().join("a.py")).unwrap();
    fs::set_permissions(&file, fs::Permissions::from_mode(0o644)).unwrap();
    fs::write(&file, "?").unwrap();
    let blobs = place.root().join(format!("{}/blobs", control.deployment()));
    fs::remove_dir_all(&blobs).unwrap();
    control.forget_blobs();
    let _agent = place.start_external(&control);
    let second = deploy(&place, &control, "second", SECOND);
    control.serving(&second, SOON).await;
    assert_eq!(read_tree(&place.offered()), tree(SECOND));
}

#[tokio::test]
async fn a_layer_that_is_damaged_on_the_agents_disk_is_fetched_again() {
    let (place, control) = (Place::new(), ControlPlane::start().await);
    let _agent = place.start_external(&control);
    let first = deploy(&place, &control, "first", FIRST);
    control.serving(&first, SOON).await;

    let folder = place.files("second/dags", SECOND);
    let scanned = updraft_bundle::scan(&folder, &updraft_bundle::ScanOptions::default()).unwrap();
    let blobs = place.root().join(format!("{}/blobs", control.deployment()));
    for layer in scanned.manifest().layers() {
        fs::write(blobs.join(layer.digest.folder()), "damaged").unwrap();
    }
    let second = deploy(&place, &control, "second", SECOND);
    control.serving(&second, SOON).await;
    assert_eq!(read_tree(&place.offered()), tree(SECOND));
}

#[tokio::test]
async fn a_bundle_that_left_the_release_is_cleaned_up_like_any_other() {
    let (place, control) = (Place::new(), ControlPlane::start().await);
    let _agent = place.start_external(&control);
    let first = deploy(&place, &control, "first", FIRST);
    control.serving(&first, SOON).await;

    let dags = place.files("second/dags", SECOND);
    let second = control.deploy(Digest::of(b"image"), &[("dags", control.upload(&dags))]);
    control.serving(&second, SOON).await;
    let gone = ["dags", "dbt"].map(|bundle| version(&place, &control, bundle, &first));
    let end = std::time::Instant::now() + SOON;
    while gone.iter().any(|folder| folder.exists()) {
        assert!(std::time::Instant::now() < end, "{gone:?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert!(version(&place, &control, "dags", &second).exists());
}

#[tokio::test]
async fn an_image_for_another_machine_is_refused_and_nothing_changes() {
    let (place, control) = (Place::new(), ControlPlane::start().await);
    let _agent = place.start(&control, None);
    let digest = Digest::of(b"image");
    let lock = Lock {
        python_from: PythonVersion::new(3, 12),
        text: "apache-airflow==3.3.2\n".into(),
    };
    let making = Making::Prebuilt {
        image: format!("shop@{digest}"),
    };
    let airflow = "3.3.2".parse().unwrap();
    let fingerprint = BuildHalf::default().fingerprint(airflow, lock.python_from, making);
    let known = EnvironmentConfig::new(fingerprint, Requirements::default(), [].into(), lock);
    let image = Environment::of_image(EnvironmentConfig {
        platform: "linux/s390x".into(),
        container: Some(ContainerImage {
            repository: "shop".into(),
            digest,
        }),
        ..known
    });
    control.put(updraft_bundle::EMPTY_BLOB);
    control.put(image.config_bytes().to_vec());
    control.put(image.config().lock.text.clone());
    let manifest = control.put(image.manifest().to_bytes());
    let dags = control.upload(&place.files("first/dags", FIRST));
    control.deploy(manifest, &[("dags", dags)]);
    let report = control
        .reported(SOON, |report| report.problem.is_some())
        .await;
    let problem = report.problem.unwrap();
    assert!(problem.stalled, "{problem:?}");
    assert!(
        problem.message.contains("is made for linux/s390x"),
        "{problem:?}"
    );
    assert_eq!(report.staged, None);
    // It is refused before any of it is fetched, by whatever engine.
    assert!(!problem.message.contains("docker"), "{problem:?}");
}

#[tokio::test]
async fn a_full_disk_is_told_changes_nothing_and_is_no_end() {
    let place = Place::new();
    fs::create_dir_all(place.root()).unwrap();
    let Some(_small) = SmallDisk::mount_or_skip(&place.root(), "8m", "a full disk of the agent")
    else {
        return;
    };
    let control = ControlPlane::start().await;
    let agent = place.start_external(&control);
    let first = deploy(&place, &control, "first", FIRST);
    control.serving(&first, SOON).await;

    let ballast = place.root().join("ballast");
    fs::write(&ballast, vec![0; 6 << 20]).unwrap();
    // Half of each byte is chance, so that it stays large.
    let mut state = 1u64;
    let mut noise = || {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        char::from(b'a' + u8::try_from(state >> 60).unwrap())
    };
    let large: String = (0..3 << 20).map(|_| noise()).collect();
    let files = [("a.py", "2"), ("large.py", large.as_str())];
    let second = deploy(&place, &control, "second", &files);
    let report = control.reported(SOON, |report| {
        let problem = report.problem.as_ref();
        problem.is_some_and(|problem| {
            problem.message.contains("the disk is full") && problem.message.contains("free some")
        })
    });
    assert_eq!(report.await.serving, Some(first.id));
    assert_eq!(read_tree(&place.offered()), tree(FIRST));

    fs::remove_file(&ballast).unwrap();
    control.serving(&second, Duration::from_secs(60)).await;
    assert_eq!(read_tree(&place.offered()), tree(&files));
    agent.stop_agent_only().await;
}
