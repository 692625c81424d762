use updraft_api::deploy::{Comparison, ComparisonOutcome, CreateDeploy};
use updraft_bundle::failpoint;
use updraft_model::{CiRun, DeployKind, DeployState, DeploymentName};
use updraft_store::{Deploy, Deployment, NewDeploy, Write};

use super::DeployError;
use super::compare::{answer, assess};
use super::hold::refuse_held;
use crate::app::App;
use crate::auth::Caller;
use crate::bundle::Offer;

/// Records a deploy when there is something to do, and says what to send for it.
///
/// Equal to what is wanted, there is nothing to record: that deploy is the
/// answer, and is proven again when it ended badly.
pub(crate) async fn create(
    app: &App,
    caller: &Caller,
    name: &DeploymentName,
    ask: CreateDeploy,
) -> Result<Comparison, DeployError> {
    check_text("key", &ask.key, 1, 200)?;
    check_text("description", &ask.description, 0, 5000)?;
    check_run(ask.ci.as_deref())?;
    let offer = Offer::read(ask.parts, &app.config.limits)?;
    // No blob may go between looking for it and naming it.
    let gate = app.blob_gate.read().await;

    let mut tx = app.store.begin().await?;
    let id = caller.deployment(&mut tx, name).await?.id;
    let mut deployment = lock(&mut tx, id, name).await?;
    caller.check_brings(&deployment)?;
    let mut assessment = assess(&mut tx, &deployment, &offer.parts).await?;

    let deploy = if let Some(earlier) = tx.deploy_by_key(id, &ask.key).await? {
        if earlier.parts != offer.parts {
            return Err(DeployError::KeyReused(ask.key));
        }
        assessment.outcome = ComparisonOutcome::Changes;
        earlier
    } else {
        match assessment.outcome {
            ComparisonOutcome::Changes
                if assessment.wanted.is_none() && offer.parts.image.is_none() =>
            {
                return Err(DeployError::ImageMissing(name.to_string()));
            }
            ComparisonOutcome::Changes => {
                let wanted = assessment.wanted.as_ref();
                refuse_held(&deployment, wanted, assessment.asked.as_ref(), ask.force)?;
                let git = ask.git;
                let new = NewDeploy {
                    deployment: id,
                    kind: DeployKind::Deploy,
                    key: ask.key,
                    parts: offer.parts.clone(),
                    description: ask.description,
                    git,
                    ci: ask.ci,
                    created_by: caller.name().to_owned(),
                    created_at: app.now(),
                    returns_to: None,
                    promotes: None,
                    allow_downgrade: ask.allow_downgrade,
                };
                record(app, &mut tx, new, &offer).await?
            }
            ComparisonOutcome::ProvingAgain => {
                // Equal means that there is one.
                let wanted = assessment.wanted_deploy.clone();
                let wanted = wanted.ok_or(updraft_store::StoreError::Conflict)?;
                prove_again(app, &mut tx, &mut deployment, wanted).await?
            }
            ComparisonOutcome::NothingToDo | ComparisonOutcome::RollingOut => {
                // Equal means that there is one.
                let wanted = assessment.wanted_deploy.clone();
                wanted.ok_or(updraft_store::StoreError::Conflict)?
            }
        }
    };
    caller.goes_on_with(&mut tx, deploy.id).await?;
    failpoint("server.create.before_commit");
    tx.commit().await?;
    failpoint("server.create.after_commit");
    // From here on the deploy's row names them.
    drop(gate);
    if assessment.outcome == ComparisonOutcome::ProvingAgain {
        app.announce(id);
    }
    tracing::info!(deploy = %deploy.id, deployment = %name, outcome = ?assessment.outcome, by = caller.name(),
        "deploy asked for");

    let mut read = app.store.read().await?;
    answer(
        app,
        caller,
        &mut read,
        &deployment,
        &offer,
        assessment,
        Some(deploy),
    )
    .await
}

pub(super) async fn lock(
    tx: &mut Write,
    id: updraft_model::DeploymentId,
    name: &DeploymentName,
) -> Result<Deployment, DeployError> {
    // It was there a moment ago, in the same transaction on SQLite.
    let gone = || crate::auth::AccessError::DeploymentNotFound {
        name: name.to_string(),
        nearest: None,
    };
    Ok(tx.lock_deployment(id).await?.ok_or_else(gone)?)
}

async fn record(
    app: &App,
    tx: &mut Write,
    new: NewDeploy,
    offer: &Offer,
) -> Result<Deploy, DeployError> {
    let latest = tx.latest_deploy(new.deployment).await?;
    let mut deploy = new.into_deploy(latest);
    deploy.state = deploy.state.upload()?;
    let manifests = offer.manifests.iter();
    let texts = manifests.map(|(digest, manifest)| (*digest, manifest.text.as_str()));
    tx.insert_manifests(texts.collect(), deploy.created_at)
        .await?;
    for (digest, manifest) in &offer.manifests {
        app.shelf.put_manifest(*digest, manifest.clone());
    }
    tx.insert_deploy(&deploy).await?;
    Ok(deploy)
}

/// Sends a deploy that ended badly back to its agents: pressing "re-run" asks
/// Airflow again and never turns red into green by itself.
pub(super) async fn prove_again(
    app: &App,
    tx: &mut Write,
    deployment: &mut Deployment,
    mut deploy: Deploy,
) -> Result<Deploy, DeployError> {
    let conflict = || DeployError::Store(updraft_store::StoreError::Conflict);
    let now = app.now();
    deploy.state = deploy.state.prove_again(now)?;
    debug_assert!(matches!(deploy.state, DeployState::RollingOut { .. }));
    deploy.ended_at = None;
    deploy.failure = None;
    deploy.proof = None;
    tx.update_deploy(&mut deploy, now).await?;
    deployment.generation += 1;
    let target = deployment.target.as_mut().ok_or_else(conflict)?;
    target.attempt += 1;
    target.since = now;
    target.generation = deployment.generation;
    tx.update_deployment(deployment, now).await?;
    Ok(deploy)
}

/// It comes from variables of anybody's pipeline.
fn check_run(run: Option<&CiRun>) -> Result<(), DeployError> {
    let written = run.map(serde_json::to_string).transpose();
    let written = written.ok().flatten().unwrap_or_default();
    check_text("ci", &written, 0, 20_000)
}

pub(super) fn check_text(
    what: &str,
    text: &str,
    least: usize,
    most: usize,
) -> Result<(), DeployError> {
    let length = text.chars().count();
    if (least..=most).contains(&length) && !text.contains('\0') {
        return Ok(());
    }
    Err(DeployError::Invalid(format!(
        "`{what}` has {length} characters; it has to have {least} to {most}, none of them zero"
    )))
}
