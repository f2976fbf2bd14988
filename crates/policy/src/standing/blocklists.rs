//! What lists in DNS said of clients (RFC 5782), and how the lists themselves are.

use std::collections::{HashMap, VecDeque};
use std::fmt;
use std::net::{IpAddr, Ipv4Addr};
use std::time::{Duration, SystemTime};

use parking_lot::RwLock;
use postern_config::policy::is_listing;
use postern_smtp::{AddressError, Domain};

/// An answer counts at least so long: all commands of a session are decided with it, and a client that tries again at once is
/// not asked about again.
pub const SHORTEST: Duration = Duration::from_secs(60);
/// And at most so long: who has been removed from a list should not wait for more than resolvers make him wait.
pub const LONGEST: Duration = Duration::from_secs(3600);
/// After so many questions in a row without an answer, a list is left alone: every new client would wait for it.
const SILENT_AFTER: u32 = 3;
/// For how long.
const REST: Duration = Duration::from_secs(60);
/// How often the log is told of a list that is still broken or silent.
const TELL_AGAIN: Duration = Duration::from_secs(3600);
/// Clients of one list whose answers are kept, some 200 octets each. Beyond that the oldest go.
const MOST_CLIENTS: usize = 20_000;
/// Addresses of one answer that are kept; lists give a handful.
const MOST_ADDRESSES: usize = 32;

/// The name that a list is asked for (RFC 5782 §2.1 and §2.4): the octets of an IPv4 address, or the nibbles of an IPv6 one,
/// in reverse order, and the zone. IPv4 in IPv6 form counts as IPv4.
///
/// # Errors
/// A zone that is too long for it.
pub fn query_name(client: IpAddr, zone: &Domain) -> Result<Domain, AddressError> {
    let mut name = String::with_capacity(64 + zone.as_str().len());
    match client.to_canonical() {
        IpAddr::V4(client) => {
            client.octets().iter().rev().for_each(|octet| name += &format!("{octet}."));
        }
        IpAddr::V6(client) => {
            client
                .octets()
                .iter()
                .rev()
                .for_each(|octet| name += &format!("{:x}.{:x}.", octet & 15, octet >> 4));
        }
    }
    name += zone.as_str();
    Domain::parse(&name)
}

/// What DNS answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answered {
    /// These addresses.
    Addresses(Vec<Ipv4Addr>),
    /// That there is nothing: the client is not listed.
    NotListed,
    /// Nothing, in time; why.
    Nothing(String),
}

/// What a list is known to say of a client.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Said {
    /// It is on the list; the answers are sorted.
    Listed(Vec<Ipv4Addr>),
    /// It is not.
    NotListed,
    /// This, which no list says of a client: it is not believed.
    Broken(Ipv4Addr),
    /// Nothing; why.
    Nothing(String),
}

/// What is wrong with a list, as its last answer showed it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Trouble {
    /// It gives answers that mean nothing of the client, such as this.
    Broken(Ipv4Addr),
    /// It does not answer; why.
    Silent(String),
}

impl fmt::Display for Trouble {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Broken(answer) if answer.is_loopback() => {
                write!(
                    f,
                    "answers {answer}: it does not serve this server or its resolver; nobody counts as listed"
                )
            }
            Self::Broken(answer) => {
                write!(
                    f,
                    "answers {answer}, which no list says of a client: it is broken or gone, and not believed"
                )
            }
            Self::Silent(why) => write!(f, "does not answer, and nobody counts as listed: {why}"),
        }
    }
}

/// How often a list was asked since the start, by what came of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Counts {
    /// Clients that are on it.
    pub listed: u64,
    /// Clients that are not.
    pub not_listed: u64,
    /// Answers that mean nothing.
    pub broken: u64,
    /// No answer.
    pub silent: u64,
}

/// How a list is, for those who watch it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Health {
    /// How the list is called.
    pub label: String,
    /// How often it was asked.
    pub counts: Counts,
    /// What is wrong with it now.
    pub trouble: Option<Trouble>,
}

/// The answers that are kept, by zone.
#[derive(Debug, Default)]
pub struct Blocklists {
    zones: RwLock<HashMap<Domain, Zone>>,
}

