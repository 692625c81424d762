//! Asks git where a project's files came from.
//!
//! Nothing here may prompt, use the network, write to the repository or run a
//! program that a repository of somebody else configures. Whatever git does
//! not answer in time is left out.

use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use updraft_model::GitState;

const TIME_LIMIT: Duration = Duration::from_secs(10);

/// Where a folder lies in its repository, with `/`; empty: it is all of it, or in none.
pub fn folder_in_repository(dir: &Path) -> String {
    let Ok(dir) = dir.canonicalize() else {
        return String::new();
    };
    let top = dir.ancestors().find(|dir| dir.join(".git").exists());
    let folder = top.and_then(|top| dir.strip_prefix(top).ok());
    let parts = folder.into_iter().flat_map(Path::components);
    let parts: Vec<_> = parts
        .map(|part| part.as_os_str().to_string_lossy().into_owned())
        .collect();
    parts.join("/")
}

/// The state of the work tree that holds a folder; `None` without git or
/// outside a repository. Only changes below the folder make it dirty.
pub fn git_state(dir: &Path) -> Option<GitState> {
    let dir = &dir.canonicalize().ok()?;
    let top = dir.ancestors().find(|dir| dir.join(".git").exists())?;
    let git = Git {
        dir,
        overrides: distrust(dir, top),
        deadline: Instant::now() + TIME_LIMIT,
    };
    git.run(&["rev-parse", "--is-inside-work-tree"])
        .filter(|answer| answer.trim() == "true")?;

    thread::scope(|scope| {
        let dirty = scope.spawn(|| {
            git.run(&[
                "status",
                "--porcelain=v2",
                "-z",
                "--untracked-files=normal",
                "--",
                ".",
            ])
        });
        let ignored = scope.spawn(|| git.run(&["check-ignore", "--", "."]));
        let head = scope.spawn(|| git.run(&["symbolic-ref", "--quiet", "--short", "HEAD"]));
        let tag =
            scope.spawn(|| git.run(&["tag", "--points-at", "HEAD", "--sort=-version:refname"]));
        let remote = scope.spawn(|| remote(&git));
        let commit = git
            .run(&[
                "log",
                "-1",
                "--no-show-signature",
                "--format=%H%x00%an <%ae>%x00%s",
            ])
            .unwrap_or_default();
        let mut commit = commit
            .trim_end_matches('\n')
            .split('\0')
            .map(str::to_owned)
            .filter(|t| !t.is_empty());

        let line = |answer: Option<String>| {
            answer?
                .lines()
                .next()
                .filter(|line| !line.is_empty())
                .map(str::to_owned)
        };
        // Somebody else's repository around it, which has nothing of the project.
        if ignored.join().ok()?.is_some() {
            return None;
        }
        Some(GitState {
            commit: commit.next(),
            author: commit.next(),
            subject: commit.next(),
            branch: line(head.join().ok()?),
            tag: line(tag.join().ok()?),
            // Unknown counts as dirty: clean is a promise.
            dirty: dirty.join().ok()?.is_none_or(|changes| !changes.is_empty()),
            remote: remote.join().ok()?,
        })
    })
}

/// The branch, else the tag, that a checkout is on: the two fields alone, in a
/// fraction of the time.
pub fn git_head(dir: &Path) -> Option<GitState> {
    let dir = &dir.canonicalize().ok()?;
    let git = Git {
        dir,
        overrides: Vec::new(),
        deadline: Instant::now() + TIME_LIMIT,
    };
    let line = |answer: Option<String>| Some(answer?.lines().next()?.to_owned());
    let branch = line(git.run(&["symbolic-ref", "--quiet", "--short", "HEAD"]));
    let tag = || line(git.run(&["tag", "--points-at", "HEAD", "--sort=-version:refname"]));
    let tag = if branch.is_some() { None } else { tag() };
    Some(GitState {
        branch,
        tag,
        ..GitState::default()
    })
}

