//! From what agents report to the states of deploys.
//!
//! Looks at everything that is known, each time: a lost, late or repeated
//! report changes nothing but when this happens.

use chrono::Duration;
use updraft_api::agent::{ProofReport, Report};
use updraft_model::{
    AfterFailure, BundleName, BundleRef, DeployKind, DeployState, Failure, Proof, ProofOutcome,
    Release, ReleaseId, ReleasePart, Timestamp,
};
use updraft_store::{Deploy, DeployParts, Deployment, NewDeploy, Proven, Target, Write};

use super::wanted::{Become, files_between};
use super::{DeployError, become_wanted};
use crate::app::App;

/// An agent that counts, with its last report.
struct Voice {
    host: String,
    report: Report,
}

impl Voice {
    /// Its proof, when it is about this Release and attempt.
    fn proof_of(&self, target: &Target) -> Option<&ProofReport> {
        self.report
            .proof
            .as_ref()
            .filter(|proof| proof.release == target.release && proof.attempt == target.attempt)
    }

    fn serves(&self, release: ReleaseId) -> bool {
        self.report.serving == Some(release)
    }

    fn has_staged(&self, release: ReleaseId) -> bool {
        self.report.staged == Some(release) || self.serves(release)
    }
}

/// Whether a failed deploy is taken back with the failure itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum GoingBack {
    AsThePolicySays,
    /// It was tried and cannot be done: what failed is still recorded.
    Impossible,
}

/// What moved. It is counted once it is committed.
#[derive(Debug, Default)]
pub(crate) struct Advanced {
    /// Deploys that came to another state.
    pub(crate) moved: Vec<Deploy>,
    /// The deploy that all agents have on disk since now.
    pub(crate) on_disk: Option<Deploy>,
}

/// Moves the wanted deploy on as far as the evidence goes, within the
/// transaction that holds the Deployment's lock. The Deployment is saved when
/// it changed.
pub(crate) async fn advance(
    app: &App,
    tx: &mut Write,
    deployment: &mut Deployment,
    going_back: GoingBack,
    now: Timestamp,
) -> Result<Advanced, DeployError> {
    let Some(target) = deployment.target else {
        return Ok(Advanced::default());
    };
    let Some(mut deploy) = tx.deploy(target.deploy).await? else {
        return Ok(Advanced::default());
    };
    let voices: Vec<Voice> = tx
        .agents(deployment.id)
        .await?
        .into_iter()
        .filter(|agent| app.leases.until(agent) > now)
        .filter_map(|agent| {
            Some(Voice {
                report: serde_json::from_str(&agent.report).ok()?,
                host: agent.host,
            })
        })
        .collect();
    let mut moved = Vec::new();
    let mut on_disk = None;

    if !target.may_switch
        && !voices.is_empty()
        && (voices.len() == 1 || voices.iter().all(|voice| voice.has_staged(target.release)))
    {
        allow_switch(tx, deployment, now).await?;
    }
    if matches!(deploy.state, DeployState::Accepted)
        && voices
            .iter()
            .any(|voice| voice.report.generation >= target.generation)
    {
        deploy.state = deploy.state.roll_out(now)?;
        tx.update_deploy(&mut deploy, now).await?;
        moved.push(deploy.clone());
    }
    let everywhere = !voices.is_empty() && voices.iter().all(|voice| voice.serves(target.release));
    if everywhere && deploy.on_disk_at.is_none() {
        deploy.on_disk_at = Some(now);
        tx.update_deploy(&mut deploy, now).await?;
        on_disk = Some(deploy.clone());
        // Only now: until here the one before was what ran.
        for mut live in tx.live_deploys(deployment.id).await? {
            if live.id != deploy.id {
                live.state = live.state.supersede(now, deploy.id)?;
                tx.update_deploy(&mut live, now).await?;
                moved.push(live);
            }
        }
    }

    let waits = matches!(
        deploy.state,
        DeployState::Accepted | DeployState::RollingOut { .. } | DeployState::TimedOut { .. }
    );
    if waits
        && let Some(verdict) = verdict(app, deployment, &target, &deploy, &voices, everywhere, now)
    {
        let failed = matches!(verdict, Verdict::Failed(_));
        conclude(tx, deployment, &mut deploy, verdict, now).await?;
        moved.push(deploy.clone());
        if failed && deploy.kind.brings() && going_back == GoingBack::AsThePolicySays {
            moved.extend(take_back(app, tx, deployment, deploy, now).await?);
        }
    }
    Ok(Advanced { moved, on_disk })
}

