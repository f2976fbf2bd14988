//! How refusals are worded, what is kept of them, and who may read it.

use std::fs;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};

use rustls::{ClientConnection, StreamOwned};
use rustls_pki_types::ServerName;
use serde_json::Value as Json;

use crate::admin::metric;
use crate::harness::client::{Reply, message};
use crate::harness::daemon::PASSWORD;
use crate::harness::{Client, Daemon, PATIENCE, Setup, tls};

const ALICE: &str = "alice@proseware.test";
const BOB: &str = "bob@adatum.test";

/// A stranger's attempt to relay.
fn relay(daemon: &Daemon) -> Reply {
    rcpt(daemon, "MAIL FROM:<x@client.test>", BOB)
}

fn rcpt(daemon: &Daemon, mail: &str, recipient: &str) -> Reply {
    let mut client = Client::connect(daemon.mx());
    client.ehlo();
    client.expect(mail, 250);
    client.command(&format!("RCPT TO:<{recipient}>"))
}

/// The reference in a reply.
fn reference(reply: &Reply) -> String {
    let text = reply.text();
    let rest = text.split("(ref ").nth(1).unwrap_or_else(|| panic!("no reference in {text:?}"));
    rest[..9].to_owned()
}

fn record(daemon: &Daemon, reply: &Reply) -> Json {
    daemon.ask(&["explain", &reference(reply)])
}

fn transcript(record: &Json) -> Vec<&str> {
    record["transcript"].as_array().unwrap().iter().map(|line| line.as_str().unwrap()).collect()
}

/// Everything in the files of records.
fn stored(daemon: &Daemon) -> String {
    let files = fs::read_dir(daemon.folder().join("spool/policy/records")).unwrap();
    files.map(|file| fs::read_to_string(file.unwrap().path()).unwrap()).collect()
}

fn reload(daemon: &Daemon, text: &str) {
    daemon.change_config(text);
    let output = daemon.ctl(&["reload"]);
    assert_eq!(output.code, 0, "{output:?}");
}

#[test]
fn relaying_is_refused_in_the_words_that_are_configured() {
    let daemon = Setup::new().start();
    let text = relay(&daemon).text();
    assert!(text.starts_with(&format!("550 5.7.1 <{BOB}>: relay not permitted: ")), "{text}");
    for (family, words) in [
        ("postfix", "554 5.7.1 <bob@adatum.test>: Relay access denied (ref "),
        ("sendmail", "550 5.7.1 <bob@adatum.test>... Relaying denied (ref "),
        ("exim", "550 relay not permitted (ref "),
        ("qmail", "553 sorry, that domain isn't in my list of allowed rcpthosts (#5.7.1) (ref "),
        ("authenticate", "550 Authentication is required for relay (ref "),
    ] {
        reload(&daemon, &format!("[replies]\nfamily = {family:?}"));
        let reply = relay(&daemon);
        assert!(reply.text().starts_with(words), "{}", reply.text());
        // The words change; what was decided does not.
        assert_eq!(record(&daemon, &reply)["reason"]["kind"], "not-trusted-not-local");
    }
    reload(&daemon, "[replies]\nfamily = \"tagged\"\nreport_url = \"https://reports.example/\"");
    let text = relay(&daemon).text();
    let page = text.strip_prefix("550 [ACL] Blocked. See https://reports.example/?id=");
    let page = page.unwrap_or_else(|| panic!("{text}"));
    let found = daemon.ask(&["explain", &page[..9]]);
    assert_eq!((&found["class"], &page[9..]), (&"relay".into(), "&auth="));

    reload(&daemon, "[replies]\nfamily = \"exim\"\nmigrating = true");
    assert!(relay(&daemon).text().starts_with("454 4.7.1 relay not permitted"));
    let status = daemon.ctl(&["status"]).stdout;
    assert!(status.contains("replies.migrating is on"), "{status}");
    assert_eq!(rcpt(&daemon, "MAIL FROM:<>", "nobody@proseware.test").code, 550);
    // `policy explain` tells the same words.
    let client = daemon.mx().ip().to_string();
    let asked = ["policy", "explain", "--client", &client, "--from", "x@client.test", "--to", BOB, "--json"];
    let explained = daemon.ctl(&asked).json();
    assert_eq!(explained["stages"][1]["reply"], "454 4.7.1 relay not permitted");
}

