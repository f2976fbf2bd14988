//! How full the server is: places for sessions, memory for their buffers, answers that are kept back.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use prometheus::IntGauge;
use tokio::sync::watch;

/// Stress ends so many percent of the places below where it begins, so that it does not come and go with each connection.
const HYSTERESIS: usize = 10;
/// From this share of the budget on no new mail is taken.
const NO_MAIL_PERCENT: u64 = 80;
/// From this share of the budget on no new session is begun.
const NO_SESSIONS_PERCENT: u64 = 90;

/// Whether nearly all places are taken. Sessions watch it, so that those that wait learn of it at once.
#[derive(Debug)]
pub(crate) struct Stress(watch::Sender<bool>);

impl Stress {
    pub fn new() -> Self {
        Self(watch::Sender::new(false))
    }

    /// Looks at how many places are taken; tells whether there is stress now, where that is new.
    pub fn weigh(&self, open: usize, places: usize, from_percent: u8) -> Option<bool> {
        let from = usize::from(from_percent);
        let is_at = |percent: usize| open.saturating_mul(100) >= places.saturating_mul(percent);
        let changed = self.0.send_if_modified(|stressed| {
            let now =
                from > 0 && is_at(if *stressed { from.saturating_sub(HYSTERESIS).max(1) } else { from });
            std::mem::replace(stressed, now) != now
        });
        changed.then(|| self.is_on())
    }

    pub fn is_on(&self) -> bool {
        *self.0.borrow()
    }

    pub fn watch(&self) -> watch::Receiver<bool> {
        self.0.subscribe()
    }
}

/// What the budget of the buffers still allows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Room {
    /// Everything.
    Enough,
    /// No new mail.
    NoMail,
    /// No new sessions either.
    NoSessions,
    /// Nothing: what is on its way is given up.
    Spent,
}

/// The memory that the buffers of all sessions take. The gauge that operators see is the count itself.
#[derive(Debug, Clone)]
pub(crate) struct Buffers(IntGauge);

impl Buffers {
    pub fn new(octets: IntGauge) -> Self {
        Self(octets)
    }

    pub fn octets(&self) -> u64 {
        u64::try_from(self.0.get()).unwrap_or(0)
    }

    pub fn room(&self, budget: u64) -> Room {
        let octets = self.octets();
        let is_at = |percent: u64| octets >= budget / 100 * percent;
        match () {
            () if octets >= budget => Room::Spent,
            () if is_at(NO_SESSIONS_PERCENT) => Room::NoSessions,
            () if is_at(NO_MAIL_PERCENT) => Room::NoMail,
            () => Room::Enough,
        }
    }

    /// The share of one session, which is nothing yet.
    pub fn share(&self) -> Held {
        Held { buffers: self.clone(), octets: 0 }
    }
}

/// What one session holds; given back when it is dropped.
#[derive(Debug)]
pub(crate) struct Held {
    buffers: Buffers,
    octets: i64,
}

impl Held {
    pub fn set(&mut self, octets: usize) {
        let octets = i64::try_from(octets).unwrap_or(i64::MAX);
        if octets != self.octets {
            self.buffers.0.add(octets - self.octets);
            self.octets = octets;
        }
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.buffers.0.sub(self.octets);
    }
}

/// Sessions whose answer is kept back.
#[derive(Debug, Clone)]
pub(crate) struct Delays {
    now: Arc<AtomicUsize>,
    gauge: IntGauge,
}

impl Delays {
    pub fn new(gauge: IntGauge) -> Self {
        Self { now: Arc::default(), gauge }
    }

    /// One more, if there may be.
    pub fn begin(&self, most: usize) -> Option<Delay> {
        let more = |now: usize| (now < most).then_some(now + 1);
        self.now.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more).ok()?;
        self.gauge.inc();
        Some(Delay(self.clone()))
    }
}

/// One of them.
#[derive(Debug)]
pub(crate) struct Delay(Delays);

impl Drop for Delay {
    fn drop(&mut self) {
        self.0.now.fetch_sub(1, Ordering::Relaxed);
        self.0.gauge.dec();
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
    use super::*;

    fn gauge() -> IntGauge {
        IntGauge::new("octets", "of a test").unwrap()
    }

    #[test]
    fn stress_begins_at_its_share_and_ends_well_below_it() {
        let stress = Stress::new();
        let watcher = stress.watch();
        let steps = [(79, None), (80, Some(true)), (79, None), (71, None), (69, Some(false)), (79, None)];
        for (open, told) in steps {
            assert_eq!(stress.weigh(open, 100, 80), told, "{open} of 100");
        }
        assert!(watcher.has_changed().unwrap());
        assert_eq!(stress.weigh(100, 100, 0), None, "turned off");
        assert_eq!(stress.weigh(8, 10, 80), Some(true));
        assert_eq!(stress.weigh(8, 10, 0), Some(false), "turned off by a reload");
        assert_eq!(stress.weigh(1, 10, 5), Some(true));
        assert_eq!(stress.weigh(0, 10, 5), Some(false), "nobody is there");
    }

    #[test]
    fn the_budget_shuts_the_door_step_by_step() {
        let buffers = Buffers::new(gauge());
        let mut held = buffers.share();
        for (octets, room) in [
            (0, Room::Enough),
            (799, Room::Enough),
            (800, Room::NoMail),
            (900, Room::NoSessions),
            (1000, Room::Spent),
            (5000, Room::Spent),
        ] {
            held.set(octets);
            assert_eq!(buffers.room(1000), room, "{octets}");
        }
        let mut other = buffers.share();
        held.set(500);
        other.set(400);
        assert_eq!((buffers.octets(), buffers.room(1000)), (900, Room::NoSessions));
        drop(held);
        assert_eq!(buffers.octets(), 400);
        drop(other);
        assert_eq!(buffers.octets(), 0, "nothing is held by nobody");
    }

    #[test]
    fn so_many_are_delayed_at_once_and_no_more() {
        let delays = Delays::new(gauge());
        let first = delays.begin(2).unwrap();
        let _second = delays.begin(2).unwrap();
        assert!(delays.begin(2).is_none());
        assert_eq!(delays.gauge.get(), 2);
        drop(first);
        assert!(delays.begin(2).is_some());
    }
}
