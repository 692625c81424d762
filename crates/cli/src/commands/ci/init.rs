//! `updraft ci init`: the files of a pipeline, from what the repository says.

use std::io::Write;
use std::path::{Path, PathBuf};

use clap::builder::{PossibleValuesParser, TypedValueParser};
use serde::Serialize;
use updraft_ci::pipeline::{
    Layout, NotPlain, Pipeline, PipelineFile, Plain, Refused, Strategy, Tool,
};
use updraft_model::DeploymentName;
use updraft_project::{Project, ProjectParts, Pushed, RefKind, SETTINGS_FILE, git_state, target};
use url::{Host, Url};

use crate::cli::OutputArgs;
use crate::console::{Console, DIM, GREEN};
use crate::context::{Context, address};
use crate::exit::Exit;
use crate::failure::{Failure, Result};
use crate::prompt;

/// Answers that are read before the question is given up.
const TRIES: usize = 3;

/// Write the pipeline of this repository: check pull requests, deploy what is pushed
///
/// On a terminal it asks for what no flag says. Elsewhere the tool is found from the repository, the layout from
/// `[project] parts` of updraft.toml, and the strategy from its targets. A file that is there and differs stays,
/// and nothing is written then. docs/pipelines.md tells what the files do.
#[derive(Debug, clap::Args)]
pub(crate) struct InitArgs {
    /// The tool that runs it
    #[arg(long, value_name = "TOOL", value_parser = one_of(Tool::ALL, Tool::name))]
    tool: Option<Tool>,

    /// What this repository holds: a whole project, its DAGs, or its image
    #[arg(long, value_name = "LAYOUT", value_parser = one_of(Layout::ALL, Layout::name))]
    layout: Option<Layout>,

    /// What is deployed: one branch, each branch that has a target, or one with an image that is built on the way
    #[arg(long, value_name = "STRATEGY", value_parser = one_of(Strategy::ALL, Strategy::name))]
    strategy: Option<Strategy>,

    /// The branch that is deployed, where it is one (default: that of the first target, or main)
    #[arg(long, value_name = "NAME")]
    branch: Option<String>,

    #[command(flatten)]
    features: FeatureArgs,

    /// Write over files that are there and differ
    #[arg(long)]
    force: bool,

    /// Print the files instead
    #[arg(long, conflicts_with = "force")]
    print: bool,

    #[command(flatten)]
    pub(crate) output: OutputArgs,
}

/// What the pipeline has besides.
#[derive(Debug, clap::Args)]
struct FeatureArgs {
    /// Sign in with the pipeline's own identity instead of a token that is kept
    #[arg(long)]
    oidc: bool,

    /// Give each pull request a Preview; writes `[preview]` into updraft.toml where that is missing
    #[arg(long)]
    previews: bool,
}

/// One of some values, by the names that flags and questions have for them.
fn one_of<T, const N: usize>(
    all: [T; N],
    name: fn(T) -> &'static str,
) -> impl TypedValueParser<Value = T>
where
    T: Copy + Send + Sync + 'static,
{
    let find = move |text: String| all.into_iter().find(|it| name(*it) == text);
    PossibleValuesParser::new(all.map(name))
        .try_map(move |text| find(text).ok_or("it is none of them"))
}

/// What is decided before anything is written.
struct Choices {
    tool: Tool,
    layout: Layout,
    strategy: Strategy,
    oidc: bool,
    /// What Previews are made from.
    previews: Option<DeploymentName>,
}

#[derive(Debug, Serialize)]
struct Report {
    tool: &'static str,
    layout: &'static str,
    strategy: &'static str,
    oidc: bool,
    previews: bool,
    server: String,
    sha256: String,
    root: PathBuf,
    files: Vec<Written>,
    /// What is left to be done by hand.
    next: Vec<String>,
}

#[derive(Debug, Serialize)]
struct Written {
    path: String,
    /// `written`, `unchanged` or `printed`.
    outcome: &'static str,
    text: String,
}

