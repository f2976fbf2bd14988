#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
mod blocklists;
mod grants;

use std::time::{SystemTime, UNIX_EPOCH};

use postern_config::{Config, ListenerKind};
use postern_smtp::{ForwardPath, ReversePath};
use proptest::prelude::*;

use super::*;
use crate::sender::header_senders;
use postern_config::account::AccountsFile;

const CONFIG: &str = r#"
    hostname = "mail.proseware.test"
    [relay]
    trusted_networks = [
        { network = "192.0.2.0/24", label = "office" },
        { network = "2001:db8:1::/48", label = "office" },
    ]
    relay_domains = [
        { name = "customer.test" },
        { name = "listed.test", recipients = ["Carol", "a%b", '"J Doe"'] },
    ]
    [[domain]]
    name = "proseware.test"
    mailboxes = ["alice", "bob"]
    aliases = { info = ["alice", "bob"], partner = ["p@adatum.test"], banned = ["alice", "x@y.banned.test"], one = ["two"], two = ["one"] }
    [[route]]
    domain = "friendly.banned.test"
    via = "mx"
    [[route]]
    domain = ".banned.test"
    via = "reject"
    text = "no mail there"
    [[route]]
    sender = "bob@proseware.test"
    domain = "thephone-company.test"
    via = "reject"
"#;
const ACCOUNTS: &str = r#"
    [[account]]
    name = "alice@proseware.test"
    password = ""
    send_as = ["shared@proseware.test"]
    [[account]]
    name = "any"
    password = ""
    permission = "any"
"#;
const OFFICE: &str = "192.0.2.7";
const ELSEWHERE: &str = "198.51.100.9";
const OURS: &str = "alice@proseware.test";
const FOREIGN: &str = "bob@adatum.test";

fn policy() -> Policy {
    let mut config: Config = toml::from_str(CONFIG).unwrap();
    config.accounts = toml::from_str::<AccountsFile>(ACCOUNTS).unwrap().accounts;
    Policy::new(&config)
}

/// A session, with the usual values filled in.
struct Session {
    listener: ListenerKind,
    client: &'static str,
    login: Option<&'static str>,
    sender: &'static str,
}

const MX: Session =
    Session { listener: ListenerKind::Mx, client: ELSEWHERE, login: None, sender: "s@adatum.test" };
const SUBMISSION: Session = Session {
    listener: ListenerKind::Submission,
    client: ELSEWHERE,
    login: Some("alice@proseware.test"),
    sender: "alice@proseware.test",
};

impl Session {
    fn ask(&self, stage: Stage<'_>) -> Decision {
        let policy = policy();
        let login = self.login.map(|name| policy.accounts.login(name).unwrap());
        let question = Question {
            listener: self.listener,
            client: self.client.parse().unwrap(),
            local: Some("192.0.2.25".parse().unwrap()),
            tls: false,
            certificate: None,
            login: login.as_ref(),
            helo: None,
            now: UNIX_EPOCH,
            recipients: 0,
            reverse_path: &ReversePath::parse(self.sender).unwrap(),
            stage,
        };
        decide(&question, &policy)
    }

    fn mail(&self) -> Reason {
        checked(self.ask(Stage::Mail))
    }

    fn rcpt(&self, to: &str) -> Reason {
        checked(self.ask(Stage::Rcpt(&ForwardPath::parse(to).unwrap())))
    }

    fn message(&self, header: &str) -> Reason {
        checked(self.ask(Stage::Message(&header_senders(header.as_bytes()))))
    }
}

/// The reason, after a look at whether the verdict fits it.
fn checked(decision: Decision) -> Reason {
    assert_eq!(decision.verdict, decision.reason.verdict(), "{decision:?}");
    assert!(!decision.trace.0.is_empty(), "{decision:?}");
    decision.reason
}

fn office() -> Reason {
    Reason::TrustedNetwork { label: "office".to_owned() }
}

fn logged_in() -> Reason {
    Reason::Authenticated { login: "alice@proseware.test".to_owned() }
}

#[test]
fn own_network_to_our_recipient_is_not_relaying() {
    assert_eq!(Session { client: OFFICE, ..MX }.rcpt(OURS), Reason::LocalRecipient);
}

