//! Which user Airflow runs as, and what that user can reach.

use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::{fs, io};

use updraft_image::RunAs;

use crate::engine::Engine;

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
    Other {
        ids: RunAs,
        /// Somebody asked for this user, and gets no other.
        named: bool,
    },
}

impl WantedUser {
    pub(crate) fn find(named: Option<&str>) -> Result<Self, UserError> {
        let is_root = rustix::process::geteuid().is_root();
        match (named, is_root) {
            (None, false) => Ok(Self::Own),
            (Some(name), false) => Err(UserError::NotRoot(name.to_owned())),
            (None, true) => Ok(Self::Other {
                ids: look_up("airflow").unwrap_or(DEFAULT),
                named: false,
            }),
            (Some(name), true) => {
                let ids = look_up(name).ok_or_else(|| UserError::Unknown(name.to_owned()))?;
                if ids.uid == 0 {
                    Err(UserError::Root)
                } else {
                    Ok(Self::Other { ids, named: true })
                }
            }
        }
    }
}

/// The user that Airflow runs as on this machine, when it is not one's own.
pub fn airflow_user(named: Option<&str>) -> Result<Option<RunAs>, UserError> {
    Ok(WantedUser::find(named)?.ids())
}

impl WantedUser {
    pub(crate) fn ids(&self) -> Option<RunAs> {
        match self {
            Self::Own => None,
            Self::Other { ids, .. } => Some(*ids),
        }
    }

    /// Whether Airflow may run as the agent where the user cannot run it.
    pub(crate) fn or_own(&self) -> bool {
        !matches!(self, Self::Other { named: true, .. })
    }

