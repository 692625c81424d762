//! `updraft config check`: is updraft.toml right, and does what it names exist?

use std::io::Write;

use serde::Serialize;
use updraft_api::ClientError;
use updraft_model::{DeploymentName, Role, nearest};
use updraft_project::{Project, Pushed, Target, target};

use crate::cli::OutputArgs;
use crate::console::{Console, RED};
use crate::context::Context;
use crate::destination::pushed;
use crate::exit::Exit;
use crate::failure::{Failure, Result};
use crate::output::size::things;
use crate::output::table::Table;
use crate::preview::Request;

/// Check updraft.toml: its text, and whether the Deployments that it names are there
///
/// Shows where each branch goes, and which target is for the branch here. Ends with 3 when something is wrong.
#[derive(Debug, clap::Args)]
pub(crate) struct CheckArgs {
    /// Ask no control plane: check the text alone
    #[arg(long)]
    offline: bool,

    #[command(flatten)]
    pub(crate) output: OutputArgs,
}

#[derive(Debug, Serialize)]
struct Report {
    file: String,
    targets: Vec<TargetRow>,
    /// What this checkout or this pipeline is of, and where that goes.
    here: Here,
    /// Whether the control plane was asked.
    asked: bool,
    problems: Vec<Problem>,
}

#[derive(Debug, Serialize)]
struct TargetRow {
    line: usize,
    kind: String,
    pattern: String,
    deployment: DeploymentName,
}

#[derive(Debug, Serialize)]
struct Here {
    pushed: String,
    deployment: Option<DeploymentName>,
    /// What a pull request's Preview is made from.
    preview_from: Option<DeploymentName>,
}

#[derive(Debug, Serialize)]
struct Problem {
    line: Option<usize>,
    message: String,
}

/// What may be deployed to, as far as whoever asks may see.
struct Known {
    deployments: Vec<DeploymentName>,
    role: Role,
    who: String,
}

pub(crate) async fn run(args: &CheckArgs, cx: &Context, out: &mut Console) -> Result<Exit> {
    // Text that is not valid has ended it already, with line and column.
    let project = cx.project()?;
    let settings = project.settings();
    let known = if args.offline {
        None
    } else {
        Some(ask(cx).await?)
    };
    let mut problems = unreachable_targets(&settings.targets);
    if let Some(known) = &known {
        let named = settings
            .targets
            .iter()
            .map(|it| (&it.deployment, Some(it.line), Role::Deployer));
        let deployment = settings.deployment.iter();
        let deployment = deployment.map(|name| (name, None, Role::Deployer));
        let preview = settings.preview.iter();
        let preview = preview.map(|it| (&it.from, None, Role::Previewer));
        problems.extend(
            named
                .chain(deployment)
                .chain(preview)
                .filter_map(|(name, line, needs)| known.problem(name, line, needs)),
        );
    }
    let report = Report {
        file: project
            .root()
            .join(updraft_project::SETTINGS_FILE)
            .display()
            .to_string(),
        targets: settings.targets.iter().map(TargetRow::new).collect(),
        here: here(cx, project)?,
        asked: known.is_some(),
        problems,
    };
    if out.is_json() {
        out.json(&report)?;
    } else {
        report.write(out)?;
    }
    Ok(if report.problems.is_empty() {
        Exit::Success
    } else {
        Exit::Refused
    })
}

async fn ask(cx: &Context) -> Result<Known> {
    let client = cx.client().await?;
    let offline = |error: ClientError| {
        Failure::from(error).help("`updraft config check --offline` checks the text alone")
    };
    let who = client.whoami().await.map_err(offline)?;
    let deployments = client.deployments().await.map_err(offline)?;
    Ok(Known {
        deployments: deployments
            .deployments
            .into_iter()
            .map(|it| it.name)
            .collect(),
        role: who.token.role,
        who: who.token.name,
    })
}

