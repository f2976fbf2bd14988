//! Networks by address: which of many is an address in?

use std::collections::HashMap;
use std::net::IpAddr;

use ipnet::IpNet;

/// Values by network. A look-up costs one hash for each prefix length that occurs, however many networks there are.
#[derive(Debug, Clone)]
pub struct Networks<T> {
    v4: Family<T>,
    v6: Family<T>,
    len: usize,
}

/// The networks of one family, by prefix length, the longest first.
#[derive(Debug, Clone)]
struct Family<T> {
    width: u8,
    by_length: Vec<(u8, HashMap<u128, Vec<T>>)>,
}

impl<T> Default for Networks<T> {
    fn default() -> Self {
        let family = |width| Family { width, by_length: Vec::new() };
        Self { v4: family(32), v6: family(128), len: 0 }
    }
}

impl<T> Networks<T> {
    /// How many there are.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Adds a network. One that is there already keeps its values, in the order in which they came.
    pub fn insert(&mut self, network: IpNet, value: T) {
        self.len += 1;
        let (family, bits) = match network {
            IpNet::V4(network) => (&mut self.v4, u128::from(u32::from(network.network()))),
            IpNet::V6(network) => (&mut self.v6, u128::from(network.network())),
        };
        family.insert(network.prefix_len(), bits, value);
    }

    /// The values of all networks that the address is in, those of the smallest first. An IPv4 address in IPv6 form counts
    /// as IPv4.
    pub fn matching(&self, address: IpAddr) -> impl Iterator<Item = &T> {
        let (family, bits) = match address.to_canonical() {
            IpAddr::V4(address) => (&self.v4, u128::from(u32::from(address))),
            IpAddr::V6(address) => (&self.v6, u128::from(address)),
        };
        family.matching(bits)
    }
}

impl<T> Family<T> {
    fn insert(&mut self, length: u8, bits: u128, value: T) {
        let at = self.by_length.binary_search_by(|(other, _)| length.cmp(other)).unwrap_or_else(|at| {
            self.by_length.insert(at, (length, HashMap::new()));
            at
        });
        self.by_length[at].1.entry(bits).or_default().push(value);
    }

    fn matching(&self, bits: u128) -> impl Iterator<Item = &T> {
        self.by_length.iter().flat_map(move |(length, networks)| {
            // All bits of a network of length 0 are host bits: more than a shift may have.
            let host = u32::from(self.width - length);
            let key = bits.checked_shr(host).and_then(|bits| bits.checked_shl(host)).unwrap_or(0);
            networks.get(&key).map(Vec::as_slice).unwrap_or_default()
        })
    }
}

impl<T> FromIterator<(IpNet, T)> for Networks<T> {
    fn from_iter<I: IntoIterator<Item = (IpNet, T)>>(networks: I) -> Self {
        let mut all = Self::default();
        networks.into_iter().for_each(|(network, value)| all.insert(network, value));
        all
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
    use std::net::{Ipv4Addr, Ipv6Addr};

    use ipnet::{Ipv4Net, Ipv6Net};
    use proptest::prelude::*;

    use super::*;

    fn networks(list: &[&'static str]) -> Networks<&'static str> {
        list.iter().map(|text| (text.parse().unwrap(), *text)).collect()
    }

    fn matching(networks: &Networks<&'static str>, address: &str) -> Vec<&'static str> {
        networks.matching(address.parse().unwrap()).copied().collect()
    }

    #[test]
    fn the_smallest_network_comes_first() {
        let all = networks(&["0.0.0.0/0", "192.0.2.0/24", "192.0.2.7/32", "2001:db8::/32", "::/0"]);
        assert_eq!(all.len(), 5);
        assert_eq!(matching(&all, "192.0.2.7"), ["192.0.2.7/32", "192.0.2.0/24", "0.0.0.0/0"]);
        assert_eq!(matching(&all, "198.51.100.9"), ["0.0.0.0/0"]);
        assert_eq!(matching(&all, "2001:db8::1"), ["2001:db8::/32", "::/0"]);
    }

    #[test]
    fn an_ipv4_address_in_ipv6_form_is_ipv4() {
        let all = networks(&["192.0.2.0/24", "::/0"]);
        assert_eq!(matching(&all, "::ffff:192.0.2.9"), ["192.0.2.0/24"]);
    }

    #[test]
    fn one_network_may_have_several_values() {
        let network: IpNet = "192.0.2.0/24".parse().unwrap();
        let all: Networks<u8> = [(network, 1), (network, 2)].into_iter().collect();
        assert_eq!(all.matching("192.0.2.1".parse().unwrap()).copied().collect::<Vec<_>>(), [1, 2]);
    }

    proptest! {
        /// The table says what looking at each network says.
        #[test]
        fn it_finds_what_a_scan_finds(
            v4 in prop::collection::vec((any::<u32>(), 0u8..=32), 0..40),
            v6 in prop::collection::vec((any::<u128>(), 0u8..=128), 0..40),
            address in any::<u128>(),
            near in any::<prop::sample::Index>(),
        ) {
            let v4 = v4.iter().map(|(bits, length)| IpNet::from(Ipv4Net::new(Ipv4Addr::from(*bits), *length).unwrap().trunc()));
            let v6 = v6.iter().map(|(bits, length)| IpNet::from(Ipv6Net::new(Ipv6Addr::from(*bits), *length).unwrap().trunc()));
            let list: Vec<IpNet> = v4.chain(v6).collect();
            let table: Networks<IpNet> = list.iter().map(|network| (*network, *network)).collect();
            let mut addresses = vec![IpAddr::from(Ipv6Addr::from(address)), IpAddr::from(Ipv4Addr::from(address as u32))];
            if !list.is_empty() {
                addresses.push(near.get(&list).broadcast());
            }
            for address in addresses {
                let address = address.to_canonical();
                let mut expected: Vec<IpNet> = list.iter().copied().filter(|network| network.contains(&address)).collect();
                let mut found: Vec<IpNet> = table.matching(address).copied().collect();
                prop_assert!(found.is_sorted_by_key(|network| std::cmp::Reverse(network.prefix_len())));
                expected.sort();
                found.sort();
                prop_assert_eq!(found, expected);
            }
        }
    }
}
