//! Previews come and go as the control plane wants it. Their Airflows are looked at
//! in `tests/e2e`: here none of them has anything to run.
#![allow(clippy::unwrap_used)]

mod support;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use updraft_agent::{Agent, RootError, RunningAgent, StartError, kept_previews};
use updraft_api::agent::WantedPreview;
use updraft_model::{AgentId, DeploymentId, PreviewValues};

use support::{ControlPlane, Place};

const SOON: Duration = Duration::from_secs(60);

fn preview(name: &str, agent: Option<AgentId>) -> WantedPreview {
    WantedPreview {
        id: DeploymentId::new(),
        name: name.parse().unwrap(),
        values: PreviewValues::Mask,
        agent,
    }
}

/// An agent with places for two Previews.
fn start(place: &Place, control: &ControlPlane) -> RunningAgent {
    let begun = Instant::now();
    loop {
        let mut config = place.config(control);
        config.previews = 2;
        match Agent::start(config) {
            // As long as a program that another test starts has its files.
            Err(StartError::Root(RootError::Locked(_))) if begun.elapsed() < SOON => {
                std::thread::sleep(Duration::from_millis(20));
            }
            started => return started.unwrap(),
        }
    }
}

fn folder(place: &Place, preview: DeploymentId) -> PathBuf {
    place.root().join("previews").join(preview.to_string())
}

async fn becomes(what: &str, check: impl Fn() -> bool) {
    let begun = Instant::now();
    while !check() {
        assert!(begun.elapsed() < SOON, "waited in vain until {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test]
async fn a_preview_is_taken_once_and_leaves_nothing_when_it_is_closed() {
    let (place, control) = (Place::new(), ControlPlane::start().await);
    let wanted = preview("shop-pr-7", None);
    let id = wanted.id;
    control.change(|all| all.previews = vec![wanted]);
    let agent = start(&place, &control);
    let report = control
        .reported(SOON, |report| report.preview_places == 2)
        .await;
    let own = control.preview_reported(id, SOON).await;
    assert_ne!(own.agent, report.agent);
    assert_eq!((own.host, own.preview_places), (report.host, 0));

    let token = folder(&place, id).join("token");
    let mode = fs::metadata(token).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let kept = || kept_previews(&place.root()).unwrap();
    let before = kept();
    assert_eq!(before[0].1.name.as_str(), "shop-pr-7");

    // The next agent goes on with it, where it was.
    control.change(|all| all.previews[0].agent = Some(report.agent));
    let takes = control.takes();
    agent.stop_agent_only().await;
    control.forget_preview_reports();
    let agent = start(&place, &control);
    let again = control.preview_reported(id, SOON).await;
    assert_eq!(again.agent, own.agent);
    assert_eq!(kept(), before);
    assert_eq!(control.takes(), takes);

    control.change(|all| all.previews.clear());
    becomes("it is gone", || !folder(&place, id).exists()).await;
    agent.stop_with_airflow().await;
}

#[tokio::test]
async fn what_another_agent_has_is_left_to_it() {
    let (place, control) = (Place::new(), ControlPlane::start().await);
    control.set_taken(true);
    let (free, others) = (
        preview("shop-pr-1", None),
        preview("shop-pr-2", Some(AgentId::new())),
    );
    let ids = [free.id, others.id];
    control.change(|all| all.previews = vec![free, others]);
    let _agent = start(&place, &control);
    control
        .reported(SOON, |report| report.preview_places == 2)
        .await;
    assert!(!ids.iter().any(|id| folder(&place, *id).exists()));

    // It is asked for again without anything else that happens.
    control.set_taken(false);
    control.preview_reported(ids[0], SOON).await;
    assert!(!control.takes().contains(&ids[1]));

    // Another agent took it, as when this one was away for long.
    control.change(|all| all.previews[0].agent = Some(AgentId::new()));
    becomes("it is gone", || !folder(&place, ids[0]).exists()).await;
}

#[tokio::test]
async fn what_a_killed_agent_left_is_stopped_and_removed() {
    let (place, control) = (Place::new(), ControlPlane::start().await);
    let id = DeploymentId::new();
    let disk = folder(&place, id).join(id.to_string());
    fs::create_dir_all(disk.join("run")).unwrap();
    let mut left = Command::new("sleep")
        .arg("600")
        .env("UPDRAFT_MANAGED_IN", &disk)
        .stdin(Stdio::null())
        .spawn()
        .unwrap();
    // What is not told by the control plane itself ends nothing.
    control.set_down(true);
    let agent = start(&place, &control);
    assert!(left.try_wait().unwrap().is_none());
    control.set_down(false);
    becomes("it is gone", || !folder(&place, id).exists()).await;
    assert!(left.wait().unwrap().code().is_none(), "it ended by itself");
    agent.stop_agent_only().await;
}
