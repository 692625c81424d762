//! What a deploy of given parts would change, by content alone.

use std::collections::{BTreeMap, BTreeSet};

use updraft_api::agent::Report;
use updraft_api::deploy::{Comparison, ComparisonOutcome, Landed, PlanRequest};
use updraft_bundle::LayerTable;
use updraft_model::{
    BundleName, DeployState, DeploymentId, DeploymentName, Digest, Hold, ImageRef, Release,
    ReleaseId,
};
use updraft_store::{Agent, Deploy, DeployParts, Deployment, Read};

use super::held::to_send;
use super::hold::held_by;
use super::suitable::{platforms, refuse_other_kind};
use super::{DeployError, agents_now, view};
use crate::app::App;
use crate::auth::Caller;
use crate::bundle::{Offer, compose};

/// Deploys of pipelines among which the newest of a branch is looked for.
const LATELY: u32 = 50;

/// How an offer stands to what is wanted.
pub(super) struct Assessment {
    pub(super) outcome: ComparisonOutcome,
    pub(super) wanted: Option<Release>,
    /// The deploy whose Release is wanted.
    pub(super) wanted_deploy: Option<Deploy>,
    /// What would run. Without an image there is no Release to compare; a plan may still ask.
    pub(super) asked: Option<Release>,
}

/// Says what a deploy would change. Records nothing.
pub(crate) async fn plan(
    app: &App,
    caller: &Caller,
    name: &DeploymentName,
    ask: PlanRequest,
) -> Result<Comparison, DeployError> {
    let offer = Offer::read(ask.parts, &app.config.limits)?;
    let mut read = app.store.read().await?;
    let deployment = caller.deployment(&mut read, name).await?;
    let assessment = assess(&mut read, &deployment, &offer.parts).await?;
    let deploy = match assessment.outcome {
        ComparisonOutcome::Changes => None,
        ComparisonOutcome::NothingToDo
        | ComparisonOutcome::RollingOut
        | ComparisonOutcome::ProvingAgain => assessment.wanted_deploy.clone(),
    };
    answer(
        app,
        caller,
        &mut read,
        &deployment,
        &offer,
        assessment,
        deploy,
    )
    .await
}

/// What follows when what is asked for is what this deploy, the wanted one, has.
pub(super) fn of_equal(wanted: &DeployState) -> ComparisonOutcome {
    match wanted {
        DeployState::Live { .. } => ComparisonOutcome::NothingToDo,
        DeployState::Failed { .. } | DeployState::TimedOut { .. } => {
            ComparisonOutcome::ProvingAgain
        }
        DeployState::Accepted | DeployState::RollingOut { .. } => ComparisonOutcome::RollingOut,
        // None of these is ever the wanted one.
        DeployState::Created
        | DeployState::Uploading
        | DeployState::Superseded { .. }
        | DeployState::Expired { .. }
        | DeployState::RolledBack { .. } => ComparisonOutcome::Changes,
    }
}

/// Compares by content: the wanted deploy's state says what equal means.
pub(super) async fn assess(
    read: &mut Read,
    deployment: &Deployment,
    parts: &DeployParts,
) -> Result<Assessment, DeployError> {
    refuse_other_kind(deployment, parts.image.as_ref())?;
    let (wanted, wanted_deploy) = match deployment.target {
        Some(target) => (
            read.release(target.release).await?,
            read.deploy(target.deploy).await?,
        ),
        None => (None, None),
    };
    let asked = compose(wanted.as_ref(), parts, ReleaseId::new());
    let equal = wanted
        .as_ref()
        .zip(asked.as_ref())
        .is_some_and(|(wanted, asked)| wanted.same_content(asked));
    let outcome = match wanted_deploy.as_ref().filter(|_| equal) {
        None => ComparisonOutcome::Changes,
        Some(deploy) => of_equal(&deploy.state),
    };
    Ok(Assessment {
        outcome,
        wanted,
        wanted_deploy,
        asked,
    })
}

