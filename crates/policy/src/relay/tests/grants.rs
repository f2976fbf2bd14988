//! Rights of clients without a login.

use std::time::Duration;

use super::*;
use crate::standing::grants::TemporaryGrant;

const GRANTS: &str = r#"
    hostname = "mail.proseware.test"
    [[domain]]
    name = "proseware.test"
    mailboxes = ["alice"]
    [relay]
    temporary = { enabled = true }
    hosts = [{ name = "branch.proseware.test", label = "branch office" }]
    certificates = [
        { sha256 = "AB:AB:AB:AB:AB:AB:AB:AB:AB:AB:AB:AB:AB:AB:AB:AB:AB:AB:AB:AB:AB:AB:AB:AB:AB:AB:AB:AB:AB:AB:AB:AB", label = "gateway" },
        { name = "Backup.proseware.test", label = "backup" },
    ]
    [[relay.grants]]
    label = "scanner"
    network = "192.0.2.40/32"
    senders = ["scanner@proseware.test"]
    recipients = ["@adatum.test"]
    rate = "2/h"
    [[relay.grants]]
    label = "monitoring"
    network = "192.0.2.0/24"
    senders = ["<>"]
    recipients = ["*"]
    rate = "1000/h"
"#;

struct Client<'a> {
    address: &'a str,
    sender: &'a str,
    listener: ListenerKind,
    certificate: Option<Certificate>,
    now: SystemTime,
}

impl Default for Client<'_> {
    fn default() -> Self {
        let (address, sender) = ("192.0.2.40", "scanner@proseware.test");
        Self { address, sender, listener: ListenerKind::Mx, certificate: None, now: UNIX_EPOCH }
    }
}

fn policy() -> Policy {
    Policy::new(&toml::from_str(GRANTS).unwrap())
}

fn ask(policy: &Policy, client: &Client<'_>, to: &str) -> Decision {
    let question = Question {
        listener: client.listener,
        client: client.address.parse().unwrap(),
        local: None,
        tls: false,
        certificate: client.certificate.as_ref(),
        login: None,
        helo: None,
        now: client.now,
        recipients: 0,
        reverse_path: &ReversePath::parse(client.sender).unwrap(),
        stage: Stage::Rcpt(&ForwardPath::parse(to).unwrap()),
    };
    let decision = decide(&question, policy);
    policy.count(&question, &decision);
    decision
}

fn reason(policy: &Policy, client: &Client<'_>, to: &str) -> Reason {
    checked(ask(policy, client, to))
}

#[test]
fn a_grant_covers_its_senders_and_recipients_only() {
    let policy = policy();
    let scanner = Client::default();
    let granted = |label: &str| Reason::AddressGrant { label: label.to_owned() };
    assert_eq!(reason(&policy, &scanner, FOREIGN), granted("scanner"));
    let narrow =
        |label: &str, what: &str| Reason::GrantTooNarrow { label: label.to_owned(), what: what.to_owned() };
    let elsewhere = "x@thephone-company.test";
    assert_eq!(reason(&policy, &scanner, elsewhere), narrow("scanner", &format!("recipient <{elsewhere}>")));
    let forger = Client { sender: "alice@proseware.test", ..Client::default() };
    assert_eq!(reason(&policy, &forger, FOREIGN), narrow("scanner", "sender <alice@proseware.test>"));
    // The larger network has a grant of its own.
    let report = Client { sender: "", ..Client::default() };
    assert_eq!(reason(&policy, &report, elsewhere), granted("monitoring"));
    let neighbour = Client { address: "192.0.2.41", ..Client::default() };
    assert_eq!(reason(&policy, &neighbour, FOREIGN), narrow("monitoring", "sender <scanner@proseware.test>"));
    let stranger = Client { address: ELSEWHERE, ..Client::default() };
    assert_eq!(reason(&policy, &stranger, FOREIGN), Reason::NotTrustedNotLocal);
    assert_eq!(reason(&policy, &stranger, OURS), Reason::LocalRecipient);
}

#[test]
fn a_grant_has_a_rate_and_says_when_there_is_room_again() {
    let policy = policy();
    let scanner = Client::default();
    for _ in 0..2 {
        assert_eq!(ask(&policy, &scanner, FOREIGN).verdict, Verdict::Accept);
    }
    let refused = ask(&policy, &scanner, FOREIGN);
    let expected = Reason::Rate {
        who: "the grant scanner".to_owned(),
        limit: "2 recipients an hour".to_owned(),
        resets_in: 1800,
    };
    assert_eq!((refused.verdict, refused.reason), (Verdict::Defer, expected));
    let later = Client { now: UNIX_EPOCH + Duration::from_secs(1800), ..Client::default() };
    assert_eq!(ask(&policy, &later, FOREIGN).verdict, Verdict::Accept);
}