/// Whether a checkout's commit is one that another commit was made on top of. None where
/// that cannot be told: the other is not in the clone, or what lies between is not.
pub fn git_is_behind(dir: &Path, commit: &str) -> Option<bool> {
    // Said by somebody else, and never to be taken for an option or another name.
    let is_id = (7..=64).contains(&commit.len()) && commit.bytes().all(|b| b.is_ascii_hexdigit());
    if !is_id {
        return None;
    }
    let dir = &dir.canonicalize().ok()?;
    let git = Git {
        dir,
        overrides: Vec::new(),
        deadline: Instant::now() + TIME_LIMIT,
    };
    let resolve = |name: &str| git.run(&["rev-parse", "--verify", "--quiet", name]);
    let head = resolve("HEAD^{commit}")?;
    let other = resolve(&format!("{commit}^{{commit}}"))?;
    let (head, other) = (head.trim(), other.trim());
    if head == other {
        return Some(false);
    }
    let is_ancestor = |old: &str, new: &str| {
        let ask = ["merge-base", "--is-ancestor", old, new];
        git.run(&ask).is_some()
    };
    if is_ancestor(head, other) {
        return Some(true);
    }
    if is_ancestor(other, head) {
        return Some(false);
    }
    let shallow = git.run(&["rev-parse", "--is-shallow-repository"])?;
    (shallow.trim() == "false").then_some(false)
}

struct Git<'a> {
    dir: &'a Path,
    overrides: Vec<String>,
    deadline: Instant,
}

impl Git<'_> {
    fn run(&self, args: &[&str]) -> Option<String> {
        let mut command = command(self.dir);
        for setting in &self.overrides {
            command.arg("-c").arg(setting);
        }
        output(command.args(args), self.deadline)
    }
}

fn command(dir: &Path) -> Command {
    let mut command = Command::new("git");
    command
        .arg("-C")
        .arg(dir)
        // Somebody else's repository is normal in CI, where a container's
        // user differs from the owner of the checkout.
        .args([
            "-c",
            "safe.directory=*",
            "-c",
            "core.fsmonitor=false",
            "-c",
            "log.showSignature=false",
        ])
        .args(["-c", "status.showUntrackedFiles=normal", "--no-pager"])
        .envs([
            ("GIT_TERMINAL_PROMPT", "0"),
            ("GIT_OPTIONAL_LOCKS", "0"),
            ("GIT_NO_LAZY_FETCH", "1"),
            // A partial clone would fetch what it lacks.
            ("GIT_ALLOW_PROTOCOL", "none"),
            ("GIT_ASKPASS", ""),
            ("SSH_ASKPASS", ""),
            ("LC_ALL", "C"),
        ])
        // Set inside hooks, and then for another repository.
        .env_remove("GIT_DIR")
        .env_remove("GIT_WORK_TREE")
        .env_remove("GIT_INDEX_FILE")
        .env_remove("GIT_EXTERNAL_DIFF")
        .stdin(Stdio::null())
        .stderr(Stdio::null());
    command
}

/// What to switch off in a repository that belongs to another user: the
/// filters it configures are programs, and `git status` would run them.
fn distrust(dir: &Path, top: &Path) -> Vec<String> {
    let owner = |path: &Path| std::fs::metadata(path).map(|metadata| metadata.uid()).ok();
    let ours = std::fs::metadata("/proc/self")
        .map(|metadata| metadata.uid())
        .ok();
    if ours.is_some() && owner(top) == ours && owner(&top.join(".git")) == ours {
        return Vec::new();
    }
    let mut listing = command(dir);
    listing.args([
        "config",
        "--local",
        "--includes",
        "--name-only",
        "--get-regexp",
        r"^filter\.",
    ]);
    let deadline = Instant::now() + TIME_LIMIT;
    let mut off = vec!["core.hooksPath=/dev/null".to_owned()];
    for name in output(&mut listing, deadline).unwrap_or_default().lines() {
        let Some((filter, _)) = name.rsplit_once('.') else {
            continue;
        };
        off.extend(
            ["clean=", "smudge=", "process=", "required=false"].map(|s| format!("{filter}.{s}")),
        );
    }
    off
}

