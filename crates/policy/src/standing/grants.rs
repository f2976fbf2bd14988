//! Rights to relay for a while: what POP-before-SMTP gave.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use ipnet::IpNet;
use parking_lot::RwLock;
use serde::{Deserialize, Serialize};

use crate::networks::Networks;

/// The largest networks that one right may be for: those of one household or office.
const SHORTEST_V4: u8 = 24;
const SHORTEST_V6: u8 = 48;

/// A right that ends by itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TemporaryGrant {
    /// Who has it.
    pub network: IpNet,
    /// Until when, in milliseconds since 1970.
    pub until: u64,
    /// Why, as whoever gave it said.
    pub why: String,
}

impl TemporaryGrant {
    /// How long it still counts. `None`: no more.
    pub fn left(&self, now: SystemTime) -> Option<Duration> {
        let until = SystemTime::UNIX_EPOCH + Duration::from_millis(self.until);
        until.duration_since(now).ok().filter(|left| !left.is_zero())
    }
}

/// Why a right is not given.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum GrantError {
    /// More than one household.
    #[error(
        "{0} is too large for a temporary grant: a /{SHORTEST_V4} (IPv4) or /{SHORTEST_V6} (IPv6) at most; list a network of \
         your own in relay.trusted_networks"
    )]
    TooLarge(IpNet),
    /// As many as there may be.
    #[error(
        "there are {0} temporary grants, as many as relay.temporary.max_grants allows: revoke some, or raise it"
    )]
    TooMany(usize),
}

/// All rights of this kind, in force or just ended.
#[derive(Debug, Default)]
pub struct TemporaryGrants {
    table: RwLock<Table>,
    given: AtomicU64,
}

#[derive(Debug, Default)]
struct Table {
    grants: BTreeMap<IpNet, TemporaryGrant>,
    by_address: Networks<IpNet>,
}

impl Table {
    fn check(&self, network: IpNet, most: usize, now: SystemTime) -> Result<(), GrantError> {
        let shortest = if network.addr().is_ipv4() { SHORTEST_V4 } else { SHORTEST_V6 };
        if network.prefix_len() < shortest {
            return Err(GrantError::TooLarge(network));
        }
        if self.grants.len() < most || self.grants.contains_key(&network.trunc()) {
            return Ok(());
        }
        match self.in_force(now) {
            in_force if in_force >= most => Err(GrantError::TooMany(in_force)),
            _ => Ok(()),
        }
    }

    fn in_force(&self, now: SystemTime) -> usize {
        self.grants.values().filter(|grant| grant.left(now).is_some()).count()
    }

    fn index(&mut self) {
        self.by_address = self.grants.keys().map(|network| (*network, *network)).collect();
    }
}

impl TemporaryGrants {
    /// The right that the address has now.
    pub fn find(&self, address: IpAddr, now: SystemTime) -> Option<TemporaryGrant> {
        let table = self.table.read();
        if table.grants.is_empty() {
            return None;
        }
        let mut grants = table.by_address.matching(address).filter_map(|network| table.grants.get(network));
        grants.find(|grant| grant.left(now).is_some()).cloned()
    }

    /// Whether a right for this network could be given.
    ///
    /// # Errors
    /// [`GrantError`].
    pub fn check(&self, network: IpNet, most: usize, now: SystemTime) -> Result<(), GrantError> {
        self.table.read().check(network, most, now)
    }

    /// Gives a right, in the place of one for the same network, which is the answer. Those that have ended make room.
    ///
    /// # Errors
    /// [`GrantError`]; nothing has changed then.
    pub fn give(
        &self,
        grant: TemporaryGrant,
        most: usize,
        now: SystemTime,
    ) -> Result<Option<TemporaryGrant>, GrantError> {
        let mut table = self.table.write();
        table.check(grant.network, most, now)?;
        let network = grant.network.trunc();
        if table.grants.len() >= most {
            table.grants.retain(|_, grant| grant.left(now).is_some());
            table.index();
        }
        let former = table.grants.insert(network, TemporaryGrant { network, ..grant });
        if former.is_none() {
            table.by_address.insert(network, network);
        }
        self.given.fetch_add(1, Ordering::Relaxed);
        Ok(former)
    }

    /// Puts one back in its place, when a change cannot be kept.
    pub fn put_back(&self, grant: TemporaryGrant) {
        let mut table = self.table.write();
        table.grants.insert(grant.network.trunc(), grant);
        table.index();
    }

    /// How many were given since the start, those given anew included.
    pub fn given(&self) -> u64 {
        self.given.load(Ordering::Relaxed)
    }

