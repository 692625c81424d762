use std::collections::BTreeMap;

use updraft_api::agent::Report;
use updraft_model::{BundleName, DagId, DeploymentName};

use super::DeploymentError;
use crate::app::App;
use crate::auth::Caller;

/// The ids of the DAGs that each bundle has, without the ones of `besides`. Where
/// Airflow is not known to have taken in the wanted version, the bundle is left
/// out: of another version they would be a guess.
pub(crate) async fn dag_ids(
    app: &App,
    caller: &Caller,
    name: &DeploymentName,
    besides: Option<&BundleName>,
) -> Result<BTreeMap<BundleName, Vec<DagId>>, DeploymentError> {
    let mut read = app.store.read().await?;
    let deployment = caller.deployment(&mut read, name).await?;
    let wanted = match deployment.target {
        Some(target) => read.release(target.release).await?,
        None => None,
    };
    let mut wanted = wanted.map(|wanted| wanted.bundles).unwrap_or_default();
    wanted.retain(|bundle, _| Some(bundle) != besides);

    let mut bundles = BTreeMap::new();
    for agent in read.agents(deployment.id).await? {
        if bundles.len() == wanted.len() || app.leases.until(&agent) <= app.now() {
            continue;
        }
        let report: Option<Report> = serde_json::from_str(&agent.report).ok();
        let Some(digest) = report.and_then(|report| report.dag_ids) else {
            continue;
        };
        let told = read.dag_ids(agent.id, digest).await?;
        for (bundle, dags) in told.unwrap_or_default().0 {
            let version = wanted.get(&bundle).map(|bundle| bundle.digest);
            if version == Some(dags.version) {
                bundles.entry(bundle).or_insert(dags.ids);
            }
        }
    }
    Ok(bundles)
}
