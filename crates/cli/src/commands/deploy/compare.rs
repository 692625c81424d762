//! What a deploy brings: each half of the project, compared with the wanted Release.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::task::JoinHandle;
use updraft_api::ErrorCode;
use updraft_api::deploy::{Comparison, ComparisonOutcome, Parts, PlanRequest};
use updraft_bundle::{Scan, ScanOptions};
use updraft_image::EnvironmentConfig;
use updraft_model::{BundleName, Digest, Release, Runtime};
use updraft_project::{ImageFingerprint, ImageHalf, Project, ProjectError, ProjectParts};

use super::create::{Deploy, Purpose};
use super::image::{ContainerHalf, ImageKind};
use super::report::Sent;
use crate::checks::reach::Reach;
use crate::console::{Console, Step};
use crate::environment::{self, Environment, text};
use crate::exit::Exit;
use crate::failure::{Failure, Result};
use crate::output::tame::tame_line;
use crate::scan;

/// The halves of a Release that a deploy may bring.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Halves {
    /// Whichever differs.
    Both,
    Dags,
    Image,
}

#[derive(Debug, clap::Args)]
pub(super) struct HalvesArgs {
    /// Deploy the DAGs alone; the image half stays as it is, and is made when the Deployment has none
    #[arg(long, conflicts_with = "image")]
    dags: bool,

    /// Deploy the image half alone; every bundle stays as it is
    #[arg(long)]
    image: bool,

    /// Make the image half again also when nothing of it differs
    #[arg(long, conflicts_with = "dags")]
    pub(super) rebuild: bool,
}

#[derive(Debug, clap::Args)]
pub(super) struct DowngradeArgs {
    /// Go also to an older Airflow, for which its database loses what only the newer one knows
    #[arg(long)]
    pub(super) allow_downgrade: bool,
}

impl HalvesArgs {
    /// What the flags say, within what the repository has.
    pub(super) fn read(&self, project: &Project) -> Result<Halves> {
        let refuse = |flag: &str, has: &str| {
            let message = format!(
                "`{flag}`: this repository has only {has}, by `[project] parts` of updraft.toml"
            );
            Err(Failure::new(Exit::Refused, message)
                .code("other_part")
                .help("deploy it from the repository that has it, or leave out the flag"))
        };
        match (project.parts(), self.dags, self.image) {
            (ProjectParts::Dags, _, true) => refuse("--image", "DAGs"),
            (ProjectParts::Image, true, _) => refuse("--dags", "an image"),
            (ProjectParts::Dags, ..) | (ProjectParts::Both, true, _) => Ok(Halves::Dags),
            (ProjectParts::Image, ..) | (ProjectParts::Both, false, true) => Ok(Halves::Image),
            (ProjectParts::Both, false, false) => Ok(Halves::Both),
        }
    }
}

/// The project as it is on disk now.
pub(super) struct Read {
    pub(super) scan: Arc<Scan>,
    /// Still being read; small, and needed late.
    half: JoinHandle<Result<ImageHalf, ProjectError>>,
    pub(super) took: Duration,
}

/// The image half of the Release that a deploy makes.
#[derive(Clone)]
pub(super) struct RunsIn {
    /// None: a plan does not make it.
    pub(super) image: Option<Digest>,
    /// Not known where the control plane has lost it.
    pub(super) config: Option<EnvironmentConfig>,
    /// How its container image is had.
    pub(super) reach: Reach,
}

/// What the image half is made from.
enum ImageSource {
    Locked(Box<Result<ImageHalf, ProjectError>>),
    Container(Arc<ContainerHalf>),
}

