//! The words for states and settings in text output.

use updraft_api::deploy::DeployView;
use updraft_model::{AfterFailure, DeployKind, DeployState, Digest, Release, Runtime};

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
        _ => state(&deploy.state),
    }
}

pub(crate) const fn kind(kind: DeployKind) -> &'static str {
    match kind {
        DeployKind::Deploy => "deploy",
        DeployKind::Rollback => "rollback",
        DeployKind::AutomaticRollback => "automatic rollback",
    }
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
    parts.push(format!("environment {}", short(release.image.digest())));
    parts.join(", ")
}

pub(crate) fn short(digest: Digest) -> String {
    digest.short()
}
