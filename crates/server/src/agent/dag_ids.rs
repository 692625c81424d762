//! The DAG ids that an agent's Airflow has.

use updraft_api::agent::DagIdsReport;
use updraft_model::DagIds;

use crate::app::App;
use crate::auth::Caller;
use crate::deploy::DeployError;

/// Keeps them in place of those that the agent told before. It is known by its
/// report, whose answer asked for them.
pub(crate) async fn keep_dag_ids(
    app: &App,
    caller: &Caller,
    told: DagIdsReport,
) -> Result<(), DeployError> {
    let id = caller.agent_deployment()?;
    if told.bundles.are_too_many() {
        return Err(DeployError::Invalid(format!(
            "an agent tells at most {} DAG ids",
            DagIds::MOST
        )));
    }
    let mut tx = app.store.begin().await?;
    let known = tx.agent(told.agent).await?;
    if known.is_none_or(|known| known.deployment != id) {
        let agent = format!("the agent `{}`", told.agent);
        return Err(caller.out_of_scope(agent).into());
    }
    tx.save_dag_ids(told.agent, told.digest, &told.bundles)
        .await?;
    tx.commit().await?;
    Ok(())
}
