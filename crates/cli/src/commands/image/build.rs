use std::io::Write;

use serde_json::json;
use updraft_image::Engine;
use updraft_image::registry::{ImageReference, PushError};

use crate::busy::busy;
use crate::cli::OutputArgs;
use crate::console::Console;
use crate::context::Context;
use crate::daemonless_build::{self, DaemonlessAsk};
use crate::exit::Exit;
use crate::failure::{Failure, Result};
use crate::image_build::{Builder, EngineArgs, ImageBuild};

/// Build the project's container image
///
/// A Dockerfile that only names its base (FROM, ARG, ENV, LABEL) gets the standard steps: the system packages of
/// packages.txt, then requirements.txt, then the project's files without its DAGs. Every other Dockerfile is built as
/// it stands, and so is one whose base brings such steps along. What pip and uv are told of package indexes here
/// reaches the step that installs, and is not kept in the image.
///
/// With `--engine none` the standard steps are done without an engine, straight into the repository that `--push`
/// names: the base's layers stay where they are, and only what is added is sent.
#[derive(Debug, clap::Args)]
pub(crate) struct BuildArgs {
    /// What to call it (default: the project's name)
    #[arg(short, long, value_name = "NAME")]
    tag: Option<String>,

    #[command(flatten)]
    engine: EngineArgs,

    /// Where an image that is built without an engine goes, as HOST/NAME or HOST/NAME:TAG
    #[arg(long, value_name = "REPOSITORY", value_parser = repository)]
    push: Option<ImageReference>,

    #[command(flatten)]
    pub(crate) output: OutputArgs,
}

pub(crate) async fn run(args: &BuildArgs, cx: &Context, out: &mut Console) -> Result<Exit> {
    if args.engine.builder == Some(Builder::None) {
        return run_daemonless(args, cx, out).await;
    }
    if args.push.is_some() {
        let message = "`--push` is for builds without an engine";
        return Err(Failure::new(Exit::Usage, message)
            .help("add `--engine none`, or push with the engine, as in `docker push`"));
    }
    let project = cx.project()?.clone();
    let tag = args.tag.clone().unwrap_or_else(|| project.name());
    let (asked, options, cache) = (args.engine.engine(), args.engine.options(), cx.cache_dir());
    let aside = out.aside();
    let mut step = out.step(format!("building `{tag}`"));
    let name = tag.clone();
    let (engine, built) = busy(&mut step, out, move |stop, say| {
        let engine = Engine::find_builder(asked, stop)?;
        let work = ImageBuild {
            project: &project,
            engine: &engine,
            tag: &name,
            options,
            cache: cache.as_deref(),
            reuse: false,
            tell: Some(&|line| aside.say(line)),
        };
        let built = work.run(stop, say)?;
        Ok((engine.name(), built))
    })
    .await?;
    let how = if built.is_standard {
        ", with the standard steps"
    } else {
        ""
    };
    out.done(step, &format!("built `{tag}` with {engine}{how}"));
    if out.is_json() {
        out.json(&json!({
            "tag": tag,
            "id": built.image.id,
            "engine": engine.program(),
            "standard": built.is_standard,
        }))?;
    } else {
        writeln!(out.data(), "{}", built.image.id)?;
    }
    Ok(Exit::Success)
}

async fn run_daemonless(args: &BuildArgs, cx: &Context, out: &mut Console) -> Result<Exit> {
    let usage = |message: String, help: &str| Failure::new(Exit::Usage, message).help(help);
    let Some(to) = &args.push else {
        return Err(usage(
            "without an engine there is nowhere to keep an image".into(),
            "name the repository that it goes to, as in `--push registry.example.com/shop/airflow`",
        ));
    };
    let of_engine = args.tag.as_ref().map(|_| "--tag");
    if let Some(flag) = of_engine.or_else(|| args.engine.steps.needs_engine()) {
        return Err(usage(
            format!("`{flag}` is for a container engine"),
            "leave it out, or build with `--engine docker`, `podman` or `buildah`",
        ));
    }
    let ask = DaemonlessAsk {
        to,
        platform: args.engine.platform.as_deref(),
        args: &args.engine.steps.args,
    };
    let built = daemonless_build::build(&ask, cx, out).await?;
    daemonless_build::show(to, &built, out)?;
    Ok(Exit::Success)
}

/// Reads where to push to: with its registry, and without a digest, which only the
/// image itself decides.
fn repository(text: &str) -> std::result::Result<ImageReference, String> {
    let host = text.split_once('/').map_or("", |(host, _)| host);
    if host != "localhost" && !host.contains(['.', ':']) {
        return Err("begin with the registry's host, as in `ghcr.io/acme/airflow`".into());
    }
    let named: ImageReference = text.parse().map_err(|error: PushError| error.to_string())?;
    match named.digest {
        Some(_) => Err("name a repository, with a tag perhaps, and no digest".into()),
        None => Ok(named),
    }
}
