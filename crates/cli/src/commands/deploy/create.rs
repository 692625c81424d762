//! `updraft deploy`: from the project on disk to proof.
//!
//! ```text
//! scan dags/ ─┐                     ┌─ nothing to do
//! git ────────┼─ plan ─ create ─────┼─ rolling out already ──────────┬─ repair ─ follow ─ report
//! image half ─┘                     └─ changes: check and upload, accept ─┘
//! ```

use std::collections::BTreeMap;
use std::io::Write;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::json;
use tokio::task::JoinHandle;
use updraft_api::deploy::{
    AcceptDeploy, Comparison, ComparisonOutcome, CreateDeploy, DeployView, Order, Parts,
};
use updraft_api::{Client, ClientError};
use updraft_bundle::Scan;
use updraft_check::parse::Names;
use updraft_image::Access;
use updraft_model::{
    BundleName, CheckStage, Checks, CiRun, DeployId, DeploymentName, Digest, GitState, Release,
};
use updraft_project::{ImageHalf, Project, ProjectParts, Pushed};
use uuid::Uuid;

use super::checks::{ChecksArgs, Job, Ran, Stages};
use super::compare::{DowngradeArgs, Halves, HalvesArgs, Planned, RunsIn, to_send};
use super::follow::{Ending, Patience, follow};
use super::image::ImageArgs;
use super::report::{
    Outcome, Sent, Timings, has_changed_image, is_empty, merged, milliseconds, nothing_to_do,
    sent_text, summary, write_names, write_some,
};
use super::{checks, comment, plan, upload};
use crate::busy::busy;
use crate::checks::elsewhere::{self, Asked};
use crate::checks::names;
use crate::cli::OutputArgs;
use crate::commands::preview::date;
use crate::console::{Console, YELLOW};
use crate::context::Context;
use crate::daemonless_build::access;
use crate::destination::{Destination, fork, nowhere};
use crate::environment;
use crate::exit::Exit;
use crate::failpoint::failpoint;
use crate::failure::{Failure, Result};
use crate::interrupt::Interrupt;
use crate::output::deploy_ref;
use crate::output::names::hold as hold_text;
use crate::output::size::things;
use crate::preview::{Opened, Request};

/// Deploy the project here: send what differs, and wait until Airflow has it
///
/// Compares content with what the Deployment should run: the DAGs, and the image half, which is Airflow's
/// version, the requirements and the project's other files. Sends only what is missing, and ends with 0 when
/// Airflow has the new content of every file that the change can affect, or already had.
#[derive(Debug, clap::Args)]
pub(crate) struct DeployArgs {
    /// Deployment, by name (default: the configured one)
    deployment: Option<DeploymentName>,

    #[command(flatten)]
    halves: HalvesArgs,

    #[command(flatten)]
    downgrade: DowngradeArgs,

    #[command(flatten)]
    force: ForceArgs,

    #[command(flatten)]
    image: ImageArgs,

    /// End with 0 when no target of updraft.toml is for what was pushed
    #[arg(long, conflicts_with = "deployment")]
    if_mapped: bool,

    /// Deploy to the Preview of the pull request that this pipeline is for, whatever targets say
    #[arg(long, conflicts_with_all = ["deployment", "if_mapped", "plan"])]
    preview: bool,

    #[command(flatten)]
    planning: PlanArgs,

    /// What it is for, in the history
    #[arg(
        short,
        long,
        value_name = "TEXT",
        default_value = "",
        hide_default_value = true
    )]
    description: String,

    #[command(flatten)]
    checks: ChecksArgs,

    /// Deploy also when `dags/` is missing or empty, which takes all DAGs away
    #[arg(long)]
    allow_empty: bool,

    #[command(flatten)]
    patience: PatienceArgs,

    #[command(flatten)]
    pub(crate) output: OutputArgs,
}

#[derive(Debug, clap::Args)]
struct PlanArgs {
    /// Only show what would change
    #[arg(long, conflicts_with_all = ["no_wait", "timeout", "description"])]
    plan: bool,

    /// Check the project too, and write the plan on the pull request that this pipeline is for
    #[arg(long, requires = "plan")]
    comment: bool,
}

#[derive(Debug, clap::Args)]
struct ForceArgs {
    /// Deploy also what a rollback holds back, and what a newer commit of the branch is there for already
    #[arg(long)]
    force: bool,
}

