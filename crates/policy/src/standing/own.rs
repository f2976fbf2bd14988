//! The addresses of this machine: who comes from one of them is ourselves.

use std::collections::HashSet;
use std::net::IpAddr;

use ipnet::IpNet;
use parking_lot::RwLock;

/// Those of its interfaces, as the system said last. Loopback is not among them: it has a rule of its own.
#[derive(Debug, Default)]
pub struct OwnAddresses(RwLock<HashSet<IpAddr>>);

impl OwnAddresses {
    /// Takes up what the system says now.
    pub fn set(&self, addresses: impl IntoIterator<Item = IpAddr>) {
        let addresses = addresses.into_iter().map(|address| address.to_canonical());
        let addresses: HashSet<IpAddr> = addresses.filter(|address| !address.is_loopback()).collect();
        *self.0.write() = addresses;
    }

    /// Whether the address is one of them.
    pub fn contains(&self, address: IpAddr) -> bool {
        self.0.read().contains(&address.to_canonical())
    }

    /// One that is in the network, if there is any.
    pub fn within(&self, network: IpNet) -> Option<IpAddr> {
        self.0.read().iter().copied().find(|address| network.contains(address))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
    use super::*;

    #[test]
    fn addresses_are_found_by_themselves_and_by_network() {
        let own = OwnAddresses::default();
        let address = |text: &str| text.parse::<IpAddr>().unwrap();
        own.set([address("127.0.0.1"), address("192.0.2.25"), address("::ffff:192.0.2.26")]);
        assert!(own.contains(address("::ffff:192.0.2.25")) && own.contains(address("192.0.2.26")));
        assert!(!own.contains(address("127.0.0.1")) && !own.contains(address("192.0.2.27")));
        assert!(own.within("192.0.2.0/24".parse().unwrap()).is_some());
        assert_eq!(own.within("198.51.100.0/24".parse().unwrap()), None);
        own.set([]);
        assert!(!own.contains(address("192.0.2.25")));
    }
}
