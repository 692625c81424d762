//! What the file system says about a file, as far as it tells whether the
//! content may have changed.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustix::fs::Stat;

/// Clocks of common file systems tick at most this far apart.
const TICK: i64 = 50_000_000;
/// A change time without fractions comes from a file system that counts
/// whole, or every second, seconds.
const COARSE_TICK: i64 = 2_000_000_000;
const SECOND: i64 = 1_000_000_000;

/// Times are nanoseconds since 1970.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct FileStat {
    pub(crate) size: u64,
    pub(crate) mtime: i64,
    pub(crate) ctime: i64,
    pub(crate) inode: u64,
    pub(crate) mode: u32,
}

impl FileStat {
    #[expect(
        clippy::useless_conversion,
        reason = "the types of these fields differ between platforms"
    )]
    pub(crate) fn new(stat: &Stat) -> Self {
        let nanos = |seconds: i64, nanos: i64| seconds.saturating_mul(SECOND).saturating_add(nanos);
        Self {
            size: u64::try_from(stat.st_size).unwrap_or(0),
            mtime: nanos(
                i64::try_from(stat.st_mtime).unwrap_or(0),
                i64::try_from(stat.st_mtime_nsec).unwrap_or(0),
            ),
            ctime: nanos(
                i64::try_from(stat.st_ctime).unwrap_or(0),
                i64::try_from(stat.st_ctime_nsec).unwrap_or(0),
            ),
            inode: u64::try_from(stat.st_ino).unwrap_or(0),
            mode: u32::try_from(stat.st_mode).unwrap_or(0),
        }
    }

    pub(crate) fn is_executable(&self) -> bool {
        self.mode & 0o100 != 0
    }

    /// Whether a write after `read_at` could leave this stat as it is, because
    /// it falls into the same tick of the file system's clock. The change time
    /// decides: unlike the modification time, nobody can set it.
    pub(crate) fn is_racy(&self, read_at: i64) -> bool {
        let tick = if self.ctime % SECOND == 0 {
            COARSE_TICK
        } else {
            TICK
        };
        self.ctime > read_at.saturating_sub(tick)
    }
}

pub(crate) fn now() -> i64 {
    let since = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or(Duration::ZERO);
    i64::try_from(since.as_nanos()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stat_of_the_same_moment_is_not_believed() {
        let stat = |ctime| FileStat {
            size: 1,
            mtime: 0,
            ctime,
            inode: 1,
            mode: 0o100_644,
        };
        let at = 1_000 * SECOND + 5;
        assert!(stat(at).is_racy(at));
        assert!(stat(at - 10_000_000).is_racy(at));
        assert!(stat(at + SECOND).is_racy(at), "a clock that runs ahead");
        assert!(!stat(at - 60_000_000).is_racy(at));
        assert!(stat(999 * SECOND).is_racy(at), "whole seconds tick slowly");
        assert!(!stat(997 * SECOND).is_racy(at));
    }
}
