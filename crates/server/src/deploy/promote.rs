use std::collections::BTreeMap;

use updraft_api::deploy::{
    ComparisonOutcome, PromoteRequest, PromotedHalves, Promotion, PromotionSource,
};
use updraft_model::{Checks, DeployId, DeployKind, DeploymentName, ImageRef, Release, Runtime};
use updraft_store::{Deploy, DeployParts, Deployment, NewDeploy, Read};

use super::compare::{Assessment, assess, reports};
use super::create::{check_text, lock, prove_again};
use super::hold::pass_hold;
use super::rollback::check_blobs;
use super::suitable::refuse_other_platform;
use super::view::file_changes;
use super::wanted::{Become, files_between};
use super::{DeployError, agents_now, become_wanted, checks, view};
use crate::app::App;
use crate::auth::Caller;
use crate::registry::lend;

/// Rollbacks of rollbacks that are followed to what was checked.
const MOST_BACK: usize = 10;

/// What is taken of another Deployment.
struct Taken {
    from: Deployment,
    deploy: Deploy,
    parts: DeployParts,
    newer: Option<DeployId>,
}

/// Says what a promotion would change. Records nothing.
pub(crate) async fn plan_promotion(
    app: &App,
    caller: &Caller,
    name: &DeploymentName,
    source: &PromotionSource,
) -> Result<Promotion, DeployError> {
    let mut read = app.store.read().await?;
    let deployment = caller.deployment(&mut read, name).await?;
    let taken = take(caller, &mut read, &deployment, source).await?;
    let assessment = assess(&mut read, &deployment, &taken.parts).await?;
    let deploy = match assessment.outcome {
        ComparisonOutcome::Changes => None,
        ComparisonOutcome::NothingToDo
        | ComparisonOutcome::RollingOut
        | ComparisonOutcome::ProvingAgain => assessment.wanted_deploy.clone(),
    };
    answer(app, &mut read, &deployment, taken, assessment, deploy).await
}

/// Makes the Release of another Deployment the wanted one, as a new deploy: the same
/// digests, nothing is built or sent. Bundles that the other one lacks stay.
pub(crate) async fn promote(
    app: &App,
    caller: &Caller,
    name: &DeploymentName,
    ask: PromoteRequest,
) -> Result<Promotion, DeployError> {
    check_text("key", &ask.key, 1, 200)?;
    check_text("description", &ask.description, 0, 5000)?;
    // No blob may go between looking for it and naming it.
    let gate = app.blob_gate.read().await;
    let now = app.now();
    let mut tx = app.store.begin().await?;
    let id = caller.deployment(&mut tx, name).await?.id;
    let mut deployment = lock(&mut tx, id, name).await?;
    caller.check_brings(&deployment)?;
    let taken = take(caller, &mut tx, &deployment, &ask.source).await?;
    let assessment = assess(&mut tx, &deployment, &taken.parts).await?;
    if let Some(earlier) = tx.deploy_by_key(id, &ask.key).await? {
        return answer(app, &mut tx, &deployment, taken, assessment, Some(earlier)).await;
    }
    if assessment.outcome != ComparisonOutcome::Changes {
        let conflict = updraft_store::StoreError::Conflict;
        // Equal means that there is one.
        let mut deploy = assessment.wanted_deploy.clone().ok_or(conflict)?;
        let proves_again = assessment.outcome == ComparisonOutcome::ProvingAgain;
        if proves_again {
            deploy = prove_again(app, &mut tx, &mut deployment, deploy).await?;
        }
        caller.goes_on_with(&mut tx, deploy.id).await?;
        let answer = answer(app, &mut tx, &deployment, taken, assessment, Some(deploy)).await?;
        tx.commit().await?;
        if proves_again {
            app.announce(id);
        }
        return Ok(answer);
    }

    let wanted = assessment.wanted.as_ref();
    let release = assessment.asked.clone();
    let release = release.ok_or_else(|| DeployError::ImageMissing(name.to_string()))?;
    pass_hold(&mut deployment, wanted, &release, ask.force)?;
    refuse_other_platform(app, &mut tx, &deployment, taken.parts.image.as_ref()).await?;
    check_blobs(app, &mut tx, &taken.from, &release).await?;
    let image = taken.parts.image.as_ref().and_then(ImageRef::container);
    if let Some(image) = image.filter(|image| image.registry().is_none()) {
        lend(&mut tx, image, &taken.from, &deployment, now).await?;
    }
    let claimed = checks_of(&mut tx, &taken.deploy).await?;
    // What was checked is said where it is about just this.
    let claimed = claimed.filter(|it| checks::judge(Some(it), &taken.parts, &release, &[]).is_ok());
    let require = &deployment.settings.require;
    checks::judge(claimed.as_ref(), &taken.parts, &release, require)?;

    let new = NewDeploy {
        deployment: id,
        kind: DeployKind::Promotion,
        key: ask.key,
        parts: taken.parts.clone(),
        description: ask.description,
        git: taken.deploy.git.clone(),
        ci: None,
        created_by: caller.name().to_owned(),
        created_at: now,
        returns_to: None,
        promotes: Some(taken.deploy.id),
        allow_downgrade: ask.allow_downgrade,
    };
    let mut deploy = new.into_deploy(tx.latest_deploy(id).await?);
    tx.insert_deploy(&deploy).await?;
    caller.goes_on_with(&mut tx, deploy.id).await?;
    deploy.state = deploy.state.accept()?;
    deploy.checks = claimed;
    let files = files_between(app, &mut tx, wanted, &release).await?;
    let change = Become {
        wanted: assessment.wanted.clone(),
        release,
        files,
        undone: None,
    };
    let moved = become_wanted(app, &mut tx, &mut deployment, &mut deploy, change, now).await?;
    let from = taken.from.name.clone();
    let promotion = answer(
        app,
        &mut tx,
        &deployment,
        taken,
        assessment,
        Some(deploy.clone()),
    )
    .await?;
    tx.commit().await?;
    drop(gate);

    app.announce(id);
    app.metrics.deploy_took(&deploy, "accepted", now);
    for deploy in &moved {
        app.metrics.deploy_came_to(deploy);
    }
    tracing::info!(deploy = %deploy.id, deployment = %name, %from, by = caller.name(), "promoted");
    Ok(promotion)
}

