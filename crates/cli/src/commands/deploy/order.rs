//! On one branch the newer commit wins, however slow the pipeline of an older one is.

use updraft_api::deploy::{
    AcceptDeploy, Comparison, DeployView, Landed, Order, Parts, PlanRequest,
};
use updraft_api::{ClientError, ErrorCode};
use updraft_model::{CiRun, DeployId};
use updraft_project::git_is_behind;

use super::create::{Deploy, perhaps_accepted};
use crate::exit::Exit;
use crate::failure::{Failure, Result};
use crate::output::deploy_ref;

/// Comparisons with what others deploy to the same branch meanwhile.
const MOST_COMPARED: usize = 5;

impl Deploy<'_> {
    /// What this deploy takes for the newest of its branch; none where nothing has an
    /// order: outside pipelines, for tags, and by force. An older one is refused.
    pub(super) async fn in_order(&self, comparison: &Comparison) -> Result<Option<Order>> {
        let Some(run) = self.ci.filter(|run| run.branch.is_some() && !self.force) else {
            return Ok(None);
        };
        let mut landed = comparison.landed.iter();
        let newest = landed.find(|landed| landed.ci.is_in_line_with(run));
        if let Some(newest) = newest
            && self.is_behind(run, newest).await?
        {
            return Err(self.outdated(run, newest));
        }
        let after = newest.map(|newest| newest.deploy);
        Ok(Some(Order { after }))
    }

    async fn is_behind(&self, run: &CiRun, newest: &Landed) -> Result<bool> {
        let Some(commit) = newest.ci.commit.clone() else {
            return Ok(run.ran_before(&newest.ci));
        };
        if run.commit.as_ref() == Some(&commit) {
            return Ok(false);
        }
        let root = self.project.root().to_owned();
        let told = tokio::task::spawn_blocking(move || git_is_behind(&root, &commit)).await?;
        // A clone that does not have it may be older than it.
        Ok(told.unwrap_or_else(|| run.ran_before(&newest.ci)))
    }

    fn outdated(&self, run: &CiRun, newest: &Landed) -> Failure {
        let branch = run.branch.as_deref().unwrap_or_default();
        let message = format!(
            "`{}` has a newer commit of the branch `{branch}` already: {} by {}, and this is {}",
            self.deployment,
            named(&newest.ci),
            deploy_ref::short(newest.deploy),
            named(run),
        );
        Failure::new(Exit::Superseded, message)
            .code("outdated")
            .help(format!(
                "nothing is to be done when an older pipeline was just slow; to go back on purpose, \
                 `updraft rollback {}`, or --force",
                self.deployment
            ))
    }

    /// Accepts a deploy as what comes after the newest of its branch, and gives it up where
    /// somebody was quicker with something newer, or rolled this content back.
    pub(super) async fn accept(
        &self,
        deploy: DeployId,
        parts: &Parts,
        ask: AcceptDeploy,
    ) -> Result<DeployView> {
        let accepted = self.accept_in_order(deploy, parts, ask).await;
        if let Err(Failure {
            exit: Exit::Superseded | Exit::Conflict,
            ..
        }) = &accepted
        {
            // Where that cannot be said, it expires by itself.
            let _ = self.client.withdraw_deploy(deploy, None).await;
        }
        accepted
    }

    async fn accept_in_order(
        &self,
        deploy: DeployId,
        parts: &Parts,
        mut ask: AcceptDeploy,
    ) -> Result<DeployView> {
        for _ in 1..MOST_COMPARED {
            match self.client.accept_deploy_as(deploy, &ask).await {
                Err(error) if error.code() == Some(ErrorCode::MovedOn) => {
                    let parts = parts.clone();
                    let again = PlanRequest { parts };
                    let again = self.client.plan(self.deployment, &again).await?;
                    ask.order = self.in_order(&again).await?;
                }
                accepted => return self.accepted(accepted),
            }
        }
        self.accepted(self.client.accept_deploy_as(deploy, &ask).await)
    }

    fn accepted(&self, answer: Result<DeployView, ClientError>) -> Result<DeployView> {
        answer.map_err(|error| perhaps_accepted(error, self.deployment))
    }
}

/// `3f2c9a81 (run 7)`
fn named(run: &CiRun) -> String {
    let commit = run.commit.as_deref().unwrap_or("an unknown commit");
    let commit = commit.get(..8).unwrap_or(commit);
    match run.run_number {
        Some(number) => format!("{commit} (run {number})"),
        None => commit.to_owned(),
    }
}
