//! Which process is which, as `/proc` tells it.

use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open};
use serde::{Deserialize, Serialize};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use crate::airflow::settings::MARK;
use crate::disk::Disk;

/// A process that is not mistaken for a later one with the same number: its
/// number, when it started, and during which boot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ProcessIdentity {
    pub(crate) pid: u32,
    /// In clock ticks since boot; neither `setsid` nor `exec` changes it.
    pub(crate) start_time: u64,
    pub(crate) boot_id: String,
}

impl ProcessIdentity {
    pub(crate) fn of_self() -> io::Result<Self> {
        Self::of(std::process::id())
    }

    pub(crate) fn of(pid: u32) -> io::Result<Self> {
        let stat = Stat::read(pid)?;
        Ok(Self {
            pid,
            start_time: stat.start_time,
            boot_id: boot_id()?,
        })
    }

    /// Whether that very process still runs. A zombie does not.
    pub(crate) fn is_alive(&self) -> bool {
        let same = |stat: Stat| {
            stat.start_time == self.start_time && !matches!(stat.state, 'Z' | 'X' | 'x')
        };
        self.is_of_this_boot() && Stat::read(self.pid).is_ok_and(same)
    }

    /// Whether it started since this machine did.
    pub(crate) fn is_of_this_boot(&self) -> bool {
        boot_id().is_ok_and(|boot| boot == self.boot_id)
    }

    /// How long it has been running, by a clock that nobody can set back.
    pub(crate) fn age(&self) -> Duration {
        let ticks = BootTime::now().map_or(0, |now| now.ticks.saturating_sub(self.start_time));
        Duration::from_millis(ticks * 1000 / rustix::param::clock_ticks_per_second())
    }

    /// Resolves once the process has ended, whoever its parent is.
    pub(crate) async fn ended(&self) {
        if let Some(fd) = self.handle().and_then(watched) {
            // The identity is looked at again below, so a wrong wake-up costs
            // one look.
            let _ = fd.readable().await;
        }
        while self.is_alive() {
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    }

    /// A handle on the process; none when it has ended or the kernel has none.
    fn handle(&self) -> Option<OwnedFd> {
        let fd = pidfd_open(self.raw()?, PidfdFlags::empty()).ok()?;
        // Opened by number: only now is it known to be the right process.
        self.is_alive().then_some(fd)
    }

    /// Sends a signal to this process alone.
    pub(crate) fn signal(&self, signal: Signal) {
        if let Some(fd) = self.handle() {
            let _ = rustix::process::pidfd_send_signal(fd, signal);
        }
    }

    fn raw(&self) -> Option<Pid> {
        Pid::from_raw(i32::try_from(self.pid).ok()?)
    }
}

/// Turns readable when the process ends.
#[expect(
    deprecated,
    reason = "its successor is unsafe; an owned descriptor cannot be closed by others"
)]
fn watched(handle: OwnedFd) -> Option<AsyncFd<OwnedFd>> {
    AsyncFd::with_interest(handle, Interest::READABLE).ok()
}

/// A moment on the clock that processes start by, which nobody can set back.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct BootTime {
    boot_id: String,
    /// As in [`ProcessIdentity::start_time`].
    ticks: u64,
}

impl BootTime {
    pub(crate) fn now() -> Option<Self> {
        let now = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
        let now = Duration::try_from(now).ok()?;
        // A second has 100 of them; /proc rounds down as well.
        let ticks = now.as_nanos() * u128::from(rustix::param::clock_ticks_per_second());
        Some(Self {
            boot_id: boot_id().ok()?,
            ticks: u64::try_from(ticks / 1_000_000_000).ok()?,
        })
    }

    /// Whether the process had started by then.
    pub(crate) fn has_seen_start_of(&self, process: &ProcessIdentity) -> bool {
        self.boot_id == process.boot_id && process.start_time <= self.ticks
    }
}

/// The parts of `/proc/<pid>/stat` that matter here.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Stat {
    pub(crate) state: char,
    pub(crate) parent: u32,
    pub(crate) session: u32,
    pub(crate) start_time: u64,
}

impl Stat {
    pub(crate) fn read(pid: u32) -> io::Result<Self> {
        let text = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
        Self::parse(&text).ok_or_else(|| io::Error::from(io::ErrorKind::InvalidData))
    }

    fn parse(text: &str) -> Option<Self> {
        // The second field is the command in parentheses and may hold anything,
        // also blanks and parentheses.
        let (_, rest) = text.rsplit_once(") ")?;
        let fields: Vec<&str> = rest.split(' ').collect();
        let number = |field: usize| fields.get(field - 3)?.parse().ok();
        Some(Self {
            state: fields.first()?.chars().next()?,
            parent: u32::try_from(number(4)?).ok()?,
            session: u32::try_from(number(6)?).ok()?,
            start_time: number(22)?,
        })
    }
}

fn boot_id() -> io::Result<String> {
    Ok(std::fs::read_to_string("/proc/sys/kernel/random/boot_id")?
        .trim()
        .to_owned())
}

/// What tells an Airflow's processes also when they have lost their parents.
#[derive(Debug, Clone)]
pub(crate) struct Sign {
    /// An entry of their environment. A process that gives itself a title may
    /// have overwritten it.
    pub(crate) mark: String,
    /// The folder that they work in.
    pub(crate) home: PathBuf,
}