#[test]
fn trusted_network_to_foreign_recipient_is_relayed() {
    assert_eq!(Session { client: OFFICE, ..MX }.rcpt(FOREIGN), office());
}

#[test]
fn foreign_network_to_our_recipient_is_not_relaying() {
    assert_eq!(MX.rcpt(OURS), Reason::LocalRecipient);
}

#[test]
fn foreign_network_to_foreign_recipient_is_refused() {
    assert_eq!(MX.rcpt(FOREIGN), Reason::NotTrustedNotLocal);
}

#[test]
fn login_on_a_foreign_network_to_foreign_recipient_is_relayed() {
    assert_eq!(SUBMISSION.rcpt(FOREIGN), logged_in());
    assert_eq!(Session { listener: ListenerKind::Submissions, ..SUBMISSION }.rcpt(FOREIGN), logged_in());
}

#[test]
fn hotel_network_on_port_25_to_foreign_recipient_is_refused() {
    // Its own sender address does not help a user who did not log in.
    let hotel = Session { client: "203.0.113.80", sender: OURS, ..MX };
    assert_eq!(hotel.mail(), Reason::SenderAllowed);
    assert_eq!(hotel.rcpt(FOREIGN), Reason::NotTrustedNotLocal);
}

#[test]
fn relay_tricks_are_refused() {
    for to in [
        "user%adatum.test@proseware.test",
        "\"user@adatum.test\"@proseware.test",
        "adatum.test!user@proseware.test",
        "user%adatum.test@mail.proseware.test",
        "user%adatum.test@[192.0.2.25]",
    ] {
        assert_eq!(MX.rcpt(to), Reason::UnknownRecipient, "{to}");
    }
    for to in [
        "@proseware.test:user@adatum.test",
        "@proseware.test,@customer.test:user@adatum.test",
        "user%adatum.test@customer.test",
        "\"user@adatum.test\"@customer.test",
        "adatum.test!user@customer.test",
        "user@[203.0.113.5]",
        "user@[IPv6:2001:db8:9::1]",
        "user@xproseware.test",
        "user@proseware.test.adatum.test",
    ] {
        assert_eq!(MX.rcpt(to), Reason::NotTrustedNotLocal, "{to}");
    }
    for sender in ["", OURS, "postmaster@mail.proseware.test", "x@[192.0.2.25]"] {
        assert_eq!(Session { sender, ..MX }.rcpt(FOREIGN), Reason::NotTrustedNotLocal, "{sender}");
    }
}

#[test]
fn loopback_and_own_addresses_are_not_trusted_by_themselves() {
    for client in ["127.0.0.1", "::1", "10.0.0.1", "::ffff:127.0.0.1"] {
        assert_eq!(Session { client, ..MX }.rcpt(FOREIGN), Reason::NotTrustedNotLocal, "{client}");
    }
}

#[test]
fn an_ipv4_mapped_client_is_its_ipv4_address() {
    assert_eq!(Session { client: "::ffff:192.0.2.7", ..MX }.rcpt(FOREIGN), office());
    assert_eq!(Session { client: "2001:db8:1::7", ..MX }.rcpt(FOREIGN), office());
    assert_eq!(Session { client: "2001:db8:2::7", ..MX }.rcpt(FOREIGN), Reason::NotTrustedNotLocal);
}

#[test]
fn address_literals_elsewhere_are_no_destination() {
    assert_eq!(Session { client: OFFICE, ..MX }.rcpt("a@[203.0.113.5]"), Reason::BadDestination);
    assert_eq!(SUBMISSION.rcpt("a@[203.0.113.5]"), Reason::BadDestination);
}

#[test]
fn unknown_local_recipients_and_loops_are_refused_for_everybody() {
    for session in [MX, Session { client: OFFICE, ..MX }, SUBMISSION] {
        assert_eq!(session.rcpt("nobody@proseware.test"), Reason::UnknownRecipient);
        assert_eq!(session.rcpt("one@proseware.test"), Reason::AliasLoop);
    }
}

#[test]
fn an_alias_to_elsewhere_is_a_local_recipient() {
    assert_eq!(MX.rcpt("partner@proseware.test"), Reason::LocalRecipient);
}