pub(crate) async fn run(args: &InitArgs, cx: &Context, out: &mut Console) -> Result<Exit> {
    let project = cx.project()?;
    let root = repository(project.root());
    let asks = prompt::is_possible() && !out.is_json() && !args.print;
    let choices = choose(args, project, &root, asks).await?;
    let client = cx.anonymous(None)?;
    let server = address(&client);
    let pipeline = Pipeline {
        tool: choices.tool,
        layout: choices.layout,
        strategy: choices.strategy,
        oidc: choices.oidc,
        previews: choices.previews.is_some(),
        server: Plain::new("address", &server)?,
        branch: Plain::new("branch", &branch(args, project))?,
        project: folder(project.root(), &root)?,
        insecure_http: cx.settings()?.insecure_http.value,
        // Asked for last: until here nobody was.
        checksum: Plain::new("checksum", &checksum(&client, &server).await?)?,
    };
    let files = pipeline.files().map_err(|error| {
        Failure::new(Exit::Internal, "could not fill the template").cause(&error)
    })?;
    let lacks = match &choices.previews {
        Some(from) if project.settings().preview.is_none() => Some(from),
        _ => None,
    };
    let mut next = next(&pipeline, project, &server);
    if let Some(from) = &choices.previews {
        next.splice(0..0, next_of_previews(&pipeline, from));
    }
    if let Some(from) = lacks.filter(|_| args.print) {
        next.insert(
            0,
            format!("write `[preview]` with `from = \"{from}\"` into {SETTINGS_FILE}"),
        );
    }
    let mut report = Report {
        tool: choices.tool.name(),
        layout: choices.layout.name(),
        strategy: choices.strategy.name(),
        oidc: choices.oidc,
        previews: choices.previews.is_some(),
        files: if args.print {
            files
                .into_iter()
                .map(|file| Written::new(file, "printed"))
                .collect()
        } else {
            write_all(&root, files, args.force)?
        },
        root,
        next,
        sha256: pipeline.checksum.to_string(),
        server,
    };
    if let Some(from) = lacks.filter(|_| !args.print) {
        report.files.push(add_section(project, &report.root, from)?);
    }
    if out.is_json() {
        out.json(&report)?;
    } else {
        report.write(choices.tool, out)?;
    }
    Ok(Exit::Success)
}

async fn choose(args: &InitArgs, project: &Project, root: &Path, asks: bool) -> Result<Choices> {
    let found = found(root);
    let tool = match (args.tool, asks) {
        (Some(tool), _) => tool,
        (None, true) => ask("The tool that runs it", Tool::ALL, Tool::name, found).await?,
        (None, false) => found.ok_or_else(no_tool)?,
    };
    let by_parts = match project.parts() {
        ProjectParts::Both => Layout::Whole,
        ProjectParts::Dags => Layout::Dags,
        ProjectParts::Image => Layout::Image,
    };
    let layout = args.layout.unwrap_or(by_parts);
    if layout != by_parts {
        return Err(other_layout(layout));
    }
    let by_targets = match project.settings().targets.len() {
        0 | 1 => Strategy::OneBranch,
        _ => Strategy::MultiBranch,
    };
    let strategy = match (args.strategy, asks) {
        (Some(strategy), _) => strategy,
        (None, true) => {
            ask(
                "What is deployed",
                Strategy::ALL,
                Strategy::name,
                Some(by_targets),
            )
            .await?
        }
        (None, false) => by_targets,
    };
    let mut oidc = args.features.oidc;
    if !oidc && asks && args.tool.is_none() && tool.has_identity() {
        let answers = ["token", "identity"];
        let question = "Sign in with a token that is kept, or the pipeline's own identity";
        oidc = ask(question, answers, |it| it, Some("token")).await? == "identity";
    }
    Pipeline::is_meaningful(tool, layout, strategy, oidc)?;
    let settings = project.settings();
    if strategy == Strategy::MultiBranch
        && settings.targets.is_empty()
        && let Some(name) = &settings.deployment
    {
        return Err(every_branch_to(name));
    }
    let mut previews = args.features.previews;
    if !previews && asks && args.tool.is_none() && tool.check_previews().is_ok() {
        let offered = if settings.preview.is_some() {
            "yes"
        } else {
            "no"
        };
        let question = "Give each pull request a Preview";
        previews = ask(question, ["yes", "no"], |it| it, Some(offered)).await? == "yes";
    }
    let previews = if previews {
        tool.check_previews()?;
        Some(previews_from(args, project)?)
    } else {
        None
    };
    Ok(Choices {
        tool,
        layout,
        strategy,
        oidc,
        previews,
    })
}

