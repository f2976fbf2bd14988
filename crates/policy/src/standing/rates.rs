//! How much of its rate a grant has used.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use parking_lot::Mutex;
use postern_config::relay::Rate;
use serde::{Deserialize, Serialize};

use super::Standing;

/// What has been used, by the label of the grant. Bounded by the grants of the configuration.
#[derive(Debug, Default)]
pub struct Rates {
    used: Mutex<HashMap<String, Bucket>>,
}

/// A bucket that leaks: as much as the rate in its time, and again as it leaks out.
#[derive(Debug, Clone, Copy)]
struct Bucket {
    level: f64,
    at: SystemTime,
}

/// What the recipients of one transaction use of the rates of grants. Given back unless the message is accepted: dropping this
/// does it, however the transaction ends.
#[derive(Debug)]
pub struct Use {
    standing: Arc<Standing>,
    /// By label; a client has few grants.
    taken: HashMap<String, Taken>,
}

/// What is used of one rate.
#[derive(Debug, Clone, Copy)]
struct Taken {
    rate: Rate,
    count: u32,
    /// When the first was taken.
    since: SystemTime,
}

impl Use {
    /// Nothing yet.
    pub fn new(standing: Arc<Standing>) -> Self {
        Self { standing, taken: HashMap::new() }
    }

    /// One more recipient comes by a grant.
    pub fn take(&mut self, label: &str, rate: Rate, now: SystemTime) {
        self.standing.rates.take(label, rate, now);
        let taken = self.taken.entry(label.to_owned()).or_insert(Taken { rate, count: 0, since: now });
        taken.count = taken.count.saturating_add(1);
    }

    /// The message is accepted: they are used.
    pub fn keep(&mut self) {
        self.taken.clear();
    }
}

impl Drop for Use {
    fn drop(&mut self) {
        for (label, taken) in &self.taken {
            self.standing.rates.give_back(label, taken);
        }
    }
}

/// What of a grant stands in the file.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct UsedOfGrant {
    /// Its label.
    label: String,
    /// Recipients in its bucket at that time.
    level: f64,
    /// Milliseconds since 1970.
    at: u64,
}

impl Bucket {
    fn leaked(self, rate: Rate, now: SystemTime) -> f64 {
        // A clock that went back leaks nothing.
        let since = now.duration_since(self.at).unwrap_or_default();
        let leak = f64::from(rate.count) * since.as_secs_f64() / rate.per.as_secs_f64();
        // A rate that was made smaller is used up, and no more than that.
        (self.level.min(f64::from(rate.count)) - leak).max(0.0)
    }
}

impl Rates {
    /// Whether there is room for one more; else in how long.
    ///
    /// # Errors
    /// The time until there is.
    pub fn room(&self, label: &str, rate: Rate, now: SystemTime) -> Result<(), Duration> {
        let level = self.used.lock().get(label).map_or(0.0, |bucket| bucket.leaked(rate, now));
        let excess = level + 1.0 - f64::from(rate.count);
        // A hair of rounding is no excess.
        if excess <= 1e-9 {
            return Ok(());
        }
        Err(rate.per.mul_f64(excess / f64::from(rate.count)))
    }

    /// How much of it is used now, in whole recipients.
    pub fn used(&self, label: &str, rate: Rate, now: SystemTime) -> u32 {
        let level = self.used.lock().get(label).map_or(0.0, |bucket| bucket.leaked(rate, now));
        // The level is between nothing and the rate; what has begun to leak counts as used.
        (level - 1e-9).ceil().max(0.0) as u32
    }

    /// One more was used.
    pub fn take(&self, label: &str, rate: Rate, now: SystemTime) {
        let mut used = self.used.lock();
        let level = used.get(label).map_or(0.0, |bucket| bucket.leaked(rate, now));
        used.insert(label.to_owned(), Bucket { level: level + 1.0, at: now });
    }

    /// So many that were taken since this time are not used after all. What has leaked meanwhile is not given back twice: never
    /// more passes than the rate.
    fn give_back(&self, label: &str, taken: &Taken) {
        if let Some(bucket) = self.used.lock().get_mut(label) {
            let since = bucket.at.duration_since(taken.since).unwrap_or_default();
            let leak = f64::from(taken.rate.count) * since.as_secs_f64() / taken.rate.per.as_secs_f64();
            bucket.level = (bucket.level - (f64::from(taken.count) - leak).max(0.0)).max(0.0);
        }
    }

    /// Forgets grants that are gone.
    pub fn keep(&self, is_kept: impl Fn(&str) -> bool) {
        self.used.lock().retain(|label, _| is_kept(label));
    }