/// What was last live there; when that is allowed, what it should run.
async fn take(
    caller: &Caller,
    read: &mut Read,
    to: &Deployment,
    source: &PromotionSource,
) -> Result<Taken, DeployError> {
    let from = caller.deployment(read, &source.from).await?;
    let name = || from.name.to_string();
    if from.id == to.id {
        return Err(DeployError::Invalid(format!(
            "`{}` cannot be promoted to itself",
            from.name
        )));
    }
    let target = from.target;
    let target = target.ok_or_else(|| DeployError::NothingToPromote(name()))?;
    let proven = from.proven.ok_or_else(|| DeployError::NotProven(name()));
    let (deploy, release) = if source.allow_unproven {
        (target.deploy, target.release)
    } else {
        let proven = proven?;
        (proven.deploy, proven.release)
    };
    let gone = || DeployError::NothingToPromote(name());
    let release = read.release(release).await?.ok_or_else(gone)?;
    let deploy = read.deploy(deploy).await?.ok_or_else(gone)?;
    let wanted = read.release(target.release).await?;
    let is_wanted = wanted.is_some_and(|wanted| wanted.same_content(&release));
    let is_held = from.hold.as_ref().is_some_and(|hold| hold.holds(&release));
    if !is_wanted && is_held {
        // The last that was live is what somebody did not want any more.
        return Err(DeployError::NotProvenSince(name()));
    }
    let parts = parts_of(&release, source.halves, &from, to)?;
    Ok(Taken {
        newer: (!is_wanted).then_some(target.deploy),
        from,
        deploy,
        parts,
    })
}

/// An Airflow that somebody else runs has an environment of its own: the image half that
/// its first deploy brought is nobody's, there as here.
fn parts_of(
    release: &Release,
    halves: PromotedHalves,
    from: &Deployment,
    to: &Deployment,
) -> Result<DeployParts, DeployError> {
    let is_external = |it: &Deployment| it.settings.runtime == Runtime::External;
    let runs_it = !is_external(from) && (!is_external(to) || to.target.is_none());
    let takes_image = match halves {
        PromotedHalves::Both => runs_it,
        PromotedHalves::Dags => false,
        PromotedHalves::Image if runs_it => true,
        PromotedHalves::Image => {
            let other = if is_external(from) { from } else { to };
            return Err(DeployError::Invalid(format!(
                "somebody else runs the Airflow of `{}`, so it has no image of ours: leave out --image",
                other.name
            )));
        }
    };
    let bundles = release.bundles.iter();
    let bundles: BTreeMap<_, _> = bundles
        .filter(|_| halves != PromotedHalves::Image)
        .map(|(name, bundle)| (name.clone(), bundle.digest))
        .collect();
    Ok(DeployParts {
        bundles,
        image: takes_image.then(|| release.image.clone()),
    })
}

/// What was checked of a deploy, or of the one that it goes back to.
async fn checks_of(read: &mut Read, deploy: &Deploy) -> Result<Option<Checks>, DeployError> {
    let (mut checks, mut before) = (deploy.checks.clone(), deploy.returns_to);
    for _ in 0..MOST_BACK {
        let (None, Some(id)) = (&checks, before) else {
            break;
        };
        let Some(earlier) = read.deploy(id).await? else {
            break;
        };
        (checks, before) = (earlier.checks, earlier.returns_to);
    }
    Ok(checks)
}

async fn answer(
    app: &App,
    read: &mut Read,
    deployment: &Deployment,
    taken: Taken,
    assessment: Assessment,
    deploy: Option<Deploy>,
) -> Result<Promotion, DeployError> {
    let hold = assessment.hold(deployment);
    let wanted = assessment.wanted;
    let missing = || DeployError::ImageMissing(deployment.name.to_string());
    let release = assessment.asked.ok_or_else(missing)?;
    let files = files_between(app, read, wanted.as_ref(), &release).await?;
    let agents = read.agents(deployment.id).await?;
    Ok(Promotion {
        outcome: assessment.outcome,
        taken: taken.deploy.id,
        newer: taken.newer,
        changed: release.parts_that_differ_from(wanted.as_ref()),
        wanted,
        release,
        files: files
            .into_iter()
            .map(|(bundle, files)| (bundle, file_changes(files)))
            .collect(),
        runs: reports(app, &agents).find_map(|report| report.runs),
        hold,
        deploy: deploy.map(|deploy| view(deploy, deployment, &agents_now(app, &agents))),
    })
}