#[derive(Debug, Default)]
struct Zone {
    label: String,
    answers: HashMap<IpAddr, Kept>,
    /// The clients with the end of their answer, in the order in which they came. An answer that was replaced is still there once.
    order: VecDeque<(SystemTime, IpAddr)>,
    counts: Counts,
    trouble: Option<Trouble>,
    /// Questions in a row that were not answered.
    failures: u32,
    rests_until: Option<SystemTime>,
    /// When the log was told of trouble.
    told: Option<SystemTime>,
}

#[derive(Debug)]
struct Kept {
    said: Said,
    until: SystemTime,
}

impl Blocklists {
    /// What is known now. `None`: nobody has been asked.
    pub fn find(&self, zone: &Domain, client: IpAddr, now: SystemTime) -> Option<Said> {
        let zones = self.zones.read();
        let zone = zones.get(zone)?;
        if let Some(kept) = zone.answers.get(&client.to_canonical()).filter(|kept| now < kept.until) {
            return Some(kept.said.clone());
        }
        let until = zone.rests_until.filter(|until| now < *until)?;
        let why = match &zone.trouble {
            Some(Trouble::Silent(why)) => why.as_str(),
            _ => "no answer",
        };
        let left = until.duration_since(now).unwrap_or_default().as_secs();
        Some(Said::Nothing(format!("{why}; it is left alone for {left} s")))
    }

    /// Keeps what a list, called `label`, answered about a client for `ttl`, within [`SHORTEST`] and [`LONGEST`]. The answer is
    /// what the log should be told of: trouble that is new, or an hour old.
    pub fn learn(
        &self,
        zone: &Domain,
        label: &str,
        client: IpAddr,
        answered: Answered,
        ttl: Duration,
        now: SystemTime,
    ) -> Option<Trouble> {
        let mut zones = self.zones.write();
        let zone = zones.entry(zone.clone()).or_default();
        label.clone_into(&mut zone.label);
        let said = zone.weigh(answered, now);
        zone.keep(client.to_canonical(), said, now + ttl.clamp(SHORTEST, LONGEST));
        zone.news(now)
    }

    /// Nobody could be asked, which is not the fault of the list.
    pub fn not_asked(&self, zone: &Domain, label: &str, client: IpAddr, why: &str, now: SystemTime) {
        let mut zones = self.zones.write();
        let zone = zones.entry(zone.clone()).or_default();
        label.clone_into(&mut zone.label);
        zone.counts.silent += 1;
        zone.keep(client.to_canonical(), Said::Nothing(why.to_owned()), now + SHORTEST);
    }

    /// Forgets lists that are not asked any more.
    pub fn keep(&self, is_asked: impl Fn(&Domain) -> bool) {
        self.zones.write().retain(|zone, _| is_asked(zone));
    }

    /// How the list in a zone is; `None`: it was never asked.
    pub fn health(&self, zone: &Domain) -> Option<Health> {
        self.zones.read().get(zone).map(Zone::health)
    }

    /// How all lists are that were asked.
    pub fn all(&self) -> Vec<Health> {
        self.zones.read().values().map(Zone::health).collect()
    }
}

impl Zone {
    /// What an answer says, and what it says about the list.
    fn weigh(&mut self, answered: Answered, now: SystemTime) -> Said {
        let addresses = match answered {
            Answered::Nothing(why) => {
                self.counts.silent += 1;
                self.failures = self.failures.saturating_add(1);
                self.rests_until = (self.failures >= SILENT_AFTER).then(|| now + REST);
                self.trouble = Some(Trouble::Silent(why.clone()));
                return Said::Nothing(why);
            }
            Answered::NotListed => Vec::new(),
            Answered::Addresses(addresses) => addresses,
        };
        (self.failures, self.rests_until) = (0, None);
        let broken = addresses.iter().find(|address| !is_listing(**address)).copied();
        self.trouble = broken.map(Trouble::Broken);
        let mut listed: Vec<Ipv4Addr> =
            addresses.into_iter().filter(|address| is_listing(*address)).collect();
        listed.sort();
        listed.dedup();
        listed.truncate(MOST_ADDRESSES);
        match (listed.is_empty(), broken) {
            (false, _) => {
                self.counts.listed += 1;
                Said::Listed(listed)
            }
            (true, Some(broken)) => {
                self.counts.broken += 1;
                Said::Broken(broken)
            }
            (true, None) => {
                self.counts.not_listed += 1;
                Said::NotListed
            }
        }
    }