#[derive(Debug, clap::Args)]
pub(crate) struct PatienceArgs {
    /// Return once the control plane has accepted it
    #[arg(long)]
    pub(crate) no_wait: bool,

    /// Stop waiting after this long, such as 90s or 10m (default: as long as the Deployment's proof may take)
    #[arg(long, value_name = "TIME", value_parser = seconds)]
    timeout: Option<Duration>,

    /// How long an agent may take to connect, when none is
    #[arg(long, value_name = "TIME", value_parser = seconds, default_value = "10s")]
    wait_for_agent: Duration,
}

impl PatienceArgs {
    pub(crate) fn read(&self) -> Patience {
        Patience {
            timeout: self.timeout,
            wait_for_agent: self.wait_for_agent,
        }
    }
}

/// Reads `90`, `90s`, `10m` or `2h`.
pub(crate) fn seconds(text: &str) -> Result<Duration, String> {
    let split = text
        .find(|c: char| !c.is_ascii_digit())
        .unwrap_or(text.len());
    let (number, unit) = text.split_at(split);
    let factor = match unit {
        "" | "s" => 1,
        "m" | "min" => 60,
        "h" => 3600,
        _ => return Err("write it like 90s, 10m or 2h".into()),
    };
    let number: u64 = number.parse().map_err(|_| "write it like 90s, 10m or 2h")?;
    Ok(Duration::from_secs(number.saturating_mul(factor)))
}

pub(crate) async fn run(args: &DeployArgs, cx: &Context, out: &mut Console) -> Result<Exit> {
    let started = Instant::now();
    let interrupt = Interrupt::listen()?;
    let project = cx.project()?;
    let destination = if args.preview {
        cx.preview_destination()?
    } else if args.planning.plan {
        cx.planned_destination(args.deployment.as_ref())?
    } else {
        cx.destination(args.deployment.as_ref())?
    };
    let (name, request) = match destination {
        Destination::Named(name) => (name, None),
        Destination::Mapped(name, pushed) => {
            writeln!(out.status(), "{pushed} goes to `{name}`")?;
            (name, None)
        }
        Destination::Preview(request) if request.is_fork => {
            if args.if_mapped {
                return not_mapped(&request.pushed(), out);
            }
            return Err(fork());
        }
        Destination::Preview(request) => (request.from.clone(), Some(request)),
        Destination::Nowhere(pushed) if args.if_mapped => return not_mapped(&pushed, out),
        Destination::Nowhere(pushed) => return Err(nowhere(&pushed)),
    };
    let client = interrupt.ends(cx.client_to(&name)).await?;
    let from = request.as_ref().map(|_| name.clone());
    let (name, opened) = match request {
        Some(request) => {
            let opened = interrupt.ends(request.open(&client)).await?;
            say_opened(&opened, out)?;
            (opened.name.clone(), Some(opened))
        }
        None => (name, None),
    };
    let ask = Deploy {
        client: &client,
        project,
        deployment: &name,
        names_of: from.as_ref().unwrap_or(&name),
        description: &args.description,
        halves: args.halves.read(project)?,
        rebuild: args.halves.rebuild,
        image: args.image.clone(),
        ci: cx.ci(),
        access: access(cx).ok(),
        purpose: if args.planning.plan {
            Purpose::Plan
        } else {
            Purpose::Deploy
        },
        allow_downgrade: args.downgrade.allow_downgrade,
        force: args.force.force,
        allow_empty: args.allow_empty,
        stages: args.checks.stages(project),
        patience: (!args.patience.no_wait).then(|| args.patience.read()),
        cache: cx.cache_dir(),
        started,
    };
    if args.planning.plan {
        let comment = args.planning.comment.then_some(cx);
        return Box::pin(interrupt.ends(ask.show_plan(comment, out))).await;
    }
    let (mut outcome, ending) = Box::pin(ask.run(&interrupt, out)).await?;
    if let Some(ending) = &ending {
        outcome.say(ending, out)?;
    }
    if let Some(opened) = opened {
        outcome.preview = Some(at_its_address(&client, opened, out).await?);
    }
    outcome.print_result(out)
}