    /// The other user, when it can get to this folder, or has to.
    pub(crate) fn that_reaches(&self, folder: &Path) -> Option<RunAs> {
        let ids = self.ids()?;
        (!self.or_own() || closed_folder(folder, ids).is_none()).then_some(ids)
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

    /// In a container a user reaches what is mounted, and images run as any.
    pub(crate) fn in_containers(wanted: &WantedUser, engine: &Engine) -> Self {
        let name = engine.name();
        if engine.rootless {
            return Self {
                user: None,
                text: format!(
                    "Airflow runs in containers of {name} as the agent's own user; DAG code can read the agent's files, \
                     because {name} runs without root"
                ),
            };
        }
        match wanted.ids() {
            Some(ids) => Self {
                user: Some(ids),
                text: format!(
                    "Airflow runs in containers of {name} as uid {}; DAG code cannot read the agent's files",
                    ids.uid
                ),
            },
            None => Self {
                user: None,
                text: format!(
                    "Airflow runs in containers of {name} as the agent's own user (uid {}); DAG code can read the \
                     agent's files, because only an agent that is started as root can run Airflow as another user",
                    rustix::process::geteuid().as_raw()
                ),
            },
        }
    }

    /// Checks that the user can read what it must and run the interpreter. Where
    /// it cannot and nobody named it, an Airflow that works beats one that is
    /// apart: it runs as the agent's user, and this says so.
    pub(crate) fn check(
        wanted: &WantedUser,
        readable: &[&Path],
        python: &Path,
    ) -> Result<Self, IsolationError> {
        let ids = match wanted {
            WantedUser::Own => {
                let uid = rustix::process::geteuid().as_raw();
                return Ok(Self {
                    user: None,
                    text: format!(
                        "Airflow runs as the agent's own user (uid {uid}); DAG code can read the agent's files, \
                         because only an agent that is started as root can run Airflow as another user"
                    ),
                });
            }
            WantedUser::Other { ids, .. } => *ids,
        };
        let obstacle = match readable.iter().find_map(|path| closed_folder(path, ids)) {
            None => cannot_run(python, ids).map_err(IsolationError::NotTried)?,
            closed => closed,
        };
        Ok(match obstacle {
            None => Self {
                user: Some(ids),
                text: format!(
                    "Airflow runs as uid {}; DAG code cannot read the agent's files",
                    ids.uid
                ),
            },
            Some(obstacle) if !wanted.or_own() => {
                return Err(IsolationError::Impossible {
                    uid: ids.uid,
                    obstacle,
                });
            }
            Some(obstacle) => Self {
                user: None,
                text: format!(
                    "Airflow runs as root; DAG code can read the agent's files, because uid {} {obstacle}",
                    ids.uid
                ),
            },
        })
    }
}

/// Why Airflow cannot run as the user that was asked for.
#[derive(Debug, thiserror::Error)]
pub(crate) enum IsolationError {
    #[error("Airflow cannot run as uid {uid}, which `--airflow-user` names: that user {obstacle}")]
    Impossible { uid: u32, obstacle: String },
    #[error("could not try whether Airflow's user can run the interpreter")]
    NotTried(#[source] io::Error),
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
/// An error says nothing about the user, as when the machine is out of memory.
fn cannot_run(python: &Path, ids: RunAs) -> io::Result<Option<String>> {
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
        Ok(status) if status.success() => return Ok(None),
        Ok(status) if status.signal().is_some() => {
            return Err(io::Error::other(status.to_string()));
        }
        Ok(_) => {}
        Err(error)
            if matches!(
                error.kind(),
                io::ErrorKind::NotFound | io::ErrorKind::PermissionDenied
            ) => {}
        Err(error) => return Err(error),
    }
    let real = fs::canonicalize(python).unwrap_or_else(|_| python.to_owned());
    Ok(Some(format!(
        "cannot run the interpreter `{}`; install a Python that every user can run (for \
         example from the system's packages) and deploy again",
        real.display()
    )))
}

/// Makes a folder that belongs to Airflow's user, with everything in it.
pub(crate) fn make_theirs(folder: &Path, user: Option<RunAs>) -> io::Result<()> {
    fs::create_dir_all(folder)?;
    // Nobody but Airflow: logs and a database with connections lie here.
    fs::set_permissions(folder, fs::Permissions::from_mode(0o700))?;
    let own = RunAs {
        uid: rustix::process::geteuid().as_raw(),
        gid: rustix::process::getegid().as_raw(),
    };
    let metadata = fs::metadata(folder)?;
    let Some(ids) = user else {
        // What is made here from now on is the agent's: should another user come
        // back, all of it has to be looked at.
        if metadata.uid() != own.uid {
            std::os::unix::fs::lchown(folder, Some(own.uid), Some(own.gid))?;
        }
        return Ok(());
    };
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
    fn a_user_that_was_named_is_never_replaced() {
        let ids = RunAs {
            uid: 4711,
            gid: 4711,
        };
        let folder = tempfile::tempdir().unwrap();
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o700)).unwrap();
        let check = |named| {
            let wanted = WantedUser::Other { ids, named };
            Isolation::check(&wanted, &[folder.path()], Path::new("/bin/true"))
        };
        assert_eq!(check(false).unwrap().user, None);
        let error = check(true).unwrap_err().to_string();
        assert!(
            error.contains("uid 4711") && error.contains("chmod o+x"),
            "{error}"
        );
    }

    #[test]
    fn what_the_agent_made_meanwhile_is_theirs_when_they_come_back() {
        let what = "files that go to another user";
        if !updraft_testkit::is_root_or_skip(what, "only root gives files away") {
            return;
        }
        let ids = RunAs {
            uid: 4711,
            gid: 4711,
        };
        let folder = tempfile::tempdir().unwrap();
        make_theirs(folder.path(), Some(ids)).unwrap();
        make_theirs(folder.path(), None).unwrap();
        let file = folder.path().join("airflow.db");
        fs::write(&file, "").unwrap();
        make_theirs(folder.path(), Some(ids)).unwrap();
        assert_eq!(fs::metadata(&file).unwrap().uid(), 4711);
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
