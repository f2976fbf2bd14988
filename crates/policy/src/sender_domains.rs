//! What is known of the domains that logins send from: what DNS said about them, and whether they are verified.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use parking_lot::{Mutex, RwLock};
use postern_smtp::Domain;

use crate::owners_lock::OwnersLock;
use crate::verification::DomainReport;

/// Domains that are remembered. Only logins can make us ask, so that a busy server stays far below; the oldest go first.
const MOST: usize = 10_000;
/// An answer stays usable so much longer than it is fresh: from the moment it was found to the decision that asked for it.
const LEEWAY: Duration = Duration::from_secs(60);
/// How long the last known owner's lock holds while DNS does not answer (RFC 8767 §5 advises one to three days).
const LONGEST_STALE: Duration = Duration::from_secs(3 * 86_400);

/// The domains of senders. One for the whole life of the daemon.
#[derive(Debug, Default)]
pub struct SenderDomains {
    locks: Memory<OwnersLock>,
    policies: Memory<SenderPolicy>,
    reports: RwLock<HashMap<Domain, Arc<DomainReport>>>,
}

/// What the SPF record of a domain says of this server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SenderPolicy {
    /// All of our addresses may send for the domain.
    Covers,
    /// One may not, or there is no usable record: `fail for 192.0.2.25`, `none: there is no SPF record`.
    DoesNot(String),
}

/// What is known about a domain at this moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Known<T> {
    /// This.
    Answer(Arc<T>),
    /// DNS was asked and did not say; why.
    Trouble(String),
    /// Nobody has asked.
    Nothing,
}

impl SenderDomains {
    /// The owner's lock of a domain. While DNS does not answer, the last known one holds.
    pub fn lock(&self, domain: &Domain, now: SystemTime, refresh: Duration) -> Known<OwnersLock> {
        self.locks.known(domain, now, refresh, LONGEST_STALE)
    }

    /// Whether the owner's lock need not be asked for.
    pub fn is_lock_fresh(&self, domain: &Domain, now: SystemTime, refresh: Duration) -> bool {
        self.locks.is_fresh(domain, now, refresh)
    }

    /// Notes what DNS said about the lock, or why it said nothing.
    pub fn learn_lock(&self, domain: &Domain, answer: Result<OwnersLock, String>, now: SystemTime) {
        self.locks.learn(domain, answer, now);
    }

    /// What the domain's SPF record says of this server. An old answer never stands for one that DNS does not give.
    pub fn policy(&self, domain: &Domain, now: SystemTime, refresh: Duration) -> Known<SenderPolicy> {
        self.policies.known(domain, now, refresh, Duration::ZERO)
    }

    /// Whether the SPF record need not be looked at.
    pub fn is_policy_fresh(&self, domain: &Domain, now: SystemTime, refresh: Duration) -> bool {
        self.policies.is_fresh(domain, now, refresh)
    }

    /// Notes what the SPF record says of this server, or why DNS did not say.
    pub fn learn_policy(&self, domain: &Domain, answer: Result<SenderPolicy, String>, now: SystemTime) {
        self.policies.learn(domain, answer, now);
    }

    /// What is known of the DNS of a `[[domain]]`; that it is pending, where nobody has looked.
    pub fn report(&self, domain: &Domain) -> Arc<DomainReport> {
        self.reports.read().get(domain).cloned().unwrap_or_default()
    }

    /// Notes what is known now.
    pub fn set_report(&self, domain: &Domain, report: DomainReport) {
        self.reports.write().insert(domain.clone(), Arc::new(report));
    }

    /// Forgets domains that are no `[[domain]]` any more: if one comes back, it begins as pending.
    pub fn keep_reports(&self, is_kept: impl Fn(&Domain) -> bool) {
        self.reports.write().retain(|domain, _| is_kept(domain));
    }
}

/// Answers by domain.
#[derive(Debug)]
struct Memory<T>(Mutex<HashMap<Domain, Entry<T>>>);

impl<T> Default for Memory<T> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

#[derive(Debug)]
struct Entry<T> {
    /// When it was last asked for.
    tried: SystemTime,
    /// Why that gave no answer.
    trouble: Option<String>,
    /// The last answer, and when it came.
    answer: Option<(Arc<T>, SystemTime)>,
}

impl<T> Memory<T> {
    fn is_fresh(&self, domain: &Domain, now: SystemTime, refresh: Duration) -> bool {
        self.0.lock().get(domain).is_some_and(|entry| apart(now, entry.tried) < refresh)
    }

    fn known(&self, domain: &Domain, now: SystemTime, refresh: Duration, stale: Duration) -> Known<T> {
        let entries = self.0.lock();
        let usable = |entry: &&Entry<T>| apart(now, entry.tried) <= refresh.saturating_add(LEEWAY);
        let Some(entry) = entries.get(domain).filter(usable) else { return Known::Nothing };
        match (&entry.trouble, &entry.answer) {
            (None, Some((answer, _))) => Known::Answer(answer.clone()),
            (Some(_), Some((answer, came))) if apart(now, *came) <= stale && !stale.is_zero() => {
                Known::Answer(answer.clone())
            }
            (Some(why), _) => Known::Trouble(why.clone()),
            (None, None) => Known::Nothing,
        }
    }

