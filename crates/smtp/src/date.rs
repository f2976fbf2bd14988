//! The date-time of header fields (RFC 5322 §3.3).

use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// `Sat, 21 Nov 2026 18:05:25 +0000`: always UTC, so that a log and a header of two hosts compare at a glance.
///
/// A time before 1970 or beyond what the calendar can say is written as 1970: a clock so wrong must not stop mail.
pub fn rfc5322(time: SystemTime) -> String {
    let seconds = time.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    let timestamp = i64::try_from(seconds).ok().and_then(|s| jiff::Timestamp::from_second(s).ok());
    let date = timestamp.unwrap_or_default().to_zoned(jiff::tz::TimeZone::UTC);
    date.strftime("%a, %d %b %Y %H:%M:%S +0000").to_string()
}

/// `2026-11-21T18:05:25Z`, for people and programs outside SMTP.
pub fn rfc3339(time: SystemTime) -> String {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    let timestamp = i64::try_from(since.as_secs()).ok().and_then(|s| jiff::Timestamp::from_second(s).ok());
    timestamp.unwrap_or_default().to_string()
}

/// A time as FUTURERELEASE writes it, in UTC: `2026-12-31T18:00:00Z` (RFC 4865 §4, RFC 3339 §5.6).
pub fn parse_rfc3339_utc(text: &str) -> Option<SystemTime> {
    let is_written_so = text.is_ascii() && text.as_bytes().get(10) == Some(&b'T') && text.ends_with('Z');
    let time: jiff::Timestamp = text.parse().ok().filter(|_| is_written_so)?;
    UNIX_EPOCH.checked_add(Duration::from_secs(u64::try_from(time.as_second()).ok()?))
}

/// The end that `2026-12-31` (the whole day counts, in UTC) or `2026-12-31T18:00:00Z` names. `None`: neither of them, or
/// before 1970.
pub fn parse_end(text: &str) -> Option<SystemTime> {
    let end = match text.parse::<jiff::Timestamp>() {
        Ok(time) => time,
        Err(_) => {
            let day: jiff::civil::Date = text.parse().ok().filter(|_| text.len() == "2026-12-31".len())?;
            day.tomorrow().ok()?.to_zoned(jiff::tz::TimeZone::UTC).ok()?.timestamp()
        }
    };
    UNIX_EPOCH.checked_add(Duration::from_secs(u64::try_from(end.as_second()).ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_end_is_a_time_or_a_whole_day() {
        let end = |text| parse_end(text).map(rfc3339);
        assert_eq!(end("2026-12-31").as_deref(), Some("2027-01-01T00:00:00Z"));
        assert_eq!(end("2026-12-31T18:00:00+01:00").as_deref(), Some("2026-12-31T17:00:00Z"));
        for text in ["", "tomorrow", "2026-02-30", "2026-12-31 18:00", "1960-01-01"] {
            assert_eq!(end(text), None, "{text}");
        }
    }

    #[test]
    fn dates_are_written_in_utc() {
        let time = UNIX_EPOCH + Duration::from_secs(1_795_284_325);
        assert_eq!(rfc5322(time), "Sat, 21 Nov 2026 18:05:25 +0000");
        assert_eq!(rfc3339(time), "2026-11-21T18:05:25Z");
    }
}
