//! The table of configurations that would relay for the world, and of those that look alike and do not.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use super::*;
use crate::diagnostic::Severity;

/// What becomes of a configuration.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Outcome {
    /// It loads, and nothing is said.
    Fine,
    /// It loads with a warning.
    Warned,
    /// It does not load.
    Refused,
}
use Outcome::{Fine, Refused, Warned};

/// On an ordinary machine.
const MACHINE: &[(&str, Outcome, &str)] = &[
    // Whole address families, in every way to write them.
    ("everybody over IPv4", Refused, r#"relay.trusted_networks = [{ network = "0.0.0.0/0", label = "x" }]"#),
    ("everybody over IPv6", Refused, r#"relay.trusted_networks = [{ network = "::/0", label = "x" }]"#),
    (
        "IPv4 in IPv6 form",
        Refused,
        r#"relay.trusted_networks = [{ network = "::ffff:0:0/96", label = "x" }]"#,
    ),
    (
        "everybody, and that is known",
        Warned,
        r#"relay.trusted_networks = [{ network = "0.0.0.0/0", label = "x", accept_open_relay_risk = true }]"#,
    ),
    (
        "two halves",
        Refused,
        r#"relay.trusted_networks = [{ network = "0.0.0.0/1", label = "x" }, { network = "128.0.0.0/1", label = "y" }]"#,
    ),
    (
        "one half, and only that is known",
        Refused,
        r#"relay.trusted_networks = [{ network = "0.0.0.0/1", label = "x", accept_open_relay_risk = true },
                                     { network = "128.0.0.0/1", label = "y" }]"#,
    ),
    (
        "one of 256 parts of the internet",
        Refused,
        r#"relay.trusted_networks = [{ network = "24.0.0.0/8", label = "a" }]"#,
    ),
    (
        "as many addresses as may be",
        Fine,
        r#"relay.trusted_networks = [{ network = "24.0.0.0/12", label = "a" }]"#,
    ),
    (
        "one address more than may be",
        Refused,
        r#"relay.trusted_networks = [{ network = "24.0.0.0/12", label = "a" }, { network = "203.0.112.1/32", label = "b" }]"#,
    ),
    (
        "one address more than may be, which is known",
        Warned,
        r#"relay.trusted_networks = [{ network = "24.0.0.0/11", label = "a", accept_open_relay_risk = true },
                                     { network = "203.0.112.1/32", label = "b" }]"#,
    ),
    (
        "large networks that are harmless each, with gaps between them",
        Refused,
        r#"relay.trusted_networks = [{ network = "24.0.0.0/13", label = "a" }, { network = "26.0.0.0/13", label = "b" },
                                     { network = "28.0.0.0/13", label = "c" }]"#,
    ),
    (
        "networks in one another count once",
        Fine,
        r#"relay.trusted_networks = [{ network = "24.0.0.0/12", label = "a" }, { network = "24.7.0.0/16", label = "b" }]"#,
    ),
    (
        "a part of the internet over IPv6",
        Refused,
        r#"relay.trusted_networks = [{ network = "2a00::/19", label = "a" }]"#,
    ),
    (
        "the networks of two large owners over IPv6",
        Refused,
        r#"relay.trusted_networks = [{ network = "2a00::/20", label = "a" }, { network = "2b00::/32", label = "b" }]"#,
    ),
    (
        "many private networks",
        Fine,
        r#"relay.trusted_networks = [{ network = "10.0.0.0/9", label = "a" }, { network = "172.16.0.0/13", label = "b" }]"#,
    ),
    (
        "one provider's network",
        Fine,
        r#"relay.trusted_networks = [{ network = "203.0.112.0/20", label = "x" }]"#,
    ),
    ("host bits", Refused, r#"relay.trusted_networks = [{ network = "192.0.2.1/0", label = "x" }]"#),
    // Private networks.
    ("all of 10/8", Refused, r#"relay.trusted_networks = [{ network = "10.0.0.0/8", label = "x" }]"#),
    ("all of 172.16/12", Refused, r#"relay.trusted_networks = [{ network = "172.16.0.0/12", label = "x" }]"#),
    (
        "all of 192.168/16",
        Refused,
        r#"relay.trusted_networks = [{ network = "192.168.0.0/16", label = "x" }]"#,
    ),
    ("all of fc00::/7", Refused, r#"relay.trusted_networks = [{ network = "fc00::/7", label = "x" }]"#),
    (
        "192.168/16 in two halves",
        Refused,
        r#"relay.trusted_networks = [{ network = "192.168.0.0/17", label = "x" }, { network = "192.168.128.0/17", label = "y" }]"#,
    ),
    (
        "all of 10/8, and that is known",
        Warned,
        r#"relay.trusted_networks = [{ network = "10.0.0.0/8", label = "x", accept_open_relay_risk = true }]"#,
    ),
    ("one office", Fine, r#"relay.trusted_networks = [{ network = "192.168.7.0/24", label = "x" }]"#),
    ("loopback", Fine, r#"relay.trusted_networks = [{ network = "127.0.0.0/8", label = "x" }]"#),
    // Grants.
    (
        "a grant to everybody",
        Refused,
        r#"relay.grants = [{ network = "0.0.0.0/0", label = "x", senders = ["*"], recipients = ["*"], rate = "1/h" }]"#,
    ),
    (
        "a grant to everybody from one sender, which anybody can claim",
        Refused,
        r#"relay.grants = [{ network = "0.0.0.0/0", label = "x", senders = ["a@b.test"], recipients = ["*"], rate = "1/h" }]"#,
    ),
    (
        "a grant to everybody, and that is known",
        Warned,
        r#"relay.grants = [{ network = "::/0", label = "x", senders = ["a@b.test"], recipients = ["@c.test"], rate = "1/h",
                             accept_open_relay_risk = true }]"#,
    ),
    (
        "open grants that are a large network together",
        Refused,
        r#"relay.grants = [{ network = "24.0.0.0/12", label = "a", senders = ["*"], recipients = ["*"], rate = "1/h" },
                           { network = "26.0.0.0/12", label = "b", senders = ["*"], recipients = ["*"], rate = "1/h" }]"#,
    ),
    (
        "a grant and a trusted network that are one together",
        Refused,
        r#"relay.grants = [{ network = "24.0.0.0/12", label = "a", senders = ["*"], recipients = ["*"], rate = "1/h" }]
           relay.trusted_networks = [{ network = "26.0.0.0/12", label = "b" }]"#,
    ),
    (
        "private halves, one granted and one trusted",
        Refused,
        r#"relay.grants = [{ network = "192.168.0.0/17", label = "a", senders = ["*"], recipients = ["*"], rate = "1/h" }]
           relay.trusted_networks = [{ network = "192.168.128.0/17", label = "b" }]"#,
    ),
    (
        "narrow grants that are a large network together, whose senders anybody can claim",
        Refused,
        r#"relay.grants = [{ network = "24.0.0.0/12", label = "a", senders = ["a@b.test"], recipients = ["*"], rate = "1/h" },
                           { network = "26.0.0.0/12", label = "b", senders = ["a@b.test"], recipients = ["*"], rate = "1/h" }]"#,
    ),
    (
        "a grant without senders",
        Refused,
        r#"relay.grants = [{ network = "192.0.2.7/32", label = "x", recipients = ["*"], rate = "1/h" }]"#,
    ),
    (
        "a grant to one printer",
        Fine,
        r#"relay.grants = [{ network = "192.0.2.7/32", label = "x", senders = ["*"], recipients = ["*"], rate = "1/h" }]"#,
    ),
    // Names that stand for all.
    ("every domain is a relay domain", Refused, r#"relay.relay_domains = [{ name = "*" }]"#),
    ("every domain below one", Refused, r#"relay.relay_domains = [{ name = "*.test" }]"#),
    ("the root is a relay domain", Refused, r#"relay.relay_domains = [{ name = "." }]"#),
    ("the empty name is a relay domain", Refused, r#"relay.relay_domains = [{ name = "" }]"#),
    ("a relay domain", Fine, r#"relay.relay_domains = [{ name = "customer.test" }]"#),
    ("every host name", Refused, r#"relay.hosts = [{ name = "*", label = "x" }]"#),
    ("every host of a domain", Refused, r#"relay.hosts = [{ name = "*.proseware.test", label = "x" }]"#),
    ("one host", Fine, r#"relay.hosts = [{ name = "branch.proseware.test", label = "x" }]"#),
    ("every domain is ours", Refused, "[[domain]]\nname = \"*\""),
    // Every certificate of every authority of the world would count.
    (
        "a name in any certificate",
        Refused,
        r#"relay.certificates = [{ name = "branch.proseware.test", label = "x" }]"#,
    ),
    ("any certificate", Refused, r#"relay.certificates = [{ sha256 = "*", label = "x" }]"#),
    // These say where mail goes, not whose: see `tests/closed.rs` of the daemon.
    (
        "a route for all domains",
        Fine,
        "[[route]]\ndomain = \"*\"\nvia = \"smarthost\"\nhosts = [\"relay.test\"]",
    ),
    ("a catch-all", Fine, "[[domain]]\nname = \"proseware.test\"\nmailboxes = [\"a\"]\ncatch_all = \"a\""),
    ("temporary grants are possible", Fine, "relay.temporary = { enabled = true }"),
];

/// In a container whose default gateway is 172.17.0.1: everybody may come from there.
const CONTAINER: &[(&str, Outcome, &str)] = &[
    ("the gateway", Refused, r#"relay.trusted_networks = [{ network = "172.17.0.1/32", label = "x" }]"#),
    (
        "the network of the gateway",
        Refused,
        r#"relay.trusted_networks = [{ network = "172.17.0.0/16", label = "x" }]"#,
    ),
    (
        "the network of the gateway, and that is known",
        Warned,
        r#"relay.trusted_networks = [{ network = "172.17.0.0/16", label = "x", accept_open_relay_risk = true }]"#,
    ),
    ("another network", Fine, r#"relay.trusted_networks = [{ network = "172.18.0.0/16", label = "x" }]"#),
    (
        "a grant to the gateway",
        Refused,
        r#"relay.grants = [{ network = "172.17.0.1/32", label = "x", senders = ["*"], recipients = ["*"], rate = "1/h" }]"#,
    ),
];

fn outcome(text: &str, surroundings: &Surroundings) -> (Outcome, String) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("postern.toml");
    fs::write(&path, format!("hostname = \"mail.proseware.test\"\n{text}\n")).unwrap();
    match load_in(&path, None, surroundings) {
        Err(error) => (Refused, error.to_string()),
        Ok(loaded) if loaded.warnings.is_empty() => (Fine, String::new()),
        Ok(loaded) => {
            assert!(loaded.warnings.iter().all(|warning| warning.severity == Severity::Warning));
            (Warned, crate::render(&loaded.warnings))
        }
    }
}

fn check(table: &[(&str, Outcome, &str)], surroundings: &Surroundings) {
    for (name, expected, text) in table {
        let (found, said) = outcome(text, surroundings);
        assert_eq!(found, *expected, "{name}: {text}\n{said}");
        // Whoever is refused or warned learns what is wrong or what to do.
        let says_what = ["help: ", "missing key", "is not "].iter().any(|part| said.contains(part));
        assert!(found == Fine || says_what, "{name}: {said}");
        let is_known = text.contains("accept_open_relay_risk");
        // Of several entries, one may load because its risk is known and another may not.
        let lets_it_load = said.contains("accept_open_relay_risk = true lets it load");
        assert!(lets_it_load || *expected != Warned, "{name}: {said}");
        assert!(is_known || !lets_it_load, "{name}: only what is known may load with a warning: {said}");
    }
}

#[test]
fn what_would_relay_for_the_world_does_not_load() {
    check(MACHINE, &Surroundings::default());
}

#[test]
fn inside_a_container_the_gateway_is_the_world() {
    let gateways = vec!["172.17.0.1".parse().unwrap()];
    let container = Surroundings { container: true, gateways, own: Vec::new() };
    check(CONTAINER, &container);
    let machine = Surroundings { container: false, ..container };
    for (name, _, text) in CONTAINER.iter().filter(|(_, outcome, _)| *outcome == Refused) {
        let (found, said) = outcome(text, &machine);
        assert_eq!(found, Fine, "{name}: {said}");
    }
}