pub(super) async fn answer(
    app: &App,
    caller: &Caller,
    read: &mut Read,
    deployment: &Deployment,
    offer: &Offer,
    assessment: Assessment,
    deploy: Option<Deploy>,
) -> Result<Comparison, DeployError> {
    // Also when nothing differs: a blob that went bad is sent again this way.
    let mut blobs = offer.blobs();
    for digest in kept(offer, assessment.wanted.as_ref()) {
        let manifest = app.shelf.manifest(read, digest).await?;
        blobs.push((digest, manifest.text.len() as u64));
        blobs.extend(manifest.blobs.iter());
    }
    blobs.sort_unstable();
    blobs.dedup();
    let missing = to_send(app, caller, read, deployment.id, blobs).await?;
    let replaced = replaced(app, read, offer, assessment.wanted.as_ref()).await?;
    let landed = landed(read, deployment.id).await?;
    let hold = assessment.hold(deployment);
    let agents = read.agents(deployment.id).await?;
    let deploy = deploy.map(|deploy| view(deploy, deployment, &agents_now(app, &agents)));
    Ok(Comparison {
        outcome: assessment.outcome,
        wanted: assessment.wanted,
        deploy,
        missing,
        replaced,
        require: deployment.settings.require.clone(),
        runs: reports(app, &agents).find_map(|report| report.runs),
        runtime: deployment.settings.runtime,
        registry: deployment.settings.registry.clone(),
        platforms: platforms(app, &agents),
        hold,
        landed,
    })
}

impl Assessment {
    /// The hold that keeps it back.
    pub(super) fn hold(&self, deployment: &Deployment) -> Option<Box<Hold>> {
        let asked = self.asked.as_ref()?;
        held_by(deployment, self.wanted.as_ref(), asked).map(|hold| Box::new(hold.clone()))
    }
}

/// The newest run of each branch, of those that landed lately.
pub(super) async fn landed(
    read: &mut Read,
    deployment: DeploymentId,
) -> Result<Vec<Landed>, DeployError> {
    let mut newest: Vec<Landed> = Vec::new();
    for (deploy, ci) in read.landed_runs(deployment, LATELY).await? {
        let is_first = newest.iter().all(|other| !other.ci.is_in_line_with(&ci));
        if is_first && ci.branch.is_some() {
            newest.push(Landed { deploy, ci });
        }
    }
    Ok(newest)
}

/// What the agents that count have told.
pub(crate) fn reports(app: &App, agents: &[Agent]) -> impl Iterator<Item = Report> {
    let now = app.now();
    let counting = agents
        .iter()
        .filter(move |agent| app.leases.until(agent) > now);
    counting.filter_map(|agent| serde_json::from_str(&agent.report).ok())
}

/// The manifests of what is wanted that the offer leaves in place.
fn kept(offer: &Offer, wanted: Option<&Release>) -> Vec<Digest> {
    let Some(wanted) = wanted else {
        return Vec::new();
    };
    let stays = |offered: Option<&Digest>, digest| offered.is_none_or(|it| *it == digest);
    let image = wanted.image.digest();
    let offered_image = offer.parts.image.as_ref().map(ImageRef::digest);
    let bundles = wanted.bundles.iter();
    bundles
        .map(|(name, bundle)| (offer.parts.bundles.get(name), bundle.digest))
        .chain([(offered_image.as_ref(), image)])
        .filter(|(offered, digest)| stays(*offered, *digest))
        .map(|(_, digest)| digest)
        .collect()
}

/// The tables of layers that the offered bundles no longer have.
async fn replaced(
    app: &App,
    read: &mut Read,
    offer: &Offer,
    wanted: Option<&Release>,
) -> Result<BTreeMap<BundleName, Vec<LayerTable>>, DeployError> {
    let mut replaced = BTreeMap::new();
    for name in offer.parts.bundles.keys() {
        let Some(new) = offer.bundle(name) else {
            continue;
        };
        let old = wanted.and_then(|wanted| wanted.bundles.get(name));
        let mut gone = match old {
            Some(old) => app.shelf.manifest(read, old.digest).await?.layers(),
            None => Vec::new(),
        };
        let kept: BTreeSet<_> = new.layers().into_iter().collect();
        gone.retain(|layer| !kept.contains(layer));
        replaced.insert(name.clone(), app.shelf.tables(read, &gone).await?);
    }
    Ok(replaced)
}