/// A comparison with what went into it.
pub(super) struct Planned {
    pub(super) parts: Parts,
    /// The bundles of the new Release that lie here, whether or not they are sent.
    pub(super) bundles: BTreeMap<BundleName, Digest>,
    /// What the Release will run in.
    pub(super) runs_in: RunsIn,
    /// Made from this project; otherwise the wanted one is kept, or it is only planned.
    pub(super) environment: Option<Environment>,
    /// Whether the image half changes.
    pub(super) changes_image: bool,
    pub(super) comparison: Comparison,
    /// What differs in the image half: why it was made, or what is not sent.
    pub(super) image_differs: Vec<String>,
    /// The image half, where it was not made into the Environment.
    pub(super) half: Option<ImageHalf>,
}

impl Deploy<'_> {
    /// Reads the DAGs, and begins to read the rest.
    pub(super) async fn read(&self) -> Result<Read> {
        let started = Instant::now();
        let (project, cache) = (self.project.clone(), self.scan_cache("dags"));
        let allow_empty = self.allow_empty || self.halves == Halves::Image;
        let scan = tokio::task::spawn_blocking(move || scan_dags(&project, cache, allow_empty));
        let (project, cache) = (self.project.clone(), self.scan_cache("image"));
        let half = tokio::task::spawn_blocking(move || project.image_half(cache));
        let scan = scan.await??;
        Ok(Read {
            scan: Arc::new(scan),
            half,
            took: started.elapsed(),
        })
    }

    /// Where a scan is remembered: one file per project and part.
    fn scan_cache(&self, part: &str) -> Option<PathBuf> {
        let cache = self.cache.as_deref()?;
        Some(scan::cache_file(cache, self.project, part))
    }

    /// Compares both halves, and makes the image half where it has to change.
    pub(super) async fn plan(
        &self,
        read: Read,
        step: &mut Step,
        out: &mut Console,
    ) -> Result<Planned> {
        let dags = dags_part(&read.scan)?;
        let mut comparison = self.compare(&dags, &read.scan).await?;
        let dags_differ = comparison.outcome == ComparisonOutcome::Changes;
        let source = self.source(read.half.await?, &comparison)?;
        let runs = if let Some(wanted) = &comparison.wanted {
            Some(self.runs(wanted).await)
        } else {
            self.refuse_half_of_nothing()?;
            None
        };
        let image_differs = match &runs {
            Some(runs) => Some(source.differences(runs, step, out).await?),
            None => None,
        };
        let makes_image = match (&image_differs, self.halves) {
            (None, _) => true,
            (Some(_), Halves::Dags) => false,
            (Some(differs), Halves::Both | Halves::Image) => self.rebuild || !differs.is_empty(),
        };
        // The first one is what a Release is made of; nobody there runs it either.
        let makes_image =
            makes_image && (image_differs.is_none() || !self.is_run_by_others(&comparison)?);
        let image_differs = image_differs.unwrap_or_default();
        let bundles = match self.halves {
            Halves::Image if dags_differ => BTreeMap::new(),
            Halves::Both | Halves::Dags | Halves::Image => bundles(&dags),
        };
        if let (false, Some(wanted)) = (makes_image, &comparison.wanted) {
            let runs_in = RunsIn {
                image: Some(wanted.image.digest()),
                config: runs.and_then(Result::ok),
                reach: self.reach(),
            };
            let mut parts = dags;
            if self.halves == Halves::Image {
                parts = self.image_as_it_is(wanted).await?;
                comparison = self.compare(&parts, &read.scan).await?;
            }
            return Ok(Planned {
                parts,
                bundles,
                runs_in,
                environment: None,
                changes_image: false,
                comparison,
                image_differs,
                half: source.into_half(),
            });
        }
        comparison.outcome = ComparisonOutcome::Changes;
        // What does not differ is not touched: somebody else may be changing it.
        let sends_dags = dags_differ && self.halves == Halves::Both || comparison.wanted.is_none();
        let mut parts = Parts {
            bundles: if sends_dags {
                dags.bundles
            } else {
                BTreeMap::new()
            },
            environment: None,
        };
        let mut runs_in = RunsIn {
            image: None,
            config: runs.and_then(Result::ok),
            reach: self.reach(),
        };
        let made = match source {
            ImageSource::Container(_) if self.purpose == Purpose::Plan => None,
            source => Some(
                self.make(source, runs_in.config.as_ref(), step, out)
                    .await?,
            ),
        };
        let environment = match made {
            None => None,
            Some(environment) => {
                parts.environment = Some(environment.manifest()?);
                runs_in = RunsIn {
                    image: Some(environment.digest()),
                    config: Some(environment.config().clone()),
                    ..runs_in
                };
                Some(environment)
            }
        };
        Ok(Planned {
            parts,
            bundles,
            runs_in,
            environment,
            changes_image: true,
            comparison,
            image_differs,
            half: None,
        })
    }

    /// What the image half is made from, which the Deployment's runtime decides.
    fn source(
        &self,
        half: Result<ImageHalf, ProjectError>,
        comparison: &Comparison,
    ) -> Result<ImageSource> {
        self.refuse_other_kind(comparison.runtime)?;
        if comparison.runtime == Runtime::Container {
            return Ok(ImageSource::Container(Arc::new(ContainerHalf {
                project: self.project.clone(),
                deployment: self.deployment.clone(),
                args: self.image.clone(),
                reach: self.reach(),
                access: self.access.clone(),
                registry: comparison.registry.clone(),
                platforms: comparison.platforms.clone(),
                cache: self.cache.clone(),
                rebuild: self.rebuild,
            })));
        }
        if let Some(name) = &self.image.image_name {
            let message = format!(
                "`{}` runs no container images, so it cannot run `{name}`",
                self.deployment
            );
            return Err(self.needs_containers(message));
        }
        Ok(ImageSource::Locked(Box::new(half)))
    }

    fn refuse_other_kind(&self, runtime: Runtime) -> Result<()> {
        let name = self.deployment;
        match (self.image.kind, runtime) {
            (Some(ImageKind::Image), Runtime::Process | Runtime::External) => {
                let message = format!("`{name}` runs no container images");
                Err(self.needs_containers(message))
            }
            (Some(ImageKind::Environment), Runtime::Container) => {
                let message = format!("`{name}` runs container images, and no Environments");
                Err(Failure::new(Exit::Refused, message)
                    .code("image_unsuitable")
                    .help(format!(
                        "leave out `--as`, or have its agent run Environments: `updraft deployment update {name} --runtime process`"
                    )))
            }
            (None | Some(_), _) => Ok(()),
        }
    }

    fn needs_containers(&self, message: String) -> Failure {
        Failure::new(Exit::Refused, message)
            .code("needs_containers")
            .help(format!(
                "`updraft deployment update {} --runtime container` has its agent run images, by docker or podman on its host",
                self.deployment
            ))
    }

    fn reach(&self) -> Reach {
        Reach::of(self.client).with_runner(self.image.engine.builder)
    }

    /// Makes the image half; a container image is in its registry then.
    async fn make(
        &self,
        source: ImageSource,
        runs: Option<&EnvironmentConfig>,
        step: &mut Step,
        out: &mut Console,
    ) -> Result<Environment> {
        let refuse_older = |here: &ImageFingerprint| match runs {
            Some(runs) => self.refuse_older(here, &runs.fingerprint),
            None => Ok(()),
        };
        match source {
            ImageSource::Locked(half) => {
                let half = half.map_err(|error| match error {
                    ProjectError::OwnSteps(_) => self.needs_containers(error.to_string()),
                    error => error.into(),
                })?;
                refuse_older(&half.fingerprint)?;
                for note in &half.notes {
                    out.warn(note);
                }
                out.update(step, "making the Environment");
                environment::make(half, self.cache.clone(), step, out).await
            }
            ImageSource::Container(half) => {
                out.update(step, "making the image");
                let made = half.make(step, out).await?;
                refuse_older(&made.config().fingerprint)?;
                Ok(made)
            }
        }
    }

    /// Compares parts with what is wanted. Where nothing ever was, everything is new.
    pub(super) async fn compare(&self, parts: &Parts, scan: &Scan) -> Result<Comparison> {
        let ask = PlanRequest {
            parts: parts.clone(),
        };
        match self.client.plan(self.deployment, &ask).await {
            Err(error) if error.code() == Some(ErrorCode::ImageMissing) => {
                let view = self.client.deployment(self.deployment).await?;
                Ok(Comparison {
                    outcome: ComparisonOutcome::Changes,
                    wanted: None,
                    deploy: None,
                    missing: scan
                        .manifest()
                        .layers()
                        .iter()
                        .map(|layer| layer.digest)
                        .collect(),
                    replaced: BTreeMap::new(),
                    require: Vec::new(),
                    runs: None,
                    runtime: view.runtime,
                    registry: view.registry,
                    platforms: BTreeSet::new(),
                    hold: None,
                    landed: Vec::new(),
                })
            }
            answer => Ok(answer?),
        }
    }

    /// What the wanted Release's image half was made from.
    pub(super) async fn runs(&self, wanted: &Release) -> Result<EnvironmentConfig> {
        let image = wanted.image.digest();
        environment::config(self.client, self.deployment, image, self.cache.as_deref()).await
    }

    /// The image half that is wanted already, to ask what became of it.
    async fn image_as_it_is(&self, wanted: &Release) -> Result<Parts> {
        let manifest = self.client.blob(self.deployment, wanted.image.digest());
        Ok(Parts {
            bundles: BTreeMap::new(),
            environment: Some(text(manifest.await?.into())?),
        })
    }

    /// Whether somebody else runs that Airflow, in an environment of theirs.
    fn is_run_by_others(&self, comparison: &Comparison) -> Result<bool> {
        let is_external = comparison.runtime == Runtime::External;
        if is_external && self.halves == Halves::Image {
            let message = format!(
                "somebody else runs the Airflow of `{}`, so it has no image of ours",
                self.deployment
            );
            return Err(Failure::new(Exit::Refused, message)
                .code("external_image")
                .help("deploy the DAGs: leave out --image"));
        }
        Ok(is_external)
    }

    fn refuse_older(&self, here: &ImageFingerprint, runs: &ImageFingerprint) -> Result<()> {
        if self.allow_downgrade {
            return Ok(());
        }
        refuse_older(here, runs)
    }

    /// What a first deploy lacks. A repository of an image alone makes the
    /// beginning with no DAGs, so that one of DAGs can follow.
    fn refuse_half_of_nothing(&self) -> Result<()> {
        let (lacks, help) = match (self.project.parts(), self.halves) {
            (ProjectParts::Both, Halves::Image) => (
                "there are no bundles to keep",
                "the first deploy brings both halves: leave out --image",
            ),
            (ProjectParts::Dags, _) => (
                "there is no image to run these DAGs in",
                "deploy the repository with the image first: here `[project] parts` of updraft.toml names `dags` alone",
            ),
            (ProjectParts::Both | ProjectParts::Image, _) => return Ok(()),
        };
        let message = format!(
            "nothing was deployed to `{}` yet, so {lacks}",
            self.deployment
        );
        Err(Failure::new(Exit::Refused, message)
            .code("nothing_deployed")
            .help(help))
    }
}