async fn allow_switch(
    tx: &mut Write,
    deployment: &mut Deployment,
    now: Timestamp,
) -> Result<(), DeployError> {
    if let Some(target) = &mut deployment.target {
        target.may_switch = true;
        deployment.generation += 1;
        tx.update_deployment(deployment, now).await?;
    }
    Ok(())
}

/// What the evidence says about a deploy that waits for it.
enum Verdict {
    Live(Proof),
    Failed(Failure),
    TimedOut {
        seen: String,
        not_seen: String,
        proof: Option<Proof>,
    },
}

fn verdict(
    app: &App,
    deployment: &Deployment,
    target: &Target,
    deploy: &Deploy,
    voices: &[Voice],
    everywhere: bool,
    now: Timestamp,
) -> Option<Verdict> {
    let proofs: Vec<&Proof> = voices
        .iter()
        .filter_map(|voice| voice.proof_of(target))
        .map(|report| &report.proof)
        .collect();
    if let Some(proof) = proofs
        .iter()
        .find(|proof| proof.outcome == ProofOutcome::ImportErrors)
    {
        let proof = Proof::clone(proof);
        return Some(Verdict::Failed(Failure::ImportErrors { proof }));
    }
    let stalled = voices
        .iter()
        .filter(|voice| {
            voice.report.generation >= target.generation
                && voice
                    .proof_of(target)
                    .is_none_or(|report| report.proof.outcome != ProofOutcome::Proven)
        })
        .find_map(|voice| {
            let problem = voice.report.problem.as_ref()?;
            problem
                .stalled
                .then(|| format!("{}: {}", voice.host, problem.message))
        });
    if let Some(message) = stalled {
        return Some(Verdict::Failed(Failure::Agent { message }));
    }
    let proven = proofs
        .iter()
        .filter(|proof| proof.outcome == ProofOutcome::Proven)
        .count();
    if everywhere && proven == voices.len() {
        // Where several looked, the one that looked at most says most.
        let proof = proofs
            .iter()
            .max_by_key(|proof| (proof.affected, proof.parsed))?;
        return Some(Verdict::Live(Proof::clone(proof)));
    }
    if matches!(deploy.state, DeployState::TimedOut { .. }) {
        return None;
    }
    if let Some(proof) = proofs
        .iter()
        .find(|proof| proof.outcome == ProofOutcome::TimedOut)
    {
        return Some(Verdict::TimedOut {
            seen: proof.seen.clone(),
            not_seen: proof.not_seen.clone(),
            proof: Some(Proof::clone(proof)),
        });
    }
    let patience =
        i64::from(deployment.settings.proof_timeout_s) + i64::from(app.config.proof_grace_s);
    if now - target.since > Duration::seconds(patience) {
        let (seen, not_seen) = seen_until_now(target, voices);
        return Some(Verdict::TimedOut {
            seen,
            not_seen,
            proof: None,
        });
    }
    None
}

