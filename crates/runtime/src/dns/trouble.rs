//! Whether DNS is dead: lookups fail, and a question that any name server can answer is not answered either.
//!
//! A lookup that fails may be the fault of one domain, whose name servers are down. So nothing follows from failures alone: who wants
//! to know asks once more, for a name that nobody can have asked for before (an answer from the cache would prove nothing).

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use hickory_resolver::lookup::Lookup;
use hickory_resolver::net::{DnsError, NetError};
use hickory_resolver::proto::op::ResponseCode;
use parking_lot::Mutex;

/// Lookups that fail at longer distances than this do not belong together: an attempt is made at least as often while mail waits.
const APART: Duration = Duration::from_secs(3600);

/// What one asker has found out holds for the next one for so long: a display that is refreshed must not wait each time.
const RECENT: Duration = Duration::from_secs(5);

/// DNS that does not answer, as operators are told of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Trouble {
    /// The name servers that are asked.
    pub servers: Vec<SocketAddr>,
    /// How many lookups have failed, 1 or more.
    pub failed: usize,
    /// How long ago the first of them failed.
    pub since: Duration,
    /// What came of the last one.
    pub problem: String,
}

/// Lookups that have failed since DNS was last seen to work.
#[derive(Debug, Default)]
pub(super) struct Failures(Mutex<Option<Run>>);

#[derive(Debug)]
struct Run {
    first: Instant,
    last: Instant,
    failed: usize,
    problem: String,
    /// When it was last asked in vain whether DNS works.
    confirmed: Option<Instant>,
}

impl Failures {
    /// Notes what came of a lookup that somebody needed.
    pub(super) fn note(&self, result: &Result<Lookup, NetError>, now: Instant) {
        if let Err(error) = result
            && !is_answer(error)
        {
            self.add(error.to_string(), now);
        }
    }

    fn add(&self, problem: String, now: Instant) {
        let mut run = self.0.lock();
        let before = run.take().filter(|run| now.saturating_duration_since(run.last) < APART);
        let (first, failed, confirmed) =
            before.map_or((now, 0, None), |run| (run.first, run.failed, run.confirmed));
        *run = Some(Run { first, last: now, failed: failed + 1, problem, confirmed });
    }

    /// Whether it is to be found out what they mean: not where there are none, and not again at once.
    pub(super) fn are_doubtful(&self, now: Instant) -> bool {
        let run = self.0.lock();
        let confirmed =
            |run: &Run| run.confirmed.is_some_and(|at| now.saturating_duration_since(at) < RECENT);
        run.as_ref().is_some_and(|run| !confirmed(run))
    }

    /// DNS does not work.
    pub(super) fn confirm(&self, now: Instant) {
        if let Some(run) = self.0.lock().as_mut() {
            run.confirmed = Some(now);
        }
    }

    /// DNS works: what failed was the fault of the names.
    pub(super) fn forgive(&self) {
        *self.0.lock() = None;
    }

    pub(super) fn trouble(&self, servers: &[SocketAddr], now: Instant) -> Option<Trouble> {
        let run = self.0.lock();
        run.as_ref().map(|run| Trouble {
            servers: servers.to_vec(),
            failed: run.failed,
            since: now.saturating_duration_since(run.first),
            problem: run.problem.clone(),
        })
    }
}

/// That there is no record, or no such name, is an answer.
pub(super) fn is_answer(error: &NetError) -> bool {
    let NetError::Dns(DnsError::NoRecordsFound(none)) = error else { return false };
    matches!(none.response_code, ResponseCode::NXDomain | ResponseCode::NoError)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
    use super::*;

    #[test]
    fn failures_are_counted_until_dns_is_seen_to_work() {
        let (failures, servers) = (Failures::default(), [SocketAddr::from(([192, 0, 2, 53], 53))]);
        let start = Instant::now();
        let minute = Duration::from_secs(60);
        assert!(!failures.are_doubtful(start) && failures.trouble(&servers, start).is_none());
        failures.add("timed out".to_owned(), start);
        assert!(failures.are_doubtful(start));
        failures.confirm(start);
        failures.add("refused".to_owned(), start + minute);
        assert!(!failures.are_doubtful(start + RECENT / 2), "that was found out just now");
        assert!(failures.are_doubtful(start + RECENT));
        let trouble = failures.trouble(&servers, start + 2 * minute).unwrap();
        let problem = "refused".to_owned();
        assert_eq!(trouble, Trouble { servers: servers.to_vec(), failed: 2, since: 2 * minute, problem });
        failures.add("timed out".to_owned(), start + 2 * APART);
        assert_eq!(failures.trouble(&servers, start + 2 * APART).unwrap().failed, 1);
        failures.forgive();
        assert!(failures.trouble(&servers, start + 2 * APART).is_none());
    }
}
