//! What agents say, and what follows from it.

use updraft_api::agent::{Report, ReportAnswer};
use updraft_bundle::failpoint;
use updraft_model::DeploymentId;
use updraft_store::Agent;

use crate::app::App;
use crate::auth::{AccessError, Caller};
use crate::deploy::{DeployError, advance, late_failure};

const LONGEST_NAME: usize = 253;

/// Stores what an agent sees and moves its Deployment's deploys on as far as
/// that goes. A report that says what the one before said costs no write.
pub(crate) async fn report(
    app: &App,
    caller: &Caller,
    report: Report,
) -> Result<ReportAnswer, DeployError> {
    let id = caller.agent_deployment()?;
    if report.host.is_empty() || report.host.len() > LONGEST_NAME {
        return Err(DeployError::Invalid(format!(
            "`host` has 1 to {LONGEST_NAME} characters"
        )));
    }
    let text =
        serde_json::to_string(&report).map_err(|error| DeployError::Invalid(error.to_string()))?;
    let now = app.now();

    let mut read = app.store.look().await?;
    let known = read.agent(report.agent).await?;
    if let Some(known) = &known
        && known.deployment != id
    {
        return Err(caller
            .out_of_scope(format!("the agent `{}`", report.agent))
            .into());
    }
    if let Some(known) = &known
        && known.report == text
        && known.token == caller.token.id
        && app.leases.until(known) > now
    {
        let generation = read.generation(id).await?.ok_or_else(|| gone(id))?;
        return Ok(ReportAnswer {
            generation,
            lease_until: app.leases.renew(report.agent),
        });
    }
    drop(read);

    let lease_until = app.leases.renew(report.agent);
    let mut tx = app.store.begin().await?;
    let mut deployment = tx.lock_deployment(id).await?.ok_or_else(|| gone(id))?;
    let generation = deployment.generation;
    tx.save_agent(&Agent {
        id: report.agent,
        deployment: id,
        token: caller.token.id,
        host: report.host.clone(),
        first_seen: known.map_or(now, |known| known.first_seen),
        last_seen: now,
        lease_until,
        report: text,
    })
    .await?;
    let mut moved = Vec::new();
    if let Some(proof) = &report.proof {
        moved.extend(late_failure(app, &mut tx, &mut deployment, proof, now).await?);
    }
    moved.extend(advance(app, &mut tx, &mut deployment, now).await?);
    failpoint("server.report.before_commit");
    tx.commit().await?;
    failpoint("server.report.after_commit");

    for deploy in &moved {
        app.metrics.deploy_came_to(deploy);
    }
    // Agents are woken only by what concerns them, deploys by what moved them.
    if !moved.is_empty() || deployment.generation != generation {
        app.announce(id);
    }
    Ok(ReportAnswer {
        generation: deployment.generation,
        lease_until,
    })
}

fn gone(id: DeploymentId) -> AccessError {
    AccessError::DeploymentNotFound {
        name: id.to_string(),
        nearest: None,
    }
}