/// What agents got done and what they did not, for people.
fn seen_until_now(target: &Target, voices: &[Voice]) -> (String, String) {
    if voices.is_empty() {
        return (
            "no agent was connected".into(),
            "an agent that fetches, switches to and proves the Release".into(),
        );
    }
    let hosts = |holds: &dyn Fn(&Voice) -> bool| -> Vec<&str> {
        voices
            .iter()
            .filter(|voice| holds(voice))
            .map(|voice| voice.host.as_str())
            .collect()
    };
    let steps: [(&str, Vec<&str>); 3] = [
        (
            "fetched on",
            hosts(&|voice| voice.has_staged(target.release)),
        ),
        ("on disk on", hosts(&|voice| voice.serves(target.release))),
        (
            "proven on",
            hosts(&|voice| {
                voice
                    .proof_of(target)
                    .is_some_and(|report| report.proof.outcome == ProofOutcome::Proven)
            }),
        ),
    ];
    let mut seen = match voices.len() {
        1 => vec!["1 agent connected".to_owned()],
        many => vec![format!("{many} agents connected")],
    };
    let mut not_seen = Vec::new();
    for (what, done) in steps {
        if !done.is_empty() {
            seen.push(format!("{what} {}", done.join(", ")));
        }
        let open: Vec<&str> = voices
            .iter()
            .map(|voice| voice.host.as_str())
            .filter(|host| !done.contains(host))
            .collect();
        if !open.is_empty() {
            not_seen.push(format!("{what} {}", open.join(", ")));
        }
    }
    (seen.join("; "), not_seen.join("; "))
}

async fn conclude(
    tx: &mut Write,
    deployment: &mut Deployment,
    deploy: &mut Deploy,
    verdict: Verdict,
    now: Timestamp,
) -> Result<(), DeployError> {
    let state = deploy.state.clone();
    match verdict {
        Verdict::Live(proof) => {
            deploy.state = state.live(now, proof.clone())?;
            deploy.proof = Some(proof);
            deploy.proven_at = Some(now);
            deployment.proven = deployment.target.map(|target| Proven {
                deploy: target.deploy,
                release: target.release,
            });
            deployment.generation += 1;
            tx.update_deployment(deployment, now).await?;
        }
        Verdict::Failed(failure) => {
            if let Failure::ImportErrors { proof } = &failure {
                deploy.proof = Some(proof.clone());
            }
            deploy.state = state.fail(now, failure.clone())?;
            deploy.failure = Some(failure);
        }
        Verdict::TimedOut {
            seen,
            not_seen,
            proof,
        } => {
            deploy.state = state.time_out(now, seen, not_seen)?;
            deploy.proof = proof;
        }
    }
    deploy.ended_at = Some(now);
    tx.update_deploy(deploy, now).await?;
    tracing::info!(deploy = %deploy.id, state = deploy.state.name(), "deploy ended");
    Ok(())
}

/// Import errors of a deploy that was superseded before they were known, while
/// what it changed is still wanted: a deploy of another part came in between.
pub(crate) async fn late_failure(
    app: &App,
    tx: &mut Write,
    deployment: &mut Deployment,
    report: &ProofReport,
    now: Timestamp,
) -> Result<Vec<Deploy>, DeployError> {
    let is_target = deployment
        .target
        .is_none_or(|target| target.release == report.release);
    if is_target || report.proof.outcome != ProofOutcome::ImportErrors {
        return Ok(Vec::new());
    }
    let Some(mut deploy) = tx.deploy_of_release(deployment.id, report.release).await? else {
        return Ok(Vec::new());
    };
    let late = matches!(deploy.state, DeployState::Superseded { .. })
        && deploy.kind.brings()
        && deploy.proven_at.is_none()
        && deploy.failure.is_none();
    if !late {
        return Ok(Vec::new());
    }
    let proof = report.proof.clone();
    deploy.proof = Some(proof.clone());
    deploy.failure = Some(Failure::ImportErrors { proof });
    take_back(app, tx, deployment, deploy, now).await
}

