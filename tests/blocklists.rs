//! Lists in DNS of clients whose mail nobody should take (RFC 5782).

use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use hickory_proto::rr::RecordType;
use serde_json::Value as Json;

use crate::admin::metric;
use crate::harness::client::{Reply, message};
use crate::harness::{Client, Daemon, Setup};

const ALICE: &str = "alice@proseware.test";
const BOB: &str = "bob@proseware.test";
const ZEN: &str = "zen.example.test";

/// One list. Clients here are on loopback, which no list in the world is asked about.
const LIST: &str = "[policy]\ndnsbl_private = true\n[[policy.dnsbl]]\nzone = \"zen.example.test\"";

/// A client of a test: answers are kept for a minute at least, so each has its own.
const fn client(last: u8) -> Ipv4Addr {
    Ipv4Addr::new(127, 88, 9, last)
}

/// What the list in a zone is asked for.
fn name(client: Ipv4Addr, zone: &str) -> String {
    let [a, b, c, d] = client.octets();
    format!("{d}.{c}.{b}.{a}.{zone}")
}

fn rcpt(daemon: &Daemon, from: Ipv4Addr, recipient: &str) -> Reply {
    let mut client = Client::connect_from(from, daemon.mx());
    client.ehlo();
    client.expect("MAIL FROM:<x@client.test>", 250);
    client.command(&format!("RCPT TO:<{recipient}>"))
}

fn explained(daemon: &Daemon, from: Ipv4Addr) -> Json {
    let from = from.to_string();
    let asked = ["policy", "explain", "--client", &from, "--from", "x@client.test", "--to", ALICE, "--json"];
    daemon.ctl(&asked).json()["stages"][1].clone()
}

fn warnings(daemon: &Daemon) -> String {
    daemon.ask(&["status"])["warnings"].to_string()
}

fn reload(daemon: &Daemon, text: &str) {
    daemon.change_config(text);
    let output = daemon.ctl(&["reload"]);
    assert_eq!(output.code, 0, "{output:?}");
}

#[test]
fn a_listed_client_is_refused_with_the_list_and_the_way_out() {
    let setup = Setup::new().with(LIST);
    let (listed, other) = (client(1), client(2));
    setup.dns().a(&name(listed, ZEN), Ipv4Addr::new(127, 0, 0, 2));
    let daemon = setup.start();

    let mut session = Client::connect_from(listed, daemon.mx());
    session.ehlo();
    session.expect("MAIL FROM:<x@client.test>", 250);
    let refused = session.command(&format!("RCPT TO:<{ALICE}>"));
    assert_eq!(
        refused.without_reference(),
        format!(
            "550 5.7.1 <{ALICE}>: mail from {listed} is refused: it is listed by {ZEN}; have it removed there, or \
             write to postmaster@proseware.test"
        )
    );
    // Whoever is refused can still ask why, in the same transaction and without quotes or case to get right.
    assert_eq!(session.command(&format!("RCPT TO:<{BOB}>")).code, 550);
    session.expect("RCPT TO:<PostMaster@proseware.test>", 250);
    session.expect("RCPT TO:<postmaster>", 250);
    session.expect("DATA", 354);
    let content = message("x@client.test", "postmaster@proseware.test", "why?", "x");
    session.expect(&format!("{content}\r\n."), 250);
    // Asked once for all of it.
    assert_eq!(daemon.dns().asked(&name(listed, ZEN), RecordType::A), 1);

    let text = refused.text();
    let reference = &text.split("(ref ").nth(1).unwrap()[..9];
    let record = daemon.ask(&["explain", reference]);
    assert_eq!((&record["class"], &record["reason"]["kind"]), (&"blocklisted".into(), &"blocklisted".into()));
    let all = record.to_string();
    for said in [&format!("{ZEN} lists {listed} (127.0.0.2), which weighs 1"), "policy.dnsbl_exempt"] {
        assert!(all.contains(said), "{said} in {all}");
    }
    assert_eq!(explained(&daemon, listed)["reason"]["kind"], "blocklisted");

    assert_eq!(rcpt(&daemon, other, ALICE).code, 250);
    assert_eq!(metric(&daemon, "postern_dnsbl_answers_total", &["result=\"listed\""]), 1.0);
    assert_eq!(metric(&daemon, "postern_dnsbl_answers_total", &["result=\"not-listed\""]), 1.0);
    assert_eq!(metric(&daemon, "postern_policy_decisions_total", &["reason=\"blocklisted\""]), 2.0);
    let event = daemon.wait_for("dnsbl-answer", |_| true);
    assert_eq!((&event["list"], &event["client"]), (&ZEN.into(), &listed.to_string().into()));
}

