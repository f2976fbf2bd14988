//! Addresses that may not log in for a while, or not come at all.

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::SystemTime;

use ipnet::IpNet;
use parking_lot::RwLock;
use serde::{Deserialize, Serialize};

use super::window::seconds;

/// Bans at once; some 200 octets each. When there are more, the one that would end first ends now.
const MOST_BANS: usize = 50_000;

/// One of them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ban {
    /// Who: an address, an IPv6 /64, or what an operator named.
    pub network: IpNet,
    /// Since when, in seconds since 1970.
    pub since: u64,
    /// Until when, in seconds since 1970.
    pub until: u64,
    /// Why.
    pub why: String,
    /// An operator made it: then it holds on every port, not only where one can log in.
    #[serde(default)]
    pub by_hand: bool,
}

/// All of them. They end by themselves.
#[derive(Debug, Default)]
pub struct Bans {
    table: RwLock<Table>,
    changes: AtomicU64,
}

#[derive(Debug, Default)]
struct Table {
    bans: HashMap<IpNet, Ban>,
    /// How many there are of each prefix length, of IPv4 and IPv6: a look-up asks for those only.
    lengths: [BTreeMap<u8, usize>; 2],
}

impl Table {
    fn family(network: IpNet) -> usize {
        usize::from(network.addr().is_ipv6())
    }

    fn insert(&mut self, ban: Ban) {
        let network = ban.network;
        if self.bans.insert(network, ban).is_none() {
            *self.lengths[Self::family(network)].entry(network.prefix_len()).or_default() += 1;
        }
    }

    fn remove(&mut self, network: IpNet) -> Option<Ban> {
        let ban = self.bans.remove(&network)?;
        let lengths = &mut self.lengths[Self::family(network)];
        if let Some(count) = lengths.get_mut(&network.prefix_len()) {
            *count -= 1;
            if *count == 0 {
                lengths.remove(&network.prefix_len());
            }
        }
        Some(ban)
    }

    fn remove_ended(&mut self, now: u64) -> usize {
        let ended: Vec<IpNet> =
            self.bans.values().filter(|ban| ban.until <= now).map(|ban| ban.network).collect();
        ended.iter().filter_map(|network| self.remove(*network)).count()
    }
}

impl Bans {
    /// The ban that an address is under now, of those that apply; the smallest network decides.
    pub fn find(&self, client: IpAddr, applies: impl Fn(&Ban) -> bool, now: SystemTime) -> Option<Ban> {
        let table = self.table.read();
        // Mostly there is none.
        if table.bans.is_empty() {
            return None;
        }
        let client = IpNet::from(client.to_canonical());
        let lengths = table.lengths[Table::family(client)].keys().rev();
        let networks = lengths.filter_map(|length| IpNet::new(client.addr(), *length).ok());
        let mut bans = networks.filter_map(|network| table.bans.get(&network.trunc()));
        bans.find(|ban| ban.until > seconds(now) && applies(ban)).cloned()
    }

    /// Bans, in the place of an earlier ban of the same network.
    pub fn add(&self, ban: Ban, now: SystemTime) {
        let mut table = self.table.write();
        if table.bans.len() >= MOST_BANS {
            table.remove_ended(seconds(now));
        }
        if table.bans.len() >= MOST_BANS
            && let Some(first) = table.bans.values().min_by_key(|ban| (ban.by_hand, ban.until))
        {
            let first = first.network;
            table.remove(first);
        }
        table.insert(Ban { network: ban.network.trunc(), ..ban });
        self.changes.fetch_add(1, Ordering::Relaxed);
    }

    /// Lifts a ban.
    pub fn remove(&self, network: IpNet) -> Option<Ban> {
        let former = self.table.write().remove(network.trunc());
        if former.is_some() {
            self.changes.fetch_add(1, Ordering::Relaxed);
        }
        former
    }

    /// Those in force, by network.
    pub fn list(&self, now: SystemTime) -> Vec<Ban> {
        let mut bans: Vec<Ban> =
            self.table.read().bans.values().filter(|ban| ban.until > seconds(now)).cloned().collect();
        bans.sort_unstable_by_key(|ban| ban.network);
        bans
    }