    fn learn(&self, domain: &Domain, answer: Result<T, String>, now: SystemTime) {
        let mut entries = self.0.lock();
        if entries.len() >= MOST && !entries.contains_key(domain) {
            forget_oldest(&mut entries);
        }
        let entry =
            entries.entry(domain.clone()).or_insert(Entry { tried: now, trouble: None, answer: None });
        entry.tried = now;
        match answer {
            Ok(answer) => (entry.trouble, entry.answer) = (None, Some((Arc::new(answer), now))),
            Err(why) => entry.trouble = Some(why),
        }
    }
}

/// Makes room for more than one: looking for the oldest is long work.
fn forget_oldest<T>(entries: &mut HashMap<Domain, Entry<T>>) {
    let mut times: Vec<SystemTime> = entries.values().map(|entry| entry.tried).collect();
    let (_, limit, _) = times.select_nth_unstable(MOST / 10);
    let limit = *limit;
    entries.retain(|_, entry| entry.tried > limit);
}

/// A wall clock may be set back.
fn apart(one: SystemTime, other: SystemTime) -> Duration {
    one.duration_since(other).unwrap_or_else(|error| error.duration())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
    use std::time::UNIX_EPOCH;

    use super::*;

    const REFRESH: Duration = Duration::from_secs(30);

    fn domain(text: &str) -> Domain {
        Domain::parse(text).unwrap()
    }

    fn at(seconds: u64) -> SystemTime {
        UNIX_EPOCH + Duration::from_secs(1_000_000 + seconds)
    }

    #[test]
    fn an_answer_is_fresh_for_a_while_and_usable_a_little_longer() {
        let (domains, adatum) = (SenderDomains::default(), domain("adatum.test"));
        assert_eq!(domains.policy(&adatum, at(0), REFRESH), Known::Nothing);
        domains.learn_policy(&adatum, Ok(SenderPolicy::Covers), at(0));
        assert!(domains.is_policy_fresh(&adatum, at(29), REFRESH));
        assert!(!domains.is_policy_fresh(&adatum, at(30), REFRESH));
        assert_eq!(domains.policy(&adatum, at(80), REFRESH), Known::Answer(Arc::new(SenderPolicy::Covers)));
        assert_eq!(domains.policy(&adatum, at(91), REFRESH), Known::Nothing);
        assert!(!domains.is_lock_fresh(&adatum, at(1), REFRESH));
    }

    #[test]
    fn an_answer_that_is_always_asked_for_again_is_usable_once_it_came() {
        let (domains, adatum) = (SenderDomains::default(), domain("adatum.test"));
        domains.learn_lock(&adatum, Ok(OwnersLock::Open), at(0));
        assert!(!domains.is_lock_fresh(&adatum, at(0), Duration::ZERO));
        assert_eq!(domains.lock(&adatum, at(0), Duration::ZERO), Known::Answer(Arc::new(OwnersLock::Open)));
    }

    #[test]
    fn trouble_leaves_the_last_lock_for_three_days_and_no_sender_policy_at_all() {
        let (domains, adatum) = (SenderDomains::default(), domain("adatum.test"));
        let trouble = || "SERVFAIL".to_owned();
        domains.learn_lock(&adatum, Ok(OwnersLock::Open), at(0));
        domains.learn_policy(&adatum, Ok(SenderPolicy::Covers), at(0));
        domains.learn_policy(&adatum, Err(trouble()), at(100));
        assert_eq!(domains.policy(&adatum, at(100), REFRESH), Known::Trouble(trouble()));
        for (later, known) in [
            (100, Known::Answer(Arc::new(OwnersLock::Open))),
            (3 * 86_400, Known::Answer(Arc::new(OwnersLock::Open))),
            (3 * 86_400 + 1, Known::Trouble(trouble())),
        ] {
            domains.learn_lock(&adatum, Err(trouble()), at(later));
            assert_eq!(domains.lock(&adatum, at(later), REFRESH), known, "{later}");
        }
        domains.learn_lock(&adatum, Ok(OwnersLock::Logins(Default::default())), at(400_000));
        assert!(
            matches!(domains.lock(&adatum, at(400_000), REFRESH), Known::Answer(lock) if *lock != OwnersLock::Open)
        );
    }

    #[test]
    fn memory_is_bounded_and_the_oldest_go_first() {
        let domains = SenderDomains::default();
        for n in 0..(MOST as u64 + 500) {
            domains.learn_lock(&domain(&format!("d{n}.test")), Ok(OwnersLock::Open), at(n));
        }
        let last = MOST as u64 + 499;
        assert!(domains.locks.0.lock().len() <= MOST);
        assert!(domains.is_lock_fresh(&domain(&format!("d{last}.test")), at(last), REFRESH));
        assert_eq!(domains.lock(&domain("d0.test"), at(0), REFRESH), Known::Nothing);
    }
}