#[test]
fn a_text_of_ones_own_is_used_and_a_wrong_one_keeps_the_old_configuration() {
    let own = r#"
        [replies.recipient_unknown]
        code = 553
        status = "5.1.1"
        text = "{address}? Nobody here. {cause} [{ref}]"
    "#;
    let daemon = Setup::new().with(own).start();
    let text = rcpt(&daemon, "MAIL FROM:<>", "nobody@proseware.test").text();
    assert!(text.starts_with("553 5.1.1 nobody@proseware.test? Nobody here. no such user here ["), "{text}");
    for (wrong, problem) in [
        ("[replies.relay]\ncode = 250", "250 is no code of a refusal"),
        ("[replies.relay]\ntext = \"{password}\"", "there is no {password}"),
        ("[replies.relay]\nfamily = \"tagged\"", "`tagged` replies point to a page"),
    ] {
        let good = fs::read_to_string(daemon.config()).unwrap();
        daemon.change_config(wrong);
        let output = daemon.ctl(&["reload"]);
        assert!(output.code != 0 && output.stderr.contains(problem), "{output:?}");
        fs::write(daemon.config(), good).unwrap();
    }
    assert!(rcpt(&daemon, "MAIL FROM:<>", "nobody@proseware.test").text().starts_with("553 5.1.1 "));
}

#[test]
fn a_reply_421_closes_the_connection() {
    let setup = Setup::new().with("[replies.recipient_unknown]\ncode = 421\nstatus = \"4.7.1\"");
    let daemon = setup.start();
    let mut client = Client::connect(daemon.mx());
    client.ehlo();
    client.expect("MAIL FROM:<>", 250);
    client.expect("RCPT TO:<nobody@proseware.test>", 421);
    assert!(client.is_closed());
}

#[test]
fn a_record_tells_everything_and_survives_a_restart() {
    let mut daemon = Setup::new().start();
    let mut client = Client::connect(daemon.mx());
    client.ehlo();
    client.expect("MAIL FROM:<first@client.test>", 250);
    client.expect("RSET", 250);
    client.expect("MAIL FROM:<x@client.test>", 250);
    client.expect(&format!("RCPT TO:<{ALICE}>"), 250);
    let reply = client.expect(&format!("RCPT TO:<{BOB}>"), 550);
    daemon.terminate();
    daemon.start();
    let record = record(&daemon, &reply);
    for (field, expected) in [
        ("stage", "rcpt"),
        ("listener", "mx"),
        ("helo", "client.test"),
        ("reverse_path", "x@client.test"),
        ("recipient", BOB),
        ("class", "relay"),
        ("advice", "log in on port 587 or 465"),
    ] {
        assert_eq!(record[field], expected, "{record}");
    }
    assert_eq!(record["recipients"], 1);
    assert_eq!(record["reply"], reply.text());
    let said = transcript(&record);
    assert_eq!(said[..2], ["S: 220 mail.proseware.test ESMTP Postern", "C: EHLO client.test"]);
    assert!(said[2].starts_with("S: 250 "), "{said:?}");
    assert_eq!(
        said[3..],
        [
            "C: MAIL FROM:<x@client.test>",
            "S: 250 2.1.0 Ok",
            "C: RCPT TO:<alice@proseware.test>",
            "S: 250 2.1.5 Ok",
            "C: RCPT TO:<bob@adatum.test>",
        ]
    );
    let remedies = record["remedies"].to_string();
    assert!(
        remedies.contains("relay.trusted_networks") && remedies.contains("posternctl account add"),
        "{remedies}"
    );
    let shown = daemon.ctl(&["explain", &reference(&reply)]).stdout;
    for part in ["what was said:", "C: RCPT TO:<bob@adatum.test>", "what would allow it:", "trusted network"]
    {
        assert!(shown.contains(part), "{part}: {shown}");
    }
}

