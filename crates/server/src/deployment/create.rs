use std::collections::BTreeMap;

use updraft_api::deployment::{CreateDeployment, DeploymentSettings, DeploymentView};
use updraft_model::{ContainerImage, DeploymentId, Digest, Scope};
use updraft_store::{Deployment, Settings};

use super::{DeploymentError, environment, show};
use crate::app::App;
use crate::auth::Caller;

/// Makes a Deployment. Nothing runs in it until something is deployed to it.
pub(crate) async fn create(
    app: &App,
    caller: &Caller,
    ask: CreateDeployment,
) -> Result<DeploymentView, DeploymentError> {
    match caller.token.scope {
        Scope::Organization => {}
        Scope::Workspace { workspace } if workspace == app.workspace => {}
        Scope::Workspace { .. } | Scope::Deployment { .. } => {
            return Err(caller.out_of_scope("making Deployments").into());
        }
    }
    let mut deployment = Deployment {
        id: DeploymentId::new(),
        name: ask.name,
        workspace: app.workspace,
        created_at: app.now(),
        settings: Settings {
            description: String::new(),
            after_failure: updraft_model::AfterFailure::default(),
            proof_timeout_s: 300,
            keep_releases: 10,
            runtime: updraft_model::Runtime::default(),
            executor: "LocalExecutor".into(),
            require: Vec::new(),
            registry: None,
            ci_only: false,
            preview_values: updraft_model::PreviewValues::default(),
        },
        environment: None,
        environment_names: Vec::new(),
        generation: 1,
        target: None,
        proven: None,
        hold: None,
        preview: None,
    };
    let variables = apply(&mut deployment.settings, ask.settings)?;
    environment::change(&app.keys, &mut deployment, variables)?;

    let mut tx = app.store.begin().await?;
    if !tx.insert_deployment(&deployment).await? {
        return Err(DeploymentError::NameTaken(deployment.name.to_string()));
    }
    tx.commit().await?;
    tracing::info!(deployment = %deployment.name, by = caller.name(), "Deployment created");
    let mut read = app.store.read().await?;
    show::view(&mut read, deployment).await
}

/// Names a repository outside, with its registry.
fn repository(value: String) -> Result<String, DeploymentError> {
    let any = Digest::of(b"");
    match format!("{value}@{any}").parse::<ContainerImage>() {
        Ok(image) if image.registry().is_some() => Ok(value),
        Ok(_) | Err(_) => Err(DeploymentError::Invalid(format!(
            "`registry` is `{value}`; it has to be a repository with its registry, as in `ghcr.io/acme/airflow`"
        ))),
    }
}

/// Takes over the settings that are given; hands the variables back.
pub(super) fn apply(
    settings: &mut Settings,
    given: DeploymentSettings,
) -> Result<BTreeMap<String, Option<String>>, DeploymentError> {
    let between = |what: &str, value: u32, least: u32, most: u32| {
        if (least..=most).contains(&value) {
            Ok(value)
        } else {
            Err(DeploymentError::Invalid(format!(
                "`{what}` is {value}; it has to be {least} to {most}"
            )))
        }
    };
    let text = |what: &str, value: String, most: usize| {
        if value.chars().count() <= most && !value.contains('\0') {
            Ok(value)
        } else {
            Err(DeploymentError::Invalid(format!(
                "`{what}` is longer than {most} characters, or has a zero byte"
            )))
        }
    };
    if let Some(value) = given.after_failure {
        settings.after_failure = value;
    }
    if let Some(value) = given.proof_timeout_s {
        settings.proof_timeout_s = between("proof_timeout_s", value, 1, 86_400)?;
    }
    if let Some(value) = given.keep_releases {
        settings.keep_releases = between("keep_releases", value, 0, 1000)?;
    }
    if let Some(value) = given.runtime {
        settings.runtime = value;
    }
    if let Some(value) = given.executor {
        settings.executor = text("executor", value, 200)?;
    }
    if let Some(mut value) = given.require {
        value.sort_unstable();
        value.dedup();
        settings.require = value;
    }
    if let Some(value) = given.preview_values {
        settings.preview_values = value;
    }
    if let Some(value) = given.ci_only {
        settings.ci_only = value;
    }
    if let Some(value) = given.registry {
        settings.registry = match value.as_str() {
            "" => None,
            _ => Some(repository(value)?),
        };
    }
    if let Some(value) = given.description {
        settings.description = text("description", value, 2000)?;
    }
    Ok(given.environment)
}
