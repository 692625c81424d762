use updraft_api::deploy::{ComparisonOutcome, DeployView, RollbackRequest};
use updraft_bundle::failpoint;
use updraft_model::{DeployId, DeployKind, DeployState, DeploymentName, Release, ReleaseId};
use updraft_store::{DeployParts, Deployment, NewDeploy, Read};

use super::compare::of_equal;
use super::create::{check_text, lock, prove_again};
use super::hold::{RolledBack, held_by, hold_back};
use super::wanted::{Become, files_between};
use super::{DeployError, agents_now, become_wanted, view};
use crate::app::App;
use crate::auth::Caller;

/// How far back to look for a Release that differs.
const LOOK_BACK: u32 = 100;
/// Deploys that are named as possible targets.
const NAMED: usize = 5;

/// Makes an earlier Release the wanted one again, as a new deploy: history
/// stays append-only, nothing is built or sent, and what is left is held back. Where it is the wanted one
/// already, the answer is the deploy that made it so, which is proven again if
/// that went badly.
pub(crate) async fn rollback(
    app: &App,
    caller: &Caller,
    name: &DeploymentName,
    ask: RollbackRequest,
) -> Result<DeployView, DeployError> {
    check_text("key", &ask.key, 1, 200)?;
    check_text("description", &ask.description, 0, 5000)?;
    let gate = app.blob_gate.read().await;
    let now = app.now();
    let mut tx = app.store.begin().await?;
    let id = caller.deployment(&mut tx, name).await?.id;
    let mut deployment = lock(&mut tx, id, name).await?;
    caller.check_deploys_to(&deployment)?;
    let agents = agents_now(app, &tx.agents(id).await?);
    if let Some(earlier) = tx.deploy_by_key(id, &ask.key).await? {
        return Ok(view(earlier, &deployment, &agents));
    }
    let wanted = match deployment.target {
        Some(target) => tx.release(target.release).await?,
        None => None,
    };
    let (returns_to, old) = find_target(app, &mut tx, &deployment, wanted.as_ref(), ask.to).await?;

    let wanted_deploy = deployment.target.map(|target| target.deploy);
    if let (Some(wanted), Some(wanted_deploy)) = (&wanted, wanted_deploy)
        && old.same_content(wanted)
        && let Some(mut deploy) = tx.deploy(wanted_deploy).await?
    {
        if of_equal(&deploy.state) == ComparisonOutcome::ProvingAgain {
            deploy = prove_again(app, &mut tx, &mut deployment, deploy).await?;
            caller.goes_on_with(&mut tx, deploy.id).await?;
            tx.commit().await?;
            app.announce(id);
        }
        return Ok(view(deploy, &deployment, &agents));
    }
    check_blobs(app, &mut tx, &deployment, &old).await?;

    let new = NewDeploy {
        deployment: id,
        kind: DeployKind::Rollback,
        key: ask.key,
        parts: DeployParts::default(),
        description: ask.description,
        git: None,
        ci: None,
        created_by: caller.name().to_owned(),
        created_at: now,
        returns_to: Some(returns_to),
        promotes: None,
        allow_downgrade: ask.allow_downgrade,
    };
    let mut deploy = new.into_deploy(tx.latest_deploy(id).await?);
    tx.insert_deploy(&deploy).await?;
    deploy.state = deploy.state.accept()?;
    // Of its own, so that no evidence of the earlier time counts for this one.
    let release = Release {
        id: ReleaseId::new(),
        ..old
    };
    let files = files_between(app, &mut tx, wanted.as_ref(), &release).await?;
    if let (Some(wanted), Some(from)) = (&wanted, wanted_deploy) {
        let done = RolledBack {
            by: caller.name(),
            reason: &deploy.description,
            at: now,
            rollback: deploy.id,
            from: (from, wanted),
            to: &release,
        };
        hold_back(&mut deployment, &done);
    }
    let moved = become_wanted(
        app,
        &mut tx,
        &mut deployment,
        &mut deploy,
        Become {
            wanted,
            release,
            files,
            undone: wanted_deploy,
        },
        now,
    )
    .await?;
    caller.goes_on_with(&mut tx, deploy.id).await?;
    failpoint("server.rollback.before_commit");
    tx.commit().await?;
    failpoint("server.rollback.after_commit");
    drop(gate);

    app.announce(id);
    app.metrics.deploy_took(&deploy, "accepted", now);
    for deploy in &moved {
        app.metrics.deploy_came_to(deploy);
    }
    tracing::info!(deploy = %deploy.id, deployment = %name, to = %returns_to, by = caller.name(), "rolled back");
    Ok(view(deploy, &deployment, &agents))
}

/// The given deploy, or the last proven one whose Release differs and is not held back.
async fn find_target(
    app: &App,
    read: &mut Read,
    deployment: &Deployment,
    wanted: Option<&Release>,
    to: Option<DeployId>,
) -> Result<(DeployId, Release), DeployError> {
    let Some(id) = to else {
        let proven = read.proven_deploys(deployment.id, LOOK_BACK).await?;
        for deploy in proven {
            if let Some(release) = deploy.release
                && !matches!(deploy.state, DeployState::RolledBack { .. })
                && wanted.is_none_or(|wanted| !wanted.same_content(&release))
                && held_by(deployment, wanted, &release).is_none()
                && read.has_manifests(&release).await?
            {
                return Ok((deploy.id, release));
            }
        }
        return Err(DeployError::NothingToReturnTo(deployment.name.to_string()));
    };
    let deploy = read
        .deploy(id)
        .await?
        .ok_or(crate::auth::AccessError::DeployNotFound(id))?;
    if deploy.deployment != deployment.id {
        return Err(DeployError::OtherDeployment {
            id,
            deployment: deployment.name.to_string(),
        });
    }
    match deploy.release {
        Some(release) if read.has_manifests(&release).await? => Ok((id, release)),
        Some(_) => Err(DeployError::PastRetention {
            id,
            days: app.config.retention_days,
            others: possible_targets(read, deployment).await?,
        }),
        None => Err(DeployError::NotARollbackTarget {
            id,
            state: deploy.state.name(),
            others: possible_targets(read, deployment).await?,
        }),
    }
}

/// The newest deploys whose Release is still all there.
async fn possible_targets(
    read: &mut Read,
    deployment: &Deployment,
) -> Result<Vec<DeployId>, DeployError> {
    let mut targets = Vec::new();
    for deploy in read.history(deployment.id, None, 50).await? {
        if let Some(release) = &deploy.release
            && read.has_manifests(release).await?
        {
            targets.push(deploy.id);
            if targets.len() == NAMED {
                break;
            }
        }
    }
    Ok(targets)
}

/// A blob may be damaged, or gone from a disk that lost it.
pub(super) async fn check_blobs(
    app: &App,
    read: &mut Read,
    deployment: &Deployment,
    release: &Release,
) -> Result<(), DeployError> {
    let blobs = app.shelf.blobs_of(read, release).await?;
    match app.blobs.missing(blobs).await?.first() {
        None => Ok(()),
        Some(digest) => Err(DeployError::BlobGone {
            digest: *digest,
            deployment: deployment.name.to_string(),
        }),
    }
}
