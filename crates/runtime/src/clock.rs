//! The time, and waiting for it.

use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant, SystemTime};

use tokio::sync::watch;

/// A boxed future, so that the traits of this crate can be used as objects.
pub type Pending<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// Wall-clock time. Loops ask it; everything that computes is given `now`.
pub trait Clock: Send + Sync + std::fmt::Debug {
    /// The time now.
    fn now(&self) -> SystemTime;

    /// How long the clock has been running, however often it was set: what it differs from `now` by says whether it was.
    fn running(&self) -> Duration {
        self.now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default()
    }

    /// Ends when `now` has reached `time`. A wall clock that jumps may wake it early: ask again.
    fn until(&self, time: SystemTime) -> Pending<'_, ()>;
}

/// The clock of the system.
#[derive(Debug, Clone, Copy, Default)]
pub struct SystemClock;

/// A wall clock that was set back is noticed within this time.
const LONGEST_SLEEP: Duration = Duration::from_secs(60);

impl Clock for SystemClock {
    fn now(&self) -> SystemTime {
        SystemTime::now()
    }

    fn running(&self) -> Duration {
        static START: OnceLock<Instant> = OnceLock::new();
        START.get_or_init(Instant::now).elapsed()
    }

    fn until(&self, time: SystemTime) -> Pending<'_, ()> {
        Box::pin(async move {
            while let Ok(left) = time.duration_since(SystemTime::now()) {
                if left.is_zero() {
                    break;
                }
                tokio::time::sleep(left.min(LONGEST_SLEEP)).await;
            }
        })
    }
}

/// A clock that stands until it is moved: for tests, and for dry runs at a given time.
#[derive(Debug, Clone)]
pub struct ManualClock(Arc<watch::Sender<Moment>>);

#[derive(Debug, Clone, Copy)]
struct Moment {
    now: SystemTime,
    running: Duration,
}

impl ManualClock {
    /// A clock that stands at `time`.
    pub fn new(time: SystemTime) -> Self {
        let running = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        Self(Arc::new(watch::Sender::new(Moment { now: time, running })))
    }

    /// Moves the clock on and wakes who waits.
    pub fn advance(&self, by: Duration) {
        self.0.send_modify(|moment| {
            moment.now += by;
            moment.running += by;
        });
    }

    /// Sets the clock, forward or back, without any time passing.
    pub fn set(&self, time: SystemTime) {
        self.0.send_modify(|moment| moment.now = time);
    }
}

impl Clock for ManualClock {
    fn now(&self) -> SystemTime {
        self.0.borrow().now
    }

    fn running(&self) -> Duration {
        self.0.borrow().running
    }

    fn until(&self, time: SystemTime) -> Pending<'_, ()> {
        let mut now = self.0.subscribe();
        Box::pin(async move {
            // The sender lives as long as `self`, so waiting cannot fail.
            let _ = now.wait_for(|moment| moment.now >= time).await;
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_that_is_set_has_not_run() {
        let start = SystemTime::UNIX_EPOCH + Duration::from_secs(1000);
        let clock = ManualClock::new(start);
        let before = clock.running();
        clock.advance(Duration::from_secs(5));
        clock.set(start - Duration::from_secs(100));
        assert_eq!(clock.now(), start - Duration::from_secs(100));
        assert_eq!(clock.running() - before, Duration::from_secs(5));
    }
}