#[test]
fn explain_asks_the_lists_as_a_session_would() {
    let setup = Setup::new().with("[[policy.dnsbl]]\nzone = \"zen.example.test\"");
    let stranger = Ipv4Addr::new(198, 51, 100, 9);
    setup.dns().a(&name(stranger, ZEN), Ipv4Addr::new(127, 0, 0, 4));
    let daemon = setup.start();
    let stage = explained(&daemon, stranger);
    assert_eq!(stage["reason"]["answers"], "127.0.0.4");
    assert!(stage["reply"].as_str().unwrap().contains("198.51.100.9 is refused"), "{stage}");
    // Loopback is nobody that a list knows.
    let stage = explained(&daemon, client(3));
    assert!(stage.to_string().contains("no list is asked: 127.88.9.3 is a loopback"), "{stage}");
    assert_eq!(daemon.dns().asked(&name(client(3), ZEN), RecordType::A), 0);
}

#[test]
fn those_who_may_relay_are_never_looked_up() {
    let (office, exempt) = (client(4), client(5));
    let setup = Setup::new().with(LIST).trust(&format!("{office}/32"));
    let setup = setup.with(&format!("[policy]\ndnsbl_exempt = [\"{exempt}/32\"]"));
    for from in [office, exempt] {
        setup.dns().a(&name(from, ZEN), Ipv4Addr::new(127, 0, 0, 2));
    }
    let daemon = setup.start();
    for from in [office, exempt] {
        assert_eq!(rcpt(&daemon, from, ALICE).code, 250);
        assert_eq!(daemon.dns().asked(&name(from, ZEN), RecordType::A), 0, "{from}");
    }
    // What is refused for another reason costs no question either.
    assert_eq!(rcpt(&daemon, client(6), "nobody@proseware.test").code, 550);
    assert_eq!(rcpt(&daemon, client(6), "bob@adatum.test").code, 550);
    assert_eq!(daemon.dns().asked(&name(client(6), ZEN), RecordType::A), 0);
}

#[test]
fn a_broken_list_is_not_believed_and_told() {
    let setup = Setup::new().with(LIST);
    let (parked, blocked, after) = (client(7), client(8), client(9));
    setup.dns().a(&name(parked, ZEN), Ipv4Addr::new(203, 0, 113, 7));
    setup.dns().a(&name(blocked, ZEN), Ipv4Addr::new(127, 255, 255, 254));
    let daemon = setup.start();
    assert_eq!(rcpt(&daemon, parked, ALICE).code, 250);
    daemon.wait_for("dnsbl-broken", |line| line["list"] == ZEN);
    assert!(warnings(&daemon).contains("answers 203.0.113.7"), "{}", warnings(&daemon));
    assert_eq!(metric(&daemon, "postern_dnsbl_trouble", &[ZEN]), 1.0);
    assert_eq!(rcpt(&daemon, blocked, ALICE).code, 250);
    assert!(warnings(&daemon).contains("does not serve this server"), "{}", warnings(&daemon));
    assert_eq!(metric(&daemon, "postern_dnsbl_answers_total", &["result=\"broken\""]), 2.0);
    // It answers again: no warning stays.
    assert_eq!(rcpt(&daemon, after, ALICE).code, 250);
    assert!(!warnings(&daemon).contains(ZEN), "{}", warnings(&daemon));
}