fn say_opened(opened: &Opened, out: &mut Console) -> Result<()> {
    let (name, from) = (&opened.name, &opened.from);
    let what = if opened.is_new {
        format!("The pull request gets the Preview `{name}`, made from `{from}`")
    } else {
        format!("The pull request has the Preview `{name}` of `{from}`")
    };
    writeln!(out.status(), "{what}")?;
    Ok(())
}

/// Says where the Preview is, which is known when it has been started.
async fn at_its_address(client: &Client, opened: Opened, out: &mut Console) -> Result<Opened> {
    let is_new = opened.is_new;
    let preview = match client.preview(&opened.name).await {
        Ok(preview) => Opened::from(preview),
        // What became of the deploy is known, and matters more.
        Err(_) => opened,
    };
    if let Some(url) = &preview.url {
        let until = date(preview.expires_at);
        writeln!(out.status(), "Preview at {url}, until {until}")?;
    }
    Ok(Opened { is_new, ..preview })
}

/// What a comparison is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Purpose {
    /// To be shown: no container image is made for it.
    Plan,
    Deploy,
}

/// What to deploy, and where.
#[expect(
    clippy::struct_excessive_bools,
    reason = "each is a flag of the command line"
)]
pub(crate) struct Deploy<'a> {
    pub(crate) client: &'a Client,
    pub(crate) project: &'a Project,
    pub(crate) deployment: &'a DeploymentName,
    /// Whose connections and variables its DAGs may ask for.
    pub(crate) names_of: &'a DeploymentName,
    pub(crate) description: &'a str,
    pub(crate) halves: Halves,
    /// Make the image half also when nothing of it differs.
    pub(crate) rebuild: bool,
    /// Which container image, where the Deployment runs such.
    pub(crate) image: ImageArgs,
    /// The pipeline run that it is part of.
    pub(crate) ci: Option<&'a CiRun>,
    /// Asks registries without an engine.
    pub(crate) access: Option<Access>,
    pub(crate) purpose: Purpose,
    /// Let Airflow's database lose what an older Airflow does not know.
    pub(crate) allow_downgrade: bool,
    /// Over a hold, and over a newer commit.
    pub(crate) force: bool,
    pub(crate) allow_empty: bool,
    /// None: do not wait for the proof.
    pub(crate) patience: Option<Patience>,
    pub(crate) stages: Stages,
    /// Where scans, locks and tools are kept.
    pub(crate) cache: Option<PathBuf>,
    pub(crate) started: Instant,
}

/// What the checks of a deploy are about, and which there have to be.
struct Claim {
    bundles: BTreeMap<BundleName, Digest>,
    runs_in: RunsIn,
    require: Vec<CheckStage>,
}

