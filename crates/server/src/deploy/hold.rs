//! Holds: what a rollback keeps from coming back by itself.

use updraft_api::deploy::LiftedHold;
use updraft_model::{DeployId, DeploymentName, Held, HeldRelease, Hold, Release, Timestamp};
use updraft_store::Deployment;

use super::DeployError;
use super::create::lock;
use crate::app::App;
use crate::auth::Caller;

/// Lets what was rolled back come back.
pub(crate) async fn lift_hold(
    app: &App,
    caller: &Caller,
    name: &DeploymentName,
) -> Result<LiftedHold, DeployError> {
    let mut tx = app.store.begin().await?;
    let id = caller.deployment(&mut tx, name).await?.id;
    let mut deployment = lock(&mut tx, id, name).await?;
    caller.check_deploys_to(&deployment)?;
    let hold = deployment.hold.take().map(|hold| *hold);
    if hold.is_some() {
        tx.update_deployment(&deployment, app.now()).await?;
        tx.commit().await?;
        tracing::info!(deployment = %name, by = caller.name(), "hold lifted");
    }
    Ok(LiftedHold { hold })
}

/// A rollback that somebody asked for.
pub(super) struct RolledBack<'a> {
    pub(super) by: &'a str,
    pub(super) reason: &'a str,
    pub(super) at: Timestamp,
    pub(super) rollback: DeployId,
    pub(super) from: (DeployId, &'a Release),
    pub(super) to: &'a Release,
}

/// Holds back what was rolled back from, and what was before.
pub(super) fn hold_back(deployment: &mut Deployment, done: &RolledBack<'_>) {
    let (deploy, release) = done.from;
    let hold = Hold {
        by: done.by.to_owned(),
        since: done.at,
        reason: done.reason.to_owned(),
        rollback: done.rollback,
        held: vec![HeldRelease {
            deploy,
            release: release.clone(),
            parts: release.parts_that_differ_from(Some(done.to)),
        }],
    };
    let before = deployment.hold.take().map(|hold| *hold);
    deployment.hold = Some(Box::new(hold.after(before, done.to)));
}

/// The hold that keeps a Release back.
pub(super) fn held_by<'a>(
    deployment: &'a Deployment,
    wanted: Option<&Release>,
    asked: &Release,
) -> Option<&'a Hold> {
    let hold = deployment.hold.as_deref()?;
    matches!(hold.judge(wanted, asked), Held::Back(_)).then_some(hold)
}

/// Refuses what is held back. Anything else that changes the same parts ends the hold,
/// with the transaction that accepts it.
pub(super) fn pass_hold(
    deployment: &mut Deployment,
    wanted: Option<&Release>,
    asked: &Release,
    force: bool,
) -> Result<(), DeployError> {
    let Some(hold) = &deployment.hold else {
        return Ok(());
    };
    match hold.judge(wanted, asked) {
        Held::Beside => {}
        Held::Back(_) if !force => return Err(on_hold(deployment, hold)),
        Held::Back(_) | Held::MovedPast => deployment.hold = None,
    }
    Ok(())
}

/// The same before anything is sent.
pub(super) fn refuse_held(
    deployment: &Deployment,
    wanted: Option<&Release>,
    asked: Option<&Release>,
    force: bool,
) -> Result<(), DeployError> {
    match asked.and_then(|asked| held_by(deployment, wanted, asked)) {
        Some(hold) if !force => Err(on_hold(deployment, hold)),
        Some(_) | None => Ok(()),
    }
}

fn on_hold(deployment: &Deployment, hold: &Hold) -> DeployError {
    DeployError::OnHold {
        deployment: deployment.name.to_string(),
        by: hold.by.clone(),
        at: hold.since.format("%Y-%m-%d %H:%M UTC").to_string(),
        reason: hold.reason.clone(),
    }
}