    fn keep(&mut self, client: IpAddr, said: Said, until: SystemTime) {
        self.answers.insert(client, Kept { said, until });
        self.order.push_back((until, client));
        while self.answers.len() > MOST_CLIENTS
            && let Some((until, client)) = self.order.pop_front()
        {
            if self.answers.get(&client).is_some_and(|kept| kept.until == until) {
                self.answers.remove(&client);
            }
        }
        // One that is asked about again and again must not leave more behind than all the others together.
        if self.order.len() > 2 * self.answers.len() + 16 {
            let answers = &self.answers;
            self.order.retain(|(until, client)| answers.get(client).is_some_and(|kept| kept.until == *until));
        }
    }

    /// Trouble that the log has not heard of, or not for an hour.
    fn news(&mut self, now: SystemTime) -> Option<Trouble> {
        let trouble = self.trouble.clone()?;
        let is_due = |told: SystemTime| now.duration_since(told).is_ok_and(|since| since >= TELL_AGAIN);
        if self.told.is_some_and(|told| !is_due(told)) {
            return None;
        }
        self.told = Some(now);
        Some(trouble)
    }

    fn health(&self) -> Health {
        Health { label: self.label.clone(), counts: self.counts, trouble: self.trouble.clone() }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
    use super::*;

    const NOW: SystemTime = SystemTime::UNIX_EPOCH;
    const MINUTE: Duration = Duration::from_secs(60);

    fn zone() -> Domain {
        Domain::parse("zen.example.test").unwrap()
    }

    fn client() -> IpAddr {
        "198.51.100.9".parse().unwrap()
    }

    fn addresses(texts: &[&str]) -> Answered {
        Answered::Addresses(texts.iter().map(|text| text.parse().unwrap()).collect())
    }

    fn listed(texts: &[&str]) -> Said {
        Said::Listed(texts.iter().map(|text| text.parse().unwrap()).collect())
    }

    fn learn(lists: &Blocklists, client: IpAddr, answered: Answered, now: SystemTime) -> Option<Trouble> {
        lists.learn(&zone(), "Zen", client, answered, 10 * MINUTE, now)
    }

    fn name(client: &str) -> String {
        query_name(client.parse().unwrap(), &zone()).unwrap().to_string()
    }

    #[test]
    fn the_address_is_written_backwards_in_front_of_the_zone() {
        assert_eq!(name("192.0.2.99"), "99.2.0.192.zen.example.test");
        assert_eq!(name("::ffff:192.0.2.99"), "99.2.0.192.zen.example.test");
        // The example of RFC 5782 §2.4.
        assert_eq!(
            name("2001:db8:1:2:3:4:567:89ab"),
            "b.a.9.8.7.6.5.0.4.0.0.0.3.0.0.0.2.0.0.0.1.0.0.0.8.b.d.0.1.0.0.2.zen.example.test"
        );
        let long = Domain::parse(&["x"; 120].join(".")).unwrap();
        assert!(query_name("2001:db8::1".parse().unwrap(), &long).is_err());
    }

    #[test]
    fn an_answer_counts_for_its_time_within_bounds() {
        let lists = Blocklists::default();
        assert_eq!(lists.find(&zone(), client(), NOW), None);
        learn(&lists, client(), addresses(&["127.0.0.4", "127.0.0.2", "127.0.0.2"]), NOW);
        let known = listed(&["127.0.0.2", "127.0.0.4"]);
        let mapped = "::ffff:198.51.100.9".parse().unwrap();
        assert_eq!(lists.find(&zone(), mapped, NOW + 9 * MINUTE), Some(known));
        assert_eq!(lists.find(&zone(), client(), NOW + 10 * MINUTE), None);
        for (ttl, until) in [(Duration::ZERO, SHORTEST), (48 * 60 * MINUTE, LONGEST)] {
            lists.learn(&zone(), "Zen", client(), Answered::NotListed, ttl, NOW);
            assert_eq!(lists.find(&zone(), client(), NOW + until - MINUTE / 2), Some(Said::NotListed));
            assert_eq!(lists.find(&zone(), client(), NOW + until), None);
        }
    }

    #[test]
    fn an_answer_that_no_list_gives_is_told_and_not_believed() {
        let lists = Blocklists::default();
        for answer in ["203.0.113.7", "127.255.255.254", "0.0.0.0"] {
            let lists = Blocklists::default();
            let broken = answer.parse().unwrap();
            assert_eq!(learn(&lists, client(), addresses(&[answer]), NOW), Some(Trouble::Broken(broken)));
            assert_eq!(lists.find(&zone(), client(), NOW), Some(Said::Broken(broken)));
        }
        // What is beside it counts.
        learn(&lists, client(), addresses(&["127.0.0.2", "203.0.113.7"]), NOW);
        assert_eq!(lists.find(&zone(), client(), NOW), Some(listed(&["127.0.0.2"])));
        assert!(lists.health(&zone()).unwrap().trouble.is_some());
        // The log hears of it once an hour, and status until the list answers again.
        assert_eq!(learn(&lists, client(), addresses(&["203.0.113.7"]), NOW + MINUTE), None);
        assert!(learn(&lists, client(), addresses(&["203.0.113.7"]), NOW + 60 * MINUTE).is_some());
        assert_eq!(learn(&lists, client(), Answered::NotListed, NOW + 61 * MINUTE), None);
        assert_eq!(lists.health(&zone()).unwrap().trouble, None);
    }

    #[test]
    fn a_silent_list_is_left_alone_for_a_while() {
        let lists = Blocklists::default();
        let other = |n: u8| IpAddr::from([203, 0, 113, n]);
        let silent = || Answered::Nothing("no answer in time".to_owned());
        assert_eq!(
            learn(&lists, other(1), silent(), NOW),
            Some(Trouble::Silent("no answer in time".to_owned()))
        );
        assert_eq!(learn(&lists, other(2), silent(), NOW), None);
        assert_eq!(lists.find(&zone(), client(), NOW), None);
        learn(&lists, other(3), silent(), NOW);
        assert!(
            matches!(lists.find(&zone(), client(), NOW), Some(Said::Nothing(why)) if why.contains("alone"))
        );
        assert_eq!(lists.find(&zone(), client(), NOW + REST), None);
        // One answer and it is asked again; what it said of others holds.
        learn(&lists, other(4), addresses(&["127.0.0.2"]), NOW);
        assert_eq!(lists.find(&zone(), client(), NOW), None);
        assert_eq!(lists.find(&zone(), other(4), NOW), Some(listed(&["127.0.0.2"])));
        // That this server is busy says nothing about the list.
        for _ in 0..5 {
            lists.not_asked(&zone(), "Zen", other(5), "busy", NOW);
        }
        assert_eq!(lists.find(&zone(), client(), NOW), None);
        assert_eq!(lists.find(&zone(), other(5), NOW), Some(Said::Nothing("busy".to_owned())));
        let counts = Counts { listed: 1, silent: 8, ..Counts::default() };
        assert_eq!(lists.all(), [Health { label: "Zen".to_owned(), counts, trouble: None }]);
    }

    #[test]
    fn there_are_never_more_answers_than_allowed_and_the_oldest_go() {
        let lists = Blocklists::default();
        for n in 0..MOST_CLIENTS as u32 + 10 {
            learn(&lists, IpAddr::from(n.to_be_bytes()), Answered::NotListed, NOW);
            lists.learn(
                &zone(),
                "Zen",
                client(),
                Answered::NotListed,
                MINUTE,
                NOW + Duration::from_secs(n.into()),
            );
        }
        let zones = lists.zones.read();
        let kept = &zones[&zone()];
        assert!(kept.answers.len() == MOST_CLIENTS && kept.order.len() <= 2 * MOST_CLIENTS + 16);
        assert!(!kept.answers.contains_key(&IpAddr::from([0, 0, 0, 0])));
        assert!(kept.answers.contains_key(&client()));
    }

    #[test]
    fn lists_that_are_not_asked_any_more_are_forgotten() {
        let lists = Blocklists::default();
        learn(&lists, client(), Answered::NotListed, NOW);
        lists.keep(|name| name == &zone());
        assert_eq!(lists.all().len(), 1);
        lists.keep(|_| false);
        assert_eq!((lists.all(), lists.find(&zone(), client(), NOW)), (Vec::new(), None));
    }
}