/// A program's output, if it succeeds in time.
fn output(command: &mut Command, deadline: Instant) -> Option<String> {
    let mut child = command.stdout(Stdio::piped()).spawn().ok()?;
    let mut stdout = child.stdout.take()?;
    let (sender, receiver) = mpsc::channel();
    thread::spawn(move || {
        let mut bytes = Vec::new();
        let read = stdout.read_to_end(&mut bytes);
        let _ = sender.send(read.map(|_| bytes));
    });
    let left = deadline.saturating_duration_since(Instant::now());
    let bytes = receiver.recv_timeout(left);
    if bytes.is_err() {
        let _ = child.kill();
    }
    let status = child.wait().ok()?;
    let bytes = bytes.ok()?.ok()?;
    status
        .success()
        .then(|| String::from_utf8_lossy(&bytes).into_owned())
}

/// The address of `origin`, or of the first remote there is.
fn remote(git: &Git<'_>) -> Option<String> {
    let url = git
        .run(&["config", "--get", "remote.origin.url"])
        .or_else(|| {
            let remotes = git.run(&["remote"])?;
            git.run(&[
                "config",
                "--get",
                &format!("remote.{}.url", remotes.lines().next()?),
            ])
        })?;
    let url = url.trim();
    (!url.is_empty()).then(|| without_credentials(url))
}