/// Refuses an Airflow that cannot use the database of the one that runs.
pub(super) fn refuse_older(brought: &ImageFingerprint, runs: &ImageFingerprint) -> Result<()> {
    let (brought, runs) = (&brought.airflow_version, &runs.airflow_version);
    if brought >= runs {
        return Ok(());
    }
    let message =
        format!("Airflow {brought} cannot use a database that Airflow {runs} has migrated");
    Err(Failure::new(Exit::Refused, message)
        .code("airflow_older")
        .help(format!(
            "name {runs} or a later one in the Dockerfile; --allow-downgrade takes the database back, which loses \
             what is in tables and columns that Airflow {brought} does not have"
        )))
}

impl ImageSource {
    /// Names what differs from what runs, a line each.
    async fn differences(
        &self,
        runs: &Result<EnvironmentConfig>,
        step: &mut Step,
        out: &mut Console,
    ) -> Result<Vec<String>> {
        match (self, runs) {
            (Self::Locked(half), runs) => Ok(environment::differences(runs, half)),
            (Self::Container(_), Err(failure)) => {
                Ok(vec![format!("it cannot be compared: {}", failure.message)])
            }
            (Self::Container(half), Ok(runs)) => half.differences(runs, step, out).await,
        }
    }

    /// What an Environment can be made from again.
    fn into_half(self) -> Option<ImageHalf> {
        match self {
            Self::Locked(half) => half.ok(),
            Self::Container(_) => None,
        }
    }
}

