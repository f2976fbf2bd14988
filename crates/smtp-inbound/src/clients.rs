//! Who is connected, and what each address and network did lately: the limits of clients.
//!
//! Nothing here waits or reads a clock; `now` is the running time of the clock, which nobody sets back. Memory is bounded:
//! connections are counted while they are open, and of what was done lately the newest [`REMEMBERED`] networks are known.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::net::IpAddr;
use std::time::Duration;

use ipnet::IpNet;
use postern_config::protection::{Allowance, Clients};
use postern_smtp::Reply;

use crate::replies;

/// Addresses and networks whose deeds are remembered, in two halves: a flood from a million addresses pushes out what was seen
/// first, and nothing grows. Some 100 octets each.
const REMEMBERED: usize = 64 * 1024;
/// Of so many limits and networks is noted at once that the log has a line about them.
const NOTED: usize = 1024;
/// An IPv6 customer has a whole /64; counting single addresses would count nothing.
const IPV6_CLIENT: u8 = 64;
const MINUTE: Duration = Duration::from_secs(60);
const HOUR: Duration = Duration::from_secs(3600);

/// Who shares a count.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Scope {
    Address,
    Network,
}

/// What is counted over a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Deed {
    /// New connections, by the minute.
    Connection,
    /// Errors, by the hour.
    Error,
    /// Recipients that do not exist, by the hour.
    UnknownRecipient,
}

/// Which limit keeps a client out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Limit {
    /// All places are taken.
    All,
    /// The buffers of all sessions are nearly at their limit.
    Buffers,
    /// Connections at once.
    Open(Scope),
    /// What was done lately.
    Lately(Deed, Scope),
}

impl Limit {
    /// The word in logs and metrics.
    pub fn as_str(self) -> &'static str {
        use Scope::{Address, Network};
        match self {
            Self::All => "all",
            Self::Buffers => "buffers",
            Self::Open(Address) => "address",
            Self::Open(Network) => "network",
            Self::Lately(Deed::Connection, Address) => "address-rate",
            Self::Lately(Deed::Connection, Network) => "network-rate",
            Self::Lately(Deed::Error, Address) => "address-errors",
            Self::Lately(Deed::Error, Network) => "network-errors",
            Self::Lately(Deed::UnknownRecipient, Address) => "address-unknown-recipients",
            Self::Lately(Deed::UnknownRecipient, Network) => "network-unknown-recipients",
        }
    }

    /// What the client is told.
    pub fn reply(self) -> Reply {
        match self {
            Self::All => replies::too_many_connections(),
            Self::Buffers => replies::no_room_for_sessions(),
            Self::Open(scope) => replies::too_many_connections_from(scope),
            Self::Lately(deed, scope) => replies::too_much_lately(deed, scope),
        }
    }

    /// Whether it is about this client; else it is about everybody.
    fn is_of_one(self) -> bool {
        !matches!(self, Self::All | Self::Buffers)
    }

    fn scope(self) -> Scope {
        match self {
            Self::All | Self::Buffers => Scope::Address,
            Self::Open(scope) | Self::Lately(_, scope) => scope,
        }
    }
}

/// Under what a client is counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Keys {
    /// The IPv4 address, or the IPv6 /64.
    address: IpNet,
    /// The network around it; `None` where that is no larger.
    network: Option<IpNet>,
}

impl Keys {
    pub fn of(client: IpAddr, config: &Clients) -> Self {
        let client = client.to_canonical();
        let (own, around) = match client {
            IpAddr::V4(_) => (32, config.ipv4_prefix),
            IpAddr::V6(_) => (IPV6_CLIENT, config.ipv6_prefix),
        };
        let network =
            |length| IpNet::new(client, length).map_or(IpNet::from(client), |network| network.trunc());
        Self { address: network(own), network: (around < own).then(|| network(around)) }
    }

    fn each(self) -> impl Iterator<Item = (Scope, IpNet)> {
        let network = self.network.map(|network| (Scope::Network, network));
        std::iter::once((Scope::Address, self.address)).chain(network)
    }

    /// The IPv4 address, or the IPv6 /64.
    pub fn address(self) -> IpNet {
        self.address
    }

