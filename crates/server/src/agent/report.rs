//! What agents say, and what follows from it.

use updraft_api::ErrorCode;
use updraft_api::agent::{Report, ReportAnswer};
use updraft_bundle::failpoint;
use updraft_model::DeploymentId;
use updraft_store::Agent;

use crate::app::App;
use crate::auth::{AccessError, Caller};
use crate::deploy::{Advanced, DeployError, GoingBack, advance, late_failure};
use crate::error::{Problem as _, chain};

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
    let lacks_dag_ids =
        report.dag_ids.is_some() && read.dag_ids_digest(report.agent).await? != report.dag_ids;
    if let Some(known) = &known
        && known.report == text
        && known.token == caller.token.id
        && app.leases.until(known) > now
    {
        let generation = read.generation(id).await?.ok_or_else(|| gone(id))?;
        return Ok(ReportAnswer {
            generation,
            lease_until: app.leases.renew(report.agent),
            lacks_dag_ids,
        });
    }
    drop(read);

    let agent = Agent {
        id: report.agent,
        deployment: id,
        token: caller.token.id,
        host: report.host.clone(),
        first_seen: known.map_or(now, |known| known.first_seen),
        last_seen: now,
        lease_until: app.leases.renew(report.agent),
        report: text,
    };
    let recorded = match record(app, &agent, &report, GoingBack::AsThePolicySays).await {
        Err(error) if error.code() == ErrorCode::Internal => {
            let error = chain(&error);
            tracing::error!(agent = %report.agent, error, "could not go back; the failure is recorded");
            record(app, &agent, &report, GoingBack::Impossible).await?
        }
        recorded => recorded?,
    };
    app.metrics.advanced(&recorded.advanced);
    // Agents are woken only by what concerns them, deploys by what moved them.
    if !recorded.advanced.moved.is_empty() || recorded.is_news {
        app.announce(id);
    }
    Ok(ReportAnswer {
        generation: recorded.generation,
        lease_until: agent.lease_until,
        lacks_dag_ids,
    })
}

struct Recorded {
    advanced: Advanced,
    generation: i64,
    /// Whether that generation is another than before.
    is_news: bool,
}

/// Stores a report with all that follows from it, or nothing.
async fn record(
    app: &App,
    agent: &Agent,
    report: &Report,
    going_back: GoingBack,
) -> Result<Recorded, DeployError> {
    let (id, now) = (agent.deployment, agent.last_seen);
    let mut tx = app.store.begin().await?;
    let mut deployment = tx.lock_deployment(id).await?.ok_or_else(|| gone(id))?;
    let generation = deployment.generation;
    tx.save_agent(agent).await?;
    let mut late = Vec::new();
    if let Some(proof) = &report.proof
        && going_back == GoingBack::AsThePolicySays
    {
        late.extend(late_failure(app, &mut tx, &mut deployment, proof, now).await?);
    }
    let mut advanced = advance(app, &mut tx, &mut deployment, going_back, now).await?;
    advanced.moved.extend(late);
    failpoint("server.report.before_commit");
    tx.commit().await?;
    failpoint("server.report.after_commit");
    Ok(Recorded {
        advanced,
        generation: deployment.generation,
        is_news: deployment.generation != generation,
    })
}

fn gone(id: DeploymentId) -> AccessError {
    AccessError::DeploymentNotFound {
        name: id.to_string(),
        nearest: None,
    }
}
