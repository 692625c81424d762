//! Which user Airflow runs as, and what that user can reach.

use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::{fs, io};

use updraft_image::RunAs;

/// Who Airflow runs as when the agent is root and nobody is named: the number
/// that Airflow's own container images use.
const DEFAULT: RunAs = RunAs {
    uid: 50_000,
    gid: 50_000,
};

#[derive(Debug, thiserror::Error)]
pub enum UserError {
    #[error("there is no user `{0}` on this machine")]
    Unknown(String),
    #[error("Airflow cannot run as `{0}`: the agent is not root, so it cannot change users")]
    NotRoot(String),
    #[error("Airflow must not run as root: name another user, or none")]
    Root,
}

/// The user that was asked for, before it is known whether it can work.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum WantedUser {
    /// The agent's own: it cannot change users, or must not.
    Own,
    Other(RunAs),
}

impl WantedUser {
    pub(crate) fn find(named: Option<&str>) -> Result<Self, UserError> {
        let is_root = rustix::process::geteuid().is_root();
        match (named, is_root) {
            (None, false) => Ok(Self::Own),
            (Some(name), false) => Err(UserError::NotRoot(name.to_owned())),
            (None, true) => Ok(Self::Other(look_up("airflow").unwrap_or(DEFAULT))),
            (Some(name), true) => {
                let ids = look_up(name).ok_or_else(|| UserError::Unknown(name.to_owned()))?;
                if ids.uid == 0 {
                    Err(UserError::Root)
                } else {
                    Ok(Self::Other(ids))
                }
            }
        }
    }
}

impl WantedUser {
    /// The other user, when it can get to this folder at all.
    pub(crate) fn that_reaches(&self, folder: &Path) -> Option<RunAs> {
        match self {
            Self::Own => None,
            Self::Other(ids) => closed_folder(folder, *ids).is_none().then_some(*ids),
        }
    }
}

/// Finds `NAME`, `UID` or `UID:GID`.
fn look_up(name: &str) -> Option<RunAs> {
    if let Some(ids) = RunAs::parse(name) {
        return Some(ids);
    }
    if let Ok(uid) = name.parse() {
        return Some(RunAs { uid, gid: uid });
    }
    let from = |passwd: &str| {
        passwd.lines().find_map(|line| {
            let fields: Vec<&str> = line.split(':').collect();
            if fields.first() != Some(&name) {
                return None;
            }
            Some(RunAs {
                uid: fields.get(2)?.parse().ok()?,
                gid: fields.get(3)?.parse().ok()?,
            })
        })
    };
    // Directory services are asked only where the file does not say.
    fs::read_to_string("/etc/passwd")
        .ok()
        .and_then(|passwd| from(&passwd))
        .or_else(|| {
            let answer = Command::new("getent")
                .args(["passwd", name])
                .output()
                .ok()?;
            from(&String::from_utf8_lossy(&answer.stdout))
        })
}

/// Who Airflow really runs as, and what that means, for `status`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Isolation {
    pub(crate) user: Option<RunAs>,
    pub(crate) text: String,
}

impl Isolation {
    /// What is true before there is anything to check.
    pub(crate) fn unknown() -> Self {
        Self {
            user: None,
            text: "Airflow has not been started here yet".into(),
        }
    }

    pub(crate) fn external() -> Self {
        Self {
            user: None,
            text: "Airflow is run by somebody else; the agent only delivers files to it".into(),
        }
    }

    /// Checks that the user can read what it must and run the interpreter. An
    /// Airflow that works beats one that is apart, so where it cannot, Airflow
    /// runs as the agent's user, and this says so.
    pub(crate) fn check(wanted: &WantedUser, readable: &[&Path], python: &Path) -> Self {
        let ids = match wanted {
            WantedUser::Own => {
                let uid = rustix::process::geteuid().as_raw();
                return Self {
                    user: None,
                    text: format!(
                        "Airflow runs as the agent's own user (uid {uid}); DAG code can read the agent's files, \
                         because only an agent that is started as root can run Airflow as another user"
                    ),
                };
            }
            WantedUser::Other(ids) => *ids,
        };
        let obstacle = readable
            .iter()
            .find_map(|path| closed_folder(path, ids))
            .or_else(|| cannot_run(python, ids));
        match obstacle {
            None => Self {
                user: Some(ids),
                text: format!(
                    "Airflow runs as uid {}; DAG code cannot read the agent's files",
                    ids.uid
                ),
            },
            Some(obstacle) => Self {
                user: None,
                text: format!(
                    "Airflow runs as root; DAG code can read the agent's files, because uid {} {obstacle}",
                    ids.uid
                ),
            },
        }
    }
}