#[test]
fn postmaster_is_accepted_from_anybody() {
    for to in ["Postmaster", "POSTMASTER", "postmaster@proseware.test", "postmaster@[192.0.2.25]"] {
        assert_eq!(MX.rcpt(to), Reason::LocalRecipient, "{to}");
    }
    assert_eq!(MX.rcpt("Postmaster@listed.test"), Reason::RelayDomain);
}

#[test]
fn relay_domains_take_their_recipients_only() {
    assert_eq!(MX.rcpt("whoever@Customer.test"), Reason::RelayDomain);
    assert_eq!(MX.rcpt("whoever@sub.customer.test"), Reason::NotTrustedNotLocal);
    assert_eq!(MX.rcpt("carol@listed.test"), Reason::RelayDomain);
    assert_eq!(MX.rcpt("a%b@listed.test"), Reason::RelayDomain);
    assert_eq!(MX.rcpt("\"j doe\"@listed.test"), Reason::RelayDomain);
    assert_eq!(MX.rcpt("dave@listed.test"), Reason::UnknownRecipient);
    assert_eq!(SUBMISSION.rcpt("dave@listed.test"), Reason::UnknownRecipient);
}

#[test]
fn submission_needs_a_login_even_for_our_recipients() {
    let session = Session { login: None, ..SUBMISSION };
    assert_eq!(session.mail(), Reason::NotAuthenticated);
    assert_eq!(Session { sender: "", ..session }.mail(), Reason::NotAuthenticated);
    for to in [OURS, FOREIGN, "postmaster"] {
        assert_eq!(Session { login: None, ..SUBMISSION }.rcpt(to), Reason::NotAuthenticated);
    }
    let trusted = Session { login: None, client: OFFICE, ..SUBMISSION };
    assert_eq!(trusted.mail(), Reason::SenderAllowed);
    assert_eq!(trusted.rcpt(FOREIGN), office());
}

#[test]
fn routes_refuse_whoever_may_relay() {
    let rejects = |text: &str| Reason::RecipientPolicy { text: text.to_owned() };
    assert_eq!(SUBMISSION.rcpt("a@x.banned.test"), rejects("no mail there"));
    assert_eq!(Session { client: OFFICE, ..MX }.rcpt("a@x.banned.test"), rejects("no mail there"));
    // Strangers do not learn about routes.
    assert_eq!(MX.rcpt("a@x.banned.test"), Reason::NotTrustedNotLocal);
    // An earlier route that matches wins.
    assert_eq!(SUBMISSION.rcpt("a@friendly.banned.test"), logged_in());
    assert_eq!(MX.rcpt("banned@proseware.test"), rejects("no mail there"));
    assert_eq!(MX.rcpt("partner@proseware.test"), Reason::LocalRecipient);
    assert_eq!(SUBMISSION.rcpt("a@thephone-company.test"), logged_in());
    let bob = Session { client: OFFICE, sender: "bob@proseware.test", ..MX };
    assert_eq!(bob.rcpt("a@thephone-company.test"), rejects(""));
    // Local domains come before all routes.
    assert_eq!(bob.rcpt(OURS), Reason::LocalRecipient);
}

#[test]
fn a_login_is_bound_to_its_senders() {
    assert_eq!(SUBMISSION.mail(), Reason::SenderAllowed);
    assert_eq!(Session { sender: "", ..SUBMISSION }.mail(), Reason::SenderAllowed);
    assert_eq!(Session { sender: "shared@proseware.test", ..SUBMISSION }.mail(), Reason::SenderAllowed);
    let refused = Reason::LoginLacksPermission {
        login: "alice@proseware.test".to_owned(),
        sender: "bob@proseware.test".to_owned(),
    };
    assert_eq!(Session { sender: "bob@proseware.test", ..SUBMISSION }.mail(), refused);
    // Also in a trusted network, where a client without a login is not bound.
    assert_eq!(Session { sender: "bob@proseware.test", client: OFFICE, ..SUBMISSION }.mail(), refused);
    let open = Session { sender: "bob@proseware.test", client: OFFICE, login: None, ..SUBMISSION };
    assert_eq!(open.mail(), Reason::SenderAllowed);
}

