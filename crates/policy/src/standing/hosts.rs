//! Which addresses the host names have that may relay.

use std::collections::HashMap;
use std::net::IpAddr;
use std::time::{Duration, SystemTime};

use parking_lot::RwLock;
use postern_smtp::Domain;

/// A name that DNS does not tell any more keeps its addresses for so long: name servers fail for an hour now and then.
pub const PATIENCE: Duration = Duration::from_secs(3600);

/// The addresses of the names, as they were looked up last.
#[derive(Debug, Default)]
pub struct HostAddresses {
    names: RwLock<HashMap<Domain, Known>>,
}

/// What is known of a name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Known {
    /// Its addresses; never IPv4 in IPv6 form.
    pub addresses: Vec<IpAddr>,
    /// When DNS said so.
    pub at: SystemTime,
    /// Why DNS did not answer the last time, if so.
    pub problem: Option<String>,
}

impl HostAddresses {
    /// What DNS says of a name; none is an answer too.
    pub fn learn(&self, name: &Domain, addresses: Vec<IpAddr>, now: SystemTime) {
        let addresses = addresses.into_iter().map(|address| address.to_canonical()).collect();
        self.names.write().insert(name.clone(), Known { addresses, at: now, problem: None });
    }

    /// DNS did not say.
    pub fn not_told(&self, name: &Domain, problem: String, now: SystemTime) {
        let mut names = self.names.write();
        let known = names.entry(name.clone()).or_insert_with(|| Known {
            addresses: Vec::new(),
            at: now,
            problem: None,
        });
        known.problem = Some(problem);
    }

    /// Forgets names that do not matter any more.
    pub fn keep(&self, is_wanted: impl Fn(&Domain) -> bool) {
        self.names.write().retain(|name, _| is_wanted(name));
    }

    /// Whether the address is one of the name now.
    pub fn has(&self, name: &Domain, address: IpAddr, now: SystemTime) -> bool {
        let names = self.names.read();
        let Some(known) = names.get(name) else { return false };
        let is_fresh =
            known.problem.is_none() || now.duration_since(known.at).is_ok_and(|age| age < PATIENCE);
        is_fresh && known.addresses.contains(&address.to_canonical())
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
    fn silent_name_servers_end_a_right_only_after_a_while() {
        let hosts = HostAddresses::default();
        hosts.learn(&name(), vec![address("203.0.113.7")], NOW);
        hosts.not_told(&name(), "SERVFAIL".to_owned(), NOW + Duration::from_secs(60));
        assert!(hosts.has(&name(), address("203.0.113.7"), NOW + PATIENCE - Duration::from_secs(1)));
        assert!(!hosts.has(&name(), address("203.0.113.7"), NOW + PATIENCE));
        assert_eq!(hosts.known(&name()).unwrap().problem.as_deref(), Some("SERVFAIL"));
        hosts.keep(|_| false);
        assert_eq!(hosts.known(&name()), None);
    }
}