    /// Whom the log names for this limit; `None`: nobody.
    pub fn named(self, limit: Limit) -> Option<IpNet> {
        let named = match limit.scope() {
            Scope::Address => self.address,
            Scope::Network => self.network.unwrap_or(self.address),
        };
        limit.is_of_one().then_some(named)
    }
}

/// How many connections are open.
#[derive(Debug, Default)]
pub(crate) struct Connections {
    pub all: usize,
    by_network: HashMap<IpNet, usize>,
}

/// How many there may be.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Places {
    pub all: usize,
    /// From one address and from one network; `None`: as many as there are.
    pub each: Option<(usize, usize)>,
}

impl Connections {
    /// Whether there is a place for one more.
    pub fn has_place(&self, keys: Keys, places: Places) -> Result<(), Limit> {
        if self.all >= places.all {
            return Err(Limit::All);
        }
        let Some((of_address, of_network)) = places.each else { return Ok(()) };
        for (scope, network) in keys.each() {
            let most = match scope {
                Scope::Address => of_address,
                Scope::Network => of_network,
            };
            if self.by_network.get(&network).is_some_and(|here| *here >= most) {
                return Err(Limit::Open(scope));
            }
        }
        Ok(())
    }

    pub fn add(&mut self, keys: Keys) {
        self.all += 1;
        for (_, network) in keys.each() {
            *self.by_network.entry(network).or_default() += 1;
        }
    }

    pub fn remove(&mut self, keys: Keys) {
        self.all = self.all.saturating_sub(1);
        for (_, network) in keys.each() {
            if let Entry::Occupied(mut here) = self.by_network.entry(network) {
                *here.get_mut() -= 1;
                if *here.get() == 0 {
                    here.remove();
                }
            }
        }
    }
}

/// A count over the last period: that of the period under way, and the part of the one before that is not over yet.
#[derive(Debug, Clone, Copy, Default)]
struct Rolling {
    /// The period under way, counted from the beginning of the clock.
    period: u64,
    now: u32,
    before: u32,
}

impl Rolling {
    fn advance(&mut self, now: Duration, length: Duration) {
        let period = now.as_secs() / length.as_secs();
        self.before = match period.saturating_sub(self.period) {
            0 => return,
            1 => self.now,
            _ => 0,
        };
        (self.period, self.now) = (period, 0);
    }

    fn add(&mut self, count: u32, now: Duration, length: Duration) {
        self.advance(now, length);
        self.now = self.now.saturating_add(count);
    }

    fn count(mut self, now: Duration, length: Duration) -> u32 {
        self.advance(now, length);
        let left = length.as_secs() - now.as_secs() % length.as_secs();
        let before = u64::from(self.before) * left / length.as_secs();
        self.now.saturating_add(u32::try_from(before).unwrap_or(u32::MAX))
    }
}

/// What an address or a network did lately.
#[derive(Debug, Clone, Copy, Default)]
struct History {
    connections: Rolling,
    errors: Rolling,
    unknown: Rolling,
}

impl History {
    fn of(&mut self, deed: Deed) -> (&mut Rolling, Duration) {
        match deed {
            Deed::Connection => (&mut self.connections, MINUTE),
            Deed::Error => (&mut self.errors, HOUR),
            Deed::UnknownRecipient => (&mut self.unknown, HOUR),
        }
    }

    /// The first deed of which there was as much as is allowed.
    fn exceeds(mut self, allowed: Allowance, deeds: &[Deed], now: Duration) -> Option<Deed> {
        deeds.iter().copied().find(|deed| {
            let most = match deed {
                Deed::Connection => allowed.connections_per_minute,
                Deed::Error => allowed.errors_per_hour,
                Deed::UnknownRecipient => allowed.unknown_recipients_per_hour,
            };
            let (count, length) = self.of(*deed);
            most > 0 && count.count(now, length) >= most
        })
    }
}

/// What a session did that counts against its client.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Offences {
    pub errors: u32,
    pub unknown_recipients: u32,
}

impl Offences {
    pub fn is_empty(self) -> bool {
        self == Self::default()
    }
}

/// What all clients did lately.
#[derive(Debug)]
pub(crate) struct Histories {
    young: HashMap<IpNet, History>,
    old: HashMap<IpNet, History>,
    /// As many as each half has.
    half: usize,
}

impl Default for Histories {
    fn default() -> Self {
        Self { young: HashMap::new(), old: HashMap::new(), half: REMEMBERED / 2 }
    }
}