/// The Deployment that the settings say, or that of the branch that is deployed.
fn previews_from(args: &InitArgs, project: &Project) -> Result<DeploymentName> {
    let settings = project.settings();
    let given = settings.preview.as_ref().map(|it| it.from.clone());
    let pushed = Pushed::Branch(branch(args, project));
    let mapped = || target(&settings.targets, &pushed).map(|it| it.deployment.clone());
    let from = given
        .or_else(mapped)
        .or_else(|| settings.deployment.clone());
    from.ok_or_else(|| {
        let message =
            format!("{SETTINGS_FILE} names no Deployment that Previews could be made from");
        Failure::new(Exit::Refused, message).help(
            "write `[preview]` with `from = \"NAME\"` into it, or a `[[target]]` for the branch",
        )
    })
}

/// Adds `[preview]` at the end, where a section may always stand.
fn add_section(project: &Project, root: &Path, from: &DeploymentName) -> Result<Written> {
    let path = project.root().join(SETTINGS_FILE);
    let there = match std::fs::read_to_string(&path) {
        Ok(there) => there,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => String::new(),
        Err(error) => return Err(Failure::file("read", &path, &error)),
    };
    let between = match there.as_str() {
        "" => "",
        text if text.ends_with('\n') => "\n",
        _ => "\n\n",
    };
    let text = format!("{there}{between}[preview]\nfrom = \"{from}\"\n");
    put(&path, &text).map_err(|error| Failure::file("write", &path, &error))?;
    let below = path.strip_prefix(root).unwrap_or(&path);
    Ok(Written {
        path: below.display().to_string(),
        outcome: "written",
        text,
    })
}

fn every_branch_to(name: &DeploymentName) -> Failure {
    let message = format!("every branch would go to `{name}`: {SETTINGS_FILE} has no `[[target]]`");
    Failure::new(Exit::Refused, message).help(
        "write a `[[target]]` for each branch that is deployed, or take `--strategy one-branch`",
    )
}

/// Asks until the answer is one of these; Enter takes the one that is offered.
async fn ask<T: Copy, const N: usize>(
    question: &str,
    all: [T; N],
    name: fn(T) -> &'static str,
    offered: Option<T>,
) -> Result<T> {
    let names = all.map(name).join(", ");
    let default = offered
        .map(|it| format!(" [{}]", name(it)))
        .unwrap_or_default();
    for _ in 0..TRIES {
        let answer = prompt::line(&format!("{question} ({names}){default}: ")).await?;
        let answer = answer.trim();
        let chosen = all.into_iter().find(|it| name(*it) == answer);
        if let Some(chosen) = chosen.or(offered.filter(|_| answer.is_empty())) {
            return Ok(chosen);
        }
    }
    Err(Failure::new(
        Exit::Usage,
        format!("the answer is none of {names}"),
    ))
}

/// The repository's root, where tools look for their files.
pub(super) fn repository(project: &Path) -> PathBuf {
    let root = project.ancestors().find(|dir| dir.join(".git").exists());
    root.unwrap_or(project).to_owned()
}

/// The tool whose file is there, if it is one; else the one that comes with the remote's host.
fn found(root: &Path) -> Option<Tool> {
    let is_there = |tool: &Tool| tool.marks().iter().any(|mark| root.join(mark).exists());
    let mut there = Tool::ALL.into_iter().filter(is_there);
    match (there.next(), there.next()) {
        (Some(tool), None) => Some(tool),
        (Some(_), Some(_)) => None,
        (None, _) => Tool::of_host(&host(&git_state(root)?.remote?)?),
    }
}

/// The host of `https://HOST/…`, `ssh://git@HOST/…` and `git@HOST:…`.
fn host(remote: &str) -> Option<String> {
    if let Ok(url) = Url::parse(remote)
        && let Some(host) = url.host_str()
    {
        return Some(host.to_owned());
    }
    let (user_and_host, _) = remote.split_once(':')?;
    let host = user_and_host.rsplit('@').next()?;
    Some(host.to_owned())
}

/// The branch of the flag, of the first target that is one, or the usual one.
fn branch(args: &InitArgs, project: &Project) -> String {
    let targets = project.settings().targets.iter();
    let mut plain = targets.filter(|it| {
        it.of.kind() == RefKind::Branch && !it.of.pattern().contains(['*', '?', '[', '{'])
    });
    let by_target = || plain.next().map(|it| it.of.pattern().to_owned());
    args.branch
        .clone()
        .or_else(by_target)
        .unwrap_or_else(|| "main".into())
}

/// The project's folder in the repository, where it is not all of it.
fn folder(project: &Path, root: &Path) -> Result<Option<Plain>> {
    let below = project.strip_prefix(root).unwrap_or(Path::new(""));
    if below.as_os_str().is_empty() {
        return Ok(None);
    }
    Ok(Some(Plain::new("folder", &below.display().to_string())?))
}