impl Sign {
    pub(crate) fn of(disk: &Disk) -> Self {
        Self {
            mark: format!("{MARK}={}", disk.root().display()),
            home: disk.airflow_home(),
        }
    }
}

/// Every process that runs, but this one.
fn all_others() -> Vec<(u32, Stat)> {
    let own = std::process::id();
    std::fs::read_dir("/proc")
        .into_iter()
        .flatten()
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .filter(|pid| *pid != own)
        .filter_map(|pid| Some((pid, Stat::read(pid).ok()?)))
        .filter(|(_, stat)| !matches!(stat.state, 'Z' | 'X' | 'x'))
        .collect()
}

/// Every process that belongs to an agent's Airflow: those in the sessions of
/// its components, their descendants, and those that carry its sign (a task's
/// process may have moved to a group of its own and lost its parent).
pub(crate) fn family(roots: &[u32], sign: Option<&Sign>) -> Vec<ProcessIdentity> {
    let Ok(boot_id) = boot_id() else {
        return Vec::new();
    };
    let all = all_others();
    let mut members: Vec<u32> = roots.to_vec();
    members.extend(
        all.iter()
            .filter(|(_, stat)| roots.contains(&stat.session))
            .map(|(pid, _)| pid),
    );
    if let Some(sign) = sign {
        // Whoever looks around in Airflow's home by a shell has a session that
        // is led.
        let orphaned = |pid: u32, stat: &Stat| {
            all.iter().all(|(other, _)| *other != stat.session) && works_in(pid, &sign.home)
        };
        members.extend(
            all.iter()
                .filter(|(pid, stat)| carries(*pid, &sign.mark) || orphaned(*pid, stat))
                .map(|(pid, _)| *pid),
        );
    }
    loop {
        let before = members.len();
        for (pid, stat) in &all {
            if members.contains(&stat.parent) && !members.contains(pid) {
                members.push(*pid);
            }
        }
        if members.len() == before {
            break;
        }
    }
    all.into_iter()
        .filter(|(pid, _)| members.contains(pid))
        .map(|(pid, stat)| ProcessIdentity {
            pid,
            start_time: stat.start_time,
            boot_id: boot_id.clone(),
        })
        .collect()
}

/// What is left in the session of a process that is gone. As long as anything
/// is, the kernel gives its number to no other process.
pub(crate) fn left_in_session(leader: &ProcessIdentity) -> Vec<ProcessIdentity> {
    let Ok(boot_id) = boot_id() else {
        return Vec::new();
    };
    let reused = Stat::read(leader.pid).is_ok_and(|stat| stat.start_time != leader.start_time);
    if boot_id != leader.boot_id || reused || leader.is_alive() {
        return Vec::new();
    }
    all_others()
        .into_iter()
        .filter(|(_, stat)| stat.session == leader.pid)
        .map(|(pid, stat)| ProcessIdentity {
            pid,
            start_time: stat.start_time,
            boot_id: boot_id.clone(),
        })
        .collect()
}

fn works_in(pid: u32, folder: &Path) -> bool {
    std::fs::read_link(format!("/proc/{pid}/cwd")).is_ok_and(|there| there.starts_with(folder))
}

/// Whether a process has this entry in its environment.
fn carries(pid: u32, mark: &str) -> bool {
    std::fs::read(format!("/proc/{pid}/environ")).is_ok_and(|environ| {
        environ
            .split(|byte| *byte == 0)
            .any(|entry| entry == mark.as_bytes())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_the_stat_of_a_process_with_an_unpleasant_name() {
        let line = "7 (a) b (c) S 1 7 5 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 1 0 4711 1 2";
        let stat = Stat::parse(line).unwrap();
        assert_eq!(
            (stat.state, stat.parent, stat.session, stat.start_time),
            ('S', 1, 5, 4711)
        );
        assert!(Stat::parse("7 (a").is_none());
    }

    #[test]
    fn knows_itself_and_not_another_process_of_the_same_number() {
        let own = ProcessIdentity::of_self().unwrap();
        assert!(own.is_alive());
        let earlier = ProcessIdentity {
            start_time: own.start_time - 1,
            ..own.clone()
        };
        assert!(!earlier.is_alive());
        let other_boot = ProcessIdentity {
            boot_id: "another".into(),
            ..own
        };
        assert!(!other_boot.is_alive());
    }

    #[test]
    fn what_has_started_is_told_without_the_wall_clock() {
        let own = ProcessIdentity::of_self().unwrap();
        let now = BootTime::now().unwrap();
        assert!(now.has_seen_start_of(&own));
        let earlier = BootTime {
            ticks: own.start_time - 1,
            ..now.clone()
        };
        assert!(!earlier.has_seen_start_of(&own));
        let other_boot = BootTime {
            boot_id: "another".into(),
            ..now
        };
        assert!(!other_boot.has_seen_start_of(&own));
    }

    #[tokio::test]
    async fn a_process_that_nobody_reaped_has_ended() {
        let mut child = std::process::Command::new("sleep")
            .arg("60")
            .spawn()
            .unwrap();
        let pid = child.id();
        let stat = Stat::read(pid).unwrap();
        let identity = ProcessIdentity {
            pid,
            start_time: stat.start_time,
            boot_id: boot_id().unwrap(),
        };
        assert!(identity.is_alive());
        identity.signal(Signal::KILL);
        tokio::time::timeout(Duration::from_secs(5), identity.ended())
            .await
            .unwrap();
        assert!(!identity.is_alive());
        child.wait().unwrap();
    }
}
