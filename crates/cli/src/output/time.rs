//! Times for people. JSON has RFC 3339.

use std::time::Duration;

use updraft_model::Timestamp;

/// How long ago something was, in the largest unit that fits.
pub(crate) fn ago(then: Timestamp, now: Timestamp) -> String {
    let seconds = (now - then).num_seconds();
    match seconds {
        i64::MIN..=-60 => format!("in {}", coarse(seconds.unsigned_abs())),
        -59..=4 => "just now".to_owned(),
        _ => format!("{} ago", coarse(seconds.unsigned_abs())),
    }
}

fn coarse(seconds: u64) -> String {
    match seconds {
        0..=119 => format!("{seconds} s"),
        120..=7199 => format!("{} min", seconds / 60),
        7200..=172_799 => format!("{} h", seconds / 3600),
        _ => format!("{} days", seconds / 86_400),
    }
}

/// How long something took.
pub(crate) fn duration(took: Duration) -> String {
    let ms = took.as_millis();
    match ms {
        0..=999 => format!("{ms} ms"),
        1000..=59_999 => format!("{}.{} s", ms / 1000, ms % 1000 / 100),
        _ => format!("{} min {} s", ms / 60_000, ms % 60_000 / 1000),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn says_times_in_the_unit_that_fits() {
        let now = Timestamp::from_timestamp(1_800_000_000, 0).unwrap();
        let said = |seconds| ago(now - chrono::Duration::seconds(seconds), now);
        assert_eq!(said(0), "just now");
        assert_eq!(said(-3), "just now");
        assert_eq!(said(119), "119 s ago");
        assert_eq!(said(3600), "60 min ago");
        assert_eq!(said(40 * 3600), "40 h ago");
        assert_eq!(said(90 * 86_400), "90 days ago");
        assert_eq!(said(-90 * 86_400), "in 90 days");
        assert_eq!(duration(Duration::from_millis(999)), "999 ms");
        assert_eq!(duration(Duration::from_millis(1250)), "1.2 s");
        assert_eq!(duration(Duration::from_millis(61_000)), "1 min 1 s");
    }
}
