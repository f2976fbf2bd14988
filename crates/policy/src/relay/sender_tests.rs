#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
//! Tricks with senders, each by its name; and what DNS says about them.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use postern_config::account::AccountsFile;
use postern_config::{Config, ListenerKind};
use postern_smtp::{Domain, ReversePath};

use super::*;
use crate::facts::{Wanted, wanted};
use crate::owners_lock::OwnersLock;
use crate::sender::header_senders;
use crate::sender_domains::SenderPolicy;
use crate::verification::{DomainReport, Outcome, State};

const CONFIG: &str = r#"
    hostname = "mail.proseware.test"
    [relay]
    relay_domains = [{ name = "customer.test" }]
    [[domain]]
    name = "proseware.test"
    mailboxes = ["alice", "bob", "alice+boss", "josé", "josé+boss"]
    aliases = { info = ["alice", "bob"] }
    [[domain]]
    name = "bücher.test"
    mailboxes = ["desk"]
"#;
const ACCOUNTS: &str = r#"
    [[account]]
    name = "alice@proseware.test"
    password = ""
    send_as = ["Shared@proseware.test", "@branch.test", "desk@xn--bcher-kva.test", "josé@proseware.test"]
    [[account]]
    name = "office"
    password = ""
    permission = "local"
    [[account]]
    name = "agency"
    password = ""
    permission = "any"
    any_if_spf = true
    domains = ["proseware.test"]
    [[account]]
    name = "any"
    password = ""
    permission = "any"
"#;

fn policy(settings: &str) -> Policy {
    let mut config: Config = toml::from_str(&format!("{CONFIG}\n[policy]\n{settings}")).unwrap();
    config.accounts = toml::from_str::<AccountsFile>(ACCOUNTS).unwrap().accounts;
    Policy::new(&config)
}

fn now() -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(1_000_000)
}