impl Deploy<'_> {
    /// With a comment the project is checked as well, since it tells of that.
    async fn show_plan(&self, comment: Option<&Context>, out: &mut Console) -> Result<Exit> {
        let git = match comment {
            Some(_) => join_git(self.ask_git()).await,
            None => None,
        };
        let forge = comment
            .map(|cx| comment::forge(cx, git.as_ref()))
            .transpose()?;
        let mut step = out.step(format!("comparing with `{}`", self.deployment));
        let read = self.read().await?;
        let (scan, took) = (Arc::clone(&read.scan), read.took);
        let planned = self.plan(read, &mut step, out).await?;
        let dags = self.dags(&planned, &mut step, out).await?;
        out.abandon(step);
        let files = plan::files(self.client, self.deployment, &scan, &planned).await?;
        // What of a new image half is there already was not asked yet.
        let asked = match &planned.environment {
            Some(_) => self.compare(&planned.parts, &scan).await?,
            None => planned.comparison.clone(),
        };
        let missing = &asked.missing;
        let environment = planned.environment.as_ref();
        let sent = to_send(&planned.parts, &scan, environment, missing);
        let mut outcome = Outcome::new("planned", Exit::Success, self.deployment.clone());
        if planned.comparison.outcome == ComparisonOutcome::NothingToDo {
            outcome.outcome = "nothing_to_do";
        }
        outcome.files = files;
        outcome.planned_dags = dags;
        outcome.sent = Some(sent);
        outcome.runs.clone_from(&planned.comparison.runs);
        outcome.timings_ms.scanned = Some(milliseconds(took));
        outcome.timings_ms.total = milliseconds(self.started.elapsed());
        outcome.image(planned.changes_image, planned.image_differs.clone());
        if let Some(forge) = &forge {
            let ran = self.check_plan(&planned, &scan, out).await?;
            if !ran.passed() {
                outcome.exit = Exit::CheckFailed;
                outcome.exit_code = outcome.exit.code();
            }
            outcome.checks = ran.stages;
            let preview = match comment.map(Request::of).transpose()?.flatten() {
                Some(request) => request.find(self.client).await?,
                None => None,
            };
            let told = comment::Told {
                project: self.project.name(),
                outcome: &outcome,
                planned: &planned,
                git: git.as_ref(),
                run: self.ci,
                preview: preview.as_ref(),
            };
            outcome.comment = Some(comment::write(forge, &told).await?);
        }
        plan::print(&outcome, &planned, out)?;
        self.say_what_refuses(&asked, out).await?;
        if let Some(comment) = &outcome.comment {
            let at = comment.url.as_ref().map(|url| format!(": {url}"));
            writeln!(
                out.status(),
                "{}{}",
                comment.outcome,
                at.unwrap_or_default()
            )?;
        }
        Ok(outcome.exit)
    }

    /// Says of a plan what would keep its deploy from happening.
    async fn say_what_refuses(&self, comparison: &Comparison, out: &mut Console) -> Result<()> {
        if self.force || comparison.outcome != ComparisonOutcome::Changes {
            return Ok(());
        }
        if let Some(hold) = &comparison.hold {
            out.warn(&format!(
                "a deploy would be refused: `{}` is on hold {}",
                self.deployment,
                hold_text(hold)
            ));
        }
        match self.in_order(comparison).await {
            Err(failure) if failure.exit == Exit::Superseded => {
                out.warn(&format!("a deploy would be refused: {}", failure.message));
                Ok(())
            }
            other => other.map(drop),
        }
    }

    /// What a deploy would check, without one.
    async fn check_plan(
        &self,
        planned: &Planned,
        scan: &Arc<Scan>,
        out: &mut Console,
    ) -> Result<Ran> {
        if planned.bundles.is_empty() {
            return Ok(Ran::default());
        }
        let mut claim = Claim {
            bundles: planned.bundles.clone(),
            runs_in: planned.runs_in.clone(),
            require: planned.comparison.require.clone(),
        };
        let mut stages = self.stages;
        if planned.runs_in.config.is_none() {
            // An image that a plan does not build.
            stages = Stages::NONE;
            claim.require.clear();
        }
        let began = Instant::now();
        let job = Job {
            stages: stages.and(&claim.require),
            ..self.job(&claim, scan, out).await?
        };
        let mut step = out.step("checking");
        let ran = busy(&mut step, out, move |stop, say| job.run(stop, say)).await?;
        out.abandon(step);
        ran.say(began, out)?;
        Ok(ran)
    }

    fn ask_git(&self) -> JoinHandle<Option<GitState>> {
        let project = self.project.clone();
        tokio::task::spawn_blocking(move || project.git())
    }

    /// Deploys, and follows it to its end unless nobody wants to wait. What
    /// came of it is not printed yet; where there is nothing to follow, it is.
    pub(crate) async fn run(
        &self,
        interrupt: &Interrupt,
        out: &mut Console,
    ) -> Result<(Outcome, Option<Ending>)> {
        let mut timings = Timings::default();
        let begun = tokio::select! {
            begun = self.begin(&mut timings, out) => begun?,
            () = interrupt.came() => {
                return Err(Failure::interrupted().help("it was not accepted, so nothing has changed"));
            }
        };
        let Begun {
            mut deploy,
            next,
            lost,
            made_image,
            image_differs,
            sent,
            checks,
            parts,
            order,
        } = begun;
        let checked = checks.as_ref().map(|checks| checks.stages.clone());
        let checked = checked.unwrap_or_default();
        if next == Next::Accept {
            let asked = Instant::now();
            let ask = AcceptDeploy {
                checks,
                order,
                force: self.force,
            };
            let accepted = tokio::select! {
                accepted = self.accept(deploy.id, &parts, ask) => accepted?,
                () = interrupt.came() => return Err(unknown_end(self.deployment)),
            };
            failpoint("cli.accepted");
            deploy = accepted;
            timings.accepted = Some(milliseconds(self.started.elapsed()));
            say_accepted(&deploy, asked.elapsed(), out)?;
        }
        if !lost.digests.is_empty() {
            tokio::select! {
                repaired = self.repair(deploy.id, lost, out) => repaired?,
                () = interrupt.came() => {
                    if next == Next::Nothing {
                        return Err(Failure::interrupted());
                    }
                    // Whoever follows sees it too, and says that the deploy goes on.
                }
            }
        }
        let (mut outcome, ending) = match next {
            Next::Nothing => (nothing_to_do(deploy, out)?, None),
            Next::Refuse => (checks::refuse(deploy, &checked, out)?, None),
            Next::Accept | Next::Wait => self.wait(deploy, interrupt, out).await?,
        };
        if let Some(deploy) = &outcome.deploy {
            timings.add_deploy(deploy);
        }
        timings.total = milliseconds(self.started.elapsed());
        outcome.timings_ms = timings;
        outcome.image(made_image, image_differs);
        outcome.sent = sent;
        outcome.checks = checked;
        Ok((outcome, ending))
    }

    /// Everything up to acceptance: until then nothing has changed for anybody.
    async fn begin(&self, timings: &mut Timings, out: &mut Console) -> Result<Begun> {
        let mut step = out.step(format!("comparing with `{}`", self.deployment));
        let git = self.ask_git();
        let read = self.read().await?;
        failpoint("cli.read");
        timings.scanned = Some(milliseconds(read.took));
        let scan = Arc::clone(&read.scan);
        let planned = self.plan(read, &mut step, out).await?;
        failpoint("cli.planned");
        let files = things(scan.manifest().files(), "file");
        let made = match &planned.environment {
            Some(made) if made.is_prebuilt() => " and found its image",
            Some(made) if made.config().container.is_some() => " and pushed its image",
            Some(_) => " and made its Environment",
            None => "",
        };
        out.done(
            step,
            &format!("compared {files} with `{}`{made}", self.deployment),
        );
        say_image(planned.environment.is_some(), &planned.image_differs, out)?;

        let mut order = if planned.comparison.outcome == ComparisonOutcome::Changes {
            self.in_order(&planned.comparison).await?
        } else {
            None
        };
        let comparison = match planned.comparison.outcome {
            ComparisonOutcome::NothingToDo | ComparisonOutcome::RollingOut => {
                planned.comparison.clone()
            }
            ComparisonOutcome::Changes | ComparisonOutcome::ProvingAgain => {
                self.create(&planned, join_git(git).await).await?
            }
        };
        failpoint("cli.created");
        if order.is_none() && comparison.outcome == ComparisonOutcome::Changes {
            // Somebody deployed something else meanwhile.
            order = self.in_order(&comparison).await?;
        }
        let next = next(comparison.outcome);
        if let Some(text) = next_text(comparison.outcome) {
            writeln!(out.status(), "{text}")?;
        }
        let environment = planned.environment.as_ref();
        let to_send = to_send(&planned.parts, &scan, environment, &comparison.missing);
        let mut begun = Begun {
            deploy: comparison.deploy.ok_or_else(no_deploy)?,
            next,
            made_image: planned.environment.is_some(),
            image_differs: planned.image_differs,
            sent: None,
            checks: None,
            parts: planned.parts,
            order,
            lost: Lost {
                digests: comparison.missing,
                wanted: comparison.wanted,
                half: planned.half,
                scan: Arc::clone(&scan),
            },
        };
        if next == Next::Accept {
            let source = upload::Source {
                scan,
                environment: planned.environment,
            };
            let claim = Claim {
                bundles: planned.bundles,
                runs_in: planned.runs_in,
                require: comparison.require,
            };
            let sending = (Arc::new(source), to_send);
            Box::pin(self.check_and_send(&mut begun, claim, sending, out)).await?;
        }
        Ok(begun)
    }

    /// Checks and sends, side by side; what does not pass is given up.
    async fn check_and_send(
        &self,
        begun: &mut Begun,
        claim: Claim,
        (source, to_send): (Arc<upload::Source>, Sent),
        out: &mut Console,
    ) -> Result<()> {
        let digests = std::mem::take(&mut begun.lost.digests);
        let (new, lost): (Vec<_>, _) = digests.into_iter().partition(|it| source.has(*it));
        begun.lost.digests = lost;
        let started = Instant::now();
        if claim.bundles.is_empty() && self.project.parts() != ProjectParts::Image {
            out.warn(&format!(
                "the DAGs here are not those of `{}`, which stay, so the checks leave them to its agent",
                self.deployment
            ));
        }
        let mut job = self.job(&claim, &begun.lost.scan, out).await?;
        let tell = stay_beside(&claim, begun.lost.wanted.as_ref()).then(|| {
            let (tell, asked) = Asked::by_caller();
            job.elsewhere = Some(asked);
            tell
        });
        let has_files = !claim.bundles.is_empty();
        let mut step = out.step(format!("sending {}", things(to_send.layers, "layer")));
        let id = begun.deploy.id;
        let sending = async {
            let sent = upload::send(self.client, id, &new, &source).await;
            sent.map_err(Ended::Failed)?;
            Ok(started.elapsed())
        };
        let checking = async {
            if !has_files {
                return Ok(Ran::default());
            }
            let ran = busy(&mut step, out, move |stop, say| job.run(stop, say)).await;
            match ran.map_err(Ended::Failed)? {
                ran if ran.passed() => Ok(ran),
                ran => Err(Ended::Unfit(ran)),
            }
        };
        let asking = async {
            if let Some(tell) = tell {
                let ids = elsewhere::of_deployment(self.client, self.deployment).await;
                let _ = tell.send(ids);
            }
            Ok(())
        };
        let (ran, sent) = match tokio::try_join!(checking, sending, asking) {
            Ok((ran, took, ())) => (ran, Some(took)),
            Err(Ended::Unfit(ran)) => (ran, None),
            Err(Ended::Failed(failure)) => {
                self.withdraw(begun.deploy.clone(), None).await;
                return Err(failure);
            }
        };
        failpoint("cli.sent");
        out.abandon(step);
        if let Some(took) = sent {
            out.mark(&sent_text(&to_send), took);
            begun.sent = Some(to_send);
        }
        if !has_files {
            return Ok(());
        }
        ran.say(started, out)?;
        // What ran beside other files than the Release has, ran elsewhere.
        let is_same = begun.made_image || begun.image_differs.is_empty();
        let checks = ran.claim(claim.bundles, claim.runs_in.image.filter(|_| is_same));
        if sent.is_none() {
            begun.next = Next::Refuse;
            begun.deploy = self.withdraw(begun.deploy.clone(), Some(&checks)).await;
        }
        begun.checks = Some(checks);
        Ok(())
    }

    async fn job(&self, claim: &Claim, scan: &Arc<Scan>, out: &mut Console) -> Result<Job> {
        let stages = self.own_stages(claim, out).and(&claim.require);
        let names = if stages.parse {
            names::of_deployment(self.client, self.names_of).await?
        } else {
            Names::default()
        };
        Ok(Job {
            project: self.project.clone(),
            deployment: self.deployment.clone(),
            scan: Arc::clone(scan),
            config: claim.runs_in.config.clone(),
            reach: claim.runs_in.reach.clone(),
            stages,
            names,
            elsewhere: None,
            cache: self.cache.clone(),
            aside: out.aside(),
        })
    }

    /// The stages that can tell something here: DAG files may import what only
    /// the repository with the image has.
    fn own_stages(&self, claim: &Claim, out: &mut Console) -> Stages {
        let files = claim
            .runs_in
            .config
            .as_ref()
            .map(|it| &it.fingerprint.files);
        let lacks =
            self.project.parts() == ProjectParts::Dags && files.is_some_and(|it| !it.is_empty());
        if !lacks || !self.stages.parse {
            return self.stages;
        }
        out.warn(
            "DAG files are not imported before the deploy, since the image's files, which they may import, are in \
             another repository; Airflow imports them as always",
        );
        Stages {
            parse: false,
            ..self.stages
        }
    }

    /// Gives up a deploy whose checks failed or could not be made. Where that
    /// cannot be said, it expires by itself.
    async fn withdraw(&self, deploy: DeployView, checks: Option<&Checks>) -> DeployView {
        let withdrawn = self.client.withdraw_deploy(deploy.id, checks.cloned());
        withdrawn.await.unwrap_or(deploy)
    }

    /// Sends again what the control plane has lost of an accepted deploy's
    /// Release, as far as this project has it.
    async fn repair(&self, deploy: DeployId, lost: Lost, out: &mut Console) -> Result<()> {
        let mut step = out.step("sending again what the control plane has lost");
        let manifests = lost.manifests();
        let mut source = upload::Source {
            scan: lost.scan,
            environment: None,
        };
        let lacks = |source: &upload::Source| -> Vec<Digest> {
            let digests = lost.digests.iter().copied();
            digests
                .filter(|it| !manifests.contains(it) && !source.has(*it))
                .collect()
        };
        if !lacks(&source).is_empty()
            && let Some(half) = lost.half
        {
            // Without an index to lock with, the rest is still sent.
            let made = environment::make(half, self.cache.clone(), &mut step, out).await;
            source.environment = made.ok();
        }
        let lacking = lacks(&source);
        let has: Vec<_> = lost
            .digests
            .iter()
            .copied()
            .filter(|it| source.has(*it))
            .collect();
        if has.is_empty() && lacking.len() < lost.digests.len() {
            // An upload of nothing brings the manifests back.
            self.client.upload_blobs(deploy, &[]).await?;
        }
        upload::send(self.client, deploy, &has, &Arc::new(source)).await?;
        let sent = lost.digests.len() - lacking.len();
        if sent > 0 {
            let blobs = things(sent as u64, "blob");
            out.done(
                step,
                &format!("sent {blobs} again that the control plane had lost"),
            );
        } else {
            out.abandon(step);
        }
        if !lacking.is_empty() {
            out.warn(&format!(
                "the control plane has lost {} of `{}` that this project cannot make again: \
                 deploy the part from the project that it came from, or restore a backup",
                things(lacking.len() as u64, "blob"),
                self.deployment
            ));
        }
        Ok(())
    }

    async fn create(&self, planned: &Planned, mut git: Option<GitState>) -> Result<Comparison> {
        // A pipeline's checkout is of a commit, and the branch is what it was told.
        if let Some((git, run)) = git.as_mut().zip(self.ci) {
            git.branch = git.branch.take().or_else(|| run.branch.clone());
            git.tag = git.tag.take().or_else(|| run.tag.clone());
        }
        let ask = CreateDeploy {
            parts: planned.parts.clone(),
            description: self.description.to_owned(),
            git,
            ci: self.ci.cloned().map(Box::new),
            allow_downgrade: self.allow_downgrade,
            force: self.force,
            key: Uuid::now_v7().to_string(),
        };
        Ok(self.client.create_deploy(self.deployment, &ask).await?)
    }

    async fn wait(
        &self,
        deploy: DeployView,
        interrupt: &Interrupt,
        out: &mut Console,
    ) -> Result<(Outcome, Option<Ending>)> {
        let Some(patience) = self.patience else {
            writeln!(
                out.status(),
                "Not waiting for the proof: `updraft status {}`",
                self.deployment
            )?;
            let mut outcome = Outcome::new("accepted", Exit::Success, self.deployment.clone());
            outcome.files = merged(deploy.files.values());
            outcome.deploy = Some(deploy);
            return Ok((outcome, None));
        };
        let (deploy, ending) = follow(self.client, deploy, patience, interrupt, out).await?;
        Ok((Outcome::of(deploy, &ending), Some(ending)))
    }
}

