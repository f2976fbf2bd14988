//! States and outcomes.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use postern_smtp::EnhancedStatus;

/// The name of a queued message: 64 bits that grow with time and are never used twice in a spool. Written as 13
/// characters of Crockford base 32, so that ids sort by age.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct QueueId(pub u64);

impl QueueId {
    /// The id that follows `last`: greater, and growing with the time, so that ids of different spools hardly meet. Its upper
    /// 56 bits are the microseconds since 1970 unless the clock went back.
    pub fn after(last: Self, now: SystemTime) -> Self {
        let since_1970 = now.duration_since(UNIX_EPOCH).unwrap_or_default();
        Self(last.0.saturating_add(1).max((since_1970.as_micros() as u64) << 8))
    }
}

const DIGITS: &[u8; 32] = b"0123456789ABCDEFGHJKMNPQRSTVWXYZ";
const ID_LENGTH: usize = 13;

impl fmt::Display for QueueId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text: String = (0..ID_LENGTH)
            .rev()
            .map(|place| char::from(DIGITS[((self.0 >> (5 * place)) & 31) as usize]))
            .collect();
        f.write_str(&text)
    }
}

/// A text that is no queue id.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not a queue id: 13 characters of 0-9 and A-Z without I, L, O, U")]
pub struct BadQueueId;

impl FromStr for QueueId {
    type Err = BadQueueId;

    fn from_str(text: &str) -> Result<Self, BadQueueId> {
        if text.len() != ID_LENGTH {
            return Err(BadQueueId);
        }
        let mut value: u64 = 0;
        for byte in text.bytes() {
            let digit = DIGITS.iter().position(|d| *d == byte.to_ascii_uppercase()).ok_or(BadQueueId)?;
            // Thirteen digits are 65 bits: the first one must be 0 or 1 ... 15 overflows.
            value = value.checked_mul(32).ok_or(BadQueueId)? | digit as u64;
        }
        Ok(Self(value))
    }
}

/// Where recipients wait together: `mx adatum.test`, `smarthost relay.test:587`, `lmtp ...`, `local`. Only its maker knows more.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Destination(pub Arc<str>);

impl fmt::Display for Destination {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// What became of one recipient in one attempt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// The next hop took responsibility, or the mailbox has it.
    Delivered(Report, Handover),
    /// To be tried again: by the schedule, or after the time the other side asked for.
    Deferred(Report, Option<Duration>),
    /// Never: the sender is told.
    Failed(Report),
}

impl Outcome {
    /// The evidence.
    pub fn report(&self) -> &Report {
        match self {
            Self::Delivered(report, _) | Self::Deferred(report, _) | Self::Failed(report) => report,
        }
    }
}

/// Who can tell a sender more who asked for a report of success (RFC 3461 §5.2).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Handover {
    /// Nobody: the mailbox has it. That it was delivered is reported here.
    Final,
    /// Nobody: the next hop does not know what was asked for. That it was relayed is reported here.
    Relayed,
    /// The next hop, which was asked to.
    Reporting,
}

/// The evidence of an outcome, for operators and reports.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Report {
    /// The Status of RFC 3464 §2.3.4.
    pub status: EnhancedStatus,
    /// The other side's whole reply, or our own words.
    pub text: String,
    /// Whether `text` is an SMTP reply (Diagnostic-Code type smtp) and not our own words.
    pub is_reply: bool,
    /// The host that said it.
    pub host: Option<String>,
    /// `TLSv1.3 verified`, `clear` ...: how the connection was protected.
    pub tls: Option<String>,
    /// When.
    pub at: SystemTime,
}

/// How the destination did, apart from single recipients.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Feedback {
    /// It answered: more connections may be opened.
    Reached,
    /// It could not be reached or turned the connection away: it rests.
    Unreachable(String),
    /// It asked us to slow down (421, 4.7.x): fewer connections.
    SlowDown(String),
    /// Nothing was learnt.
    Nothing,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn queue_ids_are_read_back_in_any_case_and_sort_by_age() {
        for value in [0, 1, 31, 32, 1_795_284_325_000_000 << 8, u64::MAX] {
            let text = QueueId(value).to_string();
            assert_eq!(text.len(), 13);
            assert_eq!(text.to_lowercase().parse(), Ok(QueueId(value)));
        }
        assert!(QueueId(31).to_string() < QueueId(32).to_string());
    }

    #[test]
    fn ids_grow_with_the_time_and_when_the_clock_stands_or_goes_back() {
        let at = |micros| UNIX_EPOCH + Duration::from_micros(micros);
        let first = QueueId::after(QueueId(0), at(1000));
        assert_eq!(first, QueueId(1000 << 8));
        let others = [at(1000), at(7), UNIX_EPOCH - Duration::from_secs(1)];
        let ids = others.into_iter().scan(first, |last, now| {
            *last = QueueId::after(*last, now);
            Some(*last)
        });
        assert_eq!(ids.collect::<Vec<_>>(), [1, 2, 3].map(|more| QueueId(first.0 + more)));
    }

    #[test]
    fn what_is_no_queue_id_is_refused() {
        for text in ["", "0", "ZZZZZZZZZZZZZ", "000000000000U", "00000000000000", "ünïcödéabc"] {
            assert_eq!(text.parse::<QueueId>(), Err(BadQueueId), "{text}");
        }
    }
}
