//! Which addresses the host names have that may relay.

use std::collections::HashMap;
use std::net::IpAddr;
use std::time::{Duration, SystemTime};

use parking_lot::RwLock;
use postern_smtp::Domain;

/// A name that DNS does not tell any more keeps its addresses for so long: name servers fail for an hour now and then.
pub const PATIENCE: Duration = Duration::from_secs(3600);
/// For so long after that, or after the first question that was not answered, clients that nothing lets relay are asked to
/// come again: one of them may be the host. Beyond it a name that nobody answers for is nobody's, or one dead name would turn
/// every refusal of strangers into a deferral.
pub const GRACE: Duration = Duration::from_secs(600);

/// The addresses of the names, as they were looked up last.
#[derive(Debug, Default)]
pub struct HostAddresses {
    names: RwLock<HashMap<Domain, Known>>,
}

/// What is known of a name.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Known {
    /// Its addresses; never IPv4 in IPv6 form.
    pub addresses: Vec<IpAddr>,
    /// When DNS said so. `None`: it never did.
    pub at: Option<SystemTime>,
    /// Why DNS did not answer the last time, if so.
    pub problem: Option<String>,
    /// Since when it does not answer, if so.
    pub silent_since: Option<SystemTime>,
}

impl Known {
    /// Whether the addresses may be believed.
    fn is_fresh(&self, now: SystemTime) -> bool {
        self.at.is_some_and(|at| self.problem.is_none() || age(at, now) < PATIENCE)
    }

    /// Whether the host may be anywhere, for now: DNS does not say, and did lately or was just asked for the first time.
    fn is_open(&self, now: SystemTime) -> bool {
        match self.at {
            Some(at) => !self.is_fresh(now) && age(at, now) < PATIENCE + GRACE,
            None => self.silent_since.is_none_or(|since| age(since, now) < GRACE),
        }
    }
}

fn age(at: SystemTime, now: SystemTime) -> Duration {
    now.duration_since(at).unwrap_or_default()
}

impl HostAddresses {
    /// What DNS says of a name; none is an answer too. Whether that is something new.
    pub fn learn(&self, name: &Domain, addresses: Vec<IpAddr>, now: SystemTime) -> bool {
        let mut addresses: Vec<IpAddr> =
            addresses.into_iter().map(|address| address.to_canonical()).collect();
        // Name servers give them in any order.
        addresses.sort();
        addresses.dedup();
        let known = Known { addresses, at: Some(now), problem: None, silent_since: None };
        let mut names = self.names.write();
        let is_new = names.get(name).is_none_or(|old| old.at.is_none() || old.addresses != known.addresses);
        names.insert(name.clone(), known);
        is_new
    }

    /// DNS did not say. Whether it did the last time.
    pub fn not_told(&self, name: &Domain, problem: String, now: SystemTime) -> bool {
        let mut names = self.names.write();
        let known = names.entry(name.clone()).or_default();
        known.silent_since.get_or_insert(now);
        known.problem.replace(problem).is_none()
    }

    /// Forgets names that do not matter any more.
    pub fn keep(&self, is_wanted: impl Fn(&Domain) -> bool) {
        self.names.write().retain(|name, _| is_wanted(name));
    }

    /// Whether the address is one of the name now.
    pub fn has(&self, name: &Domain, address: IpAddr, now: SystemTime) -> bool {
        let names = self.names.read();
        let Some(known) = names.get(name) else { return false };
        known.is_fresh(now) && known.addresses.contains(&address.to_canonical())
    }