#[test]
fn a_dry_run_uses_nothing_up() {
    let policy = policy();
    let to = ForwardPath::parse(FOREIGN).unwrap();
    let question = Question {
        listener: ListenerKind::Mx,
        client: "192.0.2.40".parse().unwrap(),
        local: None,
        tls: false,
        certificate: None,
        login: None,
        helo: None,
        now: UNIX_EPOCH,
        recipients: 0,
        reverse_path: &ReversePath::parse("scanner@proseware.test").unwrap(),
        stage: Stage::Rcpt(&to),
    };
    for _ in 0..10 {
        assert_eq!(decide(&question, &policy).verdict, Verdict::Accept);
    }
}

#[test]
fn a_temporary_grant_counts_until_it_ends() {
    let policy = policy();
    let laptop = Client { address: "203.0.113.7", sender: OURS, ..Client::default() };
    assert_eq!(reason(&policy, &laptop, FOREIGN), Reason::NotTrustedNotLocal);
    let grant = TemporaryGrant {
        network: "203.0.113.7/32".parse().unwrap(),
        until: 60_000,
        why: "pop login alice".to_owned(),
    };
    policy.standing.grants.give(grant, 10, UNIX_EPOCH).unwrap();
    let expected =
        Reason::TemporaryGrant { network: "203.0.113.7/32".to_owned(), why: "pop login alice".to_owned() };
    assert_eq!(reason(&policy, &laptop, FOREIGN), expected);
    // On a submission port too: that is where its user's program is set to.
    let submission = Client { listener: ListenerKind::Submission, ..laptop };
    assert_eq!(reason(&policy, &submission, FOREIGN), expected);
    let later = Client { now: UNIX_EPOCH + Duration::from_secs(60), ..submission };
    assert_eq!(reason(&policy, &later, FOREIGN), Reason::NotAuthenticated);
}

#[test]
fn temporary_grants_count_only_where_they_are_switched_on() {
    let off = GRANTS.replace("temporary = { enabled = true }", "");
    let policy = Policy::new(&toml::from_str(&off).unwrap());
    let grant =
        TemporaryGrant { network: "203.0.113.7/32".parse().unwrap(), until: 60_000, why: String::new() };
    policy.standing.grants.give(grant, 10, UNIX_EPOCH).unwrap();
    let laptop = Client { address: "203.0.113.7", ..Client::default() };
    assert_eq!(reason(&policy, &laptop, FOREIGN), Reason::NotTrustedNotLocal);
}

#[test]
fn a_host_name_may_relay_from_where_it_is_now() {
    let policy = policy();
    let name = postern_smtp::Domain::parse("branch.proseware.test").unwrap();
    let branch = Client { address: "198.51.100.77", ..Client::default() };
    assert_eq!(reason(&policy, &branch, FOREIGN), Reason::NotTrustedNotLocal);
    policy.standing.hosts.learn(&name, vec!["198.51.100.77".parse().unwrap()], UNIX_EPOCH);
    assert_eq!(reason(&policy, &branch, FOREIGN), Reason::HostName { name: name.to_string() });
    policy.standing.hosts.learn(&name, vec!["198.51.100.78".parse().unwrap()], UNIX_EPOCH);
    assert_eq!(reason(&policy, &branch, FOREIGN), Reason::NotTrustedNotLocal);
}

#[test]
fn a_listed_certificate_may_relay() {
    let policy = policy();
    let shows = |sha256: String, names: &[&str]| Client {
        address: ELSEWHERE,
        certificate: Some(Certificate { sha256, names: names.iter().map(ToString::to_string).collect() }),
        ..Client::default()
    };
    let by = |label: &str| Reason::ClientCertificate { label: label.to_owned() };
    assert_eq!(reason(&policy, &shows("ab".repeat(32), &[]), FOREIGN), by("gateway"));
    assert_eq!(reason(&policy, &shows("cd".repeat(32), &["backup.proseware.test"]), FOREIGN), by("backup"));
    let foreign = shows("cd".repeat(32), &["backup.adatum.test"]);
    assert_eq!(reason(&policy, &foreign, FOREIGN), Reason::NotTrustedNotLocal);
}

#[test]
fn the_trace_says_why_each_right_does_not_apply() {
    let policy = policy();
    let trace = ask(&policy, &Client { address: ELSEWHERE, ..Client::default() }, FOREIGN).trace;
    let rules: Vec<(&str, &str)> =
        trace.0.iter().map(|step| (step.rule.as_str(), step.fact.as_str())).collect();
    assert_eq!(
        rules[2..],
        [
            ("trusted network", "198.51.100.9 is in none of 0 trusted networks"),
            ("temporary grant", "198.51.100.9 has none now"),
            ("address grant", "198.51.100.9 is in none of 2 grants"),
            ("host name", "198.51.100.9 is the address of none of 1 host name now"),
            ("client certificate", "the client showed none"),
            ("login", "not logged in"),
        ]
    );
}