fn say_accepted(deploy: &DeployView, took: Duration, out: &mut Console) -> Result<()> {
    let files = merged(deploy.files.values());
    let id = deploy_ref::short(deploy.id);
    let what = match (has_changed_image(deploy), is_empty(&files)) {
        (true, true) => "the image".to_owned(),
        (true, false) => format!("{}, and the image", summary(&files)),
        (false, _) => summary(&files),
    };
    out.mark(&format!("accepted as {id}: {what}"), took);
    let mut names = Vec::new();
    write_names(
        &files.added,
        &files.changed,
        &files.removed,
        "    ",
        &mut names,
    )?;
    out.status().write_all(&names)?;
    Ok(())
}

/// What has to follow a comparison.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Next {
    Nothing,
    Accept,
    Wait,
    /// Its checks failed.
    Refuse,
}

/// Why what has to come before acceptance ended early.
enum Ended {
    Failed(Failure),
    Unfit(Ran),
}

fn next(outcome: ComparisonOutcome) -> Next {
    match outcome {
        ComparisonOutcome::Changes => Next::Accept,
        ComparisonOutcome::NothingToDo => Next::Nothing,
        ComparisonOutcome::RollingOut | ComparisonOutcome::ProvingAgain => Next::Wait,
    }
}

fn next_text(outcome: ComparisonOutcome) -> Option<&'static str> {
    match outcome {
        ComparisonOutcome::Changes | ComparisonOutcome::NothingToDo => None,
        ComparisonOutcome::RollingOut => Some("The same content is being rolled out already"),
        ComparisonOutcome::ProvingAgain => {
            Some("The same content was deployed before and not proven; Airflow is asked again")
        }
    }
}