pub(super) async fn checksum(client: &updraft_api::Client, server: &str) -> Result<String> {
    let failed = |failure: Failure| {
        failure.help("a pipeline pins the binary that the control plane serves: name one that answers with --server")
    };
    let answer = client.install_checksum().await;
    let answer = answer.map_err(|error| failed(error.into()))?;
    answer.ok_or_else(|| {
        let message =
            format!("{server} serves no `updraft` at /install, so it is no control plane");
        failed(Failure::new(Exit::Unreachable, message))
    })
}

/// Writes all of them, or none where one is there that differs.
fn write_all(root: &Path, files: Vec<PipelineFile>, force: bool) -> Result<Vec<Written>> {
    let mut all = Vec::new();
    for file in files {
        let path = root.join(&file.path);
        let there = match std::fs::read(&path) {
            Ok(there) => Some(there),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => None,
            Err(error) => return Err(Failure::file("read", &path, &error)),
        };
        let is_same = there.as_deref() == Some(file.text.as_bytes());
        if there.is_some() && !is_same && !force {
            return Err(differs(&file.path));
        }
        all.push(Written::new(
            file,
            if is_same { "unchanged" } else { "written" },
        ));
    }
    for file in all.iter().filter(|it| it.outcome == "written") {
        let path = root.join(&file.path);
        put(&path, &file.text).map_err(|error| Failure::file("write", &path, &error))?;
    }
    Ok(all)
}

/// Whole or not at all.
pub(super) fn put(path: &Path, text: &str) -> std::io::Result<()> {
    use std::os::unix::fs::PermissionsExt as _;

    let folder = path.parent().unwrap_or(Path::new("."));
    std::fs::create_dir_all(folder)?;
    let mut file = tempfile::Builder::new()
        .permissions(std::fs::Permissions::from_mode(0o666))
        .prefix(".updraft-")
        .tempfile_in(folder)?;
    file.write_all(text.as_bytes())?;
    file.persist(path).map_err(|error| error.error)?;
    Ok(())
}

/// What is left to be done by hand.
fn next(pipeline: &Pipeline, project: &Project, server: &str) -> Vec<String> {
    let mut next = Vec::new();
    if pipeline.oidc {
        next.push("have the control plane trust this pipeline: docs/keyless.md".to_owned());
        next.extend(needs_for_identity(pipeline.tool).map(str::to_owned));
    } else {
        let only = match pipeline.strategy {
            Strategy::MultiBranch => String::new(),
            Strategy::OneBranch | Strategy::CustomImage => goes_to(pipeline, project)
                .map(|name| format!(" --deployment {name}"))
                .unwrap_or_default(),
        };
        next.push(format!(
            "keep a token {}; `updraft token create NAME --role deployer{only}` makes one",
            pipeline.tool.keeps_token()
        ));
    }
    next.extend(
        pipeline
            .tool
            .also_needs(pipeline.strategy)
            .map(str::to_owned),
    );
    let has_targets = !project.settings().targets.is_empty();
    let is_multi_branch = pipeline.strategy == Strategy::MultiBranch;
    if !(has_targets && is_multi_branch) && goes_to(pipeline, project).is_none() {
        next.push(format!(
            "say in {SETTINGS_FILE} where it goes: `[[target]]` with `branch = \"{}\"` and `deployment = \"NAME\"`",
            pipeline.branch
        ));
    }
    if is_loopback(server) {
        next.push(format!(
            "{server} is this machine, which other runners do not reach: `--server` names another address"
        ));
    }
    next.push("commit what was written".to_owned());
    next
}

/// The Deployment of the branch, where one alone is deployed.
fn goes_to<'a>(pipeline: &Pipeline, project: &'a Project) -> Option<&'a DeploymentName> {
    let settings = project.settings();
    if settings.targets.is_empty() {
        return settings.deployment.as_ref();
    }
    let pushed = Pushed::Branch(pipeline.branch.to_string());
    target(&settings.targets, &pushed).map(|it| &it.deployment)
}

