//! The time, which a test can stop and put forward.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use chrono::{DateTime, Duration, Utc};
use updraft_model::Timestamp;

/// A clock; its clones show the same time.
#[derive(Debug, Clone, Default)]
pub struct Clock {
    /// Microseconds ahead of the machine's clock, or of when it was stopped.
    ahead: Arc<AtomicI64>,
    /// When it was stopped; zero while it runs.
    stopped: Arc<AtomicI64>,
}

impl Clock {
    /// The time, in the steps in which the database keeps it.
    pub fn now(&self) -> Timestamp {
        let micros = match self.stopped.load(Ordering::Relaxed) {
            0 => Utc::now().timestamp_micros() + self.ahead.load(Ordering::Relaxed),
            // No two things happen at the same time.
            stopped => stopped + self.ahead.fetch_add(1, Ordering::Relaxed),
        };
        DateTime::from_timestamp_micros(micros).unwrap_or_default()
    }

    /// Stops the clock, for tests in which only [`Self::advance`] lets time pass.
    pub fn stop(&self) {
        let now = Utc::now().timestamp_micros();
        self.stopped.store(now, Ordering::Relaxed);
    }

    /// Puts the clock forward, for tests of what happens with time.
    pub fn advance(&self, by: Duration) {
        let by = by.num_microseconds().unwrap_or(i64::MAX / 4);
        self.ahead.fetch_add(by, Ordering::Relaxed);
    }
}
