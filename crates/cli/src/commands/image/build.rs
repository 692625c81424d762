use std::io::Write;

use serde_json::json;
use updraft_image::{BuildOptions, BuildSecret, Engine, EngineName};

use crate::busy::busy;
use crate::cli::OutputArgs;
use crate::console::Console;
use crate::context::Context;
use crate::exit::Exit;
use crate::failure::Result;
use crate::image_build::ImageBuild;

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

    /// The container engine, docker, podman or buildah (default: the first that works)
    #[arg(long, value_name = "ENGINE", value_parser = engine)]
    engine: Option<EngineName>,

    /// What it is to run on, such as linux/amd64 or linux/arm64
    #[arg(long, value_name = "PLATFORM", value_parser = platform)]
    platform: Option<String>,

    /// A value for an ARG, as NAME=VALUE, or NAME for that variable's; may be repeated
    #[arg(long = "build-arg", value_name = "ARG")]
    args: Vec<String>,

    /// What steps may read and no layer keeps, as id=NAME,src=FILE or id=NAME,env=VARIABLE; may be repeated
    #[arg(long = "build-secret", value_name = "SECRET")]
    secrets: Vec<BuildSecret>,

    /// An SSH agent or key that steps may use, as default or ID=PATH; may be repeated
    #[arg(long, value_name = "SSH")]
    ssh: Vec<String>,

    /// The network of its steps, as the engine calls it
    #[arg(long, value_name = "NETWORK")]
    network: Option<String>,

    /// Take steps from this cache, as the engine writes it; may be repeated
    #[arg(long, value_name = "CACHE")]
    cache_from: Vec<String>,

    /// Keep steps in this cache; may be repeated
    #[arg(long, value_name = "CACHE")]
    cache_to: Vec<String>,

    /// Ask the registry for a newer base
    #[arg(long)]
    pull: bool,

    #[command(flatten)]
    pub(crate) output: OutputArgs,
}

pub(crate) async fn run(args: &BuildArgs, cx: &Context, out: &mut Console) -> Result<Exit> {
    let project = cx.project()?.clone();
    let tag = args.tag.clone().unwrap_or_else(|| project.name());
    let (asked, options, cache) = (args.engine, args.options(), cx.cache_dir());
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

impl BuildArgs {
    fn options(&self) -> BuildOptions {
        BuildOptions {
            args: self.args.clone(),
            secrets: self.secrets.clone(),
            ssh: self.ssh.clone(),
            platform: self.platform.clone(),
            network: self.network.clone(),
            cache_from: self.cache_from.clone(),
            cache_to: self.cache_to.clone(),
            pull: self.pull,
        }
    }
}

fn engine(text: &str) -> std::result::Result<EngineName, &'static str> {
    let found = EngineName::BUILD
        .into_iter()
        .find(|it| it.program() == text);
    found.ok_or("it is `docker`, `podman` or `buildah`")
}

fn platform(text: &str) -> std::result::Result<String, &'static str> {
    match text {
        "linux/amd64" | "linux/arm64" => Ok(text.to_owned()),
        _ => Err("Airflow's images are for `linux/amd64` and `linux/arm64`"),
    }
}