fn next_of_previews(pipeline: &Pipeline, from: &DeploymentName) -> Vec<String> {
    let tool = pipeline.tool;
    let signs_in = match (tool, pipeline.oidc) {
        (Tool::Bitbucket | Tool::Circleci, true) => format!(
            "trust its branches too: `updraft trust add {} … --ref 'refs/heads/**' --role previewer --deployment {from}`",
            tool.name()
        ),
        (Tool::Azure, true) => format!(
            "make another service connection, keep its id as the pipeline's variable `UPDRAFT_PREVIEW_SERVICE_CONNECTION_ID`, \
             and trust it: `updraft trust add azure … --role previewer --deployment {from}`"
        ),
        (tool, true) => format!(
            "trust its pull requests too: `updraft trust add {} --repo REPOSITORY --pull-requests --deployment {from}`",
            tool.name()
        ),
        (tool, false) => format!(
            "keep a token {}; `updraft token create NAME --role previewer --deployment {from}` makes one",
            tool.keeps_preview_token()
        ),
    };
    let mut next = vec![signs_in];
    next.extend(tool.needs_to_comment().map(str::to_owned));
    if !tool.closes_previews() {
        next.push(format!(
            "{tool} runs nothing when a pull request is closed: `expire` in `[preview]` says how long after the last push a Preview ends"
        ));
    }
    next
}

fn needs_for_identity(tool: Tool) -> Option<&'static str> {
    match tool {
        Tool::Azure => Some(
            "keep the id of the service connection as the pipeline's variable `UPDRAFT_SERVICE_CONNECTION_ID`",
        ),
        Tool::Bitbucket => Some(
            "give the trust the `--audience` that Bitbucket shows under Repository settings, OpenID Connect",
        ),
        _ => None,
    }
}

fn is_loopback(server: &str) -> bool {
    let url = Url::parse(server).ok();
    match url.as_ref().and_then(Url::host) {
        Some(Host::Domain(name)) => name == "localhost",
        Some(Host::Ipv4(ip)) => ip.is_loopback(),
        Some(Host::Ipv6(ip)) => ip.is_loopback(),
        None => false,
    }
}

impl Written {
    fn new(file: PipelineFile, outcome: &'static str) -> Self {
        Self {
            path: file.path,
            outcome,
            text: file.text,
        }
    }
}

impl Report {
    fn write(&self, tool: Tool, out: &mut Console) -> Result<()> {
        let printed = self.files.iter().filter(|it| it.outcome == "printed");
        for file in printed {
            // A comment in all of them but Groovy.
            if self.files.len() > 1 {
                writeln!(out.data(), "# {}", file.path)?;
            }
            write!(out.data(), "{}", file.text)?;
        }
        let mut status = out.status();
        writeln!(status, "{tool}: {}, {}", self.layout, self.strategy)?;
        for file in &self.files {
            match file.outcome {
                "written" => writeln!(status, "  {GREEN}+{GREEN:#} {}", file.path)?,
                "unchanged" => {
                    writeln!(status, "  {DIM}= {} (is as it should be){DIM:#}", file.path)?;
                }
                _ => {}
            }
        }
        writeln!(status, "Next:")?;
        for step in &self.next {
            writeln!(status, "  - {step}")?;
        }
        Ok(())
    }
}

fn no_tool() -> Failure {
    let names = Tool::ALL.map(Tool::name).join(", ");
    Failure::new(
        Exit::Usage,
        "it is not known which tool runs the pipeline of this repository",
    )
    .code("tool_missing")
    .help(format!("name it with --tool: {names}"))
}

fn other_layout(layout: Layout) -> Failure {
    let (means, parts) = match layout {
        Layout::Whole => ("both halves are here", "leave `parts` out of"),
        Layout::Dags => ("only DAGs are here", "write `parts = [\"dags\"]` into"),
        Layout::Image => ("only the image is here", "write `parts = [\"image\"]` into"),
    };
    Failure::new(
        Exit::Refused,
        format!(
            "`--layout {}` means that {means}, and {SETTINGS_FILE} says otherwise",
            layout.name()
        ),
    )
    .code("other_layout")
    .help(format!(
        "{parts} its section `[project]`, which each deploy goes by"
    ))
}

fn differs(path: &str) -> Failure {
    Failure::new(
        Exit::Conflict,
        format!("`{path}` is there and is not what would be written, so nothing was"),
    )
    .code("file_differs")
    .help("`--print` shows what would be, `--force` writes over it")
}

impl From<NotPlain> for Failure {
    fn from(error: NotPlain) -> Self {
        Self::from_error(Exit::Refused, &error).help(
            "a pipeline has only letters, digits and `._/:@+~=[]-` of it, so that no shell and no file reads it as more",
        )
    }
}

impl From<Refused> for Failure {
    fn from(error: Refused) -> Self {
        let help = error.help();
        Self::from_error(Exit::Refused, &error).help(help)
    }
}
