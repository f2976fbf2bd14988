//! Rights of clients without a login.

use std::time::Duration;

use postern_smtp::Address;

use super::*;
use crate::facts::Wanted;
use crate::standing::grants::TemporaryGrant;
use crate::standing::hosts::GRACE;
use crate::standing::rates::Use;
use crate::standing::recipients::Said;

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
    let policy = Policy::new(&toml::from_str(GRANTS).unwrap());
    // DNS has said that it is nowhere.
    policy.standing.hosts.learn(&branch(), Vec::new(), UNIX_EPOCH);
    policy
}

fn branch() -> postern_smtp::Domain {
    postern_smtp::Domain::parse("branch.proseware.test").unwrap()
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
    policy.count(&question);
    // The message is accepted each time.
    let mut used = Use::new(policy.standing.clone());
    policy.take(question.client, &decision, question.now, &mut used);
    used.keep();
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
    policy.standing.hosts.learn(&branch(), Vec::new(), UNIX_EPOCH);
    let grant =
        TemporaryGrant { network: "203.0.113.7/32".parse().unwrap(), until: 60_000, why: String::new() };
    policy.standing.grants.give(grant, 10, UNIX_EPOCH).unwrap();
    let laptop = Client { address: "203.0.113.7", ..Client::default() };
    assert_eq!(reason(&policy, &laptop, FOREIGN), Reason::NotTrustedNotLocal);
}

#[test]
fn a_host_name_may_relay_from_where_it_is_now() {
    let policy = policy();
    let name = branch();
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
            ("trusted network", "no trusted network is configured"),
            ("temporary grant", "198.51.100.9 has none now"),
            ("address grant", "198.51.100.9 is in the network of none of the 2 grants"),
            ("host name", "198.51.100.9 is not the address of the one host name now"),
            ("client certificate", "the client showed none"),
            ("login", "not logged in"),
        ]
    );
}

#[test]
fn nothing_is_concluded_from_a_host_name_that_dns_does_not_tell() {
    let policy = Policy::new(&toml::from_str(GRANTS).unwrap());
    let unknown = Reason::HostNameUnknown { name: branch().to_string() };
    let stranger = Client { address: ELSEWHERE, ..Client::default() };
    assert_eq!(reason(&policy, &stranger, FOREIGN), unknown);
    assert_eq!(reason(&policy, &stranger, OURS), Reason::LocalRecipient);
    let submission = Client { listener: ListenerKind::Submission, ..stranger };
    assert_eq!(reason(&policy, &submission, FOREIGN), Reason::NotAuthenticated);
    // Another right needs no name server.
    let granted = Reason::AddressGrant { label: "scanner".to_owned() };
    assert_eq!(reason(&policy, &Client::default(), FOREIGN), granted);
    policy.standing.hosts.not_told(&branch(), "SERVFAIL".to_owned(), UNIX_EPOCH);
    let stranger = Client { address: ELSEWHERE, ..Client::default() };
    assert_eq!(reason(&policy, &stranger, FOREIGN), unknown);
    policy.standing.hosts.learn(&branch(), Vec::new(), UNIX_EPOCH);
    assert_eq!(reason(&policy, &stranger, FOREIGN), Reason::NotTrustedNotLocal);
}

#[test]
fn a_host_name_that_nobody_answers_for_does_not_make_refusals_temporary_for_ever() {
    let policy = Policy::new(&toml::from_str(GRANTS).unwrap());
    let long_ago = UNIX_EPOCH.checked_sub(GRACE).unwrap();
    policy.standing.hosts.not_told(&branch(), "SERVFAIL".to_owned(), long_ago);
    let stranger = Client { address: ELSEWHERE, ..Client::default() };
    assert_eq!(reason(&policy, &stranger, FOREIGN), Reason::NotTrustedNotLocal);
}

/// What is said of a message with this header.
fn of_message(policy: &Policy, client: &Client<'_>, header: &str) -> Reason {
    let question = Question {
        listener: client.listener,
        client: client.address.parse().unwrap(),
        local: None,
        tls: false,
        certificate: client.certificate.as_ref(),
        login: None,
        helo: None,
        now: client.now,
        recipients: 1,
        reverse_path: &ReversePath::parse(client.sender).unwrap(),
        stage: Stage::Message(&header_senders(header.as_bytes())),
    };
    let reason = checked(decide(&question, policy));
    // A session asks only where it matters.
    assert!(reason == Reason::SenderAllowed || policy.binds_header(&question));
    reason
}

