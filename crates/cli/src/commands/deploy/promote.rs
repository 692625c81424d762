use std::io::Write;
use std::time::{Duration, Instant};

use serde::Serialize;
use updraft_api::Client;
use updraft_api::deploy::{
    ComparisonOutcome, PromoteRequest, PromotedHalves, Promotion, PromotionSource,
};
use updraft_model::{DeployId, DeployState, DeploymentName, Hold, ReleasePart};
use uuid::Uuid;

use super::accepted::Accepted;
use super::compare::{DowngradeArgs, refuse_older};
use super::create::{PatienceArgs, perhaps_accepted, unknown_end};
use super::report::{Outcome, is_empty, merged, milliseconds, nothing_to_do, summary, write_names};
use crate::cli::OutputArgs;
use crate::console::Console;
use crate::context::Context;
use crate::environment;
use crate::exit::Exit;
use crate::failure::Result;
use crate::interrupt::Interrupt;
use crate::output::{deploy_ref, names};

/// Deploy what another Deployment has
///
/// Nothing is built, checked or sent: the same digests are deployed as a new deploy, and proven by the other
/// Airflow like any other. Bundles that only the second one has stay as they are.
#[derive(Debug, clap::Args)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "each is a flag of the command line"
)]
pub(crate) struct PromoteArgs {
    /// Deployment whose Release is taken: the one that was last live there
    from: DeploymentName,

    /// Deployment that gets it
    to: DeploymentName,

    /// Take the bundles alone
    #[arg(long, conflicts_with = "image")]
    dags: bool,

    /// Take the image half alone
    #[arg(long)]
    image: bool,

    /// Take what the first one should run, also when that never was live
    #[arg(long)]
    allow_unproven: bool,

    /// Deploy also what a rollback holds back
    #[arg(long)]
    force: bool,

    #[command(flatten)]
    downgrade: DowngradeArgs,

    /// Only show what would change
    #[arg(long, conflicts_with_all = ["no_wait", "timeout", "reason"])]
    plan: bool,

    /// Why, for the history
    #[arg(
        short = 'd',
        long,
        visible_alias = "description",
        value_name = "TEXT",
        default_value = "",
        hide_default_value = true
    )]
    reason: String,

    #[command(flatten)]
    patience: PatienceArgs,

    #[command(flatten)]
    pub(crate) output: OutputArgs,
}

impl PromoteArgs {
    fn source(&self) -> PromotionSource {
        PromotionSource {
            from: self.from.clone(),
            halves: match (self.dags, self.image) {
                (true, _) => PromotedHalves::Dags,
                (false, true) => PromotedHalves::Image,
                (false, false) => PromotedHalves::Both,
            },
            allow_unproven: self.allow_unproven,
        }
    }
}

pub(crate) async fn run(args: &PromoteArgs, cx: &Context, out: &mut Console) -> Result<Exit> {
    let started = Instant::now();
    let interrupt = Interrupt::listen()?;
    let client = interrupt.ends(cx.client_to_all()).await?;
    let looking = plan(args, cx, &client);
    let planned = interrupt.ends(looking).await?;
    say_newer(args, &planned, out);
    if args.plan {
        return show(args, &planned, started.elapsed(), out);
    }

    let name = args.to.clone();
    let ask = PromoteRequest {
        source: args.source(),
        description: args.reason.clone(),
        allow_downgrade: args.downgrade.allow_downgrade,
        force: args.force,
        key: Uuid::now_v7().to_string(),
    };
    let promoted = tokio::select! {
        promoted = client.promote(&name, &ask) => {
            promoted.map_err(|error| perhaps_accepted(error, &name))?
        }
        () = interrupt.came() => return Err(unknown_end(&name)),
    };
    let accepted = started.elapsed();
    let what = what_changes(&promoted);
    let takes_image = promoted.changed.contains(&ReleasePart::Image);
    let taken = deploy_ref::short(promoted.taken);
    let deploy = promoted.deploy.ok_or_else(super::create::no_deploy)?;
    if matches!(deploy.state, DeployState::Live { .. }) {
        let mut outcome = nothing_to_do(deploy, out)?;
        outcome.timings_ms.total = milliseconds(started.elapsed());
        return outcome.print_result(out);
    }
    if promoted.outcome == ComparisonOutcome::Changes {
        writeln!(
            out.status(),
            "Promoting {taken} of `{}` to `{name}`",
            args.from
        )?;
        let id = deploy_ref::short(deploy.id);
        out.mark(&format!("accepted as {id}: {what}"), accepted);
        write_files(&promoted.files, out)?;
    } else {
        writeln!(
            out.status(),
            "`{name}` is to run exactly this already, by {}; waiting for its proof",
            deploy_ref::short(deploy.id)
        )?;
    }

    let files = merged(deploy.files.values());
    let accepted = Accepted {
        client: &client,
        deploy,
        started,
        after: accepted,
    };
    let (mut outcome, ending) = accepted
        .see_through(&args.patience, &interrupt, out)
        .await?;
    outcome.image(takes_image, Vec::new());
    outcome.files = files;
    outcome.print(ending.as_ref(), out)
}