/// Takes the parts that a failed deploy changed back to what was last proven,
/// on top of what is wanted now, where nobody changed the same part since.
async fn take_back(
    app: &App,
    tx: &mut Write,
    deployment: &mut Deployment,
    mut failed: Deploy,
    now: Timestamp,
) -> Result<Vec<Deploy>, DeployError> {
    if deployment.settings.after_failure == AfterFailure::Keep {
        return Ok(Vec::new());
    }
    let (Some(target), Some(proven)) = (deployment.target, deployment.proven) else {
        return Ok(Vec::new());
    };
    // What somebody rolled back does not come back by itself.
    let last = tx.deploy(proven.deploy).await?;
    if last.is_some_and(|last| matches!(last.state, DeployState::RolledBack { .. })) {
        return Ok(Vec::new());
    }
    let (Some(wanted), Some(proven_release), Some(failed_release)) = (
        tx.release(target.release).await?,
        tx.release(proven.release).await?,
        failed.release.clone(),
    ) else {
        return Ok(Vec::new());
    };
    let parts = answerable(&failed, &failed_release);
    let release = without(&wanted, &parts, &failed_release, &proven_release);
    if release.same_content(&wanted) {
        return Ok(Vec::new());
    }
    if target.deploy != failed.id {
        // Its failure came late; the row says why it is taken back.
        tx.update_deploy(&mut failed, now).await?;
    }
    let new = NewDeploy {
        deployment: deployment.id,
        kind: DeployKind::AutomaticRollback,
        key: format!("automatic rollback of {} ({})", failed.id, failed.revision),
        parts: DeployParts::default(),
        description: format!("takes back {}", failed.id),
        git: None,
        ci: None,
        created_by: "Updraft".into(),
        created_at: now,
        returns_to: Some(proven.deploy),
        promotes: None,
        // The policy has decided, and what the newer Airflow added is minutes old.
        allow_downgrade: true,
    };
    let mut rollback = new.into_deploy(tx.latest_deploy(deployment.id).await?);
    tx.insert_deploy(&rollback).await?;
    rollback.state = rollback.state.accept()?;
    let files = files_between(app, tx, Some(&wanted), &release).await?;
    let mut moved = become_wanted(
        app,
        tx,
        deployment,
        &mut rollback,
        Become {
            wanted: Some(wanted),
            release,
            files,
            undone: Some(failed.id),
        },
        now,
    )
    .await?;
    tracing::info!(deploy = %rollback.id, failed = %failed.id, "going back by itself");
    moved.push(rollback);
    Ok(moved)
}

/// The parts of a failed deploy, and of those that it took the place of unproven, that can have made it fail: not a bundle
/// in which Airflow found nothing wrong. The image can break any.
fn answerable(failed: &Deploy, release: &Release) -> Vec<ReleasePart> {
    let Some(Failure::ImportErrors { proof }) = &failed.failure else {
        return failed.carried.clone();
    };
    let is_broken = |name: &BundleName| {
        // Where a Release has several bundles, files are called by bundle and path.
        let below = format!("{name}/");
        release.bundles.len() == 1
            || proof
                .new_import_errors()
                .any(|error| error.file.starts_with(&below))
    };
    let can_have = |part: &&ReleasePart| match part {
        ReleasePart::Image => true,
        ReleasePart::Bundle { name } => is_broken(name),
    };
    failed.carried.iter().filter(can_have).cloned().collect()
}

/// What is wanted, with those parts that are still the failed deploy's replaced
/// by what was proven.
fn without(wanted: &Release, parts: &[ReleasePart], failed: &Release, proven: &Release) -> Release {
    let mut release = Release {
        id: ReleaseId::new(),
        ..wanted.clone()
    };
    for part in parts {
        match part {
            ReleasePart::Image => {
                if wanted.image == failed.image {
                    release.image = proven.image.clone();
                }
            }
            ReleasePart::Bundle { name } => {
                if wanted.bundles.get(name) == failed.bundles.get(name) {
                    let proven: Option<&BundleRef> = proven.bundles.get(name);
                    match proven {
                        Some(bundle) => release.bundles.insert(name.clone(), bundle.clone()),
                        None => release.bundles.remove(name),
                    };
                }
            }
        }
    }
    release
}