#[test]
fn a_grant_for_some_senders_binds_the_header_too() {
    let (policy, scanner) = (policy(), Client::default());
    assert_eq!(of_message(&policy, &scanner, "From: scanner@proseware.test\r\n"), Reason::SenderAllowed);
    for (field, header) in [
        ("From", "From: boss@proseware.test\r\n"),
        ("From", "From: scanner@proseware.test, boss@proseware.test\r\n"),
        ("Sender", "From: scanner@proseware.test\r\nSender: boss@proseware.test\r\n"),
    ] {
        let expected = Reason::HeaderFromMismatch {
            login: String::new(),
            grant: Some("scanner".to_owned()),
            field: field.to_owned(),
            address: "boss@proseware.test".to_owned(),
        };
        assert_eq!(of_message(&policy, &scanner, header), expected, "{header}");
    }
    let several = "From: scanner@proseware.test\r\nFrom: boss@proseware.test\r\n";
    assert!(matches!(of_message(&policy, &scanner, several), Reason::HeaderFromUnusable { .. }));
    // Whoever comes by no grant, or may relay for all senders anyway, is not held to one.
    let other = Client { sender: "a@client.test", ..Client::default() };
    assert_eq!(of_message(&policy, &other, "From: boss@proseware.test\r\n"), Reason::SenderAllowed);
    let stranger = Client { address: ELSEWHERE, ..Client::default() };
    assert_eq!(of_message(&policy, &stranger, "From: boss@proseware.test\r\n"), Reason::SenderAllowed);
    policy.standing.hosts.learn(&branch(), vec!["192.0.2.40".parse().unwrap()], UNIX_EPOCH);
    assert_eq!(of_message(&policy, &scanner, "From: boss@proseware.test\r\n"), Reason::SenderAllowed);
}

#[test]
fn the_rule_that_decided_is_named() {
    let policy = policy();
    let rule = |client: &Client<'_>, to: &str| ask(&policy, client, to).rule().map(str::to_owned);
    assert_eq!(rule(&Client::default(), "x@thephone-company.test").as_deref(), Some("address grant"));
    let stranger = Client { address: ELSEWHERE, ..Client::default() };
    assert_eq!(rule(&stranger, FOREIGN).as_deref(), Some("login"));
}

#[test]
fn the_domain_of_a_recipient_is_ours_relayed_or_foreign() {
    let policy = Policy::new(&toml::from_str(CALL_FORWARD).unwrap());
    let own = Some("192.0.2.25".parse().unwrap());
    for (recipient, class) in [
        ("nobody@proseware.test", "local"),
        ("postmaster", "local"),
        ("postmaster@[192.0.2.25]", "local"),
        ("x@customer.test", "relay"),
        ("bob@adatum.test", "foreign"),
        ("bob@[203.0.113.9]", "foreign"),
    ] {
        assert_eq!(
            policy.recipient_class(&ForwardPath::parse(recipient).unwrap(), own),
            class,
            "{recipient}"
        );
    }
}

#[test]
fn mail_that_came_by_a_grant_is_known_by_it() {
    let policy = policy();
    let granted = |address: &str, sender: &str| {
        let question = Question {
            listener: ListenerKind::Mx,
            client: address.parse().unwrap(),
            local: None,
            tls: false,
            certificate: None,
            login: None,
            helo: None,
            now: UNIX_EPOCH,
            recipients: 0,
            reverse_path: &ReversePath::parse(sender).unwrap(),
            stage: Stage::Mail,
        };
        policy.granted(&question)
    };
    assert_eq!(granted("192.0.2.40", "scanner@proseware.test").as_deref(), Some("grant scanner"));
    assert_eq!(granted("192.0.2.40", "").as_deref(), Some("grant monitoring"));
    // Not as somebody else: it would be signed.
    assert_eq!(granted("192.0.2.40", "alice@proseware.test"), None);
    assert_eq!(granted(ELSEWHERE, "scanner@proseware.test"), None);
    policy.standing.hosts.learn(&branch(), vec![ELSEWHERE.parse().unwrap()], UNIX_EPOCH);
    assert_eq!(granted(ELSEWHERE, "alice@proseware.test").as_deref(), Some("host branch.proseware.test"));
}