/// What would change, as far as it may.
async fn plan(args: &PromoteArgs, cx: &Context, client: &Client) -> Result<Promotion> {
    let planned = client.plan_promotion(&args.to, &args.source()).await?;
    if !args.downgrade.allow_downgrade
        && planned.changed.contains(&ReleasePart::Image)
        && let Some(wanted) = &planned.wanted
    {
        let cache = cx.cache_dir();
        let config =
            |deployment, digest| environment::config(client, deployment, digest, cache.as_deref());
        let brought = config(&args.from, planned.release.image.digest()).await;
        let runs = config(&args.to, wanted.image.digest()).await;
        // Where that cannot be read, the agent looks before it switches.
        if let (Ok(brought), Ok(runs)) = (brought, runs) {
            refuse_older(&brought.fingerprint, &runs.fingerprint)?;
        }
    }
    Ok(planned)
}

/// `2 files changed, and the image`
fn what_changes(promotion: &Promotion) -> String {
    let files = merged(promotion.files.values());
    let has_image = promotion.changed.contains(&ReleasePart::Image);
    match (has_image, is_empty(&files)) {
        (true, true) => "the image".to_owned(),
        (true, false) => format!("{}, and the image", summary(&files)),
        (false, _) => summary(&files),
    }
}

/// What is newer there and not taken.
fn say_newer(args: &PromoteArgs, planned: &Promotion, out: &mut Console) {
    if let Some(newer) = planned.newer {
        out.warn(&format!(
            "`{}` should run {} by now, which is not live; {}, which was, is taken",
            args.from,
            deploy_ref::short(newer),
            deploy_ref::short(planned.taken)
        ));
    }
}

/// The object that `--plan -o json` prints.
#[derive(Serialize)]
struct Shown<'a> {
    #[serde(flatten)]
    outcome: &'a Outcome,
    taken: DeployId,
    on_hold: Option<&'a Hold>,
}

fn show(
    args: &PromoteArgs,
    planned: &Promotion,
    took: Duration,
    out: &mut Console,
) -> Result<Exit> {
    let word = match planned.outcome {
        ComparisonOutcome::NothingToDo => "nothing_to_do",
        ComparisonOutcome::Changes
        | ComparisonOutcome::RollingOut
        | ComparisonOutcome::ProvingAgain => "planned",
    };
    let mut outcome = Outcome::new(word, Exit::Success, args.to.clone());
    outcome.files = merged(planned.files.values());
    outcome.runs.clone_from(&planned.runs);
    outcome.image(planned.changed.contains(&ReleasePart::Image), Vec::new());
    outcome.timings_ms.total = milliseconds(took);
    let on_hold = planned.hold.as_deref().filter(|_| !args.force);
    if out.is_json() {
        out.json(&Shown {
            outcome: &outcome,
            taken: planned.taken,
            on_hold,
        })?;
        return Ok(Exit::Success);
    }
    let (from, to) = (&args.from, &args.to);
    let taken = deploy_ref::short(planned.taken);
    match planned.outcome {
        ComparisonOutcome::NothingToDo => writeln!(
            out.data(),
            "Nothing to do: `{to}` runs exactly what {taken} of `{from}` has"
        )?,
        ComparisonOutcome::RollingOut | ComparisonOutcome::ProvingAgain => writeln!(
            out.data(),
            "`{to}` should run exactly what {taken} of `{from}` has; promoting would wait for its proof"
        )?,
        ComparisonOutcome::Changes => {
            let what = what_changes(planned);
            writeln!(
                out.data(),
                "{taken} of `{from}` would change `{to}`: {what}"
            )?;
            let files = &outcome.files;
            let mut text = Vec::new();
            write_names(
                &files.added,
                &files.changed,
                &files.removed,
                "  ",
                &mut text,
            )?;
            out.data().write_all(&text)?;
        }
    }
    if let Some(hold) = on_hold {
        out.warn(&format!(
            "promoting would be refused: `{to}` is on hold {}",
            names::hold(hold)
        ));
    }
    Ok(Exit::Success)
}

fn write_files(
    files: &std::collections::BTreeMap<updraft_model::BundleName, updraft_api::deploy::FileChanges>,
    out: &mut Console,
) -> Result<()> {
    let files = merged(files.values());
    let mut text = Vec::new();
    write_names(
        &files.added,
        &files.changed,
        &files.removed,
        "    ",
        &mut text,
    )?;
    out.status().write_all(&text)?;
    Ok(())
}
