//! The same changes with what one would use instead, where it is installed.

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};

use crate::table::{Row, Table};
use crate::tree::Tree;
use crate::{CHANGE_ON_DISK, FIRST_ON_DISK, NOTHING, ROLLBACK, ROUNDS};

/// What one would type; each runs to its end in `bash`.
struct Peer {
    tool: &'static str,
    /// What is done once, before anything is timed.
    prepare: String,
    deploy: String,
    /// Back to what was there before the last deploy; none where nothing is kept.
    rollback: Option<String>,
}

pub(crate) fn measure(source: &Path, tree: &mut Tree, table: &mut Table) -> Result<()> {
    let scratch = tempfile::tempdir()?;
    for peer in [rsync, git, tar] {
        let peer = peer(source, scratch.path());
        if shell(&format!("command -v {}", peer.tool))?.0 {
            peer.measure(tree, table)?;
        } else {
            table.add_absent(peer.tool);
        }
    }
    std::fs::remove_dir_all(source.join(".git")).or_else(|error| match error.kind() {
        std::io::ErrorKind::NotFound => Ok(()),
        _ => Err(error.into()),
    })
}

/// `rsync -a --delete` into a local folder: no switch, no history.
fn rsync(source: &Path, scratch: &Path) -> Peer {
    Peer {
        tool: "rsync",
        prepare: String::new(),
        deploy: format!(
            "rsync -a --delete {}/ {}/rsync/",
            source.display(),
            scratch.display()
        ),
        rollback: None,
    }
}

/// Commit, push to a bare repository, fetch, a work tree of its own, a link
/// that is replaced: what git-sync does, without its waiting.
fn git(source: &Path, scratch: &Path) -> Peer {
    let (source, scratch) = (source.display(), scratch.display());
    let publish = format!(
        "git push -q -f origin HEAD:main; \
         cd {scratch}/clone; git fetch -q origin main; id=$(git rev-parse FETCH_HEAD); \
         test -e ../tree-$id || git worktree add -q --detach ../tree-$id $id; \
         ln -sfn ../tree-$id ../next; mv -T ../next ../current"
    );
    let enter = format!("set -e; export GIT_CONFIG_GLOBAL=/dev/null; cd {source}");
    Peer {
        tool: "git",
        prepare: format!(
            "{enter}; git init -q -b main; git config user.name bench; git config user.email bench@localhost; \
             git init -q --bare {scratch}/origin; git remote add origin {scratch}/origin; \
             git init -q {scratch}/clone; git -C {scratch}/clone remote add origin {scratch}/origin"
        ),
        deploy: format!(
            "{enter}; git add -A; git diff --cached --quiet && git rev-parse -q --verify HEAD >/dev/null || \
             git commit -qm change; {publish}"
        ),
        rollback: Some(format!(
            "{enter}; git -c advice.detachedHead=false checkout -q HEAD~1; {publish}"
        )),
    }
}

/// The whole tree as one archive, unpacked beside and switched to.
fn tar(source: &Path, scratch: &Path) -> Peer {
    let (source, scratch) = (source.display(), scratch.display());
    let switch = "ln -sfn $id next-tar; mv -T next-tar current-tar";
    Peer {
        tool: "tar",
        prepare: String::new(),
        deploy: format!(
            "set -e; cd {scratch}; id=$(date +%s%N); tar -C {source} --exclude=.git -czf $id.tgz .; \
             mkdir $id; tar -C $id -xzf $id.tgz; {switch}"
        ),
        // The archive is kept, the unpacked tree is not.
        rollback: Some(format!(
            "set -e; cd {scratch}; last=$(ls *.tgz | tail -n 2 | head -n 1); id=back-$(date +%s%N); \
             mkdir $id; tar -C $id -xzf $last; {switch}"
        )),
    }
}

impl Peer {
    fn measure(&self, tree: &mut Tree, table: &mut Table) -> Result<()> {
        let run = |script: &str| {
            let (success, time) = shell(script)?;
            ensure!(success, "{} failed: {script}", self.tool);
            Ok(time)
        };
        let mut add = |what, times| {
            table.add(Row {
                tool: self.tool,
                what,
                times,
            });
        };
        run(&self.prepare)?;
        add(FIRST_ON_DISK, vec![run(&self.deploy)?]);
        let mut changed = Vec::new();
        for _ in 0..ROUNDS {
            tree.edit()?;
            changed.push(run(&self.deploy)?);
        }
        add(CHANGE_ON_DISK, changed);
        let nothing: Result<_> = (0..ROUNDS).map(|_| run(&self.deploy)).collect();
        add(NOTHING, nothing?);
        if let Some(rollback) = &self.rollback {
            let times: Result<_> = (0..ROUNDS).map(|_| run(rollback)).collect();
            add(ROLLBACK, times?);
        }
        Ok(())
    }
}

/// Runs a script, and says whether it went well and how long it took.
pub(crate) fn shell(script: &str) -> Result<(bool, Duration)> {
    let start = Instant::now();
    let status = Command::new("bash")
        .args(["-c", script])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .status()?;
    Ok((status.success(), start.elapsed()))
}
