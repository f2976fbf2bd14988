//! What a list of addresses (DNSBL, RFC 5782) says with its answer.
//!
//! Only an answer within 127.0.0.0/8 is a listing. Lists that have closed, and resolvers that answer for names that do not
//! exist, give others; 127.255.255.x is how large lists refuse to answer a resolver.

use std::net::{IpAddr, Ipv4Addr};

use postern_smtp::Domain;

/// Every list has this entry (RFC 5782 §5).
pub const TEST_ENTRY: IpAddr = IpAddr::V4(Ipv4Addr::new(127, 0, 0, 2));
/// And never this one.
pub const NO_ENTRY: IpAddr = IpAddr::V4(Ipv4Addr::new(127, 0, 0, 1));

/// What an answer means.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Meaning {
    /// The address is on the list, with these codes.
    Listed(Vec<Ipv4Addr>),
    /// The list does not answer this resolver; the text says why, as far as it is known.
    Refused(String),
    /// What came back is no answer of a list.
    Broken(String),
}

/// Reads the addresses of an answer. `None`: there are none, so the address is not listed.
pub fn read(answer: &[IpAddr]) -> Option<Meaning> {
    let is_foreign = |ip: &&IpAddr| !matches!(ip, IpAddr::V4(ip) if ip.is_loopback());
    if let Some(foreign) = answer.iter().find(is_foreign) {
        return Some(Meaning::Broken(format!(
            "it answered {foreign}, which is no answer of a list (RFC 5782 section 2.1): the list is gone, or the resolver \
             answers for names that do not exist"
        )));
    }
    let codes: Vec<Ipv4Addr> = answer
        .iter()
        .filter_map(|ip| match ip {
            IpAddr::V4(ip) => Some(*ip),
            IpAddr::V6(_) => None,
        })
        .collect();
    match codes.iter().find(|code| matches!(code.octets(), [127, 255, 255, _])) {
        Some(code) => Some(Meaning::Refused(refusal(*code))),
        None => (!codes.is_empty()).then_some(Meaning::Listed(codes)),
    }
}

/// The codes that Spamhaus began with, and others took over.
fn refusal(code: Ipv4Addr) -> String {
    let why = match code.octets()[3] {
        252 => "the name of the list is misspelt",
        254 => "it does not answer public resolvers",
        255 => "this resolver has asked too often",
        _ => "it does not answer this resolver",
    };
    format!("it answered {code}: {why}")
}

/// The name to ask a list about an address: `25.2.0.192.zen.spamhaus.org`. `None`: it would be too long.
pub fn name(address: IpAddr, list: &Domain) -> Option<Domain> {
    let reversed = match address.to_canonical() {
        IpAddr::V4(ip) => {
            let [a, b, c, d] = ip.octets();
            format!("{d}.{c}.{b}.{a}")
        }
        IpAddr::V6(ip) => {
            let nibbles = ip.octets().into_iter().rev().flat_map(|octet| [octet & 0xf, octet >> 4]);
            nibbles.map(|nibble| format!("{nibble:x}")).collect::<Vec<_>>().join(".")
        }
    };
    Domain::parse_tolerant(&format!("{reversed}.{list}")).ok()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
    use super::*;

    fn meaning(answer: &[&str]) -> Option<Meaning> {
        let answer: Vec<IpAddr> = answer.iter().map(|ip| ip.parse().unwrap()).collect();
        read(&answer)
    }

    #[test]
    fn only_answers_within_127_are_listings() {
        assert_eq!(meaning(&[]), None);
        let codes = vec![Ipv4Addr::new(127, 0, 0, 4), Ipv4Addr::new(127, 0, 1, 10)];
        assert_eq!(meaning(&["127.0.0.4", "127.0.1.10"]), Some(Meaning::Listed(codes)));
        for foreign in
            [&["192.0.2.1"][..], &["127.0.0.2", "203.0.113.9"], &["2001:db8::1"], &["126.255.255.254"]]
        {
            assert!(matches!(meaning(foreign), Some(Meaning::Broken(_))), "{foreign:?}");
        }
    }

    #[test]
    fn a_list_that_refuses_a_resolver_has_listed_nothing() {
        for (code, words) in [
            ("127.255.255.252", "misspelt"),
            ("127.255.255.254", "public resolvers"),
            ("127.255.255.255", "too often"),
            ("127.255.255.1", "this resolver"),
        ] {
            let Some(Meaning::Refused(text)) = meaning(&[code]) else { panic!("{code}") };
            assert!(text.contains(code) && text.contains(words), "{text}");
        }
    }

    #[test]
    fn addresses_are_asked_for_backwards() {
        let list = Domain::parse("dnsbl.test").unwrap();
        let asked = |address: &str| name(address.parse().unwrap(), &list).unwrap().to_string();
        assert_eq!(asked("192.0.2.25"), "25.2.0.192.dnsbl.test");
        assert_eq!(asked("::ffff:192.0.2.25"), "25.2.0.192.dnsbl.test");
        assert_eq!(
            asked("2001:db8::25"),
            "5.2.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.8.b.d.0.1.0.0.2.dnsbl.test"
        );
    }
}