struct Begun {
    deploy: DeployView,
    next: Next,
    /// What can be sent once the deploy is accepted.
    lost: Lost,
    made_image: bool,
    image_differs: Vec<String>,
    sent: Option<Sent>,
    checks: Option<Checks>,
    parts: Parts,
    /// What it comes after.
    order: Option<Order>,
}

/// Blobs of the Release that the control plane had and has no more, and what
/// this project has to make them from.
struct Lost {
    digests: Vec<Digest>,
    wanted: Option<Release>,
    half: Option<ImageHalf>,
    scan: Arc<Scan>,
}

impl Lost {
    /// Manifests, of which the control plane has the text: they need not be sent.
    fn manifests(&self) -> Vec<Digest> {
        let release = self.wanted.iter();
        release
            .flat_map(|release| {
                let bundles = release.bundles.values().map(|bundle| bundle.digest);
                bundles.chain([release.image.digest()])
            })
            .collect()
    }
}

/// Interrupted while the control plane was asked to begin.
pub(super) fn unknown_end(deployment: &DeploymentName) -> Failure {
    Failure::interrupted().help(format!(
        "it may have been accepted just now: `updraft status {deployment}` shows it"
    ))
}

/// The answer to the request that accepts may be what got lost.
pub(super) fn perhaps_accepted(error: ClientError, deployment: &DeploymentName) -> Failure {
    let is_lost = error.is_transient() && !error.never_arrived();
    let failure = Failure::from(error);
    if is_lost {
        return failure.help(format!(
            "it may have been accepted: `updraft status {deployment}` shows it, and the same command again is safe"
        ));
    }
    failure
}