#[test]
fn header_senders_must_be_the_logins() {
    for header in [
        "From: alice@proseware.test\r\n",
        "From: Alice <ALICE+x@proseware.test>\r\nSender: shared@proseware.test\r\n",
        "from : team: alice@proseware.test, shared@proseware.test;\r\n",
        "From: \"bob@proseware.test\" <alice@proseware.test>\r\n",
        "From: alice@proseware.test (bob@proseware.test)\r\n",
    ] {
        assert_eq!(SUBMISSION.message(header), Reason::SenderAllowed, "{header}");
    }
    for (field, header) in [
        ("From", "From: bob@proseware.test\r\n"),
        ("From", "From: alice@proseware.test, bob@proseware.test\r\n"),
        ("From", "From: team: alice@proseware.test, bob@proseware.test;\r\n"),
        ("From", "From: \"alice@proseware.test\" <bob@proseware.test>\r\n"),
        ("From", "From: alice@proseware.test\r\n , bob@proseware.test\r\n"),
        ("Sender", "From: alice@proseware.test\r\nSender: bob@proseware.test\r\n"),
        (
            "Sender",
            "Sender: shared@proseware.test\r\nFrom: alice@proseware.test\r\nSENDER: bob@proseware.test\r\n",
        ),
    ] {
        let expected = Reason::HeaderFromMismatch {
            grant: None,
            login: "alice@proseware.test".to_owned(),
            field: field.to_owned(),
            address: "bob@proseware.test".to_owned(),
        };
        assert_eq!(SUBMISSION.message(header), expected, "{header}");
    }
    let unreadable = SUBMISSION.message("From: alice@proseware.test\r\nSender: <bob\r\n");
    assert!(matches!(unreadable, Reason::HeaderFromMismatch { field, .. } if field == "Sender"));
}

#[test]
fn a_null_sender_does_not_free_the_header() {
    let session = Session { sender: "", ..SUBMISSION };
    assert!(matches!(session.message("From: bob@proseware.test\r\n"), Reason::HeaderFromMismatch { .. }));
}

#[test]
fn a_login_needs_one_usable_from() {
    for header in [
        "",
        "To: a@b.test\r\n",
        "From:\r\n",
        "From: nobody:;\r\n",
        "From: alice@proseware.test <bob@proseware.test>\r\n",
        "From: =?utf-8?q?alice=40proseware.test?=\r\n",
        "From: alice@proseware.test\r\nFrom: alice@proseware.test\r\n",
        "From: alice@proseware.test\r\nFrom : bob@proseware.test\r\n",
    ] {
        assert!(matches!(SUBMISSION.message(header), Reason::HeaderFromUnusable { .. }), "{header}");
    }
    let any = Session { login: Some("any"), ..SUBMISSION };
    assert_eq!(any.message("From: x@adatum.test\r\n"), Reason::SenderAllowed);
    assert!(matches!(any.message(""), Reason::HeaderFromUnusable { .. }));
}

#[test]
fn mail_without_a_login_is_not_bound_by_its_header() {
    assert_eq!(MX.message("From: anybody@adatum.test\r\n"), Reason::SenderAllowed);
    assert_eq!(MX.message(""), Reason::SenderAllowed);
}

#[test]
fn the_trace_names_every_rule_and_its_fact() {
    let to = ForwardPath::parse(FOREIGN).unwrap();
    let trace = MX.ask(Stage::Rcpt(&to)).trace;
    let steps: Vec<(&str, bool, &str)> =
        trace.0.iter().map(|step| (step.rule.as_str(), step.matched, step.fact.as_str())).collect();
    assert_eq!(
        steps,
        [
            ("local recipient", false, "the domain of bob@adatum.test is not local"),
            ("relay domain", false, "adatum.test is none of the 2 relay domains"),
            ("trusted network", false, "198.51.100.9 is in none of the 2 trusted networks"),
            ("login", false, "not logged in"),
        ]
    );
}