    /// The names that were never asked for.
    pub fn never_asked<'n>(&self, names: &'n [Domain]) -> Vec<&'n Domain> {
        let known = self.names.read();
        names.iter().filter(|name| !known.contains_key(*name)).collect()
    }

    /// The first of the names whose addresses are not known now, because DNS did not say, and of which nothing may be
    /// concluded yet.
    pub fn first_unknown<'n>(&self, names: &'n [Domain], now: SystemTime) -> Option<&'n Domain> {
        let known = self.names.read();
        names.iter().find(|name| known.get(*name).is_none_or(|known| known.is_open(now)))
    }

    /// How many names have addresses, and how many DNS did not tell the last time.
    pub fn counts(&self) -> (usize, usize) {
        let names = self.names.read();
        let problems = names.values().filter(|known| known.problem.is_some()).count();
        (names.values().filter(|known| !known.addresses.is_empty()).count(), problems)
    }

    /// What is known of a name.
    pub fn known(&self, name: &Domain) -> Option<Known> {
        self.names.read().get(name).cloned()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
    use super::*;

    const NOW: SystemTime = SystemTime::UNIX_EPOCH;

    fn name() -> Domain {
        Domain::parse("branch.proseware.test").unwrap()
    }

    fn address(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn the_last_answer_counts() {
        let hosts = HostAddresses::default();
        assert!(!hosts.has(&name(), address("203.0.113.7"), NOW));
        hosts.learn(&name(), vec![address("203.0.113.7")], NOW);
        assert!(hosts.has(&name(), address("::ffff:203.0.113.7"), NOW));
        hosts.learn(&name(), vec![address("203.0.113.8")], NOW);
        assert!(!hosts.has(&name(), address("203.0.113.7"), NOW));
        hosts.learn(&name(), Vec::new(), NOW);
        assert!(!hosts.has(&name(), address("203.0.113.8"), NOW));
    }

    #[test]
    fn only_other_addresses_are_news() {
        let hosts = HostAddresses::default();
        let (one, two) = (address("203.0.113.7"), address("203.0.113.8"));
        assert!(hosts.learn(&name(), vec![one, two], NOW));
        assert!(!hosts.learn(&name(), vec![two, one, one], NOW));
        assert!(hosts.learn(&name(), vec![two], NOW));
    }

    #[test]
    fn a_name_that_was_never_told_is_unknown() {
        let (hosts, names) = (HostAddresses::default(), [name()]);
        assert_eq!((hosts.never_asked(&names).len(), hosts.first_unknown(&names, NOW)), (1, Some(&name())));
        hosts.not_told(&name(), "SERVFAIL".to_owned(), NOW);
        let soon = NOW + GRACE - Duration::from_secs(1);
        assert_eq!((hosts.never_asked(&names).len(), hosts.first_unknown(&names, soon)), (0, Some(&name())));
        // Whoever has never answered does not keep strangers waiting; asking again does not either.
        hosts.not_told(&name(), "SERVFAIL".to_owned(), soon);
        assert_eq!(hosts.first_unknown(&names, NOW + GRACE), None);
        // That it does not exist is an answer.
        hosts.learn(&name(), Vec::new(), NOW);
        assert_eq!(hosts.first_unknown(&names, NOW), None);
    }

    #[test]
    fn silent_name_servers_end_a_right_only_after_a_while() {
        let hosts = HostAddresses::default();
        hosts.learn(&name(), vec![address("203.0.113.7")], NOW);
        assert!(hosts.not_told(&name(), "SERVFAIL".to_owned(), NOW));
        assert!(!hosts.not_told(&name(), "SERVFAIL".to_owned(), NOW));
        assert!(hosts.has(&name(), address("203.0.113.7"), NOW + PATIENCE - Duration::from_secs(1)));
        assert!(!hosts.has(&name(), address("203.0.113.7"), NOW + PATIENCE));
        assert_eq!((hosts.first_unknown(&[name()], NOW), hosts.counts()), (None, (1, 1)));
        assert_eq!(hosts.first_unknown(&[name()], NOW + PATIENCE), Some(&name()));
        assert_eq!(hosts.first_unknown(&[name()], NOW + PATIENCE + GRACE), None);
        assert!(!hosts.has(&name(), address("203.0.113.7"), NOW + PATIENCE + GRACE));
        assert_eq!(hosts.known(&name()).unwrap().problem.as_deref(), Some("SERVFAIL"));
        hosts.keep(|_| false);
        assert_eq!(hosts.known(&name()), None);
    }
}
