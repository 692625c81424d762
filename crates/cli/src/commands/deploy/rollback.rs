use std::io::Write;
use std::time::Instant;

use updraft_api::deploy::RollbackRequest;
use updraft_model::{DeployState, DeploymentName};
use uuid::Uuid;

use super::accepted::Accepted;
use super::compare::DowngradeArgs;
use super::create::{PatienceArgs, perhaps_accepted, unknown_end};
use super::report::{milliseconds, nothing_to_do};
use crate::cli::OutputArgs;
use crate::console::Console;
use crate::context::Context;
use crate::exit::Exit;
use crate::failure::Result;
use crate::interrupt::Interrupt;
use crate::output::deploy_ref::{self, DeployRef};

/// Go back to the Release of an earlier deploy
///
/// Nothing is rebuilt or sent: the earlier Release is deployed again as a new deploy, and proven like any other.
/// What was rolled back is held back: deploying the same content again is refused until other content comes, or
/// `updraft hold lift`.
#[derive(Debug, clap::Args)]
pub(crate) struct RollbackArgs {
    /// Deployment to roll back, by name (default: the configured one)
    deployment: Option<DeploymentName>,

    /// Deploy to return to (default: the last live one that differs)
    #[arg(long, value_name = "DEPLOY")]
    to: Option<DeployRef>,

    /// Why, for the history and for whoever comes upon the hold
    #[arg(
        short,
        long,
        visible_alias = "reason",
        value_name = "TEXT",
        default_value = "",
        hide_default_value = true
    )]
    description: String,

    #[command(flatten)]
    downgrade: DowngradeArgs,

    #[command(flatten)]
    patience: PatienceArgs,

    #[command(flatten)]
    pub(crate) output: OutputArgs,
}

pub(crate) async fn run(args: &RollbackArgs, cx: &Context, out: &mut Console) -> Result<Exit> {
    let started = Instant::now();
    let interrupt = Interrupt::listen()?;
    let signed_in = cx.client_and_deployment(args.deployment.as_ref());
    let (client, name) = interrupt.ends(signed_in).await?;
    let to = match &args.to {
        Some(to) => {
            let to = to.resolve(&client, async || Ok(name.clone()));
            Some(interrupt.ends(to).await?)
        }
        None => None,
    };
    let ask = RollbackRequest {
        to,
        description: args.description.clone(),
        allow_downgrade: args.downgrade.allow_downgrade,
        key: Uuid::now_v7().to_string(),
    };
    let deploy = tokio::select! {
        deploy = client.roll_back(&name, &ask) => {
            deploy.map_err(|error| perhaps_accepted(error, &name))?
        }
        () = interrupt.came() => return Err(unknown_end(&name)),
    };
    let accepted = started.elapsed();
    if matches!(deploy.state, DeployState::Live { .. }) {
        let mut outcome = nothing_to_do(deploy, out)?;
        outcome.timings_ms.total = milliseconds(started.elapsed());
        return outcome.print_result(out);
    }
    match deploy.returns_to {
        Some(to) => {
            let target = deploy_ref::short(to);
            writeln!(out.status(), "Rolling `{name}` back to {target}")?;
            out.mark("accepted", accepted);
            writeln!(
                out.status(),
                "What was rolled back is on hold: other content ends that, or `updraft hold lift {name}`"
            )?;
        }
        // No new deploy: the Release is wanted already.
        None => writeln!(
            out.status(),
            "`{name}` is to run exactly this already, by {}; it is proven now",
            deploy_ref::short(deploy.id)
        )?,
    }

    let accepted = Accepted {
        client: &client,
        deploy,
        started,
        after: accepted,
    };
    let (outcome, ending) = accepted
        .see_through(&args.patience, &interrupt, out)
        .await?;
    outcome.print(ending.as_ref(), out)
}