    /// How many are in force.
    pub fn in_force(&self, now: SystemTime) -> usize {
        self.table.read().in_force(now)
    }

    /// Takes a right back. `None`: there is none for this network.
    pub fn revoke(&self, network: IpNet) -> Option<TemporaryGrant> {
        let mut table = self.table.write();
        let former = table.grants.remove(&network.trunc());
        if former.is_some() {
            table.index();
        }
        former
    }

    /// Those in force, by network.
    pub fn list(&self, now: SystemTime) -> Vec<TemporaryGrant> {
        self.table.read().grants.values().filter(|grant| grant.left(now).is_some()).cloned().collect()
    }

    /// Takes the place of all, after a restart.
    pub fn restore(&self, grants: impl IntoIterator<Item = TemporaryGrant>) {
        let mut table = self.table.write();
        table.grants = grants.into_iter().map(|grant| (grant.network.trunc(), grant)).collect();
        table.index();
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
    use super::*;

    const NOW: SystemTime = SystemTime::UNIX_EPOCH;

    fn grant(network: &str, seconds: u64) -> TemporaryGrant {
        TemporaryGrant {
            network: network.parse().unwrap(),
            until: seconds * 1000,
            why: "pop login alice".to_owned(),
        }
    }

    fn address(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn a_right_ends_by_itself() {
        let grants = TemporaryGrants::default();
        grants.give(grant("203.0.113.7/32", 60), 10, NOW).unwrap();
        assert_eq!(grants.find(address("::ffff:203.0.113.7"), NOW).unwrap().why, "pop login alice");
        assert!(grants.find(address("203.0.113.8"), NOW).is_none());
        let later = NOW + Duration::from_secs(60);
        assert!(grants.find(address("203.0.113.7"), later).is_none());
        assert!(grants.list(later).is_empty());
    }

    #[test]
    fn a_right_of_a_network_goes_on_when_that_of_one_address_has_ended() {
        let grants = TemporaryGrants::default();
        grants.give(grant("203.0.113.0/24", 100), 10, NOW).unwrap();
        grants.give(grant("203.0.113.7/32", 10), 10, NOW).unwrap();
        let found = grants.find(address("203.0.113.7"), NOW + Duration::from_secs(20)).unwrap();
        assert_eq!(found.network.to_string(), "203.0.113.0/24");
    }

    #[test]
    fn rights_are_taken_back_and_given_anew() {
        let grants = TemporaryGrants::default();
        grants.give(grant("2001:db8::/64", 60), 10, NOW).unwrap();
        grants.give(grant("2001:db8::/64", 90), 10, NOW).unwrap();
        assert_eq!(grants.list(NOW).len(), 1);
        assert!(grants.find(address("2001:db8::9"), NOW + Duration::from_secs(70)).is_some());
        assert!(grants.revoke("2001:db8::/64".parse().unwrap()).is_some());
        assert!(grants.revoke("2001:db8::/64".parse().unwrap()).is_none());
        assert!(grants.find(address("2001:db8::9"), NOW).is_none());
    }

    #[test]
    fn there_are_not_too_many_and_none_is_too_large() {
        let grants = TemporaryGrants::default();
        for large in ["203.0.112.0/23", "2001:db8::/47", "0.0.0.0/0"] {
            assert!(
                matches!(grants.give(grant(large, 60), 10, NOW), Err(GrantError::TooLarge(_))),
                "{large}"
            );
        }
        grants.give(grant("203.0.113.1/32", 10), 2, NOW).unwrap();
        grants.give(grant("203.0.113.2/32", 60), 2, NOW).unwrap();
        let more = grant("203.0.113.3/32", 60);
        assert_eq!(grants.give(more.clone(), 2, NOW), Err(GrantError::TooMany(2)));
        grants.give(more, 2, NOW + Duration::from_secs(10)).unwrap();
        assert!(grants.find(address("203.0.113.3"), NOW).is_some());
        assert!(grants.find(address("203.0.113.1"), NOW).is_none());
        assert_eq!((grants.given(), grants.in_force(NOW + Duration::from_secs(10))), (3, 2));
    }

    #[test]
    fn rights_outlive_a_restart() {
        let (before, after) = (TemporaryGrants::default(), TemporaryGrants::default());
        before.give(grant("203.0.113.7/32", 60), 10, NOW).unwrap();
        after.restore(before.list(NOW));
        assert_eq!(after.list(NOW), before.list(NOW));
        assert!(after.find(address("203.0.113.7"), NOW).is_some());
    }
}
