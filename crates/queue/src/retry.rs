//! When a recipient is tried again (RFC 5321 §4.5.4.1).

use std::ops::RangeInclusive;
use std::time::{Duration, SystemTime};

use postern_config as config;

/// An interval that the other side asks for counts when it lies between these.
const GRANTED: RangeInclusive<Duration> = Duration::from_secs(60)..=Duration::from_secs(4 * 3600);

/// Until when the recipients of a message are tried.
pub fn expires(config: &config::Queue, received: SystemTime, null_sender: bool) -> SystemTime {
    received + if null_sender { config.bounce_lifetime } else { config.lifetime }
}

/// When a recipient is tried again after `attempts` attempts, the last of them just now. `wished` is the interval that the
/// other side asked for, if it may still be granted; `jitter` is a random number from -1 to 1. `None`: its time is over.
pub fn next_attempt(
    config: &config::queue::Retry,
    expires: SystemTime,
    attempts: u32,
    wished: Option<Duration>,
    jitter: f64,
    now: SystemTime,
) -> Option<SystemTime> {
    if now >= expires {
        return None;
    }
    let wished = wished.filter(is_granted);
    Some(now + wished.unwrap_or_else(|| wait(config, attempts, jitter)))
}

/// No attempt is ever set further ahead than this: one that seems to be was set before the clock was put back.
pub fn horizon(config: &config::queue::Retry) -> Duration {
    config.cap.max(*GRANTED.end())
}

/// Whether an interval that the other side asks for is used.
pub fn is_granted(wished: &Duration) -> bool {
    GRANTED.contains(wished)
}

fn wait(config: &config::queue::Retry, attempts: u32, jitter: f64) -> Duration {
    let exponent = i32::try_from(attempts.saturating_sub(1)).unwrap_or(i32::MAX);
    let grown = config.first.as_secs_f64() * config.growth.max(1.0).powi(exponent);
    let capped = grown.min(config.cap.as_secs_f64());
    let varied = capped * (1.0 + config.jitter.clamp(0.0, 1.0) * jitter.clamp(-1.0, 1.0));
    // Not a number, when the configuration holds such a thing: the cap is always sound.
    Duration::try_from_secs_f64(varied).map_or(config.cap, |wait| wait.min(config.cap))
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: SystemTime = SystemTime::UNIX_EPOCH;

    fn minutes(count: u64) -> Duration {
        Duration::from_secs(60 * count)
    }

    fn waits(attempts: u32, wished: Option<Duration>, jitter: f64) -> Duration {
        let config = config::queue::Retry::default();
        next_attempt(&config, NOW + minutes(7200), attempts, wished, jitter, NOW)
            .and_then(|next| next.duration_since(NOW).ok())
            .unwrap_or_default()
    }

    #[test]
    fn waits_grow_from_five_minutes_to_four_hours() {
        let table: Vec<u64> = [1, 2, 3, 4, 5, 10, 11, 100, u32::MAX]
            .into_iter()
            .map(|attempts| waits(attempts, None, 0.0).as_secs())
            .collect();
        assert_eq!(table, [300, 450, 675, 1012, 1518, 11533, 14400, 14400, 14400]);
    }

    #[test]
    fn jitter_varies_a_wait_and_never_beyond_the_cap() {
        assert_eq!(waits(1, None, -1.0).as_secs(), 255);
        assert_eq!(waits(1, None, 1.0).as_secs(), 345);
        assert!(waits(1, None, 1.0) <= minutes(6));
        assert_eq!(waits(100, None, 1.0), minutes(240));
    }

    #[test]
    fn a_wished_interval_counts_from_a_minute_to_four_hours() {
        assert_eq!(waits(3, Some(minutes(1)), 1.0), minutes(1));
        assert_eq!(waits(3, Some(minutes(240)), 1.0), minutes(240));
        assert_eq!(waits(1, Some(Duration::from_secs(59)), 0.0), minutes(5));
        assert_eq!(waits(1, Some(minutes(241)), 0.0), minutes(5));
    }

    #[test]
    fn nothing_is_tried_after_the_lifetime() {
        let config =
            config::Queue { lifetime: minutes(10), bounce_lifetime: minutes(3), ..config::Queue::default() };
        let end = expires(&config, NOW, false);
        assert!(next_attempt(&config.retry, end, 1, None, 0.0, NOW + minutes(9)).is_some());
        assert_eq!(next_attempt(&config.retry, end, 1, None, 0.0, NOW + minutes(10)), None);
        assert_eq!(expires(&config, NOW, true), NOW + minutes(3));
    }

    #[test]
    fn a_senseless_schedule_waits_for_the_cap() {
        let config =
            config::queue::Retry { growth: f64::NAN, jitter: f64::NAN, ..config::queue::Retry::default() };
        assert!(next_attempt(&config, NOW + minutes(1), 5, None, f64::NAN, NOW).is_some());
    }
}