impl Histories {
    /// Counts a new connection, if this client may have one.
    pub fn connect(&mut self, keys: Keys, config: &Clients, now: Duration) -> Result<(), Limit> {
        let deeds = [Deed::UnknownRecipient, Deed::Error, Deed::Connection];
        match self.exceeded(keys, config, &deeds, now) {
            Some(limit) => Err(limit),
            None => {
                self.add(keys, Deed::Connection, 1, now);
                Ok(())
            }
        }
    }

    /// Takes back a connection: it was that of somebody who has logged in.
    pub fn forgive(&mut self, keys: Keys, now: Duration) {
        for (_, network) in keys.each() {
            if let Some(history) = self.young.get_mut(&network) {
                history.connections.advance(now, MINUTE);
                history.connections.now = history.connections.now.saturating_sub(1);
            }
        }
    }

    /// Counts what a session did; the limit that its client is over now, if any.
    pub fn offended(
        &mut self,
        keys: Keys,
        offences: Offences,
        config: &Clients,
        now: Duration,
    ) -> Option<Limit> {
        self.add(keys, Deed::Error, offences.errors, now);
        self.add(keys, Deed::UnknownRecipient, offences.unknown_recipients, now);
        self.exceeded(keys, config, &[Deed::UnknownRecipient, Deed::Error], now)
    }

    fn exceeded(&self, keys: Keys, config: &Clients, deeds: &[Deed], now: Duration) -> Option<Limit> {
        keys.each().find_map(|(scope, network)| {
            let allowed = match scope {
                Scope::Address => config.of_address(),
                Scope::Network => config.of_network(),
            };
            let history = self.young.get(&network).or_else(|| self.old.get(&network))?;
            Some(Limit::Lately(history.exceeds(allowed, deeds, now)?, scope))
        })
    }

    fn add(&mut self, keys: Keys, deed: Deed, count: u32, now: Duration) {
        if count == 0 {
            return;
        }
        for (_, network) in keys.each() {
            let (rolling, length) = self.history(network).of(deed);
            rolling.add(count, now, length);
        }
    }

    fn history(&mut self, network: IpNet) -> &mut History {
        let known = self.old.remove(&network);
        if self.young.len() >= self.half && !self.young.contains_key(&network) {
            self.old = std::mem::take(&mut self.young);
        }
        let young = self.young.entry(network).or_default();
        if let Some(known) = known {
            *young = known;
        }
        young
    }
}