#[test]
fn a_list_that_does_not_answer_keeps_no_mail_out() {
    let setup = Setup::new().with(LIST).with("[policy]\ndnsbl_timeout = \"300ms\"");
    let setup = setup.with("[[policy.dnsbl]]\nzone = \"fast.example.test\"");
    let (slow, failing, listed) = (client(10), client(11), client(12));
    setup.dns().silence(&name(slow, ZEN));
    setup.dns().fail(&name(failing, ZEN), true);
    setup.dns().silence(&name(listed, ZEN));
    setup.dns().a(&name(listed, "fast.example.test"), Ipv4Addr::new(127, 0, 0, 2));
    let daemon = setup.start();
    let begun = Instant::now();
    assert_eq!(rcpt(&daemon, slow, ALICE).code, 250);
    assert!(begun.elapsed() >= Duration::from_millis(300), "the list was not waited for");
    daemon.wait_for("dnsbl-silent", |line| line["list"] == ZEN);
    assert_eq!(rcpt(&daemon, failing, ALICE).code, 250);
    // The other list is asked at the same time, and counts.
    let refused = rcpt(&daemon, listed, ALICE);
    assert!(refused.code == 550 && refused.text().contains("fast.example.test"), "{}", refused.text());
    assert!(warnings(&daemon).contains("does not answer"), "{}", warnings(&daemon));
    assert_eq!(metric(&daemon, "postern_dnsbl_answers_total", &["result=\"silent\"", ZEN]), 3.0);
    // Three in a row: it is left alone, and nobody waits for it.
    assert_eq!(rcpt(&daemon, client(13), ALICE).code, 250);
    assert_eq!(daemon.dns().asked(&name(client(13), ZEN), RecordType::A), 0);
    let stage = explained(&daemon, client(13));
    assert!(stage.to_string().contains("it is left alone"), "{stage}");
}

#[test]
fn a_reload_changes_the_lists() {
    let setup = Setup::new();
    let listed = client(14);
    setup.dns().a(&name(listed, ZEN), Ipv4Addr::new(127, 0, 0, 2));
    setup.dns().a(&name(listed, "good.example.test"), Ipv4Addr::new(127, 0, 5, 1));
    let daemon = setup.start();
    assert_eq!(rcpt(&daemon, listed, ALICE).code, 250);
    assert_eq!(daemon.dns().asked(&name(listed, ZEN), RecordType::A), 0);
    reload(&daemon, LIST);
    assert_eq!(rcpt(&daemon, listed, ALICE).code, 550);
    reload(&daemon, "[[policy.dnsbl]]\nzone = \"good.example.test\"\nweight = -1");
    assert_eq!(rcpt(&daemon, listed, ALICE).code, 250);
    // What is known of a list holds over a reload; what counts of it is the new configuration's.
    assert_eq!(daemon.dns().asked(&name(listed, ZEN), RecordType::A), 1);
    reload(&daemon, "[policy]\ndnsbl_threshold = 3");
    reload(&daemon, "[[policy.dnsbl]]\nzone = \"zen.example.test\"\nanswers = [\"127.0.0.2\"]\nweight = 3");
    let refused = rcpt(&daemon, listed, ALICE);
    assert!(refused.code == 550 && !refused.text().contains("good."), "{}", refused.text());
    assert_eq!(daemon.dns().asked(&name(listed, ZEN), RecordType::A), 1);
    // One that cannot be keeps the old ones.
    daemon.change_config("[[policy.dnsbl]]\nzone = \"zen.example.test\"\nanswers = [\"203.0.113.7\"]");
    let output = daemon.ctl(&["reload"]);
    assert!(output.code != 0 && output.stderr.contains("no answer that a list gives"), "{output:?}");
    assert_eq!(rcpt(&daemon, listed, ALICE).code, 550);
}