/// The first folder on the way that the user may not pass.
fn closed_folder(path: &Path, ids: RunAs) -> Option<String> {
    let path = fs::canonicalize(path).ok()?;
    path.ancestors()
        .collect::<Vec<_>>()
        .into_iter()
        .rev()
        .find_map(|folder| {
            let metadata = fs::metadata(folder).ok().filter(fs::Metadata::is_dir)?;
            let mode = metadata.mode();
            let bit = if metadata.uid() == ids.uid {
                0o100
            } else if metadata.gid() == ids.gid {
                0o010
            } else {
                0o001
            };
            (mode & bit == 0).then(|| {
                let folder = folder.display();
                format!(
                    "cannot enter `{folder}`; run `chmod o+x {folder}`, or use another --data-dir"
                )
            })
        })
}

/// Tries what the rights of folders do not tell: whether the interpreter starts.
fn cannot_run(python: &Path, ids: RunAs) -> Option<String> {
    let started = Command::new(python)
        .args(["-I", "-S", "-c", "pass"])
        .env_clear()
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .uid(ids.uid)
        .gid(ids.gid)
        .status();
    match started {
        Ok(status) if status.success() => None,
        Ok(_) | Err(_) => {
            let real = fs::canonicalize(python).unwrap_or_else(|_| python.to_owned());
            Some(format!(
                "cannot run the interpreter `{}`; install a Python that every user can run (for \
                 example from the system's packages) and deploy again",
                real.display()
            ))
        }
    }
}

/// Makes a folder that belongs to Airflow's user, with everything in it.
pub(crate) fn make_theirs(folder: &Path, user: Option<RunAs>) -> io::Result<()> {
    fs::create_dir_all(folder)?;
    // Nobody but Airflow: logs and a database with connections lie here.
    fs::set_permissions(folder, fs::Permissions::from_mode(0o700))?;
    let Some(ids) = user else { return Ok(()) };
    let metadata = fs::metadata(folder)?;
    if (metadata.uid(), metadata.gid()) == (ids.uid, ids.gid) {
        return Ok(());
    }
    // From the inside out: the folder itself last, as the sign of being done.
    let mut pending: Vec<(PathBuf, bool)> = vec![(folder.to_owned(), false)];
    while let Some((path, seen)) = pending.pop() {
        if !seen && fs::symlink_metadata(&path)?.is_dir() {
            pending.push((path.clone(), true));
            for entry in fs::read_dir(&path)? {
                pending.push((entry?.path(), false));
            }
            continue;
        }
        // Never through a link: what Airflow's user put here may lead anywhere.
        std::os::unix::fs::lchown(&path, Some(ids.uid), Some(ids.gid))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_users_by_name_and_number() {
        assert_eq!(look_up("root"), Some(RunAs { uid: 0, gid: 0 }));
        assert_eq!(
            look_up("1234"),
            Some(RunAs {
                uid: 1234,
                gid: 1234
            })
        );
        assert_eq!(look_up("1234:5"), Some(RunAs { uid: 1234, gid: 5 }));
        assert_eq!(look_up("no-such-user-here"), None);
    }

    #[test]
    fn names_the_folder_that_a_user_cannot_enter() {
        let folder = tempfile::tempdir().unwrap();
        let inner = folder.path().join("a/b");
        fs::create_dir_all(&inner).unwrap();
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o711)).unwrap();
        fs::set_permissions(folder.path().join("a"), fs::Permissions::from_mode(0o700)).unwrap();
        let text = closed_folder(
            &inner,
            RunAs {
                uid: 4711,
                gid: 4711,
            },
        )
        .unwrap();
        assert!(text.contains("/a`; run `chmod o+x"), "{text}");
        fs::set_permissions(folder.path().join("a"), fs::Permissions::from_mode(0o711)).unwrap();
        assert_eq!(
            closed_folder(
                &inner,
                RunAs {
                    uid: 4711,
                    gid: 4711
                }
            ),
            None
        );
    }
}
