use std::io::Write;

use serde_json::json;
use updraft_image::Engine;

use crate::busy::busy;
use crate::cli::OutputArgs;
use crate::console::Console;
use crate::context::Context;
use crate::exit::Exit;
use crate::failure::Result;
use crate::image_build::{EngineArgs, ImageBuild};

/// Build the project's container image
///
/// A Dockerfile that only names its base (FROM, ARG, ENV, LABEL) gets the standard steps: the system packages of
/// packages.txt, then requirements.txt, then the project's files without its DAGs. Every other Dockerfile is built as
/// it stands, and so is one whose base brings such steps along. What pip and uv are told of package indexes here
/// reaches the step that installs, and is not kept in the image.
#[derive(Debug, clap::Args)]
pub(crate) struct BuildArgs {
    /// What to call it (default: the project's name)
    #[arg(short, long, value_name = "NAME")]
    tag: Option<String>,

    #[command(flatten)]
    engine: EngineArgs,

    #[command(flatten)]
    pub(crate) output: OutputArgs,
}

pub(crate) async fn run(args: &BuildArgs, cx: &Context, out: &mut Console) -> Result<Exit> {
    let project = cx.project()?.clone();
    let tag = args.tag.clone().unwrap_or_else(|| project.name());
    let (asked, options, cache) = (args.engine.name, args.engine.options(), cx.cache_dir());
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