impl Known {
    fn problem(&self, name: &DeploymentName, line: Option<usize>, needs: Role) -> Option<Problem> {
        let message = if !self.deployments.contains(name) {
            let names = self.deployments.iter().map(DeploymentName::as_str);
            let meant = nearest(name.as_str(), names);
            let meant = meant
                .map(|it| format!("; did you mean `{it}`?"))
                .unwrap_or_default();
            format!(
                "there is no Deployment `{name}` that the token `{}` is for{meant}; \
                 `updraft deployment list` shows those that are there",
                self.who
            )
        } else if !self.role.includes(needs) {
            let what = match needs {
                Role::Previewer => "make no Previews of it",
                _ => "not deploy to it",
            };
            format!(
                "the token `{}` may look at `{name}` and {what}; ask an admin for one with the role {needs}",
                self.who
            )
        } else {
            return None;
        };
        Some(Problem { line, message })
    }
}

/// Those that an earlier one leaves nothing for.
fn unreachable_targets(targets: &[Target]) -> Vec<Problem> {
    let hidden = targets.iter().enumerate().filter_map(|(at, it)| {
        let name = it.of.pattern();
        // A pattern's own text tells only when it is a plain name.
        let is_plain = !name.contains(['*', '?', '[', '{']);
        let pushed = match it.of.kind() {
            updraft_project::RefKind::Branch => Pushed::Branch(name.to_owned()),
            updraft_project::RefKind::Tag => Pushed::Tag(name.to_owned()),
        };
        let before = target(&targets[..at], &pushed).filter(|_| is_plain)?;
        Some(Problem {
            line: Some(it.line),
            message: format!(
                "the {} never gets here: line {} takes it, to `{}`; put this one first",
                it.of, before.line, before.deployment
            ),
        })
    });
    hidden.collect()
}

fn here(cx: &Context, project: &Project) -> Result<Here> {
    let pushed = pushed(cx.ci(), project)?;
    let target = target(&project.settings().targets, &pushed);
    let request = Request::of(cx)?.filter(|request| target.is_none() && !request.is_fork);
    Ok(Here {
        pushed: pushed.to_string(),
        deployment: target.map(|it| it.deployment.clone()),
        preview_from: request.map(|request| request.from),
    })
}

impl TargetRow {
    fn new(target: &Target) -> Self {
        Self {
            line: target.line,
            kind: target.of.kind().to_string(),
            pattern: target.of.pattern().to_owned(),
            deployment: target.deployment.clone(),
        }
    }
}

impl Report {
    fn write(&self, out: &mut Console) -> Result<()> {
        if !self.targets.is_empty() {
            let mut table = Table::new(["line", "of", "name", "deployment"]);
            for row in &self.targets {
                table.row([
                    row.line.to_string(),
                    row.kind.clone(),
                    row.pattern.clone(),
                    row.deployment.to_string(),
                ]);
            }
            table.print(out)?;
        }
        let pushed = &self.here.pushed;
        match (&self.here.deployment, &self.here.preview_from) {
            (Some(name), _) => writeln!(out.data(), "here: {pushed} goes to `{name}`")?,
            (None, Some(name)) => {
                writeln!(out.data(), "here: {pushed} gets a Preview of `{name}`")?;
            }
            (None, None) if self.targets.is_empty() => {}
            (None, None) => writeln!(out.data(), "here: no target is for {pushed}")?,
        }
        for problem in &self.problems {
            let line = problem
                .line
                .map(|line| format!(":{line}"))
                .unwrap_or_default();
            writeln!(
                out.complaint(),
                "{RED}error{RED:#}: {}{line}: {}",
                updraft_project::SETTINGS_FILE,
                problem.message
            )?;
        }
        let count = things(self.problems.len() as u64, "problem");
        match (self.problems.is_empty(), self.asked) {
            (true, true) => writeln!(out.status(), "updraft.toml is good")?,
            (true, false) => writeln!(
                out.status(),
                "the text of updraft.toml is good; no control plane was asked"
            )?,
            (false, _) => writeln!(out.status(), "{count} in updraft.toml")?,
        }
        Ok(())
    }
}
