//! A check again after each change, until Ctrl-C.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Duration;

use notify::{Event, EventKind, RecursiveMode, Watcher};
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};
use tokio::time::timeout;
use updraft_image::StopOnDrop;
use updraft_project::Project;

use super::check::{CheckArgs, Look};
use crate::checks::elsewhere::Asker;
use crate::console::{Console, DIM};
use crate::context::Context;
use crate::exit::Exit;
use crate::failure::{Failure, Result};
use crate::interrupt::Interrupt;

/// Editors write a file in several steps, and people save several files.
const PAUSE: Duration = Duration::from_millis(50);

pub(crate) async fn run(args: &CheckArgs, cx: &Context, out: &mut Console) -> Result<Exit> {
    let interrupt = Interrupt::listen()?;
    let root = cx.project()?.root().to_owned();
    let cache = cx.cache_dir();
    let asker = args.asker(cx)?;
    let ours = Ours::of(args, &root, cache.as_deref());
    let (tell, mut told) = unbounded_channel();
    let watch = move |event: notify::Result<Event>| {
        // What cannot be told apart is checked again.
        if event.is_ok_and(|event| ours.causes(&event)) {
            return;
        }
        let _ = tell.send(());
    };
    let mut watcher = notify::recommended_watcher(watch).map_err(|error| failed(&root, &error))?;
    watcher
        .watch(&root, RecursiveMode::Recursive)
        .map_err(|error| failed(&root, &error))?;
    loop {
        interrupt
            .ends(check(args, &root, (cache.clone(), asker.clone()), out))
            .await?;
        interrupt.ends(changed(&mut told)).await?;
        let time = chrono::Local::now().format("%H:%M:%S");
        writeln!(out.status(), "\n{DIM}{time}: something changed{DIM:#}")?;
    }
}

/// Checks once. What fails is told, since the next change may mend it.
async fn check(
    args: &CheckArgs,
    root: &Path,
    (cache, asker): (Option<PathBuf>, Option<Asker>),
    out: &mut Console,
) -> Result<()> {
    let ending = StopOnDrop::default();
    let (stop, aside) = (ending.stop(), out.aside());
    let (owned, root) = (args.clone(), root.to_owned());
    let looked = tokio::task::spawn_blocking(move || {
        let look = Look {
            project: Project::open(&root)?,
            cache,
            asker,
            stop,
            aside,
        };
        look.at(&owned)
    });
    let told = match looked.await? {
        Ok(report) => report.tell(args, out).map(drop),
        Err(failure) => Err(failure),
    };
    if let Err(failure) = told {
        out.error(&failure);
    }
    Ok(())
}

/// Waits for a change, and until there was none for a moment.
async fn changed(told: &mut UnboundedReceiver<()>) -> Result<()> {
    told.recv().await;
    while timeout(PAUSE, told.recv()).await.is_ok() {}
    Ok(())
}

/// What changes because of the check itself, and what Git does for itself.
struct Ours(Vec<PathBuf>);

impl Ours {
    fn of(args: &CheckArgs, root: &Path, cache: Option<&Path>) -> Self {
        let written = args.reports.files().chain(cache);
        let mut ours: Vec<_> = written
            .filter_map(|path| std::path::absolute(path).ok())
            .collect();
        ours.push(root.join(".git"));
        Self(ours)
    }

    fn causes(&self, event: &Event) -> bool {
        let is_reading = matches!(event.kind, EventKind::Access(_));
        let is_ours = |path: &PathBuf| {
            path.ends_with("__pycache__") || self.0.iter().any(|ours| path.starts_with(ours))
        };
        is_reading || (!event.paths.is_empty() && event.paths.iter().all(is_ours))
    }
}

fn failed(root: &Path, error: &notify::Error) -> Failure {
    let message = format!("could not watch `{}`", root.display());
    Failure::new(Exit::Internal, message)
        .cause(error)
        .help("raise the limit on watched folders: `sysctl fs.inotify.max_user_watches`")
}