#[test]
fn refusals_at_auth_are_kept_without_the_password() {
    let daemon = Setup::new().start();
    let secret = "AGFsaWNlQHByb3Nld2FyZS50ZXN0AGhlbGxvIHdvcmxk";
    let mut client = Client::connect(daemon.submission());
    client.ehlo();
    let in_clear = client.expect(&format!("AUTH PLAIN {secret}"), 538);
    assert_eq!(record(&daemon, &in_clear)["reason"]["kind"], "login-not-offered");
    // Programs that do not wait for the reply send the password all the same.
    client.command(secret);
    client.start_tls();
    client.ehlo();
    let wrong = client.expect(&format!("AUTH PLAIN {secret}"), 535);
    let found = record(&daemon, &wrong);
    assert_eq!((&found["stage"], &found["reason"]["kind"]), (&"login".into(), &"wrong-password".into()));
    assert_eq!(found["reason"]["login"], ALICE);
    assert_eq!(transcript(&found).last(), Some(&"C: AUTH PLAIN (response, not kept)"));
    client.expect("AUTH LOGIN", 334);
    client.expect("YWxpY2VAcHJvc2V3YXJlLnRlc3Q=", 334);
    let wrong = client.expect("aGVsbG8gd29ybGQ=", 535);
    assert!(transcript(&record(&daemon, &wrong)).contains(&"C: (response, not kept)"));
    let mut client = Client::connect(daemon.mx());
    client.ehlo();
    let wrong_port = client.expect(&format!("AUTH PLAIN {secret}"), 503);
    assert_eq!(record(&daemon, &wrong_port)["reason"]["missing"], "a submission port");
    // The password in the field of the name, then the name: kept nowhere either.
    let mut client = Client::connect(daemon.submission());
    client.ehlo();
    client.start_tls();
    client.ehlo();
    let swapped = client.auth_plain("hello world", ALICE);
    assert_eq!(record(&daemon, &swapped)["reason"]["login"], "unknown, 11 characters");
    let logged = daemon.wait_for("login-failed", |line| line["reference"] == reference(&swapped));
    assert_eq!(logged["login"], "unknown, 11 characters");
    let stored = stored(&daemon);
    for part in [secret, "aGVsbG8gd29ybGQ", "hello world", "YWxpY2VAcHJvc2V3YXJlLnRlc3Q="] {
        assert!(!stored.contains(part), "{part}");
    }
}

#[test]
fn a_refusal_of_the_header_names_its_senders() {
    let daemon = Setup::new().start();
    let mut client = Client::log_in(daemon.submission(), ALICE, PASSWORD);
    let content = message("mallory@client.test", BOB, "hello", "x");
    let reply = client.deliver(ALICE, &[BOB], &content);
    assert_eq!(reply.code, 550);
    let found = record(&daemon, &reply);
    assert_eq!((&found["stage"], &found["class"]), (&"message".into(), &"header".into()));
    assert_eq!(found["header"][0], "From: mallory@client.test");
    // The reply as it was pasted, and its reference in any form, lead to the same record; one with a slip in it is told so.
    let name = reference(&reply);
    let halves = name.replace('-', " ");
    for pasted in [reply.text(), format!("(ref {name})"), format!("ref {name}."), halves] {
        assert_eq!(daemon.ask(&["explain", &pasted]), found, "{pasted}");
    }
    let (first, rest) = name.split_at(1);
    let slip = format!("{}{rest}", if first == "0" { "1" } else { "0" });
    let unknown = daemon.ctl(&["explain", &slip]);
    assert_eq!(unknown.code, 1, "{unknown:?}");
    assert!(unknown.stderr.contains(&format!("Mistyped? There is one of {name}")), "{unknown:?}");
    let nothing = daemon.ctl(&["explain", ""]);
    assert!(nothing.code == 2 && nothing.stderr.contains("what is to be explained?"), "{nothing:?}");
    assert_eq!(found["login"], ALICE);
    assert_eq!(transcript(&found).last(), Some(&"C: (message)"));
}

