//! Times to come: how long until then, or which.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use postern_config::units::parse_duration;

/// A time to come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum When {
    /// So long from now on.
    In(Duration),
    /// In seconds since 1970.
    At(u64),
}

impl When {
    /// In seconds since 1970, a part of a second counted as a whole one.
    pub fn seconds(self, now: SystemTime) -> u64 {
        match self {
            Self::At(seconds) => seconds,
            Self::In(duration) => {
                let since = now.duration_since(UNIX_EPOCH).unwrap_or_default().saturating_add(duration);
                since.as_secs() + u64::from(since.subsec_nanos() > 0)
            }
        }
    }
}

/// A duration such as `2h`, or a time as RFC 3339 writes it.
///
/// # Errors
/// The text says what is accepted.
pub fn when(text: &str) -> Result<When, String> {
    if let Ok(seconds) = time(text) {
        return Ok(When::At(seconds));
    }
    let usage = |_| format!("{text:?}: write a duration such as 2h, or a time such as 2026-11-21T18:05:25Z");
    parse_duration(text).map(When::In).map_err(usage)
}

/// A time as RFC 3339 writes it, in seconds since 1970.
///
/// # Errors
/// The text says what is accepted.
pub fn time(text: &str) -> Result<u64, String> {
    let usage = || format!("{text:?}: write a time such as 2026-11-21T18:05:25Z");
    let time: jiff::Timestamp = text.parse().map_err(|_| usage())?;
    u64::try_from(time.as_second()).map_err(|_| format!("{text:?} is before 1970"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_durations_or_rfc_3339() {
        let now = UNIX_EPOCH + Duration::from_millis(1_000_500);
        let seconds = |text| when(text).map(|when| when.seconds(now));
        assert_eq!(seconds("2m"), Ok(1121));
        assert_eq!(seconds("500ms"), Ok(1001));
        assert_eq!(seconds("2026-11-21T18:05:25Z"), Ok(1_795_284_325));
        assert_eq!(seconds("2026-11-21T19:05:25+01:00"), Ok(1_795_284_325));
        for text in ["", "noon", "-1h", "2026-11-21", "1960-01-01T00:00:00Z"] {
            assert!(when(text).is_err(), "{text}");
        }
        assert!(time("2h").is_err());
    }
}