/// Whether bundles of the wanted Release stay as they are.
fn stay_beside(claim: &Claim, wanted: Option<&Release>) -> bool {
    let bundles = wanted.into_iter().flat_map(|wanted| wanted.bundles.keys());
    bundles
        .into_iter()
        .any(|it| !claim.bundles.contains_key(it))
}

/// Names what differs in the image half: why it changes, or what is not sent.
fn say_image(is_made: bool, differences: &[String], out: &mut Console) -> Result<()> {
    if differences.is_empty() {
        return Ok(());
    }
    let mut status = out.status();
    if is_made {
        writeln!(status, "the image changes:")?;
    } else {
        writeln!(
            status,
            "{YELLOW}warning{YELLOW:#}: besides the DAGs this differs from what runs, and stays as it is:"
        )?;
    }
    write_some(differences, &mut status)?;
    Ok(())
}

async fn join_git(task: JoinHandle<Option<GitState>>) -> Option<GitState> {
    // A deploy does not fail for want of a commit's name.
    task.await.ok().flatten()
}

/// Says that there is nothing to do here, for a pipeline of every branch.
fn not_mapped(pushed: &Pushed, out: &mut Console) -> Result<Exit> {
    if out.is_json() {
        let exit = Exit::Success;
        out.json(&json!({
            "outcome": "not_mapped", "exit": exit, "exit_code": exit.code(), "pushed": pushed.to_string(),
        }))?;
    } else {
        writeln!(out.data(), "No target is for {pushed}: nothing to deploy")?;
    }
    Ok(Exit::Success)
}

pub(super) fn no_deploy() -> Failure {
    Failure::new(
        Exit::Internal,
        "the control plane answered without a deploy",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_times_as_people_write_them() {
        assert_eq!(seconds("90"), Ok(Duration::from_secs(90)));
        assert_eq!(seconds("90s"), Ok(Duration::from_secs(90)));
        assert_eq!(seconds("10m"), Ok(Duration::from_secs(600)));
        assert_eq!(seconds("2h"), Ok(Duration::from_secs(7200)));
        for wrong in ["", "m", "-1", "1d", "1.5s"] {
            assert!(seconds(wrong).is_err(), "{wrong}");
        }
    }
}