#[test]
fn a_session_that_refuses_by_a_limit_or_for_smtputf8_names_a_record() {
    let daemon = Setup::new().with("smtp.max_recipients = 1").start();
    let mut client = Client::connect(daemon.mx());
    client.ehlo();
    client.expect("MAIL FROM:<x@client.test>", 250);
    client.expect(&format!("RCPT TO:<{ALICE}>"), 250);
    let full = client.command(&format!("RCPT TO:<{ALICE}>"));
    assert!(full.text().starts_with("452 4.5.3 too many recipients, 1 is the limit"), "{full:?}");
    let found = record(&daemon, &full);
    assert_eq!(
        (&found["reason"]["kind"], &found["verdict"]),
        (&"too-many-recipients".into(), &"defer".into())
    );
    assert!(found["remedies"].to_string().contains("smtp.max_recipients"), "{found}");
    // Whoever tries thousands is told the same, and fills no records.
    for _ in 0..5 {
        assert_eq!(client.command(&format!("RCPT TO:<{ALICE}>")).text(), full.text());
    }
    client.expect("RSET", 250);
    client.expect("MAIL FROM:<x@client.test>", 250);
    let utf8 = client.command("RCPT TO:<jörg@proseware.test>");
    assert!(utf8.text().starts_with("553 5.6.7 address needs the SMTPUTF8 parameter"), "{utf8:?}");
    let found = record(&daemon, &utf8);
    assert_eq!(
        (&found["reason"]["kind"], &found["recipient"]),
        (&"needs-smtputf8".into(), &"jörg@proseware.test".into())
    );
    client.expect("RSET", 250);
    let sender = client.command("MAIL FROM:<jörg@client.test>");
    assert!(sender.text().starts_with("553 5.6.7 address needs the SMTPUTF8 parameter"), "{sender:?}");
    let found = record(&daemon, &sender);
    assert_eq!(
        (&found["reason"]["kind"], &found["reverse_path"]),
        (&"needs-smtputf8".into(), &"jörg@client.test".into())
    );
    let explain = |more: &[&str]| {
        let question =
            ["policy", "explain", "--client", "127.0.0.1", "--from", "jörg@client.test", "--to", ALICE];
        daemon.ctl(&[&question, more].concat())
    };
    let without = explain(&[]);
    assert!(without.code == 1 && without.stdout.contains("needs-smtputf8"), "{without:?}");
    assert_eq!(explain(&["--smtputf8"]).code, 0);
    assert_eq!(stored(&daemon).lines().count(), 3);
    // Syntax is no decision: its reply says all that there is to know.
    let syntax = client.command("RCPT TO:nobody");
    assert!(syntax.code == 501 && !syntax.text().contains("(ref "), "{syntax:?}");
}

#[test]
fn a_header_that_can_be_read_in_two_ways_is_on_the_record() {
    let daemon = Setup::new().start();
    let mut client = Client::connect_tls(daemon.submissions());
    client.ehlo();
    assert_eq!(client.auth_plain(ALICE, PASSWORD).code, 235);
    let content = format!("From: {ALICE}\r\nno field at all\r\nSubject: x\r\n\r\nx\r\n");
    let reply = client.deliver(ALICE, &[BOB], &content);
    assert!(
        reply
            .text()
            .starts_with("550 5.6.0 message header has a NUL or a line that is no header field (ref "),
        "{reply:?}"
    );
    let found = record(&daemon, &reply);
    assert_eq!((&found["reason"]["kind"], &found["class"]), (&"malformed-header".into(), &"header".into()));
    assert_eq!(found["rules"].as_array().unwrap().last().unwrap()["rule"], "header", "{found}");
}

