//! Counts over the last so many minutes or hours, in a fixed number of pieces.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

/// A count over the last `N - 1` steps at least, and `N` at most: what was counted goes out of it in whole steps.
#[derive(Debug, Clone)]
pub(crate) struct Window<const STEP: u64, const N: usize> {
    /// The step that is going on, counted from 1970.
    latest: u64,
    /// By step modulo `N`.
    counts: [u32; N],
}

/// The last hour, in minutes.
pub(crate) type Hour = Window<60, 61>;
/// The last day, in half hours.
pub(crate) type Day = Window<1800, 49>;

/// What of it stands in a file: the steps that are not empty.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub(crate) struct Steps(Vec<(u64, u32)>);

impl<const STEP: u64, const N: usize> Default for Window<STEP, N> {
    fn default() -> Self {
        Self { latest: 0, counts: [0; N] }
    }
}

pub(crate) fn seconds(now: SystemTime) -> u64 {
    now.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}

impl<const STEP: u64, const N: usize> Window<STEP, N> {
    /// Counts some more.
    pub fn add(&mut self, count: u32, now: SystemTime) {
        self.advance(now);
        let at = self.slot(self.latest);
        self.counts[at] = self.counts[at].saturating_add(count);
    }

    /// Takes back what was counted a moment ago.
    pub fn take_back(&mut self, count: u32, now: SystemTime) {
        self.advance(now);
        let mut left = count;
        for step in (self.latest.saturating_sub(N as u64 - 1)..=self.latest).rev() {
            let at = self.slot(step);
            let taken = left.min(self.counts[at]);
            self.counts[at] -= taken;
            left -= taken;
        }
    }

    /// All of it.
    pub fn total(&mut self, now: SystemTime) -> u64 {
        self.advance(now);
        self.counts.iter().map(|count| u64::from(*count)).sum()
    }

    /// How long until at least so much has gone out of it; `None`: there is not so much in it.
    pub fn until_gone(&mut self, much: u64, now: SystemTime) -> Option<Duration> {
        self.advance(now);
        let mut gone = 0;
        for step in self.latest.saturating_sub(N as u64 - 1)..=self.latest {
            gone += u64::from(self.counts[self.slot(step)]);
            if gone >= much {
                let at = UNIX_EPOCH + Duration::from_secs((step + N as u64) * STEP);
                return Some(at.duration_since(now).unwrap_or_default());
            }
        }
        None
    }

    pub fn steps(&self) -> Steps {
        let first = self.latest.saturating_sub(N as u64 - 1);
        let steps = (first..=self.latest).map(|step| (step, self.counts[self.slot(step)]));
        Steps(steps.filter(|(_, count)| *count > 0).collect())
    }

    /// What was counted before a restart. A file can hold anything.
    pub fn restore(steps: &Steps) -> Self {
        let mut window =
            Self { latest: steps.0.iter().map(|(step, _)| *step).max().unwrap_or(0), counts: [0; N] };
        for (step, count) in &steps.0 {
            if window.latest - step < N as u64 {
                let at = window.slot(*step);
                window.counts[at] = *count;
            }
        }
        window
    }

    fn slot(&self, step: u64) -> usize {
        (step % N as u64) as usize
    }

    fn advance(&mut self, now: SystemTime) {
        let step = seconds(now) / STEP;
        let ahead = step.saturating_sub(self.latest);
        // A clock that went back a little changes nothing; one that went back far was wrong before.
        if ahead >= N as u64 || step + (N as u64) < self.latest {
            *self = Self { latest: step, counts: [0; N] };
            return;
        }
        for step in self.latest + 1..=self.latest + ahead {
            let at = self.slot(step);
            self.counts[at] = 0;
        }
        self.latest += ahead;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(minutes: u64) -> SystemTime {
        UNIX_EPOCH + Duration::from_secs(1_000_000 * 60 + minutes * 60)
    }

    #[test]
    fn what_was_counted_goes_out_after_an_hour() {
        let mut hour = Hour::default();
        hour.add(5, at(0));
        hour.add(3, at(30));
        assert_eq!((hour.total(at(30)), hour.total(at(60)), hour.total(at(61))), (8, 8, 3));
        assert_eq!(hour.total(at(91)), 0);
        assert_eq!(hour.total(at(100_000)), 0);
    }

    #[test]
    fn the_time_of_reset_is_when_enough_has_gone() {
        let mut hour = Hour::default();
        hour.add(5, at(0));
        hour.add(3, at(30));
        let minutes = |much| hour.clone().until_gone(much, at(40)).map(|wait| wait.as_secs() / 60);
        assert_eq!(minutes(1), Some(21));
        assert_eq!(minutes(5), Some(21));
        assert_eq!(minutes(6), Some(51));
        assert_eq!(minutes(9), None);
    }

    #[test]
    fn what_is_taken_back_is_the_latest() {
        let mut hour = Hour::default();
        hour.add(5, at(0));
        hour.add(3, at(1));
        hour.take_back(4, at(2));
        assert_eq!((hour.total(at(2)), hour.total(at(61))), (4, 0));
        hour.take_back(9, at(61));
        assert_eq!(hour.total(at(61)), 0);
    }

    #[test]
    fn a_clock_that_goes_back_loses_little() {
        let mut hour = Hour::default();
        hour.add(5, at(10));
        assert_eq!(hour.total(at(5)), 5);
        hour.add(1, at(5));
        assert_eq!(hour.total(at(71)), 0);
        hour.add(5, at(100_000));
        assert_eq!(hour.total(at(0)), 0, "a year ahead was wrong");
    }

    #[test]
    fn a_window_outlives_a_restart() {
        let mut hour = Hour::default();
        hour.add(5, at(0));
        hour.add(3, at(30));
        let mut again = Hour::restore(&hour.steps());
        assert_eq!((again.total(at(60)), again.total(at(61))), (8, 3));
        let mut wild = Hour::restore(&Steps(vec![(u64::MAX, 1), (0, 7)]));
        assert_eq!(wild.total(at(0)), 0);
    }
}
