//! The words for states and settings in text output.

use updraft_api::deploy::DeployView;
use updraft_model::{
    AfterFailure, DagChanges, DeployKind, DeployState, Digest, Hold, ImageRef, Release, Runtime,
    StageResult,
};

use super::deploy_ref;
use super::size::{count, things};
use super::tame::tame_line;

/// A state as a person says it.
pub(crate) fn state(state: &DeployState) -> &'static str {
    match state {
        DeployState::Created => "created",
        DeployState::Uploading => "uploading",
        DeployState::Accepted => "accepted",
        DeployState::RollingOut { .. } => "rolling out",
        DeployState::Live { .. } => "live",
        DeployState::Failed { .. } => "failed",
        DeployState::TimedOut { .. } => "timed out",
        DeployState::Superseded { .. } => "superseded",
        DeployState::Expired { .. } => "expired",
        DeployState::RolledBack { .. } => "rolled back",
    }
}

/// The same for a deploy among others: one that worked is worth going back to.
pub(crate) fn state_of(deploy: &DeployView) -> &'static str {
    match deploy.state {
        DeployState::Superseded { .. } if deploy.proven_at.is_some() => "was live",
        DeployState::Expired { .. } if is_unfit(deploy) => "unfit",
        _ => state(&deploy.state),
    }
}

/// Whether its checks failed.
fn is_unfit(deploy: &DeployView) -> bool {
    let checks = deploy.checks.as_ref();
    checks.is_some_and(|checks| checks.stages.values().any(|stage| !stage.passed()))
}

/// `212 checked, 2 errors, 1 warning`
pub(crate) fn stage(result: &StageResult) -> String {
    let mut text = format!("{} checked", count(result.checked));
    for (many, what) in [(result.errors, "error"), (result.warnings, "warning")] {
        if many > 0 {
            text.push_str(", ");
            text.push_str(&things(many, what));
        }
    }
    text
}

/// `1 DAG added, 2 changed, 0 removed`
pub(crate) fn dag_changes(dags: &DagChanges) -> String {
    format!(
        "{} added, {} changed, {} removed",
        things(dags.added.len() as u64, "DAG"),
        count(dags.changed.len() as u64),
        count(dags.removed.len() as u64),
    )
}

pub(crate) const fn kind(kind: DeployKind) -> &'static str {
    match kind {
        DeployKind::Deploy => "deploy",
        DeployKind::Rollback => "rollback",
        DeployKind::AutomaticRollback => "automatic rollback",
        DeployKind::Promotion => "promotion",
    }
}

/// Why a Deployment is on hold: `since ada rolled dpl_… back (why)`
pub(crate) fn hold(hold: &Hold) -> String {
    let deploys = hold.held.iter().map(|held| deploy_ref::short(held.deploy));
    let deploys: Vec<String> = deploys.collect();
    let reason = match hold.reason.as_str() {
        "" => String::new(),
        reason => format!(" ({})", tame_line(reason)),
    };
    let by = tame_line(&hold.by);
    format!("since {by} rolled {} back{reason}", deploys.join(" and "))
}

pub(crate) const fn after_failure(policy: AfterFailure) -> &'static str {
    match policy {
        AfterFailure::Keep => "keep",
        AfterFailure::Rollback => "rollback",
    }
}

pub(crate) const fn runtime(runtime: Runtime) -> &'static str {
    match runtime {
        Runtime::Process => "process",
        Runtime::Container => "container",
        Runtime::External => "external",
    }
}

/// A Release by what a person compares: its bundles and its image, shortened.
pub(crate) fn release(release: &Release) -> String {
    let mut parts: Vec<String> = release
        .bundles
        .iter()
        .map(|(name, bundle)| format!("{name} {}", short(bundle.digest)))
        .collect();
    parts.push(match &release.image {
        ImageRef::Environment { digest } => format!("environment {}", short(*digest)),
        ImageRef::Container { image, .. } => {
            format!("image {}@{}", image.repository, short(image.digest))
        }
    });
    parts.join(", ")
}

pub(crate) fn short(digest: Digest) -> String {
    digest.short()
}