#[test]
fn a_banned_client_hears_a_reference_and_a_flood_of_them_fills_no_records() {
    let daemon = Setup::new().with("auth.guessing.ban_loopback = true").start();
    let banned = ["ban", "add", "127.77.2.0/24", "--ttl", "1h", "--reason", "spam"];
    assert_eq!(daemon.ctl(&banned).code, 0);
    let connect = |host: u8| Client::open_from(Ipv4Addr::new(127, 77, 2, host), daemon.mx()).reply();
    let reply = connect(1);
    assert!(
        reply.text().starts_with(
            "421 4.7.0 connections from your address are not accepted now; ask postmaster (ref "
        ),
        "{reply:?}"
    );
    let found = record(&daemon, &reply);
    assert_eq!((&found["stage"], &found["client"]), (&"connect".into(), &"127.77.2.1".into()));
    assert_eq!((&found["reason"]["kind"], &found["reason"]["why"]), (&"banned".into(), &"spam".into()));
    assert_eq!(found["remedies"], serde_json::json!(["end the ban: `posternctl ban remove 127.77.2.0/24`"]));
    daemon
        .wait_for("turned-away", |line| line["client"] == "127.77.2.1" && line["network"] == "127.77.2.0/24");
    // Why is nobody else's business.
    assert!(!reply.text().contains("spam"), "{reply:?}");
    for _ in 0..20 {
        let again = connect(1);
        // The hour may end meanwhile; then there is one more, once.
        assert!(again.text().contains("(ref "), "{again:?}");
    }
    for host in 2..=150 {
        assert_eq!(connect(host).code, 421);
    }
    assert_eq!(daemon.ctl(&["explain", &reference(&reply)]).code, 0);
    let records = stored(&daemon).lines().count();
    assert!((100..=200).contains(&records), "{records}: a hundred an hour at most");
    let explained =
        ["policy", "explain", "--client", "127.77.2.9", "--from", "x@client.test", "--to", ALICE, "--json"];
    let answer = daemon.ctl(&explained).json();
    assert_eq!(answer["stages"][0]["stage"], "connect", "{answer}");
    assert_eq!(answer["stages"][0]["reason"]["kind"], "banned", "{answer}");
    // Words of one's own are told; that the connection ends stays true.
    reload(&daemon, "[replies]\nbanned.text = \"go away, {client} ({ref})\"");
    let worded = connect(1);
    assert!(worded.text().starts_with("421 4.7.0 go away, 127.77.2.1 ("), "{worded:?}");
}

#[test]
fn a_rule_on_senders_of_the_header_has_a_reason_of_its_own() {
    let daemon = Setup::new().start();
    daemon.ask(&["rule", "add", "reject", "--header", "From=mallory@client", "--reason", "blocked sender"]);
    let mut client = Client::connect(daemon.mx());
    client.ehlo();
    let content = message("mallory@client.test", ALICE, "hello", "x");
    let reply = client.deliver("x@client.test", &[ALICE], &content);
    assert_eq!(reply.code, 550);
    assert_eq!(record(&daemon, &reply)["reason"]["kind"], "header-blocked-sender");
}

#[test]
fn what_standing_rules_do_to_a_message_is_explained_before() {
    let daemon = Setup::new().start();
    daemon.ask(&["rule", "add", "reject", "--header", "From=mallory@client", "--reason", "blocked sender"]);
    daemon.ask(&["rule", "add", "hold", "--header", "Subject=invoice", "--reason", "an outbreak"]);
    let file = daemon.folder().join("draft.eml");
    let explain = |from: &str, subject: &str| {
        fs::write(&file, message(from, ALICE, subject, "x")).unwrap();
        let client = ["policy", "explain", "--client", "198.51.100.9", "--from", "x@client.test"];
        daemon.ctl(&[&client[..], &["--to", ALICE, "--message", file.to_str().unwrap()]].concat())
    };
    let refused = explain("mallory@client.test", "hello");
    assert_eq!(refused.code, 1, "{refused:?}");
    for part in
        ["DATA (the standing rules)", "header-blocked-sender", "reply: 550 5.7.1", "posternctl rule remove 1"]
    {
        let printed = daemon.as_usual(&refused.stdout);
        assert!(printed.contains(part), "{part}: {printed}");
    }
    let held = explain("carol@client.test", "your invoice");
    assert_eq!(held.code, 0, "{held:?}");
    assert!(held.stdout.contains("rule 2 (an outbreak) would hold it in the queue"), "{}", held.stdout);
    assert!(!explain("carol@client.test", "hello").stdout.contains("rule 2"));
}

