//! Deployments: one Airflow to deploy to each.

pub(crate) mod create;
pub(crate) mod delete;
pub(crate) mod environment;
pub(crate) mod list;
pub(crate) mod show;
pub(crate) mod status;
pub(crate) mod update;

use updraft_api::deployment::DeploymentSettings;
use updraft_model::{AfterFailure, CheckStage, PreviewValues, Runtime};

use crate::commands::deploy::create::seconds;
use crate::console::{Console, Format};
use crate::context::Context;
use crate::exit::Exit;
use crate::failure::Result;

/// Create, list, show, change and delete Deployments
#[derive(Debug, clap::Subcommand)]
pub(crate) enum DeploymentCommand {
    Create(create::CreateArgs),
    List(list::ListArgs),
    Show(show::ShowArgs),
    Update(update::UpdateArgs),
    Delete(delete::DeleteArgs),
}

impl DeploymentCommand {
    pub(crate) fn format(&self) -> Format {
        match self {
            Self::Create(args) => args.output.output,
            Self::List(args) => args.output.output,
            Self::Show(args) => args.output.output,
            Self::Update(args) => args.output.output,
            Self::Delete(args) => args.output.output,
        }
    }

    pub(crate) async fn run(&self, cx: &Context, out: &mut Console) -> Result<Exit> {
        match self {
            Self::Create(args) => create::run(args, cx, out).await,
            Self::List(args) => list::run(args, cx, out).await,
            Self::Show(args) => show::run(args, cx, out).await,
            Self::Update(args) => update::run(args, cx, out).await,
            Self::Delete(args) => delete::run(args, cx, out).await,
        }
    }
}

#[derive(Debug, Clone, Copy, clap::ValueEnum)]
pub(crate) enum AfterFailureArg {
    /// The new Release stays; somebody fixes forward or rolls back
    Keep,
    /// What the failed deploy changed goes back by itself, once
    Rollback,
}

#[derive(Debug, Clone, Copy, clap::ValueEnum)]
pub(crate) enum RuntimeArg {
    /// The agent runs Airflow in a virtual environment on its host
    Process,
    /// The agent runs containers of the image, by docker or podman on its host
    Container,
    /// Somebody else runs Airflow; the agent only delivers and asks
    External,
}

#[derive(Debug, Clone, Copy, clap::ValueEnum)]
pub(crate) enum RequireArg {
    None,
    /// Over the syntax tree
    Static,
    /// Every DAG file imported
    Parse,
    /// The project's own tests
    Pytest,
}

/// What a Deployment can be told.
#[derive(Debug, clap::Args)]
pub(crate) struct SettingsArgs {
    /// What follows when a deploy fails (a new Deployment: keep)
    #[arg(long, value_enum, value_name = "POLICY")]
    after_failure: Option<AfterFailureArg>,

    /// How long a deploy may take to be proven, as in 90s, 10m or 2h (a new Deployment: 5m)
    #[arg(long, value_name = "TIME", value_parser = proof_timeout)]
    proof_timeout: Option<u32>,

    /// How many earlier Releases agents keep on disk (a new Deployment: 10)
    #[arg(long, value_name = "COUNT")]
    keep_releases: Option<u32>,

    /// How Airflow is run (a new Deployment: process)
    #[arg(long, value_enum)]
    runtime: Option<RuntimeArg>,

    /// The repository of its container images, as in ghcr.io/acme/airflow (empty: the control plane's own)
    #[arg(long, value_name = "REPOSITORY")]
    registry: Option<String>,

    /// The Airflow executor (a new Deployment: `LocalExecutor`)
    #[arg(long, value_name = "NAME")]
    executor: Option<String>,

    /// Checks without which no deploy is accepted, as in static,parse (`none`: any deploy is)
    #[arg(long, value_name = "CHECKS", value_delimiter = ',')]
    require: Option<Vec<RequireArg>>,

    /// Take deploys from trusted pipelines alone (`updraft trust`); going back stays open to people
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    ci_only: Option<bool>,

    /// What Previews that are made from it have of its connections, variables and environment: copy, mask or none (a new Deployment: mask)
    #[arg(long, value_name = "POLICY")]
    preview_values: Option<PreviewValues>,

    /// What it is for
    #[arg(long, value_name = "TEXT")]
    description: Option<String>,

    #[command(flatten)]
    environment: environment::EnvironmentArgs,
}

/// `none` among others adds nothing.
fn required(given: &[RequireArg]) -> Vec<CheckStage> {
    let stages = given.iter().filter_map(|one| match one {
        RequireArg::None => None,
        RequireArg::Static => Some(CheckStage::Static),
        RequireArg::Parse => Some(CheckStage::Parse),
        RequireArg::Pytest => Some(CheckStage::Pytest),
    });
    stages.collect()
}

fn proof_timeout(text: &str) -> Result<u32, String> {
    let given = u32::try_from(seconds(text)?.as_secs());
    given
        .ok()
        .filter(|seconds| *seconds > 0)
        .ok_or_else(|| "it has to be at least 1s".into())
}

impl SettingsArgs {
    pub(crate) async fn read(&self) -> Result<DeploymentSettings> {
        Ok(DeploymentSettings {
            after_failure: self.after_failure.map(|policy| match policy {
                AfterFailureArg::Keep => AfterFailure::Keep,
                AfterFailureArg::Rollback => AfterFailure::Rollback,
            }),
            proof_timeout_s: self.proof_timeout,
            registry: self.registry.clone(),
            keep_releases: self.keep_releases,
            runtime: self.runtime.map(|runtime| match runtime {
                RuntimeArg::Process => Runtime::Process,
                RuntimeArg::Container => Runtime::Container,
                RuntimeArg::External => Runtime::External,
            }),
            executor: self.executor.clone(),
            description: self.description.clone(),
            require: self.require.as_deref().map(required),
            ci_only: self.ci_only,
            preview_values: self.preview_values,
            environment: self.environment.read().await?,
        })
    }
}