    /// For a file, by label: what has not been used since is the same each time.
    pub fn snapshot(&self) -> Vec<UsedOfGrant> {
        let of_grant = |(label, bucket): (&String, &Bucket)| {
            let at = bucket.at.duration_since(UNIX_EPOCH).unwrap_or_default().as_millis();
            UsedOfGrant {
                label: label.clone(),
                level: bucket.level,
                at: u64::try_from(at).unwrap_or(u64::MAX),
            }
        };
        let mut all: Vec<UsedOfGrant> = self.used.lock().iter().map(of_grant).collect();
        all.sort_unstable_by(|a, b| a.label.cmp(&b.label));
        all
    }

    /// Takes up what was used before a restart; it has leaked meanwhile. A file can hold anything: what it says of the future was
    /// written under a wrong clock, and counts as of now.
    pub fn restore(&self, all: impl IntoIterator<Item = UsedOfGrant>, now: SystemTime) {
        let mut used = self.used.lock();
        for UsedOfGrant { label, level, at } in all.into_iter().filter(|used| used.level.is_finite()) {
            let at = UNIX_EPOCH.checked_add(Duration::from_millis(at)).map_or(now, |at| at.min(now));
            used.insert(label, Bucket { level: level.max(0.0), at });
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
    use super::*;

    #[test]
    fn a_rate_is_used_up_and_comes_back() {
        let rates = Rates::default();
        let rate = Rate::parse("2/m").unwrap();
        let now = SystemTime::UNIX_EPOCH;
        for _ in 0..2 {
            assert_eq!(rates.room("scanner", rate, now), Ok(()));
            rates.take("scanner", rate, now);
        }
        assert_eq!(rates.room("scanner", rate, now), Err(Duration::from_secs(30)));
        assert_eq!(rates.room("other", rate, now), Ok(()));
        assert_eq!((rates.used("scanner", rate, now), rates.used("other", rate, now)), (2, 0));
        let later = now + Duration::from_secs(30);
        assert_eq!(rates.room("scanner", rate, later), Ok(()));
        rates.take("scanner", rate, later);
        assert!(rates.room("scanner", rate, later).is_err());
        assert!(rates.room("scanner", rate, now).is_err(), "a clock that goes back gives nothing");
    }

    #[test]
    fn what_a_transaction_took_is_used_only_when_its_message_is_accepted() {
        let standing = Arc::new(Standing::default());
        let rate = Rate::parse("4/m").unwrap();
        let now = UNIX_EPOCH + Duration::from_secs(1_000_000);
        let used = |now| standing.rates.used("scanner", rate, now);
        let of = |count: usize| {
            let mut taken = Use::new(Arc::clone(&standing));
            (0..count).for_each(|_| taken.take("scanner", rate, now));
            taken
        };
        let (given_up, mut accepted) = (of(3), of(1));
        assert_eq!(used(now), 4);
        drop(given_up);
        assert_eq!(used(now), 1);
        accepted.keep();
        assert_eq!(used(now), 1);
        let slow = of(1);
        let later = now + Duration::from_secs(15);
        let mut other = Use::new(Arc::clone(&standing));
        (0..2).for_each(|_| other.take("scanner", rate, later));
        assert_eq!(used(later), 3);
        drop(slow);
        assert_eq!(used(later), 3, "its place has leaked out already");
    }

    #[test]
    fn what_was_used_outlives_a_restart_and_leaks_meanwhile() {
        let before = Rates::default();
        let rate = Rate::parse("2/m").unwrap();
        let now = UNIX_EPOCH + Duration::from_secs(1_000_000);
        for _ in 0..2 {
            before.take("scanner", rate, now);
        }
        before.take("gone", rate, now);
        before.keep(|label| label != "gone");
        let written = serde_json::to_string(&before.snapshot()).unwrap();
        assert!(!written.contains("gone"), "{written}");
        let after = |seconds| {
            let rates = Rates::default();
            let now = now + Duration::from_secs(seconds);
            rates.restore(serde_json::from_str::<Vec<UsedOfGrant>>(&written).unwrap(), now);
            rates.used("scanner", rate, now)
        };
        assert_eq!((after(0), after(30), after(60)), (2, 1, 0));
    }

    #[test]
    fn a_file_that_says_nonsense_keeps_nobody_out_for_longer_than_the_rate() {
        let rate = Rate::parse("2/m").unwrap();
        let now = UNIX_EPOCH + Duration::from_secs(1_000_000);
        for (level, at) in [(1e300, u64::MAX), (1e300, 1), (-1e300, 2_000_000_000), (0.0, 0), (f64::NAN, 0)] {
            let rates = Rates::default();
            rates.restore([UsedOfGrant { label: "scanner".to_owned(), level, at }], now);
            let later = now + Duration::from_secs(60);
            assert_eq!(rates.used("scanner", rate, later), 0, "{level} {at}");
            for _ in 0..2 {
                assert_eq!(rates.room("scanner", rate, later), Ok(()), "{level} {at}");
                rates.take("scanner", rate, later);
            }
            assert!(rates.room("scanner", rate, later).is_err(), "{level} {at}");
        }
    }
}
