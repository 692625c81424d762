use std::io::Write;

use updraft_api::Client;
use updraft_api::deploy::{DeployView, Deploys};
use updraft_model::{DeployId, DeployKind, DeploymentName, StageResult, Timestamp};

use super::report::{has_changed_image, merged};
use crate::cli::OutputArgs;
use crate::console::{Console, DIM};
use crate::context::Context;
use crate::exit::Exit;
use crate::failure::Result;
use crate::output::deploy_ref::DeployRef;
use crate::output::size::things;
use crate::output::table::Table;
use crate::output::time::ago;
use crate::output::{deploy_ref, names};

/// The most that the control plane gives at once.
const PAGE: u32 = 200;

/// List a Deployment's deploys, newest first
#[derive(Debug, clap::Args)]
pub(crate) struct HistoryArgs {
    /// Deployment, by name (default: the configured one)
    deployment: Option<DeploymentName>,

    /// How many to list
    #[arg(short = 'n', long, default_value_t = 20, value_name = "COUNT", value_parser = clap::value_parser!(u32).range(1..=1000))]
    limit: u32,

    /// Only those before this one
    #[arg(long, value_name = "DEPLOY")]
    before: Option<DeployRef>,

    #[command(flatten)]
    pub(crate) output: OutputArgs,
}

pub(crate) async fn run(args: &HistoryArgs, cx: &Context, out: &mut Console) -> Result<Exit> {
    let signed_in = cx.client_and_deployment(args.deployment.as_ref());
    let (client, name) = signed_in.await?;
    let before = match &args.before {
        Some(before) => Some(before.resolve(&client, async || Ok(name.clone())).await?),
        None => None,
    };
    let history = read(&client, &name, args.limit, before).await?;
    if out.is_json() {
        out.json(&history)?;
        return Ok(Exit::Success);
    }
    if history.deploys.is_empty() {
        writeln!(out.status(), "Nothing was deployed to `{name}` yet")?;
        return Ok(Exit::Success);
    }
    table(&history, chrono::Utc::now()).print(out)?;
    let dirty = |deploy: &DeployView| deploy.git.as_ref().is_some_and(|git| git.dirty);
    if history.deploys.iter().any(dirty) {
        writeln!(
            out.status(),
            "{DIM}* with changes that were not committed{DIM:#}"
        )?;
    }
    Ok(Exit::Success)
}

/// Reads page by page.
async fn read(
    client: &Client,
    name: &DeploymentName,
    mut left: u32,
    mut before: Option<DeployId>,
) -> Result<Deploys> {
    let mut deploys = Vec::new();
    loop {
        let asked = left.min(PAGE);
        let page = client.history(name, asked, before).await?.deploys;
        let got = u32::try_from(page.len()).unwrap_or(asked);
        before = page.last().map(|deploy| deploy.id);
        deploys.extend(page);
        left = left.saturating_sub(got);
        if got < asked || left == 0 {
            return Ok(Deploys { deploys });
        }
    }
}

fn table(history: &Deploys, now: Timestamp) -> Table {
    let mut table = Table::new([
        "deploy",
        "state",
        "when",
        "by",
        "changes",
        "checks",
        "commit",
        "description",
    ])
    .flexible(7);
    for deploy in &history.deploys {
        table.row([
            deploy_ref::short(deploy.id),
            names::state_of(deploy).to_owned(),
            ago(deploy.created_at, now),
            deploy.created_by.clone(),
            changes(deploy),
            checks(deploy),
            commit(deploy),
            description(deploy),
        ]);
    }
    table
}

/// `image +1 ~2 -3`
fn changes(deploy: &DeployView) -> String {
    let files = merged(deploy.files.values());
    let counts = [
        ("+", files.added.len()),
        ("~", files.changed.len()),
        ("-", files.removed.len()),
    ];
    let image = has_changed_image(deploy).then(|| "image".to_owned());
    let counts = counts.iter().filter(|(_, many)| *many > 0);
    let shown: Vec<_> = image
        .into_iter()
        .chain(counts.map(|(mark, many)| format!("{mark}{many}")))
        .collect();
    shown.join(" ")
}

/// `passed`, `2 warnings`, `1 error`; nothing where nothing was checked.
fn checks(deploy: &DeployView) -> String {
    let Some(checks) = &deploy.checks else {
        return String::new();
    };
    let sum = |of: fn(&StageResult) -> u64| checks.stages.values().map(of).sum::<u64>();
    match (sum(|stage| stage.errors), sum(|stage| stage.warnings)) {
        (0, 0) => "passed".to_owned(),
        (0, warnings) => things(warnings, "warning"),
        (errors, _) => things(errors, "error"),
    }
}

/// The commit's first digits, with `*` where there were changes on top.
fn commit(deploy: &DeployView) -> String {
    let Some(git) = &deploy.git else {
        return String::new();
    };
    let commit = git.commit.as_deref().unwrap_or("none");
    let dirty = if git.dirty { "*" } else { "" };
    format!("{}{dirty}", commit.get(..8).unwrap_or(commit))
}

fn description(deploy: &DeployView) -> String {
    let back = |what: &str| match deploy.returns_to {
        Some(to) => format!("{what} to {}", deploy_ref::short(to)),
        None => what.to_owned(),
    };
    let kind = match deploy.kind {
        DeployKind::Deploy => None,
        kind @ (DeployKind::Rollback | DeployKind::AutomaticRollback) => {
            Some(back(names::kind(kind)))
        }
        DeployKind::Promotion => Some(match deploy.promotes {
            Some(taken) => format!("promotion of {}", deploy_ref::short(taken)),
            None => names::kind(deploy.kind).to_owned(),
        }),
    };
    let said = Some(deploy.description.as_str())
        .filter(|text| !text.is_empty())
        .or_else(|| deploy.git.as_ref().and_then(|git| git.subject.as_deref()));
    let parts: Vec<_> = kind.as_deref().into_iter().chain(said).collect();
    parts.join(": ")
}