    /// Forgets those that have ended; how many are left.
    pub fn tidy(&self, now: SystemTime) -> usize {
        let is_due = self.table.read().bans.values().any(|ban| ban.until <= seconds(now));
        if is_due && self.table.write().remove_ended(seconds(now)) > 0 {
            self.changes.fetch_add(1, Ordering::Relaxed);
        }
        self.table.read().bans.len()
    }

    /// Grows with every change.
    pub fn changes(&self) -> u64 {
        self.changes.load(Ordering::Relaxed)
    }

    /// Takes up those from before a restart.
    pub fn restore(&self, bans: impl IntoIterator<Item = Ban>) {
        let mut table = self.table.write();
        for ban in bans.into_iter().take(MOST_BANS) {
            table.insert(Ban { network: ban.network.trunc(), ..ban });
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
    use std::time::Duration;

    use super::*;

    const NOW: SystemTime = SystemTime::UNIX_EPOCH;

    fn ban(network: &str, until: u64) -> Ban {
        Ban { network: network.parse().unwrap(), since: 0, until, why: String::new(), by_hand: false }
    }

    fn found(bans: &Bans, address: &str, at: u64) -> Option<String> {
        let now = NOW + Duration::from_secs(at);
        bans.find(address.parse().unwrap(), |_| true, now).map(|ban| ban.network.to_string())
    }

    #[test]
    fn a_ban_is_found_by_address_and_ends_by_itself() {
        let bans = Bans::default();
        assert_eq!(found(&bans, "198.51.100.9", 0), None);
        bans.add(ban("198.51.100.9/32", 60), NOW);
        bans.add(ban("2001:db8:1:2::/64", 60), NOW);
        bans.add(ban("198.51.100.0/24", 100), NOW);
        assert_eq!(found(&bans, "::ffff:198.51.100.9", 59).unwrap(), "198.51.100.9/32");
        assert_eq!(found(&bans, "198.51.100.9", 60).unwrap(), "198.51.100.0/24");
        assert_eq!(found(&bans, "2001:db8:1:2:3::4", 0).unwrap(), "2001:db8:1:2::/64");
        assert_eq!(found(&bans, "2001:db8:1:3::4", 0), None);
        assert_eq!(bans.tidy(NOW + Duration::from_secs(60)), 1);
        assert_eq!(bans.list(NOW).len(), 1);
        assert!(bans.remove("198.51.100.77/24".parse().unwrap()).is_some());
        assert_eq!(found(&bans, "198.51.100.9", 0), None);
        assert!(bans.table.read().lengths.iter().all(BTreeMap::is_empty));
    }

    #[test]
    fn a_small_ban_that_does_not_apply_hides_no_larger_one() {
        let bans = Bans::default();
        bans.add(ban("198.51.100.9/32", 60), NOW);
        bans.add(Ban { by_hand: true, ..ban("198.51.100.0/24", 60) }, NOW);
        let client = "198.51.100.9".parse().unwrap();
        assert_eq!(bans.find(client, |ban| ban.by_hand, NOW).unwrap().network.prefix_len(), 24);
        assert_eq!(bans.find(client, |_| true, NOW).unwrap().network.prefix_len(), 32);
    }

    #[test]
    fn bans_outlive_a_restart() {
        let (before, after) = (Bans::default(), Bans::default());
        before.add(ban("198.51.100.9/32", 60), NOW);
        after.restore(before.list(NOW));
        assert_eq!(after.list(NOW), before.list(NOW));
        assert!(found(&after, "198.51.100.9", 0).is_some());
    }

    #[test]
    fn there_are_not_too_many() {
        let bans = Bans::default();
        let hand = Ban { by_hand: true, ..ban("203.0.113.1/32", 1) };
        let address = |n: usize| IpNet::from(IpAddr::from((n as u32).to_be_bytes()));
        bans.restore(
            (0..MOST_BANS).map(|n| Ban { network: address(n), ..ban("0.0.0.0/32", 100 + n as u64) }),
        );
        bans.add(Ban { until: 1_000_000, ..hand }, NOW);
        assert_eq!(bans.list(NOW).len(), MOST_BANS);
        assert_eq!(found(&bans, "0.0.0.0", 0), None, "the one that would end first");
        assert!(found(&bans, "0.0.0.1", 0).is_some() && found(&bans, "203.0.113.1", 0).is_some());
    }
}
