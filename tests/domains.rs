//! Who may send as whom, where DNS has a say: SPF, the owner's lock, domains that are verified.

use std::net::Ipv4Addr;

use crate::harness::client::{Reply, message};
use crate::harness::daemon::PASSWORD;
use crate::harness::{Client, Daemon, Setup};

/// By which the world knows the server of these tests.
const OURS: &str = "policy.public_addresses = [\"192.0.2.25\"]\npolicy.sender_dns_refresh = \"0s\"\n";

/// With a login that may send as anybody whose SPF record covers the server.
fn agency() -> Setup {
    Setup::new().with(OURS).account("agency@proseware.test", "permission = \"any\"\nany_if_spf = true")
}

fn log_in(daemon: &Daemon, login: &str) -> Client {
    Client::log_in(daemon.submission(), login, PASSWORD)
}

/// The reply to MAIL FROM.
fn mail_from(daemon: &Daemon, login: &str, sender: &str) -> Reply {
    log_in(daemon, login).command(&format!("MAIL FROM:<{sender}>"))
}

/// The reply to a message of alice to herself whose header names this sender.
fn header_from(client: &mut Client, from: &str) -> Reply {
    client.deliver("alice@proseware.test", &["alice@proseware.test"], &message(from, "a@b.test", "s", "x"))
}

#[track_caller]
fn assert_says(reply: &Reply, code: u16, words: &[&str]) {
    let text = reply.text();
    assert_eq!(reply.code, code, "{text}");
    for word in words {
        assert!(text.contains(word), "no {word:?} in {text:?}");
    }
}

#[test]
fn a_login_may_use_domains_whose_spf_record_covers_this_server() {
    let setup = agency();
    setup.dns().txt("adatum.test", "v=spf1 include:_spf.adatum.test -all");
    setup.dns().txt("_spf.adatum.test", "v=spf1 ip4:192.0.2.0/24 ~all");
    setup.dns().txt("thephone-company.test", "v=spf1 ip4:198.51.100.7 -all");
    let daemon = setup.start();
    let ask = |sender| mail_from(&daemon, "agency@proseware.test", sender);
    assert_says(&ask("news@adatum.test"), 250, &[]);
    let words = ["5.7.1", "thephone-company.test", "SPF", "fail", "192.0.2.25", "(ref "];
    assert_says(&ask("news@thephone-company.test"), 550, &words);
    assert_says(&ask("news@nowhere.test"), 550, &["none"]);
    // Its own address is its own.
    assert_says(&ask("agency@proseware.test"), 250, &[]);
    // What the header says is asked about as well.
    let mut client = log_in(&daemon, "agency@proseware.test");
    client.expect("MAIL FROM:<agency@proseware.test>", 250);
    client.expect("RCPT TO:<alice@proseware.test>", 250);
    client.expect("DATA", 354);
    assert_says(&client.command("From: x@thephone-company.test\r\n\r\nhello\r\n."), 550, &["SPF"]);
}

#[test]
fn dns_trouble_is_never_a_pass_and_never_a_lasting_no() {
    let setup = agency().with("policy.owners_lock = true");
    setup.dns().txt("adatum.test", "v=spf1 +all");
    setup.dns().fail("adatum.test", true);
    let daemon = setup.start();
    let ask = || mail_from(&daemon, "agency@proseware.test", "news@adatum.test");
    assert_says(&ask(), 451, &["4.4.3", "adatum.test", "SPF", "try again later"]);
    daemon.dns().fail("adatum.test", false);
    assert_says(&ask(), 250, &[]);
    // A pass of a moment ago does not stand for one that DNS does not give now.
    daemon.dns().fail("adatum.test", true);
    assert_says(&ask(), 451, &["4.4.3"]);
}

#[test]
fn the_owner_of_a_domain_names_its_only_logins() {
    let daemon = Setup::new().with(OURS).with("policy.owners_lock = true").start();
    let dns = daemon.dns();
    let lock = |record: &str| dns.txt("_postern.proseware.test", record);
    let ask = |login: &str| mail_from(&daemon, login, login);
    assert_says(&ask("bob@proseware.test"), 250, &[]);
    lock("v=postern1; logins=alice@proseware.test");
    assert_says(&ask("alice@proseware.test"), 250, &[]);
    let words = ["5.7.1", "bob@proseware.test", "_postern.proseware.test"];
    assert_says(&ask("bob@proseware.test"), 550, &words);
    // While DNS does not answer, the last known lock holds.
    dns.fail("_postern.proseware.test", true);
    assert_says(&ask("alice@proseware.test"), 250, &[]);
    assert_says(&ask("bob@proseware.test"), 550, &["_postern.proseware.test"]);
    dns.fail("_postern.proseware.test", false);
    lock("v=postern1; login=alice@proseware.test");
    assert_says(
        &ask("alice@proseware.test"),
        550,
        &["_postern.proseware.test", "cannot be understood", "logins="],
    );
}

#[test]
fn a_lock_that_was_never_known_defers_while_dns_does_not_answer() {
    let setup = Setup::new().with("policy.owners_lock = true");
    setup.dns().fail("_postern.proseware.test", true);
    let daemon = setup.start();
    let reply = mail_from(&daemon, "alice@proseware.test", "alice@proseware.test");
    assert_says(&reply, 451, &["4.4.3", "_postern.proseware.test"]);
    assert!(daemon.dns().asked("_postern.proseware.test", hickory_proto::rr::RecordType::TXT) > 0);
}

#[test]
fn without_the_options_dns_is_not_asked_about_senders() {
    let daemon = Setup::new().start();
    assert_says(&mail_from(&daemon, "alice@proseware.test", "alice@proseware.test"), 250, &[]);
    for name in ["_postern.proseware.test", "proseware.test"] {
        assert_eq!(daemon.dns().asked(name, hickory_proto::rr::RecordType::TXT), 0, "{name}");
    }
}

#[test]
fn explain_asks_dns_as_a_session_would() {
    let setup = agency();
    setup.dns().txt("adatum.test", "v=spf1 ip4:192.0.2.25 -all");
    let daemon = setup.start();
    let explain = |from: &str| {
        daemon.ctl(&[
            "policy",
            "explain",
            "--client",
            "198.51.100.9",
            "--listener",
            "submission",
            "--tls",
            "--user",
            "agency@proseware.test",
            "--from",
            from,
            "--to",
            "alice@proseware.test",
        ])
    };
    let covered = explain("x@adatum.test");
    assert!(covered.stdout.contains("adatum.test lets this server send for it"), "{}", covered.stdout);
    let refused = explain("x@thephone-company.test");
    assert!(refused.stdout.contains("spf-does-not-cover"), "{}", refused.stdout);
}

#[test]
fn clients_that_did_not_log_in_are_not_bound_by_the_header() {
    let daemon = Setup::new().with("policy.owners_lock = true").start();
    let mut client = Client::connect_from(Ipv4Addr::new(127, 77, 0, 20), daemon.mx());
    client.ehlo();
    assert_says(&header_from(&mut client, "bob@adatum.test"), 250, &[]);
}
