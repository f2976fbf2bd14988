//! How much of its rate a grant has used.

use std::collections::HashMap;
use std::time::{Duration, SystemTime};

use parking_lot::Mutex;
use postern_config::relay::Rate;

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

impl Bucket {
    fn leaked(self, rate: Rate, now: SystemTime) -> f64 {
        // A clock that went back leaks nothing.
        let since = now.duration_since(self.at).unwrap_or_default();
        let leak = f64::from(rate.count) * since.as_secs_f64() / rate.per.as_secs_f64();
        (self.level - leak).max(0.0)
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
}