#[test]
fn a_message_that_a_rule_holds_is_said_to_be_held_before_and_after() {
    let daemon = Setup::new().start();
    daemon.ask(&["rule", "add", "hold", "--header", "Subject=invoice", "--reason", "an outbreak"]);
    let content = message("carol@client.test", ALICE, "your invoice", "x");
    let file = daemon.folder().join("draft.eml");
    fs::write(&file, &content).unwrap();
    let asked = ["policy", "explain", "--client", "198.51.100.9", "--from", "x@client.test", "--to", ALICE];
    let explained = daemon.ask(&[&asked[..], &["--message", file.to_str().unwrap()]].concat());
    let last = explained["stages"].as_array().unwrap().last().unwrap().clone();
    assert_eq!((&last["stage"], &last["verdict"]), (&"rules".into(), &"hold".into()), "{explained}");
    assert_eq!(
        (&last["reason"]["kind"], &last["reason"]["why"]),
        (&"standing-rule".into(), &"an outbreak".into())
    );
    assert_eq!(explained["fate"]["action"], "hold");
    let mut client = Client::connect(daemon.mx());
    client.ehlo();
    let reply = client.deliver("x@client.test", &[ALICE], &content);
    assert_eq!(reply.code, 250);
    assert!(!reply.text().contains("(ref "), "its client hears nothing of it: {reply:?}");
    let accepted = daemon.wait_for("accepted", |line| line["held_by"] == "rule 1");
    let found = daemon.ask(&["explain", accepted["reference"].as_str().unwrap()]);
    assert_eq!((&found["verdict"], &found["stage"]), (&"hold".into(), &"message".into()), "{found}");
    assert_eq!(found["reason"], last["reason"], "before and after are the same decision");
    assert_eq!(found["rules"].as_array().unwrap().last(), last["rules"].as_array().unwrap().last());
    let labels = ["stage=\"message\"", "verdict=\"hold\"", "reason=\"standing-rule\""];
    assert_eq!(metric(&daemon, "postern_policy_decisions_total", &labels), 1.0);
    let held = daemon.wait_in_queue("the held message", |message| message["state"] == "held");
    assert_eq!((&held["id"], &held["held"]), (&reply.queue_id().into(), &"rule 1: an outbreak".into()));
    // Others are accepted as ever, without a record.
    client.deliver("x@client.test", &[ALICE], &message("carol@client.test", ALICE, "hello", "x"));
    let other = daemon.wait_for("accepted", |line| line["held_by"].is_null());
    assert!(other["reference"].is_null(), "{other}");
    assert_eq!(stored(&daemon).lines().count(), 1);
}

#[test]
fn a_reference_without_a_record_is_answered_with_what_is_kept() {
    let daemon = Setup::new().with("[policy.records]\nmax_per_client = 2").start();
    let unknown = daemon.ctl(&["explain", "0000-0000"]);
    assert_eq!(unknown.code, 1, "{unknown:?}");
    for part in [
        "no record of 0000-0000",
        "mistyped by more than one character",
        "kept for 30d",
        "there are none at all",
    ] {
        assert!(unknown.stderr.contains(part), "{part}: {unknown:?}");
    }
    assert!(relay(&daemon).text().contains("(ref ") && relay(&daemon).text().contains("(ref "));
    let text = relay(&daemon).text();
    assert!(text.ends_with("log in on port 587 or 465"), "{text}");
    let unknown = daemon.ctl(&["explain", "0000-0000"]).stderr;
    assert!(
        unknown.contains("the oldest is of 2") && unknown.contains("1 refusals were not kept"),
        "{unknown}"
    );
    reload(&daemon, "[policy.records]\nenabled = false");
    assert!(!relay(&daemon).text().contains("(ref "));
    assert!(daemon.ctl(&["explain", "0000-0000"]).stderr.contains("refusals are not kept"));
}

/// A page and how it was answered.
struct Page {
    status: u16,
    head: String,
    body: String,
}

fn fetch(stream: &mut (impl Read + Write), request: &str) -> Page {
    stream
        .write_all(format!("{request} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").as_bytes())
        .unwrap();
    let mut text = String::new();
    // A peer that closes TLS without saying so has said everything all the same.
    let _ = stream.read_to_string(&mut text);
    let (head, body) = text.split_once("\r\n\r\n").unwrap_or_else(|| panic!("no answer: {text:?}"));
    Page { status: head[9..12].parse().unwrap(), head: head.to_lowercase(), body: body.to_owned() }
}

fn get(address: SocketAddr, path: &str) -> Page {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    fetch(&mut stream, &format!("GET {path}"))
}

/// Where a refusal leads, as a path.
fn page_of(reply: &Reply) -> String {
    let text = reply.text();
    let (_, rest) = text.split_once(" https://mail.proseware.test").unwrap_or_else(|| panic!("{text}"));
    rest.trim_end_matches(')').to_owned()
}