/// What must be found for a client at RCPT.
fn wanted_at_rcpt(policy: &Policy, address: &str, to: &str) -> Vec<Wanted> {
    let question = Question {
        listener: ListenerKind::Mx,
        client: address.parse().unwrap(),
        local: None,
        tls: false,
        certificate: None,
        login: None,
        helo: None,
        now: UNIX_EPOCH,
        recipients: 0,
        reverse_path: &ReversePath::Null,
        stage: Stage::Rcpt(&ForwardPath::parse(to).unwrap()),
    };
    crate::facts::wanted(&question, policy)
}

#[test]
fn a_host_name_is_looked_up_first_where_it_decides() {
    let policy = Policy::new(&toml::from_str(GRANTS).unwrap());
    assert_eq!(wanted_at_rcpt(&policy, ELSEWHERE, FOREIGN), [Wanted::HostName(branch())]);
    assert_eq!(wanted_at_rcpt(&policy, ELSEWHERE, OURS), []);
    policy.standing.hosts.not_told(&branch(), "SERVFAIL".to_owned(), UNIX_EPOCH);
    assert_eq!(wanted_at_rcpt(&policy, ELSEWHERE, FOREIGN), []);
}

const CALL_FORWARD: &str = r#"
    hostname = "mail.proseware.test"
    [[domain]]
    name = "proseware.test"
    [relay]
    relay_domains = [{ name = "customer.test", recipients = "call-forward" }, { name = "open.test" }]
"#;

#[test]
fn the_server_of_a_relay_domain_is_asked_for_recipients_it_has_not_told() {
    let policy = Policy::new(&toml::from_str(CALL_FORWARD).unwrap());
    let carol = Address::parse("carol@customer.test").unwrap();
    let asked = |to: &str| wanted_at_rcpt(&policy, ELSEWHERE, to);
    assert_eq!(asked("carol@customer.test"), [Wanted::Recipient(carol.clone())]);
    for other in ["postmaster@customer.test", "a%b@customer.test", "x@open.test", OURS, FOREIGN, "Postmaster"]
    {
        assert_eq!(asked(other), [], "{other}");
    }
    let said = Said::Nothing("timeout".to_owned());
    policy.standing.recipients.learn(&carol, said, Duration::from_secs(60), 10, UNIX_EPOCH);
    assert_eq!(asked("carol@customer.test"), []);
}

#[test]
fn only_a_clear_no_of_the_primary_is_one() {
    let policy = Policy::new(&toml::from_str(CALL_FORWARD).unwrap());
    let stranger = Client { address: ELSEWHERE, ..Client::default() };
    let carol = Address::parse("carol@customer.test").unwrap();
    let learn =
        |said| policy.standing.recipients.learn(&carol, said, Duration::from_secs(60), 10, UNIX_EPOCH);
    let host = || "mx.customer.test".to_owned();
    assert_eq!(reason(&policy, &stranger, "carol@customer.test"), Reason::RelayDomain);
    learn(Said::Exists { host: host() });
    assert_eq!(reason(&policy, &stranger, "carol@customer.test"), Reason::RelayDomain);
    learn(Said::Nothing("timeout".to_owned()));
    let taken = ask(&policy, &stranger, "carol@customer.test");
    assert_eq!(taken.reason, Reason::RelayDomain);
    assert!(taken.trace.0[1].fact.ends_with("so it is taken: timeout"), "{taken:?}");
    learn(Said::Unknown { host: host(), reply: "550 5.1.1 who?".to_owned() });
    let refused = ask(&policy, &stranger, "carol@customer.test");
    assert_eq!((refused.verdict, refused.reason), (Verdict::Reject, Reason::UnknownRecipient));
    let last = refused.trace.0.last().unwrap();
    assert_eq!(
        last.fact,
        "mx.customer.test, the primary of customer.test, refuses carol@customer.test: 550 5.1.1 who?"
    );
    // A route of the sender's choice is refused as for other relay domains, and postmaster always taken.
    assert_eq!(reason(&policy, &stranger, "a%b@customer.test"), Reason::NotTrustedNotLocal);
    assert_eq!(reason(&policy, &stranger, "postmaster@customer.test"), Reason::RelayDomain);
}
