//! The image of a project without a container engine.

use std::io::Write;
use std::path::PathBuf;
use std::sync::{Arc, OnceLock};

use serde_json::json;
use updraft_image::registry::{
    Credentials, ImageReference, ImageRepository, PushError, RegistryAccess,
};
use updraft_image::{Access, DaemonlessBuild, DaemonlessError, DaemonlessImage, build_daemonless};
use url::Url;

use crate::busy::telling;
use crate::console::Console;
use crate::context::Context;
use crate::exit::Exit;
use crate::failure::{Failure, Result, exit_of_chain};
use crate::image_build::value_of;
use crate::scan;

/// What is asked for.
pub(crate) struct DaemonlessAsk<'a> {
    /// A repository, with a tag perhaps.
    pub(crate) to: &'a ImageReference,
    pub(crate) platform: Option<&'a str>,
    /// Each `NAME=VALUE`, or `NAME` for this process's value.
    pub(crate) args: &'a [String],
}

/// Builds and pushes it, and says how that went.
pub(crate) async fn build(
    ask: &DaemonlessAsk<'_>,
    cx: &Context,
    out: &mut Console,
) -> Result<DaemonlessImage> {
    let project = cx.project()?.clone();
    let (to, kept) = (ask.to.repository.clone(), cx.cache_dir());
    let scan_cache = kept
        .as_ref()
        .map(|cache| scan::cache_file(cache, &project, "image"));
    // Without a folder to keep things in, everything is made each time.
    let scratch = tempfile::tempdir()?;
    let cache: PathBuf = kept.unwrap_or_else(|| scratch.path().to_owned());
    let work = DaemonlessBuild {
        access: access(cx)?,
        tag: ask.to.tag.clone(),
        platform: ask.platform.map(str::to_owned),
        args: ask.args.iter().filter_map(|arg| value_of(arg)).collect(),
        fresh: false,
        project,
        cache,
        scan_cache,
        to,
    };
    let mut step = out.step(format!("building an image for `{}`", work.to));
    let built = telling(&mut step, out, |say| build_daemonless(work, say)).await?;
    let added = match (built.added.len(), built.reused) {
        (0, _) => "nothing to install".to_owned(),
        (1, false) => "1 package installed".to_owned(),
        (count, false) => format!("{count} packages installed"),
        (_, true) => "packages as before".to_owned(),
    };
    let done = format!(
        "pushed `{}:{}` ({added}; {} sent, {} there, {} mounted)",
        ask.to.repository, built.tag, built.pushed.sent, built.pushed.skipped, built.pushed.mounted
    );
    out.done(step, &done);
    Ok(built)
}

/// Says it to a script, or to a person.
pub(crate) fn show(to: &ImageReference, built: &DaemonlessImage, out: &mut Console) -> Result<()> {
    let repository = &to.repository;
    if !out.is_json() {
        writeln!(out.data(), "{repository}@{}", built.digest)?;
        return Ok(());
    }
    let pushed = &built.pushed;
    out.json(&json!({
        "image": format!("{repository}@{}", built.digest),
        "tag": format!("{repository}:{}", built.tag),
        "digest": built.digest,
        "engine": "none",
        "standard": true,
        "base": { "name": built.base, "digest": built.base_digest },
        "platform": built.platform,
        "airflow_version": built.contents.airflow.to_string(),
        "python_version": built.contents.python.to_string(),
        "packages": built.added,
        "replaced": built.replaced,
        "reused": built.reused,
        "pushed": {
            "sent": pushed.sent,
            "there": pushed.skipped,
            "mounted": pushed.mounted,
            "bytes": pushed.bytes,
        },
    }))?;
    Ok(())
}

/// For the control plane's registry, the token that is kept for it; otherwise what
/// `docker login` left.
pub(crate) fn access(cx: &Context) -> Result<Access> {
    let settings = cx.settings()?.clone();
    let connect = cx.connect(None)?;
    let server: Option<Url> = connect.server.parse().ok();
    // It may come from standard input, which is there once.
    let token = OnceLock::new();
    let keyless = cx.keyless().cloned();
    Ok(Arc::new(move |repository: &ImageRepository| {
        let ours = server
            .as_ref()
            .filter(|server| server.authority() == repository.registry);
        let kept = ours.and_then(|server| {
            let address = server.as_str().trim_end_matches('/');
            let read = || settings.token(address).ok().flatten();
            let kept = token.get_or_init(read).clone();
            kept.or_else(|| keyless.as_ref()?.token())
        });
        let credentials = match kept {
            Some(password) => Some(Credentials::Password {
                user: "updraft".to_owned(),
                password,
            }),
            None => Credentials::of_docker(&repository.registry)?,
        };
        let is_http = ours.is_some_and(|server| server.scheme() == "http");
        Ok::<_, PushError>(RegistryAccess {
            credentials,
            plain_http: is_http && connect.insecure_http,
            ca_certificates: connect.ca_certificates.clone(),
        })
    }))
}

impl From<DaemonlessError> for Failure {
    fn from(error: DaemonlessError) -> Self {
        let exit = match error {
            DaemonlessError::Project(error) => return error.into(),
            DaemonlessError::Registry(error) => return error.into(),
            DaemonlessError::Uv(error) => return error.into(),
            DaemonlessError::Lock(error) => return error.into(),
            DaemonlessError::NoBase { .. }
            | DaemonlessError::NoImage { .. }
            | DaemonlessError::OwnSteps(_)
            | DaemonlessError::OnBuild(_)
            | DaemonlessError::SystemPackages(_)
            | DaemonlessError::NoPlatform { .. }
            | DaemonlessError::OddBase { .. }
            | DaemonlessError::NoAirflow { .. }
            | DaemonlessError::Install(_)
            | DaemonlessError::Compiled(_) => Exit::Refused,
            DaemonlessError::Offline(_) => Exit::Prerequisite,
            DaemonlessError::Layer { .. } | DaemonlessError::Io { .. } => {
                exit_of_chain(&error, Exit::Internal)
            }
            DaemonlessError::Interrupted => return Self::interrupted(),
        };
        let failure = Self::from_error(exit, &error);
        match error.help() {
            Some(help) => failure.help(help),
            None => failure,
        }
    }
}

impl From<PushError> for Failure {
    fn from(error: PushError) -> Self {
        let exit = match &error {
            PushError::Refused { status: 507, .. } => Exit::StorageFull,
            PushError::Unreachable { .. } => Exit::Unreachable,
            PushError::Refused { .. }
            | PushError::Odd { .. }
            | PushError::InvalidName { .. }
            | PushError::Layout { .. }
            | PushError::InsecureRealm { .. }
            | PushError::Credentials { .. } => Exit::Refused,
            PushError::Io { .. } | PushError::Damaged { .. } | PushError::Setup(_) => {
                exit_of_chain(&error, Exit::Internal)
            }
        };
        let failure = Self::from_error(exit, &error);
        match error.help() {
            Some(help) => failure.help(help),
            None => failure,
        }
    }
}