fn with_page(more: &str) -> Setup {
    let url = "https://mail.proseware.test/r/";
    Setup::new().with(&format!("[report]\nlisten = \"127.0.0.1:0\"\nurl = {url:?}\n{more}"))
}

#[test]
fn the_page_shows_the_sender_his_refusal_and_nothing_else() {
    let daemon = with_page("max_requests = 1000").trust("203.0.113.0/24").start();
    let reply = rcpt(&daemon, "MAIL FROM:<\"<b>x</b>\"@client.test>", BOB);
    let path = page_of(&reply);
    assert_eq!(path.len(), "/r/".len() + 26);
    let page = get(daemon.report(), &path);
    assert_eq!(page.status, 200, "{}", page.body);
    for part in
        ["&lt;b&gt;x&lt;/b&gt;", BOB, "client.test", "relay not permitted", "port 465", &reference(&reply)]
    {
        assert!(page.body.contains(part), "{part}: {}", page.body);
    }
    for part in ["<b>", "<script", "203.0.113", "office", "trusted_networks", "posternctl", "relay_domains"] {
        assert!(!page.body.contains(part), "{part}: {}", page.body);
    }
    for header in [
        "content-security-policy: default-src 'none'",
        "cache-control: no-store",
        "x-content-type-options: nosniff",
        "referrer-policy: no-referrer",
        "x-frame-options: deny",
    ] {
        assert!(page.head.contains(header), "{header}: {}", page.head);
    }
    // A proxy may take the prefix away; letters may change their case on the way.
    assert_eq!(get(daemon.report(), &path.replace("/r/", "/").to_lowercase()).status, 200);
    // The token is nowhere, and the reference opens it for operators.
    let token = path.trim_start_matches("/r/");
    assert!(!stored(&daemon).contains(token));
    assert_eq!(record(&daemon, &reply)["recipient"], BOB);

    let unknown = get(daemon.report(), &format!("/r/{}", "0".repeat(26)));
    assert_eq!(unknown.status, 404);
    let reference = reference(&reply);
    let almost = format!("/r/{}{}", &token[..25], if token.ends_with('0') { '1' } else { '0' });
    for path in ["/", "/r/", &format!("/r/{reference}"), &almost, "/metrics", "/v1/status", "/r/%00"] {
        let page = get(daemon.report(), path);
        assert_eq!((page.status, page.body.as_str()), (404, unknown.body.as_str()), "{path}");
    }
    let mut stream = TcpStream::connect(daemon.report()).unwrap();
    assert_eq!(fetch(&mut stream, &format!("POST {path}")).status, 405);
}

#[test]
fn the_page_answers_an_address_so_often_a_minute() {
    let daemon = with_page("max_requests = 3").start();
    let path = page_of(&relay(&daemon));
    let statuses: Vec<u16> = (0..5).map(|_| get(daemon.report(), &path).status).collect();
    // A minute may have ended in between.
    assert!(statuses.starts_with(&[200]) && statuses.contains(&429), "{statuses:?}");
}

#[test]
fn the_page_speaks_tls_with_the_certificate_of_the_server() {
    let daemon = with_page("tls = true").start();
    let path = page_of(&relay(&daemon));
    let name = ServerName::try_from("mail.proseware.test").unwrap();
    let session = ClientConnection::new(tls::client_config(), name).unwrap();
    let mut stream = StreamOwned::new(session, TcpStream::connect(daemon.report()).unwrap());
    assert_eq!(fetch(&mut stream, &format!("GET {path}")).status, 200);
}

#[test]
fn without_a_page_replies_have_no_address() {
    let daemon = Setup::new().start();
    assert!(!relay(&daemon).text().contains("http"));
    // A page that a reload asks for begins with the next start: until then no reply promises it.
    daemon.change_config("[report]\nlisten = \"127.0.0.1:0\"\nurl = \"https://mail.proseware.test/r/\"");
    let output = daemon.ctl(&["reload"]);
    assert!(output.stdout.contains("report.listen") || output.stderr.contains("report.listen"), "{output:?}");
    assert!(!relay(&daemon).text().contains("http"));
}
