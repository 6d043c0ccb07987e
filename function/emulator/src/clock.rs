//! The emulator's only source of time.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use tokio::time::Instant;

/// Wall time at the start plus what tokio's clock has measured since, so that a paused runtime pauses the services too.
///
/// `speed` shortens what Google's services take (clusters, jobs, redelivery, ticks); it does not make `now` run faster,
/// because the function under test reads the true time and compares it with the services' timestamps.
#[derive(Clone, Debug)]
pub struct Clock {
    base: DateTime<Utc>,
    start: Instant,
    speed: f64,
    /// Milliseconds that have passed here alone.
    passed: Arc<AtomicU64>,
}

impl Clock {
    pub(crate) fn new(base: DateTime<Utc>, speed: f64) -> Clock {
        let speed = if speed.is_finite() && speed > 0.0 { speed } else { 1.0 };
        Clock { base, start: Instant::now(), speed, passed: Arc::default() }
    }

    /// The services' time.
    pub fn now(&self) -> DateTime<Utc> {
        add(self.base, self.start.elapsed() + Duration::from_millis(self.passed.load(Ordering::Relaxed)))
    }

    /// Lets time pass at once, for the services and for nobody else; what is due happens with the next call.
    pub fn pass(&self, time: Duration) {
        self.passed.fetch_add(u64::try_from(time.as_millis()).unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    /// How long a span of the real service takes here.
    pub fn shortened(&self, real: Duration) -> Duration {
        Duration::try_from_secs_f64(real.as_secs_f64() / self.speed).unwrap_or(Duration::MAX)
    }

    /// Waits until `now` has reached `at`.
    pub(crate) async fn sleep_until(&self, at: DateTime<Utc>) {
        // Tokio's timers end on whole milliseconds and may be early by a fraction of one, hence the loop.
        while let Ok(left) = (at - self.now()).to_std()
            && !left.is_zero()
        {
            tokio::time::sleep(left.max(Duration::from_millis(1))).await;
        }
    }
}

/// `at + span`, or the end of time.
pub(crate) fn add(at: DateTime<Utc>, span: Duration) -> DateTime<Utc> {
    TimeDelta::from_std(span).ok().and_then(|span| at.checked_add_signed(span)).unwrap_or(DateTime::<Utc>::MAX_UTC)
}

pub(crate) fn timestamp(at: DateTime<Utc>) -> prost_types::Timestamp {
    prost_types::Timestamp { seconds: at.timestamp(), nanos: at.timestamp_subsec_nanos().cast_signed() }
}