/// Scans `dags/`; an empty one is refused, because it takes all DAGs away.
fn scan_dags(project: &Project, cache: Option<PathBuf>, allow_empty: bool) -> Result<Scan> {
    let refuse = |what: &str| {
        Failure::new(
            Exit::Refused,
            format!("`{}` {what}", project.dags().display()),
        )
        .code("dags_empty")
        .help("to take all DAGs away on purpose, give --allow-empty")
    };
    let options = ScanOptions {
        limits: project.limits(),
        cache,
        ignore: Vec::new(),
    };
    if project.parts() == ProjectParts::Image || !project.dags().is_dir() {
        if !allow_empty {
            return Err(refuse("does not exist"));
        }
        let empty = tempfile::tempdir()?;
        return Ok(updraft_bundle::scan(
            empty.path(),
            &ScanOptions {
                cache: None,
                ..options
            },
        )?);
    }
    let scan = updraft_bundle::scan(&project.dags(), &options)?;
    if scan.entries().is_empty() && !allow_empty {
        return Err(refuse("has no files"));
    }
    if let Some(link) = scan.circular().first() {
        return Err(Failure::new(
            Exit::Refused,
            format!(
                "the link `{}` in `{}` leads to a folder that it is in, which ends Airflow's DAG processor",
                tame_line(link),
                project.dags().display()
            ),
        )
        .code("link_circular")
        .help("remove it, or name it in `.updraftignore`"));
    }
    Ok(scan)
}

