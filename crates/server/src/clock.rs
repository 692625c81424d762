//! The time, which a test can put forward.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use chrono::{DateTime, Duration, Utc};
use updraft_model::Timestamp;

/// A clock; its clones show the same time.
#[derive(Debug, Clone, Default)]
pub struct Clock {
    /// Microseconds ahead of the machine's clock.
    ahead: Arc<AtomicI64>,
}

impl Clock {
    /// The time, in the steps in which the database keeps it.
    pub fn now(&self) -> Timestamp {
        let micros = Utc::now().timestamp_micros() + self.ahead.load(Ordering::Relaxed);
        DateTime::from_timestamp_micros(micros).unwrap_or_default()
    }

    /// Puts the clock forward, for tests of what happens with time.
    pub fn advance(&self, by: Duration) {
        let by = by.num_microseconds().unwrap_or(i64::MAX / 4);
        self.ahead.fetch_add(by, Ordering::Relaxed);
    }
}
