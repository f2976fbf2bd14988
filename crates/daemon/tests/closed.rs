//! Whatever a configuration says about where mail goes and who is here: strangers relay nowhere.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use postern_admin::api::ExplainRequest;
use postern_admin::explain::{RulesOnly, explain, goes_on};
use postern_config::Config;
use postern_config::account::AccountsFile;
use postern_policy::Policy;
use postern_policy::standing::hosts::GRACE;
use postern_smtp::Domain;

/// Settings that have been the last one before a server of somebody became an open relay.
const CONFIGURATIONS: [&str; 10] = [
    "",
    "[[route]]\ndomain = \"*\"\nvia = \"smarthost\"\nhosts = [\"relay.test\"]",
    "[[route]]\ndomain = \"*\"\nsender = \"@proseware.test\"\nvia = \"smarthost\"\nhosts = [\"relay.test\"]",
    "[[route]]\ndomain = \"*\"\nvia = \"lmtp\"\nhosts = [\"/run/lmtp.sock\"]",
    "[relay]\nrelay_domains = [{ name = \"customer.test\" }, { name = \"test\" }]",
    "[relay]\nhosts = [{ name = \"branch.proseware.test\", label = \"x\" }]\ntemporary = { enabled = true }",
    "[relay]\ncertificates = [{ sha256 = \"00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff\", label = \"x\" }]",
    "[relay]\ngrants = [{ label = \"x\", network = \"192.0.2.7/32\", senders = [\"*\"], recipients = [\"*\"], rate = \"9/s\" }]",
    "[relay]\ntrusted_networks = [{ network = \"192.0.2.0/24\", label = \"x\" }, { network = \"2001:db8:1::/48\", label = \"y\" }]",
    "[[domain]]\nname = \"other.test\"\nmailboxes = [\"a\"]\ncatch_all = \"a\"",
];

const ACCOUNTS: &str = r#"
    [[account]]
    name = "anybody"
    password = ""
    send_as = ["*"]
"#;

/// What strangers claim to be.
const SENDERS: [&str; 5] =
    ["", "alice@proseware.test", "postmaster@mail.proseware.test", "x@customer.test", "bob@adatum.test"];

const RECIPIENTS: [&str; 5] = [
    "bob@adatum.test",
    "bob@[203.0.113.9]",
    "bob@sub.customer.test",
    "bob@sub.proseware.test",
    "bob@localhost",
];

fn policy(text: &str) -> Policy {
    let text = format!(
        "hostname = \"mail.proseware.test\"\n{text}\n[[domain]]\nname = \"proseware.test\"\nmailboxes = [\"alice\"]\n"
    );
    let mut config: Config = toml::from_str(&text).unwrap_or_else(|error| panic!("{error}\n{text}"));
    config.accounts = toml::from_str::<AccountsFile>(ACCOUNTS).unwrap().accounts;
    Policy::new(&config)
}

/// Addresses all over the world, and those that look near.
fn strangers() -> Vec<IpAddr> {
    let world = (0..=255).map(|octet| IpAddr::from(Ipv4Addr::new(octet, 77, 0, 20)));
    let world6 = (0..=255).map(|octet| IpAddr::from(Ipv6Addr::new(octet << 8 | 0x11, 0, 0, 0, 0, 0, 0, 1)));
    let near = [
        "127.0.0.1",
        "::1",
        "192.0.1.255",
        "192.0.3.0",
        "192.0.2.0",
        "::ffff:192.0.3.7",
        "::192.0.2.7",
        "fe80::1",
    ];
    let near = near.into_iter().map(|text| text.parse().unwrap());
    // The grant and the trusted network above are in 192.0.2.0/24.
    let is_stranger = |ip: &IpAddr| match ip.to_canonical() {
        IpAddr::V4(ip) => ip.octets()[..3] != [192, 0, 2],
        IpAddr::V6(ip) => ip.segments()[..3] != [0x2001, 0xdb8, 1],
    };
    world.chain(world6).chain(near).filter(is_stranger).collect()
}

#[test]
fn strangers_relay_nowhere() {
    let strangers = strangers();
    for text in CONFIGURATIONS {
        let policy = policy(text);
        for (number, client) in strangers.iter().enumerate() {
            for (at, to) in RECIPIENTS.into_iter().enumerate() {
                // Over all clients, each sender meets each recipient.
                let sender = SENDERS[(number + number / SENDERS.len() + at) % SENDERS.len()];
                for (listener, tls) in
                    [("mx", false), ("mx", true), ("submission", true), ("submissions", true)]
                {
                    let request = ExplainRequest {
                        listener: Some(listener.to_owned()),
                        tls,
                        ..ExplainRequest::new(*client, sender, to)
                    };
                    let explanation = explain(&request, &policy, &RulesOnly).unwrap();
                    let last = explanation.stages.last().unwrap();
                    assert!(!goes_on(last), "{text}\n{request:?}\n{last:#?}");
                    let reason = last.decision.reason.kind.as_str();
                    let expected = match listener {
                        // Hosts are listed by name, and no name server has been asked for their addresses.
                        "mx" if text.starts_with("[relay]\nhosts") => "host-name-unknown",
                        "mx" => "not-trusted-not-local",
                        _ => "not-authenticated",
                    };
                    assert_eq!(reason, expected, "{text}\n{request:?}");
                }
            }
        }
    }
}

#[test]
fn a_host_name_that_is_dead_keeps_no_stranger_waiting() {
    let policy = policy("[relay]\nhosts = [{ name = \"branch.proseware.test\", label = \"x\" }]");
    let name = Domain::parse("branch.proseware.test").unwrap();
    let asked = UNIX_EPOCH + Duration::from_secs(1_795_284_325);
    policy.standing.hosts.not_told(&name, "SERVFAIL".to_owned(), asked);
    let reason_at = |at: SystemTime| {
        let request = ExplainRequest {
            at: at.duration_since(UNIX_EPOCH).ok().map(|since| since.as_secs()),
            ..ExplainRequest::new("198.51.100.9".parse().unwrap(), "a@client.test", "bob@adatum.test")
        };
        let explanation = explain(&request, &policy, &RulesOnly).unwrap();
        explanation.stages.last().unwrap().decision.reason.kind.clone()
    };
    assert_eq!(reason_at(asked), "host-name-unknown");
    assert_eq!(reason_at(asked + GRACE), "not-trusted-not-local");
}