/// Removes everything from an address that may be secret.
fn without_credentials(url: &str) -> String {
    let Some((scheme, rest)) = url.split_once("://") else {
        // `git@host:path` and paths; a password cannot be written in them.
        return url.to_owned();
    };
    let rest = rest.split(['?', '#']).next().unwrap_or(rest);
    let (authority, path) = rest.find('/').map_or((rest, ""), |at| rest.split_at(at));
    let authority = match authority.rsplit_once('@') {
        Some((user, host)) if scheme.ends_with("ssh") => {
            let user = user.split(':').next().unwrap_or(user);
            format!("{user}@{host}")
        }
        Some((_, host)) => host.to_owned(),
        None => authority.to_owned(),
    };
    format!("{scheme}://{authority}{path}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    fn has_git(what: &str) -> bool {
        let has = Command::new("git").arg("--version").output().is_ok();
        if !has {
            updraft_testkit::skipped(what, "git is not installed");
        }
        has
    }

    fn git(dir: &Path, args: &[&str]) {
        let status = Command::new("git")
            .arg("-C")
            .arg(dir)
            .args([
                "-c",
                "user.name=Ada",
                "-c",
                "user.email=ada@example.com",
                "-c",
                "commit.gpgsign=false",
            ])
            .args(args)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status()
            .unwrap();
        assert!(status.success(), "git {args:?}");
    }

    #[test]
    fn tells_commit_branch_and_whether_the_project_is_dirty() {
        if !has_git("the state of a repository") {
            return;
        }
        let dir = tempfile::tempdir().unwrap();
        let (root, project) = (dir.path(), dir.path().join("project"));
        fs::create_dir_all(&project).unwrap();
        assert_eq!(git_state(&project), None);

        git(root, &["init", "-q", "-b", "main"]);
        let empty = git_state(&project).unwrap();
        assert_eq!(
            (empty.commit, empty.branch.as_deref(), empty.dirty),
            (None, Some("main"), false)
        );

        fs::write(project.join("a.py"), "1").unwrap();
        assert!(
            git_state(&project).unwrap().dirty,
            "an untracked file would be deployed"
        );
        git(root, &["add", "."]);
        git(root, &["commit", "-q", "-m", "Add a\n\nbody"]);
        git(root, &["tag", "v1"]);
        git(
            root,
            &[
                "remote",
                "add",
                "origin",
                "https://me:secret@example.com/x.git",
            ],
        );
        fs::write(root.join("elsewhere"), "1").unwrap();
        let clean = git_state(&project).unwrap();
        assert_eq!(clean.commit.unwrap().len(), 40);
        assert_eq!(clean.author.as_deref(), Some("Ada <ada@example.com>"));
        assert_eq!(clean.subject.as_deref(), Some("Add a"));
        assert_eq!(clean.tag.as_deref(), Some("v1"));
        assert_eq!(clean.remote.as_deref(), Some("https://example.com/x.git"));
        assert!(!clean.dirty, "changes outside the project do not count");

        fs::write(root.join(".gitignore"), "/play\n").unwrap();
        fs::create_dir(root.join("play")).unwrap();
        assert_eq!(
            git_state(&root.join("play")),
            None,
            "it is not of this repository"
        );

        git(root, &["checkout", "-q", "--detach"]);
        assert_eq!(git_state(&project).unwrap().branch, None);
    }

    #[test]
    fn runs_no_program_of_somebody_elses_repository() {
        if !has_git("the repository of somebody else") {
            return;
        }
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path();
        git(root, &["init", "-q", "-b", "main"]);
        fs::write(root.join(".gitattributes"), "* filter=mine\n").unwrap();
        fs::write(root.join("a.py"), "1").unwrap();
        git(root, &["add", "."]);
        git(root, &["commit", "-q", "-m", "Add a"]);
        let ran = root.join("ran");
        let script = format!("sh -c 'touch {}; cat'", ran.display());
        git(root, &["config", "filter.mine.clean", &script]);
        git(root, &["config", "filter.mine.required", "true"]);
        git(root, &["config", "core.fsmonitor", &script]);
        for path in [root.to_owned(), root.join(".git")] {
            if std::os::unix::fs::chown(path, Some(65534), None).is_err() {
                return updraft_testkit::skipped(
                    "the repository of somebody else",
                    "only root can give files away",
                );
            }
        }
        fs::write(root.join("a.py"), "2").unwrap();
        let state = git_state(root).unwrap();
        assert!(state.dirty);
        assert_eq!(state.subject.as_deref(), Some("Add a"));
        assert!(!ran.exists());
    }

    #[test]
    fn tells_whether_another_commit_came_on_top_as_far_as_the_clone_goes() {
        if !has_git("the order of commits") {
            return;
        }
        let dir = tempfile::tempdir().unwrap();
        let root = &dir.path().join("origin");
        fs::create_dir(root).unwrap();
        git(root, &["init", "-q", "-b", "main"]);
        let commit = |text: &str| {
            git(root, &["commit", "-q", "--allow-empty", "-m", text]);
            git_state(root).unwrap().commit.unwrap()
        };
        let (first, second, third) = (commit("first"), commit("second"), commit("third"));
        git(root, &["checkout", "-q", &second]);
        assert_eq!(git_is_behind(root, &third), Some(true));
        assert_eq!(git_is_behind(root, &second), Some(false));
        assert_eq!(git_is_behind(root, &first), Some(false));
        git(root, &["checkout", "-q", "-b", "aside", &first]);
        let aside = commit("aside");
        assert_eq!(git_is_behind(root, &third), Some(false));
        for unknown in [&"0".repeat(40), "HEAD", "--all", "", "main"] {
            assert_eq!(git_is_behind(root, unknown), None, "{unknown}");
        }

        // As pipelines clone it: what they are for, and nothing before.
        let clone = &dir.path().join("clone");
        let from = format!("file://{}", root.display());
        let to = clone.to_str().unwrap();
        git(
            dir.path(),
            &[
                "clone", "-q", "--depth", "1", "--branch", "aside", &from, to,
            ],
        );
        assert_eq!(git_is_behind(clone, &third), None);
        git(clone, &["fetch", "-q", "--depth", "1", "origin", &third]);
        assert_eq!(git_is_behind(clone, &third), None);
        assert_eq!(git_is_behind(clone, &aside), Some(false));
    }

    #[test]
    fn removes_credentials_from_addresses() {
        for (given, kept) in [
            (
                "https://token@example.com/a.git",
                "https://example.com/a.git",
            ),
            (
                "https://a:b@example.com:8443/a?token=x",
                "https://example.com:8443/a",
            ),
            ("ssh://git:pw@example.com/a", "ssh://git@example.com/a"),
            ("git@example.com:a/b.git", "git@example.com:a/b.git"),
            ("/srv/a.git", "/srv/a.git"),
        ] {
            assert_eq!(without_credentials(given), kept);
        }
    }
}
