//! Which networks are too much to let relay: those that nobody owns alone.

use std::net::IpAddr;

use ipnet::IpNet;

use super::Relay;
use crate::source::{Findings, Node};
use crate::surroundings::Surroundings;

/// Whole private ranges (RFC 1918, RFC 4193): whoever trusts one of them trusts networks not yet thought of.
const PRIVATE_RANGES: [&str; 4] = ["10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "fc00::/7"];
/// Ranges that the internet does not reach (RFC 6890, RFC 6598, RFC 5737, RFC 5771, RFC 1112 §4; RFC 4193, RFC 4291 §2.5.6,
/// §2.7). None is part of another.
const UNREACHABLE: [&str; 18] = [
    "0.0.0.0/8",
    "10.0.0.0/8",
    "100.64.0.0/10",
    "127.0.0.0/8",
    "169.254.0.0/16",
    "172.16.0.0/12",
    "192.0.0.0/24",
    "192.0.2.0/24",
    "192.168.0.0/16",
    "198.18.0.0/15",
    "198.51.100.0/24",
    "203.0.113.0/24",
    "224.0.0.0/4",
    "240.0.0.0/4",
    "fc00::/7",
    "fe80::/10",
    "ff00::/8",
    "2001:db8::/32",
];
/// Public addresses that may relay, all entries together: those of a /12 of IPv4 (a million), and a /20 of IPv6, the most
/// that one owner has. A large provider has more IPv4 addresses; that somebody with so many customers knows each of them
/// deserves to be said.
const MOST_V4_PREFIX: u8 = 12;
const MOST_V6_PREFIX: u8 = 20;

/// What to do about a network that is too large.
pub(super) const HELP: &str = "list the networks of your own clients only; if this is meant, set accept_open_relay_risk = true on the entry";

impl Relay {
    /// Networks that are harmless each may together be a range that is not, such as two halves of one; and many of them are
    /// much of the internet, wherever they lie. A grant from anybody to anybody is as good as trust, and whoever a narrower
    /// one names as sender can be claimed to be.
    pub(super) fn check_sum(&self, node: &Node<'_>, findings: &mut Findings<'_>) {
        let is_harmless = |network: IpNet, is_accepted: bool| !is_accepted && danger(network).is_none();
        let trusted = self.trusted_networks.iter().map(|entry| (entry.network, entry.accept_open_relay_risk));
        let trusted: Vec<IpNet> =
            trusted.filter(|(network, accepted)| is_harmless(*network, *accepted)).map(|(n, _)| n).collect();
        let harmless = |grant: &&super::Grant| is_harmless(grant.network, grant.accept_open_relay_risk);
        let granted = |grant: &super::Grant| grant.network;
        let open: Vec<IpNet> =
            self.grants.iter().filter(harmless).filter(|grant| grant.is_open()).map(granted).collect();
        let narrow: Vec<IpNet> =
            self.grants.iter().filter(harmless).filter(|grant| !grant.is_open()).map(granted).collect();
        let of_trusted = IpNet::aggregate(&trusted);
        for sum in &of_trusted {
            if let Some(range) = whole_range(*sum) {
                let message = format!("trusted networks make up {sum} together: {range}");
                findings.error(&node.key("trusted_networks"), message, HELP);
            }
        }
        let all_open = [trusted, open].concat();
        for sum in IpNet::aggregate(&all_open) {
            if let Some(range) = whole_range(sum).filter(|_| !of_trusted.contains(&sum)) {
                let message = format!(
                    "grants to all senders and recipients and trusted networks make up {sum} together: {range}"
                );
                findings.error(&node.key("grants"), message, HELP);
            }
        }
        let key = if all_open.is_empty() || of_trusted.is_empty() { "grants" } else { "trusted_networks" };
        let all = IpNet::aggregate(&[all_open, narrow].concat());
        for is_v4 in [true, false] {
            let public = all.iter().filter(|network| network.addr().is_ipv4() == is_v4).map(public_addresses);
            let public = public.fold(0, u128::saturating_add);
            if public > most(is_v4) {
                let message = format!(
                    "trusted networks and grants hold {} together: {}",
                    amount(public, is_v4),
                    limit(is_v4)
                );
                findings.error(&node.key(key), message, HELP);
            }
        }
    }
}

/// Why nobody should trust the network, if so.
pub(super) fn danger(network: IpNet) -> Option<String> {
    if let Some(range) = whole_range(network) {
        return Some(range);
    }
    let (public, is_v4) = (public_addresses(&network), network.addr().is_ipv4());
    (public > most(is_v4)).then(|| format!("{}: {}", amount(public, is_v4), limit(is_v4)))
}

/// What the network is all of, if it is all of something.
fn whole_range(network: IpNet) -> Option<String> {
    if network.prefix_len() == 0 {
        return Some("a whole address family: an open relay".to_owned());
    }
    let covers = |range: &&&str| range.parse::<IpNet>().is_ok_and(|range| network.contains(&range));
    let range = PRIVATE_RANGES.iter().find(|range| covers(range))?;
    Some(format!("all of the private range {range}"))
}

/// Why nobody should trust the network inside this container, if so.
pub(super) fn gateway_in(network: IpNet, surroundings: &Surroundings) -> Option<String> {
    let gateway = surroundings.gateways.iter().find(|gateway| network.contains(*gateway))?;
    let danger =
        format!("the default gateway {gateway}, as which the whole internet may appear inside a container");
    surroundings.container.then_some(danger)
}

/// Why a network must not be let in for a while, if so: it holds an address that others may seem to come from. `public` are
/// those of `policy.public_addresses`, by which the world knows this server.
pub fn refused_for_a_while(network: IpNet, surroundings: &Surroundings, public: &[IpAddr]) -> Option<String> {
    if let Some(unspecified) = Some(network.network()).filter(IpAddr::is_unspecified) {
        return Some(format!("{unspecified} is no address of a client"));
    }
    if let Some(gateway) = gateway_in(network, surroundings) {
        return Some(format!("that would relay for {gateway}"));
    }
    let own = surroundings.own.iter().chain(public).find(|own| network.contains(&own.to_canonical()))?;
    Some(format!(
        "{} is an address of this server itself: whoever comes through a proxy or a router on it has that address",
        own.to_canonical()
    ))
}

/// How many of its addresses the internet reaches.
fn public_addresses(network: &IpNet) -> u128 {
    let hidden = UNREACHABLE.iter().filter_map(|range| range.parse::<IpNet>().ok());
    let hidden = hidden.map(|range| match (network.contains(&range), range.contains(network)) {
        (true, _) => addresses(&range),
        (false, true) => addresses(network),
        (false, false) => 0,
    });
    addresses(network).saturating_sub(hidden.fold(0, u128::saturating_add))
}

/// All of them; a whole family of IPv6 has one more than can be counted.
fn addresses(network: &IpNet) -> u128 {
    let bits = u32::from(network.max_prefix_len() - network.prefix_len());
    1u128.checked_shl(bits).unwrap_or(u128::MAX)
}

fn most(is_v4: bool) -> u128 {
    1 << if is_v4 { 32 - MOST_V4_PREFIX } else { 128 - MOST_V6_PREFIX }
}

/// IPv6 addresses are counted in networks: nobody can read their number.
fn amount(public: u128, is_v4: bool) -> String {
    match is_v4 {
        true => format!("{public} public addresses"),
        false => format!("{} public networks of the size /48", public >> 80),
    }
}

fn limit(is_v4: bool) -> String {
    let prefix = if is_v4 { MOST_V4_PREFIX } else { MOST_V6_PREFIX };
    format!("a large part of the internet (more than a /{prefix})")
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
    use super::*;

    fn network(text: &str) -> IpNet {
        text.parse().unwrap()
    }

    #[test]
    fn only_what_the_internet_reaches_is_counted() {
        for (text, public) in [
            ("203.0.112.0/20", 4096 - 256),
            ("127.0.0.0/8", 0),
            ("192.168.7.0/24", 0),
            ("24.0.0.0/12", 1 << 20),
            (
                "0.0.0.0/0",
                (1 << 32)
                    - (1 << 24) * 3
                    - (1 << 22)
                    - (1 << 20)
                    - (1 << 17)
                    - (2 << 16)
                    - 4 * 256
                    - (2 << 28),
            ),
            ("fe80::/10", 0),
            ("2001:db8:7::/48", 0),
            ("2a00::/20", 1 << 108),
        ] {
            assert_eq!(public_addresses(&network(text)), public, "{text}");
        }
        assert!(danger(network("24.0.0.0/12")).is_none() && danger(network("2a00::/20")).is_none());
        assert!(danger(network("24.0.0.0/11")).unwrap().contains("2097152 public addresses"));
        assert!(danger(network("2a00::/19")).unwrap().contains("more than a /20"));
    }

    #[test]
    fn addresses_that_others_may_seem_to_have_get_no_right_for_a_while() {
        let address = |text: &str| text.parse::<IpAddr>().unwrap();
        let surroundings = Surroundings {
            container: true,
            gateways: vec![address("172.17.0.1"), address("fd00::1")],
            own: vec![address("172.17.0.2"), address("::1")],
        };
        let refused =
            |text: &str| refused_for_a_while(network(text), &surroundings, &[address("198.51.100.25")]);
        for (text, why) in [
            ("172.17.0.1/32", "gateway 172.17.0.1"),
            ("172.17.0.0/24", "gateway 172.17.0.1"),
            ("fd00::/64", "gateway fd00::1"),
            ("172.17.0.2/32", "172.17.0.2 is an address of this server"),
            ("::1/128", "::1 is an address of this server"),
            ("198.51.100.25/32", "198.51.100.25 is an address of this server"),
            ("0.0.0.0/32", "no address of a client"),
            ("::/128", "no address of a client"),
        ] {
            let said = refused(text).unwrap_or_default();
            assert!(said.contains(why), "{text}: {said}");
        }
        assert_eq!(refused("203.0.113.7/32"), None);
        // On a machine, clients have their own addresses, and the router is somebody.
        let machine = Surroundings { container: false, ..surroundings };
        assert_eq!(refused_for_a_while(network("172.17.0.1/32"), &machine, &[]), None);
    }
}