fn with_question<T>(
    policy: &Policy,
    login: &str,
    sender: &str,
    stage: Stage<'_>,
    ask: impl FnOnce(&Question<'_>) -> T,
) -> T {
    let login = policy.accounts.login(login).unwrap();
    ask(&Question {
        listener: ListenerKind::Submission,
        client: "198.51.100.9".parse().unwrap(),
        local: None,
        tls: true,
        certificate: None,
        login: Some(&login),
        helo: None,
        now: now(),
        recipients: 0,
        reverse_path: &ReversePath::parse(sender).unwrap(),
        stage,
    })
}

fn mail(policy: &Policy, login: &str, sender: &str) -> Decision {
    with_question(policy, login, sender, Stage::Mail, |question| decide(question, policy))
}

fn message(policy: &Policy, login: &str, header: &[u8]) -> Decision {
    let senders = header_senders(header);
    with_question(policy, login, "", Stage::Message(&senders), |question| decide(question, policy))
}

/// What alice hears about a header: `yes`, the field at fault, or `unusable`.
fn heard(policy: &Policy, header: &[u8]) -> String {
    match message(policy, "alice@proseware.test", header).reason {
        Reason::SenderAllowed => "yes".to_owned(),
        Reason::HeaderFromMismatch { field, .. } => field,
        Reason::HeaderFromUnusable { .. } => "unusable".to_owned(),
        other => panic!("{other:?}"),
    }
}

/// The name of the trick, what the header says, and what alice hears.
type Trick = (&'static str, &'static str, &'static str);

#[rustfmt::skip]
const TRICKS: &[Trick] = &[
    // One address in many spellings is alice's.
    ("upper case", "From: ALICE@PROSEWARE.TEST", "yes"),
    ("quoted local part", "From: \"alice\"@proseware.test", "yes"),
    ("quoted pair in the local part", "From: \"al\\ice\"@proseware.test", "yes"),
    ("trailing dot", "From: alice@proseware.test.", "yes"),
    ("source route", "From: <@adatum.test,@thephone-company.test:alice@proseware.test>", "yes"),
    ("comments inside the address", "From: (x@y.test) alice (x) @ (y) proseware (z) . test (bob@proseware.test)", "yes"),
    ("folded in the middle", "From: Alice\r\n <alice\r\n @proseware.test>", "yes"),
    ("obsolete space before the colon", "From : alice@proseware.test", "yes"),
    ("U-label for a granted A-label", "From: desk@BÜCHER.test", "yes"),
    ("U-label with a combining accent", "From: desk@bu\u{308}cher.test", "yes"),
    ("combining accent for a granted letter", "From: jose\u{301}@proseware.test", "yes"),
    ("own subaddress", "From: alice+news@proseware.test", "yes"),
    ("granted domain", "From: whoever@branch.test", "yes"),
    ("group of own addresses", "From: Us: alice@proseware.test, shared@proseware.test;", "yes"),
    ("several own addresses", "From: alice@proseware.test, shared@proseware.test", "yes"),
    ("empty list elements", "From: ,, alice@proseware.test,", "yes"),
    // A display name is not a sender, whatever it looks like.
    ("address as display name", "From: \"bob@proseware.test\" <alice@proseware.test>", "yes"),
    ("encoded address as display name", "From: =?utf-8?q?bob=40proseware=2Etest?= <alice@proseware.test>", "yes"),
    // Somebody else, in disguise.
    ("somebody else", "From: bob@proseware.test", "From"),
    ("own address as display name", "From: \"alice@proseware.test\" <bob@proseware.test>", "From"),
    ("own address as comment", "From: bob@proseware.test (alice@proseware.test)", "From"),
    ("own address in the source route", "From: <@proseware.test:bob@proseware.test>", "From"),
    ("somebody else behind one's own", "From: alice@proseware.test, bob@proseware.test", "From"),
    ("somebody else in a group", "From: Us: alice@proseware.test, bob@proseware.test;", "From"),
    ("somebody else behind an empty group", "From: Nobody:;, bob@proseware.test", "From"),
    ("somebody else on a folded line", "From: alice@proseware.test,\r\n\tbob@proseware.test", "From"),
    ("mailbox that looks like a subaddress", "From: alice+boss@proseware.test", "From"),
    ("the same in upper case and quotes", "From: \"ALICE+Boss\"@proseware.test", "From"),
    ("the same with a combining accent", "From: jose\u{301}+boss@proseware.test", "From"),
    ("alias that leads to the login", "From: info@proseware.test", "From"),
    ("subaddress of an alias", "From: info+x@proseware.test", "From"),
    ("name below a granted domain", "From: x@sub.branch.test", "From"),
    ("domain that ends like a granted one", "From: x@notbranch.test", "From"),
    ("other script", "From: \u{430}lice@proseware.test", "From"),
    ("at sign in the local part", "From: \"alice@proseware.test\"@adatum.test", "From"),
    ("percent route", "From: alice%proseware.test@adatum.test", "From"),
    ("address literal", "From: alice@[192.0.2.25]", "From"),
    ("host name instead of the domain", "From: alice@mail.proseware.test", "From"),
    ("relay domain", "From: x@customer.test", "From"),
    // What readers could understand in two ways.
    ("missing From", "Subject: x", "unusable"),
    ("empty From", "From:", "unusable"),
    ("blank From", "From: \t", "unusable"),
    ("comment only", "From: (alice@proseware.test)", "unusable"),
    ("empty group", "From: undisclosed-recipients:;", "unusable"),
    ("two From fields", "From: alice@proseware.test\r\nFrom: alice@proseware.test", "unusable"),
    ("two From fields, one obsolete", "From: alice@proseware.test\r\nfrom : bob@proseware.test", "unusable"),
    ("encoded word as the whole address", "From: =?utf-8?q?alice=40proseware.test?=", "unusable"),
    ("encoded word as local part", "From: =?utf-8?q?alice?=@proseware.test", "unusable"),
    ("encoded word as quoted local part", "From: <\"=?utf-8?b?Ym9i?=\"@branch.test>", "unusable"),
    ("encoded word as domain", "From: alice@=?utf-8?q?proseware.test?=", "unusable"),
    ("address behind an address", "From: alice@proseware.test <bob@proseware.test>", "unusable"),
    ("two angle addresses", "From: <alice@proseware.test> <bob@proseware.test>", "unusable"),
    ("group that does not end", "From: Us: alice@proseware.test", "unusable"),
    ("group in a group", "From: A: B: alice@proseware.test;;", "unusable"),
    ("NUL", "From: alice@proseware.test\0", "unusable"),
    ("bare CR", "From: alice@proseware.test\rbob@proseware.test", "unusable"),
    ("comment that does not end", "From: alice@proseware.test (bob", "unusable"),
    ("no domain", "From: alice", "unusable"),
    // The other fields.
    ("somebody else as Sender", "From: alice@proseware.test\r\nSender: bob@proseware.test", "Sender"),
    ("second Sender", "Sender: alice@proseware.test\r\nFrom: alice@proseware.test\r\nSENDER: bob@proseware.test", "Sender"),
    ("several addresses in Sender", "From: alice@proseware.test\r\nSender: alice@proseware.test, bob@proseware.test", "Sender"),
    ("empty Sender", "From: alice@proseware.test\r\nSender:", "Sender"),
    ("unreadable Sender", "From: alice@proseware.test\r\nSender: <bob", "Sender"),
    ("somebody else as Resent-From", "From: alice@proseware.test\r\nResent-From: bob@proseware.test", "Resent-From"),
    ("somebody else as Resent-Sender", "Resent-Sender: bob@proseware.test\r\nFrom: alice@proseware.test", "Resent-Sender"),
    ("resent by oneself", "Resent-From: alice@proseware.test\r\nFrom: alice@proseware.test", "yes"),
    ("resent for somebody else", "Resent-From: alice@proseware.test\r\nFrom: bob@adatum.test", "From"),
    ("replies to somebody else", "From: alice@proseware.test\r\nReply-To: bob@adatum.test", "yes"),
];

#[test]
fn tricks_with_header_senders() {
    let policy = policy("");
    for (trick, header, expected) in TRICKS {
        assert_eq!(heard(&policy, format!("{header}\r\n\r\nbody").as_bytes()), *expected, "{trick}");
    }
    assert_eq!(
        heard(&policy, b"From: \xe4lice <alice@proseware.test>\r\n"),
        "unusable",
        "octets that are no UTF-8"
    );
    assert_eq!(heard(&policy, "From: \u{c4}lice <alice@proseware.test>\r\n".as_bytes()), "yes", "raw UTF-8");
}

#[test]
fn tricks_with_the_envelope_sender() {
    let policy = policy("");
    let heard = |sender: &str| mail(&policy, "alice@proseware.test", sender).reason.as_str();
    for (sender, expected) in [
        ("ALICE@Proseware.test", "sender-allowed"),
        ("\"alice\"@proseware.test", "sender-allowed"),
        ("alice@proseware.test.", "sender-allowed"),
        ("@adatum.test:alice@proseware.test", "sender-allowed"),
        ("desk@bücher.test", "sender-allowed"),
        ("alice+x@proseware.test", "sender-allowed"),
        ("", "sender-allowed"),
        ("alice+boss@proseware.test", "login-lacks-permission"),
        ("@proseware.test:bob@proseware.test", "login-lacks-permission"),
        ("\"alice@proseware.test\"@adatum.test", "sender-domain-not-listed"),
        ("alice@[192.0.2.25]", "sender-domain-not-listed"),
        ("x@customer.test", "sender-domain-not-listed"),
    ] {
        assert_eq!(heard(sender), expected, "{sender}");
    }
}

#[test]
fn reply_to_is_asked_about_where_that_is_wanted() {
    let policy = policy("check_reply_to = true");
    let heard =
        |reply_to: &str| heard(&policy, format!("From: alice@proseware.test\r\n{reply_to}\r\n").as_bytes());
    assert_eq!(heard("Reply-To: alice+list@proseware.test"), "yes");
    assert_eq!(heard("Reply-To: alice@proseware.test, bob@adatum.test"), "Reply-To");
    assert_eq!(heard("Reply-To: alice@proseware.test\r\nReply-To: bob@adatum.test"), "Reply-To");
    assert_eq!(heard("Reply-To: <bob"), "Reply-To");
    assert_eq!(heard("Reply-To: nobody:;"), "yes");
}

#[test]
fn permission_local_means_domains_that_are_here() {
    let policy = policy("");
    let heard = |sender: &str| mail(&policy, "office", sender).reason.as_str();
    assert_eq!(heard("anybody@proseware.test"), "sender-allowed");
    assert_eq!(heard("anybody@bücher.test"), "sender-allowed");
    for sender in ["x@customer.test", "root@mail.proseware.test", "x@sub.proseware.test", "x@[192.0.2.1]"] {
        assert_eq!(heard(sender), "sender-domain-not-listed", "{sender}");
    }
}

fn domain(text: &str) -> Domain {
    Domain::parse(text).unwrap()
}

fn asked(policy: &Policy, login: &str, header: &str) -> Vec<Wanted> {
    let senders = header_senders(header.as_bytes());
    with_question(policy, login, "", Stage::Message(&senders), |question| wanted(question, policy))
}

#[test]
fn a_domain_whose_spf_covers_us_may_be_used_by_whoever_may_then_use_any() {
    let policy = policy("");
    let known = &policy.standing.sender_domains;
    let adatum = domain("adatum.test");
    let heard = |login| mail(&policy, login, "x@adatum.test");

    let wants =
        with_question(&policy, "agency", "x@adatum.test", Stage::Mail, |question| wanted(question, &policy));
    assert_eq!(wants, [Wanted::SenderPolicy(adatum.clone())]);
    // Nobody has asked: no answer is no pass, and no lasting no.
    let unknown = heard("agency");
    assert_eq!((unknown.verdict, unknown.reason.as_str()), (Verdict::Defer, "dns-trouble"));

    known.learn_policy(&adatum, Ok(SenderPolicy::Covers), now());
    assert_eq!(heard("agency").reason, Reason::SenderAllowed);
    assert!(asked(&policy, "agency", "From: x@adatum.test\r\n").is_empty());

    known.learn_policy(&adatum, Err("server failure".to_owned()), now());
    let trouble = heard("agency");
    assert_eq!(trouble.verdict, Verdict::Defer);
    assert!(matches!(trouble.reason, Reason::DnsTrouble { what, .. } if what.contains("server failure")));

    known.learn_policy(&adatum, Ok(SenderPolicy::DoesNot("fail for 192.0.2.25".to_owned())), now());
    assert!(
        matches!(heard("agency").reason, Reason::SpfDoesNotCover { result, .. } if result.contains("192.0.2.25"))
    );
    let header = message(&policy, "agency", b"From: x@adatum.test\r\n");
    assert_eq!(header.reason.as_str(), "spf-does-not-cover");
    // What was granted by name, and whoever may use any domain anyhow, do not hang on it.
    assert_eq!(mail(&policy, "agency", "x@proseware.test").reason, Reason::SenderAllowed);
    assert_eq!(heard("any").reason, Reason::SenderAllowed);
    assert!(asked(&policy, "any", "From: x@adatum.test\r\n").is_empty());
}

#[test]
fn a_message_that_names_very_many_domains_asks_nothing() {
    let policy = policy("owners_lock = true");
    let list: Vec<String> = (0..1000).map(|n| format!("x@d{n}.test")).collect();
    let header = format!("From: {}\r\n", list.join(", "));
    assert!(asked(&policy, "any", &header).is_empty());
    assert_eq!(message(&policy, "any", header.as_bytes()).reason.as_str(), "header-from-unusable");
}

#[test]
fn an_owners_lock_keeps_other_logins_out() {
    let policy = policy("owners_lock = true");
    let known = &policy.standing.sender_domains;
    let branch = domain("branch.test");
    assert_eq!(
        asked(&policy, "alice@proseware.test", "From: x@branch.test\r\n"),
        [Wanted::OwnersLock(branch.clone())]
    );
    // Senders that are refused anyhow are not asked about.
    assert!(asked(&policy, "alice@proseware.test", "From: x@adatum.test\r\n").is_empty());

    let lock = |record: &str| known.learn_lock(&branch, Ok(OwnersLock::read(&[record.to_owned()])), now());
    for (record, login, expected) in [
        ("v=spf1 -all", "alice@proseware.test", "sender-allowed"),
        ("v=postern1; logins=alice@proseware.test", "alice@proseware.test", "sender-allowed"),
        ("v=postern1; logins=any@mail.proseware.test", "any", "sender-allowed"),
        ("v=postern1; logins=any@mail.adatum.test", "any", "owners-lock"),
        ("v=postern1; logins=bob@proseware.test", "alice@proseware.test", "owners-lock"),
        ("v=postern1; logins=", "any", "owners-lock"),
        ("v=postern1; login=alice@proseware.test", "alice@proseware.test", "owners-lock"),
    ] {
        lock(record);
        assert_eq!(mail(&policy, login, "x@branch.test").reason.as_str(), expected, "{record} {login}");
        assert_eq!(message(&policy, login, b"From: x@branch.test\r\n").reason.as_str(), expected, "{record}");
    }
    assert!(matches!(
        mail(&policy, "any", "x@branch.test").reason,
        Reason::OwnersLock { problem: Some(problem), .. } if problem.contains("logins=")
    ));
}

#[test]
fn a_lock_that_dns_does_not_tell_defers_unless_it_was_known() {
    let policy = policy("owners_lock = true");
    let known = &policy.standing.sender_domains;
    let branch = domain("branch.test");
    known.learn_lock(&branch, Err("server failure".to_owned()), now());
    let unknown = mail(&policy, "any", "x@branch.test");
    assert_eq!((unknown.verdict, unknown.reason.as_str()), (Verdict::Defer, "dns-trouble"));
    known.learn_lock(&branch, Ok(OwnersLock::Open), now());
    known.learn_lock(&branch, Err("server failure".to_owned()), now());
    assert_eq!(mail(&policy, "any", "x@branch.test").reason, Reason::SenderAllowed);
}

#[test]
fn locks_are_not_looked_for_unless_that_is_switched_on() {
    let policy = policy("");
    assert!(asked(&policy, "alice@proseware.test", "From: x@branch.test\r\n").is_empty());
    assert_eq!(mail(&policy, "alice@proseware.test", "x@branch.test").reason, Reason::SenderAllowed);
}

#[test]
fn a_domain_of_ours_must_be_verified_where_that_is_enforced() {
    let report = |state, outcome| DomainReport {
        state,
        checked: Some(1),
        outcome: Some(outcome),
        ..DomainReport::default()
    };
    for (known, enforced) in [
        (DomainReport::default(), "dns-trouble"),
        (report(State::Pending, Outcome::Undecided), "dns-trouble"),
        (report(State::Pending, Outcome::Lacking), "domain-not-verified"),
        (report(State::Failed, Outcome::Lacking), "domain-not-verified"),
        (report(State::Failed, Outcome::Undecided), "domain-not-verified"),
        (report(State::Verified, Outcome::InOrder), "sender-allowed"),
        (report(State::Verified, Outcome::Lacking), "sender-allowed"),
        (report(State::Verified, Outcome::Undecided), "sender-allowed"),
    ] {
        for (mode, expected) in [("off", "sender-allowed"), ("warn", "sender-allowed"), ("enforce", enforced)]
        {
            let policy = policy(&format!("require_verified = {mode:?}"));
            policy.standing.sender_domains.set_report(&domain("proseware.test"), known.clone());
            for login in ["alice@proseware.test", "office", "agency", "any"] {
                let decision =
                    mail(&policy, login, if login.contains('@') { login } else { "x@proseware.test" });
                assert_eq!(decision.reason.as_str(), expected, "{mode} {login} {known:?}");
                assert_eq!(decision.verdict, decision.reason.verdict());
                let warned = decision.warnings().count() > 0;
                assert_eq!(warned, mode != "off" && known.state != State::Verified, "{mode} {known:?}");
            }
            let header = message(&policy, "alice@proseware.test", b"From: alice@proseware.test\r\n");
            assert_eq!(header.reason.as_str(), expected, "{mode} {known:?}");
        }
    }
}

#[test]
fn only_domains_of_ours_need_to_be_verified() {
    let policy = policy("require_verified = \"enforce\"");
    assert_eq!(mail(&policy, "any", "x@adatum.test").reason, Reason::SenderAllowed);
    assert_eq!(mail(&policy, "alice@proseware.test", "x@branch.test").reason, Reason::SenderAllowed);
    assert_eq!(mail(&policy, "alice@proseware.test", "").reason, Reason::SenderAllowed);
}
