//! The same changes with what one would use instead, where it is installed.

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};

use crate::tree::Tree;
use crate::{ROUNDS, Row};

pub(crate) fn measure(source: &Path, tree: &Tree) -> Result<Vec<Row>> {
    let scratch = tempfile::tempdir()?;
    let mut all = Vec::new();
    for peer in [rsync, git, tar] {
        all.extend(peer(source, tree, scratch.path())?);
    }
    Ok(all)
}

/// `rsync -a --delete` into a local folder: no switch, no history.
fn rsync(source: &Path, tree: &Tree, scratch: &Path) -> Result<Vec<Row>> {
    let script = format!(
        "rsync -a --delete {}/ {}/rsync/",
        source.display(),
        scratch.display()
    );
    rounds("rsync", &script, &script, tree, 100)
}

/// Commit, push to a bare repository, fetch, a work tree of its own, a link
/// that is replaced: what git-sync does, without its waiting.
fn git(source: &Path, tree: &Tree, scratch: &Path) -> Result<Vec<Row>> {
    let (source, scratch) = (source.display(), scratch.display());
    let deploy = format!(
        "set -e; cd {source}; git add -A; git commit -qm change; git push -q origin HEAD:main; \
         cd {scratch}/clone; git fetch -q origin main; id=$(git rev-parse FETCH_HEAD); \
         git worktree add -q --detach ../tree-$id $id; ln -sfn ../tree-$id ../next; mv -T ../next ../current"
    );
    let first = format!(
        "set -e; export GIT_CONFIG_GLOBAL=/dev/null; cd {source}; git init -q -b main; git config user.name bench; \
         git config user.email bench@localhost; git init -q --bare {scratch}/origin; \
         git remote add origin {scratch}/origin; git init -q {scratch}/clone; \
         git -C {scratch}/clone remote add origin {scratch}/origin; {deploy}"
    );
    let rows = rounds("git", &first, &deploy, tree, 200);
    let _ = std::fs::remove_dir_all(Path::new(&source.to_string()).join(".git"));
    rows
}

/// The whole tree as one archive, unpacked beside and switched to.
fn tar(source: &Path, tree: &Tree, scratch: &Path) -> Result<Vec<Row>> {
    let (source, scratch) = (source.display(), scratch.display());
    let script = format!(
        "set -e; cd {scratch}; id=$(date +%s%N); tar -C {source} -czf $id.tgz .; mkdir $id; tar -C $id -xzf $id.tgz; \
         ln -sfn $id next-tar; mv -T next-tar current-tar"
    );
    rounds("tar", &script, &script, tree, 300)
}

fn rounds(
    tool: &'static str,
    first: &str,
    again: &str,
    tree: &Tree,
    from: usize,
) -> Result<Vec<Row>> {
    if !shell(&format!("command -v {tool}"))?.0 {
        return Ok(Vec::new());
    }
    let timed = |script: &str| {
        let (success, time) = shell(script)?;
        ensure!(success, "{tool} failed");
        Ok(time)
    };
    let first = timed(first)?;
    let mut changed = Vec::new();
    for round in 0..ROUNDS {
        tree.edit(from % 150 + round)?;
        changed.push(timed(again)?);
    }
    Ok(vec![
        Row {
            tool,
            what: "first deploy, on disk",
            times: vec![first],
        },
        Row {
            tool,
            what: "one file changed, on disk",
            times: changed,
        },
    ])
}

fn shell(script: &str) -> Result<(bool, Duration)> {
    let start = Instant::now();
    let status = Command::new("bash")
        .args(["-c", script])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .status()?;
    Ok((status.success(), start.elapsed()))
}
