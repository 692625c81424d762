//! The names of variables and connections that a Deployment's Airflow has.

use updraft_api::Client;
use updraft_check::parse::Names;
use updraft_model::DeploymentName;
use updraft_project::Project;

use crate::failure::Result;

/// The names that the Deployment's Airflow has, as its agent tells them.
pub(crate) async fn of_deployment(client: &Client, deployment: &DeploymentName) -> Result<Names> {
    let status = client.status(deployment).await?;
    let environment = status.deployment.environment;
    // Where no agent tells them, nobody knows which there are.
    let Some(names) = status.names else {
        return Ok(Names {
            environment,
            ..Names::default()
        });
    };
    Ok(Names {
        variables: Some(names.variables),
        connections: Some(names.connections),
        environment,
        secrets_backend: names.secrets_backend,
    })
}

/// The names that are known without a Deployment.
pub(crate) fn names_in(project: &Project) -> Result<Names> {
    let named = project.airflow_names()?;
    let some = |names: Vec<String>| Some(names).filter(|names| !names.is_empty());
    let named = named.unwrap_or_default();
    // A list that is not there says nothing.
    let (variables, connections) = (some(named.variables), some(named.connections));
    Ok(Names {
        variables,
        connections,
        environment: Vec::new(),
        secrets_backend: false,
    })
}
