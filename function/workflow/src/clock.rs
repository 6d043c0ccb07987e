//! The time of day, as an argument: the system's, or a test's.

use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use tokio::time::Instant;

/// Where the time of day comes from.
#[derive(Clone, Copy, Debug)]
pub enum Clock {
    /// The machine's. Unlike a monotonic clock it also counts the time in which Cloud Run has frozen the instance.
    System,
    /// Follows the runtime's clock, which a test may pause; `now` is `base` at `start`. Give two instances
    /// different bases to let their clocks differ.
    Runtime { base: DateTime<Utc>, start: Instant },
}

impl Clock {
    pub fn now(&self) -> DateTime<Utc> {
        match self {
            Clock::System => Utc::now(),
            Clock::Runtime { base, start } => after(*base, start.elapsed()),
        }
    }
}

/// `time` + `duration`, at the end of the calendar if it lies beyond.
pub fn after(time: DateTime<Utc>, duration: Duration) -> DateTime<Utc> {
    TimeDelta::from_std(duration)
        .ok()
        .and_then(|delta| time.checked_add_signed(delta))
        .unwrap_or(DateTime::<Utc>::MAX_UTC)
}

/// How long from `now` until `time`; zero if it has passed.
pub fn until(now: DateTime<Utc>, time: DateTime<Utc>) -> Duration {
    (time - now).to_std().unwrap_or(Duration::ZERO)
}