/// One line in the log for each limit and network and minute, however many clients it keeps out.
#[derive(Debug, Default)]
pub(crate) struct Notes(HashMap<(&'static str, Option<IpNet>), Noted>);

#[derive(Debug, Clone, Copy, Default)]
struct Noted {
    /// The minute of the last line.
    minute: u64,
    /// Clients kept out since, without a line.
    silent: u64,
}

/// What a line says beside the limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Note {
    /// Whom it is about; `None`: everybody.
    pub network: Option<IpNet>,
    /// Clients kept out since the last line about the same, without one.
    pub silent: u64,
}

impl Notes {
    /// What the log is to say about this and this network, or about everybody; `None`: it has said it this minute.
    pub fn note(&mut self, what: &'static str, network: Option<IpNet>, now: Duration) -> Option<Note> {
        let minute = now.as_secs() / MINUTE.as_secs() + 1;
        let mut key = (what, network);
        if self.0.len() >= NOTED && !self.0.contains_key(&key) {
            self.0.retain(|_, noted| noted.minute == minute);
        }
        if self.0.len() >= NOTED && !self.0.contains_key(&key) {
            // A line for each of so many networks would be a flood of its own.
            key.1 = None;
        }
        let noted = self.0.entry(key).or_default();
        if noted.minute == minute {
            noted.silent += 1;
            return None;
        }
        let silent = std::mem::take(&mut noted.silent);
        noted.minute = minute;
        Some(Note { network: key.1, silent })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
    use super::*;

    /// In the middle of everything: ten days after the start of the clock.
    const NOW: Duration = Duration::from_secs(10 * 24 * 3600);

    fn keys(client: &str) -> Keys {
        Keys::of(client.parse().unwrap(), &Clients::default())
    }

    fn number(n: u32) -> Keys {
        Keys::of(IpAddr::from((0x0a00_0000 + n).to_be_bytes()), &Clients::default())
    }

    fn few() -> Clients {
        Clients {
            connections_per_minute: 3,
            network_connections_per_minute: 5,
            errors_per_hour: 10,
            network_errors_per_hour: 15,
            unknown_recipients_per_hour: 4,
            network_unknown_recipients_per_hour: 6,
            ..Clients::default()
        }
    }

    fn errors(errors: u32) -> Offences {
        Offences { errors, unknown_recipients: 0 }
    }

    #[test]
    fn an_ipv6_customer_counts_as_one_address_and_ipv4_by_address_and_network() {
        let six = keys("2001:db8:1:2:3::4");
        assert_eq!(six, keys("2001:db8:1:2::5"));
        assert_ne!(six, keys("2001:db8:1:3::5"));
        assert_eq!(six.network, None, "a network no larger than an address counts once");
        let four = keys("192.0.2.1");
        assert_ne!(four.address, keys("192.0.2.2").address);
        assert_eq!(four.network, keys("192.0.2.2").network);
        assert_ne!(four.network, keys("192.0.3.1").network);
        assert_eq!(four, keys("::ffff:192.0.2.1"));
        let wide = Clients { ipv6_prefix: 48, ..Clients::default() };
        let of = |client: &str| Keys::of(client.parse().unwrap(), &wide);
        assert_eq!(of("2001:db8:1:2::5").network, of("2001:db8:1:3::5").network);
    }

    #[test]
    fn connections_at_once_are_limited_by_address_network_and_in_all() {
        let mut open = Connections::default();
        let places = Places { all: 6, each: Some((2, 3)) };
        let mut connect = |client: &str| {
            open.has_place(keys(client), places)?;
            open.add(keys(client));
            Ok(())
        };
        assert_eq!(connect("192.0.2.1"), Ok(()));
        assert_eq!(connect("192.0.2.1"), Ok(()));
        assert_eq!(connect("192.0.2.1"), Err(Limit::Open(Scope::Address)));
        assert_eq!(connect("192.0.2.2"), Ok(()));
        assert_eq!(connect("192.0.2.3"), Err(Limit::Open(Scope::Network)));
        assert_eq!(connect("192.0.3.1"), Ok(()));
        assert_eq!(connect("192.0.4.1"), Ok(()));
        assert_eq!(connect("192.0.5.1"), Ok(()));
        assert_eq!(connect("192.0.6.1"), Err(Limit::All));
        let everywhere = Places { all: 12, each: None };
        assert_eq!(open.has_place(keys("192.0.2.1"), everywhere), Ok(()));
        for client in ["192.0.2.1", "192.0.2.1", "192.0.2.2", "192.0.3.1", "192.0.4.1", "192.0.5.1"] {
            open.remove(keys(client));
        }
        assert_eq!((open.all, open.by_network.len()), (0, 0), "nothing is kept of who is gone");
    }

    #[test]
    fn new_connections_are_limited_by_the_minute() {
        let mut histories = Histories::default();
        let mut connect = |client: &str, after: u64| {
            histories.connect(keys(client), &few(), NOW + Duration::from_secs(after))
        };
        for _ in 0..3 {
            assert_eq!(connect("192.0.2.1", 0), Ok(()));
        }
        assert_eq!(connect("192.0.2.1", 1), Err(Limit::Lately(Deed::Connection, Scope::Address)));
        assert_eq!(connect("192.0.2.2", 1), Ok(()));
        assert_eq!(connect("192.0.2.3", 1), Ok(()));
        assert_eq!(connect("192.0.2.4", 1), Err(Limit::Lately(Deed::Connection, Scope::Network)));
        assert_eq!(connect("192.0.3.1", 1), Ok(()), "another network is not concerned");
        // Half of the next minute gone, half of what was then counts.
        assert_eq!(connect("192.0.2.1", 90), Ok(()));
        assert_eq!(connect("192.0.2.1", 180), Ok(()));
    }

    #[test]
    fn whoever_logs_in_has_not_used_up_a_connection() {
        let mut histories = Histories::default();
        for _ in 0..20 {
            assert_eq!(histories.connect(keys("192.0.2.1"), &few(), NOW), Ok(()));
            histories.forgive(keys("192.0.2.1"), NOW);
        }
    }

    #[test]
    fn errors_and_unknown_recipients_are_limited_by_the_hour() {
        let mut histories = Histories::default();
        let client = keys("192.0.2.1");
        assert_eq!(histories.offended(client, errors(9), &few(), NOW), None);
        let over = Some(Limit::Lately(Deed::Error, Scope::Address));
        assert_eq!(histories.offended(client, errors(1), &few(), NOW), over);
        assert_eq!(histories.connect(client, &few(), NOW).err(), over);
        let unknown = Offences { errors: 0, unknown_recipients: 3 };
        assert_eq!(histories.offended(keys("192.0.2.2"), unknown, &few(), NOW), None);
        let network = Some(Limit::Lately(Deed::UnknownRecipient, Scope::Network));
        assert_eq!(histories.offended(keys("192.0.2.3"), unknown, &few(), NOW), network);
        assert_eq!(histories.connect(keys("192.0.2.9"), &few(), NOW).err(), network);
        assert_eq!(histories.connect(keys("192.0.3.1"), &few(), NOW), Ok(()));
        assert_eq!(histories.connect(client, &few(), NOW + 2 * HOUR), Ok(()), "it is over");
    }

    #[test]
    fn no_limit_is_0() {
        let free = Clients {
            connections_per_minute: 0,
            network_connections_per_minute: 0,
            errors_per_hour: 0,
            network_errors_per_hour: 0,
            ..Clients::default()
        };
        let mut histories = Histories::default();
        for _ in 0..5000 {
            assert_eq!(histories.connect(keys("192.0.2.1"), &free, NOW), Ok(()));
            assert_eq!(histories.offended(keys("192.0.2.1"), errors(9), &free, NOW), None);
        }
    }

    #[test]
    fn a_million_addresses_take_no_more_memory_than_the_newest_of_them() {
        let mut histories = Histories { half: 500, ..Histories::default() };
        for n in 0..1_000_000 {
            histories.connect(number(n * 16), &Clients::default(), NOW).unwrap();
            assert!(histories.young.len() <= 501 && histories.old.len() <= 501);
        }
    }

    #[test]
    fn whoever_is_active_is_not_forgotten_in_a_flood_of_addresses() {
        let mut histories = Histories { half: 500, ..Histories::default() };
        let client = keys("192.0.2.1");
        for n in 0..9 {
            assert_eq!(histories.offended(client, errors(1), &few(), NOW), None);
            for other in 0..100 {
                histories.connect(number((n * 100 + other) << 8), &Clients::default(), NOW).unwrap();
            }
        }
        let over = Some(Limit::Lately(Deed::Error, Scope::Address));
        assert_eq!(histories.offended(client, errors(1), &few(), NOW), over);
    }

    #[test]
    fn a_limit_names_whom_it_is_about() {
        let client = keys("192.0.2.1");
        let named = |limit: Limit| client.named(limit).map(|network| network.to_string());
        assert_eq!(named(Limit::Open(Scope::Network)).as_deref(), Some("192.0.2.0/24"));
        assert_eq!(named(Limit::Lately(Deed::Error, Scope::Address)).as_deref(), Some("192.0.2.1/32"));
        assert_eq!((named(Limit::All), named(Limit::Buffers)), (None, None));
    }

    #[test]
    fn the_log_has_one_line_for_each_limit_and_network_and_minute() {
        let mut notes = Notes::default();
        let (network, other) = (keys("192.0.2.1").network, keys("192.0.3.1").network);
        assert_eq!(notes.note("network", network, NOW), Some(Note { network, silent: 0 }));
        for _ in 0..50 {
            assert_eq!(notes.note("network", network, NOW), None);
        }
        assert!(notes.note("address", network, NOW).is_some());
        assert!(notes.note("network", other, NOW).is_some());
        assert_eq!(notes.note("network", network, NOW + MINUTE), Some(Note { network, silent: 50 }));
    }

    #[test]
    fn a_flood_from_many_networks_floods_no_log() {
        let mut notes = Notes::default();
        let mut note = |n: u32, now| notes.note("address", Some(number(n).address), now);
        let lines = (0..100_000).filter(|n| note(*n, NOW).is_some()).count();
        assert_eq!(lines, NOTED + 1);
        assert!(note(200_000, NOW + MINUTE).is_some());
        assert!(notes.0.len() <= NOTED + 1);
    }
}
