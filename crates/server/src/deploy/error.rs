use updraft_api::ErrorCode;
use updraft_api::frames::FrameError;
use updraft_blob::BlobError;
use updraft_bundle::{BundleError, LayerError};
use updraft_model::{CheckStage, DeployId, Digest, InvalidTransition};
use updraft_store::StoreError;

use crate::auth::{AccessError, AuthError};
use crate::bundle::{OfferError, ShelfError};
use crate::deployment::DeploymentError;
use crate::error::{Problem, answers};

#[derive(Debug, thiserror::Error)]
pub(crate) enum DeployError {
    #[error("the Deployment `{0}` has no environment yet, and this deploy brings none")]
    ImageMissing(String),
    #[error("the Deployment `{deployment}` runs {runs}, and this deploy brings {brings}")]
    ImageUnsuitable {
        deployment: String,
        runs: &'static str,
        brings: &'static str,
        /// The runtime that runs what the deploy brings.
        other: &'static str,
    },
    #[error("the agents of `{deployment}` run {run}, and this image is made for {made_for}")]
    OtherPlatform {
        deployment: String,
        run: String,
        made_for: String,
    },
    #[error("deploy `{id}` is {state}, so it cannot be {to}")]
    State {
        id: DeployId,
        state: &'static str,
        to: &'static str,
    },
    #[error("deploy `{id}` is {state} and never became a Release, so it cannot be returned to")]
    NotARollbackTarget {
        id: DeployId,
        state: &'static str,
        others: Vec<DeployId>,
    },
    #[error("what deploy `{id}` ran is past the retention period of {days} days and was removed")]
    PastRetention {
        id: DeployId,
        days: u32,
        others: Vec<DeployId>,
    },
    #[error("deploy `{id}` is of another Deployment than `{deployment}`")]
    OtherDeployment { id: DeployId, deployment: String },
    #[error(
        "the Deployment `{0}` has no earlier Release that was live and differs from what is wanted"
    )]
    NothingToReturnTo(String),
    #[error(
        "`{deployment}` is on hold since {by} rolled this very content back at {at}{}", because(.reason)
    )]
    OnHold {
        deployment: String,
        by: String,
        at: String,
        reason: String,
    },
    #[error(
        "another deploy of the branch `{branch}` came to `{deployment}` since this one was compared{}", named(.newest.as_ref())
    )]
    MovedOn {
        deployment: String,
        branch: String,
        newest: Option<DeployId>,
    },
    #[error("nothing of the Deployment `{0}` was live yet, so there is nothing proven to promote")]
    NotProven(String),
    #[error("`{0}` was just rolled back, and what it went back to is not proven yet")]
    NotProvenSince(String),
    #[error("nothing was deployed to `{0}` yet, so there is nothing to promote")]
    NothingToPromote(String),
    #[error("the key `{0}` was used for a deploy of other parts")]
    KeyReused(String),
    #[error("{0}")]
    Invalid(String),
    #[error("deploy `{id}` does not name the blob {digest}")]
    NotNamed { id: DeployId, digest: Digest },
    #[error("{count} blobs that deploy `{id}` names are not there, {first} among them")]
    BlobsMissing {
        id: DeployId,
        count: usize,
        first: Digest,
    },
    #[error("the blob {digest} of a Release of `{deployment}` is damaged or gone")]
    BlobGone { digest: Digest, deployment: String },
    #[error("no Release of the Deployment `{deployment}` names the blob {digest}")]
    BlobUnknown { digest: Digest, deployment: String },
    #[error("the upload stopped coming, or came slower than 64 KiB a second")]
    UploadStopped,
    #[error("other uploads fill the memory that this control plane has for them")]
    NoRoom,
    #[error("the Deployment accepts no deploy without the checks: {}", names(.0))]
    ChecksMissing(Vec<CheckStage>),
    #[error("the checks of this deploy are refused: {0}")]
    ChecksRefused(String),
    #[error("the connection broke during the upload")]
    UploadBroke,
    #[error("the upload is larger than the {most} bytes that this deploy can need")]
    UploadTooLarge { most: u64 },
    #[error("{what} was refused: {source}{}", deepest(.source))]
    Layer {
        what: &'static str,
        #[source]
        source: LayerError,
    },
    #[error("{what} was refused: {source}{}", deepest(.source))]
    Bundle {
        what: String,
        #[source]
        source: BundleError,
    },
    #[error(transparent)]
    Frame(#[from] FrameError),
    #[error(transparent)]
    Offer(#[from] OfferError),
    #[error(transparent)]
    Access(#[from] AccessError),
    #[error(transparent)]
    Auth(#[from] AuthError),
    #[error(transparent)]
    Deployment(#[from] Box<DeploymentError>),
    #[error("could not read what is known of bundles")]
    Shelf(#[from] ShelfError),
    #[error(transparent)]
    Blob(#[from] BlobError),
    #[error(transparent)]
    Transition(#[from] InvalidTransition),
    #[error("could not read or write deploys")]
    Store(#[from] StoreError),
}

fn because(reason: &str) -> String {
    if reason.is_empty() {
        return String::new();
    }
    format!(" ({reason})")
}

fn named(deploy: Option<&DeployId>) -> String {
    deploy.map(|id| format!(": `{id}`")).unwrap_or_default()
}

fn names(stages: &[CheckStage]) -> String {
    let names: Vec<_> = stages.iter().map(|stage| stage.name()).collect();
    names.join(", ")
}

/// What an error's causes say, since the body has one message.
fn deepest(error: &dyn std::error::Error) -> String {
    let mut text = String::new();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}

impl Problem for DeployError {
    fn code(&self) -> ErrorCode {
        match self {
            Self::ImageMissing(_) => ErrorCode::ImageMissing,
            Self::ImageUnsuitable { .. } | Self::OtherPlatform { .. } => ErrorCode::ImageUnsuitable,
            Self::State { .. } | Self::Transition(_) => ErrorCode::DeployState,
            Self::NotARollbackTarget { .. }
            | Self::OtherDeployment { .. }
            | Self::PastRetention { .. }
            | Self::NothingToReturnTo(_) => ErrorCode::NotARollbackTarget,
            Self::OnHold { .. } => ErrorCode::OnHold,
            Self::MovedOn { .. } => ErrorCode::MovedOn,
            Self::NotProven(_) | Self::NotProvenSince(_) | Self::NothingToPromote(_) => {
                ErrorCode::NotProven
            }
            Self::KeyReused(_) | Self::Invalid(_) | Self::NotNamed { .. } => {
                ErrorCode::InvalidRequest
            }
            Self::ChecksMissing(_) => ErrorCode::ChecksRequired,
            Self::ChecksRefused(_) => ErrorCode::ChecksRefused,
            Self::UploadTooLarge { .. } => ErrorCode::LimitExceeded,
            Self::BlobsMissing { .. } => ErrorCode::BlobsMissing,
            Self::BlobGone { .. } => ErrorCode::BlobCorrupt,
            Self::BlobUnknown { .. } => ErrorCode::BlobNotFound,
            Self::UploadStopped | Self::NoRoom | Self::UploadBroke => ErrorCode::Unavailable,
            Self::Layer { source, .. } => match source {
                LayerError::WrongDigest { .. } => ErrorCode::BlobCorrupt,
                LayerError::Source { .. } => ErrorCode::Internal,
                LayerError::Limit { .. } => ErrorCode::LimitExceeded,
                LayerError::Archive { .. }
                | LayerError::TrailingBytes { .. }
                | LayerError::Duplicate { .. }
                | LayerError::Order { .. }
                | LayerError::FileAndFolder { .. }
                | LayerError::Description { .. }
                | LayerError::Empty { .. } => ErrorCode::BundleRefused,
            },
            Self::Bundle { source, .. } => match source {
                BundleError::Limit { .. } => ErrorCode::LimitExceeded,
                BundleError::LayerCount { .. }
                | BundleError::Description { .. }
                | BundleError::Order { .. }
                | BundleError::FileAndFolder { .. }
                | BundleError::LinkLeaves { .. } => ErrorCode::BundleRefused,
            },
            Self::Frame(error) => match error {
                FrameError::TooLarge { .. } => ErrorCode::LimitExceeded,
                FrameError::CutShort => ErrorCode::InvalidRequest,
                FrameError::Corrupt { .. } => ErrorCode::BlobCorrupt,
            },
            Self::Offer(error) => match error {
                OfferError::Empty => ErrorCode::InvalidRequest,
                OfferError::Manifest { .. } => ErrorCode::BundleRefused,
                OfferError::TooManyBundles { .. }
                | OfferError::Limit { .. }
                | OfferError::File { .. }
                | OfferError::Blob { .. } => ErrorCode::LimitExceeded,
            },
            Self::Access(error) => error.code(),
            Self::Auth(error) => error.code(),
            Self::Deployment(error) => error.code(),
            Self::Shelf(error) => match error {
                ShelfError::Store(error) => error.code(),
                ShelfError::ManifestGone(_)
                | ShelfError::Manifest { .. }
                | ShelfError::TableGone(_)
                | ShelfError::Table { .. } => ErrorCode::Internal,
            },
            Self::Blob(error) => error.code(),
            Self::Store(error) => error.code(),
        }
    }

    fn help(&self) -> Option<String> {
        match self {
            Self::ImageMissing(_) => Some(
                "send an environment with the first deploy: `updraft deploy` does when the project has a Dockerfile"
                    .into(),
            ),
            Self::ImageUnsuitable { deployment, other, .. } => Some(format!(
                "deploy the other kind, or change how its agent runs Airflow: `updraft deployment update {deployment} --runtime {other}`"
            )),
            Self::OtherPlatform { run, .. } => Some(format!("build it with `--platform {run}`")),
            Self::State { .. } | Self::Transition(_) => {
                Some("see `updraft history`; deploy again to begin a new one".into())
            }
            Self::PastRetention { others, .. } if others.is_empty() => Some(
                "check out its commit and deploy that; `updraft server --retention-days` keeps more"
                    .into(),
            ),
            Self::NotARollbackTarget { others, .. } if others.is_empty() => {
                Some("no deploy of this Deployment can be returned to yet".into())
            }
            Self::NotARollbackTarget { others, .. } | Self::PastRetention { others, .. } => {
                let others: Vec<String> = others.iter().map(ToString::to_string).collect();
                Some(format!("these can: {}", others.join(", ")))
            }
            Self::OtherDeployment { .. } => Some("see `updraft history`".into()),
            Self::NothingToReturnTo(_) => {
                Some("name one with --to; `updraft history` lists them".into())
            }
            Self::OnHold { deployment, .. } => Some(format!(
                "deploy other content, which ends the hold; or `updraft hold lift {deployment}`, or --force"
            )),
            Self::MovedOn { .. } => Some("compare again, and deploy what is newer".into()),
            Self::NotProven(from) | Self::NotProvenSince(from) => Some(format!(
                "see `updraft status {from}`; --allow-unproven takes what it should run"
            )),
            Self::NothingToPromote(from) => Some(format!("deploy to it first: `updraft deploy {from}`")),
            Self::ChecksMissing(_) => Some(
                "deploy with `updraft deploy`, which runs them; what imports files counts only where the project's \
                 other files are those of the Release"
                    .into(),
            ),
            Self::ChecksRefused(_) => Some("deploy again, so that what is sent is what was checked".into()),
            Self::KeyReused(_) => Some("use a new key for each deploy".into()),
            Self::NotNamed { .. } | Self::UploadTooLarge { .. } => Some("send only what the answer listed as missing".into()),
            Self::BlobsMissing { .. } => Some("send them and accept again".into()),
            Self::BlobGone { .. } => {
                Some("deploy the same files again: what is missing is sent again".into())
            }
            Self::UploadStopped | Self::NoRoom | Self::UploadBroke => {
                Some("try again: what arrived whole is kept".into())
            }
            Self::Layer { source, .. } => Some(source.help().into()),
            Self::Bundle { source, .. } => Some(source.help().into()),
            Self::Frame(FrameError::TooLarge { .. }) => {
                Some("a blob is as long as its manifest says".into())
            }
            Self::Frame(_) => Some("send it again".into()),
            Self::Offer(error) => match error {
                OfferError::Empty => None,
                OfferError::Manifest { source, .. } => source.help().map(Into::into),
                OfferError::Limit { source, .. } | OfferError::File { source, .. } => {
                    Some(source.help().into())
                }
                OfferError::TooManyBundles { .. } => Some("deploy them one after another".into()),
                OfferError::Blob { .. } => Some(
                    "name what Airflow does not need in `.updraftignore`, or raise --max-file-bytes of the control plane"
                        .into(),
                ),
            },
            Self::Access(error) => error.help(),
            Self::Auth(error) => error.help(),
            Self::Deployment(error) => error.help(),
            Self::Blob(error) => Problem::help(error),
            Self::Store(error) => error.help().map(Into::into),
            Self::Shelf(_) | Self::Invalid(_) | Self::BlobUnknown { .. } => None,
        }
    }
}

answers!(DeployError);