#[test]
fn reasons_have_one_name_in_json_and_metrics() {
    for reason in [MX.rcpt(FOREIGN), MX.rcpt(OURS), SUBMISSION.rcpt(FOREIGN), SUBMISSION.message("")] {
        assert_eq!(serde_json::to_value(&reason).unwrap()["kind"], reason.as_str());
    }
}

proptest! {
    /// Whatever a stranger writes, it is relayed only if its domain is ours or a relay domain.
    #[test]
    fn strangers_never_reach_a_foreign_domain(text in "[a-zA-Z0-9@%!:,.\"\\[\\]\\\\-]{0,40}(@(adatum|proseware|customer)\\.test)?") {
        if let Ok(path) = ForwardPath::parse(&text) {
            let decision = MX.ask(Stage::Rcpt(&path));
            if decision.verdict == Verdict::Accept {
                let ours = match &path {
                    ForwardPath::Postmaster => true,
                    ForwardPath::Address(address) => address.domain().is_some_and(|domain| {
                        ["proseware.test", "mail.proseware.test", "customer.test", "listed.test"].contains(&domain.as_str())
                    }),
                };
                prop_assert!(ours, "{text}");
            }
        }
    }
}

#[test]
fn a_header_that_can_be_read_in_two_ways_is_refused_where_its_senders_are_bound() {
    let header = format!("From: {OURS}\r\nno field\r\n\r\n");
    assert_eq!(SUBMISSION.message(&header), Reason::MalformedHeader);
    assert_eq!(SUBMISSION.message(&format!("From: {OURS}\r\n\r\n")), Reason::SenderAllowed);
    // Whose it is decides first, and strangers may write what they like.
    assert!(matches!(
        SUBMISSION.message("From: x@adatum.test\r\nno field\r\n\r\n"),
        Reason::HeaderFromMismatch { .. }
            | Reason::SenderDomainNotListed { .. }
            | Reason::LoginLacksPermission { .. }
    ));
    assert_eq!(MX.message(&header), Reason::SenderAllowed);
}

#[test]
fn a_ban_is_asked_about_before_anything_is_said_and_at_auth() {
    use std::time::Duration;

    use crate::standing::bans::Ban;

    let policy = policy();
    let ban = |network: &str, by_hand| {
        let ban = Ban {
            network: network.parse().unwrap(),
            since: 0,
            until: 60,
            why: "3 wrong logins".to_owned(),
            by_hand,
        };
        policy.standing.bans.add(ban, UNIX_EPOCH);
    };
    ban("198.51.100.9/32", false);
    ban("203.0.113.0/24", true);
    let ask = |listener, client: &str, stage, now| {
        let question = Question {
            listener,
            client: client.parse().unwrap(),
            local: None,
            tls: true,
            certificate: None,
            login: None,
            helo: None,
            now,
            recipients: 0,
            reverse_path: &ReversePath::Null,
            stage,
        };
        decide(&question, &policy)
    };
    let connect = |listener, client: &str| ask(listener, client, Stage::Connect, UNIX_EPOCH).reason.as_str();
    assert_eq!(connect(ListenerKind::Mx, ELSEWHERE), "connection-allowed", "guessers may send us mail");
    assert_eq!(connect(ListenerKind::Submission, ELSEWHERE), "banned");
    assert_eq!(connect(ListenerKind::Mx, "203.0.113.7"), "banned");
    assert_eq!(connect(ListenerKind::Mx, "203.0.114.7"), "connection-allowed");
    let at_auth = ask(ListenerKind::Submission, ELSEWHERE, Stage::Login, UNIX_EPOCH);
    assert_eq!(
        (at_auth.reason.as_str(), at_auth.verdict, at_auth.rule()),
        ("banned", Verdict::Defer, Some("ban"))
    );
    let later =
        ask(ListenerKind::Submission, ELSEWHERE, Stage::Connect, UNIX_EPOCH + Duration::from_secs(61));
    assert_eq!(later.verdict, Verdict::Accept);
}

#[test]
fn what_a_rule_holds_is_held_and_names_the_rule() {
    let held = MX.ask(Stage::Mail).held_by_rule(7, "an outbreak");
    assert_eq!(
        (held.verdict, held.rule(), held.reason.as_str()),
        (Verdict::Hold, Some("rule 7"), "standing-rule")
    );
}