fn dags_part(scan: &Scan) -> Result<Parts> {
    let manifest = text(scan.manifest().to_bytes())?;
    Ok(Parts {
        bundles: [(BundleName::dags(), manifest)].into(),
        environment: None,
    })
}

fn bundles(parts: &Parts) -> BTreeMap<BundleName, Digest> {
    let bundles = parts.bundles.iter();
    bundles
        .map(|(name, manifest)| (name.clone(), Digest::of(manifest.as_bytes())))
        .collect()
}

/// How much of the parts goes over the wire, of how much there is.
pub(super) fn to_send(
    parts: &Parts,
    scan: &Scan,
    environment: Option<&Environment>,
    missing: &[Digest],
) -> Sent {
    let mut sent = Sent::default();
    let mut count = |digest: &Digest, files: u64, size: u64| {
        sent.of_layers += 1;
        sent.of_files += files;
        sent.of_bytes += size;
        if missing.contains(digest) {
            sent.layers += 1;
            sent.files += files;
            sent.bytes += size;
        }
    };
    let dags = if parts.bundles.is_empty() {
        &[]
    } else {
        scan.manifest().layers()
    };
    let files = environment.map_or(&[][..], Environment::layers);
    for layer in dags.iter().chain(files) {
        count(&layer.digest, layer.files, layer.size);
    }
    if let Some(environment) = environment {
        let [config, lock] = environment.own_blobs();
        count(&lock, 0, environment.size(lock).unwrap_or(0));
        // No layer, and always another.
        let size = environment.size(config).unwrap_or(0);
        sent.of_bytes += size;
        if missing.contains(&config) {
            sent.bytes += size;
        }
    }
    sent
}
